//! One fact of a log, as a person reads it.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use tidegate_facts::{Tick, Topic, columns};
use tidegate_sinks::log::{LogError, Start, Until, read_groups};

/// The fact of a tick as a line of JSON; `None` when the log has none.
///
/// # Errors
/// When the log cannot be read.
pub fn fact_at(log: &Path, tick: Tick) -> Result<Option<String>, LogError> {
    let Some((event_type, row)) = row_at(log, tick)? else { return Ok(None) };
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(&row).and_then(|()| writer.finish());
    let line = String::from_utf8(writer.into_inner()).unwrap_or_default();
    let line = line.trim_end();
    Ok(Some(match written {
        Ok(()) => format!("{event_type} {line}"),
        Err(error) => format!("{event_type} (cannot be shown: {error})"),
    }))
}

/// The type and the row of the fact of a tick; `None` when the log has none.
///
/// # Errors
/// When the log cannot be read.
pub fn row_at(log: &Path, tick: Tick) -> Result<Option<(String, RecordBatch)>, LogError> {
    for group in read_groups(log, Start::Tick(tick), Until::Complete)? {
        let group = group?;
        if group.lower > tick {
            break;
        }
        for frame in group.frames.iter().filter(|frame| frame.topic != Topic::Audit) {
            let ticks = frame.rows.column_by_name(columns::TICK).expect("facts have ticks");
            let ticks = ticks.as_primitive::<UInt64Type>().values();
            let Ok(row) = ticks.binary_search(&tick.0) else { continue };
            return Ok(Some((frame.name.clone(), frame.rows.slice(row, 1))));
        }
    }
    Ok(None)
}
