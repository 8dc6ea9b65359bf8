//! Pair index of the entity graph: the link number of each pair of identifiers.
//!
//! It is an open-addressing hash table without pointers. It is never iterated, so its order decides
//! nothing.

/// The pair index: a map from pairs of identifiers' numbers to the number of their link.
#[derive(Debug, Default)]
pub(super) struct PairIndex {
    /// Keys and their numbers. The length is a power of two, or zero.
    cells: Vec<(u64, u32)>,
    len: usize,
}

/// The key of an empty cell. No pair has this key, since its halves would be equal.
const EMPTY: u64 = u64::MAX;

impl PairIndex {
    /// The number of a pair of different numbers.
    pub fn get(&self, pair: (u32, u32)) -> Option<u32> {
        let key = key(pair);
        let at = self.cell(key)?;
        (self.cells[at].0 == key).then(|| self.cells[at].1)
    }

    /// Inserts a pair and its number.
    ///
    /// # Panics
    /// If the pair has a number.
    pub fn insert(&mut self, pair: (u32, u32), number: u32) {
        if 4 * (self.len + 1) > 3 * self.cells.len() {
            let cells = vec![(EMPTY, 0); (2 * self.cells.len()).max(16)];
            for cell in std::mem::replace(&mut self.cells, cells) {
                if cell.0 != EMPTY {
                    let at = self.cell(cell.0).expect("there are cells");
                    self.cells[at] = cell;
                }
            }
        }
        let at = self.cell(key(pair)).expect("there are cells");
        assert_eq!(self.cells[at].0, EMPTY, "a pair has one number");
        self.cells[at] = (key(pair), number);
        self.len += 1;
    }

    /// Removes a pair.
    ///
    /// # Panics
    /// If the pair has no number.
    pub fn remove(&mut self, pair: (u32, u32)) {
        let mut hole = self.cell(key(pair)).expect("there are cells");
        assert_eq!(self.cells[hole].0, key(pair), "only a pair that is present is removed");
        self.len -= 1;
        let mask = self.cells.len() - 1;
        let mut at = hole;
        // A cell behind the hole moves into it, unless it would then lie before its preferred
        // position.
        loop {
            at = (at + 1) & mask;
            let (next, _) = self.cells[at];
            if next == EMPTY {
                break;
            }
            let preferred = spread(next) & mask;
            if (at.wrapping_sub(preferred) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
        }
        self.cells[hole].0 = EMPTY;
    }

    /// The cell that has a key, or the empty one where it would be; `None` while there are no
    /// cells.
    fn cell(&self, key: u64) -> Option<usize> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut at = spread(key) & mask;
        while self.cells[at].0 != key && self.cells[at].0 != EMPTY {
            at = (at + 1) & mask;
        }
        Some(at)
    }
}

fn key((one, other): (u32, u32)) -> u64 {
    debug_assert_ne!(one, other, "a pair is of two");
    (u64::from(one) << 32) | u64::from(other)
}

fn spread(key: u64) -> usize {
    let mixed = (key ^ (key >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed ^ (mixed >> 32)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::testing::Chance;

    #[test]
    fn it_holds_what_a_map_holds() {
        for seed in 0..20 {
            let mut chance = Chance(seed);
            let (mut index, mut map) = (PairIndex::default(), BTreeMap::new());
            for number in 0..3_000 {
                let one = chance.below(40) as u32;
                let pair = (one, one + 1 + chance.below(20) as u32);
                match map.get(&pair) {
                    None => {
                        index.insert(pair, number);
                        map.insert(pair, number);
                    }
                    Some(_) if chance.one_in(2) => {
                        index.remove(pair);
                        map.remove(&pair);
                    }
                    existing => assert_eq!(index.get(pair), existing.copied(), "seed {seed}"),
                }
            }
            for one in 0..40 {
                for other in one + 1..61 {
                    let pair = (one, other);
                    assert_eq!(index.get(pair), map.get(&pair).copied(), "seed {seed}, {pair:?}");
                }
            }
        }
    }
}
