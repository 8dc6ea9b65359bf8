//! Verification: that a data folder holds what its manifests say, byte for byte, and who vouches
//! for it.
//!
//! Nothing is taken on trust from what is checked: every commit, every file it names, every record
//! of the sealed tables and every fact and receipt of the log is read, and its digest computed
//! again. Whatever does not agree is a [`Finding`] with the file and, as far as it can be told, the
//! record; the check goes on behind it, so that one damage does not hide another.
//!
//! Only the public key comes from outside. Whoever can change every file and has no key can make a
//! folder that agrees with itself, but not one that is signed; so a check without a key says that
//! it is one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use tidegate_facts::jcs::ObjectWriter;
use tidegate_facts::seal::{Chain, merkle_root};
use tidegate_facts::{Digest, Tick, Topic, columns};
use tidegate_operators::decision::seal::recompute_record_digests;
use tidegate_sinks::archive::{ArchiveError, Bound, Preference, read_range};
use tidegate_sinks::commits::{Commit, MANIFEST, TableFile, interval_of, read_rows, record_digests};
use tidegate_sinks::hash_chains::{LogChains, LogHead};
use tidegate_sinks::log::{Frame, Group, LogError, LogReader, TornEnd};
use tidegate_sinks::signing::PublicKey;
use tidegate_sinks::store::{Store, StoreError};
use tidegate_sinks::{graph_catalog, table_catalog};

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, as its store or log names it.
    pub file: String,
    /// Which record of it, when that can be told.
    pub record: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.record {
            Some(record) => write!(f, "{}: {record}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// What was checked, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many commits.
    pub commits: u64,
    /// How many files of tables, and their bytes.
    pub files: u64,
    /// See [`Self::files`].
    pub bytes: u64,
    /// How many records of sealed tables.
    pub records: u64,
    /// How many facts of the log.
    pub facts: u64,
    /// How many receipts and other records of the audit topic.
    pub audit: u64,
    /// Facts behind the last commit: they are in the log, and no commit vouches for them yet.
    pub unsealed: u64,
    /// How many commits each key signed; under an empty name those that nobody signed.
    pub signed: BTreeMap<String, u64>,
    /// How many public keys there were to check the signatures with.
    pub keys: usize,
    /// What is wrong, by file and record.
    pub findings: Vec<Finding>,
}

/// Checks everything in a data folder.
///
/// # Errors
/// When the store's folders cannot be listed at all; what is wrong inside is a finding.
pub fn verify(log: &dyn LogReader, store: &Store, keys: &[PublicKey]) -> Result<Verified, StoreError> {
    let mut check =
        Check { verified: Verified { keys: keys.len(), ..Verified::default() }, ..Check::default() };
    let commits = check.commits(store, keys)?;
    check.log(log, store, &commits);
    for commit in &commits {
        for file in &commit.files {
            check.file(store, commit, file);
        }
    }
    check.strays(store, &commits)?;
    check.schemas(store)?;
    let mut verified = check.verified;
    verified.findings.sort();
    verified.findings.dedup();
    Ok(verified)
}

/// So many records of one file are named; of more, their number is told.
const RECORDS_NAMED_MAX: usize = 5;

/// A check under way.
#[derive(Default)]
struct Check {
    verified: Verified,
    /// How far the chain of each table and partition has come.
    chains: BTreeMap<(String, u16), Chain>,
    /// For each partition of `traffic` the facts: tick, offset, and half of the payload's digest.
    facts: BTreeMap<u16, Vec<(Tick, i64, u128)>>,
    /// Whether all of the log could be read.
    log_is_whole: bool,
}

impl Check {
    fn find(&mut self, file: impl Into<String>, record: Option<String>, what: impl Into<String>) {
        self.verified.findings.push(Finding { file: file.into(), record, what: what.into() });
    }

    /// The commits that can be read, each checked against the one before it and against the keys.
    fn commits(&mut self, store: &Store, keys: &[PublicKey]) -> Result<Vec<Commit>, StoreError> {
        let names: BTreeSet<String> = store.list("commits")?.into_iter().collect();
        let last = names.iter().rev().find_map(|name| number_in(name));
        let mut commits: Vec<Commit> = Vec::new();
        // The digest and the upper end of the commit before, when that one could be read.
        let mut before = Some((Digest::default(), Tick::ZERO));
        let wanted: Vec<String> = last.map_or(0..0, |last| 0..last + 1).map(Commit::name).collect();
        for name in names.iter().filter(|name| !wanted.contains(name)) {
            self.find(name, None, "has no place among the commits; their names are their numbers, 20 digits");
        }
        for (number, name) in wanted.iter().enumerate() {
            self.verified.commits += 1;
            if !names.contains(name) {
                self.find(name, None, format!("is missing, and commit {} stands behind it", number + 1));
                before = None;
                continue;
            }
            let commit = match read_commit(store, name, number as u64) {
                Ok((commit, digest)) => {
                    self.signature(name, &commit, keys);
                    if let Some((previous, upper)) = before
                        && (commit.previous, commit.lower) != (previous, upper)
                    {
                        let earlier = number.checked_sub(1).map_or(name, |earlier| &wanted[earlier]);
                        let what = format!(
                            "is not what `{name}` names as the commit before it: digest {previous}, and {} there; \
                             one of the two was changed or put in another's place",
                            commit.previous
                        );
                        self.find(earlier, None, what);
                    }
                    before = Some((digest, commit.upper));
                    commit
                }
                Err(what) => {
                    self.find(name, None, what);
                    before = None;
                    continue;
                }
            };
            commits.push(commit);
        }
        Ok(commits)
    }

    fn signature(&mut self, name: &str, commit: &Commit, keys: &[PublicKey]) {
        let id = commit.signature.as_ref().map(|s| s.key_id.clone()).unwrap_or_default();
        let first = self.verified.signed.keys().next().cloned();
        *self.verified.signed.entry(id.clone()).or_default() += 1;
        let what = match (&commit.signature, keys) {
            (_, []) if first.as_ref().is_none_or(|first| *first == id) => return,
            (_, []) => format!(
                "is signed by `{id}`, and the first commit by `{}`; give the public keys of both when that is right",
                first.unwrap_or_default()
            ),
            (None, _) => "is not signed".to_owned(),
            (Some(signature), keys) => match keys.iter().find(|key| key.id() == signature.key_id) {
                None => format!("is signed by key {id}, which is not among the public keys that were given"),
                Some(key) if key.verify(commit.signed_text().as_bytes(), signature) => return,
                Some(_) => format!("does not hold what key {id} signed"),
            },
        };
        self.find(name, None, what);
    }

    /// Names the first records of a file, and says the number of more there are.
    fn find_records(&mut self, file: &str, records: Vec<(String, String)>) {
        let more = records.len().saturating_sub(RECORDS_NAMED_MAX);
        for (record, what) in records.into_iter().take(RECORDS_NAMED_MAX) {
            self.find(file, Some(record), what);
        }
        if more > 0 {
            self.find(file, None, format!("{more} more of its records are not what they were"));
        }
    }

    /// Reads the log, and compares its chains with the commits.
    fn log(&mut self, log: &dyn LogReader, store: &Store, commits: &[Commit]) {
        let mut uppers = commits.iter().peekable();
        let mut chains = LogChains::default();
        let mut end = Tick::ZERO;
        let mut groups_read = 0;
        // Of a pruned log the archive has the beginning; both are one history.
        let groups = match read_range(log, Some(store), Bound::Group(0), None, Preference::Log) {
            Ok(groups) => groups,
            Err(error) => return self.history_error(log, &error),
        };
        self.log_is_whole = true;
        for group in groups {
            let group = match group {
                Ok(group) => group,
                Err(error) => {
                    self.log_is_whole = false;
                    self.history_error(log, &error);
                    break;
                }
            };
            end = group.upper;
            groups_read += 1;
            self.group(&group);
            let mut due = Vec::new();
            while let Some(commit) = uppers.next_if(|commit| commit.upper <= group.upper) {
                due.push(commit);
            }
            let order = group.facts_in_order();
            let at: Vec<Tick> = due.iter().map(|commit| commit.upper).collect();
            for (commit, heads) in due.into_iter().zip(chains.group(&group, &order, &at, Tick::ZERO)) {
                self.heads(commit, &heads.0);
            }
        }
        if self.log_is_whole {
            match log.torn_end(groups_read) {
                Ok(None) => {}
                Ok(Some(TornEnd { segment, at, detail, .. })) => {
                    let record = format!("the last group, at byte {at}");
                    let what = format!(
                        "is not whole: {detail}; the run was stopped while it wrote this, and the next one takes it \
                         back, or it was damaged"
                    );
                    self.find(name_in(log, &segment), Some(record), what);
                }
                Err(error) => self.log_error(log, &error),
            }
        }
        if let Some(commit) = uppers.next()
            && self.log_is_whole
        {
            self.log_is_whole = false;
            let what = format!(
                "ends at {end}, and commit {} vouches for facts up to {}; its last groups are missing or damaged",
                commit.number, commit.upper
            );
            self.find(name_in(log, &log.end_location()), None, what);
        }
        let sealed = commits.last().map_or(Tick::ZERO, |commit| commit.upper);
        let behind = |facts: &Vec<(Tick, i64, u128)>| {
            facts.len() - facts.partition_point(|(tick, _, _)| *tick < sealed)
        };
        self.verified.unsealed = self.facts.values().map(behind).sum::<usize>() as u64;
    }

    fn history_error(&mut self, log: &dyn LogReader, error: &ArchiveError) {
        self.log_is_whole = false;
        match error {
            ArchiveError::Log(error) => self.log_error(log, error),
            other => self.find("archive", None, other.to_string()),
        }
    }

    fn log_error(&mut self, log: &dyn LogReader, error: &LogError) {
        self.log_is_whole = false;
        match error {
            LogError::Damaged { segment, at, group, detail } => {
                let record = format!("group {group}, at byte {at}");
                self.find(name_in(log, segment), Some(record), format!("is damaged: {detail}"));
            }
            other => self.find("log", None, other.to_string()),
        }
    }

    /// Counts the records of a group, and computes the digests of its payloads again.
    fn group(&mut self, group: &Group) {
        for frame in &group.frames {
            let rows = frame.rows.num_rows() as u64;
            if frame.topic == Topic::Audit {
                self.verified.audit += rows;
                continue;
            }
            self.verified.facts += rows;
            let column = |name| frame.rows.column_by_name(name).expect("facts have it");
            let (ticks, offsets) = (columns::ticks(&frame.rows), columns::offsets(&frame.rows));
            let hashes = column(columns::PAYLOAD_HASH).as_fixed_size_binary();
            let mut changed = Vec::new();
            for (row, again) in payload_digests(frame).into_iter().enumerate() {
                let tick = Tick(ticks.value(row));
                let stated = Digest(hashes.value(row).try_into().expect("a digest has 32 bytes"));
                if stated != again {
                    let record = format!("fact {tick} of {}", frame.topic);
                    changed.push((record, format!("its payload has digest {again}, and it says {stated}")));
                }
                if frame.topic == Topic::Traffic {
                    let facts = self.facts.entry(tick.partition()).or_default();
                    facts.push((tick, offsets.value(row), stated.short()));
                }
            }
            self.find_records("log", changed);
        }
        for facts in self.facts.values_mut() {
            // Frames of one group may lie in each other's ticks.
            let from = facts.partition_point(|(tick, _, _)| *tick < group.lower);
            facts[from..].sort_unstable();
        }
    }

    fn heads(&mut self, commit: &Commit, found: &[LogHead]) {
        let stated: BTreeMap<_, _> = commit.log.iter().map(|h| ((h.topic, h.partition), h)).collect();
        let found: BTreeMap<_, _> = found.iter().map(|h| ((h.topic, h.partition), h)).collect();
        let all: BTreeSet<_> = stated.keys().chain(found.keys()).copied().collect();
        for (topic, partition) in all {
            let (stated, found) = (stated.get(&(topic, partition)), found.get(&(topic, partition)));
            if stated == found {
                continue;
            }
            let describe = |head: Option<&&LogHead>| {
                head.map_or("nothing".to_owned(), |h| format!("{} records with seal {}", h.records, h.head))
            };
            let record =
                format!("partition {partition} of {topic}, between {} and {}", commit.lower, commit.upper);
            let what = format!(
                "holds {}, and commit {} says {}; a record was changed, lost or moved",
                describe(found),
                commit.number,
                describe(stated)
            );
            self.find("log", Some(record), what);
        }
    }

    /// One file of a table: its bytes, and the records of a sealed one.
    fn file(&mut self, store: &Store, commit: &Commit, file: &TableFile) {
        self.verified.files += 1;
        let bytes = match store.get(&file.name) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                let rows = format!("rows {} to {} of `{}`", commit.lower, commit.upper, file.table);
                return self.find(
                    &file.name,
                    Some(rows),
                    format!("is missing; commit {} names it", commit.number),
                );
            }
            Err(error) => return self.find(&file.name, None, error.to_string()),
        };
        self.verified.bytes += bytes.len() as u64;
        let found = Digest::of(&bytes);
        let is_same = found == file.digest;
        if !is_same {
            let what = format!(
                "has {} bytes with digest {found}, and commit {} says {} with {}",
                bytes.len(),
                commit.number,
                file.bytes,
                file.digest
            );
            self.find(&file.name, None, what);
        }
        if file.seal.is_none() && is_same {
            return;
        }
        let rows = match read_rows(bytes, None) {
            Ok(rows) => rows,
            Err(what) => return self.find(&file.name, None, format!("none of its rows can be read: {what}")),
        };
        if file.seal.is_some() {
            self.sealed_rows(file, &rows);
        }
    }

    fn sealed_rows(&mut self, file: &TableFile, rows: &RecordBatch) {
        let Some(seal) = file.seal else { return };
        if rows.column_by_name(columns::RECORD_DIGEST).is_none() {
            return self.find(&file.name, None, "has no column `record_digest`");
        }
        self.verified.records += rows.num_rows() as u64;
        let stated = record_digests(rows);
        let again = match recompute_record_digests(rows) {
            Ok(again) => again,
            Err(error) => return self.find(&file.name, None, error.to_string()),
        };
        let changed = stated.iter().zip(&again).enumerate().filter(|(_, (stated, again))| stated != again);
        let changed = changed.map(|(row, (stated, again))| {
            (row_name(rows, row), format!("has digest {again}, and says {stated}"))
        });
        self.find_records(&file.name, changed.collect());
        self.against_the_log(file, rows);
        let chain = self.chains.entry((file.table.clone(), file.partition)).or_default();
        chain.extend(&again);
        let (chain, root) = (*chain, merkle_root(&again));
        if (chain, root) != (seal.chain, seal.root) {
            let what = format!(
                "its {} records lead to seal {} and root {root}, and the commit says {} and {}",
                rows.num_rows(),
                chain.head,
                seal.chain.head,
                seal.root
            );
            self.find(&file.name, None, what);
        }
        // So that the files behind it are judged on their own.
        self.chains.insert((file.table.clone(), file.partition), seal.chain);
    }

    /// Each episode names a fact of the log, its offset and payload.
    fn against_the_log(&mut self, file: &TableFile, rows: &RecordBatch) {
        let hashes = rows.column_by_name(columns::PAYLOAD_HASH);
        let (Some(ticks), Some(offsets), Some(hashes)) =
            (columns::find_ticks(rows), columns::find_offsets(rows), hashes)
        else {
            return self.find(&file.name, None, "its rows do not name their facts");
        };
        let hashes = hashes.as_fixed_size_binary();
        let facts = self.facts.get(&file.partition);
        let mut strangers = Vec::new();
        for row in 0..rows.num_rows() {
            let tick = Tick(ticks.value(row));
            let fact = facts.and_then(|facts| Some(facts[facts.binary_search_by_key(&tick, |f| f.0).ok()?]));
            let hash = Digest(hashes.value(row).try_into().expect("a digest has 32 bytes")).short();
            let what = match fact {
                Some((_, offset, known)) if (offset, known) == (offsets.value(row), hash) => continue,
                Some((_, offset, _)) => {
                    format!("names its fact otherwise than the log, where it is at offset {offset}")
                }
                // A log that could not be read to its end says nothing of what is missing.
                None if !self.log_is_whole => continue,
                None => "names a fact that is not in the log".to_owned(),
            };
            strangers.push((row_name(rows, row), what));
        }
        self.find_records(&file.name, strangers);
    }

    /// The objects that say which columns a table has, and which tables a graph has, can be read.
    fn schemas(&mut self, store: &Store) -> Result<(), StoreError> {
        let declared = table_catalog::read_declared(store)?;
        for name in store.list("schemas")? {
            let known = declared.iter().any(|(table, _)| name == format!("schemas/{table}.arrow"));
            if !known {
                self.find(name, None, "holds no columns of a table");
            }
        }
        let declared = graph_catalog::read_declared(store)?;
        for name in store.list("graphs")? {
            if !declared.iter().any(|graph| name == format!("graphs/{}.json", graph.node)) {
                self.find(name, None, "does not say what tables an entity graph has");
            }
        }
        Ok(())
    }

    /// Files of tables that no commit names.
    fn strays(&mut self, store: &Store, commits: &[Commit]) -> Result<(), StoreError> {
        let named: BTreeSet<&str> = commits.iter().flat_map(|c| &c.files).map(|f| f.name.as_str()).collect();
        let upper = commits.last().map_or(Tick::ZERO, |commit| commit.upper);
        for table in store.list("tables")? {
            for name in store.list(&table)? {
                if named.contains(name.as_str()) {
                    continue;
                }
                let what = if interval_of(&name).is_some_and(|interval| interval.end > upper) {
                    "is newer than the last commit: the run was stopped before it committed this (run the topology \
                     again, then verify), or the last commit was removed"
                } else {
                    "is named by no commit"
                };
                self.find(name, None, what);
            }
        }
        Ok(())
    }
}

