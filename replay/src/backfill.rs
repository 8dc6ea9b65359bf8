//! Backfills: compute declared tables again over a range of the log, beside the live tables.
//!
//! A backfill has an id. The control topic contains two facts of that id: the declaration and, at
//! the end, the result. The tables go to a store of their own, `backfills/<id>/store` in the data
//! folder. The log is locked only to append these two facts. The declaration fixes the range, so
//! the log determines the tables. A backfill that was interrupted resumes after its last commit and
//! writes the same bytes as one that was not.
//!
//! Rows are computed from the start of the log, because their state may depend on all of it. Only
//! the rows in scope are written.

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

/// The folders and resources with which a backfill is run. None of this changes its outputs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder.
    pub data: PathBuf,
    /// The store of the live run's tables and archive.
    pub live: PathBuf,
    /// The number of workers.
    pub workers: usize,
    /// Memory for the index of event ids that finds duplicates, in bytes.
    pub dedupe_bytes: u64,
    /// Signs the commits; without it they are not signed.
    pub signer: Option<Signer>,
}

/// The result of running a backfill: its record in the log and the folder of its tables.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its record in the log.
    pub record: BackfillRecord,
    /// Whether an earlier call completed the backfill, so that this one did nothing.
    pub repeated: bool,
    /// The folder of its tables.
    pub store: PathBuf,
}

/// Why running a backfill was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// The log contains another declaration of the same id.
    #[error(
        "backfill `{id}` has another declaration in the log: {found}, and this one is {expected}; give this one another \
         `id`, or restore the declaration, its topology and its rules to resume that backfill"
    )]
    OtherDeclaration {
        /// The id.
        id: String,
        /// The digest of the declaration in the log.
        found: Digest,
        /// The digest of this declaration.
        expected: Digest,
    },
    /// Another build declared it.
    #[error(
        "backfill `{id}` was declared by build {found}, and this build is {own}; resume it with that build, or declare \
         a new backfill"
    )]
    OtherBuild {
        /// The id.
        id: String,
        /// The build that declared it.
        found: String,
        /// This build.
        own: String,
    },
    /// The store has no commit with the digest in `[basis]`.
    #[error("the store of `{data}` has no commit {commit}; name one of its commits, or leave out `[basis]`")]
    NoBasis {
        /// The data folder.
        data: PathBuf,
        /// The commit.
        commit: Digest,
    },
    /// The range is empty, or ends after the log or the basis.
    #[error(
        "the range from {from} to {to} is empty or goes beyond {end}, where {what} ends; name a range before that, or \
         leave out `to`"
    )]
    Range {
        /// The first tick.
        from: Tick,
        /// The end of the range, exclusive.
        to: Tick,
        /// The end of the log or the basis.
        end: Tick,
        /// Which of the two ends there.
        what: &'static str,
    },
    /// The log cannot be read or appended to.
    #[error(transparent)]
    Governance(#[from] Box<GovernanceError>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table could not be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The computation failed.
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

/// The folder of the tables that a backfill computes, in the data folder `data`.
pub fn store_of(data: &Path, id: &str) -> PathBuf {
    data.join("backfills").join(id).join("store")
}

/// Runs a backfill, or resumes one that was interrupted.
///
/// # Errors
/// See [`BackfillError`]. What was committed remains, and the same call resumes after it.
pub fn backfill(
    declaration: &BackfillDeclaration,
    options: &Options,
    metrics: &RunMetrics,
) -> Result<Outcome, BackfillError> {
    let store = store_of(&options.data, &declaration.id);
    let declared = declare(declaration, options)?;
    if declared.completion.is_some() {
        return Ok(Outcome { record: declared, repeated: true, store });
    }
    let commits = compute(declaration, &declared.backfill, options, &Store::open(&store)?, metrics)?;
    let completion = Some(completion(&commits, &declared.backfill.outputs));
    let record = BackfillRecord { completion, ..declared };
    folder(options).record_backfill(&declaration.plan, |_, records| {
        let step = last_step(declaration, records)?;
        let is_completed = step.is_some_and(|step| step.completion.is_some());
        Ok::<_, BackfillError>((!is_completed).then(|| record.clone()))
    })?;
    Ok(Outcome { record, repeated: false, store })
}

/// The last step of a backfill in the log. Appends the declaration if there is none.
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
        // Another process may have declared it since.
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

/// The backfill of a declaration, with its range. Without `to`, the range ends with the basis if
/// there is one, and else with the log.
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

/// Writes the tables after the last commit of the backfill, and returns all commits.
fn compute(
    declaration: &BackfillDeclaration,
    backfill: &Backfill,
    options: &Options,
    store: &Store,
    metrics: &RunMetrics,
) -> Result<Commits, BackfillError> {
    store.probe()?;
    let plan = &declaration.plan;
    let tables = plan.tables().into_iter().filter(|(table, _)| backfill.outputs.contains(table));
    table_catalog::declare(&tables.collect::<Vec<_>>(), store)?;
    let resumed = CommitContext::to_store(store.clone(), plan.digest, options.signer.clone())?;
    if resumed.lower < backfill.to {
        let target = Scoped { inner: Arc::clone(&resumed.target), scope: backfill.clone() };
        let lower = resumed.lower.max(backfill.from);
        let output = CommitContext { lower, target: Arc::new(target), ..resumed.clone() };
        let log = LogFolder::of_data(&Host::real(), &options.data);
        let archive = Store::open(&options.live)?;
        let plan = &as_if_effective(plan, &log, &archive)?;
        let feed = LogFeed::new(plan, options.workers).up_to(backfill.to);
        run_feed(feed, plan, &log, &archive, &output, backfill.to, metrics)?;
    }
    Ok(Commits::read(store)?)
}

/// The data folder of the live run, whose log records the steps of the backfill.
fn folder(options: &Options) -> DataFolder {
    DataFolder { dedupe_bytes: options.dedupe_bytes, ..DataFolder::new(&options.data, &options.live) }
}

/// The result of a backfill, computed from its commits.
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

/// Passes only the tables and partitions in scope to another target.
struct Scoped {
    inner: Arc<dyn CommitTarget>,
    scope: Backfill,
}

impl CommitTarget for Scoped {
    fn accepts(&self, format: TableFormat) -> bool {
        self.inner.accepts(format)
    }

    fn write(&self, slice: &TableSlice) -> Result<Option<TableFile>, TableError> {
        let Backfill { outputs, partitions, .. } = &self.scope;
        if !outputs.contains(&slice.table)
            || !(partitions.is_empty() || partitions.contains(&slice.partition))
        {
            return Ok(None);
        }
        self.inner.write(slice)
    }

    fn commit(&self, interval: CommitInterval) -> Result<(), TableError> {
        self.inner.commit(interval)
    }
}
