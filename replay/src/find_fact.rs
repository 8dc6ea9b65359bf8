//! Finds the fact of a tick, and the record that became it.

use arrow::array::RecordBatch;
use tidegate_facts::audit::{RECEIPTS, Receipts};
use tidegate_facts::{Tick, Topic, columns};
use tidegate_sinks::archive::{ArchiveError, Bound, Preference, read_range};
use tidegate_sinks::log::{Group, LogError, LogReader, LoggedGroup, Start, Until};
use tidegate_sinks::store::Store;

/// Finds the fact of a tick, as its event type and a line of JSON; `None` if the log holds no such
/// fact.
///
/// # Errors
/// When the log cannot be read.
pub fn fact_at(log: &dyn LogReader, tick: Tick) -> Result<Option<String>, LogError> {
    let Some(LocatedFact { event_type, row, .. }) = row_at(log, tick)? else { return Ok(None) };
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(&row).and_then(|()| writer.finish());
    let line = String::from_utf8(writer.into_inner()).unwrap_or_default();
    let line = line.trim_end();
    Ok(Some(match written {
        Ok(()) => format!("{event_type} {line}"),
        Err(error) => format!("{event_type} (cannot be written as JSON: {error})"),
    }))
}

/// A fact that was found in the log by its tick.
pub struct LocatedFact {
    /// Its event type.
    pub event_type: String,
    /// Its row.
    pub row: RecordBatch,
    /// The source and the position of the record that became the fact; `None` if its receipt is not
    /// in the same group.
    pub received: Option<(String, u64)>,
}

impl LocatedFact {
    /// Its `TYPE:ID`, given its event id.
    pub fn exact_id(&self, event_id: &str) -> String {
        format!("{}:{event_id}", self.event_type)
    }
}

/// The event ids that a caller's `id` may contain: itself, and what follows each colon, because
/// both event types and event ids may contain colons.
pub fn possible_event_ids(id: &str) -> Vec<&str> {
    [id].into_iter().chain(id.match_indices(':').map(|(at, _)| &id[at + 1..])).collect()
}

/// Finds the fact of a tick, as a row; `None` if the log holds no such fact.
///
/// # Errors
/// When the log cannot be read, or begins after the tick because it was pruned.
pub fn row_at(log: &dyn LogReader, tick: Tick) -> Result<Option<LocatedFact>, LogError> {
    find(log.read(Start::Tick(tick), Until::Complete)?, tick)
}

/// Finds the fact of a tick, as a row, in the log or, where the log was pruned, in `archive`.
/// Returns `None` if neither holds it.
///
/// # Errors
/// When the log or the archive cannot be read.
pub fn archived_row_at(
    log: &dyn LogReader,
    archive: &Store,
    tick: Tick,
) -> Result<Option<LocatedFact>, ArchiveError> {
    let groups = read_range(log, Some(archive), Bound::Tick(tick), None, Preference::Log);
    match groups.and_then(|groups| find(groups, tick)) {
        Err(ArchiveError::Missing { .. }) => Ok(None),
        found => found,
    }
}

/// Finds the fact of a tick in groups that begin with the one in which it may be.
fn find<E>(
    groups: impl Iterator<Item = Result<LoggedGroup, E>>,
    tick: Tick,
) -> Result<Option<LocatedFact>, E> {
    for group in groups {
        let group = group?;
        if group.lower > tick {
            break;
        }
        if let Some(fact) = fact_in(&group, tick) {
            return Ok(Some(fact));
        }
    }
    Ok(None)
}

/// The fact of a tick, if the group contains it.
fn fact_in(group: &Group, tick: Tick) -> Option<LocatedFact> {
    let mut frames = group.frames.iter().filter(|frame| frame.topic != Topic::Audit);
    frames.find_map(|frame| {
        let row = columns::ticks(&frame.rows).values().binary_search(&tick.0).ok()?;
        let (event_type, row) = (frame.name.clone(), frame.rows.slice(row, 1));
        Some(LocatedFact { event_type, row, received: received(group, tick) })
    })
}

/// The source and the position of the record that became the fact of a tick. The first receipt with
/// the tick names them; receipts of duplicates follow it.
fn received(group: &Group, tick: Tick) -> Option<(String, u64)> {
    let mut frames = group.frames.iter().filter(|f| f.topic == Topic::Audit && f.name == RECEIPTS);
    frames.find_map(|frame| {
        let receipts = Receipts::read(&frame.rows).ok()?;
        let row = (0..receipts.len()).find(|row| receipts.tick(*row) == Some(tick))?;
        Some((receipts.source(row).to_owned(), receipts.position(row)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_may_begin_after_any_colon() {
        assert_eq!(possible_event_ids("p-1"), ["p-1"]);
        assert_eq!(possible_event_ids("pay.v1:till:7"), ["pay.v1:till:7", "till:7", "7"]);
    }
}
