//! [`TextReader`]: reads text files in order, block by block, and hashes the consumed bytes.
//!
//! The CSV and JSON-lines sources parse the [`OpenTextFile::window`] of bytes in memory, call
//! [`OpenTextFile::read_more`] when a record is incomplete, and consume what they have parsed.
//! Memory is bounded by the longest accepted record, because the window grows only while the end of
//! a record is missing.

use std::io::{self, Read};
use std::path::Path;

use crate::error::SourceError;
use crate::file_set::{self, FileFormat, InputFile};
use crate::read_fingerprint::{FileFingerprint, ReadFingerprint};

/// The default limit on the bytes of one record that a source reads from a text file: 1 MiB.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// The greatest limit that can be set; offsets into the text column of a batch have 31 bits.
const RECORD_BYTES_CEILING: usize = 1 << 30;

/// A source returns a chunk once it has this many bytes, however few records it contains.
pub(crate) const CHUNK_BYTES: usize = 8 << 20;

const BLOCK_BYTES: usize = 256 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the text files of a source one after the other.
pub(crate) struct TextReader {
    files: Vec<InputFile>,
    current: Option<OpenTextFile>,
    /// For each finished file, the fingerprint up to its last record, and that of the whole file.
    finished: Vec<(Option<FileFingerprint>, FileFingerprint)>,
    /// Whether a last line of the last file that has no line break is left unread.
    leaves_unfinished_line: bool,
}

/// An open text file: a window of bytes in memory, and the hash of the bytes before it.
pub(crate) struct OpenTextFile {
    file: InputFile,
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// The window is `buffer[start..end]`.
    start: usize,
    end: usize,
    at_end: bool,
    /// The read error, if any. It is stored because a decoder that failed may report the end next.
    error: Option<(io::ErrorKind, String)>,
    consumed: Consumed,
    /// Whether a last line without a line break is left unread.
    leaves_unfinished_line: bool,
}

/// The fingerprint of the consumed part of a file.
#[derive(Clone)]
enum Consumed {
    /// A compressed file counts as a whole, from its first record on.
    Whole { fingerprint: FileFingerprint, records: bool },
    /// In any other file, the consumed bytes are hashed.
    Bytes { hasher: Box<blake3::Hasher>, last_record: LastRecord, may_grow: bool },
}

/// Where the last record ends among the consumed bytes.
#[derive(Clone)]
enum LastRecord {
    None,
    /// At the end of the consumed bytes.
    Here,
    /// Before some blank lines; the hasher covers the bytes up to there.
    Before(Box<blake3::Hasher>),
}

impl TextReader {
    pub(crate) fn open(path: &Path, format: FileFormat) -> Result<TextReader, SourceError> {
        let files = file_set::find(path, format)?;
        Ok(TextReader { files, current: None, finished: Vec::new(), leaves_unfinished_line: false })
    }

    /// See [`crate::Source::leave_unfinished_line`]. Only the last file can be unfinished: a file
    /// before it must not grow.
    pub(crate) fn leave_unfinished_line(&mut self) {
        self.leaves_unfinished_line = true;
    }

    pub(crate) fn files(&self) -> &[InputFile] {
        &self.files
    }

    /// The file that is being read, or else the next one; `None` after the last.
    pub(crate) fn current(&mut self) -> Result<Option<&mut OpenTextFile>, SourceError> {
        if self.current.is_none() {
            let Some(file) = self.files.get(self.finished.len()) else {
                return Ok(None);
            };
            let consumed = if file_set::may_grow(&file.name) {
                Consumed::nothing()
            } else {
                let fingerprint = FileFingerprint::whole(&file.name, &file.path)?;
                Consumed::Whole { fingerprint, records: false }
            };
            self.current = Some(OpenTextFile::open(file, consumed)?);
        }
        let is_last = self.finished.len() + 1 == self.files.len();
        if let Some(open) = &mut self.current {
            let may_grow = matches!(open.consumed, Consumed::Bytes { .. });
            open.leaves_unfinished_line = self.leaves_unfinished_line && is_last && may_grow;
        }
        Ok(self.current.as_mut())
    }

    /// Closes the current file, which must be consumed completely, but for an unfinished line that
    /// is left.
    pub(crate) fn finish(&mut self) {
        let open = self.current.take().expect("a file is open");
        assert!(open.at_end && open.is_consumed(), "a file is finished before its end");
        self.finished.push((
            open.consumed.up_to_last_record(&open.file.name),
            open.consumed.up_to_here(&open.file.name),
        ));
    }

    pub(crate) fn fingerprint(&self) -> ReadFingerprint {
        let current = self.current.as_ref();
        let current = current.and_then(|open| open.consumed.up_to_last_record(&open.file.name));
        let whole = match &current {
            Some(_) => self.finished.len(),
            None => self.finished.iter().rposition(|(records, _)| records.is_some()).unwrap_or(0),
        };
        let last = current.or_else(|| self.finished.get(whole)?.0.clone());
        let files = self.finished[..whole].iter().map(|(_, whole)| whole.clone()).chain(last);
        ReadFingerprint { files: files.collect() }
    }
}

impl OpenTextFile {
    /// Opens a file to read only its beginning.
    pub(crate) fn peek(file: &InputFile) -> Result<OpenTextFile, SourceError> {
        OpenTextFile::open(file, Consumed::nothing())
    }

