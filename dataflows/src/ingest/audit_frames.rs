//! Audit frames of the log as a run reads and writes them: receipts by source, and the progress of
//! sources.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use tidegate_facts::Topic;
use tidegate_facts::audit::{AuditError, RECEIPTS, Receipts};
use tidegate_sinks::log::{Frame, Group};
use tidegate_sources::ReadFingerprint;

use crate::ingest::reorder::ResumePoint;

/// The record of an audit frame [`tidegate_facts::audit::PROGRESS`]: how far one source was read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProgressRecord {
    /// The source.
    pub source: String,
    /// How many of its records have a receipt.
    pub records: u64,
    /// A fingerprint of what they were read from.
    pub fingerprint: ReadFingerprint,
}

/// A frame of the audit topic.
pub(crate) fn audit_frame(name: &str, rows: RecordBatch) -> Frame {
    Frame { topic: Topic::Audit, name: name.to_owned(), rows }
}

/// The receipts of a group, frame by frame.
pub(crate) fn receipts_of(group: &Group) -> impl Iterator<Item = Result<Receipts, AuditError>> {
    let frames = group.frames.iter().filter(|frame| frame.topic == Topic::Audit && frame.name == RECEIPTS);
    frames.map(|frame| Receipts::read(&frame.rows))
}

/// Adds every receipt to the resume point of its source.
pub(crate) fn add_receipts(receipts: &Receipts, sources: &mut BTreeMap<String, ResumePoint>) {
    // Taken out of the map for the length of the frame, so that a receipt costs no look-up.
    let names = receipts.source_names();
    let mut points: Vec<ResumePoint> =
        names.iter().flatten().map(|name| sources.remove(name).unwrap_or_default()).collect();
    for row in 0..receipts.len() {
        let order_time = receipts.order_time(row).unwrap_or(i64::MIN);
        points[receipts.source_key(row)].add_receipt(receipts.position(row), order_time);
    }
    sources.extend(names.iter().flatten().map(str::to_owned).zip(points));
}
