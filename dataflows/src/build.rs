//! A plan as a timely graph.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{concat_batches, max};
use arrow::datatypes::TimestampMicrosecondType;
use tidegate_facts::Tick;
use tidegate_operators::as_of::{AsOf, as_of};
use tidegate_operators::expr::{Expr, Projection, Split, error_schema, filter};
use tidegate_operators::rows::{RowStream, Rows};
use tidegate_operators::seal::episodes;
use tidegate_operators::snapshot::with_snapshot;
use tidegate_operators::streams::map_rows;
use tidegate_operators::windows::{WindowGroup, windows};
use tidegate_sinks::checkpoint::Piece;
use tidegate_sinks::table::{Cut, Format, Interval, TableError, Unsealed};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Capability, Concatenate, InspectCore, Operator, Probe, probe};
use timely::dataflow::{Scope, Stream};

use crate::output::{Boundary, Made, Output};
use crate::plan::{ERRORS_TABLE, Plan, Step, StepKind};
use crate::topology::TableFormat;
use crate::watch::Watch;

/// A stream of commit boundaries, the same on every worker.
pub type BoundaryStream<'scope> = Stream<'scope, Tick, Vec<Boundary>>;

/// What was made of intervals, by their upper ends.
type MadeStream<'scope> = Stream<'scope, Tick, Vec<(Tick, Made)>>;

/// What a worker watches of its graph.
pub struct Probes {
    /// How far rows have reached the sinks; holds back the feed.
    pub computed: probe::Handle<Tick>,
    /// How far commits have got.
    pub committed: probe::Handle<Tick>,
}

/// Builds the graph of `plan` behind its gate, whose rows are `facts`; `restored` has the rows that came to its
/// timelines before, by timeline.
pub fn build<'scope>(
    scope: Scope<'scope, Tick>,
    plan: &Plan,
    facts: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    mut restored: BTreeMap<String, RowStream<'scope>>,
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
                let groups = groups.iter().enumerate().map(|(place, group)| {
                    let over = streams[&group.over].clone();
                    let over = narrow(over, &step.name, group.condition.clone(), &group.narrow, &mut errors);
                    let name = timeline_name(&step.name, place);
                    files.extend(keep_pieces(&over, &boundaries, &group.narrow, output, &name));
                    WindowGroup {
                        over: with_restored(over, restored.remove(&name)),
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
                let timeline = narrow(timeline, &step.name, None, &plan.narrow, &mut errors);
                let name = timeline_name(&step.name, 0);
                files.extend(keep_pieces(&timeline, &boundaries, &plan.narrow, output, &name));
                let settings = AsOf {
                    timeline: with_restored(timeline, restored.remove(&name)),
                    key: plan.key,
                    time: plan.time,
                    status: plan.status.clone(),
                    tick: plan.tick.clone(),
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
                let chosen = map_rows(rows, &step.name, move |batch: RecordBatch| Split {
                    passed: batch.project(&columns).expect("the plan gave the places"),
                    errors: None,
                });
                files.push(keep_files(chosen.0, &boundaries, unsealed, output, &step.name));
                continue;
            }
        };
        streams.insert(step.name.clone(), counted(rows, step, watch));
    }
    let errors = scope.concatenate(errors).probe_with(&computed);
    if output.outlet.wants(TableFormat::Parquet) {
        let unsealed = Unsealed::new(ERRORS_TABLE, error_schema(), Format::Parquet, output.lower);
        files.push(keep_files(errors, &boundaries, unsealed, output, ERRORS_TABLE));
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

/// What a timeline of a node is called in checkpoints.
pub fn timeline_name(node: &str, place: usize) -> String {
    format!("{node}/{place}")
}

/// The rows of a timeline, and those that came to it before.
fn with_restored<'scope>(rows: RowStream<'scope>, before: Option<RowStream<'scope>>) -> RowStream<'scope> {
    match before {
        Some(before) => rows.scope().concatenate([rows, before]),
        None => rows,
    }
}

/// Hands the rows of a table to the outlet, interval by interval.
fn keep_files<'scope>(
    rows: RowStream<'scope>,
    boundaries: &BoundaryStream<'scope>,
    unsealed: Unsealed,
    output: &Output,
    name: &str,
) -> MadeStream<'scope> {
    let outlet = Arc::clone(&output.outlet);
    let take = move |cut: &Cut| Ok(outlet.take(cut)?.map(Made::File));
    keep(rows, boundaries.clone(), unsealed, output.lower, take, Arc::clone(&output.failed), name)
}

