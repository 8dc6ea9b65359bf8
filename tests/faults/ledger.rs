//! The part of a log that must never change: its facts and its receipts, in order.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::AsArray;
use tidegate_facts::audit::{RECEIPTS, Receipts};
use tidegate_facts::{Reason, Tick, Topic, Verdict, columns};
use tidegate_host::Host;
use tidegate_sinks::log::{Frame, LogError, LogFolder, LogReader, Start, Until};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub facts: Vec<Fact>,
    pub receipts: Vec<Receipt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub tick: Tick,
    pub offset: i64,
    pub event_type: String,
    pub event_id: String,
    pub payload_hash: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub source: String,
    pub position: u64,
    pub verdict: Verdict,
    pub reason: Option<Reason>,
    /// The tick of the fact; for a duplicate, of the first one.
    pub tick: Option<Tick>,
}

impl Ledger {
    /// Everything in the complete groups of the log of `data`; nothing when there is no log yet.
    pub fn read(data: &Path) -> Result<Ledger, LogError> {
        let mut ledger = Ledger::default();
        let log = LogFolder::of_data(&Host::real(), data);
        if !log.exists() {
            return Ok(ledger);
        }
        for group in log.read(Start::Group(0), Until::Complete)? {
            let mut facts = Vec::new();
            for frame in &group?.frames {
                if frame.topic != Topic::Audit {
                    facts.extend(facts_of(frame));
                } else if frame.name == RECEIPTS {
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

    /// Whether `later` begins with everything in this ledger.
    pub fn is_prefix_of(&self, later: &Ledger) -> bool {
        later.facts.starts_with(&self.facts) && later.receipts.starts_with(&self.receipts)
    }

    /// The same without ticks, which the wall clock decides.
    pub fn without_ticks(&self) -> Ledger {
        let mut ledger = self.clone();
        ledger.facts.iter_mut().for_each(|fact| fact.tick = Tick::ZERO);
        ledger.receipts.iter_mut().for_each(|receipt| receipt.tick = None);
        ledger
    }
}

fn facts_of(frame: &Frame) -> Vec<Fact> {
    let column = |name: &str| frame.rows.column_by_name(name).expect("facts have it");
    let (ticks, offsets) = (columns::ticks(&frame.rows), columns::offsets(&frame.rows));
    let ids = column(columns::EVENT_ID).as_string::<i32>();
    let hashes = column(columns::PAYLOAD_HASH).as_fixed_size_binary();
    let fact = |row| Fact {
        tick: Tick(ticks.value(row)),
        offset: offsets.value(row),
        event_type: frame.name.clone(),
        event_id: ids.value(row).to_owned(),
        payload_hash: hashes.value(row).to_vec(),
    };
    (0..frame.rows.num_rows()).map(fact).collect()
}

fn receipts_of(frame: &Frame) -> Vec<Receipt> {
    let receipts = Receipts::read(&frame.rows).expect("the gate wrote the frame");
    let receipt = |row| Receipt {
        source: receipts.source(row).to_owned(),
        position: receipts.position(row),
        verdict: receipts.verdict(row),
        reason: receipts.reason(row),
        tick: receipts.tick(row),
    };
    (0..receipts.len()).map(receipt).collect()
}
