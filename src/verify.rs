//! `tidegate verify`: checks a data folder, or the proof of one decision.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tidegate_replay::proof::{EpisodeProof, ProofError, Proven, prove};
use tidegate_replay::verify::{Verified, verify};
use tidegate_sinks::log::LogFolder;
use tidegate_sinks::signing::PublicKey;
use tidegate_sinks::store::Store;

use crate::{Answer, exit, fail};

/// The arguments of `tidegate verify`: what to check, and with which keys.
#[derive(Args)]
pub struct Verify {
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of the store, if it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Prints the reasons of one decision, and checks its proof. ID is a decision id, an event id,
    /// or TYPE:ID with the event type and the event id. If several nodes decided the fact, its
    /// first sealed decision is taken.
    #[arg(long, value_name = "ID")]
    episode: Option<String>,
    /// Also writes the proof of that decision to a file, which can be checked without the data.
    #[arg(long, value_name = "FILE", requires = "episode")]
    export: Option<PathBuf>,
    /// Checks a proof file. It needs no data folder, but a public key: anyone can make a proof that
    /// is consistent in itself.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["episode", "export"], requires = "public_key")]
    proof: Option<PathBuf>,
    /// The file of a public key to check signatures with; may be given several times.
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// The output format.
    #[arg(long, value_enum, default_value_t = Answer::Text)]
    format: Answer,
}

/// Runs `tidegate verify`.
pub fn run(arguments: &Verify) -> ExitCode {
    let keys: Result<Vec<PublicKey>, _> =
        arguments.public_key.iter().map(|path| PublicKey::read(path)).collect();
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => {
            fail(&error);
            return ExitCode::from(exit::REFUSED);
        }
    };
    if let Some(file) = &arguments.proof {
        return match std::fs::read_to_string(file) {
            Ok(text) => match EpisodeProof::parse(&text) {
                Ok(proof) => print_proof(&proof, &keys, arguments.format),
                Err(error) => fail(&error),
            },
            Err(error) => {
                eprintln!("tidegate: cannot read proof `{}`: {error}", file.display());
                ExitCode::from(exit::REFUSED)
            }
        };
    }
    let folder = arguments.store.clone().unwrap_or_else(|| arguments.data.join("store"));
    let log = crate::log_of(&arguments.data);
    if !folder.is_dir() || !log.exists() {
        let folder = folder.display();
        eprintln!(
            "tidegate: `{}` or `{folder}` does not exist; name the data folder of a run with --data",
            log.path().display()
        );
        return ExitCode::from(exit::REFUSED);
    }
    let store = match Store::open(&folder) {
        Ok(store) => store,
        Err(error) => return fail(&error),
    };
    match &arguments.episode {
        Some(id) => episode(&log, &store, id, arguments.export.as_deref(), &keys, arguments.format),
        None => everything(&log, &store, &keys, arguments.format),
    }
}

