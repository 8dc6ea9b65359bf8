//! A run behind the ends of its sources: it takes submissions and steps, and reads on where files
//! grow.
//!
//! Everything that waits is validated, stamped and logged as one group, so that a slow disk makes
//! larger groups and not longer queues. Records of a file are admitted as they are found, so no
//! source waits for another.

use std::time::{Duration, Instant};

use tidegate_facts::Verdict;
use tidegate_facts::audit::{AuditError, Receipts};
use tidegate_operators::gate::{TimeBounds, Validator};
use tidegate_sinks::log::Group;

use crate::ingest::admission::Admission;
use crate::ingest::audit_frames::receipts_of;
use crate::ingest::log_feed::LogFeed;
use crate::metrics::Stage;
use crate::run::error::RunError;
use crate::run::file_tail::TailedFiles;
use crate::run::gate::Gate;
use crate::run::revision_steps::ActivatingStep;
use crate::run::source_messages::Fingerprints;
use crate::serve::{INGRESS, Phase, Receipt, ServeState, Submission, SubmissionOutcome, SubmissionReply};
use crate::thread_priority::Priority;
use crate::topology::Clock;

/// How long the gate waits for a submission before it looks at everything else.
const SUBMISSION_TIMEOUT: Duration = Duration::from_millis(50);

/// How long no group may come before the log records that time has passed.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How far ahead of the clock, or of the log if that is ahead, a submitted time may be: one wrong
/// time must not advance time for all.
const AHEAD_MAX: Duration = Duration::from_secs(3600);

/// How long a bound on submitted times is used before it is moved.
const BOUND_INTERVAL: Duration = Duration::from_secs(60);

