//! `tidegate verify`: checks a data folder, or one episode.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tidegate_replay::proof::{EpisodeProof, Proven, prove};
use tidegate_replay::verify::{Verified, verify};
use tidegate_sinks::log::LogFolder;
use tidegate_sinks::signing::PublicKey;
use tidegate_sinks::store::Store;

use crate::{Answer, exit, fail};

/// What to check, and with which keys.
#[derive(Args)]
pub struct Verify {
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of its committed tables, when it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Checks one decision, by its id or its event's: tells its reasons, and proves it.
    #[arg(long, value_name = "ID")]
    episode: Option<String>,
    /// Writes the proof of that decision to a file, which can be checked without the data.
    #[arg(long, value_name = "FILE", requires = "episode")]
    export: Option<PathBuf>,
    /// Checks a proof file, with nothing but the public key.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["episode", "export"])]
    proof: Option<PathBuf>,
    /// The public key of whoever signed; may be given several times.
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// How to answer.
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
                Ok(proof) => tell(&proof, &keys, arguments.format),
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
            "tidegate: `{}` or `{folder}` is no folder; name the data folder of a run with --data",
            log.path().display()
        );
        return ExitCode::from(exit::REFUSED);
    }
    let store = match Store::open(&folder) {
        Ok(store) => store,
        Err(error) => return fail(&error),
    };
    match &arguments.episode {
        Some(id) => episode(&store, id, arguments.export.as_deref(), &keys, arguments.format),
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
            println!("{answer}");
        }
        Answer::Text => print_verified(&verified),
    }
    if verified.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

fn print_verified(verified: &Verified) {
    println!(
        "checked {} commits, {} files of tables ({} bytes), {} sealed records, {} facts, {} receipts and other audit records",
        verified.commits, verified.files, verified.bytes, verified.records, verified.facts, verified.audit
    );
    for (key, count) in &verified.signed {
        match (key.as_str(), verified.keys) {
            ("", _) => println!("{count} commits are not signed: nothing shows who made them"),
            (key, 0) => println!("{count} commits name key {key}; give --public-key to check the signatures"),
            (key, _) => println!("{count} commits are signed by key {key}"),
        }
    }
    if verified.unsealed > 0 {
        println!("{} facts stand behind the last commit: in the log, and not sealed yet", verified.unsealed);
    }
    for finding in &verified.findings {
        println!("WRONG  {finding}");
    }
    match verified.findings.len() {
        0 => println!("all of it agrees"),
        count => println!(
            "{count} finding{}: this folder is not what was committed",
            if count == 1 { "" } else { "s" }
        ),
    }
}

fn episode(store: &Store, id: &str, export: Option<&Path>, keys: &[PublicKey], format: Answer) -> ExitCode {
    let proof = match prove(store, id) {
        Ok(proof) => proof,
        Err(error) => return fail(&error),
    };
    if let Some(file) = export {
        let text = serde_json::to_string_pretty(&proof).expect("a proof has a JSON form") + "\n";
        if let Err(error) = std::fs::write(file, text) {
            eprintln!("tidegate: cannot write proof `{}`: {error}", file.display());
            return ExitCode::from(exit::FAILED);
        }
    }
    tell(&proof, keys, format)
}

/// Tells an episode, and whether its proof holds.
fn tell(proof: &EpisodeProof, keys: &[PublicKey], format: Answer) -> ExitCode {
    let checked = proof.check(keys);
    match (&checked, format) {
        (Ok(proven), Answer::Json) => println!("{}", as_json(proof, proven)),
        (Err(error), Answer::Json) => {
            println!("{}", serde_json::json!({"holds": false, "what": error.to_string()}))
        }
        (checked, Answer::Text) => {
            for line in proof.story() {
                println!("{line}");
            }
            match checked {
                Ok(proven) => {
                    let commit = proven.commit.number;
                    println!(
                        "Record {} has seal {}, number {} of its chain.",
                        proven.digest,
                        proven.seal,
                        proven.place + 1
                    );
                    println!(
                        "It is under the root of commit {commit}, and the chain leads to that commit's seal."
                    );
                    match (&proven.signed_by, &proven.commit.signature) {
                        (Some(key), _) => println!("The commit is signed by key {key}, which you gave."),
                        (None, Some(signature)) => {
                            println!(
                                "The commit names key {}; give --public-key to check its signature.",
                                signature.key_id
                            )
                        }
                        (None, None) => println!("The commit is not signed."),
                    }
                    println!("proven");
                }
                Err(error) => println!("NOT PROVEN: {error}"),
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
        "holds": true, "episode": episode, "record_digest": proven.digest, "seal": proven.seal, "place": proven.place,
        "commit": proven.commit.number, "signed_by": proven.signed_by,
    })
}
