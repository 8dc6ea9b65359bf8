//! Groups as the bytes that a log stores: what is archived, compared, copied and sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::Array;
use arrow::buffer::{Buffer, MutableBuffer};
use tidegate_facts::{Digest, Tick, Topic, columns};

use super::entry::Entry;
use super::error::LogError;
use super::format::{Encoder, HEADER_BYTES, Header};
use super::group::{Frame, Group, LoggedGroup};
use super::offsets::EndOffsets;
use super::position::{EpochId, GroupLink, LogPosition};

/// A raw group: its bytes in the log, which match their checksums, with its rows not yet decoded.
pub struct RawGroup {
    header: Header,
    entries: Vec<Entry>,
    body: Buffer,
    offset: u64,
    location: Location,
}

/// The place in a file, or in another store of the log, at which a group begins.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) segment: Arc<Path>,
    pub(super) at: u64,
}

impl RawGroup {
    pub(super) fn new(
        header: Header,
        entries: Vec<Entry>,
        body: Buffer,
        offset: u64,
        location: Location,
    ) -> RawGroup {
        RawGroup { header, entries, body, offset, location }
    }

    /// The group in `bytes`; `offset` is its offset in what stores the log, and `name` is named in
    /// errors.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the bytes.
    pub fn decode(bytes: &[u8], offset: u64, name: &Path) -> Result<RawGroup, String> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or("its header is cut off")?;
        let header = Header::decode(head).map_err(|wrong| format!("it has no header ({wrong:?})"))?;
        if header.group_bytes() != bytes.len() as u64 {
            return Err("its length differs from the one in its header".to_owned());
        }
        let mut body = MutableBuffer::new(bytes.len() - HEADER_BYTES);
        body.extend_from_slice(&bytes[HEADER_BYTES..]);
        let entries = header.directory(&body)?;
        header.check_streams(&body)?;
        let location = Location { segment: Arc::from(name), at: offset };
        Ok(RawGroup { header, entries, body: body.into(), offset, location })
    }

    /// The number of the group.
    pub fn number(&self) -> u64 {
        self.header.group
    }

    /// How the group is tied into its log.
    pub fn link(&self) -> GroupLink {
        let Header { group, previous, epoch, .. } = self.header;
        GroupLink { number: group, offset: self.offset, previous, epoch }
    }

    /// The tick at which it begins.
    pub fn lower(&self) -> Tick {
        self.header.lower
    }

    /// The tick at which it ends.
    pub fn upper(&self) -> Tick {
        self.header.upper
    }

    /// Whether its end is a commit boundary regardless of sizes.
    pub fn commit(&self) -> bool {
        self.header.commit
    }

    /// The number of rows in its frames.
    pub fn rows(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.rows)).sum()
    }

    /// Its bytes: header, then body.
    pub fn bytes(&self) -> ([u8; HEADER_BYTES], &[u8]) {
        (self.header.encode(), &self.body)
    }

    /// The number of its bytes.
    pub fn length(&self) -> u64 {
        self.header.group_bytes()
    }

    /// BLAKE3 of its bytes without those that name its epoch.
    pub fn digest(&self) -> Digest {
        self.header.digest(&self.body)
    }

    /// Its frames and ticks; or why its rows cannot be decoded.
    ///
    /// # Errors
    /// A sentence that says which rows are wrong, and how.
    pub fn group(&self) -> Result<Group, String> {
        let frames = self.entries.iter().map(|entry| entry.frame(&self.body)).collect::<Result<_, _>>()?;
        let Header { lower, upper, commit, .. } = self.header;
        Ok(Group { frames, lower, upper, commit })
    }

    /// As [`RawGroup::group`], with the group's link.
    pub(super) fn logged(&self) -> Result<LoggedGroup, LogError> {
        let group = self.group().map_err(|detail| self.damaged(detail))?;
        Ok(LoggedGroup { link: self.link(), group })
    }

    /// The error that this group is damaged.
    pub(super) fn damaged(&self, detail: String) -> LogError {
        let Location { segment, at } = &self.location;
        LogError::Damaged { segment: PathBuf::from(&**segment), at: *at, group: self.number(), detail }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn body(&self) -> &Buffer {
        &self.body
    }
}

