//! `quorum` against its slow, obvious version: at every tick, the row of a claim is what a scan of
//! all evidence gives.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use chance::Chance;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Tick, columns};
use tidegate_operators::core::tick_ordered::TickOperator;
use tidegate_operators::credibility::quorum::{
    DeclarationColumns, EvidenceColumns, FamilyColumns, Quorum, QuorumConfig, Requirement,
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Evidence {
    claim: i64,
    stream: String,
    value: Option<i64>,
    time: i64,
    group: Option<String>,
    out_of_band: bool,
    is_eligible: bool,
    expires: i64,
}

/// Stream, family, suspected group, weight.
type Family = (String, Option<String>, Option<String>, i64);

#[derive(Clone, Debug)]
enum Event {
    Evidence(Evidence, i64),
    Declaration(i64, Requirement, String, i64),
    Family(Family, i64),
}

type Log = Vec<(Tick, Event)>;

fn schema(fields: Vec<(&str, DataType)>) -> SchemaRef {
    let tick = columns::tick_field(columns::TICK);
    let fields = fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new([tick].into_iter().chain(fields).collect::<Vec<_>>()))
}

fn config(with_declarations: bool, is_changelog: bool) -> QuorumConfig {
    QuorumConfig {
        evidence: EvidenceColumns {
            claim: 1,
            stream: 2,
            value: 3,
            time: 4,
            group: Some(5),
            out_of_band: Some(6),
            is_eligible: Some(7),
            expires: Some(8),
            diff: is_changelog.then_some(9),
            passthrough: vec![1],
        },
        declaration: with_declarations.then(|| DeclarationColumns {
            claim: 1,
            numbers: [2, 3, 4],
            out_of_band: 5,
            diff: Some(7),
            passthrough: vec![1, 6],
        }),
        families: Some(FamilyColumns { stream: 1, family: 2, suspected_group: 3, weight: 4, diff: 5 }),
        default_requirement: (!with_declarations).then_some(Requirement {
            n: 3,
            k: 2,
            groups: 2,
            out_of_band: false,
        }),
        emits_votes: true,
        claim_fields: if with_declarations {
            vec![Field::new("claim", DataType::Int64, true), Field::new("title", DataType::Utf8, true)]
        } else {
            vec![Field::new("claim", DataType::Int64, true)]
        },
        types: [DataType::Int64, DataType::Utf8, DataType::Utf8],
    }
}

fn ticks(log: &[(Tick, &Event)]) -> ArrayRef {
    Arc::new(columns::tick_array(log.iter().map(|(tick, _)| *tick)))
}

