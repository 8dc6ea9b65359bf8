//! The hand-written loops: one thread, hash maps, no engine. What a good programmer writes in a
//! day.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::Deserialize;
use tidegate_facts::time::parse_rfc3339_micros;

use crate::workload::{LABEL_DELAY, Payment, mix};

/// The widths of the windows in the hand-written loop, in microseconds.
pub const WIDTHS: [i64; 3] = [86_400_000_000, 7 * 86_400_000_000, 30 * 86_400_000_000];

/// The features that the hand-written loop computes for one payment: for each width the card's
/// payments and their sum, the terminal's labels and frauds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The card's payments in each window.
    pub card_count: [i64; 3],
    /// Their sum, in cents.
    pub card_sum: [i64; 3],
    /// The terminal's labels in each window.
    pub terminal_count: [i64; 3],
    /// How many of them are frauds.
    pub terminal_sum: [i64; 3],
}

impl Features {
    /// A hash of the features of payment `id`; hashes of all payments are added.
    pub fn hash(&self, id: i64) -> u64 {
        let averages = |sum: [i64; 3], count: [i64; 3], scale: f64| {
            [0, 1, 2].map(|w| {
                if count[w] == 0 { 0 } else { (sum[w] as f64 / (count[w] as f64 * scale)).to_bits() }
            })
        };
        let [a, b, c] = self.card_count.map(i64::cast_unsigned);
        let [d, e, f] = averages(self.card_sum, self.card_count, 100.0);
        let [g, h, i] = self.terminal_count.map(i64::cast_unsigned);
        let [j, k, l] = averages(self.terminal_sum, self.terminal_count, 1.0);
        mix(&[id.cast_unsigned(), a, b, c, d, e, f, g, h, i, j, k, l])
    }
}

/// A key's rows in one window, with their running count and sum.
#[derive(Default)]
struct Window {
    rows: VecDeque<(i64, i64)>,
    sum: i64,
}

impl Window {
    fn push(&mut self, time: i64, value: i64) {
        self.rows.push_back((time, value));
        self.sum += value;
    }

    fn expire(&mut self, until: i64) {
        while let Some((time, value)) = self.rows.front()
            && *time <= until
        {
            self.sum -= value;
            self.rows.pop_front();
        }
    }
}

/// The state of the hand-written loop: the windows of all cards and terminals.
#[derive(Default)]
pub struct Loop {
    cards: HashMap<i32, [Window; 3]>,
    terminals: HashMap<i32, [Window; 3]>,
}

impl Loop {
    /// Adds a label when it is learned.
    pub fn label(&mut self, terminal: i32, effective: i64, fraud: bool) {
        for window in self.terminals.entry(terminal).or_default() {
            window.push(effective, i64::from(fraud));
        }
    }

    /// Adds a payment, and returns its features.
    pub fn payment(&mut self, payment: &Payment) -> Features {
        let mut features = Features::default();
        for (place, window) in self.cards.entry(payment.customer).or_default().iter_mut().enumerate() {
            window.push(payment.time, payment.cents);
            window.expire(payment.time - WIDTHS[place]);
            features.card_count[place] = window.rows.len() as i64;
            features.card_sum[place] = window.sum;
        }
        if let Some(windows) = self.terminals.get_mut(&payment.terminal) {
            for (place, window) in windows.iter_mut().enumerate() {
                window.expire(payment.time - LABEL_DELAY - WIDTHS[place]);
                features.terminal_count[place] = window.rows.len() as i64;
                features.terminal_sum[place] = window.sum;
            }
        }
        features
    }
}

/// The windows stage as a hand-written loop: the sum of the hashes of all payments' features.
pub fn windows(payments: &[Payment]) -> u64 {
    let mut state = Loop::default();
    let mut learned = 0;
    let mut hash = 0u64;
    for payment in payments {
        while payments[learned].time + LABEL_DELAY <= payment.time {
            let label = &payments[learned];
            state.label(label.terminal, label.time, label.fraud);
            learned += 1;
        }
        hash = hash.wrapping_add(state.payment(payment).hash(payment.id));
    }
    hash
}

