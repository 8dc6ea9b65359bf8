//! How long from a payment to its decision, answered only when durable, at half of the peak rate?
//!
//! The fraud topology runs as a process of its own, under the wall clock. First callers that wait
//! for each other find the peak; then an open loop makes half of it, and beside it, one after the
//! other, a bare log takes records at that rate: whoever comes while a sync is under way is written
//! with the next one. Beside the load, the features of one key are asked, and its rows by SQL.
//! Last, ten times the peak is offered over 2,000 connections: all that was acknowledged must be
//! among the decisions, and the rest refused.
//!
//! Everything shares the cores of one machine, the callers too. Where the system permits it the
//! service runs with `--realtime`, so that a call does not wait for a turn of something else, and
//! the callers go before it: they stand for other machines.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tidegate_dataflows::thread_priority::Priority;

use crate::load::{Load, Outcome, REPLY, make};
use crate::reads::Reads;

/// How many records, at most, a second of a stage makes when nothing else bounds it.
const RATE_MAX: u32 = 1_000_000;

/// Over how many connections an open loop makes its calls: so many that none waits for a
/// connection.
const OPEN: usize = 512;

/// How many reads of one key a second are made beside the load, of each kind, and within how long
/// they should be answered.
const READS: u32 = 100;
const READ_WITHIN_MS: f64 = 2.0;

