//! A folder as a run leaves it, and what may be asked of it.
//!
//! Two groups of a payments log: in the first, two payments and a policy are admitted; in the second,
//! one comes again, and one cannot be read. Beside it stand two committed tables.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, DictionaryArray, FixedSizeBinaryBuilder, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt8Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, UInt64Type};
use expect_test::{Expect, expect};
use tempfile::TempDir;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Digest, Tick, Topic, columns};
use tidegate_queries::{Catalogue, Format, write};
use tidegate_sinks::log::{EmbeddedLog, Frame, Group, LogOptions};
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Commits, Format as TableFormat, Unsealed};

const START: i64 = 1_522_540_800_000_000;

fn tick(micros: i64, partition: u16) -> Tick {
    Tick::new(START + micros, partition).unwrap()
}

fn digests(texts: &[Option<&str>]) -> ArrayRef {
    let mut digests = FixedSizeBinaryBuilder::new(32);
    for text in texts {
        match text {
            Some(text) => digests.append_value(Digest::of(text.as_bytes()).0).unwrap(),
            None => digests.append_null(),
        }
    }
    Arc::new(digests.finish())
}

fn texts(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(texts.iter().copied().collect::<StringArray>())
}

/// Facts of one event type: tick, offset and payload; its id is `<event type>-<row>`.
fn facts(topic: Topic, event_type: &str, ticks: &[Tick], offsets: &[u64], payload: ArrayRef) -> Frame {
    let ids: Vec<String> = (0..ticks.len()).map(|row| format!("{event_type}-{row}")).collect();
    let ids: Vec<Option<&str>> = ids.iter().map(|id| Some(id.as_str())).collect();
    let context = format!(
        r#"{{"event_type":"{event_type}","manifest_fingerprint":"","producer":"till","scenario_id":7,"seed":42,"platform_run_id":"platform_20180401T000000Z"}}"#
    );
    let times = TimestampMicrosecondArray::from_iter_values(ticks.iter().map(|tick| tick.micros() - 1));
    let times: ArrayRef = Arc::new(times.with_data_type(timestamp()));
    let none: ArrayRef = texts(&vec![None; ticks.len()]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ticks.iter().map(|tick| tick.0).collect::<UInt64Array>()),
        Arc::new(UInt64Array::from(offsets.to_vec())),
        texts(&ids),
        Arc::clone(&times),
        Arc::new(ticks.iter().map(|_| Some(context.as_str())).collect::<DictionaryArray<Int32Type>>()),
        digests(&ids),
        Arc::new(TimestampMicrosecondArray::new_null(ticks.len()).with_data_type(timestamp())),
        Arc::clone(&none),
        Arc::clone(&none),
        none,
        Arc::clone(&payload),
    ];
    let schema = columns::fact_schema(payload.data_type().clone());
    let rows = columns::trim(&RecordBatch::try_new(schema, columns).unwrap());
    Frame { topic, name: event_type.to_owned(), rows }
}

fn payments(amounts: &[i128]) -> ArrayRef {
    let amounts = Decimal128Array::from(amounts.to_vec()).with_precision_and_scale(12, 2).unwrap();
    let customers = Int64Array::from_iter_values(0..amounts.len() as i64);
    Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("TX_AMOUNT", DataType::Decimal128(12, 2), false)), Arc::new(amounts) as ArrayRef),
        (Arc::new(Field::new("CUSTOMER_ID", DataType::Int64, false)), Arc::new(customers)),
    ]))
}

/// A receipt: verdict, reason, tick and offset; event type and id, detail and bytes.
type Receipt = (u8, Option<u8>, Option<(Tick, u64)>, Option<(&'static str, &'static str)>, Option<(&'static str, &'static [u8])>);

fn receipts(first: u64, receipts: &[Receipt]) -> Frame {
    let sources: DictionaryArray<Int32Type> = receipts.iter().map(|_| Some("tills")).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(sources),
        Arc::new(UInt64Array::from_iter_values(first..first + receipts.len() as u64)),
        Arc::new(receipts.iter().map(|r| Some(r.0)).collect::<UInt8Array>()),
        Arc::new(receipts.iter().map(|r| r.1).collect::<UInt8Array>()),
        Arc::new(receipts.iter().map(|r| Some(r.2?.0.0)).collect::<UInt64Array>()),
        Arc::new(receipts.iter().map(|r| Some(r.2?.1)).collect::<UInt64Array>()),
        Arc::new(receipts.iter().map(|r| Some(r.3?.0)).collect::<StringArray>()),
        Arc::new(receipts.iter().map(|r| Some(r.3?.1)).collect::<StringArray>()),
        digests(&receipts.iter().map(|r| Some(r.3?.1)).collect::<Vec<_>>()),
        Arc::new(receipts.iter().map(|r| Some(r.4?.0)).collect::<StringArray>()),
        Arc::new(receipts.iter().map(|r| Some(r.4?.1)).collect::<BinaryArray>()),
    ];
    let rows = columns::trim(&RecordBatch::try_new(columns::receipt_schema(), columns).unwrap());
    Frame { topic: Topic::Audit, name: "receipts".to_owned(), rows }
}

