//! A plan as a timely graph.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use arrow::compute::concat_batches;
use tidegate_facts::{Digest, Tick};
use tidegate_operators::as_of::{AsOf, as_of};
use tidegate_operators::expr::{Expr, Projection, Split, error_schema, filter};
use tidegate_operators::rows::{RowStream, Rows};
use tidegate_operators::snapshot::with_snapshot;
use tidegate_operators::streams::map_rows;
use tidegate_operators::windows::{WindowGroup, windows};
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Commits, Format, TableError, TableFile, Unsealed};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Capability, Concatenate, InspectCore, Operator, Probe, probe};
use timely::dataflow::{Scope, Stream};

use crate::plan::{ERRORS_TABLE, Plan, Step, StepKind};
use crate::topology::TableFormat;
use crate::watch::Watch;

/// Where committed tables go, and what is there already.
#[derive(Clone)]
pub struct Output {
    /// The store.
    pub store: Store,
    /// The plan's digest, which commits carry.
    pub plan: Digest,
    /// The commits that were there when the run began.
    pub commits: Commits,
    /// The first failure of a sink; the run stops on it.
    pub failed: Arc<Mutex<Option<TableError>>>,
}

/// A stream of commit boundaries, the same on every worker.
pub type BoundaryStream<'scope> = Stream<'scope, Tick, Vec<Tick>>;

/// What a worker watches of its graph.
pub struct Probes {
    /// How far rows have reached the sinks; holds back the feed.
    pub computed: probe::Handle<Tick>,
    /// How far commits have got.
    pub committed: probe::Handle<Tick>,
}

/// Builds the graph of `plan` behind its gate, whose rows are `facts`.
pub fn build<'scope>(
    scope: Scope<'scope, Tick>,
    plan: &Plan,
    facts: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    output: &Output,
    watch: &Watch,
) -> Probes {
    let computed = probe::Handle::new();
    let mut streams: BTreeMap<String, RowStream<'scope>> = BTreeMap::new();
    streams.insert(plan.gate.clone(), facts);
    let mut errors: Vec<RowStream<'scope>> = Vec::new();
    let mut files = Vec::new();
    for step in &plan.steps {
        let input = streams[&step.inputs[0]].clone();
        let rows = match &step.kind {
            StepKind::Filter(condition) => {
                let (condition, node) = (condition.clone(), step.name.clone());
                checked(
                    map_rows(input, &step.name, move |batch| filter(&node, &condition, &batch)),
                    &mut errors,
                )
            }
            StepKind::Project(projection) => {
                let projection = Arc::clone(projection);
                checked(map_rows(input, &step.name, move |batch| projection.apply(&batch)), &mut errors)
            }
            StepKind::Union => scope.concatenate(step.inputs.iter().map(|input| streams[input].clone())),
            StepKind::Decide(deciders) => {
                let deciders = Arc::clone(deciders);
                checked(map_rows(input, &step.name, move |batch| deciders.decide(&batch)), &mut errors)
            }
            StepKind::Windows(groups) => {
                let groups = groups.iter().map(|group| {
                    let over = streams[&group.over].clone();
                    WindowGroup {
                        over: narrow(over, &step.name, group.condition.clone(), &group.narrow, &mut errors),
                        key: group.key,
                        time: group.time,
                        plan: group.plan.clone(),
                        measures: group.measures.clone(),
                        names: group.names.clone(),
                    }
                });
                let groups: Vec<_> = groups.collect();
                let first =
                    step.schema.fields().len() - 2 - groups.iter().map(|g| g.names.len()).sum::<usize>();
                let features = first..step.schema.fields().len() - 2;
                let answered = windows(input, groups, &step.name);
                let digested =
                    move |batch| Split { passed: with_snapshot(&batch, features.clone()), errors: None };
                map_rows(answered, &format!("{}: snapshot", step.name), digested).0
            }
            StepKind::AsOf(plan) => {
                let timeline = streams[&plan.timeline].clone();
                let settings = AsOf {
                    timeline: narrow(timeline, &step.name, None, &plan.narrow, &mut errors),
                    key: plan.key,
                    time: plan.time,
                    status: plan.status.clone(),
                    values: plan.values.clone(),
                };
                as_of(input, settings, &step.name)
            }
            StepKind::Table(table) => {
                let rows = counted(input, step, watch).probe_with(&computed);
                let format = match table.format {
                    TableFormat::Parquet => Format::Parquet,
                    TableFormat::Jsonl => Format::Jsonl,
                };
                let unsealed =
                    Unsealed::new(&table.table, Arc::clone(&step.schema), format, output.commits.upper());
                let columns = table.columns.clone();
                files.push(seal(rows, boundaries.clone(), unsealed, Some(columns), output, &step.name));
                continue;
            }
        };
        streams.insert(step.name.clone(), counted(rows, step, watch));
    }
    let errors = scope.concatenate(errors).probe_with(&computed);
    let unsealed = Unsealed::new(ERRORS_TABLE, error_schema(), Format::Parquet, output.commits.upper());
    files.push(seal(errors, boundaries.clone(), unsealed, None, output, ERRORS_TABLE));
    let committed = publish(scope.concatenate(files), boundaries, output);
    Probes { computed, committed }
}

/// The rows that passed; the errors are put with the others.
fn checked<'scope>(
    (passed, failed): (RowStream<'scope>, RowStream<'scope>),
    errors: &mut Vec<RowStream<'scope>>,
) -> RowStream<'scope> {
    errors.push(failed);
    passed
}

