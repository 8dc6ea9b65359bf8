//! Walks the groups of an embedded log, checks every byte of them, and tells a torn end from
//! damage.
//!
//! A cursor may read while a writer in the same process appends. A group that it finds incomplete
//! may then be complete a moment later. So before a cursor reports a group as damaged only because
//! other groups follow it, it reads the group once more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::buffer::MutableBuffer;
use tidegate_facts::{Digest, Tick};
use tidegate_host::{OpenFile, OpenMode};

use super::base::Base;
use super::entry::Entry;
use super::error::LogError;
use super::format::{ALIGNMENT, HEADER_BYTES, Header, MAGIC, NoHeader};
use super::location::LogFolder;
use super::position::LogPosition;
use super::raw_groups::{Location, RawGroup};
use super::reader::{GroupSource, Start, TornEnd, Until};

/// How much of the end of a segment is searched at once.
const SEARCH_BYTES: usize = 1 << 20;

/// A position between two groups of a log folder.
pub(super) struct Cursor {
    log: LogFolder,
    base: Base,
    /// The number of the first group of the open segment, and the path of its file.
    first: u64,
    segment: Arc<Path>,
    file: Option<Arc<dyn OpenFile>>,
    /// Where in the segment the next group begins.
    at: u64,
    /// The number of the next group.
    group: u64,
    /// The group before the next one, unless the cursor began behind it.
    before: Option<Before>,
}

/// What the next group must continue.
struct Before {
    upper: Tick,
    digest: Digest,
}

/// The bytes at one place.
pub(super) enum Found {
    Group(RawGroup),
    /// The end of the file, or zeros.
    Blank,
    /// No whole group; a group behind it begins at `behind` or later.
    Wrong {
        detail: String,
        behind: u64,
    },
}

impl Cursor {
    /// A cursor in front of the first group of the last segment whose first group `is_early`; else
    /// in front of the first group of the log.
    pub(super) fn open(
        log: &LogFolder,
        is_early: impl Fn(&Header, &[Entry]) -> bool,
    ) -> Result<Cursor, LogError> {
        let base = log.base()?.unwrap_or_default();
        let start = base.start.group;
        let at_first = |first| Cursor {
            log: log.clone(),
            base: base.clone(),
            first,
            segment: Arc::from(log.segment(first)),
            file: None,
            at: 0,
            group: first,
            before: None,
        };
        for first in log.segments()?.into_iter().rev().filter(|first| *first > start) {
            let cursor = at_first(first);
            if cursor.first_group()?.is_some_and(|(header, entries)| is_early(&header, &entries)) {
                return Ok(cursor);
            }
        }
        let before = Before { upper: base.start.upper, digest: base.start.digest };
        let cursor = Cursor { before: Some(before), ..at_first(start) };
        if start > 0 && !log.files().exists(&cursor.segment) {
            return Err(cursor.damaged("the first segment of the pruned log is missing".to_owned()));
        }
        Ok(cursor)
    }

    /// The identity of the log, and where it begins.
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// The error that groups before the start of the log were requested.
    pub(super) fn pruned(&self) -> LogError {
        LogError::Pruned { location: self.log.path().to_owned(), start: self.base.start.clone() }
    }

    /// The number of the next group.
    pub(super) fn group(&self) -> u64 {
        self.group
    }

    /// The tick at which the next group begins; unknown before the first group was read, unless
    /// that is the first of the log.
    pub(super) fn lower(&self) -> Option<Tick> {
        self.before.as_ref().map(|before| before.upper)
    }

