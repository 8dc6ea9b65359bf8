//! Checkpoints: the state of a run at a commit boundary, so that the next start reads the tail of
//! the log instead of all of it.
//!
//! The state of a graph consists of timelines, to which rows are only ever added. So a checkpoint
//! lists [`StateFile`]s: the rows that one partition added to one timeline in one interval, each an
//! object named by the digest of its bytes. The next checkpoint lists the same files and those of
//! its own interval, without the files whose rows no look-up can reach any more, or which a
//! snapshot of the timeline's operator replaces. Which rows a file holds follows from the log
//! alone, so any number of workers can restore it.
//!
//! The runs of the dedupe index are not part of a checkpoint. Merging replaces them at any time, so
//! a list of them would soon name files that are gone. Each run has checksums of its own and states
//! the ticks that it covers; a start reads the log again for the ticks that no run covers.
//!
//! | object | holds |
//! |---|---|
//! | `state/<upper, 20 digits>.json` | one [`Checkpoint`], its digest and its signature |
//! | `state/files/<digest>.arrow` | the rows of one state file, an Arrow IPC stream |
//!
//! State is stored apart from the commits, which are a function of the log alone. It names the
//! digest of the commit at its boundary and is signed with the commits' key.
//!
//! A checkpoint is only a shortcut, so nothing in it is trusted. Its text and each state file must
//! have their digests, the commit must be the store's own, and a run with a key restores only what
//! that key signed. Otherwise the checkpoint is ignored with a warning, and the one before it is
//! tried.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use tidegate_facts::{Digest, Tick};

use crate::commits::Commits;
use crate::log::LogPosition;
use crate::signing::{Signature, Signer};
use crate::store::{Store, StoreError};

/// The recipe of a checkpoint, which it names.
const STATE: &str = "tidegate.state.v2";
/// The folder of checkpoints in a store.
const FOLDER: &str = "state";
/// How many checkpoints a store retains, so that a damaged one can be ignored.
const RETAINED: usize = 3;

/// A state file of a checkpoint: the rows that one partition added to one timeline in one interval,
/// as an object of the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// The timeline: its node, a slash, and its number in the node, or a word for a snapshot.
    pub timeline: String,
    /// The partition of its rows.
    pub partition: u16,
    /// The first tick of the interval.
    pub lower: Tick,
    /// The first tick after the interval.
    pub upper: Tick,
    /// The greatest event time of its rows, in microseconds.
    pub last: i64,
    /// The number of its rows.
    pub rows: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// A checkpoint: the state of a run at one commit boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Always [`STATE`].
    pub recipe: String,
    /// The digest of the plan whose state it is.
    pub plan: Digest,
    /// The boundary: the state is that of all facts before this tick.
    pub upper: Tick,
    /// The digest of the commit that ends at the boundary.
    pub commit: Digest,
    /// The position in front of the group that holds the boundary. A restored run reads on from
    /// there.
    pub position: LogPosition,
    /// The number of groups in the log up to the one that holds the boundary. A shorter log lost
    /// it.
    pub groups: u64,
    /// The number of facts in the log before the boundary.
    pub facts: u64,
    /// The number of facts of each partition of `traffic` before the boundary.
    pub basis: Vec<i64>,
    /// What the gate learnt from the groups before the position, in its own form.
    pub gate: String,
    /// The state files, by timeline, partition and interval.
    pub files: Vec<StateFile>,
}

/// The form of a checkpoint in the store.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Digested {
    state: Checkpoint,
    /// BLAKE3 of the state's text.
    digest: Digest,
    /// The signature over the state's text; `None` when the run had no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

impl StateFile {
    fn name(&self) -> String {
        format!("{FOLDER}/files/{}.arrow", self.digest)
    }

