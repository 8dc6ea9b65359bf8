//! Every input of `tests/fuzz/corpus`, to its target: what a fuzzer found once stays mended.

use tidegate_fuzz::TARGETS;

use crate::harness;

#[test]
fn every_target_has_a_corpus_and_keeps_its_promises_on_it() {
    for (name, target) in TARGETS {
        let inputs = harness::files(&harness::file("tests/fuzz/corpus").join(name));
        assert!(inputs.len() >= 3, "{name} has {} inputs", inputs.len());
        for (input, bytes) in inputs {
            eprintln!("{name}/{input}");
            target(&bytes);
        }
    }
}
