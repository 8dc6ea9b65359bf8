//! Commits: the manifests that say which files the tables of a store consist of, chained and
//! signed.
//!
//! The rows of all tables are cut at commit boundaries, which follow from the log. Each interval
//! becomes one file per table and partition that has rows, and one commit, which names these files
//! and the heads of the log's hash chains. What a file holds depends on the log alone, so a run
//! that repeats the work of an earlier one writes the same objects and finds them there.
//!
//! | object | holds |
//! |---|---|
//! | `tables/<table>/<lower>-<upper>-<digest>.parquet` (or `.jsonl`) | a partition's rows of an interval |
//! | `commits/<number>.json` | one [`Commit`] |
//!
//! Names have 20 digits of a tick or a number, and the first 16 of a file's BLAKE3 digest.
//!
//! Only commits decide which files count. A file that no commit names was left by a run that was
//! killed before it committed; [`Commits::sweep`] removes it once it is a day old.
//!
//! A commit names the digest of the commit before it, is in canonical form, and is signed over that
//! form without the signature if the run has a key. The rows of a sealed table are a hash chain in
//! each partition: each row has the digest of its record, and the commit has the last seal and the
//! Merkle root of the interval's records.

mod buffer;
mod file;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_facts::seal::Chain;
use tidegate_facts::{Digest, Tick};

use crate::hash_chains::{LogHead, LogHeads};
use crate::signing::{Signature, Signer};
use crate::store::{Store, StoreError};

pub use buffer::{TableBuffer, TableSlice, concat_rows, record_digests};
pub use file::{SealedRange, TableFile, TableFileFormat, interval_of, read_rows, without_field_ids};
pub(crate) use file::{encode_file, encode_parquet};
pub use sweep::Swept;

/// The folder of commits in a store.
const COMMITS: &str = "commits";
/// The name of the form of a commit's manifest, which every manifest states.
pub const MANIFEST: &str = "tidegate.manifest.v1";

/// The build of the program that wrote a commit. No record depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// The version of Tidegate.
    pub version: String,
    /// The revision of its source, or `unknown`.
    pub commit: String,
}

impl BuildInfo {
    /// This build.
    pub fn this() -> BuildInfo {
        BuildInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("TIDEGATE_COMMIT").unwrap_or("unknown").to_owned(),
        }
    }
}

/// A commit: the manifest of one interval, with the files of all tables, published at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Always [`MANIFEST`].
    pub recipe: String,
    /// The number of the commit. Commits count from 0 without gaps.
    pub number: u64,
    /// The first tick of the interval.
    pub lower: Tick,
    /// The first tick after the interval.
    pub upper: Tick,
    /// BLAKE3 of the commit before; zeros in the first.
    pub previous: Digest,
    /// The digest of the plan whose output this is.
    pub plan: Digest,
    /// The build that wrote it.
    pub build: BuildInfo,
    /// The heads of the log's hash chains at `upper`.
    pub log: Vec<LogHead>,
    /// The files, by table and partition. A partition without rows in the interval has none.
    pub files: Vec<TableFile>,
    /// BLAKE3 of the canonical form of the fields above, with zeros in this one. No later commit
    /// covers the last one, and a commit need not be signed.
    pub check: Digest,
    /// The signature over the fields above; `None` when the run had no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

impl Commit {
    /// The name of the object that holds commit `number`.
    pub fn name(number: u64) -> String {
        format!("{COMMITS}/{number:020}.json")
    }

    /// The text that is signed: the canonical form without the signature.
    pub fn signed_text(&self) -> String {
        Commit { signature: None, ..self.clone() }.text()
    }

    /// The value that the commit's `check` must have.
    pub fn computed_check(&self) -> Digest {
        let text = Commit { check: Digest::default(), signature: None, ..self.clone() }.text();
        Digest::of(text.as_bytes())
    }

    /// The canonical form of the commit.
    pub fn text(&self) -> String {
        let text = serde_json::to_string(self).expect("a commit has a JSON form");
        tidegate_facts::strict_json::canonical(&text).expect("its numbers are small")
    }
}

/// Why a table or a commit of a store could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows could not be encoded.
    #[error(
        "cannot encode table `{table}`; a column has a type that its format lacks: cast it in a `project` before"
    )]
    Encode {
        /// The table.
        table: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The chain of commits is broken.
    #[error(
        "commit `{name}` {what}; restore the folder from a copy, or rebuild it by running the topology on the log in a new folder"
    )]
    Chain {
        /// The name of the commit.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The interval that a commit is to publish: its upper tick, plan, log heads and table files.
#[derive(Clone, Debug)]
pub struct CommitInterval {
    /// The first tick after the interval.
    pub upper: Tick,
    /// The digest of the plan whose output it is.
    pub plan: Digest,
    /// The heads of the log's hash chains at `upper`.
    pub log: LogHeads,
    /// The files of all tables.
    pub files: Vec<TableFile>,
}

/// The commits of a store, each checked against the one before.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    /// The commits in order. Clones share them.
    pub list: Vec<Arc<Commit>>,
    /// BLAKE3 of the last one, by which the next one names it; zeros before the first.
    pub head: Digest,
}

