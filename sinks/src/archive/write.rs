//! Archives the groups of the log that follow the last archived range.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidegate_facts::{Digest, Topic};

use super::columnar::ColumnarGroup;
use super::manifest::{ArchivedFile, ArchivedFrame, ArchivedGroup, ArchivedRange};
use super::range::{self, RangeGroups};
use super::{Archive, ArchiveError, RANGES};
use crate::commits::{encode_parquet, read_rows};
use crate::log::{EpochId, LogPosition, LogReader, RawGroup, Start, Until};
use crate::store::Store;

/// The size in bytes of the log at which a range ends.
const RANGE_BYTES: u64 = 64 << 20;
/// The number of groups at which a range ends.
const RANGE_GROUPS: usize = 4096;

/// The report of what was written to the archive of a log, and of what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// The number of new ranges.
    pub ranges: u64,
    /// The number of their groups.
    pub groups: u64,
    /// The number of their rows.
    pub rows: u64,
    /// Their size in the log, in bytes.
    pub log_bytes: u64,
    /// Their size in the store, in bytes.
    pub bytes: u64,
    /// The number of the first group that is not archived.
    pub end: u64,
    /// The number of groups from there on, whose range is not complete.
    pub waiting: u64,
}

/// Writes every complete range of a log up to `until` that is not archived yet to the archive.
///
/// The groups up to `until` must be durable: the caller holds the log's lock or appends to it.
///
/// # Errors
/// [`ArchiveError::NotExact`] when a range cannot be rebuilt exactly; when the log or the store
/// fails.
pub fn write(log: &dyn LogReader, until: Until, store: &Store) -> Result<ArchiveReport, ArchiveError> {
    let mut archive = Archive::open(store)?;
    let mut report = ArchiveReport::default();
    let mut open: Vec<RawGroup> = Vec::new();
    let mut bytes = 0;
    let identity = log.identity()?;
    if let Some(range) = archive.ranges.last() {
        range.check_log(identity)?;
    }
    let mut groups = log.read(Start::Group(archive.end().group), until)?;
    while let Some(raw) = groups.next_raw() {
        let raw = raw?;
        bytes += raw.length();
        let complete = raw.commit() || bytes >= RANGE_BYTES || open.len() + 1 == RANGE_GROUPS;
        open.push(raw);
        if complete {
            let range = publish(identity, &archive.end(), archive.head, &open, store)?;
            report.ranges += 1;
            report.groups += range.groups_count();
            report.rows += range.rows;
            report.log_bytes += range.log_bytes;
            report.bytes += range.bytes();
            archive.head = Digest::of(&range.encode());
            archive.ranges.push(range);
            open.clear();
            bytes = 0;
        }
    }
    report.end = archive.end().group;
    report.waiting = open.len() as u64;
    Ok(report)
}

/// One file of a range that is being made.
struct FileDraft {
    topic: Topic,
    frame: String,
    schema: SchemaRef,
    paths: Vec<Vec<usize>>,
    batches: Vec<RecordBatch>,
}

fn publish(
    identity: EpochId,
    start: &LogPosition,
    previous: Digest,
    raws: &[RawGroup],
    store: &Store,
) -> Result<ArchivedRange, ArchiveError> {
    let (mut range, drafts) = draft(identity, start, previous, raws)?;
    let mut contents = Vec::new();
    for (n, draft) in drafts.iter().enumerate() {
        let bytes = encode_parquet(&draft.schema, draft.batches.iter())?;
        let digest = Digest::of(&bytes);
        let short = &digest.to_hex()[..16];
        range.files.push(ArchivedFile {
            name: format!(
                "{RANGES}/{:020}/{}.{}.{n}-{short}.parquet",
                start.group,
                draft.topic,
                plain_name(&draft.frame)
            ),
            topic: draft.topic,
            frame: draft.frame.clone(),
            rows: draft.batches.iter().map(|batch| batch.num_rows() as u64).sum(),
            bytes: bytes.len() as u64,
            digest,
            dictionaries: draft.paths.clone(),
        });
        contents.push(bytes);
    }
    drop(drafts);
    prove(&mut range, raws, &contents)?;
    for (file, bytes) in range.files.iter().zip(&contents) {
        store.create(&file.name, bytes)?;
    }
    store.create(&range.name(), &range.encode())?;
    Ok(range)
}

