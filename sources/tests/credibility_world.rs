//! The credibility world has the size, the structure and the incidents that its documentation
//! states.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};

use tidegate_sources::{
    Body, Chunk, CredibilityWorldConfig, CredibilityWorldSource, CredibilityWorldStream, Source, SourceError,
};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

fn small() -> CredibilityWorldConfig {
    CredibilityWorldConfig { seed: 7, percent: 5, hours: 24, ..CredibilityWorldConfig::default() }
}

fn read(
    config: CredibilityWorldConfig,
    stream: CredibilityWorldStream,
    from: u64,
    batch_rows: usize,
) -> RecordBatch {
    let mut source = CredibilityWorldSource::new(config, stream, from, batch_rows).unwrap();
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

fn texts_of<'a>(batch: &'a RecordBatch, column: &str) -> Vec<&'a str> {
    batch.column_by_name(column).unwrap().as_string::<i32>().iter().flatten().collect()
}

fn times_of<'a>(batch: &'a RecordBatch, column: &str) -> &'a [i64] {
    batch.column_by_name(column).unwrap().as_primitive::<TimestampMicrosecondType>().values()
}

const STREAMS: [CredibilityWorldStream; 4] = [
    CredibilityWorldStream::Claims,
    CredibilityWorldStream::Sources,
    CredibilityWorldStream::Evidence,
    CredibilityWorldStream::Beacons,
];

#[test]
fn the_same_seed_gives_the_same_bytes_for_all_batch_sizes_and_positions() {
    for stream in STREAMS {
        let whole = read(small(), stream, 0, 1_000_000);
        assert_eq!(whole, read(small(), stream, 0, 777));
        for from in [1, whole.num_rows() / 2, whole.num_rows()] {
            let rest = read(small(), stream, from as u64, 1000);
            assert_eq!(rest, whole.slice(from, whole.num_rows() - from));
        }
        let records = whole.num_rows() as u64;
        let short = CredibilityWorldSource::new(small(), stream, records + 1, 10).err().unwrap();
        assert!(matches!(short, SourceError::Short { records: found, .. } if found == records));
    }
    let other = CredibilityWorldConfig { seed: 8, ..small() };
    let evidence = CredibilityWorldStream::Evidence;
    assert_ne!(read(other, evidence, 0, 1_000_000), read(small(), evidence, 0, 1_000_000));
}

/// The whole world in its first hour, in which every stream reports.
fn beginning() -> CredibilityWorldConfig {
    CredibilityWorldConfig { hours: 1, ..CredibilityWorldConfig::default() }
}

#[test]
fn a_whole_world_has_36_000_nodes() {
    let count = |stream| read(beginning(), stream, 0, 100_000).num_rows();
    let evidence = read(beginning(), CredibilityWorldStream::Evidence, 0, 100_000);
    let streams: BTreeSet<&str> = texts_of(&evidence, "stream_id").into_iter().collect();
    // Two reports of each stream are alive, and there are 14 sync nodes.
    let nodes = count(CredibilityWorldStream::Claims)
        + count(CredibilityWorldStream::Sources)
        + 2 * streams.len()
        + 14;
    assert_eq!(nodes, 36_000);
    let claims = read(beginning(), CredibilityWorldStream::Claims, 0, 100_000);
    let share = |region: &str| {
        texts_of(&claims, "region").iter().filter(|other| **other == region).count() as f64
            / claims.num_rows() as f64
    };
    assert!((share("east") - 0.33).abs() < 0.03 && (share("west") - 0.28).abs() < 0.03);
}

