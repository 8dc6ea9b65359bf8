//! A group as it stands in a segment, byte for byte: what is archived, compared and rebuilt.

use std::path::Path;

use arrow::buffer::MutableBuffer;
use tidegate_facts::{Digest, Tick};

use super::cursor::Found;
use super::format::{Encoder, HEADER_BYTES, Header};
use super::mark::LogMark;
use super::offsets::EndOffsets;
use super::reader::{Groups, read_groups};
use super::{Group, LogError, Start, Until};

/// A group whose every byte matches its checksums, undecoded.
pub(crate) struct RawGroup(Found);

impl RawGroup {
    pub(super) fn new(found: Found) -> RawGroup {
        RawGroup(found)
    }

    /// The group in `bytes`; or what is wrong with them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<RawGroup, String> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or("its header is cut off")?;
        let header = Header::decode(head).map_err(|wrong| format!("it has no header ({wrong:?})"))?;
        if header.group_bytes() != bytes.len() as u64 {
            return Err("it has another length than its header says".to_owned());
        }
        let mut body = MutableBuffer::new(bytes.len() - HEADER_BYTES);
        body.extend_from_slice(&bytes[HEADER_BYTES..]);
        let entries = header.directory(&body)?;
        header.check_streams(&body)?;
        Ok(RawGroup(Found { header, entries, body: body.into() }))
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.header.group
    }

    pub(crate) fn lower(&self) -> Tick {
        self.0.header.lower
    }

    pub(crate) fn upper(&self) -> Tick {
        self.0.header.upper
    }

    pub(crate) fn commit(&self) -> bool {
        self.0.header.commit
    }

    /// How many rows its frames have.
    pub(crate) fn rows(&self) -> u64 {
        self.0.entries.iter().map(|entry| u64::from(entry.rows)).sum()
    }

    /// Its bytes: header, then body.
    pub(crate) fn bytes(&self) -> ([u8; HEADER_BYTES], &[u8]) {
        (self.0.header.encode(), &self.0.body)
    }

    /// How many bytes it has.
    pub(crate) fn length(&self) -> u64 {
        self.0.header.group_bytes()
    }

    /// BLAKE3 of its bytes.
    pub(crate) fn digest(&self) -> Digest {
        let (head, body) = self.bytes();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head).update(body);
        Digest(*hasher.finalize().as_bytes())
    }

    /// Its rows.
    pub(crate) fn group(&self) -> Result<Group, String> {
        self.0.group()
    }
}

impl LogMark {
    /// The place behind a group that begins here; or why it does not.
    pub(crate) fn after(&self, raw: &RawGroup) -> Result<LogMark, String> {
        if raw.number() != self.group || raw.lower() != self.upper {
            return Err(format!(
                "group {} from tick {} stands where group {} from tick {} follows",
                raw.number(),
                raw.lower().0,
                self.group,
                self.upper.0
            ));
        }
        let mut ends = EndOffsets::from_mark(self);
        ends.advance(ends.follow(&raw.0.entries)?);
        Ok(LogMark { group: self.group + 1, upper: raw.upper(), ends: ends.list() })
    }
}

/// Encodes groups as the log does.
pub(crate) struct RawEncoder(Encoder);

impl RawEncoder {
    pub(crate) fn new() -> RawEncoder {
        RawEncoder(Encoder::new())
    }

    /// The bytes of a group that begins at `mark`.
    pub(crate) fn encode(&mut self, mark: &LogMark, group: &Group) -> Result<&[u8], LogError> {
        Ok(self.0.encode(mark.group, group, &EndOffsets::from_mark(mark))?.0)
    }
}

/// Groups in the order they were appended, as they stand in their segments.
pub(crate) struct RawGroups(Groups);

/// The groups of the log in `folder` from `start` on that are whole.
pub(crate) fn read_raw(folder: &Path, start: Start, until: Until) -> Result<RawGroups, LogError> {
    Ok(RawGroups(read_groups(folder, start, until)?))
}

impl Iterator for RawGroups {
    type Item = Result<RawGroup, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_found().map(|found| found.map(RawGroup::new))
    }
}
