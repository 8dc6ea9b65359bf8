//! Appending to a log: one writer at a time, which has an epoch of its own.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tidegate_facts::Tick;

use super::error::LogError;
use super::group::Group;
use super::position::{EpochId, GroupLink, LogPosition};

/// The interface of the one writer of a log.
///
/// Groups become durable in the order in which they are appended. A writer that fails, or that
/// another writer has replaced, is lost: no group that it had not reported as durable counts as
/// appended, and it appends nothing more.
pub trait LogWriter: Send {
    /// Begins the epoch of this writer, unless it has begun. From then on no earlier writer's
    /// groups count.
    ///
    /// Whoever starts makes every check that could refuse the start before this call, as it may
    /// write.
    ///
    /// # Errors
    /// When the log cannot be written; [`LogError::WriterLost`] when another writer has begun an
    /// epoch since this one was opened.
    fn open(&mut self) -> Result<EpochId, LogError>;

    /// Appends a group behind those that were appended before.
    ///
    /// # Errors
    /// [`LogError::Encode`] changes nothing. After any other error the writer is lost.
    ///
    /// # Panics
    /// When the group does not begin where the one before ended, holds facts outside its ticks or
    /// out of order, or when its offsets leave a gap or overlap.
    fn append(&mut self, group: &Group) -> Result<Pending, LogError>;

    /// Appends a group, and waits until it is durable.
    ///
    /// # Errors
    /// As [`LogWriter::append`] and [`Pending::wait`].
    fn append_and_wait(&mut self, group: &Group) -> Result<GroupLink, LogError> {
        self.append(group)?.wait()
    }

    /// The position behind the last group that was appended, durable or not.
    fn position(&self) -> LogPosition;

    /// The tick at which the last appended group ends, and the next one begins.
    fn upper(&self) -> Tick;

    /// Prepares for many small groups, each of which is to be durable soon. Does nothing where a
    /// log has nothing to prepare.
    fn prepare_for_small_groups(&mut self) {}

    /// How long the last durable group waited for the disk. For telemetry only.
    fn sync_duration(&self) -> Duration;

    /// Removes the groups before a position that the archive holds, or as many of them as the log
    /// can.
    ///
    /// # Errors
    /// When the log cannot be written. It begins where it did then, or at the position.
    fn prune_before(&mut self, position: &LogPosition) -> Result<(), LogError>;
}

/// The pending outcome of a group that a log writer appended: durable, or the writer is lost.
#[derive(Debug)]
#[must_use = "a group is durable only once this says so"]
pub struct Pending(State);

#[derive(Debug)]
enum State {
    Durable(GroupLink),
    Waiting(Arc<Slot>),
}

/// Where a writer leaves the outcome.
#[derive(Debug, Default)]
pub(super) struct Slot {
    outcome: Mutex<Option<Result<GroupLink, LogError>>>,
    changed: Condvar,
}

impl Slot {
    /// Leaves the outcome, once.
    pub(super) fn set(&self, outcome: Result<GroupLink, LogError>) {
        let before = self.outcome.lock().replace(outcome);
        assert!(before.is_none(), "a group has one outcome");
        self.changed.notify_all();
    }
}

impl Pending {
    /// The outcome of a group that is durable.
    pub(super) fn durable(link: GroupLink) -> Pending {
        Pending(State::Durable(link))
    }

    /// An outcome that is not known yet, and where to leave it.
    pub(super) fn waiting() -> (Pending, Arc<Slot>) {
        let slot = Arc::new(Slot::default());
        (Pending(State::Waiting(Arc::clone(&slot))), slot)
    }

    /// Waits until the group is durable. Returns its link.
    ///
    /// # Errors
    /// When the writer is lost.
    pub fn wait(self) -> Result<GroupLink, LogError> {
        match self.0 {
            State::Durable(link) => Ok(link),
            State::Waiting(slot) => {
                let mut outcome = slot.outcome.lock();
                loop {
                    match outcome.take() {
                        Some(outcome) => return outcome,
                        None => slot.changed.wait(&mut outcome),
                    }
                }
            }
        }
    }

    /// Whether [`Pending::wait`] would return at once.
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            State::Durable(_) => true,
            State::Waiting(slot) => slot.outcome.lock().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_facts::Digest;

    use super::*;

    #[test]
    fn an_outcome_wakes_whoever_waits_for_it() {
        let link = GroupLink { number: 3, offset: 3, previous: Digest::default(), epoch: EpochId([1; 16]) };
        let (pending, slot) = Pending::waiting();
        assert!(!pending.is_complete());
        let waiter = std::thread::spawn(move || pending.wait().unwrap());
        slot.set(Ok(link));
        assert_eq!(waiter.join().unwrap(), link);
        assert!(Pending::durable(link).is_complete());
    }
}
