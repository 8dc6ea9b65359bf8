//! Finds one fact of a log, and the record that it was.

use arrow::array::RecordBatch;
use tidegate_facts::audit::{RECEIPTS, Receipts};
use tidegate_facts::{Tick, Topic, columns};
use tidegate_sinks::log::{Group, LogError, LogReader, Start, Until};

/// The fact of a tick as a line of JSON; `None` when the log has none.
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
        Err(error) => format!("{event_type} (cannot be shown: {error})"),
    }))
}

/// A fact of a log.
pub struct LocatedFact {
    /// Its type.
    pub event_type: String,
    /// Its row.
    pub row: RecordBatch,
    /// Which record it was: the source, and the position there.
    pub received: Option<(String, u64)>,
}

/// The fact of a tick; `None` when the log has none.
///
/// # Errors
/// When the log cannot be read.
pub fn row_at(log: &dyn LogReader, tick: Tick) -> Result<Option<LocatedFact>, LogError> {
    for group in log.read(Start::Tick(tick), Until::Complete)? {
        let group = group?;
        if group.lower > tick {
            break;
        }
        for frame in group.frames.iter().filter(|frame| frame.topic != Topic::Audit) {
            let Ok(row) = columns::ticks(&frame.rows).values().binary_search(&tick.0) else { continue };
            let (event_type, row) = (frame.name.clone(), frame.rows.slice(row, 1));
            return Ok(Some(LocatedFact { event_type, row, received: received(&group, tick) }));
        }
    }
    Ok(None)
}

/// The source and the position of the record that became the fact of a tick: those of its first
/// receipt. Receipts of duplicates come later.
fn received(group: &Group, tick: Tick) -> Option<(String, u64)> {
    let frames = group.frames.iter().filter(|f| f.topic == Topic::Audit && f.name == RECEIPTS);
    frames.into_iter().find_map(|frame| {
        let receipts = Receipts::read(&frame.rows).ok()?;
        let row = (0..receipts.len()).find(|row| receipts.tick(*row) == Some(tick))?;
        Some((receipts.source(row).to_owned(), receipts.position(row)))
    })
}
