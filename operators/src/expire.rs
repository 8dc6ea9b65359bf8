//! What is alive: each row until its time to live is over, a later row of its key replaces it, or one cancels it.
//!
//! A row is alive from its tick until it expires, at its event time and its time to live, in its own partition. What says that it is of
//! the future is of its tick: nothing lives longer than its time to live after it came. At that tick it is
//! gone before anything of the tick is heard. The calendar of what is due is in the order of ticks, and has one entry a
//! living key: who refreshes or cancels takes the old entry out, so that it costs nothing later. A wheel of slots would do the same
//! with more words: a million entries of a balanced tree are one look of some hundred nanoseconds, and are never rehashed or cascaded.
//!
//! Who cancels ends what was reported up to the cancellation's own event time, also what is still on its way. So a cancellation is
//! remembered until nothing of that time could still live: for the longest time to live there is, and for good when that is not known.
//!
//! * Input: facts, in the order of ticks. The newest of a key stands, by event time, then by tick: one that was overtaken on its way,
//!   one that was cancelled, and one that had expired when it came, never live. They are told by the port `late`.
//! * Output: a changelog: `+1` of a row that lives from its tick on, `-1` of it when that is over, with that tick.
//! * Time: `upper` moves the calendar; what is due at or after it stays due.
//! * State: the bytes of the living rows, and of the cancellations that are remembered.
//!
//! Invariant: at every tick, the output accumulates to the rows that live, at most one of a key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType, UInt64Type};
use tidegate_facts::schema::timestamp;
use tidegate_facts::tick::MICROS_MAX;
use tidegate_facts::{KeyHash, Tick, columns};

use crate::checkpointed::Lasting;
use crate::kept::{Form, KeptRow, plain_field};
use crate::keys::{NULL_KEY, keys_of};
use crate::ordered::Ordered;
use crate::rows::ticks_of;

/// The column that says until when a row lives.
pub const EXPIRES_AT: &str = "expires_at";

/// When a row that comes at `tick` ends, of which the event time and the time to live are known, in microseconds; `None` when
/// that is not after it came. What is longer than time itself ends with it.
///
/// Without a time to live nothing lives: evidence that does not say how long it is good for is good for nothing.
pub fn expiry(tick: Tick, time: Option<i64>, ttl: Option<i64>) -> Option<Tick> {
    let ends = time?.min(tick.micros()).saturating_add(ttl?).min(MICROS_MAX);
    Tick::new(ends, tick.partition()).filter(|ends| *ends > tick)
}

/// The living, and when each is due. It says what lives and what ends, in the order of ticks.
#[derive(Default)]
pub struct Calendar {
    living: BTreeMap<KeyHash, Living>,
    due: BTreeSet<(Tick, KeyHash)>,
    cancelled: BTreeMap<KeyHash, Cancelled>,
    /// When cancellations are forgotten.
    forgotten: BTreeSet<(Tick, KeyHash)>,
}

/// A cancellation of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cancelled {
    /// Its event time.
    time: i64,
    /// From when on it need not be remembered.
    until: Tick,
    /// Its row.
    row: KeptRow,
}

/// A row that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Its event time; not after it came.
    pub time: i64,
    /// When it ends.
    pub ends: Tick,
    /// The row.
    pub row: KeptRow,
}

/// What happens to a row of a key that is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It lives until then.
    Lives(Tick),
    /// It ends what was reported up to its event time, and is remembered until then.
    Cancels(Tick),
    /// It was over when it came.
    Late,
}

impl Calendar {
    /// What ends next before `upper`.
    pub fn end_before(&mut self, upper: Tick) -> Option<(Tick, Living)> {
        let (ends, key) = *self.due.first().filter(|(ends, _)| *ends < upper)?;
        self.due.pop_first();
        Some((ends, self.living.remove(&key).expect("who is due lives")))
    }

    /// Hears a row of `key`; gives what it ended, and whether it lives or came too late.
    pub fn hear(
        &mut self,
        key: KeyHash,
        time: i64,
        heard: Heard,
        row: impl FnOnce() -> KeptRow,
    ) -> (Option<Living>, Heard) {
        let is_overtaken = self.living.get(&key).is_some_and(|living| time < living.time);
        let ended = match heard {
            Heard::Late => return (None, Heard::Late),
            Heard::Lives(ends) => {
                if is_overtaken || self.cancelled.get(&key).is_some_and(|cancelled| time <= cancelled.time) {
                    return (None, Heard::Late);
                }
                self.due.insert((ends, key));
                self.living.insert(key, Living { time, ends, row: row() })
            }
            Heard::Cancels(until) => {
                self.remember(key, time, until, row);
                if is_overtaken {
                    return (None, Heard::Late);
                }
                self.living.remove(&key)
            }
        };
        if let Some(ended) = &ended
            && heard != Heard::Lives(ended.ends)
        {
            self.due.remove(&(ended.ends, key));
        }
        (ended, heard)
    }

