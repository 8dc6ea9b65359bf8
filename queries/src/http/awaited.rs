//! A call that waits for two things, the receipt of its record and what is decided on it, and is woken once.
//!
//! Both are told by other threads, the receipt first or last. Waking a call for the receipt alone would cost as much as answering it,
//! and there is nothing to do between the two.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tidegate_dataflows::live::{Decided, OnReceipts, OnRow, Receipted};
use tidegate_facts::Verdict;
use tokio::sync::oneshot;

/// What has come.
pub(super) struct Outcome {
    /// The receipts; `None` when the run ended without a word.
    pub receipted: Option<Result<Receipted, String>>,
    /// What is decided, and when that was told; `None` when nothing is decided, or not in time.
    pub decided: Option<(Instant, Decided)>,
}

/// Waits for an [`Outcome`].
pub(super) struct Awaited {
    parts: Arc<Mutex<Parts>>,
    woken: oneshot::Receiver<()>,
}

struct Parts {
    receipted: Part<Result<Receipted, String>>,
    decided: Part<(Instant, Decided)>,
    /// Whether the call still wants to know what is decided.
    wants_decision: bool,
    /// Wakes the call.
    wake: Option<oneshot::Sender<()>>,
}

/// Something that is told by another thread.
enum Part<T> {
    NotYet,
    Here(T),
    /// Who would tell it is gone.
    Never,
}

impl<T> Part<T> {
    fn here(self) -> Option<T> {
        match self {
            Part::Here(part) => Some(part),
            Part::NotYet | Part::Never => None,
        }
    }
}

impl Parts {
    fn is_enough(&self) -> bool {
        match &self.receipted {
            Part::NotYet => false,
            Part::Never | Part::Here(Err(_)) => true,
            Part::Here(Ok(receipted)) => {
                let is_fact = receipted.receipts.iter().any(|receipt| receipt.verdict == Verdict::Admit);
                !(is_fact && self.wants_decision && matches!(self.decided, Part::NotYet))
            }
        }
    }
}

/// Tells one of the parts, or that it is never told.
struct Teller {
    parts: Arc<Mutex<Parts>>,
    /// What is left of it when nobody told.
    never: fn(&mut Parts),
}

impl Teller {
    fn tell(&self, change: impl FnOnce(&mut Parts)) {
        let wake = {
            let mut parts = lock(&self.parts);
            change(&mut parts);
            if parts.is_enough() { parts.wake.take() } else { None }
        };
        if let Some(wake) = wake {
            let _ = wake.send(()); // Who has gone away needs no waking.
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let never = self.never;
        self.tell(never);
    }
}

fn lock(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    parts.lock().expect("no panic")
}

impl Awaited {
    /// Waits for what these two are told; one that is dropped has nothing to tell.
    pub fn new() -> (Awaited, OnReceipts, OnRow) {
        let (wake, woken) = oneshot::channel();
        let parts = Arc::new(Mutex::new(Parts {
            receipted: Part::NotYet,
            decided: Part::NotYet,
            wants_decision: true,
            wake: Some(wake),
        }));
        let teller = |never| Teller { parts: Arc::clone(&parts), never };
        let receipts = teller(|parts| {
            if matches!(parts.receipted, Part::NotYet) {
                parts.receipted = Part::Never;
            }
        });
        let row = teller(|parts| {
            if matches!(parts.decided, Part::NotYet) {
                parts.decided = Part::Never;
            }
        });
        let on_receipts: OnReceipts =
            Box::new(move |told| receipts.tell(|parts| parts.receipted = Part::Here(told)));
        let on_row: OnRow = Box::new(move |decided| {
            let at = Instant::now();
            row.tell(|parts| parts.decided = Part::Here((at, decided)));
        });
        (Awaited { parts, woken }, on_receipts, on_row)
    }

