//! Tests of the archive: what it gives back, what it refuses, and what pruning removes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryBuilder,
    Float64Array, Int16Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray, UInt8Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Int16Type, Int32Type};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tempfile::TempDir;
use tidegate_facts::columns::{self, OFFSET, OffsetArray, OffsetBuilder, TICK, drop_null_columns};
use tidegate_facts::{Digest, Tick, Topic};
use tidegate_host::Host;
use tidegate_sinks::archive::{
    Archive, ArchiveError, ArchiveReport, Bound, Hydrated, LogRetention, Preference, Pruned, hydrate, prune,
    read_range, verify, write,
};
use tidegate_sinks::log::{
    EmbeddedLog, Frame, Group, LogError, LogFolder, LogOptions, LogPosition, LogReader, LogWriter, Recovery,
    Start, Until,
};
use tidegate_sinks::store::Store;

const SMALL: LogOptions = LogOptions { segment_bytes: 24 << 10 };

/// A log of random groups, some of which end a run, and a store beside it.
struct Sample {
    folder: TempDir,
    groups: Vec<Group>,
    store: Store,
}

impl Sample {
    fn new(seed: u64, groups: usize) -> Sample {
        Sample::of(seed, groups, |_, _| {})
    }

    fn of(seed: u64, groups: usize, change: impl Fn(usize, &mut Group)) -> Sample {
        println!("seed {seed}");
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store")).unwrap();
        let mut sample = Sample { folder, groups: Vec::new(), store };
        let (mut log, _) = sample.open();
        let mut chance = Chance(ChaCha8Rng::seed_from_u64(seed));
        for number in 0..groups {
            let mut group = chance.group(&log);
            group.commit = number % 5 == 4 || number + 1 == groups;
            change(number, &mut group);
            log.append_and_wait(&group).unwrap();
            sample.groups.push(group);
        }
        sample
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log(&self) -> LogFolder {
        LogFolder::at(&Host::real(), &self.path())
    }

    fn open(&self) -> (EmbeddedLog, Recovery) {
        self.log().open(SMALL).unwrap()
    }

    fn object(&self, name: &str) -> PathBuf {
        self.store.location(name).into()
    }

    fn hydrate(&self, from: Bound, to: Option<Bound>, out: &Path) -> Result<Hydrated, ArchiveError> {
        hydrate(&self.log(), &self.store, from, to, &Host::real(), out)
    }

    fn archive(&self) -> Archive {
        Archive::open(&self.store).unwrap()
    }

    fn write(&self) -> ArchiveReport {
        write(&self.log(), Until::Complete, &self.store).unwrap()
    }

    fn faults(&self) -> Vec<String> {
        verify(&self.log(), &self.store).unwrap().faults
    }

    fn prune(&self, retention: LogRetention) -> Pruned {
        prune(&self.log().lock().unwrap(), &self.store, retention).unwrap()
    }

    fn read(
        &self,
        from: Bound,
        to: Option<Bound>,
        preference: Preference,
    ) -> Result<Vec<Group>, ArchiveError> {
        let log = self.log();
        let groups = read_range(&log, Some(&self.store), from, to, preference)?;
        groups.map(|group| group.map(|logged| logged.group)).collect()
    }
}

/// Draws frames of every type that a fact or a receipt can have.
struct Chance(ChaCha8Rng);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn maybe<T>(&mut self, value: T) -> Option<T> {
        (self.below(3) > 0).then_some(value)
    }

