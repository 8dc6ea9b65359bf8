//! Expire: keeps each row until its time to live is over, a newer row of its key replaces it, or a
//! cancellation ends it.
//!
//! A row is live from its tick until its event time plus its time to live, as a tick of its own
//! partition. A row with an event time after its tick counts as of its tick, so no row lives longer
//! than its time to live after its arrival. At the tick of its expiry it is retracted before the
//! rows of that tick are read. The expiry queue is in the order of ticks and has one entry per live
//! key: a refresh or a cancellation removes the old entry, which then costs nothing later. A timing
//! wheel would need more code for the same: a million entries of a balanced tree are one look-up of
//! some hundred nanoseconds, and never rehash or cascade.
//!
//! A cancellation ends the rows of its key with event times up to its own, including rows that
//! arrive later. So the operator stores a cancellation until no row of that event time could still
//! be live: for the longest time to live, and for ever if that is not known.
//!
//! * Input: facts, in the order of ticks. The newest row of a key counts, by event time, then by
//!   tick. A row that was overtaken by a newer one, that is cancelled, or that has expired on
//!   arrival never becomes live; it is emitted at the port `late`.
//! * Output: a changelog: `+1` when a row becomes live, `-1` when it no longer is, at that tick.
//! * Time: `upper` moves the queue; entries at or after it stay.
//! * State: the encoded live rows, and the stored cancellations.
//!
//! Invariant: at every tick the output accumulates to the live rows, at most one per key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::row::Row;
use tidegate_facts::tick::MICROS_MAX;
use tidegate_facts::{KeyHash, Tick, columns};

use crate::core::keys::{NULL_KEY, keys_of};
use crate::core::row_encoding::{EncodedRow, RowCodec, decoded_field};
use crate::core::rows::ticks_of;
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::TickOperator;

/// The name of the column in which the expire operator emits the time at which a live row expires.
pub const EXPIRES_AT: &str = "expires_at";

/// The tick at which a row of `tick` expires; `None` if it has expired on arrival.
///
/// `time` is its event time and `ttl` its time to live, both in microseconds. An expiry beyond the
/// last tick becomes the last tick. A row without an event time or a time to live never becomes
/// live: evidence that does not state how long it is valid is valid for no time.
pub fn expiry(tick: Tick, time: Option<i64>, ttl: Option<i64>) -> Option<Tick> {
    let expires = time?.min(tick.micros()).saturating_add(ttl?).min(MICROS_MAX);
    Tick::new(expires, tick.partition()).filter(|expires| *expires > tick)
}

/// The expire operator's live rows by key, and the queue of their expiries.
#[derive(Default)]
pub struct ExpiryQueue {
    live: BTreeMap<KeyHash, LiveRow>,
    due: BTreeSet<(Tick, KeyHash)>,
    cancellations: BTreeMap<KeyHash, Cancellation>,
    /// When each cancellation is dropped.
    cancellation_ends: BTreeSet<(Tick, KeyHash)>,
}

/// A stored cancellation of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cancellation {
    /// Its event time.
    time: i64,
    /// The tick from which on it is not needed.
    until: Tick,
    /// Its encoded row.
    row: EncodedRow,
}

/// A live row of the expire operator: its event time, its expiry and its encoded columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRow {
    /// The event time in microseconds, at most that of the tick at which the row arrived.
    pub time: i64,
    /// The tick at which it expires.
    pub expires: Tick,
    /// The encoded row.
    pub row: EncodedRow,
}

/// What a row that arrives at the expire operator does: become live, cancel its key, or arrive too
/// late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireEvent {
    /// The row becomes live until this tick.
    Live(Tick),
    /// The row cancels its key up to its event time, and is stored until this tick.
    Cancel(Tick),
    /// The row has expired, or lacks what it needs to become live.
    Late,
}

