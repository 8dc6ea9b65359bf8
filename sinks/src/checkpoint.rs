//! Checkpoints: the state of a graph at a commit boundary, so that a start reads the tail of the log and
//! not its history.
//!
//! What a graph keeps are timelines, to which rows are only ever added. So a checkpoint is a list of
//! [`Piece`]s, the rows that came to one timeline from one partition in one interval, each an object named
//! by the digest of its bytes; and the next checkpoint has the same pieces, but for those whose rows no
//! look-up can reach any more, or for which the rows stand that a state was put down as, and those of its
//! own interval. Which rows a piece holds follows from the log alone, whatever the number of workers, and
//! any number of workers can take them up.
//!
//! Objects of the store:
//!
//! | name | holds |
//! |---|---|
//! | `checkpoints/<upper, 20 digits>.json` | one [`Checkpoint`] and the digest of its text |
//! | `checkpoints/pieces/<digest>.arrow` | the rows of one piece, an Arrow IPC stream |
//!
//! Nothing is believed of a checkpoint: its text and each piece must have their digests, or it is passed
//! over with a warning, and the one before it is taken, or none.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use tidegate_facts::{Digest, Tick};

use crate::log::LogMark;
use crate::store::{Store, StoreError};

/// What the form of a checkpoint is called, inside it.
const CHECKPOINT: &str = "tidegate.checkpoint.v1";
/// How many checkpoints are kept, so that one can be passed over.
const KEPT: usize = 3;

/// The rows that came to one timeline from one partition in one interval.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// The timeline: its node, a slash, and its number in the node, or a word for what its state was put down as.
    pub timeline: String,
    /// The partition of its rows.
    pub partition: u16,
    /// The interval: ticks from `lower`,
    pub lower: Tick,
    /// to before `upper`.
    pub upper: Tick,
    /// The greatest event time of its rows, in microseconds.
    pub last: i64,
    /// How many rows.
    pub rows: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// Where everything stood at one commit boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Always [`CHECKPOINT`].
    recipe: String,
    /// The plan whose state it is.
    pub plan: Digest,
    /// The boundary: the state is that of all facts before this tick.
    pub upper: Tick,
    /// In front of the group that holds the boundary, with which reading goes on.
    pub mark: LogMark,
    /// How many groups the log has with the one that holds the boundary: a shorter log has lost it.
    pub groups: u64,
    /// How many facts the log has before the boundary.
    pub facts: u64,
    /// How many facts of each partition of `traffic` are before the boundary.
    pub basis: Vec<u64>,
    /// What the gate had learnt from the groups before the mark, in its own form.
    pub past: String,
    /// The state, by timeline, partition and interval.
    pub pieces: Vec<Piece>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    checkpoint: Checkpoint,
    /// BLAKE3 of the checkpoint's text.
    digest: Digest,
}

impl Piece {
    fn name(&self) -> String {
        format!("checkpoints/pieces/{}.arrow", self.digest)
    }