    fn group(&mut self, log: &EmbeddedLog) -> Group {
        let mut ends: BTreeMap<(Topic, u16), u64> = BTreeMap::new();
        let mut micros = log.upper().micros() + 1;
        let mut frames = Vec::new();
        for (topic, name) in
            [(Topic::Traffic, "paid.v1"), (Topic::Control, "odd/näme"), (Topic::Traffic, "seen.v1")]
        {
            let rows = self.below(40) as usize;
            let facts: Vec<(Tick, u64)> = (0..rows)
                .map(|_| {
                    micros += 1 + self.below(50) as i64;
                    let partition = self.below(3) as u16;
                    let end =
                        ends.entry((topic, partition)).or_insert_with(|| log.end_offset(topic, partition));
                    *end += 1;
                    (Tick::new(micros, partition).unwrap(), *end - 1)
                })
                .collect();
            if self.below(4) > 0 {
                frames.push(Frame { topic, name: name.to_owned(), rows: self.facts(&facts) });
            } else {
                // Those offsets were not used.
                for (tick, _) in &facts {
                    *ends.get_mut(&(topic, tick.partition())).unwrap() -= 1;
                }
            }
        }
        // Facts of one partition of a topic ascend over its frames only within one frame.
        let rows = self.receipts();
        frames.push(Frame { topic: Topic::Audit, name: "receipts".to_owned(), rows });
        let upper = Tick::new(micros + 1, 0).unwrap();
        Group { frames, lower: log.upper(), upper, commit: false }
    }

    fn texts(&mut self, rows: usize) -> StringArray {
        (0..rows)
            .map(|_| {
                let n = self.below(9);
                self.maybe(format!("text {n} ä"))
            })
            .collect()
    }

    /// A dictionary in an order of its own, with texts that no row has.
    fn dictionary(&mut self, rows: usize) -> DictionaryArray<Int32Type> {
        let texts = ["zeta", "alpha", "never", "beta"];
        if self.below(2) == 0 {
            let keys: Int32Array = (0..rows)
                .map(|_| {
                    let n = self.below(4) as i32;
                    self.maybe(n)
                })
                .collect();
            return DictionaryArray::new(keys, Arc::new(StringArray::from(texts.to_vec())));
        }
        (0..rows)
            .map(|_| {
                let n = self.below(4) as usize;
                self.maybe(texts[n])
            })
            .collect()
    }

    fn digests(&mut self, rows: usize) -> ArrayRef {
        let mut digests = FixedSizeBinaryBuilder::with_capacity(rows, 32);
        for _ in 0..rows {
            let digest = Digest::of(&self.below(1000).to_le_bytes());
            match self.maybe(digest) {
                Some(digest) => digests.append_value(digest.0).unwrap(),
                None => digests.append_null(),
            }
        }
        Arc::new(digests.finish())
    }

