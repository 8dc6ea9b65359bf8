//! Metrics of the ports: HTTP calls, SQL statements, decisions and connections.
//!
//! They are served by `GET /metrics`; no table or decision depends on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use tidegate_dataflows::metrics::histogram::{Histogram, HistogramSnapshot};

use crate::traces::Traces;

/// The duration from which on a statement is logged as slow.
const SLOW: Duration = Duration::from_secs(1);

/// The most characters of a statement that are logged.
const LOGGED_CHARS_MAX: usize = 500;

/// The most refused requests that are logged in a second; the others are counted.
const REFUSALS_MAX: u32 = 10;

/// The telemetry of a service: the metrics of all its ports.
#[derive(Debug, Default)]
pub struct Telemetry {
    routes: Mutex<BTreeMap<(String, &'static str), RouteCounters>>,
    statements: [StatementMetrics; Port::ALL.len()],
    /// The time from a record to its decisions, and its parts.
    pub(crate) decisions: DecisionMetrics,
    pub(crate) subscribers: Gauge,
    connections: [Gauge; Port::ALL.len()],
    refusal_log: Mutex<RateLimit>,
    traces: Option<Arc<Traces>>,
}

/// A port whose statements and connections telemetry counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// HTTP.
    Http,
    /// The Postgres wire protocol.
    Postgres,
}

/// The counters of one route.
#[derive(Debug, Default)]
struct RouteCounters {
    by_status: BTreeMap<u16, u64>,
    latency: Histogram,
}

/// A snapshot of telemetry: the calls to one HTTP route with one method.
pub(crate) struct RouteMetrics {
    pub(crate) route: String,
    pub(crate) method: &'static str,
    pub(crate) by_status: BTreeMap<u16, u64>,
    pub(crate) latency: HistogramSnapshot,
}

/// The telemetry of the statements of one port.
#[derive(Debug, Default)]
pub(crate) struct StatementMetrics {
    pub(crate) running: Gauge,
    pub(crate) by_outcome: [AtomicU64; StatementOutcome::ALL.len()],
    pub(crate) latency: Histogram,
}

/// How a statement ended, as telemetry counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementOutcome {
    /// The client got every row.
    Answered,
    /// Planning or running it failed, or it timed out.
    Failed,
    /// The client did not take all rows.
    GivenUp,
}

/// The telemetry of calls that got a decision: how long they took.
#[derive(Debug, Default)]
pub(crate) struct DecisionMetrics {
    pub(crate) whole: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) log: Histogram,
    pub(crate) graph: Histogram,
    /// Calls whose timeout passed before all their decisions came.
    pub(crate) timeouts: AtomicU64,
}

/// A gauge of telemetry: the current number of something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

/// Counts one item of a gauge of telemetry until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Arc<AtomicU64>);

/// Counts the log lines of the current second.
#[derive(Debug, Default)]
struct RateLimit {
    second: Option<Instant>,
    logged: u32,
    suppressed: u64,
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

impl StatementOutcome {
    pub(crate) const ALL: [StatementOutcome; 3] =
        [StatementOutcome::Answered, StatementOutcome::Failed, StatementOutcome::GivenUp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            StatementOutcome::Answered => "answered",
            StatementOutcome::Failed => "failed",
            StatementOutcome::GivenUp => "given_up",
        }
    }
}

impl Gauge {
    /// Counts one more item until the guard is dropped.
    pub(crate) fn enter(&self) -> GaugeGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(Arc::clone(&self.0))
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Telemetry {
    /// Metrics that start at zero; with `traces`, calls are traced.
    pub fn new(traces: Option<Arc<Traces>>) -> Telemetry {
        Telemetry { traces, ..Telemetry::default() }
    }

    /// The tracer, if calls are traced.
    pub(crate) fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }

    /// Counts one answered call to a route.
    pub(crate) fn answered(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let mut routes = self.routes.lock();
        let counters = routes.entry((route.to_owned(), method)).or_default();
        *counters.by_status.entry(status).or_default() += 1;
        counters.latency.record_duration(took);
    }

    /// The calls so far, by route and method.
    pub(crate) fn routes(&self) -> Vec<RouteMetrics> {
        let routes = self.routes.lock();
        routes
            .iter()
            .map(|((route, method), counters)| RouteMetrics {
                route: route.clone(),
                method,
                by_status: counters.by_status.clone(),
                latency: counters.latency.snapshot(),
            })
            .collect()
    }

