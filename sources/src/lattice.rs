//! A simulated lattice of claims and the evidence for them, with what goes wrong in three days, from nothing but a seed.
//!
//! Three regions of 12, 14 and 10 parts of the whole hold claims of four tiers, sources in correlation groups, and sync nodes. A claim is
//! fed by 5, 4, 3 or 3 streams of evidence (by tier), each of one source; the sources of a claim are of different groups, and
//! two of those of a claim of tier 0 are out of band. A stream is refreshed every 0.45 of its time to live (15 minutes, 1, 6 and
//! 24 hours), so that two of its reports are alive at a time. At 100 percent these are 4,000 claims, 26,400 live reports, 5,586
//! sources and 14 sync nodes: 36,000 nodes.
//!
//! The incidents, in hours after the start:
//!
//! * 17 to 20, seen at 18: the streams of 260 claims of tier 1 report together, and then not until they have run out. Of 1,040, 980
//!   come back within 15 minutes, those of 15 claims two hours later.
//! * 22: the groups behind 18 claims of tier 0 lag together, in quarters of an hour, by some minutes.
//! * 36: for 45 minutes the clocks of two regions are off by more than half a second, that of the third by a fifth of one.
//! * 44: for two hours the confidence of 12 claims of tier 0 means nothing.
//!
//! What a report is like follows from the seed, its stream and its number alone, so nothing has to be remembered; records are made
//! quarter of an hour by quarter of an hour. The same settings give the same bytes on any machine: there are no floats.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;
use tidegate_facts::{Digest, tick};

use crate::error::SourceError;
use crate::prefix::{FilePrefix, Prefix};
use crate::{Body, Chunk, Source};

/// What a lattice is made from; the defaults give 36,000 nodes, and 1.3 million reports in three days.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatticeConfig {
    /// Lattices with different seeds have nothing in common.
    pub seed: u64,
    /// How large it is, of 36,000 nodes.
    pub percent: u32,
    /// How long it lasts.
    pub hours: u32,
    /// When it begins, in microseconds since 1970-01-01 UTC.
    pub start: i64,
    /// Whether anything goes wrong but by chance.
    pub incidents: bool,
}

impl Default for LatticeConfig {
    fn default() -> LatticeConfig {
        LatticeConfig {
            seed: 0,
            percent: 100,
            hours: 73,
            start: 1_767_225_600_000_000, // 2026-01-01T00:00:00Z
            incidents: true,
        }
    }
}

/// Which records of a lattice are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatticeStream {
    /// What is claimed, and what it takes to believe it; all at the start.
    Claims,
    /// Who reports, and with whom they share a cause of failure; all at the start.
    Sources,
    /// Reports, by the time they came in.
    Evidence,
    /// What the clocks of regions show beside two outside authorities, each minute.
    Beacons,
}

/// A stream of a simulated lattice.
pub struct LatticeSource {
    lattice: Lattice,
    stream: LatticeStream,
    batch_rows: usize,
    position: u64,
    /// What was made and not handed over, and where it begins.
    made: Records,
    handed_over: usize,
    /// The quarter of an hour that is made next.
    quarter: i64,
    /// Reports that are made, and come in later.
    under_way: Vec<Report>,
}

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const QUARTER: i64 = 15 * MINUTE;

/// At 100 percent.
const CLAIMS: [i64; 4] = [200, 800, 2000, 1000];
const SOURCES: i64 = 5586;
const GROUPS: i64 = 120;
/// Claims of tier 1 whose evidence runs out together, and those of them for which none comes back soon.
const CASCADE: (i64, i64) = (260, 15);
/// Claims of tier 0 with a common cause behind them, and with a confidence that means nothing.
const HIDDEN: i64 = 18;
const VOLATILE: i64 = 12;

/// Streams of a claim, time to live, and quorum (of n, k must agree, out of so many groups) by tier.
const TIERS: [(i64, i64, i32, i32); 4] =
    [(5, 900, 3, 2), (4, 3600, 2, 2), (3, 21_600, 1, 1), (3, 86_400, 1, 1)];
