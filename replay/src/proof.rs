//! The proof of one episode. To check it, an auditor needs the public key, and nothing else.
//!
//! A proof contains the episode in canonical form, the manifest of its commit, and the digests that
//! lead from the episode to the root and the seal in that manifest. `docs/seal-format.md` describes
//! the file, and `examples/verify_episode.py` checks it in another language.

use std::collections::BTreeMap;
use std::fmt;

use arrow::array::{Array, AsArray};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_facts::seal::{Chain, Proof, seal_after};
use tidegate_facts::{Digest, Tick, columns};
use tidegate_operators::decision::seal::Episode;
use tidegate_sinks::archive::ArchiveError;
use tidegate_sinks::commits::{Commit, Commits, TableError, TableFile, read_rows, record_digests};
use tidegate_sinks::log::LogReader;
use tidegate_sinks::signing::PublicKey;
use tidegate_sinks::store::{Store, StoreError};

use crate::find_fact::{archived_row_at, possible_event_ids};

/// The column with the id of a decision.
const DECISION_ID: &str = "decision_id";

/// The name of the form of an episode's proof; the proof contains it.
pub const PROOF: &str = "tidegate.proof.v1";

/// The proof of one episode: what an auditor needs to check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodeProof {
    /// Always [`PROOF`].
    pub recipe: String,
    /// The frame of the episode in canonical form: the names of the record's values, and the
    /// bundle, policy and plan of the decision.
    pub frame: String,
    /// The record of the episode in canonical form.
    pub record: String,
    /// The file in the store that contains the row.
    pub file: String,
    /// The seal of the record before it in the chain.
    pub previous: Digest,
    /// The digests of the records after it in its file. They lead to the seal in the manifest.
    pub following: Vec<Digest>,
    /// The inclusion proof: it leads to the root in the manifest.
    pub inclusion: Proof,
    /// The manifest of the commit, byte for byte as in the store.
    pub manifest: String,
}

/// Why the proof of an episode is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidProof(pub String);

/// Why no proof of a decision was made.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commits cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The log or the archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// No sealed table contains the decision.
    #[error(
        "no sealed decision has the decision id, the event id or the TYPE:ID `{id}`; list them with `tidegate sql \
         \"SELECT decision_id, event_id FROM decisions\"`"
    )]
    Unknown {
        /// The id that the caller gave.
        id: String,
    },
    /// Decisions on several facts match the id.
    #[error(
        "{} facts have the event id `{id}`; give the TYPE:ID or the decision id of one of them:{}",
        .candidates.len(),
        lines(.candidates)
    )]
    Ambiguous {
        /// The id that the caller gave.
        id: String,
        /// The first sealed decision on each fact, by tick.
        candidates: Vec<DecisionCandidate>,
    },
    /// A file of a sealed table is damaged.
    #[error("cannot read `{file}`: {what}; run `tidegate verify` on the data folder to find all damage")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
}

/// One of several sealed decisions that an event id may refer to when a proof is requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionCandidate {
    /// The id of the decision.
    pub decision_id: Digest,
    /// `TYPE:ID` of its fact; `None` if there is no log, or neither log nor archive holds the fact.
    pub fact: Option<String>,
}

impl fmt::Display for DecisionCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fact {
            Some(fact) => write!(f, "{fact}, decision {}", self.decision_id),
            None => write!(f, "decision {}", self.decision_id),
        }
    }
}

fn lines(candidates: &[DecisionCandidate]) -> String {
    candidates.iter().map(|candidate| format!("\n  {candidate}")).collect()
}

/// What the valid proof of an episode shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The digest of the record.
    pub digest: Digest,
    /// Its seal.
    pub seal: Digest,
    /// The index of the episode in the chain of its partition, from 0.
    pub place: u64,
    /// The commit.
    pub commit: Commit,
    /// The key whose signature was checked; `None` if the caller gave no key.
    pub signed_by: Option<String>,
}

/// Finds the sealed decision that `id` refers to, and proves it.
///
/// `id` is a decision id, an event id, or `TYPE:ID` with the event type and the event id of a fact.
/// If facts of several event types share the event id, the error lists the candidates. The event
/// type is that of the fact in `log`, or in the archive of `store` if the log was pruned. Without a
/// log, `TYPE:ID` matches nothing, and only decision ids distinguish facts that share an event id.
///
/// If several nodes decided the fact, the result is the proof of its first sealed decision: that in
/// the first commit, and there in the first table by name.
///
/// # Errors
/// See [`ProofError`].
pub fn prove(store: &Store, log: Option<&dyn LogReader>, id: &str) -> Result<EpisodeProof, ProofError> {
    let commits = Commits::read(store)?;
    find(store, log, &commits, id)?.prove(&commits)
}

