//! Files of sources that grow while the run is served: read on from where they were read last.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tidegate_host::{Files, OpenMode};

use crate::ingest::admission::Admission;
use crate::ingest::audit_frames::ProgressRecord;
use crate::metrics::Stage;
use crate::run::gate::Gate;
use crate::run::source_messages::{Fingerprints, SourceMessage};

/// How often the gate looks for changes of files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The sources of a plan that read files.
pub(super) struct TailedFiles {
    looked: Duration,
    sources: Vec<TailedSource>,
}

/// One source that reads files.
struct TailedSource {
    /// The number of the source.
    number: usize,
    path: PathBuf,
    /// The files as they were when they were last read to their ends.
    seen: Vec<FileState>,
    /// The messages of the thread that reads it now.
    reading: Option<Receiver<SourceMessage>>,
}

/// The name, length and modification time of a file; the time in microseconds.
type FileState = (PathBuf, u64, i64);

impl TailedFiles {
    /// The files of the gate's plan, as they are now.
    pub fn new(gate: &Gate<'_>) -> TailedFiles {
        let host = &gate.options.host;
        let sources = gate.plan.sources.iter().enumerate().filter_map(|(number, source)| {
            let path = source.path()?.to_owned();
            let seen = file_states(&*host.files, &path);
            Some(TailedSource { number, path, seen, reading: None })
        });
        TailedFiles { looked: host.clock.monotonic(), sources: sources.collect() }
    }

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
            if seen == source.seen || !seen.iter().all(|(path, ..)| ends_with_a_line(&*host.files, path)) {
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
            match gate.open_source(source.number, plan, &summary) {
                Ok(receiver) => source.reading = Some(receiver),
                Err(error) => gate.warn_about_source(source.number, &error),
            }
            // Also for a source that cannot be read: the gate tries again when it has changed
            // again.
            source.seen = seen;
        }
    }

    /// Admits the records that were read since the last call.
    pub fn admit(&mut self, gate: &Gate<'_>, admission: &mut Admission, fingerprints: &mut Fingerprints) {
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
                Err(TryRecvError::Disconnected) => source.reading = None,
            }
        }
    }
}

impl Gate<'_> {
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

/// Whether a text file does not end in the middle of a line; true of other kinds of files.
fn ends_with_a_line(files: &dyn Files, path: &Path) -> bool {
    let is_text = path
        .extension()
        .is_some_and(|ending| ["csv", "jsonl", "ndjson", "json"].iter().any(|e| ending == *e));
    let last_byte = || -> std::io::Result<Option<u8>> {
        let file = files.open(path, OpenMode::Read)?;
        let Some(last) = file.len()?.checked_sub(1) else { return Ok(None) };
        let mut byte = [0];
        file.read_up_to(&mut byte, last)?;
        Ok(Some(byte[0]))
    };
    !is_text || last_byte().is_ok_and(|last| last.is_none_or(|byte| byte == b'\n'))
}
