//! The fingerprint of what a run has read of a source's files.
//!
//! A position identifies a record only as long as the records before it do not change. So a run
//! records the digest of all bytes it consumed, and the next run checks it before it continues.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_facts::Digest;

use crate::error::SourceError;
use crate::file_set::{self, FileFormat};

/// A fingerprint of what was read of a source: its files in order, up to the last one with a
/// record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFingerprint {
    /// The consumed part of each file; all files but the last were consumed completely.
    pub files: Vec<FileFingerprint>,
}

/// The fingerprint of what was read of one file of a source: its consumed beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFingerprint {
    /// The path relative to the folder, with `/`; the file's name when the source is a single file.
    pub name: String,
    /// The number of bytes consumed: up to the end of the last record in a text file that may still
    /// grow, otherwise all bytes of the file as it is stored.
    pub bytes: u64,
    /// The digest of those bytes.
    pub digest: Digest,
    /// Whether appending lines to the file leaves its records unchanged. That is not so for
    /// compressed and Parquet files, and after an unclosed quote.
    #[serde(default)]
    pub may_grow: bool,
}

impl ReadFingerprint {
    /// Checks that the source at `path` still begins with what was read of it.
    ///
    /// The last text file may have grown by whole lines, and there may be new files after it.
    /// Anything else is a change. A simulated world has no files: compare its fingerprint with
    /// `==`.
    ///
    /// # Errors
    /// [`SourceError::Changed`] names the first file that differs. Other errors say why the files
    /// cannot be read.
    pub fn check(&self, path: &Path) -> Result<(), SourceError> {
        let (Some(first), Some(last)) = (self.files.first(), self.files.len().checked_sub(1)) else {
            return Ok(());
        };
        let format = FileFormat::of(&first.name).unwrap_or(FileFormat::JsonLines);
        let found = file_set::find(path, format)?;
        let folder = path.is_dir();
        for (index, file) in self.files.iter().enumerate() {
            let here = match found.get(index) {
                Some(here) if here.name == file.name || (!folder && last == 0) => here,
                Some(new) if found.iter().any(|f| f.name == file.name) => {
                    let detail =
                        format!("it is new and comes before `{}`, which was read already", file.name);
                    return Err(SourceError::Changed { file: new.path.clone(), detail });
                }
                _ => {
                    let file = if folder { path.join(&file.name) } else { Path::new(&file.name).to_owned() };
                    return Err(SourceError::Changed { file, detail: "it is gone".to_owned() });
                }
            };
            let may_grow = index == last && file.may_grow;
            match file.difference(&here.path, may_grow) {
                Ok(None) => {}
                Ok(Some(detail)) => return Err(SourceError::Changed { file: here.path.clone(), detail }),
                Err(source) => return Err(SourceError::Read { path: here.path.clone(), source }),
            }
        }
        Ok(())
    }
}

