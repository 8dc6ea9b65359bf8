//! The card world: simulated card payments and their fraud labels, determined by a seed.
//!
//! The simulator is that of the Fraud Detection Handbook. Customers and terminals have random
//! locations in a square of 100 by 100, their town. A customer pays at the terminals within
//! `radius`, each day a Poisson-distributed number of times, around noon, with amounts around a
//! mean of the customer. The Handbook has one town. In a world of several towns, nobody pays in
//! another town, so its graph of cards and terminals has at least one component for each town.
//!
//! There are three fraud scenarios; a later one overwrites an earlier one:
//!
//! 1. Every payment above 220.00.
//! 2. Every payment at a compromised terminal: each day some terminals are drawn, for 28 days.
//! 3. A third of the payments of a compromised customer, with amounts multiplied by five: each day
//!    some customers are drawn, for 14 days.
//!
//! The same configuration gives the same bytes on every machine. Each customer and day has its own
//! stream of random numbers, so the source generates a day when it is read, and can look ahead at a
//! later day without generating the days between. Random numbers are turned into values with
//! integers and `libm`, never with the machine's own transcendental functions.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::Deserialize;
use tidegate_facts::{Digest, tick};

use crate::error::SourceError;
use crate::read_fingerprint::{FileFingerprint, ReadFingerprint};
use crate::{Body, Chunk, Source};

/// The settings of a card world; the defaults give about 190 000 payments.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CardWorldConfig {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The number of customers.
    pub customers: u32,
    /// The number of terminals.
    pub terminals: u32,
    /// The number of towns, among which customers and terminals are divided evenly.
    pub towns: u32,
    /// The number of days.
    pub days: u32,
    /// The start of the first day, in microseconds since 1970-01-01 UTC; whole seconds.
    pub start: i64,
    /// The distance within which a customer pays, in a square of 100 by 100.
    pub radius: f64,
    /// The upper bound of a customer's mean number of payments a day, which is uniformly
    /// distributed.
    pub payments_daily_max: f64,
    /// The number of terminals drawn as compromised each day.
    pub terminals_compromised_daily: u32,
    /// The number of customers drawn as compromised each day.
    pub customers_compromised_daily: u32,
    /// The time from a payment until its label is known, in microseconds.
    pub label_delay: i64,
}

impl Default for CardWorldConfig {
    fn default() -> CardWorldConfig {
        CardWorldConfig {
            seed: 0,
            customers: 1000,
            terminals: 2000,
            towns: 1,
            days: 100,
            start: 1_767_225_600_000_000, // 2026-01-01T00:00:00Z
            radius: 5.0,
            payments_daily_max: 4.0,
            terminals_compromised_daily: 2,
            customers_compromised_daily: 3,
            label_delay: 7 * DAY_SECONDS * MICROS,
        }
    }
}

/// The streams of records of a card world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardWorldStream {
    /// The payments, ordered by time.
    Transactions,
    /// For each payment, whether it is a fraud, ordered by the time at which that becomes known.
    Labels,
}

/// A source that generates one stream of a card world.
pub struct CardWorldSource {
    world: CardWorld,
    stream: CardWorldStream,
    batch_rows: usize,
    position: u64,
    /// The payments of the last generated day, and how many of them were returned.
    today: Vec<Payment>,
    returned: usize,
}

const DAY_SECONDS: i64 = 86_400;
const MICROS: i64 = 1_000_000;
const SIDE: f64 = 100.0;
const LARGE_CENTS: i64 = 22_000;
/// The greatest amount of the column's type; only a customer drawn day after day comes near it.
const CENTS_MAX: i64 = 999_999_999_999;
const TERMINAL_DAYS: u32 = 28;
const CUSTOMER_DAYS: u32 = 14;

/// The limit on the number of towns, so that a coordinate keeps a fraction of 2^-30 or finer.
const TOWNS_MAX: u32 = 10_000;

/// The limit on the total number of terminals near customers: 400 MB of memory.
const NEAR_MAX: usize = 100_000_000;

