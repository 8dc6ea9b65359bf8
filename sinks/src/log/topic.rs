//! Finds the frames of one topic without reading the rest of the log: directories say where they are.
//!
//! A reader that needs a few frames before it reads the whole log, as a run needs to know what is in
//! force before it builds its graph, need not read the log twice.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tidegate_facts::Topic;

use super::cursor::{Here, read_group, read_header};
use super::format::HEADER_BYTES;
use super::{Frame, LogError, read_base, segment};

/// The frames of a topic, in the order they were appended.
///
/// Only the groups that hold such frames are checked as a whole. Reading ends where something is not as it was
/// written: whoever reads the groups afterwards is told what that is.
///
/// # Errors
/// When the folder or a segment cannot be read, and when a frame of the topic cannot be decoded.
pub fn read_topic(folder: &Path, topic: Topic) -> Result<Vec<Frame>, LogError> {
    let list = segment::list(folder).map_err(|source| LogError::Read { path: folder.to_owned(), source })?;
    let base = read_base(folder)?.group;
    let mut frames = Vec::new();
    for first in list.into_iter().filter(|first| *first >= base) {
        let path = segment::path(folder, first);
        let read_error = |source| LogError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(read_error)?;
        let length = file.metadata().map_err(read_error)?.len();
        let mut at = 0;
        while let Ok(header) = read_header(&file, at).map_err(read_error)? {
            if at + header.group_bytes() > length {
                return Ok(frames);
            }
            let mut directory = vec![0; header.directory_bytes()];
            file.read_exact_at(&mut directory, at + HEADER_BYTES as u64).map_err(read_error)?;
            let Ok(entries) = header.directory(&directory) else { return Ok(frames) };
            if entries.iter().any(|entry| entry.topic == topic) {
                let Here::Group(found) = read_group(&file, at, &path)? else { return Ok(frames) };
                for entry in found.entries.iter().filter(|entry| entry.topic == topic) {
                    frames.push(entry.frame(&found.body).map_err(|detail| {
                        let (segment, group) = (path.clone(), header.group);
                        LogError::Damaged { segment, at, group, detail }
                    })?);
                }
            }
            at += header.group_bytes();
        }
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use tidegate_facts::Tick;

    use super::super::{EmbeddedLog, Group, LogOptions, Start, Until, read_groups};
    use super::*;

    fn frame(topic: Topic, text: &str) -> Frame {
        let column: ArrayRef = Arc::new(StringArray::from(vec![text.repeat(300)]));
        let rows = RecordBatch::try_from_iter([("record", column)]).unwrap();
        Frame { topic, name: text.to_owned(), rows }
    }

    /// Forty groups over several segments, of which every seventh holds something of the control topic.
    fn log(folder: &Path) {
        let (mut log, _) = EmbeddedLog::open(folder, LogOptions { segment_bytes: 8192 }).unwrap();
        for number in 0..40u64 {
            let mut frames = vec![frame(Topic::Audit, &format!("audit-{number}"))];
            if number % 7 == 3 {
                frames.insert(0, frame(Topic::Control, &format!("first-{number}")));
                frames.push(frame(Topic::Control, &format!("last-{number}")));
            }
            log.append(&Group { frames, lower: Tick(number), upper: Tick(number + 1), commit: false })
                .unwrap();
        }
    }

    #[test]
    fn the_frames_of_a_topic_are_those_that_reading_everything_finds() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path());
        assert!(segment::list(folder.path()).unwrap().len() > 3, "several segments");
        for topic in [Topic::Control, Topic::Audit, Topic::Traffic] {
            let groups = read_groups(folder.path(), Start::Group(0), Until::Complete).unwrap();
            let frames = groups.flat_map(|group| group.unwrap().frames);
            let wanted: Vec<Frame> = frames.filter(|frame| frame.topic == topic).collect();
            assert_eq!(read_topic(folder.path(), topic).unwrap(), wanted);
        }
    }

    #[test]
    fn a_torn_end_ends_reading() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path());
        let whole = read_topic(folder.path(), Topic::Control).unwrap();
        let last = *segment::list(folder.path()).unwrap().last().unwrap();
        let file = File::options().write(true).open(segment::path(folder.path(), last)).unwrap();
        file.set_len(100).unwrap();
        let torn = read_topic(folder.path(), Topic::Control).unwrap();
        assert!(torn.len() < whole.len() || last > 38, "the last segment held some");
        assert_eq!(torn[..], whole[..torn.len()]);
    }
}
