//! Everything that reads what the network sends, each as a function of bytes that panics when a promise is broken.
//!
//! `tests/fuzz/run` gives a fuzzer the whole machine for them; the files of `tests/fuzz/corpus` are run as plain tests. A finding
//! leaves its smallest input in the corpus, and a test beside what it broke.

mod gate;
mod service;
mod texts;

use std::sync::OnceLock;

/// A target: it returns, or it has found something.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("envelope", gate::envelope),
    ("json", texts::json),
    ("keys", texts::keys),
    ("postgres", service::postgres),
    ("request", service::request),
    ("revision", texts::revision),
    ("sql", service::sql),
    ("times", texts::times),
];

/// The target that the variable `TARGET` names.
///
/// # Panics
/// When it names none.
pub fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        let (_, target) = found.unwrap_or_else(|| {
            let known = TARGETS.map(|(name, _)| name);
            panic!("TARGET is `{name}`; it is one of {}", known.join(", "))
        });
        *target
    })
}
