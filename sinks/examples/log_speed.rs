//! How fast does the log append and read, against a bare loop that writes and syncs the same bytes?
//!
//! For groups of 8192 and of 256 rows of 10 columns, prints MB/s and milliseconds of an append to
//! the log, to a growing file, and to a file that was written before (which no growing log gets for
//! free), then MB/s of reading from the page cache.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::datatypes::Int32Type;
use tidegate_facts::columns::{OffsetArray, TickArray};
use tidegate_facts::{Tick, Topic};
use tidegate_host::Host;
use tidegate_sinks::log::{Frame, Group, LogFolder, LogOptions, LogReader, LogWriter, Start, Until};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for (rows, groups) in [(8192, 400), (256, 4000)] {
        measure(folder.path(), rows, groups)?;
    }
    Ok(())
}

fn measure(folder: &Path, rows: u64, count: u64) -> Result<(), Box<dyn Error>> {
    let groups: Vec<Group> = (0..count).map(|i| group(i * rows, rows)).collect();
    let log_folder = folder.join(rows.to_string());
    let stored = LogFolder::at(&Host::real(), &log_folder);
    let (mut log, _) = stored.open(LogOptions::default())?;
    log.append_and_wait(&groups[0])?;
    drop(log);
    let group_bytes = fs::metadata(log_folder.join(format!("{:020}.seg", 0)))?.len();
    let (mut log, _) = stored.open(LogOptions::default())?;

    let piece = vec![0x5a; group_bytes as usize];
    let mut growing = File::create(folder.join("growing"))?;
    let written = File::create(folder.join("written"))?;
    for i in 0..count {
        written.write_all_at(&piece, i * group_bytes)?;
    }
    written.sync_all()?;

    // Taken in turns, as the speed of a disk changes from second to second.
    let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
    for (i, group) in groups.iter().enumerate().skip(1) {
        seconds[0].push(timed(|| log.append_and_wait(group).map(|_| ()))?);
        seconds[1].push(timed(|| growing.write_all(&piece).and_then(|()| growing.sync_data()))?);
        let at = i as u64 * group_bytes;
        seconds[2].push(timed(|| written.write_all_at(&piece, at).and_then(|()| written.sync_data()))?);
    }
    drop(log);
    println!("{count} groups of {rows} rows, {} KiB:", group_bytes >> 10);
    let total = |times: &[f64]| times.iter().sum::<f64>();
    let log_seconds = total(&seconds[0]);
    for (name, times) in ["log", "growing", "written before"].into_iter().zip(&mut seconds) {
        let rate = (group_bytes * (count - 1)) as f64 / 1e6 / total(times);
        let ratio = total(times) / log_seconds;
        times.sort_by(f64::total_cmp);
        let [p50, p99] = [50, 99].map(|percent| 1e3 * times[times.len() * percent / 100]);
        println!("  {name}: {rate:.0} MB/s, p50 {p50:.2} ms, p99 {p99:.2} ms; the log is {ratio:.2} of it");
    }

    let bytes: u64 = group_bytes * count;
    let reading =
        timed(|| stored.read(Start::Group(0), Until::Group(count))?.try_for_each(|g| g.map(|_| ())))?;
    let opening = timed(|| stored.open(LogOptions::default()).map(|_| ()))?;
    println!(
        "  read {:.0} MB/s, open {:.0} MB/s",
        bytes as f64 / 1e6 / reading,
        bytes as f64 / 1e6 / opening
    );
    fs::remove_dir_all(&log_folder)?;
    Ok(())
}

fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64())
}

fn group(first: u64, rows: u64) -> Group {
    let tick = |i| Tick::new(i as i64, 0).expect("small").0;
    let all = || first..first + rows;
    let texts = |modulus: u64| StringArray::from_iter_values(all().map(|i| format!("{:016x}", i % modulus)));
    let kinds: DictionaryArray<Int32Type> = all().map(|i| ["card", "wire", "cash"][i as usize % 3]).collect();
    let hashes = FixedSizeBinaryArray::try_from_iter(all().map(|i| {
        let mut hash = [7; 32];
        hash[..8].copy_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        hash
    }));
    let columns: [(&str, ArrayRef); 10] = [
        ("_tick", Arc::new(TickArray::from_iter_values(all().map(tick)))),
        ("_offset", Arc::new(OffsetArray::from_iter_values(all().map(u64::cast_signed)))),
        ("event_id", Arc::new(texts(u64::MAX))),
        ("ts", Arc::new(Int64Array::from_iter_values(all().map(|i| i as i64)))),
        ("kind", Arc::new(kinds)),
        ("hash", Arc::new(hashes.expect("all are of one length"))),
        ("card", Arc::new(texts(1000))),
        ("merchant", Arc::new(texts(100))),
        ("amount", Arc::new(Int64Array::from_iter_values(all().map(|i| i as i64 % 977)))),
        ("country", Arc::new(UInt64Array::from_iter(all().map(|i| (i % 5 > 0).then_some(i % 97))))),
    ];
    let rows = RecordBatch::try_from_iter(columns).expect("all are of one length");
    let (lower, upper) = (Tick(tick(all().start)), Tick(tick(all().end)));
    let frames = vec![Frame { topic: Topic::Traffic, name: "sample".to_owned(), rows }];
    Group { frames, lower, upper, commit: false }
}
