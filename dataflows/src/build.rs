//! A plan as a timely graph.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use tidegate_facts::{Tick, columns};
use tidegate_operators::as_of::{AsOf, as_of};
use tidegate_operators::checkpointed::Checkpointed;
use tidegate_operators::entities::{PORTS, Wanted, graph_versions};
use tidegate_operators::expr::{Expr, Projection, Split, error_schema, filter};
use tidegate_operators::lookup::Wider;
use tidegate_operators::ordered::{Input, Output, Route, ordered, union};
use tidegate_operators::rejoin::rejoin;
use tidegate_operators::rows::RowStream;
use tidegate_operators::seal::Sealer;
use tidegate_operators::snapshot::Snapshots;
use tidegate_operators::streams::{map_rows, map_rows_behind};
use tidegate_operators::windows::{WindowGroup, reason_field, windows};
use tidegate_sinks::table::{Format, Unsealed};
use timely::dataflow::Scope;
use timely::dataflow::operators::{Concatenate, InspectCore, probe};

use crate::bounds::{boundary_rows, put_down_rows};
use crate::commit::{BoundaryStream, Front, Writing, keep_files, keep_pieces, publish};
use crate::live::Live;
use crate::plan::entities::{boundary_schema, version_field};
use crate::plan::state::{Made, PutDown};
use crate::plan::{ERRORS_TABLE, Plan, Step, StepKind, all_inputs};
use crate::topology::TableFormat;
use crate::watch::{Counter, Watch};

/// What a worker watches of its graph.
pub struct Probes {
    /// How far rows have reached the sinks; holds back the feed.
    pub computed: Reached,
    /// How far commits have got.
    pub committed: probe::Handle<Tick>,
}

/// How far rows have reached each sink; `None` where none come any more. A probe for each would be an operator more.
#[derive(Default)]
pub struct Reached(Vec<Rc<Cell<Option<Tick>>>>);

impl Reached {
    /// Whether rows before `tick` may come to a sink yet.
    pub fn less_than(&self, tick: &Tick) -> bool {
        self.0.iter().any(|upper| upper.get().is_some_and(|upper| upper < *tick))
    }

    /// One more sink, which tells how far it is.
    fn sink(&mut self) -> impl FnMut(Option<Tick>) + 'static {
        let upper = Rc::new(Cell::new(Some(Tick::ZERO)));
        self.0.push(Rc::clone(&upper));
        move |reached| upper.set(reached)
    }
}