    /// The digest of the group before the next one; unknown as [`Cursor::lower`] is.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.before.as_ref().map(|before| before.digest)
    }

    /// The number of the first group of the segment, and where in it the next group begins.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.first, self.at)
    }

    /// The next group; at the end of the log, the torn group there, if there is one.
    pub(super) fn next(&mut self) -> Result<Result<RawGroup, Option<TornEnd>>, LogError> {
        let mut again = false;
        loop {
            let found = match self.found()? {
                Found::Group(raw) => raw,
                Found::Blank if self.enter_next_segment()? => {
                    again = false;
                    continue;
                }
                other => {
                    let (detail, behind) = match other {
                        Found::Wrong { detail, behind } => (detail, behind),
                        _ => ("there is no group".to_owned(), self.at),
                    };
                    let is_last = self.log.segments()?.last().is_none_or(|last| *last <= self.first);
                    let tail = self.search(behind)?;
                    if is_last && !tail.has_group {
                        let bytes = tail.written_to.saturating_sub(self.at);
                        let torn = TornEnd { segment: self.path(), at: self.at, bytes, detail };
                        return Ok(Err((bytes > 0).then_some(torn)));
                    }
                    if again {
                        // The segment may have been pruned since the cursor was opened.
                        self.base = self.log.base()?.unwrap_or_default();
                        if self.group < self.base.start.group {
                            return Err(self.pruned());
                        }
                        return Err(self.damaged(format!("{detail}, but other groups follow it")));
                    }
                    again = true;
                    continue;
                }
            };
            self.check_continues(&found)?;
            self.at += found.length();
            self.group += 1;
            self.before = Some(Before { upper: found.upper(), digest: found.digest() });
            return Ok(Ok(found));
        }
    }

    fn check_continues(&self, raw: &RawGroup) -> Result<(), LogError> {
        if raw.number() != self.group {
            return Err(self.damaged(format!("group {} is in its place", raw.number())));
        }
        let (lower, upper) = (raw.lower(), raw.upper());
        if self.lower().is_some_and(|before| before != lower) || lower > upper {
            return Err(self.damaged(format!(
                "it runs from tick {} to {}, which does not continue the group before",
                lower.0, upper.0
            )));
        }
        let previous = raw.link().previous;
        if let Some(digest) = self.digest().filter(|digest| *digest != previous) {
            return Err(self.damaged(format!(
                "it follows a group of digest {previous}, and the group before has {digest}"
            )));
        }
        Ok(())
    }

    /// The error that the next group is damaged.
    pub(super) fn damaged(&self, detail: String) -> LogError {
        LogError::Damaged { segment: self.path(), at: self.at, group: self.group, detail }
    }

    fn path(&self) -> PathBuf {
        self.segment.to_path_buf()
    }

    fn read_error(&self, source: io::Error) -> LogError {
        LogError::Read { path: self.path(), source }
    }

    fn open_segment(&self, path: &Path) -> Result<Option<Arc<dyn OpenFile>>, LogError> {
        match self.log.files().open(path, OpenMode::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LogError::Read { path: path.to_owned(), source }),
        }
    }

    /// Opens the segment that the next group begins, if there is one and it is not open yet.
    fn enter_next_segment(&mut self) -> Result<bool, LogError> {
        if self.group == self.first {
            return Ok(false);
        }
        let path = self.log.segment(self.group);
        let Some(file) = self.open_segment(&path)? else { return Ok(false) };
        (self.first, self.segment) = (self.group, Arc::from(path));
        (self.file, self.at) = (Some(file), 0);
        Ok(true)
    }

    fn file(&mut self) -> Result<Option<Arc<dyn OpenFile>>, LogError> {
        if self.file.is_none() {
            self.file = self.open_segment(&self.segment)?;
        }
        Ok(self.file.clone())
    }

    fn found(&mut self) -> Result<Found, LogError> {
        match self.file()? {
            Some(file) => self.read_group(&*file, self.at),
            None => Ok(Found::Blank),
        }
    }

    fn read_group(&self, file: &dyn OpenFile, at: u64) -> Result<Found, LogError> {
        read_group(file, &Location { segment: Arc::clone(&self.segment), at })
    }

    /// The header and directory of the segment's first group, if they are whole.
    fn first_group(&self) -> Result<Option<(Header, Vec<Entry>)>, LogError> {
        let Some(file) = self.open_segment(&self.segment)? else { return Ok(None) };
        let read = || -> io::Result<Option<(Header, Vec<Entry>)>> {
            let Ok(header) = read_header(&*file, 0)? else { return Ok(None) };
            if file.len()? < header.group_bytes() {
                return Ok(None);
            }
            let directory = read_directory(&*file, 0, &header)?;
            Ok(header.directory(&directory).ok().map(|entries| (header, entries)))
        };
        read().map_err(|source| self.read_error(source))
    }

    /// Searches the rest of the segment for a whole group from `behind` on, and for the last byte
    /// written.
    fn search(&mut self, behind: u64) -> Result<Tail, LogError> {
        let Some(file) = self.file()? else { return Ok(Tail { has_group: false, written_to: 0 }) };
        let mut tail = Tail { has_group: false, written_to: self.at };
        let mut chunk = vec![0; SEARCH_BYTES];
        let mut from = self.at;
        loop {
            let length = file.read_up_to(&mut chunk, from).map_err(|source| self.read_error(source))?;
            if length == 0 {
                return Ok(tail);
            }
            let bytes = &chunk[..length];
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                tail.written_to = from + last as u64 + 1;
            }
            for (i, piece) in bytes.chunks_exact(ALIGNMENT).enumerate() {
                let at = from + (i * ALIGNMENT) as u64;
                if at < behind || at == self.at || !piece.starts_with(&MAGIC) {
                    continue;
                }
                if let Found::Group(found) = self.read_group(&*file, at)?
                    && found.number() > self.group
                {
                    tail.has_group = true;
                    return Ok(tail);
                }
            }
            from += length as u64;
        }
    }
}

/// The rest of a segment behind its last whole group.
struct Tail {
    has_group: bool,
    written_to: u64,
}

