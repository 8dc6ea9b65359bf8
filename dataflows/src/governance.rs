//! Governed change: steps come through the gate's door into the log, and plans follow what they brought into force.
//!
//! A step is judged twice before it is a fact: by the lifecycle, which says whether it may be taken, and by
//! the gate, under a policy of its own. A proposal is planned with everything that is in force beside it,
//! so what cannot run is never proposed. [`in_force`] reads the steps back, and gives the plan with every
//! revision from its tick on; a run and a replay both begin with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, UInt64Type};
use tidegate_facts::backfill::{self, BackfillRecord};
use tidegate_facts::governance::{
    DOOR, EVENT_TYPE, Kind, PRODUCER, Revision, SCHEMA_VERSION, SOURCE, Step, StepRecord, Subject, short,
};
use tidegate_facts::time::to_rfc3339;
use tidegate_facts::{Context, Digest, EventClass, Tick, Topic, Verdict as GateVerdict};
use tidegate_operators::changes::{of_bundles, of_policies};
use tidegate_operators::decide::BundleText;
use tidegate_operators::gate::{GatePolicy, Judge, Judged, Refused};
use tidegate_sinks::archive::{ArchiveError, Bound, Preference, read_range, read_topic};
use tidegate_sinks::dedupe::{DedupeError, DedupeIndex};
use tidegate_sinks::log::{EmbeddedLog, Frame, Group, LogError, LogOptions};
use tidegate_sinks::sequencer::Sequencer;
use tidegate_sinks::store::{Store, StoreError};
use tidegate_sinks::table::{Commits, TableError};

pub use tidegate_operators::changes::Change;
pub use tidegate_operators::lifecycle::{Lifecycle, Proposal, Refusal, Verdict};

use crate::admission::{Admission, AdmissionError, RECEIPTS, RUN, RunRecord};
use crate::memory::Memory;
use crate::plan::{Plan, RevisionText, Revisions, StepKind, judge_of};
use crate::reorder::{Reorder, Resume};
use crate::run::now;
use crate::settings::Fault;
use crate::sources::ANY_TIME;
use crate::topology::{Clock, NodeKind};

/// Why a step was not taken, or what is in force cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum GovernanceError {
    /// The step may not be taken now.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The revision cannot run.
    #[error("the revision cannot come into force:{}", .0.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
    Faults(Vec<Fault>),
    /// The gate refused the step's record.
    #[error("the gate refused the step ({reason}): {detail}")]
    Gate {
        /// The code of the reason.
        reason: String,
        /// What exactly is wrong.
        detail: String,
    },
    /// Control facts have pins.
    #[error(
        "[run] of the topology lacks {}, which every control fact carries; only a topology that began with them can be \
         revised",
        .missing.join(", ")
    )]
    Pins {
        /// The pins.
        missing: Vec<&'static str>,
    },
    /// A file cannot be read.
    #[error("revision `{path}` cannot be read; check the path")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A run has the log open.
    #[error(
        "a run is active on `{data}`{} and alone may add to its log; take the step when it has ended",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Running {
        /// The data folder.
        data: PathBuf,
        /// The process, if its id is known.
        pid: Option<u32>,
    },
    /// No run began a log there.
    #[error(
        "nothing ran on `{data}` yet, so nothing can be revised there; change the file that the topology names, or run it first"
    )]
    NothingRan {
        /// The data folder.
        data: PathBuf,
    },
    /// The log is another plan's.
    #[error(
        "`{data}` holds the log of plan {found}, and this topology is plan {wanted}; give the files and --set with which \
         it was started: a revision comes with --file, and does not replace them"
    )]
    OtherPlan {
        /// The data folder.
        data: PathBuf,
        /// Its plan.
        found: Digest,
        /// The topology's.
        wanted: Digest,
    },
    /// The log is of another topology, gate or number of partitions, so a backfill cannot read it.
    #[error(
        "`{data}` holds the log of topology `{topology}` with gate policy {policy} and {partitions} partitions, and a \
         backfill of it must have the same: start from the topology and the --set of its first run, and change what \
         stands behind the gate"
    )]
    OtherDoor {
        /// The data folder.
        data: PathBuf,
        /// Its topology.
        topology: String,
        /// Its policy: name and revision.
        policy: String,
        /// How many partitions it has.
        partitions: u16,
    },
    /// A step in the log is not one that could have been taken.
    #[error(
        "the step at {tick} in the log does not follow from those before it; the log was not written by this program alone"
    )]
    Foreign {
        /// Its tick.
        tick: Tick,
        /// Why not.
        source: Box<Refusal>,
    },
    /// A step in the log cannot be read.
    #[error("the log holds a step that cannot be read: {what}; another version of Tidegate wrote it")]
    Unreadable {
        /// What is wrong with it.
        what: String,
    },
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Log or archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commits cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The index of what was seen refused.
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    /// Admission stopped.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
}

