//! Text files in their order, read in blocks, with the digest of what was consumed.
//!
//! A reader looks at the [`Reading::window`] of bytes that are there, asks for [`Reading::more`], and
//! consumes what it has understood. Memory is bounded by the longest record a reader accepts: the
//! window only grows while it holds a record whose end is not in sight.

use std::io::{self, Read};
use std::path::Path;

use crate::error::SourceError;
use crate::files::{self, Format, InputFile};
use crate::prefix::{FilePrefix, Prefix};

/// How long a record may be unless a source is told otherwise: 1 MiB.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// The most that a source can be told: offsets into the text of a batch are 31 bits.
const RECORD_BYTES_CEILING: usize = 1 << 30;

/// A chunk is handed over once it holds this many bytes, however few records they are.
pub(crate) const CHUNK_BYTES: usize = 8 << 20;

const BLOCK_BYTES: usize = 256 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text files of a source.
pub(crate) struct Text {
    files: Vec<InputFile>,
    reading: Option<Reading>,
    /// Of each file that was read to its end: the prefix up to its last record, and the whole.
    finished: Vec<(Option<FilePrefix>, FilePrefix)>,
}

/// A file that is being read.
pub(crate) struct Reading {
    file: InputFile,
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    ended: bool,
    /// Why reading broke off. It is kept, because a decoder that failed may claim the end next.
    broken: Option<(io::ErrorKind, String)>,
    consumed: Consumed,
}

/// What was consumed of a file.
enum Consumed {
    /// A compressed file counts as a whole, from its first record on.
    Whole { prefix: FilePrefix, records: bool },
    /// Of any other, all that was consumed is hashed.
    Bytes { hasher: Box<blake3::Hasher>, last_record: LastRecord, may_grow: bool },
}

/// Where the last record ends in what was consumed.
enum LastRecord {
    None,
    /// At the end of it.
    Here,
    /// Before some blank lines.
    Before(Box<blake3::Hasher>),
}

impl Text {
    pub(crate) fn open(path: &Path, format: Format) -> Result<Text, SourceError> {
        let files = files::find(path, format)?;
        Ok(Text { files, reading: None, finished: Vec::new() })
    }

    pub(crate) fn files(&self) -> &[InputFile] {
        &self.files
    }

    /// The file that is being read, or the next one; `None` after the last.
    pub(crate) fn reading(&mut self) -> Result<Option<&mut Reading>, SourceError> {
        if self.reading.is_none() {
            let Some(file) = self.files.get(self.finished.len()) else {
                return Ok(None);
            };
            let consumed = if files::may_grow(&file.name) {
                Consumed::nothing()
            } else {
                Consumed::Whole { prefix: FilePrefix::whole(&file.name, &file.path)?, records: false }
            };
            self.reading = Some(Reading::open(file, consumed)?);
        }
        Ok(self.reading.as_mut())
    }

    /// Goes on to the next file, after all of this one was consumed.
    pub(crate) fn finish(&mut self) {
        let reading = self.reading.take().expect("a file is being read");
        assert!(reading.ended && reading.window().is_empty(), "a file is finished before its end");
        self.finished.push((
            reading.consumed.to_last_record(&reading.file.name),
            reading.consumed.to_here(&reading.file.name),
        ));
    }

    pub(crate) fn prefix(&self) -> Prefix {
        let here = self.reading.as_ref().and_then(|r| r.consumed.to_last_record(&r.file.name));
        let whole = match &here {
            Some(_) => self.finished.len(),
            None => self.finished.iter().rposition(|(records, _)| records.is_some()).unwrap_or(0),
        };
        let last = here.or_else(|| self.finished.get(whole)?.0.clone());
        let files = self.finished[..whole].iter().map(|(_, whole)| whole.clone()).chain(last);
        Prefix { files: files.collect() }
    }
}

impl Reading {
    /// Opens a file for a look at its beginning.
    pub(crate) fn glance(file: &InputFile) -> Result<Reading, SourceError> {
        Reading::open(file, Consumed::nothing())
    }

    /// Opens a file and passes its byte order mark, if it has one.
    fn open(file: &InputFile, consumed: Consumed) -> Result<Reading, SourceError> {
        let mut reading = Reading {
            file: file.clone(),
            reader: files::open(file)?,
            buffer: vec![0; BLOCK_BYTES],
            from: 0,
            to: 0,
            ended: false,
            broken: None,
            consumed,
        };
        reading.more()?;
        if reading.window().starts_with(BYTE_ORDER_MARK) {
            reading.pass(BYTE_ORDER_MARK.len());
        }
        Ok(reading)
    }

