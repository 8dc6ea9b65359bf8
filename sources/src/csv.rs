//! Delimited text (RFC 4180): a header row of names, then records whose fields are all text.
//!
//! Nothing is inferred: a field is text, and an empty one is null. What a lenient reader would guess
//! at is a fault: a quote inside a field that does not begin with one, text behind a closing quote,
//! a quote that is never closed. Hence the records are cut here and not by the `csv` crate, which
//! accepts all three and does not bound a record; the tests hold the two against each other.
//!
//! A record with broken quotes, or one that does not end within the limit, costs the line it begins
//! on: reading goes on with the next line. So a stray quote cannot swallow the file behind it; the
//! price is that the further lines of a quoted field over the limit are read as records.

use std::path::Path;
use std::str;

use arrow::array::StringBuilder;
use arrow::datatypes::SchemaRef;

use crate::error::SourceError;
use crate::files::{Format, InputFile};
use crate::jsonl::{text_chunk, text_schema};
use crate::prefix::Prefix;
use crate::text::{self, CHUNK_BYTES, RECORD_BYTES_MAX, Reading, Text};
use crate::{Chunk, Fault, Source};

/// How delimited text is read.
#[derive(Clone, Copy, Debug)]
pub struct CsvOptions {
    /// What stands between two fields: an ASCII character.
    pub delimiter: u8,
    /// The most bytes a record may have, without its line break; a longer one is a fault.
    pub record_bytes_max: usize,
}

impl Default for CsvOptions {
    fn default() -> CsvOptions {
        CsvOptions { delimiter: b',', record_bytes_max: RECORD_BYTES_MAX }
    }
}

/// A file or folder of delimited text.
pub struct CsvSource {
    text: Text,
    schema: SchemaRef,
    /// The names that every file has to begin with, and the file they were read from.
    names: Vec<String>,
    first: InputFile,
    /// Whether the header of the file that is being read was passed.
    in_records: bool,
    position: u64,
    batch_rows: usize,
    cutter: Cutter,
}

/// Cuts records out of a window, and fields out of records.
struct Cutter {
    delimiter: u8,
    record_bytes_max: usize,
    /// The fields of the last record one after the other, unquoted, and where each ends.
    fields: String,
    ends: Vec<usize>,
}

/// What stands at the begin of a window.
enum Cut {
    /// A line break.
    Blank { bytes: usize },
    /// A record.
    Record { bytes: usize, quotes: bool },
    /// A line with a quote that is not closed within the limit, or within what there is of the file.
    Open { bytes: usize, at_end: bool },
    /// A line over the limit.
    TooLong,
    /// A record whose end is not in the window, or nothing.
    Window,
}

/// A chunk that is being filled.
struct Gathered {
    columns: Vec<StringBuilder>,
    positions: Vec<u64>,
    faults: Vec<Fault>,
    bytes: usize,
}

impl CsvSource {
    /// Opens a source of the records from the one at `from_position` on.
    ///
    /// # Errors
    /// When the files cannot be found or read, do not all begin with the same header, or hold fewer
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
        let record_bytes_max = text::record_limit(options.record_bytes_max);
        let mut cutter = Cutter { delimiter, record_bytes_max, fields: String::new(), ends: Vec::new() };
        let text = Text::open(path, Format::Csv)?;
        let (first, others) = text.files().split_first().expect("a source has a file");
        let names = read_header(&mut Reading::glance(first)?, &mut cutter)?;
        for file in others {
            let found = read_header(&mut Reading::glance(file)?, &mut cutter)?;
            same_names(first, &names, file, &found)?;
        }
        let mut source = CsvSource {
            schema: text_schema(names.iter().cloned()),
            first: first.clone(),
            names,
            text,
            in_records: false,
            position: 0,
            batch_rows: batch_rows.max(1),
            cutter,
        };
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

    /// The columns in the order of the header, all text.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The next records, at most `rows_max`.
    fn gather(&mut self, rows_max: usize) -> Result<Option<Gathered>, SourceError> {
        let columns = self.names.iter().map(|_| StringBuilder::new()).collect();
        let mut gathered = Gathered { columns, positions: Vec::new(), faults: Vec::new(), bytes: 0 };
        match self.gather_into(&mut gathered, rows_max) {
            Err(error) if gathered.count() == 0 => Err(error),
            _ => Ok((gathered.count() > 0).then_some(gathered)),
        }
    }

