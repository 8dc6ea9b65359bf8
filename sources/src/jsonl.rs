//! JSON lines: one record a line, handed over as raw lines or as text columns.
//!
//! A line ends at `\n` or `\r\n`; lines of nothing but white space are no records and have no
//! position. As envelopes, lines are handed over unread. As columns, each line is one object whose
//! asked-for keys become text: strings unescaped, numbers and booleans as they are written, null or
//! missing as null, objects and arrays as their JSON text.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::json::{self, JsonFault};

use crate::error::SourceError;
use crate::files::Format;
use crate::prefix::Prefix;
use crate::text::{self, CHUNK_BYTES, Text};
use crate::{Body, Chunk, Fault, Lines, Source};

/// A file or folder of JSON lines.
pub struct JsonlSource {
    text: Text,
    position: u64,
    batch_rows: usize,
    record_bytes_max: usize,
    shape: Shape,
}

enum Shape {
    Envelopes,
    Columns(SchemaRef),
}

/// A chunk of lines that is being filled.
#[derive(Default)]
struct Gathered {
    lines: Lines,
    faults: Vec<Fault>,
    fault_bytes: usize,
}

/// Where gathering lines from a window stopped.
enum Stop {
    /// The chunk is full.
    Full,
    /// At blank lines of this many bytes.
    Blank(usize),
    /// At a line over the limit.
    TooLong,
    /// At a line whose end is not in the window, or at the window's end.
    Window,
}

impl JsonlSource {
    /// Opens a source that hands over raw lines, from the record at `from_position` on.
    ///
    /// # Errors
    /// When the files cannot be found or read, or hold fewer than `from_position` records.
    pub fn envelopes(
        path: &Path,
        from_position: u64,
        batch_rows: usize,
        record_bytes_max: usize,
    ) -> Result<JsonlSource, SourceError> {
        JsonlSource::open(path, from_position, batch_rows, record_bytes_max, Shape::Envelopes)
    }

