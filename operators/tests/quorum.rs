//! `quorum` beside its slow, obvious version: at every tick, what a scan of all evidence makes of a claim is its row.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt64Type};
use chance::Chance;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Tick, columns};
use tidegate_operators::ordered::Ordered;
use tidegate_operators::quorum::{Declared, Evidences, Memberships, Need, Quorum, Shape};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Evidence {
    claim: i64,
    stream: String,
    value: Option<i64>,
    time: i64,
    group: Option<String>,
    out_of_band: bool,
    is_fit: bool,
    expires: i64,
}

/// Stream, family, kin, weight.
type Family = (String, Option<String>, Option<String>, i64);

#[derive(Clone, Debug)]
enum Event {
    Evidence(Evidence, i64),
    Declared(i64, Need, String, i64),
    Family(Family, i64),
}

type Log = Vec<(Tick, Event)>;

fn schema(fields: Vec<(&str, DataType)>) -> SchemaRef {
    let tick = Field::new(columns::TICK, DataType::UInt64, false);
    let fields = fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new([tick].into_iter().chain(fields).collect::<Vec<_>>()))
}

fn shape(with_declarations: bool, is_changelog: bool) -> Shape {
    Shape {
        evidence: Evidences {
            claim: 1,
            stream: 2,
            value: 3,
            time: 4,
            group: Some(5),
            out_of_band: Some(6),
            is_fit: Some(7),
            expires: Some(8),
            diff: is_changelog.then_some(9),
            kept: vec![1],
        },
        declared: with_declarations.then(|| Declared {
            claim: 1,
            numbers: [2, 3, 4],
            out_of_band: 5,
            diff: Some(7),
            kept: vec![1, 6],
        }),
        families: Some(Memberships { stream: 1, family: 2, kin: 3, weight: 4, diff: 5 }),
        need: (!with_declarations).then_some(Need { n: 3, k: 2, groups: 2, out_of_band: false }),
        tells_votes: true,
        claim: if with_declarations {
            vec![Field::new("claim", DataType::Int64, true), Field::new("title", DataType::Utf8, true)]
        } else {
            vec![Field::new("claim", DataType::Int64, true)]
        },
        types: [DataType::Int64, DataType::Utf8, DataType::Utf8],
    }
}

fn ticks(log: &[(Tick, &Event)]) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(log.iter().map(|(tick, _)| tick.0)))
}

