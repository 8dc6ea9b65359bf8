//! The oids of user tables, the same on every connection, on every node and after every restart.
//!
//! An oid is a hash of the table name. If two names collide, the later one in alphabetical order
//! takes its next hash. So the same set of tables always gets the same oids.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_facts::Digest;

/// The first oid of a user object in Postgres.
pub(crate) const FIRST_USER_OID: u32 = 16_384;

/// The end of the range of oids. Some clients read an oid as a signed number.
const OIDS_END: u32 = 1 << 31;

/// Assigns an oid to the name of each user table.
pub(crate) fn assign<'n>(names: impl IntoIterator<Item = &'n str>) -> BTreeMap<String, u32> {
    assign_by(names, candidate)
}

fn assign_by<'n>(
    names: impl IntoIterator<Item = &'n str>,
    candidate: impl Fn(&str, u32) -> u32,
) -> BTreeMap<String, u32> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let mut taken = BTreeSet::new();
    let oid = |name: &str| (0..).map(|attempt| candidate(name, attempt)).find(|oid| taken.insert(*oid));
    let mut oid = oid;
    names
        .into_iter()
        .map(|name| (name.to_owned(), oid(name).expect("there are more oids than tables")))
        .collect()
}

/// The hash of a name for one attempt.
fn candidate(name: &str, attempt: u32) -> u32 {
    let attempt = attempt.to_be_bytes();
    let digest = Digest::of_parts("tidegate.postgres.oid.v1", &[b"public", name.as_bytes(), &attempt]);
    let number = u32::from_be_bytes(digest.0[..4].try_into().expect("four bytes"));
    FIRST_USER_OID + number % (OIDS_END - FIRST_USER_OID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_number_whatever_else_there_is() {
        let one = assign(["decisions"]);
        let three = assign(["facts", "decisions", "receipts"]);
        assert_eq!(one["decisions"], three["decisions"]);
        assert!(three.values().all(|oid| (FIRST_USER_OID..OIDS_END).contains(oid)), "{three:?}");
        // Clients may keep oids, so a new version must compute the same one.
        assert_eq!(candidate("decisions", 0), one["decisions"]);
    }

    #[test]
    fn who_comes_to_a_taken_number_takes_its_next() {
        let collide =
            |name: &str, attempt: u32| if name == "c" { 20_000 + attempt } else { 20_000 + 7 * attempt };
        let oids = assign_by(["c", "b", "a"], collide);
        assert_eq!(
            oids.into_iter().collect::<Vec<_>>(),
            [("a", 20_000), ("b", 20_007), ("c", 20_001)].map(|(name, oid)| (name.to_owned(), oid))
        );
    }
}
