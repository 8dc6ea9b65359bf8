//! What a run tells at its end: what came in, what was decided, how fast, and where to look further.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use serde_json::json;
use tidegate_dataflows::Plan;
use tidegate_dataflows::plan::StepKind;
use tidegate_dataflows::run::{Options, Report};
use tidegate_dataflows::watch::Watch;
use tidegate_queries::{Catalogue, Format};

/// Answers one query on standard output.
///
/// # Errors
/// When the folder, the query or the output fails.
pub fn query(sql: &str, data: &Path, store: Option<&Path>, format: Format) -> Result<(), Box<dyn Error>> {
    runtime()?.block_on(async {
        let catalogue = Catalogue::open(data, store)?;
        let rows = catalogue.query(sql).await?;
        let mut out = std::io::BufWriter::new(std::io::stdout());
        tidegate_queries::write(format, rows, &mut out).await?;
        Ok(out.flush()?)
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Prints the account of a run.
///
/// # Errors
/// When its tables cannot be read back.
pub fn print(
    plan: &Plan,
    options: &Options,
    watch: &Watch,
    report: &Report,
    as_json: bool,
) -> Result<(), Box<dyn Error>> {
    let catalogue = Catalogue::open(&options.data, options.store.as_deref())?;
    let runtime = runtime()?;
    let ask = |sql: String| runtime.block_on(rows_of(&catalogue, &sql));
    if as_json {
        println!("{}", summary(plan, options, watch, report));
        return Ok(());
    }
    println!("{}", head(plan, options, report));
    for (table, features) in decision_tables(plan) {
        let by_action = ask(format!(
            "SELECT action, count(*) AS n FROM {table} GROUP BY action ORDER BY n DESC, action"
        ))?;
        println!("\n{table}");
        for batch in &by_action {
            for row in 0..batch.num_rows() {
                let count = batch.column(1).as_primitive::<Int64Type>().value(row);
                println!("  {:<16}{:>12}", shown(batch.column(0), row), thousands(count.unsigned_abs()));
            }
        }
        let top = ask(format!(
            "SELECT * FROM {table} WHERE score IS NOT NULL ORDER BY score DESC, _tick LIMIT 10"
        ))?;
        if top.iter().any(|batch| batch.num_rows() > 0) {
            println!("\nthe ten most suspicious of {table}");
            print_suspicious(&top, features.as_deref(), &ask)?;
        }
    }
    crate::standing::print(plan, &ask)?;
    println!("\n{:<30}{:>12}{:>11}{:>14}", "stage", "rows", "busy s", "rows/busy s");
    for stage in watch.report() {
        let busy = stage.busy.as_secs_f64();
        let rate = if busy > 0.0 { thousands((stage.rows as f64 / busy) as u64) } else { "-".to_owned() };
        println!("{:<30}{:>12}{busy:>11.2}{rate:>14}", stage.name, thousands(stage.rows));
    }
    println!("\ntables in {}", options.store_path().display());
    for table in report.commits.tables() {
        let (mut rows, mut bytes, mut files) = (0, 0, 0);
        for file in report.commits.files_of(&table) {
            (rows, bytes, files) = (rows + file.rows, bytes + file.bytes, files + 1);
        }
        println!("  {table:<28}{:>12} rows{:>10.1} MB in {files} files", thousands(rows), bytes as f64 / 1e6);
    }
    if let Some(written) = &report.archived {
        println!("  {}", crate::archive::sentence(written));
    }
    println!("  facts, receipts, quarantine: read from the log in {}", options.data.join("log").display());
    println!("\nlook further:\n  tidegate sql{} \"{}\"", place(options), further(plan));
    if plan.steps.iter().any(|step| matches!(step.kind, StepKind::Seal(_))) {
        match &options.signer {
            Some(signer) => println!(
                "  tidegate verify{} --public-key FILE   (the commits are signed by key {})",
                place(options),
                signer.public().id()
            ),
            None => println!(
                "  tidegate verify{}   (the commits are not signed: `tidegate keys new --out FILE`, then run with --key FILE)",
                place(options)
            ),
        }
    }
    Ok(())
}

fn place(options: &Options) -> String {
    let store =
        options.store.as_ref().map(|store| format!(" --store {}", store.display())).unwrap_or_default();
    format!(" --data {}{store}", options.data.display())
}

fn further(plan: &Plan) -> String {
    match decision_tables(plan).first() {
        Some((table, _)) => {
            format!("SELECT * FROM {table} WHERE action <> 'ALLOW' ORDER BY score DESC LIMIT 20")
        }
        None => "SELECT decision, reason_code, count(*) FROM receipts GROUP BY 1, 2".to_owned(),
    }
}

/// Each table of decisions, and the table of what they were decided on.
fn decision_tables(plan: &Plan) -> Vec<(String, Option<String>)> {
    // A table of decisions may be one of their episodes.
    let sealed = |node: &str| {
        let seals = plan.steps.iter().filter(|step| matches!(step.kind, StepKind::Seal(_)));
        seals.filter(|step| step.inputs[0] == node).map(|step| step.name.clone()).collect::<Vec<_>>()
    };
    let table_of = |node: &str| {
        let nodes = [vec![node.to_owned()], sealed(node)].concat();
        plan.steps.iter().find_map(|step| match &step.kind {
            StepKind::Table(table) if nodes.contains(&step.inputs[0]) => Some(table.table.clone()),
            _ => None,
        })
    };
    let decides = plan.steps.iter().filter(|step| matches!(step.kind, StepKind::Decide(_)));
    decides.filter_map(|step| Some((table_of(&step.name)?, table_of(&step.inputs[0])))).collect()
}

async fn rows_of(catalogue: &Catalogue, sql: &str) -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    let rows = catalogue.query(sql).await?;
    Ok(rows.try_collect().await?)
}

fn head(plan: &Plan, options: &Options, report: &Report) -> String {
    let counts = &report.counts;
    let mut out = String::new();
    if let Some(truncated) = &report.recovery.truncated {
        out += &format!("the log ended in a torn write, which was taken back: {truncated:?}\n");
    }
    let seconds = report.elapsed.as_secs_f64();
    let workers =
        if options.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", options.workers) };
    if counts.records() == 0 {
        let facts = thousands(report.facts);
        out += &format!(
            "{}: nothing new; the log holds {facts} facts ({seconds:.1} s, {workers})",
            plan.topology.name
        );
        return out;
    }
    let rate = thousands((counts.records() as f64 / seconds) as u64);
    out += &format!(
        "{}: {} records in {seconds:.1} s ({rate} a second, {workers})\n\n",
        plan.topology.name,
        thousands(counts.records())
    );
    out += &format!(
        "  {:<24}{:>12}\n  {:<24}{:>12}\n",
        "admitted",
        thousands(counts.admitted),
        "duplicate",
        thousands(counts.duplicate)
    );
    let quarantined: u64 = counts.quarantined.values().sum();
    out += &format!("  {:<24}{:>12}", "quarantined", thousands(quarantined));
    for (reason, count) in &counts.quarantined {
        out += &format!("\n    {:<22}{:>12}", reason.code(), thousands(*count));
    }
    out
}

fn print_suspicious(
    top: &[RecordBatch],
    features: Option<&str>,
    ask: &impl Fn(String) -> Result<Vec<RecordBatch>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    for batch in top {
        for row in 0..batch.num_rows() {
            let cell =
                |name: &str| batch.column_by_name(name).map(|column| shown(column, row)).unwrap_or_default();
            println!(
                "  {:>6}  {:<12} {}  {}",
                cell("score"),
                cell("action"),
                cell("event_id"),
                cell("reason_codes")
            );
            if let Some(features) = features {
                let found = ask(format!("SELECT * FROM {features} WHERE _tick = {}", cell("_tick")))?;
                if let Some(found) = found.iter().find(|b| b.num_rows() > 0) {
                    println!("          {}", values(found));
                }
            }
        }
    }
    Ok(())
}

/// The numbers and flags of one row, as `name value`.
fn values(row: &RecordBatch) -> String {
    let schema = row.schema();
    let wanted = |data_type: &DataType| data_type.is_numeric() || *data_type == DataType::Boolean;
    let parts = schema.fields().iter().zip(row.columns()).filter(|(field, column)| {
        wanted(field.data_type()) && !field.name().starts_with('_') && column.is_valid(0)
    });
    parts
        .map(|(field, column)| format!("{} {}", field.name(), shown(column, 0)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A value as a person reads it.
pub fn shown(column: &ArrayRef, row: usize) -> String {
    if let DataType::Float64 = column.data_type() {
        let value = column.as_primitive::<arrow::datatypes::Float64Type>().value(row);
        let text = format!("{value:.3}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let options = FormatOptions::default();
    ArrayFormatter::try_new(column.as_ref(), &options).map(|f| f.value(row).to_string()).unwrap_or_default()
}

/// A number as a person reads it.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn summary(plan: &Plan, options: &Options, watch: &Watch, report: &Report) -> serde_json::Value {
    let quarantined: serde_json::Map<String, serde_json::Value> = report
        .counts
        .quarantined
        .iter()
        .map(|(reason, count)| (reason.code().to_owned(), json!(count)))
        .collect();
    let stages: Vec<serde_json::Value> = watch
        .report()
        .into_iter()
        .map(|stage| json!({"stage": stage.name, "rows": stage.rows, "busy_s": stage.busy.as_secs_f64()}))
        .collect();
    let tables: serde_json::Map<String, serde_json::Value> = report
        .commits
        .tables()
        .into_iter()
        .map(|table| {
            let rows: u64 = report.commits.files_of(&table).map(|f| f.rows).sum();
            (table, json!(rows))
        })
        .collect();
    json!({
        "topology": plan.topology.name,
        "plan": plan.digest,
        "workers": options.workers,
        "records": report.counts.records(),
        "admitted": report.counts.admitted,
        "duplicate": report.counts.duplicate,
        "quarantined": quarantined,
        "facts": report.facts,
        "elapsed_s": report.elapsed.as_secs_f64(),
        "stages": stages,
        "tables": tables,
        "store": options.store_path(),
    })
}