    fn facts(&mut self, facts: &[(Tick, u64)]) -> RecordBatch {
        let rows = facts.len();
        let amounts: Decimal128Array = (0..rows)
            .map(|_| {
                let n = self.below(1 << 40);
                self.maybe(i128::from(n) - 7)
            })
            .collect();
        let times: TimestampMicrosecondArray = (0..rows)
            .map(|_| {
                let n = self.below(1 << 50) as i64;
                self.maybe(n)
            })
            .collect();
        let floats = [0.0, -0.0, f64::NAN, f64::INFINITY, 0.1, -1e300];
        let floats: Float64Array = (0..rows)
            .map(|_| {
                let n = self.below(6) as usize;
                self.maybe(floats[n])
            })
            .collect();
        let flags: BooleanArray = (0..rows)
            .map(|_| {
                let n = self.below(2) == 0;
                self.maybe(n)
            })
            .collect();
        let counts: Int64Array = (0..rows)
            .map(|_| {
                let n = self.below(u64::MAX) as i64;
                self.maybe(n)
            })
            .collect();
        let small: Int32Array = (0..rows)
            .map(|_| {
                let n = self.below(9) as i32;
                self.maybe(n)
            })
            .collect();
        let mut basis = ListBuilder::new(OffsetBuilder::new()).with_field(columns::basis_item());
        for _ in 0..rows {
            (0..self.below(4) as i64).for_each(|i| basis.values().append_value(i));
            basis.append(true);
        }
        let payload: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(self.texts(rows))),
            ("kind", Arc::new(self.dictionary(rows))),
            ("amount", Arc::new(amounts.with_precision_and_scale(18, 2).unwrap())),
            ("at", Arc::new(times.with_timezone("UTC"))),
            ("score", Arc::new(floats)),
            ("flag", Arc::new(flags)),
            ("count", Arc::new(counts)),
            ("small", Arc::new(small)),
        ];
        let fields: Fields =
            payload.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let arrays = payload.into_iter().map(|(_, array)| array).collect();
        let payload = StructArray::try_new_with_length(fields, arrays, None, rows).unwrap();
        let offsets = OffsetArray::from_iter_values(facts.iter().map(|(_, offset)| offset.cast_signed()));
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            (TICK, Arc::new(columns::tick_array(facts.iter().map(|(tick, _)| *tick))), false),
            (OFFSET, Arc::new(offsets), false),
            ("basis", Arc::new(basis.finish()), false),
            ("context", Arc::new(self.dictionary(rows)), true),
            ("payload_hash", self.digests(rows), true),
            ("trace_id", Arc::new(self.texts(rows)), true),
            ("payload", Arc::new(payload), true),
        ];
        let whole = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        // A batch that is cut out of a larger one has bits of its neighbours after its end.
        match self.below(3) {
            0 => drop_null_columns(&whole),
            _ => whole,
        }
    }

    fn receipts(&mut self) -> RecordBatch {
        let rows = 1 + self.below(30) as usize;
        let verdicts = UInt8Array::from_iter_values((0..rows).map(|_| self.below(3) as u8));
        let reasons: UInt8Array = (0..rows)
            .map(|_| {
                let n = self.below(9) as u8;
                self.maybe(n)
            })
            .collect();
        let bytes: BinaryArray = (0..rows)
            .map(|_| {
                let n = self.below(9);
                self.maybe(n.to_be_bytes())
            })
            .collect();
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("source", Arc::new(self.dictionary(rows)), true),
            ("verdict", Arc::new(verdicts), false),
            ("reason", Arc::new(reasons), true),
            ("detail", Arc::new(self.texts(rows)), true),
            ("bytes", Arc::new(bytes), true),
        ];
        let whole = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let from = self.below(rows as u64) as usize;
        let count = self.below((rows - from) as u64 + 1) as usize;
        drop_null_columns(&whole.slice(from, count))
    }
}

/// The groups of the log in a folder, from one on.
fn groups_from(folder: &Path, first: u64) -> Vec<Group> {
    let log = LogFolder::at(&Host::real(), folder);
    let groups = log.read(Start::Group(first), Until::Complete).unwrap();
    groups.map(|group| group.unwrap().group).collect()
}

/// Every file of a folder but the lock.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("LOCK"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_hydrated_log_is_the_log_byte_for_byte() {
    let mut patched = 0;
    for seed in 0..12 {
        let sample = Sample::new(seed, 25);
        let written = sample.write();
        assert_eq!((written.ranges, written.groups, written.end, written.waiting), (5, 25, 25, 0));
        assert_eq!(sample.faults(), [""; 0]);
        let out = sample.folder.path().join("again");
        let made = sample.hydrate(Bound::Group(0), None, &out).unwrap();
        assert_eq!((made.start, made.end.group), (LogPosition::default(), 25));
        assert!(groups_from(&out, 0) == sample.groups, "seed {seed}");
        let bytes =
            |folder: &Path| files(folder).into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>();
        assert!(bytes(&sample.path()) == bytes(&out), "the same bytes, in other segments");
        let copy = LogFolder::at(&Host::real(), &out);
        assert_eq!(copy.identity().unwrap(), sample.log().identity().unwrap());
        let (log, recovery) = copy.open(LogOptions::default()).unwrap();
        assert_eq!((recovery.groups, recovery.truncated), (25, None));
        let (original, _) = sample.open();
        assert_eq!(log.position(), original.position());
        let archive = sample.archive();
        patched += archive.ranges.iter().flat_map(|r| &r.groups).filter(|g| !g.patch.is_empty()).count();
    }
    assert!(patched > 0, "some batches are cut out of others, and have bits after their end");
}

