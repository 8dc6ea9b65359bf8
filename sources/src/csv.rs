//! The CSV source: delimited text (RFC 4180) with a header row; all fields are text.
//!
//! The source infers no types: a field is text, and an empty field is null. It is strict where
//! lenient parsers guess: a quote inside an unquoted field, text after a closing quote, and an
//! unclosed quote each make the record unreadable. The `csv` crate accepts all three and does not
//! limit the size of a record, so this source has its own parser; the tests compare the two on
//! well-formed input.
//!
//! When a record has broken quotes, or does not end within the limit, its first line is unreadable
//! and the source continues with the next line. So a stray quote cannot consume the rest of the
//! file. The cost is that the further lines of a quoted field over the limit are read as records.

use std::path::Path;
use std::str;

use arrow::array::StringBuilder;
use arrow::datatypes::SchemaRef;

use crate::error::SourceError;
use crate::file_set::{FileFormat, InputFile};
use crate::jsonl::{text_chunk, text_schema};
use crate::read_fingerprint::ReadFingerprint;
use crate::text_reader::{self, CHUNK_BYTES, OpenTextFile, RECORD_BYTES_MAX, TextReader};
use crate::{Chunk, Source, UnreadableRecord};

/// The options of the CSV source.
#[derive(Clone, Copy, Debug)]
pub struct CsvOptions {
    /// The ASCII character between two fields.
    pub delimiter: u8,
    /// The greatest number of bytes of a record, without its line break; a longer one is
    /// unreadable.
    pub record_bytes_max: usize,
}

impl Default for CsvOptions {
    fn default() -> CsvOptions {
        CsvOptions { delimiter: b',', record_bytes_max: RECORD_BYTES_MAX }
    }
}

/// The CSV source, which reads delimited text from a file or a folder.
pub struct CsvSource {
    text: TextReader,
    schema: SchemaRef,
    /// The column names with which every file must begin, and the file they were read from.
    names: Vec<String>,
    first: InputFile,
    /// Whether the header of the current file is consumed.
    in_records: bool,
    position: u64,
    batch_rows: usize,
    splitter: RecordSplitter,
}

/// Finds records in a window, and splits records into fields.
struct RecordSplitter {
    delimiter: u8,
    record_bytes_max: usize,
    /// The unquoted fields of the last record one after the other, and the end of each.
    fields: String,
    ends: Vec<usize>,
}

/// What a window begins with.
enum Next {
    /// A line break.
    Blank { bytes: usize },
    /// A record; whether it contains quotes.
    Record { bytes: usize, quotes: bool },
    /// A line with a quote that is not closed within the limit, or before the end of the file.
    UnclosedQuote { bytes: usize, at_end: bool },
    /// A line over the limit.
    TooLong,
    /// A record whose end is not in the window, or nothing.
    Incomplete,
}

/// Collects the rows of one chunk.
struct RowCollector {
    columns: Vec<StringBuilder>,
    positions: Vec<u64>,
    unreadable: Vec<UnreadableRecord>,
    bytes: usize,
}

