//! Verification: checks that a data folder is, byte for byte, what its manifests state, and who
//! signed them.
//!
//! The check trusts nothing in the folder. It reads every commit, every file that a commit names,
//! every record of the sealed tables, and every fact and receipt of the log, and computes their
//! digests again. Each difference is a [`Finding`] with the file and, where possible, the record.
//! The check continues after a finding, so that one does not hide another.
//!
//! Only the public keys come from outside. Someone who can change every file but has no signing key
//! can make a consistent folder, but not a signed one. So [`Verified`] says how many keys there
//! were.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use tidegate_dataflows::Plan;
use tidegate_dataflows::plan::RecordedPlanError;
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

/// One finding when a data folder is verified: a difference from what was committed, or an error.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, by its name in the store or the log.
    pub file: String,
    /// The record in it, where the check can identify one.
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

/// The result of verifying a data folder: how much was read, and the findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many commits there are.
    pub commits: u64,
    /// How many files of tables.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
    /// How many records of sealed tables.
    pub records: u64,
    /// How many facts of the log.
    pub facts: u64,
    /// How many receipts and other records of the audit topic.
    pub audit: u64,
    /// How many facts of the log are after the last commit, so that no commit seals them yet.
    pub unsealed: u64,
    /// How many commits each key signed, by key id. The empty id counts unsigned commits.
    pub signed: BTreeMap<String, u64>,
    /// How many public keys the caller gave.
    pub keys: usize,
    /// The findings, by file and record.
    pub findings: Vec<Finding>,
}

/// Verifies a data folder: checks everything in it.
///
/// # Errors
/// When the folders of the store cannot be listed. Everything else that is wrong is a finding.
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
    check.unnamed_files(store, &commits)?;
    check.plans(store, &commits)?;
    check.schemas(store)?;
    let mut verified = check.verified;
    verified.findings.sort();
    verified.findings.dedup();
    Ok(verified)
}

/// The most records of a file that have findings of their own. One more finding counts the others.
const RECORDS_NAMED_MAX: usize = 5;

/// The state of a check.
#[derive(Default)]
struct Check {
    verified: Verified,
    /// The state of the hash chain of each table and partition.
    chains: BTreeMap<(String, u16), Chain>,
    /// The facts of each partition of `traffic`: tick, offset, and half of the payload digest.
    facts: BTreeMap<u16, Vec<(Tick, i64, u128)>>,
    /// Whether the whole log could be read.
    log_is_whole: bool,
}

impl Check {
    fn find(&mut self, file: impl Into<String>, record: Option<String>, what: impl Into<String>) {
        self.verified.findings.push(Finding { file: file.into(), record, what: what.into() });
    }

    /// Reads the commits, and checks each against the one before and against the keys. Returns
    /// those that can be read.
    fn commits(&mut self, store: &Store, keys: &[PublicKey]) -> Result<Vec<Commit>, StoreError> {
        let names: BTreeSet<String> = store.list("commits")?.into_iter().collect();
        let mut commits: Vec<Commit> = Vec::new();
        // The digest and the upper end of the previous commit, if it could be read.
        let mut before = Some((Digest::default(), Tick::ZERO));
        let mut next = 0;
        for name in &names {
            let Some(number) = number_in(name) else {
                self.find(name, None, "is not a commit: the name of a commit is its number in 20 digits");
                continue;
            };
            if number > next {
                let missing = match number - next {
                    1 => "is missing".to_owned(),
                    count => format!("and the next {} are missing", count - 1),
                };
                self.find(Commit::name(next), None, format!("{missing}, but commit {number} follows"));
                before = None;
            }
            next = number.saturating_add(1);
            self.verified.commits += 1;
            let commit = match read_commit(store, name, number) {
                Ok((commit, digest)) => {
                    self.signature(name, &commit, keys);
                    if let Some((previous, upper)) = before
                        && (commit.previous, commit.lower) != (previous, upper)
                    {
                        let earlier = number.checked_sub(1).map_or_else(|| name.clone(), Commit::name);
                        let what = format!(
                            "is not the commit that `{name}` follows: its digest is {previous}, and the one named \
                             there is {}; one of the two was changed or replaced",
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
                "is signed by `{id}`, but the first commit by `{}`; if both are valid, give both public keys",
                first.unwrap_or_default()
            ),
            (None, _) => "is not signed".to_owned(),
            (Some(signature), keys) => match keys.iter().find(|key| key.id() == signature.key_id) {
                None => format!("is signed by key {id}, which is none of the given public keys"),
                Some(key) if key.verify(commit.signed_text().as_bytes(), signature) => return,
                Some(_) => format!("does not match its signature by key {id}"),
            },
        };
        self.find(name, None, what);
    }

    /// Adds findings for the first records of a file, and one with the number of the others.
    fn find_records(&mut self, file: &str, records: Vec<(String, String)>) {
        let more = records.len().saturating_sub(RECORDS_NAMED_MAX);
        for (record, what) in records.into_iter().take(RECORDS_NAMED_MAX) {
            self.find(file, Some(record), what);
        }
        if more > 0 {
            self.find(file, None, format!("{more} more of its records were changed"));
        }
    }

    /// Reads the log, and compares its hash chains with the commits.
    fn log(&mut self, log: &dyn LogReader, store: &Store, commits: &[Commit]) {
        let mut uppers = commits.iter().peekable();
        let mut chains = LogChains::default();
        let mut end = Tick::ZERO;
        let mut groups_read = 0;
        // If the log was pruned, its first groups are in the archive.
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
                        "is incomplete: {detail}; either the run was stopped during this write, and the next run \
                         removes the group, or it was damaged"
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
                "ends at {end}, but commit {} seals facts up to {}; the last groups are missing or damaged",
                commit.number, commit.upper
            );
            self.find(name_in(log, &log.end_location()), None, what);
        }
        let sealed = commits.last().map_or(Tick::ZERO, |commit| commit.upper);
        let unsealed = |facts: &Vec<(Tick, i64, u128)>| {
            facts.len() - facts.partition_point(|(tick, _, _)| *tick < sealed)
        };
        self.verified.unsealed = self.facts.values().map(unsealed).sum::<usize>() as u64;
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

    /// Counts the records of a group, and compares the digests of its payloads with new ones.
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
            for (row, computed) in payload_digests(frame).into_iter().enumerate() {
                let tick = Tick(ticks.value(row));
                let stated = Digest(hashes.value(row).try_into().expect("a digest has 32 bytes"));
                if stated != computed {
                    let record = format!("fact {tick} of {}", frame.topic);
                    changed
                        .push((record, format!("its payload has digest {computed}, but it states {stated}")));
                }
                if frame.topic == Topic::Traffic {
                    let facts = self.facts.entry(tick.partition()).or_default();
                    facts.push((tick, offsets.value(row), stated.short()));
                }
            }
            self.find_records("log", changed);
        }
        for facts in self.facts.values_mut() {
            // The ticks of the frames of one group may interleave.
            let from = facts.partition_point(|(tick, _, _)| *tick < group.lower);
            facts[from..].sort_unstable();
        }
    }

