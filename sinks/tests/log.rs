//! What the embedded log keeps, what it takes back, and what it refuses.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, RecordBatch, StringArray, StructArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, UInt64Type};
use tempfile::TempDir;
use tidegate_facts::columns::{OFFSET, TICK};
use tidegate_facts::{Tick, Topic};
use tidegate_sinks::log::{
    EmbeddedLog, Frame, Group, LogError, LogMark, LogOptions, Recovery, Start, Until, read_groups,
    read_partition,
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
            assert_eq!(log.append(&group).unwrap(), sample.groups.len() as u64);
            sample.groups.push(group);
        }
        sample
    }

    fn open(&self, options: LogOptions) -> (EmbeddedLog, Recovery) {
        EmbeddedLog::open(self.folder.path(), options).unwrap()
    }

    fn segment(&self, first: u64) -> PathBuf {
        self.folder.path().join(format!("{first:020}.seg"))
    }

    fn read(&self, start: Start, until: Until) -> Result<Vec<Group>, LogError> {
        read_groups(self.folder.path(), start, until).unwrap().collect()
    }

    /// Opens the log and expects the first `kept` groups in it and no others.
    fn check_kept(&self, kept: usize) -> (EmbeddedLog, Recovery) {
        let (log, recovery) = self.open(SMALL);
        assert_eq!(recovery.groups, kept as u64);
        assert_eq!(recovery.upper, self.groups[..kept].last().map_or(Tick::ZERO, |group| group.upper));
        assert_eq!((log.next_group(), log.upper()), (recovery.groups, recovery.upper));
        assert_eq!(self.read(Start::Group(0), Until::Complete).unwrap(), self.groups[..kept]);
        (log, recovery)
    }
}