    fn gather_into(&mut self, gathered: &mut Gathered, rows_max: usize) -> Result<(), SourceError> {
        while gathered.count() < rows_max && gathered.bytes < CHUNK_BYTES {
            let Some(reading) = self.text.reading()? else { break };
            if !self.in_records {
                let found = read_header(reading, &mut self.cutter)?;
                same_names(&self.first, &self.names, reading.file(), &found)?;
                self.in_records = true;
            }
            let window = reading.window();
            // Text appended to the file may close a quote.
            let mut forbid_growth = false;
            let (bytes, outcome) = match self.cutter.cut(window, reading.ended()) {
                Cut::Blank { bytes } => {
                    reading.pass(bytes);
                    continue;
                }
                Cut::Window => {
                    if !reading.more()? && reading.window().is_empty() {
                        self.text.finish();
                        self.in_records = false;
                    }
                    continue;
                }
                Cut::TooLong => {
                    let (bytes, length) = reading.take_line(self.cutter.record_bytes_max)?;
                    let detail = text::too_long(length, self.cutter.record_bytes_max);
                    gathered.fault(self.position, bytes, detail);
                    self.position += 1;
                    continue;
                }
                Cut::Open { bytes, at_end } => {
                    forbid_growth = at_end;
                    (bytes, Err(self.cutter.never_closed()))
                }
                Cut::Record { bytes, quotes } => {
                    let record = text::without_line_break(&window[..bytes]);
                    match (
                        str::from_utf8(record),
                        self.cutter.split(&String::from_utf8_lossy(record), quotes),
                    ) {
                        // Broken quotes cannot tell which line break ends the record: the first does.
                        (_, Err(detail)) => (first_line(&window[..bytes]), Err(detail)),
                        (Err(error), _) => (bytes, Err(not_utf8(&error))),
                        _ => (bytes, self.cutter.count_is(self.names.len())),
                    }
                }
            };
            match outcome {
                Ok(()) => gathered.record(self.position, &self.cutter),
                Err(detail) => {
                    let record = text::without_line_break(&window[..bytes]);
                    gathered.fault(self.position, record.to_vec(), detail);
                }
            }
            reading.take(bytes);
            if forbid_growth {
                reading.forbid_growth();
            }
            self.position += 1;
        }
        Ok(())
    }
}

impl Source for CsvSource {
    fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let gathered = self.gather(self.batch_rows)?;
        Ok(gathered.map(|g| text_chunk(&self.schema, g.columns, g.positions, g.faults)))
    }

    fn prefix(&self) -> Prefix {
        self.text.prefix()
    }
}

impl Cutter {
    /// Finds the end of the first record.
    fn cut(&self, window: &[u8], ended: bool) -> Cut {
        // What lies beyond the limit must not matter, or the outcome would depend on the blocks
        // that were read.
        let scope = &window[..window.len().min(self.record_bytes_max + 2)];
        let whole = ended && scope.len() == window.len();
        let (mut at, mut quotes) = (0, false);
        let found = loop {
            match memchr::memchr2(b'\n', b'"', &scope[at..]) {
                None => break if whole && !scope.is_empty() { Some(scope.len()) } else { None },
                Some(next) if scope[at + next] == b'\n' => break Some(at + next + 1),
                Some(next) => {
                    quotes = true;
                    at += next + 1;
                    match memchr::memchr(b'"', &scope[at..]) {
                        Some(closing) => at += closing + 1,
                        None => break None,
                    }
                }
            }
        };
        match found.map(|bytes: usize| (bytes, text::without_line_break(&scope[..bytes]).len())) {
            Some((bytes, 0)) => Cut::Blank { bytes },
            Some((bytes, length)) if length <= self.record_bytes_max => Cut::Record { bytes, quotes },
            None if scope.len() < self.record_bytes_max + 2 && !whole => Cut::Window,
            None if scope.is_empty() => Cut::Window,
            _ => {
                let bytes = first_line(scope);
                let fits = text::without_line_break(&scope[..bytes]).len() <= self.record_bytes_max;
                if fits { Cut::Open { bytes, at_end: whole } } else { Cut::TooLong }
            }
        }
    }

