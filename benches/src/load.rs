//! How long does a caller wait for a decision, at a steady rate, from when the call was meant to be made?
//!
//! An open loop: calls are due at fixed times whatever became of those before, so a service that stalls is charged with all
//! that it kept waiting. Beside it, in the same run, a bare log takes groups at the same rate, synced as often as it can.
//! Prints quantiles in milliseconds, how many calls came to what, and the split that the service itself measured.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What load to make.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the service is.
    pub address: SocketAddr,
    /// Calls a second.
    pub rate: u32,
    /// For how long.
    pub lasts: Duration,
    /// Over how many connections.
    pub connections: usize,
    /// The key, if the service asks for one.
    pub key: Option<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the intended time of each call that was answered with 200, sorted.
    pub waited: Vec<Duration>,
    /// When each of those was meant to be made, since the beginning, and how long it waited.
    pub calls: Vec<(Duration, Duration)>,
    /// Calls by status; 0 for those that were not answered.
    pub statuses: BTreeMap<u16, usize>,
    /// What the service measured of each decision, in milliseconds: queue, log, graph; each sorted.
    pub split: BTreeMap<String, Vec<f64>>,
    /// The ids of the events that were acknowledged.
    pub acknowledged: Vec<String>,
}

impl Outcome {
    /// A quantile of the waiting times, in milliseconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        at(&self.waited, quantile).map_or(f64::NAN, |waited| waited.as_secs_f64() * 1e3)
    }
}

impl Outcome {
    /// Of how many twentieths of a second some calls waited longer than `bound`, and of how many there were: a service
    /// that is too busy is late in all, and one that stalls in few.
    pub fn late_in(&self, bound: Duration) -> (usize, usize) {
        let slot = |due: &Duration| due.as_millis() / 50;
        let all: BTreeSet<u128> = self.calls.iter().map(|(due, _)| slot(due)).collect();
        let late = self.calls.iter().filter(|(_, waited)| *waited > bound).map(|(due, _)| slot(due));
        (late.collect::<BTreeSet<u128>>().len(), all.len())
    }
}

fn at<T: Copy>(sorted: &[T], quantile: f64) -> Option<T> {
    let place = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

/// Makes the load. `record` gives the id and the envelope of each call by its number.
///
/// # Errors
/// When no connection can be made.
pub fn make(
    load: &Load,
    record: impl Fn(usize) -> (String, String) + Send + Sync + 'static,
) -> Result<Outcome, String> {
    let total = (f64::from(load.rate) * load.lasts.as_secs_f64()) as usize;
    let (next, outcome) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Outcome::default())));
    let record = Arc::new(record);
    let mut streams = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        streams.push(connect(load.address)?);
    }
    let began = Instant::now() + Duration::from_millis(50);
    let threads = streams.into_iter().map(|stream| {
        let (load, next, outcome, record) =
            (load.clone(), Arc::clone(&next), Arc::clone(&outcome), Arc::clone(&record));
        let call = move || calls(&load, stream, total, began, &next, &outcome, record.as_ref());
        std::thread::Builder::new().stack_size(128 << 10).spawn(call).map_err(|error| error.to_string())
    });
    let threads: Vec<_> = threads.collect::<Result<_, _>>()?;
    for thread in threads {
        thread.join().map_err(|_| "a caller panicked".to_owned())?;
    }
    let mut outcome = std::mem::take(&mut *outcome.lock().expect("no panic"));
    outcome.waited.sort_unstable();
    outcome.split.values_mut().for_each(|part| part.sort_unstable_by(f64::total_cmp));
    Ok(outcome)
}

pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?;
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(60))))
        .map_err(|e| e.to_string())?;
    Ok(stream)
}

/// One caller: takes the next call that is due, waits for its time, makes it.
fn calls(
    load: &Load,
    mut stream: TcpStream,
    total: usize,
    began: Instant,
    next: &AtomicUsize,
    outcome: &Mutex<Outcome>,
    record: &(impl Fn(usize) -> (String, String) + ?Sized),
) {
    let mut own = Outcome::default();
    let key = load.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            break;
        }
        let due = began + Duration::from_secs_f64(number as f64 / f64::from(load.rate));
        let (id, body) = record(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let request = format!(
            "POST /v1/decide?within_ms=10000 HTTP/1.1\r\nhost: x\r\n{key}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answered = stream.write_all(request.as_bytes()).ok().and_then(|()| answer(&mut stream));
        let waited = due.elapsed();
        let status = answered.as_ref().map_or(0, |(status, _)| *status);
        *own.statuses.entry(status).or_default() += 1;
        if status == 200 {
            own.waited.push(waited);
            own.calls.push((due.saturating_duration_since(began), waited));
            own.acknowledged.push(id);
        }
        match answered {
            Some((_, head)) => own.learn_split(&head),
            None => match connect(load.address) {
                Ok(again) => stream = again,
                Err(_) => break,
            },
        }
    }
    let mut outcome = outcome.lock().expect("no panic");
    outcome.waited.append(&mut own.waited);
    outcome.calls.append(&mut own.calls);
    outcome.acknowledged.append(&mut own.acknowledged);
    for (status, count) in own.statuses {
        *outcome.statuses.entry(status).or_default() += count;
    }
    for (part, mut took) in own.split {
        outcome.split.entry(part).or_default().append(&mut took);
    }
}

impl Outcome {
    /// `server-timing: queue;dur=0.1, log;dur=0.2`
    fn learn_split(&mut self, head: &str) {
        let timing = head.lines().find_map(|line| line.strip_prefix("server-timing: "));
        for part in timing.into_iter().flat_map(|timing| timing.split(", ")) {
            if let Some((name, took)) = part.split_once(";dur=")
                && let Ok(took) = took.trim().parse()
            {
                self.split.entry(name.to_owned()).or_default().push(took);
            }
        }
    }

    /// A quantile of one part of the split, in milliseconds.
    pub fn split_at(&self, part: &str, quantile: f64) -> f64 {
        self.split.get(part).and_then(|took| at(took, quantile)).unwrap_or(f64::NAN)
    }
}

/// The status and the head of an answer, whose body is read and dropped.
pub(crate) fn answer(stream: &mut TcpStream) -> Option<(u16, String)> {
    let mut text = Vec::with_capacity(4096);
    let mut part = [0; 4096];
    let end = loop {
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        text.extend_from_slice(&part[..read]);
        if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length: usize =
        head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()?;
    let mut left = (end + 4 + length).saturating_sub(text.len());
    while left > 0 {
        let most = left.min(part.len());
        left -= stream.read(&mut part[..most]).ok().filter(|read| *read > 0)?;
    }
    Some((status, head))
}
