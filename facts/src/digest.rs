//! Digests: BLAKE3, all 256 bits, and 128-bit key hashes for arrangements.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A BLAKE3-256 digest; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

/// The hash of (kind, identifier) that keys an arrangement: the first 128 bits of BLAKE3.
pub type KeyHash = u128;

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of parts under a named recipe, each part preceded by its length.
    ///
    /// The recipe's name and version are part of what is hashed, so that ids of different kinds
    /// never meet; the lengths make the parts unambiguous.
    pub fn of_parts(recipe: &str, parts: &[&[u8]]) -> Digest {
        let mut text = Vec::new();
        push_parts(recipe, parts, &mut text);
        Digest::of(&text)
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.to_string()
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Digest> {
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        blake3::Hash::from_hex(text).ok().map(|h| Digest(*h.as_bytes()))
    }

    /// The first 128 bits, for look-ups.
    pub fn short(self) -> u128 {
        u128::from_le_bytes(self.0[..16].try_into().expect("a digest has 32 bytes"))
    }
}

/// Appends the text that [`Digest::of_parts`] is the digest of.
pub fn push_parts(recipe: &str, parts: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(recipe.as_bytes());
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
}

/// The key hash of `identifier`, apart from every other `kind`.
pub fn key_hash(kind: &str, identifier: &[u8]) -> KeyHash {
    Digest::of_parts(kind, &[identifier]).short()
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
