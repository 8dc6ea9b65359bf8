//! The view that SQL statements have of a running topology: one tick for each statement.
//!
//! A statement is answered as of one tick, the same for every table and every worker: the greatest
//! tick before which everything is complete ([`LiveReads::complete`]). Rows before a tick never
//! change. So the same statement as of the same tick has the same answer, whether its rows have
//! been committed in the meantime or not.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use parking_lot::Mutex;
use tidegate_dataflows::serve::LiveReads;
use tidegate_facts::Tick;
use tidegate_sinks::store::Store;

/// How many concurrent statements may each have a tick of their own.
const STATEMENTS_MAX: usize = 256;

/// The session of statements with a running topology: what they see of it.
pub(crate) struct LiveSession {
    pub(crate) live: Arc<dyn LiveReads>,
    pub(crate) store: Store,
    /// The ticks of the newest statements, by their start times in nanoseconds.
    ticks: Mutex<VecDeque<(i64, Tick)>>,
}

impl LiveSession {
    pub(crate) fn new(live: Arc<dyn LiveReads>, store: Store) -> LiveSession {
        LiveSession { live, store, ticks: Mutex::default() }
    }

    /// The tick that a statement is answered as of: it sees the rows before this tick.
    pub(crate) fn tick_of(&self, statement: &dyn Session) -> Tick {
        let started = statement.execution_props().query_execution_start_time;
        let Some(started) = started.and_then(|at| at.timestamp_nanos_opt()) else {
            return self.live.complete();
        };
        let mut ticks = self.ticks.lock();
        if let Some((_, tick)) = ticks.iter().find(|(at, _)| *at == started) {
            return *tick;
        }
        let tick = self.live.complete();
        ticks.push_front((started, tick));
        ticks.truncate(STATEMENTS_MAX);
        tick
    }

    /// The first tick that a statement does not see: that of `as_of`, or its own if that is
    /// earlier.
    pub(crate) fn before(&self, statement: &dyn Session, as_of: Option<Tick>) -> Tick {
        let now = self.tick_of(statement);
        as_of.map_or(now, |as_of| as_of.min(now))
    }
}

impl fmt::Debug for LiveSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveSession")
    }
}

/// A table that the SQL function `as_of` can read as of an earlier tick.
pub(crate) trait AsOfTable: TableProvider {
    /// Its name in SQL.
    fn name(&self) -> &str;

    /// The table as of `before`: rows before that tick, or before the statement's if that is
    /// earlier.
    fn as_of(&self, before: Tick) -> Arc<dyn TableProvider>;
}

/// The first tick that is not visible as of a tick or a time, given as a number or a text.
///
/// As of a tick, that tick's fact is visible; as of a time, all facts stamped up to it are. `None`
/// when the value is neither.
pub(crate) fn end_of_as_of(value: &ScalarValue) -> Option<Tick> {
    match value {
        ScalarValue::Int64(Some(tick)) => (*tick >= 0).then(|| next_tick(*tick)),
        ScalarValue::UInt64(Some(tick)) => Some(next_tick(i64::try_from(*tick).unwrap_or(i64::MAX))),
        text => {
            let text = text.try_as_str()??;
            let tick = Tick::parse(text).ok()?;
            let is_tick = text.bytes().all(|byte| byte.is_ascii_digit());
            if is_tick { Some(next_tick(tick.0)) } else { Tick::new(tick.micros() + 1, 0) }
        }
    }
}

/// The tick after any number that a user may write; no fact has the last one.
fn next_tick(tick: i64) -> Tick {
    Tick(tick.saturating_add(1))
}
