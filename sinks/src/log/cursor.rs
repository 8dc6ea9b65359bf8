//! Walks the groups of a log, checks every byte of them, and tells a torn end from damage.
//!
//! A cursor may read while a log in the same process appends. What it finds incomplete may then
//! be complete a moment later; so before it calls anything damaged that only is so because of
//! what stands behind it, it looks once more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use arrow::buffer::{Buffer, MutableBuffer};
use tidegate_facts::Tick;

use super::format::{ALIGNMENT, Entry, HEADER_BYTES, Header, MAGIC, NoHeader};
use super::mark::{LogMark, read_base};
use super::{Group, LogError, segment};

/// How much of the end of a segment is looked through at once.
const SEARCH_BYTES: usize = 1 << 20;

/// A place between two groups.
pub(super) struct Cursor {
    folder: PathBuf,
    /// Where the log begins.
    base: LogMark,
    /// The number of the first group of the open segment.
    first: u64,
    file: Option<File>,
    /// Where the next group begins.
    at: u64,
    /// The number of the next group.
    group: u64,
    /// Where the next group begins in time, unless the cursor has read nothing yet.
    lower: Option<Tick>,
}

/// A group whose every byte matches its checksums.
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) entries: Vec<Entry>,
    pub(super) body: Buffer,
}

impl Found {
    /// Its rows; or why they cannot be read.
    pub(super) fn group(&self) -> Result<Group, String> {
        let Found { header, entries, body } = self;
        let frames = entries.iter().map(|entry| entry.frame(body)).collect::<Result<_, _>>()?;
        Ok(Group { frames, lower: header.lower, upper: header.upper, commit: header.commit })
    }
}

/// The end of the log: nothing valid stands there or behind.
pub(super) struct End {
    /// What of a group was written there, and in how many bytes.
    pub(super) torn: Option<(String, u64)>,
}

/// What stands at one place.
pub(super) enum Here {
    Group(Found),
    /// The end of the file, or zeros.
    Blank,
    /// Something else, and where to look for what may stand behind it.
    Wrong {
        detail: String,
        behind: u64,
    },
}

impl Cursor {
    /// In front of the first group of the last segment whose first group `is_early`, else of the log's first.
    pub(super) fn open(
        folder: &Path,
        is_early: impl Fn(&Header, &[Entry]) -> bool,
    ) -> Result<Cursor, LogError> {
        let base = read_base(folder)?;
        let at_start = |first| Cursor {
            folder: folder.to_owned(),
            base: base.clone(),
            first,
            file: None,
            at: 0,
            group: first,
            lower: None,
        };
        for first in list(folder)?.into_iter().rev().filter(|first| *first > base.group) {
            let cursor = at_start(first);
            if cursor.first_group()?.is_some_and(|(header, entries)| is_early(&header, &entries)) {
                return Ok(cursor);
            }
        }
        let cursor = Cursor { lower: Some(base.upper), ..at_start(base.group) };
        if base.group > 0 && !cursor.path().exists() {
            return Err(cursor.damaged("the segment with which the pruned log begins is missing".to_owned()));
        }
        Ok(cursor)
    }

    /// Where the log begins; at group 0 unless it was pruned.
    pub(super) fn base(&self) -> &LogMark {
        &self.base
    }

    /// The error that something before the log's beginning was asked for.
    pub(super) fn pruned(&self) -> LogError {
        LogError::Pruned { folder: self.folder.clone(), base: self.base.clone() }
    }

    /// The number of the next group.
    pub(super) fn group(&self) -> u64 {
        self.group
    }

    /// Where the next group begins in time; the first group's is known once it was read.
    pub(super) fn lower(&self) -> Option<Tick> {
        self.lower
    }

