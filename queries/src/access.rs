//! API keys, their roles, and what a caller with a key is allowed to do.
//!
//! A key is 32 random bytes, so the key file holds only its BLAKE3 digest: guessing is hopeless.
//! Without a key file the service serves only its own machine, which may read and produce.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_facts::Digest;
use tidegate_host::{DiskFiles, Files};

/// A role of an API key: what its holder is allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends facts.
    Producer,
    /// Reads tables, decisions and features.
    Reader,
    /// Proposes revisions.
    Author,
    /// Approves revisions.
    Approver,
    /// Reads metrics.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [Role::Producer, Role::Reader, Role::Author, Role::Approver, Role::Operator];

    /// Its name in the key file.
    pub fn name(self) -> &'static str {
        match self {
            Role::Producer => "producer",
            Role::Reader => "reader",
            Role::Author => "author",
            Role::Approver => "approver",
            Role::Operator => "operator",
        }
    }
}

/// One API key, an entry of the key file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its name in logs; also the user name on the Postgres port.
    pub id: String,
    /// The BLAKE3 digest of the key.
    pub digest: Digest,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// The event types that a producer may send; empty means all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub event_types: BTreeSet<String>,
}

/// The API keys of a service; empty when only this machine is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    #[serde(default, rename = "key")]
    keys: Vec<Key>,
}

/// Why a key file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error(
        "cannot read the API keys in `{path}`; check that it exists and is readable, or make one with `tidegate keys api`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the API keys in `{path}`; check that its folder exists and is writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a list of keys.
    #[error(
        "`{path}` holds no API keys: {what}; each is a [[key]] with id, digest and roles, as `tidegate keys api` writes it"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Two keys have one id.
    #[error("`{path}` has a key with the id `{id}` already; take another id, or remove it")]
    Twice {
        /// The file.
        path: PathBuf,
        /// The id.
        id: String,
    },
}

/// Why a caller is denied access: its API key, or the lack of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The call has no key.
    #[error("this service requires a key: send it as `Authorization: Bearer KEY`")]
    NoKey,
    /// The key is not in the key file.
    #[error("the key is not one of this service; ask its operator for another")]
    UnknownKey,
    /// The key lacks the role that the call requires.
    #[error("key `{id}` lacks the role `{}`, which this call needs", .role.name())]
    Role {
        /// The key.
        id: String,
        /// The missing role.
        role: Role,
    },
    /// The service has no keys, and the call requires a named caller.
    #[error(
        "this service has no API keys, and governance requires a named caller; make keys with `tidegate keys api --role {role}`, \
         and start it with --api-keys",
        role = .role.name()
    )]
    Nobody {
        /// The role that the call requires.
        role: Role,
    },
    /// The key names other event types.
    #[error("key `{id}` may not send events of type `{event_type}`; it is for {}", .allowed.join(", "))]
    EventType {
        /// The key.
        id: String,
        /// The event type of the record.
        event_type: String,
        /// The types that it may send.
        allowed: Vec<String>,
    },
}

/// The caller of a service: the holder of an API key, or this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    key: Option<Key>,
}

impl Key {
    /// Makes a key from 32 random bytes; returns its text, and its entry in the key file.
    pub fn of_secret(
        id: &str,
        secret: [u8; 32],
        roles: BTreeSet<Role>,
        event_types: BTreeSet<String>,
    ) -> (String, Key) {
        let text = format!("tg_{}", Digest(secret).to_hex());
        let digest = Digest::of(text.as_bytes());
        (text, Key { id: id.to_owned(), digest, roles, event_types })
    }

    /// The text of the entry in the key file.
    pub fn entry(&self) -> String {
        let keys = Keys { keys: vec![self.clone()] };
        toml::to_string(&keys).expect("a key is plain data")
    }
}

impl Keys {
    /// Reads a key file.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn read(path: &Path) -> Result<Keys, KeysError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
        Keys::parse(path, &text)
    }

    /// Parses the text of the key file at `path`.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn parse(path: &Path, text: &str) -> Result<Keys, KeysError> {
        // The parser's full message would show the line, and with it a key that someone pasted
        // there.
        let keys: Keys = toml::from_str(text).map_err(|error: toml::de::Error| KeysError::Parse {
            path: path.to_owned(),
            what: error.message().to_owned(),
        })?;
        let mut ids = BTreeSet::new();
        match keys.keys.iter().find(|key| !ids.insert(&key.id)) {
            Some(twice) => Err(KeysError::Twice { path: path.to_owned(), id: twice.id.clone() }),
            None => Ok(keys),
        }
    }

    /// Makes a key from 32 random bytes, adds it to a key file, and returns its text, which is not
    /// stored anywhere.
    ///
    /// # Errors
    /// When the file cannot be read or written, or already has a key with that id.
    pub fn add(
        path: &Path,
        id: &str,
        secret: [u8; 32],
        roles: BTreeSet<Role>,
        event_types: BTreeSet<String>,
    ) -> Result<String, KeysError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        if path.exists() && Keys::read(path)?.keys.iter().any(|key| key.id == id) {
            return Err(KeysError::Twice { path: path.to_owned(), id: id.to_owned() });
        }
        let (text, key) = Key::of_secret(id, secret, roles, event_types);
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            file.write_all(format!("{}\n", key.entry()).as_bytes())?;
            file.sync_all()?;
            DiskFiles.sync_folder(folder) // The file may be new, and its name not durable.
        };
        write().map_err(|source| KeysError::Write { path: path.to_owned(), source })?;
        Ok(text)
    }

    /// Whether there are no keys, so that only this machine is served.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The caller that holds `key`; this machine if the service has no keys.
    ///
    /// # Errors
    /// When the service has keys and this is none of them.
    pub fn caller(&self, key: Option<&str>) -> Result<Caller, Denied> {
        if self.keys.is_empty() {
            return Ok(Caller { key: None });
        }
        let digest = Digest::of(key.ok_or(Denied::NoKey)?.as_bytes());
        let found = self.keys.iter().find(|key| key.digest == digest);
        Ok(Caller { key: Some(found.ok_or(Denied::UnknownKey)?.clone()) })
    }

    /// The digest of the key with the id `id`, if it has the role.
    pub fn digest_of(&self, id: &str, role: Role) -> Option<Digest> {
        self.keys.iter().find(|key| key.id == id && key.roles.contains(&role)).map(|key| key.digest)
    }
}

