//! Where the rows of a graph go once a commit boundary has passed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tidegate_facts::seal::Chain;
use tidegate_facts::{Digest, Tick};
use tidegate_sinks::chains::LogHeads;
use tidegate_sinks::signing::Signer;
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Commits, Cut, Interval, TableError, TableFile};

use crate::topology::TableFormat;

/// A commit boundary, and how far the log's chains have come there.
#[derive(Clone, Debug)]
pub struct Boundary {
    /// What is before this tick is committed.
    pub upper: Tick,
    /// The heads of the log's chains.
    pub log: Arc<LogHeads>,
}

/// Takes what a graph gives, interval by interval.
pub trait Outlet: Send + Sync {
    /// Whether it wants tables of this format at all.
    fn wants(&self, format: TableFormat) -> bool;

    /// Takes the rows of one table and partition in one interval; any worker may call it.
    ///
    /// # Errors
    /// The run stops on the first.
    fn take(&self, cut: &Cut) -> Result<Option<TableFile>, TableError>;

    /// All rows of the interval were taken; called once for each, in order.
    ///
    /// # Errors
    /// The run stops on the first.
    fn close(&self, interval: Interval) -> Result<(), TableError>;
}

/// What a graph is connected to, and where that stood when the run began.
#[derive(Clone)]
pub struct Output {
    /// Takes the rows.
    pub outlet: Arc<dyn Outlet>,
    /// The plan's digest, which episodes and commits carry.
    pub plan: Digest,
    /// Everything before was taken by an earlier run.
    pub lower: Tick,
    /// How far the chains of sealed tables had come, by table and partition.
    pub chains: BTreeMap<String, BTreeMap<u16, Chain>>,
    /// The first failure of the outlet; the run stops on it.
    pub failed: Arc<Mutex<Option<TableError>>>,
}

impl Output {
    /// Commits to a store, behind what is committed there.
    ///
    /// # Errors
    /// When the commits of the store cannot be read.
    pub fn to_store(store: Store, plan: Digest, signer: Option<Signer>) -> Result<Output, TableError> {
        let commits = Commits::read(&store)?;
        let lower = commits.upper();
        let chains = commits.tables().into_iter().map(|table| (table.clone(), commits.chains(&table)));
        let chains = chains.collect();
        let outlet = Arc::new(Published { store, commits: Mutex::new(commits), signer });
        Ok(Output { outlet, plan, lower, chains, failed: Arc::default() })
    }
}

/// An outlet that writes files and publishes commits.
struct Published {
    store: Store,
    commits: Mutex<Commits>,
    signer: Option<Signer>,
}

impl Outlet for Published {
    fn wants(&self, _: TableFormat) -> bool {
        true
    }

    fn take(&self, cut: &Cut) -> Result<Option<TableFile>, TableError> {
        cut.write(&self.store).map(Some)
    }

    fn close(&self, interval: Interval) -> Result<(), TableError> {
        self.commits.lock().expect("no panic").publish(interval, self.signer.as_ref(), &self.store)
    }
}