/// The batches of one interval: evidence, declarations, families.
fn batches(log: &[(Tick, Event)], with_declarations: bool) -> Vec<RecordBatch> {
    let of = |selected: fn(&Event) -> bool| -> Vec<(Tick, &Event)> {
        log.iter().filter(|(_, event)| selected(event)).map(|(tick, event)| (*tick, event)).collect()
    };
    let evidence = of(|event| matches!(event, Event::Evidence(..)));
    let each = || {
        evidence.iter().map(|(_, event)| match event {
            Event::Evidence(evidence, diff) => (evidence, *diff),
            _ => unreachable!("only evidence was taken"),
        })
    };
    let times = |of: fn(&Evidence) -> i64| -> ArrayRef {
        let times = TimestampMicrosecondArray::from_iter_values(each().map(|(e, _)| of(e)));
        Arc::new(times.with_timezone("UTC"))
    };
    let micros = timestamp();
    let fields = vec![
        ("claim", DataType::Int64),
        ("stream", DataType::Utf8),
        ("value", DataType::Int64),
        ("time", micros.clone()),
        ("group", DataType::Utf8),
        ("out_of_band", DataType::Boolean),
        ("is_eligible", DataType::Boolean),
        ("expires_at", micros),
        (columns::DIFF, DataType::Int64),
    ];
    let columns: Vec<ArrayRef> = vec![
        ticks(&evidence),
        Arc::new(each().map(|(e, _)| Some(e.claim)).collect::<Int64Array>()),
        Arc::new(each().map(|(e, _)| Some(e.stream.as_str())).collect::<StringArray>()),
        Arc::new(each().map(|(e, _)| e.value).collect::<Int64Array>()),
        times(|e| e.time),
        Arc::new(each().map(|(e, _)| e.group.as_deref()).collect::<StringArray>()),
        Arc::new(each().map(|(e, _)| Some(e.out_of_band)).collect::<BooleanArray>()),
        Arc::new(each().map(|(e, _)| Some(e.is_eligible)).collect::<BooleanArray>()),
        times(|e| e.expires),
        Arc::new(each().map(|(_, diff)| Some(diff)).collect::<Int64Array>()),
    ];
    let mut batches =
        vec![RecordBatch::try_new(schema(fields), columns).expect("the columns are the schema's")];
    if with_declarations {
        let declared = of(|event| matches!(event, Event::Declaration(..)));
        let each = || {
            declared.iter().map(|(_, event)| match event {
                Event::Declaration(claim, requirement, title, diff) => {
                    (*claim, *requirement, title.as_str(), *diff)
                }
                _ => unreachable!("only declarations were taken"),
            })
        };
        let fields = vec![
            ("claim", DataType::Int64),
            ("n", DataType::Int64),
            ("k", DataType::Int64),
            ("groups", DataType::Int64),
            ("out_of_band", DataType::Boolean),
            ("title", DataType::Utf8),
            (columns::DIFF, DataType::Int64),
        ];
        let columns: Vec<ArrayRef> = vec![
            ticks(&declared),
            Arc::new(each().map(|d| Some(d.0)).collect::<Int64Array>()),
            // A number that is 0 in the log is null, 0 or negative in the row.
            Arc::new(each().map(|d| Some(i64::from(d.1.n)).filter(|n| *n > 0)).collect::<Int64Array>()),
            Arc::new(each().map(|d| Some(i64::from(d.1.k))).collect::<Int64Array>()),
            Arc::new(
                each()
                    .map(|d| Some(if d.1.groups == 0 { -1 } else { i64::from(d.1.groups) }))
                    .collect::<Int64Array>(),
            ),
            Arc::new(each().map(|d| Some(d.1.out_of_band)).collect::<BooleanArray>()),
            Arc::new(each().map(|d| Some(d.2)).collect::<StringArray>()),
            Arc::new(each().map(|d| Some(d.3)).collect::<Int64Array>()),
        ];
        batches.push(RecordBatch::try_new(schema(fields), columns).expect("the columns are the schema's"));
    }
    let families = of(|event| matches!(event, Event::Family(..)));
    let each = || {
        families.iter().map(|(_, event)| match event {
            Event::Family((stream, family, suspected_group, weight), diff) => {
                (stream.as_str(), family.as_deref(), suspected_group.as_deref(), *weight, *diff)
            }
            _ => unreachable!("only families were taken"),
        })
    };
    let fields = vec![
        ("stream", DataType::Utf8),
        ("family", DataType::Utf8),
        ("suspected_group", DataType::Utf8),
        ("weight", DataType::Int64),
        (columns::DIFF, DataType::Int64),
    ];
    let columns: Vec<ArrayRef> = vec![
        ticks(&families),
        Arc::new(each().map(|f| Some(f.0)).collect::<StringArray>()),
        Arc::new(each().map(|f| f.1).collect::<StringArray>()),
        Arc::new(each().map(|f| f.2).collect::<StringArray>()),
        Arc::new(each().map(|f| Some(f.3)).collect::<Int64Array>()),
        Arc::new(each().map(|f| Some(f.4)).collect::<Int64Array>()),
    ];
    batches.push(RecordBatch::try_new(schema(fields), columns).expect("the columns are the schema's"));
    batches
}

