//! Files of sources that grow while the run is served: read on from where they were read last.
//!
//! A program may write a line piece by piece, so the source leaves a last line that has no line
//! break until its file has changed again.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tidegate_host::Files;

use crate::ingest::admission::Admission;
use crate::ingest::audit_frames::ProgressRecord;
use crate::metrics::Stage;
use crate::run::error::RunError;
use crate::run::gate::Gate;
use crate::run::source_messages::{Fingerprints, LastLine, SourceMessage};

/// How often the gate looks for changes of files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The files that a served run tails: those of a plan's sources that read files.
pub(super) struct TailedFiles {
    looked: Duration,
    sources: Vec<TailedSource>,
}

/// One source that reads files.
struct TailedSource {
    /// The number of the source.
    number: usize,
    path: PathBuf,
    /// The files as they were just before the source was last opened.
    seen: Vec<FileState>,
    /// The messages of the thread that reads it now.
    reading: Option<Receiver<SourceMessage>>,
}

/// The name, length and modification time of a file; the time in microseconds.
type FileState = (PathBuf, u64, i64);

impl TailedFiles {
    /// Begins to read the sources whose files have changed.
    pub fn open_changed(&mut self, gate: &Gate<'_>, fingerprints: &Fingerprints) {
        let host = &gate.options.host;
        let now = host.clock.monotonic();
        if now.saturating_sub(self.looked) < LOOK_INTERVAL {
            return;
        }
        self.looked = now;
        for source in self.sources.iter_mut().filter(|source| source.reading.is_none()) {
            let seen = file_states(&*host.files, &source.path);
            if seen == source.seen {
                continue;
            }
            let plan = &gate.plan.sources[source.number];
            let mut summary = gate.summary.clone();
            if let Some(fingerprint) = fingerprints.get(&source.number) {
                let records = summary.next_position(&plan.name);
                let (name, fingerprint) = (plan.name.clone(), fingerprint.clone());
                let progress = ProgressRecord { source: name.clone(), records, fingerprint };
                summary.progress.insert(name, progress);
            }
            match gate.open_source(source.number, plan, &summary, LastLine::MayGrow) {
                Ok(receiver) => source.reading = Some(receiver),
                Err(error) => gate.warn_about_source(source.number, &error),
            }
            // Also for a source that cannot be read: the gate tries again when it has changed
            // again.
            source.seen = seen;
        }
    }

    /// Admits the records that were read since the last call.
    ///
    /// # Errors
    /// [`RunError::SourceThread`] when the thread of a source has ended without a result.
    pub fn admit(
        &mut self,
        gate: &Gate<'_>,
        admission: &mut Admission,
        fingerprints: &mut Fingerprints,
    ) -> Result<(), RunError> {
        for source in &mut self.sources {
            let Some(reading) = &source.reading else { continue };
            match reading.try_recv() {
                Ok(SourceMessage::Records(validated)) => admission.push(source.number, validated),
                Ok(SourceMessage::End(fingerprint)) => {
                    fingerprints.insert(source.number, fingerprint);
                    source.reading = None;
                }
                Ok(SourceMessage::Failed(error)) => {
                    gate.warn_about_source(source.number, &error);
                    source.reading = None;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    let name = gate.plan.sources[source.number].name.clone();
                    tracing::error!(source = name, "the thread of the source has ended without a result");
                    return Err(RunError::SourceThread { name });
                }
            }
        }
        Ok(())
    }
}

impl Gate<'_> {
    /// The files of the sources, as they are now. The caller opens the sources afterwards, so that
    /// whatever is written meanwhile counts as a change.
    pub(super) fn tailed_files(&self) -> TailedFiles {
        let host = &self.options.host;
        let sources = self.plan.sources.iter().enumerate().filter_map(|(number, source)| {
            let path = source.path()?.to_owned();
            let seen = file_states(&*host.files, &path);
            Some(TailedSource { number, path, seen, reading: None })
        });
        TailedFiles { looked: host.clock.monotonic(), sources: sources.collect() }
    }

    /// Logs that a source cannot be read.
    fn warn_about_source(&self, number: usize, error: &dyn std::error::Error) {
        let source = &self.plan.sources[number].name;
        self.metrics.stage(&Stage::Source(number, source.clone())).add_errors(1);
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        tracing::error!(source, "the source is not read until its files change again: {error}{cause}");
    }
}

/// The files at a path, in order.
fn file_states(files: &dyn Files, path: &Path) -> Vec<FileState> {
    let mut found = Vec::new();
    let mut paths = vec![path.to_owned()];
    while let Some(path) = paths.pop() {
        let Ok(metadata) = files.metadata(&path) else { continue };
        if metadata.is_folder {
            paths.extend(files.list(&path).into_iter().flatten());
        } else {
            found.push((path, metadata.bytes, metadata.modified_micros));
        }
    }
    found.sort();
    found
}