fn run_record(revision: &str) -> Frame {
    let record = format!(
        r#"{{"topology":"tills","plan":"{0}","policy":{{"policy_id":"gate","revision":"{revision}","content_digest":"{0}"}},"partitions":2}}"#,
        Digest::of(b"policy")
    );
    let schema = Arc::new(Schema::new(vec![Field::new("record", DataType::Utf8, false)]));
    let rows = RecordBatch::try_new(schema, vec![texts(&[Some(&record)])]).unwrap();
    Frame { topic: Topic::Audit, name: "run".to_owned(), rows }
}

fn write_log(data: &Path) {
    let (mut log, _) = EmbeddedLog::open(&data.join("log"), LogOptions::default()).unwrap();
    let run = Group { frames: vec![run_record("1")], lower: Tick::ZERO, upper: Tick::ZERO, commit: false };
    log.append(&run).unwrap();
    let (first, second, third) = (tick(1_000_000, 0), tick(1_000_000, 1), tick(2_500_000, 0));
    let policy = texts(&[Some(r#"{"limit":"20.00"}"#)]);
    let upper = third.next();
    log.append(&Group {
        frames: vec![
            facts(Topic::Traffic, "payment", &[first, third], &[0, 1], payments(&[1234, -5])),
            facts(Topic::Control, "policy", &[second], &[0], policy),
            receipts(
                0,
                &[
                    (0, None, Some((first, 0)), None, None),
                    (0, None, Some((second, 0)), None, None),
                    (0, None, Some((third, 1)), None, None),
                ],
            ),
        ],
        lower: Tick::ZERO,
        upper,
        commit: true,
    })
    .unwrap();
    let again = (1, Some(11), Some((first, 0)), Some(("payment", "payment-0")), None);
    let refused = (2, Some(0), None, None, Some(("it is not JSON", b"{\xff".as_slice())));
    let frames = vec![run_record("2"), receipts(3, &[again, refused])];
    log.append(&Group { frames, lower: upper, upper, commit: false }).unwrap();
}

fn write_store(store: &Path) -> Commits {
    let store = Store::open(store).unwrap();
    let mut commits = Commits::default();
    let schema = Arc::new(Schema::new(vec![
        Field::new("_tick", DataType::UInt64, false),
        Field::new("basis", columns::basis(), false),
        Field::new("TRANSACTION_ID", DataType::Int64, false),
        Field::new("TX_AMOUNT", DataType::Decimal128(12, 2), true),
        Field::new("action", columns::dictionary(), false),
        Field::new("decided_at_utc", timestamp(), false),
        Field::new("seal", DataType::FixedSizeBinary(32), false),
    ]));
    let decisions = |ids: std::ops::Range<i64>| {
        let ticks: Vec<Tick> = ids.clone().map(|id| tick(id * 1_000_000, (id % 2) as u16)).collect();
        let basis = ids.clone().map(|id| Some([Some(id as u64), Some(1)]));
        let basis = ListArray::from_iter_primitive::<UInt64Type, _, _>(basis);
        let item = Arc::new(Field::new("item", DataType::UInt64, false));
        let (_, offsets, values, nulls) = basis.into_parts();
        let amounts: Decimal128Array = ids.clone().map(|id| (id != 2).then_some(i128::from(id) * 1050)).collect();
        let actions: DictionaryArray<Int32Type> = ids.clone().map(|id| Some(if id > 2 { "block" } else { "allow" })).collect();
        let times = TimestampMicrosecondArray::from_iter_values(ticks.iter().map(|tick| tick.micros()));
        let seals: Vec<String> = ids.clone().map(|id| id.to_string()).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ticks.iter().map(|tick| tick.0).collect::<UInt64Array>()),
            Arc::new(ListArray::new(item, offsets, values, nulls)),
            Arc::new(Int64Array::from_iter_values(ids)),
            Arc::new(amounts.with_precision_and_scale(12, 2).unwrap()),
            Arc::new(actions),
            Arc::new(times.with_data_type(timestamp())),
            digests(&seals.iter().map(|seal| Some(seal.as_str())).collect::<Vec<_>>()),
        ];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let errors = RecordBatch::try_from_iter([
        ("_tick", Arc::new(UInt64Array::from(vec![tick(1_000_000, 1).0])) as ArrayRef),
        ("cause", texts(&[Some("division by zero")])),
        ("row", Arc::new(Int32Array::from(vec![3]))),
    ])
    .unwrap();
    let mut unsealed = Unsealed::new("decisions", Arc::clone(&schema), TableFormat::Parquet, Tick::ZERO);
    let mut failed = Unsealed::new("errors", errors.schema(), TableFormat::Jsonl, Tick::ZERO);
    unsealed.insert(&decisions(0..3));
    failed.insert(&errors);
    let upper = tick(2_500_000, 0);
    let mut files = unsealed.seal_before(upper, &store).unwrap();
    files.extend(failed.seal_before(upper, &store).unwrap());
    commits.publish(upper, Digest::of(b"plan"), files, &store).unwrap();
    unsealed.insert(&decisions(3..5));
    let files = unsealed.seal_before(tick(5_000_000, 0), &store).unwrap();
    commits.publish(tick(5_000_000, 0), Digest::of(b"plan"), files, &store).unwrap();
    commits
}

fn folder() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    write_log(data.path());
    write_store(&data.path().join("store"));
    data
}

fn answer_as(format: Format, data: &Path, sql: &str) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let catalogue = Catalogue::open(data, None).map_err(|error| error.to_string())?;
        let rows = catalogue.query(sql).await.map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        write(format, rows, &mut out).await.map_err(|error| error.to_string())?;
        Ok(out)
    })
}