/// A random log: evidence arrives, is refreshed and ends; claims are declared, and declared again;
/// families come and go.
fn log(seed: u64, with_declarations: bool, is_changelog: bool) -> Log {
    let mut chance = Chance(seed);
    let (mut log, mut live): (Log, Vec<Evidence>) = (Vec::new(), Vec::new());
    let mut declared: BTreeMap<i64, (Requirement, String)> = BTreeMap::new();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut now = 1_000;
    for _ in 0..250 {
        now += 1 + chance.below(5) as i64;
        let tick = Tick::new(now, chance.below(3) as u16).expect("in range");
        for _ in 0..=chance.below(3) {
            let claim = chance.below(4) as i64;
            match chance.below(10) {
                0 if with_declarations => {
                    let requirement = Requirement {
                        n: (1 + chance.below(4) as u32) * u32::from(chance.below(12) > 0),
                        k: (1 + chance.below(3) as u32) * u32::from(chance.below(12) > 0),
                        groups: (1 + chance.below(3) as u32) * u32::from(chance.below(12) > 0),
                        out_of_band: chance.below(3) == 0,
                    };
                    let title = format!("claim {claim}, edition {}", chance.below(3));
                    if let Some((requirement, title)) = declared.insert(claim, (requirement, title.clone())) {
                        log.push((tick, Event::Declaration(claim, requirement, title, -1)));
                    }
                    log.push((tick, Event::Declaration(claim, requirement, title, 1)));
                }
                1 => {
                    let stream = format!("stream {}", chance.below(8));
                    if let Some(before) = families.remove(&stream) {
                        log.push((tick, Event::Family(before, -1)));
                    }
                    if chance.below(4) > 0 {
                        let family = (chance.below(4) > 0).then(|| format!("stream {}", chance.below(2)));
                        let suspected_group =
                            (chance.below(3) > 0).then(|| format!("stream {}", chance.below(3)));
                        let new =
                            (stream.clone(), family, suspected_group, 500 * (1 + chance.below(4) as i64));
                        log.push((tick, Event::Family(new.clone(), 1)));
                        families.insert(stream, new);
                    }
                }
                2..=4 if is_changelog && !live.is_empty() => {
                    let ended = live.swap_remove(chance.below(live.len() as u64) as usize);
                    log.push((tick, Event::Evidence(ended, -1)));
                }
                _ => {
                    let stream = chance.below(8);
                    let new = Evidence {
                        claim,
                        stream: format!("stream {stream}"),
                        value: (chance.below(8) > 0).then(|| chance.below(3) as i64),
                        time: now - chance.below(20) as i64 + 50 * i64::from(chance.below(6) == 0),
                        group: (chance.below(3) > 0).then(|| format!("group {}", chance.below(3))),
                        out_of_band: stream == 0,
                        is_eligible: chance.below(8) > 0,
                        expires: now + chance.below(30) as i64,
                    };
                    log.push((tick, Event::Evidence(new.clone(), 1)));
                    live.push(new);
                }
            }
        }
    }
    log
}

/// The texts of a row's columns, without tick and diff.
type Row = Vec<String>;

fn row_text(batch: &RecordBatch, row: usize) -> Row {
    let text = |column: &ArrayRef| match column.data_type() {
        _ if column.is_null(row) => "-".to_owned(),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        _ => column.as_primitive::<Int64Type>().value(row).to_string(),
    };
    let is_own = |name: &str| name != columns::TICK && name != columns::DIFF;
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).filter(|(field, _)| is_own(field.name()));
    columns.map(|(_, column)| text(column)).collect()
}

/// The rows of each output, with tick and diff, of a run whose batches are cut at random.
fn run(log: &Log, config: &QuorumConfig, chance: &mut Chance) -> [Vec<(Tick, Row, i64)>; 3] {
    let mut quorum = Quorum::new(config.clone());
    let mut emitted: [Vec<(Tick, Row, i64)>; 3] = Default::default();
    let mut rest = &log[..];
    while !rest.is_empty() {
        let mut count = 1 + chance.below(20.min(rest.len() as u64)) as usize;
        while count < rest.len() && rest[count].0 == rest[count - 1].0 {
            count += 1; // All rows of a tick come in one batch.
        }
        let (now, later) = rest.split_at(count);
        let upper = now[now.len() - 1].0.next();
        let outputs = quorum.advance(&batches(now, config.declaration.is_some()), upper);
        for (batch, emitted) in outputs.iter().zip(&mut emitted) {
            let diffs = batch.column_by_name(columns::DIFF);
            for (row, tick) in batch.column(0).as_primitive::<columns::TickType>().values().iter().enumerate()
            {
                let diff = diffs.map_or(1, |diffs| diffs.as_primitive::<Int64Type>().value(row));
                emitted.push((Tick(*tick), row_text(batch, row), diff));
            }
        }
        rest = later;
    }
    emitted
}

