//! Which files a path stands for, in which order, and how they are opened.
//!
//! A folder stands for all files in it, at any depth, whose names end as the format's do; hidden
//! files and folders are left out, and links to folders are not followed. The order is that of the
//! relative paths, byte by byte, so that it is the same on any machine.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::SourceError;

/// The formats that files can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Delimited text with a header row.
    Csv,
    /// One JSON text a line.
    JsonLines,
}

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// The path relative to the folder, with `/`, or the file's name where the source is one file.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// The compressions that text files can have, told by the end of their names.
const COMPRESSED: [&str; 2] = [".gz", ".zst"];

impl Format {
    const ALL: [Format; 3] = [Format::Parquet, Format::Csv, Format::JsonLines];

    /// What it is called in an error.
    pub fn name(self) -> &'static str {
        match self {
            Format::Parquet => "Parquet",
            Format::Csv => "CSV",
            Format::JsonLines => "JSON lines",
        }
    }

    /// The format of a file of this name.
    pub fn of(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.endings().any(|ending| ends_with(name, &ending)))
    }

    /// What the names of its files may end in.
    pub fn endings(self) -> impl Iterator<Item = String> {
        let (endings, compressed): (&[&str], &[&str]) = match self {
            Format::Parquet => (&[".parquet"], &[]),
            Format::Csv => (&[".csv", ".tsv"], &COMPRESSED),
            Format::JsonLines => (&[".jsonl", ".ndjson"], &COMPRESSED),
        };
        let plain = endings.iter().map(|ending| (*ending).to_owned());
        plain.chain(endings.iter().flat_map(|e| compressed.iter().map(move |c| format!("{e}{c}"))))
    }
}

/// The files that `path` stands for, in order; a file may have any name, those of a folder must end
/// as the format's do.
///
/// # Errors
/// When nothing is there, a folder cannot be read or holds no such file, or a name is not UTF-8.
pub fn find(path: &Path, format: Format) -> Result<Vec<InputFile>, SourceError> {
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

/// The contents of a file, decompressed if its name says that it is compressed.
///
/// # Errors
/// When it cannot be opened.
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

/// Whether lines appended to a file of this name leave what was read of it unchanged.
pub(crate) fn may_grow(name: &str) -> bool {
    !COMPRESSED.iter().any(|ending| ends_with(name, ending)) && Format::of(name) != Some(Format::Parquet)
}

fn collect(
    folder: &Path,
    below: &str,
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
            collect(&path, &format!("{below}{}/", utf8(&name, &path)?), endings, files)?;
        } else if endings.iter().any(|ending| ends_with(&name.to_string_lossy(), ending)) && !path.is_dir() {
            files.push(InputFile { name: format!("{below}{}", utf8(&name, &path)?), path });
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

    fn names(path: &Path, format: Format) -> Vec<String> {
        find(path, format).unwrap().into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn a_folder_stands_for_its_files_of_the_format_in_order_of_their_paths() {
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
            names(folder.path(), Format::Csv),
            ["a-b.csv", "a/A.CSV", "a/z.csv.gz", "b.csv", "d.csv/e.csv.zst"]
        );
        assert_eq!(names(folder.path(), Format::JsonLines), ["c.jsonl"]);
        assert_eq!(names(&folder.path().join("csv"), Format::Csv), ["csv"], "a file may have any name");
    }

    #[test]
    fn an_error_names_the_path_and_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let missing = find(&folder.path().join("nowhere"), Format::Csv).unwrap_err().to_string();
        assert!(missing.contains("nowhere") && missing.contains("check the spelling"), "{missing}");
        let empty = find(folder.path(), Format::Parquet).unwrap_err().to_string();
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
        assert_eq!(names(folder.path(), Format::Csv), ["a.csv", "b.csv"]);
    }
}
