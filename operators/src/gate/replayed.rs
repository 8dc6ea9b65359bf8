//! What the gate must know again of facts that are in the log already.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use tidegate_facts::{Context, Digest, columns};

use super::Judge;
use super::judged::{Judged, Refused};

impl Judge {
    /// The dedupe keys of facts as they stand in the log, row for row: those that the gate gave them.
    ///
    /// # Panics
    /// When the rows are no facts, or their context is not one that the gate wrote.
    pub fn dedupe_keys(&mut self, rows: &RecordBatch) -> Vec<u128> {
        let contexts =
            rows.column_by_name(columns::CONTEXT).expect("facts have a context").as_dictionary::<Int32Type>();
        let event_ids = rows.column_by_name(columns::EVENT_ID).expect("facts have an id").as_string::<i32>();
        let scopes: Vec<[u8; 16]> = contexts
            .values()
            .as_string::<i32>()
            .iter()
            .map(|text| {
                let context: Context =
                    serde_json::from_str(text.expect("a context")).expect("the gate wrote the context");
                self.scope_of(&context)
            })
            .collect();
        let mut text = Vec::new();
        (0..rows.num_rows())
            .map(|row| {
                text.clear();
                text.extend_from_slice(&scopes[contexts.key(row).expect("every fact has a context")]);
                text.extend_from_slice(event_ids.value(row).as_bytes());
                Digest::of(&text).short()
            })
            .collect()
    }
}

impl Judged {
    /// With further records of the same source, each at its position, that were refused before they were judged.
    #[must_use]
    pub fn with_refused(self, more: Vec<(u64, Refused)>) -> Judged {
        let mut places: Vec<(u64, usize)> = self.positions.iter().copied().zip(0..).collect();
        places.extend(more.iter().map(|(position, _)| *position).zip(self.positions.len()..));
        places.sort_unstable();
        let mut now_at = vec![0u32; places.len()];
        let mut times = Vec::with_capacity(places.len());
        for (now, (_, before)) in places.iter().enumerate() {
            now_at[*before] = now as u32;
            times.push(self.times.get(*before).copied().unwrap_or(i64::MIN));
        }
        let first_more = self.positions.len();
        let mut accepted = self.accepted;
        for record in accepted.iter_mut().flat_map(|a| &mut a.records) {
            *record = now_at[*record as usize];
        }
        let mut refused = self.refused;
        for one in &mut refused {
            one.record = now_at[one.record as usize];
        }
        refused.extend(
            more.into_iter()
                .enumerate()
                .map(|(place, (_, one))| Refused { record: now_at[first_more + place], ..one }),
        );
        refused.sort_by_key(|one| one.record);
        Judged {
            positions: places.into_iter().map(|(position, _)| position).collect(),
            times,
            accepted,
            refused,
        }
    }
}