    /// Writes rows of a timeline to the store.
    ///
    /// # Errors
    /// When the store fails.
    pub fn write(
        timeline: &str,
        partition: u16,
        (lower, upper): (Tick, Tick),
        last: i64,
        rows: &RecordBatch,
        store: &Store,
    ) -> Result<StateFile, StoreError> {
        let bytes = encode(rows);
        let file = StateFile {
            timeline: timeline.to_owned(),
            partition,
            lower,
            upper,
            last,
            rows: rows.num_rows() as u64,
            digest: Digest::of(&bytes),
        };
        store.create(&file.name(), &bytes)?;
        Ok(file)
    }

    /// The rows, or a sentence that says why they cannot be trusted.
    fn read(&self, store: &Store) -> Result<RecordBatch, String> {
        let bytes = store.get(&self.name()).map_err(|error| error.to_string())?;
        let found = Digest::of(&bytes);
        if found != self.digest {
            return Err(format!("`{}` has digest {found}", self.name()));
        }
        let unreadable = |error| format!("`{}` cannot be read ({error})", self.name());
        let mut reader = StreamReader::try_new(&*bytes, None).map_err(unreadable)?;
        let rows = reader.next().ok_or_else(|| format!("`{}` is empty", self.name()))?;
        rows.map_err(unreadable)
    }
}

fn encode(rows: &RecordBatch) -> Vec<u8> {
    let written = StreamWriter::try_new(Vec::new(), rows.schema_ref()).and_then(|mut writer| {
        writer.write(rows)?;
        writer.into_inner()
    });
    written.expect("rows of a timeline can be written to memory")
}

impl Checkpoint {
    /// A checkpoint at the boundary `upper`, of a plan, with the commit that ends there. The other
    /// fields are empty.
    pub fn new(plan: Digest, upper: Tick, commit: Digest) -> Checkpoint {
        Checkpoint {
            recipe: STATE.to_owned(),
            plan,
            upper,
            commit,
            position: LogPosition::default(),
            groups: 0,
            facts: 0,
            basis: Vec::new(),
            gate: String::new(),
            files: Vec::new(),
        }
    }

    fn name(&self) -> String {
        format!("{FOLDER}/{:020}.json", self.upper.0)
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("a checkpoint has a JSON form")
    }

    /// Writes the checkpoint, signed if there is a key, and removes the oldest ones.
    ///
    /// # Errors
    /// When the store fails.
    pub fn write(mut self, signer: Option<&Signer>, store: &Store) -> Result<(), StoreError> {
        self.files.sort();
        let (name, text) = (self.name(), self.text());
        let signature = signer.map(|signer| signer.sign(text.as_bytes()));
        let object = Digested { state: self, digest: Digest::of(text.as_bytes()), signature };
        let object = serde_json::to_string(&object).expect("a checkpoint has a JSON form");
        match store.create(&name, object.as_bytes()) {
            // Another build or key wrote the existing one, or it is damaged. This one is right.
            Err(StoreError::Conflict { .. }) => {
                store.replace(&name, object.as_bytes())?;
            }
            written => {
                written?;
            }
        }
        remove_oldest(store)
    }

    /// Loads the newest checkpoint of a plan that can be trusted, with the rows of its state files
    /// in their order. `commits` are those of the store; with a `signer`, its key must have signed
    /// it.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn load(
        store: &Store,
        plan: &Digest,
        commits: &Commits,
        signer: Option<&Signer>,
    ) -> Result<Option<(Checkpoint, Vec<RecordBatch>)>, StoreError> {
        for name in names(store)?.into_iter().rev() {
            match read(store, &name, signer) {
                Ok(checkpoint) if checkpoint.plan != *plan => {
                    tracing::info!(name, "ignoring checkpoint: it belongs to another plan");
                }
                Ok(checkpoint) if !checkpoint.is_at_commit_of(commits) => {
                    tracing::warn!(name, "ignoring checkpoint: no commit of this store ends there");
                }
                Ok(checkpoint) => {
                    let rows: Result<Vec<_>, String> =
                        checkpoint.files.iter().map(|file| file.read(store)).collect();
                    match rows {
                        Ok(rows) => return Ok(Some((checkpoint, rows))),
                        Err(what) => tracing::warn!(name, "ignoring checkpoint: {what}"),
                    }
                }
                Err(what) => tracing::warn!(name, "ignoring checkpoint: {what}"),
            }
        }
        Ok(None)
    }

    fn is_at_commit_of(&self, commits: &Commits) -> bool {
        commits.ending_at(self.upper).is_some_and(|(_, digest)| digest == self.commit)
    }
}