impl ExpiryQueue {
    /// Removes the live row that expires first, if it expires before `upper`.
    pub fn pop_before(&mut self, upper: Tick) -> Option<(Tick, LiveRow)> {
        let (expires, key) = *self.due.first().filter(|(expires, _)| *expires < upper)?;
        self.due.pop_first();
        Some((expires, self.live.remove(&key).expect("every entry of the queue has a live row")))
    }

    /// Applies an arriving row of `key`. Returns the live row that it ended, and what it did.
    ///
    /// It becomes [`ExpireEvent::Late`] if a newer row or a stored cancellation overtook it.
    pub fn apply(
        &mut self,
        key: KeyHash,
        time: i64,
        event: ExpireEvent,
        row: impl FnOnce() -> EncodedRow,
    ) -> (Option<LiveRow>, ExpireEvent) {
        let is_overtaken = self.live.get(&key).is_some_and(|live| time < live.time);
        let ended = match event {
            ExpireEvent::Late => return (None, ExpireEvent::Late),
            ExpireEvent::Live(expires) => {
                if is_overtaken || self.cancellations.get(&key).is_some_and(|stored| time <= stored.time) {
                    return (None, ExpireEvent::Late);
                }
                self.due.insert((expires, key));
                self.live.insert(key, LiveRow { time, expires, row: row() })
            }
            ExpireEvent::Cancel(until) => {
                self.store_cancellation(key, time, until, row);
                if is_overtaken {
                    return (None, ExpireEvent::Late);
                }
                self.live.remove(&key)
            }
        };
        if let Some(ended) = &ended
            && event != ExpireEvent::Live(ended.expires)
        {
            self.due.remove(&(ended.expires, key));
        }
        (ended, event)
    }

    /// Stores a cancellation of `key` up to `time`, unless a later one is stored.
    fn store_cancellation(&mut self, key: KeyHash, time: i64, until: Tick, row: impl FnOnce() -> EncodedRow) {
        if let Some(before) = self.cancellations.get(&key) {
            if before.time >= time {
                return;
            }
            self.cancellation_ends.remove(&(before.until, key));
        }
        self.cancellation_ends.insert((until, key));
        self.cancellations.insert(key, Cancellation { time, until, row: row() });
    }

    /// Drops the cancellations that are not needed from `upper` on.
    fn drop_cancellations_before(&mut self, upper: Tick) {
        while let Some((until, key)) = self.cancellation_ends.first().copied()
            && until < upper
        {
            self.cancellation_ends.pop_first();
            self.cancellations.remove(&key);
        }
    }

    /// The number of live rows in the expiry queue.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether the expiry queue has no live rows.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

/// The last columns of a row of the snapshot: a live row or a stored cancellation.
#[derive(Row)]
struct StoredRow {
    /// The tick at which the row expires, or from which on the cancellation is not needed.
    #[row(name = "_expires")]
    expires: Tick,
    /// The event time in microseconds.
    #[row(name = "_time")]
    time: i64,
    /// Whether it is a cancellation.
    #[row(name = "_cancels")]
    cancels: bool,
}

/// The columns of the expire operator's input, by index, and the longest time to live.
#[derive(Clone, Copy, Debug)]
pub struct ExpireColumns {
    /// The key.
    pub key: usize,
    /// The event time.
    pub time: usize,
    /// The time to live in microseconds.
    pub ttl: usize,
    /// Whether the row is a cancellation.
    pub cancel: Option<usize>,
    /// How many of the input's columns, the first ones, the output repeats.
    pub output_count: usize,
    /// The longest time to live of any row, in microseconds, if it is known.
    pub ttl_max: Option<i64>,
}

/// The expire operator: emits the live rows as a changelog, and the rows that came too late.
pub struct Expire {
    columns: ExpireColumns,
    codec: RowCodec,
    encoded: Vec<usize>,
    schemas: [SchemaRef; 2],
    queue: ExpiryQueue,
}

impl Expire {
    /// The schemas of the expire operator's changelog and of its port `late`, for an input of the
    /// schema `input`.
    pub fn schemas(input: &Schema, output_count: usize) -> [SchemaRef; 2] {
        let mut fields: Vec<Field> =
            input.fields()[..output_count].iter().map(|field| decoded_field(field)).collect();
        fields.push(Field::new(EXPIRES_AT, timestamp(), true));
        let late = Arc::new(Schema::new(fields.clone()));
        fields.push(Field::new(columns::DIFF, DataType::Int64, false));
        [Arc::new(Schema::new(fields)), late]
    }

