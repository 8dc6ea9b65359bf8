//! The proof of one episode: what an auditor is given, and checks with nothing but the public key.
//!
//! A proof holds the episode in canonical form, the way from its digest to the root and to the seal
//! that the manifest of its commit states, and that manifest. `docs/seal-format.md` describes the
//! file, and `examples/verify_episode.py` checks it in another language.

use arrow::array::{Array, AsArray};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_facts::seal::{Chain, Proof, seal_after};
use tidegate_facts::{Digest, Tick, columns};
use tidegate_operators::decision::seal::Episode;
use tidegate_sinks::commits::{Commit, Commits, TableError, TableFile, read_rows, record_digests};
use tidegate_sinks::signing::PublicKey;
use tidegate_sinks::store::{Store, StoreError};

/// What the form of a proof is called, inside it.
pub const PROOF: &str = "tidegate.proof.v1";

/// What is needed to check one episode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodeProof {
    /// Always [`PROOF`].
    pub recipe: String,
    /// What the record's values are, and what it was decided under; canonical.
    pub frame: String,
    /// The record; canonical.
    pub record: String,
    /// The file of the store that holds the row.
    pub file: String,
    /// The seal before the episode's.
    pub previous: Digest,
    /// The digests of the records behind it in its interval, up to the seal that the manifest
    /// states.
    pub following: Vec<Digest>,
    /// The way to the root that the manifest states.
    pub inclusion: Proof,
    /// The manifest of the commit, as it stands in the store.
    pub manifest: String,
}

/// Why a proof does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoProof(pub String);

/// Why an episode could not be proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commits cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No sealed table has it.
    #[error(
        "no sealed decision has the id or the event id `{wanted}`; look it up with `tidegate sql \"SELECT decision_id, \
         event_id FROM decisions\"`"
    )]
    Unknown {
        /// What was asked for.
        wanted: String,
    },
    /// A file is not what it was.
    #[error("`{file}` cannot be read ({what}); `tidegate verify` finds all that is wrong")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
}

/// What a proof was found to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The digest of the record.
    pub digest: Digest,
    /// Its seal.
    pub seal: Digest,
    /// The place of the episode in the chain of its partition, from 0.
    pub place: u64,
    /// The commit.
    pub commit: Commit,
    /// Whose signature was checked; `None` when there is none, or no key was given.
    pub signed_by: Option<String>,
}

/// Finds the episode of a decision, by its id or its event's, and proves it.
///
/// # Errors
/// See [`ProofError`].
pub fn prove(store: &Store, wanted: &str) -> Result<EpisodeProof, ProofError> {
    prove_at(store, &Commits::read(store)?, wanted, None)
}

/// As [`prove`], among commits that were read before; with the tick of its fact only one of them is
/// looked at.
///
/// # Errors
/// See [`ProofError`].
pub fn prove_at(
    store: &Store,
    commits: &Commits,
    wanted: &str,
    at: Option<Tick>,
) -> Result<EpisodeProof, ProofError> {
    let may_hold = |commit: &&Commit| at.is_none_or(|tick| (commit.lower..commit.upper).contains(&tick));
    let sealed = commits.list.iter().map(AsRef::as_ref).filter(may_hold);
    let sealed = sealed.flat_map(|commit| commit.files.iter().map(move |file| (commit, file)));
    for (commit, file) in sealed.filter(|(_, file)| file.seal.is_some()) {
        let bytes = store.get(&file.name)?;
        let unreadable = |what: String| ProofError::File { file: file.name.clone(), what };
        let Some(row) = find(bytes.clone(), wanted).map_err(unreadable)? else { continue };
        let rows = read_rows(bytes, None).map_err(unreadable)?;
        let episode = Episode::of(&rows, row).map_err(|error| unreadable(error.to_string()))?;
        let records = record_digests(&rows);
        let mut chain = before(commits, commit, file);
        chain.extend(&records[..row]);
        return Ok(EpisodeProof {
            recipe: PROOF.to_owned(),
            frame: episode.frame,
            record: episode.record,
            file: file.name.clone(),
            previous: chain.head,
            following: records[row + 1..].to_vec(),
            inclusion: Proof::of(&records, row),
            manifest: commit.text(),
        });
    }
    Err(ProofError::Unknown { wanted: wanted.to_owned() })
}

/// How far the chain of a file's partition had come before it.
fn before(commits: &Commits, commit: &Commit, file: &TableFile) -> Chain {
    let earlier = commits.list.iter().take_while(|earlier| earlier.number < commit.number);
    let files = earlier.flat_map(|commit| &commit.files);
    let same = files.filter(|other| other.table == file.table && other.partition == file.partition);
    same.last().and_then(|file| file.seal).map_or_else(Chain::default, |seal| seal.chain)
}

/// The row whose decision or event has the wanted id.
fn find(bytes: Bytes, wanted: &str) -> Result<Option<usize>, String> {
    let rows = read_rows(bytes, Some(&["decision_id", columns::EVENT_ID]))?;
    let id = Digest::from_hex(wanted);
    let ids = rows.column_by_name("decision_id").and_then(|c| c.as_fixed_size_binary_opt());
    let events = rows.column_by_name(columns::EVENT_ID).and_then(|c| c.as_string_opt::<i32>());
    Ok((0..rows.num_rows()).find(|row| {
        id.is_some_and(|id| ids.is_some_and(|ids| ids.value(*row) == id.0))
            || events.is_some_and(|events| events.is_valid(*row) && events.value(*row) == wanted)
    }))
}

