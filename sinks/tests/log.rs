//! What the embedded log stores, what it cuts off, and what it refuses; and the same of the log in
//! memory.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Int32Type};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tempfile::TempDir;
use tidegate_facts::columns::{self, OFFSET, OffsetArray, TICK};
use tidegate_facts::{Digest, Tick, Topic};
use tidegate_host::{Host, SeededRandom, SimulatedHost};
use tidegate_sinks::log::{
    EmbeddedLog, Frame, Group, LogError, LogFolder, LogOptions, LogPosition, LogReader, LogWriter,
    LoggedGroup, MemoryLog, Recovery, Start, Until, read_partition,
};

const SMALL: LogOptions = LogOptions { segment_bytes: 8 << 10 };

/// A log whose groups are made of facts named by microsecond and partition.
struct Sample {
    folder: TempDir,
    groups: Vec<Group>,
}

impl Sample {
    /// Appends the groups and closes the log.
    fn new(options: LogOptions, groups: &[&[(i64, u16)]]) -> Sample {
        let mut sample = Sample { folder: tempfile::tempdir().unwrap(), groups: Vec::new() };
        let (mut log, recovery) = sample.open(options);
        assert_eq!(recovery, Recovery { groups: 0, upper: Tick::ZERO, truncated: None });
        for facts in groups {
            let group = group(&log, facts);
            assert_eq!(log.append_and_wait(&group).unwrap().number, sample.groups.len() as u64);
            sample.groups.push(group);
        }
        sample
    }

    fn log(&self) -> LogFolder {
        LogFolder::at(&Host::real(), self.folder.path())
    }

    fn open(&self, options: LogOptions) -> (EmbeddedLog, Recovery) {
        self.log().open(options).unwrap()
    }

    fn segment(&self, first: u64) -> PathBuf {
        self.folder.path().join(format!("{first:020}.seg"))
    }

    fn read(&self, start: Start, until: Until) -> Result<Vec<Group>, LogError> {
        self.log().read(start, until).unwrap().map(|group| Ok(group?.group)).collect()
    }

    /// Opens the log and expects the first `count` groups in it and no others.
    fn check_holds(&self, count: usize) -> (EmbeddedLog, Recovery) {
        let (log, recovery) = self.open(SMALL);
        assert_eq!(recovery.groups, count as u64);
        assert_eq!(recovery.upper, self.groups[..count].last().map_or(Tick::ZERO, |group| group.upper));
        assert_eq!((log.next_group(), log.upper()), (recovery.groups, recovery.upper));
        assert_eq!(self.log().position().unwrap(), log.position());
        assert_eq!(self.read(Start::Group(0), Until::Complete).unwrap(), self.groups[..count]);
        (log, recovery)
    }
}

/// The next group: these facts in frame `a`, and a receipt for each.
fn group(log: &dyn LogWriter, facts: &[(i64, u16)]) -> Group {
    let position = log.position();
    let mut ends = std::collections::BTreeMap::new();
    let mut offset = |partition| {
        let end = ends.entry(partition).or_insert_with(|| position.end_offset(Topic::Traffic, partition));
        *end += 1;
        *end - 1
    };
    let rows: Vec<(Tick, u64)> = facts
        .iter()
        .map(|(micros, partition)| (Tick::new(*micros, *partition).unwrap(), offset(*partition)))
        .collect();
    let upper = rows.last().map_or(log.upper(), |(tick, _)| tick.next());
    let frames = vec![frame("a", &rows), receipts(rows.len())];
    Group { frames, lower: log.upper(), upper, commit: false }
}

fn frame(name: &str, facts: &[(Tick, u64)]) -> Frame {
    let text: DictionaryArray<Int32Type> =
        facts.iter().map(|(tick, _)| Some(["x", "y"][tick.0 as usize % 2])).collect();
    let amount = Int64Array::from_iter(facts.iter().map(|(tick, _)| (tick.0 % 3 > 0).then_some(tick.0)));
    let payload = StructArray::from(vec![
        (Arc::new(Field::new("text", text.data_type().clone(), true)), Arc::new(text) as ArrayRef),
        (Arc::new(Field::new("amount", DataType::Int64, true)), Arc::new(amount) as ArrayRef),
    ]);
    let columns: [(&str, ArrayRef); 3] = [
        (TICK, Arc::new(columns::tick_array(facts.iter().map(|(tick, _)| *tick)))),
        (
            OFFSET,
            Arc::new(OffsetArray::from_iter_values(facts.iter().map(|(_, offset)| offset.cast_signed()))),
        ),
        ("payload", Arc::new(payload)),
    ];
    Frame { topic: Topic::Traffic, name: name.to_owned(), rows: RecordBatch::try_from_iter(columns).unwrap() }
}

