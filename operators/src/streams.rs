//! Row-wise steps as timely operators: a function of one batch, with a stream of errors beside it.

use arrow::array::RecordBatch;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::expr::Split;
use crate::rows::{RowStream, Rows};

/// Applies `step` to each batch: the rows that pass, and the errors.
///
/// * Time: each output at the time of its input. * State: none.
pub fn map_rows<'scope>(
    rows: RowStream<'scope>,
    name: &str,
    step: impl FnMut(RecordBatch) -> Split + 'static,
) -> (RowStream<'scope>, RowStream<'scope>) {
    map_rows_behind(rows, None, name, step)
}

/// As [`map_rows`], behind rows that were made before and go on as they are.
pub fn map_rows_behind<'scope>(
    rows: RowStream<'scope>,
    before: Option<RowStream<'scope>>,
    name: &str,
    mut step: impl FnMut(RecordBatch) -> Split + 'static,
) -> (RowStream<'scope>, RowStream<'scope>) {
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let mut input = builder.new_input(rows, Pipeline);
    let mut before = before.map(|before| builder.new_input(before, Pipeline));
    for place in 0..=usize::from(before.is_some()) {
        builder.set_notify_for(place, FrontierInterest::Never); // Time alone changes nothing.
    }
    let (passed, passed_stream) = builder.new_output::<Rows>();
    let (errors, errors_stream) = builder.new_output::<Rows>();
    let mut passed = OutputBuilder::<_, NoopBuilder<Rows>>::from(passed);
    let mut errors = OutputBuilder::<_, NoopBuilder<Rows>>::from(errors);
    builder.build(move |_| {
        move |_frontiers| {
            let mut passed = passed.activate();
            let mut errors = errors.activate();
            if let Some(before) = &mut before {
                before.for_each(|time, rows| {
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
