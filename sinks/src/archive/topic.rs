//! Reads the frames of one topic from archive and log, without the rest of either.

use tidegate_facts::Topic;

use super::range::RangeGroups;
use super::{Archive, ArchiveError};
use crate::log::{Frame, LogReader};
use crate::store::Store;

/// Reads the frames of one topic from archive and log: those of pruned groups from the archive in
/// `store`, then those of `log`.
///
/// Reading ends where a group is missing. Reading the groups themselves ([`super::read_range`])
/// then says which one it is.
///
/// # Errors
/// When the log or the archive cannot be read, or a frame of the topic was changed.
pub fn read_topic(log: &dyn LogReader, store: &Store, topic: Topic) -> Result<Vec<Frame>, ArchiveError> {
    let base = log.start()?.map_or(0, |start| start.group);
    let mut frames = Vec::new();
    // A log that was never pruned needs no archive, even if there is a damaged one.
    if base > 0 {
        let archive = Archive::open(store)?;
        let pruned = archive.ranges.iter().take_while(|range| range.start.group < base);
        for range in pruned.filter(|range| range.files.iter().any(|file| file.topic == topic)) {
            let mut groups = RangeGroups::open(range, store)?;
            while let Some(raw) = groups.next()? {
                if raw.number() < base {
                    let group = raw.group().map_err(|what| ArchiveError::Group {
                        name: range.name(),
                        group: raw.number(),
                        what,
                    })?;
                    frames.extend(group.frames.into_iter().filter(|frame| frame.topic == topic));
                }
            }
        }
        if archive.end().group < base {
            return Ok(frames);
        }
    }
    frames.extend(log.read_topic(topic)?);
    Ok(frames)
}