impl Gate<'_> {
    /// Admits submissions, steps, and new records of `files`, until the run is to stop; or until a
    /// step takes effect, which is returned.
    pub(super) fn serve_calls(
        &mut self,
        serve: &ServeState,
        admission: &mut Admission,
        feed: &mut LogFeed,
        mut files: TailedFiles,
        fingerprints: &mut Fingerprints,
    ) -> Result<Option<ActivatingStep>, RunError> {
        let (clock, source) = (self.options.host.clock.clone(), self.ingress_source());
        let counter = self.metrics.stage(&Stage::Source(source, INGRESS.to_owned()));
        let mut next = self.summary.next_position(INGRESS);
        let mut validator = self.ingress_validator();
        let mut bound_moved = clock.monotonic();
        let mut uncommitted: Option<Duration> = None;
        serve.ingress.set_counts(&admission.counts);
        self.log.prepare_for_small_groups();
        serve.enter(Phase::Serving);
        tracing::info!(facts = feed.facts(), upper = self.log.upper().0, "serving");
        serve.ingress.set_priority_for_current_thread(Priority::Compute);
        let rows = self.plan.topology.batch_rows;
        while let Some(submissions) = serve.ingress.take(rows, SUBMISSION_TIMEOUT) {
            if self.has_failed() {
                break; // The sinks failed, and their error is the run's.
            }
            let (taken, now) = (Instant::now(), clock.monotonic());
            files.open_changed(self, fingerprints);
            files.admit(self, admission, fingerprints)?;
            if now.saturating_sub(bound_moved) > BOUND_INTERVAL {
                (validator, bound_moved) = (self.ingress_validator(), now);
            }
            let records: Vec<&[u8]> =
                submissions.iter().flat_map(|s| &s.records).map(Vec::as_slice).collect();
            if !records.is_empty() {
                let lines = (next..).zip(records.iter().copied());
                admission.push(source, counter.time(|| validator.validate_lines(lines)));
                counter.add(records.len() as u64);
            }
            let first = next;
            next += records.len() as u64;
            self.admit_submissions(serve, admission, feed, submissions, (first, taken))?;
            uncommitted = self.has_uncommitted(feed).then(|| uncommitted.unwrap_or(now));
            let waits = uncommitted.map(|since| clock.monotonic().saturating_sub(since));
            if waits.is_some_and(|waits| waits >= self.options.commit_delay_max) {
                let mark = admission.group(Vec::new(), true).expect("it has a mark");
                self.append(&mark, admission, feed)?;
                uncommitted = None;
            }
            self.append_heartbeat(admission, feed)?;
            if let Some(step) = serve.ingress.take_step()
                && let Some(activating) = self.take_step(serve, admission, feed, step)?
            {
                return Ok(Some(activating));
            }
        }
        Ok(None)
    }

    /// Records in the log that time has passed, when a node waits for time and nothing else
    /// advances it.
    ///
    /// Only under the wall clock: under the event clock, time stands still between facts. Rows that
    /// follow from a heartbeat, such as that evidence expired, are a function of the log like all
    /// others.
    fn append_heartbeat(&mut self, admission: &mut Admission, feed: &mut LogFeed) -> Result<(), RunError> {
        let plan = self.plan;
        let now = self.options.host.clock.wall_micros();
        let silent = now.saturating_sub(self.log.upper().micros());
        let interval = i64::try_from(HEARTBEAT_INTERVAL.as_micros()).expect("a second");
        if plan.topology.clock != Clock::Wall || !plan.awaits_time() || silent < interval {
            return Ok(());
        }
        if let Some(heartbeat) = admission.heartbeat(now) {
            self.append(&heartbeat, admission, feed)?;
        }
        Ok(())
    }

    /// Stamps all records that wait, makes them durable, and answers the submissions.
    fn admit_submissions(
        &mut self,
        serve: &ServeState,
        admission: &mut Admission,
        feed: &mut LogFeed,
        submissions: Vec<Submission>,
        (first, taken): (u64, Instant),
    ) -> Result<(), RunError> {
        let counter = self.metrics.stage(&Stage::Admission);
        let now = self.options.host.clock.wall_micros();
        counter.time(|| admission.take(usize::MAX, now))?;
        let Some(group) = counter.time(|| admission.group(Vec::new(), false)) else { return Ok(()) };
        let count = submissions.iter().map(|submission| submission.records.len()).sum();
        let receipts = submitted_receipts(&group, first, count)
            .map_err(|error| RunError::Audit { data: self.options.data.clone(), error })?;
        let mut receipts = receipts.into_iter();
        let mut answers = Vec::with_capacity(submissions.len());
        for Submission { records, reply, arrived } in submissions {
            let own: Vec<Receipt> = receipts.by_ref().take(records.len()).collect();
            let fact = own.first().filter(|receipt| receipt.verdict == Verdict::Admit);
            if let (SubmissionReply::Decisions(waiter), Some(tick)) =
                (&reply, fact.and_then(|receipt| receipt.tick))
            {
                // Before the graph gets the fact, or the decision could come first.
                serve.decisions.register(tick, waiter);
            }
            answers.push((reply, own, taken.saturating_duration_since(arrived)));
        }
        let appended = self.append(&group, admission, feed);
        let logged = taken.elapsed();
        for (reply, receipts, queued) in answers {
            reply.deliver(match &appended {
                Ok(appended) => Ok(SubmissionOutcome { receipts, queued, logged, appended: *appended }),
                Err(error) => Err(format!("the log could not take them: {error}")),
            });
        }
        appended?;
        serve.ingress.set_counts(&admission.counts);
        Ok(())
    }

    /// The validator of submitted records, which bounds their times by the clock.
    fn ingress_validator(&self) -> Validator {
        let ahead = i64::try_from(AHEAD_MAX.as_micros()).expect("an hour");
        let now = self.options.host.clock.wall_micros();
        let to = now.max(self.log.upper().micros()).saturating_add(ahead);
        let bounds = TimeBounds { to, ..TimeBounds::TICKS };
        Validator::new(self.plan.policy().clone(), self.plan.topology.partitions, bounds)
    }
}

/// The receipts of the `count` submitted records from position `first` on, in their order.
fn submitted_receipts(group: &Group, first: u64, count: usize) -> Result<Vec<Receipt>, AuditError> {
    let mut submitted: Vec<Option<Receipt>> = vec![None; count];
    for receipts in receipts_of(group) {
        let receipts: Receipts = receipts?;
        for row in (0..receipts.len()).filter(|row| receipts.source(*row) == INGRESS) {
            submitted[(receipts.position(row) - first) as usize] = Some(Receipt {
                verdict: receipts.verdict(row),
                reason: receipts.reason(row),
                detail: receipts.detail(row).map(str::to_owned),
                event_type: receipts.event_type(row).map(str::to_owned),
                tick: receipts.tick(row),
                offset: receipts.offset(row),
            });
        }
    }
    Ok(submitted.into_iter().map(|receipt| receipt.expect("every record has one receipt")).collect())
}
