//! Threads by name: tasks that run once, and queues that run jobs one after another.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::{fmt, io, thread};

use parking_lot::Mutex;

/// A job that a task or a job queue runs on its thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// Starts tasks and job queues on threads of their own. What a job computes never depends on when
/// it runs.
pub trait Tasks: Send + Sync + fmt::Debug {
    /// Runs `job` on a thread of its own, which has this name.
    ///
    /// # Errors
    /// When the operating system starts no more threads.
    fn spawn(&self, name: &str, job: Job) -> io::Result<Box<dyn Task>>;

    /// Starts a thread of this name that runs jobs in the order in which they are pushed.
    ///
    /// # Errors
    /// When the operating system starts no more threads.
    fn queue(&self, name: &str) -> io::Result<Box<dyn JobQueue>>;
}

/// A task: a job on a thread of its own. The thread goes on when this is dropped.
pub trait Task: Send + Sync {
    /// Whether [`Task::join`] would return at once.
    fn is_finished(&self) -> bool;

    /// Waits until the job has ended; with its panic, if it panicked.
    ///
    /// # Errors
    /// The panic of the job.
    fn join(self: Box<Self>) -> thread::Result<()>;
}

/// A job queue: a thread that runs jobs in the order in which they are pushed.
///
/// When this is dropped, the thread runs what was pushed, and ends; nobody waits for it.
pub trait JobQueue: Send + Sync {
    /// Adds a job behind those that wait.
    fn push(&self, job: Job);

    /// Whether every job that was pushed has ended.
    fn is_idle(&self) -> bool;

    /// Waits until every job that was pushed has ended.
    ///
    /// # Errors
    /// The panic of the first job that panicked, once.
    fn wait(&self) -> thread::Result<()>;
}

/// A task that returns a value.
pub struct JoinTask<T> {
    task: Box<dyn Task>,
    result: Arc<Mutex<Option<T>>>,
}

/// Runs `job` as a task on a thread of its own, which has this name, and gives its value to whoever
/// joins it.
///
/// # Errors
/// When the operating system starts no more threads.
pub fn spawn<T: Send + 'static>(
    tasks: &dyn Tasks,
    name: &str,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinTask<T>> {
    let result = Arc::new(Mutex::new(None));
    let out = Arc::clone(&result);
    let task = tasks.spawn(name, Box::new(move || *out.lock() = Some(job())))?;
    Ok(JoinTask { task, result })
}

impl<T> JoinTask<T> {
    /// Whether [`JoinTask::join`] would return at once.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the value of the job.
    ///
    /// # Errors
    /// The panic of the job.
    pub fn join(self) -> thread::Result<T> {
        self.task.join()?;
        Ok(self.result.lock().take().expect("a job that ended without a panic left its value"))
    }
}

/// Tasks and job queues on the operating system's threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

impl Tasks for Threads {
    fn spawn(&self, name: &str, job: Job) -> io::Result<Box<dyn Task>> {
        Ok(Box::new(Thread(start(name, job)?)))
    }

    fn queue(&self, name: &str) -> io::Result<Box<dyn JobQueue>> {
        let (jobs, received) = channel::<Job>();
        let pending = Arc::new(AtomicUsize::new(0));
        let (left, panic) = (Arc::clone(&pending), Arc::new(Mutex::new(None)));
        let panicked = Arc::clone(&panic);
        let thread = start(name, Box::new(move || run(&received, &left, &panicked)))?;
        Ok(Box::new(QueueThread { jobs, thread, pending, panic }))
    }
}

fn start(name: &str, job: Job) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(job)
}

struct Thread(JoinHandle<()>);

impl Task for Thread {
    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    fn join(self: Box<Self>) -> thread::Result<()> {
        self.0.join()
    }
}

type Panic = Arc<Mutex<Option<Box<dyn std::any::Any + Send>>>>;

struct QueueThread {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
    /// How many jobs were pushed and have not ended.
    pending: Arc<AtomicUsize>,
    /// Of the first job that panicked.
    panic: Panic,
}

/// The thread of a queue: runs jobs until nobody can push any more.
fn run(jobs: &Receiver<Job>, pending: &AtomicUsize, panic: &Panic) {
    for job in jobs {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(job)) {
            panic.lock().get_or_insert(cause);
        }
        pending.fetch_sub(1, Ordering::Release);
    }
}

impl JobQueue for QueueThread {
    fn push(&self, job: Job) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        if self.jobs.send(job).is_err() {
            resume_unwind(Box::new(format!("thread `{:?}` has ended", self.thread.thread().name())));
        }
    }

    fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    fn wait(&self) -> thread::Result<()> {
        // Jobs run in order, so once this one has run, all before it have.
        let (ended, received) = channel();
        self.push(Box::new(move || {
            let _ = ended.send(());
        }));
        let _ = received.recv();
        // The thread counts a job after it has run.
        while !self.is_idle() {
            thread::yield_now();
        }
        match self.panic.lock().take() {
            Some(panic) => Err(panic),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_gives_its_value_or_its_panic_to_whoever_joins_it() {
        let name = spawn(&Threads, "named", || thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(name.join().unwrap().as_deref(), Some("named"));
        let task = spawn(&Threads, "panics", || panic!("as it should")).unwrap();
        assert_eq!(*task.join().unwrap_err().downcast_ref::<&str>().unwrap(), "as it should");
    }

    #[test]
    fn a_queue_runs_its_jobs_in_order_and_reports_the_first_panic() {
        let queue = Threads.queue("queue").unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for number in 0..100 {
            let seen = Arc::clone(&seen);
            queue.push(Box::new(move || seen.lock().push(number)));
        }
        queue.wait().unwrap();
        assert!(queue.is_idle());
        assert_eq!(*seen.lock(), (0..100).collect::<Vec<_>>());
        queue.push(Box::new(|| panic!("first")));
        queue.push(Box::new(|| panic!("second")));
        assert_eq!(*queue.wait().unwrap_err().downcast_ref::<&str>().unwrap(), "first");
        queue.wait().unwrap();
    }
}
