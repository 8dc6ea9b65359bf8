//! A run: the log is read from its beginning, then the sources go on where the log ends.
//!
//! Threads: one for each source, which reads and judges; one for the gate, which stamps, appends and
//! feeds; and timely's workers. Records are only handed to the workers once they are durable, so what
//! the graph derives can always be derived again.
//!
//! When all sources are idle the run commits everything below the last tick and stops the workers
//! without closing their inputs: the end of input is not the end of time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, UInt64Type};
use tidegate_facts::governance::SOURCE;
use tidegate_facts::{Digest, Tick, Topic};
use tidegate_operators::gate::Judged;
use tidegate_sinks::archive::{self, ArchiveError, Bound, Preference, Written, read_range};
use tidegate_sinks::chains::LogHeads;
use tidegate_sinks::checkpoint::Checkpoint;
use tidegate_sinks::dedupe::{DedupeError, DedupeIndex};
use tidegate_sinks::log::{EmbeddedLog, Group, HeldLog, LogError, LogOptions, Recovery, Until};
use tidegate_sinks::sequencer::Sequencer;
use tidegate_sinks::signing::Signer;
use tidegate_sinks::store::{Store, StoreError};
use tidegate_sinks::table::{Commits, TableError};
use tidegate_sinks::{graphs, schemas};
use tidegate_sources::{Prefix, SourceError};

use crate::admission::{
    Admission, AdmissionError, Counts, PROGRESS, ProgressRecord, RECEIPTS, RUN, RunRecord, audit_record,
};
use crate::feed::{Fed, Feed};
use crate::governance::{self, GovernanceError, Governed};
use crate::graphs::graphs as graphs_of;
use crate::live::{Appended, INGRESS, Live, Phase};
use crate::memory::Memory;
use crate::output::{Output, Standing};
use crate::plan::{Plan, judge_of};
use crate::realtime;
use crate::reorder::{Reorder, Resume};
use crate::sources::SourcePlan;
use crate::watch::{Stage, Watch};
use crate::workers::Workers;

mod follow;
mod steps;

/// How a plan is run. None of this changes an answer.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder: log and indexes.
    pub data: PathBuf,
    /// Where committed tables go; `store` in the data folder when not given.
    pub store: Option<PathBuf>,
    /// How many timely workers.
    pub workers: usize,
    /// How much memory the index of what was seen may use, about.
    pub dedupe_bytes: u64,
    /// How large a segment of the log grows.
    pub segment_bytes: u64,
    /// Signs the commits; without it they are not signed.
    pub signer: Option<Signer>,
    /// How long a fact that came while the run serves waits for its commit at the most: then a mark in the log is one.
    pub commit_within: Duration,
}

impl Options {
    /// A run in `data` with one worker.
    pub fn new(data: &Path) -> Options {
        Options {
            data: data.to_owned(),
            store: None,
            workers: 1,
            dedupe_bytes: 64 << 20,
            segment_bytes: LogOptions::default().segment_bytes,
            signer: None,
            commit_within: Duration::from_secs(60),
        }
    }

    /// Where committed tables go.
    pub fn store_path(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.data.join("store"))
    }
}

/// What a run did.
#[derive(Debug)]
pub struct Report {
    /// What was found in the log when it was opened.
    pub recovery: Recovery,
    /// How the records of this run were received.
    pub counts: Counts,
    /// How many facts the log holds now.
    pub facts: u64,
    /// The commits there are now.
    pub commits: Commits,
    /// What was archived at its end, if the topology has it so.
    pub archived: Option<Written>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The archive refused, or a range is in neither log nor archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The index of what was seen refused.
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    /// Admission stopped.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table could not be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A source could not be read.
    #[error("source `{name}` cannot be read")]
    Source {
        /// The source.
        name: String,
        /// The cause.
        source: SourceError,
    },
    /// The folder holds the log of another plan.
    #[error(
        "`{data}` holds the log of plan {found} of topology `{topology}`, and this is plan {wanted}: its nodes, rules or \
         policy differ; run it with `--data` on a new folder, or with the files it was started with (rules and \
         policies are revised by `tidegate policy propose`)"
    )]
    OtherPlan {
        /// The data folder.
        data: PathBuf,
        /// Whose log it is.
        topology: String,
        /// Its plan.
        found: Digest,
        /// The plan of this run.
        wanted: Digest,
    },
    /// The log's own records cannot be read.
    #[error(
        "the log of `{data}` has no readable `{record}` record; it was not written by this program, or was changed: use a new data folder"
    )]
    Foreign {
        /// The data folder.
        data: PathBuf,
        /// The record.
        record: &'static str,
    },
    /// What came into force after the beginning cannot be told.
    #[error(transparent)]
    Governance(#[from] GovernanceError),
    /// A worker stopped.
    #[error("a worker stopped: {0}; this is a defect of Tidegate, please report it with the lines above")]
    Worker(String),
}

