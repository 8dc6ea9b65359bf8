//! Steps of revisions and backfills on a data folder that no run is active on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_dedupe::DedupeIndex;
use tidegate_facts::Tick;
use tidegate_facts::backfill::{self, BackfillRecord};
use tidegate_facts::control_fact::SOURCE;
use tidegate_host::Host;
use tidegate_operators::governance::revision_lifecycle::Lifecycle;
use tidegate_sinks::archive::{Bound, Preference, read_range};
use tidegate_sinks::commits::Commits;
use tidegate_sinks::log::{AppendableLog, Group, LogError, LogFolder, LogOptions, LogWriter};
use tidegate_sinks::sequencer::Sequencer;
use tidegate_sinks::store::{Store, StoreUrl};

use crate::governance::history::{ControlHistory, PlanMatch, effective_plan};
use crate::governance::validate::{ControlRecord, ValidatedStep, check_pins, gate_error, time_of_step};
use crate::ingest::admission::Admission;
use crate::ingest::dedupe_recovery::DedupeRecovery;
use crate::ingest::reorder::Reorder;
use crate::plan::Plan;
use crate::revision_step::{GovernanceError, StepOutcome, StepRequest};

/// A data folder at rest and its store: commands read or add steps while no run is active.
#[derive(Clone, Debug)]
pub struct DataFolder {
    /// The machine that has the folder.
    pub host: Host,
    /// The data folder: indexes, and the log unless it is another.
    pub data: PathBuf,
    /// The log.
    pub log: Arc<dyn AppendableLog>,
    /// The store of its commits and its archive.
    pub store: StoreUrl,
    /// About how much memory the dedupe index may use.
    pub dedupe_bytes: u64,
}

impl DataFolder {
    /// A data folder of this machine; a step needs little memory for the dedupe index.
    pub fn new(data: &Path, store: impl Into<StoreUrl>) -> DataFolder {
        let (host, data) = (Host::real(), data.to_owned());
        let log = Arc::new(LogFolder::of_data(&host, &data));
        DataFolder { host, data, log, store: store.into(), dedupe_bytes: 8 << 20 }
    }

    /// The log, if a run has begun one.
    fn log(&self) -> Result<&dyn AppendableLog, GovernanceError> {
        match self.log.start()? {
            Some(_) => Ok(&*self.log),
            None => Err(GovernanceError::NothingRan { data: self.data.clone() }),
        }
    }

    /// The lifecycle of a plan's revisions, read from the log. A run may be active on it. Groups
    /// that the log has pruned are read from the archive in the store.
    ///
    /// # Errors
    /// When nothing ran there, another plan did, or the steps cannot be read.
    pub fn lifecycle(&self, plan: &Plan) -> Result<Lifecycle, GovernanceError> {
        let log = self.log()?;
        let mut history = ControlHistory::default();
        let archive = Store::open(&self.store)?;
        for group in read_range(log, Some(&archive), Bound::Group(0), None, Preference::Log)? {
            history.add(plan, &self.data, &group?.frames)?;
        }
        history.lifecycle(plan, &self.data)
    }

    /// Takes a step.
    ///
    /// With the event clock the step is stamped behind the last fact, with the wall clock now. A
    /// step that the log holds already, by the same actor for the same reason, gets a receipt as a
    /// duplicate and changes nothing.
    ///
    /// # Errors
    /// Every reason against it; then nothing has changed.
    pub fn take_step(&self, plan: &Arc<Plan>, request: &StepRequest) -> Result<StepOutcome, GovernanceError> {
        let LockedLog { plan, history, gate } = self.lock(plan, PlanMatch::SamePlan)?;
        let lifecycle = history.lifecycle(&plan, &self.data)?;
        let step = ValidatedStep::new(&plan, &lifecycle, request)?;
        let group = gate.admit(&plan, step.control_record(), &self.host)?;
        step.outcome(&group)
    }

