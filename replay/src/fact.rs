//! One fact of a log, as a person reads it.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, UInt64Type};
use tidegate_dataflows::admission::RECEIPTS;
use tidegate_facts::{Tick, Topic, columns};
use tidegate_sinks::log::{Group, LogError, Start, Until, read_groups};

/// The fact of a tick as a line of JSON; `None` when the log has none.
///
/// # Errors
/// When the log cannot be read.
pub fn fact_at(log: &Path, tick: Tick) -> Result<Option<String>, LogError> {
    let Some(Found { event_type, row, .. }) = row_at(log, tick)? else { return Ok(None) };
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(&row).and_then(|()| writer.finish());
    let line = String::from_utf8(writer.into_inner()).unwrap_or_default();
    let line = line.trim_end();
    Ok(Some(match written {
        Ok(()) => format!("{event_type} {line}"),
        Err(error) => format!("{event_type} (cannot be shown: {error})"),
    }))
}

/// A fact as it stands in the log.
pub struct Found {
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
pub fn row_at(log: &Path, tick: Tick) -> Result<Option<Found>, LogError> {
    for group in read_groups(log, Start::Tick(tick), Until::Complete)? {
        let group = group?;
        if group.lower > tick {
            break;
        }
        for frame in group.frames.iter().filter(|frame| frame.topic != Topic::Audit) {
            let ticks = frame.rows.column_by_name(columns::TICK).expect("facts have ticks");
            let ticks = ticks.as_primitive::<UInt64Type>().values();
            let Ok(row) = ticks.binary_search(&tick.0) else { continue };
            let (event_type, row) = (frame.name.clone(), frame.rows.slice(row, 1));
            return Ok(Some(Found { event_type, row, received: received(&group, tick) }));
        }
    }
    Ok(None)
}

/// Whose receipt in a group names the fact of a tick first; those of duplicates come later.
fn received(group: &Group, tick: Tick) -> Option<(String, u64)> {
    let receipts = group.frames.iter().filter(|f| f.topic == Topic::Audit && f.name == RECEIPTS);
    receipts.into_iter().find_map(|frame| {
        let ticks = frame.rows.column_by_name("tick")?.as_primitive_opt::<UInt64Type>()?;
        let row = ticks.iter().position(|of| of == Some(tick.0))?;
        let sources = frame.rows.column(0).as_dictionary_opt::<Int32Type>()?;
        let names = sources.values().as_string_opt::<i32>()?;
        let positions = frame.rows.column(1).as_primitive_opt::<UInt64Type>()?;
        Some((names.value(sources.key(row)?).to_owned(), positions.value(row)))
    })
}
