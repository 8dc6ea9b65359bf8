//! How many events a second does the dedupe index check and insert, when all are new?
//!
//! Random keys, seed 42, in groups of 8192: each is looked up, then inserted. Prints M events/s
//! with everything in memory, and with so little memory that there are runs, then the longest group
//! and M look-ups/s of existing keys.

use std::error::Error;
use std::fs;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tidegate_dedupe::{DedupeIndex, FirstSeen};
use tidegate_facts::Tick;
use tidegate_host::Host;

const GROUP: usize = 8192;

fn main() -> Result<(), Box<dyn Error>> {
    measure(1_000_000, 1 << 30)?;
    measure(10_000_000, 256 << 20)?;
    measure(10_000_000, 32 << 20)
}

fn measure(count: usize, memory_bytes: u64) -> Result<(), Box<dyn Error>> {
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let keys: Vec<u128> =
        (0..count).map(|_| u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())).collect();
    let folder = tempfile::tempdir()?;
    let (mut index, _) = DedupeIndex::open(&Host::real(), folder.path(), memory_bytes, Tick::ZERO)?;

    let begin = Instant::now();
    let mut longest = 0.0_f64;
    let mut offset = 0_i64;
    for group in keys.chunks(GROUP) {
        let begin = Instant::now();
        for key in group {
            assert_eq!(index.get(*key)?, None);
            let fact = FirstSeen { payload: *key, tick: Tick(offset), offset: offset.cast_unsigned() };
            index.insert(*key, fact);
            offset += 1;
        }
        index.advance(Tick(offset))?;
        longest = longest.max(begin.elapsed().as_secs_f64());
    }
    let inserted = count as f64 / 1e6 / begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    for key in keys.iter().step_by(97) {
        assert!(index.get(*key)?.is_some());
    }
    let existing = (count / 97) as f64 / 1e6 / begin.elapsed().as_secs_f64();
    let runs = fs::read_dir(folder.path())?.count();
    println!(
        "{} M keys, {} MiB: {inserted:.2} M events/s, longest group {:.1} ms, {runs} runs, \
         {existing:.2} M existing keys/s",
        count / 1_000_000,
        memory_bytes >> 20,
        1e3 * longest,
    );
    drop(index);
    let begin = Instant::now();
    let (_, covered) = DedupeIndex::open(&Host::real(), folder.path(), memory_bytes, Tick(offset))?;
    println!(
        "  opened in {:.2} s, complete to {} %",
        begin.elapsed().as_secs_f64(),
        covered.0 * 100 / offset
    );
    Ok(())
}
