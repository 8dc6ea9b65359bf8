//! What the gate says of one submitted record (reference: fraud platform 2.3).

use std::fmt;

/// The gate's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// The record is a fact now.
    Admit = 0,
    /// The same event with the same payload is a fact already.
    Duplicate = 1,
    /// Refused; its bytes are kept beside the reason.
    Quarantine = 2,
}

impl Verdict {
    /// Every verdict, in the order of its number on disk.
    pub const ALL: [Verdict; 3] = [Verdict::Admit, Verdict::Duplicate, Verdict::Quarantine];

    /// The name on the wire.
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

/// Why a record was not admitted. The first fault in the gate's order is the one that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Not JSON, not UTF-8, too deep, a key twice, an unknown or missing or malformed envelope field.
    EnvelopeInvalid = 0,
    /// A pin that the event's class requires is missing.
    PinsMissing,
    /// The policy does not know the event type.
    SchemaPolicyMissing,
    /// The policy names versions, and the record has none.
    SchemaVersionRequired,
    /// The record's version is not one that the policy names.
    SchemaVersionNotAllowed,
    /// The payload does not fit the schema of its event type.
    SchemaFail,
    /// The same event id came before with another payload.
    PayloadHashMismatch,
    /// None of the fields that decide the partition has a value.
    PartitionKeyMissing,
    /// Larger than the policy allows.
    RecordTooLarge,
    /// The time is outside 1970 to 2112, outside the source's `time_between`, or ahead of the clock.
    TimeOutOfRange,
    /// The producer is not one that the policy lets send this event type.
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

    /// The code on the wire.
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
    fn numbers_on_disk_are_places_in_the_lists() {
        for (place, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, place);
        }
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
