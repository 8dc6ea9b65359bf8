//! The credibility world: simulated claims, the evidence for them and four incidents, determined by
//! a seed.
//!
//! Claims of four tiers, sources in correlation groups, and sync nodes are spread over three
//! regions in the proportion 12 to 14 to 10. A claim has 5, 4, 3 or 3 streams of evidence, by tier,
//! and each stream has one source. The sources of a claim belong to different groups, and two
//! sources of a claim of tier 0 are out of band. A stream reports every 0.45 of its time to live
//! (15 minutes, 1, 6 or 24 hours), so two of its reports are alive at a time. At 100 percent there
//! are 4,000 claims, 26,400 live reports, 5,586 sources and 14 sync nodes: 36,000 nodes.
//!
//! The incidents, in hours after the start:
//!
//! * 17 to 20, visible at 18: the streams of 260 claims of tier 1 report together, and then not
//!   until their evidence has expired. Of these 1,040 streams, 980 return within 15 minutes, and
//!   those of 15 claims two hours later.
//! * 22: the groups behind 18 claims of tier 0 lag together by some minutes, in alternate quarters
//!   of an hour.
//! * 36: for 45 minutes the clocks of two regions are off by more than half a second, and that of
//!   the third by a fifth of a second.
//! * 44: for two hours the confidence of 12 claims of tier 0 is random.
//!
//! The contents of a report depend only on the seed, its stream and its number, so the source
//! stores no history. It generates records in quarters of an hour. The same settings give the same
//! bytes on every machine, because the simulation uses no floats.

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
use crate::read_fingerprint::{FileFingerprint, ReadFingerprint};
use crate::{Body, Chunk, Source};

/// The settings of a credibility world; the defaults give 36,000 nodes and 1.3 million reports in
/// three days.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CredibilityWorldConfig {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The size of the world in percent of 36,000 nodes.
    pub percent: u32,
    /// The length of the simulated time, in hours.
    pub hours: u32,
    /// The start of the simulated time, in microseconds since 1970-01-01 UTC.
    pub start: i64,
    /// Whether the four incidents happen; random errors happen either way.
    pub incidents: bool,
}

impl Default for CredibilityWorldConfig {
    fn default() -> CredibilityWorldConfig {
        CredibilityWorldConfig {
            seed: 0,
            percent: 100,
            hours: 73,
            start: 1_767_225_600_000_000, // 2026-01-01T00:00:00Z
            incidents: true,
        }
    }
}

/// The streams of records of a credibility world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredibilityWorldStream {
    /// The claims and their quorums; all at the start.
    Claims,
    /// The sources and their correlation groups; all at the start.
    Sources,
    /// The reports, ordered by the time at which they arrive.
    Evidence,
    /// The offset of each region's clock from two external authorities, each minute.
    Beacons,
}

/// A source that generates one stream of a credibility world.
pub struct CredibilityWorldSource {
    world: CredibilityWorld,
    stream: CredibilityWorldStream,
    batch_rows: usize,
    position: u64,
    /// The generated records, and how many of them were returned.
    records: Records,
    returned: usize,
    /// The quarter of an hour to generate next.
    quarter: i64,
    /// Generated reports that arrive in a later quarter.
    in_transit: Vec<Report>,
}

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const QUARTER: i64 = 15 * MINUTE;

/// The number of claims by tier, at 100 percent.
const CLAIMS: [i64; 4] = [200, 800, 2000, 1000];
/// The number of sources, at 100 percent.
const SOURCES: i64 = 5586;
/// The number of correlation groups, at 100 percent.
const GROUPS: i64 = 120;
/// The claims of tier 1 whose evidence expires together, and those of them that get none for two
/// hours.
const CASCADE: (i64, i64) = (260, 15);
/// The claims of tier 0 with a hidden common cause of failure.
const HIDDEN: i64 = 18;
/// The claims of tier 0 whose confidence is random for two hours.
const VOLATILE: i64 = 12;

/// By tier: the streams of a claim, their time to live in seconds, and the quorum: how many of them
/// must agree, from how many groups.
const TIERS: [(i64, i64, i32, i32); 4] =
    [(5, 900, 3, 2), (4, 3600, 2, 2), (3, 21_600, 1, 1), (3, 86_400, 1, 1)];
const REGIONS: [&str; 3] = ["east", "central", "west"];
const DOMAINS: i64 = 24;
/// The groups that report only for the claims with a hidden common cause, six claims each.
const HIDDEN_GROUPS: i64 = 3;
/// The number of sources in each of these groups.
const HIDDEN_SOURCES: i64 = 6;

