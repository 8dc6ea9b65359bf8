//! Why a run stops.

use std::path::PathBuf;

use tidegate_dedupe::DedupeError;
use tidegate_facts::Digest;
use tidegate_facts::audit::AuditError;
use tidegate_sinks::archive::ArchiveError;
use tidegate_sinks::commits::TableError;
use tidegate_sinks::log::LogError;
use tidegate_sinks::store::StoreError;
use tidegate_sources::SourceError;

use crate::ingest::admission::AdmissionError;
use crate::revision_step::GovernanceError;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log cannot be opened, read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The archive cannot be read or written, or a range is in neither log nor archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The dedupe index cannot be read or written.
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    /// Admission stopped.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table could not be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A source could not be read.
    #[error("source `{name}` cannot be read")]
    Source {
        /// The source.
        name: String,
        /// The cause.
        source: SourceError,
    },
    /// The thread of a source ended without a result.
    #[error(
        "source `{name}`: its thread exited unexpectedly; this is a defect of Tidegate, please report it with the lines above"
    )]
    SourceThread {
        /// The source.
        name: String,
    },
    /// The folder holds the log of another plan.
    #[error(
        "`{data}` holds the log of plan {found} of topology `{topology}`, and this is plan {expected}: its nodes, rules or \
         policy differ; run it with `--data` on a new folder, or with the files it was started with (rules and \
         policies are revised by `tidegate policy propose`)"
    )]
    OtherPlan {
        /// The data folder.
        data: PathBuf,
        /// The topology of the log.
        topology: String,
        /// The plan of the log.
        found: Digest,
        /// The plan of this run.
        expected: Digest,
    },
    /// A record of the engine in the log, or in a checkpoint, cannot be read.
    #[error(
        "the log of `{data}` has no readable `{record}` record; it was not written by this program, or was changed: use a new data folder"
    )]
    Foreign {
        /// The data folder.
        data: PathBuf,
        /// The record.
        record: &'static str,
    },
    /// An audit frame of the log cannot be read.
    #[error(
        "the log of `{data}` {error}; it was not written by this program, or was changed: use a new data folder"
    )]
    Audit {
        /// The data folder.
        data: PathBuf,
        /// What is wrong with it.
        error: AuditError,
    },
    /// The revisions in the log cannot be applied.
    #[error(transparent)]
    Governance(#[from] Box<GovernanceError>),
    /// A worker stopped.
    #[error("a worker stopped: {0}; this is a defect of Tidegate, please report it with the lines above")]
    Worker(String),
}

impl From<GovernanceError> for RunError {
    fn from(error: GovernanceError) -> RunError {
        RunError::Governance(Box::new(error))
    }
}