    /// Writes rows to the store as a piece.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn write(
        timeline: &str,
        partition: u16,
        (lower, upper): (Tick, Tick),
        last: i64,
        rows: &RecordBatch,
        store: &Store,
    ) -> Result<Piece, StoreError> {
        let bytes = encode(rows);
        let piece = Piece {
            timeline: timeline.to_owned(),
            partition,
            lower,
            upper,
            last,
            rows: rows.num_rows() as u64,
            digest: Digest::of(&bytes),
        };
        store.create(&piece.name(), &bytes)?;
        Ok(piece)
    }

    /// The rows, or why they cannot be trusted.
    fn read(&self, store: &Store) -> Result<RecordBatch, String> {
        let bytes = store.read(&self.name()).map_err(|error| error.to_string())?;
        let found = Digest::of(&bytes);
        if found != self.digest {
            return Err(format!("`{}` has digest {found}", self.name()));
        }
        let unreadable = |error| format!("`{}` cannot be read ({error})", self.name());
        let mut reader = StreamReader::try_new(bytes.as_slice(), None).map_err(unreadable)?;
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
    /// A checkpoint of these pieces.
    #[allow(clippy::too_many_arguments, reason = "each is a field")]
    pub fn new(
        plan: Digest,
        upper: Tick,
        mark: LogMark,
        groups: u64,
        facts: u64,
        basis: Vec<u64>,
        past: String,
        mut pieces: Vec<Piece>,
    ) -> Checkpoint {
        pieces.sort();
        Checkpoint { recipe: CHECKPOINT.to_owned(), plan, upper, mark, groups, facts, basis, past, pieces }
    }

    fn name(&self) -> String {
        format!("checkpoints/{:020}.json", self.upper.0)
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("a checkpoint has a JSON form")
    }

    /// Writes the checkpoint, and removes those that nobody will go back to.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn write(&self, store: &Store) -> Result<(), StoreError> {
        let signed = Signed { checkpoint: self.clone(), digest: Digest::of(self.text().as_bytes()) };
        let text = serde_json::to_string(&signed).expect("a checkpoint has a JSON form");
        match store.create(&self.name(), text.as_bytes()) {
            // One that another build wrote, or that was damaged: this one is known to be right.
            Err(StoreError::Conflict { .. }) => {
                store.delete(&self.name())?;
                store.create(&self.name(), text.as_bytes())?;
            }
            written => {
                written?;
            }
        }
        prune(store)
    }

    /// The newest checkpoint of this plan at one of the boundaries `uppers` that can be trusted, and its rows
    /// by the order of its pieces.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn load(
        store: &Store,
        plan: &Digest,
        uppers: &BTreeSet<Tick>,
    ) -> Result<Option<(Checkpoint, Vec<RecordBatch>)>, StoreError> {
        for name in records(store)?.into_iter().rev() {
            match read(store, &name) {
                Ok(checkpoint) if checkpoint.plan != *plan => {
                    tracing::info!(name, "a checkpoint of another plan is passed over");
                }
                Ok(checkpoint) if !uppers.contains(&checkpoint.upper) => {
                    tracing::warn!(name, "a checkpoint at no commit boundary is passed over");
                }
                Ok(checkpoint) => {
                    let rows: Result<Vec<_>, String> =
                        checkpoint.pieces.iter().map(|piece| piece.read(store)).collect();
                    match rows {
                        Ok(rows) => return Ok(Some((checkpoint, rows))),
                        Err(what) => tracing::warn!(name, what, "a checkpoint is passed over"),
                    }
                }
                Err(what) => tracing::warn!(name, what, "a checkpoint is passed over"),
            }
        }
        Ok(None)
    }
}

/// The names of all checkpoints, from the oldest to the newest.
fn records(store: &Store) -> Result<Vec<String>, StoreError> {
    Ok(store.list("checkpoints")?.into_iter().filter(|name| name.ends_with(".json")).collect())
}

fn read(store: &Store, name: &str) -> Result<Checkpoint, String> {
    let bytes = store.read(name).map_err(|error| error.to_string())?;
    let signed: Signed = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let checkpoint = signed.checkpoint;
    if Digest::of(checkpoint.text().as_bytes()) != signed.digest {
        return Err("it does not match its digest".to_owned());
    }
    if checkpoint.recipe != CHECKPOINT || checkpoint.name() != name {
        return Err(format!("it is `{}` of {}", checkpoint.recipe, checkpoint.upper));
    }
    Ok(checkpoint)
}