/// The number of a stream's first report, which is outside its period. Reports of incidents have
/// the numbers -1 and -2.
const FIRST: i64 = -3;

/// The name and version of the recipe, which changes whenever the contents of a world change.
const RECIPE: &str = "tidegate.credibility_world.v2";

impl CredibilityWorldConfig {
    /// The digest of the recipe and all settings, which identifies the world.
    pub fn digest(&self) -> Digest {
        Digest::of(self.canonical_text().as_bytes())
    }

    fn canonical_text(&self) -> String {
        // No `..` in the pattern, so that the compiler requires every new setting here.
        let CredibilityWorldConfig { seed, percent, hours, start, incidents } = self;
        format!("{RECIPE} seed={seed} percent={percent} hours={hours} start={start} incidents={incidents}")
    }

    fn check(&self) -> Result<(), SourceError> {
        let refuse = |setting, detail: &str| Err(SourceError::World { setting, detail: detail.to_owned() });
        if !(1..=10_000).contains(&self.percent) {
            return refuse("percent", "must lie between 1 and 10000; 100 are 36,000 nodes");
        }
        if self.hours == 0 || self.hours > 24 * 366 {
            return refuse("hours", "must lie between 1 and 8784; 73 cover all incidents");
        }
        let length = i64::from(self.hours + 2) * HOUR;
        if self.start < 0 || self.start.checked_add(length).is_none_or(|end| end > tick::MICROS_MAX) {
            return refuse("start", "must be after 1970-01-01, and the simulated time must end before 3111");
        }
        Ok(())
    }
}