    /// Splits a record into fields; what is wrong with its quotes, if it cannot be split.
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
        let mut at = 0;
        loop {
            if bytes.get(at) == Some(&b'"') {
                loop {
                    at += 1;
                    let length = memchr::memchr(b'"', &bytes[at..]).ok_or_else(|| self.never_closed())?;
                    self.fields.push_str(&record[at..at + length]);
                    at += length + 1;
                    if bytes.get(at) != Some(&b'"') {
                        break;
                    }
                    self.fields.push('"');
                }
            } else {
                let length = memchr::memchr(self.delimiter, &bytes[at..]).unwrap_or(bytes.len() - at);
                let field = &record[at..at + length];
                if field.contains('"') {
                    return Err(format!(
                        "Field {} has a quote but does not begin with one; quote the field, and double the quotes in it.",
                        self.ends.len() + 1
                    ));
                }
                self.fields.push_str(field);
                at += length;
            }
            self.ends.push(self.fields.len());
            match bytes.get(at) {
                None => return Ok(()),
                Some(&byte) if byte == self.delimiter => at += 1,
                Some(_) => {
                    return Err(format!(
                        "Text follows the closing quote of field {}; double the quotes inside a quoted field.",
                        self.ends.len()
                    ));
                }
            }
        }
    }

    fn never_closed(&self) -> String {
        format!(
            "The line has a quote that is not closed within the file or within {} bytes; close it, or raise \
             `record_bytes_max` if such records are meant.",
            self.record_bytes_max
        )
    }

    fn count_is(&self, expected: usize) -> Result<(), String> {
        if self.ends.len() == expected {
            Ok(())
        } else {
            Err(format!("The number of fields is {}, and the header names {expected}.", self.ends.len()))
        }
    }

    fn each_field(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.fields[std::mem::replace(&mut start, end)..end])
    }
}

impl Gathered {
    fn count(&self) -> usize {
        self.positions.len() + self.faults.len()
    }

    fn record(&mut self, position: u64, cutter: &Cutter) {
        for (column, field) in self.columns.iter_mut().zip(cutter.each_field()) {
            column.append_option((!field.is_empty()).then_some(field));
        }
        self.positions.push(position);
        // A null costs memory too.
        self.bytes += cutter.fields.len() + 4 * cutter.ends.len();
    }

    fn fault(&mut self, position: u64, bytes: Vec<u8>, detail: String) {
        self.bytes += bytes.len();
        self.faults.push(Fault { position, bytes, detail });
    }
}

/// The names in the first row of a file, which is passed.
fn read_header(reading: &mut Reading, cutter: &mut Cutter) -> Result<Vec<String>, SourceError> {
    let refuse =
        |reading: &Reading, detail: String| SourceError::Header { path: reading.file().path.clone(), detail };
    let bytes = loop {
        match cutter.cut(reading.window(), reading.ended()) {
            Cut::Blank { bytes } => reading.pass(bytes),
            Cut::Window => {
                if !reading.more()? && reading.window().is_empty() {
                    return Err(refuse(reading, "it is empty".to_owned()));
                }
            }
            Cut::TooLong => {
                let detail = format!("its first row is longer than {} bytes", cutter.record_bytes_max);
                return Err(refuse(reading, detail));
            }
            Cut::Open { .. } => {
                return Err(refuse(reading, "its first row has a quote that is not closed".to_owned()));
            }
            Cut::Record { bytes, quotes } => {
                let record = text::without_line_break(&reading.window()[..bytes]);
                let split = match str::from_utf8(record) {
                    Ok(record) => cutter.split(record, quotes),
                    Err(error) => Err(not_utf8(&error)),
                };
                match split {
                    Ok(()) => break bytes,
                    Err(detail) => return Err(refuse(reading, detail)),
                }
            }
        }
    };
    reading.pass(bytes);
    let names: Vec<String> = cutter.each_field().map(str::to_owned).collect();
    if let Some(place) = names.iter().position(String::is_empty) {
        return Err(refuse(reading, format!("column {} has no name", place + 1)));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(refuse(reading, format!("it names column `{}` twice", pair[0])));
    }
    Ok(names)
}

fn same_names(
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
            return refuse(name, format!("`{here}` stands where `{name}` does there"));
        }
    }
    match (names.get(found.len()), found.get(names.len())) {
        (Some(missing), _) => refuse(missing, "a column is missing".to_owned()),
        (_, Some(more)) => refuse(more, "there is a column more".to_owned()),
        _ => Ok(()),
    }
}

fn not_utf8(error: &str::Utf8Error) -> String {
    format!("The record is not valid UTF-8 from byte {} on.", error.valid_up_to())
}