/// Builds the graph of `plan` behind its gate, whose rows are `facts`; `restored` has the rows that came to its
/// timelines before, by timeline. What is written is written on the thread of `writing`.
pub fn build<'scope>(
    scope: Scope<'scope, Tick>,
    plan: &Plan,
    facts: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    mut restored: BTreeMap<String, RowStream<'scope>>,
    writing: &Writing,
    watch: &Watch,
) -> Probes {
    let output = writing.output();
    let mut computed = Reached::default();
    let mut streams: BTreeMap<String, RowStream<'scope>> = BTreeMap::new();
    streams.insert(plan.gate.clone(), facts);
    let mut errors: Vec<RowStream<'scope>> = Vec::new();
    let mut files = Vec::new();
    let shown = |timeline: &str| Some(output.live.as_ref()?.shown(timeline, output.restored));
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
            StepKind::Union => {
                let united = step.inputs.iter().map(|input| streams[input].clone()).collect();
                union(united, Arc::clone(&step.schema), &step.name)
            }
            StepKind::Decide(deciders) => {
                let deciders = Arc::clone(deciders);
                let decided =
                    checked(map_rows(input, &step.name, move |batch| deciders.decide(&batch)), &mut errors);
                match &output.live {
                    Some(live) => told(decided, &step.name, live, watch),
                    None => decided,
                }
            }
            StepKind::Windows(groups) => {
                let groups = groups.iter().enumerate().map(|(place, group)| {
                    let over = streams[&group.over].clone();
                    let name = timeline_name(&step.name, place);
                    let before = restored.remove(&name);
                    let condition = group.condition.clone();
                    let over = narrow(over, before, &step.name, condition, &group.narrow, &mut errors);
                    files.extend(keep_pieces(&over, &boundaries, group.narrow.schema(), writing, &name));
                    WindowGroup {
                        over,
                        key: group.key,
                        time: group.time,
                        plan: group.plan.clone(),
                        measures: group.measures.clone(),
                        names: group.names.clone(),
                        shown: shown(&name),
                        held: watch.timeline(&name),
                    }
                });
                let groups: Vec<_> = groups.collect();
                let first =
                    step.schema.fields().len() - 2 - groups.iter().map(|g| g.names.len()).sum::<usize>();
                let mut snapshots = Snapshots::of(first..step.schema.fields().len() - 2);
                let answered = windows(input, groups, &step.name);
                let digested = move |batch| Split { passed: snapshots.add(&batch), errors: None };
                map_rows(answered, &format!("{}: snapshot", step.name), digested).0
            }
            StepKind::AsOf(plan) => {
                let timeline = streams[&plan.timeline].clone();
                let name = timeline_name(&step.name, 0);
                let before = restored.remove(&name);
                let timeline = narrow(timeline, before, &step.name, None, &plan.narrow, &mut errors);
                files.extend(keep_pieces(&timeline, &boundaries, plan.narrow.schema(), writing, &name));
                let settings = AsOf {
                    timeline,
                    key: plan.key,
                    time: plan.time,
                    status: plan.status.clone(),
                    tick: plan.tick.clone(),
                    values: plan.values.clone(),
                    shown: shown(&name),
                    held: watch.timeline(&name),
                };
                as_of(input, settings, &step.name)
            }
            StepKind::State(state) => {
                let inputs = state.inputs.iter().enumerate().map(|(place, heard)| {
                    let over = streams[&heard.over].clone();
                    let name = timeline_name(&step.name, place);
                    let before = restored.remove(&name);
                    let rows = narrow(over, before, &step.name, None, &heard.narrow, &mut errors);
                    files.extend(keep_pieces(&rows, &boundaries, heard.narrow.schema(), writing, &name));
                    Input { rows, schema: Arc::clone(heard.narrow.schema()), route: heard.route }
                });
                let mut inputs: Vec<_> = inputs.collect();
                let outputs = state.outputs.iter();
                let outputs = outputs
                    .map(|(schema, order)| Output { schema: Arc::clone(schema), order: order.clone() });
                let mut outputs: Vec<_> = outputs.collect();
                let mut given = match &state.state {
                    Made::Heard(make) => ordered(inputs, outputs, output.restored, make(), &step.name),
                    Made::PutDown(make, _) if output.outlet.state().is_none() => {
                        ordered(inputs, outputs, output.restored, make(), &step.name)
                    }
                    Made::PutDown(make, PutDown { schema, route, order }) => {
                        let name = put_down_name(&step.name);
                        let (topology, schema) = (&plan.topology, || Arc::clone(schema));
                        inputs.push(Input {
                            rows: put_down_rows(&boundaries, topology.partitions, topology.state_rows),
                            schema: boundary_schema(),
                            route: Route::All,
                        });
                        let before = restored.remove(&name).expect("every timeline is restored");
                        inputs.push(Input { rows: before, schema: schema(), route: *route });
                        outputs.push(Output { schema: schema(), order: order.clone() });
                        let state = Checkpointed::new(make(), schema(), output.restored);
                        let mut given = ordered(inputs, outputs, output.restored, state, &step.name);
                        let put_down = given.pop().expect("what is put down comes last");
                        files.extend(keep_pieces(&put_down, &boundaries, &schema(), writing, &name));
                        given
                    }
                }
                .into_iter();
                let own = given.next().expect("a state gives rows");
                streams.extend(step.gives().skip(1).map(|(name, _)| name).zip(given));
                own
            }
            StepKind::Entities(plan_of) => {
                let of = |over: &String| streams[over].clone();
                let frauds_and_linked = plan_of.frauds.iter().chain(&plan_of.linked);
                let heard = [(input.clone(), &plan_of.asking)].into_iter();
                let heard = heard.chain(frauds_and_linked.map(|(over, narrow)| (of(over), narrow)));
                let mut heard: Vec<_> = heard.collect();
                let partitions = plan.topology.partitions;
                let bounds = boundary_rows(&boundaries, partitions, output.restored);
                heard.insert(1, (bounds, &plan_of.boundaries));
                let inputs = heard.into_iter().enumerate().map(|(place, (rows, projection))| {
                    let name = timeline_name(&step.name, place);
                    let before = restored.remove(&name);
                    let rows = narrow(rows, before, &step.name, None, projection, &mut errors);
                    files.extend(keep_pieces(&rows, &boundaries, projection.schema(), writing, &name));
                    Input { rows, schema: Arc::clone(projection.schema()), route: Route::One }
                });
                let inputs: Vec<_> = inputs.collect();
                let outputs = plan_of.entities.outputs(&step.name);
                let state = plan_of.entities.state(&step.name, wanted_ports(plan, &step.name));
                let mut given = ordered(inputs, outputs, output.restored, state, &step.name).into_iter();
                let answered = rejoin(input, given.next().expect("the answers come first"), &step.name);
                streams.extend(step.gives().skip(1).map(|(name, _)| name).zip(given));
                let (mut wider, plan) = (Wider::new([version_field(&step.name)]), output.plan);
                let versioned = move |batch: RecordBatch| {
                    let basis = batch.column_by_name(columns::BASIS).expect("the plan checks it");
                    let versions: ArrayRef = Arc::new(graph_versions(&plan, basis.as_list()));
                    Split { passed: wider.widen(&batch, [versions]), errors: None }
                };
                map_rows(answered, &format!("{}: version", step.name), versioned).0
            }
            StepKind::Seal(columns) => {
                let (columns, mut sealer) = (columns.clone(), Sealer::new(&output.plan));
                let sealed = move |batch: RecordBatch| {
                    let chosen = batch.project(&columns).expect("the plan gave the places");
                    Split { passed: sealer.seal(&chosen), errors: None }
                };
                map_rows(input, &step.name, sealed).0
            }
            StepKind::Table(table) => {
                if !output.outlet.wants(table.format) {
                    continue;
                }
                let format = match table.format {
                    TableFormat::Parquet | TableFormat::Sealed => Format::Parquet,
                    TableFormat::Jsonl => Format::Jsonl,
                };
                let mut unsealed =
                    Unsealed::new(&table.table, Arc::clone(&step.schema), format, output.lower);
                if table.format == TableFormat::Sealed {
                    unsealed = unsealed.sealed(output.chains.get(&table.table).cloned().unwrap_or_default());
                }
                let (columns, counting) = (table.columns.clone(), Counting::of(step, watch));
                let (upper, mut sink) = (counting.clone(), computed.sink());
                let front = Front {
                    rows: Box::new(move |rows| {
                        counting.add(&rows);
                        rows.project(&columns).expect("the plan gave the places")
                    }),
                    reached: Box::new(move |reached| {
                        upper.passed(reached);
                        sink(reached);
                    }),
                };
                files.push(keep_files(input, &boundaries, unsealed, front, writing, &step.name));
                continue;
            }
        };
        streams.insert(step.name.clone(), counted(rows, step, watch));
    }
    let (counter, mut sink) = (watch.clone(), computed.sink());
    let errors = match errors.is_empty() {
        true => scope.concatenate(errors),
        // A fact may fail at several nodes.
        false => union(errors, error_schema(), ERRORS_TABLE),
    };
    if output.outlet.wants(TableFormat::Parquet) {
        let unsealed = Unsealed::new(ERRORS_TABLE, error_schema(), Format::Parquet, output.lower);
        let rows = move |rows: RecordBatch| {
            counter.add_errors(&rows);
            rows
        };
        let front = Front { rows: Box::new(rows), reached: Box::new(sink) };
        files.push(keep_files(errors, &boundaries, unsealed, front, writing, ERRORS_TABLE));
    } else {
        errors.inspect_container(move |event| match event {
            Ok((_, rows)) => counter.add_errors(&rows.0),
            Err(frontier) => sink(frontier.iter().min().copied()),
        });
    }
    let committed = publish(scope.concatenate(files), boundaries, writing);
    Probes { computed, committed }
}