    /// Returns an expire operator without live rows, for an input of the schema `input`.
    ///
    /// # Panics
    /// If the first column of `input` is not the tick.
    pub fn new(input: &Schema, columns: ExpireColumns) -> Expire {
        assert_eq!(input.field(0).name(), columns::TICK, "the first column is the tick");
        Expire {
            columns,
            codec: RowCodec::for_fields(&input.fields()[1..columns.output_count]),
            encoded: (1..columns.output_count).collect(),
            schemas: Expire::schemas(input, columns.output_count),
            queue: ExpiryQueue::default(),
        }
    }

    /// The schema of the expire operator's snapshot: the live rows and the cancellations, the key
    /// second.
    ///
    /// The output's columns are followed by the tick at which the row expires or is dropped, its
    /// event time (at most its tick), and whether it is a cancellation.
    pub fn snapshot_schema(input: &Schema, output_count: usize) -> SchemaRef {
        let [_, late] = Expire::schemas(input, output_count);
        let fields = late.fields()[..output_count].iter().map(|field| field.as_ref().clone());
        Arc::new(Schema::new(fields.chain(StoredRow::fields()).collect::<Vec<_>>()))
    }

    /// The tick from which on no row with an event time of `time` or before can be live.
    fn cancellation_end(&self, time: i64) -> Tick {
        let ttl_max = self.columns.ttl_max.unwrap_or(i64::MAX);
        // One microsecond later, so that it holds in every partition.
        let end = time.saturating_add(ttl_max).saturating_add(1).clamp(0, MICROS_MAX);
        Tick::new(end, 0).expect("in the range of a tick")
    }

    /// The number of live rows of the expire operator.
    pub fn live_count(&self) -> usize {
        self.queue.len()
    }

    /// What the row at `tick` with these columns does, by itself.
    fn event_of(
        &self,
        tick: Tick,
        key: KeyHash,
        time: Option<i64>,
        ttl: Option<i64>,
        is_cancel: bool,
    ) -> ExpireEvent {
        match (time, expiry(tick, time, ttl)) {
            _ if key == NULL_KEY => ExpireEvent::Late,
            (Some(time), _) if is_cancel => ExpireEvent::Cancel(self.cancellation_end(time)),
            (_, Some(expires)) => ExpireEvent::Live(expires),
            (_, None) => ExpireEvent::Late,
        }
    }
}

/// The rows of one output, column by column.
#[derive(Default)]
struct ExpireOutput {
    ticks: Vec<Tick>,
    rows: Vec<Emission>,
    expires: Vec<Option<i64>>,
    diffs: Vec<i64>,
}

/// The source of an emitted row.
enum Emission {
    /// The input row of this index.
    Input(usize),
    /// A live row that ended.
    Ended(EncodedRow),
}

impl ExpireOutput {
    fn push(&mut self, tick: Tick, row: Emission, expires: Option<i64>, diff: i64) {
        self.ticks.push(tick);
        self.rows.push(row);
        self.expires.push(expires);
        self.diffs.push(diff);
    }

    fn push_ended(&mut self, tick: Tick, ended: LiveRow) {
        self.push(tick, Emission::Ended(ended.row), Some(ended.expires.micros()), -1);
    }

    fn into_batch(self, codec: &RowCodec, input: &arrow::row::Rows, schema: &SchemaRef) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(columns::tick_array(self.ticks))];
        columns.extend(codec.decode(self.rows.iter().map(|row| match row {
            Emission::Input(index) => input.row(*index).data(),
            Emission::Ended(row) => row,
        })));
        columns.push(Arc::new(TimestampMicrosecondArray::from(self.expires).with_timezone("UTC")));
        if schema.fields().len() > columns.len() {
            columns.push(Arc::new(Int64Array::from(self.diffs)));
        }
        RecordBatch::try_new(Arc::clone(schema), columns).expect("the columns are the schema's")
    }
}

