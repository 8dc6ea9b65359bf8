//! Archives what the log holds behind the last archived range.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidegate_facts::{Digest, Topic};

use super::manifest::{ArchivedFile, ArchivedFrame, ArchivedGroup, Range};
use super::range::{self, RangeGroups};
use super::shred::{self, Shredded};
use super::{Archive, ArchiveError, RANGES};
use crate::log::{LogMark, RawGroup, Start, Until, read_raw};
use crate::store::Store;

/// A range ends with the group that brings it to so many bytes of the log,
const RANGE_BYTES: u64 = 64 << 20;
/// or to so many groups.
const RANGE_GROUPS: usize = 4096;

/// What came of archiving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many ranges are new,
    pub ranges: u64,
    /// with how many groups,
    pub groups: u64,
    /// rows,
    pub rows: u64,
    /// bytes in the log,
    pub log_bytes: u64,
    /// and bytes in the store.
    pub bytes: u64,
    /// Every group before this one is archived.
    pub end: u64,
    /// How many groups behind it wait for their range to become complete.
    pub waiting: u64,
}

/// Archives every complete range of the log in `folder` up to `until` that is not archived yet.
///
/// The groups up to `until` must be durable: hold the log, or be the one who appends to it.
///
/// # Errors
/// [`ArchiveError::NotExact`] when a range would not come back as it is; when log or store refuse.
pub fn write(folder: &Path, until: Until, store: &Store) -> Result<Written, ArchiveError> {
    let mut archive = Archive::open(store)?;
    let mut written = Written::default();
    let mut open: Vec<RawGroup> = Vec::new();
    let mut bytes = 0;
    for raw in read_raw(folder, Start::Group(archive.end().group), until)? {
        let raw = raw?;
        bytes += raw.length();
        let complete = raw.commit() || bytes >= RANGE_BYTES || open.len() + 1 == RANGE_GROUPS;
        open.push(raw);
        if complete {
            let range = publish(&archive.end(), archive.head, &open, store)?;
            written.ranges += 1;
            written.groups += range.groups_count();
            written.rows += range.rows;
            written.log_bytes += range.log_bytes;
            written.bytes += range.bytes();
            archive.head = Digest::of(&range.encode());
            archive.ranges.push(range);
            open.clear();
            bytes = 0;
        }
    }
    written.end = archive.end().group;
    written.waiting = open.len() as u64;
    Ok(written)
}

/// The rows of the frames that go into one file.
struct Draft {
    topic: Topic,
    frame: String,
    schema: SchemaRef,
    paths: Vec<Vec<usize>>,
    batches: Vec<RecordBatch>,
}

fn publish(
    start: &LogMark,
    previous: Digest,
    raws: &[RawGroup],
    store: &Store,
) -> Result<Range, ArchiveError> {
    let (mut range, drafts) = draft(start, previous, raws)?;
    let mut contents = Vec::new();
    for (n, draft) in drafts.iter().enumerate() {
        let bytes = shred::encode(&draft.schema, &draft.batches)?;
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

/// The range of these groups without its files, and what goes into them.
fn draft(start: &LogMark, previous: Digest, raws: &[RawGroup]) -> Result<(Range, Vec<Draft>), ArchiveError> {
    let not_exact = |group, what| ArchiveError::NotExact { first: start.group, group, what };
    let mut range = Range {
        version: Range::VERSION,
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
    let mut drafts: Vec<Draft> = Vec::new();
    let mut dictionaries: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let mut hasher = blake3::Hasher::new();
    for raw in raws {
        let number = raw.number();
        let group = raw.group().map_err(|what| not_exact(number, what))?;
        let mut frames = Vec::new();
        for (place, frame) in group.frames.iter().enumerate() {
            let shredded = shred::shred(&frame.rows, number, place as u32)
                .map_err(|what| not_exact(number, format!("in `{}`, {what}", frame.name)))?;
            let file = file_of(&mut drafts, frame.topic, &frame.name, &shredded);
            drafts[file].batches.push(shredded.rows().clone());
            let mut texts = shredded.texts.into_iter().map(|texts| {
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
        let (upper, commit, digest) = (raw.upper(), raw.commit(), raw.digest());
        range.groups.push(ArchivedGroup { upper, commit, digest, frames, patch: Vec::new() });
    }
    range.digest = Digest(*hasher.finalize().as_bytes());
    range.dictionaries = vec![Vec::new(); dictionaries.len()];
    for (texts, place) in dictionaries {
        range.dictionaries[place] = texts;
    }
    Ok((range, drafts))
}

fn file_of(drafts: &mut Vec<Draft>, topic: Topic, frame: &str, shredded: &Shredded) -> usize {
    let same = |draft: &Draft| {
        (draft.topic, draft.frame.as_str()) == (topic, frame)
            && draft.schema == *shredded.schema()
            && draft.paths == shredded.paths
    };
    drafts.iter().position(same).unwrap_or_else(|| {
        let (schema, paths) = (SchemaRef::clone(shredded.schema()), shredded.paths.clone());
        drafts.push(Draft { topic, frame: frame.to_owned(), schema, paths, batches: Vec::new() });
        drafts.len() - 1
    })
}

/// Rebuilds every group from the files, notes in the range what the rows do not tell, and rebuilds them again.
fn prove(range: &mut Range, raws: &[RawGroup], contents: &[Vec<u8>]) -> Result<(), ArchiveError> {
    let first = range.start.group;
    let files: Vec<RecordBatch> =
        contents.iter().map(|bytes| shred::decode(bytes.clone())).collect::<Result<_, _>>()?;
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
        // Unused bits are few; more than that would be rows that Parquet does not hold.
        let patched: u64 = patch.iter().map(|(_, bytes)| bytes.len() as u64 / 2).sum();
        if patched > 64 + raw.length() / 64 {
            return Err(not_exact(format!("{patched} bytes of its rows come back as others")));
        }
        groups.follow(raw).map_err(not_exact)?;
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

/// A name of a frame as part of a file's name.
fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().take(80).map(plain).collect()
}