fn everything(log: &LogFolder, store: &Store, keys: &[PublicKey], format: Answer) -> ExitCode {
    let verified = match verify(log, store, keys) {
        Ok(verified) => verified,
        Err(error) => return fail(&error),
    };
    match format {
        Answer::Json => {
            let findings = verified.findings.iter();
            let findings =
                findings.map(|f| serde_json::json!({"file": f.file, "record": f.record, "what": f.what}));
            let answer = serde_json::json!({
                "commits": verified.commits, "files": verified.files, "bytes": verified.bytes,
                "sealed_records": verified.records, "facts": verified.facts, "audit_records": verified.audit,
                "unsealed_facts": verified.unsealed, "signed": verified.signed,
                "signatures_checked": verified.keys > 0, "findings": findings.collect::<Vec<_>>(),
            });
            outln!("{answer}");
        }
        Answer::Text => print_verified(&verified),
    }
    if verified.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

fn print_verified(verified: &Verified) {
    outln!(
        "checked {} commits, {} table files ({} bytes), {} sealed records, {} facts, {} receipts and other audit records",
        verified.commits,
        verified.files,
        verified.bytes,
        verified.records,
        verified.facts,
        verified.audit
    );
    for (key, count) in &verified.signed {
        match (key.as_str(), verified.keys) {
            ("", _) => outln!("{count} commits are not signed, so nothing proves who wrote them"),
            (key, 0) => {
                outln!("{count} commits have a signature by key {key}; give --public-key to check it")
            }
            (key, _) => outln!("{count} commits are signed by key {key}"),
        }
    }
    if verified.unsealed > 0 {
        outln!("{} facts after the last commit are in the log, and not sealed yet", verified.unsealed);
    }
    for finding in &verified.findings {
        outln!("FINDING  {finding}");
    }
    match verified.findings.len() {
        0 => outln!("no findings: everything is as it was committed"),
        count => outln!(
            "{count} finding{}: the folder is not as it was committed",
            if count == 1 { "" } else { "s" }
        ),
    }
}

fn episode(
    log: &LogFolder,
    store: &Store,
    id: &str,
    export: Option<&Path>,
    keys: &[PublicKey],
    format: Answer,
) -> ExitCode {
    let proof = match prove(store, Some(log), id) {
        Ok(proof) => proof,
        Err(error @ ProofError::Ambiguous { .. }) => {
            fail(&error);
            return ExitCode::from(exit::REFUSED);
        }
        Err(error) => return fail(&error),
    };
    if let Some(file) = export {
        let text = serde_json::to_string_pretty(&proof).expect("a proof has a JSON form") + "\n";
        if let Err(error) = std::fs::write(file, text) {
            eprintln!("tidegate: cannot write proof `{}`: {error}", file.display());
            return ExitCode::from(exit::FAILED);
        }
    }
    print_proof(&proof, keys, format)
}

/// Prints an episode, and the result of checking its proof.
fn print_proof(proof: &EpisodeProof, keys: &[PublicKey], format: Answer) -> ExitCode {
    let checked = proof.check(keys);
    match (&checked, format) {
        (Ok(proven), Answer::Json) => outln!("{}", as_json(proof, proven)),
        (Err(error), Answer::Json) => {
            outln!("{}", serde_json::json!({"holds": false, "what": error.to_string()}))
        }
        (checked, Answer::Text) => {
            for line in proof.story() {
                outln!("{line}");
            }
            match checked {
                Ok(proven) => {
                    let commit = proven.commit.number;
                    outln!(
                        "Its record has digest {} and seal {}, and is number {} in its chain.",
                        proven.digest,
                        proven.seal,
                        proven.place + 1
                    );
                    outln!("The proof leads from the record to the root and the seal in commit {commit}.");
                    match (&proven.signed_by, &proven.commit.signature) {
                        (Some(key), _) => outln!("The commit is signed by the given key {key}."),
                        (None, Some(signature)) => {
                            outln!(
                                "The commit has a signature by key {}; give --public-key to check it.",
                                signature.key_id
                            )
                        }
                        (None, None) => outln!("The commit is not signed."),
                    }
                    match proven.signed_by {
                        Some(_) => outln!("proven"),
                        // Whoever can write the folder could have made all of it.
                        None => outln!("consistent, but not proven: no signature was checked"),
                    }
                }
                Err(error) => outln!("NOT PROVEN: {error}"),
            }
        }
    }
    if checked.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

fn as_json(proof: &EpisodeProof, proven: &Proven) -> serde_json::Value {
    let value = |text: &str| serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
    let episode: serde_json::Map<_, _> =
        proof.values().into_iter().map(|(name, text)| (name, value(&text))).collect();
    serde_json::json!({
        "holds": true, "episode": episode, "record_digest": proven.digest, "seal": proven.seal, "index": proven.place,
        "commit": proven.commit.number, "signed_by": proven.signed_by,
    })
}
