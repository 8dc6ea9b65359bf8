//! The frames of one topic, wherever they lie, without the rest of the archive or of the log.

use std::path::Path;

use tidegate_facts::Topic;

use super::range::RangeGroups;
use super::{Archive, ArchiveError};
use crate::log::{self, Frame, read_base};
use crate::store::Store;

/// The frames of a topic in the log in the folder `log`, behind those in the archive in `store` of what was
/// pruned from it.
///
/// Reading ends where something is missing or is not as it was written: whoever reads the groups afterwards
/// ([`super::read_range`]) is told what that is.
///
/// # Errors
/// When log or archive cannot be read, and when what is there of the topic cannot be trusted.
pub fn read_topic(log: &Path, store: &Store, topic: Topic) -> Result<Vec<Frame>, ArchiveError> {
    let base = read_base(log)?.group;
    let mut frames = Vec::new();
    // A log that was never pruned needs no archive, even where there is a broken one.
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
    frames.extend(log::read_topic(log, topic)?);
    Ok(frames)
}