pub(super) fn read_header(file: &dyn OpenFile, at: u64) -> io::Result<Result<Header, NoHeader>> {
    let mut bytes = [0; HEADER_BYTES];
    match file.read_up_to(&mut bytes, at)? {
        0 => Ok(Err(NoHeader::Blank)),
        HEADER_BYTES => Ok(Header::decode(&bytes)),
        length if bytes[..length].iter().all(|byte| *byte == 0) => Ok(Err(NoHeader::Blank)),
        _ => Ok(Err(NoHeader::Wrong("its header is cut off"))),
    }
}

/// The bytes of the directory of the group at `at`.
pub(super) fn read_directory(file: &dyn OpenFile, at: u64, header: &Header) -> io::Result<Vec<u8>> {
    let mut directory = vec![0; header.directory_bytes()];
    file.read_exact_at(&mut directory, at + HEADER_BYTES as u64)?;
    Ok(directory)
}

pub(super) fn read_group(file: &dyn OpenFile, location: &Location) -> Result<Found, LogError> {
    let (at, path) = (location.at, &location.segment);
    let read_error = |source| LogError::Read { path: path.to_path_buf(), source };
    let header = match read_header(file, at).map_err(read_error)? {
        Ok(header) => header,
        Err(NoHeader::Blank) => return Ok(Found::Blank),
        Err(NoHeader::Wrong(detail)) => {
            return Ok(Found::Wrong { detail: detail.to_owned(), behind: at + ALIGNMENT as u64 });
        }
        Err(NoHeader::Version(version)) => {
            return Err(LogError::Version { segment: path.to_path_buf(), version });
        }
    };
    let behind = at.saturating_add(header.group_bytes());
    let wrong = |detail: String| Ok(Found::Wrong { detail, behind });
    if behind > file.len().map_err(read_error)? {
        return wrong("it is cut off".to_owned());
    }
    let mut body = MutableBuffer::from_len_zeroed(header.body_bytes as usize);
    match file.read_exact_at(body.as_slice_mut(), at + HEADER_BYTES as u64) {
        // A writer that begins a new segment cuts the old one behind its last group, never inside
        // of one.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return wrong("it is cut off".to_owned());
        }
        result => result.map_err(read_error)?,
    }
    match header.directory(&body).and_then(|entries| header.check_streams(&body).map(|()| entries)) {
        Ok(entries) => {
            // In a log folder the offset of a group is its number.
            let offset = header.group;
            Ok(Found::Group(RawGroup::new(header, entries, body.into(), offset, location.clone())))
        }
        Err(detail) => wrong(detail),
    }
}

/// The groups of a log folder from a start on.
pub(super) struct FolderGroups {
    cursor: Cursor,
    /// Where reading begins, until it has.
    start: Option<Start>,
    until: Until,
}

impl FolderGroups {
    pub(super) fn open(log: &LogFolder, start: Start, until: Until) -> Result<FolderGroups, LogError> {
        let cursor =
            Cursor::open(log, |header, entries| start.is_at_or_behind(header.group, header.lower, entries))?;
        if start.is_before(&cursor.base().start) {
            return Err(cursor.pruned());
        }
        Ok(FolderGroups { cursor, start: Some(start), until })
    }
}

impl GroupSource for FolderGroups {
    fn next_raw(&mut self) -> Result<Option<RawGroup>, LogError> {
        loop {
            if matches!(self.until, Until::Group(end) if self.cursor.group() >= end) {
                return Ok(None);
            }
            let raw = match (self.cursor.next()?, self.until) {
                (Ok(raw), _) => raw,
                (Err(_), Until::Complete) => return Ok(None),
                (Err(Some(torn)), Until::Group(_)) => return Err(self.cursor.damaged(torn.detail)),
                (Err(None), Until::Group(end)) => {
                    let detail = format!("it is missing, and the log goes on to group {end}");
                    return Err(self.cursor.damaged(detail));
                }
            };
            // Once reached, the start matters no more: groups without facts may end where they
            // begin.
            if self.start.is_none_or(|start| !start.is_behind(&raw)) {
                self.start = None;
                return Ok(Some(raw));
            }
        }
    }

    fn read_until(&mut self, until: Until) {
        self.until = until;
    }

    fn next_group(&self) -> u64 {
        self.cursor.group()
    }
}

/// Checks a position against a log whose cursor has arrived at its group.
///
/// Returns how the log differs from the position, as far as the cursor knows the group before.
pub(super) fn differs(cursor: &Cursor, position: &LogPosition) -> Option<String> {
    if let Some(lower) = cursor.lower().filter(|lower| *lower != position.upper) {
        return Some(format!("the group begins at tick {} and not {}", lower.0, position.upper.0));
    }
    let digest = cursor.digest().filter(|digest| *digest != position.digest)?;
    Some(format!("the group before has digest {digest} and not {}", position.digest))
}