/// An envelope as a hand-written program declares it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    event_id: &'a str,
    event_type: &'a str,
    ts_utc: &'a str,
    manifest_fingerprint: &'a str,
    parameter_hash: &'a str,
    seed: u64,
    scenario_id: &'a str,
    run_id: &'a str,
    scenario_run_id: &'a str,
    platform_run_id: &'a str,
    #[serde(borrow)]
    payload: Payload<'a>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    transaction_id: &'a str,
    customer_id: i32,
    terminal_id: i32,
    #[serde(default)]
    amount: &'a str,
    #[serde(default)]
    effective_at: Option<&'a str>,
    #[serde(default)]
    fraud: bool,
}

/// A decoded line.
struct Decoded {
    event_id: String,
    time: i64,
    is_label: bool,
    payment: Payment,
}

fn decode(line: &str) -> Decoded {
    let line: Line<'_> = serde_json::from_str(line).expect("the workload is well formed");
    let pins =
        [line.manifest_fingerprint, line.parameter_hash, line.scenario_id, line.run_id, line.scenario_run_id];
    assert!(line.seed > 0 && pins.iter().all(|pin| !pin.is_empty()) && !line.platform_run_id.is_empty());
    let time = parse_rfc3339_micros(line.ts_utc).expect("the workload's times are times");
    let cents = match line.payload.amount.split_once('.') {
        Some((whole, cents)) => {
            whole.parse::<i64>().expect("digits") * 100 + cents.parse::<i64>().expect("digits")
        }
        None => 0,
    };
    let effective = line.payload.effective_at.map_or(time, |at| parse_rfc3339_micros(at).expect("a time"));
    Decoded {
        event_id: line.event_id.to_owned(),
        time,
        is_label: line.event_type == "fraud.label.v1",
        payment: Payment {
            id: line.payload.transaction_id.parse().expect("digits"),
            time: effective,
            customer: line.payload.customer_id,
            terminal: line.payload.terminal_id,
            cents,
            fraud: line.payload.fraud,
        },
    }
}

/// The decode stage as a hand-written loop: a hash of the decoded fields of all lines.
pub fn decode_all(text: &str) -> u64 {
    text.lines().map(decode).fold(0, |hash, line| {
        hash.wrapping_add(decoded_hash(
            line.payment.id,
            line.time,
            line.payment.customer,
            line.payment.terminal,
        ))
    })
}

/// The hash of one line, decoded by the hand-written loop or by Tidegate.
pub fn decoded_hash(id: i64, time: i64, customer: i32, terminal: i32) -> u64 {
    mix(&[
        id.cast_unsigned(),
        time.cast_unsigned(),
        i64::from(customer).cast_unsigned(),
        i64::from(terminal).cast_unsigned(),
    ])
}

/// The gate stage as a hand-written loop: decode, one hash set of ids, and a strictly increasing
/// stamp; a hash of what was admitted.
pub fn gate(text: &str) -> u64 {
    let mut seen: HashSet<String> = HashSet::new();
    let mut hash = 0u64;
    let mut last = 0;
    for line in text.lines() {
        let decoded = decode(line);
        if seen.insert(decoded.event_id) {
            last = decoded.time.max(last + 1);
            hash = hash.wrapping_add(decoded_hash(
                decoded.payment.id,
                decoded.time,
                decoded.payment.customer,
                decoded.payment.terminal,
            ));
        }
    }
    assert!(last > 0, "the workload has lines");
    hash
}