/// Writes the rows of a timeline as pieces of the state, if the outlet keeps it.
fn keep_pieces<'scope>(
    rows: &RowStream<'scope>,
    boundaries: &BoundaryStream<'scope>,
    narrow: &Projection,
    output: &Output,
    timeline: &str,
) -> Option<MadeStream<'scope>> {
    let store = output.outlet.state()?.clone();
    let lower = output.restored;
    let unsealed = Unsealed::new(timeline, Arc::clone(narrow.schema()), Format::Parquet, lower);
    let name = timeline.to_owned();
    let take = move |cut: &Cut| {
        // A timeline's columns are tick, key and time, then what is kept.
        let last = max(cut.rows.column(2).as_primitive::<TimestampMicrosecondType>()).unwrap_or(i64::MIN);
        let piece = Piece::write(&name, cut.partition, (cut.lower, cut.upper), last, &cut.rows, &store)?;
        Ok(Some(Made::Piece(piece)))
    };
    let failed = Arc::clone(&output.failed);
    let operator = format!("{}: state", timeline.split('/').next().unwrap_or(timeline));
    Some(keep(rows.clone(), boundaries.clone(), unsealed, lower, take, failed, &operator))
}

/// Keeps rows until a commit boundary has passed, has them taken, and tells what was made of them.
///
/// * Output: what was made of each interval, at a time within it.
/// * State: the rows since the last boundary.
fn keep<'scope>(
    rows: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    mut unsealed: Unsealed,
    lower: Tick,
    take: impl Fn(&Cut) -> Result<Option<Made>, TableError> + 'static,
    failed: Arc<Mutex<Option<TableError>>>,
    name: &str,
) -> MadeStream<'scope> {
    let mut due: VecDeque<Tick> = VecDeque::new();
    let mut held: Option<Capability<Tick>> = None;
    rows.binary_frontier(boundaries, Pipeline, Pipeline, name, move |_, _| {
        move |(rows, frontier), (boundaries, _), output| {
            boundaries.for_each(|_, new| due.extend(new.drain(..).map(|b| b.upper).filter(|b| *b > lower)));
            rows.for_each(|time, rows: &mut Rows| {
                if held.as_ref().is_none_or(|held| time.time() < held.time()) {
                    held = Some(time.retain(0));
                }
                unsealed.insert(&std::mem::take(rows).0);
            });
            while let Some(upper) = due.front().copied() {
                if frontier.frontier().iter().any(|tick| *tick < upper)
                    || failed.lock().expect("no panic").is_some()
                {
                    break;
                }
                due.pop_front();
                let taken: Result<Vec<Option<Made>>, _> =
                    unsealed.cut_before(upper).iter().map(&take).collect();
                match taken {
                    Ok(made) => {
                        if let Some(held) = &mut held {
                            let made = made.into_iter().flatten().map(|made| (upper, made));
                            output.session(held).give_iterator(made);
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
    files: MadeStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    output: &Output,
) -> probe::Handle<Tick> {
    let output = output.clone();
    let mut due: VecDeque<(Boundary, Capability<Tick>)> = VecDeque::new();
    let mut waiting: BTreeMap<Tick, Vec<Made>> = BTreeMap::new();
    let is_publisher = files.scope().index() == 0;
    // Intervals whose state is not restored are behind it again, also where their tables are committed.
    let lower =
        if output.outlet.state().is_some() { output.restored.min(output.lower) } else { output.lower };
    let handle = probe::Handle::new();
    let published: Stream<'scope, Tick, Vec<Tick>> = files.binary_frontier(
        boundaries,
        Exchange::new(|_: &(Tick, Made)| 0),
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
                    let new = boundaries.drain(..).filter(|b| is_publisher && b.upper > lower);
                    due.extend(new.map(|boundary| (boundary, time.retain(0))));
                });
                while let Some((boundary, _)) = due.front() {
                    let upper = boundary.upper;
                    let failed = output.failed.lock().expect("no panic").is_some();
                    if failed || frontier.frontier().iter().any(|tick| *tick < upper) {
                        break;
                    }
                    match close(&output, boundary, waiting.remove(&upper).unwrap_or_default()) {
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

/// Closes the interval that ends at a boundary, unless that was done before, and keeps the state there.
fn close(output: &Output, boundary: &Boundary, made: Vec<Made>) -> Result<(), TableError> {
    let (mut files, mut pieces) = (Vec::new(), Vec::new());
    for made in made {
        match made {
            Made::File(file) => files.push(file),
            Made::Piece(piece) => pieces.push(piece),
        }
    }
    if boundary.upper > output.lower {
        let log = (*boundary.log).clone();
        output.outlet.close(Interval { upper: boundary.upper, plan: output.plan, log, files })?;
    }
    output.outlet.checkpoint(boundary, pieces)
}