fn accumulated(changes: &[(Tick, Row, i64)], at: Tick) -> BTreeSet<Row> {
    let mut sums: BTreeMap<&Row, i64> = BTreeMap::new();
    for (_, row, diff) in changes.iter().filter(|(tick, ..)| *tick <= at) {
        *sums.entry(row).or_default() += diff;
    }
    assert!(
        sums.values().all(|sum| (0..=1).contains(sum)),
        "at {at}: a row is present once or not at all: {sums:?}"
    );
    sums.into_iter().filter(|(_, sum)| *sum == 1).map(|(row, _)| row.clone()).collect()
}

/// The slow, obvious version: all events up to a tick, from the beginning.
struct Scan {
    evidence: Vec<(Tick, Evidence)>,
    ever: BTreeMap<(i64, String), (bool, Tick)>,
    declared: BTreeMap<i64, (Requirement, String)>,
    titles: BTreeMap<i64, String>,
    families: BTreeMap<String, Family>,
    claims: BTreeSet<i64>,
    last_change: BTreeMap<i64, Tick>,
}

fn scan(log: &Log, at: Tick, is_changelog: bool) -> Scan {
    let mut scan = Scan {
        evidence: Vec::new(),
        ever: BTreeMap::new(),
        declared: BTreeMap::new(),
        titles: BTreeMap::new(),
        families: BTreeMap::new(),
        claims: BTreeSet::new(),
        last_change: BTreeMap::new(),
    };
    for (tick, event) in log.iter().filter(|(tick, _)| *tick <= at) {
        match event {
            Event::Evidence(evidence, diff) => {
                scan.claims.insert(evidence.claim);
                scan.last_change.insert(evidence.claim, *tick);
                if *diff > 0 || !is_changelog {
                    scan.evidence.push((*tick, evidence.clone()));
                } else {
                    let index =
                        scan.evidence.iter().position(|(_, other)| other == evidence).expect("it was added");
                    scan.evidence.remove(index);
                }
                let is_expired = evidence.expires <= tick.micros();
                // If several pieces end in one tick, the last one gives the reason.
                scan.ever.insert((evidence.claim, evidence.stream.clone()), (is_expired, *tick));
            }
            Event::Declaration(claim, requirement, title, 1) => {
                scan.claims.insert(*claim);
                scan.last_change.insert(*claim, *tick);
                scan.declared.insert(*claim, (*requirement, title.clone()));
                scan.titles.insert(*claim, title.clone());
            }
            Event::Declaration(claim, ..) => {
                scan.declared.remove(claim);
            }
            Event::Family(family, 1) => {
                scan.families.insert(family.0.clone(), family.clone());
            }
            Event::Family((stream, ..), _) => {
                scan.families.remove(stream);
            }
        }
    }
    scan
}

impl Scan {
    fn family_of(&self, stream: &str) -> Option<String> {
        self.families.get(stream).and_then(|(_, family, ..)| family.clone())
    }

    fn suspected_group_of(&self, stream: &str) -> Option<String> {
        self.families.get(stream).and_then(|(_, _, suspected, _)| suspected.clone())
    }

    fn weight_of(&self, stream: &str) -> i64 {
        self.families.get(stream).map_or(1_000, |(.., weight)| *weight)
    }

    /// The newest valid evidence of each stream for a claim.
    fn newest(&self, claim: i64) -> BTreeMap<&str, &Evidence> {
        let mut newest: BTreeMap<&str, (i64, Tick, usize, &Evidence)> = BTreeMap::new();
        for (index, (tick, evidence)) in
            self.evidence.iter().enumerate().filter(|(_, (_, e))| e.claim == claim)
        {
            let this = (evidence.time.min(tick.micros()), *tick, index, evidence);
            let other = newest.entry(&evidence.stream).or_insert(this);
            if (this.0, this.1, this.2) > (other.0, other.1, other.2) {
                *other = this;
            }
        }
        newest.into_iter().map(|(s, (.., e))| (s, e)).collect()
    }

