//! Plans in a store: the texts whose digests decisions and commits name, so that a replay needs
//! only the store and the log.
//!
//! | object | holds |
//! |---|---|
//! | `plans/<digest>.json` | exactly the text whose BLAKE3 digest is the plan's |
//! | `plans/<digest>` | a bundle or a policy, by the digest of its content that the plan names |
//!
//! Objects are named by what they hold, so writing one again finds it there. Texts of one content
//! may differ in layout; the first one that was stored stays.

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

/// Writes a plan to a store by its digest, if it is not there yet. `preimage` is the text that the
/// digest is of.
///
/// # Errors
/// When the store fails; [`StoreError::Conflict`] when the object was changed.
pub fn put_plan(preimage: &str, store: &Store) -> Result<Digest, StoreError> {
    let digest = Digest::of(preimage.as_bytes());
    store.create(&plan_name(&digest), preimage.as_bytes())?;
    Ok(digest)
}

/// Reads the plan of this digest from a store, and checks that it has it.
///
/// # Errors
/// See [`PlanError`].
pub fn get_plan(digest: &Digest, store: &Store) -> Result<String, PlanError> {
    let name = plan_name(digest);
    let bytes = store.get(&name)?;
    let found = Digest::of(&bytes);
    if found != *digest {
        return Err(PlanError::Changed { object: store.location(&name), found, expected: *digest });
    }
    text_of(&name, bytes.to_vec(), store)
}

/// Stores a text that a plan names by the digest of its content, such as a bundle or a policy, if
/// it is not there yet. Only the caller can compute that digest: it does not depend on how the text
/// is laid out.
///
/// # Errors
/// When the store fails; [`StoreError::Conflict`] when another text is there, which has the same
/// content in another layout, or was changed.
pub fn put_text(content: &Digest, text: &str, store: &Store) -> Result<(), StoreError> {
    store.create(&text_name(content), text.as_bytes()).map(drop)
}

/// Reads a text of a plan, such as a bundle or a policy, by the digest of its content. The caller
/// checks that it has that digest.
///
/// # Errors
/// See [`PlanError`].
pub fn get_text(content: &Digest, store: &Store) -> Result<String, PlanError> {
    let name = text_name(content);
    text_of(&name, store.get(&name)?.to_vec(), store)
}

/// The location of a plan's text in a store, by the digest of its content, as messages show it.
pub fn text_location(content: &Digest, store: &Store) -> String {
    store.location(&text_name(content))
}

fn plan_name(digest: &Digest) -> String {
    format!("plans/{digest}.json")
}

fn text_name(digest: &Digest) -> String {
    format!("plans/{digest}")
}

fn text_of(name: &str, bytes: Vec<u8>, store: &Store) -> Result<String, PlanError> {
    String::from_utf8(bytes).map_err(|_| PlanError::NotText { object: store.location(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_by_its_digest_and_a_changed_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let plan = put_plan(r#"{"nodes":[]}"#, &store).unwrap();
        let rules = Digest::of(b"the content of the rules");
        put_text(&rules, "[rules]", &store).unwrap();
        put_text(&rules, "[rules]", &store).unwrap();
        assert_eq!(put_plan(r#"{"nodes":[]}"#, &store).unwrap(), plan);
        assert_eq!(get_plan(&plan, &store).unwrap(), r#"{"nodes":[]}"#);
        assert_eq!(get_text(&rules, &store).unwrap(), "[rules]");
        assert!(matches!(get_text(&plan, &store), Err(PlanError::Store(error)) if error.is_not_found()));
        let other_layout = put_text(&rules, "[ rules ]", &store);
        assert!(matches!(other_layout, Err(StoreError::Conflict { .. })), "{other_layout:?}");
        std::fs::write(folder.path().join(text_name(&rules)), [0xff_u8]).unwrap();
        assert!(matches!(get_text(&rules, &store), Err(PlanError::NotText { .. })));
        std::fs::write(folder.path().join(plan_name(&plan)), "{}").unwrap();
        assert!(matches!(get_plan(&plan, &store), Err(PlanError::Changed { .. })));
        assert!(matches!(put_plan(r#"{"nodes":[]}"#, &store), Err(StoreError::Conflict { .. })));
    }
}
