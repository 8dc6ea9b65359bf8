//! Chains and trees of digests: what ties a record to all before it, and proves it is one of a set.
//!
//! `docs/seal-format.md` has the same for those who check it in another language.
//!
//! * A **chain** is read from its beginning: the seal of a record is BLAKE3 of `tidegate.seal.v1`, the
//!   seal before it (32 zero bytes for the first) and the digest of the record.
//! * A **tree** has the shape of RFC 6962: a leaf is BLAKE3 of a zero byte and the digest of the record, a
//!   node is BLAKE3 of a one byte and the nodes below; of n leaves, the left side has the greatest power
//!   of two below n. No leaf stands twice, so two lists of records never have one root.

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::lanes::Digests;

/// What the seal of every record begins with.
const SEAL: &[u8; 16] = b"tidegate.seal.v1";
const LEAF: u8 = 0;
const NODE: u8 = 1;

/// How far a chain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// How many records it has.
    pub records: u64,
    /// The seal of the last one; zeros when there is none.
    pub head: Digest,
}

impl Chain {
    /// Appends a record by its digest, and returns its seal.
    pub fn push(&mut self, record: &Digest) -> Digest {
        self.head = seal_after(&self.head, record);
        self.records += 1;
        self.head
    }

    /// Appends records by their digests.
    pub fn extend(&mut self, records: &[Digest]) {
        for record in records {
            self.push(record);
        }
    }
}

/// The seal of a record behind `previous`.
pub fn seal_after(previous: &Digest, record: &Digest) -> Digest {
    let mut text = [0; 80];
    text[..16].copy_from_slice(SEAL);
    text[16..48].copy_from_slice(&previous.0);
    text[48..].copy_from_slice(&record.0);
    Digest::of(&text)
}

fn leaf_text(record: &Digest) -> [u8; 33] {
    let mut text = [LEAF; 33];
    text[1..].copy_from_slice(&record.0);
    text
}

fn node_text(left: &Digest, right: &Digest) -> [u8; 65] {
    let mut text = [NODE; 65];
    text[1..33].copy_from_slice(&left.0);
    text[33..].copy_from_slice(&right.0);
    text
}

fn leaf(record: &Digest) -> Digest {
    Digest::of(&leaf_text(record))
}

fn node(left: &Digest, right: &Digest) -> Digest {
    Digest::of(&node_text(left, right))
}

/// The root over the digests of some records; of none, BLAKE3 of nothing.
pub fn merkle_root(records: &[Digest]) -> Digest {
    let mut leaves = Digests::with_capacity(records.len());
    for record in records {
        leaves.push(|text| text.extend_from_slice(&leaf_text(record)));
    }
    // Row by row: the last one of an odd row rises as it is, until it has a neighbour on its left.
    let mut row = leaves.finish();
    while row.len() > 1 {
        let mut nodes = Digests::with_capacity(row.len().div_ceil(2));
        let (pairs, last) = row.as_chunks::<2>();
        for [left, right] in pairs {
            nodes.push(|text| text.extend_from_slice(&node_text(left, right)));
        }
        let mut above = nodes.finish();
        above.extend_from_slice(last);
        row = above;
    }
    row.pop().unwrap_or_else(|| Digest::of(&[]))
}

/// Proves that a record stands at one place among those of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The place of the record, from 0.
    pub index: u64,
    /// How many records the root is over.
    pub size: u64,
    /// The digests of the subtrees beside the record's path, from the leaf up.
    pub path: Vec<Digest>,
}

impl Proof {
    /// The proof for the record at `index`.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn of(records: &[Digest], index: usize) -> Proof {
        assert!(index < records.len(), "only a record that is there can be proven");
        let (mut from, mut to) = (0, records.len());
        let mut path = Vec::new();
        while to - from > 1 {
            let cut = from + ((to - from).next_power_of_two() / 2);
            if index < cut {
                path.push(merkle_root(&records[cut..to]));
                to = cut;
            } else {
                path.push(merkle_root(&records[from..cut]));
                from = cut;
            }
        }
        path.reverse();
        Proof { index: index as u64, size: records.len() as u64, path }
    }

    /// The root that this proof leads to from `record`; `None` when its path does not fit its place.
    pub fn root(&self, record: &Digest) -> Option<Digest> {
        if self.index >= self.size {
            return None;
        }
        let (mut place, mut last) = (self.index, self.size - 1);
        let mut tree = leaf(record);
        for beside in &self.path {
            if last == 0 {
                return None;
            }
            if place & 1 == 1 || place == last {
                tree = node(beside, &tree);
                while place & 1 == 0 && place != 0 {
                    // The last tree of a row that is not full rises until it has a neighbour.
                    (place, last) = (place >> 1, last >> 1);
                }
            } else {
                tree = node(&tree, beside);
            }
            (place, last) = (place >> 1, last >> 1);
        }
        (last == 0).then_some(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: u64) -> Vec<Digest> {
        (0..count).map(|number| Digest::of(&number.to_le_bytes())).collect()
    }

    /// RFC 6962, 2.1, word by word.
    fn slow_root(records: &[Digest]) -> Digest {
        match records {
            [] => Digest::of(&[]),
            [one] => leaf(one),
            _ => {
                let mut cut = 1;
                while cut * 2 < records.len() {
                    cut *= 2;
                }
                node(&slow_root(&records[..cut]), &slow_root(&records[cut..]))
            }
        }
    }

    #[test]
    fn every_record_of_every_small_tree_is_proven_and_no_other_is() {
        for count in 0..70 {
            let records = records(count);
            let root = merkle_root(&records);
            assert_eq!(root, slow_root(&records), "{count} records");
            for (index, record) in records.iter().enumerate() {
                let proof = Proof::of(&records, index);
                assert_eq!(proof.root(record), Some(root), "record {index} of {count}");
                assert_ne!(proof.root(&Digest::of(b"another")), Some(root));
                for other in (0..count).filter(|other| *other != index as u64) {
                    let moved = Proof { index: other, ..proof.clone() };
                    assert_ne!(moved.root(record), Some(root), "{index} of {count} shown as {other}");
                }
                let mut longer = proof.clone();
                longer.path.push(root);
                assert_eq!(longer.root(record), None, "a path too long for its tree");
                if !proof.path.is_empty() {
                    let shorter = Proof { path: proof.path[1..].to_vec(), ..proof.clone() };
                    assert_ne!(shorter.root(record), Some(root));
                }
            }
        }
    }

    #[test]
    fn a_last_record_that_stands_twice_has_another_root() {
        let mut three = records(3);
        let root = merkle_root(&three);
        three.push(three[2]);
        assert_ne!(merkle_root(&three), root);
    }

    #[test]
    fn a_seal_depends_on_all_records_before_it() {
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        let mut chain = Chain::default();
        let first = chain.push(&a);
        assert_eq!(first, seal_after(&Digest::default(), &a));
        assert_eq!(chain.push(&b), seal_after(&first, &b));
        assert_eq!(chain.records, 2);
        assert_ne!(chain.head, seal_after(&seal_after(&Digest::default(), &b), &a));
    }
}
