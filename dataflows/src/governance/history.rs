//! The steps and backfills in a log, and the plan with every revision that they brought into force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tidegate_facts::audit::{RECEIPTS, RUN, Receipts, RunRecord, read_json_record};
use tidegate_facts::backfill::{self, BackfillRecord};
use tidegate_facts::control_fact::SOURCE;
use tidegate_facts::governance::{EVENT_TYPE, Revision, RevisionKind, StepRecord, Subject};
use tidegate_facts::{Digest, Tick, Topic};
use tidegate_operators::governance::revision_lifecycle::{Lifecycle, Proposal};
use tidegate_sinks::archive::{Bound, Preference, read_range, read_topic};
use tidegate_sinks::log::{Frame, LogReader};
use tidegate_sinks::store::Store;

use crate::ingest::reorder::ResumePoint;
use crate::node::FirstRevision;
use crate::plan::{Plan, RevisionText, Revisions};
use crate::revision_step::{GovernanceError, GovernanceState};

/// What a plan lets be revised, and the revision that it began with.
fn revisable_subjects(plan: &Plan) -> Vec<(Subject, Revision)> {
    let rev = plan.policies.first().rev();
    let gate = Subject { kind: RevisionKind::GatePolicy, node: plan.gate.clone() };
    let policy = Revision { id: rev.policy_id, version: rev.revision, digest: rev.content_digest };
    let bundles = plan.steps.iter().filter_map(|step| {
        let FirstRevision { id, version, digest } = step.node.first_revision()?;
        let subject = Subject { kind: RevisionKind::Bundle, node: step.name.clone() };
        Some((subject, Revision { id, version, digest }))
    });
    bundles.chain([(gate, policy)]).collect()
}

/// The backfill steps in some frames, in the order of their ticks.
fn backfills_of<'f>(
    frames: impl IntoIterator<Item = &'f Frame>,
) -> Result<Vec<(Tick, BackfillRecord)>, GovernanceError> {
    let mut records = Vec::new();
    for frame in frames.into_iter().filter(|frame| frame.name == backfill::EVENT_TYPE) {
        let read = BackfillRecord::read(&frame.rows);
        records.extend(read.map_err(|what| GovernanceError::Unreadable { what })?);
    }
    records.sort_by_key(|(tick, _)| *tick);
    Ok(records)
}

/// The history of backfills in a log: every step of each, in the order of their ticks. Groups that
/// the log has pruned are read from `archive`. A run may be active on the log.
///
/// # Errors
/// When they cannot be read.
pub fn backfills(
    log: &dyn LogReader,
    archive: &Store,
) -> Result<Vec<(Tick, BackfillRecord)>, GovernanceError> {
    backfills_of(&read_topic(log, archive, Topic::Control)?)
}

/// The steps of revisions in some frames of a log, in the order of their ticks.
pub(super) fn steps_of<'f>(
    frames: impl IntoIterator<Item = &'f Frame>,
) -> Result<Vec<(Tick, StepRecord)>, GovernanceError> {
    let mut steps = Vec::new();
    for frame in frames.into_iter().filter(|frame| frame.name == EVENT_TYPE) {
        let read = StepRecord::read(&frame.rows);
        steps.extend(read.map_err(|what| GovernanceError::Unreadable { what })?);
    }
    steps.sort_by_key(|(tick, _)| *tick);
    Ok(steps)
}

/// The lifecycle of a plan's revisions after the given steps.
///
/// A subject whose revision in the topology is not the one that the log began with was replaced by
/// hand, and so were the `replaced` nodes: no step changes these.
fn lifecycle(
    plan: &Plan,
    steps: Vec<(Tick, StepRecord)>,
    replaced: &BTreeSet<String>,
) -> Result<Lifecycle, GovernanceError> {
    let initial = revisable_subjects(plan);
    let mut began: BTreeMap<Subject, Digest> = BTreeMap::new();
    for (_, step) in &steps {
        began.entry(step.subject.clone()).or_insert(step.before);
    }
    let governed: BTreeSet<Subject> = initial
        .iter()
        .filter(|(subject, own)| began.get(subject) == Some(&own.digest) && !replaced.contains(&subject.node))
        .map(|(subject, _)| subject.clone())
        .collect();
    let mut lifecycle = Lifecycle::new(plan.topology.four_eyes, initial);
    for (tick, step) in steps.into_iter().filter(|(_, step)| governed.contains(&step.subject)) {
        lifecycle
            .apply(tick, &step)
            .map_err(|refusal| GovernanceError::Foreign { tick, source: Box::new(refusal) })?;
    }
    Ok(lifecycle)
}