/// Proves the first sealed decision with an id, among commits that the caller has read. With the
/// tick of its fact, only one of them is searched.
///
/// # Errors
/// See [`ProofError`].
pub fn prove_at(
    store: &Store,
    commits: &Commits,
    decision_id: &str,
    at: Option<Tick>,
) -> Result<EpisodeProof, ProofError> {
    let digest = Digest::from_hex(decision_id);
    for (commit, file) in sealed_files(commits, at) {
        let matching = select(store, commit, file, |_, decision| Some(*decision) == digest)?;
        if let Some(decision) = matching.first() {
            return decision.prove(commits);
        }
    }
    Err(ProofError::Unknown { id: decision_id.to_owned() })
}

/// A decision in a sealed table.
struct SealedDecision<'c> {
    commit: &'c Commit,
    file: &'c TableFile,
    /// The bytes of the file.
    bytes: Bytes,
    row: usize,
    /// The tick of its fact.
    tick: Tick,
    event_id: String,
    decision_id: Digest,
}

/// The only sealed decision that `id` refers to, as [`prove`] defines it.
fn find<'c>(
    store: &Store,
    log: Option<&dyn LogReader>,
    commits: &'c Commits,
    id: &str,
) -> Result<SealedDecision<'c>, ProofError> {
    let decision_id = Digest::from_hex(id);
    let event_ids = if log.is_some() { possible_event_ids(id) } else { vec![id] };
    // The first decision on each fact.
    let mut decisions: BTreeMap<Tick, SealedDecision<'c>> = BTreeMap::new();
    for (commit, file) in sealed_files(commits, None) {
        let matching = select(store, commit, file, |event, decision| {
            Some(*decision) == decision_id || event_ids.contains(&event)
        })?;
        for decision in matching {
            if Some(decision.decision_id) == decision_id {
                return Ok(decision);
            }
            decisions.entry(decision.tick).or_insert(decision);
        }
    }
    let (by_event_id, others): (Vec<_>, Vec<_>) =
        decisions.into_values().partition(|decision| decision.event_id == id);
    let mut exact = Vec::new();
    if let Some(log) = log {
        for decision in others {
            if decision.exact_id(store, log)?.as_deref() == Some(id) {
                exact.push(decision);
            }
        }
    }
    let mut matching = if exact.is_empty() { by_event_id } else { exact };
    if matching.len() > 1 {
        let candidates = matching.iter().map(|decision| decision.candidate(store, log));
        let candidates = candidates.collect::<Result<Vec<_>, ArchiveError>>()?;
        return Err(ProofError::Ambiguous { id: id.to_owned(), candidates });
    }
    matching.pop().ok_or_else(|| ProofError::Unknown { id: id.to_owned() })
}

/// The files of sealed tables in the order of the commits. With a tick, only those of the commit
/// whose interval contains it.
fn sealed_files(commits: &Commits, at: Option<Tick>) -> impl Iterator<Item = (&Commit, &TableFile)> {
    let may_contain =
        move |commit: &&Commit| at.is_none_or(|tick| (commit.lower..commit.upper).contains(&tick));
    let commits = commits.list.iter().map(AsRef::as_ref).filter(may_contain);
    let files = commits.flat_map(|commit| commit.files.iter().map(move |file| (commit, file)));
    files.filter(|(_, file)| file.seal.is_some())
}

/// The decisions of a sealed file whose event id and decision id satisfy a condition.
fn select<'c>(
    store: &Store,
    commit: &'c Commit,
    file: &'c TableFile,
    is_match: impl Fn(&str, &Digest) -> bool,
) -> Result<Vec<SealedDecision<'c>>, ProofError> {
    let bytes = store.get(&file.name)?;
    let rows = read_rows(bytes.clone(), Some(&[columns::TICK, columns::EVENT_ID, DECISION_ID]))
        .map_err(|what| ProofError::File { file: file.name.clone(), what })?;
    let event_ids = rows.column_by_name(columns::EVENT_ID).and_then(|c| c.as_string_opt::<i32>());
    let decision_ids = rows.column_by_name(DECISION_ID).and_then(|c| c.as_fixed_size_binary_opt());
    let (Some(ticks), Some(event_ids), Some(decision_ids)) =
        (columns::find_ticks(&rows), event_ids, decision_ids)
    else {
        return Ok(Vec::new());
    };
    let matching = (0..rows.num_rows()).filter_map(|row| {
        let event_id = event_ids.is_valid(row).then(|| event_ids.value(row))?;
        let decision_id = Digest(decision_ids.value(row).try_into().ok()?);
        is_match(event_id, &decision_id).then(|| SealedDecision {
            commit,
            file,
            bytes: bytes.clone(),
            row,
            tick: Tick(ticks.value(row)),
            event_id: event_id.to_owned(),
            decision_id,
        })
    });
    Ok(matching.collect())
}

