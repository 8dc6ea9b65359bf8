//! How long does a caller wait for a decision, at a steady rate, from when the call was meant to be
//! made?
//!
//! An open loop: calls are due at fixed times whatever became of those before, so a service that
//! stalls is charged with all that it kept waiting. Beside it, in the same run, a bare log takes
//! groups at the same rate, synced as often as it can. Prints quantiles in milliseconds, how many
//! calls came to what, and the split that the service itself measured.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use tidegate_dataflows::thread_priority::Priority;

/// The load of calls that a bench makes on a service at a steady rate.
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
    /// How urgent the callers' threads are.
    pub priority: Priority,
}

/// The outcome of a load on a service: how the calls were answered, and how long they waited.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the intended time of each call that was answered with 200, sorted.
    pub waited: Vec<Duration>,
    /// When each of those was meant to be made, since the beginning, and how long it waited.
    pub calls: Vec<(Duration, Duration)>,
    /// Calls by status; 0 for those that were not answered.
    pub statuses: BTreeMap<u16, usize>,
    /// What the service measured of each decision, in milliseconds: queue, log, graph; and
    /// [`REPLY`]. Each sorted.
    pub split: BTreeMap<String, Vec<f64>>,
    /// The ids of the events that were acknowledged.
    pub acknowledged: Vec<String>,
}

/// The name of what is left of a call's time beside what the service measured: the way there and
/// back, and waiting for a core.
pub const REPLY: &str = "reply";

impl Outcome {
    /// A quantile of the waiting times, in milliseconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        at(&self.waited, quantile).map_or(f64::NAN, |waited| waited.as_secs_f64() * 1e3)
    }
}

impl Outcome {
    /// Of how many twentieths of a second some calls waited longer than `bound`, and of how many
    /// there were: a service that is too busy is late in all, and one that stalls in few.
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

/// Makes the load of calls on a service. `record` gives the id and the envelope of each call by its
/// number.
///
/// One thread makes the calls of up to a thousand connections, so that the callers take little of
/// the cores that the service shares with them.
///
/// # Errors
/// When no connection can be made.
pub fn make(
    load: &Load,
    record: impl Fn(usize) -> (String, String) + Send + Sync + 'static,
) -> Result<Outcome, String> {
    const CONNECTIONS: usize = 1000;
    let total = (f64::from(load.rate) * load.lasts.as_secs_f64()) as usize;
    let (next, record) = (Arc::new(AtomicUsize::new(0)), Arc::new(record));
    let mut streams = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        streams.push(connect(load.address)?);
    }
    let began = Instant::now() + Duration::from_millis(50);
    let mut threads = Vec::new();
    while !streams.is_empty() {
        let own = streams.split_off(streams.len().saturating_sub(CONNECTIONS));
        let mut callers = Callers::new(load, own, total, began).map_err(|error| error.to_string())?;
        let (next, record, priority) = (Arc::clone(&next), Arc::clone(&record), load.priority);
        threads.push(std::thread::spawn(move || {
            priority.set_for_current_thread()?;
            callers.call(&next, record.as_ref()).map(|()| callers.outcome)
        }));
    }
    let mut outcome = Outcome::default();
    for thread in threads {
        let part = thread.join().map_err(|_| "a caller panicked".to_owned())?;
        outcome.append(part.map_err(|error| error.to_string())?);
    }
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

/// Callers that share a thread: whichever is free takes the next call that is due.
struct Callers {
    address: SocketAddr,
    rate: u32,
    key: String,
    total: usize,
    began: Instant,
    poll: Poll,
    callers: Vec<Caller>,
    /// Those that rest, the longest first: a service does not keep those for ever who say nothing.
    free: VecDeque<usize>,
    outcome: Outcome,
}

/// One connection, and the call that it makes.
struct Caller {
    stream: mio::net::TcpStream,
    /// When the call was due, and the id of its event; `None` while nothing is asked.
    call: Option<(Instant, String)>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Callers {
    fn new(load: &Load, streams: Vec<TcpStream>, total: usize, began: Instant) -> std::io::Result<Callers> {
        let key = load.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let (address, rate, free) = (load.address, load.rate, (0..streams.len()).collect());
        let (poll, outcome) = (Poll::new()?, Outcome::default());
        let mut callers =
            Callers { address, rate, key, total, began, poll, callers: Vec::new(), free, outcome };
        for stream in streams {
            let caller = callers.caller(stream, callers.callers.len())?;
            callers.callers.push(caller);
        }
        Ok(callers)
    }

    fn caller(&self, stream: TcpStream, place: usize) -> std::io::Result<Caller> {
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(place), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Caller { stream, call: None, request: Vec::new(), answer: Vec::new() })
    }

