//! The standard workloads, each beside the hand-written loop that it is measured against.
//!
//! A [`Measure`] is one stage on one workload: rows a second of Tidegate and of the loop, taken in
//! turns in one run, and a hash of the output of each. Hashes that differ are a defect, whatever
//! the rates.

pub mod baseline;
pub mod load;
pub mod reads;
pub mod service;
pub mod stages;
pub mod workload;

use serde::Serialize;

/// The measure of one stage: Tidegate beside the hand-written loop.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    /// The stage, and what is special about its workload.
    pub stage: String,
    /// How many workers Tidegate had.
    pub workers: usize,
    /// Rows of the workload.
    pub rows: u64,
    /// Rows a second of Tidegate, the best of its rounds.
    pub rows_per_s: f64,
    /// Rows a second of the loop, likewise.
    pub baseline_rows_per_s: f64,
    /// The first divided by the second.
    pub ratio: f64,
    /// A hash of Tidegate's output.
    pub hash: String,
    /// A hash of the loop's output; equal, or something is wrong.
    pub baseline_hash: String,
}

/// Measures one stage of the benches, or all of them, and prints each as soon as it is known.
///
/// `divide` makes every workload so many times smaller.
///
/// # Errors
/// An unknown stage; a stage that failed; hashes that differ.
pub fn run(stage: Option<&str>, as_json: bool, divide: u32) -> Result<(), String> {
    let names: Vec<&str> = match stage {
        None => stages::NAMES.to_vec(),
        Some(name) if stages::NAMES.contains(&name) => vec![name],
        Some(name) => return Err(format!("`{name}` is no stage; it can be {}", stages::NAMES.join(", "))),
    };
    if !as_json {
        println!(
            "{:<28} {:>7} {:>10} {:>12} {:>12} {:>6}  hash",
            "stage", "workers", "rows", "rows/s", "loop rows/s", "ratio"
        );
    }
    let mut wrong = Vec::new();
    for name in names {
        for measure in stages::measure(name, divide)? {
            if as_json {
                println!("{}", serde_json::to_string(&measure).expect("plain numbers"));
            } else {
                let same = if measure.hash == measure.baseline_hash { "" } else { "  DIFFERS" };
                println!(
                    "{:<28} {:>7} {:>10} {:>12.0} {:>12.0} {:>6.2}  {}{same}",
                    measure.stage,
                    measure.workers,
                    measure.rows,
                    measure.rows_per_s,
                    measure.baseline_rows_per_s,
                    measure.ratio,
                    measure.hash
                );
            }
            if measure.hash != measure.baseline_hash {
                wrong.push(measure.stage);
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("the outputs differ at {}", wrong.join(", "))) }
}