struct Service {
    child: Child,
    http: SocketAddr,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    fn start(topology: &Path, data: &Path, in_realtime: bool) -> Result<Service, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.arg("run").arg(topology).arg("--data").arg(data).args(["--set", "clock=wall"]);
        command.args(["--http", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]);
        let world =
            "transactions.world={ seed = 42, customers = 1000, terminals = 2000, days = 10, radius = 5.0 }";
        command.args(in_realtime.then_some("--realtime"));
        command.args(["--set", world]).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let line = lines.next().and_then(Result::ok).unwrap_or_default();
        let http = line.strip_prefix("http on ").and_then(|address| address.parse().ok());
        let service = Service { child, http: http.ok_or(line)? };
        std::thread::spawn(move || lines.for_each(drop));
        let until = Instant::now() + Duration::from_secs(60);
        while !is_ready(service.http) {
            if Instant::now() > until {
                return Err("the service does not become ready".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(service)
    }
}

fn is_ready(address: SocketAddr) -> bool {
    use std::io::Read;
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut text = String::new();
    asked.is_ok() && stream.read_to_string(&mut text).is_ok() && text.starts_with("HTTP/1.1 200")
}

/// A payment that nobody made before.
fn payment(round: u32, number: usize) -> (String, String) {
    let id = format!("load-{round}-{number}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let time = tidegate_facts::time::to_rfc3339(i64::try_from(now.as_micros()).unwrap_or_default());
    let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(32));
    let body = format!(
        r#"{{"event_id":"{id}","event_type":"card.transaction.v1","ts_utc":"{time}","manifest_fingerprint":"{a}","parameter_hash":"{b}","seed":42,"scenario_id":"load","run_id":"{c}","scenario_run_id":"{c}","platform_run_id":"platform_20260101T000000Z","payload":{{"transaction_id":{number},"customer_id":{},"terminal_id":{},"amount":"{}.50"}}}}"#,
        number * 7919 % 1000,
        number * 104_729 % 2000,
        number % 200,
    );
    (id, body)
}

/// Asks the features of a customer.
fn one_key_features(number: usize) -> String {
    let customer = number * 7919 % 1000;
    format!("GET /v1/features/windowed.customer/{customer} HTTP/1.1\r\nhost: x\r\n\r\n")
}

/// Asks the rows of a customer.
fn one_key_sql(number: usize) -> String {
    let customer = number * 7919 % 1000;
    let body =
        format!(r#"{{"sql":"SELECT ts_utc, amount FROM windowed_customer WHERE customer_id = {customer}"}}"#);
    let length = body.len();
    format!("POST /v1/sql HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Runs the service bench, from a payment to its decision, and prints a line for each part.
///
/// `ordinary` keeps it from real time also where that is permitted.
///
/// # Errors
/// When a part fails, or what was acknowledged is not there in the end.
pub fn run(topology: &Path, divide: u32, ordinary: bool) -> Result<(), String> {
    let in_realtime = !ordinary && Priority::Outside.hold().is_ok();
    let (log, callers) = match in_realtime {
        true => (Priority::Compute, Priority::Outside),
        false => (Priority::Ordinary, Priority::Ordinary),
    };
    println!("threads: {}", if in_realtime { "in real time, callers first" } else { "in turns" });
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let data = folder.path().join("data");
    let lasts = Duration::from_secs_f64((10.0 / f64::from(divide)).max(1.0));
    let service = Service::start(topology, &data, in_realtime)?;
    let load = |rate, connections, lasts| {
        let (address, key, priority) = (service.http, None, callers);
        Load { address, rate, lasts, connections, key, priority }
    };
    let mut acknowledged = Vec::new();

    // Sixty-four callers, each waiting for its answer: what is due is always late, so each calls as
    // fast as it is answered.
    let calls = 64 * 1600 / divide.max(1) as usize;
    let closed = load(RATE_MAX, 64, Duration::from_secs_f64(calls as f64 / f64::from(RATE_MAX)));
    let began = Instant::now();
    let mut peak = make(&closed, |number| payment(0, number))?;
    let peak_rate = (peak.waited.len() as f64 / began.elapsed().as_secs_f64()) as u32;
    println!("peak: {peak_rate} decisions/s over 64 connections ({:?})", peak.statuses);
    acknowledged.append(&mut peak.acknowledged);

    let rate = (peak_rate / 2).max(1);
    let bare = bare_append(&folder.path().join("bare"), rate, lasts, (log, callers))?;
    let mut half = make(&load(rate, OPEN, lasts), |number| payment(1, number))?;
    println!("half of it, {rate}/s for {:.0} s ({:?})", lasts.as_secs_f64(), half.statuses);
    let quantiles =
        |p50: f64, p99: f64, p999: f64| format!("p50 {p50:.3} ms  p99 {p99:.3} ms  p99.9 {p999:.3} ms");
    let waited = |o: &Outcome| quantiles(o.quantile(0.5), o.quantile(0.99), o.quantile(0.999));
    println!("  bare append        {}", waited(&bare));
    println!("  payment to answer  {}", waited(&half));
    for part in ["queue", "log", "graph", REPLY] {
        let at = |quantile| half.split_at(part, quantile);
        println!("    {part:<17}{}", quantiles(at(0.5), at(0.99), at(0.999)));
    }
    let aim = (3.0 * bare.quantile(0.99)).max(5.0);
    let verdict = if half.quantile(0.99) <= aim { "reached" } else { "missed" };
    let (late, slots) = half.late_in(Duration::from_secs_f64(aim / 1e3));
    println!(
        "  aim: p99 within {aim:.3} ms: {verdict}; calls were later in {late} of {slots} twentieths of a second"
    );
    acknowledged.append(&mut half.acknowledged);

    let lasts_half = lasts / 2;
    let reads = Reads { address: service.http, rate: READS, lasts: lasts_half, priority: callers };
    let [features, sql] = [one_key_features as fn(usize) -> String, one_key_sql]
        .map(|request| std::thread::spawn(move || reads.make(request)));
    let mut beside = make(&load(rate, OPEN, lasts_half), |number| payment(2, number))?;
    let read =
        |thread: std::thread::JoinHandle<_>| thread.join().map_err(|_| "a reader panicked".to_owned())?;
    let (features, sql): (Outcome, Outcome) = (read(features)?, read(sql)?);
    println!("reads beside it, {READS}/s of each kind ({:?})", beside.statuses);
    for (what, read) in [("features of a key", features), ("rows of a key, SQL", sql)] {
        let verdict = if read.quantile(0.99) <= READ_WITHIN_MS { "reached" } else { "missed" };
        println!(
            "  {what:<19}{} ({:?}); aim: p99 within {READ_WITHIN_MS} ms: {verdict}",
            waited(&read),
            read.statuses
        );
    }
    println!("  payment to answer  {}", waited(&beside));
    acknowledged.append(&mut beside.acknowledged);

    // Beside those who take the calls, and not before them: whoever offers what he can would leave
    // nothing of two cores.
    let priority = if in_realtime { Priority::Serve } else { Priority::Ordinary };
    let over = Load { priority, ..load(peak_rate.saturating_mul(10), 2000, lasts / 2) };
    let mut over = make(&over, |number| payment(3, number))?;
    println!(
        "ten times the peak over 2,000 connections ({:?}): p99 {:.1} ms of those answered",
        over.statuses,
        over.quantile(0.99)
    );
    acknowledged.append(&mut over.acknowledged);
    drop(service); // kill -9

    let there = events_in(&data)?;
    let lost = acknowledged.iter().filter(|id| !there.contains(id.as_str())).count();
    println!("{} acknowledged, {lost} lost after kill -9", acknowledged.len());
    if lost > 0 { Err(format!("{lost} acknowledged payments are not in the log")) } else { Ok(()) }
}

/// The ids of the events in a log.
fn events_in(data: &Path) -> Result<std::collections::BTreeSet<String>, String> {
    use arrow::array::AsArray;
    use tidegate_facts::{Topic, columns};
    use tidegate_host::Host;
    use tidegate_sinks::log::{LogFolder, LogOptions, LogReader, Start, Until};
    let log = LogFolder::of_data(&Host::real(), data);
    // Cuts a torn end off first, as a start does.
    drop(log.open(LogOptions::default()).map_err(|e| e.to_string())?);
    let mut ids = std::collections::BTreeSet::new();
    for group in log.read(Start::Group(0), Until::Complete).map_err(|e| e.to_string())? {
        for frame in
            group.map_err(|e| e.to_string())?.frames.iter().filter(|frame| frame.topic == Topic::Traffic)
        {
            let column = frame.rows.column_by_name(columns::EVENT_ID).ok_or("facts without ids")?;
            ids.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
        }
    }
    Ok(ids)
}

/// Records of 600 bytes at a rate, each reported when the sync that covers it is done; what comes
/// during a sync is written with the next.
fn bare_append(
    file: &Path,
    rate: u32,
    lasts: Duration,
    (own, callers): (Priority, Priority),
) -> Result<Outcome, String> {
    let total = (f64::from(rate) * lasts.as_secs_f64()) as usize;
    let text = |error: std::io::Error| error.to_string();
    let mut log = File::create(file).map_err(text)?;
    // As the log's segments are: preallocated, so that a sync writes no metadata.
    log.write_all(&vec![0; total * 600]).map_err(text)?;
    log.sync_all().map_err(text)?;
    std::io::Seek::rewind(&mut log).map_err(text)?;
    let (sender, receiver) = channel::<Instant>();
    let _urgent = own.hold().map_err(text)?;
    let began = Instant::now() + Duration::from_millis(20);
    let producer = std::thread::spawn(move || {
        let _urgent = callers.hold();
        for number in 0..total {
            let due = began + Duration::from_secs_f64(number as f64 / f64::from(rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                break;
            }
        }
    });
    let mut outcome = Outcome::default();
    while let Ok(first) = receiver.recv() {
        let group: Vec<Instant> = std::iter::once(first).chain(receiver.try_iter()).collect();
        log.write_all(&vec![b'x'; 600 * group.len()]).map_err(text)?;
        log.sync_data().map_err(text)?;
        outcome.waited.extend(group.into_iter().map(|due| due.elapsed()));
    }
    producer.join().map_err(|_| "the producer panicked".to_owned())?;
    outcome.waited.sort_unstable();
    Ok(outcome)
}
