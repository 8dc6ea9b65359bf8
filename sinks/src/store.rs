//! Where committed objects go: a folder of this machine, written once each, durably.
//!
//! The one operation that matters is a conditional create. An object appears under its name whole and
//! synced, or not at all; whoever comes second learns that it is there and whether it is the same.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tidegate_facts::Digest;

/// A store of immutable objects.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    objects: Arc<dyn ObjectStore>,
}

/// What came of a conditional create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is new.
    New,
    /// The same object was there: the work was done before.
    Already,
}

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("cannot use `{path}` as a store; check that it is a folder and writable")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// An object cannot be written or read.
    #[error(
        "cannot {doing} `{path}`; check free space and permissions, then start again: what was committed stays"
    )]
    Object {
        /// What was tried.
        doing: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another object stands under the name.
    #[error(
        "`{path}` is there already with other content ({found} instead of {wanted}); the folder belongs to another \
         run, or was changed: use a new data folder, or restore this one"
    )]
    Conflict {
        /// The object.
        path: PathBuf,
        /// The digest of what is there.
        found: Digest,
        /// The digest of what was to be written.
        wanted: Digest,
    },
}

impl Store {
    /// The store in the folder `root`, which is made if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made or opened.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let folder = |source: std::io::Error| StoreError::Folder { path: root.to_owned(), source };
        std::fs::create_dir_all(root).map_err(folder)?;
        let root = root.canonicalize().map_err(folder)?;
        let objects = LocalFileSystem::new_with_prefix(&root).map_err(|error| StoreError::Folder {
            path: root.clone(),
            source: std::io::Error::other(error),
        })?;
        Ok(Store { root, objects: Arc::new(objects) })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store as DataFusion reads it.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// Creates the object `name` unless it is there. When this returns, the object is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when another object has the name; otherwise when it cannot be written.
    pub fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let path = self.root.join(name);
        let object = |doing: &'static str| {
            let path = path.clone();
            move |source: std::io::Error| StoreError::Object { doing, path, source }
        };
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(object("create the folder of"))?;
        let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
        let written = (|| {
            let mut file = std::fs::File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()
        })();
        // A link, unlike a rename, never replaces what is there.
        let linked = written.and_then(|()| std::fs::hard_link(&unfinished, &path));
        let removed = std::fs::remove_file(&unfinished);
        match linked {
            Ok(()) => {
                removed.map_err(object("tidy up beside"))?;
                std::fs::File::open(folder)
                    .and_then(|f| f.sync_all())
                    .map_err(object("sync the folder of"))?;
                Ok(Created::New)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let there = std::fs::read(&path).map_err(object("read"))?;
                let (found, wanted) = (Digest::of(&there), Digest::of(bytes));
                if found == wanted {
                    Ok(Created::Already)
                } else {
                    Err(StoreError::Conflict { path, found, wanted })
                }
            }
            Err(error) => Err(object("write")(error)),
        }
    }

    /// The content of an object.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.root.join(name);
        std::fs::read(&path).map_err(|source| StoreError::Object { doing: "read", path, source })
    }

    /// The names of the objects directly in a folder, sorted; none when there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.root.join(folder);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Object { doing: "list", path, source }),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry =
                entry.map_err(|source| StoreError::Object { doing: "list", path: path.clone(), source })?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.contains(".unfinished-") {
                names.push(format!("{folder}/{name}"));
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_create_learns_whether_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.create("a/b.txt", b"one").unwrap(), Created::New);
        assert_eq!(store.create("a/b.txt", b"one").unwrap(), Created::Already);
        assert!(matches!(store.create("a/b.txt", b"two"), Err(StoreError::Conflict { .. })));
        assert_eq!(store.read("a/b.txt").unwrap(), b"one");
        assert_eq!(store.list("a").unwrap(), ["a/b.txt"]);
        assert!(store.list("none").unwrap().is_empty());
    }
}
