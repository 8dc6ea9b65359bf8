//! Recomputes dedupe keys of facts in the log, and merges rejections into validated records.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use tidegate_facts::{Context, DedupeScope, columns};

use super::outcome::{Rejection, Validated};
use super::validator::Validator;

impl Validator {
    /// Recomputes the dedupe keys of facts in the log, one for each row, as the gate computed them.
    ///
    /// # Panics
    /// When the rows are not facts, or their context was not written by the gate.
    pub fn dedupe_keys(&mut self, rows: &RecordBatch) -> Vec<u128> {
        let contexts =
            rows.column_by_name(columns::CONTEXT).expect("facts have a context").as_dictionary::<Int32Type>();
        let event_ids = rows.column_by_name(columns::EVENT_ID).expect("facts have an id").as_string::<i32>();
        let scopes: Vec<DedupeScope> = contexts
            .values()
            .as_string::<i32>()
            .iter()
            .map(|text| {
                let context: Context =
                    serde_json::from_str(text.expect("a context")).expect("the gate wrote the context");
                self.scope_of(&context)
            })
            .collect();
        (0..rows.num_rows())
            .map(|row| {
                let scope = &scopes[contexts.key(row).expect("every fact has a context")];
                scope.key(event_ids.value(row))
            })
            .collect()
    }
}

impl Validated {
    /// Adds records of the same source that were rejected before validation, each with its
    /// position.
    #[must_use]
    pub fn with_rejected(self, more: Vec<(u64, Rejection)>) -> Validated {
        let mut order: Vec<(u64, usize)> = self.positions.iter().copied().zip(0..).collect();
        order.extend(more.iter().map(|(position, _)| *position).zip(self.positions.len()..));
        order.sort_unstable();
        // The new index of each record.
        let mut new_index = vec![0u32; order.len()];
        let mut times = Vec::with_capacity(order.len());
        for (new, (_, old)) in order.iter().enumerate() {
            new_index[*old] = new as u32;
            times.push(self.times.get(*old).copied().unwrap_or(i64::MIN));
        }
        let first_more = self.positions.len();
        let mut accepted = self.accepted;
        for record in accepted.iter_mut().flat_map(|a| &mut a.records) {
            *record = new_index[*record as usize];
        }
        let mut rejected = self.rejected;
        for rejection in &mut rejected {
            rejection.record = new_index[rejection.record as usize];
        }
        let more = more.into_iter().zip(first_more..);
        rejected.extend(more.map(|((_, rejection), old)| Rejection { record: new_index[old], ..rejection }));
        rejected.sort_by_key(|rejection| rejection.record);
        let positions = order.into_iter().map(|(position, _)| position).collect();
        Validated { positions, times, accepted, rejected }
    }
}