/// Runs a plan until its sources are idle.
///
/// # Errors
/// See [`RunError`]. What was durable stays, and a later run goes on from there.
pub fn run(plan: &Arc<Plan>, options: &Options, watch: &Watch) -> Result<Report, RunError> {
    run_into(plan, options, &Store::open(&options.store_path())?, watch)
}

/// As [`run`], into this store.
///
/// # Errors
/// See [`RunError`].
pub fn run_into(
    plan: &Arc<Plan>,
    options: &Options,
    store: &Store,
    watch: &Watch,
) -> Result<Report, RunError> {
    match go(plan, options, store, watch, None, Counts::default())? {
        Ended::Idle(report) => Ok(*report),
        Ended::Revised(_) => unreachable!("nobody takes a step of a run that serves nobody"),
    }
}

/// Runs a plan until it is told to stop: reads its sources to their ends, then follows them, and takes what is submitted.
/// When a revision takes effect, another graph goes on where the one before it ended.
///
/// # Errors
/// See [`RunError`]. What was durable stays, and a later run goes on from there.
pub fn serve(
    plan: &Arc<Plan>,
    options: &Options,
    watch: &Watch,
    live: &Arc<Live>,
) -> Result<Report, RunError> {
    let store = Store::open(&options.store_path())?;
    let mut counts = Counts::default();
    let outcome = loop {
        match go(plan, options, &store, watch, Some(live), counts) {
            Ok(Ended::Idle(report)) => break Ok(*report),
            Ok(Ended::Revised(so_far)) => counts = so_far,
            Err(error) => break Err(error),
        }
    };
    live.enter(Phase::Stopped);
    outcome
}

/// How a graph ended.
enum Ended {
    /// There is nothing more to do.
    Idle(Box<Report>),
    /// Another revision is in force than it was planned with; so many records were received until then.
    Revised(Counts),
}

fn go(
    plan: &Arc<Plan>,
    options: &Options,
    store: &Store,
    watch: &Watch,
    live: Option<&Arc<Live>>,
    counts: Counts,
) -> Result<Ended, RunError> {
    let (mut output, mut checkpoint) = Output::with_checkpoints(store.clone(), plan, options.signer.clone())?;
    // Commits are made of what was durable, so a log that ends before them has lost something.
    let acknowledged = output.lower;
    let log_options = LogOptions { segment_bytes: options.segment_bytes };
    let folder = options.data.join("log");
    let marked =
        checkpoint.as_ref().map(|(c, _)| EmbeddedLog::open_from(&folder, log_options, &c.mark, acknowledged));
    let (log, recovery) = match marked {
        Some(Err(error @ LogError::OtherMark { .. })) => {
            tracing::warn!(%error, "the checkpoint is not of this log, and is passed over");
            checkpoint = None;
            output.forget_checkpoint();
            EmbeddedLog::open_acknowledged(&folder, log_options, acknowledged)?
        }
        Some(opened) => opened?,
        None => EmbeddedLog::open_acknowledged(&folder, log_options, acknowledged)?,
    };
    if checkpoint.take_if(|(c, _)| c.groups > recovery.groups).is_some() {
        tracing::warn!("the log has lost the boundary of its newest checkpoint, which is passed over");
        output.forget_checkpoint();
    }
    let (plan, governed) = &governance::governed(plan, log.folder(), store, &BTreeSet::new())?;
    // Before anything is written there.
    let began = if recovery.groups > 0 { governance::began_with(log.folder(), store)? } else { None };
    if let Some(run) = began.filter(|run| run.plan != plan.digest) {
        let (data, wanted) = (options.data.clone(), plan.digest);
        return Err(RunError::OtherPlan { data, topology: run.topology, found: run.plan, wanted });
    }
    if let Some(live) = live {
        live.begin(governed.clone());
        output.live = Some(Arc::clone(live));
        live.committed(Arc::new(output.outlet.commits().unwrap_or_default()));
    }
    store.probe()?;
    schemas::declare(&plan.tables(), store)?;

    let mut workers = Workers::start(plan, options.workers, &output, watch).map_err(RunError::Worker)?;
    let gate = Gate {
        plan,
        options,
        store,
        watch,
        log,
        workers: &mut workers,
        recovered: recovery.groups,
        past: Past::default(),
        past_at_resume: Past::default(),
        checkpoint,
        live: live.map(Arc::as_ref),
        failed: &output.failed,
        governed: governed.clone(),
        read_before: plan.sources.iter().enumerate().map(|(place, s)| rows_read(watch, place, s)).collect(),
    };
    let gated = gate.run(counts);
    let stopped = workers.finish();
    if let Some(error) = output.failed.lock().expect("no panic").take() {
        return Err(error.into());
    }
    stopped.map_err(RunError::Worker)?;
    let Gated { counts, facts, revised } = gated?;
    if revised {
        return Ok(Ended::Revised(counts));
    }
    let archived = if plan.topology.log.archive {
        let log = HeldLog::new(&options.data.join("log"))?;
        Some(archive::write(log.folder(), Until::Complete, store)?)
    } else {
        None
    };
    let commits = Commits::read(store)?;
    let elapsed = watch.elapsed();
    Ok(Ended::Idle(Box::new(Report { recovery, counts, facts, commits, archived, elapsed })))
}