const REGIONS: [&str; 3] = ["east", "central", "west"];
const DOMAINS: i64 = 24;
/// Groups that report for the hidden claims alone, six claims each.
const HIDDEN_GROUPS: i64 = 3;
/// Sources in each of them.
const HIDDEN_SOURCES: i64 = 6;

/// The number of a stream's first report, which is out of turn, beside those of an incident, which are -1 and -2.
const FIRST: i64 = -3;

/// The name and version of the recipe. Whoever changes what a lattice contains changes it.
const RECIPE: &str = "tidegate.lattice.v2";

impl LatticeConfig {
    /// The digest of the recipe and all settings.
    pub fn digest(&self) -> Digest {
        Digest::of(self.canonical_text().as_bytes())
    }

    fn canonical_text(&self) -> String {
        // Without `..`, so that a new setting cannot be forgotten here.
        let LatticeConfig { seed, percent, hours, start, incidents } = self;
        format!("{RECIPE} seed={seed} percent={percent} hours={hours} start={start} incidents={incidents}")
    }

    fn check(&self) -> Result<(), SourceError> {
        let refuse = |setting, detail: &str| Err(SourceError::World { setting, detail: detail.to_owned() });
        if !(1..=10_000).contains(&self.percent) {
            return refuse("percent", "must lie between 1 and 10000; 100 are 36,000 nodes");
        }
        if self.hours == 0 || self.hours > 24 * 366 {
            return refuse("hours", "must lie between 1 and 8784; 73 show everything that happens");
        }
        let length = i64::from(self.hours + 2) * HOUR;
        if self.start < 0 || self.start.checked_add(length).is_none_or(|end| end > tick::MICROS_MAX) {
            return refuse("start", "must be after 1970-01-01, and leave room until 2112");
        }
        Ok(())
    }
}