impl From<Refusal> for GovernanceError {
    fn from(refusal: Refusal) -> GovernanceError {
        GovernanceError::Refused(Box::new(refusal))
    }
}

/// A step that someone asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What.
    pub what: Wish,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// That the text of a file comes into force at a node.
    Propose {
        /// The node.
        node: String,
        /// What the text is called in faults.
        file: PathBuf,
        /// The text of the revision.
        text: String,
        /// The digest that must be in force now, when the asker names one.
        before: Option<Digest>,
    },
    /// A step about a proposal, which is named by its id or the first digits of it.
    Follow(Step, String),
    /// That what was in force before at a node is in force again.
    RollBack(String),
}

/// A step that was taken, or had been before.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The step.
    pub record: StepRecord,
    /// Its tick.
    pub tick: Tick,
    /// Whether the same step had been taken before, and nothing has changed.
    pub repeated: bool,
    /// What the revision changes against the one before it.
    pub changes: Vec<Change>,
}

/// The judge of steps. Their partition is the first, so that they are in one order.
pub(crate) fn door() -> Judge {
    let policy = GatePolicy::parse(DOOR).expect("the built-in policy has no fault");
    judge_of(&Arc::new(policy), 1, ANY_TIME)
}

/// What a plan lets be revised, and what it began with.
fn subjects(plan: &Plan) -> Vec<(Subject, Revision)> {
    let rev = plan.policies.first().rev();
    let gate = Subject { kind: Kind::GatePolicy, node: plan.gate.clone() };
    let policy = Revision { id: rev.policy_id, version: rev.revision, digest: rev.content_digest };
    let bundles = plan.steps.iter().filter_map(|step| {
        let StepKind::Decide(deciders) = &step.kind else { return None };
        let first = deciders.first();
        let revision = Revision {
            id: first.bundle_id.clone(),
            version: first.bundle_version.clone(),
            digest: first.bundle_digest,
        };
        Some((Subject { kind: Kind::Bundle, node: step.name.clone() }, revision))
    });
    bundles.chain([(gate, policy)]).collect()
}

/// The backfills in some frames, step by step.
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

/// Every step of every backfill of the log in `folder`, in their order; what was pruned of it is read from `archive`.
/// A run may be active on it.
///
/// # Errors
/// When they cannot be read.
pub fn backfills(folder: &Path, archive: &Store) -> Result<Vec<(Tick, BackfillRecord)>, GovernanceError> {
    backfills_of(&read_topic(folder, archive, Topic::Control)?)
}

/// How the revisions of a plan stand after the given steps.
///
/// A subject whose revision in the topology is not the one that the log began with was replaced by hand, and so
/// were the `replaced` nodes: each keeps its own throughout.
fn lifecycle(
    plan: &Plan,
    steps: Vec<(Tick, StepRecord)>,
    replaced: &BTreeSet<String>,
) -> Result<Lifecycle, GovernanceError> {
    let initial = subjects(plan);
    let mut began: BTreeMap<Subject, Digest> = BTreeMap::new();
    for (_, step) in &steps {
        began.entry(step.subject.clone()).or_insert(step.before);
    }
    let kept: BTreeSet<Subject> = initial
        .iter()
        .filter(|(subject, own)| began.get(subject) == Some(&own.digest) && !replaced.contains(&subject.node))
        .map(|(subject, _)| subject.clone())
        .collect();
    let mut lifecycle = Lifecycle::new(plan.topology.four_eyes, initial);
    for (tick, step) in steps.into_iter().filter(|(_, step)| kept.contains(&step.subject)) {
        lifecycle
            .apply(tick, &step)
            .map_err(|why| GovernanceError::Foreign { tick, source: Box::new(why) })?;
    }
    Ok(lifecycle)
}

