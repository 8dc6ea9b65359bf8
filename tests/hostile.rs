//! Ten thousand hostile records among good ones. Every record gets one receipt, every good one
//! becomes a fact, and every bad one is quarantined with its reason and its bytes.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use crate::harness;

/// A good envelope whose id is `id`.
fn good(id: &str, customer: usize) -> String {
    let time = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + customer as i64 * 1_000_000);
    format!(
        r#"{{"event_id":"{id}","event_type":"payment.v1","ts_utc":"{time}","manifest_fingerprint":"{a}","parameter_hash":"{b}","seed":7,"scenario_id":"s","run_id":"{c}","scenario_run_id":"{d}","platform_run_id":"platform_20260101T000000Z","payload":{{"transaction_id":"{customer}","customer_id":{customer},"terminal_id":3,"amount":"12.50"}}}}"#,
        a = "a".repeat(64),
        b = "b".repeat(64),
        c = "c".repeat(32),
        d = "d".repeat(32),
    )
}

/// A way to spoil a good record: its name, the reason of the refusal, and the change.
type Spoil = (&'static str, &'static str, fn(&str) -> Vec<u8>);

fn swap(line: &str, from: &str, to: &str) -> Vec<u8> {
    assert!(line.contains(from), "{from} is not in {line}");
    line.replacen(from, to, 1).into_bytes()
}