    /// Opens a file and skips its byte order mark, if it has one.
    fn open(file: &InputFile, consumed: Consumed) -> Result<OpenTextFile, SourceError> {
        let mut open = OpenTextFile {
            file: file.clone(),
            reader: file_set::open(file)?,
            buffer: vec![0; BLOCK_BYTES],
            start: 0,
            end: 0,
            at_end: false,
            error: None,
            consumed,
            leaves_unfinished_line: false,
        };
        open.read_more()?;
        if open.window().starts_with(BYTE_ORDER_MARK) {
            open.skip(BYTE_ORDER_MARK.len());
        }
        Ok(open)
    }

    pub(crate) fn file(&self) -> &InputFile {
        &self.file
    }

    /// The bytes that were read and are not yet consumed.
    pub(crate) fn window(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether the window reaches to the end of the file.
    pub(crate) fn at_end(&self) -> bool {
        self.at_end
    }

    /// Whether the window reaches to the end of the file, and a last line in it that has no line
    /// break is a record.
    pub(crate) fn at_last_record(&self) -> bool {
        self.at_end && !self.leaves_unfinished_line
    }

    /// Whether nothing is left to consume once the end of the file was read.
    pub(crate) fn is_consumed(&self) -> bool {
        self.window().is_empty() || self.leaves_unfinished_line
    }

    /// Reads until the buffer is full; `false` at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read and the window already has all bytes before the failure.
    pub(crate) fn read_more(&mut self) -> Result<bool, SourceError> {
        if let Some((kind, text)) = &self.error {
            let source = io::Error::new(*kind, text.clone());
            return Err(SourceError::Read { path: self.file.path.clone(), source });
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let before = self.end;
        if before > self.buffer.len() / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        while !self.at_end && self.error.is_none() && self.end < self.buffer.len() {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.error = Some((error.kind(), error.to_string())),
            }
        }
        if self.end == before && self.error.is_some() { self.read_more() } else { Ok(self.end > before) }
    }

    /// Consumes `count` bytes that belong to records.
    pub(crate) fn consume_records(&mut self, count: usize) {
        match &mut self.consumed {
            Consumed::Whole { records, .. } => *records = true,
            Consumed::Bytes { last_record, .. } => *last_record = LastRecord::Here,
        }
        self.consume(count);
    }

    /// Consumes `count` bytes between records.
    pub(crate) fn skip(&mut self, count: usize) {
        if let Consumed::Bytes { hasher, last_record: last_record @ LastRecord::Here, .. } =
            &mut self.consumed
        {
            *last_record = LastRecord::Before(hasher.clone());
        }
        self.consume(count);
    }

    fn consume(&mut self, count: usize) {
        if let Consumed::Bytes { hasher, .. } = &mut self.consumed {
            hasher.update(&self.buffer[self.start..self.start + count]);
        }
        self.start += count;
        assert!(self.start <= self.end, "more bytes were consumed than read");
    }

    /// Records that bytes appended to the file could change the records that were read.
    pub(crate) fn forbid_growth(&mut self) {
        if let Consumed::Bytes { may_grow, .. } = &mut self.consumed {
            *may_grow = false;
        }
    }

    /// Consumes a line of any length. Returns at most `head_bytes_max` of its first bytes, and its
    /// length without the line break; `None` for an unfinished line, which is left.
    pub(crate) fn consume_line(
        &mut self,
        head_bytes_max: usize,
    ) -> Result<Option<(Vec<u8>, u64)>, SourceError> {
        let before = self.leaves_unfinished_line.then(|| self.consumed.clone());
        let mut head = Vec::new();
        let mut length = 0;
        let mut last = None;
        loop {
            let window = self.window();
            let line_break = memchr::memchr(b'\n', window);
            let part = &window[..line_break.unwrap_or(window.len())];
            head.extend_from_slice(&part[..part.len().min(head_bytes_max - head.len())]);
            length += part.len() as u64;
            last = part.last().copied().or(last);
            let count = part.len();
            if line_break.is_some() {
                self.consume_records(count + 1);
                break;
            }
            self.consume_records(count);
            if !self.read_more()? {
                if let Some(before) = before {
                    self.consumed = before;
                    return Ok(None);
                }
                break;
            }
        }
        if last == Some(b'\r') {
            length -= 1;
            head.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        Ok(Some((head, length)))
    }
}

impl Consumed {
    fn nothing() -> Consumed {
        Consumed::Bytes { hasher: Box::default(), last_record: LastRecord::None, may_grow: true }
    }

    fn up_to_last_record(&self, name: &str) -> Option<FileFingerprint> {
        match self {
            Consumed::Whole { fingerprint, records } => records.then(|| fingerprint.clone()),
            Consumed::Bytes { hasher, last_record, may_grow } => {
                let hasher = match last_record {
                    LastRecord::None => return None,
                    LastRecord::Here => hasher,
                    LastRecord::Before(hasher) => hasher,
                };
                Some(FileFingerprint::of(name, hasher, *may_grow))
            }
        }
    }

    fn up_to_here(&self, name: &str) -> FileFingerprint {
        match self {
            Consumed::Whole { fingerprint, .. } => fingerprint.clone(),
            Consumed::Bytes { hasher, may_grow, .. } => FileFingerprint::of(name, hasher, *may_grow),
        }
    }
}

/// A line without its line break.
pub(crate) fn without_line_break(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The effective limit on the bytes of a record for a requested limit.
pub(crate) fn record_limit(requested: usize) -> usize {
    requested.clamp(1, RECORD_BYTES_CEILING)
}

/// The error message for a record that is longer than the limit.
pub(crate) fn too_long(length: u64, record_bytes_max: usize) -> String {
    format!(
        "The record is {length} bytes long, and the limit is {record_bytes_max}; its first \
         {record_bytes_max} bytes are stored. Raise `record_bytes_max` if records may be that long."
    )
}
