//! Makes the index of what was seen remember what is in the log, and is not in the index yet.

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use tidegate_facts::{Digest, Tick, Topic, columns};
use tidegate_operators::gate::Judge;
use tidegate_sinks::dedupe::{DedupeError, DedupeIndex, Seen};
use tidegate_sinks::log::{Frame, Group};

use crate::governance::door;
use crate::plan::{Plan, judge_of};

/// Knows the keys of facts by every policy under which they may have been admitted.
pub(crate) struct Memory {
    judges: Vec<Judge>,
    covered: Tick,
}

impl Memory {
    /// For an index that holds everything before `covered`.
    pub(crate) fn new(plan: &Plan, covered: Tick) -> Memory {
        let judge = |policy| judge_of(policy, plan.topology.partitions, crate::sources::ANY_TIME);
        let judges = plan.policies.values().map(judge).chain([door()]).collect();
        Memory { judges, covered }
    }

    /// Puts the facts of the next group of the log into the index, unless they are there.
    ///
    /// # Errors
    /// When the index cannot write what it holds.
    pub(crate) fn remember(&mut self, group: &Group, dedupe: &mut DedupeIndex) -> Result<(), DedupeError> {
        if group.upper <= self.covered {
            return Ok(());
        }
        for frame in group.frames.iter().filter(|f| f.topic != Topic::Audit) {
            let column = |name| frame.rows.column_by_name(name).expect("facts have it");
            let ticks = column(columns::TICK).as_primitive::<UInt64Type>();
            let offsets = column(columns::OFFSET).as_primitive::<UInt64Type>();
            let hashes = column(columns::PAYLOAD_HASH).as_fixed_size_binary();
            for (row, key) in self.keys(frame).into_iter().enumerate() {
                let hash = Digest(hashes.value(row).try_into().expect("a digest has 32 bytes"));
                let tick = Tick(ticks.value(row));
                if tick >= self.covered {
                    dedupe.insert(key, Seen { payload: hash.short(), tick, offset: offsets.value(row) });
                }
            }
        }
        dedupe.advance(group.upper)
    }

    /// The keys that the gate gave; an event type has one class in all policies, so any that knows it will do.
    fn keys(&mut self, frame: &Frame) -> Vec<u128> {
        let judge = self.judges.iter_mut().find(|judge| judge.knows(&frame.name));
        judge.expect("a policy let these facts in").dedupe_keys(&frame.rows)
    }
}
