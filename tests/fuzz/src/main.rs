//! The targets under libFuzzer; `TARGET` names the one that is run. `tests/fuzz/run` builds and starts it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_fuzz::chosen()(bytes));