    /// Compares the chain heads in a commit with those of the log.
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
                "contains {}, but commit {} states {}; a record was changed, lost or moved",
                describe(found),
                commit.number,
                describe(stated)
            );
            self.find("log", Some(record), what);
        }
    }

    /// Checks a file of a table: its bytes and, if the table is sealed, its records.
    fn file(&mut self, store: &Store, commit: &Commit, file: &TableFile) {
        self.verified.files += 1;
        let bytes = match store.get(&file.name) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                let rows = format!("rows {} to {} of `{}`", commit.lower, commit.upper, file.table);
                return self.find(
                    &file.name,
                    Some(rows),
                    format!("is missing, but commit {} names it", commit.number),
                );
            }
            Err(error) => return self.find(&file.name, None, error.to_string()),
        };
        self.verified.bytes += bytes.len() as u64;
        let found = Digest::of(&bytes);
        let is_same = found == file.digest;
        if !is_same {
            let what = format!(
                "has {} bytes with digest {found}, but commit {} states {} bytes with digest {}",
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
            Err(what) => return self.find(&file.name, None, format!("its rows cannot be read: {what}")),
        };
        if file.seal.is_some() {
            self.sealed_rows(file, &rows);
        }
    }

    /// Checks the records of a sealed file, and their chain and root.
    fn sealed_rows(&mut self, file: &TableFile, rows: &RecordBatch) {
        let Some(seal) = file.seal else { return };
        if rows.column_by_name(columns::RECORD_DIGEST).is_none() {
            return self.find(&file.name, None, "has no column `record_digest`");
        }
        self.verified.records += rows.num_rows() as u64;
        let stated = record_digests(rows);
        let computed = match recompute_record_digests(rows) {
            Ok(computed) => computed,
            Err(error) => return self.find(&file.name, None, error.to_string()),
        };
        let pairs = stated.iter().zip(&computed).enumerate();
        let changed = pairs.filter(|(_, (stated, computed))| stated != computed);
        let changed = changed.map(|(row, (stated, computed))| {
            (row_name(rows, row), format!("has digest {computed}, but states {stated}"))
        });
        self.find_records(&file.name, changed.collect());
        self.compare_with_log(file, rows);
        let chain = self.chains.entry((file.table.clone(), file.partition)).or_default();
        chain.extend(&computed);
        let (chain, root) = (*chain, merkle_root(&computed));
        if (chain, root) != (seal.chain, seal.root) {
            let what = format!(
                "its {} records give seal {} and root {root}, but the commit states seal {} and root {}",
                rows.num_rows(),
                chain.head,
                seal.chain.head,
                seal.root
            );
            self.find(&file.name, None, what);
        }
        // The check of the next file begins at the stated seal, so that a wrong file causes no
        // findings for the files after it.
        self.chains.insert((file.table.clone(), file.partition), seal.chain);
    }

    /// Checks that each episode names a fact of the log with its offset and payload digest.
    fn compare_with_log(&mut self, file: &TableFile, rows: &RecordBatch) {
        let hashes = rows.column_by_name(columns::PAYLOAD_HASH);
        let (Some(ticks), Some(offsets), Some(hashes)) =
            (columns::find_ticks(rows), columns::find_offsets(rows), hashes)
        else {
            return self.find(
                &file.name,
                None,
                "its rows have no tick, offset and payload digest to compare with the log",
            );
        };
        let hashes = hashes.as_fixed_size_binary();
        let facts = self.facts.get(&file.partition);
        let mut differing = Vec::new();
        for row in 0..rows.num_rows() {
            let tick = Tick(ticks.value(row));
            let fact = facts.and_then(|facts| Some(facts[facts.binary_search_by_key(&tick, |f| f.0).ok()?]));
            let hash = Digest(hashes.value(row).try_into().expect("a digest has 32 bytes")).short();
            let what = match fact {
                Some((_, offset, logged)) if (offset, logged) == (offsets.value(row), hash) => continue,
                Some((_, offset, _)) => {
                    format!(
                        "differs from its fact in the log, at offset {offset}, in offset or payload digest"
                    )
                }
                // If the log could not be read to its end, a missing fact proves nothing.
                None if !self.log_is_whole => continue,
                None => "names a fact that is not in the log".to_owned(),
            };
            differing.push((row_name(rows, row), what));
        }
        self.find_records(&file.name, differing);
    }

    /// Checks that the objects with the columns of tables and the tables of entity graphs can be
    /// read.
    fn schemas(&mut self, store: &Store) -> Result<(), StoreError> {
        let declared = table_catalog::read_declared(store)?;
        for name in store.list("schemas")? {
            let is_declared = declared.iter().any(|(table, _)| name == format!("schemas/{table}.arrow"));
            if !is_declared {
                self.find(name, None, "does not contain the columns of a table");
            }
        }
        let declared = graph_catalog::read_declared(store)?;
        for name in store.list("graphs")? {
            if !declared.iter().any(|graph| name == format!("graphs/{}.json", graph.node)) {
                self.find(name, None, "does not contain the tables of an entity graph");
            }
        }
        Ok(())
    }

    /// Checks that the plans of the commits are as they were recorded, if the store has any.
    /// The output of a replay or a backfill has none.
    fn plans(&mut self, store: &Store, commits: &[Commit]) -> Result<(), StoreError> {
        if store.list("plans")?.is_empty() {
            return Ok(());
        }
        for digest in commits.iter().map(|commit| commit.plan).collect::<BTreeSet<_>>() {
            let damage = match Plan::from_store(&digest, store, &[]) {
                // Another version of the program may have recorded it.
                Ok(_) | Err(RecordedPlanError::OtherVersion { .. } | RecordedPlanError::Faults { .. }) => {
                    continue;
                }
                Err(damage) => damage,
            };
            self.find(format!("plans/{digest}.json"), None, format!("cannot be read: {damage}"));
        }
        Ok(())
    }

    /// Finds files of tables that no commit names.
    fn unnamed_files(&mut self, store: &Store, commits: &[Commit]) -> Result<(), StoreError> {
        let named: BTreeSet<&str> = commits.iter().flat_map(|c| &c.files).map(|f| f.name.as_str()).collect();
        let upper = commits.last().map_or(Tick::ZERO, |commit| commit.upper);
        for table in store.list("tables")? {
            for name in store.list(&table)? {
                if named.contains(name.as_str()) {
                    continue;
                }
                let what = if interval_of(&name).is_some_and(|interval| interval.end > upper) {
                    "is newer than the last commit: either the run was stopped before it committed the file (run the \
                     topology again, then verify), or the last commit was removed"
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

/// The commit in an object, and the digest of its bytes.
///
/// # Errors
/// What is wrong with the object.
fn read_commit(store: &Store, name: &str, number: u64) -> Result<(Commit, Digest), String> {
    let bytes = store.get(name).map_err(|error| error.to_string())?;
    let commit: Commit =
        serde_json::from_slice(&bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if commit.recipe != MANIFEST {
        return Err(format!("is not a `{MANIFEST}` but a `{}`", commit.recipe));
    }
    if commit.text().as_bytes() != bytes {
        return Err("is not in canonical form: it was changed, or written by another program".to_owned());
    }
    if commit.check != commit.computed_check() {
        return Err("does not match its own check digest: it was changed".to_owned());
    }
    if commit.number != number {
        return Err(format!("contains commit {}, which replaced commit {number}", commit.number));
    }
    Ok((commit, Digest::of(&bytes)))
}

/// The name of a row in findings: its index, and its event id if it has one.
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
    let writer = ObjectWriter::new(names.into_iter().zip(values))
        .expect("the gate admits only fields with a canonical form");
    let mut text = Vec::new();
    (0..rows)
        .map(|row| {
            text.clear();
            // This fails for a NaN, which the gate does not admit. The row then has another
            // digest.
            let _ = writer.push_row(row, &mut text);
            Digest::of(&text)
        })
        .collect()
}

/// The name of a segment relative to the data folder.
fn name_in(log: &dyn LogReader, segment: &Path) -> String {
    let location = log.location();
    format!("log/{}", segment.strip_prefix(location).unwrap_or(segment).display())
}