    /// Makes calls until none is left and all were answered.
    fn call(
        &mut self,
        next: &AtomicUsize,
        record: &(impl Fn(usize) -> (String, String) + ?Sized),
    ) -> std::io::Result<()> {
        const NAP: Duration = Duration::from_micros(50);
        let mut events = Events::with_capacity(1024);
        let mut taken = next.fetch_add(1, Ordering::Relaxed);
        let (began, rate) = (self.began, f64::from(self.rate));
        let due = |number: usize| began + Duration::from_secs_f64(number as f64 / rate);
        loop {
            let now = Instant::now();
            while taken < self.total
                && due(taken) <= now
                && let Some(place) = self.free.pop_front()
            {
                let (id, body) = record(taken);
                let caller = &mut self.callers[place];
                caller.call = Some((due(taken), id));
                write!(
                    caller.request,
                    "POST /v1/decide?timeout_ms=10000 HTTP/1.1\r\nhost: x\r\n{}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    self.key,
                    body.len()
                )?;
                taken = next.fetch_add(1, Ordering::Relaxed);
                if caller.write().is_err() {
                    self.finish(place, None)?;
                }
            }
            let is_over = taken >= self.total;
            if is_over && self.free.len() == self.callers.len() {
                return Ok(());
            }
            // The clock of a poll counts in milliseconds, which is too coarse to be on time by.
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            if events.is_empty() {
                std::thread::sleep(NAP);
            }
            for event in &events {
                let place = event.token().0;
                let caller = &mut self.callers[place];
                if caller.call.is_none() {
                    continue;
                }
                let answered = caller.write().and_then(|()| caller.read());
                match answered {
                    Ok(None) => {}
                    Ok(Some(answer)) => self.finish(place, Some(answer))?,
                    Err(_) => self.finish(place, None)?,
                }
            }
        }
    }

    /// Notes what came of a caller's call, and frees it.
    fn finish(&mut self, place: usize, answer: Option<(u16, String)>) -> std::io::Result<()> {
        let (due, id) = self.callers[place].call.take().expect("it made a call");
        let status = answer.as_ref().map_or(0, |(status, _)| *status);
        *self.outcome.statuses.entry(status).or_default() += 1;
        let waited = due.elapsed();
        if status == 200 {
            self.outcome.waited.push(waited);
            self.outcome.calls.push((due.saturating_duration_since(self.began), waited));
            self.outcome.acknowledged.push(id);
        }
        match answer {
            Some((_, head)) => self.outcome.learn_split(&head, waited),
            None => self.connect_again(place)?,
        }
        self.free.push_back(place);
        Ok(())
    }

    fn connect_again(&mut self, place: usize) -> std::io::Result<()> {
        let again = TcpStream::connect(self.address)?;
        again.set_nodelay(true)?;
        self.callers[place] = self.caller(again, place)?;
        Ok(())
    }
}

impl Caller {
    /// Writes as much of the request as the connection takes.
    fn write(&mut self) -> std::io::Result<()> {
        while !self.request.is_empty() {
            match self.stream.write(&self.request) {
                Ok(written) => drop(self.request.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The status and the head of the answer, once all of it is there.
    fn read(&mut self) -> std::io::Result<Option<(u16, String)>> {
        let mut part = [0; 4096];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.answer.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let Some(end) = self.answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let (status, length, head) = head_of(&self.answer[..end]).ok_or(ErrorKind::InvalidData)?;
        if self.answer.len() < end + 4 + length {
            return Ok(None);
        }
        self.answer.clear();
        Ok(Some((status, head)))
    }
}

impl Outcome {
    fn append(&mut self, mut other: Outcome) {
        self.waited.append(&mut other.waited);
        self.calls.append(&mut other.calls);
        self.acknowledged.append(&mut other.acknowledged);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (part, mut took) in other.split {
            self.split.entry(part).or_default().append(&mut took);
        }
    }
}

impl Outcome {
    /// `server-timing: queue;dur=0.1, log;dur=0.2`
    fn learn_split(&mut self, head: &str, waited: Duration) {
        let Some(timing) = head.lines().find_map(|line| line.strip_prefix("server-timing: ")) else { return };
        let mut left = waited.as_secs_f64() * 1e3;
        for part in timing.split(", ") {
            if let Some((name, took)) = part.split_once(";dur=")
                && let Ok(took) = took.trim().parse::<f64>()
            {
                left -= took;
                self.split.entry(name.to_owned()).or_default().push(took);
            }
        }
        self.split.entry(REPLY.to_owned()).or_default().push(left);
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
    let (status, length, head) = head_of(&text[..end])?;
    let mut left = (end + 4 + length).saturating_sub(text.len());
    while left > 0 {
        let most = left.min(part.len());
        left -= stream.read(&mut part[..most]).ok().filter(|read| *read > 0)?;
    }
    Some((status, head))
}

/// The status of an answer, the length of its body, and its head in lower case.
fn head_of(head: &[u8]) -> Option<(u16, usize, String)> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()?;
    Some((status, length, head))
}
