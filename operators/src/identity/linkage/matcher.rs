//! Record matcher: compares each new record with the earlier ones that share a block, and links
//! those that are of one thing.
//!
//! A block is the set of records that agree in one declared key. Its size is limited; once it is
//! full, later records neither enter it nor are compared through it, which is emitted once. A
//! record with the id of an earlier one replaces it; the links of the earlier one remain.

use std::collections::BTreeMap;

use tidegate_facts::KeyHash;

use super::compare::{Comparison, FieldValue};
use crate::core::keys::NULL_KEY;

/// The rules of a record matcher: comparisons, threshold and blocks.
#[derive(Clone, Debug)]
pub struct MatchRules {
    /// The comparisons, whose weights are added.
    pub comparisons: Vec<Comparison>,
    /// From this total weight on, in thousandths of a bit, two records are of one thing.
    pub threshold: i64,
    /// The number of block keys of each record.
    pub blocks: usize,
    /// The greatest number of records in a block.
    pub block_max: usize,
}

/// An earlier record that the matcher found to be of the same thing as the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordMatch {
    /// The number of the earlier record.
    pub with: u32,
    /// The total weight, in thousandths of a bit.
    pub weight: i64,
}

/// The record matcher's state: the records, their blocks, and the matches of the last record.
#[derive(Debug)]
pub struct RecordMatcher {
    rules: MatchRules,
    numbers: BTreeMap<KeyHash, u32>,
    /// By record: its values, one for each comparison.
    records: Vec<Vec<FieldValue>>,
    /// By record: which addition compared it last.
    compared: Vec<u32>,
    /// By record: its block keys.
    keys: Vec<Vec<KeyHash>>,
    blocks: Vec<BTreeMap<KeyHash, Vec<u32>>>,
    additions: u32,
    matches: Vec<RecordMatch>,
    full_blocks: Vec<usize>,
}

impl RecordMatcher {
    /// Returns a record matcher without records.
    pub fn new(rules: MatchRules) -> RecordMatcher {
        RecordMatcher {
            numbers: BTreeMap::new(),
            records: Vec::new(),
            compared: Vec::new(),
            keys: Vec::new(),
            blocks: vec![BTreeMap::new(); rules.blocks],
            additions: 0,
            matches: Vec::new(),
            full_blocks: Vec::new(),
            rules,
        }
    }

    /// Adds a record and finds its matches. Returns its number; a new id gets the next one.
    ///
    /// `values` has one value for each comparison. `keys` has one key for each kind of block,
    /// [`NULL_KEY`] if the record is in no block of that kind.
    ///
    /// # Panics
    /// If there are too few or too many values or keys.
    pub fn add(&mut self, id: KeyHash, values: Vec<FieldValue>, keys: &[KeyHash]) -> u32 {
        assert_eq!(keys.len(), self.blocks.len(), "a key for each kind of block");
        assert_eq!(values.len(), self.rules.comparisons.len(), "a value for each comparison");
        self.matches.clear();
        self.full_blocks.clear();
        self.additions += 1;
        let existing = self.numbers.get(&id).copied();
        let number = existing.unwrap_or(self.records.len() as u32);
        match existing {
            Some(number) => self.remove_from_blocks(number),
            None => {
                self.numbers.insert(id, number);
                self.records.push(Vec::new());
                self.compared.push(0);
                self.keys.push(Vec::new());
            }
        }
        self.compared[number as usize] = self.additions;
        for (kind, key) in keys.iter().enumerate().filter(|(_, key)| **key != NULL_KEY) {
            let block = self.blocks[kind].entry(*key).or_default();
            if block.len() >= self.rules.block_max {
                continue;
            }
            for other in block.iter().copied() {
                let compared = &mut self.compared[other as usize];
                if std::mem::replace(compared, self.additions) != self.additions {
                    let weight =
                        total_weight(&self.rules.comparisons, &values, &self.records[other as usize]);
                    if weight >= self.rules.threshold {
                        self.matches.push(RecordMatch { with: other, weight });
                    }
                }
            }
            block.push(number);
            if block.len() == self.rules.block_max {
                self.full_blocks.push(kind);
            }
        }
        self.matches.sort_unstable();
        self.records[number as usize] = values;
        self.keys[number as usize] = keys.to_vec();
        number
    }

    /// The records with which the last one is linked, the oldest first.
    pub fn matches(&self) -> &[RecordMatch] {
        &self.matches
    }

    /// The blocks that the last record filled, by the index of their key.
    pub fn full_blocks(&self) -> &[usize] {
        &self.full_blocks
    }

    /// Removes a record from its blocks.
    fn remove_from_blocks(&mut self, number: u32) {
        for (kind, key) in std::mem::take(&mut self.keys[number as usize]).into_iter().enumerate() {
            if let Some(block) = self.blocks[kind].get_mut(&key) {
                block.retain(|other| *other != number);
            }
        }
    }
}

/// The total weight of all comparisons of two records.
fn total_weight(comparisons: &[Comparison], one: &[FieldValue], other: &[FieldValue]) -> i64 {
    comparisons.iter().zip(one.iter().zip(other)).map(|(c, (one, other))| c.weight(one, other)).sum()
}
