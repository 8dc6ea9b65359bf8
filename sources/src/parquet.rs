//! The Parquet source: the rows of a file or folder, with only the requested columns.
//!
//! The position of a row is its number over all files in their order. The source opens every file
//! once at the start, so it refuses a folder whose files have different columns before it reads a
//! row.

use std::collections::HashSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use ::parquet::errors::ParquetError;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::error::SourceError;
use crate::file_set::{self, FileFormat, InputFile};
use crate::read_fingerprint::{FileFingerprint, ReadFingerprint};
use crate::{Body, Chunk, Source};

/// A source of rows from a Parquet file or a folder of them.
pub struct ParquetSource {
    files: Vec<ParquetFile>,
    schema: SchemaRef,
    /// The indices of the columns that are read.
    columns: Vec<usize>,
    batch_rows: usize,
    position: u64,
    /// The index of the file that is being read, or is next.
    current: usize,
    reader: Option<ParquetRecordBatchReader>,
    /// The number of rows of the current file that are still to be read.
    rows_left: u64,
    /// The fingerprints of the files up to the last one of which a row was read.
    fingerprints: Vec<FileFingerprint>,
}

struct ParquetFile {
    file: InputFile,
    rows: u64,
}

impl ParquetSource {
    /// Opens a source of the rows from position `from_position` on, with all columns or only the
    /// named ones, in the order of the file.
    ///
    /// # Errors
    /// When the files cannot be found or read, differ in their columns, lack a requested column, or
    /// have fewer than `from_position` rows.
    pub fn open(
        path: &Path,
        columns: Option<&[String]>,
        from_position: u64,
        batch_rows: usize,
    ) -> Result<ParquetSource, SourceError> {
        let mut files = Vec::new();
        let mut fields: Vec<Field> = Vec::new();
        for file in file_set::find(path, FileFormat::Parquet)? {
            let builder = open_file(&file)?;
            let rows = builder.metadata().file_metadata().num_rows();
            let rows = u64::try_from(rows)
                .map_err(|_| damaged(&file, "its footer claims a negative number of rows"))?;
            match files.first() {
                None => {
                    fields = builder.schema().fields().iter().map(|field| without_metadata(field)).collect()
                }
                Some(ParquetFile { file: first, .. }) => {
                    check_columns(first, &mut fields, &file, builder.schema())?
                }
            }
            files.push(ParquetFile { file, rows });
        }
        let chosen = choose(&files[0].file, &fields, columns)?;
        let schema = Schema::new(chosen.iter().map(|&column| fields[column].clone()).collect::<Vec<_>>());
        let mut source = ParquetSource {
            rows_left: files[0].rows,
            files,
            schema: Arc::new(schema),
            columns: chosen,
            batch_rows: batch_rows.max(1),
            position: 0,
            current: 0,
            reader: None,
            fingerprints: Vec::new(),
        };
        source.skip_to(path, from_position)?;
        Ok(source)
    }