/// The name and version of the recipe, which changes whenever the contents of a world change.
const RECIPE: &str = "tidegate.world.v1";

impl CardWorldConfig {
    /// The digest of the recipe and all settings, which identifies the world.
    pub fn digest(&self) -> Digest {
        Digest::of(self.canonical_text().as_bytes())
    }

    fn canonical_text(&self) -> String {
        // No `..` in the pattern, so that the compiler requires every new setting here.
        let CardWorldConfig {
            seed,
            customers,
            terminals,
            towns,
            days,
            start,
            radius,
            payments_daily_max,
            terminals_compromised_daily,
            customers_compromised_daily,
            label_delay,
        } = self;
        format!(
            "{RECIPE} seed={seed} customers={customers} terminals={terminals} towns={towns} days={days} start={start} \
             radius={radius} payments_daily_max={payments_daily_max} \
             terminals_compromised_daily={terminals_compromised_daily} \
             customers_compromised_daily={customers_compromised_daily} label_delay={label_delay}"
        )
    }

    fn check(&self) -> Result<(), SourceError> {
        let refuse = |setting, detail: &str| Err(SourceError::World { setting, detail: detail.to_owned() });
        let ids_max = i32::MAX.cast_unsigned();
        if self.customers > ids_max {
            return refuse("customers", "must fit 31 bits; use fewer");
        }
        if self.terminals > ids_max {
            return refuse("terminals", "must fit 31 bits; use fewer");
        }
        if self.towns == 0 || self.towns > TOWNS_MAX {
            return refuse("towns", "must lie between 1 and 10000; 1 is usual");
        }
        if !(self.radius >= 0.0 && self.radius.is_finite()) {
            return refuse(
                "radius",
                "must be a number of zero or more; 5.0 is usual in a square of 100 by 100",
            );
        }
        if !(0.0..=100.0).contains(&self.payments_daily_max) {
            return refuse("payments_daily_max", "must lie between 0 and 100; 4.0 is usual");
        }
        if self.terminals_compromised_daily > self.terminals {
            return refuse("terminals_compromised_daily", "is more than there are terminals; use fewer");
        }
        if self.customers_compromised_daily > self.customers {
            return refuse("customers_compromised_daily", "is more than there are customers; use fewer");
        }
        if self.start < 0 || self.start % MICROS != 0 {
            return refuse("start", "must be whole seconds after 1970-01-01, in microseconds");
        }
        if self.label_delay < 0 {
            return refuse("label_delay", "must be zero or more microseconds");
        }
        let end = i64::from(self.days)
            .checked_mul(DAY_SECONDS * MICROS)
            .and_then(|length| self.start.checked_add(length))
            .and_then(|end| end.checked_add(self.label_delay));
        if end.is_none_or(|end| end > tick::MICROS_MAX) {
            return refuse(
                "days",
                "must end, with `label_delay`, before 3111; use fewer days or an earlier `start`",
            );
        }
        Ok(())
    }
}

impl CardWorldStream {
    /// The columns of the stream.
    pub fn schema(self) -> SchemaRef {
        let column = |name: &str, data_type| Field::new(name, data_type, false);
        let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let fields = match self {
            CardWorldStream::Transactions => vec![
                column("transaction_id", DataType::Int64),
                column("tx_datetime", time()),
                column("customer_id", DataType::Int32),
                column("terminal_id", DataType::Int32),
                column("tx_amount", DataType::Decimal128(12, 2)),
                column("tx_fraud", DataType::Boolean),
                column("tx_fraud_scenario", DataType::Int32),
            ],
            CardWorldStream::Labels => vec![
                column("transaction_id", DataType::Int64),
                column("customer_id", DataType::Int32),
                column("terminal_id", DataType::Int32),
                column("effective_at", time()),
                column("observed_at", time()),
                column("tx_fraud", DataType::Boolean),
            ],
        };
        Arc::new(Schema::new(fields))
    }