/// Which changes of an `entities` anybody reads.
fn wanted_ports(plan: &Plan, node: &str) -> Wanted {
    let read: Vec<&str> =
        plan.topology.nodes.iter().flat_map(all_inputs).map(|input| input.value.as_str()).collect();
    let wanted = PORTS.map(|port| read.contains(&format!("{node}.{port}").as_str()));
    let [entities, links, components, sightings] = wanted;
    Wanted { entities, links, components, sightings }
}

/// The same decisions, counted by action; and those hear of them who wait for one.
fn told<'scope>(rows: RowStream<'scope>, node: &str, live: &Arc<Live>, watch: &Watch) -> RowStream<'scope> {
    let (node, live, counter): (Arc<str>, _, _) = (node.into(), Arc::clone(live), watch.rows_of(node));
    rows.inspect_container(move |event| {
        if let Ok((_, rows)) = event {
            live.decided(&node, &rows.0);
            counter.add_decisions(&rows.0);
        }
    })
}

/// The rows that passed; the errors are put with the others.
fn checked<'scope>(
    (passed, failed): (RowStream<'scope>, RowStream<'scope>),
    errors: &mut Vec<RowStream<'scope>>,
) -> RowStream<'scope> {
    errors.push(failed);
    passed
}

/// The same rows, counted; and how far they are is told.
fn counted<'scope>(rows: RowStream<'scope>, step: &Step, watch: &Watch) -> RowStream<'scope> {
    let counting = Counting::of(step, watch);
    rows.inspect_container(move |event| match event {
        Ok((_, rows)) => counting.add(&rows.0),
        Err(frontier) => counting.passed(frontier.iter().min().copied()),
    })
}

