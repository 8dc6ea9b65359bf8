//! Log and archive read as one: exactly the groups that are asked for, or a refusal that says what is missing.

use std::fmt;
use std::path::{Path, PathBuf};

use tidegate_facts::{Tick, time};

use super::range::RangeGroups;
use super::{Archive, ArchiveError};
use crate::log::{Group, LogMark, RawGroup, RawGroups, Start, Until, read_base, read_raw};
use crate::store::Store;

/// An end of a range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// In front of the group of this number.
    Group(u64),
    /// At this tick: a range from it on begins with the first group that ends above it, and one up to
    /// it ends behind the last group that begins below it.
    Tick(Tick),
}

/// Which of the two is read where both hold a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// The log: nothing need be rebuilt.
    Log,
    /// The archive: the log may be what is to be mended.
    Archive,
}

/// The groups of a range, in order. Nothing follows an error.
pub struct History {
    log: PathBuf,
    archive: Archive,
    store: Option<Store>,
    preference: Preference,
    from: Bound,
    to: Option<Bound>,
    /// Where the log begins; `None` when there is no log.
    base: Option<LogMark>,
    part: Part,
    /// Group and tick that come next; not known before a log that is entered in its midst was read.
    at: Option<(u64, Tick)>,
    /// The same place with its offsets; never known of a log that was entered in its midst.
    mark: Option<LogMark>,
    /// The place in front of the group that was given last.
    before: Option<LogMark>,
    done: bool,
}

/// What is read at the moment.
enum Part {
    /// The archived range of this place.
    Next(usize),
    /// What is left of the archived range of this place, rebuilt as a whole.
    Range(usize, std::vec::IntoIter<RawGroup>),
    Log(RawGroups),
}

/// The groups of the log in the folder `log` and of the archive in `store`, if there is one, from one bound to the other; to
/// their end, when `to` is not given.
///
/// # Errors
/// [`ArchiveError::Missing`] says what is in neither; else when what is there cannot be trusted.
pub fn read_range(
    log: &Path,
    store: Option<&Store>,
    from: Bound,
    to: Option<Bound>,
    preference: Preference,
) -> Result<History, ArchiveError> {
    let base = if log.is_dir() { Some(read_base(log)?) } else { None };
    // A log that was never pruned needs no archive, even where there is a broken one.
    let is_whole = base.as_ref().is_some_and(|base| base.group == 0) && preference == Preference::Log;
    let archive = match store.filter(|_| !is_whole) {
        Some(store) => Archive::open(store)?,
        None => Archive::default(),
    };
    let mut history = History {
        log: log.to_owned(),
        archive,
        store: store.cloned(),
        preference,
        from,
        to,
        base,
        part: Part::Next(0),
        at: None,
        mark: None,
        before: None,
        done: false,
    };
    history.begin()?;
    Ok(history)
}

impl History {
    /// The number of the next group; `None` before a group of a log that is entered in its midst was read.
    pub fn next_group(&self) -> Option<u64> {
        self.at.map(|(group, _)| group)
    }

    /// The place in front of the group that was given last, if its offsets are known: they are when the
    /// archive is preferred.
    pub(super) fn before(&self) -> Option<&LogMark> {
        self.before.as_ref()
    }

    /// Finds the part that holds the first group.
    fn begin(&mut self) -> Result<(), ArchiveError> {
        let is_behind = |mark: &LogMark| match self.from {
            Bound::Group(group) => mark.group > group,
            Bound::Tick(tick) => mark.upper > tick,
        };
        let archived = self.archive.ranges.iter().position(|range| is_behind(&range.end));
        let logged = self.base.as_ref().filter(|base| base.group == 0 || !is_behind(base));
        match (archived, logged, self.preference) {
            (Some(place), None, _) | (Some(place), _, Preference::Archive) => {
                self.enter(self.archive.ranges[place].start.clone());
                self.part = Part::Next(place);
            }
            (_, Some(_), Preference::Log) => {
                let start = match self.from {
                    Bound::Group(group) => Start::Group(group),
                    Bound::Tick(tick) => Start::Tick(tick),
                };
                self.part = Part::Log(read_raw(&self.log, start, Until::Complete)?);
            }
            (None, Some(base), Preference::Archive) => {
                let base = base.clone();
                self.part = Part::Log(read_raw(&self.log, Start::Group(base.group), Until::Complete)?);
                self.enter(base);
            }
            (None, None, _) => return Err(self.missing(format!("{} is", self.from))),
        }
        Ok(())
    }

    fn enter(&mut self, mark: LogMark) {
        self.at = Some((mark.group, mark.upper));
        self.mark = Some(mark);
    }

