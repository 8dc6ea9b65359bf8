//! The ordered set of input files that a path denotes.
//!
//! A folder denotes all files below it whose names have an ending of the format. Hidden files and
//! folders are excluded, and links to folders are not followed. The files are ordered by the bytes
//! of their relative paths, so that the order is the same on every machine.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::SourceError;

/// The format of the input files that a path denotes: Parquet, CSV or JSON lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Delimited text with a header row.
    Csv,
    /// Text with one JSON value a line.
    JsonLines,
}

/// One of the input files that a source's path denotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// The path relative to the folder, with `/`; the file's name when the source is a single file.
    pub name: String,
    /// The path by which it is opened.
    pub path: PathBuf,
}

/// The endings of the names of compressed text files.
const COMPRESSED: [&str; 2] = [".gz", ".zst"];

impl FileFormat {
    const ALL: [FileFormat; 3] = [FileFormat::Parquet, FileFormat::Csv, FileFormat::JsonLines];

    /// The name of the format in error messages.
    pub fn name(self) -> &'static str {
        match self {
            FileFormat::Parquet => "Parquet",
            FileFormat::Csv => "CSV",
            FileFormat::JsonLines => "JSON lines",
        }
    }

    /// The format of a file with this name, by its ending.
    pub fn of(name: &str) -> Option<FileFormat> {
        FileFormat::ALL.into_iter().find(|format| format.endings().any(|ending| ends_with(name, &ending)))
    }

    /// The possible endings of the names of files of this format.
    pub fn endings(self) -> impl Iterator<Item = String> {
        let (endings, compressed): (&[&str], &[&str]) = match self {
            FileFormat::Parquet => (&[".parquet"], &[]),
            FileFormat::Csv => (&[".csv", ".tsv"], &COMPRESSED),
            FileFormat::JsonLines => (&[".jsonl", ".ndjson"], &COMPRESSED),
        };
        let plain = endings.iter().map(|ending| (*ending).to_owned());
        plain.chain(endings.iter().flat_map(|e| compressed.iter().map(move |c| format!("{e}{c}"))))
    }
}

/// Finds the input files that `path` denotes, in order: the file itself, whatever its name, or
/// those of a folder with an ending of the format.
///
/// # Errors
/// When the path does not exist, a folder cannot be read or has no such file, or a name is not
/// UTF-8.
pub fn find(path: &Path, format: FileFormat) -> Result<Vec<InputFile>, SourceError> {
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SourceError::Missing { path: path.to_owned() },
        _ => SourceError::Read { path: path.to_owned(), source },
    })?;
    if !metadata.is_dir() {
        let name = utf8(path.file_name().unwrap_or(path.as_os_str()), path)?.to_owned();
        return Ok(vec![InputFile { name, path: path.to_owned() }]);
    }
    let mut files = Vec::new();
    let endings: Vec<String> = format.endings().collect();
    collect(path, "", &endings, &mut files)?;
    if files.is_empty() {
        return Err(SourceError::Empty { path: path.to_owned(), format: format.name(), endings });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Opens an input file, and returns a reader of its contents, decompressed according to the ending
/// of its name.
///
/// # Errors
/// When the file cannot be opened.
pub fn open(file: &InputFile) -> Result<Box<dyn Read + Send>, SourceError> {
    let opened = || -> io::Result<Box<dyn Read + Send>> {
        let raw = File::open(&file.path)?;
        Ok(if ends_with(&file.name, ".gz") {
            Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(1 << 16, raw)))
        } else if ends_with(&file.name, ".zst") {
            Box::new(zstd::Decoder::new(raw)?)
        } else {
            Box::new(raw)
        })
    };
    opened().map_err(|source| SourceError::Read { path: file.path.clone(), source })
}

/// Whether appending lines to a file with this name leaves the earlier contents as they were read.
pub(crate) fn may_grow(name: &str) -> bool {
    !COMPRESSED.iter().any(|ending| ends_with(name, ending))
        && FileFormat::of(name) != Some(FileFormat::Parquet)
}

fn collect(
    folder: &Path,
    prefix: &str,
    endings: &[String],
    files: &mut Vec<InputFile>,
) -> Result<(), SourceError> {
    let refused = |source| SourceError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(refused)?);
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() {
            collect(&path, &format!("{prefix}{}/", utf8(&name, &path)?), endings, files)?;
        } else if endings.iter().any(|ending| ends_with(&name.to_string_lossy(), ending)) && !path.is_dir() {
            files.push(InputFile { name: format!("{prefix}{}", utf8(&name, &path)?), path });
        }
    }
    Ok(())
}

fn utf8<'a>(name: &'a OsStr, path: &Path) -> Result<&'a str, SourceError> {
    name.to_str().ok_or_else(|| SourceError::Name { path: path.to_owned() })
}

fn ends_with(name: &str, ending: &str) -> bool {
    let (name, ending) = (name.as_bytes(), ending.as_bytes());
    name.len() > ending.len() && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path, format: FileFormat) -> Vec<String> {
        find(path, format).unwrap().into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn a_folder_denotes_its_files_of_the_format_in_order_of_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "b.csv",
            "a/z.csv.gz",
            "a/A.CSV",
            "a-b.csv",
            ".hidden.csv",
            ".git/x.csv",
            "c.jsonl",
            "csv",
            "d.csv/e.csv.zst",
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(
            names(folder.path(), FileFormat::Csv),
            ["a-b.csv", "a/A.CSV", "a/z.csv.gz", "b.csv", "d.csv/e.csv.zst"]
        );
        assert_eq!(names(folder.path(), FileFormat::JsonLines), ["c.jsonl"]);
        assert_eq!(names(&folder.path().join("csv"), FileFormat::Csv), ["csv"], "a file may have any name");
    }

    #[test]
    fn an_error_names_the_path_and_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let missing = find(&folder.path().join("nowhere"), FileFormat::Csv).unwrap_err().to_string();
        assert!(missing.contains("nowhere") && missing.contains("check the spelling"), "{missing}");
        let empty = find(folder.path(), FileFormat::Parquet).unwrap_err().to_string();
        assert!(empty.contains("no Parquet file") && empty.contains(".parquet"), "{empty}");
        let absent = InputFile { name: "gone.csv".to_owned(), path: folder.path().join("gone.csv") };
        let unreadable = open(&absent).err().unwrap().to_string();
        assert!(unreadable.contains("gone.csv") && unreadable.contains("may read it"), "{unreadable}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_folder_above_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.csv"), "").unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("a.csv"), folder.path().join("b.csv")).unwrap();
        assert_eq!(names(folder.path(), FileFormat::Csv), ["a.csv", "b.csv"]);
    }
}
