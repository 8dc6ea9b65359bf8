//! Backfills: tables that are declared, and computed anew over a range of the log beside the live
//! ones.
//!
//! A backfill has an id. The control topic holds two facts of that id: the declaration, and at the
//! end the result. The tables go to a store of their own, `backfills/<id>/store` in the data
//! folder. The log is locked for these two facts only. The declaration fixes the range, so the
//! tables follow from the log, and a backfill that was stopped continues behind its last commit to
//! the same bytes.
//!
//! Rows are computed from the beginning of the log, since their state may reach back that far; only
//! those in scope are written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_dataflows::backfill_declaration::BackfillDeclaration;
use tidegate_dataflows::commit::TableFormat;
use tidegate_dataflows::commit::{CommitContext, CommitTarget};
use tidegate_dataflows::governance::{DataFolder, GovernanceError, as_if_effective, backfills};
use tidegate_dataflows::ingest::log_feed::LogFeed;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_facts::backfill::{Backfill, BackfillRecord, Completion, Produced};
use tidegate_facts::{Digest, Tick, Topic};
use tidegate_host::Host;
use tidegate_sinks::commits::{BuildInfo, CommitInterval, Commits, TableError, TableFile, TableSlice};
use tidegate_sinks::log::LogFolder;
use tidegate_sinks::signing::Signer;
use tidegate_sinks::store::{Store, StoreError};
use tidegate_sinks::table_catalog;

use crate::{ReplayError, run_feed};

/// Where a backfill is run, and how. None of this changes its outputs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder.
    pub data: PathBuf,
    /// The store of the live run's tables and archive.
    pub live: PathBuf,
    /// How many workers.
    pub workers: usize,
    /// Memory for the index that keeps out duplicates.
    pub dedupe_bytes: u64,
    /// Signs the commits; without it they are not signed.
    pub signer: Option<Signer>,
}

/// The result of a backfill.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its receipt, as it is in the log.
    pub record: BackfillRecord,
    /// Whether an earlier call had completed it, so that this one did nothing.
    pub repeated: bool,
    /// The folder of its tables.
    pub store: PathBuf,
}