/// The steps in some frames, in the order of their ticks.
fn steps_of<'f>(
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

/// The texts that came into force, by node.
fn revisions(lifecycle: &Lifecycle) -> Revisions {
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

fn text_of(proposal: &Proposal) -> RevisionText {
    let file = format!("proposal {} of {}", short(&proposal.id), proposal.subject.node).into();
    RevisionText { file, text: proposal.text.as_str().into() }
}

/// What the log in `folder` says that it was begun with; what was pruned of it is read from `archive`. `None` of an empty log.
///
/// # Errors
/// When the log's first group cannot be read.
pub fn began_with(folder: &Path, archive: &Store) -> Result<Option<RunRecord>, GovernanceError> {
    let first = read_range(folder, Some(archive), Bound::Group(0), Some(Bound::Group(1)), Preference::Log)?;
    let groups: Vec<Group> = first.collect::<Result<_, _>>()?;
    let mut frames = groups.iter().flat_map(|group| &group.frames);
    let run = frames.find(|frame| frame.topic == Topic::Audit && frame.name == RUN);
    run.map(run_record).transpose()
}

fn run_record(frame: &Frame) -> Result<RunRecord, GovernanceError> {
    let record = frame.rows.column(0).as_string::<i32>().value(0);
    serde_json::from_str(record).map_err(|error| GovernanceError::Unreadable { what: error.to_string() })
}

/// A plan with everything that came into force by the steps in the log of `folder`; what was pruned of it is read
/// from `archive`.
///
/// # Errors
/// When the steps cannot be read, do not follow from each other, or brought into force what cannot be planned.
pub fn in_force(plan: &Arc<Plan>, folder: &Path, archive: &Store) -> Result<Arc<Plan>, GovernanceError> {
    revised(plan, folder, archive, &BTreeSet::new())
}

/// As [`in_force`], except that a bundle or policy that replaces the topology's (`--set`) is in force throughout: the
/// question is what it would have decided.
///
/// # Errors
/// As [`in_force`].
pub fn supposed(plan: &Arc<Plan>, folder: &Path, archive: &Store) -> Result<Arc<Plan>, GovernanceError> {
    revised(plan, folder, archive, &plan.topology.replaced)
}

fn revised(
    plan: &Arc<Plan>,
    folder: &Path,
    archive: &Store,
    replaced: &BTreeSet<String>,
) -> Result<Arc<Plan>, GovernanceError> {
    governed(plan, folder, archive, replaced).map(|(plan, _)| plan)
}

/// How a running topology is governed.
#[derive(Clone, Debug)]
pub struct Governed {
    /// Its revisions.
    pub lifecycle: Lifecycle,
    /// Every step of every backfill of its log, in their order.
    pub backfills: Vec<(Tick, BackfillRecord)>,
}

/// As [`in_force`], and how everything stands; `replaced` nodes keep what they have.
pub(crate) fn governed(
    plan: &Arc<Plan>,
    folder: &Path,
    archive: &Store,
    replaced: &BTreeSet<String>,
) -> Result<(Arc<Plan>, Governed), GovernanceError> {
    let frames = read_topic(folder, archive, Topic::Control)?;
    let backfills = backfills_of(&frames)?;
    let steps = steps_of(&frames)?;
    let unchanged = steps.is_empty();
    let governed = lifecycle(plan, steps, replaced).and_then(|lifecycle| {
        if unchanged {
            return Ok((Arc::clone(plan), lifecycle));
        }
        let revised = Plan::with_revisions(plan.topology.clone(), &revisions(&lifecycle));
        Ok((Arc::new(revised.map_err(GovernanceError::Faults)?), lifecycle))
    });
    match governed {
        Ok((governed, lifecycle)) => {
            assert_eq!(governed.digest, plan.digest, "revisions do not move the digest of a plan");
            Ok((governed, Governed { lifecycle, backfills }))
        }
        // What does not follow, or cannot be planned, most often is another topology's.
        Err(error) => {
            let data = folder.parent().unwrap_or(folder);
            let first = (Bound::Group(0), Some(Bound::Group(1)));
            for group in read_range(folder, Some(archive), first.0, first.1, Preference::Log)? {
                Past::default().learn(plan, data, &group?.frames)?;
            }
            Err(error)
        }
    }
}

/// How the revisions of a data folder stand, read from its log while a run may be active on it; what was pruned of
/// the log is read from the archive in the folder `store`.
///
/// # Errors
/// When nothing ran there, another plan did, or the steps cannot be read.
pub fn standing(plan: &Plan, data: &Path, store: &Path) -> Result<Lifecycle, GovernanceError> {
    let log = data.join("log");
    if !log.is_dir() {
        return Err(GovernanceError::NothingRan { data: data.to_owned() });
    }
    let mut past = Past::default();
    let archive = Store::open(store)?;
    for group in read_range(&log, Some(&archive), Bound::Group(0), None, Preference::Log)? {
        past.learn(plan, data, &group?.frames)?;
    }
    past.standing(plan, data)
}

/// What the log says of the past, as far as steps need it.
#[derive(Default)]
struct Past {
    kinship: Kinship,
    began: bool,
    steps: Vec<(Tick, StepRecord)>,
    backfills: Vec<(Tick, BackfillRecord)>,
    /// Which records came through the door of steps.
    records: Resume,
}

/// What the plan that began a log must share with the one at hand.
#[derive(Clone, Copy, Default)]
enum Kinship {
    /// Everything: a revision is of that plan.
    #[default]
    Plan,
    /// What decides how its facts are read; a backfill may compute anything else from them.
    Door,
}

impl Kinship {
    fn check(self, plan: &Plan, data: &Path, run: RunRecord) -> Result<(), GovernanceError> {
        let data = data.to_owned();
        match self {
            Kinship::Plan if run.plan != plan.digest => {
                Err(GovernanceError::OtherPlan { data, found: run.plan, wanted: plan.digest })
            }
            Kinship::Door
                if (&run.topology, run.partitions) != (&plan.topology.name, plan.topology.partitions)
                    || run.policy != plan.policies.first().rev() =>
            {
                let policy = format!("{} {}", run.policy.policy_id, run.policy.revision);
                let RunRecord { topology, partitions, .. } = run;
                Err(GovernanceError::OtherDoor { data, topology, policy, partitions })
            }
            _ => Ok(()),
        }
    }
}

impl Past {
    fn learn(&mut self, plan: &Plan, data: &Path, frames: &[Frame]) -> Result<(), GovernanceError> {
        self.steps.extend(steps_of(frames)?);
        self.backfills.extend(backfills_of(frames)?);
        for frame in frames.iter().filter(|frame| frame.topic == Topic::Audit) {
            if frame.name == RUN {
                self.kinship.check(plan, data, run_record(frame)?)?;
                self.began = true;
            } else if frame.name == RECEIPTS {
                let sources = frame.rows.column(0).as_dictionary::<Int32Type>();
                let names = sources.values().as_string::<i32>();
                let positions = frame.rows.column(1).as_primitive::<UInt64Type>();
                let places = frame.rows.column_by_name("place").map(|p| p.as_primitive::<Int64Type>());
                for (row, key) in sources.keys().values().iter().enumerate() {
                    if names.value(*key as usize) == SOURCE {
                        let place = places.filter(|places| places.is_valid(row));
                        let place = place.map_or(i64::MIN, |places| places.value(row));
                        self.records.learn(positions.value(row), place);
                    }
                }
            }
        }
        Ok(())
    }

    fn standing(self, plan: &Plan, data: &Path) -> Result<Lifecycle, GovernanceError> {
        if !self.began {
            return Err(GovernanceError::NothingRan { data: data.to_owned() });
        }
        lifecycle(plan, self.steps, &BTreeSet::new())
    }
}

/// The record of a step that may be taken, whether it was taken already, and what its revision changes.
///
/// This is all that a step is before it goes through the gate; who holds the log can take it from here.
///
/// # Errors
/// Every reason against it.
pub fn prepare(
    plan: &Plan,
    lifecycle: &Lifecycle,
    asked: &Asked,
) -> Result<(StepRecord, Verdict, Vec<Change>), GovernanceError> {
    let Asked { actor, reason, what } = asked;
    let scope = plan.topology.name.as_str();
    let (record, text) = match what {
        Wish::Propose { node, file, text, before } => {
            let subject = lifecycle.subject_of(node)?.clone();
            let text = RevisionText { file: file.clone(), text: text.as_str().into() };
            let after = revision_of(subject.kind, &text)?;
            let mut record = lifecycle.propose(&subject, scope, after, &text.text, actor, reason)?;
            if let Some(before) = before {
                let after = &record.after.digest;
                record.proposal_id = StepRecord::proposal_id(&subject, scope, before, after, actor, reason);
                record.before = *before;
            }
            (record, Some(text))
        }
        Wish::Follow(step, id) => {
            let proposal = lifecycle.proposal(id)?;
            (lifecycle.follow(proposal, *step, scope, actor, reason), None)
        }
        Wish::RollBack(node) => {
            let subject = lifecycle.subject_of(node)?;
            (lifecycle.roll_back(subject, scope, actor, reason)?, None)
        }
    };
    let verdict = lifecycle.check(&record)?;
    let text = match (text, record.step) {
        (None, Step::Activated) => Some(text_of(lifecycle.proposal(&record.proposal_id.to_hex())?)),
        (text, _) => text,
    };
    if let Some(text) = text.filter(|_| verdict == Verdict::New) {
        plan_with(plan, lifecycle, &record.subject, text)?;
    }
    let changes = changes(plan, lifecycle, &record);
    Ok((record, verdict, changes))
}

/// What a revision would change against the one that it was proposed on.
pub fn changes(plan: &Plan, lifecycle: &Lifecycle, record: &StepRecord) -> Vec<Change> {
    let known = |digest: &Digest| match &record.text {
        Some(text) if record.after.digest == *digest => text.as_str().into(),
        _ => text_said(plan, lifecycle, &record.subject, digest),
    };
    let (before, after) = (known(&record.before), known(&record.after.digest));
    const READ: &str = "it was read when it was proposed, or planned";
    match record.subject.kind {
        Kind::Bundle => {
            let [before, after] = [before, after].map(|text| BundleText::parse(&text).expect(READ));
            of_bundles(&before, &after)
        }
        Kind::GatePolicy => {
            let [before, after] = [before, after].map(|text| GatePolicy::parse(&text).expect(READ));
            of_policies(&before, &after)
        }
    }
}

/// The text of a revision that was in force or proposed: that of its proposal, else of the file which the topology names.
pub fn text_said(plan: &Plan, lifecycle: &Lifecycle, subject: &Subject, digest: &Digest) -> Arc<str> {
    let mut proposed = lifecycle.in_order().into_iter().filter(|p| p.subject == *subject);
    if let Some(proposal) = proposed.find(|p| p.after.digest == *digest) {
        return proposal.text.as_str().into();
    }
    let node = plan.topology.node(&subject.node).expect("the plan has the node");
    let (NodeKind::Gate { policy: file } | NodeKind::Decide { bundle: file }) = &node.kind else {
        unreachable!("only these are revised")
    };
    Arc::clone(&plan.topology.files[&plan.topology.path_of(file)])
}

/// The name and digest of a revision.
fn revision_of(kind: Kind, revision: &RevisionText) -> Result<Revision, GovernanceError> {
    let fault = |(line, what)| Fault { file: revision.file.clone(), line, what };
    match kind {
        Kind::Bundle => BundleText::parse(&revision.text)
            .map(|bundle| Revision { digest: bundle.digest(), id: bundle.id, version: bundle.version })
            .map_err(|found| GovernanceError::Faults(found.into_iter().map(fault).collect())),
        Kind::GatePolicy => GatePolicy::parse(&revision.text)
            .map(|policy| {
                let rev = policy.rev();
                Revision { id: rev.policy_id, version: rev.revision, digest: rev.content_digest }
            })
            .map_err(|found| {
                GovernanceError::Faults(found.into_iter().map(|f| fault((f.line, f.what))).collect())
            }),
    }
}

/// Plans the topology as if the text came into force behind everything else.
fn plan_with(
    plan: &Plan,
    lifecycle: &Lifecycle,
    subject: &Subject,
    text: RevisionText,
) -> Result<(), GovernanceError> {
    let mut revisions = revisions(lifecycle);
    revisions.entry(subject.node.clone()).or_default().push((Tick(u64::MAX), Some(text)));
    Plan::with_revisions(plan.topology.clone(), &revisions).map(|_| ()).map_err(GovernanceError::Faults)
}

/// Takes a step on a data folder that no run is active on.
///
/// With the event clock the step is stamped behind the last fact, with the wall clock now. What was taken before,
/// and is asked again by the same actor for the same reason, gets a receipt as a duplicate and changes nothing.
/// What was pruned of the log is read from the archive in the folder `store`.
///
/// # Errors
/// Every reason against it; then nothing has changed.
pub fn take(
    plan: &Arc<Plan>,
    data: &Path,
    store: &Path,
    dedupe_bytes: u64,
    asked: &Asked,
) -> Result<Taken, GovernanceError> {
    let Held { plan, past, door } = hold(plan, data, store, dedupe_bytes, Kinship::Plan)?;
    let lifecycle = past.standing(&plan, data)?;
    let prepared = Prepared::new(&plan, &lifecycle, asked)?;
    let group = door.admit(&plan, prepared.said())?;
    prepared.taken(&group)
}

/// Records the next step of a backfill in a log that no run is active on, as [`take`] does with steps of revisions.
///
/// `next` is given where the log ends and the steps of all backfills in it, and says what to record; when it has
/// nothing, or what was recorded before, nothing changes.
///
/// # Errors
/// Those of `next`, and every reason against the record; then nothing has changed.
pub fn record_backfill<E: From<GovernanceError>>(
    plan: &Arc<Plan>,
    data: &Path,
    store: &Path,
    dedupe_bytes: u64,
    next: impl FnOnce(Tick, &[(Tick, BackfillRecord)]) -> Result<Option<BackfillRecord>, E>,
) -> Result<(), E> {
    let Held { plan, past, door } = hold(plan, data, store, dedupe_bytes, Kinship::Door)?;
    if !past.began {
        return Err(GovernanceError::NothingRan { data: data.to_owned() }.into());
    }
    let Some(record) = next(door.log.upper(), &past.backfills)? else { return Ok(()) };
    let said = Said {
        event_type: backfill::EVENT_TYPE,
        producer: backfill::PRODUCER,
        id: record.event_id(),
        payload: record.payload(),
    };
    door.admit(&plan, said)?;
    Ok(())
}

/// Whether the plan has the pins that control facts carry.
fn check_pins(plan: &Plan) -> Result<(), GovernanceError> {
    let missing = plan.topology.run.missing_pins(EventClass::Control);
    if missing.is_empty() { Ok(()) } else { Err(GovernanceError::Pins { missing }) }
}

/// A step that may be taken, before it goes through the gate.
pub(crate) struct Prepared {
    record: StepRecord,
    verdict: Verdict,
    changes: Vec<Change>,
}

impl Prepared {
    /// What is asked for, if nothing speaks against it.
    pub(crate) fn new(
        plan: &Plan,
        lifecycle: &Lifecycle,
        asked: &Asked,
    ) -> Result<Prepared, GovernanceError> {
        check_pins(plan)?;
        let (record, verdict, changes) = prepare(plan, lifecycle, asked)?;
        Ok(Prepared { record, verdict, changes })
    }

    /// Whether something else will be in force behind it.
    pub(crate) fn takes_effect(&self) -> bool {
        self.verdict == Verdict::New && self.record.step.takes_effect()
    }

    fn said(&self) -> Said {
        let (id, payload) = (self.record.event_id(), self.record.payload());
        Said { event_type: EVENT_TYPE, producer: PRODUCER, id, payload }
    }

    /// The step as the gate judges it, for a log that ends before `upper`; its receipt has this position.
    pub(crate) fn judged(&self, plan: &Plan, position: u64, upper: Tick) -> Result<Judged, GovernanceError> {
        let judged = judged(plan, self.said(), position, time_of_step(plan, upper));
        match judged.refused.first() {
            None => Ok(judged),
            Some(refused) => Err(gate_refused(refused)),
        }
    }

    /// What is told of it once the group that holds it is durable.
    pub(crate) fn taken(self, group: &Group) -> Result<Taken, GovernanceError> {
        let Prepared { record, verdict, changes } = self;
        Ok(match (steps_of(&group.frames)?.pop(), verdict) {
            (Some((tick, record)), _) => Taken { record, tick, repeated: false, changes },
            (None, Verdict::Repeated(tick)) => Taken { record, tick, repeated: true, changes },
            (None, Verdict::New) => unreachable!("{} of a step that is new", GateVerdict::Duplicate),
        })
    }
}

/// With the event clock a step is stamped behind the last fact, with the wall clock now.
fn time_of_step(plan: &Plan, upper: Tick) -> i64 {
    match plan.topology.clock {
        Clock::Wall => now(),
        Clock::Event => Tick(upper.0.saturating_sub(1)).micros(),
    }
}

/// One of the gate's own records, judged by the door's policy.
fn judged(plan: &Plan, said: Said, position: u64, time: i64) -> Judged {
    let line = envelope(&plan.topology.run, said, time);
    door().lines([(position, line.as_bytes())])
}

/// A log that is held for one record, and what is in it.
struct Held {
    /// The plan with all revisions.
    plan: Arc<Plan>,
    past: Past,
    door: Door,
}

/// Where the gate's own records go in.
struct Door {
    log: EmbeddedLog,
    dedupe: DedupeIndex,
    position: u64,
    order: Reorder,
}

/// A record of the gate's own.
struct Said {
    event_type: &'static str,
    producer: &'static str,
    id: String,
    payload: serde_json::Value,
}

/// Opens a log that no run is active on, and reads all of it.
fn hold(
    plan: &Arc<Plan>,
    data: &Path,
    store: &Path,
    dedupe_bytes: u64,
    kinship: Kinship,
) -> Result<Held, GovernanceError> {
    if !data.join("log").is_dir() {
        return Err(GovernanceError::NothingRan { data: data.to_owned() });
    }
    check_pins(plan)?;
    let archive = Store::open(store)?;
    // Commits are made of what was durable, so a log that ends before them has lost something.
    let acknowledged = Commits::read(&archive)?.upper();
    let (log, recovery) =
        EmbeddedLog::open_acknowledged(&data.join("log"), LogOptions::default(), acknowledged).map_err(
            |error| match error {
                LogError::Locked { pid, .. } => GovernanceError::Running { data: data.to_owned(), pid },
                other => other.into(),
            },
        )?;
    let plan = in_force(plan, log.folder(), &archive)?;
    let (mut dedupe, covered) = DedupeIndex::open(&data.join("index/dedupe"), dedupe_bytes, log.upper())?;
    let mut memory = Memory::new(&plan, covered);
    let mut past = Past { kinship, ..Past::default() };
    let end = Some(Bound::Group(recovery.groups));
    for group in read_range(log.folder(), Some(&archive), Bound::Group(0), end, Preference::Log)? {
        let group = group?;
        past.learn(&plan, data, &group.frames)?;
        memory.remember(&group, &mut dedupe)?;
    }
    let (position, order) = (past.records.next(), Reorder::new(0, past.records.clone()));
    Ok(Held { plan, past, door: Door { log, dedupe, position, order } })
}

impl Door {
    /// Appends the record, or its receipt as a duplicate.
    fn admit(self, plan: &Plan, said: Said) -> Result<Group, GovernanceError> {
        let Door { mut log, dedupe, position, order } = self;
        let upper = log.upper();
        let time = time_of_step(plan, upper);
        let ends = [((Topic::Control, 0), log.end_offset(Topic::Control, 0))];
        let ends = ends.into_iter().filter(|(_, end)| *end > 0).collect();
        let sequencer = Sequencer::after(upper, ends);
        let mut admission =
            Admission::new(plan.topology.clock, vec![(SOURCE.to_owned(), order)], sequencer, dedupe, upper);
        let judged = judged(plan, said, position, time);
        let refused = judged.refused.first().cloned();
        admission.hand_over(0, Some(judged));
        admission.take(1, time)?;
        let group = admission.group(Vec::new(), false).expect("it holds a record");
        log.append(&group)?;
        admission.durable(group.upper)?;
        match refused {
            None => Ok(group),
            Some(refused) => Err(gate_refused(&refused)),
        }
    }
}

fn gate_refused(refused: &Refused) -> GovernanceError {
    GovernanceError::Gate { reason: refused.reason.code().to_owned(), detail: refused.detail.clone() }
}

/// A record as its producer writes it.
fn envelope(run: &Context, said: Said, time: i64) -> String {
    let context = Context {
        event_type: said.event_type.to_owned(),
        schema_version: Some(SCHEMA_VERSION.to_owned()),
        producer: Some(said.producer.to_owned()),
        ..run.clone()
    };
    let mut envelope = serde_json::to_value(&context).expect("a context is plain data");
    envelope["event_id"] = said.id.into();
    envelope["ts_utc"] = to_rfc3339(time).into();
    envelope["payload"] = said.payload;
    envelope.to_string()
}
