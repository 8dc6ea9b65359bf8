//! A group in bytes: a header, a directory, and one Arrow IPC stream for each frame.
//!
//! All numbers are little endian. A group begins at a multiple of 64 bytes of its segment and its
//! length is one too, as is where each stream begins, so that columns are used where they were read.
//!
//! | at | bytes | the header, 64 bytes |
//! |---|---|---|
//! | 0 | 8 | `TIDELOG\n` |
//! | 8 | 2 | version of the format, 1 |
//! | 10 | 2 | flags: bit 0 is set when `upper` is a commit boundary |
//! | 12 | 4 | number of frames |
//! | 16 | 8 | number of the group |
//! | 24 | 8 | lower |
//! | 32 | 8 | upper |
//! | 40 | 8 | bytes of the body: all of the group behind the header |
//! | 48 | 4 | bytes of the directory, with which the body begins |
//! | 52 | 4 | CRC-32 (IEEE) of the directory |
//! | 56 | 4 | CRC-32 of the rest of the body |
//! | 60 | 4 | CRC-32 of the 60 bytes before |
//!
//! The directory holds for each frame:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 1 | topic: its place in [`Topic::ALL`] |
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
//! dictionaries, one record batch, end of stream. Between them stand zeros.

use arrow::array::{Array, AsArray, PrimitiveArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::UInt64Type;
use arrow::error::ArrowError;
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use tidegate_facts::columns::{OFFSET, TICK};
use tidegate_facts::tick::PARTITIONS_MAX;
use tidegate_facts::{Tick, Topic};

use super::offsets::EndOffsets;
use super::{Frame, Group, LogError};

/// The first bytes of every group.
pub(super) const MAGIC: [u8; 8] = *b"TIDELOG\n";
/// The length of a group's header.
pub(super) const HEADER_BYTES: usize = 64;
/// What every group's place and length is a multiple of.
pub(super) const ALIGNMENT: usize = 64;
/// The version of the format that this build reads and writes.
const VERSION: u16 = 1;
const COMMIT: u16 = 1;
const ENTRY_BYTES: usize = 32;
const EXTENT_BYTES: usize = 24;

/// What stands in front of a group.
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
}

/// What a group's directory says of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) topic: Topic,
    pub(super) name: String,
    pub(super) rows: u32,
    pub(super) extents: Vec<Extent>,
    stream_at: u64,
    stream_bytes: u64,
}

/// The rows of one partition in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) partition: u16,
    pub(super) rows: u32,
    /// The offset of the first of them.
    pub(super) first: u64,
    /// The offset of the last of them, and one.
    pub(super) end: u64,
}

/// Why 64 bytes are no header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// They are zero: nothing was written here.
    Blank,
    /// They are something else.
    Wrong(&'static str),
    /// They are a header of another version.
    Version(u16),
}

impl Header {
    /// The length of the group with its header.
    pub(super) fn group_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.body_bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, NoHeader> {
        if bytes == &[0; HEADER_BYTES] {
            return Err(NoHeader::Blank);
        }
        if bytes[..8] != MAGIC {
            return Err(NoHeader::Wrong("there is something else than a group"));
        }
        if u32_at(bytes, 60) != crc32fast::hash(&bytes[..60]) {
            return Err(NoHeader::Wrong("its header does not match its checksum"));
        }
        let version = u16_at(bytes, 8);
        if version != VERSION {
            return Err(NoHeader::Version(version));
        }
        let header = Header {
            commit: u16_at(bytes, 10) & COMMIT != 0,
            frames: u32_at(bytes, 12),
            group: u64_at(bytes, 16),
            lower: Tick(u64_at(bytes, 24)),
            upper: Tick(u64_at(bytes, 32)),
            body_bytes: u64_at(bytes, 40),
            directory_bytes: u32_at(bytes, 48),
            directory_crc: u32_at(bytes, 52),
            streams_crc: u32_at(bytes, 56),
        };
        if !header.body_bytes.is_multiple_of(ALIGNMENT as u64)
            || header.body_bytes < header.directory_bytes.into()
        {
            return Err(NoHeader::Wrong("its header gives it an impossible length"));
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
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The directory in `body`, of which the streams may be missing; or what is wrong with it.
    pub(super) fn directory(&self, body: &[u8]) -> Result<Vec<Entry>, String> {
        let bytes = body.get(..self.directory_bytes as usize).ok_or("its directory is cut off")?;
        if crc32fast::hash(bytes) != self.directory_crc {
            return Err("its directory does not match its checksum".to_owned());
        }
        let mut rest = bytes;
        let entries: Option<Vec<Entry>> = (0..self.frames).map(|_| Entry::decode(&mut rest)).collect();
        entries
            .filter(|_| rest.is_empty())
            .ok_or_else(|| "its directory is not laid out as it should be".to_owned())
    }

    /// How many bytes of the body the directory takes.
    pub(super) fn directory_bytes(&self) -> usize {
        self.directory_bytes as usize
    }

    /// Says what is wrong when the streams in `body` are not the ones that were written.
    pub(super) fn check_streams(&self, body: &[u8]) -> Result<(), String> {
        if crc32fast::hash(&body[self.directory_bytes as usize..]) != self.streams_crc {
            return Err("its rows do not match their checksum".to_owned());
        }
        Ok(())
    }
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

    /// The frame of this entry, its columns standing in `body`; or what is wrong with it.
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
}

/// Writes groups into one buffer that is used again and again.
pub(super) struct Encoder {
    bytes: Vec<u8>,
    options: IpcWriteOptions,
    /// Where the extent of each partition stands while a frame is walked.
    places: Vec<Option<u16>>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5);
        Encoder {
            bytes: Vec::new(),
            options: options.expect("Arrow knows this alignment"),
            places: vec![None; usize::from(PARTITIONS_MAX)],
        }
    }

