//! Reads a log folder by headers and directories alone: the frames of one topic, and where the log
//! ends.

use std::sync::Arc;

use tidegate_facts::Topic;
use tidegate_host::{OpenFile, OpenMode};

use super::base::Base;
use super::cursor::{Found, read_directory, read_group, read_header};
use super::entry::Entry;
use super::error::LogError;
use super::format::Header;
use super::group::Frame;
use super::location::LogFolder;
use super::offsets::{Advance, EndOffsets};
use super::position::LogPosition;
use super::raw_groups::Location;
use super::reader::frames_of;

/// The frames of a topic. Only the groups that hold such frames are read as a whole.
pub(super) fn read(log: &LogFolder, topic: Topic) -> Result<Vec<Frame>, LogError> {
    let mut frames = Vec::new();
    walk(log, &log.base()?.unwrap_or_default(), |found| {
        if found.entries.iter().any(|entry| entry.topic == topic) {
            let Found::Group(raw) = read_group(&*found.file, &found.location)? else { return Ok(false) };
            frames.extend(frames_of(&raw, topic)?);
        }
        Ok(true)
    })?;
    Ok(frames)
}

/// The position behind the last whole group. Of the groups, only the last is read as a whole.
pub(super) fn end_of(log: &LogFolder) -> Result<LogPosition, LogError> {
    let base = log.base()?.unwrap_or_default();
    let mut end = base.start.clone();
    let mut ends = EndOffsets::at(&end);
    let mut last: Option<(Walked, Advance)> = None;
    walk(log, &base, |found| {
        if let Some((before, advance)) = last.take() {
            let Header { group, upper, epoch, .. } = before.header;
            let (group, offset, digest) = (group + 1, group + 1, found.header.previous);
            end = LogPosition { group, offset, upper, digest, epoch, ends: Vec::new() };
            ends.advance(advance);
        }
        match ends.follow(&found.entries) {
            Ok(advance) if found.header.group == end.group => {
                last = Some((found, advance));
                Ok(true)
            }
            _ => Ok(false),
        }
    })?;
    end.ends = ends.list();
    if let Some((found, _)) = last
        && let Found::Group(raw) = read_group(&*found.file, &found.location)?
    {
        end = end.after(&raw).map_err(|detail| raw.damaged(detail))?;
    }
    Ok(end)
}

/// A group of which the header and the directory were read.
struct Walked {
    header: Header,
    entries: Vec<Entry>,
    file: Arc<dyn OpenFile>,
    location: Location,
}

/// Calls `visit` for each group, until it returns `false` or a group is not as it was written.
fn walk(
    log: &LogFolder,
    base: &Base,
    mut visit: impl FnMut(Walked) -> Result<bool, LogError>,
) -> Result<(), LogError> {
    for first in log.segments()?.into_iter().filter(|first| *first >= base.start.group) {
        let path = log.segment(first);
        let read_error = |source| LogError::Read { path: path.clone(), source };
        let file = log.files().open(&path, OpenMode::Read).map_err(read_error)?;
        let length = file.len().map_err(read_error)?;
        let mut location = Location { segment: Arc::from(path.clone()), at: 0 };
        while let Ok(header) = read_header(&*file, location.at).map_err(read_error)? {
            let end = location.at.saturating_add(header.group_bytes());
            if end > length {
                return Ok(());
            }
            let directory = read_directory(&*file, location.at, &header).map_err(read_error)?;
            let Ok(entries) = header.directory(&directory) else { return Ok(()) };
            let (file, at) = (Arc::clone(&file), location.clone());
            if !visit(Walked { header, entries, file, location: at })? {
                return Ok(());
            }
            location.at = end;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use tidegate_facts::Tick;
    use tidegate_host::{Files, SimulatedHost};

    use super::super::{Group, LogOptions, LogReader, LogWriter, Start, Until};
    use super::*;

    fn frame(topic: Topic, text: &str) -> Frame {
        let column: ArrayRef = Arc::new(StringArray::from(vec![text.repeat(300)]));
        let rows = RecordBatch::try_from_iter([("record", column)]).unwrap();
        Frame { topic, name: text.to_owned(), rows }
    }

    /// Forty groups over several segments, of which every seventh holds frames of the control
    /// topic.
    fn sample(machine: &SimulatedHost) -> (LogFolder, LogPosition) {
        let folder = LogFolder::of_data(&machine.host(), Path::new("/data"));
        let (mut log, _) = folder.open(LogOptions { segment_bytes: 8192 }).unwrap();
        for number in 0..40i64 {
            let mut frames = vec![frame(Topic::Audit, &format!("audit-{number}"))];
            if number % 7 == 3 {
                frames.insert(0, frame(Topic::Control, &format!("first-{number}")));
                frames.push(frame(Topic::Control, &format!("last-{number}")));
            }
            let (lower, upper) = (Tick(number), Tick(number + 1));
            log.append_and_wait(&Group { frames, lower, upper, commit: false }).unwrap();
            assert_eq!(folder.position().unwrap(), log.position());
        }
        let position = log.position();
        (folder, position)
    }

    #[test]
    fn the_frames_of_a_topic_are_those_that_reading_everything_finds() {
        let machine = SimulatedHost::new(1);
        let (folder, end) = sample(&machine);
        assert!(folder.segments().unwrap().len() > 3, "several segments");
        assert_eq!(folder.position().unwrap(), end);
        for topic in [Topic::Control, Topic::Audit, Topic::Traffic] {
            let groups = folder.read(Start::Group(0), Until::Complete).unwrap();
            let frames = groups.flat_map(|group| group.unwrap().group.frames);
            let expected: Vec<Frame> = frames.filter(|frame| frame.topic == topic).collect();
            assert_eq!(folder.read_topic(topic).unwrap(), expected);
        }
    }

    #[test]
    fn reading_ends_at_a_torn_end() {
        let machine = SimulatedHost::new(1);
        let (folder, end) = sample(&machine);
        let whole = folder.read_topic(Topic::Control).unwrap();
        let last = folder.segment(*folder.segments().unwrap().last().unwrap());
        let file = machine.files.open(&last, OpenMode::Write).unwrap();
        file.set_len(file.len().unwrap() - 1).unwrap();
        assert_eq!(folder.position().unwrap().group, end.group - 1);
        file.set_len(100).unwrap();
        let torn = folder.read_topic(Topic::Control).unwrap();
        assert_eq!(torn[..], whole[..torn.len()]);
        let position = folder.position().unwrap();
        let read = folder.read(Start::Group(0), Until::Complete).unwrap();
        assert_eq!(position.group, read.count() as u64);
    }
}
