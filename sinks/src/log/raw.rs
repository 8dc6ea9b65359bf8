//! A group as it stands in a segment, byte for byte: what is archived, compared and rebuilt.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::buffer::MutableBuffer;
use arrow::datatypes::UInt64Type;
use tidegate_facts::columns::{OFFSET, TICK};
use tidegate_facts::{Digest, Tick, Topic};

use super::cursor::Found;
use super::format::{Encoder, HEADER_BYTES, Header};
use super::mark::LogMark;
use super::offsets::EndOffsets;
use super::reader::{Groups, read_groups};
use super::{Frame, Group, LogError, Start, Until};

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

    /// The bytes of a group that begins at `mark`; or why it is none.
    pub(crate) fn encode(&mut self, mark: &LogMark, group: &Group) -> Result<&[u8], String> {
        check_facts(group)?;
        let encoded = self.0.encode(mark.group, group, &EndOffsets::from_mark(mark));
        encoded.map(|(bytes, _)| bytes).map_err(|error| error.to_string())
    }
}

/// Says what is wrong with a group whose rows come from outside, where one of the log's own would be a bug.
fn check_facts(group: &Group) -> Result<(), String> {
    if group.lower > group.upper {
        return Err("ends before it begins".to_owned());
    }
    for Frame { topic, name, rows } in &group.frames {
        let column = |name| rows.column_by_name(name)?.as_primitive_opt::<UInt64Type>();
        let (Some(ticks), Some(offsets)) = (column(TICK), column(OFFSET)) else {
            match topic {
                Topic::Traffic => return Err(format!("has rows of `{name}` that are no facts")),
                _ => continue,
            }
        };
        let within = ticks.values().iter().all(|tick| (group.lower.0..group.upper.0).contains(tick));
        let mut ends: BTreeMap<u16, u64> = BTreeMap::new();
        let ascend = ticks.values().iter().zip(offsets.values()).all(|(tick, offset)| {
            let end = ends.entry(Tick(*tick).partition()).or_default();
            let follows = *end <= *offset && *offset < u64::MAX;
            *end = offset.saturating_add(1);
            follows
        });
        let whole = ticks.null_count() + offsets.null_count() == 0;
        if !(within && ascend && whole && ticks.values().is_sorted_by(|a, b| a < b)) {
            return Err(format!("has facts of `{name}` that are out of order"));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, UInt64Array};

    use super::*;

    #[test]
    fn rows_from_outside_that_are_no_group_of_a_log_are_refused_and_not_a_panic() {
        let check = |ticks: Vec<u64>, offsets: Vec<u64>, name: &str| {
            let columns: [(&str, ArrayRef); 2] =
                [(TICK, Arc::new(UInt64Array::from(ticks))), (name, Arc::new(UInt64Array::from(offsets)))];
            let rows = RecordBatch::try_from_iter(columns).unwrap();
            let frames = vec![Frame { topic: Topic::Traffic, name: "a".to_owned(), rows }];
            let group = Group { frames, lower: Tick(4096), upper: Tick(3 * 4096), commit: false };
            RawEncoder::new().encode(&LogMark::default(), &group).map(<[u8]>::len)
        };
        assert!(check(vec![4096, 8192], vec![0, 1], OFFSET).is_ok());
        for (ticks, offsets) in [
            (vec![8192, 4096], vec![0, 1]),
            (vec![4096, 4096], vec![0, 1]),
            (vec![1, 4096], vec![0, 1]),
            (vec![4096, 3 * 4096], vec![0, 1]),
            (vec![4096, 8192], vec![1, 1]),
            (vec![4096, 8192], vec![0, u64::MAX]),
        ] {
            assert!(check(ticks, offsets, OFFSET).unwrap_err().contains("out of order"));
        }
        assert!(check(vec![4096], vec![0], "other").unwrap_err().contains("no facts"));
    }
}