/// How many bytes the first line has, with its line break.
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

    /// All records as `position text`, fields joined by `|` and `-` for null, faults as `position !text`.
    fn records(path: &Path, from: u64, batch_rows: usize, record_bytes_max: usize) -> Vec<String> {
        let options = CsvOptions { record_bytes_max, ..CsvOptions::default() };
        let mut source = CsvSource::open(path, from, batch_rows, options).unwrap();
        let mut all = Vec::new();
        while let Some(chunk) = source.next().unwrap() {
            let Body::Rows { batch, positions } = &chunk.body else { panic!("CSV gives rows") };
            assert!(positions.len() + chunk.faults.len() <= batch_rows);
            for (row, &position) in positions.iter().enumerate() {
                let values = batch.columns().iter().map(|column| {
                    let column = column.as_string::<i32>();
                    if column.is_null(row) { "-" } else { column.value(row) }
                });
                all.push((position, values.collect::<Vec<_>>().join("|")));
            }
            for fault in &chunk.faults {
                assert!(fault.detail.ends_with('.'), "{}", fault.detail);
                all.push((fault.position, format!("!{}", String::from_utf8_lossy(&fault.bytes))));
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
    fn fields_are_text_and_empty_ones_null() {
        check(
            b"\xef\xbb\xbf\r\na,b\r\n1,x\r\n\n,\n\"\",\" \"\n\"a \"\"q\"\"\",\"l1\r\nl2,\"\n\0, 5\n7,8",
            1000,
            &["0 1|x", "1 -|-", "2 -| ", "3 a \"q\"|l1\r\nl2,", "4 \0| 5", "5 7|8"],
        );
    }

    #[test]
    fn a_record_that_cannot_be_read_is_a_fault_and_the_next_is_read() {
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
    fn broken_quotes_cost_the_line_they_stand_in() {
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
    fn a_record_over_the_limit_is_a_fault_and_one_at_the_limit_is_not() {
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
    fn a_huge_record_or_a_quote_left_open_does_not_swallow_the_file() {
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
    fn what_is_well_formed_is_read_as_the_csv_crate_reads_it() {
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
                assert_eq!(chunk.faults, []);
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
    fn any_bytes_are_read_in_the_same_way_whatever_the_batches() {
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
            (b"x,y\n", b"x,z\n", "`z` stands where `y` does there (column `y`)"),
            (b"x,y\n", b"x\n", "a column is missing (column `y`)"),
            (b"x,y\n", b"x,y,z\n", "there is a column more (column `z`)"),
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
    fn the_prefix_ends_with_the_last_record_and_lines_may_follow() {
        let (_folder, path) = input(b"a,b\n1,2\n\n3,4\n");
        let mut source = CsvSource::open(&path, 0, 1, CsvOptions::default()).unwrap();
        assert_eq!(source.prefix(), Prefix::default());
        source.next().unwrap();
        assert_eq!(source.prefix().files[0].bytes, 8);
        source.next().unwrap();
        assert!(source.next().unwrap().is_none());
        let prefix = source.prefix();
        assert_eq!(prefix.files[0].bytes, 13);
        fs::write(&path, "a,b\n1,2\n\n3,4\n5,6\n").unwrap();
        prefix.check(&path).unwrap();
        assert_eq!(records(&path, 2, 10, 100), ["2 5|6"]);
        fs::write(&path, "a,c\n1,2\n\n3,4\n5,6\n").unwrap();
        assert!(prefix.check(&path).is_err(), "the header is part of what was read");
    }

    #[test]
    fn a_file_may_not_grow_behind_a_quote_that_is_not_closed() {
        let (_folder, path) = input(b"a,b\n1,\"half\n");
        let mut source = CsvSource::open(&path, 0, 10, CsvOptions::default()).unwrap();
        assert_eq!(source.next().unwrap().unwrap().faults.len(), 1);
        source.prefix().check(&path).unwrap();
        fs::write(&path, "a,b\n1,\"half\nwhole\"\n").unwrap();
        let changed = source.prefix().check(&path).unwrap_err().to_string();
        assert!(changed.contains("has grown"), "{changed}");
    }

    #[test]
    fn only_ascii_that_is_no_quote_or_line_break_separates_fields() {
        let (_folder, path) = input(b"a\n");
        for delimiter in [b'"', b'\n', b'\r', 0, 0xe9] {
            let options = CsvOptions { delimiter, ..CsvOptions::default() };
            assert!(matches!(CsvSource::open(&path, 0, 1, options), Err(SourceError::Delimiter { .. })));
        }
    }
}