    /// A key is cancelled up to `time`.
    fn remember(&mut self, key: KeyHash, time: i64, until: Tick, row: impl FnOnce() -> KeptRow) {
        if let Some(before) = self.cancelled.get(&key) {
            if before.time >= time {
                return;
            }
            self.forgotten.remove(&(before.until, key));
        }
        self.forgotten.insert((until, key));
        self.cancelled.insert(key, Cancelled { time, until, row: row() });
    }

    /// Forgets the cancellations of which nothing before `upper` could still live.
    fn forget_before(&mut self, upper: Tick) {
        while let Some((until, key)) = self.forgotten.first().copied()
            && until < upper
        {
            self.forgotten.pop_first();
            self.cancelled.remove(&key);
        }
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.living.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.living.is_empty()
    }
}

/// Which columns of the input say what.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The key.
    pub key: usize,
    /// The event time.
    pub time: usize,
    /// The time to live in microseconds.
    pub ttl: usize,
    /// Whether the row cancels what lives.
    pub cancel: Option<usize>,
    /// How many of the input's columns, the first ones, are given.
    pub given: usize,
    /// The longest time to live of any row, in microseconds, if that is known.
    pub longest: Option<i64>,
}

/// What lives, as a changelog; and the rows that came late.
pub struct Expire {
    places: Places,
    form: Form,
    kept: Vec<usize>,
    schemas: [SchemaRef; 2],
    calendar: Calendar,
}

impl Expire {
    /// The columns of the changelog and of `late`, for an input with these columns.
    pub fn schemas(input: &Schema, given: usize) -> [SchemaRef; 2] {
        let mut fields: Vec<Field> = input.fields()[..given].iter().map(|field| plain_field(field)).collect();
        fields.push(Field::new(EXPIRES_AT, timestamp(), true));
        let late = Arc::new(Schema::new(fields.clone()));
        fields.push(Field::new(columns::DIFF, DataType::Int64, false));
        [Arc::new(Schema::new(fields)), late]
    }

    /// Nothing lives. The first of the input's columns is its tick.
    pub fn new(input: &Schema, places: Places) -> Expire {
        assert_eq!(input.field(0).name(), columns::TICK, "the plan puts the tick first");
        Expire {
            places,
            form: Form::of(&input.fields()[1..places.given]),
            kept: (1..places.given).collect(),
            schemas: Expire::schemas(input, places.given),
            calendar: Calendar::default(),
        }
    }

    /// The columns of what is put down, the living rows and the cancellations; the second is the key. Behind them stand the tick at
    /// which each ends, its event time as far as it counts, and whether it is a cancellation.
    pub fn put_down_schema(input: &Schema, given: usize) -> SchemaRef {
        let [_, late] = Expire::schemas(input, given);
        let fields = late.fields()[..given].iter().map(|field| field.as_ref().clone());
        Arc::new(Schema::new(
            fields
                .chain([
                    Field::new("_ends", DataType::UInt64, false),
                    Field::new("_since", DataType::Int64, false),
                    Field::new("_cancels", DataType::Boolean, false),
                ])
                .collect::<Vec<_>>(),
        ))
    }

    /// From when on nothing of event time `time` or before can still live.
    fn forgotten_at(&self, time: i64) -> Tick {
        let longest = self.places.longest.unwrap_or(i64::MAX);
        // In no partition.
        let after = time.saturating_add(longest).saturating_add(1).clamp(0, MICROS_MAX);
        Tick::new(after, 0).expect("in the range of a tick")
    }

    /// How many rows live.
    pub fn living(&self) -> usize {
        self.calendar.len()
    }
}

/// Rows with their ticks, until which they live, and what becomes of them.
#[derive(Default)]
struct Said {
    ticks: Vec<u64>,
    rows: Vec<Told>,
    expires: Vec<Option<i64>>,
    diffs: Vec<i64>,
}

/// A row that something is said of.
enum Told {
    /// It was just heard, in this place.
    Heard(usize),
    /// It lived.
    Ended(KeptRow),
}

impl Said {
    fn say(&mut self, tick: Tick, row: Told, expires: Option<i64>, diff: i64) {
        self.ticks.push(tick.0);
        self.rows.push(row);
        self.expires.push(expires);
        self.diffs.push(diff);
    }

