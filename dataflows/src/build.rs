//! A plan as a timely graph.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tidegate_facts::Tick;
use tidegate_operators::as_of::{AsOf, as_of};
use tidegate_operators::expr::{Expr, Projection, Split, error_schema, filter};
use tidegate_operators::rows::{RowStream, Rows};
use tidegate_operators::seal::episodes;
use tidegate_operators::snapshot::with_snapshot;
use tidegate_operators::streams::map_rows;
use tidegate_operators::windows::{WindowGroup, windows};
use tidegate_sinks::table::{Format, Interval, TableFile, Unsealed};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Capability, Concatenate, InspectCore, Operator, Probe, probe};
use timely::dataflow::{Scope, Stream};

use crate::output::{Boundary, Output};
use crate::plan::{ERRORS_TABLE, Plan, Step, StepKind};
use crate::topology::TableFormat;
use crate::watch::Watch;

/// A stream of commit boundaries, the same on every worker.
pub type BoundaryStream<'scope> = Stream<'scope, Tick, Vec<Boundary>>;

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
            StepKind::Seal(columns) => {
                let (columns, plan) = (columns.clone(), output.plan);
                let sealed = move |batch: RecordBatch| {
                    let chosen = batch.project(&columns).expect("the plan gave the places");
                    Split { passed: episodes(&chosen, &plan), errors: None }
                };
                map_rows(input, &step.name, sealed).0
            }
            StepKind::Table(table) => {
                if !output.outlet.wants(table.format) {
                    continue;
                }
                let rows = counted(input, step, watch).probe_with(&computed);
                let format = match table.format {
                    TableFormat::Parquet | TableFormat::Sealed => Format::Parquet,
                    TableFormat::Jsonl => Format::Jsonl,
                };
                let mut unsealed =
                    Unsealed::new(&table.table, Arc::clone(&step.schema), format, output.lower);
                if table.format == TableFormat::Sealed {
                    unsealed = unsealed.sealed(output.chains.get(&table.table).cloned().unwrap_or_default());
                }
                let columns = table.columns.clone();
                files.push(keep(rows, boundaries.clone(), unsealed, Some(columns), output, &step.name));
                continue;
            }
        };
        streams.insert(step.name.clone(), counted(rows, step, watch));
    }
    let errors = scope.concatenate(errors).probe_with(&computed);
    if output.outlet.wants(TableFormat::Parquet) {
        let unsealed = Unsealed::new(ERRORS_TABLE, error_schema(), Format::Parquet, output.lower);
        files.push(keep(errors, boundaries.clone(), unsealed, None, output, ERRORS_TABLE));
    }
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

/// Keeps rows until a commit boundary has passed, hands them to the outlet, and tells which files were made.
///
/// * Output: the files of each interval, at a time within it.
/// * State: the rows since the last boundary.
fn keep<'scope>(
    rows: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    mut unsealed: Unsealed,
    columns: Option<Vec<usize>>,
    output: &Output,
    name: &str,
) -> Stream<'scope, Tick, Vec<(Tick, TableFile)>> {
    let (outlet, failed, lower) = (Arc::clone(&output.outlet), Arc::clone(&output.failed), output.lower);
    let mut due: VecDeque<Tick> = VecDeque::new();
    let mut held: Option<Capability<Tick>> = None;
    rows.binary_frontier(boundaries, Pipeline, Pipeline, name, move |_, _| {
        move |(rows, frontier), (boundaries, _), output| {
            boundaries.for_each(|_, new| due.extend(new.drain(..).map(|b| b.upper).filter(|b| *b > lower)));
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
                let taken: Result<Vec<Option<TableFile>>, _> =
                    unsealed.cut_before(upper).iter().map(|cut| outlet.take(cut)).collect();
                match taken {
                    Ok(files) => {
                        if let Some(held) = &mut held {
                            let files = files.into_iter().flatten().map(|file| (upper, file));
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

/// Closes each interval once the files of all tables are there.
fn publish<'scope>(
    files: Stream<'scope, Tick, Vec<(Tick, TableFile)>>,
    boundaries: BoundaryStream<'scope>,
    output: &Output,
) -> probe::Handle<Tick> {
    let output = output.clone();
    let mut due: VecDeque<(Boundary, Capability<Tick>)> = VecDeque::new();
    let mut waiting: BTreeMap<Tick, Vec<TableFile>> = BTreeMap::new();
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
                boundaries.for_each(|time, boundaries| {
                    let new = boundaries.drain(..).filter(|b| is_publisher && b.upper > output.lower);
                    due.extend(new.map(|boundary| (boundary, time.retain(0))));
                });
                while let Some((Boundary { upper, log }, _)) = due.front() {
                    let failed = output.failed.lock().expect("no panic").is_some();
                    if failed || frontier.frontier().iter().any(|tick| tick < upper) {
                        break;
                    }
                    let files = waiting.remove(upper).unwrap_or_default();
                    let interval = Interval { upper: *upper, plan: output.plan, log: (**log).clone(), files };
                    match output.outlet.close(interval) {
                        Ok(()) => {
                            let (boundary, capability) = due.pop_front().expect("it was just seen");
                            published.session(&capability).give(boundary.upper);
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
