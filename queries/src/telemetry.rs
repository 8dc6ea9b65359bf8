//! What the ports measure of themselves: calls, statements, decisions, connections. Nothing derived reads it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_dataflows::histogram::{Histogram, Seen};

use crate::traces::Traces;

/// From when on a statement is slow enough to be logged.
const SLOW: Duration = Duration::from_secs(1);

/// How much of a statement is logged.
const SHOWN_CHARS_MAX: usize = 500;

/// How many refusals are logged in a second; the others are counted.
const REFUSALS_MAX: u32 = 10;

/// What the ports measure.
#[derive(Debug, Default)]
pub struct Telemetry {
    calls: Mutex<BTreeMap<(String, &'static str), Answers>>,
    statements: [Statements; Port::ALL.len()],
    /// From having a record to its decision, and the parts of that.
    pub(crate) decisions: Decisions,
    pub(crate) tails: Gauge,
    pub(crate) connections: [Gauge; Port::ALL.len()],
    refusals: Mutex<Refusals>,
    traces: Option<Arc<Traces>>,
}

/// Where somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Http,
    Postgres,
}

/// The answers of one route.
#[derive(Debug, Default)]
struct Answers {
    by_status: BTreeMap<u16, u64>,
    latency: Histogram,
}

/// The answers of one route, as they stand.
pub(crate) struct Calls {
    pub(crate) route: String,
    pub(crate) method: &'static str,
    pub(crate) by_status: BTreeMap<u16, u64>,
    pub(crate) latency: Seen,
}

/// The statements of one port.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    pub(crate) running: Gauge,
    pub(crate) by_end: [AtomicU64; End::ALL.len()],
    pub(crate) latency: Histogram,
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Every row was given.
    Answered,
    /// It could not be planned or run, or took too long.
    Failed,
    /// Whoever asked did not take all rows.
    GivenUp,
}

/// How long decisions took, of the calls that got one.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    pub(crate) whole: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) log: Histogram,
    pub(crate) graph: Histogram,
    /// Calls whose time was over before their decision was there.
    pub(crate) late: AtomicU64,
}

/// How many there are now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

/// One of those that are counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicU64>);

#[derive(Debug, Default)]
struct Refusals {
    second: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Port {
    pub(crate) const ALL: [Port; 2] = [Port::Http, Port::Postgres];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Port::Http => "http",
            Port::Postgres => "postgres",
        }
    }
}

impl End {
    pub(crate) const ALL: [End; 3] = [End::Answered, End::Failed, End::GivenUp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Answered => "answered",
            End::Failed => "failed",
            End::GivenUp => "given_up",
        }
    }
}

impl Gauge {
    pub(crate) fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.0))
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Telemetry {
    /// Nothing measured yet; calls are followed if there are traces.
    pub fn new(traces: Option<Arc<Traces>>) -> Telemetry {
        Telemetry { traces, ..Telemetry::default() }
    }

    /// Where calls are followed, if they are.
    pub(crate) fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }

    /// A call to a route was answered.
    pub(crate) fn answered(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let mut calls = self.calls.lock().expect("no panic");
        let answers = calls.entry((route.to_owned(), method)).or_default();
        *answers.by_status.entry(status).or_default() += 1;
        answers.latency.time(took);
    }

    /// The answers by route and method.
    pub(crate) fn calls(&self) -> Vec<Calls> {
        let calls = self.calls.lock().expect("no panic");
        calls
            .iter()
            .map(|((route, method), answers)| Calls {
                route: route.clone(),
                method,
                by_status: answers.by_status.clone(),
                latency: answers.latency.seen(),
            })
            .collect()
    }

    /// Whether a refusal may be logged now; if so, how many were not since the last one.
    pub(crate) fn may_tell_refusal(&self) -> Option<u64> {
        let mut refusals = self.refusals.lock().expect("no panic");
        if refusals.second.is_none_or(|second| second.elapsed() > Duration::from_secs(1)) {
            (refusals.second, refusals.told) = (Some(Instant::now()), 0);
        }
        if refusals.told == REFUSALS_MAX {
            refusals.untold += 1;
            return None;
        }
        refusals.told += 1;
        Some(std::mem::take(&mut refusals.untold))
    }

    /// A statement begins.
    pub(crate) fn statement(self: &Arc<Self>, port: Port, sql: &str) -> Statement {
        let running = self.statements(port).running.enter();
        let (telemetry, began) = (Arc::clone(self), Instant::now());
        Statement { telemetry, port, sql: sql.to_owned(), began, end: End::GivenUp, _running: running }
    }

    pub(crate) fn statements(&self, port: Port) -> &Statements {
        &self.statements[port as usize]
    }
}