    /// The columns that are read, in the order of the file.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn skip_to(&mut self, path: &Path, from_position: u64) -> Result<(), SourceError> {
        while self.position < from_position {
            let rows = self.rows_left.min(from_position - self.position);
            if rows > 0 {
                self.add_fingerprints()?;
                self.position += rows;
                self.rows_left -= rows;
            } else if !self.go_to_next_file() {
                return Err(SourceError::Short {
                    path: path.to_owned(),
                    records: self.position,
                    from_position,
                });
            }
        }
        Ok(())
    }

    /// Closes the current file and goes to the next one; `false` when there is none.
    fn go_to_next_file(&mut self) -> bool {
        self.reader = None;
        let Some(next) = self.files.get(self.current + 1) else {
            return false;
        };
        self.current += 1;
        self.rows_left = next.rows;
        true
    }

    /// Adds the current file, and empty files before it, to the fingerprints.
    fn add_fingerprints(&mut self) -> Result<(), SourceError> {
        for file in &self.files[self.fingerprints.len().min(self.current + 1)..=self.current] {
            self.fingerprints.push(FileFingerprint::whole(&file.file.name, &file.file.path)?);
        }
        Ok(())
    }

    /// A reader of the remaining rows of the current file.
    fn open_reader(&self) -> Result<ParquetRecordBatchReader, SourceError> {
        let ParquetFile { file, rows } = &self.files[self.current];
        let builder = open_file(file)?;
        let mut skipped = rows - self.rows_left;
        let mut groups = Vec::new();
        for (index, group) in builder.metadata().row_groups().iter().enumerate() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            if groups.is_empty() && skipped >= rows {
                skipped -= rows;
            } else {
                groups.push(index);
            }
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), self.columns.iter().copied());
        let skipped =
            usize::try_from(skipped).map_err(|_| damaged(file, "its footer claims too many rows"))?;
        let builder = builder.with_projection(mask).with_row_groups(groups).with_offset(skipped);
        decode(file, || builder.with_batch_size(self.batch_rows).build())
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, SourceError> {
        while self.rows_left == 0 {
            if !self.go_to_next_file() {
                return Ok(None);
            }
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.open_reader()?,
        };
        let file = &self.files[self.current].file;
        let batch = decode(file, || reader.next().transpose().map_err(ParquetError::from))?
            .filter(|batch| batch.num_rows() > 0)
            .ok_or_else(|| damaged(file, "it has fewer rows than its footer says"))?;
        let rows_left = self.rows_left.checked_sub(batch.num_rows() as u64);
        let rows_left = rows_left.ok_or_else(|| damaged(file, "it has more rows than its footer says"))?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        // Another program may have replaced the file since it was opened first.
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), batch.columns().to_vec(), &options)
                .map_err(|error| SourceError::Parquet { path: file.path.clone(), source: error.into() })?;
        self.add_fingerprints()?;
        self.rows_left = rows_left;
        self.reader = Some(reader);
        Ok(Some(batch))
    }
}

impl Source for ParquetSource {
    fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let Some(batch) = self.next_batch()? else {
            return Ok(None);
        };
        let first = self.position;
        self.position += batch.num_rows() as u64;
        let positions = (first..self.position).collect();
        Ok(Some(Chunk { body: Body::Rows { batch, positions }, unreadable: Vec::new() }))
    }

    fn fingerprint(&self) -> ReadFingerprint {
        ReadFingerprint { files: self.fingerprints.clone() }
    }
}

fn open_file(file: &InputFile) -> Result<ParquetRecordBatchReaderBuilder<File>, SourceError> {
    let opened =
        File::open(&file.path).map_err(|source| SourceError::Read { path: file.path.clone(), source })?;
    decode(file, || ParquetRecordBatchReaderBuilder::try_new(opened))
}

/// Runs the decoder, and turns a panic into an error: it panics on some damaged files.
fn decode<T>(file: &InputFile, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, SourceError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(SourceError::Parquet { path: file.path.clone(), source }),
        Err(_) => Err(damaged(file, "the decoder panicked on it")),
    }
}

fn damaged(file: &InputFile, detail: &str) -> SourceError {
    SourceError::Parquet { path: file.path.clone(), source: ParquetError::General(detail.to_owned()) }
}

/// A field without its metadata, which may differ from file to file.
fn without_metadata(field: &Field) -> Field {
    Field::new(field.name(), field.data_type().clone(), field.is_nullable())
}

