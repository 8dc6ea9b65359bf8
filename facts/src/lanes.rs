//! Digests of many short texts, computed side by side.
//!
//! BLAKE3 gains its speed from hashing the chunks of one long text at once; a record of a few hundred bytes has one
//! chunk, and leaves fifteen of sixteen lanes empty. Here sixteen records share the lanes of an AVX-512 register, which
//! takes a quarter of the time. Machines without AVX-512, and texts of more than one chunk, are left to the `blake3`
//! crate. The digests are BLAKE3's either way.

use crate::Digest;

/// How many texts are put side by side.
const LANES: usize = 16;

/// The bytes of a chunk, and of the blocks that it is compressed in (BLAKE3, section 2.1).
const CHUNK: usize = 1024;
const BLOCK: usize = 64;

/// How many texts are gathered before they are hashed: enough to fill lanes, few enough to stay in the cache.
const GATHERED: usize = 4 * LANES;

/// The digests of texts that are written one after the other.
#[derive(Default)]
pub struct Digests {
    texts: Vec<u8>,
    ends: Vec<usize>,
    done: Vec<Digest>,
}

impl Digests {
    /// None yet, with room for so many.
    pub fn with_capacity(count: usize) -> Digests {
        Digests { done: Vec::with_capacity(count), ..Digests::default() }
    }

    /// Adds the digest of what `write` appends.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.texts.len();
        write(&mut self.texts);
        assert!(from <= self.texts.len(), "a text is appended to those before");
        self.ends.push(self.texts.len());
        if self.ends.len() == GATHERED {
            self.hash();
        }
    }

    /// The digests, in the order of their texts.
    pub fn finish(mut self) -> Vec<Digest> {
        self.hash();
        self.done
    }

    fn hash(&mut self) {
        let mut from = 0;
        let mut texts = [&[][..]; GATHERED];
        for (text, end) in texts.iter_mut().zip(&self.ends) {
            *text = &self.texts[from..*end];
            from = *end;
        }
        hash_each(&texts[..self.ends.len()], &mut self.done);
        self.texts.clear();
        self.ends.clear();
    }
}

/// Appends the digest of each text.
#[cfg(target_arch = "x86_64")]
fn hash_each(texts: &[&[u8]], done: &mut Vec<Digest>) {
    let short = texts.iter().all(|text| text.len() <= CHUNK);
    if !short || !is_x86_feature_detected!("avx512f") {
        return done.extend(texts.iter().map(|text| Digest::of(text)));
    }
    for texts in texts.chunks(LANES) {
        let mut digests = [Digest::default(); LANES];
        // SAFETY: the machine was just asked whether it has these instructions.
        #[allow(unsafe_code, reason = "which instructions there are is known when the program runs")]
        unsafe {
            avx512::hash(texts, &mut digests);
        }
        done.extend_from_slice(&digests[..texts.len()]);
    }
}

