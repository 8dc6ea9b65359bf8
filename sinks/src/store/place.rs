//! Where a store keeps its objects: what it asks of such a place, and the place that is a folder.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

/// A place for objects, which are created once each, and never changed.
///
/// Every call is one attempt; the store above tries again. So a call must not wait without end: a
/// place behind a network brings its own time limit, and reports it as [`io::ErrorKind::TimedOut`].
pub trait Place: Debug + Send + Sync {
    /// What the names of objects are relative to, as a person would write it.
    fn root(&self) -> &Path;

    /// The place as DataFusion reads it.
    fn objects(&self) -> Arc<dyn ObjectStore>;

    /// Creates the object `name` unless there is one. `Ok` says that it is there, whole and durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] says that an object has the name, durably, and was left as it
    /// is. After any other error the object is there, whole, or it is not.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// The content of an object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// How many bytes an object has.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn length(&self, name: &str) -> io::Result<u64>;

    /// The names of the objects directly in a folder, in any order; none when there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes an object, durably.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn delete(&self, name: &str) -> io::Result<()>;
}

/// A folder of this machine.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    objects: Arc<LocalFileSystem>,
    /// The folders whose own names are durable.
    durable: Mutex<BTreeSet<PathBuf>>,
}

/// In the name of every file that is not an object yet.
const UNFINISHED: &str = ".unfinished-";

impl Folder {
    /// The folder `root`, which is made if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made or opened.
    pub fn open(root: &Path) -> io::Result<Folder> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        let objects = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Folder { root, objects: Arc::new(objects), durable: Mutex::default() })
    }

    /// Makes a folder and those above it, down from the root, and their names durable.
    fn make(&self, folder: &Path) -> io::Result<()> {
        if self.durable.lock().expect("no panic").contains(folder) {
            return Ok(());
        }
        let above = folder.parent();
        if folder != self.root {
            self.make(above.expect("a folder below the root"))?;
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(above) = above {
            sync(above)?;
        }
        self.durable.lock().expect("no panic").insert(folder.to_owned());
        Ok(())
    }
}

impl Place for Folder {
    fn root(&self) -> &Path {
        &self.root
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects) as Arc<dyn ObjectStore>
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        self.make(folder)?;
        let (mut file, unfinished) = unfinished(&path)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        // A link, unlike a rename, never replaces what is there.
        let linked = written.and_then(|()| fs::hard_link(&unfinished, &path));
        let removed = fs::remove_file(&unfinished);
        match &linked {
            // Whoever made what is there may have been killed before its name was durable.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return linked,
            _ => sync(folder)?,
        }
        linked.and(removed)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.root.join(name))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.root.join(name))?.len())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.contains(UNFINISHED) {
                names.push(format!("{folder}/{name}"));
            }
        }
        Ok(names)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        fs::remove_file(&path)?;
        sync(path.parent().unwrap_or(&self.root))
    }
}

/// A file of its own beside the object at `path`, whatever other threads and dead processes left there.
fn unfinished(path: &Path) -> io::Result<(File, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!("{UNFINISHED}{}-{count}", std::process::id()));
        let unfinished = path.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&unfinished) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            file => return Ok((file?, unfinished)),
        }
    }
}

/// Makes the names in a folder durable.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