impl LatticeStream {
    /// The columns of the stream.
    pub fn schema(self) -> SchemaRef {
        let column = |name: &str, data_type| Field::new(name, data_type, false);
        let text = |name: &str| column(name, DataType::Utf8);
        let number = |name: &str| column(name, DataType::Int32);
        let time = |name: &str| column(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
        let fields = match self {
            LatticeStream::Claims => vec![
                text("claim_id"),
                time("declared_at"),
                text("region"),
                text("domain"),
                number("tier"),
                number("n"),
                number("k"),
                number("groups_min"),
                column("out_of_band", DataType::Boolean),
            ],
            LatticeStream::Sources => vec![
                text("source_id"),
                time("observed_at"),
                text("region"),
                number("tier"),
                text("correlation_group"),
                column("out_of_band", DataType::Boolean),
            ],
            LatticeStream::Evidence => vec![
                text("evidence_id"),
                text("stream_id"),
                text("claim_id"),
                text("source_id"),
                text("correlation_group"),
                text("region"),
                text("domain"),
                number("tier"),
                column("out_of_band", DataType::Boolean),
                text("value"),
                text("status"),
                column("confidence", DataType::Decimal128(4, 3)),
                time("event_time"),
                time("ingest_time"),
                number("ttl_s"),
            ],
            LatticeStream::Beacons => vec![
                text("beacon_id"),
                text("beacon"),
                text("region"),
                time("beacon_time"),
                column("skew_us", DataType::Int64),
                column("lag_us", DataType::Int64),
            ],
        };
        Arc::new(Schema::new(fields))
    }
}

/// What stays the same from hour to hour.
struct Lattice {
    config: LatticeConfig,
    claims: Vec<Claim>,
    feeds: Vec<Feed>,
    sources: i64,
    groups: i64,
    cascade: (i64, i64),
    hidden: i64,
    volatile: i64,
}

#[derive(Clone, Copy)]
struct Claim {
    tier: usize,
    region: usize,
    domain: i64,
    /// Its place among the claims of its tier.
    number: i64,
}

/// A stream of evidence: one claim, one source.
#[derive(Clone, Copy)]
struct Feed {
    claim: u32,
    slot: i64,
    source: i64,
}

/// One report.
#[derive(Clone, Copy)]
struct Report {
    feed: u32,
    /// Its number in its stream; the reports of an incident have negative ones.
    number: i64,
    /// In microseconds after the start: when it was observed, and when it came in.
    event: i64,
    ingest: i64,
}

/// Records of one stream.
enum Records {
    Claims(std::ops::Range<usize>),
    Sources(std::ops::Range<usize>),
    Reports(Vec<Report>),
    /// The minute, the region and the beacon.
    Beacons(Vec<(i64, usize, usize)>),
}

impl Records {
    fn len(&self) -> usize {
        match self {
            Records::Claims(places) | Records::Sources(places) => places.len(),
            Records::Reports(reports) => reports.len(),
            Records::Beacons(beacons) => beacons.len(),
        }
    }
}

/// What a number is drawn for.
#[derive(Clone, Copy)]
enum Purpose {
    Region,
    Domain,
    Source,
    Phase,
    Jitter,
    Lag,
    Straggler,
    Failure,
    Error,
    Truth,
    Confidence,
    Skew,
    Incident,
}

impl Lattice {
    fn new(config: LatticeConfig) -> Result<Lattice, SourceError> {
        config.check()?;
        let percent = i64::from(config.percent);
        let part = |whole: i64, least: i64| (whole * percent / 100).max(least);
        let claims_of = CLAIMS.map(|count| part(count, 6));
        let cascade = (part(CASCADE.0, 2).min(claims_of[1]), part(CASCADE.1, 1).min(claims_of[1]));
        let mut lattice = Lattice {
            claims: Vec::new(),
            feeds: Vec::new(),
            sources: part(SOURCES, 60),
            groups: part(GROUPS, 12),
            cascade,
            hidden: part(HIDDEN, 3).min(claims_of[0]),
            volatile: part(VOLATILE, 2).min(claims_of[0]),
            config,
        };
        for (tier, count) in claims_of.into_iter().enumerate() {
            for number in 0..count {
                let claim = lattice.claims.len() as u32;
                // By 12, 14 and 10 parts.
                let region = match lattice.draw(Purpose::Region, claim.into(), 0) % 36 {
                    0..12 => 0,
                    12..26 => 1,
                    _ => 2,
                };
                let domain = (lattice.draw(Purpose::Domain, claim.into(), 0) % DOMAINS as u64) as i64;
                lattice.claims.push(Claim { tier, region, domain, number });
                for slot in 0..TIERS[tier].0 {
                    let source = lattice.source_of(claim, tier, number, slot);
                    lattice.feeds.push(Feed { claim, slot, source });
                }
            }
        }
        Ok(lattice)
    }

    /// The source of a claim's stream: those of one claim are of different groups, but for the hidden ones.
    fn source_of(&self, claim: u32, tier: usize, number: i64, slot: i64) -> i64 {
        if tier == 0 && number < self.hidden && (1..4).contains(&slot) {
            return self
                .hidden_source(number % HIDDEN_GROUPS, (number / HIDDEN_GROUPS * 3 + slot) % HIDDEN_SOURCES);
        }
        let usual = self.sources - HIDDEN_GROUPS * HIDDEN_SOURCES;
        let groups = self.groups - HIDDEN_GROUPS;
        let drawn = (self.draw(Purpose::Source, claim.into(), 0) % groups as u64) as i64;
        let group = (drawn + slot * 2 + 1) % groups;
        // Source s is of group s % groups, and every tenth of a group is out of band.
        let rows = usual / groups;
        let mut row = (self.draw(Purpose::Source, claim.into(), slot + 1) % rows as u64) as i64;
        if tier == 0 && (slot == 0 || slot == 4) {
            row -= row % 10;
        }
        row * groups + group
    }

    fn hidden_source(&self, group: i64, member: i64) -> i64 {
        self.sources - HIDDEN_GROUPS * HIDDEN_SOURCES + member * HIDDEN_GROUPS + group
    }

