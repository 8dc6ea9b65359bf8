//! What a log holds, as far as it must never change: its facts and its receipts, in order.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, UInt8Type, UInt64Type};
use tidegate_facts::{Topic, columns};
use tidegate_sinks::log::{Frame, LogError, Start, Until, read_groups};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub facts: Vec<Fact>,
    pub receipts: Vec<Receipt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub tick: u64,
    pub offset: u64,
    pub event_type: String,
    pub event_id: String,
    pub payload_hash: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub source: String,
    pub position: u64,
    pub verdict: u8,
    pub reason: Option<u8>,
    /// Of the fact; of the first one when a duplicate.
    pub tick: Option<u64>,
}

impl Ledger {
    /// Everything in the complete groups of the log of `data`; nothing when there is no log yet.
    pub fn read(data: &Path) -> Result<Ledger, LogError> {
        let mut ledger = Ledger::default();
        let log = data.join("log");
        if !log.is_dir() {
            return Ok(ledger);
        }
        for group in read_groups(&log, Start::Group(0), Until::Complete)? {
            let mut facts = Vec::new();
            for frame in &group?.frames {
                if frame.topic != Topic::Audit {
                    facts.extend(facts_of(frame));
                } else if frame.name == "receipts" {
                    ledger.receipts.extend(receipts_of(frame));
                }
            }
            facts.sort_by_key(|fact| fact.tick);
            ledger.facts.extend(facts);
        }
        Ok(ledger)
    }

    /// How many records of each source have a receipt.
    pub fn records(&self) -> BTreeMap<String, u64> {
        let mut records = BTreeMap::new();
        for receipt in &self.receipts {
            *records.entry(receipt.source.clone()).or_default() += 1;
        }
        records
    }

    /// Whether `later` begins with all of this.
    pub fn is_kept_in(&self, later: &Ledger) -> bool {
        later.facts.starts_with(&self.facts) && later.receipts.starts_with(&self.receipts)
    }

    /// The same without what the wall clock decides.
    pub fn without_ticks(&self) -> Ledger {
        let mut ledger = self.clone();
        ledger.facts.iter_mut().for_each(|fact| fact.tick = 0);
        ledger.receipts.iter_mut().for_each(|receipt| receipt.tick = None);
        ledger
    }
}

fn facts_of(frame: &Frame) -> Vec<Fact> {
    let column = |name: &str| frame.rows.column_by_name(name).expect("facts have it");
    let ticks = column(columns::TICK).as_primitive::<UInt64Type>();
    let offsets = column(columns::OFFSET).as_primitive::<UInt64Type>();
    let ids = column(columns::EVENT_ID).as_string::<i32>();
    let hashes = column(columns::PAYLOAD_HASH).as_fixed_size_binary();
    let fact = |row| Fact {
        tick: ticks.value(row),
        offset: offsets.value(row),
        event_type: frame.name.clone(),
        event_id: ids.value(row).to_owned(),
        payload_hash: hashes.value(row).to_vec(),
    };
    (0..frame.rows.num_rows()).map(fact).collect()
}

fn receipts_of(frame: &Frame) -> Vec<Receipt> {
    let rows = columns::restore(&frame.rows, &columns::receipt_schema());
    let sources = rows["source"].as_dictionary::<Int32Type>();
    let names = sources.values().as_string::<i32>();
    let positions = rows["position"].as_primitive::<UInt64Type>();
    let verdicts = rows["verdict"].as_primitive::<UInt8Type>();
    let reasons = rows["reason"].as_primitive::<UInt8Type>();
    let ticks = rows["tick"].as_primitive::<UInt64Type>();
    let receipt = |row| Receipt {
        source: names.value(sources.keys().value(row) as usize).to_owned(),
        position: positions.value(row),
        verdict: verdicts.value(row),
        reason: reasons.is_valid(row).then(|| reasons.value(row)),
        tick: ticks.is_valid(row).then(|| ticks.value(row)),
    };
    (0..rows.num_rows()).map(receipt).collect()
}
