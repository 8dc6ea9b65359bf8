//! Which records are of one thing: each new record is compared with those before it that share a block.
//!
//! A block is all records that agree in one declared key. It holds so many records at most; once it is full, later records are
//! neither put into it nor compared through it, which is told once. A record that comes again, under the same id, takes the
//! place of the one before; what that was linked with stays linked.

use std::collections::BTreeMap;

use tidegate_facts::KeyHash;

use super::compare::{Comparison, Value};
use crate::keys::NULL_KEY;

/// What a linker does.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The comparisons; their weights are added up.
    pub comparisons: Vec<Comparison>,
    /// From this sum on, in thousandths of a bit, two records are of one thing.
    pub threshold: i64,
    /// How many keys each record has, by each of which there are blocks.
    pub blocks: usize,
    /// How many records a block holds at most.
    pub block_max: usize,
}

/// A record that is of the same thing as the one that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The earlier record, by its number.
    pub with: u32,
    /// The sum of weights, in thousandths of a bit.
    pub weight: i64,
}

/// The state.
#[derive(Debug)]
pub struct Linker {
    rules: Rules,
    numbers: BTreeMap<KeyHash, u32>,
    /// The values of each record, one for each comparison.
    records: Vec<Vec<Value>>,
    /// The last record that was compared with each.
    compared: Vec<u32>,
    /// Of each record the blocks that it is in.
    keys: Vec<Vec<KeyHash>>,
    blocks: Vec<BTreeMap<KeyHash, Vec<u32>>>,
    hearings: u32,
    matches: Vec<Match>,
    full: Vec<usize>,
}

impl Linker {
    /// A linker that knows no record.
    pub fn new(rules: Rules) -> Linker {
        Linker {
            numbers: BTreeMap::new(),
            records: Vec::new(),
            compared: Vec::new(),
            keys: Vec::new(),
            blocks: vec![BTreeMap::new(); rules.blocks],
            hearings: 0,
            matches: Vec::new(),
            full: Vec::new(),
            rules,
        }
    }

    /// Hears of a record: its values, one for each comparison, and its keys, [`NULL_KEY`] where it is in no block. Gives its number,
    /// which is the next one for an id that is new.
    pub fn hear(&mut self, id: KeyHash, values: Vec<Value>, keys: &[KeyHash]) -> u32 {
        assert_eq!(keys.len(), self.blocks.len(), "a key for each kind of block");
        assert_eq!(values.len(), self.rules.comparisons.len(), "a value for each comparison");
        self.matches.clear();
        self.full.clear();
        self.hearings += 1;
        let known = self.numbers.get(&id).copied();
        let number = known.unwrap_or(self.records.len() as u32);
        match known {
            Some(number) => self.leave(number),
            None => {
                self.numbers.insert(id, number);
                self.records.push(Vec::new());
                self.compared.push(0);
                self.keys.push(Vec::new());
            }
        }
        self.compared[number as usize] = self.hearings;
        for (place, key) in keys.iter().enumerate().filter(|(_, key)| **key != NULL_KEY) {
            let block = self.blocks[place].entry(*key).or_default();
            if block.len() >= self.rules.block_max {
                continue;
            }
            for other in block.iter().copied() {
                let compared = &mut self.compared[other as usize];
                if std::mem::replace(compared, self.hearings) != self.hearings {
                    let weight = sum(&self.rules.comparisons, &values, &self.records[other as usize]);
                    if weight >= self.rules.threshold {
                        self.matches.push(Match { with: other, weight });
                    }
                }
            }
            block.push(number);
            if block.len() == self.rules.block_max {
                self.full.push(place);
            }
        }
        self.matches.sort_unstable();
        self.records[number as usize] = values;
        self.keys[number as usize] = keys.to_vec();
        number
    }

    /// The records that the last one is linked with, the oldest first.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// Which of the blocks of the last record are full with it, by the place of their key.
    pub fn full(&self) -> &[usize] {
        &self.full
    }

    /// Takes a record out of its blocks.
    fn leave(&mut self, number: u32) {
        for (place, key) in std::mem::take(&mut self.keys[number as usize]).into_iter().enumerate() {
            if let Some(block) = self.blocks[place].get_mut(&key) {
                block.retain(|other| *other != number);
            }
        }
    }
}

/// What all comparisons say together.
fn sum(comparisons: &[Comparison], one: &[Value], other: &[Value]) -> i64 {
    comparisons.iter().zip(one.iter().zip(other)).map(|(c, (one, other))| c.weight(one, other)).sum()
}
