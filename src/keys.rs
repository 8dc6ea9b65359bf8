//! `tidegate keys`: makes the keys that sign manifests.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
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
    /// Prints the id of a key's public half, and the line of its file.
    Show {
        /// The file of a signing key or a public key.
        key: PathBuf,
    },
}

/// Runs `tidegate keys`.
pub fn keys(command: &Keys) -> ExitCode {
    match command {
        Keys::New { out } => new(out),
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
    let holds_data = |folder: &Path| folder.join("log").is_dir() || folder.join("commits").is_dir();
    if let Some(data) = out.ancestors().skip(1).find(|folder| holds_data(folder)) {
        eprintln!(
            "tidegate: `{}` lies in the data folder `{}`; keep keys outside, so that whoever can change the data cannot sign it",
            out.display(),
            data.display()
        );
        return ExitCode::from(crate::exit::REFUSED);
    }
    let mut secret = [0; 32];
    if let Err(error) = getrandom::fill(&mut secret) {
        eprintln!("tidegate: the system gives no random numbers ({error}); a key cannot be made");
        return ExitCode::from(crate::exit::FAILED);
    }
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

/// The signing key of a run: that of `--key`, else that of the environment, else none.
///
/// # Errors
/// When a key is named and cannot be used.
pub fn signer(key: Option<&Path>) -> Result<Option<Signer>, KeyError> {
    key.map(Signer::read).transpose()
}
