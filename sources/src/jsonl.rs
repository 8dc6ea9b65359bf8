//! The JSON-lines source: one record a line, returned as raw lines or as text columns.
//!
//! A line ends at `\n` or `\r\n`. Lines of only white space are not records and have no position.
//! In the mode for envelopes the source returns lines without parsing them. In the mode for columns
//! each line is one JSON object, and the values of the requested keys become text: strings are
//! unescaped, numbers and booleans stay as written, null and missing keys are null, and objects and
//! arrays are their JSON text.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::strict_json::{self, JsonError};

use crate::error::SourceError;
use crate::file_set::FileFormat;
use crate::read_fingerprint::ReadFingerprint;
use crate::text_reader::{self, CHUNK_BYTES, TextReader};
use crate::{Body, Chunk, Lines, Source, UnreadableRecord};

/// A source of JSON lines from a file or a folder.
pub struct JsonlSource {
    text: TextReader,
    position: u64,
    batch_rows: usize,
    record_bytes_max: usize,
    mode: LineMode,
}

/// What the source makes of a line.
enum LineMode {
    Envelopes,
    Columns(SchemaRef),
}

/// Collects the lines of one chunk.
#[derive(Default)]
struct LineCollector {
    lines: Lines,
    unreadable: Vec<UnreadableRecord>,
    unreadable_bytes: usize,
}

/// Why collecting lines from a window stopped.
enum Stop {
    /// The chunk is full.
    Full,
    /// A blank line of this many bytes follows.
    Blank(usize),
    /// A line over the limit follows.
    TooLong,
    /// The window ends, or a line follows whose end is not in the window.
    Window,
}

impl JsonlSource {
    /// Opens a source that returns raw lines, from the record at `from_position` on.
    ///
    /// # Errors
    /// When the files cannot be found or read, or have fewer than `from_position` records.
    pub fn envelopes(
        path: &Path,
        from_position: u64,
        batch_rows: usize,
        record_bytes_max: usize,
    ) -> Result<JsonlSource, SourceError> {
        JsonlSource::open(path, from_position, batch_rows, record_bytes_max, LineMode::Envelopes)
    }

    /// Opens a source that returns the values of some keys, from the record at `from_position` on.
    ///
    /// # Errors
    /// When the files cannot be found or read, have fewer than `from_position` records, or a column
    /// is named twice.
    pub fn columns(
        path: &Path,
        columns: &[String],
        from_position: u64,
        batch_rows: usize,
        record_bytes_max: usize,
    ) -> Result<JsonlSource, SourceError> {
        let mut seen = HashSet::new();
        if let Some(column) = columns.iter().find(|column| !seen.insert(*column)) {
            return Err(SourceError::ColumnTwice { column: column.clone() });
        }
        let schema = text_schema(columns.iter().cloned());
        JsonlSource::open(path, from_position, batch_rows, record_bytes_max, LineMode::Columns(schema))
    }

    /// The schema of the rows; `None` when the source returns raw lines.
    pub fn schema(&self) -> Option<SchemaRef> {
        match &self.mode {
            LineMode::Envelopes => None,
            LineMode::Columns(schema) => Some(schema.clone()),
        }
    }

    fn open(
        path: &Path,
        from_position: u64,
        batch_rows: usize,
        record_bytes_max: usize,
        mode: LineMode,
    ) -> Result<JsonlSource, SourceError> {
        let text = TextReader::open(path, FileFormat::JsonLines)?;
        let record_bytes_max = text_reader::record_limit(record_bytes_max);
        let mut source =
            JsonlSource { text, position: 0, batch_rows: batch_rows.max(1), record_bytes_max, mode };
        while source.position < from_position {
            let rows_max = usize::try_from(from_position - source.position).unwrap_or(usize::MAX);
            if source.collect(rows_max.min(source.batch_rows))?.is_none() {
                return Err(SourceError::Short {
                    path: path.to_owned(),
                    records: source.position,
                    from_position,
                });
            }
        }
        Ok(source)
    }

