//! The offsets of the groups in the files of a log, read from their headers
//! (`sinks/src/log/format.rs`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The bytes of one group.
#[derive(Clone, Debug)]
pub struct GroupBytes {
    pub segment: PathBuf,
    pub at: u64,
    pub end: u64,
}

/// The groups of the log in `folder`, in order; none when it does not exist.
pub fn groups(folder: &Path) -> Vec<GroupBytes> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut segments: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    segments.sort();
    let mut groups = Vec::new();
    for segment in segments {
        // A running process may remove the file at any moment.
        let Ok(file) = File::open(&segment) else { continue };
        let (mut at, mut header) = (0, [0; 128]);
        while file.read_exact_at(&mut header, at).is_ok() && header.starts_with(b"TIDELOG\n") {
            let body = u64::from_le_bytes(header[40..48].try_into().expect("eight bytes"));
            let end = at + header.len() as u64 + body;
            groups.push(GroupBytes { segment: segment.clone(), at, end });
            at = end;
        }
    }
    groups
}
