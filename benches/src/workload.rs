//! The workload of every bench: a seeded world of card payments, as columns and as JSON lines.

use std::io::Write;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType};
use tidegate_facts::time::to_rfc3339;
use tidegate_sources::{Body, CardWorldConfig, CardWorldSource, CardWorldStream, Source};

/// One payment of a bench's workload, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Payment {
    /// Its number, in time order.
    pub id: i64,
    /// When it was made, in microseconds.
    pub time: i64,
    /// The card.
    pub customer: i32,
    /// The terminal.
    pub terminal: i32,
    /// The amount in cents.
    pub cents: i64,
    /// Whether it is a fraud, which is learned later.
    pub fraud: bool,
}

/// The size of a bench's workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Cards.
    pub customers: u32,
    /// Terminals.
    pub terminals: u32,
    /// Days.
    pub days: u32,
}

impl Size {
    /// The standard size: 5,000 cards and 10,000 terminals over 60 days, about 9,600 payments a
    /// day.
    pub const STANDARD: Size = Size { customers: 5_000, terminals: 10_000, days: 60 };

    /// Ten times the keys with the same number of payments.
    pub const TEN_TIMES_KEYS: Size = Size { customers: 50_000, terminals: 100_000, days: 6 };

    /// Ten times the history with the same number of payments.
    pub const TEN_TIMES_HISTORY: Size = Size { customers: 500, terminals: 1_000, days: 600 };

    /// With a fraction of the days.
    #[must_use]
    pub fn divided(self, by: u32) -> Size {
        Size { days: (self.days / by.max(1)).max(2), ..self }
    }
}

/// When the label of a payment in the workload is learned: seven days after it.
pub const LABEL_DELAY: i64 = 7 * 86_400_000_000;

/// The payments of a workload, in time order.
pub fn payments(size: Size) -> Vec<Payment> {
    let config = CardWorldConfig {
        seed: 42,
        customers: size.customers,
        terminals: size.terminals,
        days: size.days,
        ..CardWorldConfig::default()
    };
    let mut source =
        CardWorldSource::new(config, CardWorldStream::Transactions, 0, 65_536).expect("the sizes are sound");
    let mut batches: Vec<RecordBatch> = Vec::new();
    while let Some(chunk) = source.next().expect("a world does not fail") {
        if let Body::Rows { batch, .. } = chunk.body {
            batches.push(batch);
        }
    }
    let all = concat_batches(&source.schema(), &batches).expect("one schema");
    let ids = all.column(0).as_primitive::<Int64Type>();
    let times = all.column(1).as_primitive::<TimestampMicrosecondType>();
    let customers = all.column(2).as_primitive::<Int32Type>();
    let terminals = all.column(3).as_primitive::<Int32Type>();
    let amounts = all.column(4).as_primitive::<Decimal128Type>();
    let frauds = all.column(5).as_boolean();
    (0..all.num_rows())
        .map(|row| Payment {
            id: ids.value(row),
            time: times.value(row),
            customer: customers.value(row),
            terminal: terminals.value(row),
            cents: amounts.value(row) as i64,
            fraud: frauds.value(row),
        })
        .collect()
}

/// The head that every envelope of the workload shares.
pub const PINS: &str = concat!(
    r#""manifest_fingerprint":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","#,
    r#""parameter_hash":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","seed":42,"#,
    r#""scenario_id":"bench","run_id":"cccccccccccccccccccccccccccccccc","#,
    r#""scenario_run_id":"dddddddddddddddddddddddddddddddd","platform_run_id":"platform_20260101T000000Z""#
);

/// Appends a payment of the workload as an envelope.
pub fn push_payment(payment: &Payment, out: &mut Vec<u8>) {
    let Payment { id, time, customer, terminal, cents, .. } = payment;
    let _ = writeln!(
        out,
        r#"{{"event_id":"tx-{id}","event_type":"card.transaction.v1","ts_utc":"{}",{PINS},"payload":{{"transaction_id":"{id}","customer_id":{customer},"terminal_id":{terminal},"amount":"{}.{:02}"}}}}"#,
        to_rfc3339(*time),
        cents / 100,
        cents % 100
    );
}

/// Appends the label of a payment of the workload as an envelope.
pub fn push_label(payment: &Payment, out: &mut Vec<u8>) {
    let Payment { id, time, customer, terminal, fraud, .. } = payment;
    let _ = writeln!(
        out,
        r#"{{"event_id":"label-{id}","event_type":"fraud.label.v1","ts_utc":"{}",{PINS},"payload":{{"transaction_id":"{id}","customer_id":{customer},"terminal_id":{terminal},"effective_at":"{}","fraud":{fraud}}}}}"#,
        to_rfc3339(time + LABEL_DELAY),
        to_rfc3339(*time)
    );
}

/// Writes the payments of a workload and their labels as two files of envelopes.
///
/// # Errors
/// When the files cannot be written.
pub fn write_lines(payments: &[Payment], transactions: &Path, labels: &Path) -> std::io::Result<()> {
    let mut out = Vec::new();
    payments.iter().for_each(|payment| push_payment(payment, &mut out));
    std::fs::write(transactions, &out)?;
    out.clear();
    payments.iter().for_each(|payment| push_label(payment, &mut out));
    std::fs::write(labels, &out)
}

/// Mixes numbers into one, for the hashes of a bench's outputs; not for digests.
pub fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9E37_79B9_7F4A_7C15, |hash: u64, part| {
        let hash = (hash ^ part).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        hash ^ (hash >> 29)
    })
}
