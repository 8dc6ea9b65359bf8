//! A Bloom filter of keys, in lines of 64 bytes: a look-up costs one access to memory.
//!
//! The upper half of a key chooses the line, in the order of the keys, so that a filter is built
//! line by line from sorted keys. The lower half chooses one bit in each of the line's eight words.
//! With 10 bits a key, the filter wrongly answers "maybe" for one key in a hundred.

/// Bits for each key.
const KEY_BITS: u64 = 10;
const LINE_BITS: u64 = 512;

/// Which keys a run may have.
pub(super) struct Filter {
    lines: Vec<Line>,
}

#[derive(Clone, Default)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Filter {
    /// An empty filter for so many keys.
    pub(super) fn new(keys: u64) -> Filter {
        Filter { lines: vec![Line::default(); (keys * KEY_BITS).div_ceil(LINE_BITS).max(1) as usize] }
    }

    pub(super) fn insert(&mut self, key: u128) {
        let line = self.line_of(key);
        for (word, bit) in self.lines[line].0.iter_mut().zip(bits(key)) {
            *word |= bit;
        }
    }

    /// Whether the key may have been inserted; if not, it was not.
    pub(super) fn may_have(&self, key: u128) -> bool {
        let line = &self.lines[self.line_of(key)];
        line.0.iter().zip(bits(key)).all(|(word, bit)| word & bit != 0)
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    fn line_of(&self, key: u128) -> usize {
        (((key >> 64) * self.lines.len() as u128) >> 64) as usize
    }
}

fn bits(key: u128) -> impl Iterator<Item = u64> {
    (0..8).map(move |word| 1 << ((key >> (6 * word)) & 63))
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn it_has_every_key_and_one_in_a_hundred_of_the_others() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut key = || u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        let keys: Vec<u128> = (0..20_000).map(|_| key()).collect();
        let mut filter = Filter::new(keys.len() as u64);
        keys.iter().for_each(|key| filter.insert(*key));
        assert!(keys.iter().all(|key| filter.may_have(*key)));
        let wrong = (0..100_000).filter(|_| filter.may_have(key())).count();
        assert!(wrong < 2_000, "{wrong} of 100000");
    }
}