impl TickOperator for Expire {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let input = &inputs[0];
        let (mut changes, mut late) = (ExpireOutput::default(), ExpireOutput::default());
        let ticks = ticks_of(input).values();
        let keys = keys_of(input.column(self.columns.key));
        let times = input.column(self.columns.time).as_primitive::<TimestampMicrosecondType>();
        let ttls = input.column(self.columns.ttl).as_primitive::<Int64Type>();
        let cancels: Option<&BooleanArray> =
            self.columns.cancel.map(|index| input.column(index).as_boolean());
        let rows = self.codec.encode(input, &self.encoded);
        for (index, key) in keys.into_iter().enumerate() {
            let tick = Tick(ticks[index]);
            while let Some((expires, ended)) = self.queue.pop_before(tick.next()) {
                changes.push_ended(expires, ended);
            }
            let time = times.is_valid(index).then(|| times.value(index).min(tick.micros()));
            let ttl = ttls.is_valid(index).then(|| ttls.value(index));
            let is_cancel = cancels.is_some_and(|cancels| cancels.is_valid(index) && cancels.value(index));
            let event = self.event_of(tick, key, time, ttl, is_cancel);
            let encode = || rows.row(index).data().into();
            let (ended, event) = self.queue.apply(key, time.unwrap_or_default(), event, encode);
            if let Some(ended) = ended {
                changes.push_ended(tick, ended);
            }
            match event {
                ExpireEvent::Live(expires) => {
                    changes.push(tick, Emission::Input(index), Some(expires.micros()), 1);
                }
                ExpireEvent::Cancel(_) => {}
                ExpireEvent::Late => {
                    let expires = time.map(|time| time.saturating_add(ttl.unwrap_or_default()));
                    let expires = expires.map(|expires| expires.clamp(0, MICROS_MAX));
                    late.push(tick, Emission::Input(index), expires, 1);
                }
            }
        }
        while let Some((expires, ended)) = self.queue.pop_before(upper) {
            changes.push_ended(expires, ended);
        }
        self.queue.drop_cancellations_before(upper);
        let [changelog_schema, late_schema] = &self.schemas;
        vec![
            changes.into_batch(&self.codec, &rows, changelog_schema),
            late.into_batch(&self.codec, &rows, late_schema),
        ]
    }
}

impl SnapshotOperator for Expire {
    fn snapshot(&self) -> Vec<ArrayRef> {
        let live = || self.queue.live.values();
        let cancellations = || self.queue.cancellations.values();
        let rows = live().map(|of| &of.row[..]).chain(cancellations().map(|of| &of.row[..]));
        let mut columns = self.codec.decode(rows);
        let stored = live()
            .map(|of| StoredRow { expires: of.expires, time: of.time, cancels: false })
            .chain(cancellations().map(|of| StoredRow { expires: of.until, time: of.time, cancels: true }));
        columns.extend(StoredRow::columns(&stored.collect::<Vec<_>>()));
        columns
    }

    fn restore(&mut self, rows: &RecordBatch) {
        let keys = keys_of(rows.column(self.columns.key));
        let stored = StoredRow::read(rows).expect("the snapshot has its columns");
        let encoded = self.codec.encode(rows, &self.encoded);
        for (index, (key, StoredRow { expires, time, cancels })) in keys.into_iter().zip(stored).enumerate() {
            let row = encoded.row(index).data().into();
            if cancels {
                self.queue.store_cancellation(key, time, expires, || row);
            } else {
                // It was live at the snapshot, so no cancellation of the snapshot applies to it.
                self.queue.due.insert((expires, key));
                self.queue.live.insert(key, LiveRow { time, expires, row });
            }
        }
    }
}
