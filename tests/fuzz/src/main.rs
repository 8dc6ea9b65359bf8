//! The targets under libFuzzer; `TARGET` names the one that is run. `tests/fuzz/run` builds and starts it.
#![no_main]

use std::panic::{set_hook, take_hook};
use std::sync::Once;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static READY: Once = Once::new();
    READY.call_once(forgive_what_is_caught);
    tidegate_fuzz::chosen()(bytes);
});

/// What others' crates of the Postgres protocol panic at is caught where they are called, and no finding; one that is not caught
/// ends the run all the same.
fn forgive_what_is_caught() {
    let told = take_hook();
    set_hook(Box::new(move |panic| {
        let is_caught = panic.location().is_some_and(|at| {
            ["/pgwire-", "/bytes-", "/datafusion-postgres-"]
                .iter()
                .any(|crate_name| at.file().contains(crate_name))
        });
        if !is_caught {
            told(panic);
        }
    }));
}