    fn is_hidden(&self, source: i64) -> bool {
        source >= self.sources - HIDDEN_GROUPS * HIDDEN_SOURCES
    }

    fn group_of(&self, source: i64) -> i64 {
        let usual = self.sources - HIDDEN_GROUPS * HIDDEN_SOURCES;
        let groups = self.groups - HIDDEN_GROUPS;
        if source < usual { source % groups } else { groups + (source - usual) % HIDDEN_GROUPS }
    }

    fn is_out_of_band(&self, source: i64) -> bool {
        !self.is_hidden(source) && (source / (self.groups - HIDDEN_GROUPS)) % 10 == 0
    }

    /// Which region a group is in: by 12, 14 and 10 parts.
    fn region_of_group(&self, group: i64) -> usize {
        match group * 36 / self.groups {
            0..12 => 0,
            12..26 => 1,
            _ => 2,
        }
    }

    fn ttl(&self, feed: Feed) -> i64 {
        TIERS[self.claims[feed.claim as usize].tier].1 * SECOND
    }

    /// The reports that are observed in a quarter of an hour.
    fn observed(&self, quarter: i64, reports: &mut Vec<Report>) {
        let (from, to) = (quarter * QUARTER, (quarter + 1) * QUARTER);
        for (place, feed) in self.feeds.iter().enumerate() {
            let place = place as u32;
            let refresh = self.ttl(*feed) * 9 / 20;
            let spread =
                |purpose, number, end: i64| (self.draw(purpose, place.into(), number) % end as u64) as i64;
            let phase = spread(Purpose::Phase, 0, refresh);
            // Everyone reports in the first ten minutes, and then in turn, from the first turn on: no stream is late at the start.
            let first = 10 * SECOND + spread(Purpose::Phase, 1, 10 * MINUTE);
            let mut add = |number: i64, event: i64| {
                if (from..to).contains(&event) {
                    reports.push(self.report(place, number, event));
                }
            };
            add(FIRST, first);
            let silence = self.silence(*feed);
            let begin = (from - phase) / refresh - 1;
            for number in begin.max(0)..=(to - phase) / refresh + 1 {
                let event = phase + number * refresh + spread(Purpose::Jitter, number, refresh / 20);
                let is_silent = silence.is_some_and(|(from, to)| (from..to).contains(&event));
                if event > first && !is_silent {
                    add(number, event);
                }
            }
            if let Some((from, to)) = silence {
                add(-1, from);
                add(-2, to);
            }
        }
    }

    /// From when to when a stream does not report, with a report at either end.
    fn silence(&self, feed: Feed) -> Option<(i64, i64)> {
        let claim = self.claims[feed.claim as usize];
        let (all, lasting) = self.cascade;
        if !self.config.incidents || claim.tier != 1 || claim.number >= all {
            return None;
        }
        let spread = |number: i64, end: i64| {
            let who = (feed.claim << 4).into();
            (self.draw(Purpose::Incident, who, number * 8 + feed.slot) % end as u64) as i64
        };
        // What they said at 17 runs out at 18.
        let until = if claim.number < all - lasting {
            18 * HOUR + 2 * MINUTE + spread(1, 13 * MINUTE)
        } else {
            20 * HOUR + spread(1, MINUTE)
        };
        Some((17 * HOUR + spread(0, MINUTE), until))
    }

    fn report(&self, place: u32, number: i64, event: i64) -> Report {
        let feed = self.feeds[place as usize];
        let draw = |purpose, end: i64| (self.draw(purpose, place.into(), number) % end as u64) as i64;
        let mut lag = 200_000 + draw(Purpose::Lag, 600_000);
        if draw(Purpose::Straggler, 1000) < 3 {
            lag += draw(Purpose::Incident, 3 * MINUTE);
        }
        let is_hidden_time = (22 * HOUR..23 * HOUR).contains(&event) && event / QUARTER % 2 == 0;
        if self.config.incidents && self.is_hidden(feed.source) && is_hidden_time {
            lag += 2 * MINUTE + draw(Purpose::Incident, 3 * MINUTE);
        }
        Report { feed: place, number, event, ingest: event + lag }
    }