    /// The votes: one of each family and of each stream without a family; and the streams of
    /// divided families.
    fn votes<'a>(&self, newest: &BTreeMap<&str, &'a Evidence>) -> (Vec<&'a Evidence>, BTreeSet<&'a str>) {
        let mut voices: BTreeMap<String, Vec<&Evidence>> = BTreeMap::new();
        for (stream, evidence) in newest.iter().filter(|(_, e)| e.is_eligible && e.value.is_some()) {
            let family = self.family_of(stream);
            let name = family.map_or(format!("alone {stream}"), |family| format!("family {family}"));
            voices.entry(name).or_default().push(*evidence);
        }
        let (mut votes, mut divided) = (Vec::new(), BTreeSet::new());
        for members in voices.values() {
            let count = |value: Option<i64>| members.iter().filter(|e| e.value == value).count();
            let values: BTreeSet<Option<i64>> = members.iter().map(|e| e.value).collect();
            let most = values.iter().map(|value| count(*value)).max().unwrap();
            let best: Vec<Option<i64>> = values.into_iter().filter(|value| count(*value) == most).collect();
            let [best] = best[..] else {
                divided.extend(members.iter().map(|e| e.stream.as_str()));
                continue;
            };
            let spokesperson =
                members.iter().filter(|e| e.value == best).min_by_key(|e| (!e.out_of_band, &e.stream));
            votes.push(*spokesperson.unwrap());
        }
        (votes, divided)
    }

    /// The number of correlation groups. Streams with the same declared or suspected group are in
    /// one group: starting with one group each, groups are joined until nothing changes.
    fn count_groups(&self, votes: &[&Evidence]) -> u32 {
        let declared = |e: &Evidence| e.group.clone().unwrap_or(format!("alone {}", e.stream));
        let is_one_group = |a: &Evidence, b: &Evidence| {
            let [one, other] = [a, b].map(|e| self.suspected_group_of(&e.stream));
            declared(a) == declared(b) || (one.is_some() && one == other)
        };
        let mut groups: Vec<Vec<&Evidence>> = votes.iter().map(|e| vec![*e]).collect();
        'again: loop {
            for one in 0..groups.len() {
                for other in 0..one {
                    if groups[one].iter().any(|a| groups[other].iter().any(|b| is_one_group(a, b))) {
                        let joined = groups.remove(one);
                        groups[other].extend(joined);
                        continue 'again;
                    }
                }
            }
            return groups.len() as u32;
        }
    }

    /// Whether the quorum holds with these agreeing votes, by its definition; `second` is the
    /// greatest weight of another value.
    fn holds(&self, agreeing: &[&Evidence], second: i64, requirement: Requirement) -> bool {
        agreeing.len() as u32 >= requirement.k
            && agreeing.iter().map(|e| self.weight_of(&e.stream)).sum::<i64>() > second
            && self.count_groups(agreeing) >= requirement.groups
            && (!requirement.out_of_band || agreeing.iter().any(|e| e.out_of_band))
    }

    /// The margin by trying all subsets: how few of the agreeing votes break the quorum when they
    /// go.
    fn margin(&self, agreeing: &[&Evidence], second: i64, requirement: Requirement) -> usize {
        let subsets = 0..1u32 << agreeing.len();
        let broken = subsets.filter_map(|left| {
            let remaining = (0..agreeing.len()).filter(|index| left >> index & 1 == 1);
            let left: Vec<&Evidence> = remaining.map(|index| agreeing[index]).collect();
            (!self.holds(&left, second, requirement)).then_some(agreeing.len() - left.len())
        });
        broken.min().expect("no quorum holds without votes")
    }

    /// Whether the agreeing streams that copy detection has examined hold the quorum by themselves,
    /// with each suspected group counted once.
    fn holds_without_copies(&self, agreeing: &[&Evidence], requirement: Requirement) -> bool {
        let examined: Vec<&Evidence> =
            agreeing.iter().filter(|e| self.families.contains_key(&e.stream)).copied().collect();
        let voices = examined.iter().map(|e| {
            let suspected = self.suspected_group_of(&e.stream);
            suspected.map_or(format!("alone {}", e.stream), |group| format!("group {group}"))
        });
        voices.collect::<BTreeSet<String>>().len() as u32 >= requirement.k
            && self.count_groups(&examined) >= requirement.groups
            && (!requirement.out_of_band || examined.iter().any(|e| e.out_of_band))
    }

    /// The claim's row without value and status at the last evidence, and the rows of its votes.
    fn evaluate(
        &self,
        claim: i64,
        with_declarations: bool,
        default_requirement: Option<Requirement>,
    ) -> (Row, BTreeSet<Row>) {
        let newest = self.newest(claim);
        let (votes, divided) = self.votes(&newest);
        let mut sums: BTreeMap<i64, i64> = BTreeMap::new();
        for vote in &votes {
            *sums.entry(vote.value.unwrap()).or_default() += self.weight_of(&vote.stream);
        }
        let leader =
            sums.iter().max_by_key(|(value, sum)| (**sum, std::cmp::Reverse(**value))).map(|(v, _)| *v);
        let is_tied = leader.is_some_and(|of| sums.values().filter(|sum| **sum == sums[&of]).count() > 1);
        let second = sums.iter().filter(|(value, _)| Some(**value) != leader).map(|(_, sum)| *sum).max();
        let second = second.unwrap_or(0);
        let agreeing: Vec<&Evidence> = votes.iter().filter(|vote| vote.value == leader).copied().collect();
        let requirement = self.declared.get(&claim).map(|(own, _)| *own).or(default_requirement);
        let requirement = requirement.filter(|of| of.n > 0 && of.k > 0 && of.groups > 0);
        let held = requirement.filter(|of| !is_tied && self.holds(&agreeing, second, *of));
        let margin = held.map_or(0, |of| self.margin(&agreeing, second, of));
        let groups = self.count_groups(&agreeing);
        let reason = match requirement {
            None => "UNDECLARED",
            Some(_) if votes.is_empty() => "NO_EVIDENCE",
            Some(_) if is_tied => "TIED",
            Some(of) if (agreeing.len() as u32) < of.k => "VOTES",
            Some(of) if groups < of.groups => "GROUPS",
            Some(of) if of.out_of_band && !agreeing.iter().any(|e| e.out_of_band) => "OUT_OF_BAND",
            Some(of) if (votes.len() as u32) < of.n => "STREAMS",
            Some(of) if !self.holds_without_copies(&agreeing, of) => "FAMILIES_UNKNOWN",
            Some(_) => "-",
        };
        let status = match (margin, reason) {
            (0, _) => "UNKNOWN",
            (_, "-") => "VERIFIED",
            _ => "DEGRADED",
        };
        let mut head = vec![claim.to_string()];
        if with_declarations {
            head.push(text(self.titles.get(&claim)));
        }
        let of_families = agreeing.iter().filter(|e| self.family_of(&e.stream).is_some()).count();
        let mut row = head.clone();
        row.extend([text(leader), status.to_owned(), reason.to_owned(), margin.to_string()]);
        let numbers = [newest.len(), votes.len(), agreeing.len(), groups as usize, of_families];
        row.extend(numbers.map(|number| number.to_string()));
        let mut vote_rows = BTreeSet::new();
        for ((_, stream), (is_expired, _)) in self.ever.iter().filter(|((of, _), _)| *of == claim) {
            let evidence = newest.get(stream.as_str());
            let reason = match evidence {
                None if *is_expired => "EXPIRED",
                None => "WITHDRAWN",
                Some(e) if !e.is_eligible => "STATUS",
                Some(e) if e.value.is_none() => "NO_VALUE",
                Some(e) if divided.contains(e.stream.as_str()) => "DIVIDED",
                Some(e) if !votes.contains(e) => "FAMILY",
                Some(e) if e.value == leader => "-",
                Some(_) => "DISAGREES",
            };
            let mut row = head.clone();
            row.push(stream.clone());
            row.push(text(evidence.and_then(|e| e.value)));
            row.push(text(evidence.and_then(|e| e.group.clone())));
            row.push(text(self.family_of(stream)));
            row.push(text(self.suspected_group_of(stream)));
            row.push(reason.to_owned());
            vote_rows.insert(row);
        }
        (row, vote_rows)
    }
}