    /// The records of the stream for some payments, of which the first has the id `first_id`.
    ///
    /// All labels have the same delay, so they are in the order of their payments.
    fn batch(self, payments: &[Payment], first_id: i64, config: &CardWorldConfig) -> RecordBatch {
        let ints = |value: fn(&Payment) -> u32| -> ArrayRef {
            Arc::new(Int32Array::from_iter_values(payments.iter().map(|p| value(p).cast_signed())))
        };
        let times = |delay: i64| -> ArrayRef {
            let times = payments.iter().map(|p| config.start + p.second * MICROS + delay);
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
        };
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((first_id..).take(payments.len())));
        let frauds: ArrayRef =
            Arc::new(payments.iter().map(|p| Some(p.scenario != 0)).collect::<BooleanArray>());
        let (customers, terminals) = (ints(|p| p.customer), ints(|p| p.terminal));
        let columns = match self {
            CardWorldStream::Transactions => {
                let amounts = Decimal128Array::from_iter_values(payments.iter().map(|p| p.cents.into()));
                let amounts = Arc::new(amounts.with_data_type(DataType::Decimal128(12, 2)));
                vec![ids, times(0), customers, terminals, amounts, frauds, ints(|p| p.scenario)]
            }
            CardWorldStream::Labels => {
                vec![ids, customers, terminals, times(0), times(config.label_delay), frauds]
            }
        };
        RecordBatch::try_new(self.schema(), columns).expect("the columns are those of the schema")
    }
}

impl CardWorldSource {
    /// Opens a stream of a card world, from the record at `from_position` on.
    ///
    /// # Errors
    /// When a setting is out of range, or the world has fewer than `from_position` records.
    pub fn new(
        config: CardWorldConfig,
        stream: CardWorldStream,
        from_position: u64,
        batch_rows: usize,
    ) -> Result<CardWorldSource, SourceError> {
        let world = CardWorld::new(config)?;
        let batch_rows = batch_rows.max(1);
        let mut source =
            CardWorldSource { world, stream, batch_rows, position: 0, today: Vec::new(), returned: 0 };
        while source.position < from_position {
            if source.take(usize::try_from(from_position - source.position).unwrap_or(usize::MAX)).is_empty()
            {
                let path = PathBuf::from("world");
                return Err(SourceError::Short { path, records: source.position, from_position });
            }
        }
        Ok(source)
    }

    /// The columns of the stream.
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// The next payments of a single day, at most `count`; none after the last day.
    fn take(&mut self, count: usize) -> &[Payment] {
        while self.returned == self.today.len() {
            match self.world.next_day() {
                Some(payments) => (self.today, self.returned) = (payments, 0),
                None => return &[],
            }
        }
        let first = self.returned;
        self.returned += count.min(self.today.len() - first);
        self.position += (self.returned - first) as u64;
        &self.today[first..self.returned]
    }
}

impl Source for CardWorldSource {
    fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let first = self.position;
        let mut payments = Vec::new();
        while payments.len() < self.batch_rows {
            match self.take(self.batch_rows - payments.len()) {
                [] => break,
                more => payments.extend_from_slice(more),
            }
        }
        if payments.is_empty() {
            return Ok(None);
        }
        let batch = self.stream.batch(&payments, first.cast_signed(), &self.world.config);
        Ok(Some(Chunk {
            body: Body::Rows { batch, positions: (first..self.position).collect() },
            unreadable: Vec::new(),
        }))
    }

    /// One entry named `world` with the digest of the settings; the same from start to end.
    fn fingerprint(&self) -> ReadFingerprint {
        let text = self.world.config.canonical_text();
        let digest = self.world.config.digest();
        ReadFingerprint {
            files: vec![FileFingerprint {
                name: "world".to_owned(),
                bytes: text.len() as u64,
                digest,
                may_grow: false,
            }],
        }
    }
}

