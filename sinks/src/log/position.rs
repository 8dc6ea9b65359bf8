//! Positions between two groups of a log, and the epochs of its writers.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use tidegate_facts::{Digest, Tick, Topic};
use tidegate_host::Random;

/// The id of an epoch in log positions: it names the groups that one start of a writer appended. 16
/// random bytes, written as 32 hexadecimal digits.
///
/// The id of a log's first epoch is the identity of the log. It is all zeros where there is no
/// epoch.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId(pub [u8; 16]);

/// A position between two groups of a log, and what the groups before it leave for those that
/// follow.
///
/// The default is the position in front of the first group of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPosition {
    /// The number of the group that follows.
    pub group: u64,
    /// The offset at which a reader goes on, in whatever stores the log. In the embedded log, the
    /// number of the group that follows.
    pub offset: u64,
    /// The tick at which that group begins.
    pub upper: Tick,
    /// The digest of the group before; zeros in front of the first.
    pub digest: Digest,
    /// The epoch of the group before; zeros in front of the first.
    pub epoch: EpochId,
    /// The next offset of every partition that has records before, ascending.
    pub ends: Vec<(Topic, u16, u64)>,
}

/// The position of one group in its log: its number, its offset, its epoch and the digest of the
/// group before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLink {
    /// The number of the group, from 0 on without gaps.
    pub number: u64,
    /// The group's offset in whatever stores the log. In the embedded log, its number.
    pub offset: u64,
    /// The digest of the group before; zeros for the first.
    pub previous: Digest,
    /// The epoch in which the group was appended.
    pub epoch: EpochId,
}

impl EpochId {
    /// Draws the id of a new epoch.
    ///
    /// # Errors
    /// When the machine has no random bytes.
    pub fn draw(random: &dyn Random) -> io::Result<EpochId> {
        let mut bytes = [0; 16];
        random.fill(&mut bytes)?;
        Ok(EpochId(bytes))
    }

    /// Reads 32 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<EpochId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return None;
        }
        Some(EpochId(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
    }
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for EpochId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EpochId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        EpochId::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("an epoch is 32 lower-case hexadecimal digits"))
    }
}

impl LogPosition {
    /// The offset of the next record of a partition.
    pub fn end_offset(&self, topic: Topic, partition: u16) -> u64 {
        let found = self.ends.binary_search_by_key(&(topic, partition), |(t, p, _)| (*t, *p));
        found.map_or(0, |index| self.ends[index].2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_written_in_32_digits_and_read_again() {
        let epoch = EpochId(std::array::from_fn(|i| i as u8));
        assert_eq!(epoch.to_string(), "000102030405060708090a0b0c0d0e0f");
        assert_eq!(EpochId::from_hex(&epoch.to_string()), Some(epoch));
        for wrong in ["", "0", "000102030405060708090A0B0C0D0E0F", "+00102030405060708090a0b0c0d0e0f"] {
            assert_eq!(EpochId::from_hex(wrong), None, "{wrong}");
        }
    }
}