    /// The next records, at most `rows_max`; `None` at the end.
    fn collect(&mut self, rows_max: usize) -> Result<Option<LineCollector>, SourceError> {
        let mut collector = LineCollector::default();
        match self.collect_into(&mut collector, rows_max) {
            Err(error) if collector.count() == 0 => Err(error),
            _ => Ok((collector.count() > 0).then_some(collector)),
        }
    }

    fn collect_into(&mut self, collector: &mut LineCollector, rows_max: usize) -> Result<(), SourceError> {
        while let Some(file) = self.text.current()? {
            let before = collector.lines.len();
            let (used, stop) = collector.add(
                file.window(),
                file.at_last_record(),
                self.position,
                self.record_bytes_max,
                rows_max,
            );
            self.position += (collector.lines.len() - before) as u64;
            if used > 0 {
                file.consume_records(used);
            }
            match stop {
                Stop::Full => break,
                Stop::Blank(bytes) => file.skip(bytes),
                Stop::TooLong => {
                    let Some((bytes, length)) = file.consume_line(self.record_bytes_max)? else { continue };
                    let detail = text_reader::too_long(length, self.record_bytes_max);
                    collector.unreadable_bytes += bytes.len();
                    collector.unreadable.push(UnreadableRecord { position: self.position, bytes, detail });
                    self.position += 1;
                }
                Stop::Window => {
                    if !file.read_more()? && file.is_consumed() {
                        self.text.finish();
                    }
                }
            }
        }
        Ok(())
    }
}

impl Source for JsonlSource {
    fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let Some(LineCollector { lines, unreadable, .. }) = self.collect(self.batch_rows)? else {
            return Ok(None);
        };
        Ok(Some(match &self.mode {
            LineMode::Envelopes => Chunk { body: Body::Lines(lines), unreadable },
            LineMode::Columns(schema) => read_columns(schema, &lines, unreadable),
        }))
    }

    fn fingerprint(&self) -> ReadFingerprint {
        self.text.fingerprint()
    }

    fn leave_unfinished_line(&mut self) {
        self.text.leave_unfinished_line();
    }
}

impl LineCollector {
    fn count(&self) -> usize {
        self.lines.len() + self.unreadable.len()
    }

    /// Adds complete lines of the window; returns the number of their bytes, and why it stopped.
    fn add(
        &mut self,
        window: &[u8],
        at_end: bool,
        first_position: u64,
        record_bytes_max: usize,
        rows_max: usize,
    ) -> (usize, Stop) {
        let base = self.lines.bytes.len();
        let mut position = first_position;
        let mut used = 0;
        let stop = loop {
            if self.count() >= rows_max || base + used + self.unreadable_bytes >= CHUNK_BYTES {
                break Stop::Full;
            }
            let rest = &window[used..];
            let length = match memchr::memchr(b'\n', rest) {
                Some(line_break) => line_break + 1,
                None if at_end && !rest.is_empty() => rest.len(),
                // A `\r` at the end may belong to the line break.
                None if rest.len() > record_bytes_max + 1 => break Stop::TooLong,
                None => break Stop::Window,
            };
            let line = text_reader::without_line_break(&rest[..length]);
            if line.len() > record_bytes_max {
                break Stop::TooLong;
            }
            if line.first().is_none_or(u8::is_ascii_whitespace) && line.trim_ascii().is_empty() {
                break Stop::Blank(length);
            }
            used += length;
            self.lines.ends.push(base + used);
            self.lines.positions.push(position);
            position += 1;
        };
        self.lines.bytes.extend_from_slice(&window[..used]);
        (used, stop)
    }
}

/// The schema of text columns with these names.
pub(crate) fn text_schema(columns: impl IntoIterator<Item = String>) -> SchemaRef {
    let fields = columns.into_iter().map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A chunk with text columns.
pub(crate) fn text_chunk(
    schema: &SchemaRef,
    columns: Vec<StringBuilder>,
    positions: Vec<u64>,
    unreadable: Vec<UnreadableRecord>,
) -> Chunk {
    let columns = columns.into_iter().map(|mut column| Arc::new(column.finish()) as ArrayRef).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(positions.len()));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .expect("every record has a value in every column");
    Chunk { body: Body::Rows { batch, positions }, unreadable }
}

