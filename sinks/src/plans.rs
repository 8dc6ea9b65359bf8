//! Plans in a store: the texts whose digests decisions and commits name, so that a replay needs
//! only the store and the log.
//!
//! | object | holds |
//! |---|---|
//! | `plans/<digest>.json` | exactly the text whose BLAKE3 digest is the plan's |
//! | `plans/<digest>` | a bundle, a policy or another text that a plan names by digest |
//!
//! Objects are named by what they hold, so writing one again finds it there.

use tidegate_facts::Digest;

use crate::store::{Store, StoreError};

/// Why a plan or one of its texts could not be read from a store.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The store failed, or does not have the object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object does not have the content that its name states.
    #[error("`{object}` has digest {found}, and its name says {expected}; restore it from a copy")]
    Changed {
        /// The object's location.
        object: String,
        /// The digest of its content.
        found: Digest,
        /// The digest in its name.
        expected: Digest,
    },
    /// The object is not text.
    #[error("`{object}` is not UTF-8; it was not written as a plan or as a text of one")]
    NotText {
        /// The object's location.
        object: String,
    },
}

/// Stores a plan by its digest, if it is not there yet. `preimage` is the text that the digest is
/// of.
///
/// # Errors
/// When the store fails; [`StoreError::Conflict`] when the object was changed.
pub fn put_plan(preimage: &str, store: &Store) -> Result<Digest, StoreError> {
    put(preimage, plan_name, store)
}

/// Reads the plan of this digest, and checks that it has it.
///
/// # Errors
/// See [`PlanError`].
pub fn get_plan(digest: &Digest, store: &Store) -> Result<String, PlanError> {
    get(digest, plan_name, store)
}

/// Stores a text that a plan names by digest, such as a bundle or a policy, if it is not there yet.
///
/// # Errors
/// When the store fails; [`StoreError::Conflict`] when the object was changed.
pub fn put_text(text: &str, store: &Store) -> Result<Digest, StoreError> {
    put(text, text_name, store)
}

/// Reads the text of this digest, and checks that it has it.
///
/// # Errors
/// See [`PlanError`].
pub fn get_text(digest: &Digest, store: &Store) -> Result<String, PlanError> {
    get(digest, text_name, store)
}

fn plan_name(digest: &Digest) -> String {
    format!("plans/{digest}.json")
}

fn text_name(digest: &Digest) -> String {
    format!("plans/{digest}")
}

fn put(text: &str, name_of: fn(&Digest) -> String, store: &Store) -> Result<Digest, StoreError> {
    let digest = Digest::of(text.as_bytes());
    store.create(&name_of(&digest), text.as_bytes())?;
    Ok(digest)
}

fn get(expected: &Digest, name_of: fn(&Digest) -> String, store: &Store) -> Result<String, PlanError> {
    let name = name_of(expected);
    let bytes = store.get(&name)?;
    let found = Digest::of(&bytes);
    if found != *expected {
        return Err(PlanError::Changed { object: store.location(&name), found, expected: *expected });
    }
    let text = String::from_utf8(bytes.to_vec());
    text.map_err(|_| PlanError::NotText { object: store.location(&name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_by_its_digest_and_a_changed_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let plan = put_plan(r#"{"nodes":[]}"#, &store).unwrap();
        let rules = put_text("[rules]", &store).unwrap();
        assert_eq!(put_plan(r#"{"nodes":[]}"#, &store).unwrap(), plan);
        assert_eq!(get_plan(&plan, &store).unwrap(), r#"{"nodes":[]}"#);
        assert_eq!(get_text(&rules, &store).unwrap(), "[rules]");
        assert!(matches!(get_text(&plan, &store), Err(PlanError::Store(error)) if error.is_not_found()));
        std::fs::write(folder.path().join(plan_name(&plan)), "{}").unwrap();
        assert!(matches!(get_plan(&plan, &store), Err(PlanError::Changed { .. })));
        assert!(matches!(put_plan(r#"{"nodes":[]}"#, &store), Err(StoreError::Conflict { .. })));
    }
}
