//! The gate's thread: everything between the sources and the workers.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use parking_lot::Mutex;
use tidegate_dedupe::DedupeIndex;
use tidegate_facts::Topic;
use tidegate_facts::audit::{PROGRESS, RUN, RunRecord, json_record};
use tidegate_facts::control_fact::SOURCE;
use tidegate_sinks::commits::TableError;
use tidegate_sinks::graph_catalog;
use tidegate_sinks::log::{Group, LogReader, LogWriter};
use tidegate_sinks::sequencer::Sequencer;
use tidegate_sinks::store::Store;

use crate::entity_graphs::entity_graphs;
use crate::ingest::admission::Admission;
use crate::ingest::audit_frames::{ProgressRecord, audit_frame, receipts_of};
use crate::ingest::log_feed::{GroupInput, LogFeed};
use crate::ingest::reorder::Reorder;
use crate::metrics::{AdmissionCounts, RunMetrics, Stage};
use crate::plan::{Plan, SourcePlan};
use crate::render::workers::Workers;
use crate::revision_step::GovernanceState;
use crate::run::error::RunError;
use crate::run::log_summary::{LogSummary, RestoredCheckpoint};
use crate::run::options::Options;
use crate::run::source_messages::{Fingerprints, LastLine, SourceMessage};
use crate::serve::{AppendTiming, INGRESS, Phase, ServeState};
use crate::thread_priority;

/// The gate of one graph: admits records, appends groups to the log, and gives them to the workers.
pub(super) struct Gate<'r> {
    pub plan: &'r Arc<Plan>,
    pub options: &'r Options,
    pub store: &'r Store,
    pub metrics: &'r RunMetrics,
    pub log: Box<dyn LogWriter>,
    /// The same log, for what it held when it was opened.
    pub logged: &'r dyn LogReader,
    workers: &'r Workers,
    /// The number of groups in the log when it was opened.
    pub recovered: u64,
    /// What the groups so far say.
    pub summary: LogSummary,
    /// What the groups say before the one from which a start would read the log.
    pub summary_at_restart: LogSummary,
    /// The checkpoint from which the state of the graph was restored.
    pub checkpoint: Option<RestoredCheckpoint>,
    /// What is shared with callers, when the run is served.
    pub serve: Option<&'r ServeState>,
    failed: &'r Mutex<Option<TableError>>,
    /// The revisions, against which steps are checked.
    pub governance: GovernanceState,
    /// How many records of each source were read before this gate began.
    read_before: Vec<u64>,
}

/// Everything that the start of a graph has opened for its gate.
pub(super) struct GateSetup<'r> {
    pub plan: &'r Arc<Plan>,
    pub options: &'r Options,
    pub store: &'r Store,
    pub metrics: &'r RunMetrics,
    pub log: Box<dyn LogWriter>,
    /// The same log, to read it.
    pub logged: &'r dyn LogReader,
    pub workers: &'r Workers,
    /// The number of groups in the log.
    pub recovered: u64,
    pub checkpoint: Option<RestoredCheckpoint>,
    pub serve: Option<&'r ServeState>,
    pub failed: &'r Mutex<Option<TableError>>,
    pub governance: GovernanceState,
}

/// What a gate has done.
pub(super) struct GateOutcome {
    pub counts: AdmissionCounts,
    pub facts: u64,
    /// Whether a step took effect, so that the plan is another now.
    pub revised: bool,
}

/// How many records of a source were read since the metrics began.
fn records_read(metrics: &RunMetrics, number: usize, source: &SourcePlan) -> u64 {
    metrics.stage(&Stage::Source(number, source.name.clone())).rows()
}

