//! Ed25519 keys that sign commits and state, and the files of these keys.
//!
//! A signing key is a file of one line, `tidegate-signing-key ed25519 <64 hexadecimal digits>`,
//! which only its owner can read. The public key is a file of the same form beside it,
//! `<name>.pub`, which can be given to anybody. The id of a key is the first 16 hexadecimal digits
//! of BLAKE3 over `tidegate.key.v1` and the key.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature as Ed25519, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use tidegate_facts::Digest;
use tidegate_host::{DiskFiles, Files, OpenMode};

const SECRET: &str = "tidegate-signing-key ed25519 ";
const PUBLIC: &str = "tidegate-public-key ed25519 ";

/// An Ed25519 key that signs commits and state. Its secret never appears in an error, a log message
/// or `Debug`.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
}

/// A public Ed25519 key, which checks the signatures of commits and state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
}

/// An Ed25519 signature, and the id of the key that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The id of the key.
    pub key_id: String,
    /// The signature, 128 hexadecimal digits.
    pub ed25519: String,
}

/// Why a signing key or a public key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read key `{path}`; check the path, or make a key with `tidegate keys new`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write key `{path}`; an existing file is never replaced")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a key of the expected kind.
    #[error("`{path}` holds no {expected}; it must be one line, `{form}` and 64 hexadecimal digits")]
    Form {
        /// The file.
        path: PathBuf,
        /// The kind of key that was expected.
        expected: &'static str,
        /// The beginning of its line.
        form: &'static str,
    },
    /// Other users can read the secret.
    #[error("key `{path}` can be read by others (mode {mode:o}); take the rights away with `chmod 600`")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl Signer {
    /// The signing key with this secret.
    pub fn from_secret(secret: &[u8; 32]) -> Signer {
        Signer { key: SigningKey::from_bytes(secret) }
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// See [`KeyError`]. A file that other users can read is refused.
    pub fn read(path: &Path) -> Result<Signer, KeyError> {
        Signer::read_from(&DiskFiles, path)
    }

    /// As [`Signer::read`], from another file system.
    ///
    /// # Errors
    /// As [`Signer::read`].
    pub fn read_from(files: &dyn Files, path: &Path) -> Result<Signer, KeyError> {
        let read = |source| KeyError::Read { path: path.to_owned(), source };
        let mode = files.metadata(path).map_err(read)?.permissions;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        let text = read_text(files, path)?;
        let secret = hex_after(SECRET, &text).ok_or_else(|| KeyError::Form {
            path: path.to_owned(),
            expected: "signing key",
            form: SECRET,
        })?;
        Ok(Signer::from_secret(&secret))
    }

    /// Writes the key to `path` and its public key beside it, and returns the path of the public
    /// key. Both files are durable on return.
    ///
    /// # Errors
    /// When one of the files exists or cannot be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf, KeyError> {
        self.write_to(&DiskFiles, path)
    }

    /// As [`Signer::write`], to another file system.
    ///
    /// # Errors
    /// As [`Signer::write`].
    pub fn write_to(&self, files: &dyn Files, path: &Path) -> Result<PathBuf, KeyError> {
        let failed = |path: &Path, source| KeyError::Write { path: path.to_owned(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".pub");
        let beside = PathBuf::from(beside);
        let lines = [
            (path, OpenMode::CreatePrivate, format!("{SECRET}{}\n", Digest(self.key.to_bytes()))),
            (&beside, OpenMode::CreateNew, format!("{}\n", self.public())),
        ];
        for (path, mode, line) in lines {
            let written = files.open(path, mode).and_then(|file| {
                file.write_at(line.as_bytes(), 0)?;
                file.sync_all()
            });
            written.map_err(|source| failed(path, source))?;
        }
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        files.sync_folder(folder).map_err(|source| failed(path, source))?;
        Ok(beside)
    }

    /// The public key, with which others check the signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey { key: self.key.verifying_key() }
    }

    /// Signs a text. The same text always gets the same signature.
    pub fn sign(&self, text: &[u8]) -> Signature {
        let bytes = self.key.sign(text).to_bytes();
        let half = |part: &[u8]| Digest(part.try_into().expect("half of 64 bytes")).to_hex();
        let ed25519 = half(&bytes[..32]) + &half(&bytes[32..]);
        Signature { key_id: self.public().id(), ed25519 }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public().id())
    }
}