/// The texts of revisions that a lifecycle brought into force, by node.
pub(super) fn revisions(lifecycle: &Lifecycle) -> Revisions {
    let mut revisions = Revisions::new();
    for (subject, _) in lifecycle.subjects() {
        let history = lifecycle.history(subject).iter().map(|(tick, id)| {
            let text = id.map(|id| text_of(lifecycle.proposal(&id.to_hex()).expect("it was activated")));
            (*tick, text)
        });
        revisions.insert(subject.node.clone(), history.collect());
    }
    revisions
}

pub(super) fn text_of(proposal: &Proposal) -> RevisionText {
    let file = format!("proposal {} of {}", proposal.id.short_hex(), proposal.subject.node).into();
    RevisionText { file, text: proposal.text.as_str().into() }
}

/// The record of the run with which the history in a log begins; `None` of an empty log. A group
/// that the log has pruned is read from `archive`.
///
/// # Errors
/// When the log's first group cannot be read.
pub fn run_record(log: &dyn LogReader, archive: &Store) -> Result<Option<RunRecord>, GovernanceError> {
    let first = read_range(log, Some(archive), Bound::Group(0), Some(Bound::Group(1)), Preference::Log)?;
    for group in first {
        let group = group?;
        let run = group.frames.iter().find(|frame| frame.topic == Topic::Audit && frame.name == RUN);
        if let Some(run) = run {
            return read_run_record(run).map(Some);
        }
    }
    Ok(None)
}

fn read_run_record(frame: &Frame) -> Result<RunRecord, GovernanceError> {
    read_json_record(RUN, &frame.rows)
        .map_err(|error| GovernanceError::Unreadable { what: error.to_string() })
}

/// The plan with every revision that the history of steps in a log brought into force. Groups that
/// the log has pruned are read from `archive`.
///
/// # Errors
/// When the steps cannot be read, do not follow from each other, or activated a revision that
/// cannot be planned.
pub fn effective_plan(
    plan: &Arc<Plan>,
    log: &dyn LogReader,
    archive: &Store,
) -> Result<Arc<Plan>, GovernanceError> {
    effective_state(plan, log, archive, &BTreeSet::new()).map(|(plan, _)| plan)
}

/// The plan of a log's history as [`effective_plan`] has it, but with a replaced bundle or policy
/// (`--set`) in force throughout: a shadow run asks what it would have decided.
///
/// # Errors
/// As [`effective_plan`].
pub fn as_if_effective(
    plan: &Arc<Plan>,
    log: &dyn LogReader,
    archive: &Store,
) -> Result<Arc<Plan>, GovernanceError> {
    effective_state(plan, log, archive, &plan.topology.replaced).map(|(plan, _)| plan)
}