/// Counts the rows of a step, and tells how far they are.
#[derive(Clone)]
struct Counting {
    counter: Arc<Counter>,
    watch: Watch,
    place: Arc<AtomicU64>,
    /// The column that says why a row was not answered.
    reason: Option<usize>,
}

impl Counting {
    fn of(step: &Step, watch: &Watch) -> Counting {
        let (counter, watch) = (watch.rows_of(&step.name), watch.clone());
        let place = counter.place();
        let reason = match &step.kind {
            StepKind::Windows(_) => step.schema.index_of(reason_field().name()).ok(),
            _ => None,
        };
        Counting { counter, watch, place, reason }
    }

    fn add(&self, rows: &RecordBatch) {
        self.counter.add(rows.num_rows() as u64);
        if let Some(reason) = self.reason {
            let answered = rows.column(reason).null_count();
            self.counter.add_late((rows.num_rows() - answered) as u64);
        }
    }

    /// Where no rows come any more, there is no tick to tell of.
    fn passed(&self, upper: Option<Tick>) {
        if let Some(upper) = upper {
            self.watch.passed(&self.counter, &self.place, upper);
        }
    }
}

/// The rows of a timeline: those that came to it before; and of `rows` those that hold the condition, with only the columns it keeps.
fn narrow<'scope>(
    rows: RowStream<'scope>,
    before: Option<RowStream<'scope>>,
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
    checked(map_rows_behind(rows, before, &format!("{node}: narrow"), step), errors)
}

/// What a timeline of a node is called in checkpoints.
pub fn timeline_name(node: &str, place: usize) -> String {
    format!("{node}/{place}")
}

/// What the timeline is called of what a node's state is put down as.
pub fn put_down_name(node: &str) -> String {
    format!("{node}/{PUT_DOWN}")
}

const PUT_DOWN: &str = "put-down";

/// The node of a timeline.
pub fn node_of(timeline: &str) -> &str {
    timeline.rsplit_once('/').map_or(timeline, |(node, _)| node)
}

/// Whether a timeline is one of [`put_down_name`].
pub fn is_put_down(timeline: &str) -> bool {
    timeline.rsplit_once('/').is_some_and(|(_, of)| of == PUT_DOWN)
}
