//! The report of a run: its records, decisions, rates and tables, and the commands to try next.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use serde_json::json;
use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::plan::ERRORS_TABLE;
use tidegate_dataflows::run::{Options, Report};
use tidegate_queries::{Catalogue, Format};
use tidegate_sinks::store::StoreUrl;

use crate::output::Output;
use crate::summaries;
use crate::text::thousands;

/// Runs the query of `tidegate sql`, and reports its rows on standard output.
///
/// # Errors
/// When the folder cannot be read, the query fails, or the rows cannot be written.
pub fn query(sql: &str, data: &Path, store: Option<&Path>, format: Format) -> Result<(), Box<dyn Error>> {
    runtime()?.block_on(async {
        let catalogue = Catalogue::open(data, store.map(StoreUrl::from))?;
        let rows = catalogue.query(sql).await?;
        let mut out = std::io::BufWriter::new(Output);
        tidegate_queries::write(format, rows, &mut out).await?;
        Ok(out.flush()?)
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Prints the report of a run.
///
/// # Errors
/// When its tables cannot be queried.
pub fn print(
    plan: &Plan,
    options: &Options,
    metrics: &RunMetrics,
    report: &Report,
    as_json: bool,
) -> Result<(), Box<dyn Error>> {
    let catalogue = Catalogue::open(&options.data, options.store.clone())?;
    let runtime = runtime()?;
    let query_rows = |sql: String| runtime.block_on(rows_of(&catalogue, &sql));
    if as_json {
        outln!("{}", summary(plan, options, metrics, report));
        return Ok(());
    }
    outln!("{}", head(plan, options, report));
    summaries::print(plan, &query_rows)?;
    outln!("\n{:<30}{:>12}{:>11}{:>14}", "stage", "rows", "busy s", "rows/busy s");
    for stage in metrics.report() {
        let busy = stage.busy.as_secs_f64();
        let rate = if busy > 0.0 { thousands((stage.rows as f64 / busy) as u64) } else { "-".to_owned() };
        outln!("{:<30}{:>12}{busy:>11.2}{rate:>14}", stage.name, thousands(stage.rows));
    }
    outln!("\ntables in {}", options.store_url());
    for table in report.commits.tables() {
        let (mut rows, mut bytes, mut files) = (0, 0, 0);
        for file in report.commits.files_of(&table) {
            (rows, bytes, files) = (rows + file.rows, bytes + file.bytes, files + 1);
        }
        outln!("  {table:<28}{:>12} rows{:>10.1} MB in {files} files", thousands(rows), bytes as f64 / 1e6);
    }
    if let Some(written) = &report.archived {
        outln!("  {}", crate::archive::sentence(written));
    }
    outln!(
        "  facts, receipts, quarantine: read from the log in {}",
        crate::log_of(&options.data).path().display()
    );
    outln!("\nnext:");
    for statement in next_queries(plan, report) {
        outln!("  tidegate sql{} \"{statement}\"", folder_arguments(options));
    }
    if plan.steps.iter().any(|step| step.node.is_seal()) {
        match &options.signer {
            Some(signer) => outln!(
                "  tidegate verify{} --public-key FILE   (the commits are signed by key {})",
                folder_arguments(options),
                signer.public().id()
            ),
            None => outln!(
                "  tidegate verify{}   (the commits are not signed: `tidegate keys new --out FILE`, then run with --key FILE)",
                folder_arguments(options)
            ),
        }
    }
    Ok(())
}

fn folder_arguments(options: &Options) -> String {
    let store = options.store.as_ref().map(|store| format!(" --store {}", store)).unwrap_or_default();
    format!(" --data {}{store}", options.data.display())
}

/// Statements to go on with: first over what went wrong, then over what was decided.
fn next_queries(plan: &Plan, report: &Report) -> Vec<String> {
    let mut statements = Vec::new();
    if !report.counts.quarantined.is_empty() {
        let columns = "source, position, reason_code, detail, bytes_text";
        statements.push(format!("SELECT {columns} FROM quarantine LIMIT 20"));
    }
    if report.commits.files_of(ERRORS_TABLE).any(|file| file.rows > 0) {
        statements.push(format!(
            "SELECT node, expression, cause, count(*) FROM {ERRORS_TABLE} GROUP BY 1, 2, 3 ORDER BY 4 DESC"
        ));
    }
    statements.push(next_query(plan));
    statements
}

fn next_query(plan: &Plan) -> String {
    match summaries::decision_tables(plan).first() {
        Some(decisions) => decisions.example_query(),
        None => "SELECT decision, reason_code, count(*) FROM receipts GROUP BY 1, 2".to_owned(),
    }
}

async fn rows_of(catalogue: &Catalogue, sql: &str) -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    let rows = catalogue.query(sql).await?;
    Ok(rows.try_collect().await?)
}

fn head(plan: &Plan, options: &Options, report: &Report) -> String {
    let counts = &report.counts;
    let mut out = String::new();
    if let Some(truncated) = &report.recovery.truncated {
        out += &format!("the log ended with an incomplete write, which was removed: {truncated:?}\n");
    }
    let seconds = report.elapsed.as_secs_f64();
    let workers =
        if options.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", options.workers) };
    if counts.records() == 0 {
        let facts = thousands(report.facts);
        out += &format!(
            "{}: nothing new; the log contains {facts} facts ({seconds:.1} s, {workers})",
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

fn summary(plan: &Plan, options: &Options, metrics: &RunMetrics, report: &Report) -> serde_json::Value {
    let quarantined: serde_json::Map<String, serde_json::Value> = report
        .counts
        .quarantined
        .iter()
        .map(|(reason, count)| (reason.code().to_owned(), json!(count)))
        .collect();
    let stages: Vec<serde_json::Value> = metrics
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
        "store": options.store_url().to_string(),
    })
}