fn answer(format: Format, data: &Path, sql: &str) -> String {
    let text = answer_as(format, data, sql).map_or_else(|error| format!("error: {error}\n"), |out| String::from_utf8(out).unwrap());
    text.replace(&data.display().to_string(), "DATA")
}

fn check(sql: &str, expect: Expect) {
    expect.assert_eq(&answer(Format::Table, folder().path(), sql));
}

fn check_as(format: Format, sql: &str, expect: Expect) {
    expect.assert_eq(&answer(format, folder().path(), sql));
}

#[test]
fn facts_are_envelopes_and_the_canonical_text_of_their_payloads() {
    check(
        "select _tick, partition, \"offset\", topic, event_type, event_id, ts_utc, admitted_at_utc from facts order by _tick",
        expect![],
    );
    check("select event_id, producer, seed, scenario_id, platform_run_id, run_id, manifest_fingerprint, trace_id, emitted_at_utc from facts where topic = 'traffic' order by event_id", expect![]);
    check("select payload_hash, payload from facts order by _tick", expect![]);
}

#[test]
fn receipts_of_the_admitted_say_what_their_facts_say() {
    check(
        "select position, source, decision, reason_code, event_type, event_id, _tick, partition, \"offset\", topic from receipts order by position",
        expect![],
    );
    check("select position, receipt_id, payload_hash from receipts order by position", expect![]);
    check("select position, policy_id, policy_revision, policy_digest, detail from receipts order by position", expect![]);
}

#[test]
fn a_receipt_id_can_be_recomputed() {
    let id = Digest::of_parts(
        "tidegate.receipt.v1",
        &[b"platform_20180401T000000Z", b"tills", &2u64.to_le_bytes(), b"ADMIT"],
    );
    let found = answer(Format::Csv, folder().path(), "select receipt_id from receipts where position = 2");
    assert_eq!(found, format!("receipt_id\n{id}\n"));
}

#[test]
fn quarantine_keeps_the_bytes_of_the_refused() {
    check("select * from quarantine", expect![]);
    check("select count(*) from quarantine", expect![]);
}

#[test]
fn committed_tables_hold_the_rows_of_all_commits() {
    check("select * from decisions order by transaction_id", expect![]);
    check("select action, count(*) as n, sum(TX_AMOUNT) as total from decisions group by action order by N", expect![]);
    check("select * from errors", expect![]);
    check("select d.transaction_id, f.event_id from decisions d join facts f on d._tick = f._tick order by 1", expect![]);
}

#[test]
fn only_the_columns_and_rows_that_are_asked_for_are_read() {
    check("explain format indent select TX_AMOUNT from decisions where TRANSACTION_ID > 3", expect![]);
    check("explain format indent select event_id from facts limit 1", expect![]);
    check("select count(*) from facts", expect![]);
    check("select event_type from facts limit 1", expect![]);
}

