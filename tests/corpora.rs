//! Runs every input of `tests/fuzz/corpus` through its fuzz target, so that a fixed finding stays
//! fixed.

use tidegate_fuzz::TARGETS;

use crate::harness;

#[test]
fn every_target_has_a_corpus_and_passes_on_it() {
    for (name, target) in TARGETS {
        let inputs = harness::files(&harness::file("tests/fuzz/corpus").join(name));
        assert!(inputs.len() >= 3, "{name} has {} inputs", inputs.len());
        for (input, bytes) in inputs {
            eprintln!("{name}/{input}");
            target(&bytes);
        }
    }
}
