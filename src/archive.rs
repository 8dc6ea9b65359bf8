//! `tidegate archive`: archives the log as Parquet in the store, restores logs, and prunes the log.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;
use tidegate_facts::Span;
use tidegate_facts::time::to_rfc3339;
use tidegate_host::Host;
use tidegate_sinks::archive::{self, ArchiveReport, Bound, LogRetention};
use tidegate_sinks::log::{LogFolder, LogReader, Until};
use tidegate_sinks::store::Store;

use crate::text::thousands;
use crate::{Answer, exit, fail, plan, refuse};

#[derive(Subcommand)]
pub enum Archive {
    /// Archives every complete range of the log that is not archived yet.
    Write {
        #[command(flatten)]
        folders: StoreArguments,
    },
    /// Lists the archived ranges.
    List {
        #[command(flatten)]
        folders: StoreArguments,
    },
    /// Rebuilds every archived group, and reports each one that is missing or was changed.
    Verify {
        #[command(flatten)]
        folders: StoreArguments,
    },
    /// Writes a new log folder with the groups of a range, from the archive and the log.
    Hydrate {
        #[command(flatten)]
        folders: StoreArguments,
        /// The start of the range: a group such as 12, a tick such as tick:452409753600000000, or a
        /// time in UTC.
        #[arg(long, default_value = "0")]
        from: Bound,
        /// The end of the range, in the same forms. By default it is the end of the log.
        #[arg(long)]
        to: Option<Bound>,
        /// The new log folder.
        #[arg(long)]
        out: PathBuf,
    },
    /// Removes segments of the log that are older than its retention, if the archive has them.
    Prune {
        /// The topology file. Its [log] sets the retention, unless --retention or
        /// --retention-bytes is given.
        topology: Option<PathBuf>,
        #[command(flatten)]
        folders: StoreArguments,
        /// Retains the facts admitted within this time before the last one, such as 30d.
        #[arg(long, value_parser = Span::parse, value_name = "SPAN")]
        retention: Option<Span>,
        /// Retains at least this many bytes of the log.
        #[arg(long, value_name = "BYTES")]
        retention_bytes: Option<u64>,
        /// Replaces a setting, as node.key=value.
        #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
        set: Vec<String>,
    },
}

/// The arguments of `tidegate archive`: the data folder, its store, and the output format.
#[derive(clap::Args)]
pub struct StoreArguments {
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of the store, if it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// The output format.
    #[arg(long, value_enum, default_value_t = Answer::Text)]
    format: Answer,
}

impl StoreArguments {
    fn log(&self) -> LogFolder {
        crate::log_of(&self.data)
    }

    fn store(&self) -> Result<Store, Box<dyn Error>> {
        let path = self.store.clone().unwrap_or_else(|| self.data.join("store"));
        if !path.is_dir() {
            let path = path.display();
            return Err(format!("there is no store at `{path}`; name one with --data or --store").into());
        }
        Ok(Store::open(&path)?)
    }
}

/// Runs `tidegate archive`.
pub fn run(command: Archive) -> ExitCode {
    let done = match command {
        Archive::Write { folders } => write(&folders),
        Archive::List { folders } => list(&folders),
        Archive::Verify { folders } => verify(&folders),
        Archive::Hydrate { folders, from, to, out } => hydrate(&folders, from, to, &out),
        Archive::Prune { topology, folders, retention, retention_bytes, set } => {
            let retention = LogRetention { span: retention, bytes: retention_bytes };
            prune(topology.as_deref(), retention, &folders, &set)
        }
    };
    done.unwrap_or_else(|error| fail(error.as_ref()))
}