fn read_columns(schema: &SchemaRef, lines: &Lines, mut unreadable: Vec<UnreadableRecord>) -> Chunk {
    let mut columns: Vec<StringBuilder> = schema.fields().iter().map(|_| StringBuilder::new()).collect();
    let mut positions = Vec::with_capacity(lines.len());
    let mut object = ObjectReader::new(schema);
    for (position, line) in lines.iter() {
        match object.read(line) {
            Ok(()) => {
                positions.push(position);
                for (column, value) in columns.iter_mut().zip(&object.values) {
                    column.append_option(value.as_deref());
                }
            }
            Err(JsonError(detail)) => {
                let detail = format!("The line cannot be read as one JSON object: {detail}.");
                unreadable.push(UnreadableRecord { position, bytes: line.to_vec(), detail });
            }
        }
    }
    unreadable.sort_by_key(|record| record.position);
    text_chunk(schema, columns, positions, unreadable)
}

/// Reads the values of the requested keys from one line.
struct ObjectReader<'a> {
    schema: &'a SchemaRef,
    /// Whether the line has the key of each column; its value may be null.
    seen: Vec<bool>,
    values: Vec<Option<Cow<'a, str>>>,
    /// The other keys of the line, which must not be repeated either.
    others: HashSet<String>,
}

