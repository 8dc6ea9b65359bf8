//! The file system as the log, the dedupe index and the local store use it.
//!
//! Durability has two halves, as POSIX has it: [`OpenFile::sync_data`] makes the bytes of a file
//! survive a power cut, and [`Files::sync_folder`] makes the names in a folder survive it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

/// The interface to the files of a machine. Errors are those of the operating system; nothing is
/// retried.
pub trait Files: Send + Sync + fmt::Debug {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `NotFound` or `AlreadyExists`, as the mode demands; else what the operating system refuses.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn OpenFile>>;

    /// Gives the file or folder `from` the name `to`, in place of a file that has this name
    /// already.
    ///
    /// # Errors
    /// `NotFound` when nothing has the name `from`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives the file `from` the further name `to`.
    ///
    /// # Errors
    /// `AlreadyExists` when something has the name `to`; `NotFound` when nothing has the name
    /// `from`.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// The paths of the files and folders in `folder`, ascending.
    ///
    /// # Errors
    /// `NotFound` when there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// What the file system knows of the file or folder at `path`.
    ///
    /// # Errors
    /// `NotFound` when nothing is there.
    fn metadata(&self, path: &Path) -> io::Result<FileMetadata>;

    /// Removes the name `path` of a file. Whoever has the file open can still use it.
    ///
    /// # Errors
    /// `NotFound` when no file has this name.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and everything in it.
    ///
    /// # Errors
    /// `NotFound` when there is no such folder.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;

    /// Creates a folder and the folders above it, unless they exist. Their names are durable on
    /// return.
    ///
    /// # Errors
    /// What the operating system refuses, such as a folder below a file.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes durable which names `folder` holds: what was created, renamed, linked and removed in
    /// it.
    ///
    /// # Errors
    /// What the operating system refuses. What is on the disk is unknown then.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// All bytes of the file at `path`.
    ///
    /// # Errors
    /// As [`Files::open`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let read = file.read_up_to(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Whether a file or folder has this name.
    fn exists(&self, path: &Path) -> bool {
        self.metadata(path).is_ok()
    }

    /// Whether a folder has this name.
    fn is_folder(&self, path: &Path) -> bool {
        self.metadata(path).is_ok_and(|metadata| metadata.is_folder)
    }
}

/// How [`Files::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading. The file must exist.
    Read,
    /// For reading and writing. The file must exist.
    Write,
    /// For reading and writing. A file that does not exist is created, empty.
    CreateIfMissing,
    /// For reading and writing. The file is created, and must not exist before.
    CreateNew,
    /// As [`OpenMode::CreateNew`]; only its owner may read and write the file.
    CreatePrivate,
    /// For reading and writing. The file is created or emptied.
    Truncate,
}

/// What a file system knows of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMetadata {
    /// The length of the file in bytes; of a folder, whatever the file system says.
    pub bytes: u64,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// When it was last written, in microseconds since 1970-01-01 UTC, by the file system's clock.
    pub modified_micros: i64,
    /// Who may read, write and execute it: the nine permission bits of Unix.
    pub permissions: u32,
}

/// A file that is open. It stays usable when it is renamed or removed.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait OpenFile: Send + Sync + fmt::Debug {
    /// Reads into `bytes` from byte `at` on. Returns how many bytes were read, 0 at the end of the
    /// file.
    ///
    /// # Errors
    /// What the operating system refuses.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes` from byte `at` on. A file that is shorter grows, with zeros in
    /// between.
    ///
    /// # Errors
    /// What the operating system refuses. Some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// What the operating system refuses.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file to `length` bytes, or extends it with zeros.
    ///
    /// # Errors
    /// What the operating system refuses.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Reserves disk space for `length` bytes from byte `at` on, as zeros where nothing was
    /// written.
    ///
    /// # Errors
    /// When the disk has no room, or the file system cannot reserve.
    fn allocate(&self, at: u64, length: u64) -> io::Result<()>;

    /// Makes the bytes of the file durable, and its length.
    ///
    /// # Errors
    /// What the operating system refuses. What is on the disk is unknown then.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the bytes of the file and all its metadata durable.
    ///
    /// # Errors
    /// What the operating system refuses. What is on the disk is unknown then.
    fn sync_all(&self) -> io::Result<()>;

    /// Locks the file against other handles until this one is dropped. Returns `false` when another
    /// handle, of this process or of another, holds the lock.
    ///
    /// # Errors
    /// When the file system cannot lock.
    fn try_lock(&self) -> io::Result<bool>;

    /// Reads into `bytes` until it is full or the file ends. Returns how many bytes were read.
    ///
    /// # Errors
    /// As [`OpenFile::read_at`].
    fn read_up_to(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut length = 0;
        while length < bytes.len() {
            match self.read_at(&mut bytes[length..], at + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }

    /// Fills `bytes` from byte `at` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else as [`OpenFile::read_at`].
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        if self.read_up_to(bytes, at)? < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}