/// The next group: these facts in frame `a`, and a receipt for each.
fn group(log: &EmbeddedLog, facts: &[(i64, u16)]) -> Group {
    let mut ends = std::collections::BTreeMap::new();
    let mut offset = |partition| {
        let end = ends.entry(partition).or_insert_with(|| log.end_offset(Topic::Traffic, partition));
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
    let amount = UInt64Array::from_iter(facts.iter().map(|(tick, _)| (tick.0 % 3 > 0).then_some(tick.0)));
    let payload = StructArray::from(vec![
        (Arc::new(Field::new("text", text.data_type().clone(), true)), Arc::new(text) as ArrayRef),
        (Arc::new(Field::new("amount", DataType::UInt64, true)), Arc::new(amount) as ArrayRef),
    ]);
    let columns: [(&str, ArrayRef); 3] = [
        (TICK, Arc::new(UInt64Array::from_iter_values(facts.iter().map(|(tick, _)| tick.0)))),
        (OFFSET, Arc::new(UInt64Array::from_iter_values(facts.iter().map(|(_, offset)| *offset)))),
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

fn damage(result: Result<impl Sized, LogError>) -> (u64, PathBuf) {
    match result {
        Err(LogError::Damaged { segment, group, .. }) => (group, segment),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the damage was not found"),
    }
}

fn offsets(sample: &Sample, partition: u16, from_offset: u64) -> Vec<u64> {
    let frames =
        read_partition(sample.folder.path(), Topic::Traffic, partition, from_offset, Until::Complete)
            .unwrap();
    frames
        .flat_map(|frame| {
            let rows = frame.unwrap().rows;
            let ticks = rows.column_by_name(TICK).unwrap().as_primitive::<UInt64Type>();
            assert!(ticks.values().iter().all(|tick| Tick(*tick).partition() == partition));
            rows.column_by_name(OFFSET).unwrap().as_primitive::<UInt64Type>().values().to_vec()
        })
        .collect()
}

#[test]
fn what_was_appended_is_read_again_and_the_log_continues_where_it_ended() {
    let mut sample = Sample::new(SMALL, &[&[(5, 0), (5, 1), (6, 0)], &[], &[(9, 1)]]);
    let (mut log, recovery) = sample.check_kept(3);
    assert_eq!(recovery.truncated, None);
    assert_eq!([0, 1, 2].map(|partition| log.end_offset(Topic::Traffic, partition)), [2, 2, 0]);
    assert_eq!(log.end_offset(Topic::Audit, 0), 4);
    assert_eq!(log.end_offset(Topic::Control, 0), 0);
    let last = Group { commit: true, ..group(&log, &[(10, 0)]) };
    assert_eq!(log.append(&last).unwrap(), 3);
    sample.groups.push(last);
    drop(log);
    sample.check_kept(4);
}

#[test]
fn an_empty_folder_holds_no_group_and_a_missing_one_is_an_error() {
    let sample = Sample::new(SMALL, &[]);
    sample.check_kept(0);
    assert!(matches!(
        read_groups(&sample.folder.path().join("none"), Start::Group(0), Until::Complete),
        Err(LogError::Read { .. })
    ));
}

#[test]
fn a_group_cut_off_at_any_byte_is_taken_back_and_the_log_goes_on() {
    let mut sample = Sample::new(SMALL, &[&[(5, 0)], &[(7, 1), (8, 0)]]);
    let segment = sample.segment(0);
    let whole = fs::read(&segment).unwrap();
    let at = Sample::new(SMALL, &[&[(5, 0)]]).segment_bytes(0);
    let torn = sample.groups.pop().unwrap();
    for length in at..whole.len() as u64 {
        fs::write(&segment, &whole[..length as usize]).unwrap();
        let (mut log, recovery) = sample.check_kept(1);
        match recovery.truncated {
            None => assert_eq!(length, at, "a cut between two groups is no tear"),
            Some(truncated) => {
                assert_eq!((&truncated.segment, truncated.at), (&segment, at));
                assert!((1..=length - at).contains(&truncated.bytes), "{length}: {truncated:?}");
            }
        }
        if length % 97 == 0 {
            log.append(&torn).unwrap();
            drop(log);
            assert_eq!(fs::read(&segment).unwrap(), whole);
        }
    }
}

#[test]
fn a_group_with_any_byte_changed_is_taken_back_at_the_end_of_the_log() {
    let mut sample = Sample::new(SMALL, &[&[(5, 0)], &[(7, 1), (8, 0)]]);
    let segment = sample.segment(0);
    let whole = fs::read(&segment).unwrap();
    let at = Sample::new(SMALL, &[&[(5, 0)]]).segment_bytes(0);
    sample.groups.pop();
    for place in at..whole.len() as u64 {
        fs::write(&segment, &whole).unwrap();
        flip(&segment, place);
        let (_, recovery) = sample.check_kept(1);
        assert_eq!(recovery.truncated.map(|truncated| truncated.at), Some(at), "byte {place}");
    }
}

#[test]
fn a_tear_whose_header_never_reached_the_disk_is_taken_back() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    let mut bytes = fs::read(sample.segment(0)).unwrap();
    let at = bytes.len() as u64;
    bytes.extend([0; 700]);
    bytes.extend(b"rows");
    bytes.extend([0; 700]);
    fs::write(sample.segment(0), bytes).unwrap();
    let (_, recovery) = sample.check_kept(1);
    let truncated = recovery.truncated.unwrap();
    assert_eq!((truncated.at, truncated.bytes), (at, 704));
}

#[test]
fn a_changed_byte_before_the_last_group_is_refused_with_the_number_of_its_group() {
    let sample = Sample::new(SMALL, &[&[(5, 0)], &[(7, 0)], &[(8, 0)]]);
    let segment = sample.segment(0);
    let whole = fs::read(&segment).unwrap();
    let one = whole.len() as u64 / 3;
    for place in 0..2 * one {
        fs::write(&segment, &whole).unwrap();
        flip(&segment, place);
        let expected = (place / one, segment.clone());
        assert_eq!(damage(EmbeddedLog::open(sample.folder.path(), SMALL)), expected, "byte {place}");
        assert_eq!(damage(sample.read(Start::Group(0), Until::Complete)), expected, "byte {place}");
    }
    fs::write(&segment, &whole).unwrap();
    sample.check_kept(3);
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
    assert_eq!(damage(EmbeddedLog::open(sample.folder.path(), SMALL)), (third - 1, sample.segment(second)));
    fs::remove_file(sample.segment(second)).unwrap();
    assert_eq!(damage(EmbeddedLog::open(sample.folder.path(), SMALL)), (second, sample.segment(0)));
    fs::write(sample.segment(second), whole).unwrap();
    sample.check_kept(12);
    fs::remove_file(sample.segment(0)).unwrap();
    assert_eq!(damage(EmbeddedLog::open(sample.folder.path(), SMALL)), (0, sample.segment(0)));
}

#[test]
fn a_second_log_on_the_folder_is_refused_until_the_first_is_closed() {
    let sample = Sample::new(SMALL, &[&[(5, 0)]]);
    let (log, _) = sample.open(SMALL);
    match EmbeddedLog::open(sample.folder.path(), SMALL).map(|_| ()) {
        Err(LogError::Locked { path, pid }) => {
            assert_eq!(path, sample.folder.path().join("LOCK"));
            assert_eq!(pid, Some(std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    drop(log);
    sample.check_kept(1);
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
        let audit = read_partition(sample.folder.path(), Topic::Audit, 0, from, Until::Complete).unwrap();
        let count: usize = audit.map(|frame| frame.unwrap().rows.num_rows()).sum();
        assert_eq!(count as u64, 30 - from);
    }
}

#[test]
fn a_group_larger_than_a_segment_gets_one_of_its_own() {
    let large: Vec<(i64, u16)> = (10..1000).map(|micros| (micros, 0)).collect();
    let mut sample = Sample::new(SMALL, &[&[(5, 0)], &large, &[(1000, 0)]]);
    assert_eq!(sample.firsts(), [0, 1, 2]);
    sample.check_kept(3);
    sample = Sample::new(SMALL, &[&large, &[(1000, 0)]]);
    assert_eq!(sample.firsts(), [0, 1]);
    sample.check_kept(2);
}

#[test]
fn a_reader_follows_a_log_that_appends_and_rolls() {
    let sample = Sample::new(SMALL, &[]);
    let (mut log, _) = sample.open(SMALL);
    let folder = sample.folder.path();
    let mut bounded = read_groups(folder, Start::Group(0), Until::Group(0)).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut groups = read_groups(folder, Start::Group(0), Until::Complete).unwrap();
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
            log.append(&group).unwrap();
            bounded.read_until(Until::Group(log.next_group()));
            assert_eq!(bounded.next().unwrap().unwrap(), group);
            assert!(bounded.next().is_none());
            uppers.push(group.upper);
        }
        assert_eq!(reader.join().unwrap(), uppers);
    });
}

#[test]
fn a_segment_made_ready_ahead_of_time_is_used_and_never_left_behind() {
    let options = LogOptions { segment_bytes: 256 << 10 };
    let mut sample = Sample::new(options, &[]);
    let (mut log, _) = sample.open(options);
    for micros in 0..400 {
        let group = group(&log, &[(micros, 0)]);
        log.append(&group).unwrap();
        sample.groups.push(group);
    }
    assert!(sample.firsts().len() > 2);
    drop(log);
    let mut names: Vec<_> =
        fs::read_dir(sample.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.retain(|name| !name.to_str().unwrap().ends_with(".seg"));
    assert_eq!(names, ["LOCK"]);
    fs::write(sample.folder.path().join("next"), [0; 100]).unwrap();
    sample.check_kept(400);
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
    let open =
        |acknowledged| EmbeddedLog::open_acknowledged(sample.folder.path(), SMALL, acknowledged).map(|_| ());
    match open(sample.groups[2].upper) {
        Err(LogError::Lost { segment, upper, acknowledged, .. }) => {
            assert_eq!(segment, sample.segment(0));
            assert_eq!((upper, acknowledged), (sample.groups[1].upper, sample.groups[2].upper));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(sample.segment(0)).unwrap(), torn, "what is left can still be looked at");
    open(sample.groups[1].upper).unwrap();
    sample.check_kept(2);
}

/// The mark in front of each group and behind the last, as a log that appended them told it.
fn marks(sample: &Sample) -> Vec<LogMark> {
    let twin = Sample::new(SMALL, &[]);
    let (mut log, _) = twin.open(SMALL);
    let mut marks = vec![log.mark()];
    for group in &sample.groups {
        log.append(group).unwrap();
        marks.push(log.mark());
    }
    marks
}

fn many() -> Sample {
    let facts: Vec<Vec<(i64, u16)>> = (0..12)
        .map(|i| if i % 4 == 3 { vec![] } else { vec![(10 * i, 0), (10 * i + 1, i as u16 % 3)] })
        .collect();
    Sample::new(SMALL, &facts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

#[test]
fn a_log_opened_at_a_mark_is_the_log_and_reads_on_from_there() {
    let sample = many();
    let marks = marks(&sample);
    let text = serde_json::to_string(&marks[5]).unwrap();
    assert_eq!(serde_json::from_str::<LogMark>(&text).unwrap(), marks[5]);
    for mark in &marks {
        let (log, recovery) = EmbeddedLog::open_from(sample.folder.path(), SMALL, mark, Tick::ZERO).unwrap();
        assert_eq!((recovery.groups, recovery.truncated), (12, None));
        assert_eq!(log.mark(), marks[12]);
        let rest = sample.read(Start::Group(mark.group), Until::Complete).unwrap();
        assert_eq!(rest, sample.groups[mark.group as usize..]);
    }
}

#[test]
fn a_log_opened_at_a_mark_checks_what_follows_and_does_not_read_what_is_before() {
    let sample = many();
    let marks = marks(&sample);
    let firsts = sample.firsts();
    let (second, third) = (firsts[1], firsts[2]);
    flip(&sample.segment(0), 100);
    let open = |mark: &LogMark| EmbeddedLog::open_from(sample.folder.path(), SMALL, mark, Tick::ZERO);
    assert_eq!(damage(EmbeddedLog::open(sample.folder.path(), SMALL)).1, sample.segment(0));
    assert_eq!(damage(open(&marks[1])).1, sample.segment(0), "its own segment is checked");
    for mark in &marks[second as usize..] {
        assert_eq!(open(mark).unwrap().0.mark(), marks[12]);
    }
    // Neither must what is before be there.
    fs::remove_file(sample.segment(0)).unwrap();
    assert_eq!(sample.read(Start::Group(second), Until::Complete).unwrap(), sample.groups[second as usize..]);
    flip(&sample.segment(third), 100);
    assert_eq!(damage(open(&marks[second as usize])).1, sample.segment(third));
}

#[test]
fn a_torn_end_behind_a_mark_is_taken_back() {
    let sample = many();
    let marks = marks(&sample);
    let last = sample.segment(*sample.firsts().last().unwrap());
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() - 1]).unwrap();
    let short = EmbeddedLog::open_from(sample.folder.path(), SMALL, &marks[12], Tick::ZERO).err().unwrap();
    assert!(matches!(short, LogError::OtherMark { group: 12, .. }), "{short}");
    assert_eq!(fs::read(&last).unwrap().len(), bytes.len() - 1, "a refusal changes nothing");
    let (log, recovery) =
        EmbeddedLog::open_from(sample.folder.path(), SMALL, &marks[10], Tick::ZERO).unwrap();
    assert!(recovery.truncated.is_some());
    assert_eq!(log.mark(), marks[11]);
}

#[test]
fn a_mark_of_another_log_is_refused() {
    let sample = many();
    let marks = marks(&sample);
    let refused = |mark: &LogMark, what: &str| match EmbeddedLog::open_from(
        sample.folder.path(),
        SMALL,
        mark,
        Tick::ZERO,
    ) {
        Err(LogError::OtherMark { group, detail, .. }) => {
            assert_eq!(group, mark.group);
            assert!(detail.contains(what), "{detail}");
        }
        other => panic!("{what}: {:?}", other.err()),
    };
    for (number, mark) in marks.iter().enumerate() {
        refused(&LogMark { upper: Tick(mark.upper.0 + 1), ..mark.clone() }, "begins at tick");
        refused(&LogMark { group: 13 + number as u64, ..mark.clone() }, "it ends in front of group");
        if number > 0 {
            let mut more = mark.clone();
            more.ends[0].2 += 1;
            // A mark at the end is compared with the groups before it in its segment, if any.
            let first_of_segment = sample.firsts().contains(&mark.group);
            if number < 12 || !first_of_segment {
                refused(&more, "partition");
            }
        }
    }
    sample.check_kept(12);
}
