//! `tidegate keys`: makes the keys that sign commits, and the API keys of the callers of a service.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use tidegate_queries::access::{Keys as ApiKeys, Role};
use tidegate_sinks::signing::{KeyError, PublicKey, Signer};

/// The environment variable that names the file of the signing key if `--key` does not.
pub const KEY_FILE: &str = "TIDEGATE_KEY_FILE";

/// The subcommands of `tidegate keys`.
#[derive(Subcommand)]
pub enum Keys {
    /// Makes a signing key, and writes the public key beside it.
    New {
        /// The file for the signing key. The public key goes to the same name with `.pub`.
        #[arg(long, env = KEY_FILE)]
        out: PathBuf,
    },
    /// Makes an API key for callers of a service: prints it once, and adds its digest to a file.
    Api {
        /// The name of the key in logs, and the user name on the Postgres port.
        #[arg(long)]
        id: String,
        /// A role of the key; may be given several times.
        #[arg(long = "role", required = true, value_enum)]
        roles: Vec<RoleName>,
        /// An event type that the key may submit; may be given several times. All by default.
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// The file that `tidegate run --api-keys` reads. It is created if it does not exist.
        #[arg(long, env = "TIDEGATE_API_KEYS")]
        file: PathBuf,
    },
    /// Prints the id and the text of a public key, or of the public half of a signing key.
    Show {
        /// The file of a signing key or a public key.
        key: PathBuf,
    },
}

/// A role of an API key, as an argument of `tidegate keys api`.
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
                outln!("key {}\n{public}", public.id());
                ExitCode::SUCCESS
            }
            Err::<_, KeyError>(error) => crate::fail(&error),
        },
    }
}

fn new(out: &Path) -> ExitCode {
    // A copy of the data folder must not contain the key that signs it.
    let is_data_folder = |folder: &Path| crate::log_of(folder).exists() || folder.join("commits").is_dir();
    if let Some(data) = out.ancestors().skip(1).find(|folder| is_data_folder(folder)) {
        eprintln!(
            "tidegate: `{}` is in the data folder `{}`; choose a file outside, so that someone who can change the data cannot sign it",
            out.display(),
            data.display()
        );
        return ExitCode::from(crate::exit::REFUSED);
    }
    let Some(secret) = secret() else { return ExitCode::from(crate::exit::FAILED) };
    let signer = Signer::from_secret(&secret);
    match signer.write(out) {
        Ok(public) => {
            outln!("key {}", signer.public().id());
            outln!("  signs:    {}   (keep it secret; name it in {KEY_FILE} or with --key)", out.display());
            outln!("  verifies: {}   (give it to those who check your data)", public.display());
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
            eprintln!("tidegate: the system returns no random numbers ({error}), so no key was made");
            None
        }
    }
}

fn api(id: &str, roles: BTreeSet<Role>, event_types: BTreeSet<String>, file: &Path) -> ExitCode {
    let Some(secret) = secret() else { return ExitCode::from(crate::exit::FAILED) };
    match ApiKeys::add(file, id, secret, roles, event_types) {
        Ok(key) => {
            outln!("{key}");
            eprintln!(
                "added key `{id}` to {}; copy the key above now, because only its digest is stored",
                file.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => crate::fail(&error),
    }
}

/// The key that signs commits, from the file that `--key` or the environment names; `None` without
/// a file.
///
/// # Errors
/// When the file cannot be read, or contains no signing key.
pub fn signer(key: Option<&Path>) -> Result<Option<Signer>, KeyError> {
    key.map(Signer::read).transpose()
}
