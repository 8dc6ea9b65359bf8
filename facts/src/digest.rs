//! BLAKE3-256 digests, and the 128-bit key hashes of arrangements.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_batch_hash::BatchHasher;

/// A BLAKE3-256 digest; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

/// The 128-bit hash that keys an arrangement: the first half of a BLAKE3 digest.
pub type KeyHash = u128;

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of `parts` under a named recipe: BLAKE3 of [`push_parts`].
    pub fn of_parts(recipe: &str, parts: &[&[u8]]) -> Digest {
        let mut text = Vec::new();
        push_parts(recipe, parts, &mut text);
        Digest::of(&text)
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.to_string()
    }

    /// Reads 64 lower-case hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Digest> {
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        blake3::Hash::from_hex(text).ok().map(|h| Digest(*h.as_bytes()))
    }

    /// The first 12 hexadecimal digits, enough for people to tell a few digests apart.
    pub fn short_hex(self) -> String {
        self.to_hex()[..12].to_owned()
    }

    /// The first 128 bits as a little-endian number, for look-ups.
    pub fn short(self) -> u128 {
        u128::from_le_bytes(self.0[..16].try_into().expect("a digest has 32 bytes"))
    }
}

/// Appends the text that [`Digest::of_parts`] hashes: the recipe's name, then each part behind its
/// length as eight little-endian bytes.
///
/// The name of the recipe contains its version and separates ids of different kinds; the lengths
/// make the boundaries between parts unambiguous.
pub fn push_parts(recipe: &str, parts: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(recipe.as_bytes());
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
}

/// The key hash of an `identifier`, from the digest of its bytes and its kind; the same identifier
/// of another `kind` has another hash.
pub fn key_hash(kind: &str, identifier: &[u8]) -> KeyHash {
    Digest::of_parts(kind, &[identifier]).short()
}

/// Computes the [`Digest`]s of many short texts at once; gives them in the order in which they were
/// pushed.
///
/// Several times faster than [`Digest::of`] for texts of a few hundred bytes.
#[derive(Default)]
pub struct DigestBatch(BatchHasher);

impl DigestBatch {
    /// A batch without texts, whose result has room for `count` digests.
    pub fn with_capacity(count: usize) -> DigestBatch {
        DigestBatch(BatchHasher::with_capacity(count))
    }

    /// Adds the digest of the bytes that `write` appends. It must not remove bytes.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.0.push(write);
    }

    /// The digests of all texts.
    pub fn finish(self) -> Vec<Digest> {
        self.0.finish().into_iter().map(Digest).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("a digest is 64 lower-case hexadecimal digits"))
    }
}