impl<'r> Gate<'r> {
    /// The gate of a graph, before it has read or written anything.
    pub fn new(setup: GateSetup<'r>) -> Gate<'r> {
        let GateSetup { plan, metrics, .. } = setup;
        let sources = plan.sources.iter().enumerate();
        let read_before = sources.map(|(number, source)| records_read(metrics, number, source)).collect();
        Gate {
            plan,
            options: setup.options,
            store: setup.store,
            metrics,
            log: setup.log,
            logged: setup.logged,
            workers: setup.workers,
            recovered: setup.recovered,
            summary: LogSummary::default(),
            summary_at_restart: LogSummary::default(),
            checkpoint: setup.checkpoint,
            serve: setup.serve,
            failed: setup.failed,
            governance: setup.governance,
            read_before,
        }
    }

    /// The number of the source of submitted records, behind the sources of the plan.
    pub fn ingress_source(&self) -> usize {
        self.plan.sources.len()
    }

    /// The number of the source of control facts.
    pub fn control_source(&self) -> usize {
        self.plan.sources.len() + 1
    }

    /// Runs the gate to its end; verdicts go on counting from `counts`.
    pub fn run(mut self, counts: AdmissionCounts) -> Result<GateOutcome, RunError> {
        let index = self.options.data.join("index/dedupe");
        let (mut dedupe, covered) =
            DedupeIndex::open(&self.options.host, &index, self.options.dedupe_bytes, self.log.upper())?;
        let mut feed = self.open_feed()?;
        self.replay(&mut feed, &mut dedupe, covered)?;
        // Only after the replay has shown that the log belongs to this plan.
        graph_catalog::declare(&entity_graphs(self.plan), self.store)?;
        self.log.open()?;
        // The sources go on from here; the groups to come have receipts of their own.
        let summary = self.summary.clone();
        let mut admission = self.open_admission(&summary, dedupe);
        admission.counts = counts;
        if self.recovered == 0 {
            self.append_run_record(&mut admission, &mut feed)?;
        }
        // Before any source is opened: what is written to a file from here on is found later.
        let tailed = self.serve.map(|serve| (serve, self.tailed_files()));
        let sources = self.plan.sources.iter().enumerate();
        let sources: Vec<Receiver<SourceMessage>> = sources
            .map(|(number, source)| self.open_source(number, source, &summary, LastLine::IsRecord))
            .collect::<Result<_, _>>()?;
        let mut fingerprints = self.admit_sources(&mut admission, &mut feed, &sources)?;
        let activating = match tailed {
            Some((serve, files)) => {
                self.serve_calls(serve, &mut admission, &mut feed, files, &mut fingerprints)?
            }
            None => None,
        };
        thread_priority::reset_current_thread(); // No caller waits from here on.
        // A mark in the middle of the input would cut the tables where no undisturbed run does.
        if admission.is_finished() {
            self.append_last_group(&mut admission, &mut feed, &summary, &fingerprints)?;
        }
        let revised = activating.is_some();
        if let (Some(serve), Some(step)) = (self.serve, activating) {
            serve.enter(Phase::CatchingUp);
            self.activate(serve, &mut admission, step)?;
        }
        Ok(GateOutcome { counts: admission.counts.clone(), facts: feed.facts(), revised })
    }

    /// Admission behind the end of the log, with the sources at their resume points.
    fn open_admission(&self, summary: &LogSummary, dedupe: DedupeIndex) -> Admission {
        let topology = &self.plan.topology;
        let bounded = self.plan.sources.iter().map(|source| {
            let order = Reorder::bounded(source.out_of_order_max, summary.resume_point(&source.name));
            (source.name.clone(), order)
        });
        // Submitted records and control facts have no end, and admission does not wait for them.
        let endless: &[&str] = if self.serve.is_some() { &[INGRESS, SOURCE] } else { &[] };
        let endless =
            endless.iter().map(|name| ((*name).to_owned(), Reorder::arrival(summary.resume_point(name))));
        let position = self.log.position();
        let sequencer = Sequencer::after(&position);
        Admission::new(topology.clock, bounded.chain(endless).collect(), sequencer, dedupe, position.upper)
    }

    fn append_run_record(&mut self, admission: &mut Admission, feed: &mut LogFeed) -> Result<(), RunError> {
        let record = RunRecord {
            topology: self.plan.topology.name.clone(),
            plan: self.plan.digest,
            policy: self.plan.policies.first().rev(),
            partitions: self.plan.topology.partitions,
        };
        let frame = audit_frame(RUN, json_record(&record));
        let group = admission.group(vec![frame], false).expect("it has a frame");
        self.append(&group, admission, feed).map(|_| ())
    }

    /// Appends the last groups of a run: the remaining records; how far each source was read; and a
    /// commit mark.
    fn append_last_group(
        &mut self,
        admission: &mut Admission,
        feed: &mut LogFeed,
        summary: &LogSummary,
        fingerprints: &Fingerprints,
    ) -> Result<(), RunError> {
        if let Some(group) = admission.group(Vec::new(), false) {
            self.append(&group, admission, feed)?;
        }
        let progress = fingerprints.iter().filter_map(|(number, fingerprint)| {
            let plan = &self.plan.sources[*number];
            let read = records_read(self.metrics, *number, plan) - self.read_before[*number];
            let records = summary.next_position(&plan.name) + read;
            let (source, fingerprint) = (plan.name.clone(), fingerprint.clone());
            let record = ProgressRecord { source, records, fingerprint };
            let is_unchanged = summary.progress.get(&plan.name).is_some_and(|known| known.records == records);
            (!is_unchanged).then(|| audit_frame(PROGRESS, json_record(&record)))
        });
        let progress: Vec<_> = progress.collect();
        let commit = self.has_uncommitted(feed);
        if commit || !progress.is_empty() {
            let group = admission.group(progress, commit).expect("it has a mark or a frame");
            self.append(&group, admission, feed)?;
        }
        Ok(())
    }

    /// Whether some rows wait for a commit.
    pub fn has_uncommitted(&self, feed: &LogFeed) -> bool {
        // Rows that follow from time alone have no fact to be counted.
        let has_rows = || self.serve.is_some_and(|serve| serve.tables.has_uncommitted());
        feed.uncommitted() > 0 || self.plan.awaits_time() && has_rows()
    }

    /// Whether the sinks have failed; their error is the run's.
    pub fn has_failed(&self) -> bool {
        self.failed.lock().is_some()
    }

    /// Makes a group durable, then gives it to the workers.
    pub fn append(
        &mut self,
        group: &Group,
        admission: &mut Admission,
        feed: &mut LogFeed,
    ) -> Result<AppendTiming, RunError> {
        let log = self.metrics.stage(&Stage::Log);
        let began = Instant::now();
        let link = log.time(|| self.log.append_and_wait(group))?;
        let timing = AppendTiming { began, durable: Instant::now(), synced: self.log.sync_duration() };
        let times = &self.metrics.times;
        times.append.record_duration(timing.durable - began);
        times.sync.record_duration(timing.synced);
        let records = receipts_of(group).flatten().map(|receipts| receipts.len() as u64).sum();
        times.group_records.record(records);
        let facts = group.frames.iter().filter(|frame| frame.topic != Topic::Audit);
        log.add(facts.map(|frame| frame.rows.num_rows() as u64).sum());
        let counter = self.metrics.stage(&Stage::Admission);
        let input = counter.time(|| {
            admission.log_durable(group.upper)?;
            self.group_input(&link, group, feed)
        })?;
        counter.add(input.facts as u64);
        self.metrics.set_partitions(feed.partitions());
        self.send(input)?;
        Ok(timing)
    }

    /// Gives a group to the workers.
    pub fn send(&self, input: GroupInput) -> Result<(), RunError> {
        self.metrics.record_fed(input.facts, input.upper);
        if let Some(serve) = self.serve {
            serve.group_sent(input.upper, input.basis.clone());
        }
        self.workers.send(input).map_err(RunError::Worker)
    }
}