/// The text of a cell; `-` for null.
fn text(cell: Option<impl ToString>) -> String {
    cell.map_or("-".to_owned(), |cell| cell.to_string())
}

fn equals_its_slow_version(with_declarations: bool, is_changelog: bool) {
    let config = config(with_declarations, is_changelog);
    for seed in 0..25 {
        let log = log(seed, with_declarations, is_changelog);
        let [claims, flips, votes] = run(&log, &config, &mut Chance(seed + 1_000));
        assert!(claims.is_sorted_by_key(|(tick, ..)| *tick), "seed {seed}");
        let ticks: BTreeSet<Tick> = log.iter().map(|(tick, _)| *tick).collect();
        let mut last_change: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        let mut before: BTreeMap<i64, (String, String)> = BTreeMap::new();
        let mut flipped = Vec::new();
        let value_at = config.claim_fields.len();
        for at in ticks {
            let scan = scan(&log, at, is_changelog);
            let (mut rows, mut vote_rows) = (BTreeSet::new(), BTreeSet::new());
            for claim in &scan.claims {
                let (mut row, votes) = scan.evaluate(*claim, with_declarations, config.default_requirement);
                let (value, status) = (row[value_at].clone(), row[value_at + 1].clone());
                if scan.last_change[claim] == at {
                    last_change.insert(*claim, vec![value.clone(), status.clone()]);
                }
                row.extend(last_change[claim].clone());
                let unknown = ("-".to_owned(), "UNKNOWN".to_owned());
                let (old_value, old) =
                    before.insert(*claim, (value.clone(), status.clone())).unwrap_or(unknown);
                if old != status || (status != "UNKNOWN" && old_value != value) {
                    flipped.push((at, *claim, old, status));
                }
                rows.insert(row);
                vote_rows.extend(votes);
            }
            assert_eq!(accumulated(&claims, at), rows, "seed {seed}, claims at {at}");
            assert_eq!(accumulated(&votes, at), vote_rows, "seed {seed}, votes at {at}");
        }
        let mut flips: Vec<(Tick, i64, String, String)> = flips
            .into_iter()
            .map(|(tick, row, _)| {
                let claim = row[0].parse().expect("a claim");
                (tick, claim, row[value_at + 1].clone(), row[value_at + 3].clone())
            })
            .collect();
        flips.sort();
        assert_eq!(flips, flipped, "seed {seed}");
        assert!(!flips.is_empty(), "seed {seed}: nothing was tested");
    }
}

