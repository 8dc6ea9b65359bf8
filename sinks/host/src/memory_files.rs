//! Files in memory that keep what was synced apart from what was not, and lose the latter in a
//! crash.
//!
//! The model is the strict reading of POSIX. The bytes of a file survive a crash once the file was
//! synced; a name survives once its folder was. A change that was not synced may survive anyway,
//! whole or in part: [`MemoryFiles::crash_keeping`] asks its caller about each sector of 512 bytes,
//! each change of a length and each change of a name.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::clock::{Clock, ManualClock};
use crate::files::{FileMetadata, Files, OpenFile, OpenMode};

/// What a disk writes at once or not at all.
const SECTOR_BYTES: u64 = 512;

/// A file system in memory. Clones share it; it begins with the folder `/` alone.
#[derive(Clone, Debug)]
pub struct MemoryFiles {
    disk: Arc<Mutex<Disk>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Disk {
    /// What programs see.
    names: BTreeMap<PathBuf, Entry>,
    /// What a crash leaves.
    durable: BTreeMap<PathBuf, Entry>,
    /// The changes of names that a crash may undo, the oldest first.
    unsynced: Vec<NameChange>,
    /// The error with which writes fail, and how many succeed before.
    refusal: Option<(u64, io::ErrorKind)>,
}

#[derive(Clone, Debug)]
enum Entry {
    Folder,
    File(Arc<Mutex<Inode>>),
}

#[derive(Debug)]
enum NameChange {
    Add(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// The bytes of a file, whatever its names.
#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<ByteChange>,
    modified_micros: i64,
    permissions: u32,
    is_locked: bool,
}

#[derive(Debug)]
enum ByteChange {
    Write { at: u64, bytes: Vec<u8> },
    SetLen(u64),
}

/// An open file in memory.
#[derive(Debug)]
struct MemoryFile {
    files: MemoryFiles,
    inode: Arc<Mutex<Inode>>,
    is_writable: bool,
    holds_lock: AtomicBool,
}

impl Default for MemoryFiles {
    fn default() -> Self {
        MemoryFiles::new(Arc::new(ManualClock::new(0)))
    }
}

impl MemoryFiles {
    /// An empty file system, which notes by `clock` when a file was written.
    pub fn new(clock: Arc<dyn Clock>) -> MemoryFiles {
        let mut disk = Disk::default();
        disk.names.insert(PathBuf::from("/"), Entry::Folder);
        disk.durable.insert(PathBuf::from("/"), Entry::Folder);
        MemoryFiles { disk: Arc::new(Mutex::new(disk)), clock }
    }

    /// What a power cut leaves, as another file system: nothing that was not synced.
    #[must_use]
    pub fn crash(&self) -> MemoryFiles {
        self.crash_keeping(&mut || false)
    }

    /// As [`MemoryFiles::crash`], where `keep` decides for each unsynced change, the oldest first,
    /// whether it reached the disk.
    ///
    /// A write is asked for sector by sector, so that it can be torn. Locks are gone.
    #[must_use]
    pub fn crash_keeping(&self, keep: &mut dyn FnMut() -> bool) -> MemoryFiles {
        let disk = self.disk.lock();
        let mut durable = disk.durable.clone();
        for change in &disk.unsynced {
            if keep() {
                change.apply(&mut durable);
            }
        }
        // Two names of one file are two names of one file again.
        let mut copies: HashMap<*const Mutex<Inode>, Arc<Mutex<Inode>>> = HashMap::new();
        let mut names = BTreeMap::new();
        for (path, entry) in &durable {
            if path.parent().is_some_and(|parent| !matches!(names.get(parent), Some(Entry::Folder))) {
                continue; // The name of its folder was lost.
            }
            let entry = match entry {
                Entry::Folder => Entry::Folder,
                Entry::File(inode) => {
                    let copy = copies
                        .entry(Arc::as_ptr(inode))
                        .or_insert_with(|| Arc::new(Mutex::new(inode.lock().after_crash(keep))));
                    Entry::File(Arc::clone(copy))
                }
            };
            names.insert(path.clone(), entry);
        }
        let survivor = Disk { durable: names.clone(), names, ..Disk::default() };
        MemoryFiles { disk: Arc::new(Mutex::new(survivor)), clock: Arc::clone(&self.clock) }
    }

    /// From now on every change and every sync fails with this error, until
    /// [`MemoryFiles::accept_writes`].
    pub fn refuse_writes(&self, error: io::ErrorKind) {
        self.refuse_writes_after(0, error);
    }

    /// As [`MemoryFiles::refuse_writes`], once `count` further changes and syncs have succeeded.
    pub fn refuse_writes_after(&self, count: u64, error: io::ErrorKind) {
        self.disk.lock().refusal = Some((count, error));
    }