/// How many records of a source were read since the watch began.
fn rows_read(watch: &Watch, place: usize, source: &SourcePlan) -> u64 {
    watch.stage(&Stage::Source(place, source.name.clone())).rows()
}

/// The gate's thread: everything between the sources and the workers.
struct Gate<'r> {
    plan: &'r Arc<Plan>,
    options: &'r Options,
    store: &'r Store,
    watch: &'r Watch,
    log: EmbeddedLog,
    workers: &'r mut Workers,
    recovered: u64,
    /// What the groups so far say.
    past: Past,
    /// What they said where a start would go on reading.
    past_at_resume: Past,
    /// Where the state of the graph was restored, and the heads of the log's chains there.
    checkpoint: Option<(Checkpoint, LogHeads)>,
    /// Who submits and asks, when the run goes on behind the ends of its sources.
    live: Option<&'r Live>,
    failed: &'r Mutex<Option<TableError>>,
    /// How revisions stand; steps are judged by it.
    governed: Governed,
    /// What had been read of each source when this gate began.
    read_before: Vec<u64>,
}

/// What a gate has done.
struct Gated {
    counts: Counts,
    facts: u64,
    /// Whether a step took effect, and the plan is another now.
    revised: bool,
}

/// What the log says of the past.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Past {
    /// For each source which records have a receipt.
    sources: BTreeMap<String, Resume>,
    /// For each source what it was read from.
    prefixes: BTreeMap<String, ProgressRecord>,
}

/// What a source's thread hands over.
enum FromSource {
    Judged(Judged),
    End(Prefix),
    Failed(SourceError),
}

