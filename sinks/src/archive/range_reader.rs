//! Reads log and archive as one: exactly the requested groups, or an error that says which are
//! missing.

use std::fmt;

use tidegate_facts::{Tick, time};

use super::range::RangeGroups;
use super::{Archive, ArchiveError};
use crate::log::{Groups, LogPosition, LogReader, LoggedGroup, RawGroup, Start, Until};
use crate::store::Store;

/// One bound of a range that is read from log and archive as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// In front of the group of this number.
    Group(u64),
    /// At this tick. A range that begins there begins with the first group that ends above the
    /// tick; a range that ends there ends with the last group that begins below it.
    Tick(Tick),
}

/// Which of log and archive a range reader reads where both have a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// The log, whose groups need not be rebuilt.
    Log,
    /// The archive, because the log may be damaged.
    Archive,
}

/// A reader of a range of the log: its groups in order, from log and archive as one. Nothing
/// follows an error.
pub struct RangeReader<'l> {
    log: &'l dyn LogReader,
    archive: Archive,
    store: Option<Store>,
    preference: Preference,
    from: Bound,
    to: Option<Bound>,
    /// The position at which the log begins; `None` when there is no log.
    start: Option<LogPosition>,
    source: Source,
    /// The number and the first tick of the next group; `None` until a group of a log was read that
    /// was entered in its middle.
    next: Option<(u64, Tick)>,
    /// The position in front of the next group; always `None` for a log that was entered in its
    /// middle.
    position: Option<LogPosition>,
    /// The position in front of the last returned group.
    before: Option<LogPosition>,
    is_done: bool,
}

/// Where the next group comes from.
enum Source {
    /// The archived range of this index, which is not open.
    Unopened(usize),
    /// The rest of the archived range of this index, which was rebuilt as a whole.
    Range(usize, std::vec::IntoIter<RawGroup>),
    /// The log.
    Log(Groups),
}

/// Reads the groups of `log`, and of the archive in `store` if there is one, from one bound to the
/// other, or to the end of both if there is no second bound.
///
/// # Errors
/// [`ArchiveError::Missing`] when neither has the first group; any other error when log or archive
/// cannot be read, or were changed.
pub fn read_range<'l>(
    log: &'l dyn LogReader,
    store: Option<&Store>,
    from: Bound,
    to: Option<Bound>,
    preference: Preference,
) -> Result<RangeReader<'l>, ArchiveError> {
    let start = log.start()?;
    // A log that was never pruned needs no archive, even if there is a damaged one.
    let is_whole = start.as_ref().is_some_and(|start| start.group == 0) && preference == Preference::Log;
    let archive = match store.filter(|_| !is_whole) {
        Some(store) => Archive::open(store)?,
        None => Archive::default(),
    };
    let mut reader = RangeReader {
        log,
        archive,
        store: store.cloned(),
        preference,
        from,
        to,
        start,
        source: Source::Unopened(0),
        next: None,
        position: None,
        before: None,
        is_done: false,
    };
    reader.begin()?;
    Ok(reader)
}

