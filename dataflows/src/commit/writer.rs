//! The writer of one worker: a job queue beside it that cuts, encodes and writes rows while the
//! graph computes.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_host::{Clock, JobQueue, Tasks};
use tidegate_sinks::commits::TableError;
use timely::dataflow::Scope;
use timely::scheduling::SyncActivator;

use crate::commit::target::CommitContext;
use crate::metrics::{RunMetrics, RunTimes};

/// Runs the write jobs of one worker's operators, in order, on the queue `writer-N`.
///
/// The queue comes from the host's tasks: a thread in a run, and jobs that are stepped or run
/// inline in a simulation.
pub struct TableWriter {
    context: CommitContext,
    queue: Arc<dyn JobQueue>,
    has_panicked: Arc<AtomicBool>,
    pub(super) times: Arc<RunTimes>,
    pub(super) clock: Arc<dyn Clock>,
}

impl TableWriter {
    /// Starts the queue of worker number `worker`.
    ///
    /// # Panics
    /// When the operating system starts no more threads.
    pub fn start(
        context: &CommitContext,
        worker: usize,
        metrics: &RunMetrics,
        tasks: &dyn Tasks,
    ) -> TableWriter {
        let queue = tasks.queue(&format!("writer-{worker}")).expect("a thread can be started");
        TableWriter {
            context: context.clone(),
            queue: Arc::from(queue),
            has_panicked: Arc::default(),
            times: Arc::clone(&metrics.times),
            clock: Arc::clone(metrics.clock()),
        }
    }

    /// The context of the commits that the jobs write.
    pub fn context(&self) -> &CommitContext {
        &self.context
    }

    /// Whether a job has panicked; its result then never comes.
    pub fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Acquire)
    }

    /// Waits until every job has ended.
    ///
    /// # Panics
    /// With the panic of a job.
    pub fn finish(&self) {
        if let Err(panic) = self.queue.wait() {
            resume_unwind(panic);
        }
    }

    /// A client of the queue for the operator at `address`.
    pub(super) fn client<T: Send + 'static>(
        &self,
        scope: Scope<'_, Tick>,
        address: &[usize],
    ) -> WriterClient<T> {
        let (results, received) = channel();
        WriterClient {
            queue: Arc::clone(&self.queue),
            failed: Arc::clone(&self.context.failed),
            has_panicked: Arc::clone(&self.has_panicked),
            activator: scope.worker().sync_activator_for(address.to_vec()),
            results,
            received,
        }
    }
}

/// The way of one operator to the writer's queue, and back.
pub(super) struct WriterClient<T> {
    queue: Arc<dyn JobQueue>,
    failed: Arc<Mutex<Option<TableError>>>,
    has_panicked: Arc<AtomicBool>,
    activator: SyncActivator,
    results: Sender<T>,
    received: Receiver<T>,
}

/// Notes a panic of the job that drops it.
struct PanicGuard(Arc<AtomicBool>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

impl<T: Send + 'static> WriterClient<T> {
    /// Queues a job without a result.
    pub fn push(&self, job: impl FnOnce() + Send + 'static) {
        let has_panicked = Arc::clone(&self.has_panicked);
        self.queue.push(Box::new(move || {
            let _guard = PanicGuard(has_panicked);
            job();
        }));
    }

    /// Queues a job whose result [`Self::results`] returns. It does not run once the run has
    /// failed; an error fails the run.
    pub fn request(&self, job: impl FnOnce() -> Result<T, TableError> + Send + 'static) {
        let (failed, results) = (Arc::clone(&self.failed), self.results.clone());
        let activator = self.activator.clone();
        self.push(move || {
            if failed.lock().is_some() {
                return;
            }
            match job() {
                Ok(result) => drop(results.send(result)), // An operator that is gone needs no result.
                Err(error) => *failed.lock() = Some(error),
            }
            let _ = activator.activate();
        });
    }

    /// The results that have come since the last call, in the order of their requests.
    pub fn results(&self) -> impl Iterator<Item = T> {
        self.received.try_iter()
    }
}