    /// Opens a source that hands over the values of some keys, from the record at `from_position` on.
    ///
    /// # Errors
    /// When the files cannot be found or read, hold fewer than `from_position` records, or a column
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
        JsonlSource::open(path, from_position, batch_rows, record_bytes_max, Shape::Columns(schema))
    }

    /// The schema of the rows, or `None` where raw lines are handed over.
    pub fn schema(&self) -> Option<SchemaRef> {
        match &self.shape {
            Shape::Envelopes => None,
            Shape::Columns(schema) => Some(schema.clone()),
        }
    }

    fn open(
        path: &Path,
        from_position: u64,
        batch_rows: usize,
        record_bytes_max: usize,
        shape: Shape,
    ) -> Result<JsonlSource, SourceError> {
        let text = Text::open(path, Format::JsonLines)?;
        let record_bytes_max = text::record_limit(record_bytes_max);
        let mut source =
            JsonlSource { text, position: 0, batch_rows: batch_rows.max(1), record_bytes_max, shape };
        while source.position < from_position {
            let rows_max = usize::try_from(from_position - source.position).unwrap_or(usize::MAX);
            if source.gather(rows_max.min(source.batch_rows))?.is_none() {
                return Err(SourceError::Short {
                    path: path.to_owned(),
                    records: source.position,
                    from_position,
                });
            }
        }
        Ok(source)
    }

    /// The next records, at most `rows_max`.
    fn gather(&mut self, rows_max: usize) -> Result<Option<Gathered>, SourceError> {
        let mut gathered = Gathered::default();
        match self.gather_into(&mut gathered, rows_max) {
            Err(error) if gathered.count() == 0 => Err(error),
            _ => Ok((gathered.count() > 0).then_some(gathered)),
        }
    }

    fn gather_into(&mut self, gathered: &mut Gathered, rows_max: usize) -> Result<(), SourceError> {
        while let Some(reading) = self.text.reading()? {
            let before = gathered.lines.len();
            let (used, stop) = gathered.add(
                reading.window(),
                reading.ended(),
                self.position,
                self.record_bytes_max,
                rows_max,
            );
            self.position += (gathered.lines.len() - before) as u64;
            if used > 0 {
                reading.take(used);
            }
            match stop {
                Stop::Full => break,
                Stop::Blank(bytes) => reading.pass(bytes),
                Stop::TooLong => {
                    let (bytes, length) = reading.take_line(self.record_bytes_max)?;
                    let detail = text::too_long(length, self.record_bytes_max);
                    gathered.fault_bytes += bytes.len();
                    gathered.faults.push(Fault { position: self.position, bytes, detail });
                    self.position += 1;
                }
                Stop::Window => {
                    if !reading.more()? && reading.window().is_empty() {
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
        let Some(Gathered { lines, faults, .. }) = self.gather(self.batch_rows)? else {
            return Ok(None);
        };
        Ok(Some(match &self.shape {
            Shape::Envelopes => Chunk { body: Body::Lines(lines), faults },
            Shape::Columns(schema) => read_columns(schema, &lines, faults),
        }))
    }

    fn prefix(&self) -> Prefix {
        self.text.prefix()
    }
}

impl Gathered {
    fn count(&self) -> usize {
        self.lines.len() + self.faults.len()
    }

    /// Adds whole lines of the window; gives how many bytes they have, and why it stopped there.
    fn add(
        &mut self,
        window: &[u8],
        ended: bool,
        first_position: u64,
        record_bytes_max: usize,
        rows_max: usize,
    ) -> (usize, Stop) {
        let base = self.lines.bytes.len();
        let mut position = first_position;
        let mut at = 0;
        let stop = loop {
            if self.count() >= rows_max || base + at + self.fault_bytes >= CHUNK_BYTES {
                break Stop::Full;
            }
            let rest = &window[at..];
            let length = match memchr::memchr(b'\n', rest) {
                Some(line_break) => line_break + 1,
                None if ended && !rest.is_empty() => rest.len(),
                // A `\r` may still turn out to belong to the line break.
                None if rest.len() > record_bytes_max + 1 => break Stop::TooLong,
                None => break Stop::Window,
            };
            let line = text::without_line_break(&rest[..length]);
            if line.len() > record_bytes_max {
                break Stop::TooLong;
            }
            if line.first().is_none_or(u8::is_ascii_whitespace) && line.trim_ascii().is_empty() {
                break Stop::Blank(length);
            }
            at += length;
            self.lines.ends.push(base + at);
            self.lines.positions.push(position);
            position += 1;
        };
        self.lines.bytes.extend_from_slice(&window[..at]);
        (at, stop)
    }
}

/// The schema of `columns` that are all text.
pub(crate) fn text_schema(columns: impl IntoIterator<Item = String>) -> SchemaRef {
    let fields = columns.into_iter().map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A chunk of text columns.
pub(crate) fn text_chunk(
    schema: &SchemaRef,
    columns: Vec<StringBuilder>,
    positions: Vec<u64>,
    faults: Vec<Fault>,
) -> Chunk {
    let columns = columns.into_iter().map(|mut column| Arc::new(column.finish()) as ArrayRef).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(positions.len()));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .expect("every record appends to every column");
    Chunk { body: Body::Rows { batch, positions }, faults }
}

fn read_columns(schema: &SchemaRef, lines: &Lines, mut faults: Vec<Fault>) -> Chunk {
    let mut columns: Vec<StringBuilder> = schema.fields().iter().map(|_| StringBuilder::new()).collect();
    let mut positions = Vec::with_capacity(lines.len());
    let mut object = Object::new(schema);
    for (position, line) in lines.iter() {
        match object.read(line) {
            Ok(()) => {
                positions.push(position);
                for (column, value) in columns.iter_mut().zip(&object.values) {
                    column.append_option(value.as_deref());
                }
            }
            Err(JsonFault(detail)) => {
                let detail = format!("The line cannot be read as one JSON object: {detail}.");
                faults.push(Fault { position, bytes: line.to_vec(), detail });
            }
        }
    }
    faults.sort_by_key(|fault| fault.position);
    text_chunk(schema, columns, positions, faults)
}

/// The values of the asked-for keys of one line.
struct Object<'a> {
    schema: &'a SchemaRef,
    /// Whether the key of each column was seen; its value may be null.
    seen: Vec<bool>,
    values: Vec<Option<Cow<'a, str>>>,
    /// The keys that were not asked for, which must not repeat either.
    others: HashSet<String>,
}

impl<'a> Object<'a> {
    fn new(schema: &'a SchemaRef) -> Object<'a> {
        let count = schema.fields().len();
        Object { schema, seen: vec![false; count], values: vec![None; count], others: HashSet::new() }
    }

    fn read(&mut self, line: &'a [u8]) -> Result<(), JsonFault> {
        let text = std::str::from_utf8(line)
            .map_err(|e| JsonFault(format!("it is not valid UTF-8 from byte {} on", e.valid_up_to())))?;
        self.seen.fill(false);
        self.values.fill(None);
        self.others.clear();
        let mut expected = 0;
        json::for_each_field(text, |key, raw| {
            // Most lines have their keys in the order of the columns.
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
                return Err(JsonFault(format!("the key {key:?} stands twice in it")));
            }
            if let Some(column) = column {
                expected = column + 1;
                self.values[column] = match raw.as_bytes().first() {
                    Some(b'"') => Some(json::string(raw)?),
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

    /// All records as `position text`, faults as `position !text`, in order.
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
                chunk.faults.iter().map(|f| (f.position, format!("!{}", String::from_utf8_lossy(&f.bytes)))),
            );
        }
        all.sort_by_key(|(p, _)| *p);
        all.into_iter().map(|(p, text)| format!("{p} {text}")).collect()
    }

    fn envelopes(path: &Path, from: u64, batch_rows: usize, max: usize) -> Vec<String> {
        read(&mut JsonlSource::envelopes(path, from, batch_rows, max).unwrap())
    }

    #[test]
    fn blank_lines_are_no_records_and_line_breaks_no_part_of_one() {
        let (_folder, path) = input("a.jsonl", b"\xef\xbb\xbf\n{1}\r\n\r\n \t\n{2}\n\n\n {3} \n{4}");
        for batch_rows in [1, 2, 100] {
            assert_eq!(envelopes(&path, 0, batch_rows, 100), ["0 {1}", "1 {2}", "2  {3} ", "3 {4}"]);
        }
        assert_eq!(envelopes(&path, 3, 2, 100), ["3 {4}"]);
        assert_eq!(envelopes(&path, 4, 2, 100), [""; 0]);
        let short = JsonlSource::envelopes(&path, 5, 2, 100).err().unwrap().to_string();
        assert!(short.contains("holds 4 records, but 5 were read"), "{short}");
    }

    #[test]
    fn a_line_over_the_limit_is_a_fault_and_one_at_the_limit_is_not() {
        let (_folder, path) = input("a.jsonl", b"12345\n123456\n12345\r\n123456\r\n1\n123456789");
        let expected = ["0 12345", "1 !12345", "2 12345", "3 !12345", "4 1", "5 !12345"];
        assert_eq!(envelopes(&path, 0, 100, 5), expected);
        assert_eq!(envelopes(&path, 0, 1, 5), expected);
        assert_eq!(envelopes(&path, 2, 2, 5), expected[2..]);
        let mut source = JsonlSource::envelopes(&path, 5, 2, 5).unwrap();
        let fault = source.next().unwrap().unwrap().faults.remove(0);
        assert!(fault.detail.contains("is 9 bytes long, and the limit is 5"), "{}", fault.detail);
    }

    #[test]
    fn a_huge_line_does_not_grow_the_memory() {
        let mut bytes = vec![b'x'; 5_000_000];
        bytes.extend_from_slice(b"\nnext\n");
        let (_folder, path) = input("a.jsonl", &bytes);
        let mut source = JsonlSource::envelopes(&path, 0, 10, 1000).unwrap();
        let chunk = source.next().unwrap().unwrap();
        assert_eq!(chunk.faults[0].bytes.len(), 1000);
        assert!(chunk.faults[0].detail.contains("5000000"));
        assert!(source.next().unwrap().is_none());
        let capacity = JsonlSource::envelopes(&path, 0, 10, 1000)
            .unwrap()
            .text
            .reading()
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
                let Body::Lines(lines) = chunk.body else { panic!("lines were asked for") };
                assert!(lines.len() <= batch_rows);
                for (position, line) in lines.iter() {
                    assert_eq!(position as usize, read.len());
                    read.push(String::from_utf8(line.to_vec()).unwrap());
                }
                source.prefix().check(folder.path()).unwrap();
            }
            assert!(read.join("\n") == whole, "lines differ");
        }
    }

    #[test]
    fn the_prefix_ends_with_the_last_record_read() {
        let folder = tempfile::tempdir().unwrap();
        let a = folder.path().join("a.jsonl");
        fs::write(&a, "1\n\n2\n\n\n3\n\n").unwrap();
        fs::write(folder.path().join("b.jsonl"), "\n").unwrap();
        let mut source = JsonlSource::envelopes(folder.path(), 0, 2, 100).unwrap();
        assert_eq!(source.prefix(), Prefix::default());
        let ends = |source: &JsonlSource| {
            let files = source.prefix().files;
            files.iter().map(|f| format!("{} {}", f.name, f.bytes)).collect::<Vec<_>>()
        };
        source.next().unwrap();
        assert_eq!(ends(&source), ["a.jsonl 5"]);
        source.next().unwrap();
        assert_eq!(ends(&source), ["a.jsonl 9"]);
        assert_eq!(source.prefix().files[0].digest, tidegate_facts::Digest::of(b"1\n\n2\n\n\n3\n"));
        assert!(source.next().unwrap().is_none());
        assert_eq!(ends(&source), ["a.jsonl 9"], "blank lines and files without records are not read");
        let prefix = source.prefix();
        fs::write(&a, "1\n\n2\n\n\n3\n4\n").unwrap();
        prefix.check(folder.path()).unwrap();
        fs::write(folder.path().join("b.jsonl"), "5\n").unwrap();
        let mut source = JsonlSource::envelopes(folder.path(), 3, 9, 100).unwrap();
        assert_eq!(source.prefix(), prefix, "what was passed over counts as read");
        assert_eq!(read(&mut source), ["3 4", "4 5"]);
        assert_eq!(ends(&source), ["a.jsonl 11", "b.jsonl 2"]);
        fs::write(&a, "1\n\n2\n\n\n3\n4\n\n").unwrap();
        assert!(source.prefix().check(folder.path()).is_err(), "a file before the last may not grow");
    }

    #[test]
    fn a_compressed_file_that_breaks_off_gives_its_whole_lines_and_then_an_error_for_good() {
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
                    Ok(_) => panic!("the end was not noticed"),
                    Err(error) => break error,
                }
            };
            assert!(read.len() > 1000 && text.starts_with(&read) && read.ends_with('\n'));
            assert!(error.to_string().contains("restore it if it is cut off"), "{error}");
            assert!(source.next().is_err());
        }
    }

    #[test]
    fn values_become_text_and_keys_not_asked_for_are_ignored() {
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
        assert!(twice.to_string().contains("`a` is asked for twice"));
    }

    #[test]
    fn hostile_lines_are_faults_and_reading_goes_on() {
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
        let Body::Rows { batch, positions } = chunk.body else { panic!("rows were asked for") };
        assert_eq!(positions, (0..hostile.len() as u64).map(|i| 2 * i + 1).collect::<Vec<_>>());
        assert_eq!(batch.num_rows(), hostile.len());
        for (place, (fault, line)) in chunk.faults.iter().zip(&hostile).enumerate() {
            assert_eq!(fault.position, 2 * place as u64);
            assert!(fault.bytes == *line, "{}", fault.detail);
        }
        assert_eq!(chunk.faults.len(), hostile.len());
    }
}