impl CsvSource {
    /// Opens a source of the records from the one at `from_position` on.
    ///
    /// # Errors
    /// When the files cannot be found or read, do not all begin with the same header, or have fewer
    /// than `from_position` records.
    pub fn open(
        path: &Path,
        from_position: u64,
        batch_rows: usize,
        options: CsvOptions,
    ) -> Result<CsvSource, SourceError> {
        let delimiter = options.delimiter;
        if !delimiter.is_ascii() || b"\"\r\n\0".contains(&delimiter) {
            return Err(SourceError::Delimiter { delimiter: delimiter.into() });
        }
        let record_bytes_max = text_reader::record_limit(options.record_bytes_max);
        let mut splitter =
            RecordSplitter { delimiter, record_bytes_max, fields: String::new(), ends: Vec::new() };
        let text = TextReader::open(path, FileFormat::Csv)?;
        let (first, others) = text.files().split_first().expect("a source has at least one file");
        let names = read_header(&mut OpenTextFile::peek(first)?, &mut splitter)?;
        for file in others {
            let found = read_header(&mut OpenTextFile::peek(file)?, &mut splitter)?;
            check_header(first, &names, file, &found)?;
        }
        let mut source = CsvSource {
            schema: text_schema(names.iter().cloned()),
            first: first.clone(),
            names,
            text,
            in_records: false,
            position: 0,
            batch_rows: batch_rows.max(1),
            splitter,
        };
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

    /// The columns in the order of the header, all text.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The next records, at most `rows_max`; `None` at the end.
    fn collect(&mut self, rows_max: usize) -> Result<Option<RowCollector>, SourceError> {
        let columns = self.names.iter().map(|_| StringBuilder::new()).collect();
        let mut collector = RowCollector { columns, positions: Vec::new(), unreadable: Vec::new(), bytes: 0 };
        match self.collect_into(&mut collector, rows_max) {
            Err(error) if collector.count() == 0 => Err(error),
            _ => Ok((collector.count() > 0).then_some(collector)),
        }
    }

    fn collect_into(&mut self, collector: &mut RowCollector, rows_max: usize) -> Result<(), SourceError> {
        while collector.count() < rows_max && collector.bytes < CHUNK_BYTES {
            let Some(file) = self.text.current()? else { break };
            if !self.in_records {
                let found = read_header(file, &mut self.splitter)?;
                check_header(&self.first, &self.names, file.file(), &found)?;
                self.in_records = true;
            }
            let window = file.window();
            // Text appended to the file could close the quote.
            let mut forbid_growth = false;
            let (bytes, outcome) = match self.splitter.next(window, file.at_last_record()) {
                Next::Blank { bytes } => {
                    file.skip(bytes);
                    continue;
                }
                Next::Incomplete => {
                    if !file.read_more()? && file.is_consumed() {
                        self.text.finish();
                        self.in_records = false;
                    }
                    continue;
                }
                Next::TooLong => {
                    let Some((bytes, length)) = file.consume_line(self.splitter.record_bytes_max)? else {
                        continue;
                    };
                    let detail = text_reader::too_long(length, self.splitter.record_bytes_max);
                    collector.add_unreadable(self.position, bytes, detail);
                    self.position += 1;
                    continue;
                }
                Next::UnclosedQuote { bytes, at_end } => {
                    forbid_growth = at_end;
                    (bytes, Err(self.splitter.unclosed_quote()))
                }
                Next::Record { bytes, quotes } => {
                    let record = text_reader::without_line_break(&window[..bytes]);
                    match (
                        str::from_utf8(record),
                        self.splitter.split(&String::from_utf8_lossy(record), quotes),
                    ) {
                        // With broken quotes the record ends at the first line break.
                        (_, Err(detail)) => (first_line(&window[..bytes]), Err(detail)),
                        (Err(error), _) => (bytes, Err(not_utf8(&error))),
                        _ => (bytes, self.splitter.check_count(self.names.len())),
                    }
                }
            };
            match outcome {
                Ok(()) => collector.add(self.position, &self.splitter),
                Err(detail) => {
                    let record = text_reader::without_line_break(&window[..bytes]);
                    collector.add_unreadable(self.position, record.to_vec(), detail);
                }
            }
            file.consume_records(bytes);
            if forbid_growth {
                file.forbid_growth();
            }
            self.position += 1;
        }
        Ok(())
    }
}

impl Source for CsvSource {
    fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let collector = self.collect(self.batch_rows)?;
        Ok(collector.map(|g| text_chunk(&self.schema, g.columns, g.positions, g.unreadable)))
    }

    fn fingerprint(&self) -> ReadFingerprint {
        self.text.fingerprint()
    }

    fn leave_unfinished_line(&mut self) {
        self.text.leave_unfinished_line();
    }
}

