//! Row-wise steps as timely operators: a function of one batch, with a stream of errors beside it.

use arrow::array::RecordBatch;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::expr::Split;
use crate::rows::{RowStream, Rows};

/// Applies `step` to each batch: the rows that pass, and the errors.
///
/// * Time: each output at the time of its input. * State: none.
pub fn map_rows<'scope>(
    rows: RowStream<'scope>,
    name: &str,
    mut step: impl FnMut(RecordBatch) -> Split + 'static,
) -> (RowStream<'scope>, RowStream<'scope>) {
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let mut input = builder.new_input(rows, Pipeline);
    let (passed, passed_stream) = builder.new_output::<Rows>();
    let (errors, errors_stream) = builder.new_output::<Rows>();
    let mut passed = OutputBuilder::<_, NoopBuilder<Rows>>::from(passed);
    let mut errors = OutputBuilder::<_, NoopBuilder<Rows>>::from(errors);
    builder.build(move |_| {
        move |_frontiers| {
            let mut passed = passed.activate();
            let mut errors = errors.activate();
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