/// Appends the digest of each text.
#[cfg(not(target_arch = "x86_64"))]
fn hash_each(texts: &[&[u8]], done: &mut Vec<Digest>) {
    done.extend(texts.iter().map(|text| Digest::of(text)));
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set1_epi32,
        _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
    };
    use std::array::from_fn;

    use super::{BLOCK, CHUNK, LANES};
    use crate::Digest;

    /// BLAKE3, section 2.2: the initial value, the permutation of the words between rounds, and the flags.
    const IV: [u32; 8] = [
        0x6A09_E667,
        0xBB67_AE85,
        0x3C6E_F372,
        0xA54F_F53A,
        0x510E_527F,
        0x9B05_688C,
        0x1F83_D9AB,
        0x5BE0_CD19,
    ];
    const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
    const CHUNK_START: u32 = 1;
    const CHUNK_END: u32 = 2;
    const ROOT: u32 = 8;

    /// Which word each place of each round takes.
    const SCHEDULE: [[usize; 16]; 7] = {
        let mut all = [[0; 16]; 7];
        let mut place = 0;
        while place < 16 {
            all[0][place] = place;
            place += 1;
        }
        let mut round = 1;
        while round < 7 {
            let mut place = 0;
            while place < 16 {
                all[round][place] = all[round - 1][PERMUTATION[place]];
                place += 1;
            }
            round += 1;
        }
        all
    };

    /// One word of each lane.
    type Words = __m512i;

    /// The digests of up to [`LANES`] texts of one chunk at most.
    #[target_feature(enable = "avx512f")]
    pub fn hash(texts: &[&[u8]], digests: &mut [Digest; LANES]) {
        assert!(texts.len() <= LANES && texts.iter().all(|text| text.len() <= CHUNK));
        let blocks: [usize; LANES] =
            from_fn(|lane| texts.get(lane).map_or(0, |text| text.len().div_ceil(BLOCK).max(1)));
        let most = blocks.iter().copied().max().unwrap_or(0);
        let mut padded = [[0u8; BLOCK]; LANES];
        let mut lengths = [BLOCK as u32; LANES];
        let mut flags = [CHUNK_START; LANES];
        let mut state: [Words; 8] = from_fn(|word| _mm512_set1_epi32(IV[word].cast_signed()));
        for block in 0..most {
            let rows: [Words; LANES] = from_fn(|lane| {
                if block >= blocks[lane] {
                    return _mm512_setzero_si512(); // This lane has its digest.
                }
                let rest = &texts[lane][block * BLOCK..];
                if block + 1 < blocks[lane] {
                    return load_bytes(rest.first_chunk().expect("only the last block is short"));
                }
                flags[lane] |= CHUNK_END | ROOT;
                lengths[lane] = rest.len() as u32;
                padded[lane][..rest.len()].copy_from_slice(rest);
                load_bytes(&padded[lane])
            });
            state = compress(state, &transposed(rows), load(&lengths), load(&flags));
            for flags in &mut flags {
                *flags &= !CHUNK_START;
            }
            if blocks[..texts.len()].contains(&(block + 1)) {
                let words: [[u32; LANES]; 8] = state.map(|words| store(words));
                for lane in (0..texts.len()).filter(|lane| blocks[*lane] == block + 1) {
                    for (word, bytes) in words.iter().zip(digests[lane].0.chunks_exact_mut(4)) {
                        bytes.copy_from_slice(&word[lane].to_le_bytes());
                    }
                }
            }
        }
    }

    /// BLAKE3's compression of one block of each lane; counters are 0, as there is one chunk.
    #[target_feature(enable = "avx512f")]
    fn compress(chaining: [Words; 8], block: &[Words; 16], lengths: Words, flags: Words) -> [Words; 8] {
        let zero = _mm512_setzero_si512();
        let mut state: [Words; 16] = from_fn(|place| match place {
            0..8 => chaining[place],
            8..12 => _mm512_set1_epi32(IV[place - 8].cast_signed()),
            14 => lengths,
            15 => flags,
            _ => zero,
        });
        // Written out: the lanes stay in registers only when every place is known.
        macro_rules! mix {
            ($a:literal, $b:literal, $c:literal, $d:literal, $x:expr, $y:expr) => {
                state[$a] = _mm512_add_epi32(_mm512_add_epi32(state[$a], state[$b]), block[$x]);
                state[$d] = _mm512_ror_epi32::<16>(_mm512_xor_si512(state[$d], state[$a]));
                state[$c] = _mm512_add_epi32(state[$c], state[$d]);
                state[$b] = _mm512_ror_epi32::<12>(_mm512_xor_si512(state[$b], state[$c]));
                state[$a] = _mm512_add_epi32(_mm512_add_epi32(state[$a], state[$b]), block[$y]);
                state[$d] = _mm512_ror_epi32::<8>(_mm512_xor_si512(state[$d], state[$a]));
                state[$c] = _mm512_add_epi32(state[$c], state[$d]);
                state[$b] = _mm512_ror_epi32::<7>(_mm512_xor_si512(state[$b], state[$c]));
            };
        }
        macro_rules! rounds {
            ($($round:literal)*) => {$(
                mix!(0, 4, 8, 12, SCHEDULE[$round][0], SCHEDULE[$round][1]);
                mix!(1, 5, 9, 13, SCHEDULE[$round][2], SCHEDULE[$round][3]);
                mix!(2, 6, 10, 14, SCHEDULE[$round][4], SCHEDULE[$round][5]);
                mix!(3, 7, 11, 15, SCHEDULE[$round][6], SCHEDULE[$round][7]);
                mix!(0, 5, 10, 15, SCHEDULE[$round][8], SCHEDULE[$round][9]);
                mix!(1, 6, 11, 12, SCHEDULE[$round][10], SCHEDULE[$round][11]);
                mix!(2, 7, 8, 13, SCHEDULE[$round][12], SCHEDULE[$round][13]);
                mix!(3, 4, 9, 14, SCHEDULE[$round][14], SCHEDULE[$round][15]);
            )*};
        }
        rounds!(0 1 2 3 4 5 6);
        from_fn(|word| _mm512_xor_si512(state[word], state[word + 8]))
    }

    /// From a block of each lane to each word of all lanes.
    #[target_feature(enable = "avx512f")]
    fn transposed(rows: [Words; LANES]) -> [Words; 16] {
        let pairs: [Words; 16] = from_fn(|i| {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            if i % 2 == 0 { _mm512_unpacklo_epi32(a, b) } else { _mm512_unpackhi_epi32(a, b) }
        });
        // At 4 r + w, in each quarter q: word 4 q + w of the rows 4 r to 4 r + 3.
        let fours: [Words; 16] = from_fn(|i| {
            let (a, b) = (pairs[(i & !3) + (i & 3) / 2], pairs[(i & !3) + 2 + (i & 3) / 2]);
            if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
        });
        // At 4 w + 2 h + p: the quarters p and p + 2 of the half h of the rows.
        let halves: [Words; 16] = from_fn(|i| {
            let (word, half) = (i / 4, i / 2 % 2);
            quarters(i % 2, fours[8 * half + word], fours[8 * half + 4 + word])
        });
        from_fn(|i| {
            let (quarter, word) = (i / 4, i % 4);
            quarters(quarter / 2, halves[4 * word + quarter % 2], halves[4 * word + 2 + quarter % 2])
        })
    }

    /// The even or the odd quarters of two.
    #[target_feature(enable = "avx512f")]
    fn quarters(odd: usize, a: Words, b: Words) -> Words {
        if odd == 0 {
            _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
        } else {
            _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
        }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code, reason = "the pointer is that of an array of the register's size")]
    fn load(words: &[u32; LANES]) -> Words {
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code, reason = "the pointer is that of an array of the register's size")]
    fn load_bytes(bytes: &[u8; BLOCK]) -> Words {
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code, reason = "the pointer is that of an array of the register's size")]
    fn store(words: Words) -> [u32; LANES] {
        let mut array = [0; LANES];
        unsafe { _mm512_storeu_si512(array.as_mut_ptr().cast(), words) };
        array
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[Vec<u8>]) {
        let mut digests = Digests::with_capacity(texts.len());
        for text in texts {
            digests.push(|out| out.extend_from_slice(text));
        }
        let wanted: Vec<Digest> = texts.iter().map(|text| Digest::of(text)).collect();
        assert_eq!(digests.finish(), wanted);
    }

    fn text(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|place| (place * 31 + seed * 7 + place / 256) as u8).collect()
    }

    #[test]
    fn texts_of_every_length_have_the_digest_that_they_have_alone() {
        check(&(0..=CHUNK + 70).map(|length| text(length, length)).collect::<Vec<_>>());
    }

    #[test]
    fn a_lane_does_not_see_its_neighbours() {
        // Lengths that end in every block, in every order of lanes, and groups that are not full.
        for seed in 0..40 {
            let count = (seed * 13) % (2 * GATHERED + 3);
            check(
                &(0..count)
                    .map(|i| text((i * 37 * (seed + 1) + seed) % (CHUNK + 1), seed))
                    .collect::<Vec<_>>(),
            );
        }
    }
}