impl LogPosition {
    /// The position behind a group that begins here; or why the group does not continue the log.
    ///
    /// # Errors
    /// A sentence that says in what the group differs from the one that follows.
    pub fn after(&self, raw: &RawGroup) -> Result<LogPosition, String> {
        if raw.number() != self.group || raw.lower() != self.upper {
            return Err(format!(
                "group {} from tick {} on is where group {} from tick {} on follows",
                raw.number(),
                raw.lower().0,
                self.group,
                self.upper.0
            ));
        }
        if raw.link().previous != self.digest {
            return Err(format!(
                "group {} follows a group of digest {}, and the one before it has {}",
                raw.number(),
                raw.link().previous,
                self.digest
            ));
        }
        let mut ends = EndOffsets::at(self);
        ends.advance(ends.follow(raw.entries())?);
        Ok(LogPosition {
            group: self.group + 1,
            offset: raw.link().offset + 1,
            upper: raw.upper(),
            digest: raw.digest(),
            epoch: raw.link().epoch,
            ends: ends.list(),
        })
    }
}

/// Encodes groups as the log does.
pub(crate) struct RawEncoder(Encoder);

impl RawEncoder {
    pub(crate) fn new() -> RawEncoder {
        RawEncoder(Encoder::new())
    }

    /// The bytes of a group that `epoch` appends at `position`; or why it is no group of a log.
    pub(crate) fn encode(
        &mut self,
        position: &LogPosition,
        epoch: EpochId,
        group: &Group,
    ) -> Result<&[u8], String> {
        check_facts(group)?;
        let link =
            GroupLink { number: position.group, offset: position.offset, previous: position.digest, epoch };
        let encoded = self.0.encode(&link, group, &EndOffsets::at(position));
        encoded.map(|encoded| encoded.bytes).map_err(|error| error.to_string())
    }
}

/// Finds what is wrong with a group whose rows come from outside. In a group of the gate it would
/// be a bug.
fn check_facts(group: &Group) -> Result<(), String> {
    if group.lower > group.upper {
        return Err("ends before it begins".to_owned());
    }
    for Frame { topic, name, rows } in &group.frames {
        let (Some(ticks), Some(offsets)) = (columns::find_ticks(rows), columns::find_offsets(rows)) else {
            match topic {
                Topic::Traffic => return Err(format!("has rows of `{name}` that are no facts")),
                _ => continue,
            }
        };
        let within = ticks.values().iter().all(|tick| (group.lower.0..group.upper.0).contains(tick));
        let mut ends: BTreeMap<u16, i64> = BTreeMap::new();
        let ascend = ticks.values().iter().zip(offsets.values()).all(|(tick, offset)| {
            let end = ends.entry(Tick(*tick).partition()).or_default();
            let follows = *end <= *offset && *offset < i64::MAX;
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use tidegate_facts::columns::{OFFSET, TICK};

    use super::*;

    #[test]
    fn rows_from_outside_that_are_no_group_of_a_log_are_refused_without_a_panic() {
        let check = |ticks: Vec<i64>, offsets: Vec<i64>, name: &str| {
            let columns: [(&str, ArrayRef); 2] =
                [(TICK, Arc::new(Int64Array::from(ticks))), (name, Arc::new(Int64Array::from(offsets)))];
            let rows = RecordBatch::try_from_iter(columns).unwrap();
            let frames = vec![Frame { topic: Topic::Traffic, name: "a".to_owned(), rows }];
            let group = Group { frames, lower: Tick(4096), upper: Tick(3 * 4096), commit: false };
            RawEncoder::new().encode(&LogPosition::default(), EpochId::default(), &group).map(<[u8]>::len)
        };
        assert!(check(vec![4096, 8192], vec![0, 1], OFFSET).is_ok());
        for (ticks, offsets) in [
            (vec![8192, 4096], vec![0, 1]),
            (vec![4096, 4096], vec![0, 1]),
            (vec![1, 4096], vec![0, 1]),
            (vec![4096, 3 * 4096], vec![0, 1]),
            (vec![4096, 8192], vec![1, 1]),
            (vec![4096, 8192], vec![-1, 0]),
            (vec![4096, 8192], vec![0, i64::MAX]),
        ] {
            assert!(check(ticks, offsets, OFFSET).unwrap_err().contains("out of order"));
        }
        assert!(check(vec![4096], vec![0], "other").unwrap_err().contains("no facts"));
    }
}