    /// What a report says beyond its times: value, status and confidence in thousandths.
    fn content(&self, report: &Report) -> (u64, &'static str, i64) {
        let feed = self.feeds[report.feed as usize];
        let claim = self.claims[feed.claim as usize];
        let draw = |purpose, end: u64| self.draw(purpose, report.feed.into(), report.number) % end;
        let truth = self.draw(Purpose::Truth, feed.claim.into(), 0) % 5;
        let value = if draw(Purpose::Error, 2000) == 0 { 5 + draw(Purpose::Truth, 5) } else { truth };
        let status = if draw(Purpose::Failure, 1000) == 0 { "DEGRADED" } else { "OK" };
        let is_volatile = self.config.incidents
            && claim.tier == 0
            // Other claims than those with a hidden common cause.
            && (self.hidden..self.hidden + self.volatile).contains(&claim.number)
            && (44 * HOUR..46 * HOUR).contains(&report.event);
        let confidence = if is_volatile {
            draw(Purpose::Confidence, 1001)
        } else {
            // Near 0.92, by the mean of four.
            let quarters =
                (0..4).map(|quarter| (draw(Purpose::Confidence, u64::MAX) >> (quarter * 12)) & 127);
            860 + quarters.sum::<u64>() / 4
        };
        (value, status, confidence as i64)
    }

    /// How far a region's clock is off at a minute, and how far its watermark lags, in microseconds.
    fn clock(&self, minute: i64, region: usize, beacon: usize) -> (i64, i64) {
        let draw = |number, end: i64| {
            let who = (minute * 8 + region as i64 * 2 + beacon as i64).cast_unsigned();
            (self.draw(Purpose::Skew, who, number) % end as u64) as i64
        };
        let is_off = self.config.incidents && (36 * 60..36 * 60 + 45).contains(&minute);
        let off = if is_off { [800_000, 200_000, -700_000][region] } else { 0 };
        (off + draw(0, 60_000) - 30_000, 1_000_000 + draw(1, 2_000_000))
    }