impl RecordSplitter {
    /// What the window begins with; `at_end` says that the file ends with the window.
    fn next(&self, window: &[u8], at_end: bool) -> Next {
        // Bytes beyond the limit must not matter, or the result would depend on the sizes of the
        // blocks that were read.
        let scope = &window[..window.len().min(self.record_bytes_max + 2)];
        let whole = at_end && scope.len() == window.len();
        let (mut index, mut quotes) = (0, false);
        let found = loop {
            match memchr::memchr2(b'\n', b'"', &scope[index..]) {
                None => break if whole && !scope.is_empty() { Some(scope.len()) } else { None },
                Some(next) if scope[index + next] == b'\n' => break Some(index + next + 1),
                Some(next) => {
                    quotes = true;
                    index += next + 1;
                    match memchr::memchr(b'"', &scope[index..]) {
                        Some(closing) => index += closing + 1,
                        None => break None,
                    }
                }
            }
        };
        match found.map(|bytes: usize| (bytes, text_reader::without_line_break(&scope[..bytes]).len())) {
            Some((bytes, 0)) => Next::Blank { bytes },
            Some((bytes, length)) if length <= self.record_bytes_max => Next::Record { bytes, quotes },
            None if scope.len() < self.record_bytes_max + 2 && !whole => Next::Incomplete,
            None if scope.is_empty() => Next::Incomplete,
            _ => {
                let bytes = first_line(scope);
                let fits = text_reader::without_line_break(&scope[..bytes]).len() <= self.record_bytes_max;
                if fits { Next::UnclosedQuote { bytes, at_end: whole } } else { Next::TooLong }
            }
        }
    }

    /// Splits a record into fields.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the quotes of the record.
    fn split(&mut self, record: &str, quotes: bool) -> Result<(), String> {
        self.fields.clear();
        self.ends.clear();
        if quotes {
            return self.split_quoted(record);
        }
        let mut start = 0;
        for end in memchr::memchr_iter(self.delimiter, record.as_bytes()).chain([record.len()]) {
            self.fields.push_str(&record[start..end]);
            self.ends.push(self.fields.len());
            start = end + 1;
        }
        Ok(())
    }

    fn split_quoted(&mut self, record: &str) -> Result<(), String> {
        let bytes = record.as_bytes();
        let mut index = 0;
        loop {
            if bytes.get(index) == Some(&b'"') {
                loop {
                    index += 1;
                    let length =
                        memchr::memchr(b'"', &bytes[index..]).ok_or_else(|| self.unclosed_quote())?;
                    self.fields.push_str(&record[index..index + length]);
                    index += length + 1;
                    if bytes.get(index) != Some(&b'"') {
                        break;
                    }
                    self.fields.push('"');
                }
            } else {
                let length = memchr::memchr(self.delimiter, &bytes[index..]).unwrap_or(bytes.len() - index);
                let field = &record[index..index + length];
                if field.contains('"') {
                    return Err(format!(
                        "Field {} has a quote but does not begin with one; quote the field, and double the \
                         quotes in it.",
                        self.ends.len() + 1
                    ));
                }
                self.fields.push_str(field);
                index += length;
            }
            self.ends.push(self.fields.len());
            match bytes.get(index) {
                None => return Ok(()),
                Some(&byte) if byte == self.delimiter => index += 1,
                Some(_) => {
                    return Err(format!(
                        "Text follows the closing quote of field {}; double the quotes inside a quoted \
                         field.",
                        self.ends.len()
                    ));
                }
            }
        }
    }

    fn unclosed_quote(&self) -> String {
        format!(
            "The line has a quote that is not closed within the file or within {} bytes; close it, or raise \
             `record_bytes_max` if records may be that long.",
            self.record_bytes_max
        )
    }

    /// Checks the number of fields of the last record.
    fn check_count(&self, expected: usize) -> Result<(), String> {
        if self.ends.len() == expected {
            Ok(())
        } else {
            Err(format!("The number of fields is {}, and the header names {expected}.", self.ends.len()))
        }
    }