    /// The bytes of group number `number`, and its directory.
    ///
    /// # Panics
    /// When the facts are not in `[lower, upper)` or not in order.
    pub(super) fn encode(
        &mut self,
        number: u64,
        group: &Group,
        ends: &EndOffsets,
    ) -> Result<(&[u8], Vec<Entry>), LogError> {
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
            group: number,
            lower: group.lower,
            upper: group.upper,
            body_bytes: (directory_bytes + streams.len()) as u64,
            directory_bytes: u32::try_from(directory_bytes).expect("a directory is small"),
            directory_crc: crc32fast::hash(&directory),
            streams_crc: crc32fast::hash(streams),
        };
        head[..HEADER_BYTES].copy_from_slice(&header.encode());
        Ok((&self.bytes, entries))
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// The directory, except where the streams will stand.
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
            entries.push(Entry {
                topic: frame.topic,
                name: frame.name.clone(),
                rows,
                extents,
                stream_at: 0,
                stream_bytes: 0,
            });
        }
        entries
    }

    fn extents(&mut self, ticks: &[u64], offsets: &[u64], group: &Group) -> Vec<Extent> {
        if let (Some(first), Some(last)) = (ticks.first(), ticks.last()) {
            assert!(group.lower.0 <= *first && *last < group.upper.0, "a fact lies outside its group");
        }
        assert!(ticks.is_sorted_by(|a, b| a < b), "the ticks of facts ascend");
        let mut extents: Vec<Extent> = Vec::new();
        for (&tick, &offset) in ticks.iter().zip(offsets) {
            let partition = Tick(tick).partition();
            let place = *self.places[usize::from(partition)].get_or_insert_with(|| {
                extents.push(Extent { partition, rows: 0, first: offset, end: offset });
                (extents.len() - 1) as u16
            });
            let extent = &mut extents[usize::from(place)];
            assert!(extent.end <= offset, "the offsets of a partition ascend");
            extent.end = offset + 1;
            extent.rows += 1;
        }
        for extent in &extents {
            self.places[usize::from(extent.partition)] = None;
        }
        extents
    }
}

impl Entry {
    fn directory_bytes(&self) -> usize {
        ENTRY_BYTES + EXTENT_BYTES * self.extents.len() + self.name.len()
    }
}

/// The ticks and offsets of the rows, if they are facts.
pub(super) fn facts(
    rows: &RecordBatch,
) -> Option<(&PrimitiveArray<UInt64Type>, &PrimitiveArray<UInt64Type>)> {
    let ticks = rows.column_by_name(TICK)?.as_primitive_opt()?;
    let offsets: &PrimitiveArray<UInt64Type> = rows.column_by_name(OFFSET)?.as_primitive_opt()?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray, UInt64Array};
    use arrow::buffer::MutableBuffer;

    use super::*;

    #[test]
    fn columns_are_used_where_they_were_read() {
        let ticks: ArrayRef = Arc::new(UInt64Array::from_iter_values((0..100).map(|i| i << 12)));
        let offsets: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..100));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|i| i.to_string())));
        let rows = RecordBatch::try_from_iter([(TICK, ticks), (OFFSET, offsets), ("text", texts)]).unwrap();
        let frame = Frame { topic: Topic::Traffic, name: "a".to_owned(), rows };
        let group =
            Group { frames: vec![frame.clone(); 1], lower: Tick::ZERO, upper: Tick(u64::MAX), commit: true };

        let mut encoder = Encoder::new();
        let (bytes, entries) = encoder.encode(7, &group, &EndOffsets::default()).unwrap();
        assert!(bytes.len().is_multiple_of(ALIGNMENT));
        let header = Header::decode(bytes[..HEADER_BYTES].try_into().unwrap()).unwrap();
        assert_eq!((header.group, header.commit, header.group_bytes()), (7, true, bytes.len() as u64));

        let mut body = MutableBuffer::new(bytes.len());
        body.extend_from_slice(&bytes[HEADER_BYTES..]);
        let body = Buffer::from(body);
        header.check_streams(&body).unwrap();
        assert_eq!(header.directory(&body).unwrap(), entries);
        let decoded = entries[0].frame(&body).unwrap();
        assert_eq!(decoded, frame);
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
}