    /// Ends what [`MemoryFiles::refuse_writes`] began.
    pub fn accept_writes(&self) {
        self.disk.lock().refusal = None;
    }
}

impl Disk {
    fn check_writable(&mut self) -> io::Result<()> {
        match &mut self.refusal {
            Some((0, error)) => Err((*error).into()),
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Makes a change of names: at once for programs, and for a crash when the folder is synced.
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced.push(change);
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent().map(|parent| self.names.get(parent)) {
            None | Some(Some(Entry::Folder)) => Ok(()),
            Some(Some(Entry::File(_))) => Err(io::ErrorKind::NotADirectory.into()),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file(&self, path: &Path) -> io::Result<&Arc<Mutex<Inode>>> {
        match self.names.get(path) {
            Some(Entry::File(inode)) => Ok(inode),
            Some(Entry::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn check_folder(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Entry::Folder) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync_names_in(&mut self, folder: &Path) {
        let is_in = |path: &Path| path.parent() == Some(folder);
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.unsynced) {
            let touches = match &change {
                NameChange::Add(path, _) | NameChange::Remove(path) => is_in(path),
                NameChange::Rename(from, to) => is_in(from) || is_in(to),
            };
            if touches {
                change.apply(&mut self.durable);
            } else {
                left.push(change);
            }
        }
        self.unsynced = left;
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            NameChange::Add(path, entry) => {
                names.insert(path.clone(), entry.clone());
            }
            NameChange::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
            NameChange::Rename(from, to) => {
                let moved: Vec<PathBuf> =
                    names.keys().filter(|name| name.starts_with(from)).cloned().collect();
                for path in moved {
                    let entry = names.remove(&path).expect("it was just listed");
                    names.insert(renamed(&path, from, to), entry);
                }
            }
        }
    }

    /// Follows a folder that is renamed before the names in it were synced.
    fn follow(&mut self, from: &Path, to: &Path) {
        let move_path = |path: &mut PathBuf| {
            if path.starts_with(from) && path != from {
                *path = renamed(path, from, to);
            }
        };
        match self {
            NameChange::Add(path, _) | NameChange::Remove(path) => move_path(path),
            NameChange::Rename(old, new) => {
                move_path(old);
                move_path(new);
            }
        }
    }
}

/// The path `path`, which is `from` or lies below it, once `from` is called `to`.
fn renamed(path: &Path, from: &Path, to: &Path) -> PathBuf {
    let rest = path.strip_prefix(from).expect("it lies below");
    if rest == Path::new("") { to.to_owned() } else { to.join(rest) }
}

/// An absolute path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(<OsStr>::new(name)),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}

impl Inode {
    fn change(&mut self, change: ByteChange, now: i64) {
        change.apply(&mut self.bytes);
        self.unsynced.push(change);
        self.modified_micros = now;
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            change.apply(&mut self.durable);
        }
    }

    /// The file as the disk has it after a crash.
    fn after_crash(&self, keep: &mut dyn FnMut() -> bool) -> Inode {
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match change {
                ByteChange::SetLen(_) if keep() => change.apply(&mut bytes),
                ByteChange::SetLen(_) => {}
                ByteChange::Write { at, bytes: written } => {
                    let (mut from, end) = (*at, at + written.len() as u64);
                    while from < end {
                        let to = (from / SECTOR_BYTES + 1).saturating_mul(SECTOR_BYTES).min(end);
                        if keep() {
                            let sector = written[(from - at) as usize..(to - at) as usize].to_vec();
                            ByteChange::Write { at: from, bytes: sector }.apply(&mut bytes);
                        }
                        from = to;
                    }
                }
            }
        }
        Inode {
            durable: bytes.clone(),
            bytes,
            unsynced: Vec::new(),
            modified_micros: self.modified_micros,
            permissions: self.permissions,
            is_locked: false,
        }
    }
}

impl ByteChange {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            ByteChange::SetLen(length) => file.resize(*length as usize, 0),
            ByteChange::Write { at, bytes } => {
                let (at, end) = (*at as usize, *at as usize + bytes.len());
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[at..end].copy_from_slice(bytes);
            }
        }
    }
}

impl Files for MemoryFiles {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn OpenFile>> {
        let path = normal(path);
        let mut disk = self.disk.lock();
        let existing = disk.file(&path).map(Arc::clone);
        let inode = match (existing, mode) {
            (Ok(_), OpenMode::CreateNew | OpenMode::CreatePrivate) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Ok(inode), _) => inode,
            (Err(error), mode) => {
                let creates = !matches!(mode, OpenMode::Read | OpenMode::Write);
                if error.kind() != io::ErrorKind::NotFound || !creates {
                    return Err(error);
                }
                disk.check_writable()?;
                disk.check_parent(&path)?;
                let permissions = if mode == OpenMode::CreatePrivate { 0o600 } else { 0o644 };
                let modified_micros = self.clock.wall_micros();
                let inode = Inode { modified_micros, permissions, ..Inode::default() };
                let inode = Arc::new(Mutex::new(inode));
                disk.change(NameChange::Add(path, Entry::File(Arc::clone(&inode))));
                inode
            }
        };
        drop(disk);
        let is_writable = mode != OpenMode::Read;
        let file = MemoryFile { files: self.clone(), inode, is_writable, holds_lock: AtomicBool::new(false) };
        if mode == OpenMode::Truncate {
            file.set_len(0)?;
        }
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut disk = self.disk.lock();
        disk.check_writable()?;
        if !disk.names.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.check_parent(&to)?;
        if to.starts_with(&from) && to != from {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match (&disk.names[&from], disk.names.get(&to)) {
            (Entry::Folder, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Entry::File(_), Some(Entry::Folder)) => return Err(io::ErrorKind::IsADirectory.into()),
            _ => {}
        }
        if matches!(disk.names[&from], Entry::Folder) {
            disk.unsynced.iter_mut().for_each(|change| change.follow(&from, &to));
        }
        disk.change(NameChange::Rename(from, to));
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut disk = self.disk.lock();
        disk.check_writable()?;
        let inode = Arc::clone(disk.file(&from)?);
        if disk.names.contains_key(&to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.check_parent(&to)?;
        disk.change(NameChange::Add(to, Entry::File(inode)));
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let normal = normal(folder);
        let disk = self.disk.lock();
        disk.check_folder(&normal)?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(&normal));
        // Paths begin as the caller's does.
        Ok(inside.map(|path| folder.join(path.file_name().expect("it has a parent"))).collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        let disk = self.disk.lock();
        match disk.names.get(&normal(path)) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Entry::Folder) => {
                Ok(FileMetadata { bytes: 0, is_folder: true, modified_micros: 0, permissions: 0o755 })
            }
            Some(Entry::File(inode)) => {
                let inode = inode.lock();
                Ok(FileMetadata {
                    bytes: inode.bytes.len() as u64,
                    is_folder: false,
                    modified_micros: inode.modified_micros,
                    permissions: inode.permissions,
                })
            }
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut disk = self.disk.lock();
        disk.check_writable()?;
        disk.file(&path)?;
        disk.change(NameChange::Remove(path));
        Ok(())
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = normal(folder);
        let mut disk = self.disk.lock();
        disk.check_writable()?;
        disk.check_folder(&folder)?;
        disk.change(NameChange::Remove(folder));
        Ok(())
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = normal(folder);
        let mut disk = self.disk.lock();
        disk.check_writable()?;
        let mut ancestors: Vec<PathBuf> = folder.ancestors().map(Path::to_owned).collect();
        ancestors.reverse();
        for path in ancestors {
            match disk.names.get(&path) {
                Some(Entry::Folder) => {}
                Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => disk.change(NameChange::Add(path.clone(), Entry::Folder)),
            }
            if let Some(parent) = path.parent() {
                disk.sync_names_in(parent);
            }
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = normal(folder);
        let mut disk = self.disk.lock();
        disk.check_writable()?;
        disk.check_folder(&folder)?;
        disk.sync_names_in(&folder);
        Ok(())
    }
}

impl MemoryFile {
    fn change(&self, change: ByteChange) -> io::Result<()> {
        if !self.is_writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.files.disk.lock().check_writable()?;
        let now = self.files.clock.wall_micros();
        self.inode.lock().change(change, now);
        Ok(())
    }
}

impl OpenFile for MemoryFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let inode = self.inode.lock();
        let from = inode.bytes.len().min(usize::try_from(at).unwrap_or(usize::MAX));
        let length = bytes.len().min(inode.bytes.len() - from);
        bytes[..length].copy_from_slice(&inode.bytes[from..from + length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.change(ByteChange::Write { at, bytes: bytes.to_vec() })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.lock().bytes.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(ByteChange::SetLen(length))
    }

    fn allocate(&self, at: u64, length: u64) -> io::Result<()> {
        let end = at + length;
        if self.len()? < end { self.change(ByteChange::SetLen(end)) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.files.disk.lock().check_writable()?;
        self.inode.lock().sync();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut inode = self.inode.lock();
        if self.holds_lock.load(Ordering::Relaxed) {
            return Ok(true);
        }
        if inode.is_locked {
            return Ok(false);
        }
        inode.is_locked = true;
        self.holds_lock.store(true, Ordering::Relaxed);
        Ok(true)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if *self.holds_lock.get_mut() {
            self.inode.lock().is_locked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> &Path {
        Path::new(text)
    }

    /// A file `/f` of 1024 bytes `a`, synced, with its name.
    fn sample() -> (MemoryFiles, Arc<dyn OpenFile>) {
        let files = MemoryFiles::default();
        let file = files.open(path("/f"), OpenMode::CreateNew).unwrap();
        file.write_at(&[b'a'; 1024], 0).unwrap();
        file.sync_data().unwrap();
        files.sync_folder(path("/")).unwrap();
        (files, file)
    }

    #[test]
    fn a_crash_loses_what_was_written_behind_the_last_sync_and_nothing_else() {
        let (files, file) = sample();
        file.write_at(b"b", 5).unwrap();
        file.set_len(10).unwrap();
        assert_eq!(files.read(path("/f")).unwrap(), b"aaaaabaaaa");
        assert_eq!(files.crash().read(path("/f")).unwrap(), [b'a'; 1024]);
        file.sync_data().unwrap();
        assert_eq!(files.crash().read(path("/f")).unwrap(), b"aaaaabaaaa");
    }

    #[test]
    fn a_name_survives_once_its_folder_was_synced() {
        let (files, _) = sample();
        files.open(path("/new"), OpenMode::CreateNew).unwrap().sync_all().unwrap();
        assert!(!files.crash().exists(path("/new")), "the file was synced, and its folder was not");
        files.rename(path("/f"), path("/g")).unwrap();
        files.sync_folder(path("/")).unwrap();
        files.remove(path("/g")).unwrap();
        let survivor = files.crash();
        assert_eq!(survivor.list(path("/")).unwrap(), [path("/g"), path("/new")]);
        assert_eq!(files.list(path("/")).unwrap(), [path("/new")]);
    }

    #[test]
    fn a_write_is_torn_between_sectors_as_the_caller_chooses() {
        let (files, file) = sample();
        file.write_at(&[b'b'; 1024], 256).unwrap();
        let mut answers = [true, false, true].into_iter();
        let survivor = files.crash_keeping(&mut || answers.next().expect("three sectors are touched"));
        let bytes = survivor.read(path("/f")).unwrap();
        let expected = [[b'a'; 256].as_slice(), &[b'b'; 256], &[b'a'; 512], &[b'b'; 256]].concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_folder_is_renamed_with_everything_in_it() {
        let files = MemoryFiles::default();
        files.create_folder(path("/out.unfinished/deep")).unwrap();
        let file = files.open(path("/out.unfinished/deep/f"), OpenMode::CreateNew).unwrap();
        file.write_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
        files.sync_folder(path("/out.unfinished/deep")).unwrap();
        files.rename(path("/out.unfinished"), path("/out")).unwrap();
        assert_eq!(files.read(path("/out/deep/f")).unwrap(), b"x");
        assert!(files.crash().exists(path("/out.unfinished/deep/f")));
        files.sync_folder(path("/")).unwrap();
        assert_eq!(files.crash().read(path("/out/deep/f")).unwrap(), b"x");
        assert!(!files.crash().exists(path("/out.unfinished")));
    }

    #[test]
    fn two_names_of_a_file_are_one_file_also_after_a_crash() {
        let (files, _) = sample();
        files.link(path("/f"), path("/g")).unwrap();
        files.sync_folder(path("/")).unwrap();
        let survivor = files.crash();
        survivor.open(path("/f"), OpenMode::Write).unwrap().write_at(b"z", 0).unwrap();
        assert_eq!(survivor.read(path("/g")).unwrap()[0], b'z');
        let twice = survivor.link(path("/f"), path("/g")).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_lock_is_held_until_its_handle_is_dropped_or_the_machine_crashes() {
        let (files, first) = sample();
        let second = files.open(path("/f"), OpenMode::Write).unwrap();
        assert!(first.try_lock().unwrap() && first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        let survivor = files.crash().open(path("/f"), OpenMode::Write).unwrap();
        assert!(survivor.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }

    #[test]
    fn a_full_disk_refuses_every_write_and_reads_on() {
        let (files, file) = sample();
        files.refuse_writes(io::ErrorKind::StorageFull);
        assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.sync_data().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(files.remove(path("/f")).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(files.read(path("/f")).unwrap().len(), 1024);
        files.refuse_writes_after(1, io::ErrorKind::StorageFull);
        file.write_at(b"x", 0).unwrap();
        assert!(file.sync_data().is_err());
        files.accept_writes();
        file.sync_data().unwrap();
    }
}