#[test]
fn archiving_again_finds_everything_done_and_more_groups_continue_it() {
    let sample = Sample::new(1, 12);
    assert_eq!(sample.write().ranges, 3);
    let before = sample.archive();
    let again = sample.write();
    assert_eq!((again.ranges, again.end), (0, 12));
    assert_eq!(sample.archive(), before);
    // The same log archived by another hand gives the same manifests.
    let other = Store::open(sample.folder.path().join("other")).unwrap();
    write(&sample.log(), Until::Group(10), &other).unwrap();
    assert_eq!(Archive::open(&other).unwrap().ranges, before.ranges[..2]);
    write(&sample.log(), Until::Complete, &other).unwrap();
    assert_eq!(Archive::open(&other).unwrap(), before);
}

#[test]
fn an_archiving_that_was_cut_short_is_finished_by_the_next() {
    let sample = Sample::new(2, 10);
    sample.write();
    let whole = sample.archive();
    fs::remove_file(sample.object(&whole.ranges[1].name())).unwrap();
    let verified = verify(&sample.log(), &sample.store).unwrap();
    assert_eq!(verified.unclaimed.len(), whole.ranges[1].files.len());
    assert_eq!(sample.write().ranges, 1);
    assert_eq!(sample.archive(), whole);
}

#[test]
fn groups_without_a_complete_range_wait_in_the_log() {
    let sample = Sample::of(3, 9, |_, group| group.commit &= group.lower < Tick(1 << 20));
    let written = sample.write();
    assert_eq!(written.end + written.waiting, 9);
    assert!(written.waiting > 0);
    let groups = sample.read(Bound::Group(0), None, Preference::Archive).unwrap();
    assert_eq!(groups.len(), 9, "archive, then log");
}

