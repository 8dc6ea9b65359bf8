//! Batched BLAKE3: hashes many short texts side by side in the lanes of AVX-512 registers.
//!
//! The `blake3` crate is fast on one long text because it hashes that text's chunks in parallel. A
//! record of a few hundred bytes has a single chunk, which leaves fifteen of sixteen lanes empty.
//! [`BatchHasher`] gives each lane another text, which takes a quarter of the time. On machines
//! without AVX-512, and for texts longer than one chunk, it calls the `blake3` crate. Both ways
//! give the same digests.
//!
//! This crate holds the SIMD code of the project, so that the crates above it can forbid `unsafe`
//! code. What is unsafe are the loads and stores of whole arrays and the call into code that needs
//! AVX-512. The tests compare the hashes with those of the `blake3` crate for every text length up
//! to beyond one chunk.

/// The BLAKE3-256 hash of one text of a batch.
pub type Hash = [u8; 32];

/// The number of texts that are hashed at a time, one in each 32-bit lane of a register.
const LANES: usize = 16;

/// Bytes of a BLAKE3 chunk, and of the blocks that a chunk is compressed in (specification 2.1).
const CHUNK: usize = 1024;
const BLOCK: usize = 64;

/// How many texts to buffer before hashing: enough to fill the lanes, few enough for the cache.
const BUFFERED_MAX: usize = 4 * LANES;

/// Hashes many short texts with BLAKE3, in batches that fill the lanes of AVX-512 registers.
///
/// The hashes come out in the order in which the texts were pushed.
#[derive(Default)]
pub struct BatchHasher {
    /// The buffered texts, one after the other.
    texts: Vec<u8>,
    /// Where each buffered text ends in `texts`.
    ends: Vec<usize>,
    hashes: Vec<Hash>,
}

impl BatchHasher {
    /// A hasher without texts, whose result has room for `count` hashes.
    pub fn with_capacity(count: usize) -> BatchHasher {
        BatchHasher { hashes: Vec::with_capacity(count), ..BatchHasher::default() }
    }

    /// Adds one text: the bytes that `write` appends to the buffer.
    ///
    /// # Panics
    /// When `write` removes bytes of earlier texts.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.texts.len();
        write(&mut self.texts);
        assert!(start <= self.texts.len(), "a writer may only append to the buffer");
        self.ends.push(self.texts.len());
        if self.ends.len() == BUFFERED_MAX {
            self.hash_buffered();
        }
    }

    /// The hashes of all texts, in the order in which they were pushed.
    pub fn finish(mut self) -> Vec<Hash> {
        self.hash_buffered();
        self.hashes
    }

    fn hash_buffered(&mut self) {
        let mut start = 0;
        let mut texts = [&[][..]; BUFFERED_MAX];
        for (text, end) in texts.iter_mut().zip(&self.ends) {
            *text = &self.texts[start..*end];
            start = *end;
        }
        hash_each(&texts[..self.ends.len()], &mut self.hashes);
        self.texts.clear();
        self.ends.clear();
    }
}

fn hash_alone(text: &[u8]) -> Hash {
    *blake3::hash(text).as_bytes()
}

/// Appends the hash of each text to `hashes`.
#[cfg(target_arch = "x86_64")]
fn hash_each(texts: &[&[u8]], hashes: &mut Vec<Hash>) {
    let single_chunks = texts.iter().all(|text| text.len() <= CHUNK);
    if !single_chunks || !is_x86_feature_detected!("avx512f") {
        return hashes.extend(texts.iter().map(|text| hash_alone(text)));
    }
    for texts in texts.chunks(LANES) {
        let mut batch = [Hash::default(); LANES];
        // SAFETY: the check above has found AVX-512F on this machine.
        #[allow(unsafe_code, reason = "only the running program knows which instructions its machine has")]
        unsafe {
            avx512::hash(texts, &mut batch);
        }
        hashes.extend_from_slice(&batch[..texts.len()]);
    }
}