/// The names of all checkpoints of a store, from the oldest to the newest.
fn names(store: &Store) -> Result<Vec<String>, StoreError> {
    Ok(store.list(FOLDER)?.into_iter().filter(|name| name.ends_with(".json")).collect())
}

fn read(store: &Store, name: &str, signer: Option<&Signer>) -> Result<Checkpoint, String> {
    let bytes = store.get(name).map_err(|error| error.to_string())?;
    let Digested { state, digest, signature } =
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let text = state.text();
    if Digest::of(text.as_bytes()) != digest {
        return Err("it does not match its digest".to_owned());
    }
    if state.recipe != STATE || state.name() != name {
        return Err(format!("it is `{}` of {}", state.recipe, state.upper));
    }
    if let Some(key) = signer.map(Signer::public) {
        match signature {
            None => return Err("it is not signed".to_owned()),
            Some(signature) if key.verify(text.as_bytes(), &signature) => {}
            Some(signature) => return Err(format!("it is not what key {} signed", signature.key_id)),
        }
    }
    Ok(state)
}

/// Removes all but the newest checkpoints, and the state files that only the removed ones list.
/// Files that no checkpoint lists stay, because the next checkpoint may list them.
fn remove_oldest(store: &Store) -> Result<(), StoreError> {
    let names = names(store)?;
    let (old, retained) = names.split_at(names.len().saturating_sub(RETAINED));
    // A checkpoint that cannot be read lists no file, and will be ignored.
    let files = |names: &[String]| -> BTreeSet<String> {
        let read = names.iter().filter_map(|name| read(store, name, None).ok());
        read.flat_map(|checkpoint| checkpoint.files).map(|file| file.name()).collect()
    };
    if old.is_empty() {
        return Ok(());
    }
    let (needed, left) = (files(retained), files(old));
    for name in old.iter().chain(left.difference(&needed)) {
        store.delete(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::commits::CommitInterval;
    use crate::hash_chains::LogHeads;

    fn rows(ticks: &[i64]) -> RecordBatch {
        let ticks: ArrayRef = Arc::new(Int64Array::from(ticks.to_vec()));
        RecordBatch::try_from_iter([("_tick", ticks)]).unwrap()
    }

    struct Sample {
        folder: tempfile::TempDir,
        store: Store,
        plan: Digest,
        commits: Commits,
        signer: Option<Signer>,
    }

    impl Sample {
        /// Checkpoints at 10, 20, .. with one state file for each interval, and all files before.
        fn new(count: i64) -> Sample {
            Sample::signed(count, None)
        }

        fn signed(count: i64, signer: Option<Signer>) -> Sample {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let (plan, commits) = (Digest::of(b"plan"), Commits::default());
            let mut sample = Sample { folder, store, plan, commits, signer };
            let mut files = Vec::new();
            for number in 0..count {
                files.push(sample.file(10 * number));
                sample.write(10 * number + 10, files.clone());
            }
            sample
        }

        fn file(&self, lower: i64) -> StateFile {
            let interval = (Tick(lower), Tick(lower + 10));
            StateFile::write("windowed/0", 0, interval, 0, &rows(&[lower + 1]), &self.store).unwrap()
        }

        /// Commits up to a tick, and writes a checkpoint there.
        fn write(&mut self, upper: i64, files: Vec<StateFile>) {
            let (upper, log) = (Tick(upper), LogHeads::default());
            let interval = CommitInterval { upper, plan: self.plan, log, files: Vec::new() };
            self.commits.publish(interval, self.signer.as_ref(), &self.store).unwrap();
            let checkpoint = Checkpoint::new(self.plan, upper, self.commits.head());
            Checkpoint { files, ..checkpoint }.write(self.signer.as_ref(), &self.store).unwrap();
        }

        fn load_as(&self, signer: Option<&Signer>) -> Option<(Tick, Vec<RecordBatch>)> {
            let loaded = Checkpoint::load(&self.store, &self.plan, &self.commits, signer).unwrap();
            loaded.map(|(checkpoint, rows)| (checkpoint.upper, rows))
        }

        fn load(&self) -> Option<(Tick, Vec<RecordBatch>)> {
            self.load_as(self.signer.as_ref())
        }

        fn change(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
            let path = self.folder.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            change(&mut bytes);
            std::fs::write(path, bytes).unwrap();
        }
    }

    #[test]
    fn the_newest_is_loaded_with_its_rows_and_old_ones_are_removed() {
        let sample = Sample::new(6);
        assert_eq!(sample.load(), Some((Tick(60), (0..6).map(|n| rows(&[10 * n + 1])).collect())));
        assert_eq!(names(&sample.store).unwrap().len(), RETAINED);
        let none = Checkpoint::load(&sample.store, &Digest::of(b"other"), &sample.commits, None);
        assert!(none.unwrap().is_none(), "the state of another plan is not restored");
        let none = Checkpoint::load(&sample.store, &sample.plan, &Commits::default(), None);
        assert!(none.unwrap().is_none(), "a checkpoint without its commit is not restored");
    }

    #[test]
    fn a_checkpoint_of_another_commit_is_ignored() {
        let mut sample = Sample::new(2);
        let other = Sample::signed(3, Some(Signer::from_secret(&[7; 32])));
        sample.commits = other.commits.clone();
        assert_eq!(sample.load(), None, "the commits end at the same ticks and have other digests");
    }

    #[test]
    fn a_run_with_a_key_restores_only_what_the_key_signed() {
        let (ours, theirs) = (Signer::from_secret(&[7; 32]), Signer::from_secret(&[8; 32]));
        let sample = Sample::signed(2, Some(ours.clone()));
        assert_eq!(sample.load_as(Some(&ours)).unwrap().0, Tick(20));
        assert_eq!(sample.load_as(Some(&theirs)), None);
        assert_eq!(sample.load_as(None).unwrap().0, Tick(20), "a run without a key cannot tell");
        assert_eq!(Sample::new(2).load_as(Some(&ours)), None);
    }

    #[test]
    fn files_of_the_next_checkpoint_outlive_the_removal_of_old_ones() {
        let mut sample = Sample::new(5);
        let next = sample.file(50);
        let newest = read(&sample.store, "state/00000000000000000050.json", None).unwrap();
        // Rows that no look-up reaches any more are left out, and removed with the last checkpoint
        // that has them.
        let first = newest.files[0].name();
        let files = [&newest.files[1..], std::slice::from_ref(&next)].concat();
        for upper in [60, 70, 80] {
            assert!(sample.store.get(&first).is_ok());
            sample.write(upper, files.clone());
        }
        assert!(sample.store.get(&first).is_err());
        assert_eq!(sample.load().unwrap().1.len(), 5);
    }

    #[test]
    fn what_does_not_verify_is_ignored() {
        let sample = Sample::new(5);
        let last = names(&sample.store).unwrap().pop().unwrap();
        for at in [10, 60, 200] {
            let sample = Sample::new(5);
            sample.change(&last, |bytes| bytes[at] ^= 1);
            assert_eq!(sample.load().unwrap().0, Tick(40), "a bit of byte {at}");
        }
        sample.change(&last, |bytes| bytes.truncate(50));
        assert_eq!(sample.load().unwrap().0, Tick(40));
        // The first file belongs to all of them.
        let file = read(&sample.store, "state/00000000000000000040.json", None).unwrap().files[0].name();
        sample.change(&file, |bytes| *bytes.last_mut().unwrap() ^= 1);
        assert_eq!(sample.load(), None);
    }
}
