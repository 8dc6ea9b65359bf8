//! Commit boundaries: the ticks at which the rows of all tables are cut and committed.

use std::sync::Arc;

use tidegate_facts::{Span, Tick};
use tidegate_sinks::hash_chains::LogHeads;
use tidegate_sinks::log::LogPosition;

/// A commit boundary, and the state of the log there.
#[derive(Clone, Debug)]
pub struct CommitBoundary {
    /// The commit at this boundary holds every row before this tick.
    pub upper: Tick,
    /// The heads of the log's hash chains.
    pub log: Arc<LogHeads>,
    /// What a start from here needs to know of the log.
    pub state: Arc<LogState>,
}

/// The state of the log at a commit boundary, as a checkpoint stores it.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// In front of the group from which on a start has to read the log.
    pub position: LogPosition,
    /// The number of groups up to and with the one that holds the boundary.
    pub groups: u64,
    /// The number of facts before the boundary.
    pub facts: u64,
    /// The number of facts of each partition of `traffic` before the boundary.
    pub basis: Vec<i64>,
    /// What the gate learnt from the groups before the position, as JSON; `None` when there is no
    /// gate.
    pub gate: Option<String>,
}

/// Cuts commit boundaries from the ticks of facts alone.
///
/// A boundary is cut after `rows` facts, or before the first fact that is `span` after the first of
/// its interval, or where the log holds a mark.
#[derive(Clone, Debug)]
pub struct BoundaryCutter {
    rows: u64,
    span: Span,
    counted: u64,
    first: Option<Tick>,
    /// The last boundary.
    last: Tick,
}

impl BoundaryCutter {
    /// A cutter that goes on after the boundary `last`.
    pub fn after(last: Tick, rows: u64, span: Span) -> BoundaryCutter {
        BoundaryCutter { rows, span, counted: 0, first: None, last }
    }

    /// Adds the boundary in front of the next fact, which has this tick, if there is one.
    pub fn before_fact(&mut self, tick: Tick, boundaries: &mut Vec<Tick>) {
        if let Some(first) = self.first
            && tick.micros() - first.micros() >= self.span.micros()
        {
            self.cut(tick, boundaries);
        }
    }

    /// Counts the fact with this tick, and adds the boundary behind it, if there is one.
    pub fn after_fact(&mut self, tick: Tick, boundaries: &mut Vec<Tick>) {
        self.first.get_or_insert(tick);
        self.counted += 1;
        if self.counted == self.rows {
            self.cut(tick.next(), boundaries);
        }
    }

    /// Adds a boundary at `upper`, unless no fact came since the last one.
    pub fn cut(&mut self, upper: Tick, boundaries: &mut Vec<Tick>) {
        if self.counted > 0 {
            boundaries.push(upper);
            self.last = upper;
        }
        self.counted = 0;
        self.first = None;
    }

    /// Adds the boundary of a commit mark in the log. A mark cuts also where no fact came but time
    /// has passed, since rows may follow from time alone.
    pub fn cut_at_mark(&mut self, upper: Tick, boundaries: &mut Vec<Tick>) {
        if self.counted == 0 && upper > self.last {
            boundaries.push(upper);
            self.last = upper;
        }
        self.cut(upper, boundaries);
    }

    /// The number of facts since the last boundary.
    pub fn uncommitted(&self) -> u64 {
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_follow_counts_and_ticks_alone() {
        let at = |micros| Tick::new(micros, 0).unwrap();
        let mut cutter = BoundaryCutter::after(Tick::ZERO, 3, Span::from_micros(100).unwrap());
        let mut found = Vec::new();
        for micros in [1, 2, 3, 10, 110, 111] {
            cutter.before_fact(at(micros), &mut found);
            cutter.after_fact(at(micros), &mut found);
        }
        assert_eq!(found, [at(3).next(), at(110)], "after three facts, then before the one 100 µs later");
        cutter.cut(at(112), &mut found);
        cutter.cut(at(112), &mut found);
        assert_eq!(found.len(), 3, "an empty interval is not committed");
        cutter.cut_at_mark(at(112), &mut found);
        cutter.cut_at_mark(at(200), &mut found);
        cutter.cut_at_mark(at(200), &mut found);
        assert_eq!(found[3..], [at(200)], "a mark cuts once time has passed");
    }
}
