//! The verdict and the reason in the gate's receipt for a record (reference: fraud platform 2.3).

use std::fmt;

/// The verdict of a receipt: the gate's decision about one submitted record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// The record is a fact now.
    Admit = 0,
    /// The same event with the same payload is a fact already.
    Duplicate = 1,
    /// Refused; the gate stores its bytes with the reason.
    Quarantine = 2,
}

impl Verdict {
    /// Every verdict, in the order of its number on disk.
    pub const ALL: [Verdict; 3] = [Verdict::Admit, Verdict::Duplicate, Verdict::Quarantine];

    /// The verdict with this number on disk.
    pub fn from_number(number: u8) -> Option<Verdict> {
        Verdict::ALL.get(usize::from(number)).copied()
    }

    /// The name of the verdict on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Admit => "ADMIT",
            Verdict::Duplicate => "DUPLICATE",
            Verdict::Quarantine => "QUARANTINE",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The reason in a receipt: why the gate did not admit the record. The gate reports the first
/// reason in the order of its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Not JSON, not UTF-8, nested too deep, a repeated key, or an envelope field that is unknown,
    /// missing or malformed.
    EnvelopeInvalid = 0,
    /// A pin that the event's class requires is missing.
    PinsMissing,
    /// The policy has no entry for the event type.
    SchemaPolicyMissing,
    /// The policy lists schema versions, and the record names none.
    SchemaVersionRequired,
    /// The policy does not list the record's schema version.
    SchemaVersionNotAllowed,
    /// The payload does not match the schema of its event type.
    SchemaFail,
    /// A fact with the same event id has another payload.
    PayloadHashMismatch,
    /// None of the fields that determine the partition has a value.
    PartitionKeyMissing,
    /// The record is larger than the policy allows.
    RecordTooLarge,
    /// The time is outside 1970 to 3111, outside the source's `time_between`, or ahead of the
    /// clock.
    TimeOutOfRange,
    /// The policy does not allow the producer to send this event type.
    Unauthorized,
    /// The same event with the same payload is a fact already.
    Duplicate,
}

impl Reason {
    /// Every reason, in the order of its number on disk.
    pub const ALL: [Reason; 12] = [
        Reason::EnvelopeInvalid,
        Reason::PinsMissing,
        Reason::SchemaPolicyMissing,
        Reason::SchemaVersionRequired,
        Reason::SchemaVersionNotAllowed,
        Reason::SchemaFail,
        Reason::PayloadHashMismatch,
        Reason::PartitionKeyMissing,
        Reason::RecordTooLarge,
        Reason::TimeOutOfRange,
        Reason::Unauthorized,
        Reason::Duplicate,
    ];

    /// The reason with this number on disk.
    pub fn from_number(number: u8) -> Option<Reason> {
        Reason::ALL.get(usize::from(number)).copied()
    }

    /// The code of the reason on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Reason::EnvelopeInvalid => "ENVELOPE_INVALID",
            Reason::PinsMissing => "PINS_MISSING",
            Reason::SchemaPolicyMissing => "SCHEMA_POLICY_MISSING",
            Reason::SchemaVersionRequired => "SCHEMA_VERSION_REQUIRED",
            Reason::SchemaVersionNotAllowed => "SCHEMA_VERSION_NOT_ALLOWED",
            Reason::SchemaFail => "SCHEMA_FAIL",
            Reason::PayloadHashMismatch => "PAYLOAD_HASH_MISMATCH",
            Reason::PartitionKeyMissing => "PARTITION_KEY_MISSING",
            Reason::RecordTooLarge => "RECORD_TOO_LARGE",
            Reason::TimeOutOfRange => "TIME_OUT_OF_RANGE",
            Reason::Unauthorized => "UNAUTHORIZED",
            Reason::Duplicate => "DUPLICATE",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_disk_are_indices_into_the_lists() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, index);
        }
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