impl CredibilityWorldStream {
    /// The columns of the stream.
    pub fn schema(self) -> SchemaRef {
        let column = |name: &str, data_type| Field::new(name, data_type, false);
        let text = |name: &str| column(name, DataType::Utf8);
        let number = |name: &str| column(name, DataType::Int32);
        let time = |name: &str| column(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
        let fields = match self {
            CredibilityWorldStream::Claims => vec![
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
            CredibilityWorldStream::Sources => vec![
                text("source_id"),
                time("observed_at"),
                text("region"),
                number("tier"),
                text("correlation_group"),
                column("out_of_band", DataType::Boolean),
            ],
            CredibilityWorldStream::Evidence => vec![
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
            CredibilityWorldStream::Beacons => vec![
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

/// The claims, streams and sources of a world, which do not change over time.
struct CredibilityWorld {
    config: CredibilityWorldConfig,
    claims: Vec<Claim>,
    streams: Vec<EvidenceStream>,
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
    /// Its number among the claims of its tier.
    number: i64,
}

/// A stream of evidence: the reports of one source about one claim.
#[derive(Clone, Copy)]
struct EvidenceStream {
    claim: u32,
    slot: i64,
    source: i64,
}

/// One report of a stream.
#[derive(Clone, Copy)]
struct Report {
    /// The index of its stream in `CredibilityWorld::streams`.
    stream: u32,
    /// Its number in its stream; negative for the first report and for reports of incidents.
    number: i64,
    /// When it was observed, in microseconds after the start.
    event: i64,
    /// When it arrives, in microseconds after the start.
    ingest: i64,
}

/// Generated records of one stream of the world.
enum Records {
    Claims(std::ops::Range<usize>),
    Sources(std::ops::Range<usize>),
    Reports(Vec<Report>),
    /// The minute, the region and the authority of each.
    Beacons(Vec<(i64, usize, usize)>),
}

impl Records {
    fn len(&self) -> usize {
        match self {
            Records::Claims(range) | Records::Sources(range) => range.len(),
            Records::Reports(reports) => reports.len(),
            Records::Beacons(beacons) => beacons.len(),
        }
    }
}

/// The purpose for which a random number is drawn.
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

impl CredibilityWorld {
    fn new(config: CredibilityWorldConfig) -> Result<CredibilityWorld, SourceError> {
        config.check()?;
        let percent = i64::from(config.percent);
        let part = |whole: i64, least: i64| (whole * percent / 100).max(least);
        let claims_of = CLAIMS.map(|count| part(count, 6));
        let cascade = (part(CASCADE.0, 2).min(claims_of[1]), part(CASCADE.1, 1).min(claims_of[1]));
        let mut world = CredibilityWorld {
            claims: Vec::new(),
            streams: Vec::new(),
            sources: part(SOURCES, 60),
            groups: part(GROUPS, 12),
            cascade,
            hidden: part(HIDDEN, 3).min(claims_of[0]),
            volatile: part(VOLATILE, 2).min(claims_of[0]),
            config,
        };
        for (tier, count) in claims_of.into_iter().enumerate() {
            for number in 0..count {
                let claim = world.claims.len() as u32;
                // In the proportion 12 to 14 to 10.
                let region = match world.draw(Purpose::Region, claim.into(), 0) % 36 {
                    0..12 => 0,
                    12..26 => 1,
                    _ => 2,
                };
                let domain = (world.draw(Purpose::Domain, claim.into(), 0) % DOMAINS as u64) as i64;
                world.claims.push(Claim { tier, region, domain, number });
                for slot in 0..TIERS[tier].0 {
                    let source = world.source_of(claim, tier, number, slot);
                    world.streams.push(EvidenceStream { claim, slot, source });
                }
            }
        }
        Ok(world)
    }

    /// The source of a claim's stream. The sources of a claim belong to different groups, except
    /// for claims with a hidden common cause.
    fn source_of(&self, claim: u32, tier: usize, number: i64, slot: i64) -> i64 {
        if tier == 0 && number < self.hidden && (1..4).contains(&slot) {
            return self
                .hidden_source(number % HIDDEN_GROUPS, (number / HIDDEN_GROUPS * 3 + slot) % HIDDEN_SOURCES);
        }
        let usual = self.sources - HIDDEN_GROUPS * HIDDEN_SOURCES;
        let groups = self.groups - HIDDEN_GROUPS;
        let drawn = (self.draw(Purpose::Source, claim.into(), 0) % groups as u64) as i64;
        let group = (drawn + slot * 2 + 1) % groups;
        // Source s belongs to group s % groups, and every tenth source of a group is out of band.
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

    /// The region of a group; groups are divided in the proportion 12 to 14 to 10.
    fn region_of_group(&self, group: i64) -> usize {
        match group * 36 / self.groups {
            0..12 => 0,
            12..26 => 1,
            _ => 2,
        }
    }

    /// The time to live of a stream's reports, in microseconds.
    fn ttl(&self, stream: EvidenceStream) -> i64 {
        TIERS[self.claims[stream.claim as usize].tier].1 * SECOND
    }

    /// Appends the reports that are observed in a quarter of an hour.
    fn observe(&self, quarter: i64, reports: &mut Vec<Report>) {
        let (from, to) = (quarter * QUARTER, (quarter + 1) * QUARTER);
        for (index, stream) in self.streams.iter().enumerate() {
            let index = index as u32;
            let refresh = self.ttl(*stream) * 9 / 20;
            let spread =
                |purpose, number, end: i64| (self.draw(purpose, index.into(), number) % end as u64) as i64;
            let phase = spread(Purpose::Phase, 0, refresh);
            // Every stream reports once in the first ten minutes, and then in its period. So no
            // evidence is missing at the start.
            let first = 10 * SECOND + spread(Purpose::Phase, 1, 10 * MINUTE);
            let mut add = |number: i64, event: i64| {
                if (from..to).contains(&event) {
                    reports.push(self.report(index, number, event));
                }
            };
            add(FIRST, first);
            let silence = self.silence(*stream);
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

    /// The time in which a stream does not report, with a report at either end; `None` for most
    /// streams.
    fn silence(&self, stream: EvidenceStream) -> Option<(i64, i64)> {
        let claim = self.claims[stream.claim as usize];
        let (affected, prolonged) = self.cascade;
        if !self.config.incidents || claim.tier != 1 || claim.number >= affected {
            return None;
        }
        let spread = |number: i64, end: i64| {
            let subject = (stream.claim << 4).into();
            (self.draw(Purpose::Incident, subject, number * 8 + stream.slot) % end as u64) as i64
        };
        // The reports of hour 17 expire in hour 18.
        let until = if claim.number < affected - prolonged {
            18 * HOUR + 2 * MINUTE + spread(1, 13 * MINUTE)
        } else {
            20 * HOUR + spread(1, MINUTE)
        };
        Some((17 * HOUR + spread(0, MINUTE), until))
    }

    fn report(&self, index: u32, number: i64, event: i64) -> Report {
        let stream = self.streams[index as usize];
        let draw = |purpose, end: i64| (self.draw(purpose, index.into(), number) % end as u64) as i64;
        let mut lag = 200_000 + draw(Purpose::Lag, 600_000);
        if draw(Purpose::Straggler, 1000) < 3 {
            lag += draw(Purpose::Incident, 3 * MINUTE);
        }
        let is_hidden_time = (22 * HOUR..23 * HOUR).contains(&event) && event / QUARTER % 2 == 0;
        if self.config.incidents && self.is_hidden(stream.source) && is_hidden_time {
            lag += 2 * MINUTE + draw(Purpose::Incident, 3 * MINUTE);
        }
        Report { stream: index, number, event, ingest: event + lag }
    }

    /// The value, the status and the confidence (in thousandths) of a report.
    fn content(&self, report: &Report) -> (u64, &'static str, i64) {
        let stream = self.streams[report.stream as usize];
        let claim = self.claims[stream.claim as usize];
        let draw = |purpose, end: u64| self.draw(purpose, report.stream.into(), report.number) % end;
        let truth = self.draw(Purpose::Truth, stream.claim.into(), 0) % 5;
        let value = if draw(Purpose::Error, 2000) == 0 { 5 + draw(Purpose::Truth, 5) } else { truth };
        let status = if draw(Purpose::Failure, 1000) == 0 { "DEGRADED" } else { "OK" };
        let is_volatile = self.config.incidents
            && claim.tier == 0
            // These claims have no hidden common cause.
            && (self.hidden..self.hidden + self.volatile).contains(&claim.number)
            && (44 * HOUR..46 * HOUR).contains(&report.event);
        let confidence = if is_volatile {
            draw(Purpose::Confidence, 1001)
        } else {
            // Around 0.92: the mean of four numbers.
            let quarters =
                (0..4).map(|quarter| (draw(Purpose::Confidence, u64::MAX) >> (quarter * 12)) & 127);
            860 + quarters.sum::<u64>() / 4
        };
        (value, status, confidence as i64)
    }

    /// The offset of a region's clock at a minute, and the lag of its watermark, in microseconds.
    fn clock(&self, minute: i64, region: usize, beacon: usize) -> (i64, i64) {
        let draw = |number, end: i64| {
            let subject = (minute * 8 + region as i64 * 2 + beacon as i64).cast_unsigned();
            (self.draw(Purpose::Skew, subject, number) % end as u64) as i64
        };
        let is_off = self.config.incidents && (36 * 60..36 * 60 + 45).contains(&minute);
        let off = if is_off { [800_000, 200_000, -700_000][region] } else { 0 };
        (off + draw(0, 60_000) - 30_000, 1_000_000 + draw(1, 2_000_000))
    }

    /// A 64-bit number determined by the seed, the purpose, the subject and a counter.
    fn draw(&self, purpose: Purpose, subject: u64, number: i64) -> u64 {
        let parts = [self.config.seed, purpose as u64, subject, number.cast_unsigned()];
        parts.into_iter().fold(0x0054_4944_4547_4154, |state: u64, part| split_mix(state ^ split_mix(part)))
    }
}

/// One step of SplitMix64.
fn split_mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

impl CredibilityWorldSource {
    /// Opens a stream of a credibility world, from the record at `from_position` on.
    ///
    /// # Errors
    /// When a setting is out of range, or the world has fewer than `from_position` records.
    pub fn new(
        config: CredibilityWorldConfig,
        stream: CredibilityWorldStream,
        from_position: u64,
        batch_rows: usize,
    ) -> Result<CredibilityWorldSource, SourceError> {
        let world = CredibilityWorld::new(config)?;
        let records = match stream {
            CredibilityWorldStream::Claims => Records::Claims(0..world.claims.len()),
            CredibilityWorldStream::Sources => Records::Sources(0..world.sources as usize),
            CredibilityWorldStream::Evidence => Records::Reports(Vec::new()),
            CredibilityWorldStream::Beacons => Records::Beacons(Vec::new()),
        };
        let mut source = CredibilityWorldSource {
            world,
            stream,
            batch_rows: batch_rows.max(1),
            position: 0,
            records,
            returned: 0,
            quarter: 0,
            in_transit: Vec::new(),
        };
        while source.position < from_position {
            let count = usize::try_from(from_position - source.position).unwrap_or(usize::MAX);
            if source.take(count).is_empty() {
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

    /// The range in `records` of the next records, at most `count`; empty at the end.
    fn take(&mut self, count: usize) -> std::ops::Range<usize> {
        while self.returned == self.records.len() && self.generate() {
            self.returned = 0;
        }
        let first = self.returned;
        self.returned += count.min(self.records.len() - first);
        self.position += (self.returned - first) as u64;
        first..self.returned
    }

    /// Generates the records of the next quarter of an hour; `false` after the last quarter.
    fn generate(&mut self) -> bool {
        let quarters = i64::from(self.world.config.hours) * 4;
        let quarter = self.quarter;
        self.quarter += 1;
        match &mut self.records {
            Records::Claims(_) | Records::Sources(_) => false,
            Records::Reports(reports) => {
                if quarter < quarters {
                    self.world.observe(quarter, &mut self.in_transit);
                } else if self.in_transit.is_empty() {
                    return false;
                }
                let end = if quarter < quarters { (quarter + 1) * QUARTER } else { i64::MAX };
                reports.clear();
                reports.extend(self.in_transit.extract_if(.., |report| report.ingest < end));
                reports.sort_unstable_by_key(|report| (report.ingest, report.stream, report.number));
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

    /// The generated records in a range, as columns of the stream.
    fn batch(&self, range: std::ops::Range<usize>) -> RecordBatch {
        let columns = match &self.records {
            Records::Claims(_) => self.claims(range),
            Records::Sources(_) => self.sources(range),
            Records::Reports(reports) => self.reports(&reports[range]),
            Records::Beacons(beacons) => self.beacons(&beacons[range]),
        };
        RecordBatch::try_new(self.schema(), columns).expect("the columns are those of the schema")
    }

    fn claims(&self, range: std::ops::Range<usize>) -> Vec<ArrayRef> {
        let claims = &self.world.claims[range.clone()];
        let quorum =
            |of: fn(&(i64, i64, i32, i32)) -> i32| numbers(claims.iter().map(|c| of(&TIERS[c.tier])));
        vec![
            texts(range.map(claim_id)),
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

    fn sources(&self, range: std::ops::Range<usize>) -> Vec<ArrayRef> {
        let world = &self.world;
        let sources = || range.clone().map(|source| source as i64);
        let region = |source| REGIONS[world.region_of_group(world.group_of(source))].to_owned();
        vec![
            texts(sources().map(source_id)),
            self.times(sources().map(|_| 0)),
            texts(sources().map(region)),
            numbers(sources().map(|source| i32::from(!world.is_out_of_band(source)))),
            texts(sources().map(|source| group_id(world.group_of(source)))),
            flags(sources().map(|source| world.is_out_of_band(source))),
        ]
    }

    fn reports(&self, reports: &[Report]) -> Vec<ArrayRef> {
        let world = &self.world;
        let stream = |report: &Report| world.streams[report.stream as usize];
        let claim = |report: &Report| world.claims[stream(report).claim as usize];
        let stream_id = |report: &Report| {
            let EvidenceStream { claim, slot, .. } = stream(report);
            format!("{}-{slot}", claim_id(claim as usize))
        };
        let id = |report: &Report| format!("{}-{}", stream_id(report), report.number);
        let contents: Vec<_> = reports.iter().map(|report| world.content(report)).collect();
        let confidences = contents.iter().map(|(_, _, confidence)| i128::from(*confidence));
        let confidences = Decimal128Array::from_iter_values(confidences);
        let group = |report: &Report| world.group_of(stream(report).source);
        vec![
            texts(reports.iter().map(id)),
            texts(reports.iter().map(stream_id)),
            texts(reports.iter().map(|report| claim_id(stream(report).claim as usize))),
            texts(reports.iter().map(|report| source_id(stream(report).source))),
            texts(reports.iter().map(|report| group_id(group(report)))),
            texts(reports.iter().map(|report| REGIONS[world.region_of_group(group(report))].to_owned())),
            texts(reports.iter().map(|report| domain_id(claim(report).domain))),
            numbers(reports.iter().map(|report| claim(report).tier as i32)),
            flags(reports.iter().map(|report| world.is_out_of_band(stream(report).source))),
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
            .map(|(minute, region, beacon)| self.world.clock(*minute, *region, *beacon))
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

    /// A column of times from microseconds after the start.
    fn times(&self, after: impl Iterator<Item = i64>) -> ArrayRef {
        let times = after.map(|after| self.world.config.start + after);
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

impl Source for CredibilityWorldSource {
    fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let first = self.position;
        let mut batches = Vec::new();
        let mut rows = 0;
        while rows < self.batch_rows {
            let range = self.take(self.batch_rows - rows);
            if range.is_empty() {
                break;
            }
            rows += range.len();
            batches.push(self.batch(range));
        }
        if batches.is_empty() {
            return Ok(None);
        }
        let batch = arrow::compute::concat_batches(&self.schema(), &batches).expect("they share a schema");
        let positions = (first..self.position).collect();
        Ok(Some(Chunk { body: Body::Rows { batch, positions }, unreadable: Vec::new() }))
    }

    /// One entry named `world` with the digest of the settings; the same from start to end.
    fn fingerprint(&self) -> ReadFingerprint {
        let text = self.world.config.canonical_text();
        let digest = self.world.config.digest();
        let bytes = text.len() as u64;
        ReadFingerprint {
            files: vec![FileFingerprint { name: "world".to_owned(), bytes, digest, may_grow: false }],
        }
    }
}