    /// Waits for both until a time; then, for so long, for the receipt alone.
    pub async fn outcome(mut self, until: tokio::time::Instant, durable_within: Duration) -> Outcome {
        if tokio::time::timeout_at(until, &mut self.woken).await.is_err() {
            let is_enough = {
                let mut parts = lock(&self.parts);
                parts.wants_decision = false;
                parts.is_enough()
            };
            if !is_enough {
                let _ = tokio::time::timeout(durable_within, &mut self.woken).await;
            }
        }
        let mut parts = lock(&self.parts);
        let receipted = std::mem::replace(&mut parts.receipted, Part::Never).here();
        let decided = std::mem::replace(&mut parts.decided, Part::Never).here();
        Outcome { receipted, decided }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;
    use tidegate_dataflows::live::{Appended, Computed, Receipt};
    use tidegate_facts::Tick;

    use super::*;

    fn receipted(verdict: Verdict) -> Result<Receipted, String> {
        let now = Instant::now();
        let receipt = Receipt {
            verdict,
            reason: None,
            detail: None,
            event_type: None,
            tick: Some(Tick(7)),
            offset: None,
        };
        Ok(Receipted {
            receipts: vec![receipt],
            queued: Duration::ZERO,
            logged: Duration::ZERO,
            appended: Appended { began: now, durable: now, synced: Duration::ZERO },
        })
    }

    fn decided() -> Decided {
        let rows = Arc::new(Computed::new(RecordBatch::new_empty(Arc::new(Schema::empty()))));
        Decided { node: "d".into(), rows, row: 0 }
    }

    /// What comes of what is told in a time that is over, or in an hour.
    async fn outcome(in_time: bool, tell: impl FnOnce(OnReceipts, OnRow)) -> (Option<bool>, bool) {
        let (awaited, on_receipts, on_row) = Awaited::new();
        tell(on_receipts, on_row);
        let hour = Duration::from_secs(3600);
        let until = tokio::time::Instant::now() + if in_time { hour } else { Duration::ZERO };
        let outcome = awaited.outcome(until, hour).await;
        (outcome.receipted.map(|receipted| receipted.is_ok()), outcome.decided.is_some())
    }

    #[tokio::test]
    async fn a_call_has_both_whichever_is_told_first() {
        let receipt_first = outcome(true, |receipts, row| {
            receipts(receipted(Verdict::Admit));
            row(decided());
        });
        assert_eq!(receipt_first.await, (Some(true), true));
        let row_first = outcome(true, |receipts, row| {
            row(decided());
            receipts(receipted(Verdict::Admit));
        });
        assert_eq!(row_first.await, (Some(true), true));
    }

    #[tokio::test]
    async fn what_is_no_new_fact_waits_for_no_decision() {
        for verdict in [Verdict::Duplicate, Verdict::Quarantine] {
            let held = outcome(true, |receipts, row| {
                receipts(receipted(verdict));
                std::mem::forget(row); // Nobody tells, and nobody says so.
            });
            assert_eq!(held.await, (Some(true), false), "{verdict:?}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_late_has_its_receipt_alone() {
        let late = outcome(false, |receipts, row| {
            receipts(receipted(Verdict::Admit));
            std::mem::forget(row);
        });
        assert_eq!(late.await, (Some(true), false));
        let later = outcome(false, |receipts, row| {
            std::thread::spawn(move || receipts(receipted(Verdict::Admit)));
            std::mem::forget(row);
        });
        assert_eq!(later.await, (Some(true), false), "it waits for the receipt all the same");
    }

    #[tokio::test]
    async fn a_run_that_ends_without_a_word_keeps_nobody_waiting() {
        assert_eq!(outcome(true, |receipts, row| drop((receipts, row))).await, (None, false));
        let durable = outcome(true, |receipts, row| {
            receipts(receipted(Verdict::Admit));
            drop(row);
        });
        assert_eq!(durable.await, (Some(true), false));
        let failed = outcome(true, |receipts, row| {
            receipts(Err("a full disk".to_owned()));
            std::mem::forget(row);
        });
        assert_eq!(failed.await, (Some(false), false));
    }
}
