//! Compares the committed files of two stores: of a run and its replay, or of two replays.

use std::collections::BTreeMap;

use tidegate_facts::Digest;
use tidegate_sinks::commits::Commits;

/// The first committed file that differs when the files of two stores are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDifference {
    /// The file's name in the store.
    pub name: String,
    /// Its digest in the first run; `None` if that run has no such file.
    pub first: Option<Digest>,
    /// Its digest in the second run; `None` if that run has no such file.
    pub second: Option<Digest>,
}

/// Compares two replays of one log, or a run and its replay, file by file. Returns the first
/// difference by file name.
pub fn compare(first: &Commits, second: &Commits) -> Option<FileDifference> {
    let files = |commits: &Commits| -> BTreeMap<String, Digest> {
        commits.list.iter().flat_map(|c| &c.files).map(|f| (f.name.clone(), f.digest)).collect()
    };
    let (first, second) = (files(first), files(second));
    let names = first.keys().chain(second.keys());
    names.min_by_key(|name| (first.get(*name) == second.get(*name), name.as_str())).and_then(|name| {
        let (first, second) = (first.get(name).copied(), second.get(name).copied());
        (first != second).then(|| FileDifference { name: name.clone(), first, second })
    })
}
