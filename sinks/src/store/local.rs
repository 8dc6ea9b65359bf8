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

use super::{ObjectBackend, ObjectInfo, StoreUrl};

/// Part of the name of every file that is not an object yet.
const UNFINISHED: &str = ".unfinished-";

/// The objects of a local folder. An object's name is the relative path of its file.
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
        let folder = path.parent().unwrap_or(&self.root);
        self.create_folder(folder)?;
        let (file, unfinished) = self.create_unfinished(&path)?;
        let written = file.write_at(bytes, 0).and_then(|()| file.sync_all());
        // A link, unlike a rename, never replaces an existing file.
        let linked = written.and_then(|()| self.files.link(&unfinished, &path));
        let removed = self.files.remove(&unfinished);
        match &linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return linked,
            // The process that created the existing file may have been killed before its name was
            // durable.
            _ => self.files.sync_folder(folder)?,
        }
        linked.and(removed)
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
        let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
        let names = names.filter(|name| !name.contains(UNFINISHED));
        Ok(names
            .map(|name| if folder.is_empty() { name.into() } else { format!("{folder}/{name}") })
            .collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        self.files.remove(&path)?;
        self.files.sync_folder(path.parent().unwrap_or(&self.root))
    }
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
