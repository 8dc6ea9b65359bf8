//! The operating system's files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::{FallocateFlags, fallocate};

use crate::files::{FileMetadata, Files, OpenFile, OpenMode};

/// The file system of the operating system, with files on its disks.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn OpenFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        match mode {
            OpenMode::Read | OpenMode::Write => {}
            OpenMode::CreateIfMissing => {
                options.create(true).truncate(false);
            }
            OpenMode::CreateNew => {
                options.create_new(true);
            }
            OpenMode::CreatePrivate => {
                options.create_new(true).mode(0o600);
            }
            OpenMode::Truncate => {
                options.create(true).truncate(true);
            }
        }
        Ok(Arc::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort_unstable();
        Ok(paths)
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        let metadata = fs::metadata(path)?;
        let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(FileMetadata {
            bytes: metadata.len(),
            is_folder: metadata.is_dir(),
            modified_micros: i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            permissions: metadata.permissions().mode() & 0o777,
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir_all(folder)
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|path| *path != Path::new("") && !path.is_dir()).collect();
        fs::create_dir_all(folder)?;
        // Also of a folder that existed: whoever created it may not have synced its name.
        for created in missing.into_iter().rev().chain([folder]) {
            self.sync_folder(parent(created))?;
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// The folder that holds the name `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent == Path::new("") => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

impl OpenFile for File {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn allocate(&self, at: u64, length: u64) -> io::Result<()> {
        Ok(fallocate(self, FallocateFlags::empty(), at, length)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match File::try_lock(self) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_at_any_place_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        DiskFiles.create_folder(&deep).unwrap();
        DiskFiles.create_folder(&deep).unwrap();
        let path = deep.join("file");
        let file = DiskFiles.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(b"there", 4).unwrap();
        file.sync_all().unwrap();
        DiskFiles.sync_folder(&deep).unwrap();
        assert_eq!(DiskFiles.read(&path).unwrap(), b"\0\0\0\0there");
        let mut bytes = [0; 8];
        assert_eq!(file.read_up_to(&mut bytes, 6).unwrap(), 3);
        assert_eq!(file.read_exact_at(&mut bytes, 6).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let again = DiskFiles.open(&path, OpenMode::CreateNew).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);

        DiskFiles.link(&path, &deep.join("other")).unwrap();
        DiskFiles.rename(&path, &deep.join("renamed")).unwrap();
        assert_eq!(DiskFiles.list(&deep).unwrap(), [deep.join("other"), deep.join("renamed")]);
        let metadata = DiskFiles.metadata(&deep.join("other")).unwrap();
        assert_eq!((metadata.bytes, metadata.is_folder), (9, false));
        assert!(metadata.modified_micros > 1_577_836_800_000_000);
        DiskFiles.remove_folder(&folder.path().join("a")).unwrap();
        assert!(!DiskFiles.exists(&deep));
    }

    #[test]
    fn a_private_file_is_new_and_nobody_else_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        drop(DiskFiles.open(&path, OpenMode::CreatePrivate).unwrap());
        assert_eq!(DiskFiles.metadata(&path).unwrap().permissions, 0o600);
        let again = DiskFiles.open(&path, OpenMode::CreatePrivate).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_lock_is_held_until_its_handle_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DiskFiles.open(&folder.path().join("LOCK"), OpenMode::CreateIfMissing).unwrap();
        let (first, second) = (open(), open());
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }
}
