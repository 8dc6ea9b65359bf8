//! The bytes of a group: a header, a directory, and one Arrow IPC stream for each frame.
//!
//! All numbers are little endian. A group begins at a multiple of 64 bytes of its segment, its
//! length is such a multiple, and so is the place of each stream, so that columns are used where
//! they were read.
//!
//! | at | bytes | the header, 128 bytes |
//! |---|---|---|
//! | 0 | 8 | `TIDELOG\n` |
//! | 8 | 2 | version of the format, 2 |
//! | 10 | 2 | flags: bit 0 is set when `upper` is a commit boundary |
//! | 12 | 4 | number of frames |
//! | 16 | 8 | number of the group |
//! | 24 | 8 | lower |
//! | 32 | 8 | upper |
//! | 40 | 8 | bytes of the body: all of the group behind the header |
//! | 48 | 4 | bytes of the directory, with which the body begins |
//! | 52 | 4 | CRC-32 (IEEE) of the directory |
//! | 56 | 4 | CRC-32 of the rest of the body |
//! | 60 | 4 | zeros |
//! | 64 | 32 | digest of the group before; zeros for the first |
//! | 96 | 16 | epoch |
//! | 112 | 12 | zeros |
//! | 124 | 4 | CRC-32 of the 124 bytes before |
//!
//! The digest of a group is BLAKE3 of the first 96 bytes of its header and of its body: of
//! everything but its epoch, and the checksum that covers the epoch.
//!
//! The directory holds for each frame:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 1 | topic: its index in [`Topic::ALL`] |
//! | 1 | 3 | zeros |
//! | 4 | 4 | number of rows |
//! | 8 | 4 | bytes of the name |
//! | 12 | 4 | number of extents |
//! | 16 | 8 | where in the body its stream begins |
//! | 24 | 8 | bytes of its stream |
//! | 32 | 24 each | extents, one for each partition that has rows in the frame |
//! | then | | the name, UTF-8 |
//!
//! An extent is: 2 bytes partition, 2 zeros, 4 number of rows, 8 first offset, 8 last offset + 1. A
//! stream is Arrow's IPC streaming format without compression, aligned to 64 bytes: schema,
//! dictionaries, one record batch, end of stream. Zeros fill the space between streams.

use arrow::array::{Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use tidegate_facts::columns::{self, OffsetArray, TickArray};
use tidegate_facts::tick::PARTITIONS_MAX;
use tidegate_facts::{Digest, Tick, Topic};

use super::entry::{Entry, Extent};
use super::error::LogError;
use super::group::{Frame, Group};
use super::offsets::EndOffsets;
use super::position::{EpochId, GroupLink};

/// The first bytes of every group.
pub(super) const MAGIC: [u8; 8] = *b"TIDELOG\n";
/// The length of a group's header.
pub(super) const HEADER_BYTES: usize = 128;
/// Groups and streams begin at multiples of this.
pub(super) const ALIGNMENT: usize = 64;
/// The version of the format that this build reads and writes.
const VERSION: u16 = 2;
/// The version without digests and epochs, whose header has 64 bytes.
const VERSION_UNCHAINED: u16 = 1;
const COMMIT: u16 = 1;
/// The part of the header that the digest covers.
const DIGESTED_BYTES: usize = 96;
const ENTRY_BYTES: usize = 32;
const EXTENT_BYTES: usize = 24;

/// The header of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) commit: bool,
    pub(super) frames: u32,
    pub(super) group: u64,
    pub(super) lower: Tick,
    pub(super) upper: Tick,
    pub(super) body_bytes: u64,
    directory_bytes: u32,
    directory_crc: u32,
    streams_crc: u32,
    pub(super) previous: Digest,
    pub(super) epoch: EpochId,
}

/// Why bytes are no header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// They are zero: nothing was written here.
    Blank,
    /// They are not what the log writes.
    Wrong(&'static str),
    /// They are a header of a version that this build does not read.
    Version(u16),
}