#[test]
fn the_sources_of_a_claim_have_different_groups_and_two_of_tier_0_are_out_of_band() {
    let evidence = read(beginning(), CredibilityWorldStream::Evidence, 0, 100_000);
    let sources = read(beginning(), CredibilityWorldStream::Sources, 0, 100_000);
    let groups: BTreeMap<&str, &str> =
        texts_of(&sources, "source_id").into_iter().zip(texts_of(&sources, "correlation_group")).collect();
    let tiers = evidence.column_by_name("tier").unwrap().as_primitive::<Int32Type>().values();
    let out_of_band = evidence.column_by_name("out_of_band").unwrap().as_boolean();
    type Names<'a> = BTreeSet<&'a str>;
    let mut claims: BTreeMap<&str, (i32, Names, Names, Names)> = BTreeMap::new();
    let ids = texts_of(&evidence, "claim_id").into_iter().zip(texts_of(&evidence, "source_id"));
    for (row, (claim, source)) in ids.enumerate() {
        assert_eq!(groups[source], texts_of(&evidence.slice(row, 1), "correlation_group")[0]);
        let entry = claims.entry(claim).or_default();
        entry.0 = tiers[row];
        entry.1.insert(source);
        entry.2.insert(groups[source]);
        if out_of_band.value(row) {
            entry.3.insert(source);
        }
    }
    assert_eq!(claims.len(), 4000);
    let mut hidden = 0;
    for (claim, (tier, sources, groups, out_of_band)) in claims {
        assert_eq!(sources.len(), [5, 4, 3, 3][tier as usize], "{claim}");
        assert!(tier > 0 || out_of_band.len() >= 2, "{claim}");
        // The claims with a hidden common cause have three sources of one group.
        hidden += usize::from(groups.len() < sources.len());
        assert!(groups.len() == sources.len() || (tier == 0 && groups.len() == 3), "{claim}");
    }
    assert_eq!(hidden, 18);
}

#[test]
fn reports_arrive_in_order_after_observation_and_in_time_to_refresh_each_other() {
    let config = CredibilityWorldConfig { incidents: false, ..small() };
    let evidence = read(config, CredibilityWorldStream::Evidence, 0, 10_000);
    let (event, ingest) = (times_of(&evidence, "event_time"), times_of(&evidence, "ingest_time"));
    assert!(ingest.is_sorted());
    assert!(event.iter().zip(ingest).all(|(event, ingest)| event < ingest));
    let ids: BTreeSet<&str> = texts_of(&evidence, "evidence_id").into_iter().collect();
    assert_eq!(ids.len(), evidence.num_rows());
    let ttls = evidence.column_by_name("ttl_s").unwrap().as_primitive::<Int32Type>();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    let mut events: Vec<(i64, &str, i64)> = event
        .iter()
        .zip(texts_of(&evidence, "stream_id"))
        .zip(ttls.values())
        .map(|((event, stream), ttl)| (*event, stream, i64::from(*ttl) * SECOND))
        .collect();
    events.sort();
    for (event, stream, ttl) in events {
        if let Some(before) = last.insert(stream, event) {
            assert!(event - before < ttl, "{stream} expired");
        }
    }
}

#[test]
fn the_evidence_of_a_cascade_expires_together_and_most_of_it_returns() {
    let config = CredibilityWorldConfig { hours: 21, ..CredibilityWorldConfig::default() };
    let evidence = read(config.clone(), CredibilityWorldStream::Evidence, 0, 100_000);
    let tiers = evidence.column_by_name("tier").unwrap().as_primitive::<Int32Type>().values();
    let mut reports: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let streams = texts_of(&evidence, "stream_id").into_iter().zip(times_of(&evidence, "event_time"));
    for ((stream, event), _) in streams.zip(tiers).filter(|(_, tier)| **tier == 1) {
        reports.entry(stream).or_default().push((event - config.start) / MINUTE);
    }
    let mut returned = Vec::new();
    for (stream, mut minutes) in reports {
        minutes.sort();
        let gap = minutes.windows(2).find(|pair| pair[1] - pair[0] > 60);
        if let Some(gap) = gap {
            assert_eq!(gap[0], 17 * 60, "{stream}");
            returned.push(gap[1]);
        }
    }
    assert_eq!(returned.len(), 1040);
    assert_eq!(returned.iter().filter(|minute| **minute < 18 * 60 + 15).count(), 980);
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |config: CredibilityWorldConfig| match CredibilityWorldSource::new(
        config,
        CredibilityWorldStream::Claims,
        0,
        1,
    ) {
        Err(SourceError::World { setting, .. }) => setting,
        _ => "nothing",
    };
    assert_eq!(refused(CredibilityWorldConfig { percent: 0, ..small() }), "percent");
    assert_eq!(refused(CredibilityWorldConfig { hours: 0, ..small() }), "hours");
    assert_eq!(refused(CredibilityWorldConfig { start: -1, ..small() }), "start");
    assert_eq!(refused(CredibilityWorldConfig { start: i64::MAX, ..small() }), "start");
    assert_eq!(refused(CredibilityWorldConfig { percent: 1, ..small() }), "nothing");
}