/// Why a backfill did not begin, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// The id is taken.
    #[error(
        "backfill `{id}` was declared otherwise (declaration {found}, this is {expected}); give the new one another `id`, or \
         restore the declaration, its topology and rules to go on with it"
    )]
    OtherDeclaration {
        /// The id.
        id: String,
        /// The digest of what was declared.
        found: Digest,
        /// The digest of this declaration.
        expected: Digest,
    },
    /// It was begun by another build.
    #[error(
        "backfill `{id}` was declared for build {found}, and this is {own}; go on with that build, or declare a new one"
    )]
    OtherBuild {
        /// The id.
        id: String,
        /// The build that was declared.
        found: String,
        /// This build.
        own: String,
    },
    /// The basis is not there.
    #[error("the store of `{data}` has no commit {commit}; name one of its commits, or leave `[basis]` out")]
    NoBasis {
        /// The data folder.
        data: PathBuf,
        /// The commit.
        commit: Digest,
    },
    /// The range is not what the log holds.
    #[error(
        "the range from {from} to before {to} does not lie before {end}, where {what} ends; name a range that does, or \
         leave `to` out"
    )]
    Range {
        /// The first tick.
        from: Tick,
        /// The end of the range.
        to: Tick,
        /// The end of what is there.
        end: Tick,
        /// What ends there.
        what: &'static str,
    },
    /// The log cannot be read, or refused the fact.
    #[error(transparent)]
    Governance(#[from] Box<GovernanceError>),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table could not be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// It stopped while it was computed.
    #[error(transparent)]
    Replay(#[from] Box<ReplayError>),
}

impl From<GovernanceError> for BackfillError {
    fn from(error: GovernanceError) -> BackfillError {
        BackfillError::Governance(Box::new(error))
    }
}

impl From<ReplayError> for BackfillError {
    fn from(error: ReplayError) -> BackfillError {
        BackfillError::Replay(Box::new(error))
    }
}

/// The folder of a backfill's tables.
pub fn store_of(data: &Path, id: &str) -> PathBuf {
    data.join("backfills").join(id).join("store")
}

/// Runs a backfill, or goes on with it where it was stopped.
///
/// # Errors
/// See [`BackfillError`]. What was committed stays, and the same call goes on behind it.
pub fn backfill(
    declaration: &BackfillDeclaration,
    options: &Options,
    watch: &RunMetrics,
) -> Result<Outcome, BackfillError> {
    let store = store_of(&options.data, &declaration.id);
    let declared = declare(declaration, options)?;
    if declared.completion.is_some() {
        return Ok(Outcome { record: declared, repeated: true, store });
    }
    let commits = compute(declaration, &declared.backfill, options, &Store::open(&store)?, watch)?;
    let completion = Some(completion(&commits, &declared.backfill.outputs));
    let record = BackfillRecord { completion, ..declared };
    folder(options).record_backfill(&declaration.plan, |_, records| {
        let step = last_step(declaration, records)?;
        let is_completed = step.is_some_and(|step| step.completion.is_some());
        Ok::<_, BackfillError>((!is_completed).then(|| record.clone()))
    })?;
    Ok(Outcome { record, repeated: false, store })
}

/// The last step of a backfill, which is declared in the log if it is not yet.
fn declare(declaration: &BackfillDeclaration, options: &Options) -> Result<BackfillRecord, BackfillError> {
    let Options { data, live, .. } = options;
    let log = LogFolder::of_data(&Host::real(), data);
    let archive = Store::open(live)?;
    if log.exists()
        && let Some(step) = last_step(declaration, &backfills(&log, &archive)?)?
    {
        return Ok(step);
    }
    let mut declared = None;
    folder(options).record_backfill(&declaration.plan, |upper, records| {
        // Another process may have declared it meanwhile.
        declared = last_step(declaration, records)?;
        if declared.is_some() {
            return Ok(None);
        }
        let backfill = in_range(declaration, data, &Commits::read(&archive)?, upper)?;
        declared = Some(BackfillRecord { backfill, completion: None });
        Ok::<_, BackfillError>(declared.clone())
    })?;
    Ok(declared.expect("it is declared by now"))
}

/// The last step of the backfill of this id, if it has any.
fn last_step(
    declaration: &BackfillDeclaration,
    records: &[(Tick, BackfillRecord)],
) -> Result<Option<BackfillRecord>, BackfillError> {
    let id = &declaration.id;
    let Some((_, record)) = records.iter().rev().find(|(_, record)| record.backfill.id == *id) else {
        return Ok(None);
    };
    let (found, expected, own) = (record.backfill.declaration, declaration.digest, build());
    if found != expected {
        return Err(BackfillError::OtherDeclaration { id: id.clone(), found, expected });
    }
    if record.completion.is_none() && record.backfill.code != own {
        return Err(BackfillError::OtherBuild { id: id.clone(), found: record.backfill.code.clone(), own });
    }
    Ok(Some(record.clone()))
}

fn build() -> String {
    let BuildInfo { version, commit } = BuildInfo::this();
    format!("{version} ({commit})")
}

/// What is declared, with its range: to the end of the basis, if there is one, and else to that of
/// the log.
fn in_range(
    declaration: &BackfillDeclaration,
    data: &Path,
    live: &Commits,
    upper: Tick,
) -> Result<Backfill, BackfillError> {
    let (end, what) = match declaration.basis {
        None => (upper, "the log"),
        Some(commit) => {
            let index =
                live.list.iter().position(|commit_of| Digest::of(commit_of.text().as_bytes()) == commit);
            let index = index.ok_or_else(|| BackfillError::NoBasis { data: data.to_owned(), commit })?;
            (live.list[index].upper, "the basis")
        }
    };
    let (from, to) = (declaration.from.unwrap_or(Tick::ZERO), declaration.to.unwrap_or(end));
    if to > end || from >= to {
        return Err(BackfillError::Range { from, to, end, what });
    }
    Ok(Backfill {
        id: declaration.id.clone(),
        declaration: declaration.digest,
        purpose: declaration.purpose.clone(),
        actor: declaration.actor.clone(),
        topology: declaration.plan.topology.name.clone(),
        plan: declaration.plan.digest,
        code: build(),
        from,
        to,
        partitions: declaration.partitions.clone(),
        outputs: declaration.outputs.clone(),
        basis: declaration.basis,
    })
}

/// Writes what is not committed yet, and returns all commits.
fn compute(
    declaration: &BackfillDeclaration,
    backfill: &Backfill,
    options: &Options,
    store: &Store,
    watch: &RunMetrics,
) -> Result<Commits, BackfillError> {
    store.probe()?;
    let plan = &declaration.plan;
    let tables = plan.tables().into_iter().filter(|(table, _)| backfill.outputs.contains(table));
    table_catalog::declare(&tables.collect::<Vec<_>>(), store)?;
    let behind = CommitContext::to_store(store.clone(), plan.digest, options.signer.clone())?;
    if behind.lower < backfill.to {
        let target = Scoped { inner: Arc::clone(&behind.target), scope: backfill.clone() };
        let lower = behind.lower.max(backfill.from);
        let output = CommitContext { lower, target: Arc::new(target), ..behind.clone() };
        let log = LogFolder::of_data(&Host::real(), &options.data);
        let archive = Store::open(&options.live)?;
        let plan = &as_if_effective(plan, &log, &archive)?;
        let feed = LogFeed::new(plan, options.workers).up_to(backfill.to);
        run_feed(feed, plan, &log, &archive, &output, backfill.to, watch)?;
    }
    Ok(Commits::read(store)?)
}

/// The data folder of the live run, for the steps of the backfill in its log.
fn folder(options: &Options) -> DataFolder {
    DataFolder { dedupe_bytes: options.dedupe_bytes, ..DataFolder::new(&options.data, &options.live) }
}

/// The receipt of what the commits hold.
fn completion(commits: &Commits, outputs: &[String]) -> Completion {
    let heads = commits.list.last().map_or(&[][..], |commit| commit.log.as_slice());
    let facts = heads.iter().filter(|head| head.topic != Topic::Audit).map(|head| head.records).sum();
    let produced = outputs.iter().map(|table| {
        let digests: Vec<Digest> = commits.files_of(table).map(|file| file.digest).collect();
        let parts: Vec<&[u8]> = digests.iter().map(|digest| &digest.0[..]).collect();
        Produced {
            table: table.clone(),
            files: digests.len() as u64,
            rows: commits.files_of(table).map(|file| file.rows).sum(),
            digest: Digest::of_parts("tidegate.backfill.table.v1", &parts),
        }
    });
    let produced = produced.collect();
    Completion { facts, commits: commits.list.len() as u64, head: commits.head, produced }
}

/// Commits the tables and partitions in scope to another target.
struct Scoped {
    inner: Arc<dyn CommitTarget>,
    scope: Backfill,
}

impl CommitTarget for Scoped {
    fn accepts(&self, format: TableFormat) -> bool {
        self.inner.accepts(format)
    }

    fn write(&self, cut: &TableSlice) -> Result<Option<TableFile>, TableError> {
        let Backfill { outputs, partitions, .. } = &self.scope;
        if !outputs.contains(&cut.table) || !(partitions.is_empty() || partitions.contains(&cut.partition)) {
            return Ok(None);
        }
        self.inner.write(cut)
    }

    fn commit(&self, interval: CommitInterval) -> Result<(), TableError> {
        self.inner.commit(interval)
    }
}