impl Header {
    /// The length of the group with its header.
    pub(super) fn group_bytes(&self) -> u64 {
        (HEADER_BYTES as u64).saturating_add(self.body_bytes)
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, NoHeader> {
        if bytes == &[0; HEADER_BYTES] {
            return Err(NoHeader::Blank);
        }
        if bytes[..8] != MAGIC {
            return Err(NoHeader::Wrong("its first bytes are not those of a group"));
        }
        let version = u16_at(bytes, 8);
        if u32_at(bytes, 124) != crc32fast::hash(&bytes[..124]) {
            if version == VERSION_UNCHAINED && u32_at(bytes, 60) == crc32fast::hash(&bytes[..60]) {
                return Err(NoHeader::Version(version));
            }
            return Err(NoHeader::Wrong("its header does not match its checksum"));
        }
        if version != VERSION {
            return Err(NoHeader::Version(version));
        }
        let header = Header {
            commit: u16_at(bytes, 10) & COMMIT != 0,
            frames: u32_at(bytes, 12),
            group: u64_at(bytes, 16),
            lower: tick_at(bytes, 24),
            upper: tick_at(bytes, 32),
            body_bytes: u64_at(bytes, 40),
            directory_bytes: u32_at(bytes, 48),
            directory_crc: u32_at(bytes, 52),
            streams_crc: u32_at(bytes, 56),
            previous: Digest(bytes[64..96].try_into().expect("32 bytes")),
            epoch: EpochId(bytes[96..112].try_into().expect("16 bytes")),
        };
        if !header.body_bytes.is_multiple_of(ALIGNMENT as u64)
            || header.body_bytes < header.directory_bytes.into()
        {
            return Err(NoHeader::Wrong("its header states an impossible length"));
        }
        if header.lower < Tick::ZERO || header.upper < Tick::ZERO {
            return Err(NoHeader::Wrong("its header states a negative tick"));
        }
        Ok(header)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(if self.commit { COMMIT } else { 0 }).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.frames.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.group.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.lower.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.upper.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.directory_bytes.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.directory_crc.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.streams_crc.to_le_bytes());
        bytes[64..96].copy_from_slice(&self.previous.0);
        bytes[96..112].copy_from_slice(&self.epoch.0);
        let crc = crc32fast::hash(&bytes[..124]);
        bytes[124..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The digest of the group with this header and body.
    pub(super) fn digest(&self, body: &[u8]) -> Digest {
        digest_of(&self.encode(), body)
    }

    /// The directory in `body`, of which the streams may be missing; or what is wrong with it.
    pub(super) fn directory(&self, body: &[u8]) -> Result<Vec<Entry>, String> {
        let bytes = body.get(..self.directory_bytes as usize).ok_or("its directory is cut off")?;
        if crc32fast::hash(bytes) != self.directory_crc {
            return Err("its directory does not match its checksum".to_owned());
        }
        let mut rest = bytes;
        let entries: Option<Vec<Entry>> = (0..self.frames).map(|_| Entry::decode(&mut rest)).collect();
        entries.filter(|_| rest.is_empty()).ok_or_else(|| "its directory is malformed".to_owned())
    }

    /// The length of the directory.
    pub(super) fn directory_bytes(&self) -> usize {
        self.directory_bytes as usize
    }

    /// Finds what is wrong with the streams in `body`, if they are not the ones that were written.
    pub(super) fn check_streams(&self, body: &[u8]) -> Result<(), String> {
        if crc32fast::hash(&body[self.directory_bytes as usize..]) != self.streams_crc {
            return Err("its rows do not match their checksum".to_owned());
        }
        Ok(())
    }
}

/// The digest of a group: of its header as far as the epoch, and of its body.
fn digest_of(header: &[u8], body: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..DIGESTED_BYTES]).update(body);
    Digest(*hasher.finalize().as_bytes())
}

