//! The operator that publishes a commit once all files of its interval are written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_facts::Tick;
use tidegate_host::Clock;
use tidegate_sinks::commits::{CommitInterval, TableError};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Capability, Operator, Probe, probe};

use crate::commit::boundary::CommitBoundary;
use crate::commit::intervals::{BoundaryStream, OutputStream};
use crate::commit::target::{CommitContext, IntervalOutput};
use crate::commit::writer::{TableWriter, WriterClient};
use crate::metrics::RunTimes;

/// Publishes a commit, and writes a checkpoint, for each interval whose files are all written; on
/// worker 0.
///
/// Returns a probe of the intervals that are published.
pub fn publish<'scope>(
    outputs: OutputStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    writer: &TableWriter,
) -> probe::Handle<Tick> {
    let scope = outputs.scope();
    let (context, times) = (writer.context().clone(), Arc::clone(&writer.times));
    let clock = Arc::clone(&writer.clock);
    let mut due: VecDeque<(CommitBoundary, Capability<Tick>)> = VecDeque::new();
    let mut written: BTreeMap<Tick, Vec<IntervalOutput>> = BTreeMap::new();
    let is_publisher = scope.index() == 0;
    // Intervals whose state was not restored come again, also where their tables are committed.
    let has_state = context.target.state_store().is_some();
    let lower = if has_state { context.restored.min(context.lower) } else { context.lower };
    let handle = probe::Handle::new();
    let published: Stream<'scope, Tick, Vec<Tick>> = outputs.binary_frontier(
        boundaries,
        Exchange::new(|_: &(Tick, IntervalOutput)| 0),
        Pipeline,
        "publish",
        move |_, info| {
            let client: WriterClient<()> = writer.client(scope, &info.address);
            let mut publishing: VecDeque<(Tick, Capability<Tick>)> = VecDeque::new();
            move |(outputs, frontier), (boundaries, _), published| {
                outputs.for_each(|_, outputs| {
                    for (upper, output) in outputs.drain(..) {
                        written.entry(upper).or_default().push(output);
                    }
                });
                boundaries.for_each(|time, boundaries| {
                    let new = boundaries.drain(..).filter(|b| is_publisher && b.upper > lower);
                    due.extend(new.map(|boundary| (boundary, time.retain(0))));
                });
                let upper = frontier.frontier().iter().min().copied();
                let is_written =
                    |boundary: &CommitBoundary| upper.is_none_or(|upper| boundary.upper <= upper);
                while let Some((boundary, capability)) = due.pop_front_if(|(due, _)| is_written(due)) {
                    let (context, times, clock) = (context.clone(), Arc::clone(&times), Arc::clone(&clock));
                    let outputs = written.remove(&boundary.upper).unwrap_or_default();
                    publishing.push_back((boundary.upper, capability));
                    client.request(move || publish_interval(&context, &boundary, outputs, &times, &*clock));
                }
                for () in client.results() {
                    let (upper, capability) = publishing.pop_front().expect("a result for each request");
                    published.session(&capability).give(upper);
                }
            }
        },
    );
    published.probe_with(&handle);
    handle
}

/// Publishes the commit of the interval that ends at a boundary, unless an earlier run did, and
/// writes the checkpoint there.
fn publish_interval(
    context: &CommitContext,
    boundary: &CommitBoundary,
    outputs: Vec<IntervalOutput>,
    times: &RunTimes,
    clock: &dyn Clock,
) -> Result<(), TableError> {
    let started = clock.monotonic();
    let (mut files, mut state) = (Vec::new(), Vec::new());
    for output in outputs {
        match output {
            IntervalOutput::File(file) => files.push(file),
            IntervalOutput::State(file) => state.push(file),
        }
    }
    if boundary.upper > context.lower {
        let (upper, plan, log) = (boundary.upper, context.plan, (*boundary.log).clone());
        context.target.commit(CommitInterval { upper, plan, log, files })?;
        times.commit.record_duration(clock.monotonic().saturating_sub(started));
        if let Some(serve) = &context.serve
            && let Some(commits) = context.target.commits()
        {
            serve.set_commits(Arc::new(commits));
        }
    }
    let started = clock.monotonic();
    context.target.checkpoint(boundary, state)?;
    if context.target.state_store().is_some() {
        times.checkpoint.record_duration(clock.monotonic().saturating_sub(started));
    }
    Ok(())
}