impl Gate<'_> {
    /// Goes on counting from `counts`.
    fn run(mut self, counts: Counts) -> Result<Gated, RunError> {
        let index = self.options.data.join("index/dedupe");
        let (mut dedupe, covered) = DedupeIndex::open(&index, self.options.dedupe_bytes, self.log.upper())?;
        let mut feed = self.feed()?;
        self.replay(&mut feed, &mut dedupe, covered)?;
        // Not before the log was seen to be this plan's.
        graphs::declare(&graphs_of(self.plan), self.store)?;
        // What the sources go on from; the groups to come tell of themselves.
        let past = self.past.clone();
        let sources = self.plan.sources.iter().map(|source| {
            let resume = past.sources.get(&source.name).cloned().unwrap_or_default();
            (source.name.clone(), Reorder::new(source.late, resume))
        });
        let endless: &[&str] = if self.live.is_some() { &[INGRESS, SOURCE] } else { &[] };
        let endless = endless.iter().map(|name| {
            let resume = past.sources.get(*name).cloned().unwrap_or_default();
            ((*name).to_owned(), Reorder::new(0, resume))
        });
        let sources: Vec<(String, Reorder)> = sources.chain(endless).collect();
        let ends = [Topic::Traffic, Topic::Control].into_iter().flat_map(|topic| {
            let log = &self.log;
            (0..self.plan.topology.partitions).map(move |p| ((topic, p), log.end_offset(topic, p)))
        });
        let ends = ends.filter(|(_, end)| *end > 0).collect();
        let upper = self.log.upper();
        let sequencer = Sequencer::after(upper, ends);
        let mut admission = Admission::new(self.plan.topology.clock, sources, sequencer, dedupe, upper);
        admission.counts = counts;
        if self.recovered == 0 {
            self.append_run_record(&mut admission, &mut feed)?;
        }
        let sources: Vec<Receiver<FromSource>> = self
            .plan
            .sources
            .iter()
            .enumerate()
            .map(|(place, source)| self.open_source(place, source, &past))
            .collect::<Result<_, _>>()?;
        if self.live.is_some() {
            // They have no end, and nobody waits for them.
            admission.hand_over(self.plan.sources.len(), None);
            admission.hand_over(self.plan.sources.len() + 1, None);
        }
        let mut prefixes = self.admit(&mut admission, &mut feed, &sources)?;
        let effective = match self.live {
            Some(live) => self.follow(live, &mut admission, &mut feed, &mut prefixes)?,
            None => None,
        };
        realtime::rest(); // From here on nobody waits for an answer.
        // A mark in the middle of the input would cut the tables where no undisturbed run does.
        if admission.is_finished() {
            self.finish(&mut admission, &mut feed, &past, &prefixes)?;
        }
        let revised = effective.is_some();
        if let (Some(live), Some(step)) = (self.live, effective) {
            live.enter(Phase::CatchingUp);
            self.take_effect(live, &mut admission, step)?;
        }
        Ok(Gated { counts: admission.counts.clone(), facts: feed.facts(), revised })
    }

    /// The feed of the groups that are not in the state yet.
    fn feed(&mut self) -> Result<Feed, RunError> {
        let Some((checkpoint, heads)) = &self.checkpoint else {
            return Ok(Feed::new(self.plan, self.options.workers));
        };
        let foreign = |_| RunError::Foreign { data: self.options.data.clone(), record: "checkpoint" };
        self.past = serde_json::from_str(&checkpoint.past).map_err(foreign)?;
        Ok(Feed::resume(self.plan, self.options.workers, checkpoint, heads))
    }

    /// Feeds what is in the log already, and learns from it where everything stood.
    fn replay(&mut self, feed: &mut Feed, dedupe: &mut DedupeIndex, covered: Tick) -> Result<(), RunError> {
        if self.recovered == 0 {
            return Ok(());
        }
        let mut memory = Memory::new(self.plan, covered);
        let (folder, store) = (self.log.folder().to_owned(), self.store);
        let range =
            |from, to| read_range(&folder, Some(store), from, Some(Bound::Group(to)), Preference::Log);
        let mark =
            self.checkpoint.as_ref().map(|(checkpoint, _)| checkpoint.mark.clone()).unwrap_or_default();
        if covered < mark.upper {
            // The index lags behind the state: it is brought up to it.
            for group in range(Bound::Tick(covered), mark.group)? {
                memory.remember(&group?, dedupe)?;
            }
        }
        for group in range(Bound::Group(mark.group), self.recovered)? {
            let group = group?;
            memory.remember(&group, dedupe)?;
            let fed = self.fed(&group, feed)?;
            self.send(fed)?;
        }
        self.watch.set_partitions(feed.partitions());
        Ok(())
    }

    /// What the workers are told of a group; the boundaries in it know what the groups before say.
    fn fed(&mut self, group: &Group, feed: &mut Feed) -> Result<Fed, RunError> {
        if feed.is_at_resume() {
            self.past_at_resume = self.past.clone();
        }
        let mut fed = feed.feed(group);
        if !fed.boundaries.is_empty() {
            let past = serde_json::to_string(&self.past_at_resume).expect("it has a JSON form");
            for boundary in &mut fed.boundaries {
                let standing = Standing { past: Some(past.clone()), ..(*boundary.standing).clone() };
                boundary.standing = Arc::new(standing);
            }
        }
        let mut past = std::mem::take(&mut self.past);
        self.learn(group, &mut past)?;
        self.past = past;
        Ok(fed)
    }

    fn learn(&self, group: &Group, past: &mut Past) -> Result<(), RunError> {
        let foreign = |record| RunError::Foreign { data: self.options.data.clone(), record };
        for frame in group.frames.iter().filter(|f| f.topic == Topic::Audit) {
            let record = || frame.rows.column(0).as_string::<i32>().value(0);
            match frame.name.as_str() {
                RUN => {
                    let run: RunRecord = serde_json::from_str(record()).map_err(|_| foreign(RUN))?;
                    if run.plan != self.plan.digest {
                        let (data, wanted) = (self.options.data.clone(), self.plan.digest);
                        return Err(RunError::OtherPlan {
                            data,
                            topology: run.topology,
                            found: run.plan,
                            wanted,
                        });
                    }
                }
                PROGRESS => {
                    let progress: ProgressRecord =
                        serde_json::from_str(record()).map_err(|_| foreign(PROGRESS))?;
                    past.prefixes.insert(progress.source.clone(), progress);
                }
                RECEIPTS => {
                    let sources = frame.rows.column(0).as_dictionary::<Int32Type>();
                    let names = sources.values().as_string::<i32>();
                    let positions = frame.rows.column(1).as_primitive::<UInt64Type>();
                    let places =
                        frame.rows.column_by_name("place").map(|places| places.as_primitive::<Int64Type>());
                    let mut resumes: Vec<Resume> = names
                        .iter()
                        .flatten()
                        .map(|name| past.sources.remove(name).unwrap_or_default())
                        .collect();
                    for (row, source) in sources.keys().values().iter().enumerate() {
                        let place = places.filter(|places| places.is_valid(row));
                        let place = place.map_or(i64::MIN, |places| places.value(row));
                        resumes[*source as usize].learn(positions.value(row), place);
                    }
                    past.sources.extend(names.iter().flatten().map(str::to_owned).zip(resumes));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn append_run_record(&mut self, admission: &mut Admission, feed: &mut Feed) -> Result<(), RunError> {
        let record = RunRecord {
            topology: self.plan.topology.name.clone(),
            plan: self.plan.digest,
            policy: self.plan.policies.first().rev(),
            partitions: self.plan.topology.partitions,
        };
        let group = admission.group(vec![audit_record(RUN, &record)], false).expect("it has a frame");
        self.append(&group, admission, feed).map(|_| ())
    }

    /// Starts the thread of one source, at the first record that has no receipt.
    fn open_source(
        &self,
        place: usize,
        plan: &SourcePlan,
        past: &Past,
    ) -> Result<Receiver<FromSource>, RunError> {
        let failed = |source| RunError::Source { name: plan.name.clone(), source };
        let from = past.sources.get(&plan.name).map_or(0, Resume::next);
        let known = past.prefixes.get(&plan.name);
        if let (Some(known), Some(path)) = (known, plan.path()) {
            known.prefix.check(path).map_err(failed)?;
        }
        let mut source = plan.open(from).map_err(failed)?;
        if plan.path().is_none() && known.is_some_and(|known| known.prefix != source.prefix()) {
            return Err(failed(SourceError::OtherWorld));
        }
        let mut judge = judge_of(self.plan.policy(), self.plan.topology.partitions, plan.bounds);
        let counter = self.watch.stage(&Stage::Source(place, plan.name.clone()));
        let plan = plan.clone();
        let (sender, receiver) = sync_channel(2);
        std::thread::Builder::new()
            .name(format!("source-{}", plan.name))
            .spawn(move || {
                loop {
                    let message = counter.time(|| match source.next() {
                        Ok(Some(chunk)) => FromSource::Judged(plan.judge(&mut judge, &chunk)),
                        Ok(None) => FromSource::End(source.prefix()),
                        Err(error) => FromSource::Failed(error),
                    });
                    if let FromSource::Judged(judged) = &message {
                        counter.add(judged.positions.len() as u64);
                    }
                    let last = !matches!(message, FromSource::Judged(_));
                    if sender.send(message).is_err() || last {
                        break; // The gate stopped, or the source did.
                    }
                }
            })
            .expect("a thread can be started");
        Ok(receiver)
    }

    /// Takes the records of all sources until they end.
    fn admit(
        &mut self,
        admission: &mut Admission,
        feed: &mut Feed,
        sources: &[Receiver<FromSource>],
    ) -> Result<BTreeMap<usize, Prefix>, RunError> {
        let rows = self.plan.topology.batch_rows;
        let counter = self.watch.stage(&Stage::Admission);
        let mut prefixes = BTreeMap::new();
        while !admission.is_finished() {
            while let Some(source) = admission.wanting() {
                let name = || self.plan.sources[source].name.clone();
                match sources[source].recv() {
                    Ok(FromSource::Judged(judged)) => admission.hand_over(source, Some(judged)),
                    Ok(FromSource::End(prefix)) => {
                        prefixes.insert(source, prefix);
                        admission.hand_over(source, None);
                    }
                    Ok(FromSource::Failed(source)) => return Err(RunError::Source { name: name(), source }),
                    Err(_) => {
                        return Err(RunError::Worker(format!("source `{}` ended without a word", name())));
                    }
                }
            }
            counter.time(|| admission.take(rows, now()))?;
            if admission.pending_records() >= rows {
                let group = counter.time(|| admission.group(Vec::new(), false)).expect("it holds records");
                self.append(&group, admission, feed)?;
            }
            if self.failed.lock().expect("no panic").is_some() || self.live.is_some_and(Live::may_stop) {
                break; // The sinks failed, and their error is the run's; or it is to stop, and goes on another time.
            }
        }
        Ok(prefixes)
    }

    /// The last group of a run: the rest, how far each source was read, and a commit boundary.
    fn finish(
        &mut self,
        admission: &mut Admission,
        feed: &mut Feed,
        past: &Past,
        prefixes: &BTreeMap<usize, Prefix>,
    ) -> Result<(), RunError> {
        if let Some(group) = admission.group(Vec::new(), false) {
            self.append(&group, admission, feed)?;
        }
        let progress = prefixes.iter().filter_map(|(place, prefix)| {
            let source = &self.plan.sources[*place].name;
            let plan = &self.plan.sources[*place];
            let read = rows_read(self.watch, *place, plan) - self.read_before[*place];
            let records = past.sources.get(source).map_or(0, Resume::next) + read;
            let record = ProgressRecord { source: source.clone(), records, prefix: prefix.clone() };
            let unchanged = past.prefixes.get(source).is_some_and(|known| known.records == records);
            (!unchanged).then(|| audit_record(PROGRESS, &record))
        });
        let progress: Vec<_> = progress.collect();
        let commit = self.is_unsaid(feed);
        if commit || !progress.is_empty() {
            let group = admission.group(progress, commit).expect("it has a mark or a frame");
            self.append(&group, admission, feed)?;
        }
        Ok(())
    }

    /// Makes a group durable, then hands it to the workers.
    fn append(
        &mut self,
        group: &Group,
        admission: &mut Admission,
        feed: &mut Feed,
    ) -> Result<Appended, RunError> {
        let log = self.watch.stage(&Stage::Log);
        let began = Instant::now();
        log.time(|| self.log.append(group))?;
        let appended = Appended { began, durable: Instant::now(), synced: self.log.synced() };
        let times = &self.watch.times;
        times.append.time(appended.durable - began);
        times.sync.time(appended.synced);
        let receipts = group.frames.iter().filter(|f| f.topic == Topic::Audit && f.name == RECEIPTS);
        times.group_records.add(receipts.map(|f| f.rows.num_rows() as u64).sum());
        log.add(
            group.frames.iter().filter(|f| f.topic != Topic::Audit).map(|f| f.rows.num_rows() as u64).sum(),
        );
        let counter = self.watch.stage(&Stage::Admission);
        let fed = counter.time(|| {
            admission.durable(group.upper)?;
            self.fed(group, feed)
        })?;
        counter.add(fed.facts as u64);
        self.watch.set_partitions(feed.partitions());
        self.send(fed)?;
        Ok(appended)
    }

    fn send(&self, fed: Fed) -> Result<(), RunError> {
        self.watch.fed(fed.upper);
        if let Some(live) = self.live {
            live.fed(fed.upper, fed.basis.clone());
        }
        self.workers.send(fed).map_err(RunError::Worker)
    }
}

/// The wall clock, in microseconds since 1970-01-01 UTC.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