fn write(folders: &StoreArguments) -> Result<ExitCode, Box<dyn Error>> {
    let store = folders.store()?;
    let log = folders.log().lock()?;
    let written = archive::write(log.folder(), Until::Complete, &store)?;
    match folders.format {
        Answer::Text => outln!("{}", sentence(&written)),
        Answer::Json => outln!(
            "{}",
            json!({
                "ranges": written.ranges, "groups": written.groups, "rows": written.rows,
                "log_bytes": written.log_bytes, "bytes": written.bytes,
                "end_group": written.end, "waiting_groups": written.waiting,
            })
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// The result of `tidegate archive write`, as a sentence.
pub fn sentence(written: &ArchiveReport) -> String {
    let waiting = match written.waiting {
        0 => String::new(),
        groups => format!("; {} will be archived when their range is complete", counted(groups, "group")),
    };
    if written.ranges == 0 {
        return format!(
            "nothing new to archive: every group before {} is in the archive{waiting}",
            written.end
        );
    }
    format!(
        "archived {}: {}, {}, {} bytes of log in {} bytes of Parquet{waiting}",
        counted(written.ranges, "range"),
        counted(written.groups, "group"),
        counted(written.rows, "row"),
        thousands(written.log_bytes),
        thousands(written.bytes),
    )
}

fn list(folders: &StoreArguments) -> Result<ExitCode, Box<dyn Error>> {
    let archive = archive::Archive::open(&folders.store()?)?;
    let base = folders.log().start()?.map(|start| start.group);
    if folders.format == Answer::Text {
        outln!(
            "{:>10} {:>10}  {:<27}  {:<27} {:>12} {:>14}  log",
            "first",
            "last",
            "from",
            "to",
            "rows",
            "bytes"
        );
    }
    for range in &archive.ranges {
        let (first, last) = (range.start.group, range.end.group - 1);
        let in_log = match base {
            Some(base) if base <= first => "whole",
            Some(base) if base < range.end.group => "part",
            _ => "pruned",
        };
        match folders.format {
            Answer::Text => outln!(
                "{first:>10} {last:>10}  {}  {} {:>12} {:>14}  {in_log}",
                to_rfc3339(range.start.upper.micros()),
                to_rfc3339(range.end.upper.micros()),
                thousands(range.rows),
                thousands(range.bytes()),
            ),
            Answer::Json => outln!(
                "{}",
                json!({
                    "first_group": first, "last_group": last,
                    "lower": range.start.upper, "upper": range.end.upper,
                    "rows": range.rows, "log_bytes": range.log_bytes, "bytes": range.bytes(),
                    "files": range.files.len(), "digest": range.digest, "in_log": in_log,
                })
            ),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(folders: &StoreArguments) -> Result<ExitCode, Box<dyn Error>> {
    let verified = archive::verify(&folders.log(), &folders.store()?)?;
    match folders.format {
        Answer::Text => {
            for fault in &verified.faults {
                outln!("{fault}");
            }
            for name in &verified.unclaimed {
                outln!(
                    "note: no manifest names `{name}`; archiving was interrupted, or a manifest was removed"
                );
            }
            let state = if verified.faults.is_empty() { "whole" } else { "NOT WHOLE" };
            outln!(
                "{state}: {}, {}, {}, {} bytes; {} also in the log, and equal there",
                counted(verified.ranges, "range"),
                counted(verified.groups, "group"),
                counted(verified.rows, "row"),
                thousands(verified.bytes),
                counted(verified.in_log, "group"),
            );
        }
        Answer::Json => outln!(
            "{}",
            json!({
                "whole": verified.faults.is_empty(), "ranges": verified.ranges, "groups": verified.groups,
                "rows": verified.rows, "bytes": verified.bytes, "groups_in_log": verified.in_log,
                "faults": verified.faults, "unclaimed": verified.unclaimed,
            })
        ),
    }
    Ok(if verified.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn hydrate(
    folders: &StoreArguments,
    from: Bound,
    to: Option<Bound>,
    out: &Path,
) -> Result<ExitCode, Box<dyn Error>> {
    let hydrated = archive::hydrate(&folders.log(), &folders.store()?, from, to, &Host::real(), out)?;
    let (first, last) = (hydrated.start.group, hydrated.end.group - 1);
    match folders.format {
        Answer::Text => outln!(
            "{} contains groups {first} to {last}, from {} to {}: {}, {} bytes",
            out.display(),
            to_rfc3339(hydrated.start.upper.micros()),
            to_rfc3339(hydrated.end.upper.micros()),
            counted(hydrated.rows, "row"),
            thousands(hydrated.bytes),
        ),
        Answer::Json => outln!(
            "{}",
            json!({
                "first_group": first, "last_group": last,
                "lower": hydrated.start.upper, "upper": hydrated.end.upper,
                "rows": hydrated.rows, "bytes": hydrated.bytes,
            })
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn prune(
    topology: Option<&Path>,
    retention: LogRetention,
    folders: &StoreArguments,
    set: &[String],
) -> Result<ExitCode, Box<dyn Error>> {
    let retention = match topology {
        _ if retention != LogRetention::default() => Some(retention),
        None => None,
        Some(topology) => match plan(topology, set) {
            Ok(plan) => plan.topology.log.retention,
            Err(faults) => return Ok(refuse(&faults, folders.format)),
        },
    };
    let Some(retention) = retention else {
        eprintln!(
            "no retention is set, so nothing is removed from the log; set `retention` or `retention_bytes` in [log] \
             of the topology, or give --retention or --retention-bytes"
        );
        return Ok(ExitCode::from(exit::REFUSED));
    };
    let log = folders.log().lock()?;
    let pruned = archive::prune(&log, &folders.store()?, retention)?;
    match folders.format {
        Answer::Text => {
            outln!(
                "removed {} with {}, {} bytes; the log begins with group {} at {}",
                counted(pruned.segments, "segment"),
                counted(pruned.groups, "group"),
                thousands(pruned.bytes),
                pruned.base.group,
                to_rfc3339(pruned.base.upper.micros()),
            );
            if pruned.unarchived > 0 {
                let segments = counted(pruned.unarchived, "segment");
                outln!(
                    "{segments} not removed, because the archive lacks them (run `tidegate archive write`)"
                );
            }
        }
        Answer::Json => outln!(
            "{}",
            json!({
                "segments": pruned.segments, "groups": pruned.groups, "bytes": pruned.bytes,
                "unarchived_segments": pruned.unarchived,
                "first_group": pruned.base.group, "lower": pruned.base.upper,
            })
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(count), if count == 1 { "" } else { "s" })
}
