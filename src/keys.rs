//! `tidegate keys`: makes the keys that sign manifests, and those that callers of a service show.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use tidegate_queries::access::{Keys as ApiKeys, Role};
use tidegate_sinks::signing::{KeyError, PublicKey, Signer};

/// The variable that names the signing key's file, when `--key` does not.
pub const KEY_FILE: &str = "TIDEGATE_KEY_FILE";

/// What can be done with keys.
#[derive(Subcommand)]
pub enum Keys {
    /// Makes a signing key, and the public key beside it.
    New {
        /// The file of the signing key; the public key goes to the same name with `.pub`.
        #[arg(long, env = KEY_FILE)]
        out: PathBuf,
    },
    /// Makes a key for callers of a service: shows it once, and adds its digest to a file.
    Api {
        /// What the key is called in logs; also the user on the Postgres port.
        #[arg(long)]
        id: String,
        /// What it allows; may be given several times.
        #[arg(long = "role", required = true, value_enum)]
        roles: Vec<RoleName>,
        /// An event type that it may send; without one, all.
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// The file that `tidegate run --api-keys` reads; made if it is not there.
        #[arg(long, env = "TIDEGATE_API_KEYS")]
        file: PathBuf,
    },
    /// Prints the id of a key's public half, and the line of its file.
    Show {
        /// The file of a signing key or a public key.
        key: PathBuf,
    },
}

/// A role, as it is written on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum RoleName {
    Producer,
    Reader,
    Author,
    Approver,
    Operator,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Producer => Role::Producer,
            RoleName::Reader => Role::Reader,
            RoleName::Author => Role::Author,
            RoleName::Approver => Role::Approver,
            RoleName::Operator => Role::Operator,
        }
    }
}

/// Runs `tidegate keys`.
pub fn keys(command: &Keys) -> ExitCode {
    match command {
        Keys::New { out } => new(out),
        Keys::Api { id, roles, event_types, file } => {
            let roles = roles.iter().copied().map(Role::from).collect();
            api(id, roles, event_types.iter().cloned().collect(), file)
        }
        Keys::Show { key } => match PublicKey::read(key).or_else(|_| Ok(Signer::read(key)?.public())) {
            Ok(public) => {
                println!("key {}\n{public}", public.id());
                ExitCode::SUCCESS
            }
            Err::<_, KeyError>(error) => crate::fail(&error),
        },
    }
}

fn new(out: &Path) -> ExitCode {
    // What proves the data must not lie where the data is copied from.
    let holds_data = |folder: &Path| crate::log_of(folder).exists() || folder.join("commits").is_dir();
    if let Some(data) = out.ancestors().skip(1).find(|folder| holds_data(folder)) {
        eprintln!(
            "tidegate: `{}` lies in the data folder `{}`; keep keys outside, so that whoever can change the data cannot sign it",
            out.display(),
            data.display()
        );
        return ExitCode::from(crate::exit::REFUSED);
    }
    let Some(secret) = secret() else { return ExitCode::from(crate::exit::FAILED) };
    let signer = Signer::from_secret(&secret);
    match signer.write(out) {
        Ok(public) => {
            println!("key {}", signer.public().id());
            println!("  signs:    {}   (keep it secret; name it in {KEY_FILE} or with --key)", out.display());
            println!("  verifies: {}   (give it to whoever checks your data)", public.display());
            ExitCode::SUCCESS
        }
        Err(error) => crate::fail(&error),
    }
}

/// 32 random bytes.
fn secret() -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    match getrandom::fill(&mut secret) {
        Ok(()) => Some(secret),
        Err(error) => {
            eprintln!("tidegate: the system gives no random numbers ({error}); a key cannot be made");
            None
        }
    }
}

fn api(id: &str, roles: BTreeSet<Role>, event_types: BTreeSet<String>, file: &Path) -> ExitCode {
    let Some(secret) = secret() else { return ExitCode::from(crate::exit::FAILED) };
    match ApiKeys::add(file, id, secret, roles, event_types) {
        Ok(key) => {
            println!("{key}");
            eprintln!(
                "key `{id}` is in {}; what stands above is shown this once: only its digest is kept",
                file.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => crate::fail(&error),
    }
}

/// The signing key of a run: that of `--key`, else that of the environment, else none.
///
/// # Errors
/// When a key is named and cannot be used.
pub fn signer(key: Option<&Path>) -> Result<Option<Signer>, KeyError> {
    key.map(Signer::read).transpose()
}