    /// Records the next step of a backfill, as [`Self::take_step`] does with steps of revisions.
    ///
    /// `next` gets the end of the log and the steps of all backfills in it, and returns the record.
    /// When it returns none, or one that the log holds, nothing changes.
    ///
    /// # Errors
    /// Those of `next`, and every reason against the record; then nothing has changed.
    pub fn record_backfill<E: From<GovernanceError>>(
        &self,
        plan: &Arc<Plan>,
        next: impl FnOnce(Tick, &[(Tick, BackfillRecord)]) -> Result<Option<BackfillRecord>, E>,
    ) -> Result<(), E> {
        let LockedLog { plan, history, gate } = self.lock(plan, PlanMatch::SameGate)?;
        if !history.has_run {
            return Err(GovernanceError::NothingRan { data: self.data.clone() }.into());
        }
        let Some(record) = next(gate.log.upper(), &history.backfills)? else { return Ok(()) };
        let record = ControlRecord {
            event_type: backfill::EVENT_TYPE,
            producer: backfill::PRODUCER,
            id: record.event_id(),
            payload: record.payload(),
        };
        gate.admit(&plan, record, &self.host)?;
        Ok(())
    }

    /// Opens a log that no run is active on, and reads all of it.
    fn lock(&self, plan: &Arc<Plan>, plan_match: PlanMatch) -> Result<LockedLog, GovernanceError> {
        let logged = self.log()?;
        check_pins(plan)?;
        let archive = Store::open(&self.store)?;
        // Only durable facts are committed, so a log that ends before the commits has lost
        // something.
        let acknowledged = Commits::read(&archive)?.upper();
        let opened = logged.open_writer(LogOptions::default(), None, acknowledged);
        let (log, recovery) = opened.map_err(|error| match error {
            LogError::Locked { pid, .. } => GovernanceError::Running { data: self.data.clone(), pid },
            other => other.into(),
        })?;
        let plan = effective_plan(plan, logged, &archive)?;
        let index = self.data.join("index/dedupe");
        let (mut dedupe, covered) = DedupeIndex::open(&self.host, &index, self.dedupe_bytes, log.upper())?;
        let mut dedupe_recovery = DedupeRecovery::new(&plan, covered);
        let mut history = ControlHistory::new(plan_match);
        let end = Some(Bound::Group(recovery.groups));
        for group in read_range(logged, Some(&archive), Bound::Group(0), end, Preference::Log)? {
            let group = group?;
            history.add(&plan, &self.data, &group.frames)?;
            dedupe_recovery.add(&group, &mut dedupe)?;
        }
        let position = history.receipts.next_position();
        let order = Reorder::arrival(history.receipts.clone());
        Ok(LockedLog { plan, history, gate: ControlGate { log, dedupe, position, order } })
    }
}

/// A log that is open for one control fact, and its contents.
struct LockedLog {
    /// The plan with all revisions.
    plan: Arc<Plan>,
    history: ControlHistory,
    gate: ControlGate,
}

/// Admits one control fact to an open log.
struct ControlGate {
    log: Box<dyn LogWriter>,
    dedupe: DedupeIndex,
    position: u64,
    order: Reorder,
}

impl ControlGate {
    /// Appends the record, or its receipt as a duplicate.
    fn admit(self, plan: &Plan, record: ControlRecord, host: &Host) -> Result<Group, GovernanceError> {
        let ControlGate { mut log, dedupe, position, order } = self;
        let upper = log.upper();
        let time = time_of_step(plan, upper, &*host.clock);
        let sequencer = Sequencer::after(&log.position());
        let sources = vec![(SOURCE.to_owned(), order)];
        let mut admission = Admission::new(plan.topology.clock, sources, sequencer, dedupe, upper);
        let validated = record.validate(plan, position, time);
        let rejection = validated.rejected.first().cloned();
        admission.push(0, validated);
        admission.take(1, time)?;
        let group = admission.group(Vec::new(), false).expect("it holds a record");
        log.open()?;
        log.append_and_wait(&group)?;
        admission.log_durable(group.upper)?;
        match rejection {
            None => Ok(group),
            Some(rejection) => Err(gate_error(&rejection)),
        }
    }
}
