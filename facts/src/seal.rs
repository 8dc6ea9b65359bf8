//! Hash chains and Merkle trees over record digests.
//!
//! A chain ties each record to all records before it. A tree proves that a record is one of a set.
//! `docs/seal-format.md` describes both for auditors who recompute them in another language.
//!
//! * In a **chain**, the seal of a record is BLAKE3 of `tidegate.seal.v1`, the seal before it (32
//!   zero bytes for the first record) and the digest of the record.
//! * A **tree** has the shape of RFC 6962: a leaf is BLAKE3 of a zero byte and the digest of the
//!   record, and an inner node is BLAKE3 of a one byte and its two children. Of n leaves, the
//!   greatest power of two below n is on the left. No leaf is repeated to fill a level, so two
//!   different lists of records never have the same root.

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::digest::DigestBatch;

/// The prefix of the text whose digest is a seal.
const SEAL: &[u8; 16] = b"tidegate.seal.v1";
/// The prefix of the text whose digest is a leaf of a tree.
const LEAF: u8 = 0;
/// The prefix of the text whose digest is an inner node of a tree.
const NODE: u8 = 1;

/// The state of a hash chain of sealed records: its length and its last seal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// How many records it has.
    pub records: u64,
    /// The seal of the last record; zeros when there is none.
    pub head: Digest,
}

impl Chain {
    /// Appends the record with this digest, and returns its seal.
    pub fn push(&mut self, record: &Digest) -> Digest {
        self.head = seal_after(&self.head, record);
        self.records += 1;
        self.head
    }

    /// Appends the records with these digests, in order.
    pub fn extend(&mut self, records: &[Digest]) {
        for record in records {
            self.push(record);
        }
    }
}

/// The seal of the record that follows the one sealed by `previous` in a chain.
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

/// The Merkle root over the digests of sealed `records`; of no records, BLAKE3 of the empty text.
pub fn merkle_root(records: &[Digest]) -> Digest {
    let mut leaves = DigestBatch::with_capacity(records.len());
    for record in records {
        leaves.push(|text| text.extend_from_slice(&leaf_text(record)));
    }
    // Level by level. The last node of an odd level moves up unchanged until it has a left sibling.
    let mut level = leaves.finish();
    while level.len() > 1 {
        let mut nodes = DigestBatch::with_capacity(level.len().div_ceil(2));
        let (pairs, last) = level.as_chunks::<2>();
        for [left, right] in pairs {
            nodes.push(|text| text.extend_from_slice(&node_text(left, right)));
        }
        let mut above = nodes.finish();
        above.extend_from_slice(last);
        level = above;
    }
    level.pop().unwrap_or_else(|| Digest::of(&[]))
}

/// A Merkle inclusion proof for a sealed record: that it has a certain index among the records of a
/// root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The index of the record, from 0.
    pub index: u64,
    /// The number of records under the root.
    pub size: u64,
    /// The digests of the sibling subtrees on the way from the leaf to the root.
    pub path: Vec<Digest>,
}

impl Proof {
    /// The proof for the record at `index`.
    ///
    /// # Panics
    /// When there is no record at `index`.
    pub fn of(records: &[Digest], index: usize) -> Proof {
        assert!(index < records.len(), "only an existing record can be proven");
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

    /// The root that follows from `record` and this proof; `None` when the length of the path does
    /// not fit the index and the size.
    pub fn root(&self, record: &Digest) -> Option<Digest> {
        if self.index >= self.size {
            return None;
        }
        let (mut index, mut last) = (self.index, self.size - 1);
        let mut tree = leaf(record);
        for sibling in &self.path {
            if last == 0 {
                return None;
            }
            if index & 1 == 1 || index == last {
                tree = node(sibling, &tree);
                while index & 1 == 0 && index != 0 {
                    // The last subtree of an odd level moves up until it has a left sibling.
                    (index, last) = (index >> 1, last >> 1);
                }
            } else {
                tree = node(&tree, sibling);
            }
            (index, last) = (index >> 1, last >> 1);
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

    /// RFC 6962, section 2.1, word by word.
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
                    assert_ne!(moved.root(record), Some(root), "{index} of {count} presented as {other}");
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
    fn a_repeated_last_record_gives_another_root() {
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