/// Checks that a file has the columns `fields`; makes a field nullable if it is nullable in the
/// file.
fn check_columns(
    first: &InputFile,
    fields: &mut [Field],
    file: &InputFile,
    found: &Schema,
) -> Result<(), SourceError> {
    let refuse = |column: &str, detail: String| {
        let (path, first, column) = (file.path.clone(), first.path.clone(), column.to_owned());
        Err(SourceError::Columns { path, first, column, detail })
    };
    for (index, field) in fields.iter_mut().enumerate() {
        let Some(here) = found.fields().get(index) else {
            return refuse(field.name(), "a column is missing".to_owned());
        };
        if here.name() != field.name() {
            let detail = format!("it has `{}` where the other has `{}`", here.name(), field.name());
            return refuse(field.name(), detail);
        }
        if here.data_type() != field.data_type() {
            let detail = format!("the type is {} here and {} there", here.data_type(), field.data_type());
            return refuse(field.name(), detail);
        }
        field.set_nullable(field.is_nullable() || here.is_nullable());
    }
    match found.fields().get(fields.len()) {
        Some(more) => refuse(more.name(), "it has an additional column".to_owned()),
        None => Ok(()),
    }
}

/// The indices of the requested columns in the file, ascending.
fn choose(
    file: &InputFile,
    fields: &[Field],
    requested: Option<&[String]>,
) -> Result<Vec<usize>, SourceError> {
    let Some(requested) = requested else {
        return Ok((0..fields.len()).collect());
    };
    let existing: HashSet<&String> = fields.iter().map(Field::name).collect();
    if let Some(column) = requested.iter().find(|column| !existing.contains(column)) {
        let known = fields.iter().map(|field| field.name().clone()).collect();
        return Err(SourceError::UnknownColumn { path: file.path.clone(), column: column.clone(), known });
    }
    Ok((0..fields.len()).filter(|&index| requested.contains(fields[index].name())).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::parquet::arrow::ArrowWriter;
    use ::parquet::file::properties::WriterProperties;
    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int64Type;

    use super::*;

    /// Rows `(n, "r<n>", -n)`, in row groups of seven.
    fn write(path: &Path, rows: std::ops::Range<i64>) {
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
        let name: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(|n| format!("r{n}"))));
        let minus: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.map(|n| -n)));
        write_batch(path, &RecordBatch::try_from_iter([("n", n), ("name", name), ("minus", minus)]).unwrap());
    }

    fn write_batch(path: &Path, batch: &RecordBatch) {
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(7)).build();
        let mut writer =
            ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
    }

    fn read(source: &mut ParquetSource) -> RecordBatch {
        let mut batches = Vec::new();
        let mut expected = source.position;
        while let Some(Chunk { body: Body::Rows { batch, positions }, unreadable }) = source.next().unwrap() {
            assert!(unreadable.is_empty());
            for position in positions {
                assert_eq!(position, expected);
                expected += 1;
            }
            batches.push(batch);
        }
        concat_batches(&source.schema(), &batches).unwrap()
    }

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_later_position_gives_the_rest_of_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a.parquet"), 0..20);
        write(&folder.path().join("b.parquet"), 0..0);
        write(&folder.path().join("c.parquet"), 20..33);
        let whole = read(&mut ParquetSource::open(folder.path(), None, 0, 1000).unwrap());
        assert_eq!(whole.num_rows(), 33);
        assert_eq!(
            whole.column(0).as_primitive::<Int64Type>().values().to_vec(),
            (0..33).collect::<Vec<_>>()
        );
        for batch_rows in [1, 5, 1000] {
            for from in 0..=33 {
                let mut source = ParquetSource::open(folder.path(), None, from, batch_rows).unwrap();
                assert_eq!(read(&mut source), whole.slice(from as usize, 33 - from as usize), "from {from}");
            }
        }
        let short = ParquetSource::open(folder.path(), None, 34, 5).err().unwrap().to_string();
        assert!(short.contains("has 33 records, but 34 were read"), "{short}");
    }

    #[test]
    fn only_the_requested_columns_are_read_in_the_order_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path, 0..9);
        let requested = columns(&["minus", "n"]);
        let mut source = ParquetSource::open(&path, Some(&requested), 8, 100).unwrap();
        let batch = read(&mut source);
        assert_eq!(
            batch.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
            ["n", "minus"]
        );
        assert_eq!(batch.column(1).as_primitive::<Int64Type>().value(0), -8);
        let none = read(&mut ParquetSource::open(&path, Some(&[]), 1, 100).unwrap());
        assert_eq!((none.num_columns(), none.num_rows()), (0, 8));
        let unknown = ParquetSource::open(&path, Some(&columns(&["m"])), 0, 100).err().unwrap().to_string();
        assert!(unknown.contains(r#"no column `m`; use one of ["n", "name", "minus"]"#), "{unknown}");
    }

    #[test]
    fn files_that_differ_in_their_columns_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a.parquet"), 0..3);
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        write_batch(
            &folder.path().join("b.parquet"),
            &RecordBatch::try_from_iter([("n", text.clone()), ("name", text.clone())]).unwrap(),
        );
        let error = ParquetSource::open(folder.path(), None, 0, 10).err().unwrap().to_string();
        assert!(
            error.contains("b.parquet") && error.contains("a.parquet") && error.contains("column `n`"),
            "{error}"
        );
        assert!(error.contains("the type is Utf8 here and Int64 there"), "{error}");
    }

    #[test]
    fn a_column_is_nullable_if_it_is_in_any_file() {
        let folder = tempfile::tempdir().unwrap();
        let some: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let none: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        let write = |name: &str, values| {
            write_batch(&folder.path().join(name), &RecordBatch::try_from_iter([("n", values)]).unwrap());
        };
        write("a.parquet", some);
        write("b.parquet", none);
        let batch = read(&mut ParquetSource::open(folder.path(), None, 0, 10).unwrap());
        assert_eq!((batch.num_rows(), batch.column(0).null_count()), (2, 1));
    }

    #[test]
    fn the_fingerprint_covers_every_file_with_a_read_row_and_empty_files_before() {
        let folder = tempfile::tempdir().unwrap();
        for (name, rows) in [("a", 0..10), ("b", 0..0), ("c", 10..20), ("d", 0..0)] {
            write(&folder.path().join(format!("{name}.parquet")), rows);
        }
        let names = |from| {
            let source = ParquetSource::open(folder.path(), None, from, 10).unwrap();
            source.fingerprint().check(folder.path()).unwrap();
            source.fingerprint().files.into_iter().map(|file| file.name).collect::<Vec<_>>()
        };
        assert_eq!(names(0), [""; 0]);
        assert_eq!(names(10), ["a.parquet"]);
        assert_eq!(names(11), ["a.parquet", "b.parquet", "c.parquet"]);
        let mut source = ParquetSource::open(folder.path(), None, 0, 15).unwrap();
        read(&mut source);
        let fingerprint = source.fingerprint();
        assert_eq!(fingerprint.files.len(), 3);
        write(&folder.path().join("c.parquet"), 10..21);
        let changed = fingerprint.check(folder.path()).unwrap_err().to_string();
        assert!(changed.contains("c.parquet") && changed.contains("start a new data folder"), "{changed}");
    }

    #[test]
    fn damaged_files_are_errors_and_never_panics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path, 0..20);
        let whole = fs::read(&path).unwrap();
        let read = |bytes: &[u8]| -> Result<usize, SourceError> {
            fs::write(&path, bytes).unwrap();
            let mut source = ParquetSource::open(&path, None, 3, 4)?;
            let mut rows = 0;
            while let Some(Chunk { body: Body::Rows { batch, .. }, .. }) = source.next()? {
                rows += batch.num_rows();
            }
            Ok(rows)
        };
        assert_eq!(read(&whole).unwrap(), 17);
        for length in [0, 3, 4, 12, whole.len() / 2, whole.len() - 1] {
            let error = read(&whole[..length]).unwrap_err().to_string();
            assert!(error.contains("a.parquet") && error.contains("complete Parquet file"), "{error}");
        }
        for index in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[index] ^= 1 << (index % 8);
            // A flipped bit in a value gives another value, which only a seal can detect.
            let _ = read(&bytes);
        }
    }
}