    /// A number of 64 bits that follows from the seed, what it is for, whom, and which.
    fn draw(&self, purpose: Purpose, who: u64, number: i64) -> u64 {
        let parts = [self.config.seed, purpose as u64, who, number.cast_unsigned()];
        parts.into_iter().fold(0x0054_4944_4547_4154, |state: u64, part| mixed(state ^ mixed(part)))
    }
}

/// The finalizer of SplitMix64, one step on.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

impl LatticeSource {
    /// Opens a stream of a lattice from the record at `from_position` on.
    ///
    /// # Errors
    /// When a setting is out of its range, or the lattice holds fewer than `from_position` records.
    pub fn new(
        config: LatticeConfig,
        stream: LatticeStream,
        from_position: u64,
        batch_rows: usize,
    ) -> Result<LatticeSource, SourceError> {
        let lattice = Lattice::new(config)?;
        let made = match stream {
            LatticeStream::Claims => Records::Claims(0..lattice.claims.len()),
            LatticeStream::Sources => Records::Sources(0..lattice.sources as usize),
            LatticeStream::Evidence => Records::Reports(Vec::new()),
            LatticeStream::Beacons => Records::Beacons(Vec::new()),
        };
        let mut source = LatticeSource {
            lattice,
            stream,
            batch_rows: batch_rows.max(1),
            position: 0,
            made,
            handed_over: 0,
            quarter: 0,
            under_way: Vec::new(),
        };
        while source.position < from_position {
            let wanted = usize::try_from(from_position - source.position).unwrap_or(usize::MAX);
            if source.take(wanted).is_empty() {
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

    /// The places in `made` of the next records, at most `count`; none at the end.
    fn take(&mut self, count: usize) -> std::ops::Range<usize> {
        while self.handed_over == self.made.len() && self.make() {
            self.handed_over = 0;
        }
        let first = self.handed_over;
        self.handed_over += count.min(self.made.len() - first);
        self.position += (self.handed_over - first) as u64;
        first..self.handed_over
    }

    /// Makes the records of the next quarter of an hour; `false` after the last.
    fn make(&mut self) -> bool {
        let quarters = i64::from(self.lattice.config.hours) * 4;
        let quarter = self.quarter;
        self.quarter += 1;
        match &mut self.made {
            Records::Claims(_) | Records::Sources(_) => false,
            Records::Reports(reports) => {
                if quarter < quarters {
                    self.lattice.observed(quarter, &mut self.under_way);
                } else if self.under_way.is_empty() {
                    return false;
                }
                let end = if quarter < quarters { (quarter + 1) * QUARTER } else { i64::MAX };
                reports.clear();
                reports.extend(self.under_way.extract_if(.., |report| report.ingest < end));
                reports.sort_unstable_by_key(|report| (report.ingest, report.feed, report.number));
                true
            }
            Records::Beacons(beacons) => {
                if quarter >= quarters {
                    return false;
                }
                let minutes = quarter * 15..(quarter + 1) * 15;
                let all = minutes.flat_map(|minute| (0..3).map(move |region| (minute, region)));
                beacons.clear();
                beacons.extend(all.flat_map(|(minute, region)| [(minute, region, 0), (minute, region, 1)]));
                true
            }
        }
    }

    /// Some of the records that were made.
    fn batch(&self, places: std::ops::Range<usize>) -> RecordBatch {
        let columns = match &self.made {
            Records::Claims(_) => self.claims(places),
            Records::Sources(_) => self.sources(places),
            Records::Reports(reports) => self.reports(&reports[places]),
            Records::Beacons(beacons) => self.beacons(&beacons[places]),
        };
        RecordBatch::try_new(self.schema(), columns).expect("the columns are those of the schema")
    }

    fn claims(&self, places: std::ops::Range<usize>) -> Vec<ArrayRef> {
        let claims = &self.lattice.claims[places.clone()];
        let quorum =
            |of: fn(&(i64, i64, i32, i32)) -> i32| numbers(claims.iter().map(|c| of(&TIERS[c.tier])));
        vec![
            texts(places.map(claim_id)),
            self.times(claims.iter().map(|_| 0)),
            texts(claims.iter().map(|claim| REGIONS[claim.region].to_owned())),
            texts(claims.iter().map(|claim| domain_id(claim.domain))),
            numbers(claims.iter().map(|claim| claim.tier as i32)),
            quorum(|(n, _, _, _)| *n as i32),
            quorum(|(_, _, k, _)| *k),
            quorum(|(_, _, _, groups)| *groups),
            flags(claims.iter().map(|claim| claim.tier == 0)),
        ]
    }

    fn sources(&self, places: std::ops::Range<usize>) -> Vec<ArrayRef> {
        let lattice = &self.lattice;
        let of = || places.clone().map(|source| source as i64);
        let region = |source| REGIONS[lattice.region_of_group(lattice.group_of(source))].to_owned();
        vec![
            texts(of().map(source_id)),
            self.times(of().map(|_| 0)),
            texts(of().map(region)),
            numbers(of().map(|source| i32::from(!lattice.is_out_of_band(source)))),
            texts(of().map(|source| group_id(lattice.group_of(source)))),
            flags(of().map(|source| lattice.is_out_of_band(source))),
        ]
    }

    fn reports(&self, reports: &[Report]) -> Vec<ArrayRef> {
        let lattice = &self.lattice;
        let feed = |report: &Report| lattice.feeds[report.feed as usize];
        let claim = |report: &Report| lattice.claims[feed(report).claim as usize];
        let stream = |report: &Report| {
            let Feed { claim, slot, .. } = feed(report);
            format!("{}-{slot}", claim_id(claim as usize))
        };
        let id = |report: &Report| format!("{}-{}", stream(report), report.number);
        let contents: Vec<_> = reports.iter().map(|report| lattice.content(report)).collect();
        let confidences = contents.iter().map(|(_, _, confidence)| i128::from(*confidence));
        let confidences = Decimal128Array::from_iter_values(confidences);
        let group = |report: &Report| lattice.group_of(feed(report).source);
        vec![
            texts(reports.iter().map(id)),
            texts(reports.iter().map(stream)),
            texts(reports.iter().map(|report| claim_id(feed(report).claim as usize))),
            texts(reports.iter().map(|report| source_id(feed(report).source))),
            texts(reports.iter().map(|report| group_id(group(report)))),
            texts(reports.iter().map(|report| REGIONS[lattice.region_of_group(group(report))].to_owned())),
            texts(reports.iter().map(|report| domain_id(claim(report).domain))),
            numbers(reports.iter().map(|report| claim(report).tier as i32)),
            flags(reports.iter().map(|report| lattice.is_out_of_band(feed(report).source))),
            texts(contents.iter().map(|(value, _, _)| format!("v{value}"))),
            texts(contents.iter().map(|(_, status, _)| (*status).to_owned())),
            Arc::new(confidences.with_data_type(DataType::Decimal128(4, 3))),
            self.times(reports.iter().map(|report| report.event)),
            self.times(reports.iter().map(|report| report.ingest)),
            numbers(reports.iter().map(|report| TIERS[claim(report).tier].1 as i32)),
        ]
    }

    fn beacons(&self, beacons: &[(i64, usize, usize)]) -> Vec<ArrayRef> {
        let clocks: Vec<(i64, i64)> = beacons
            .iter()
            .map(|(minute, region, beacon)| self.lattice.clock(*minute, *region, *beacon))
            .collect();
        let id =
            |(minute, region, beacon): &(i64, usize, usize)| format!("beacon-{beacon}-{region}-{minute}");
        vec![
            texts(beacons.iter().map(id)),
            texts(beacons.iter().map(|(_, _, beacon)| format!("authority-{beacon}"))),
            texts(beacons.iter().map(|(_, region, _)| REGIONS[*region].to_owned())),
            self.times(beacons.iter().map(|(minute, _, _)| minute * MINUTE)),
            Arc::new(Int64Array::from_iter_values(clocks.iter().map(|(skew, _)| *skew))),
            Arc::new(Int64Array::from_iter_values(clocks.iter().map(|(_, lag)| *lag))),
        ]
    }

    /// Times after the start.
    fn times(&self, after: impl Iterator<Item = i64>) -> ArrayRef {
        let times = after.map(|after| self.lattice.config.start + after);
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
    }
}

fn claim_id(claim: usize) -> String {
    format!("claim-{claim:05}")
}

fn source_id(source: i64) -> String {
    format!("source-{source:05}")
}

fn group_id(group: i64) -> String {
    format!("group-{group:03}")
}

fn domain_id(domain: i64) -> String {
    format!("domain-{domain:02}")
}

fn texts(texts: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(texts))
}

fn numbers(numbers: impl Iterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(numbers))
}

fn flags(flags: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(flags.map(Some).collect::<BooleanArray>())
}

impl Source for LatticeSource {
    fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let first = self.position;
        let mut batches = Vec::new();
        let mut rows = 0;
        while rows < self.batch_rows {
            let places = self.take(self.batch_rows - rows);
            if places.is_empty() {
                break;
            }
            rows += places.len();
            batches.push(self.batch(places));
        }
        if batches.is_empty() {
            return Ok(None);
        }
        let batch = arrow::compute::concat_batches(&self.schema(), &batches).expect("they share a schema");
        let positions = (first..self.position).collect();
        Ok(Some(Chunk { body: Body::Rows { batch, positions }, faults: Vec::new() }))
    }

    /// One entry named `world`, the same from the start to the end: the digest of what it is made from.
    fn prefix(&self) -> Prefix {
        let text = self.lattice.config.canonical_text();
        let digest = self.lattice.config.digest();
        let bytes = text.len() as u64;
        Prefix { files: vec![FilePrefix { name: "world".to_owned(), bytes, digest, may_grow: false }] }
    }
}