    /// The fields of the last record.
    fn fields(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.fields[std::mem::replace(&mut start, end)..end])
    }
}

impl RowCollector {
    fn count(&self) -> usize {
        self.positions.len() + self.unreadable.len()
    }

    fn add(&mut self, position: u64, splitter: &RecordSplitter) {
        for (column, field) in self.columns.iter_mut().zip(splitter.fields()) {
            column.append_option((!field.is_empty()).then_some(field));
        }
        self.positions.push(position);
        // A null needs memory too.
        self.bytes += splitter.fields.len() + 4 * splitter.ends.len();
    }

    fn add_unreadable(&mut self, position: u64, bytes: Vec<u8>, detail: String) {
        self.bytes += bytes.len();
        self.unreadable.push(UnreadableRecord { position, bytes, detail });
    }
}

/// Consumes the first row of a file, and returns the column names in it.
fn read_header(file: &mut OpenTextFile, splitter: &mut RecordSplitter) -> Result<Vec<String>, SourceError> {
    let refuse =
        |file: &OpenTextFile, detail: String| SourceError::Header { path: file.file().path.clone(), detail };
    let bytes = loop {
        match splitter.next(file.window(), file.at_end()) {
            Next::Blank { bytes } => file.skip(bytes),
            Next::Incomplete => {
                if !file.read_more()? && file.window().is_empty() {
                    return Err(refuse(file, "it is empty".to_owned()));
                }
            }
            Next::TooLong => {
                let detail = format!("its first row is longer than {} bytes", splitter.record_bytes_max);
                return Err(refuse(file, detail));
            }
            Next::UnclosedQuote { .. } => {
                return Err(refuse(file, "its first row has a quote that is not closed".to_owned()));
            }
            Next::Record { bytes, quotes } => {
                let record = text_reader::without_line_break(&file.window()[..bytes]);
                let split = match str::from_utf8(record) {
                    Ok(record) => splitter.split(record, quotes),
                    Err(error) => Err(not_utf8(&error)),
                };
                match split {
                    Ok(()) => break bytes,
                    Err(detail) => return Err(refuse(file, detail)),
                }
            }
        }
    };
    file.skip(bytes);
    let names: Vec<String> = splitter.fields().map(str::to_owned).collect();
    if let Some(index) = names.iter().position(String::is_empty) {
        return Err(refuse(file, format!("column {} has no name", index + 1)));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(refuse(file, format!("it names column `{}` twice", pair[0])));
    }
    Ok(names)
}

/// Checks that the header of `file` is that of `first`.
fn check_header(
    first: &InputFile,
    names: &[String],
    file: &InputFile,
    found: &[String],
) -> Result<(), SourceError> {
    let refuse = |column: &str, detail: String| {
        let (path, first, column) = (file.path.clone(), first.path.clone(), column.to_owned());
        Err(SourceError::Columns { path, first, column, detail })
    };
    for (name, here) in names.iter().zip(found) {
        if name != here {
            return refuse(name, format!("it has `{here}` where the other has `{name}`"));
        }
    }
    match (names.get(found.len()), found.get(names.len())) {
        (Some(missing), _) => refuse(missing, "a column is missing".to_owned()),
        (_, Some(more)) => refuse(more, "it has an additional column".to_owned()),
        _ => Ok(()),
    }
}

fn not_utf8(error: &str::Utf8Error) -> String {
    format!("The record is not valid UTF-8 from byte {} on.", error.valid_up_to())
}

