//! What the account of a run says of credibility: the course of the index, and the drift behind it.

use std::error::Error;

use arrow::array::RecordBatch;
use tidegate_dataflows::Plan;
use tidegate_dataflows::plan::StepKind;
use tidegate_dataflows::topology::NodeKind;

use crate::account::shown;

/// Prints it for each table of an index's history, and of drift events.
///
/// # Errors
/// When a table cannot be read back.
pub fn print(
    plan: &Plan,
    ask: &impl Fn(String) -> Result<Vec<RecordBatch>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    for (node, kind) in plan.topology.nodes.iter().map(|node| (&node.name, &node.kind)) {
        let (title, input, columns, from) = match kind {
            NodeKind::Credibility(_) => (
                "the index, by six hours",
                format!("{node}.history"),
                "date_bin(interval '6 hours', at) AS since, min(credibility_index) AS least, \
                 max(credibility_index) AS most, last_value(credibility_index ORDER BY _tick) AS last, \
                 last_value(band ORDER BY _tick) AS band",
                "GROUP BY 1 ORDER BY 1",
            ),
            NodeKind::Drift(_) => (
                "drift events, without those that late facts took back",
                node.clone(),
                "measure, severity, count(*) AS events, max(recurrence_24h) AS most_in_24h",
                "WHERE recurrence_24h > 0 GROUP BY 1, 2 ORDER BY 1, 2",
            ),
            _ => continue,
        };
        if let Some(table) = table_of(plan, &input) {
            println!("\n{table}: {title}");
            print_rows(&ask(format!("SELECT {columns} FROM {table} {from}"))?);
        }
    }
    Ok(())
}

/// The table that holds the rows of a node or a port.
fn table_of<'p>(plan: &'p Plan, input: &str) -> Option<&'p str> {
    plan.steps.iter().find_map(|step| match &step.kind {
        StepKind::Table(table) if step.inputs[0] == input => Some(table.table.as_str()),
        _ => None,
    })
}

fn print_rows(batches: &[RecordBatch]) {
    let Some(first) = batches.first() else { return };
    let line = |cells: Vec<String>| {
        let line: String = cells.iter().map(|cell| format!("  {cell:<22}")).collect();
        println!("{}", line.trim_end());
    };
    line(first.schema().fields().iter().map(|field| field.name().clone()).collect());
    for batch in batches {
        for row in 0..batch.num_rows() {
            line(batch.columns().iter().map(|column| shown(column, row)).collect());
        }
    }
}