impl SealedDecision<'_> {
    /// `TYPE:ID` of its fact; `None` if neither the log nor the archive in `store` holds the fact.
    fn exact_id(&self, store: &Store, log: &dyn LogReader) -> Result<Option<String>, ArchiveError> {
        Ok(archived_row_at(log, store, self.tick)?.map(|fact| fact.exact_id(&self.event_id)))
    }

    fn candidate(
        &self,
        store: &Store,
        log: Option<&dyn LogReader>,
    ) -> Result<DecisionCandidate, ArchiveError> {
        let fact = match log {
            Some(log) => self.exact_id(store, log)?,
            None => None,
        };
        Ok(DecisionCandidate { decision_id: self.decision_id, fact })
    }

    fn prove(&self, commits: &Commits) -> Result<EpisodeProof, ProofError> {
        let damaged = |what: String| ProofError::File { file: self.file.name.clone(), what };
        let rows = read_rows(self.bytes.clone(), None).map_err(damaged)?;
        let episode = Episode::of(&rows, self.row).map_err(|error| damaged(error.to_string()))?;
        let records = record_digests(&rows);
        let mut chain = chain_before(commits, self.commit, self.file);
        chain.extend(&records[..self.row]);
        Ok(EpisodeProof {
            recipe: PROOF.to_owned(),
            frame: episode.frame,
            record: episode.record,
            file: self.file.name.clone(),
            previous: chain.head,
            following: records[self.row + 1..].to_vec(),
            inclusion: Proof::of(&records, self.row),
            manifest: self.commit.text(),
        })
    }
}

/// The state of the chain of a file's table and partition before the file's records.
fn chain_before(commits: &Commits, commit: &Commit, file: &TableFile) -> Chain {
    let earlier = commits.list.iter().take_while(|earlier| earlier.number < commit.number);
    let files = earlier.flat_map(|commit| &commit.files);
    let same = files.filter(|other| other.table == file.table && other.partition == file.partition);
    same.last().and_then(|file| file.seal).map_or_else(Chain::default, |seal| seal.chain)
}

impl EpisodeProof {
    /// Reads a proof file.
    ///
    /// # Errors
    /// When the text is not a proof.
    pub fn parse(text: &str) -> Result<EpisodeProof, InvalidProof> {
        serde_json::from_str(text).map_err(|error| InvalidProof(format!("the file is not a proof: {error}")))
    }

    /// The values of the episode by name, as canonical JSON.
    pub fn values(&self) -> Vec<(String, String)> {
        Episode { frame: self.frame.clone(), record: self.record.clone() }.values()
    }

    /// Checks the proof and, if there are keys, the signature of the manifest.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, keys: &[PublicKey]) -> Result<Proven, InvalidProof> {
        let refuse = |what: String| Err(InvalidProof(what));
        if self.recipe != PROOF {
            return refuse(format!("the file is not a `{PROOF}` but a `{}`", self.recipe));
        }
        let head: Vec<serde_json::Value> = serde_json::from_str(&self.record)
            .map_err(|error| InvalidProof(format!("the record is not a list: {error}")))?;
        let frame = Digest::of(self.frame.as_bytes());
        if head.get(1).and_then(|digest| digest.as_str()) != Some(&frame.to_hex()) {
            return refuse(format!("the record does not contain the digest of its frame, {frame}"));
        }
        let digest = Digest::of(self.record.as_bytes());
        let commit: Commit = serde_json::from_str(&self.manifest)
            .map_err(|error| InvalidProof(format!("the manifest cannot be read: {error}")))?;
        if commit.text() != self.manifest {
            return refuse("the manifest is not in canonical form".to_owned());
        }
        let file = commit.files.iter().find(|file| file.name == self.file);
        let Some((file, sealed)) = file.and_then(|file| Some((file, file.seal?))) else {
            return refuse(format!("the manifest names no sealed file `{}`", self.file));
        };
        if self.inclusion.size != file.rows || self.inclusion.root(&digest) != Some(sealed.root) {
            return refuse(format!("record {digest} does not lead to root {} in the manifest", sealed.root));
        }
        let seal = seal_after(&self.previous, &digest);
        let head = self.following.iter().fold(seal, |seal, record| seal_after(&seal, record));
        if head != sealed.chain.head {
            return refuse(format!(
                "the chain leads to seal {head}, but the manifest states {}",
                sealed.chain.head
            ));
        }
        // The episode and the records after it.
        let rest = self.following.len() as u64 + 1;
        if self.inclusion.index + rest != file.rows {
            return refuse("the chain and the inclusion proof give the record different indexes".to_owned());
        }
        let signed_by = match (&commit.signature, keys) {
            (_, []) => None,
            (None, _) => return refuse("the manifest is not signed".to_owned()),
            (Some(signature), keys) => {
                let Some(key) = keys.iter().find(|key| key.id() == signature.key_id) else {
                    return refuse(format!(
                        "the manifest is signed by key {}, which is none of the given keys",
                        signature.key_id
                    ));
                };
                if !key.verify(commit.signed_text().as_bytes(), signature) {
                    return refuse(format!(
                        "the signature of key {} does not match the manifest",
                        signature.key_id
                    ));
                }
                Some(signature.key_id.clone())
            }
        };
        Ok(Proven { digest, seal, place: sealed.chain.records - rest, commit, signed_by })
    }

    /// The episode in words: the event, the values that the decision read, the decision, and its
    /// reasons.
    pub fn story(&self) -> Vec<String> {
        story_of(&self.values())
    }
}