/// The number of bytes of the first line, with its line break.
fn first_line(bytes: &[u8]) -> usize {
    memchr::memchr(b'\n', bytes).map_or(bytes.len(), |line_break| line_break + 1)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use arrow::array::{Array, AsArray};
    use tempfile::TempDir;

    use super::*;
    use crate::Body;

    fn input(bytes: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    /// All records as `position text`, with fields joined by `|` and nulls as `-`; unreadable
    /// records as `position !text`.
    fn records(path: &Path, from: u64, batch_rows: usize, record_bytes_max: usize) -> Vec<String> {
        let options = CsvOptions { record_bytes_max, ..CsvOptions::default() };
        let mut source = CsvSource::open(path, from, batch_rows, options).unwrap();
        let mut all = Vec::new();
        while let Some(chunk) = source.next().unwrap() {
            let Body::Rows { batch, positions } = &chunk.body else { panic!("CSV gives rows") };
            assert!(positions.len() + chunk.unreadable.len() <= batch_rows);
            for (row, &position) in positions.iter().enumerate() {
                let values = batch.columns().iter().map(|column| {
                    let column = column.as_string::<i32>();
                    if column.is_null(row) { "-" } else { column.value(row) }
                });
                all.push((position, values.collect::<Vec<_>>().join("|")));
            }
            for record in &chunk.unreadable {
                assert!(record.detail.ends_with('.'), "{}", record.detail);
                all.push((record.position, format!("!{}", String::from_utf8_lossy(&record.bytes))));
            }
        }
        all.sort_by_key(|(position, _)| *position);
        all.into_iter().map(|(position, text)| format!("{position} {text}")).collect()
    }

    fn check(text: &[u8], record_bytes_max: usize, expected: &[&str]) {
        let (_folder, path) = input(text);
        for batch_rows in [1, 2, 1000] {
            assert_eq!(records(&path, 0, batch_rows, record_bytes_max), expected);
        }
        for from in 0..=expected.len() {
            assert_eq!(records(&path, from as u64, 3, record_bytes_max), expected[from..], "from {from}");
        }
    }

    #[test]
    fn fields_are_text_and_empty_fields_are_null() {
        check(
            b"\xef\xbb\xbf\r\na,b\r\n1,x\r\n\n,\n\"\",\" \"\n\"a \"\"q\"\"\",\"l1\r\nl2,\"\n\0, 5\n7,8",
            1000,
            &["0 1|x", "1 -|-", "2 -| ", "3 a \"q\"|l1\r\nl2,", "4 \0| 5", "5 7|8"],
        );
    }

    #[test]
    fn after_an_unreadable_record_the_next_one_is_read() {
        check(
            b"a,b\n1\n1,2\n1,2,3\n3,4\n\xff,1\n5,6\n\"\xff\nx\",1\n7,8\n",
            1000,
            &[
                "0 !1",
                "1 1|2",
                "2 !1,2,3",
                "3 3|4",
                "4 !\u{fffd},1",
                "5 5|6",
                "6 !\"\u{fffd}\nx\",1",
                "7 7|8",
            ],
        );
    }

    #[test]
    fn broken_quotes_make_only_their_line_unreadable() {
        check(
            b"a,b\n1,\"x\"y\n1,2\nx\"y,1\n3,\"4\"\n5,\"open\n6,\"7\"\n8,9\n\"never\n1,2",
            1000,
            &[
                "0 !1,\"x\"y",
                "1 1|2",
                "2 !x\"y,1",
                "3 3|4",
                "4 !5,\"open",
                "5 6|7",
                "6 8|9",
                "7 !\"never",
                "8 1|2",
            ],
        );
    }

    #[test]
    fn a_record_over_the_limit_is_unreadable_and_one_at_the_limit_is_not() {
        check(
            b"a,b\n12,45\n12,456\n\"1\",5\r\n123456789,1\r\n\"1\n3\",5\n1,2\n\"12\n45\",3\n\"12345678\n1,3",
            5,
            &[
                "0 12|45",
                "1 !12,45",
                "2 1|5",
                "3 !12345",
                "4 !\"1",
                "5 !3\",5",
                "6 1|2",
                "7 !\"12",
                "8 !45\",3",
                "9 !\"1234",
                "10 1|3",
            ],
        );
    }

    #[test]
    fn a_huge_record_or_an_unclosed_quote_does_not_consume_the_file() {
        let mut text = b"a,b\n1,2\n3,\"open\n".to_vec();
        text.extend_from_slice("5,6\n".repeat(200_000).as_bytes());
        text.extend_from_slice(&vec![b'x'; 3_000_000]);
        text.extend_from_slice(b"\n7,8\n");
        let (_folder, path) = input(&text);
        let read = records(&path, 0, 10_000, 10_000);
        assert_eq!(read.len(), 200_004);
        assert_eq!(read[..3], ["0 1|2", "1 !3,\"open", "2 5|6"]);
        assert_eq!(read[200_002].len(), "200002 !".len() + 10_000);
        assert_eq!(read[200_003], "200003 7|8");
    }

    #[test]
    fn well_formed_text_is_read_as_the_csv_crate_reads_it() {
        let values =
            ["", "x", "a,b", "say \"hi\"", "two\nlines", "two\r\nlines", "é\u{1f600}", "\"", " pad ", "\0"];
        for delimiter in [b',', b';', b'\t'] {
            let mut writer = ::csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
            writer.write_record(["a", "b, \"c\"", "d"]).unwrap();
            for i in 0..30_000_usize {
                let pick = |n: usize| values[(i * 7919 + n * 104_729) / (n + 3) % values.len()];
                writer.write_record([pick(1), pick(2), pick(3)]).unwrap();
            }
            let bytes = writer.into_inner().unwrap();
            let (_folder, path) = input(&bytes);
            let options = CsvOptions { delimiter, ..CsvOptions::default() };
            let mut source = CsvSource::open(&path, 0, 997, options).unwrap();
            assert_eq!(source.schema().field(1).name(), "b, \"c\"");
            let mut expected =
                ::csv::ReaderBuilder::new().delimiter(delimiter).from_reader(&bytes[..]).into_records();
            while let Some(chunk) = source.next().unwrap() {
                assert_eq!(chunk.unreadable, []);
                let Body::Rows { batch, .. } = chunk.body else { panic!("CSV gives rows") };
                for row in 0..batch.num_rows() {
                    let expected = expected.next().unwrap().unwrap();
                    for (column, field) in batch.columns().iter().zip(&expected) {
                        assert_eq!(column.as_string::<i32>().value(row), field);
                    }
                }
            }
            assert!(expected.next().is_none());
        }
    }

    #[test]
    fn any_bytes_give_the_same_records_for_all_batch_sizes() {
        let alphabet = b"\",\n\r a\xff\0";
        let mut state = 1_u64;
        for _ in 0..300 {
            let mut text = b"a,b\n".to_vec();
            for _ in 0..60 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            let (_folder, path) = input(&text);
            let whole = records(&path, 0, 1000, 12);
            assert_eq!(records(&path, 0, 1, 12), whole, "{text:?}");
            assert_eq!(records(&path, whole.len() as u64 / 2, 7, 12), whole[whole.len() / 2..], "{text:?}");
            let positions: Vec<usize> =
                whole.iter().map(|r| r.split(' ').next().unwrap().parse().unwrap()).collect();
            assert_eq!(positions, (0..whole.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn all_files_of_a_folder_begin_with_the_same_header() {
        let open = |a: &[u8], b: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.csv"), a).unwrap();
            fs::write(folder.path().join("b.csv"), b).unwrap();
            match CsvSource::open(folder.path(), 0, 10, CsvOptions::default()) {
                Ok(_) => records(folder.path(), 0, 10, 1000).join(" "),
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(open(b"x,y\n1,2\n", b"\"x\",y\r\n3,4"), "0 1|2 1 3|4");
        assert_eq!(open(b"x,y", b"x,y\n3,4"), "0 3|4");
        let refusals: [(&[u8], &[u8], &str); 9] = [
            (b"x,y\n", b"x,z\n", "it has `z` where the other has `y` (column `y`)"),
            (b"x,y\n", b"x\n", "a column is missing (column `y`)"),
            (b"x,y\n", b"x,y,z\n", "it has an additional column (column `z`)"),
            (b"x,y\n", b"", "b.csv` does not begin with a row of column names: it is empty"),
            (b"x,x\n", b"x,x\n", "it names column `x` twice"),
            (b"x,\n", b"x,\n", "column 2 has no name"),
            (b"\"x\n", b"\"x\n", "a quote that is not closed"),
            (b"\xff\n", b"x\n", "not valid UTF-8"),
            (b"x\"y\"\n", b"x\n", "Field 1 has a quote"),
        ];
        for (a, b, expected) in refusals {
            let found = open(a, b);
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn the_fingerprint_ends_with_the_last_record_and_lines_may_be_appended() {
        let (_folder, path) = input(b"a,b\n1,2\n\n3,4\n");
        let mut source = CsvSource::open(&path, 0, 1, CsvOptions::default()).unwrap();
        assert_eq!(source.fingerprint(), ReadFingerprint::default());
        source.next().unwrap();
        assert_eq!(source.fingerprint().files[0].bytes, 8);
        source.next().unwrap();
        assert!(source.next().unwrap().is_none());
        let fingerprint = source.fingerprint();
        assert_eq!(fingerprint.files[0].bytes, 13);
        fs::write(&path, "a,b\n1,2\n\n3,4\n5,6\n").unwrap();
        fingerprint.check(&path).unwrap();
        assert_eq!(records(&path, 2, 10, 100), ["2 5|6"]);
        fs::write(&path, "a,c\n1,2\n\n3,4\n5,6\n").unwrap();
        assert!(fingerprint.check(&path).is_err(), "the header is part of what was read");
    }

    #[test]
    fn a_file_may_not_grow_after_an_unclosed_quote() {
        let (_folder, path) = input(b"a,b\n1,\"half\n");
        let mut source = CsvSource::open(&path, 0, 10, CsvOptions::default()).unwrap();
        assert_eq!(source.next().unwrap().unwrap().unreadable.len(), 1);
        source.fingerprint().check(&path).unwrap();
        fs::write(&path, "a,b\n1,\"half\nwhole\"\n").unwrap();
        let changed = source.fingerprint().check(&path).unwrap_err().to_string();
        assert!(changed.contains("has grown"), "{changed}");
    }

    #[test]
    fn an_unfinished_line_is_left_and_read_once_it_is_complete() {
        let texts =
            ["a,b\n1,2\n3", "a,b\n1,2\n3,\"x\ny", "a,b\n1,2\n3,4", "a,b\n1,2\n3,aaaaaaaaaaaaaaaaaaaa"];
        for text in texts {
            let (_folder, path) = input(text.as_bytes());
            let options = CsvOptions { record_bytes_max: 10, ..CsvOptions::default() };
            let mut source = CsvSource::open(&path, 0, 10, options).unwrap();
            source.leave_unfinished_line();
            let chunk = source.next().unwrap().unwrap();
            let Body::Rows { positions, .. } = &chunk.body else { panic!("CSV gives rows") };
            assert_eq!((positions.as_slice(), chunk.unreadable.len()), (&[0][..], 0), "{text:?}");
            assert!(source.next().unwrap().is_none());
            assert_eq!(source.fingerprint().files[0].bytes, 8, "{text:?}");
            fs::write(&path, format!("{text}\",5\n")).unwrap();
            source.fingerprint().check(&path).unwrap();
            assert_eq!(records(&path, 1, 10, 100).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn only_ascii_other_than_quotes_and_line_breaks_separates_fields() {
        let (_folder, path) = input(b"a\n");
        for delimiter in [b'"', b'\n', b'\r', 0, 0xe9] {
            let options = CsvOptions { delimiter, ..CsvOptions::default() };
            assert!(matches!(CsvSource::open(&path, 0, 1, options), Err(SourceError::Delimiter { .. })));
        }
    }
}