/// The batches of one interval: evidence, declarations, families.
fn batches(log: &[(Tick, Event)], with_declarations: bool) -> Vec<RecordBatch> {
    let of = |wanted: fn(&Event) -> bool| -> Vec<(Tick, &Event)> {
        log.iter().filter(|(_, event)| wanted(event)).map(|(tick, event)| (*tick, event)).collect()
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
        ("is_fit", DataType::Boolean),
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
        Arc::new(each().map(|(e, _)| Some(e.is_fit)).collect::<BooleanArray>()),
        times(|e| e.expires),
        Arc::new(each().map(|(_, diff)| Some(diff)).collect::<Int64Array>()),
    ];
    let mut batches =
        vec![RecordBatch::try_new(schema(fields), columns).expect("the columns are the schema's")];
    if with_declarations {
        let declared = of(|event| matches!(event, Event::Declared(..)));
        let each = || {
            declared.iter().map(|(_, event)| match event {
                Event::Declared(claim, need, title, diff) => (*claim, *need, title.as_str(), *diff),
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
            // What is 0 here is missing, 0 or less than that.
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
            Event::Family((stream, family, kin, weight), diff) => {
                (stream.as_str(), family.as_deref(), kin.as_deref(), *weight, *diff)
            }
            _ => unreachable!("only families were taken"),
        })
    };
    let fields = vec![
        ("stream", DataType::Utf8),
        ("family", DataType::Utf8),
        ("kin", DataType::Utf8),
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

/// A log by chance: evidence comes, is refreshed and ends; claims are declared, and declared anew; families come and go.
fn log(seed: u64, with_declarations: bool, is_changelog: bool) -> Log {
    let mut chance = Chance(seed);
    let (mut log, mut live): (Log, Vec<Evidence>) = (Vec::new(), Vec::new());
    let mut declared: BTreeMap<i64, (Need, String)> = BTreeMap::new();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut now = 1_000;
    for _ in 0..250 {
        now += 1 + chance.below(5) as i64;
        let tick = Tick::new(now, chance.below(3) as u16).expect("in range");
        for _ in 0..=chance.below(3) {
            let claim = chance.below(4) as i64;
            match chance.below(10) {
                0 if with_declarations => {
                    let need = Need {
                        n: (1 + chance.below(4) as u32) * u32::from(chance.below(12) > 0),
                        k: (1 + chance.below(3) as u32) * u32::from(chance.below(12) > 0),
                        groups: (1 + chance.below(3) as u32) * u32::from(chance.below(12) > 0),
                        out_of_band: chance.below(3) == 0,
                    };
                    let title = format!("claim {claim}, edition {}", chance.below(3));
                    if let Some((need, title)) = declared.insert(claim, (need, title.clone())) {
                        log.push((tick, Event::Declared(claim, need, title, -1)));
                    }
                    log.push((tick, Event::Declared(claim, need, title, 1)));
                }
                1 => {
                    let stream = format!("stream {}", chance.below(8));
                    if let Some(before) = families.remove(&stream) {
                        log.push((tick, Event::Family(before, -1)));
                    }
                    if chance.below(4) > 0 {
                        let family = (chance.below(4) > 0).then(|| format!("stream {}", chance.below(2)));
                        let kin = (chance.below(3) > 0).then(|| format!("stream {}", chance.below(3)));
                        let new = (stream.clone(), family, kin, 500 * (1 + chance.below(4) as i64));
                        log.push((tick, Event::Family(new.clone(), 1)));
                        families.insert(stream, new);
                    }
                }
                2..=4 if is_changelog && !live.is_empty() => {
                    let gone = live.swap_remove(chance.below(live.len() as u64) as usize);
                    log.push((tick, Event::Evidence(gone, -1)));
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
                        is_fit: chance.below(8) > 0,
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

/// What a row says: of a claim, or of a vote.
type Row = Vec<String>;

fn shown(batch: &RecordBatch, row: usize) -> Row {
    let text = |column: &ArrayRef| match column.data_type() {
        _ if column.is_null(row) => "-".to_owned(),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        _ => column.as_primitive::<Int64Type>().value(row).to_string(),
    };
    let is_told = |name: &str| name != columns::TICK && name != columns::DIFF;
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).filter(|(field, _)| is_told(field.name()));
    columns.map(|(_, column)| text(column)).collect()
}

/// The rows of each output, with tick and difference, of a run whose batches are cut by chance.
fn run(log: &Log, shape: &Shape, chance: &mut Chance) -> [Vec<(Tick, Row, i64)>; 3] {
    let mut quorum = Quorum::new(shape.clone());
    let mut said: [Vec<(Tick, Row, i64)>; 3] = Default::default();
    let mut rest = &log[..];
    while !rest.is_empty() {
        let mut many = 1 + chance.below(20.min(rest.len() as u64)) as usize;
        while many < rest.len() && rest[many].0 == rest[many - 1].0 {
            many += 1; // A tick is heard whole.
        }
        let (now, later) = rest.split_at(many);
        let upper = now[now.len() - 1].0.next();
        let given = quorum.advance(&batches(now, shape.declared.is_some()), upper);
        for (batch, said) in given.iter().zip(&mut said) {
            let diffs = batch.column_by_name(columns::DIFF);
            for (row, tick) in batch.column(0).as_primitive::<UInt64Type>().values().iter().enumerate() {
                let diff = diffs.map_or(1, |diffs| diffs.as_primitive::<Int64Type>().value(row));
                said.push((Tick(*tick), shown(batch, row), diff));
            }
        }
        rest = later;
    }
    said
}

fn accumulated(changes: &[(Tick, Row, i64)], at: Tick) -> BTreeSet<Row> {
    let mut sums: BTreeMap<&Row, i64> = BTreeMap::new();
    for (_, row, diff) in changes.iter().filter(|(tick, ..)| *tick <= at) {
        *sums.entry(row).or_default() += diff;
    }
    assert!(sums.values().all(|sum| (0..=1).contains(sum)), "at {at}: a row is there once or not: {sums:?}");
    sums.into_iter().filter(|(_, sum)| *sum == 1).map(|(row, _)| row.clone()).collect()
}

/// The slow, obvious version: everything that was said up to `at`, from the beginning.
struct Scan {
    evidence: Vec<(Tick, Evidence)>,
    ever: BTreeMap<(i64, String), (bool, Tick)>,
    declared: BTreeMap<i64, (Need, String)>,
    titles: BTreeMap<i64, String>,
    families: BTreeMap<String, Family>,
    claims: BTreeSet<i64>,
    heard: BTreeMap<i64, Tick>,
}

fn scan(log: &Log, at: Tick, is_changelog: bool) -> Scan {
    let mut scan = Scan {
        evidence: Vec::new(),
        ever: BTreeMap::new(),
        declared: BTreeMap::new(),
        titles: BTreeMap::new(),
        families: BTreeMap::new(),
        claims: BTreeSet::new(),
        heard: BTreeMap::new(),
    };
    for (tick, event) in log.iter().filter(|(tick, _)| *tick <= at) {
        match event {
            Event::Evidence(evidence, diff) => {
                scan.claims.insert(evidence.claim);
                scan.heard.insert(evidence.claim, *tick);
                if *diff > 0 || !is_changelog {
                    scan.evidence.push((*tick, evidence.clone()));
                } else {
                    let place =
                        scan.evidence.iter().position(|(_, other)| other == evidence).expect("it was said");
                    scan.evidence.remove(place);
                }
                let is_over = evidence.expires <= tick.micros();
                // Of what ended in one tick the one that ended last says why.
                scan.ever.insert((evidence.claim, evidence.stream.clone()), (is_over, *tick));
            }
            Event::Declared(claim, need, title, 1) => {
                scan.claims.insert(*claim);
                scan.heard.insert(*claim, *tick);
                scan.declared.insert(*claim, (*need, title.clone()));
                scan.titles.insert(*claim, title.clone());
            }
            Event::Declared(claim, ..) => {
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
    /// The claim's row without what was said when it was heard of, and the rows of its votes.
    fn judge(&self, claim: i64, with_declarations: bool, all: Option<Need>) -> (Row, BTreeSet<Row>) {
        let mut newest: BTreeMap<&str, (i64, Tick, usize, &Evidence)> = BTreeMap::new();
        for (place, (tick, evidence)) in
            self.evidence.iter().enumerate().filter(|(_, (_, e))| e.claim == claim)
        {
            let this = (evidence.time.min(tick.micros()), *tick, place, evidence);
            let other = newest.entry(&evidence.stream).or_insert(this);
            if (this.0, this.1, this.2) > (other.0, other.1, other.2) {
                *other = this;
            }
        }
        let newest: BTreeMap<&str, &Evidence> = newest.into_iter().map(|(s, (.., e))| (s, e)).collect();
        let family_of = |stream: &str| self.families.get(stream).and_then(|(_, family, ..)| family.clone());
        let weight_of = |stream: &str| self.families.get(stream).map_or(1_000, |(.., weight)| *weight);
        let may = |e: &Evidence| e.is_fit && e.value.is_some();
        // One voice a family, or a stream alone.
        let mut voices: BTreeMap<String, Vec<&Evidence>> = BTreeMap::new();
        for (stream, evidence) in newest.iter().filter(|(_, e)| may(e)) {
            let name =
                family_of(stream).map_or(format!("alone {stream}"), |family| format!("family {family}"));
            voices.entry(name).or_default().push(evidence);
        }
        let mut votes: Vec<&Evidence> = Vec::new();
        let mut divided: BTreeSet<&str> = BTreeSet::new();
        for members in voices.values() {
            let many = |value: Option<i64>| members.iter().filter(|e| e.value == value).count();
            let given: BTreeSet<Option<i64>> = members.iter().map(|e| e.value).collect();
            let most = given.iter().map(|value| many(*value)).max().unwrap();
            let best: Vec<Option<i64>> = given.into_iter().filter(|value| many(*value) == most).collect();
            let [best] = best[..] else {
                divided.extend(members.iter().map(|e| e.stream.as_str()));
                continue;
            };
            let speaker =
                members.iter().filter(|e| e.value == best).min_by_key(|e| (!e.out_of_band, &e.stream));
            votes.push(speaker.unwrap());
        }
        let mut sums: BTreeMap<i64, i64> = BTreeMap::new();
        for vote in &votes {
            *sums.entry(vote.value.unwrap()).or_default() += weight_of(&vote.stream);
        }
        let lead =
            sums.iter().max_by_key(|(value, sum)| (**sum, std::cmp::Reverse(**value))).map(|(v, _)| *v);
        let is_tied = lead.is_some_and(|lead| sums.values().filter(|sum| **sum == sums[&lead]).count() > 1);
        let agreeing: Vec<&&Evidence> = votes.iter().filter(|vote| vote.value == lead).collect();
        let kin_of = |stream: &str| self.families.get(stream).and_then(|(_, _, kin, _)| kin.clone());
        let group = |e: &Evidence| e.group.clone().unwrap_or(format!("alone {}", e.stream));
        // Whoever shares a declared group or kin is of one group: begin with one each, and join until nothing changes.
        let groups_of = |of: &[&&Evidence]| {
            let mut groups: Vec<Vec<&Evidence>> = of.iter().map(|e| vec![**e]).collect();
            let near = |a: &Evidence, b: &Evidence| {
                group(a) == group(b)
                    || (kin_of(&a.stream).is_some() && kin_of(&a.stream) == kin_of(&b.stream))
            };
            'again: loop {
                for one in 0..groups.len() {
                    for other in 0..one {
                        if groups[one].iter().any(|a| groups[other].iter().any(|b| near(a, b))) {
                            let joined = groups.remove(one);
                            groups[other].extend(joined);
                            continue 'again;
                        }
                    }
                }
                return groups.len() as u32;
            }
        };
        let need = self.declared.get(&claim).map(|(need, _)| *need).or(all);
        let need = need.filter(|need| need.n > 0 && need.k > 0 && need.groups > 0);
        let weigh = |of: &[&&Evidence]| of.iter().map(|e| weight_of(&e.stream)).sum::<i64>();
        let second = sums.iter().filter(|(value, _)| Some(**value) != lead).map(|(_, sum)| *sum).max();
        // A quorum by its definition, and its margin by trying: how many of those who agree can go, whichever they are.
        let holds = |of: &[&&Evidence], need: Need| {
            of.len() as u32 >= need.k
                && weigh(of) > second.unwrap_or(0)
                && groups_of(of) >= need.groups
                && (!need.out_of_band || of.iter().any(|e| e.out_of_band))
        };
        let margin = need.filter(|need| !is_tied && holds(&agreeing, *need)).map_or(0, |need| {
            let subsets = 0..1u32 << agreeing.len();
            let broken = subsets.filter_map(|left| {
                let left: Vec<&&Evidence> = agreeing
                    .iter()
                    .enumerate()
                    .filter(|(place, _)| left >> place & 1 == 1)
                    .map(|(_, e)| *e)
                    .collect();
                (!holds(&left, need)).then_some(agreeing.len() - left.len())
            });
            broken.min().expect("without anyone nothing holds")
        });
        let groups = groups_of(&agreeing);
        // Who agrees and was looked at: these must hold alone, whoever leads, and kin are one voice.
        let known: Vec<&&Evidence> =
            agreeing.iter().filter(|e| self.families.contains_key(&e.stream)).copied().collect();
        let voices: BTreeSet<String> = known
            .iter()
            .map(|e| kin_of(&e.stream).map_or(format!("alone {}", e.stream), |kin| format!("kin {kin}")))
            .collect();
        let is_vouched = |need: Need| {
            voices.len() as u32 >= need.k
                && groups_of(&known) >= need.groups
                && (!need.out_of_band || known.iter().any(|e| e.out_of_band))
        };
        let reason = match need {
            None => "UNDECLARED",
            Some(_) if votes.is_empty() => "NO_EVIDENCE",
            Some(_) if is_tied => "TIED",
            Some(need) if (agreeing.len() as u32) < need.k => "VOTES",
            Some(need) if groups < need.groups => "GROUPS",
            Some(need) if need.out_of_band && !agreeing.iter().any(|e| e.out_of_band) => "OUT_OF_BAND",
            Some(need) if (votes.len() as u32) < need.n => "STREAMS",
            Some(need) if !is_vouched(need) => "FAMILIES_UNKNOWN",
            Some(_) => "-",
        };
        let status = match (margin, reason) {
            (0, _) => "UNKNOWN",
            (_, "-") => "VERIFIED",
            _ => "DEGRADED",
        };
        let text = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
        let name = |text: Option<String>| text.unwrap_or("-".to_owned());
        let mut head = vec![claim.to_string()];
        if with_declarations {
            head.push(name(self.titles.get(&claim).cloned()));
        }
        let in_families = agreeing.iter().filter(|e| family_of(&e.stream).is_some()).count();
        let mut row = head.clone();
        row.extend([text(lead), status.to_owned(), reason.to_owned(), margin.to_string()]);
        let numbers = [newest.len(), votes.len(), agreeing.len(), groups as usize, in_families];
        row.extend(numbers.map(|number| number.to_string()));
        let mut told = BTreeSet::new();
        for ((_, stream), (is_over, _)) in self.ever.iter().filter(|((of, _), _)| *of == claim) {
            let evidence = newest.get(stream.as_str());
            let loss = match evidence {
                None if *is_over => "EXPIRED",
                None => "WITHDRAWN",
                Some(e) if !e.is_fit => "STATUS",
                Some(e) if e.value.is_none() => "NO_VALUE",
                Some(e) if divided.contains(e.stream.as_str()) => "DIVIDED",
                Some(e) if !votes.contains(e) => "FAMILY",
                Some(e) if e.value == lead => "-",
                Some(_) => "DISAGREES",
            };
            let mut row = head.clone();
            row.push(stream.clone());
            row.push(text(evidence.and_then(|e| e.value)));
            row.push(name(evidence.and_then(|e| e.group.clone())));
            row.push(name(family_of(stream)));
            row.push(name(kin_of(stream)));
            row.push(loss.to_owned());
            told.insert(row);
        }
        (row, told)
    }
}

fn equals_its_slow_version(with_declarations: bool, is_changelog: bool) {
    let shape = shape(with_declarations, is_changelog);
    for seed in 0..25 {
        let log = log(seed, with_declarations, is_changelog);
        let [claims, flips, votes] = run(&log, &shape, &mut Chance(seed + 1_000));
        assert!(claims.is_sorted_by_key(|(tick, ..)| *tick), "seed {seed}");
        let ticks: BTreeSet<Tick> = log.iter().map(|(tick, _)| *tick).collect();
        let mut heard: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        let mut before: BTreeMap<i64, (String, String)> = BTreeMap::new();
        let mut flipped = Vec::new();
        let value_at = shape.claim.len();
        for at in ticks {
            let scan = scan(&log, at, is_changelog);
            let (mut rows, mut told) = (BTreeSet::new(), BTreeSet::new());
            for claim in &scan.claims {
                let (mut row, votes) = scan.judge(*claim, with_declarations, shape.need);
                let (value, status) = (row[value_at].clone(), row[value_at + 1].clone());
                if scan.heard[claim] == at {
                    heard.insert(*claim, vec![value.clone(), status.clone()]);
                }
                row.extend(heard[claim].clone());
                let unknown = ("-".to_owned(), "UNKNOWN".to_owned());
                let (old_value, old) =
                    before.insert(*claim, (value.clone(), status.clone())).unwrap_or(unknown);
                if old != status || (status != "UNKNOWN" && old_value != value) {
                    flipped.push((at, *claim, old, status));
                }
                rows.insert(row);
                told.extend(votes);
            }
            assert_eq!(accumulated(&claims, at), rows, "seed {seed}, claims at {at}");
            assert_eq!(accumulated(&votes, at), told, "seed {seed}, votes at {at}");
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
fn claims_over_a_changelog_are_what_a_scan_says_at_every_tick() {
    equals_its_slow_version(false, true);
}

#[test]
fn claims_with_declarations_are_what_a_scan_says_at_every_tick() {
    equals_its_slow_version(true, true);
}

#[test]
fn claims_over_facts_are_what_a_scan_says_at_every_tick() {
    equals_its_slow_version(false, false);
}

/// A claim of one tick: who says what, under these declarations (`n`, `k`, groups, out of band), which may lack something.
fn judged(
    says: &[(&str, i64, i64)],
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
    for (place, (stream, value, time)) in says.iter().enumerate() {
        let evidence = Evidence {
            claim: 1,
            stream: (*stream).to_owned(),
            value: Some(*value),
            time: *time,
            group: None,
            out_of_band: false,
            is_fit: true,
            expires: 2_000_000,
        };
        log.push((Tick::new(1_000_001 + place as i64, 0).expect("in range"), Event::Evidence(evidence, 1)));
    }
    let mut shape = shape(true, true);
    shape.families = shape.families.filter(|_| !families.is_empty());
    let mut batches = batches(&log, true);
    let ones: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![tick.0])),
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
    let given = Quorum::new(shape).advance(&batches, upper);
    let last = given[0].num_rows() - 1;
    let votes = &given[2];
    let diffs = votes.column_by_name(columns::DIFF).expect("a changelog").as_primitive::<Int64Type>();
    let mut told: Vec<Row> = Vec::new();
    for row in 0..votes.num_rows() {
        let vote = shown(votes, row);
        if diffs.value(row) > 0 { told.push(vote) } else { told.retain(|other| *other != vote) }
    }
    (shown(&given[0], last), told)
}

/// Value, status, reason and margin of a claim.
fn outcome(row: &Row) -> [&str; 4] {
    [2, 3, 4, 5].map(|place| row[place].as_str())
}

const TWO_OF_THREE: [Option<i64>; 3] = [Some(3), Some(2), Some(1)];

#[test]
fn opposition_counts_in_the_margin() {
    let says = [("a", 7, 1), ("b", 7, 1), ("c", 7, 1), ("x", 8, 1), ("y", 8, 1)];
    let (row, _) = judged(&says, &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "1"], "without one of three it is a tie");
    let (row, _) = judged(&says[..4], &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "2"]);
}

#[test]
fn a_declaration_that_lacks_something_makes_nothing_true() {
    let says = [("a", 7, 1), ("b", 7, 1), ("c", 7, 1)];
    for place in 0..3 {
        for wrong in [None, Some(0), Some(-1), Some(i64::MIN)] {
            let mut declared = TWO_OF_THREE;
            declared[place] = wrong;
            let (row, _) = judged(&says, &[], declared, Some(false));
            assert_eq!(outcome(&row), ["7", "UNKNOWN", "UNDECLARED", "0"], "{declared:?}");
        }
    }
    let (row, _) = judged(&says, &[], TWO_OF_THREE, None);
    assert_eq!(outcome(&row)[1..3], ["UNKNOWN", "UNDECLARED"]);
    let (row, _) = judged(&says, &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row)[1..3], ["VERIFIED", "-"]);
}

#[test]
fn one_report_from_the_future_does_not_speak_for_its_stream_for_ever() {
    let says = [("a", 8, 900_000_000), ("b", 7, 1), ("a", 7, 1_000_003)];
    let (row, _) = judged(&says, &[], [Some(2), Some(2), Some(1)], Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "1"]);
}

#[test]
fn a_divided_family_abstains() {
    let says = [("h", 7, 1), ("mirror", 0, 1), ("own", 7, 1), ("z", 0, 1)];
    let families = [("h", "h"), ("mirror", "h"), ("own", "-"), ("z", "-")];
    let (row, votes) = judged(&says, &families, [Some(2), Some(2), Some(1)], Some(false));
    assert_eq!(outcome(&row)[1..], ["UNKNOWN", "TIED", "0"]);
    let losses: Vec<(&str, &str)> = votes.iter().map(|row| (row[2].as_str(), row[7].as_str())).collect();
    assert!(losses.contains(&("h", "DIVIDED")) && losses.contains(&("mirror", "DIVIDED")), "{losses:?}");
}

#[test]
fn who_was_never_looked_at_verifies_nothing_where_families_are_learned() {
    let says = [("a", 7, 1), ("b", 7, 1), ("c", 7, 1)];
    let (row, _) = judged(&says, &[("a", "-")], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "DEGRADED", "FAMILIES_UNKNOWN", "2"]);
    let (row, _) = judged(&says, &[("a", "-"), ("c", "-")], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row), ["7", "VERIFIED", "-", "2"]);
}

#[test]
fn a_stream_without_a_name_does_not_vote() {
    let (row, votes) = judged(&[("a", 7, 1), ("", 7, 1), (" ", 7, 1)], &[], TWO_OF_THREE, Some(false));
    assert_eq!(outcome(&row)[1..3], ["UNKNOWN", "VOTES"]);
    assert_eq!(votes.len(), 1);
}
