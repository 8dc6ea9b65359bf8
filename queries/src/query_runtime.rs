//! The threads and the memory that statements are planned and run with.
//!
//! Planning, and a function over one batch of rows, cannot be interrupted. On threads of their own,
//! statements delay only each other, never callers that send facts. The stacks of these threads fit
//! the deepest tree that [`crate::statement_limits`] accepts. Sorts, joins and groupings take their
//! memory from one pool, and fail when it is exhausted: nothing is spilled to files.

mod urgent;

use std::io;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use tidegate_dataflows::thread_priority::RealtimeSwitch;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use crate::error::QueryError;

/// The stack of a statement thread: two thousand levels of a tree, at ten times the measured need.
const STACK_BYTES: usize = 32 << 20;

/// The query runtime: the threads that plan and run statements.
pub struct QueryRuntime(Runtime);

impl QueryRuntime {
    /// The default for the memory of all statements of a service together: 1 GiB.
    pub const MEMORY_BYTES: usize = 1 << 30;

    /// Starts one thread for each core, at least two. With `realtime`, while it is on, short
    /// statements run at real-time priority.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn start(realtime: Option<RealtimeSwitch>) -> io::Result<QueryRuntime> {
        let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).thread_stack_size(STACK_BYTES).thread_name("statement").enable_all();
        if let Some(realtime) = realtime {
            urgent::in_realtime(&mut builder, realtime)?;
        }
        builder.build().map(QueryRuntime)
    }

    /// The handle on which statements are spawned.
    pub fn handle(&self) -> Handle {
        self.0.handle().clone()
    }

    /// Stops the threads without waiting for statements that still run.
    pub fn stop(self) {
        self.0.shutdown_background();
    }
}

/// Runs `statement` on the threads of a [`QueryRuntime`]. Dropping the returned future cancels it.
///
/// # Errors
/// [`QueryError::Broken`] when it panics, or when the threads are stopped.
pub async fn run<T: Send + 'static>(
    threads: &Handle,
    statement: impl Future<Output = T> + Send + 'static,
) -> Result<T, QueryError> {
    let mut running = JoinSet::new(); // Dropping it aborts the statement.
    running.spawn_on(statement, threads);
    let done = running.join_next().await.expect("one task was spawned");
    done.map_err(|_| QueryError::Broken)
}

/// Creates a DataFusion runtime with `bytes` of memory for sorts, joins and groupings, and no
/// files.
pub(crate) fn bounded_memory(bytes: usize) -> Arc<RuntimeEnv> {
    let no_files = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes)))
        .with_disk_manager_builder(no_files)
        .build_arc()
        .expect("an environment without files can be built")
}