/// A statement that is being answered; given up unless it says how it ended.
pub(crate) struct Statement {
    telemetry: Arc<Telemetry>,
    port: Port,
    sql: String,
    began: Instant,
    end: End,
    _running: Counted,
}

impl Statement {
    pub(crate) fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        let (took, counts) = (self.began.elapsed(), self.telemetry.statements(self.port));
        counts.by_end[self.end as usize].fetch_add(1, Ordering::Relaxed);
        counts.latency.time(took);
        if took >= SLOW {
            tracing::warn!(
                port = self.port.name(),
                end = self.end.name(),
                elapsed_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                sql = without_values(&self.sql),
                "slow statement"
            );
        }
    }
}

/// A statement with a question mark for each value that it names, and without comments: what was asked, and not of whom.
fn without_values(sql: &str) -> String {
    let mut shown = String::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next().filter(|_| shown.chars().count() < SHOWN_CHARS_MAX) {
        let after = |end: &str| rest[1..].find(end).map_or(rest.len(), |at| 1 + at + end.len());
        let run = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let taken = match first {
            '\'' => {
                // In E'..' a quote behind a backslash is none.
                let escapes = shown.ends_with(['e', 'E']);
                shown.push('?');
                let mut text = rest.char_indices().skip(1);
                loop {
                    match text.next() {
                        Some((at, '\'')) => break at + 1,
                        Some((_, '\\')) if escapes => drop(text.next()),
                        Some(_) => {}
                        None => break rest.len(),
                    }
                }
            }
            '$' => {
                // From $tag$ to the next $tag$; or the number of a parameter.
                let tag = rest[1..].find('$').map(|at| &rest[..at + 2]);
                let tag =
                    tag.filter(|tag| tag[1..tag.len() - 1].chars().all(|c| c.is_alphanumeric() || c == '_'));
                shown.push('?');
                match tag {
                    Some(tag) => rest[tag.len()..].find(tag).map_or(rest.len(), |at| at + 2 * tag.len()),
                    None => 1 + rest[1..].find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len() - 1),
                }
            }
            '-' if rest.starts_with("--") => after("\n"),
            '/' if rest.starts_with("/*") => after("*/"),
            '0'..='9' => {
                shown.push('?');
                run(|c| c.is_alphanumeric() || c == '.')
            }
            '"' => {
                let end = after("\"");
                shown.push_str(&rest[..end]);
                end
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = run(|c| c.is_alphanumeric() || c == '_');
                shown.push_str(&rest[..end]);
                end
            }
            c => {
                shown.push(if c.is_whitespace() { ' ' } else { c });
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    shown.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_shown_without_the_values_it_names() {
        let cases = [
            ("SELECT * FROM t1 WHERE card = 4711 AND x=1.5e3", "SELECT * FROM t1 WHERE card = ? AND x=?"),
            ("SELECT 'it''s secret', \"col 1\"", "SELECT ??, \"col 1\""),
            ("SELECT $1, $$secret$$, $a$secret$a$ -- secret\n, é", "SELECT ?, ?, ? , é"),
            ("SELECT X'ab' /* secret */ FROM t", "SELECT X?  FROM t"),
            ("SELECT 'secret", "SELECT ?"),
            (r"SELECT E'a\'secret', 'a\', b", "SELECT E?, ?, b"),
            ("SELECT $", "SELECT ?"),
            ("SELECT a.b\tFROM c", "SELECT a.b FROM c"),
        ];
        for (sql, shown) in cases {
            assert_eq!(without_values(sql), shown);
        }
        assert_eq!(without_values(&"x, ".repeat(10_000)).chars().count(), SHOWN_CHARS_MAX);
    }

    #[test]
    fn a_statement_that_nobody_ends_was_given_up() {
        let telemetry = Arc::new(Telemetry::default());
        telemetry.statement(Port::Http, "SELECT 1").end(End::Answered);
        let asked = telemetry.statement(Port::Http, "SELECT 2");
        assert_eq!(telemetry.statements(Port::Http).running.now(), 1);
        drop(asked);
        let counts = telemetry.statements(Port::Http);
        let ends: Vec<u64> = counts.by_end.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!((counts.running.now(), ends), (0, vec![1, 0, 1]));
    }

    #[test]
    fn refusals_are_told_so_many_a_second_and_the_others_counted() {
        let telemetry = Telemetry::default();
        let told = (0..50).filter(|_| telemetry.may_tell_refusal() == Some(0)).count();
        assert_eq!(told, REFUSALS_MAX as usize);
        telemetry.refusals.lock().expect("no panic").second = None;
        assert_eq!(telemetry.may_tell_refusal(), Some(40));
    }
}