fn number_in(name: &str) -> Option<u64> {
    name.strip_prefix("commits/")?.strip_suffix(".json").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// The commit in an object, and the digest of its bytes; or what is wrong with it.
fn read_commit(store: &Store, name: &str, number: u64) -> Result<(Commit, Digest), String> {
    let bytes = store.get(name).map_err(|error| error.to_string())?;
    let commit: Commit =
        serde_json::from_slice(&bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if commit.recipe != MANIFEST {
        return Err(format!("is no `{MANIFEST}` but `{}`", commit.recipe));
    }
    if commit.text().as_bytes() != bytes {
        return Err("is not in canonical form: it was changed, or written by another program".to_owned());
    }
    if commit.check != commit.computed_check() {
        return Err("does not have its own check: it was changed".to_owned());
    }
    if commit.number != number {
        return Err(format!("holds commit {}, which was put in the place of commit {number}", commit.number));
    }
    Ok((commit, Digest::of(&bytes)))
}

/// How a person finds a row again.
pub(crate) fn row_name(rows: &RecordBatch, row: usize) -> String {
    let event = rows.column_by_name(columns::EVENT_ID).and_then(|ids| ids.as_string_opt::<i32>());
    let event = event.filter(|ids| ids.is_valid(row)).map(|ids| format!(", event `{}`", ids.value(row)));
    format!("row {row}{}", event.unwrap_or_default())
}

/// The digest of each payload, computed from its fields.
fn payload_digests(frame: &Frame) -> Vec<Digest> {
    let rows = frame.rows.num_rows();
    let payload = frame.rows.column_by_name(columns::PAYLOAD);
    if let Some(texts) = payload.and_then(|payload| payload.as_string_opt::<i32>()) {
        return texts.iter().map(|text| Digest::of(text.unwrap_or_default().as_bytes())).collect();
    }
    let fields = payload.and_then(|payload| payload.as_struct_opt());
    let names = fields.map(|f| f.column_names()).unwrap_or_default();
    let values = fields.map(|f| f.columns()).unwrap_or_default();
    let form =
        ObjectWriter::new(names.into_iter().zip(values)).expect("the gate writes fields that have a form");
    let mut text = Vec::new();
    (0..rows)
        .map(|row| {
            text.clear();
            // A float that is no number cannot have passed the gate; its row has another digest
            // then.
            let _ = form.push_row(row, &mut text);
            Digest::of(&text)
        })
        .collect()
}

/// The name of a segment of the log in the data folder.
fn name_in(log: &dyn LogReader, segment: &Path) -> String {
    let location = log.location();
    format!("log/{}", segment.strip_prefix(location).unwrap_or(segment).display())
}