/// Appends the hash of each text to `hashes`.
#[cfg(not(target_arch = "x86_64"))]
fn hash_each(texts: &[&[u8]], hashes: &mut Vec<Hash>) {
    hashes.extend(texts.iter().map(|text| hash_alone(text)));
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set1_epi32,
        _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
    };
    use std::array::from_fn;

    use super::{BLOCK, CHUNK, Hash, LANES};

    /// The initial value (BLAKE3 specification, section 2.2).
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
    /// How the message words are permuted between rounds.
    const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
    const CHUNK_START: u32 = 1;
    const CHUNK_END: u32 = 2;
    const ROOT: u32 = 8;

    /// The message word that each round uses at each position.
    const SCHEDULE: [[usize; 16]; 7] = {
        let mut words = [[0; 16]; 7];
        let mut position = 0;
        while position < 16 {
            words[0][position] = position;
            position += 1;
        }
        let mut round = 1;
        while round < 7 {
            let mut position = 0;
            while position < 16 {
                words[round][position] = words[round - 1][PERMUTATION[position]];
                position += 1;
            }
            round += 1;
        }
        words
    };

    /// One 32-bit word of each lane.
    type Words = __m512i;

    /// Hashes up to [`LANES`] texts of at most one chunk each into the first of `hashes`.
    #[target_feature(enable = "avx512f")]
    pub fn hash(texts: &[&[u8]], hashes: &mut [Hash; LANES]) {
        assert!(texts.len() <= LANES && texts.iter().all(|text| text.len() <= CHUNK));
        let blocks: [usize; LANES] =
            from_fn(|lane| texts.get(lane).map_or(0, |text| text.len().div_ceil(BLOCK).max(1)));
        let blocks_max = blocks.iter().copied().max().unwrap_or(0);
        let mut padded = [[0u8; BLOCK]; LANES];
        let mut lengths = [BLOCK as u32; LANES];
        let mut flags = [CHUNK_START; LANES];
        let mut state: [Words; 8] = from_fn(|word| _mm512_set1_epi32(IV[word].cast_signed()));
        for block in 0..blocks_max {
            let rows: [Words; LANES] = from_fn(|lane| {
                if block >= blocks[lane] {
                    return _mm512_setzero_si512(); // This lane already has its hash.
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
            state = compress(state, &transpose(rows), load(&lengths), load(&flags));
            for flags in &mut flags {
                *flags &= !CHUNK_START;
            }
            if blocks[..texts.len()].contains(&(block + 1)) {
                let words: [[u32; LANES]; 8] = state.map(|words| store(words));
                for lane in (0..texts.len()).filter(|lane| blocks[*lane] == block + 1) {
                    for (word, bytes) in words.iter().zip(hashes[lane].chunks_exact_mut(4)) {
                        bytes.copy_from_slice(&word[lane].to_le_bytes());
                    }
                }
            }
        }
    }

    /// Compresses one block of each lane; the chunk counter is 0, as each text has one chunk.
    #[target_feature(enable = "avx512f")]
    fn compress(chaining: [Words; 8], block: &[Words; 16], lengths: Words, flags: Words) -> [Words; 8] {
        let zero = _mm512_setzero_si512();
        let mut state: [Words; 16] = from_fn(|word| match word {
            0..8 => chaining[word],
            8..12 => _mm512_set1_epi32(IV[word - 8].cast_signed()),
            14 => lengths,
            15 => flags,
            _ => zero,
        });
        // A macro, because the state stays in registers only when all of its indices are constants.
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

    /// Transposes a 16 by 16 matrix of words: from one block of each lane to one word of all lanes.
    #[target_feature(enable = "avx512f")]
    fn transpose(rows: [Words; LANES]) -> [Words; 16] {
        let pairs: [Words; 16] = from_fn(|i| {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            if i % 2 == 0 { _mm512_unpacklo_epi32(a, b) } else { _mm512_unpackhi_epi32(a, b) }
        });
        // Index 4 r + w holds, in each quarter q, word 4 q + w of the rows 4 r to 4 r + 3.
        let fours: [Words; 16] = from_fn(|i| {
            let (a, b) = (pairs[(i & !3) + (i & 3) / 2], pairs[(i & !3) + 2 + (i & 3) / 2]);
            if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
        });
        // Index 4 w + 2 h + p holds the quarters p and p + 2 of half h of the rows.
        let halves: [Words; 16] = from_fn(|i| {
            let (word, half) = (i / 4, i / 2 % 2);
            quarters(i % 2, fours[8 * half + word], fours[8 * half + 4 + word])
        });
        from_fn(|i| {
            let (quarter, word) = (i / 4, i % 4);
            quarters(quarter / 2, halves[4 * word + quarter % 2], halves[4 * word + 2 + quarter % 2])
        })
    }

    /// The even (`odd` is 0) or the odd quarters of two registers.
    #[target_feature(enable = "avx512f")]
    fn quarters(odd: usize, a: Words, b: Words) -> Words {
        if odd == 0 {
            _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
        } else {
            _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
        }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code, reason = "the array has exactly the size of the register")]
    fn load(words: &[u32; LANES]) -> Words {
        // SAFETY: `words` has the 64 bytes that are read, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code, reason = "the array has exactly the size of the register")]
    fn load_bytes(bytes: &[u8; BLOCK]) -> Words {
        // SAFETY: `bytes` has the 64 bytes that are read, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code, reason = "the array has exactly the size of the register")]
    fn store(words: Words) -> [u32; LANES] {
        let mut array = [0; LANES];
        // SAFETY: `array` has the 64 bytes that are written, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(array.as_mut_ptr().cast(), words) };
        array
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[Vec<u8>]) {
        let mut hasher = BatchHasher::with_capacity(texts.len());
        for text in texts {
            hasher.push(|out| out.extend_from_slice(text));
        }
        let expected: Vec<Hash> = texts.iter().map(|text| hash_alone(text)).collect();
        assert_eq!(hasher.finish(), expected);
    }

    fn text(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 + seed * 7 + index / 256) as u8).collect()
    }

    #[test]
    fn texts_of_every_length_have_the_hash_that_they_have_alone() {
        check(&(0..=CHUNK + 70).map(|length| text(length, length)).collect::<Vec<_>>());
    }

    #[test]
    fn a_lane_does_not_see_its_neighbours() {
        // Lengths that end in every block, in every order of lanes, and batches that are not full.
        for seed in 0..40 {
            let count = (seed * 13) % (2 * BUFFERED_MAX + 3);
            check(
                &(0..count)
                    .map(|i| text((i * 37 * (seed + 1) + seed) % (CHUNK + 1), seed))
                    .collect::<Vec<_>>(),
            );
        }
    }
}