    pub(crate) fn file(&self) -> &InputFile {
        &self.file
    }

    /// The bytes that were read and not yet consumed.
    pub(crate) fn window(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    /// Whether the window reaches to the end of the file.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Reads on until the buffer is full; `false` when there is no more.
    pub(crate) fn more(&mut self) -> Result<bool, SourceError> {
        if let Some((kind, text)) = &self.broken {
            let source = io::Error::new(*kind, text.clone());
            return Err(SourceError::Read { path: self.file.path.clone(), source });
        }
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        let before = self.to;
        if before > self.buffer.len() / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        while !self.ended && self.broken.is_none() && self.to < self.buffer.len() {
            match self.reader.read(&mut self.buffer[self.to..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.to += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.broken = Some((error.kind(), error.to_string())),
            }
        }
        if self.to == before && self.broken.is_some() { self.more() } else { Ok(self.to > before) }
    }

    /// Consumes bytes of records.
    pub(crate) fn take(&mut self, count: usize) {
        match &mut self.consumed {
            Consumed::Whole { records, .. } => *records = true,
            Consumed::Bytes { last_record, .. } => *last_record = LastRecord::Here,
        }
        self.consume(count);
    }

    /// Consumes bytes between records.
    pub(crate) fn pass(&mut self, count: usize) {
        if let Consumed::Bytes { hasher, last_record: last_record @ LastRecord::Here, .. } =
            &mut self.consumed
        {
            *last_record = LastRecord::Before(hasher.clone());
        }
        self.consume(count);
    }

    fn consume(&mut self, count: usize) {
        if let Consumed::Bytes { hasher, .. } = &mut self.consumed {
            hasher.update(&self.buffer[self.from..self.from + count]);
        }
        self.from += count;
        assert!(self.from <= self.to, "more was consumed than was read");
    }

    /// Says that what is appended to the file could change the records that were read.
    pub(crate) fn forbid_growth(&mut self) {
        if let Consumed::Bytes { may_grow, .. } = &mut self.consumed {
            *may_grow = false;
        }
    }

    /// Consumes a line of any length; gives its first bytes, and its length without its line break.
    pub(crate) fn take_line(&mut self, kept_bytes_max: usize) -> Result<(Vec<u8>, u64), SourceError> {
        let mut head = Vec::new();
        let mut length = 0;
        let mut last = None;
        loop {
            let window = self.window();
            let line_break = memchr::memchr(b'\n', window);
            let part = &window[..line_break.unwrap_or(window.len())];
            head.extend_from_slice(&part[..part.len().min(kept_bytes_max - head.len())]);
            length += part.len() as u64;
            last = part.last().copied().or(last);
            let count = part.len();
            if line_break.is_some() {
                self.take(count + 1);
                break;
            }
            self.take(count);
            if !self.more()? {
                break;
            }
        }
        if last == Some(b'\r') {
            length -= 1;
            head.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        Ok((head, length))
    }
}

impl Consumed {
    fn nothing() -> Consumed {
        Consumed::Bytes { hasher: Box::default(), last_record: LastRecord::None, may_grow: true }
    }

    fn to_last_record(&self, name: &str) -> Option<FilePrefix> {
        match self {
            Consumed::Whole { prefix, records } => records.then(|| prefix.clone()),
            Consumed::Bytes { hasher, last_record, may_grow } => {
                let hasher = match last_record {
                    LastRecord::None => return None,
                    LastRecord::Here => hasher,
                    LastRecord::Before(hasher) => hasher,
                };
                Some(FilePrefix::of(name, hasher, *may_grow))
            }
        }
    }

    fn to_here(&self, name: &str) -> FilePrefix {
        match self {
            Consumed::Whole { prefix, .. } => prefix.clone(),
            Consumed::Bytes { hasher, may_grow, .. } => FilePrefix::of(name, hasher, *may_grow),
        }
    }
}

/// A line without its line break.
pub(crate) fn without_line_break(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The limit on the size of a record that is kept, for the one that was asked for.
pub(crate) fn record_limit(asked: usize) -> usize {
    asked.clamp(1, RECORD_BYTES_CEILING)
}

/// What is said of a record that is longer than the limit.
pub(crate) fn too_long(length: u64, record_bytes_max: usize) -> String {
    format!(
        "The record is {length} bytes long, and the limit is {record_bytes_max}; its first {record_bytes_max} bytes \
         are kept. Raise `record_bytes_max` if such records are meant."
    )
}