    /// The number of the first group of the segment, and where in it the next group begins.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.first, self.at)
    }

    /// The next group, or the end of the log.
    pub(super) fn next(&mut self) -> Result<Result<Found, End>, LogError> {
        let mut again = false;
        loop {
            let here = self.here()?;
            let found = match here {
                Here::Group(found) => found,
                Here::Blank if self.enter_next_segment()? => {
                    again = false;
                    continue;
                }
                Here::Blank | Here::Wrong { .. } => {
                    let (detail, behind) = match here {
                        Here::Wrong { detail, behind } => (detail, behind),
                        _ => ("there is no group".to_owned(), self.at),
                    };
                    let is_last = list(&self.folder)?.last().is_none_or(|last| *last <= self.first);
                    let tail = self.search(behind)?;
                    if is_last && !tail.has_group {
                        let written = tail.written_to.saturating_sub(self.at);
                        return Ok(Err(End { torn: (written > 0).then_some((detail, written)) }));
                    }
                    if again {
                        // The segment may have been pruned since the cursor was opened.
                        self.base = read_base(&self.folder)?;
                        if self.group < self.base.group {
                            return Err(self.pruned());
                        }
                        return Err(self.damaged(format!("{detail}, but there are groups behind it")));
                    }
                    again = true;
                    continue;
                }
            };
            let header = &found.header;
            if header.group != self.group {
                return Err(self.damaged(format!("group {} stands in its place", header.group)));
            }
            if self.lower.is_some_and(|lower| lower != header.lower) || header.lower > header.upper {
                return Err(self.damaged(format!(
                    "it runs from tick {} to {}, which does not continue the group before",
                    header.lower.0, header.upper.0
                )));
            }
            self.at += header.group_bytes();
            self.group += 1;
            self.lower = Some(header.upper);
            return Ok(Ok(found));
        }
    }

    /// The error that the next group is damaged.
    pub(super) fn damaged(&self, detail: String) -> LogError {
        LogError::Damaged { segment: self.path(), at: self.at, group: self.group, detail }
    }

    /// The error that the group before is damaged.
    pub(super) fn damaged_before(&self, found: &Found, detail: String) -> LogError {
        let at = self.at - found.header.group_bytes();
        LogError::Damaged { segment: self.path(), at, group: self.group - 1, detail }
    }

    fn path(&self) -> PathBuf {
        segment::path(&self.folder, self.first)
    }

    fn read_error(&self, source: io::Error) -> LogError {
        LogError::Read { path: self.path(), source }
    }

    /// The next segment is named by the group that is next, if it is there and this one is not it.
    fn enter_next_segment(&mut self) -> Result<bool, LogError> {
        if self.group == self.first {
            return Ok(false);
        }
        match File::open(segment::path(&self.folder, self.group)) {
            Ok(file) => {
                (self.first, self.file, self.at) = (self.group, Some(file), 0);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(LogError::Read { path: segment::path(&self.folder, self.group), source }),
        }
    }

    fn open_file(&mut self) -> Result<Option<&File>, LogError> {
        if self.file.is_none() {
            match File::open(self.path()) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.read_error(source)),
            }
        }
        Ok(self.file.as_ref())
    }

    fn here(&mut self) -> Result<Here, LogError> {
        let at = self.at;
        let path = self.path();
        let Some(file) = self.open_file()? else { return Ok(Here::Blank) };
        read_group(file, at, &path)
    }

    /// The header and directory of the segment's first group, if they are whole.
    fn first_group(&self) -> Result<Option<(Header, Vec<Entry>)>, LogError> {
        let read = || -> io::Result<Option<(Header, Vec<Entry>)>> {
            let file = File::open(self.path())?;
            let Ok(header) = read_header(&file, 0)? else { return Ok(None) };
            let mut directory = vec![0; header.directory_bytes()];
            if file.metadata()?.len() < header.group_bytes() {
                return Ok(None);
            }
            file.read_exact_at(&mut directory, HEADER_BYTES as u64)?;
            Ok(header.directory(&directory).ok().map(|entries| (header, entries)))
        };
        read().map_err(|source| self.read_error(source))
    }

    /// Looks through the rest of the segment for a group that is whole, and for the last byte written.
    fn search(&mut self, behind: u64) -> Result<Tail, LogError> {
        let (at, group, path) = (self.at, self.group, self.path());
        let Some(file) = self.open_file()? else { return Ok(Tail { has_group: false, written_to: 0 }) };
        let read_error = |source| LogError::Read { path: path.clone(), source };
        let mut tail = Tail { has_group: false, written_to: at };
        let mut chunk = vec![0; SEARCH_BYTES];
        let mut from = at;
        loop {
            let length = read_up_to(file, &mut chunk, from).map_err(read_error)?;
            if length == 0 {
                return Ok(tail);
            }
            let bytes = &chunk[..length];
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                tail.written_to = from + last as u64 + 1;
            }
            for (i, piece) in bytes.chunks_exact(ALIGNMENT).enumerate() {
                let place = from + (i * ALIGNMENT) as u64;
                if place < behind || place == at || !piece.starts_with(&MAGIC) {
                    continue;
                }
                if let Here::Group(found) = read_group(file, place, &path)?
                    && found.header.group > group
                {
                    tail.has_group = true;
                    return Ok(tail);
                }
            }
            from += length as u64;
        }
    }
}

/// What the rest of a segment holds.
struct Tail {
    has_group: bool,
    written_to: u64,
}

fn list(folder: &Path) -> Result<Vec<u64>, LogError> {
    segment::list(folder).map_err(|source| LogError::Read { path: folder.to_owned(), source })
}

fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], at + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

pub(super) fn read_header(file: &File, at: u64) -> io::Result<Result<Header, NoHeader>> {
    let mut bytes = [0; HEADER_BYTES];
    match read_up_to(file, &mut bytes, at)? {
        0 => Ok(Err(NoHeader::Blank)),
        HEADER_BYTES => Ok(Header::decode(&bytes)),
        length if bytes[..length].iter().all(|byte| *byte == 0) => Ok(Err(NoHeader::Blank)),
        _ => Ok(Err(NoHeader::Wrong("its header is cut off"))),
    }
}

pub(super) fn read_group(file: &File, at: u64, path: &Path) -> Result<Here, LogError> {
    let read_error = |source| LogError::Read { path: path.to_owned(), source };
    let header = match read_header(file, at).map_err(read_error)? {
        Ok(header) => header,
        Err(NoHeader::Blank) => return Ok(Here::Blank),
        Err(NoHeader::Wrong(detail)) => {
            return Ok(Here::Wrong { detail: detail.to_owned(), behind: at + ALIGNMENT as u64 });
        }
        Err(NoHeader::Version(version)) => {
            return Err(LogError::Version { segment: path.to_owned(), version });
        }
    };
    let behind = at.saturating_add(header.group_bytes());
    let wrong = |detail: String| Ok(Here::Wrong { detail, behind });
    if behind > file.metadata().map_err(read_error)?.len() {
        return wrong("it is cut off".to_owned());
    }
    let mut body = MutableBuffer::from_len_zeroed(header.body_bytes as usize);
    match file.read_exact_at(body.as_slice_mut(), at + HEADER_BYTES as u64) {
        // A log that rolls cuts its segment off behind the last group, never inside of one.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return wrong("it is cut off".to_owned());
        }
        result => result.map_err(read_error)?,
    }
    match header.directory(&body).and_then(|entries| header.check_streams(&body).map(|()| entries)) {
        Ok(entries) => Ok(Here::Group(Found { header, entries, body: body.into() })),
        Err(detail) => wrong(detail),
    }
}