fn receipts(count: usize) -> Frame {
    let source: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|i| format!("record {i}"))));
    let rows = RecordBatch::try_from_iter([("source", source)]).unwrap();
    Frame { topic: Topic::Audit, name: "receipts".to_owned(), rows }
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The bytes of a segment without those that another epoch changes in the group at this byte.
fn without_epoch(segment: &[u8], at: u64) -> Vec<u8> {
    let mut bytes = segment.to_vec();
    bytes[at as usize + 96..at as usize + 128].fill(0);
    bytes
}

fn damage(result: Result<impl Sized, LogError>) -> (u64, PathBuf) {
    match result {
        Err(LogError::Damaged { segment, group, .. }) => (group, segment),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the damage was not found"),
    }
}

fn offsets(sample: &Sample, partition: u16, from_offset: u64) -> Vec<u64> {
    let frames =
        read_partition(&sample.log(), Topic::Traffic, partition, from_offset, Until::Complete).unwrap();
    frames
        .flat_map(|frame| {
            let rows = frame.unwrap().rows;
            let ticks = columns::ticks(&rows);
            assert!(ticks.values().iter().all(|tick| Tick(*tick).partition() == partition));
            let offsets = columns::offsets(&rows).values().iter();
            offsets.map(|offset| offset.cast_unsigned()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn what_was_appended_is_read_again_and_the_log_continues_where_it_ended() {
    let mut sample = Sample::new(SMALL, &[&[(5, 0), (5, 1), (6, 0)], &[], &[(9, 1)]]);
    let (mut log, recovery) = sample.check_holds(3);
    assert_eq!(recovery.truncated, None);
    assert_eq!([0, 1, 2].map(|partition| log.end_offset(Topic::Traffic, partition)), [2, 2, 0]);
    assert_eq!(log.end_offset(Topic::Audit, 0), 4);
    assert_eq!(log.end_offset(Topic::Control, 0), 0);
    let last = Group { commit: true, ..group(&log, &[(10, 0)]) };
    assert_eq!(log.append_and_wait(&last).unwrap().number, 3);
    sample.groups.push(last);
    drop(log);
    sample.check_holds(4);
}

#[test]
fn an_empty_folder_holds_no_group_and_a_missing_one_is_an_error() {
    let sample = Sample::new(SMALL, &[]);
    sample.check_holds(0);
    let none = LogFolder::at(&Host::real(), &sample.folder.path().join("none"));
    assert!(matches!(none.read(Start::Group(0), Until::Complete), Err(LogError::Read { .. })));
    assert!(matches!(none.identity(), Err(LogError::NoLog { .. })));
    assert_eq!(none.start().unwrap(), None);
}

#[test]
fn a_group_torn_at_any_byte_is_cut_off_and_the_log_goes_on() {
    let mut sample = Sample::new(SMALL, &[&[(5, 0)], &[(7, 1), (8, 0)]]);
    let segment = sample.segment(0);
    let whole = fs::read(&segment).unwrap();
    let at = Sample::new(SMALL, &[&[(5, 0)]]).segment_bytes(0);
    let torn = sample.groups.pop().unwrap();
    for length in at..whole.len() as u64 {
        fs::write(&segment, &whole[..length as usize]).unwrap();
        let (mut log, recovery) = sample.check_holds(1);
        match recovery.truncated {
            None => assert_eq!(length, at, "a cut between two groups is no tear"),
            Some(truncated) => {
                assert_eq!((&truncated.segment, truncated.at), (&segment, at));
                assert!((1..=length - at).contains(&truncated.bytes), "{length}: {truncated:?}");
            }
        }
        if length % 97 == 0 {
            log.append_and_wait(&torn).unwrap();
            drop(log);
            let again = fs::read(&segment).unwrap();
            assert_eq!(without_epoch(&again, at), without_epoch(&whole, at));
        }
    }
}

#[test]
fn a_group_with_any_byte_changed_is_cut_off_at_the_end_of_the_log() {
    let mut sample = Sample::new(SMALL, &[&[(5, 0)], &[(7, 1), (8, 0)]]);
    let segment = sample.segment(0);
    let whole = fs::read(&segment).unwrap();
    let at = Sample::new(SMALL, &[&[(5, 0)]]).segment_bytes(0);
    sample.groups.pop();
    for byte in at..whole.len() as u64 {
        fs::write(&segment, &whole).unwrap();
        flip(&segment, byte);
        let (_, recovery) = sample.check_holds(1);
        assert_eq!(recovery.truncated.map(|truncated| truncated.at), Some(at), "byte {byte}");
    }
}

#[test]
fn a_tear_whose_header_never_reached_the_disk_is_cut_off() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    let mut bytes = fs::read(sample.segment(0)).unwrap();
    let at = bytes.len() as u64;
    bytes.extend([0; 700]);
    bytes.extend(b"rows");
    bytes.extend([0; 700]);
    fs::write(sample.segment(0), bytes).unwrap();
    let (_, recovery) = sample.check_holds(1);
    let truncated = recovery.truncated.unwrap();
    assert_eq!((truncated.at, truncated.bytes), (at, 704));
}

#[test]
fn a_changed_byte_before_the_last_group_is_refused_with_the_number_of_its_group() {
    let sample = Sample::new(SMALL, &[&[(5, 0)], &[(7, 0)], &[(8, 0)]]);
    let segment = sample.segment(0);
    let whole = fs::read(&segment).unwrap();
    let one = whole.len() as u64 / 3;
    for byte in 0..2 * one {
        fs::write(&segment, &whole).unwrap();
        flip(&segment, byte);
        let expected = (byte / one, segment.clone());
        assert_eq!(damage(sample.log().open(SMALL)), expected, "byte {byte}");
        assert_eq!(damage(sample.read(Start::Group(0), Until::Complete)), expected, "byte {byte}");
    }
    fs::write(&segment, &whole).unwrap();
    sample.check_holds(3);
}

#[test]
fn damage_in_an_older_segment_or_a_missing_one_is_refused() {
    let facts: Vec<Vec<(i64, u16)>> = (0..12).map(|i| vec![(i, 0)]).collect();
    let sample = Sample::new(SMALL, &facts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let firsts = sample.firsts();
    assert!(firsts.len() >= 3, "{firsts:?}");
    let (second, third) = (firsts[1], firsts[2]);

    let whole = fs::read(sample.segment(second)).unwrap();
    OpenOptions::new()
        .write(true)
        .open(sample.segment(second))
        .unwrap()
        .set_len(whole.len() as u64 - 1)
        .unwrap();
    assert_eq!(damage(sample.log().open(SMALL)), (third - 1, sample.segment(second)));
    fs::remove_file(sample.segment(second)).unwrap();
    assert_eq!(damage(sample.log().open(SMALL)), (second, sample.segment(0)));
    fs::write(sample.segment(second), whole).unwrap();
    sample.check_holds(12);
    fs::remove_file(sample.segment(0)).unwrap();
    assert_eq!(damage(sample.log().open(SMALL)), (0, sample.segment(0)));
}

#[test]
fn a_second_log_on_the_folder_is_refused_until_the_first_is_closed() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    let (log, _) = sample.open(SMALL);
    match sample.log().open(SMALL).map(|_| ()) {
        Err(LogError::Locked { path, pid }) => {
            assert_eq!(path, sample.folder.path().join("LOCK"));
            assert_eq!(pid, Some(std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    drop(log);
    sample.check_holds(1);
}

#[test]
fn a_reader_starts_at_a_group_or_at_a_tick() {
    let facts: Vec<Vec<(i64, u16)>> =
        (0..12).map(|i| if i % 4 == 3 { vec![] } else { vec![(10 * i, 0)] }).collect();
    let sample = Sample::new(SMALL, &facts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for number in 0..14 {
        let expected = &sample.groups[number.min(12)..];
        assert_eq!(sample.read(Start::Group(number as u64), Until::Complete).unwrap(), expected);
        assert_eq!(sample.read(Start::Group(number as u64), Until::Group(12)).unwrap(), expected);
    }
    for micros in 0..130 {
        let tick = Tick::new(micros, 0).unwrap();
        let first = sample.groups.iter().position(|group| group.upper > tick).unwrap_or(12);
        assert_eq!(
            sample.read(Start::Tick(tick), Until::Complete).unwrap(),
            sample.groups[first..],
            "{micros}"
        );
    }
    assert_eq!(sample.read(Start::Group(2), Until::Group(5)).unwrap(), sample.groups[2..5]);
    assert_eq!(damage(sample.read(Start::Group(2), Until::Group(13))).0, 12);
}

#[test]
fn a_reader_of_a_partition_gets_its_rows_from_the_offset_on() {
    let facts: Vec<Vec<(i64, u16)>> =
        (0..10).map(|i| vec![(10 * i, 0), (10 * i, 2), (10 * i + 1, 0)]).collect();
    let sample = Sample::new(SMALL, &facts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for from in 0..21 {
        assert_eq!(offsets(&sample, 0, from), (from..20).collect::<Vec<_>>());
        assert_eq!(offsets(&sample, 2, from), (from..10).collect::<Vec<_>>());
        assert_eq!(offsets(&sample, 1, from), [0; 0]);
        let audit = read_partition(&sample.log(), Topic::Audit, 0, from, Until::Complete).unwrap();
        let count: usize = audit.map(|frame| frame.unwrap().rows.num_rows()).sum();
        assert_eq!(count as u64, 30 - from);
    }
}

#[test]
fn a_group_larger_than_a_segment_gets_one_of_its_own() {
    let large: Vec<(i64, u16)> = (10..1000).map(|micros| (micros, 0)).collect();
    let mut sample = Sample::new(SMALL, &[&[(5, 0)], &large, &[(1000, 0)]]);
    assert_eq!(sample.firsts(), [0, 1, 2]);
    sample.check_holds(3);
    sample = Sample::new(SMALL, &[&large, &[(1000, 0)]]);
    assert_eq!(sample.firsts(), [0, 1]);
    sample.check_holds(2);
}

#[test]
fn a_reader_follows_a_log_that_appends_and_rolls() {
    let sample = Sample::new(SMALL, &[]);
    let (mut log, _) = sample.open(SMALL);
    let reader = sample.log();
    let mut bounded = reader.read(Start::Group(0), Until::Group(0)).unwrap();
    std::thread::scope(|scope| {
        let following = scope.spawn(|| {
            let mut groups = reader.read(Start::Group(0), Until::Complete).unwrap();
            let mut uppers = Vec::new();
            while uppers.len() < 300 {
                match groups.next() {
                    Some(group) => uppers.push(group.unwrap().upper),
                    None => std::thread::yield_now(),
                }
            }
            uppers
        });
        let mut uppers = Vec::new();
        for micros in 0..300 {
            let group = group(&log, &[(micros, 0)]);
            log.append_and_wait(&group).unwrap();
            bounded.read_until(Until::Group(log.next_group()));
            assert_eq!(bounded.next().unwrap().unwrap().group, group);
            assert!(bounded.next().is_none());
            uppers.push(group.upper);
        }
        assert_eq!(following.join().unwrap(), uppers);
    });
}

#[test]
fn a_segment_made_ready_ahead_of_time_is_used_and_never_left_behind() {
    let options = LogOptions { segment_bytes: 256 << 10 };
    let mut sample = Sample::new(options, &[]);
    let (mut log, _) = sample.open(options);
    for micros in 0..400 {
        let group = group(&log, &[(micros, 0)]);
        log.append_and_wait(&group).unwrap();
        sample.groups.push(group);
    }
    assert!(sample.firsts().len() > 2);
    drop(log);
    let mut names: Vec<_> =
        fs::read_dir(sample.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.retain(|name| !name.to_str().unwrap().ends_with(".seg"));
    names.sort();
    assert_eq!(names, ["BASE", "LOCK"]);
    fs::write(sample.folder.path().join("next"), [0; 100]).unwrap();
    sample.check_holds(400);
}

#[test]
#[should_panic(expected = "groups leave a gap or overlap")]
fn a_group_that_does_not_continue_the_log_is_a_bug() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    let (mut log, _) = sample.open(SMALL);
    let group = Group { lower: Tick::ZERO, ..group(&log, &[(6, 0)]) };
    let _ = log.append(&group);
}

#[test]
#[should_panic(expected = "offsets leave a gap or overlap")]
fn an_offset_that_was_given_before_is_a_bug() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    let (mut log, _) = sample.open(SMALL);
    let frames = vec![frame("a", &[(Tick::new(6, 0).unwrap(), 0)])];
    let _ = log.append(&Group { frames, ..group(&log, &[(6, 0)]) });
}

impl Sample {
    fn segment_bytes(&self, first: u64) -> u64 {
        fs::metadata(self.segment(first)).unwrap().len()
    }

    fn firsts(&self) -> Vec<u64> {
        let names = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut firsts: Vec<u64> = names
            .filter_map(|name| name.strip_suffix(".seg").map(|digits| digits.parse().unwrap()))
            .collect();
        firsts.sort_unstable();
        firsts
    }
}

#[test]
fn a_log_that_ends_before_what_was_acknowledged_is_refused_and_left_as_it_is() {
    let sample = Sample::new(SMALL, &[&[(1, 0)], &[(2, 0)], &[(3, 0)]]);
    let whole = fs::read(sample.segment(0)).unwrap();
    let torn = &whole[..whole.len() - 100];
    fs::write(sample.segment(0), torn).unwrap();
    let open = |acknowledged| sample.log().open_acknowledged(SMALL, acknowledged).map(|_| ());
    match open(sample.groups[2].upper) {
        Err(LogError::Lost { segment, upper, acknowledged, .. }) => {
            assert_eq!(segment, sample.segment(0));
            assert_eq!((upper, acknowledged), (sample.groups[1].upper, sample.groups[2].upper));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(sample.segment(0)).unwrap(), torn, "what is left can still be looked at");
    open(sample.groups[1].upper).unwrap();
    sample.check_holds(2);
}

/// The position in front of each group and behind the last.
fn positions(sample: &Sample) -> Vec<LogPosition> {
    let mut positions = vec![LogPosition::default()];
    let mut groups = sample.log().read(Start::Group(0), Until::Complete).unwrap();
    while let Some(raw) = groups.next_raw() {
        positions.push(positions.last().unwrap().after(&raw.unwrap()).unwrap());
    }
    positions
}

fn many() -> Sample {
    let facts: Vec<Vec<(i64, u16)>> = (0..12)
        .map(|i| if i % 4 == 3 { vec![] } else { vec![(10 * i, 0), (10 * i + 1, i as u16 % 3)] })
        .collect();
    Sample::new(SMALL, &facts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

#[test]
fn a_log_opened_at_a_position_is_the_log_and_reads_on_from_there() {
    let sample = many();
    let positions = positions(&sample);
    let text = serde_json::to_string(&positions[5]).unwrap();
    assert_eq!(serde_json::from_str::<LogPosition>(&text).unwrap(), positions[5]);
    for position in &positions {
        let (log, recovery) = sample.log().open_from(SMALL, position, Tick::ZERO).unwrap();
        assert_eq!((recovery.groups, recovery.truncated), (12, None));
        assert_eq!(log.position(), positions[12]);
        let rest = sample.read(Start::Group(position.group), Until::Complete).unwrap();
        assert_eq!(rest, sample.groups[position.group as usize..]);
    }
}

#[test]
fn a_log_opened_at_a_position_checks_what_follows_and_does_not_read_what_is_before() {
    let sample = many();
    let positions = positions(&sample);
    let firsts = sample.firsts();
    let (second, third) = (firsts[1], firsts[2]);
    flip(&sample.segment(0), 100);
    let open = |position: &LogPosition| sample.log().open_from(SMALL, position, Tick::ZERO);
    assert_eq!(damage(sample.log().open(SMALL)).1, sample.segment(0));
    assert_eq!(damage(open(&positions[1])).1, sample.segment(0), "its own segment is checked");
    for position in &positions[second as usize..] {
        assert_eq!(open(position).unwrap().0.position(), positions[12]);
    }
    // The segments before need not even exist.
    fs::remove_file(sample.segment(0)).unwrap();
    assert_eq!(sample.read(Start::Group(second), Until::Complete).unwrap(), sample.groups[second as usize..]);
    flip(&sample.segment(third), 100);
    assert_eq!(damage(open(&positions[second as usize])).1, sample.segment(third));
}

#[test]
fn a_torn_end_behind_a_position_is_cut_off() {
    let sample = many();
    let positions = positions(&sample);
    let last = sample.segment(*sample.firsts().last().unwrap());
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() - 1]).unwrap();
    let short = sample.log().open_from(SMALL, &positions[12], Tick::ZERO).err().unwrap();
    assert!(matches!(short, LogError::OtherPosition { group: 12, .. }), "{short}");
    assert_eq!(fs::read(&last).unwrap().len(), bytes.len() - 1, "a refusal changes nothing");
    let (log, recovery) = sample.log().open_from(SMALL, &positions[10], Tick::ZERO).unwrap();
    assert!(recovery.truncated.is_some());
    assert_eq!(log.position(), positions[11]);
}

#[test]
fn a_position_of_another_log_is_refused() {
    let sample = many();
    let positions = positions(&sample);
    let refused =
        |position: &LogPosition, what: &str| match sample.log().open_from(SMALL, position, Tick::ZERO) {
            Err(LogError::OtherPosition { group, detail, .. }) => {
                assert_eq!(group, position.group);
                assert!(detail.contains(what), "{detail}");
            }
            other => panic!("{what}: {:?}", other.err()),
        };
    for (number, position) in positions.iter().enumerate() {
        refused(&LogPosition { upper: Tick(position.upper.0 + 1), ..position.clone() }, "begins at tick");
        let digest = Digest([1; 32]);
        refused(&LogPosition { digest, ..position.clone() }, "digest");
        refused(&LogPosition { group: 13 + number as u64, ..position.clone() }, "it ends in front of group");
        if number > 0 {
            let mut more = position.clone();
            more.ends[0].2 += 1;
            // A position at the end is compared with the groups before it in its segment, if any.
            let first_of_segment = sample.firsts().contains(&position.group);
            if number < 12 || !first_of_segment {
                refused(&more, "partition");
            }
        }
    }
    sample.check_holds(12);
}

#[test]
fn each_start_has_an_epoch_and_the_first_one_names_the_log() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    let identity = sample.log().identity().unwrap();
    let (mut log, _) = sample.open(SMALL);
    let second = log.open().unwrap();
    assert_ne!(second, identity);
    let next = group(&log, &[(6, 0)]);
    let link = log.append_and_wait(&next).unwrap();
    let groups: Vec<LoggedGroup> =
        sample.log().read(Start::Group(0), Until::Complete).unwrap().map(Result::unwrap).collect();
    assert_eq!(groups.iter().map(|group| group.link.epoch).collect::<Vec<_>>(), [identity, second]);
    assert_eq!(groups[1].link, link);
    assert_eq!(groups[0].link.previous, Digest::default());
    assert_eq!(sample.log().position().unwrap().epoch, second);
    assert_eq!(sample.log().identity().unwrap(), identity);
}

#[test]
fn a_group_that_another_epoch_appends_again_has_the_same_digest() {
    let digests = |sample: &Sample| {
        let mut groups = sample.log().read(Start::Group(0), Until::Complete).unwrap();
        let raw = std::iter::from_fn(|| groups.next_raw());
        raw.map(|raw| raw.unwrap().digest()).collect::<Vec<_>>()
    };
    let (first, second) = (many(), many());
    assert_ne!(first.log().identity().unwrap(), second.log().identity().unwrap());
    assert_eq!(digests(&first), digests(&second));
    let other = Sample::new(SMALL, &[&[(1, 0)], &[(10, 0), (11, 1)]]);
    assert_ne!(digests(&other)[1], digests(&first)[1], "a digest covers all groups before");
}

#[test]
fn a_group_that_followed_another_one_is_refused() {
    let sample = |text: &str| {
        let mut sample = Sample::new(SMALL, &[]);
        let (mut log, _) = sample.open(SMALL);
        for text in [text, "same"] {
            let source: ArrayRef = Arc::new(StringArray::from_iter_values([text]));
            let rows = RecordBatch::try_from_iter([("source", source)]).unwrap();
            let frames = vec![Frame { topic: Topic::Audit, name: "receipts".to_owned(), rows }];
            let group = Group { frames, ..group(&log, &[]) };
            log.append_and_wait(&group).unwrap();
            sample.groups.push(group);
        }
        drop(log);
        sample
    };
    let (sample, other) = (sample("this"), sample("that"));
    let mut bytes = fs::read(sample.segment(0)).unwrap();
    let others = fs::read(other.segment(0)).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].copy_from_slice(&others[half..]);
    fs::write(sample.segment(0), bytes).unwrap();
    match sample.log().open(SMALL) {
        Err(LogError::Damaged { group: 1, detail, .. }) => assert!(detail.contains("digest"), "{detail}"),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_folder_with_segments_and_without_its_base_is_refused() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    fs::remove_file(sample.folder.path().join("BASE")).unwrap();
    assert!(matches!(sample.log().open(SMALL), Err(LogError::Base { .. })));
    assert!(matches!(sample.log().start(), Err(LogError::Base { .. })));
    assert!(matches!(sample.log().identity(), Err(LogError::Base { .. })));
}

/// The groups of a log in memory and of an embedded log are the same to whoever reads.
#[test]
fn both_logs_answer_readers_alike() {
    let sample = many();
    let memory = MemoryLog::new(std::sync::Arc::new(SeededRandom::new(3)));
    let mut writer = memory.writer();
    writer.open().unwrap();
    for group in &sample.groups {
        writer.append_and_wait(group).unwrap();
    }
    let read = |log: &dyn LogReader, start, until| -> Vec<Group> {
        log.read(start, until).unwrap().map(|group| group.unwrap().group).collect()
    };
    let folder = sample.log();
    for start in
        (0..14).map(Start::Group).chain((0..130).map(|micros| Start::Tick(Tick::new(micros, 0).unwrap())))
    {
        for until in [Until::Complete, Until::Group(12), Until::Group(4)] {
            assert_eq!(read(&memory, start, until), read(&folder, start, until), "{start:?} {until:?}");
        }
    }
    for topic in Topic::ALL {
        assert_eq!(memory.read_topic(topic).unwrap(), folder.read_topic(topic).unwrap());
    }
    let rows = |log: &dyn LogReader, from| -> Vec<Frame> {
        let rows = read_partition(log, Topic::Traffic, 1, from, Until::Complete).unwrap();
        rows.map(Result::unwrap).collect()
    };
    for from in 0..5 {
        assert_eq!(rows(&memory, from), rows(&folder, from));
    }
    let (memory, folder) = (memory.position().unwrap(), folder.position().unwrap());
    assert_eq!((memory.group, memory.upper, &memory.ends), (folder.group, folder.upper, &folder.ends));
    assert_eq!(memory.digest, folder.digest, "the digest does not depend on what stores the log");
}

/// Appends random groups on a machine that loses power at any write, and starts again on what
/// survived. Returns how many torn ends were cut off.
fn check_power_cuts(seed: u64) -> u32 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut machine = SimulatedHost::new(seed);
    let data = Path::new("/data");
    let mut acknowledged: Vec<Group> = Vec::new();
    let mut torn = 0;
    for _ in 0..20 {
        let folder = LogFolder::of_data(&machine.host(), data);
        let (mut log, recovery) = folder.open(SMALL).unwrap();
        torn += u32::from(recovery.truncated.is_some());
        // A group whose append was interrupted may have survived; it is the gate's to find it
        // there.
        let found: Vec<Group> = folder
            .read(Start::Group(0), Until::Complete)
            .unwrap()
            .map(|group| group.unwrap().group)
            .collect();
        assert!(found.len() - acknowledged.len() <= 1, "seed {seed}");
        assert_eq!(found[..acknowledged.len()], acknowledged, "seed {seed}");
        acknowledged = found;
        machine.files.refuse_writes_after(rng.next_u64() % 60, std::io::ErrorKind::StorageFull);
        loop {
            let micros = 10 + acknowledged.len() as i64;
            let facts: Vec<(i64, u16)> = (0..rng.next_u32() % 40).map(|i| (micros, i as u16)).collect();
            let group = group(&log, &facts);
            match log.append(&group).and_then(|pending| pending.wait()) {
                Ok(_) => acknowledged.push(group),
                Err(_) => break,
            }
            if rng.next_u32() % 3 > 0 {
                machine.tasks.step(0);
            }
        }
        let odds = rng.next_u32() % 5;
        machine = machine.crash_keeping(&mut || rng.next_u32() % 4 < odds);
    }
    assert!(acknowledged.len() > 50, "seed {seed}: several segments");
    torn
}

#[test]
fn a_power_cut_at_any_write_loses_unsynced_bytes_and_no_acknowledged_group() {
    let torn: u32 = (0..20).map(check_power_cuts).sum();
    assert!(torn > 20, "{torn} torn ends");
}