impl FileFingerprint {
    /// The fingerprint of the whole file at `path`.
    pub(crate) fn whole(name: &str, path: &Path) -> Result<FileFingerprint, SourceError> {
        let read = || {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(path)?)?;
            Ok(hasher)
        };
        match read() {
            Ok(hasher) => Ok(FileFingerprint::of(name, &hasher, false)),
            Err(source) => Err(SourceError::Read { path: path.to_owned(), source }),
        }
    }

    /// The fingerprint of the bytes that `hasher` has hashed.
    pub(crate) fn of(name: &str, hasher: &blake3::Hasher, may_grow: bool) -> FileFingerprint {
        let digest = Digest(*hasher.finalize().as_bytes());
        FileFingerprint { name: name.to_owned(), bytes: hasher.count(), digest, may_grow }
    }

    /// How the file at `path` differs from one that begins with the consumed bytes; `None` if it
    /// does not.
    fn difference(&self, path: &Path, may_grow: bool) -> io::Result<Option<String>> {
        let mut file = File::open(path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader((&file).take(self.bytes))?;
        if hasher.count() < self.bytes {
            return Ok(Some(format!(
                "{} bytes of it were read, and it now has {}",
                self.bytes,
                hasher.count()
            )));
        }
        if hasher.finalize().as_bytes() != &self.digest.0 {
            return Ok(Some(format!("its first {} bytes are not those that were read", self.bytes)));
        }
        let mut next = [0];
        if file.read(&mut next)? == 0 {
            return Ok(None);
        }
        if !may_grow {
            return Ok(Some(format!(
                "it had {} bytes and has grown, which would change what was read",
                self.bytes
            )));
        }
        let mut last = *b"\n";
        if self.bytes > 0 {
            file.seek(SeekFrom::Start(self.bytes - 1))?;
            file.read_exact(&mut last)?;
        }
        // A last line without a line break was read as a record. Bytes appended to it would belong
        // to that record.
        let continued = last != *b"\n" && !b"\r\n".contains(&next[0]);
        Ok(continued.then(|| "its last line was read before it was complete".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(fingerprint: &ReadFingerprint, path: &Path) -> String {
        match fingerprint.check(path) {
            Ok(()) => "the same".to_owned(),
            Err(SourceError::Changed { file, detail }) => {
                format!("{}: {detail}", file.file_name().unwrap().to_str().unwrap())
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn fingerprint_of(files: &[(&str, &str)]) -> ReadFingerprint {
        let files = files.iter().map(|(name, text)| FileFingerprint {
            name: (*name).to_owned(),
            bytes: text.len() as u64,
            digest: Digest::of(text.as_bytes()),
            may_grow: file_set::may_grow(name),
        });
        ReadFingerprint { files: files.collect() }
    }

    #[test]
    fn only_the_last_text_file_may_grow_and_only_by_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("b.jsonl", "1\n2\n");
        write("c.jsonl", "3\n4");
        let read = fingerprint_of(&[("b.jsonl", "1\n2\n"), ("c.jsonl", "3\n4")]);
        assert_eq!(check(&read, folder.path()), "the same");
        write("d.jsonl", "5\n");
        write("c.jsonl", "3\n4\r\n5");
        assert_eq!(check(&read, folder.path()), "the same");
        write("c.jsonl", "3\n45");
        assert_eq!(check(&read, folder.path()), "c.jsonl: its last line was read before it was complete");
        write("c.jsonl", "3\n");
        assert_eq!(check(&read, folder.path()), "c.jsonl: 3 bytes of it were read, and it now has 2");
        write("b.jsonl", "1\n2\n3\n");
        assert_eq!(
            check(&read, folder.path()),
            "b.jsonl: it had 4 bytes and has grown, which would change what was read"
        );
        write("b.jsonl", "1\n3\n");
        assert_eq!(check(&read, folder.path()), "b.jsonl: its first 4 bytes are not those that were read");
        write("a.jsonl", "0\n");
        assert_eq!(
            check(&read, folder.path()),
            "a.jsonl: it is new and comes before `b.jsonl`, which was read already"
        );
        fs::remove_file(folder.path().join("b.jsonl")).unwrap();
        assert_eq!(check(&read, folder.path()), "b.jsonl: it is gone");
    }

    #[test]
    fn a_compressed_file_may_not_grow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv.gz");
        fs::write(&path, "12\n3").unwrap();
        let read = fingerprint_of(&[("a.csv.gz", "12\n")]);
        assert_eq!(
            check(&read, &path),
            "a.csv.gz: it had 3 bytes and has grown, which would change what was read"
        );
    }

    #[test]
    fn nothing_read_is_never_a_change() {
        ReadFingerprint::default().check(Path::new("/nowhere")).unwrap();
    }

    #[test]
    fn an_error_names_the_file_and_how_to_continue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "x\n").unwrap();
        let text = fingerprint_of(&[("a.jsonl", "y\n")]).check(&path).unwrap_err().to_string();
        assert!(text.contains("a.jsonl"), "{text}");
        assert!(text.contains("restore the file, or start a new data folder"), "{text}");
    }
}