impl Entry {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend([self.topic as u8, 0, 0, 0]);
        bytes.extend(self.rows.to_le_bytes());
        bytes.extend((self.name.len() as u32).to_le_bytes());
        bytes.extend((self.extents.len() as u32).to_le_bytes());
        bytes.extend(self.stream_at.to_le_bytes());
        bytes.extend(self.stream_bytes.to_le_bytes());
        for extent in &self.extents {
            bytes.extend(extent.partition.to_le_bytes());
            bytes.extend([0; 2]);
            bytes.extend(extent.rows.to_le_bytes());
            bytes.extend(extent.first.to_le_bytes());
            bytes.extend(extent.end.to_le_bytes());
        }
        bytes.extend(self.name.as_bytes());
    }

    fn decode(rest: &mut &[u8]) -> Option<Entry> {
        let head = rest.split_off(..ENTRY_BYTES)?;
        let extents = rest.split_off(..u32_at(head, 12) as usize * EXTENT_BYTES)?;
        let name = rest.split_off(..u32_at(head, 8) as usize)?;
        let extents = extents.chunks_exact(EXTENT_BYTES).map(|bytes| Extent {
            partition: u16_at(bytes, 0),
            rows: u32_at(bytes, 4),
            first: u64_at(bytes, 8),
            end: u64_at(bytes, 16),
        });
        Some(Entry {
            topic: *Topic::ALL.get(usize::from(head[0]))?,
            name: str::from_utf8(name).ok()?.to_owned(),
            rows: u32_at(head, 4),
            extents: extents.collect(),
            stream_at: u64_at(head, 16),
            stream_bytes: u64_at(head, 24),
        })
    }

    /// The frame of this entry, whose columns refer to `body`; or what is wrong with it.
    pub(super) fn frame(&self, body: &Buffer) -> Result<Frame, String> {
        let wrong = |detail: String| format!("the rows of `{}` cannot be read: {detail}", self.name);
        let (at, bytes) = (self.stream_at as usize, self.stream_bytes as usize);
        if at.checked_add(bytes).is_none_or(|end| end > body.len()) {
            return Err(wrong("they reach beyond the group".to_owned()));
        }
        let mut stream = body.slice_with_length(at, bytes);
        let rows = StreamDecoder::new().decode(&mut stream).map_err(|e| wrong(e.to_string()))?;
        let rows = rows.ok_or_else(|| wrong("there is no record batch".to_owned()))?;
        if rows.num_rows() != self.rows as usize {
            return Err(wrong(format!("there are {} and should be {}", rows.num_rows(), self.rows)));
        }
        Ok(Frame { topic: self.topic, name: self.name.clone(), rows })
    }

    fn directory_bytes(&self) -> usize {
        ENTRY_BYTES + EXTENT_BYTES * self.extents.len() + self.name.len()
    }
}

/// Writes groups into one buffer that is reused.
pub(super) struct Encoder {
    bytes: Vec<u8>,
    options: IpcWriteOptions,
    /// For each partition the index of its extent, while the rows of a frame are counted.
    extent_of: Vec<Option<u16>>,
}

/// A group in bytes, in the buffer of its [`Encoder`].
pub(super) struct Encoded<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) entries: Vec<Entry>,
}