const SPOILS: [Spoil; 26] = [
    ("cut off", "ENVELOPE_INVALID", |l| l.as_bytes()[..l.len() - 7].to_vec()),
    ("not an object", "ENVELOPE_INVALID", |_| b"[1,2,3]".to_vec()),
    ("a word", "ENVELOPE_INVALID", |_| b"hello".to_vec()),
    ("NUL bytes", "ENVELOPE_INVALID", |_| vec![0; 64]),
    ("bad UTF-8", "ENVELOPE_INVALID", |l| {
        let mut bytes = l.as_bytes().to_vec();
        bytes[14] = 0xff;
        bytes
    }),
    ("lone surrogate", "ENVELOPE_INVALID", |l| swap(l, r#""event_id":""#, r#""event_id":"\ud800"#)),
    ("unknown field", "ENVELOPE_INVALID", |l| swap(l, "{", r#"{"extra":1,"#)),
    ("field twice", "ENVELOPE_INVALID", |l| swap(l, "{", r#"{"seed":7,"#)),
    ("no event id", "ENVELOPE_INVALID", |l| swap(l, r#""event_id""#, r#""parent_event_id""#)),
    ("time without fraction", "ENVELOPE_INVALID", |l| swap(l, ".000000Z", "Z")),
    ("impossible date", "ENVELOPE_INVALID", |l| swap(l, r#""ts_utc":"2026-"#, r#""ts_utc":"2026-13"#)),
    ("trailing text", "ENVELOPE_INVALID", |l| format!("{l} {l}").into_bytes()),
    ("payload is a list", "ENVELOPE_INVALID", |l| swap(l, r#""payload":{"#, r#""payload":[],"x":{"#)),
    ("deep", "ENVELOPE_INVALID", |l| {
        swap(
            l,
            r#""payload":{"#,
            &format!(r#""deep":{}1{},"payload":{{"#, "[".repeat(5000), "]".repeat(5000)),
        )
    }),
    ("no pins", "PINS_MISSING", |l| swap(l, r#""seed":7,"#, "")),
    ("unknown type", "SCHEMA_POLICY_MISSING", |l| swap(l, "payment.v1", "payment.v9")),
    ("wrong type", "SCHEMA_FAIL", |l| swap(l, r#""terminal_id":3"#, r#""terminal_id":"three""#)),
    ("fractional integer", "SCHEMA_FAIL", |l| swap(l, r#""terminal_id":3"#, r#""terminal_id":3.5"#)),
    ("integer overflow", "SCHEMA_FAIL", |l| swap(l, r#""terminal_id":3"#, r#""terminal_id":99999999999"#)),
    ("NaN", "ENVELOPE_INVALID", |l| swap(l, r#""terminal_id":3"#, r#""terminal_id":NaN"#)),
    ("too many digits", "SCHEMA_FAIL", |l| swap(l, "12.50", "12.505")),
    ("missing field", "SCHEMA_FAIL", |l| swap(l, r#","amount":"12.50""#, "")),
    ("payload field twice", "SCHEMA_FAIL", |l| {
        swap(l, r#""terminal_id":3"#, r#""terminal_id":3,"terminal_id":3"#)
    }),
    ("unknown payload field", "SCHEMA_FAIL", |l| {
        swap(l, r#""terminal_id":3"#, r#""terminal_id":3,"note":"x""#)
    }),
    ("ancient", "TIME_OUT_OF_RANGE", |l| swap(l, r#""ts_utc":"2026"#, r#""ts_utc":"1826"#)),
    ("far future", "TIME_OUT_OF_RANGE", |l| swap(l, r#""ts_utc":"2026"#, r#""ts_utc":"9026"#)),
];

#[test]
fn hostile_records_are_quarantined_and_good_ones_admitted() {
    let scratch = tempfile::tempdir().unwrap();
    let mut text: Vec<u8> = Vec::new();
    let mut records = 0u64;
    let mut put = |bytes: &[u8]| {
        text.extend_from_slice(bytes);
        text.push(b'\n');
        records += 1;
        records - 1
    };
    let mut expected: BTreeMap<u64, (&str, &str, Vec<u8>)> = BTreeMap::new();
    let (mut goods, mut duplicates) = (0u64, 0u64);
    for i in 0..10_000usize {
        let line = good(&format!("good-{i}"), i);
        put(line.as_bytes());
        goods += 1;
        let (name, reason, bytes) = match i % 30 {
            // The same record again is a duplicate; the same id with another payload is not.
            26 => {
                put(line.as_bytes());
                duplicates += 1;
                continue;
            }
            27 => ("other payload", "PAYLOAD_HASH_MISMATCH", swap(&line, "12.50", "13.00")),
            28 => ("huge", "RECORD_TOO_LARGE", swap(&line, "good-", &"x".repeat(40_000))),
            29 => ("huge and not JSON", "RECORD_TOO_LARGE", vec![b'{'; 30_000]),
            spoil => {
                let (name, reason, change) = SPOILS[spoil];
                (name, reason, change(&line.replace("good-", "bad-")))
            }
        };
        let position = put(&bytes);
        expected.insert(position, (name, reason, bytes));
    }
    let path = scratch.path().join("records.jsonl");
    std::fs::write(&path, &text).unwrap();

    let plan = harness::plan(
        &harness::file("tests/topologies/envelopes.toml"),
        &[format!("records.path={}", path.display())],
    );
    let data = scratch.path().join("data");
    let report = harness::run_plan(&plan, &data, 2);
    assert_eq!(report.counts.records(), records, "receipts = records");
    assert_eq!(report.counts.admitted, goods, "every good record is a fact");
    assert_eq!(report.counts.duplicate, duplicates);
    let committed: u64 = report.commits.files_of("payments").map(|f| f.rows).sum();
    assert_eq!(committed, goods);

    let receipts = harness::table(&data, "SELECT count(*) AS receipts FROM receipts");
    assert!(receipts.contains(&records.to_string()), "{receipts}");
    let mut seen = 0;
    for batch in harness::query(&data, "SELECT position, reason_code, bytes, detail FROM quarantine") {
        let positions = batch.column(0).as_primitive::<Int64Type>();
        let reasons = arrow::compute::cast(batch.column(1), &arrow::datatypes::DataType::Utf8).unwrap();
        let details = arrow::compute::cast(batch.column(3), &arrow::datatypes::DataType::Utf8).unwrap();
        for row in 0..batch.num_rows() {
            let (name, reason, bytes) = &expected[&positions.value(row).cast_unsigned()];
            let found = reasons.as_string::<i32>().value(row);
            let detail = details.as_string::<i32>().value(row);
            assert_eq!(found, *reason, "{name}: {detail}");
            assert!(detail.len() > 5, "{name} has no detail");
            let stored = batch.column(2).as_binary::<i32>().value(row);
            match *reason {
                "RECORD_TOO_LARGE" => assert!(bytes.starts_with(stored) && stored.len() >= 16_384, "{name}"),
                // Of a record that is valid by itself, the gate stores what it read.
                "PAYLOAD_HASH_MISMATCH" => {
                    assert!(String::from_utf8_lossy(stored).contains("13.00"), "{name}")
                }
                _ => assert_eq!(stored, bytes.as_slice(), "{name} is stored with its original bytes"),
            }
            seen += 1;
        }
    }
    assert_eq!(seen, expected.len());
    assert!(expected.len() > 9_000, "{} hostile records", expected.len());
}
