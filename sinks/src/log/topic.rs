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
use super::{Frame, LogError, segment};

/// The frames of a topic, in the order they were appended.
///
/// Only the groups that hold such frames are checked as a whole. Reading ends where something is not as it was
/// written: whoever reads the groups afterwards is told what that is.
///
/// # Errors
/// When the folder or a segment cannot be read, and when a frame of the topic cannot be decoded.
pub fn read_topic(folder: &Path, topic: Topic) -> Result<Vec<Frame>, LogError> {
    let list = segment::list(folder).map_err(|source| LogError::Read { path: folder.to_owned(), source })?;
    let mut frames = Vec::new();
    for first in list {
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