impl Encoded<'_> {
    /// The digest of the group.
    pub(super) fn digest(&self) -> Digest {
        let (header, body) = self.bytes.split_at(HEADER_BYTES);
        digest_of(header, body)
    }
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5);
        Encoder {
            bytes: Vec::new(),
            options: options.expect("Arrow supports this alignment"),
            extent_of: vec![None; usize::from(PARTITIONS_MAX)],
        }
    }

    /// The bytes of a group with this link, in front of which the partitions end at `ends`.
    ///
    /// # Panics
    /// When the facts are not in `[lower, upper)` or not in order.
    pub(super) fn encode(
        &mut self,
        link: &GroupLink,
        group: &Group,
        ends: &EndOffsets,
    ) -> Result<Encoded<'_>, LogError> {
        let mut entries = self.entries(group, ends);
        let directory_bytes: usize = entries.iter().map(Entry::directory_bytes).sum();
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES + directory_bytes, 0);
        for (frame, entry) in group.frames.iter().zip(&mut entries) {
            self.pad();
            let at = self.bytes.len();
            write_stream(&mut self.bytes, &frame.rows, self.options.clone())
                .map_err(|source| LogError::Encode { name: frame.name.clone(), source })?;
            entry.stream_at = (at - HEADER_BYTES) as u64;
            entry.stream_bytes = (self.bytes.len() - at) as u64;
        }
        self.pad();

        let mut directory = Vec::with_capacity(directory_bytes);
        entries.iter().for_each(|entry| entry.encode(&mut directory));
        let (head, streams) = self.bytes.split_at_mut(HEADER_BYTES + directory_bytes);
        head[HEADER_BYTES..].copy_from_slice(&directory);
        let header = Header {
            commit: group.commit,
            frames: u32::try_from(entries.len()).expect("frames are few"),
            group: link.number,
            lower: group.lower,
            upper: group.upper,
            body_bytes: (directory_bytes + streams.len()) as u64,
            directory_bytes: u32::try_from(directory_bytes).expect("a directory is small"),
            directory_crc: crc32fast::hash(&directory),
            streams_crc: crc32fast::hash(streams),
            previous: link.previous,
            epoch: link.epoch,
        };
        head[..HEADER_BYTES].copy_from_slice(&header.encode());
        Ok(Encoded { bytes: &self.bytes, entries })
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// The directory, without the places of the streams.
    fn entries(&mut self, group: &Group, ends: &EndOffsets) -> Vec<Entry> {
        let mut counted = Topic::ALL.map(|topic| ends.get(topic, 0));
        let mut entries = Vec::with_capacity(group.frames.len());
        for frame in &group.frames {
            let rows = u32::try_from(frame.rows.num_rows()).expect("a group fits into memory");
            let extents = match facts(&frame.rows) {
                Some((ticks, offsets)) => self.extents(ticks.values(), offsets.values(), group),
                None => {
                    assert_ne!(frame.topic, Topic::Traffic, "facts have the columns `_tick` and `_offset`");
                    let first = counted[frame.topic as usize];
                    counted[frame.topic as usize] += u64::from(rows);
                    let extent = Extent { partition: 0, rows, first, end: first + u64::from(rows) };
                    if rows == 0 { Vec::new() } else { vec![extent] }
                }
            };
            let (topic, name) = (frame.topic, frame.name.clone());
            entries.push(Entry { topic, name, rows, extents, stream_at: 0, stream_bytes: 0 });
        }
        entries
    }

    fn extents(&mut self, ticks: &[i64], offsets: &[i64], group: &Group) -> Vec<Extent> {
        if let (Some(first), Some(last)) = (ticks.first(), ticks.last()) {
            assert!(group.lower.0 <= *first && *last < group.upper.0, "a fact lies outside its group");
        }
        assert!(ticks.is_sorted_by(|a, b| a < b), "the ticks of facts ascend");
        let mut extents: Vec<Extent> = Vec::new();
        for (tick, offset) in ticks.iter().zip(offsets) {
            let partition = Tick(*tick).partition();
            let offset = u64::try_from(*offset).expect("offsets are not negative");
            let index = *self.extent_of[usize::from(partition)].get_or_insert_with(|| {
                extents.push(Extent { partition, rows: 0, first: offset, end: offset });
                (extents.len() - 1) as u16
            });
            let extent = &mut extents[usize::from(index)];
            assert!(extent.end <= offset, "the offsets of a partition ascend");
            extent.end = offset + 1;
            extent.rows += 1;
        }
        for extent in &extents {
            self.extent_of[usize::from(extent.partition)] = None;
        }
        extents
    }
}