/// The plan that [`effective_plan`] returns, with the state of governance; `replaced` nodes keep
/// their revisions.
pub(crate) fn effective_state(
    plan: &Arc<Plan>,
    log: &dyn LogReader,
    archive: &Store,
    replaced: &BTreeSet<String>,
) -> Result<(Arc<Plan>, GovernanceState), GovernanceError> {
    let frames = read_topic(log, archive, Topic::Control)?;
    let backfills = backfills_of(&frames)?;
    let steps = steps_of(&frames)?;
    let unchanged = steps.is_empty();
    let effective = lifecycle(plan, steps, replaced).and_then(|lifecycle| {
        if unchanged {
            return Ok((Arc::clone(plan), lifecycle));
        }
        let revised = Plan::with_revisions(plan.topology.clone(), &revisions(&lifecycle));
        Ok((Arc::new(revised.map_err(GovernanceError::Diagnostics)?), lifecycle))
    });
    match effective {
        Ok((effective, lifecycle)) => {
            assert_eq!(effective.digest, plan.digest, "revisions do not change the digest of a plan");
            Ok((effective, GovernanceState { lifecycle, backfills }))
        }
        // Steps that do not follow, or cannot be planned, most often belong to another topology.
        Err(error) => {
            let location = log.location();
            let data = location.parent().unwrap_or(&location);
            let (from, to) = (Bound::Group(0), Some(Bound::Group(1)));
            for group in read_range(log, Some(archive), from, to, Preference::Log)? {
                ControlHistory::default().add(plan, data, &group?.frames)?;
            }
            Err(error)
        }
    }
}

/// The steps, the backfills and the receipts of control facts in a log, collected group by group.
#[derive(Default)]
pub(super) struct ControlHistory {
    plan_match: PlanMatch,
    /// Whether a run began the log.
    pub has_run: bool,
    steps: Vec<(Tick, StepRecord)>,
    pub backfills: Vec<(Tick, BackfillRecord)>,
    /// Which control facts have a receipt.
    pub receipts: ResumePoint,
}

/// What the plan that began a log must have in common with the plan at hand.
#[derive(Clone, Copy, Default)]
pub(super) enum PlanMatch {
    /// Everything: a revision belongs to that plan.
    #[default]
    SamePlan,
    /// What decides how its facts are read; a backfill may compute anything else from them.
    SameGate,
}

impl PlanMatch {
    fn check(self, plan: &Plan, data: &Path, run: RunRecord) -> Result<(), GovernanceError> {
        let data = data.to_owned();
        match self {
            PlanMatch::SamePlan if run.plan != plan.digest => {
                Err(GovernanceError::OtherPlan { data, found: run.plan, expected: plan.digest })
            }
            PlanMatch::SameGate
                if (&run.topology, run.partitions) != (&plan.topology.name, plan.topology.partitions)
                    || run.policy != plan.policies.first().rev() =>
            {
                let policy = format!("{} {}", run.policy.policy_id, run.policy.revision);
                let RunRecord { topology, partitions, .. } = run;
                Err(GovernanceError::OtherGate { data, topology, policy, partitions })
            }
            _ => Ok(()),
        }
    }
}

impl ControlHistory {
    pub fn new(plan_match: PlanMatch) -> ControlHistory {
        ControlHistory { plan_match, ..ControlHistory::default() }
    }

    /// Adds the frames of the next group.
    pub fn add(&mut self, plan: &Plan, data: &Path, frames: &[Frame]) -> Result<(), GovernanceError> {
        self.steps.extend(steps_of(frames)?);
        self.backfills.extend(backfills_of(frames)?);
        for frame in frames.iter().filter(|frame| frame.topic == Topic::Audit) {
            if frame.name == RUN {
                self.plan_match.check(plan, data, read_run_record(frame)?)?;
                self.has_run = true;
            } else if frame.name == RECEIPTS {
                let unreadable = |error: tidegate_facts::audit::AuditError| GovernanceError::Unreadable {
                    what: error.to_string(),
                };
                let receipts = Receipts::read(&frame.rows).map_err(unreadable)?;
                for row in (0..receipts.len()).filter(|row| receipts.source(*row) == SOURCE) {
                    let order_time = receipts.order_time(row).unwrap_or(i64::MIN);
                    self.receipts.add_receipt(receipts.position(row), order_time);
                }
            }
        }
        Ok(())
    }

    /// The lifecycle after all steps.
    ///
    /// # Errors
    /// When no run began the log, or the steps do not follow from each other.
    pub fn lifecycle(self, plan: &Plan, data: &Path) -> Result<Lifecycle, GovernanceError> {
        if !self.has_run {
            return Err(GovernanceError::NothingRan { data: data.to_owned() });
        }
        lifecycle(plan, self.steps, &BTreeSet::new())
    }
}