impl PublicKey {
    /// Reads the file of a public key.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read(path: &Path) -> Result<PublicKey, KeyError> {
        let text = read_text(&DiskFiles, path)?;
        PublicKey::parse(&text).ok_or_else(|| KeyError::Form {
            path: path.to_owned(),
            expected: "public key",
            form: PUBLIC,
        })
    }

    /// Reads the line of a public key.
    pub fn parse(text: &str) -> Option<PublicKey> {
        let key = VerifyingKey::from_bytes(&hex_after(PUBLIC, text)?).ok()?;
        (!key.is_weak()).then_some(PublicKey { key })
    }

    /// The id of the key, which commits state.
    pub fn id(&self) -> String {
        Digest::of_parts("tidegate.key.v1", &[self.key.as_bytes()]).to_hex()[..16].to_owned()
    }

    /// Whether this key made `signature` over `text`.
    pub fn verify(&self, text: &[u8], signature: &Signature) -> bool {
        let halves = signature.ed25519.split_at_checked(64);
        let bytes = halves.and_then(|(a, b)| Some([Digest::from_hex(a)?.0, Digest::from_hex(b)?.0]));
        let Some(bytes) = bytes else { return false };
        let bytes: [u8; 64] = bytes.concat().try_into().expect("two halves");
        signature.key_id == self.id() && self.key.verify_strict(text, &Ed25519::from_bytes(&bytes)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    /// Writes the line of the key's file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", Digest(*self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

/// The text of a key file.
fn read_text(files: &dyn Files, path: &Path) -> Result<String, KeyError> {
    let text = files.read(path).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    text.map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

fn hex_after(form: &str, text: &str) -> Option<[u8; 32]> {
    Digest::from_hex(text.strip_prefix(form)?.trim_end()).map(|bytes| bytes.0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tidegate_host::SimulatedHost;

    use super::*;

    #[test]
    fn a_signature_holds_for_its_text_and_key_alone() {
        let (ours, other) = (Signer::from_secret(&[7; 32]), Signer::from_secret(&[8; 32]));
        let signature = ours.sign(b"text");
        assert_eq!(signature, ours.sign(b"text"));
        assert!(ours.public().verify(b"text", &signature));
        assert!(!ours.public().verify(b"Text", &signature));
        assert!(!other.public().verify(b"text", &signature));
        assert!(!other.public().verify(b"text", &Signature { key_id: other.public().id(), ..signature }));
    }

    #[test]
    fn a_key_file_is_read_again_never_replaced_and_refused_when_others_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let signer = Signer::from_secret(&[9; 32]);
        let public = signer.write(&path).unwrap();
        assert_eq!(Signer::read(&path).unwrap().public(), signer.public());
        assert_eq!(PublicKey::read(&public).unwrap(), signer.public());
        assert!(matches!(signer.write(&path), Err(KeyError::Write { .. })));
        assert!(matches!(Signer::read(&public), Err(KeyError::Open { .. })));
        assert!(matches!(PublicKey::read(&path), Err(KeyError::Form { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Signer::read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 640") && !error.contains(&Digest([9; 32]).to_hex()), "{error}");
        assert!(!format!("{signer:?}").contains("0909"));
    }

    #[test]
    fn a_key_that_was_written_survives_a_power_cut() {
        let machine = SimulatedHost::new(1);
        machine.files.create_folder(Path::new("/keys")).unwrap();
        let (path, signer) = (Path::new("/keys/key"), Signer::from_secret(&[9; 32]));
        let public = signer.write_to(&machine.files, path).unwrap();
        let survivor = machine.crash();
        assert_eq!(Signer::read_from(&survivor.files, path).unwrap().public(), signer.public());
        assert!(survivor.files.exists(&public));
    }
}