#[test]
fn claims_over_a_changelog_equal_a_scan_at_every_tick() {
    equals_its_slow_version(false, true);
}

#[test]
fn claims_with_declarations_equal_a_scan_at_every_tick() {
    equals_its_slow_version(true, true);
}

#[test]
fn claims_over_facts_equal_a_scan_at_every_tick() {
    equals_its_slow_version(false, false);
}

/// Evaluates one claim: reports of (stream, value, time), copy families of (stream, family), and
/// the declaration (`n`, `k`, groups; out of band), whose settings may be missing. Gives the
/// claim's last row and its votes.
fn evaluate_reports(
    reports: &[(&str, i64, i64)],
    families: &[(&str, &str)],
    declared: [Option<i64>; 3],
    out_of_band: Option<bool>,
) -> (Row, Vec<Row>) {
    let tick = Tick::new(1_000_000, 0).expect("in range");
    let mut log: Log = Vec::new();
    for (stream, family) in families {
        let family = (*family != "-").then(|| (*family).to_owned());
        log.push((tick, Event::Family(((*stream).to_owned(), family, None, 1_000), 1)));
    }
    for (index, (stream, value, time)) in reports.iter().enumerate() {
        let evidence = Evidence {
            claim: 1,
            stream: (*stream).to_owned(),
            value: Some(*value),
            time: *time,
            group: None,
            out_of_band: false,
            is_eligible: true,
            expires: 2_000_000,
        };
        log.push((Tick::new(1_000_001 + index as i64, 0).expect("in range"), Event::Evidence(evidence, 1)));
    }
    let mut config = config(true, true);
    config.families = config.families.filter(|_| !families.is_empty());
    let mut batches = batches(&log, true);
    let ones: Vec<ArrayRef> = vec![
        Arc::new(columns::TickArray::from(vec![tick.0])),
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(Int64Array::from(vec![declared[0]])),
        Arc::new(Int64Array::from(vec![declared[1]])),
        Arc::new(Int64Array::from(vec![declared[2]])),
        Arc::new(BooleanArray::from(vec![out_of_band])),
        Arc::new(StringArray::from(vec!["pump"])),
        Arc::new(Int64Array::from(vec![1])),
    ];
    batches[1] = RecordBatch::try_new(batches[1].schema(), ones).expect("the columns are the schema's");
    batches.truncate(2 + usize::from(!families.is_empty()));
    let upper = Tick::new(1_500_000, 0).expect("in range");
    let outputs = Quorum::new(config).advance(&batches, upper);
    let last = outputs[0].num_rows() - 1;
    let votes = &outputs[2];
    let diffs = votes.column_by_name(columns::DIFF).expect("a changelog").as_primitive::<Int64Type>();
    let mut vote_rows: Vec<Row> = Vec::new();
    for row in 0..votes.num_rows() {
        let vote = row_text(votes, row);
        if diffs.value(row) > 0 { vote_rows.push(vote) } else { vote_rows.retain(|other| *other != vote) }
    }
    (row_text(&outputs[0], last), vote_rows)
}