fn counted<'scope>(rows: RowStream<'scope>, step: &Step, watch: &Watch) -> RowStream<'scope> {
    let counter = watch.rows_of(&step.name);
    rows.inspect_container(move |event| {
        if let Ok((_, rows)) = event {
            counter.add(rows.0.num_rows() as u64);
        }
    })
}

/// The rows of a timeline: those that hold the condition, with only the columns it keeps.
fn narrow<'scope>(
    rows: RowStream<'scope>,
    node: &str,
    condition: Option<Expr>,
    projection: &Arc<Projection>,
    errors: &mut Vec<RowStream<'scope>>,
) -> RowStream<'scope> {
    let (name, projection) = (node.to_owned(), Arc::clone(projection));
    let step = move |batch| match &condition {
        None => projection.apply(&batch),
        Some(condition) => {
            let held = filter(&name, condition, &batch);
            let narrow = projection.apply(&held.passed);
            let both: Vec<_> = held.errors.into_iter().chain(narrow.errors).collect();
            let errors =
                (!both.is_empty()).then(|| concat_batches(&error_schema(), &both).expect("one schema"));
            Split { passed: narrow.passed, errors }
        }
    };
    checked(map_rows(rows, &format!("{node}: narrow"), step), errors)
}

/// Keeps rows until a commit boundary has passed, writes them, and tells which files were made.
///
/// * Output: the files of each interval, at a time within it.
/// * State: the rows since the last boundary.
fn seal<'scope>(
    rows: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    mut unsealed: Unsealed,
    columns: Option<Vec<usize>>,
    output: &Output,
    name: &str,
) -> Stream<'scope, Tick, Vec<(Tick, TableFile)>> {
    let (store, failed, committed) =
        (output.store.clone(), Arc::clone(&output.failed), output.commits.upper());
    let mut due: VecDeque<Tick> = VecDeque::new();
    let mut held: Option<Capability<Tick>> = None;
    rows.binary_frontier(boundaries, Pipeline, Pipeline, name, move |_, _| {
        move |(rows, frontier), (boundaries, _), output| {
            boundaries.for_each(|_, ticks| due.extend(ticks.drain(..).filter(|tick| *tick > committed)));
            rows.for_each(|time, rows: &mut Rows| {
                if held.as_ref().is_none_or(|held| time.time() < held.time()) {
                    held = Some(time.retain(0));
                }
                let rows = std::mem::take(rows).0;
                unsealed.insert(&match &columns {
                    Some(columns) => rows.project(columns).expect("the plan gave the places"),
                    None => rows,
                });
            });
            while let Some(upper) = due.front().copied() {
                if frontier.frontier().iter().any(|tick| *tick < upper)
                    || failed.lock().expect("no panic").is_some()
                {
                    break;
                }
                due.pop_front();
                match unsealed.seal_before(upper, &store) {
                    Ok(files) => {
                        if let Some(held) = &mut held {
                            let files = files.into_iter().map(|file| (upper, file));
                            output.session(held).give_iterator(files);
                            if *held.time() < upper {
                                held.downgrade(&upper);
                            }
                        }
                    }
                    Err(error) => *failed.lock().expect("no panic") = Some(error),
                }
            }
            // What is held must not be later than a row that is still to be written, nor keep
            // commits back when there is none.
            if unsealed.is_empty() {
                held = None;
            }
        }
    })
}

/// Publishes each interval once the files of all tables are there.
fn publish<'scope>(
    files: Stream<'scope, Tick, Vec<(Tick, TableFile)>>,
    boundaries: BoundaryStream<'scope>,
    output: &Output,
) -> probe::Handle<Tick> {
    let output = output.clone();
    let commits = RefCell::new(output.commits.clone());
    let committed = output.commits.upper();
    let mut due: VecDeque<Tick> = VecDeque::new();
    let mut waiting: BTreeMap<Tick, Vec<TableFile>> = BTreeMap::new();
    let mut held: VecDeque<Capability<Tick>> = VecDeque::new();
    let is_publisher = files.scope().index() == 0;
    let handle = probe::Handle::new();
    let published: Stream<'scope, Tick, Vec<Tick>> = files.binary_frontier(
        boundaries,
        Exchange::new(|_: &(Tick, TableFile)| 0),
        Pipeline,
        "publish",
        move |_, _| {
            move |(files, frontier), (boundaries, _), published| {
                files.for_each(|_, files| {
                    for (upper, file) in files.drain(..) {
                        waiting.entry(upper).or_default().push(file);
                    }
                });
                boundaries.for_each(|time, ticks| {
                    for tick in ticks.drain(..).filter(|tick| is_publisher && *tick > committed) {
                        due.push_back(tick);
                        held.push_back(time.retain(0));
                    }
                });
                while let Some(upper) = due.front().copied() {
                    let failed = output.failed.lock().expect("no panic").is_some();
                    if failed || frontier.frontier().iter().any(|tick| *tick < upper) {
                        break;
                    }
                    due.pop_front();
                    let files = waiting.remove(&upper).unwrap_or_default();
                    match commits.borrow_mut().publish(upper, output.plan, files, &output.store) {
                        Ok(()) => {
                            let capability = held.pop_front().expect("one for each boundary");
                            published.session(&capability).give(upper);
                        }
                        Err(error) => *output.failed.lock().expect("no panic") = Some(error),
                    }
                }
            }
        },
    );
    published.probe_with(&handle);
    handle
}