/// The range of these groups without its files, and the rows of the files.
fn draft(
    identity: EpochId,
    start: &LogPosition,
    previous: Digest,
    raws: &[RawGroup],
) -> Result<(ArchivedRange, Vec<FileDraft>), ArchiveError> {
    let not_exact = |group, what| ArchiveError::NotExact { first: start.group, group, what };
    let mut range = ArchivedRange {
        version: ArchivedRange::VERSION,
        log: identity,
        start: start.clone(),
        end: start.clone(),
        rows: 0,
        log_bytes: 0,
        digest: Digest::default(),
        previous,
        files: Vec::new(),
        dictionaries: Vec::new(),
        groups: Vec::new(),
    };
    let mut drafts: Vec<FileDraft> = Vec::new();
    let mut dictionaries: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let mut hasher = blake3::Hasher::new();
    for raw in raws {
        let number = raw.number();
        let group = raw.group().map_err(|what| not_exact(number, what))?;
        let mut frames = Vec::new();
        for (index, frame) in group.frames.iter().enumerate() {
            let columnar = ColumnarGroup::of_frame(&frame.rows, number as i64, index as i32)
                .map_err(|what| not_exact(number, format!("in `{}`, {what}", frame.name)))?;
            let file = file_of(&mut drafts, frame.topic, &frame.name, &columnar);
            drafts[file].batches.push(columnar.rows().clone());
            let mut texts = columnar.texts.into_iter().map(|texts| {
                texts.map(|texts| {
                    let next = dictionaries.len();
                    *dictionaries.entry(texts).or_insert(next)
                })
            });
            let texts: Vec<Option<usize>> = texts.by_ref().collect();
            let texts = if texts.iter().all(Option::is_none) { Vec::new() } else { texts };
            frames.push(ArchivedFrame { file, rows: frame.rows.num_rows(), dictionaries: texts });
        }
        let (head, body) = raw.bytes();
        hasher.update(&head).update(body);
        range.rows += raw.rows();
        range.log_bytes += raw.length();
        range.end = range.end.after(raw).map_err(|what| not_exact(number, what))?;
        let (upper, commit, epoch, digest) = (raw.upper(), raw.commit(), raw.link().epoch, raw.digest());
        range.groups.push(ArchivedGroup { upper, commit, epoch, digest, frames, patch: Vec::new() });
    }
    range.digest = Digest(*hasher.finalize().as_bytes());
    range.dictionaries = vec![Vec::new(); dictionaries.len()];
    for (texts, index) in dictionaries {
        range.dictionaries[index] = texts;
    }
    Ok((range, drafts))
}

fn file_of(drafts: &mut Vec<FileDraft>, topic: Topic, frame: &str, columnar: &ColumnarGroup) -> usize {
    let same = |draft: &FileDraft| {
        (draft.topic, draft.frame.as_str()) == (topic, frame)
            && draft.schema == *columnar.schema()
            && draft.paths == columnar.paths
    };
    drafts.iter().position(same).unwrap_or_else(|| {
        let (schema, paths) = (SchemaRef::clone(columnar.schema()), columnar.paths.clone());
        drafts.push(FileDraft { topic, frame: frame.to_owned(), schema, paths, batches: Vec::new() });
        drafts.len() - 1
    })
}

/// Rebuilds every group from the files, adds to the range what does not follow from the rows, and
/// rebuilds the groups again.
fn prove(range: &mut ArchivedRange, raws: &[RawGroup], contents: &[Vec<u8>]) -> Result<(), ArchiveError> {
    let first = range.start.group;
    let not_readable = |what| ArchiveError::NotExact { first, group: first, what };
    let files = contents.iter().map(|bytes| read_rows(bytes.clone().into(), None).map_err(not_readable));
    let files: Vec<RecordBatch> = files.collect::<Result<_, _>>()?;
    let mut patches = Vec::new();
    let mut groups = RangeGroups::over(range, files.clone());
    for raw in raws {
        let group = raw.number();
        let not_exact = |what: String| ArchiveError::NotExact { first, group, what };
        let rebuilt = groups.unpatched().map_err(|error| not_exact(error.to_string()))?;
        let rebuilt = rebuilt.expect("the range has a group for each");
        let patch = range::patch(&rebuilt, raw).ok_or_else(|| {
            not_exact(format!("its rows come back as {} bytes instead of {}", rebuilt.len(), raw.length()))
        })?;
        // Unused bits are few. More differences would be rows that Parquet does not store.
        let patched: u64 = patch.iter().map(|(_, bytes)| bytes.len() as u64 / 2).sum();
        if patched > 64 + raw.length() / 64 {
            return Err(not_exact(format!("{patched} bytes of its rows come back as others")));
        }
        groups.skip(raw).map_err(not_exact)?;
        patches.push(patch);
    }
    let is_patched = patches.iter().any(|patch| !patch.is_empty());
    for (group, patch) in range.groups.iter_mut().zip(patches) {
        group.patch = patch;
    }
    if is_patched {
        let mut groups = RangeGroups::over(range, files);
        while groups.next()?.is_some() {}
    }
    Ok(())
}

/// The name of a frame in a form that can be part of a file's name.
fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().take(80).map(plain).collect()
}
