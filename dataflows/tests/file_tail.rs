//! Files that grow while a topology is served: every line is read once it is complete, and a source
//! whose thread fails ends the run.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use std::{fmt, thread};

use arrow::array::RecordBatch;
use tempfile::TempDir;
use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::run::{Options, Report, RunError, serve};
use tidegate_dataflows::serve::{INGRESS, Ingress, IngressLimits, ServeState};
use tidegate_host::{Host, Job, JobQueue, Task, Tasks, Threads};

const POLICY: &str = r#"
id = "transfers-gate"
revision = "1"

[event."bank.transfer.v1"]
class = "traffic"
partition_key = ["account"]
[event."bank.transfer.v1".payload]
account = "text"
amount = "decimal(12,2)"
"#;

/// Two sources of CSV, whose paths and delimiters are filled in, and a table of their rows.
const TOPOLOGY: &str = r#"
name = "transfers"
clock = "event"
partitions = 1

[run]
platform_run_id = "platform_20260101T000000Z"
scenario_run_id = "00000000000000000000000000000001"
run_id = "00000000000000000000000000000001"
manifest_fingerprint = "0000000000000000000000000000000000000000000000000000000000000001"
parameter_hash = "0000000000000000000000000000000000000000000000000000000000000001"
scenario_id = "transfers"
seed = 1

[[node]]
name = "a"
kind = "source.csv"
path = "FILE_A"
delimiter = "\t"
[node.event]
type = "bank.transfer.v1"
id = "transfer_id"
time = "made_at"

[[node]]
name = "b"
kind = "source.csv"
path = "FILE_B"
delimiter = "\t"
[node.event]
type = "bank.transfer.v1"
id = "transfer_id"
time = "made_at"

[[node]]
name = "admitted"
kind = "gate"
inputs = ["a", "b"]
policy = "gate.toml"

[[node]]
name = "transfers_table"
kind = "sink.parquet"
input = "admitted"
table = "transfers"
"#;

/// Gets the name of a source and the job that reads it, when its thread is to be started. The
/// thread does nothing.
type OnSource = Box<dyn Fn(&str, Job) + Send + Sync>;

/// The threads of this machine, but for those of sources.
struct SourcesByHand(OnSource);

impl fmt::Debug for SourcesByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourcesByHand")
    }
}

impl Tasks for SourcesByHand {
    fn spawn(&self, name: &str, job: Job) -> io::Result<Box<dyn Task>> {
        match name.strip_prefix("source-") {
            Some(source) => {
                (self.0)(source, job);
                Threads.spawn(name, Box::new(|| ()))
            }
            None => Threads.spawn(name, job),
        }
    }

    fn queue(&self, name: &str) -> io::Result<Box<dyn JobQueue>> {
        Threads.queue(name)
    }
}

/// What a run that is served does.
enum Event {
    Rows(usize),
    Ended,
}

/// A topology of two files, each with one record.
struct World {
    folder: TempDir,
    plan: Arc<Plan>,
}

impl World {
    fn new(a: &str, b: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gate.toml"), POLICY).unwrap();
        for name in [a, b] {
            let text = format!("transfer_id\taccount\tamount\tmade_at\n{}", record(&format!("{name}-first")));
            fs::write(folder.path().join(name), text).unwrap();
        }
        let text = TOPOLOGY.replace("FILE_A", a).replace("FILE_B", b);
        let plan = Plan::parse(&folder.path().join("topology.toml"), text);
        let plan = Arc::new(plan.unwrap_or_else(|faults| panic!("{faults:#?}")));
        World { folder, plan }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Serves the topology until its table has had this many rows, or the run ends by itself.
    fn serve(&self, rows: usize, on_source: OnSource) -> Result<Report, RunError> {
        let state = Arc::new(ServeState::new(Ingress::new(IngressLimits::default())));
        let (events, received) = channel();
        let ended: Sender<Event> = events.clone();
        let on_rows = Box::new(move |rows: &RecordBatch| events.send(Event::Rows(rows.num_rows())).is_ok());
        let _subscription = state.tables.subscribe("transfers", on_rows).unwrap();
        let tasks: Arc<dyn Tasks> = Arc::new(SourcesByHand(on_source));
        let options = Options { host: Host { tasks, ..Host::real() }, ..Options::new(&self.path("data")) };
        let sources = self.plan.sources.iter().map(|source| source.name.clone());
        let sources: Vec<String> = sources.chain([INGRESS.to_owned()]).collect();
        let nodes: Vec<String> = self.plan.steps.iter().map(|step| step.name.clone()).collect();
        let metrics = RunMetrics::new(&sources, &nodes);
        thread::scope(|scope| {
            let run = scope.spawn(|| {
                let outcome = serve(&self.plan, &options, &metrics, &state);
                let _ = ended.send(Event::Ended);
                outcome
            });
            let mut left = rows;
            while left > 0 {
                match received.recv_timeout(Duration::from_secs(60)) {
                    Ok(Event::Rows(count)) => left = left.saturating_sub(count),
                    Ok(Event::Ended) | Err(_) => break,
                }
            }
            state.ingress.stop();
            run.join().unwrap()
        })
    }
}

/// A line of a file, with its line break.
fn record(id: &str) -> String {
    format!("{id}\taccount-7\t20.00\t2026-01-05T09:00:00.000000Z\n")
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_line_that_comes_while_another_source_is_still_read_is_found() {
    let world = World::new("a.csv", "b.csv");
    let (a, starts) = (world.path("a.csv"), AtomicUsize::new(0));
    let on_source = move |_: &str, job: Job| {
        job();
        if starts.fetch_add(1, Ordering::Relaxed) == 0 {
            append(&a, &record("late")); // `a` was read to its end, and `b` was not opened.
        }
    };
    let report = world.serve(3, Box::new(on_source)).unwrap();
    assert_eq!((report.counts.admitted, report.counts.records()), (3, 3));
}

#[test]
fn half_a_line_is_left_until_it_is_complete_whatever_the_file_is_called() {
    for (a, b) in [("a.tsv", "b.txt"), ("a.csv", "b")] {
        let world = World::new(a, b);
        let (first, second) = (world.path(a), world.path(b));
        let whole = record("in-two-pieces");
        let other = record("in-two-other-pieces");
        let starts = AtomicUsize::new(0);
        let on_source = move |_: &str, job: Job| {
            job();
            match starts.fetch_add(1, Ordering::Relaxed) {
                1 => {
                    append(&first, &whole[..20]);
                    append(&second, &other[..30]);
                }
                // Both halves were there when the sources were read again.
                3 => {
                    append(&first, &whole[20..]);
                    append(&second, &other[30..]);
                }
                _ => {}
            }
        };
        let report = world.serve(4, Box::new(on_source)).unwrap();
        assert_eq!((report.counts.admitted, report.counts.records()), (4, 4), "{a}, {b}");
    }
}

#[test]
fn a_source_whose_thread_ends_without_a_result_ends_the_run_by_name() {
    let world = World::new("a.csv", "b.csv");
    let (b, starts) = (world.path("b.csv"), AtomicUsize::new(0));
    let on_source = move |_: &str, job: Job| match starts.fetch_add(1, Ordering::Relaxed) {
        0 => job(),
        1 => {
            job();
            append(&b, &record("lost"));
        }
        _ => drop(job), // As when it panics.
    };
    match world.serve(usize::MAX, Box::new(on_source)) {
        Err(RunError::SourceThread { name }) => assert_eq!(name, "b"),
        other => panic!("{other:?}"),
    }
}