/// Removes all but the newest checkpoints, and the pieces that only the removed ones have. Pieces that no checkpoint
/// has stay: those of the next one may be among them.
fn prune(store: &Store) -> Result<(), StoreError> {
    let names = records(store)?;
    let (old, kept) = names.split_at(names.len().saturating_sub(KEPT));
    // What cannot be read names no piece, and will be passed over.
    let pieces = |names: &[String]| -> BTreeSet<String> {
        let read = names.iter().filter_map(|name| read(store, name).ok());
        read.flat_map(|checkpoint| checkpoint.pieces).map(|piece| piece.name()).collect()
    };
    let needed = pieces(kept);
    let left = pieces(old);
    for name in old.iter().chain(left.difference(&needed)) {
        store.delete(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, UInt64Array};

    use super::*;

    fn rows(ticks: &[u64]) -> RecordBatch {
        let ticks: ArrayRef = Arc::new(UInt64Array::from(ticks.to_vec()));
        RecordBatch::try_from_iter([("_tick", ticks)]).unwrap()
    }

    struct Sample {
        _folder: tempfile::TempDir,
        store: Store,
        plan: Digest,
    }

    impl Sample {
        /// Checkpoints at 10, 20, .. with one piece for each interval, and all pieces before.
        fn new(count: u64) -> Sample {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let plan = Digest::of(b"plan");
            let mut pieces = Vec::new();
            for number in 0..count {
                let interval = (Tick(10 * number), Tick(10 * number + 10));
                let piece = Piece::write("windowed/0", 0, interval, 0, &rows(&[10 * number + 1]), &store);
                pieces.push(piece.unwrap());
                let checkpoint = Checkpoint::new(
                    plan,
                    interval.1,
                    LogMark::default(),
                    number + 1,
                    number + 1,
                    vec![number + 1],
                    String::new(),
                    pieces.clone(),
                );
                checkpoint.write(&store).unwrap();
            }
            Sample { _folder: folder, store, plan }
        }

        fn load(&self) -> Option<(Tick, Vec<RecordBatch>)> {
            let uppers = (0..100).map(|number| Tick(10 * number)).collect();
            let loaded = Checkpoint::load(&self.store, &self.plan, &uppers).unwrap();
            loaded.map(|(checkpoint, rows)| (checkpoint.upper, rows))
        }

        fn change(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
            let path = self.store.root().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            change(&mut bytes);
            std::fs::write(path, bytes).unwrap();
        }
    }

    #[test]
    fn the_newest_is_loaded_with_its_rows_and_old_ones_are_removed() {
        let sample = Sample::new(6);
        assert_eq!(sample.load(), Some((Tick(60), (0..6).map(|n| rows(&[10 * n + 1])).collect())));
        assert_eq!(records(&sample.store).unwrap().len(), KEPT);
        let none = Checkpoint::load(&sample.store, &Digest::of(b"other"), &BTreeSet::from([Tick(60)]));
        assert!(none.unwrap().is_none(), "another plan's state is not taken");
        let none = Checkpoint::load(&sample.store, &sample.plan, &BTreeSet::new());
        assert!(none.unwrap().is_none(), "a checkpoint without its commit is not taken");
    }

    #[test]
    fn pieces_of_the_next_checkpoint_outlive_the_removal_of_old_ones() {
        let sample = Sample::new(5);
        let next =
            Piece::write("windowed/0", 0, (Tick(50), Tick(60)), 0, &rows(&[51]), &sample.store).unwrap();
        let newest = read(&sample.store, "checkpoints/00000000000000000050.json").unwrap();
        // Rows that no look-up reaches any more are left out, and gone with the last checkpoint that has them.
        let last = |upper, pieces: Vec<Piece>| {
            Checkpoint::new(sample.plan, upper, LogMark::default(), 1, 0, vec![], String::new(), pieces)
        };
        let first = newest.pieces[0].name();
        let pieces = [&newest.pieces[1..], std::slice::from_ref(&next)].concat();
        for upper in [60, 70, 80] {
            assert!(sample.store.read(&first).is_ok());
            last(Tick(upper), pieces.clone()).write(&sample.store).unwrap();
        }
        assert!(sample.store.read(&first).is_err());
        assert_eq!(sample.load().unwrap().1.len(), 5);
    }

    #[test]
    fn what_does_not_verify_is_passed_over() {
        let sample = Sample::new(5);
        let last = records(&sample.store).unwrap().pop().unwrap();
        for at in [10, 60, 200] {
            let sample = Sample::new(5);
            sample.change(&last, |bytes| bytes[at] ^= 1);
            assert_eq!(sample.load().unwrap().0, Tick(40), "a bit of byte {at}");
        }
        sample.change(&last, |bytes| bytes.truncate(50));
        assert_eq!(sample.load().unwrap().0, Tick(40));
        // The first piece belongs to all of them.
        let piece = read(&sample.store, "checkpoints/00000000000000000040.json").unwrap().pieces[0].name();
        sample.change(&piece, |bytes| *bytes.last_mut().unwrap() ^= 1);
        assert_eq!(sample.load(), None);
    }
}