    fn missing(&self, what: String) -> ArchiveError {
        let end = self.archive.end();
        let archived = match end.group {
            0 => "the archive holds nothing".to_owned(),
            end => format!("the archive holds groups 0 to {}", end - 1),
        };
        let logged = match &self.base {
            None => "there is no log".to_owned(),
            Some(base) => format!("the log begins with group {} at tick {}", base.group, base.upper.0),
        };
        ArchiveError::Missing { what, log: self.log.clone(), held: format!("{archived}, {logged}") }
    }

    /// Whether the log is where the next group is read from.
    fn is_in_log(&self, group: u64) -> bool {
        self.base.as_ref().is_some_and(|base| match self.preference {
            Preference::Log => group >= base.group,
            Preference::Archive => group >= base.group.max(self.archive.end().group),
        })
    }

    /// The next group wherever it lies; `None` where both end.
    fn step(&mut self) -> Result<Option<RawGroup>, ArchiveError> {
        let group = self.at.map_or(0, |(group, _)| group);
        let is_in_log = self.is_in_log(group);
        loop {
            match &mut self.part {
                Part::Log(groups) => return Ok(groups.next().transpose()?),
                Part::Range(..) | Part::Next(_) if is_in_log => {
                    self.part = Part::Log(read_raw(&self.log, Start::Group(group), Until::Complete)?);
                }
                Part::Range(place, groups) => match groups.next() {
                    Some(raw) => return Ok(Some(raw)),
                    None => self.part = Part::Next(*place + 1),
                },
                Part::Next(place) => {
                    let place = *place;
                    let Some(range) = self.archive.ranges.get(place) else {
                        return match self.base.as_ref().map(|base| base.group) {
                            None => Ok(None),
                            Some(base) => Err(self.missing(format!("groups {group} to {} are", base - 1))),
                        };
                    };
                    let store = self.store.as_ref().expect("its archive was read from it");
                    let mut rebuilt = RangeGroups::open(range, store)?;
                    let mut groups = Vec::with_capacity(range.groups.len());
                    while let Some(raw) = rebuilt.next()? {
                        groups.push(raw);
                    }
                    self.part = Part::Range(place, groups.into_iter());
                }
            }
        }
    }

    /// The next group of the range, undecoded.
    pub(super) fn next_raw(&mut self) -> Result<Option<RawGroup>, ArchiveError> {
        loop {
            let is_reached = match (self.to, self.at) {
                (Some(Bound::Group(end)), Some((group, _))) => group >= end,
                (Some(Bound::Tick(end)), Some((_, upper))) => upper >= end,
                _ => false,
            };
            if is_reached {
                return Ok(None);
            }
            let Some(raw) = self.step()? else {
                return match self.to {
                    None => Ok(None),
                    Some(to) => {
                        let end = self.at.map_or_else(
                            || "their end".to_owned(),
                            |(group, upper)| format!("group {group} at tick {}, where both end,", upper.0),
                        );
                        Err(self.missing(format!("what lies between {end} and {to} is")))
                    }
                };
            };
            let is_early = match self.from {
                Bound::Group(first) => raw.number() < first,
                Bound::Tick(tick) => raw.upper() <= tick,
            };
            if let Some((group, upper)) = self.at
                && (group, upper) != (raw.number(), raw.lower())
            {
                let what = format!("group {group} from tick {} on is", upper.0);
                return Err(self.missing(what));
            }
            self.at = Some((raw.number() + 1, raw.upper()));
            let next = self.mark.as_ref().map(|mark| mark.after(&raw)).transpose();
            let next = next
                .map_err(|what| self.missing(format!("group {} that follows ({what}) is", raw.number())))?;
            self.before = std::mem::replace(&mut self.mark, next);
            if !is_early {
                // Once reached, the start says no more: groups without facts may end where they begin.
                self.from = Bound::Group(0);
                return Ok(Some(raw));
            }
        }
    }
}

impl Iterator for History {
    type Item = Result<Group, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let group = self.next_raw().and_then(|raw| {
            let Some(raw) = raw else { return Ok(None) };
            let number = raw.number();
            let group = raw.group();
            let name = self.log.display().to_string();
            group.map(Some).map_err(|what| ArchiveError::Group { name, group: number, what })
        });
        self.done = !matches!(group, Ok(Some(_)));
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

    /// Reads a group's number (`12`), a tick (`tick:7247000000000000000`), a time or a day
    /// (`2026-01-01T12:00:00Z`, with up to six digits of a second; `2026-01-01`), in UTC.
    fn from_str(text: &str) -> Result<Bound, String> {
        if let Ok(group) = text.parse() {
            return Ok(Bound::Group(group));
        }
        if let Some(tick) = text.strip_prefix("tick:").and_then(|digits| digits.parse().ok()) {
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
                "`{text}` is no place in a log; write the number of a group such as 12, a tick such as \
                 tick:7247000000000000000, or a time such as 2026-01-01T12:00:00Z"
            )
        })
    }
}