    fn batch(self, form: &Form, heard: &arrow::row::Rows, schema: &SchemaRef) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(self.ticks))];
        columns.extend(form.columns(self.rows.iter().map(|row| match row {
            Told::Heard(place) => heard.row(*place).data(),
            Told::Ended(row) => row,
        })));
        columns.push(Arc::new(TimestampMicrosecondArray::from(self.expires).with_timezone("UTC")));
        if schema.fields().len() > columns.len() {
            columns.push(Arc::new(Int64Array::from(self.diffs)));
        }
        RecordBatch::try_new(Arc::clone(schema), columns).expect("the columns are the schema's")
    }
}

impl Ordered for Expire {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let input = &inputs[0];
        let (mut changes, mut late) = (Said::default(), Said::default());
        let end = |ended: (Tick, Living), changes: &mut Said| {
            let (tick, ended) = ended;
            changes.say(tick, Told::Ended(ended.row), Some(ended.ends.micros()), -1);
        };
        let ticks = ticks_of(input).values();
        let keys = keys_of(input.column(self.places.key));
        let times = input.column(self.places.time).as_primitive::<TimestampMicrosecondType>();
        let ttls = input.column(self.places.ttl).as_primitive::<Int64Type>();
        let cancels: Option<&BooleanArray> = self.places.cancel.map(|place| input.column(place).as_boolean());
        let rows = self.form.rows(input, &self.kept);
        for (place, key) in keys.into_iter().enumerate() {
            let tick = Tick(ticks[place]);
            while let Some(ended) = self.calendar.end_before(tick.next()) {
                end(ended, &mut changes);
            }
            let said = times.is_valid(place).then(|| times.value(place));
            let time = said.map(|said| said.min(tick.micros()));
            let ttl = ttls.is_valid(place).then(|| ttls.value(place));
            let is_cancel = cancels.is_some_and(|cancels| cancels.is_valid(place) && cancels.value(place));
            let heard = match expiry(tick, time, ttl) {
                _ if key == NULL_KEY => Heard::Late,
                _ if is_cancel && time.is_some() => {
                    Heard::Cancels(self.forgotten_at(time.unwrap_or_default()))
                }
                Some(ends) => Heard::Lives(ends),
                None => Heard::Late,
            };
            let row = || rows.row(place).data().into();
            let (ended, heard) = self.calendar.hear(key, time.unwrap_or_default(), heard, row);
            let row = Told::Heard(place);
            if let Some(ended) = ended {
                end((tick, ended), &mut changes);
            }
            match heard {
                Heard::Lives(ends) => changes.say(tick, row, Some(ends.micros()), 1),
                Heard::Cancels(_) => {}
                Heard::Late => {
                    let ends = time.map(|time| time.saturating_add(ttl.unwrap_or_default()));
                    let ends = ends.map(|ends| ends.clamp(0, MICROS_MAX));
                    late.say(tick, row, ends, 1);
                }
            }
        }
        while let Some(ended) = self.calendar.end_before(upper) {
            end(ended, &mut changes);
        }
        self.calendar.forget_before(upper);
        let [changelog, expired] = &self.schemas;
        vec![changes.batch(&self.form, &rows, changelog), late.batch(&self.form, &rows, expired)]
    }
}

impl Lasting for Expire {
    fn put_down(&self) -> Vec<ArrayRef> {
        let living = || self.calendar.living.values();
        let cancelled = || self.calendar.cancelled.values();
        let rows = living().map(|of| &of.row[..]).chain(cancelled().map(|of| &of.row[..]));
        let mut columns = self.form.columns(rows);
        let ends = living().map(|of| of.ends.0).chain(cancelled().map(|of| of.until.0));
        columns.push(Arc::new(UInt64Array::from_iter_values(ends)));
        let since = living().map(|of| of.time).chain(cancelled().map(|of| of.time));
        columns.push(Arc::new(Int64Array::from_iter_values(since)));
        let cancels = living().map(|_| Some(false)).chain(cancelled().map(|_| Some(true)));
        columns.push(Arc::new(cancels.collect::<BooleanArray>()));
        columns
    }

    fn take_up(&mut self, rows: &RecordBatch) {
        let keys = keys_of(rows.column(self.places.key));
        let given = self.places.given;
        let ends = rows.column(given).as_primitive::<UInt64Type>();
        let since = rows.column(given + 1).as_primitive::<Int64Type>();
        let cancels = rows.column(given + 2).as_boolean();
        let kept = self.form.rows(rows, &self.kept);
        for (place, key) in keys.into_iter().enumerate() {
            let (time, ends) = (since.value(place), Tick(ends.value(place)));
            let row = kept.row(place).data().into();
            if cancels.value(place) {
                self.calendar.remember(key, time, ends, || row);
            } else {
                // It came before it was put down, and so lives whatever was cancelled then.
                self.calendar.due.insert((ends, key));
                self.calendar.living.insert(key, Living { time, ends, row });
            }
        }
    }
}
