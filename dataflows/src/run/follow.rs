//! What a run does behind the ends of its sources: it takes what is submitted, and reads on where files grow.
//!
//! Everything that waits is judged, stamped and logged as one group, so that a slow disk makes larger groups and not longer
//! queues. Records of a file are taken as they are found: a file has no end to wait for, so nothing of one source
//! waits for another.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Instant, SystemTime};

use arrow::datatypes::UInt8Type;
use tidegate_facts::{Reason, Verdict};
use tidegate_operators::gate::{Judge, TimeBounds};

use super::*;
use crate::live::{Receipt, Receipted, Submission};
use crate::realtime::Priority;
use crate::run::steps::Effective;
use crate::topology::Clock;

/// How long the gate waits for a submission before it looks at everything else.
const PATIENCE: Duration = Duration::from_millis(50);

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long nothing may come before the log says that time has passed.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// How far behind the clock, or the log if that is ahead, a submitted time may be: one bad stamp must not drag all along.
const AHEAD_MAX: Duration = Duration::from_secs(3600);

/// How long the bound on submitted times stands before it is moved.
const BOUND_MOVES_EVERY: Duration = Duration::from_secs(60);

impl Gate<'_> {
    /// Takes submissions, steps, and what comes to the files of the sources, until the run is to stop; or until a step
    /// takes effect, which is returned.
    pub(super) fn follow(
        &mut self,
        live: &Live,
        admission: &mut Admission,
        feed: &mut Feed,
        prefixes: &mut BTreeMap<usize, Prefix>,
    ) -> Result<Option<Effective>, RunError> {
        let place = self.plan.sources.len();
        let counter = self.watch.stage(&Stage::Source(place, INGRESS.to_owned()));
        let mut next = self.past.sources.get(INGRESS).map_or(0, Resume::next);
        let mut judge = self.ingress_judge();
        let mut moved = Instant::now();
        let mut files = Files::new(self.plan);
        let mut uncommitted: Option<Instant> = None;
        live.count(&admission.counts);
        self.log.fill(); // From here on groups are small.
        live.enter(Phase::Serving);
        tracing::info!(facts = feed.facts(), upper = self.log.upper().0, "serving");
        live.go(Priority::Compute);
        while let Some(submissions) = live.take(self.plan.topology.batch_rows, PATIENCE) {
            if self.failed.lock().expect("no panic").is_some() {
                break; // The sinks failed; their error is the run's.
            }
            let taken = Instant::now();
            files.look(self, prefixes);
            files.hand_over(self, admission, prefixes);
            if moved.elapsed() > BOUND_MOVES_EVERY {
                (judge, moved) = (self.ingress_judge(), Instant::now());
            }
            let records: Vec<&[u8]> =
                submissions.iter().flat_map(|s| &s.records).map(Vec::as_slice).collect();
            if !records.is_empty() {
                let judged = counter.time(|| judge.lines((next..).zip(records.iter().copied())));
                counter.add(records.len() as u64);
                admission.hand_over(place, Some(judged));
                admission.hand_over(place, None);
            }
            let first = next;
            next += records.len() as u64;
            self.take_all(live, admission, feed, submissions, (first, taken))?;
            let since = self.is_unsaid(feed).then(|| uncommitted.unwrap_or(taken));
            uncommitted = since;
            if since.is_some_and(|since| since.elapsed() >= self.options.commit_within) {
                let mark = admission.group(Vec::new(), true).expect("it has a mark");
                self.append(&mark, admission, feed)?;
                uncommitted = None;
            }
            self.beat(admission, feed)?;
            if let Some(step) = live.take_step()
                && let Some(effective) = self.step(live, admission, feed, step)?
            {
                return Ok(Some(effective));
            }
        }
        Ok(None)
    }

    /// Whether something waits for its commit.
    pub(super) fn is_unsaid(&self, feed: &Feed) -> bool {
        // What follows from time alone has no fact to be counted.
        feed.pending() > 0 || self.plan.awaits_time() && self.live.is_some_and(Live::has_uncommitted)
    }

    /// Says in the log that time has passed, when something in the graph waits for time and nothing else moves it.
    ///
    /// Only under the wall clock: where facts bring the time, it stands still between them. What follows from a beat, such
    /// as that evidence expired, is then a function of the log like everything else.
    fn beat(&mut self, admission: &mut Admission, feed: &mut Feed) -> Result<(), RunError> {
        let plan = self.plan;
        let silent = now().saturating_sub(self.log.upper().micros());
        let every = i64::try_from(BEAT_EVERY.as_micros()).expect("a second");
        if plan.topology.clock != Clock::Wall || !plan.awaits_time() || silent < every {
            return Ok(());
        }
        if let Some(beat) = admission.beat(now()) {
            self.append(&beat, admission, feed)?;
        }
        Ok(())
    }

    /// Stamps everything that was handed over, makes it durable, and answers.
    fn take_all(
        &mut self,
        live: &Live,
        admission: &mut Admission,
        feed: &mut Feed,
        submissions: Vec<Submission>,
        (first, taken): (u64, Instant),
    ) -> Result<(), RunError> {
        let counter = self.watch.stage(&Stage::Admission);
        counter.time(|| admission.take(usize::MAX, now()))?;
        let Some(group) = counter.time(|| admission.group(Vec::new(), false)) else { return Ok(()) };
        let count = submissions.iter().map(|submission| submission.records.len()).sum();
        let mut receipts = receipts_of(&group, first, count).into_iter();
        let mut answers = Vec::with_capacity(submissions.len());
        for Submission { records, on_receipts, on_decision, arrived } in submissions {
            let own: Vec<Receipt> = receipts.by_ref().take(records.len()).collect();
            let fact = own.first().filter(|receipt| receipt.verdict == Verdict::Admit);
            if let (Some(waiter), Some(tick)) = (on_decision, fact.and_then(|receipt| receipt.tick)) {
                // Before the graph hears of the fact, or the decision could be there first.
                live.await_decision(tick, waiter);
            }
            answers.push((on_receipts, own, taken.saturating_duration_since(arrived)));
        }
        let appended = self.append(&group, admission, feed);
        let logged = taken.elapsed();
        for (told, receipts, queued) in answers {
            told(match &appended {
                Ok(appended) => Ok(Receipted { receipts, queued, logged, appended: *appended }),
                Err(error) => Err(format!("the log could not take them: {error}")),
            });
        }
        appended?;
        live.count(&admission.counts);
        Ok(())
    }

    /// Says that a source cannot be read.
    fn warn(&self, place: usize, error: &dyn std::error::Error) {
        let source = &self.plan.sources[place].name;
        self.watch.stage(&Stage::Source(place, source.clone())).add_errors(1);
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        tracing::error!(source, "the source is not followed until its files change again: {error}{cause}");
    }

    fn ingress_judge(&self) -> Judge {
        let ahead = i64::try_from(AHEAD_MAX.as_micros()).expect("an hour");
        let to = now().max(self.log.upper().micros()).saturating_add(ahead);
        judge_of(self.plan.policy(), self.plan.topology.partitions, TimeBounds { to, ..TimeBounds::TICKS })
    }
}