/// The ticks and offsets of the rows, if they are facts.
pub(super) fn facts(rows: &RecordBatch) -> Option<(&TickArray, &OffsetArray)> {
    let ticks = columns::find_ticks(rows)?;
    let offsets = columns::find_offsets(rows)?;
    assert_eq!(ticks.null_count() + offsets.null_count(), 0, "every fact has a tick and an offset");
    Some((ticks, offsets))
}

fn write_stream(bytes: &mut Vec<u8>, rows: &RecordBatch, options: IpcWriteOptions) -> Result<(), ArrowError> {
    let mut writer = StreamWriter::try_new_with_options(bytes, rows.schema_ref(), options)?;
    writer.write(rows)?;
    writer.finish()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn tick_at(bytes: &[u8], at: usize) -> Tick {
    Tick(i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use arrow::buffer::MutableBuffer;
    use tidegate_facts::columns::{OFFSET, TICK};

    use super::*;

    fn sample() -> Group {
        let ticks: ArrayRef = Arc::new(TickArray::from_iter_values((0..100).map(|i| i << 12)));
        let offsets: ArrayRef = Arc::new(OffsetArray::from_iter_values(0..100));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|i| i.to_string())));
        let rows = RecordBatch::try_from_iter([(TICK, ticks), (OFFSET, offsets), ("text", texts)]).unwrap();
        let frame = Frame { topic: Topic::Traffic, name: "a".to_owned(), rows };
        Group { frames: vec![frame], lower: Tick::ZERO, upper: Tick::MAX, commit: true }
    }

    fn link(epoch: u8) -> GroupLink {
        GroupLink { number: 7, offset: 7, previous: Digest([3; 32]), epoch: EpochId([epoch; 16]) }
    }

    #[test]
    fn columns_are_used_where_they_were_read() {
        let group = sample();
        let mut encoder = Encoder::new();
        let encoded = encoder.encode(&link(1), &group, &EndOffsets::default()).unwrap();
        assert!(encoded.bytes.len().is_multiple_of(ALIGNMENT));
        let header = Header::decode(encoded.bytes[..HEADER_BYTES].try_into().unwrap()).unwrap();
        let length = encoded.bytes.len() as u64;
        assert_eq!((header.group, header.commit, header.group_bytes()), (7, true, length));
        assert_eq!((header.previous, header.epoch), (link(1).previous, link(1).epoch));

        let mut body = MutableBuffer::new(encoded.bytes.len());
        body.extend_from_slice(&encoded.bytes[HEADER_BYTES..]);
        let body = Buffer::from(body);
        header.check_streams(&body).unwrap();
        assert_eq!(header.digest(&body), encoded.digest());
        assert_eq!(header.directory(&body).unwrap(), encoded.entries);
        let decoded = encoded.entries[0].frame(&body).unwrap();
        assert_eq!(decoded, group.frames[0]);
        for column in decoded.rows.columns() {
            for buffer in column.to_data().buffers() {
                assert!(
                    body.as_ptr_range().contains(&buffer.as_ptr()),
                    "{:?} was copied",
                    column.data_type()
                );
            }
        }
    }

    #[test]
    fn the_digest_covers_the_group_before_and_not_the_epoch() {
        let group = sample();
        let digest = |link: &GroupLink| {
            let mut encoder = Encoder::new();
            let encoded = encoder.encode(link, &group, &EndOffsets::default()).unwrap();
            (encoded.digest(), encoded.bytes.to_vec())
        };
        let (first, bytes) = digest(&link(1));
        let (same, others) = digest(&link(2));
        assert_eq!(first, same);
        assert_ne!(bytes, others);
        assert_ne!(digest(&GroupLink { previous: Digest([4; 32]), ..link(1) }).0, first);
        assert_ne!(digest(&GroupLink { number: 8, ..link(1) }).0, first);
    }

    #[test]
    fn a_header_of_the_first_version_is_refused_by_its_number() {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = 1;
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(NoHeader::Version(1)));
    }
}