/// A decision in words, as its proof shows it, from its columns and their values as JSON: the
/// event, the values that the decision read, the decision, and its reasons. The decision need not
/// be sealed.
pub fn story_of(values: &[(String, String)]) -> Vec<String> {
    let plain = |name: &str| -> Option<String> {
        let (_, text) = values.iter().find(|(key, text)| key == name && text != "null")?;
        Some(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.clone()))
    };
    let of = |name: &str| plain(name).unwrap_or_else(|| "-".to_owned());
    let tick = of(columns::TICK).parse().ok().map(Tick);
    let fact = tick.map_or("-".to_owned(), |tick| tick.to_string());
    let list = |name: &str| -> Vec<String> {
        plain(name).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    };
    let mut story = vec![
        format!("Event {} happened at {}.", of(columns::EVENT_ID), of(columns::TS_UTC)),
        format!(
            "It was admitted as fact {fact}, offset {}, with payload {}, under policy {} revision {} ({}).",
            of(columns::OFFSET),
            of(columns::PAYLOAD_HASH),
            of("policy_id"),
            of("policy_revision"),
            of("policy_digest")
        ),
        format!("Facts of each partition applied before the decision: {}.", list(columns::BASIS).join(", ")),
    ];
    // The columns that the other sentences contain, and those that say nothing about the reasons.
    const OTHERS: [&str; 22] = [
        "_tick",
        "_offset",
        "event_id",
        "ts_utc",
        "payload_hash",
        "basis",
        "snapshot_digest",
        "decision_id",
        "action",
        "score",
        "rules_fired",
        "reason_codes",
        "bundle_id",
        "bundle_version",
        "bundle_digest",
        "policy_id",
        "policy_revision",
        "policy_digest",
        "decided_at_utc",
        "plan_digest",
        "graph_version",
        "posture",
    ];
    let read = values.iter().filter(|(name, text)| !OTHERS.contains(&name.as_str()) && text != "null");
    story.push(format!("Values that the decision read (snapshot {}):", of("snapshot_digest")));
    story.extend(read.map(|(name, text)| format!("    {name} = {text}")));
    let rules: Vec<String> = list("rules_fired")
        .into_iter()
        .zip(list("reason_codes"))
        .map(|(r, c)| format!("{r} ({c})"))
        .collect();
    let rules = if rules.is_empty() {
        "no rule fired".to_owned()
    } else {
        format!("rules fired: {}", rules.join(", "))
    };
    story.push(format!(
        "Bundle {} version {} ({}): {rules}; score {}.",
        of("bundle_id"),
        of("bundle_version"),
        of("bundle_digest"),
        of("score")
    ));
    story.push(format!("Decision {}: {}.", of("decision_id"), of("action")));
    story.push(format!("Plan: {}.", of("plan_digest")));
    story
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_candidates() {
        let decision_id = Digest::of(b"decision");
        let known = DecisionCandidate { decision_id, fact: Some("payment.v1:p-1".to_owned()) };
        let pruned = DecisionCandidate { decision_id, fact: None };
        let error = ProofError::Ambiguous { id: "p-1".to_owned(), candidates: vec![known, pruned] };
        let expected = format!(
            "2 facts have the event id `p-1`; give the TYPE:ID or the decision id of one of them:\n  \
             payment.v1:p-1, decision {decision_id}\n  decision {decision_id}"
        );
        assert_eq!(error.to_string(), expected);
    }
}