#[test]
fn tables_are_listed_and_described() {
    check("show tables", expect![]);
    check("describe Quarantine", expect![]);
    check("select column_name, data_type from information_schema.columns where table_name = 'errors'", expect![]);
    let data = folder();
    let tables = Catalogue::open(data.path(), None).unwrap().tables();
    let tables: Vec<(&str, Option<u64>)> = tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
    let known = [("decisions", Some(5)), ("errors", Some(1)), ("facts", None), ("quarantine", None), ("receipts", None)];
    assert_eq!(tables, known);
}

#[test]
fn csv_has_a_header_and_json_in_place_of_lists() {
    check_as(
        Format::Csv,
        "select TRANSACTION_ID, TX_AMOUNT, action, decided_at_utc, basis, seal from decisions where transaction_id < 3 order by 1",
        expect![],
    );
    check_as(Format::Csv, "select * from errors where row > 3", expect![]);
}

#[test]
fn json_has_an_object_a_line_and_every_digit() {
    check_as(
        Format::Json,
        "select _tick, TX_AMOUNT, action, decided_at_utc, basis, seal from decisions where transaction_id in (1, 2) order by 1",
        expect![],
    );
    check_as(Format::Json, "select 1 as a, 2 as b, a.row, b.row from errors a, errors b", expect![]);
}

#[test]
fn parquet_is_read_back_the_same() {
    let bytes = answer_as(Format::Parquet, folder().path(), "select * from decisions order by _tick").unwrap();
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("answer.parquet");
    std::fs::write(&path, bytes).unwrap();
    let file = std::fs::File::open(path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1024).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    assert_eq!(batches[0].schema().field_with_name("basis").unwrap().data_type(), &columns::basis());
}

#[test]
fn what_would_change_something_is_refused() {
    for sql in [
        "drop table facts",
        "create table t as select 1",
        "insert into errors values (1, 'a', 2)",
        "delete from facts",
        "update errors set row = 1",
        "copy facts to '/tmp/x.csv'",
        "create external table t stored as csv location '/tmp/x.csv'",
        "set datafusion.execution.batch_size = 1",
        "select * into t from facts",
        "explain analyze insert into errors values (1, 'a', 2)",
        "begin",
    ] {
        let refusal = answer(Format::Table, folder().path(), sql);
        assert!(refusal.contains("changes something"), "{sql}: {refusal}");
    }
    check("drop table facts", expect![]);
}

#[test]
fn a_wrong_question_is_told_what_is_wrong() {
    check("selec 1", expect![]);
    check("select 1; select 2", expect![]);
    check("select * from descisions", expect![]);
    check("select * from nothing_like_it", expect![]);
    check("select tx_amont from decisions", expect![]);
    check("select colour from errors", expect![]);
    check("select nosuch(row) from errors", expect![]);
    check("select 1 / (row - 3) from errors", expect![]);
}

#[test]
fn an_empty_log_has_empty_tables() {
    let data = tempfile::tempdir().unwrap();
    EmbeddedLog::open(&data.path().join("log"), LogOptions::default()).unwrap();
    let sql = "select (select count(*) from facts) as f, (select count(*) from receipts) as r";
    expect![].assert_eq(&answer(Format::Table, data.path(), sql));
    expect![].assert_eq(&answer(Format::Table, data.path(), "select bytes_text from quarantine"));
}

#[test]
fn a_folder_without_a_log_is_refused() {
    let data = tempfile::tempdir().unwrap();
    expect![].assert_eq(&answer(Format::Table, data.path(), "select 1"));
}

#[test]
fn a_file_that_a_commit_names_must_be_there_and_whole() {
    let data = tempfile::tempdir().unwrap();
    write_log(data.path());
    let commits = write_store(&data.path().join("store"));
    let file = commits.files_of("decisions").next().unwrap();
    let path = data.path().join("store").join(&file.name);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..100]).unwrap();
    expect![].assert_eq(&answer(Format::Table, data.path(), "select 1"));
    std::fs::remove_file(&path).unwrap();
    expect![].assert_eq(&answer(Format::Table, data.path(), "select 1"));
}

#[test]
fn a_damaged_log_is_reported_as_such() {
    let data = folder();
    let segment = data.path().join("log").join(format!("{:020}.seg", 0));
    let mut bytes = std::fs::read(&segment).unwrap();
    // A byte of the first group's payload: groups follow, so it is damage and no torn end.
    bytes[200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    expect![].assert_eq(&answer(Format::Table, data.path(), "select event_id from facts order by 1"));
}