#[test]
fn what_parquet_would_change_is_refused_by_name() {
    let odd = |number: usize, group: &mut Group| {
        if number == 7 {
            let keys = Int16Array::from(vec![0]);
            let odd = DictionaryArray::<Int16Type>::new(keys, Arc::new(StringArray::from(vec!["a"])));
            let rows = RecordBatch::try_from_iter([("odd", Arc::new(odd) as ArrayRef)]).unwrap();
            group.frames.push(Frame { topic: Topic::Audit, name: "odd".to_owned(), rows });
        }
    };
    let sample = Sample::of(4, 10, odd);
    match write(&sample.log(), Until::Complete, &sample.store) {
        Err(ArchiveError::NotExact { first: 5, group: 7, what }) => assert!(what.contains("`odd`"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(sample.archive().end().group, 5, "the range before it is archived");
    let hidden = |number: usize, group: &mut Group| {
        if number == 2 {
            // A struct that is null hides values, which Parquet does not store.
            let hidden: ArrayRef = Arc::new(Int64Array::from(vec![77; 4000]));
            let fields = Fields::from(vec![Field::new("hidden", DataType::Int64, true)]);
            let nulls = NullBuffer::from(vec![false; 4000]);
            let rows = StructArray::new(fields, vec![hidden], Some(nulls));
            let rows = RecordBatch::try_from_iter([("null", Arc::new(rows) as ArrayRef)]).unwrap();
            group.frames.push(Frame { topic: Topic::Audit, name: "hidden".to_owned(), rows });
        }
    };
    let sample = Sample::of(5, 5, hidden);
    let refused = write(&sample.log(), Until::Complete, &sample.store);
    assert!(matches!(refused, Err(ArchiveError::NotExact { group: 2, .. })), "{refused:?}");
    assert_eq!(sample.archive().end().group, 0);
}

#[test]
fn exactly_the_requested_range_comes_from_archive_and_log() {
    let sample = Sample::new(6, 20);
    sample.write();
    let pruned = sample.prune(LogRetention { span: None, bytes: Some(60 << 10) });
    let base = pruned.base.group as usize;
    assert!((3..17).contains(&base), "the log begins at {base}");
    let same = |groups: &[Group], from: usize, to: usize| {
        assert!(groups == &sample.groups[from..to], "{from} to {to}");
    };
    for preference in [Preference::Log, Preference::Archive] {
        for from in 0..20 {
            for to in [from + 1, (from + 20) / 2 + 1, 20].map(|to| to.min(20)) {
                let bounds = (Bound::Group(from as u64), Some(Bound::Group(to as u64)));
                same(&sample.read(bounds.0, bounds.1, preference).unwrap(), from, to);
            }
            let tick = sample.groups[from].lower;
            let upto = Some(Bound::Tick(sample.groups[from].upper));
            same(&sample.read(Bound::Tick(tick), upto, preference).unwrap(), from, from + 1);
            same(&sample.read(Bound::Tick(tick), None, preference).unwrap(), from, 20);
        }
    }
    let beyond = sample.read(Bound::Group(3), Some(Bound::Group(21)), Preference::Log).unwrap_err();
    assert!(beyond.to_string().contains("group 20") && beyond.to_string().contains("group 21"), "{beyond}");

    // Without its archive, the log says where it begins; without its log, the archive is enough.
    let log = sample.log();
    let alone = read_range(&log, None, Bound::Group(0), None, Preference::Log);
    assert!(alone.err().unwrap().to_string().contains(&format!("the log begins with group {base}")));
    fs::remove_dir_all(sample.path()).unwrap();
    same(&sample.read(Bound::Group(0), None, Preference::Log).unwrap(), 0, 20);
}

#[test]
fn a_hydrated_range_is_a_log_of_its_own() {
    let sample = Sample::new(7, 20);
    sample.write();
    let out = sample.folder.path().join("part");
    let (from, to) = (Bound::Group(7), Some(Bound::Group(13)));
    let made = sample.hydrate(from, to, &out).unwrap();
    assert_eq!((made.start.group, made.end.group), (7, 13));
    assert!(groups_from(&out, 7) == sample.groups[7..13]);
    let part = LogFolder::at(&Host::real(), &out);
    match part.read(Start::Group(6), Until::Complete) {
        Err(LogError::Pruned { start, .. }) => assert_eq!(start, made.start),
        other => panic!("{:?}", other.err()),
    }
    let (mut log, recovery) = part.open(SMALL).unwrap();
    assert_eq!((recovery.groups, log.position()), (13, made.end));
    log.append_and_wait(&sample.groups[13]).unwrap();
    let again = sample.hydrate(from, to, &out);
    assert!(again.unwrap_err().to_string().contains("cannot write"), "a folder is not written over");
    let none = sample.hydrate(from, Some(Bound::Group(7)), &sample.folder.path().join("x"));
    assert!(matches!(none, Err(ArchiveError::Empty { .. })), "{none:?}");
    assert!(!sample.folder.path().join("x").exists());
}

#[test]
fn nothing_leaves_the_log_before_its_archive_is_verified() {
    let sample = Sample::new(8, 20);
    let before = files(&sample.path());
    let none = sample.prune(LogRetention::default());
    assert_eq!((none.segments, none.base.group), (0, 0));
    assert!(none.unarchived > 0, "nothing is archived yet");
    sample.write();
    let all = LogRetention { span: Some(tidegate_facts::Span::parse("9w").unwrap()), bytes: None };
    assert_eq!(sample.prune(all).segments, 0, "everything is younger");

    let victim = sample.object(&sample.archive().ranges[0].files[0].name);
    let whole = fs::read(&victim).unwrap();
    fs::write(&victim, &whole[..whole.len() - 1]).unwrap();
    let locked = sample.log().lock().unwrap();
    let refused = prune(&locked, &sample.store, LogRetention::default()).unwrap_err().to_string();
    assert!(refused.contains(victim.file_name().unwrap().to_str().unwrap()), "{refused}");
    drop(locked);
    assert!(files(&sample.path()) == before, "the log is as it was");
    fs::write(&victim, &whole).unwrap();

    let pruned = sample.prune(LogRetention::default());
    assert!(pruned.segments > 1 && pruned.base.group > 1, "{pruned:?}");
    assert_eq!(sample.log().start().unwrap().as_ref(), Some(&pruned.base));
    assert_eq!(sample.faults(), [""; 0]);
    assert_eq!(sample.prune(LogRetention::default()).segments, 0, "there is nothing more to remove");
    let (log, recovery) = sample.open();
    assert_eq!((recovery.groups, recovery.upper), (20, log.upper()));
    assert!(matches!(sample.log().lock(), Err(LogError::Locked { .. })));
}

#[test]
fn a_crash_while_pruning_leaves_a_log_that_opens() {
    let sample = Sample::new(9, 20);
    sample.write();
    let before = files(&sample.path());
    let pruned = sample.prune(LogRetention::default());
    let after = files(&sample.path());
    // Every state between the two: the new start is written, and some old segments are left.
    let gone: Vec<_> =
        before.iter().filter(|(name, _)| !after.iter().any(|(left, _)| left == name)).collect();
    assert!(gone.len() > 1);
    for removed in 0..=gone.len() {
        for (name, bytes) in &gone[removed..] {
            fs::write(sample.path().join(name), bytes).unwrap();
        }
        let groups = sample.read(Bound::Group(0), None, Preference::Log).unwrap();
        assert_eq!(groups.len(), 20);
        let refused = sample.log().read(Start::Group(0), Until::Complete);
        assert!(matches!(refused, Err(LogError::Pruned { .. })), "removed segments are not read");
        let (log, recovery) = sample.open();
        assert_eq!((recovery.groups, log.folder().path()), (20, sample.path().as_path()));
        drop(log);
        assert!(files(&sample.path()) == after, "the rest is removed");
    }
    // A segment that is missing for another reason was not pruned.
    let first = sample.path().join(format!("{:020}.seg", pruned.base.group));
    let segment = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    assert!(matches!(
        sample.log().open(SMALL),
        Err(LogError::Damaged { group, .. }) if group == pruned.base.group
    ));
    let base = sample.path().join("BASE");
    let whole = fs::read(&base).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&base, bytes).unwrap();
        assert!(matches!(sample.log().open(SMALL), Err(LogError::Base { .. })), "byte {at}");
    }
    fs::remove_file(base).unwrap();
    fs::write(&first, segment).unwrap();
    assert!(matches!(sample.log().open(SMALL), Err(LogError::Base { .. })), "the log has no identity");
}

/// A way to spoil an archive, and the name that verifying it must give.
type Mutation = (&'static str, Spoil);
type Spoil = Box<dyn Fn(&Sample, &Archive) -> String>;

fn change(path: &Path, spoil: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    spoil(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn swap(one: &Path, other: &Path) {
    let (first, second) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    fs::write(one, second).unwrap();
    fs::write(other, first).unwrap();
}

fn mutations() -> Vec<Mutation> {
    let file = |range: usize, file: usize, spoil: fn(&mut Vec<u8>)| -> Spoil {
        Box::new(move |sample, archive| {
            let name = archive.ranges[range].files[file].name.clone();
            change(&sample.object(&name), spoil);
            name
        })
    };
    let manifest = |range: usize, spoil: fn(&mut Vec<u8>)| -> Spoil {
        Box::new(move |sample, archive| {
            let name = archive.ranges[range].name();
            change(&sample.object(&name), spoil);
            name
        })
    };
    vec![
        ("a flipped bit at a file's beginning", file(0, 0, |b| b[5] ^= 1)),
        (
            "a flipped bit in a file's midst",
            file(1, 1, |b| {
                let at = b.len() / 2;
                b[at] ^= 0x40;
            }),
        ),
        ("a flipped bit in a file's last byte", file(2, 0, |b| *b.last_mut().unwrap() ^= 0x80)),
        ("a file cut off", file(2, 1, |b| b.truncate(b.len() - 9))),
        ("a file made empty", file(0, 1, |b| b.clear())),
        ("a byte added to a file", file(3, 0, |b| b.push(0))),
        (
            "a file removed",
            Box::new(|sample, archive| {
                let name = archive.ranges[1].files[0].name.clone();
                fs::remove_file(sample.object(&name)).unwrap();
                name
            }),
        ),
        (
            "two files of a range swapped",
            Box::new(|sample, archive| {
                let [one, other] = [0, 1].map(|i| archive.ranges[2].files[i].name.clone());
                swap(&sample.object(&one), &sample.object(&other));
                one
            }),
        ),
        (
            "files of two ranges swapped",
            Box::new(|sample, archive| {
                let [one, other] = [1, 3].map(|i| archive.ranges[i].files[0].name.clone());
                swap(&sample.object(&one), &sample.object(&other));
                other
            }),
        ),
        (
            "a flipped bit in a manifest",
            manifest(1, |b| {
                let at = b.len() / 3;
                b[at] ^= 1;
            }),
        ),
        (
            "a flipped bit in the last manifest",
            manifest(3, |b| {
                let at = b.len() / 2;
                b[at] ^= 2;
            }),
        ),
        ("a blank added to a manifest", manifest(3, |b| b.push(b' '))),
        ("a manifest cut off", manifest(2, |b| b.truncate(b.len() / 2))),
        (
            "two manifests swapped",
            Box::new(|sample, archive| {
                let [one, other] = [1, 2].map(|i| archive.ranges[i].name());
                swap(&sample.object(&one), &sample.object(&other));
                one
            }),
        ),
        (
            "a manifest removed",
            Box::new(|sample, archive| {
                fs::remove_file(sample.object(&archive.ranges[1].name())).unwrap();
                "groups 5 to 9 are missing".to_owned()
            }),
        ),
        (
            "the first manifest removed",
            Box::new(|sample, archive| {
                fs::remove_file(sample.object(&archive.ranges[0].name())).unwrap();
                "groups 0 to 4 are missing".to_owned()
            }),
        ),
        (
            "the last manifests removed of a pruned log",
            Box::new(|sample, archive| {
                sample.prune(LogRetention::default());
                for range in &archive.ranges[1..] {
                    fs::remove_file(sample.object(&range.name())).unwrap();
                }
                archive.ranges[1].name()
            }),
        ),
        (
            "a manifest of another log, itself without fault",
            Box::new(|sample, archive| {
                let other = Sample::new(99, 20);
                other.write();
                let name = archive.ranges[2].name();
                fs::copy(other.object(&name), sample.object(&name)).unwrap();
                name
            }),
        ),
        (
            "an archive of another log, itself without fault",
            Box::new(|sample, archive| {
                let other = Sample::new(98, 20);
                other.write();
                fs::remove_dir_all(sample.object("archive")).unwrap();
                fs::rename(other.object("archive"), sample.object("archive")).unwrap();
                archive.ranges[0].name()
            }),
        ),
    ]
}

#[test]
fn every_change_to_an_archive_is_found_by_name() {
    let mutations = mutations();
    assert!(mutations.len() >= 10);
    for (what, mutate) in mutations {
        let sample = Sample::new(10, 20);
        sample.write();
        let archive = sample.archive();
        assert_eq!(sample.faults(), [""; 0]);
        let name = mutate(&sample, &archive);
        let faults = sample.faults();
        assert!(faults.iter().any(|fault| fault.contains(&name)), "{what}: `{name}` is not in {faults:#?}");
        let out = sample.folder.path().join("out");
        let read = sample.hydrate(Bound::Group(0), Some(Bound::Group(20)), &out);
        if what != "an archive of another log, itself without fault" {
            assert!(read.is_err(), "{what}: was read all the same");
            assert!(!out.exists());
        }
    }
}