/// Value, status, reason and margin of a claim.
fn outcome(row: &Row) -> [&str; 4] {
    [2, 3, 4, 5].map(|index| row[index].as_str())
}

const TWO_OF_THREE: [Option<i64>; 3] = [Some(3), Some(2), Some(1)];

#[test]
fn opposition_counts_in_the_margin() {
    let reports = [("a", 7, 1), ("b", 7, 1), ("c", 7, 1), ("x", 8, 1), ("y", 8, 1)];
    let (row, _) = evaluate_reports(&reports, &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "1"], "without one of the three votes it is a tie");
    let (row, _) = evaluate_reports(&reports[..4], &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "2"]);
}

#[test]
fn an_incomplete_declaration_verifies_nothing() {
    let reports = [("a", 7, 1), ("b", 7, 1), ("c", 7, 1)];
    for index in 0..3 {
        for wrong in [None, Some(0), Some(-1), Some(i64::MIN)] {
            let mut declared = TWO_OF_THREE;
            declared[index] = wrong;
            let (row, _) = evaluate_reports(&reports, &[], declared, Some(false));
            assert_eq!(outcome(&row), ["7", "UNKNOWN", "UNDECLARED", "0"], "{declared:?}");
        }
    }
    let (row, _) = evaluate_reports(&reports, &[], TWO_OF_THREE, None);
    assert_eq!(outcome(&row)[1..3], ["UNKNOWN", "UNDECLARED"]);
    let (row, _) = evaluate_reports(&reports, &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row)[1..3], ["VERIFIED", "-"]);
}

#[test]
fn one_report_from_the_future_does_not_speak_for_its_stream_for_ever() {
    let reports = [("a", 8, 900_000_000), ("b", 7, 1), ("a", 7, 1_000_003)];
    let (row, _) = evaluate_reports(&reports, &[], [Some(2), Some(2), Some(1)], Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "1"]);
}

#[test]
fn a_divided_family_abstains() {
    let reports = [("h", 7, 1), ("mirror", 0, 1), ("own", 7, 1), ("z", 0, 1)];
    let families = [("h", "h"), ("mirror", "h"), ("own", "-"), ("z", "-")];
    let (row, votes) = evaluate_reports(&reports, &families, [Some(2), Some(2), Some(1)], Some(false));
    assert_eq!(outcome(&row)[1..], ["UNKNOWN", "TIED", "0"]);
    let reasons: Vec<(&str, &str)> = votes.iter().map(|row| (row[2].as_str(), row[7].as_str())).collect();
    assert!(reasons.contains(&("h", "DIVIDED")) && reasons.contains(&("mirror", "DIVIDED")), "{reasons:?}");
}

#[test]
fn streams_that_copy_detection_has_not_examined_verify_nothing() {
    let reports = [("a", 7, 1), ("b", 7, 1), ("c", 7, 1)];
    let (row, _) = evaluate_reports(&reports, &[("a", "-")], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "DEGRADED", "FAMILIES_UNKNOWN", "2"]);
    let (row, _) = evaluate_reports(&reports, &[("a", "-"), ("c", "-")], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "2"]);
}

#[test]
fn a_stream_without_a_name_does_not_vote() {
    let (row, votes) =
        evaluate_reports(&[("a", 7, 1), ("", 7, 1), (" ", 7, 1)], &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row)[1..3], ["UNKNOWN", "VOTES"]);
    assert_eq!(votes.len(), 1);
}
