//! Stateless operators: a function of one batch as a timely operator with an error output.

use arrow::array::RecordBatch;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use super::expr::Split;
use super::rows::{RowStream, Rows};

/// Maps batches by a stateless `step`, and returns the stream of passed rows and the stream of
/// errors.
///
/// * Time: each output is at the time of its input.
/// * State: none.
pub fn map_rows<'scope>(
    rows: RowStream<'scope>,
    name: &str,
    step: impl FnMut(RecordBatch) -> Split + 'static,
) -> (RowStream<'scope>, RowStream<'scope>) {
    map_rows_with_passthrough(rows, None, name, step)
}

/// Maps batches by a stateless `step`, as [`map_rows`] does, and emits the rows of `passthrough`
/// unchanged among the passed rows.
///
/// Restored timeline rows take this way: the step was applied to them before the restart.
pub fn map_rows_with_passthrough<'scope>(
    rows: RowStream<'scope>,
    passthrough: Option<RowStream<'scope>>,
    name: &str,
    mut step: impl FnMut(RecordBatch) -> Split + 'static,
) -> (RowStream<'scope>, RowStream<'scope>) {
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let mut input = builder.new_input(rows, Pipeline);
    let mut passthrough = passthrough.map(|rows| builder.new_input(rows, Pipeline));
    for port in 0..=usize::from(passthrough.is_some()) {
        builder.set_notify_for(port, FrontierInterest::Never); // A frontier alone has no effect.
    }
    let (passed, passed_stream) = builder.new_output::<Rows>();
    let (errors, errors_stream) = builder.new_output::<Rows>();
    let mut passed = OutputBuilder::<_, NoopBuilder<Rows>>::from(passed);
    let mut errors = OutputBuilder::<_, NoopBuilder<Rows>>::from(errors);
    builder.build(move |_| {
        move |_frontiers| {
            let mut passed = passed.activate();
            let mut errors = errors.activate();
            if let Some(passthrough) = &mut passthrough {
                passthrough.for_each(|time, rows| {
                    passed.session_with_builder(&time.retain(0)).give_container(rows);
                });
            }
            input.for_each(|time, rows| {
                let split = step(std::mem::take(rows).0);
                if split.passed.num_rows() > 0 {
                    passed.session_with_builder(&time.retain(0)).give_container(&mut Rows(split.passed));
                }
                if let Some(batch) = split.errors {
                    errors.session_with_builder(&time.retain(1)).give_container(&mut Rows(batch));
                }
            });
        }
    });
    (passed_stream, errors_stream)
}
