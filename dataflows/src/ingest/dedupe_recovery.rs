//! Fills the dedupe index with the facts that are in the log and not in the index yet.

use std::sync::Arc;

use arrow::array::AsArray;
use tidegate_dedupe::{DedupeError, DedupeIndex, FirstSeen};
use tidegate_facts::{Digest, Tick, Topic, columns};
use tidegate_operators::gate::{TimeBounds, Validator};
use tidegate_sinks::log::{Frame, Group};

use crate::ingest::control_gate::control_validator;
use crate::plan::Plan;

/// Finds the dedupe keys of facts under every policy by which they may have been admitted.
pub(crate) struct DedupeRecovery {
    validators: Vec<Validator>,
    covered: Tick,
}

impl DedupeRecovery {
    /// For an index that holds everything before `covered`.
    pub(crate) fn new(plan: &Plan, covered: Tick) -> DedupeRecovery {
        let validator =
            |policy: &Arc<_>| Validator::new(Arc::clone(policy), plan.topology.partitions, TimeBounds::TICKS);
        let validators = plan.policies.values().map(validator).chain([control_validator()]).collect();
        DedupeRecovery { validators, covered }
    }

    /// Adds the facts of the next group of the log to the index, except those it holds.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(crate) fn add(&mut self, group: &Group, dedupe: &mut DedupeIndex) -> Result<(), DedupeError> {
        if group.upper <= self.covered {
            return Ok(());
        }
        for frame in group.frames.iter().filter(|f| f.topic != Topic::Audit) {
            let (ticks, offsets) = (columns::ticks(&frame.rows), columns::offsets(&frame.rows));
            let hashes = frame.rows.column_by_name(columns::PAYLOAD_HASH).expect("facts have it");
            let hashes = hashes.as_fixed_size_binary();
            for (row, key) in self.keys(frame).into_iter().enumerate() {
                let hash = Digest(hashes.value(row).try_into().expect("a digest has 32 bytes"));
                let tick = Tick(ticks.value(row));
                if tick >= self.covered {
                    dedupe.insert(
                        key,
                        FirstSeen { payload: hash.short(), tick, offset: offsets.value(row).cast_unsigned() },
                    );
                }
            }
        }
        dedupe.advance(group.upper)
    }

    /// The dedupe keys of a frame's facts. An event type has one class in all policies, so any
    /// policy that knows it will do.
    fn keys(&mut self, frame: &Frame) -> Vec<u128> {
        let validator = self.validators.iter_mut().find(|validator| validator.has_event_type(&frame.name));
        validator.expect("a policy let these facts in").dedupe_keys(&frame.rows)
    }
}