impl RangeReader<'_> {
    /// The number of the next group; `None` before the first group of a log that is entered in its
    /// middle.
    pub fn next_group(&self) -> Option<u64> {
        self.next.map(|(group, _)| group)
    }

    /// The position in front of the last returned group, if it is known. It is when the archive is
    /// preferred.
    pub(super) fn before(&self) -> Option<&LogPosition> {
        self.before.as_ref()
    }

    /// The archive that is read, empty if there is none or none is needed.
    pub(super) fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Finds the source of the first group.
    fn begin(&mut self) -> Result<(), ArchiveError> {
        let from = self.from;
        let is_after_from = |position: &LogPosition| match from {
            Bound::Group(group) => position.group > group,
            Bound::Tick(tick) => position.upper > tick,
        };
        let archived = self.archive.ranges.iter().position(|range| is_after_from(&range.end));
        let logged = self.start.as_ref().filter(|start| start.group == 0 || !is_after_from(start));
        match (archived, logged, self.preference) {
            (Some(index), None, _) | (Some(index), _, Preference::Archive) => {
                self.go_on_from(self.archive.ranges[index].start.clone());
                self.source = Source::Unopened(index);
            }
            (_, Some(_), Preference::Log) => {
                let start = match from {
                    Bound::Group(group) => Start::Group(group),
                    Bound::Tick(tick) => Start::Tick(tick),
                };
                self.source = Source::Log(self.log.read(start, Until::Complete)?);
            }
            (None, Some(start), Preference::Archive) => {
                let start = start.clone();
                self.source = Source::Log(self.log.read(Start::Group(start.group), Until::Complete)?);
                self.go_on_from(start);
            }
            (None, None, _) => return Err(self.missing(format!("{from} is"))),
        }
        Ok(())
    }

    fn go_on_from(&mut self, position: LogPosition) {
        self.next = Some((position.group, position.upper));
        self.position = Some(position);
    }

    /// The error that something is missing. `what` names it and ends with a verb.
    fn missing(&self, what: String) -> ArchiveError {
        let end = self.archive.end();
        let archived = match end.group {
            0 => "the archive holds nothing".to_owned(),
            end => format!("the archive holds groups 0 to {}", end - 1),
        };
        let logged = match &self.start {
            None => "there is no log".to_owned(),
            Some(start) => format!("the log begins with group {} at tick {}", start.group, start.upper.0),
        };
        ArchiveError::Missing { what, log: self.log.location(), present: format!("{archived}, {logged}") }
    }

    /// Whether this group is read from the log.
    fn is_in_log(&self, group: u64) -> bool {
        self.start.as_ref().is_some_and(|start| match self.preference {
            Preference::Log => group >= start.group,
            Preference::Archive => group >= start.group.max(self.archive.end().group),
        })
    }

    /// The next group of log or archive, whatever the bounds; `None` at the end of both.
    fn step(&mut self) -> Result<Option<RawGroup>, ArchiveError> {
        let group = self.next.map_or(0, |(group, _)| group);
        let is_in_log = self.is_in_log(group);
        loop {
            match &mut self.source {
                Source::Log(groups) => return Ok(groups.next_raw().transpose()?),
                Source::Range(..) | Source::Unopened(_) if is_in_log => {
                    self.source = Source::Log(self.log.read(Start::Group(group), Until::Complete)?);
                }
                Source::Range(index, groups) => match groups.next() {
                    Some(raw) => return Ok(Some(raw)),
                    None => self.source = Source::Unopened(*index + 1),
                },
                Source::Unopened(index) => {
                    let index = *index;
                    let Some(range) = self.archive.ranges.get(index) else {
                        return match self.start.as_ref().map(|start| start.group) {
                            None => Ok(None),
                            Some(start) => Err(self.missing(format!("groups {group} to {} are", start - 1))),
                        };
                    };
                    let store = self.store.as_ref().expect("the archive was read from it");
                    let mut rebuilt = RangeGroups::open(range, store)?;
                    let mut groups = Vec::with_capacity(range.groups.len());
                    while let Some(raw) = rebuilt.next()? {
                        groups.push(raw);
                    }
                    self.source = Source::Range(index, groups.into_iter());
                }
            }
        }
    }

    /// The next group of the range, with its rows not yet decoded.
    pub(super) fn next_raw(&mut self) -> Result<Option<RawGroup>, ArchiveError> {
        loop {
            let is_at_end = match (self.to, self.next) {
                (Some(Bound::Group(end)), Some((group, _))) => group >= end,
                (Some(Bound::Tick(end)), Some((_, lower))) => lower >= end,
                _ => false,
            };
            if is_at_end {
                return Ok(None);
            }
            let Some(raw) = self.step()? else {
                return match self.to {
                    None => Ok(None),
                    Some(to) => {
                        let end = self.next.map_or_else(
                            || "their end".to_owned(),
                            |(group, lower)| format!("group {group} at tick {}, where both end,", lower.0),
                        );
                        Err(self.missing(format!("what lies between {end} and {to} is")))
                    }
                };
            };
            let is_early = match self.from {
                Bound::Group(first) => raw.number() < first,
                Bound::Tick(tick) => raw.upper() <= tick,
            };
            if let Some((group, lower)) = self.next
                && (group, lower) != (raw.number(), raw.lower())
            {
                return Err(self.missing(format!("group {group} from tick {} on is", lower.0)));
            }
            self.next = Some((raw.number() + 1, raw.upper()));
            let next = self.position.as_ref().map(|position| position.after(&raw)).transpose();
            let next = next
                .map_err(|what| self.missing(format!("group {} that follows ({what}) is", raw.number())))?;
            self.before = std::mem::replace(&mut self.position, next);
            if !is_early {
                // From here on every group counts: one without facts may end at the tick where it
                // begins.
                self.from = Bound::Group(0);
                return Ok(Some(raw));
            }
        }
    }
}

impl Iterator for RangeReader<'_> {
    type Item = Result<LoggedGroup, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let group = self.next_raw().and_then(|raw| {
            let Some(raw) = raw else { return Ok(None) };
            let (number, link) = (raw.number(), raw.link());
            let name = self.log.location().display().to_string();
            match raw.group() {
                Ok(group) => Ok(Some(LoggedGroup { link, group })),
                Err(what) => Err(ArchiveError::Group { name, group: number, what }),
            }
        });
        self.is_done = !matches!(group, Ok(Some(_)));
        group.transpose()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Group(group) => write!(f, "group {group}"),
            Bound::Tick(tick) => write!(f, "tick {} ({tick})", tick.0),
        }
    }
}

impl std::str::FromStr for Bound {
    type Err = String;

    /// Reads a group's number (`12`), a tick (`tick:452409753600000000`), a time with up to six
    /// digits of a second (`2026-01-01T12:00:00Z`) or a day (`2026-01-01`), in UTC.
    fn from_str(text: &str) -> Result<Bound, String> {
        if let Ok(group) = text.parse() {
            return Ok(Bound::Group(group));
        }
        let tick = text.strip_prefix("tick:").and_then(|digits| digits.parse().ok());
        if let Some(tick) = tick.filter(|tick| *tick >= 0) {
            return Ok(Bound::Tick(Tick(tick)));
        }
        let full = match text.split_once('T') {
            None => format!("{text}T00:00:00.000000Z"),
            Some((day, clock)) => {
                let clock = clock.strip_suffix('Z').unwrap_or(clock);
                let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
                format!("{day}T{seconds}.{fraction:0<6}Z")
            }
        };
        let micros = time::parse_rfc3339_micros(&full);
        micros.and_then(|micros| Tick::new(micros, 0)).map(Bound::Tick).ok_or_else(|| {
            format!(
                "`{text}` is not a bound of a log; write the number of a group such as 12, a tick such as \
                 tick:452409753600000000, or a time such as 2026-01-01T12:00:00Z"
            )
        })
    }
}