/// The receipts of `count` submitted records from position `first` on, in their order.
fn receipts_of(group: &Group, first: u64, count: usize) -> Vec<Receipt> {
    let mut receipts: Vec<Option<Receipt>> = vec![None; count];
    for frame in group.frames.iter().filter(|f| f.topic == Topic::Audit && f.name == RECEIPTS) {
        let rows = &frame.rows;
        let sources = rows.column(0).as_dictionary::<Int32Type>();
        let names = sources.values().as_string::<i32>();
        let positions = rows.column(1).as_primitive::<UInt64Type>();
        let verdicts = rows.column(2).as_primitive::<UInt8Type>();
        let number = |name, row| {
            let column = rows.column_by_name(name)?.as_primitive::<UInt64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        let text = |name, row| {
            let column = rows.column_by_name(name)?.as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let reasons = rows.column_by_name("reason").map(|reasons| reasons.as_primitive::<UInt8Type>());
        for row in 0..rows.num_rows() {
            if names.value(sources.keys().value(row) as usize) != INGRESS {
                continue;
            }
            let place = (positions.value(row) - first) as usize;
            let reason = reasons.filter(|reasons| reasons.is_valid(row)).map(|reasons| reasons.value(row));
            receipts[place] = Some(Receipt {
                verdict: Verdict::ALL[usize::from(verdicts.value(row))],
                reason: reason.map(|code| Reason::ALL[usize::from(code)]),
                detail: text("detail", row),
                event_type: text("event_type", row),
                tick: number("tick", row).map(Tick),
                offset: number("offset", row),
            });
        }
    }
    receipts.into_iter().map(|receipt| receipt.expect("every record has one receipt")).collect()
}

/// The sources that have files, and how these looked when they were last read to their ends.
struct Files {
    looked: Instant,
    sources: Vec<Followed>,
}

struct Followed {
    place: usize,
    path: PathBuf,
    seen: Vec<(PathBuf, u64, Option<SystemTime>)>,
    /// What is being read of it now.
    reading: Option<Receiver<FromSource>>,
}

impl Files {
    fn new(plan: &Plan) -> Files {
        let sources = plan.sources.iter().enumerate().filter_map(|(place, source)| {
            let path = source.path()?.to_owned();
            let seen = signature(&path);
            Some(Followed { place, path, seen, reading: None })
        });
        Files { looked: Instant::now(), sources: sources.collect() }
    }

    /// Begins to read on where something came to a source's files.
    fn look(&mut self, gate: &Gate<'_>, prefixes: &BTreeMap<usize, Prefix>) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        for source in self.sources.iter_mut().filter(|source| source.reading.is_none()) {
            let seen = signature(&source.path);
            if seen == source.seen || !seen.iter().all(|(path, ..)| ends_with_a_line(path)) {
                continue;
            }
            let plan = &gate.plan.sources[source.place];
            let mut past = gate.past.clone();
            if let Some(prefix) = prefixes.get(&source.place) {
                let records = past.sources.get(&plan.name).map_or(0, Resume::next);
                let (source, prefix) = (plan.name.clone(), prefix.clone());
                past.prefixes.insert(plan.name.clone(), ProgressRecord { source, records, prefix });
            }
            match gate.open_source(source.place, plan, &past) {
                Ok(receiver) => source.reading = Some(receiver),
                Err(error) => gate.warn(source.place, &error),
            }
            // Also of a source that cannot be read: it is tried again when it has changed again.
            source.seen = seen;
        }
    }

    /// Hands over what was read meanwhile.
    fn hand_over(
        &mut self,
        gate: &Gate<'_>,
        admission: &mut Admission,
        prefixes: &mut BTreeMap<usize, Prefix>,
    ) {
        for source in &mut self.sources {
            let Some(reading) = &source.reading else { continue };
            match reading.try_recv() {
                Ok(FromSource::Judged(judged)) => {
                    admission.hand_over(source.place, Some(judged));
                    admission.hand_over(source.place, None);
                }
                Ok(FromSource::End(prefix)) => {
                    prefixes.insert(source.place, prefix);
                    source.reading = None;
                }
                Ok(FromSource::Failed(error)) => {
                    gate.warn(source.place, &error);
                    source.reading = None;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => source.reading = None,
            }
        }
    }
}

/// The files at a path: their names, lengths and times of change.
fn signature(path: &Path) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
    let mut found = Vec::new();
    let mut paths = vec![path.to_owned()];
    while let Some(path) = paths.pop() {
        let Ok(metadata) = path.metadata() else { continue };
        if metadata.is_dir() {
            paths.extend(path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()));
        } else {
            found.push((path, metadata.len(), metadata.modified().ok()));
        }
    }
    found.sort();
    found
}

/// Whether a text file is not in the middle of a line; another kind of file is as it is.
fn ends_with_a_line(path: &Path) -> bool {
    use std::io::{Read, Seek, SeekFrom};
    let is_text = path
        .extension()
        .is_some_and(|ending| ["csv", "jsonl", "ndjson", "json"].iter().any(|e| ending == *e));
    let last = || -> std::io::Result<Option<u8>> {
        let mut file = std::fs::File::open(path)?;
        if file.seek(SeekFrom::End(0))? == 0 {
            return Ok(None);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        Ok(Some(byte[0]))
    };
    !is_text || last().is_ok_and(|last| last.is_none_or(|byte| byte == b'\n'))
}