/// The customers and terminals of a card world, and which of them are compromised.
struct CardWorld {
    config: CardWorldConfig,
    key: [u8; 32],
    customers: Vec<Customer>,
    /// The terminals near each customer, one customer after the other, each ascending.
    near: Vec<u32>,
    day: u32,
    /// The first day on which each terminal is no longer compromised.
    terminals_until: Vec<u32>,
    /// For each of the next days, the payments that are frauds of the third scenario.
    stolen: VecDeque<BTreeMap<PaymentKey, u32>>,
}

struct Customer {
    mean_cents: f64,
    payments_daily: f64,
    /// The range of its terminals in `CardWorld::near`.
    near: std::ops::Range<usize>,
}

#[derive(Clone, Debug)]
struct Payment {
    /// Seconds since the start of the world.
    second: i64,
    customer: u32,
    /// The number of the payment among the customer's payments of the day.
    number: u32,
    terminal: u32,
    cents: i64,
    scenario: u32,
}

/// A customer, and the number of the payment on its day.
type PaymentKey = (u32, u32);

/// The purpose of a stream of random numbers.
#[derive(Clone, Copy)]
enum Purpose {
    Customer,
    Terminal,
    Payments,
    CompromisedTerminals,
    CompromisedCustomers,
}

impl CardWorld {
    fn new(config: CardWorldConfig) -> Result<CardWorld, SourceError> {
        config.check()?;
        let mut world = CardWorld {
            key: Digest::of_parts(RECIPE, &[&config.seed.to_le_bytes()]).0,
            customers: Vec::new(),
            near: Vec::new(),
            day: 0,
            terminals_until: vec![0; config.terminals as usize],
            stolen: VecDeque::new(),
            config,
        };
        let towns = world.config.towns;
        let radius = world.config.radius;
        // The towns lie in a row, farther apart than anyone goes.
        let town_x = |member: u32| f64::from(member % towns) * (SIDE + radius);
        // Sorted by the first coordinate, so that the terminals near a customer are in one range.
        let mut terminals: Vec<(f64, f64, u32)> = (0..world.config.terminals)
            .map(|terminal| {
                let mut random = world.random(Purpose::Terminal, 0, terminal);
                let (x, y) = (random.between(0.0, SIDE), random.between(0.0, SIDE));
                (town_x(terminal) + x, y, terminal)
            })
            .collect();
        terminals.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)));
        for customer in 0..world.config.customers {
            let mut random = world.random(Purpose::Customer, 0, customer);
            let (x, y) = (town_x(customer) + random.between(0.0, SIDE), random.between(0.0, SIDE));
            let mean_cents = random.between(500.0, 10_000.0);
            let payments_daily = random.between(0.0, world.config.payments_daily_max);
            let first = world.near.len();
            let stripe = terminals.partition_point(|t| t.0 < x - radius);
            let stripe = terminals[stripe..].iter().take_while(|t| t.0 <= x + radius);
            let within =
                |t: &&(f64, f64, u32)| (t.0 - x) * (t.0 - x) + (t.1 - y) * (t.1 - y) < radius * radius;
            world.near.extend(stripe.filter(within).map(|t| t.2));
            world.near[first..].sort_unstable();
            if world.near.len() > NEAR_MAX {
                let detail = "lets customers reach too many terminals in total; use a smaller radius, or \
                              fewer customers or terminals";
                return Err(SourceError::World { setting: "radius", detail: detail.to_owned() });
            }
            world.customers.push(Customer { mean_cents, payments_daily, near: first..world.near.len() });
        }
        Ok(world)
    }

    /// The payments of the next day, by time and customer; `None` after the last day.
    fn next_day(&mut self) -> Option<Vec<Payment>> {
        if self.day == self.config.days {
            return None;
        }
        self.compromise_terminals();
        self.compromise_customers();
        let stolen = self.stolen.pop_front().unwrap_or_default();
        let mut payments = Vec::new();
        for customer in 0..self.config.customers {
            self.pay(customer, self.day, &mut payments);
        }
        for payment in &mut payments {
            if payment.cents > LARGE_CENTS {
                payment.scenario = 1;
            }
            if self.terminals_until[payment.terminal as usize] > self.day {
                payment.scenario = 2;
            }
            if let Some(times) = stolen.get(&(payment.customer, payment.number)) {
                payment.scenario = 3;
                payment.cents = (payment.cents * 5_i64.pow(*times)).min(CENTS_MAX);
            }
        }
        payments.sort_by_key(|p| (p.second, p.customer, p.number));
        self.day += 1;
        Some(payments)
    }

    fn compromise_terminals(&mut self) {
        let mut random = self.random(Purpose::CompromisedTerminals, self.day, 0);
        for terminal in random.sample(self.config.terminals, self.config.terminals_compromised_daily) {
            self.terminals_until[terminal as usize] = self.day + TERMINAL_DAYS;
        }
    }

    /// Draws the customers compromised today, and a third of their payments of the next days.
    fn compromise_customers(&mut self) {
        let mut random = self.random(Purpose::CompromisedCustomers, self.day, 0);
        let mut payments = Vec::new();
        for customer in random.sample(self.config.customers, self.config.customers_compromised_daily) {
            for day in self.day..self.config.days.min(self.day + CUSTOMER_DAYS) {
                self.pay(customer, day, &mut payments);
            }
        }
        self.stolen.resize(CUSTOMER_DAYS as usize, BTreeMap::new());
        let count = payments.len() as u32;
        for chosen in random.sample(count, count / 3) {
            let payment = &payments[chosen as usize];
            let days_ahead = payment.second / DAY_SECONDS - i64::from(self.day);
            *self.stolen[days_ahead as usize].entry((payment.customer, payment.number)).or_default() += 1;
        }
    }

    /// Appends the payments of a customer on a day, without frauds.
    fn pay(&self, customer: u32, day: u32, payments: &mut Vec<Payment>) {
        let Customer { mean_cents, payments_daily, near } = &self.customers[customer as usize];
        let terminals = &self.near[near.clone()];
        if terminals.is_empty() {
            return;
        }
        let mut random = self.random(Purpose::Payments, day, customer);
        for number in 0..random.poisson(*payments_daily) {
            let second = random.normal(DAY_SECONDS as f64 / 2.0, 20_000.0);
            let amount = random.normal(*mean_cents, mean_cents / 2.0);
            let amount = if amount < 0.0 { random.between(0.0, mean_cents * 2.0) } else { amount };
            let terminal = terminals[random.below(terminals.len() as u64) as usize];
            if second >= 0.0 && second < DAY_SECONDS as f64 {
                payments.push(Payment {
                    second: i64::from(day) * DAY_SECONDS + second as i64,
                    customer,
                    number,
                    terminal,
                    cents: libm::round(amount) as i64,
                    scenario: 0,
                });
            }
        }
    }

    fn random(&self, purpose: Purpose, day: u32, who: u32) -> RandomStream {
        // 8 bits of purpose, 24 of day (45 926 years of them), 32 of customer or terminal.
        let stream = (purpose as u64) << 56 | u64::from(day) << 32 | u64::from(who);
        let mut random = ChaCha8Rng::from_seed(self.key);
        random.set_stream(stream);
        RandomStream(random)
    }
}