impl Caller {
    /// The id of its key, or `tidegate` for this machine.
    pub fn id(&self) -> &str {
        self.key.as_ref().map_or("tidegate", |key| &key.id)
    }

    /// Checks that the caller has a role.
    ///
    /// # Errors
    /// When it lacks the role. Without keys, this machine reads, produces and operates.
    pub fn require(&self, role: Role) -> Result<(), Denied> {
        let has = match &self.key {
            Some(key) => key.roles.contains(&role),
            None => matches!(role, Role::Reader | Role::Producer | Role::Operator),
        };
        match &self.key {
            _ if has => Ok(()),
            Some(key) => Err(Denied::Role { id: key.id.clone(), role }),
            None => Err(Denied::Nobody { role }),
        }
    }

    /// Whether the key limits the event types that the caller may send.
    pub fn is_bound(&self) -> bool {
        self.key.as_ref().is_some_and(|key| !key.event_types.is_empty())
    }

    /// Checks that the caller may send events of a type.
    ///
    /// # Errors
    /// When its key names other types.
    pub fn may_send(&self, event_type: &str) -> Result<(), Denied> {
        match &self.key {
            Some(key) if !key.event_types.is_empty() && !key.event_types.contains(event_type) => {
                Err(Denied::EventType {
                    id: key.id.clone(),
                    event_type: event_type.to_owned(),
                    allowed: key.event_types.iter().cloned().collect(),
                })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (String, Keys) {
        let types = BTreeSet::from(["card.transaction.v1".to_owned()]);
        let (secret, key) = Key::of_secret("till", [7; 32], BTreeSet::from([Role::Producer]), types);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, key.entry()).expect("written");
        (secret, Keys::read(&path).expect("as it was written"))
    }

    #[test]
    fn a_key_allows_only_its_roles_and_its_event_types() {
        let (secret, keys) = keys();
        assert_eq!(keys.caller(None), Err(Denied::NoKey));
        assert_eq!(keys.caller(Some("tg_00")), Err(Denied::UnknownKey));
        let till = keys.caller(Some(&secret)).expect("it is in the file");
        assert_eq!(till.require(Role::Producer), Ok(()));
        let denied = till.require(Role::Reader).unwrap_err().to_string();
        assert_eq!(denied, "key `till` lacks the role `reader`, which this call needs");
        assert_eq!(till.may_send("card.transaction.v1"), Ok(()));
        let denied = till.may_send("fraud.label.v1").unwrap_err().to_string();
        assert_eq!(
            denied,
            "key `till` may not send events of type `fraud.label.v1`; it is for card.transaction.v1"
        );
        assert_eq!(keys.digest_of("till", Role::Producer), Some(Digest::of(secret.as_bytes())));
        assert_eq!(keys.digest_of("till", Role::Reader), None);
    }

    #[test]
    fn the_file_lacks_the_key_and_errors_do_not_show_it() {
        let (secret, key) = Key::of_secret("a", [1; 32], BTreeSet::new(), BTreeSet::new());
        assert!(!key.entry().contains(&secret[3..]));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, format!("[[key]]\nid = \"a\"\ndigest = \"{secret}\"\nroles = []\n"))
            .expect("written");
        let error = Keys::read(&path).unwrap_err().to_string();
        assert!(error.contains("64 lower-case hexadecimal digits") && !error.contains(&secret), "{error}");
    }

    #[test]
    fn without_keys_this_machine_reads_and_produces_and_approves_nothing() {
        let caller = Keys::default().caller(None).expect("no key is required");
        assert_eq!((caller.require(Role::Reader), caller.require(Role::Producer)), (Ok(()), Ok(())));
        let denied = caller.require(Role::Approver).unwrap_err().to_string();
        assert!(denied.contains("keys api --role approver"), "{denied}");
    }
}
