//! What the threads of sources send to the gate.

use std::collections::BTreeMap;

use tidegate_operators::gate::Validated;
use tidegate_sources::{ReadFingerprint, SourceError};

/// A message from the thread of a source to the gate. An end or a failure is the last.
pub(super) enum SourceMessage {
    /// The next records.
    Records(Validated),
    /// The source was read to its end.
    End(ReadFingerprint),
    /// The source cannot be read.
    Failed(SourceError),
}

/// What the thread of a source does with a last line that has no line break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLine {
    /// It is a record: the file is complete.
    IsRecord,
    /// It is left until the rest of it is written.
    MayGrow,
}

/// For each source that was read to its end, by its number, a fingerprint of what was read.
pub(super) type Fingerprints = BTreeMap<usize, ReadFingerprint>;