/// A stream of random numbers.
struct RandomStream(ChaCha8Rng);

impl RandomStream {
    /// A number in `[0, 1)`: one of 2^53 evenly spaced floats.
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// A normally distributed number, by the method of Box and Muller without its second number.
    fn normal(&mut self, mean: f64, deviation: f64) -> f64 {
        let length = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        mean + deviation * length * libm::cos(2.0 * std::f64::consts::PI * self.unit())
    }

    /// A Poisson-distributed number, by Knuth's method, whose steps are as many as the result.
    fn poisson(&mut self, mean: f64) -> u32 {
        let end = libm::exp(-mean);
        let mut product = self.unit();
        let mut count = 0;
        while product > end {
            product *= self.unit();
            count += 1;
        }
        count
    }

    /// `count` distinct numbers below `end`, in the order in which they are drawn.
    fn sample(&mut self, end: u32, count: u32) -> Vec<u32> {
        // The first `count` steps of a shuffle of `0..end`; the map stores only moved numbers.
        let mut moved = BTreeMap::new();
        (0..count)
            .map(|index| {
                let other = index + self.below(u64::from(end - index)) as u32;
                let here = moved.get(&index).copied().unwrap_or(index);
                moved.insert(other, here).unwrap_or(other)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use arrow::array::AsArray;
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType};

    use super::*;

    fn small() -> CardWorldConfig {
        CardWorldConfig {
            seed: 42,
            customers: 200,
            terminals: 300,
            days: 40,
            radius: 10.0,
            ..CardWorldConfig::default()
        }
    }

    fn read(config: CardWorldConfig, stream: CardWorldStream, from: u64, batch_rows: usize) -> RecordBatch {
        let mut source = CardWorldSource::new(config, stream, from, batch_rows).unwrap();
        let mut batches = Vec::new();
        let mut expected = from;
        while let Some(Chunk { body: Body::Rows { batch, positions }, .. }) = source.next().unwrap() {
            assert!(positions.len() <= batch_rows);
            assert_eq!(positions, (expected..expected + batch.num_rows() as u64).collect::<Vec<_>>());
            expected += batch.num_rows() as u64;
            batches.push(batch);
        }
        concat_batches(&stream.schema(), &batches).unwrap()
    }

    fn payments(config: CardWorldConfig) -> Vec<Payment> {
        let mut world = CardWorld::new(config).unwrap();
        std::iter::from_fn(|| world.next_day()).flatten().collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_for_all_batch_sizes_and_positions() {
        for stream in [CardWorldStream::Transactions, CardWorldStream::Labels] {
            let whole = read(small(), stream, 0, 1_000_000);
            assert_eq!(whole, read(small(), stream, 0, 777));
            for from in [1, 5000, whole.num_rows()] {
                let rest = read(small(), stream, from as u64, 1000);
                assert_eq!(rest, whole.slice(from, whole.num_rows() - from));
            }
            assert_ne!(whole, read(CardWorldConfig { seed: 43, ..small() }, stream, 0, 1_000_000));
            let records = whole.num_rows() as u64;
            let short = CardWorldSource::new(small(), stream, records + 1, 10).err().unwrap();
            assert!(matches!(short, SourceError::Short { records: found, .. } if found == records));
        }
    }

    #[test]
    fn the_bytes_of_a_world_never_change() {
        let mut text = String::new();
        for p in payments(small()) {
            text += &format!("{} {} {} {} {}\n", p.second, p.customer, p.terminal, p.cents, p.scenario);
        }
        let first = "3218 115 106 6931 0";
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(
            Digest::of(text.as_bytes()).to_hex(),
            "a62279e8a52a637b6f4645a7f1b3f9116c5d80258dc04164d2b729f72784319d"
        );
    }

    #[test]
    fn nobody_pays_in_another_town_and_every_town_has_payments() {
        let config = CardWorldConfig { towns: 7, radius: 40.0, ..small() };
        let payments = payments(config);
        assert!(payments.iter().all(|payment| payment.customer % 7 == payment.terminal % 7));
        let towns: BTreeSet<u32> = payments.iter().map(|payment| payment.customer % 7).collect();
        assert_eq!(towns, (0..7).collect());
    }

    #[test]
    fn payments_have_consecutive_ids_in_the_order_of_time() {
        let batch = read(small(), CardWorldStream::Transactions, 0, 1000);
        let ids = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(ids, (0..ids.len() as i64).collect::<Vec<_>>());
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
        assert!(times.is_sorted());
        assert!(times.iter().all(|time| time % MICROS == 0));
        let start = small().start;
        assert!(times[0] >= start && times[times.len() - 1] < start + 40 * DAY_SECONDS * MICROS);
        assert!(times[times.len() - 1] >= start + 39 * DAY_SECONDS * MICROS);
    }

    #[test]
    fn every_payment_has_one_label_a_week_later() {
        let transactions = read(small(), CardWorldStream::Transactions, 0, 1000);
        let labels = read(small(), CardWorldStream::Labels, 0, 999);
        for (label, transaction) in [(0, 0), (1, 2), (2, 3), (3, 1), (5, 5)] {
            assert_eq!(labels.column(label), transactions.column(transaction));
        }
        let effective = labels.column(3).as_primitive::<TimestampMicrosecondType>().values();
        let observed = labels.column(4).as_primitive::<TimestampMicrosecondType>().values();
        assert!(effective.iter().zip(observed).all(|(e, o)| o - e == 7 * DAY_SECONDS * MICROS));
    }

    #[test]
    fn large_amounts_are_frauds() {
        let batch = read(
            CardWorldConfig { days: 10, ..CardWorldConfig::default() },
            CardWorldStream::Transactions,
            0,
            1000,
        );
        let amounts = batch.column(4).as_primitive::<Decimal128Type>().values();
        let frauds = batch.column(5).as_boolean();
        let scenarios = batch.column(6).as_primitive::<Int32Type>().values();
        assert!(amounts.iter().all(|cents| *cents >= 0));
        for (row, (cents, scenario)) in amounts.iter().zip(scenarios).enumerate() {
            assert_eq!(frauds.value(row), *scenario != 0);
            match scenario {
                0 => assert!(*cents <= 22_000),
                1 => assert!(*cents > 22_000),
                _ => {}
            }
        }
        assert_eq!(scenarios.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn a_compromised_terminal_has_frauds_only_for_28_days() {
        let config = CardWorldConfig { customers_compromised_daily: 0, ..small() };
        let mut world = CardWorld::new(config.clone()).unwrap();
        let drawn: Vec<Vec<u32>> = (0..config.days)
            .map(|day| world.random(Purpose::CompromisedTerminals, day, 0).sample(config.terminals, 2))
            .collect();
        for day in 0..config.days {
            let from = day.saturating_sub(27) as usize;
            let compromised: BTreeSet<u32> = drawn[from..=day as usize].iter().flatten().copied().collect();
            for payment in world.next_day().unwrap() {
                assert_eq!(payment.scenario == 2, compromised.contains(&payment.terminal), "{payment:?}");
            }
        }
    }

    #[test]
    fn a_third_of_a_compromised_customers_payments_is_multiplied() {
        let honest = payments(CardWorldConfig { customers_compromised_daily: 0, ..small() });
        let stolen = payments(small());
        assert_eq!(honest.len(), stolen.len());
        let mut frauds = 0;
        let mut by_customer: HashMap<u32, u32> = HashMap::new();
        for (honest, stolen) in honest.iter().zip(&stolen) {
            assert_eq!(
                (honest.second, honest.customer, honest.terminal),
                (stolen.second, stolen.customer, stolen.terminal)
            );
            if stolen.scenario == 3 {
                frauds += 1;
                *by_customer.entry(stolen.customer).or_default() += 1;
                assert!([5, 25, 125].iter().any(|times| stolen.cents == honest.cents * times));
            } else {
                assert_eq!((stolen.cents, stolen.scenario), (honest.cents, honest.scenario));
            }
        }
        // 40 days of 3 customers, about 14 days of 2 payments each, the last ones cut short.
        let expected = (40 * 3 * 14 * 2 / 3) as f64 * (1.0 - 6.5 / 40.0);
        assert!((0.8..1.1).contains(&(f64::from(frauds) / expected)), "{frauds} of {expected}");
        assert!(by_customer.len() > 50 && by_customer.len() <= 120);
    }

    #[test]
    fn the_default_world_looks_like_the_published_one() {
        let all = payments(CardWorldConfig::default());
        assert!((180_000..205_000).contains(&all.len()), "{}", all.len());
        let mean =
            all.iter().filter(|p| p.scenario == 0).map(|p| p.cents).sum::<i64>() as f64 / all.len() as f64;
        assert!((4500.0..6000.0).contains(&mean), "{mean}");
        let share =
            |scenario| all.iter().filter(|p| p.scenario == scenario).count() as f64 / all.len() as f64;
        // Ten times fewer customers and five times fewer terminals than published, and as many
        // drawn.
        assert!((0.0002..0.002).contains(&share(1)), "{}", share(1));
        assert!((0.015..0.035).contains(&share(2)), "{}", share(2));
        assert!((0.008..0.02).contains(&share(3)), "{}", share(3));
    }

    #[test]
    fn a_world_of_the_published_size_has_the_published_numbers() {
        let config =
            CardWorldConfig { customers: 5000, terminals: 10_000, days: 40, ..CardWorldConfig::default() };
        let mut world = CardWorld::new(config).unwrap();
        let reached = world.customers.iter().filter(|customer| !customer.near.is_empty()).count();
        assert_eq!(reached, 5000);
        let daily: Vec<usize> = std::iter::from_fn(|| world.next_day()).map(|day| day.len()).collect();
        let mean = daily.iter().sum::<usize>() as f64 / daily.len() as f64;
        assert!((9400.0..9900.0).contains(&mean), "published 9586, here {mean}");
    }

    #[test]
    fn the_fingerprint_is_constant_and_differs_between_worlds() {
        let mut source = CardWorldSource::new(small(), CardWorldStream::Labels, 0, 100).unwrap();
        let fingerprint = source.fingerprint();
        source.next().unwrap();
        assert_eq!(source.fingerprint(), fingerprint);
        assert_eq!(fingerprint.files[0].name, "world");
        let other = CardWorldConfig { radius: 10.000_000_000_000_002, ..small() };
        assert_ne!(
            CardWorldSource::new(other, CardWorldStream::Labels, 0, 100).unwrap().fingerprint(),
            fingerprint
        );
    }

    #[test]
    fn settings_out_of_range_are_refused_and_small_worlds_are_accepted() {
        let refused =
            |config: CardWorldConfig| match CardWorldSource::new(config, CardWorldStream::Labels, 0, 1) {
                Err(SourceError::World { setting, .. }) => setting,
                _ => "nothing",
            };
        assert_eq!(refused(CardWorldConfig { radius: f64::NAN, ..small() }), "radius");
        assert_eq!(refused(CardWorldConfig { radius: -1.0, ..small() }), "radius");
        assert_eq!(refused(CardWorldConfig { start: 1, ..small() }), "start");
        assert_eq!(refused(CardWorldConfig { towns: 0, ..small() }), "towns");
        assert_eq!(refused(CardWorldConfig { towns: 10_001, ..small() }), "towns");
        assert_eq!(refused(CardWorldConfig { days: u32::MAX, ..small() }), "days");
        assert_eq!(refused(CardWorldConfig { label_delay: i64::MAX, ..small() }), "days");
        assert_eq!(refused(CardWorldConfig { label_delay: -1, ..small() }), "label_delay");
        assert_eq!(refused(CardWorldConfig { customers: u32::MAX, ..small() }), "customers");
        assert_eq!(refused(CardWorldConfig { payments_daily_max: 101.0, ..small() }), "payments_daily_max");
        assert_eq!(refused(CardWorldConfig { customers: 2, ..small() }), "customers_compromised_daily");
        let empty = CardWorldConfig { customers: 3, terminals: 2, radius: 0.0, ..small() };
        assert_eq!(read(empty, CardWorldStream::Transactions, 0, 10).num_rows(), 0);
        let crowded = CardWorldConfig { customers: 3, terminals: 2, radius: 1000.0, ..small() };
        assert!(read(crowded, CardWorldStream::Transactions, 0, 10).num_rows() > 10);
    }
}