impl EpisodeProof {
    /// Reads a proof file.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<EpisodeProof, NoProof> {
        serde_json::from_str(text).map_err(|error| NoProof(format!("the file is no proof: {error}")))
    }

    /// The values of the episode by name, as they stand in its canonical form.
    pub fn values(&self) -> Vec<(String, String)> {
        Episode { frame: self.frame.clone(), record: self.record.clone() }.values()
    }

    /// Checks the proof, and the manifest's signature when there are keys.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self, keys: &[PublicKey]) -> Result<Proven, NoProof> {
        let refuse = |what: String| Err(NoProof(what));
        if self.recipe != PROOF {
            return refuse(format!("the file is no `{PROOF}` but `{}`", self.recipe));
        }
        let head: Vec<serde_json::Value> = serde_json::from_str(&self.record)
            .map_err(|error| NoProof(format!("the record is no list: {error}")))?;
        let frame = Digest::of(self.frame.as_bytes());
        if head.get(1).and_then(|digest| digest.as_str()) != Some(&frame.to_hex()) {
            return refuse(format!("the record does not name its frame, which has digest {frame}"));
        }
        let digest = Digest::of(self.record.as_bytes());
        let commit: Commit = serde_json::from_str(&self.manifest)
            .map_err(|error| NoProof(format!("the manifest cannot be read: {error}")))?;
        if commit.text() != self.manifest {
            return refuse("the manifest is not in canonical form".to_owned());
        }
        let file = commit.files.iter().find(|file| file.name == self.file);
        let Some((file, stated)) = file.and_then(|file| Some((file, file.seal?))) else {
            return refuse(format!("the manifest names no sealed file `{}`", self.file));
        };
        if self.inclusion.size != file.rows || self.inclusion.root(&digest) != Some(stated.root) {
            return refuse(format!("record {digest} is not under root {} of the manifest", stated.root));
        }
        let seal = seal_after(&self.previous, &digest);
        let head = self.following.iter().fold(seal, |seal, record| seal_after(&seal, record));
        if head != stated.chain.head {
            return refuse(format!(
                "the chain leads to seal {head}, and the manifest states {}",
                stated.chain.head
            ));
        }
        let behind = self.following.len() as u64 + 1;
        if self.inclusion.index + behind != file.rows {
            return refuse("the chain and the root disagree on the record's place".to_owned());
        }
        let signed_by = match (&commit.signature, keys) {
            (_, []) => None,
            (None, _) => return refuse("the manifest is not signed".to_owned()),
            (Some(signature), keys) => {
                let Some(key) = keys.iter().find(|key| key.id() == signature.key_id) else {
                    return refuse(format!(
                        "the manifest is signed by key {}, not by yours",
                        signature.key_id
                    ));
                };
                if !key.verify(commit.signed_text().as_bytes(), signature) {
                    return refuse(format!("the manifest is not what key {} signed", signature.key_id));
                }
                Some(signature.key_id.clone())
            }
        };
        Ok(Proven { digest, seal, place: stated.chain.records - behind, commit, signed_by })
    }

    /// The episode in words: what happened, what was seen, what was decided, and why.
    pub fn story(&self) -> Vec<String> {
        story_of(&self.values())
    }
}

/// A decision in words, from its columns and their values as JSON, sealed or not: what happened,
/// what was seen, what was decided, and why.
pub fn story_of(values: &[(String, String)]) -> Vec<String> {
    let plain = |name: &str| -> Option<String> {
        let (_, text) = values.iter().find(|(key, text)| key == name && text != "null")?;
        Some(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.clone()))
    };
    let of = |name: &str| plain(name).unwrap_or_else(|| "-".to_owned());
    let tick = of(columns::TICK).parse().ok().map(Tick);
    let learned = tick.map_or("-".to_owned(), |tick| tick.to_string());
    let list = |name: &str| -> Vec<String> {
        plain(name).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    };
    let mut story = vec![
        format!("Event {} happened at {}.", of(columns::EVENT_ID), of(columns::TS_UTC)),
        format!(
            "It was admitted as fact {learned}, offset {}, with payload {}, under policy {} revision {} ({}).",
            of(columns::OFFSET),
            of(columns::PAYLOAD_HASH),
            of("policy_id"),
            of("policy_revision"),
            of("policy_digest")
        ),
        format!(
            "By then these many facts of each partition had been applied: {}.",
            list(columns::BASIS).join(", ")
        ),
    ];
    const PART_NAMES: [&str; 22] = [
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
    let seen = values.iter().filter(|(name, text)| !PART_NAMES.contains(&name.as_str()) && text != "null");
    story.push(format!("What was seen (snapshot {}):", of("snapshot_digest")));
    story.extend(seen.map(|(name, text)| format!("    {name} = {text}")));
    let rules: Vec<String> = list("rules_fired")
        .into_iter()
        .zip(list("reason_codes"))
        .map(|(r, c)| format!("{r} ({c})"))
        .collect();
    let rules =
        if rules.is_empty() { "no rule fired".to_owned() } else { format!("fired: {}", rules.join(", ")) };
    story.push(format!(
        "Under bundle {} version {} ({}) {rules}; score {}.",
        of("bundle_id"),
        of("bundle_version"),
        of("bundle_digest"),
        of("score")
    ));
    story.push(format!("So decision {} was {}.", of("decision_id"), of("action")));
    story.push(format!("The plan that computed it: {}.", of("plan_digest")));
    story
}
