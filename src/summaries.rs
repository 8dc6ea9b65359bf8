//! The summaries of nodes in the report of a run: decisions, the credibility index, drift.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use tidegate_dataflows::Plan;
use tidegate_dataflows::node::{Summary, TablePlan};

use crate::text::{display, thousands};

/// Runs a query, and returns its rows.
type QueryFn<'a> = &'a dyn Fn(String) -> Result<Vec<RecordBatch>, Box<dyn Error>>;

/// How many of the decisions with the highest scores are printed.
const TOP: usize = 10;

/// A table of decisions that is summarized in the report of a run.
pub struct DecisionTable {
    /// Its name.
    pub table: String,
    /// The columns that the rules of each reason code read.
    columns: BTreeMap<String, Vec<String>>,
    /// Its schema. A sink may leave columns out.
    schema: SchemaRef,
    /// The table with the rows that were decided.
    rows: String,
}

impl DecisionTable {
    /// A statement that shows the decisions with the highest scores, or any if the table has none.
    pub fn example_query(&self) -> String {
        let order = match has_columns(&self.schema, &["action", "score"]) {
            true => " WHERE action <> 'ALLOW' ORDER BY score DESC",
            false => "",
        };
        format!("SELECT * FROM {}{order} LIMIT 20", self.table)
    }
}

/// The tables of decisions of a plan, for the summaries in the report of a run. A sealed table
/// holds decisions as episodes.
pub fn decision_tables(plan: &Plan) -> Vec<DecisionTable> {
    let table_of = |node: &str| plan.table_of(node);
    let sealed = |node: &str| {
        let seals = plan.steps.iter().filter(|step| step.node.is_seal() && step.inputs[0] == node);
        seals.filter_map(|step| table_of(&step.name)).next()
    };
    let decides = plan.steps.iter().filter(|step| matches!(step.node.summary(), Some(Summary::Decisions)));
    decides
        .filter_map(|step| {
            let table = table_of(&step.name).or_else(|| sealed(&step.name))?;
            Some(DecisionTable {
                table: table.table.clone(),
                columns: step.node.columns_of_reasons(),
                schema: Arc::clone(&table.schema),
                // A decision repeats the columns of its input, unless its sink leaves them out.
                rows: table_of(&step.inputs[0]).unwrap_or(table).table.clone(),
            })
        })
        .collect()
}

/// Prints the summary of every node that has one, for the report of a run.
///
/// # Errors
/// When a table cannot be queried.
pub fn print(plan: &Plan, query: QueryFn<'_>) -> Result<(), Box<dyn Error>> {
    for decisions in decision_tables(plan) {
        print_decisions(&decisions, query)?;
    }
    for step in &plan.steps {
        let Some(Summary::Table { title, port, reads, columns, clauses }) = step.node.summary() else {
            continue;
        };
        let input = port.map_or_else(|| step.name.clone(), |port| format!("{}.{port}", step.name));
        if let Some(TablePlan { table, schema, .. }) = plan.table_of(&input)
            && has_columns(schema, reads)
        {
            outln!("\n{table}: {title}");
            let rows = query(format!("SELECT {columns} FROM {table} {clauses}"))?;
            match &cells_of(&rows)[..] {
                [] | [_] => outln!("  none"),
                lines => print_aligned(lines),
            }
        }
    }
    Ok(())
}

/// Whether a table has all of these columns.
fn has_columns(schema: &Schema, names: &[&str]) -> bool {
    names.iter().all(|name| schema.column_with_name(name).is_some())
}

fn print_decisions(decisions: &DecisionTable, query: QueryFn<'_>) -> Result<(), Box<dyn Error>> {
    let DecisionTable { table, schema, .. } = decisions;
    if !has_columns(schema, &["action"]) {
        return Ok(());
    }
    outln!("\n{table}");
    let by_action =
        query(format!("SELECT action, count(*) AS n FROM {table} GROUP BY action ORDER BY n DESC, action"))?;
    for batch in &by_action {
        for row in 0..batch.num_rows() {
            let count = batch.column(1).as_primitive::<Int64Type>().value(row);
            outln!("  {:<16}{:>12}", display(batch.column(0), row), thousands(count.unsigned_abs()));
        }
    }
    if !has_columns(schema, &["_tick", "event_id", "score", "reason_codes"]) {
        return Ok(());
    }
    let top = query(format!(
        "SELECT _tick, event_id, action, score, reason_codes FROM {table} WHERE score IS NOT NULL \
         ORDER BY score DESC, _tick LIMIT {TOP}"
    ))?;
    let mut lines = Vec::new();
    for batch in &top {
        for row in 0..batch.num_rows() {
            let cell = |index: usize| display(batch.column(index), row);
            let reasons = reasons_of(batch, row);
            let values = values_of(decisions, &cell(0), &reasons, query)?;
            lines.push(vec![cell(3), cell(2), cell(1), reasons.join(" "), values]);
        }
    }
    if !lines.is_empty() {
        outln!("\nhighest scores of {table}");
        let head = ["score", "action", "event", "reasons", "values that the rules read"];
        lines.insert(0, head.map(str::to_owned).to_vec());
        print_aligned(&lines);
    }
    Ok(())
}

/// The reason codes of a decision.
fn reasons_of(batch: &RecordBatch, row: usize) -> Vec<String> {
    let Some(lists) = batch.column(4).as_list_opt::<i32>().filter(|lists| lists.is_valid(row)) else {
        return Vec::new();
    };
    let codes = lists.value(row);
    (0..codes.len()).map(|index| display(&codes, index)).collect()
}

/// The values of the decided row that the rules with these reason codes read.
fn values_of(
    decisions: &DecisionTable,
    tick: &str,
    reasons: &[String],
    query: QueryFn<'_>,
) -> Result<String, Box<dyn Error>> {
    let mut columns: Vec<&str> = Vec::new();
    for column in reasons.iter().filter_map(|reason| decisions.columns.get(reason)).flatten() {
        if !columns.contains(&column.as_str()) {
            columns.push(column);
        }
    }
    if columns.is_empty() {
        return Ok(String::new());
    }
    let found = query(format!("SELECT * FROM {} WHERE _tick = {tick}", decisions.rows))?;
    let Some(found) = found.iter().find(|batch| batch.num_rows() > 0) else { return Ok(String::new()) };
    let values = columns.into_iter().filter_map(|name| {
        let column = found.column_by_name(name).filter(|column| column.is_valid(0))?;
        Some(format!("{name} {}", display(column, 0)))
    });
    Ok(values.collect::<Vec<_>>().join(", "))
}

/// The names of the columns, then the cells of each row.
fn cells_of(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let Some(first) = batches.first() else { return Vec::new() };
    let mut lines = vec![first.schema().fields().iter().map(|field| field.name().clone()).collect()];
    for batch in batches {
        for row in 0..batch.num_rows() {
            lines.push(batch.columns().iter().map(|column| display(column, row)).collect());
        }
    }
    lines
}

/// Prints lines of cells, each column as wide as its widest cell.
fn print_aligned(lines: &[Vec<String>]) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("  {cell:<width$}"));
        outln!("{}", cells.collect::<String>().trim_end());
    }
}