impl Commits {
    /// Reads every commit of a store.
    ///
    /// # Errors
    /// [`TableError::Chain`] names the first commit that does not follow from the one before.
    pub fn read(store: &Store) -> Result<Commits, TableError> {
        let mut commits = Commits::default();
        for name in store.list(COMMITS)? {
            commits.push(&name, &store.get(&name)?)?;
        }
        Ok(commits)
    }

    /// Reads the commits that were published since, without listing the store. Returns how many
    /// there are.
    ///
    /// # Errors
    /// As [`Commits::read`].
    pub fn read_new(&mut self, store: &Store) -> Result<usize, TableError> {
        let before = self.list.len();
        loop {
            let name = Commit::name(self.list.len() as u64);
            match store.get(&name) {
                Ok(bytes) => self.push(&name, &bytes)?,
                Err(error) if error.is_not_found() => return Ok(self.list.len() - before),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Adds the commit in an object, once it is checked against the last one.
    fn push(&mut self, name: &str, bytes: &[u8]) -> Result<(), TableError> {
        let broken = |what: String| TableError::Chain { name: name.to_owned(), what };
        let commit: Commit =
            serde_json::from_slice(bytes).map_err(|e| broken(format!("cannot be read ({e})")))?;
        if commit.recipe != MANIFEST || commit.text().as_bytes() != bytes {
            return Err(broken("is not in its canonical form".to_owned()));
        }
        if commit.check != commit.computed_check() {
            return Err(broken("was changed after it was written".to_owned()));
        }
        let next = self.list.len();
        if commit.number != next as u64 {
            return Err(broken(format!("has number {} where {next} follows", commit.number)));
        }
        if commit.previous != self.head || commit.lower != self.upper() {
            return Err(broken(match self.list.last() {
                None => "does not begin where the first commit must".to_owned(),
                Some(last) => format!("does not follow from `{}` before it", Commit::name(last.number)),
            }));
        }
        self.head = Digest::of(bytes);
        self.list.push(Arc::new(commit));
        Ok(())
    }

    /// The first tick that is not committed.
    pub fn upper(&self) -> Tick {
        self.list.last().map_or(Tick::ZERO, |commit| commit.upper)
    }

    /// Publishes the interval from [`Self::upper`] on as the next commit.
    ///
    /// Publishing is the last moment to notice that the store lost what it acknowledged. So each
    /// file is looked for before the commit names it, and the commit is read back.
    ///
    /// # Errors
    /// When the store fails or lacks what it acknowledged. Another commit of the same number is a
    /// conflict.
    pub fn publish(
        &mut self,
        interval: CommitInterval,
        signer: Option<&Signer>,
        store: &Store,
    ) -> Result<(), TableError> {
        let CommitInterval { upper, plan, log, mut files } = interval;
        files.sort();
        for file in &files {
            store.confirm_size(&file.name, file.bytes)?;
        }
        let mut commit = Commit {
            recipe: MANIFEST.to_owned(),
            number: self.list.len() as u64,
            lower: self.upper(),
            upper,
            previous: self.head,
            plan,
            build: BuildInfo::this(),
            log: log.0,
            files,
            check: Digest::default(),
            signature: None,
        };
        commit.check = commit.computed_check();
        commit.signature = signer.map(|signer| signer.sign(commit.text().as_bytes()));
        let text = commit.text();
        let name = Commit::name(commit.number);
        store.create(&name, text.as_bytes())?;
        store.confirm(&name, text.as_bytes())?;
        self.head = Digest::of(text.as_bytes());
        tracing::info!(
            commit = commit.number,
            upper = commit.upper.0,
            plan = %commit.plan,
            manifest = %self.head,
            files = commit.files.len(),
            rows = commit.files.iter().map(|file| file.rows).sum::<u64>(),
            "commit published"
        );
        self.list.push(Arc::new(commit));
        Ok(())
    }

    /// The digest of the newest commit; zeros before the first.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The commit whose interval ends at `upper`, and its digest.
    pub fn ending_at(&self, upper: Tick) -> Option<(&Commit, Digest)> {
        let index = self.list.binary_search_by_key(&upper, |commit| commit.upper).ok()?;
        let digest = self.list.get(index + 1).map_or(self.head, |next| next.previous);
        Some((&self.list[index], digest))
    }

    /// The heads of the log's hash chains at [`Self::upper`].
    pub fn log_heads(&self) -> LogHeads {
        LogHeads(self.list.last().map(|commit| commit.log.clone()).unwrap_or_default())
    }

    /// The state of the hash chain of each partition of a sealed table.
    pub fn chains(&self, table: &str) -> BTreeMap<u16, Chain> {
        self.files_of(table).filter_map(|file| Some((file.partition, file.seal?.chain))).collect()
    }

    /// The files of a table, in order.
    pub fn files_of<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a TableFile> {
        self.list.iter().flat_map(|commit| &commit.files).filter(move |file| file.table == table)
    }

    /// The names of the tables that have rows, sorted.
    pub fn tables(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.list.iter().flat_map(|c| &c.files).map(|f| f.table.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}