/// The whole job as a hand-written loop: two files of envelopes to a log and two tables; the hash
/// of the features.
///
/// # Errors
/// When a file cannot be read or written.
pub fn job(transactions: &Path, labels: &Path, out: &Path) -> std::io::Result<u64> {
    let mut transactions = BufReader::with_capacity(1 << 20, File::open(transactions)?).lines().peekable();
    let mut labels = BufReader::with_capacity(1 << 20, File::open(labels)?).lines().peekable();
    let mut log = File::create(out.join("log"))?;
    let mut group: Vec<u8> = Vec::new();
    let mut grouped = 0;
    let mut seen: HashSet<String> = HashSet::new();
    let mut state = Loop::default();
    let mut tables = Tables::new(out)?;
    let mut hash = 0u64;
    let mut next_transaction: Option<(String, Decoded)> = None;
    let mut next_label: Option<(String, Decoded)> = None;
    let read = |lines: &mut dyn Iterator<Item = std::io::Result<String>>| -> std::io::Result<Option<(String, Decoded)>> {
        Ok(match lines.next() {
            Some(line) => {
                let line = line?;
                let decoded = decode(&line);
                Some((line, decoded))
            }
            None => None,
        })
    };
    loop {
        if next_transaction.is_none() {
            next_transaction = read(&mut transactions)?;
        }
        if next_label.is_none() {
            next_label = read(&mut labels)?;
        }
        // At equal times labels go first.
        let take_label = match (&next_transaction, &next_label) {
            (Some((_, transaction)), Some((_, label))) => label.time <= transaction.time,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let Some((line, decoded)) = (if take_label { next_label.take() } else { next_transaction.take() })
        else {
            break;
        };
        if !seen.insert(decoded.event_id) {
            continue;
        }
        group.extend_from_slice(line.as_bytes());
        group.push(b'\n');
        grouped += 1;
        if grouped == 8_192 {
            log.write_all(&group)?;
            log.sync_data()?;
            group.clear();
            grouped = 0;
        }
        if decoded.is_label {
            state.label(decoded.payment.terminal, decoded.payment.time, decoded.payment.fraud);
        } else {
            let features = state.payment(&decoded.payment);
            hash = hash.wrapping_add(features.hash(decoded.payment.id));
            tables.push(&decoded.payment, &features)?;
        }
    }
    log.write_all(&group)?;
    log.sync_data()?;
    tables.finish()?;
    Ok(hash)
}

/// The two tables, written in batches.
struct Tables {
    payments: Vec<Payment>,
    features: Vec<Features>,
    features_file: ArrowWriter<File>,
    decisions_file: ArrowWriter<File>,
}

impl Tables {
    fn new(out: &Path) -> std::io::Result<Tables> {
        let properties = || {
            let level = ZstdLevel::try_new(1).expect("zstd has a level 1");
            Some(WriterProperties::builder().set_compression(Compression::ZSTD(level)).build())
        };
        let (features, decisions) = batches(&[], &[]);
        let open = |name: &str, batch: &RecordBatch| -> std::io::Result<ArrowWriter<File>> {
            Ok(ArrowWriter::try_new(File::create(out.join(name))?, batch.schema(), properties())?)
        };
        Ok(Tables {
            payments: Vec::new(),
            features: Vec::new(),
            features_file: open("features.parquet", &features)?,
            decisions_file: open("decisions.parquet", &decisions)?,
        })
    }

    fn push(&mut self, payment: &Payment, features: &Features) -> std::io::Result<()> {
        self.payments.push(*payment);
        self.features.push(*features);
        if self.payments.len() == 65_536 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let (features, decisions) = batches(&self.payments, &self.features);
        self.features_file.write(&features)?;
        self.decisions_file.write(&decisions)?;
        self.payments.clear();
        self.features.clear();
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.flush()?;
        self.features_file.close()?;
        self.decisions_file.close()?;
        Ok(())
    }
}

/// Rows of the features table and of the decisions table.
fn batches(payments: &[Payment], features: &[Features]) -> (RecordBatch, RecordBatch) {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(payments.iter().map(|p| p.id)));
    let times: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from_iter_values(payments.iter().map(|p| p.time)));
    let customers: ArrayRef = Arc::new(Int32Array::from_iter_values(payments.iter().map(|p| p.customer)));
    let terminals: ArrayRef = Arc::new(Int32Array::from_iter_values(payments.iter().map(|p| p.terminal)));
    let amounts = Decimal128Array::from_iter_values(payments.iter().map(|p| i128::from(p.cents)));
    let amounts: ArrayRef = Arc::new(amounts.with_precision_and_scale(12, 2).expect("12 digits fit"));
    let mut columns = vec![
        ("id", Arc::clone(&ids)),
        ("time", Arc::clone(&times)),
        ("customer", Arc::clone(&customers)),
        ("terminal", Arc::clone(&terminals)),
        ("amount", Arc::clone(&amounts)),
    ];
    let names = ["card_count", "card_avg", "terminal_count", "terminal_risk"];
    let titled: Vec<Vec<String>> =
        (0..3).map(|w| names.iter().map(|n| format!("{n}_{w}")).collect()).collect();
    for (w, titles) in titled.iter().enumerate() {
        let ratio = |sum: i64, count: i64, scale: f64| {
            if count == 0 { 0.0 } else { sum as f64 / (count as f64 * scale) }
        };
        columns.push((
            &titles[0],
            Arc::new(Int64Array::from_iter_values(features.iter().map(|f| f.card_count[w]))),
        ));
        let averages = features.iter().map(|f| ratio(f.card_sum[w], f.card_count[w], 100.0));
        columns.push((&titles[1], Arc::new(Float64Array::from_iter_values(averages))));
        columns.push((
            &titles[2],
            Arc::new(Int64Array::from_iter_values(features.iter().map(|f| f.terminal_count[w]))),
        ));
        let risks = features.iter().map(|f| ratio(f.terminal_sum[w], f.terminal_count[w], 1.0));
        columns.push((&titles[3], Arc::new(Float64Array::from_iter_values(risks))));
    }
    let decided: Vec<(&str, f64, &str)> = payments.iter().zip(features).map(|(p, f)| decide(p, f)).collect();
    let actions: ArrayRef = Arc::new(StringArray::from_iter_values(decided.iter().map(|d| d.0)));
    let scores: ArrayRef = Arc::new(Float64Array::from_iter_values(decided.iter().map(|d| d.1)));
    let reasons: ArrayRef = Arc::new(StringArray::from_iter_values(decided.iter().map(|d| d.2)));
    let decisions = [
        ("id", ids),
        ("time", times),
        ("customer", customers),
        ("terminal", terminals),
        ("amount", amounts),
        ("action", actions),
        ("score", scores),
        ("reasons", reasons),
    ];
    let features = RecordBatch::try_from_iter(columns).expect("one length");
    (features, RecordBatch::try_from_iter(decisions).expect("one length"))
}

/// The rules of the handbook topology, by hand.
fn decide(payment: &Payment, features: &Features) -> (&'static str, f64, &'static str) {
    let large = payment.cents > 22_000;
    let (count, frauds) = (features.terminal_count[1], features.terminal_sum[1]);
    let risk = if count == 0 { 0.0 } else { frauds as f64 / count as f64 };
    let usual = features.card_sum[2] as f64 / (features.card_count[2] as f64 * 100.0);
    let unlike = features.card_count[2] >= 5 && payment.cents as f64 / 100.0 > 4.0 * usual;
    let score = risk.max(f64::from(u8::from(large))) + if unlike { 0.3 } else { 0.0 };
    if large {
        ("BLOCK", score, "AMOUNT_OVER_LIMIT")
    } else if count >= 3 && risk > 0.5 {
        ("BLOCK", score, "TERMINAL_RISK_HIGH")
    } else if risk > 0.2 {
        ("QUEUE_REVIEW", score, "TERMINAL_RISK_RAISED")
    } else if unlike {
        ("STEP_UP", score, "AMOUNT_UNUSUAL_FOR_CARD")
    } else {
        ("ALLOW", score, "")
    }
}
