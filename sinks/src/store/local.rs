//! A store's backend in a local folder: what it reports as created is synced, file and folder.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use tidegate_host::{DiskFiles, Files, OpenFile, OpenMode};

use super::backend::{ObjectBackend, ObjectInfo};
use super::url::StoreUrl;

/// Part of the name of every file that is not an object yet.
const UNFINISHED: &str = ".unfinished-";

/// The backend of a store whose objects are the files of a local folder. An object's name is the
/// relative path of its file.
#[derive(Debug)]
pub struct LocalBackend {
    root: PathBuf,
    url: StoreUrl,
    files: Arc<dyn Files>,
    /// The same files as another crate reads them, when they are on a disk.
    objects: Option<Arc<LocalFileSystem>>,
    /// The folders that exist, and whose own names are durable.
    durable: Mutex<BTreeSet<PathBuf>>,
}

impl LocalBackend {
    /// Opens the folder `root` of this machine, and creates it if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be created or opened.
    pub fn open(root: &Path) -> io::Result<LocalBackend> {
        create_missing(&DiskFiles, root)?;
        let root = root.canonicalize()?;
        let objects = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        let backend = LocalBackend::open_on(Arc::new(DiskFiles), &root)?;
        Ok(LocalBackend { objects: Some(Arc::new(objects)), ..backend })
    }

    /// Opens the folder `root` of another file system, and creates it if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open_on(files: Arc<dyn Files>, root: &Path) -> io::Result<LocalBackend> {
        create_missing(&*files, root)?;
        let (root, url) = (root.to_owned(), StoreUrl::Folder(root.to_owned()));
        Ok(LocalBackend { root, url, files, objects: None, durable: Mutex::default() })
    }

    /// Creates a folder and those above it, from the root down, and makes their names durable.
    ///
    /// A folder may exist without a durable name: the process that created it may have been killed
    /// too early.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        if self.durable.lock().contains(folder) {
            return Ok(());
        }
        if folder != self.root {
            self.create_folder(folder.parent().expect("the folder is below the root"))?;
        }
        self.files.create_folder(folder)?;
        self.durable.lock().insert(folder.to_owned());
        Ok(())
    }

    /// Writes `bytes` to a new file beside the object at `path`, syncs it, and has `publish` give
    /// it the object's name. Returns what `publish` did.
    fn write_beside(
        &self,
        path: &Path,
        bytes: &[u8],
        publish: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        self.create_folder(folder)?;
        let (file, unfinished) = self.create_unfinished(path)?;
        let written = file.write_at(bytes, 0).and_then(|()| file.sync_all());
        let published = written.and_then(|()| publish(&unfinished));
        let removed = match self.files.remove(&unfinished) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()), // It was renamed.
            removed => removed,
        };
        match &published {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return published,
            // The process that created the existing file may have been killed before its name was
            // durable.
            _ => self.files.sync_folder(folder)?,
        }
        published.and(removed)
    }

    /// Adds the unfinished files below `folder` that were written before a moment.
    fn unfinished_below(
        &self,
        folder: &Path,
        before_micros: i64,
        found: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let paths = match self.files.list(folder) {
            // This user can have left nothing in a folder that it may not read, such as
            // `lost+found`.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            paths => paths?,
        };
        for path in paths {
            // A file may be gone by now: the create that wrote it has ended.
            let Ok(metadata) = self.files.metadata(&path) else { continue };
            if metadata.is_folder {
                self.unfinished_below(&path, before_micros, found)?;
            } else if is_unfinished(&path) && metadata.modified_micros < before_micros {
                found.push(path);
            }
        }
        Ok(())
    }

    /// Creates a new file beside the object at `path`, under a name that no other thread and no
    /// process that ended has used.
    fn create_unfinished(&self, path: &Path) -> io::Result<(Arc<dyn OpenFile>, PathBuf)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!("{UNFINISHED}{}-{count}", std::process::id()));
            let unfinished = path.with_file_name(name);
            match self.files.open(&unfinished, OpenMode::CreateNew) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => return Ok((file?, unfinished)),
            }
        }
    }
}

impl ObjectBackend for LocalBackend {
    fn url(&self) -> &StoreUrl {
        &self.url
    }

    fn objects(&self) -> Option<Arc<dyn ObjectStore>> {
        self.objects.clone().map(|objects| objects as Arc<dyn ObjectStore>)
    }

    fn guarantees_one_winner(&self) -> bool {
        true
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.root.join(name);
        // A link, unlike a rename, never replaces an existing file.
        self.write_beside(&path, bytes, |unfinished| self.files.link(unfinished, &path))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.root.join(name);
        self.write_beside(&path, bytes, |unfinished| self.files.rename(unfinished, &path))
    }

    fn get(&self, name: &str) -> io::Result<Bytes> {
        self.files.read(&self.root.join(name)).map(Bytes::from)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        let file = self.files.open(&self.root.join(name), OpenMode::Read)?;
        let mut bytes = vec![0; range_bytes(&range)?];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(Bytes::from(bytes))
    }

    fn head(&self, name: &str) -> io::Result<ObjectInfo> {
        let metadata = self.files.metadata(&self.root.join(name))?;
        Ok(ObjectInfo { bytes: metadata.bytes, modified_micros: metadata.modified_micros })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let paths = match self.files.list(&self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            paths => paths?,
        };
        let objects = paths.iter().filter(|path| !is_unfinished(path));
        let names = objects.filter_map(|path| path.file_name()?.to_str());
        Ok(names
            .map(|name| if folder.is_empty() { name.into() } else { format!("{folder}/{name}") })
            .collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        self.files.remove(&path)?;
        self.files.sync_folder(path.parent().unwrap_or(&self.root))
    }

    fn remove_unfinished(&self, before_micros: i64) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        self.unfinished_below(&self.root, before_micros, &mut found)?;
        let mut removed = Vec::new();
        for path in found {
            match self.files.remove(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                outcome => outcome?,
            }
            let name = path.strip_prefix(&self.root).expect("it was found below the root");
            removed.push(name.to_string_lossy().into_owned());
        }
        removed.sort();
        Ok(removed)
    }
}

/// Whether a file is not an object yet: a create is writing it, or was killed while it did.
fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(UNFINISHED))
}

/// Creates a folder if it is missing. An existing one costs no sync, so that opening a store is
/// cheap.
fn create_missing(files: &dyn Files, folder: &Path) -> io::Result<()> {
    if files.is_folder(folder) { Ok(()) } else { files.create_folder(folder) }
}

/// The number of bytes in a range that is to be read into memory.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when it ends before it begins, or does not fit into memory.
pub(super) fn range_bytes(range: &Range<u64>) -> io::Result<usize> {
    let bytes = range.end.checked_sub(range.start).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
