//! Who may do what: API keys with roles.
//!
//! A key is 32 random bytes, so the file at rest holds its BLAKE3 digest alone: nothing is won by trying. Without a
//! file of keys only the machine itself is served: it may read and produce, and start-up says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_facts::Digest;

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends facts.
    Producer,
    /// Asks.
    Reader,
    /// Proposes revisions.
    Author,
    /// Approves revisions.
    Approver,
    /// Sees metrics and stops the service.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [Role::Producer, Role::Reader, Role::Author, Role::Approver, Role::Operator];

    /// Its name in the file of keys.
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

/// One key, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What it is called in logs; also the user on the Postgres port.
    pub id: String,
    /// BLAKE3 of the key.
    pub digest: Digest,
    /// What it allows.
    pub roles: BTreeSet<Role>,
    /// The event types that a producer may send; none means all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub event_types: BTreeSet<String>,
}

/// All keys; none when only this machine is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    #[serde(default, rename = "key")]
    keys: Vec<Key>,
}

/// Why a file of keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error(
        "cannot read the API keys in `{path}`; check that it exists and is readable, or make one with `tidegate keys api`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the API keys in `{path}`; check that its folder exists and is writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It says something else.
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

/// Why a call is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody said who calls.
    #[error("this service asks for a key: send it as `Authorization: Bearer KEY`")]
    NoKey,
    /// The key is not known.
    #[error("the key is not one of this service; ask its operator for another")]
    UnknownKey,
    /// The key does not allow it.
    #[error("key `{id}` lacks the role `{}`, which this call needs", .role.name())]
    Role {
        /// The key.
        id: String,
        /// The role that it lacks.
        role: Role,
    },
    /// There are no keys, and what is asked for takes a person with a name.
    #[error(
        "this service has no API keys, and who governs it must have a name; make keys with `tidegate keys api --role {role}`, \
         and start it with --api-keys",
        role = .role.name()
    )]
    Nobody {
        /// The role that nobody has.
        role: Role,
    },
    /// The key is for other events.
    #[error("key `{id}` may not send events of type `{event_type}`; it is for {}", .allowed.join(", "))]
    EventType {
        /// The key.
        id: String,
        /// The type.
        event_type: String,
        /// The types that it may send.
        allowed: Vec<String>,
    },
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    key: Option<Key>,
}

impl Key {
    /// A key and its entry in the file, of 32 random bytes.
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

    /// The entry as it stands in the file.
    pub fn entry(&self) -> String {
        let keys = Keys { keys: vec![self.clone()] };
        toml::to_string(&keys).expect("a key is plain data")
    }
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn read(path: &Path) -> Result<Keys, KeysError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
        Keys::parse(path, &text)
    }

    /// Reads the text of the file `path`.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn parse(path: &Path, text: &str) -> Result<Keys, KeysError> {
        // The message of the parser would show the line, and with it what somebody may have pasted there.
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

    /// Makes a key of 32 random bytes, adds it to a file, and returns its text, which is kept nowhere.
    ///
    /// # Errors
    /// When the file cannot be read or written, or has a key of that id.
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
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            file.write_all(format!("{}\n", key.entry()).as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| KeysError::Write { path: path.to_owned(), source })?;
        Ok(text)
    }

    /// Whether there are none: then only this machine is served.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who holds a key; with no keys at all, whoever calls.
    ///
    /// # Errors
    /// When there are keys, and this is none of them.
    pub fn caller(&self, key: Option<&str>) -> Result<Caller, Denied> {
        if self.keys.is_empty() {
            return Ok(Caller { key: None });
        }
        let digest = Digest::of(key.ok_or(Denied::NoKey)?.as_bytes());
        let known = self.keys.iter().find(|known| known.digest == digest);
        Ok(Caller { key: Some(known.ok_or(Denied::UnknownKey)?.clone()) })
    }

    /// The digest of the key that is called so, if it has a role.
    pub fn digest_of(&self, id: &str, role: Role) -> Option<Digest> {
        self.keys.iter().find(|key| key.id == id && key.roles.contains(&role)).map(|key| key.digest)
    }
}

impl Caller {
    /// What the caller is called.
    pub fn id(&self) -> &str {
        self.key.as_ref().map_or("tidegate", |key| &key.id)
    }

    /// Whether the caller has a role.
    ///
    /// # Errors
    /// When not. Without keys, this machine reads, produces and operates.
    pub fn needs(&self, role: Role) -> Result<(), Denied> {
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

    /// Whether the caller names the event types that it sends.
    pub fn is_bound(&self) -> bool {
        self.key.as_ref().is_some_and(|key| !key.event_types.is_empty())
    }

    /// Whether the caller may send events of a type.
    ///
    /// # Errors
    /// When its key names others.
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
    fn a_key_allows_its_roles_and_its_event_types_alone() {
        let (secret, keys) = keys();
        assert_eq!(keys.caller(None), Err(Denied::NoKey));
        assert_eq!(keys.caller(Some("tg_00")), Err(Denied::UnknownKey));
        let till = keys.caller(Some(&secret)).expect("it is known");
        assert_eq!(till.needs(Role::Producer), Ok(()));
        let denied = till.needs(Role::Reader).unwrap_err().to_string();
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
    fn the_file_does_not_hold_the_key_and_errors_do_not_show_it() {
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
        let caller = Keys::default().caller(None).expect("nobody is asked");
        assert_eq!((caller.needs(Role::Reader), caller.needs(Role::Producer)), (Ok(()), Ok(())));
        let denied = caller.needs(Role::Approver).unwrap_err().to_string();
        assert!(denied.contains("keys api --role approver"), "{denied}");
    }
}