impl<'a> ObjectReader<'a> {
    fn new(schema: &'a SchemaRef) -> ObjectReader<'a> {
        let count = schema.fields().len();
        ObjectReader { schema, seen: vec![false; count], values: vec![None; count], others: HashSet::new() }
    }

    fn read(&mut self, line: &'a [u8]) -> Result<(), JsonError> {
        let text = std::str::from_utf8(line)
            .map_err(|e| JsonError(format!("it is not valid UTF-8 from byte {} on", e.valid_up_to())))?;
        self.seen.fill(false);
        self.values.fill(None);
        self.others.clear();
        let mut expected = 0;
        strict_json::for_each_field(text, |key, raw| {
            // In most lines the keys are in the order of the columns.
            let fields = self.schema.fields();
            let column = match fields.get(expected) {
                Some(field) if field.name() == key => Some(expected),
                _ => fields.iter().position(|field| field.name() == key),
            };
            let repeated = match column {
                Some(column) => std::mem::replace(&mut self.seen[column], true),
                None => !self.others.insert(key.to_owned()),
            };
            if repeated {
                return Err(JsonError(format!("the key {key:?} is repeated")));
            }
            if let Some(column) = column {
                expected = column + 1;
                self.values[column] = match raw.as_bytes().first() {
                    Some(b'"') => Some(strict_json::string(raw)?),
                    Some(b'n') => None,
                    _ => Some(Cow::Borrowed(raw)),
                };
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::PathBuf;

    use arrow::array::{Array, AsArray};
    use tempfile::TempDir;

    use super::*;
    use crate::RECORD_BYTES_MAX;

    fn input(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    /// All records as `position text`, unreadable ones as `position !text`, in order.
    fn read(source: &mut dyn Source) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(chunk) = source.next().unwrap() {
            match &chunk.body {
                Body::Lines(lines) => {
                    all.extend(lines.iter().map(|(p, line)| (p, String::from_utf8_lossy(line).into_owned())));
                }
                Body::Rows { batch, positions } => {
                    all.extend(positions.iter().enumerate().map(|(row, &p)| {
                        let values = batch.columns().iter().map(|c| {
                            let c = c.as_string::<i32>();
                            if c.is_null(row) { "-".to_owned() } else { c.value(row).to_owned() }
                        });
                        (p, values.collect::<Vec<_>>().join("|"))
                    }))
                }
            }
            all.extend(
                chunk
                    .unreadable
                    .iter()
                    .map(|f| (f.position, format!("!{}", String::from_utf8_lossy(&f.bytes)))),
            );
        }
        all.sort_by_key(|(p, _)| *p);
        all.into_iter().map(|(p, text)| format!("{p} {text}")).collect()
    }

    fn envelopes(path: &Path, from: u64, batch_rows: usize, max: usize) -> Vec<String> {
        read(&mut JsonlSource::envelopes(path, from, batch_rows, max).unwrap())
    }

    #[test]
    fn blank_lines_are_not_records_and_line_breaks_are_not_part_of_one() {
        let (_folder, path) = input("a.jsonl", b"\xef\xbb\xbf\n{1}\r\n\r\n \t\n{2}\n\n\n {3} \n{4}");
        for batch_rows in [1, 2, 100] {
            assert_eq!(envelopes(&path, 0, batch_rows, 100), ["0 {1}", "1 {2}", "2  {3} ", "3 {4}"]);
        }
        assert_eq!(envelopes(&path, 3, 2, 100), ["3 {4}"]);
        assert_eq!(envelopes(&path, 4, 2, 100), [""; 0]);
        let short = JsonlSource::envelopes(&path, 5, 2, 100).err().unwrap().to_string();
        assert!(short.contains("has 4 records, but 5 were read"), "{short}");
    }

    #[test]
    fn a_line_over_the_limit_is_unreadable_and_one_at_the_limit_is_not() {
        let (_folder, path) = input("a.jsonl", b"12345\n123456\n12345\r\n123456\r\n1\n123456789");
        let expected = ["0 12345", "1 !12345", "2 12345", "3 !12345", "4 1", "5 !12345"];
        assert_eq!(envelopes(&path, 0, 100, 5), expected);
        assert_eq!(envelopes(&path, 0, 1, 5), expected);
        assert_eq!(envelopes(&path, 2, 2, 5), expected[2..]);
        let mut source = JsonlSource::envelopes(&path, 5, 2, 5).unwrap();
        let record = source.next().unwrap().unwrap().unreadable.remove(0);
        assert!(record.detail.contains("is 9 bytes long, and the limit is 5"), "{}", record.detail);
    }

    #[test]
    fn a_huge_line_does_not_grow_the_memory() {
        let mut bytes = vec![b'x'; 5_000_000];
        bytes.extend_from_slice(b"\nnext\n");
        let (_folder, path) = input("a.jsonl", &bytes);
        let mut source = JsonlSource::envelopes(&path, 0, 10, 1000).unwrap();
        let chunk = source.next().unwrap().unwrap();
        assert_eq!(chunk.unreadable[0].bytes.len(), 1000);
        assert!(chunk.unreadable[0].detail.contains("5000000"));
        assert!(source.next().unwrap().is_none());
        let capacity = JsonlSource::envelopes(&path, 0, 10, 1000)
            .unwrap()
            .text
            .current()
            .unwrap()
            .unwrap()
            .window()
            .len();
        assert!(capacity <= 1 << 18);
    }

    #[test]
    fn lines_that_cross_blocks_and_files_are_read_whole() {
        let lines: Vec<String> =
            (0..30_000).map(|i| format!("{{\"n\":{i},\"pad\":\"{}\"}}", "y".repeat(i % 97))).collect();
        let folder = tempfile::tempdir().unwrap();
        let whole = lines.join("\n");
        fs::write(folder.path().join("a.jsonl"), format!("{}\n", lines[..7].join("\n"))).unwrap();
        fs::write(folder.path().join("b.jsonl"), "").unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(lines[7..9000].join("\n").as_bytes()).unwrap();
        fs::write(folder.path().join("c.jsonl.gz"), gz.finish().unwrap()).unwrap();
        let zst = zstd::encode_all(lines[9000..20_000].join("\n").as_bytes(), 1).unwrap();
        fs::write(folder.path().join("d.ndjson.zst"), zst).unwrap();
        fs::write(folder.path().join("e.jsonl"), lines[20_000..].join("\r\n")).unwrap();
        for batch_rows in [999, 1_000_000] {
            let mut source = JsonlSource::envelopes(folder.path(), 0, batch_rows, RECORD_BYTES_MAX).unwrap();
            let mut read = Vec::new();
            while let Some(chunk) = source.next().unwrap() {
                let Body::Lines(lines) = chunk.body else { panic!("lines were requested") };
                assert!(lines.len() <= batch_rows);
                for (position, line) in lines.iter() {
                    assert_eq!(position as usize, read.len());
                    read.push(String::from_utf8(line.to_vec()).unwrap());
                }
                source.fingerprint().check(folder.path()).unwrap();
            }
            assert!(read.join("\n") == whole, "lines differ");
        }
    }

    #[test]
    fn the_fingerprint_ends_with_the_last_record_read() {
        let folder = tempfile::tempdir().unwrap();
        let a = folder.path().join("a.jsonl");
        fs::write(&a, "1\n\n2\n\n\n3\n\n").unwrap();
        fs::write(folder.path().join("b.jsonl"), "\n").unwrap();
        let mut source = JsonlSource::envelopes(folder.path(), 0, 2, 100).unwrap();
        assert_eq!(source.fingerprint(), ReadFingerprint::default());
        let ends = |source: &JsonlSource| {
            let files = source.fingerprint().files;
            files.iter().map(|f| format!("{} {}", f.name, f.bytes)).collect::<Vec<_>>()
        };
        source.next().unwrap();
        assert_eq!(ends(&source), ["a.jsonl 5"]);
        source.next().unwrap();
        assert_eq!(ends(&source), ["a.jsonl 9"]);
        assert_eq!(source.fingerprint().files[0].digest, tidegate_facts::Digest::of(b"1\n\n2\n\n\n3\n"));
        assert!(source.next().unwrap().is_none());
        assert_eq!(ends(&source), ["a.jsonl 9"], "blank lines and files without records are not read");
        let fingerprint = source.fingerprint();
        fs::write(&a, "1\n\n2\n\n\n3\n4\n").unwrap();
        fingerprint.check(folder.path()).unwrap();
        fs::write(folder.path().join("b.jsonl"), "5\n").unwrap();
        let mut source = JsonlSource::envelopes(folder.path(), 3, 9, 100).unwrap();
        assert_eq!(source.fingerprint(), fingerprint, "skipped records count as read");
        assert_eq!(read(&mut source), ["3 4", "4 5"]);
        assert_eq!(ends(&source), ["a.jsonl 11", "b.jsonl 2"]);
        fs::write(&a, "1\n\n2\n\n\n3\n4\n\n").unwrap();
        assert!(source.fingerprint().check(folder.path()).is_err(), "a file before the last may not grow");
    }

    #[test]
    fn an_unfinished_line_of_the_last_file_is_left_and_read_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let b = folder.path().join("b.jsonl");
        fs::write(folder.path().join("a.jsonl"), "1").unwrap();
        for unfinished in ["3", "33333333333333333333"] {
            fs::write(&b, format!("2\n{unfinished}")).unwrap();
            let mut source = JsonlSource::envelopes(folder.path(), 0, 9, 10).unwrap();
            source.leave_unfinished_line();
            assert_eq!(read(&mut source), ["0 1", "1 2"], "a file before the last is complete");
            let fingerprint = source.fingerprint();
            assert_eq!(
                fingerprint.files[1].bytes, 2,
                "the bytes of the unfinished line do not count as read"
            );
            fs::write(&b, format!("2\n{unfinished}4\n")).unwrap();
            fingerprint.check(folder.path()).unwrap();
            let mut source = JsonlSource::envelopes(folder.path(), 2, 9, 100).unwrap();
            source.leave_unfinished_line();
            assert_eq!(read(&mut source), [format!("2 {unfinished}4")]);
        }
    }

    #[test]
    fn a_truncated_compressed_file_gives_its_whole_lines_and_then_the_same_error_every_time() {
        let text: String = (0..200_000).map(|i| format!("{{\"n\":{}}}\n", i * 7919)).collect();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        let gz = gz.finish().unwrap();
        let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
        for (name, bytes) in [("a.jsonl.gz", gz), ("a.jsonl.zst", zst)] {
            let (_folder, path) = input(name, &bytes[..bytes.len() / 2]);
            let mut source = JsonlSource::envelopes(&path, 0, 1000, RECORD_BYTES_MAX).unwrap();
            let mut read = String::new();
            let error = loop {
                match source.next() {
                    Ok(Some(Chunk { body: Body::Lines(lines), .. })) => {
                        read.push_str(std::str::from_utf8(&lines.bytes).unwrap());
                    }
                    Ok(_) => panic!("the truncation was not noticed"),
                    Err(error) => break error,
                }
            };
            assert!(read.len() > 1000 && text.starts_with(&read) && read.ends_with('\n'));
            assert!(error.to_string().contains("restore it if it is truncated"), "{error}");
            assert!(source.next().is_err());
        }
    }

    #[test]
    fn values_become_text_and_other_keys_are_ignored() {
        let text = r#"{"a":"x","b":1.50,"c":true}
            {"b":{"k": [1, 2]},"z":9,"a":"\u00e9\n\"q\" \u0000"}
            {"a":null}
            {}
            {"b":"","a":-0}
        "#;
        let (_folder, path) = input("a.jsonl", text.as_bytes());
        let columns = ["a".to_owned(), "b".to_owned()];
        let mut source = JsonlSource::columns(&path, &columns, 0, 2, 1000).unwrap();
        assert_eq!(
            read(&mut source),
            ["0 x|1.50", "1 é\n\"q\" \0|{\"k\": [1, 2]}", "2 -|-", "3 -|-", "4 -0|"]
        );
        let mut source = JsonlSource::columns(&path, &columns, 3, 2, 1000).unwrap();
        assert_eq!(read(&mut source), ["3 -|-", "4 -0|"]);
        let mut source = JsonlSource::columns(&path, &[], 3, 2, 1000).unwrap();
        assert_eq!(read(&mut source), ["3 ", "4 "]);
        let twice = JsonlSource::columns(&path, &["a".to_owned(), "a".to_owned()], 0, 2, 1000).err().unwrap();
        assert!(twice.to_string().contains("`a` is requested twice"));
    }

    #[test]
    fn hostile_lines_are_unreadable_and_the_source_continues() {
        let deep = "[".repeat(100_000);
        let hostile: Vec<Vec<u8>> = vec![
            b"{\"a\":\"\xff\"}".to_vec(),
            b"\0\0\0".to_vec(),
            b"{\"a\":1".to_vec(),
            b"{\"a\":1}{\"a\":2}".to_vec(),
            b"[1]".to_vec(),
            b"null".to_vec(),
            b"{\"a\":1,\"a\":1}".to_vec(),
            b"{\"a\":1,\"\\u0061\":1}".to_vec(),
            b"{\"z\":1,\"z\":1}".to_vec(),
            b"{\"a\":NaN}".to_vec(),
            b"{\"a\":nul}".to_vec(),
            b"{\"a\":\"\\ud800\"}".to_vec(),
            b"{'a':1}".to_vec(),
            format!("{{\"a\":{deep}").into_bytes(),
            format!("{{\"a\":{}", "{\"a\":".repeat(100_000)).into_bytes(),
        ];
        let mut bytes = Vec::new();
        for line in &hostile {
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\n{\"a\":\"good\"}\n");
        }
        let (_folder, path) = input("a.jsonl", &bytes);
        let mut source = JsonlSource::columns(&path, &["a".to_owned()], 0, 1000, RECORD_BYTES_MAX).unwrap();
        let chunk = source.next().unwrap().unwrap();
        let Body::Rows { batch, positions } = chunk.body else { panic!("rows were requested") };
        assert_eq!(positions, (0..hostile.len() as u64).map(|i| 2 * i + 1).collect::<Vec<_>>());
        assert_eq!(batch.num_rows(), hostile.len());
        for (index, (record, line)) in chunk.unreadable.iter().zip(&hostile).enumerate() {
            assert_eq!(record.position, 2 * index as u64);
            assert!(record.bytes == *line, "{}", record.detail);
        }
        assert_eq!(chunk.unreadable.len(), hostile.len());
    }
}