    /// Counts one open connection of a port until the guard is dropped.
    pub fn connection(&self, port: Port) -> GaugeGuard {
        self.connections[port as usize].enter()
    }

    /// The number of open connections of a port.
    pub(crate) fn connections(&self, port: Port) -> u64 {
        self.connections[port as usize].now()
    }

    /// Limits the log lines about refused requests. If a line may be logged now, returns how many
    /// were suppressed since the last one.
    pub(crate) fn rate_limit_log(&self) -> Option<u64> {
        let mut limit = self.refusal_log.lock();
        if limit.second.is_none_or(|second| second.elapsed() > Duration::from_secs(1)) {
            (limit.second, limit.logged) = (Some(Instant::now()), 0);
        }
        if limit.logged == REFUSALS_MAX {
            limit.suppressed += 1;
            return None;
        }
        limit.logged += 1;
        Some(std::mem::take(&mut limit.suppressed))
    }

    /// Starts measuring a statement.
    pub fn statement(self: &Arc<Self>, port: Port, sql: &str) -> StatementTimer {
        let running = self.statements(port).running.enter();
        let (telemetry, started) = (Arc::clone(self), Instant::now());
        let (sql, outcome) = (sql.to_owned(), StatementOutcome::GivenUp);
        StatementTimer { telemetry, port, sql, started, outcome, _running: running }
    }

    pub(crate) fn statements(&self, port: Port) -> &StatementMetrics {
        &self.statements[port as usize]
    }
}

/// Measures one statement for telemetry until it is dropped; without an outcome it counts as given
/// up.
pub struct StatementTimer {
    telemetry: Arc<Telemetry>,
    port: Port,
    sql: String,
    started: Instant,
    outcome: StatementOutcome,
    _running: GaugeGuard,
}

impl StatementTimer {
    /// Ends the measurement with an outcome.
    pub fn end(mut self, outcome: StatementOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for StatementTimer {
    fn drop(&mut self) {
        let (took, metrics) = (self.started.elapsed(), self.telemetry.statements(self.port));
        metrics.by_outcome[self.outcome as usize].fetch_add(1, Ordering::Relaxed);
        metrics.latency.record_duration(took);
        if took >= SLOW {
            tracing::warn!(
                port = self.port.name(),
                outcome = self.outcome.name(),
                elapsed_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                sql = without_values(&self.sql),
                "slow statement"
            );
        }
    }
}

/// The statement for the log: each literal is replaced by a question mark, and comments are
/// removed.
fn without_values(sql: &str) -> String {
    let mut shown = String::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next().filter(|_| shown.chars().count() < LOGGED_CHARS_MAX) {
        let after = |end: &str| rest[1..].find(end).map_or(rest.len(), |at| 1 + at + end.len());
        let run = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let taken = match first {
            '\'' => {
                // In E'..' a backslash escapes a quote.
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
                // A dollar-quoted text from $tag$ to the next $tag$, or the number of a parameter.
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
    shown.chars().take(LOGGED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_logged_without_its_literals() {
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
        assert_eq!(without_values(&"x, ".repeat(10_000)).chars().count(), LOGGED_CHARS_MAX);
    }

    #[test]
    fn a_statement_without_an_outcome_was_given_up() {
        let telemetry = Arc::new(Telemetry::default());
        telemetry.statement(Port::Http, "SELECT 1").end(StatementOutcome::Answered);
        let second = telemetry.statement(Port::Http, "SELECT 2");
        assert_eq!(telemetry.statements(Port::Http).running.now(), 1);
        drop(second);
        let metrics = telemetry.statements(Port::Http);
        let outcomes: Vec<u64> =
            metrics.by_outcome.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!((metrics.running.now(), outcomes), (0, vec![1, 0, 1]));
    }

    #[test]
    fn refusals_are_logged_up_to_a_limit_per_second_and_the_others_counted() {
        let telemetry = Telemetry::default();
        let logged = (0..50).filter(|_| telemetry.rate_limit_log() == Some(0)).count();
        assert_eq!(logged, REFUSALS_MAX as usize);
        telemetry.refusal_log.lock().second = None;
        assert_eq!(telemetry.rate_limit_log(), Some(40));
    }
}
