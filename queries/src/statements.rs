//! Where statements are planned and run: threads and memory of their own.
//!
//! A planner and a function over a batch of rows cannot be interrupted. On threads of their own they keep each other waiting at
//! most, and never those who send facts; the threads have stacks for the deepest tree that [`crate::bounds`] lets pass. Sorts,
//! joins and groups take their memory from one pool, and are refused what is not left of it: nothing is spilled to files.

use std::io;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use tidegate_dataflows::realtime::Realtime;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use crate::QueryError;

mod urgent;

/// What a stack of a statement's thread holds: two thousand levels of a tree, with room for ten times what one took.
const STACK_BYTES: usize = 32 << 20;

/// The threads of statements.
pub struct Statements(Runtime);

impl Statements {
    /// Memory that the statements of a service may take together, if nothing else is said: 1 GiB.
    pub const MEMORY: usize = 1 << 30;

    /// Starts a thread for each core, two at least. Short statements go before what is ordinary while `realtime` is on.
    ///
    /// # Errors
    /// When no threads can be started.
    pub fn start(realtime: Option<Realtime>) -> io::Result<Statements> {
        let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).thread_stack_size(STACK_BYTES).thread_name("statement").enable_all();
        if let Some(realtime) = realtime {
            urgent::in_realtime(&mut builder, realtime)?;
        }
        builder.build().map(Statements)
    }

    /// Where a statement is started.
    pub fn handle(&self) -> Handle {
        self.0.handle().clone()
    }

    /// Ends the threads; who is not done does not hold it up.
    pub fn end(self) {
        self.0.shutdown_background();
    }
}

/// Runs `statement` on the threads of statements, until it is done or nobody waits for it any more.
///
/// # Errors
/// [`QueryError::Broken`] when it panics, or the threads are ended.
pub(crate) async fn run<T: Send + 'static>(
    threads: &Handle,
    statement: impl Future<Output = T> + Send + 'static,
) -> Result<T, QueryError> {
    let mut running = JoinSet::new(); // Dropped with whoever waits here, and stops what it holds.
    running.spawn_on(statement, threads);
    let done = running.join_next().await.expect("one was started");
    done.map_err(|_| QueryError::Broken)
}

/// Memory for sorts, joins and groups, and no files.
pub(crate) fn bounded_memory(bytes: usize) -> Arc<RuntimeEnv> {
    let no_files = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes)))
        .with_disk_manager_builder(no_files)
        .build_arc()
        .expect("what is in memory can be built")
}
