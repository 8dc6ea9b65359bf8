//! Writes the rows of an answer as a table for people, or as CSV, JSON lines or Parquet for
//! programs.
//!
//! | value | table, CSV | JSON |
//! |---|---|---|
//! | binary | hexadecimal digits | a string of them |
//! | time | RFC 3339 | a string of it |
//! | decimal | all digits | a number of all digits |
//! | list, struct | as Arrow prints it; in CSV, JSON text | an array, an object |
//! | null | `NULL`; in CSV, nothing | `null` |
//!
//! A table is for reading: a line of text longer than [`LINE_CHARS_MAX`] is cut there, with a note.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::answer_format::Format;
use crate::error::QueryError;
use crate::json_rows;

/// The most characters that a line in a cell may have when an answer is written as a table.
pub const LINE_CHARS_MAX: usize = 4096;

/// Writes the rows of an answer to `out` in `format`, and returns the number of rows.
///
/// # Errors
/// When the query fails while it runs, the format cannot represent one of the answer's types, or
/// `out` cannot be written.
pub async fn write(
    format: Format,
    mut rows: SendableRecordBatchStream,
    out: &mut (impl Write + Send),
) -> Result<u64, QueryError> {
    let schema = rows.schema();
    if matches!(format, Format::Json | Format::Parquet) {
        refuse_equal_names(format, &schema)?;
    }
    let mut writer = Writer::new(format, &schema, out)?;
    let mut count = 0;
    while let Some(batch) = rows.try_next().await.map_err(|error| QueryError::of_run(&error))? {
        count += batch.num_rows() as u64;
        writer.write(batch)?;
    }
    writer.finish(&schema)?;
    Ok(count)
}

fn refuse_equal_names(format: Format, schema: &Schema) -> Result<(), QueryError> {
    let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(QueryError::SameName { column: pair[0].to_owned(), format }),
        None => Ok(()),
    }
}

/// The state of writing one answer.
enum Writer<'o, W: Write + Send> {
    Table { out: &'o mut W, batches: Vec<RecordBatch> },
    Csv { out: &'o mut W },
    Json { out: &'o mut W },
    Parquet(Box<ArrowWriter<&'o mut W>>),
}

impl<'o, W: Write + Send> Writer<'o, W> {
    fn new(format: Format, schema: &SchemaRef, out: &'o mut W) -> Result<Writer<'o, W>, QueryError> {
        Ok(match format {
            Format::Table => Writer::Table { out, batches: Vec::new() },
            Format::Csv => {
                let mut text = Vec::new();
                let header = RecordBatch::new_empty(Arc::clone(schema));
                nested_as_json(header)
                    .and_then(|header| arrow::csv::Writer::new(&mut text).write(&header))
                    .map_err(encode(Format::Csv))?;
                out.write_all(&text).map_err(QueryError::Output)?;
                Writer::Csv { out }
            }
            Format::Json => Writer::Json { out },
            Format::Parquet => {
                let zstd = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(zstd).build();
                let writer = ArrowWriter::try_new(out, Arc::clone(schema), Some(properties));
                Writer::Parquet(Box::new(writer.map_err(parquet_error)?))
            }
        })
    }

    fn write(&mut self, batch: RecordBatch) -> Result<(), QueryError> {
        let mut text = Vec::new();
        match self {
            Writer::Table { batches, .. } => {
                batches.push(batch);
                Ok(())
            }
            Writer::Csv { out } => {
                let mut writer = arrow::csv::WriterBuilder::new().with_header(false).build(&mut text);
                nested_as_json(batch).and_then(|batch| writer.write(&batch)).map_err(encode(Format::Csv))?;
                drop(writer);
                out.write_all(&text).map_err(QueryError::Output)
            }
            Writer::Json { out } => {
                let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut text);
                writer.write(&batch).and_then(|()| writer.finish()).map_err(encode(Format::Json))?;
                out.write_all(&text).map_err(QueryError::Output)
            }
            Writer::Parquet(writer) => writer.write(&batch).map_err(parquet_error),
        }
    }

    fn finish(self, schema: &SchemaRef) -> Result<(), QueryError> {
        match self {
            Writer::Table { out, mut batches } => {
                // Without any batch, there would be no header line.
                batches.insert(0, RecordBatch::new_empty(Arc::clone(schema)));
                let options = FormatOptions::default().with_null("NULL");
                let batches: Result<Vec<RecordBatch>, ArrowError> =
                    batches.into_iter().map(|batch| with_short_lines(batch, &options)).collect();
                let table = batches
                    .and_then(|batches| pretty_format_batches_with_options(&batches, &options))
                    .map_err(encode(Format::Table))?;
                writeln!(out, "{table}").and_then(|()| out.flush()).map_err(QueryError::Output)
            }
            Writer::Csv { out } | Writer::Json { out } => out.flush().map_err(QueryError::Output),
            Writer::Parquet(writer) => {
                let out = writer.into_inner().map_err(parquet_error)?;
                out.flush().map_err(QueryError::Output)
            }
        }
    }
}

fn encode(format: Format) -> impl Fn(ArrowError) -> QueryError {
    move |source| QueryError::Encode { format, source: source.into() }
}

fn parquet_error(error: ParquetError) -> QueryError {
    match error {
        ParquetError::External(cause) => match cause.downcast() {
            Ok(cause) => QueryError::Output(*cause),
            Err(source) => QueryError::Encode { format: Format::Parquet, source },
        },
        error => QueryError::Encode { format: Format::Parquet, source: error.into() },
    }
}

/// The batch with every line of its texts cut to [`LINE_CHARS_MAX`].
fn with_short_lines(batch: RecordBatch, options: &FormatOptions<'_>) -> Result<RecordBatch, ArrowError> {
    let fields = batch.schema_ref().fields();
    let short = fields.iter().zip(batch.columns()).map(|(field, column)| {
        if column.data_type().is_primitive() || column.data_type() == &DataType::Boolean {
            return Ok((Arc::clone(field), Arc::clone(column)));
        }
        let cells = ArrayFormatter::try_new(column, options)?;
        let texts = (0..column.len()).map(|row| {
            let text = cells.value(row).try_to_string()?;
            Ok(short_lines(&text).unwrap_or(text))
        });
        let texts: Result<Vec<String>, ArrowError> = texts.collect();
        let field = Field::new(field.name(), DataType::Utf8, false);
        Ok((Arc::new(field), Arc::new(StringArray::from(texts?)) as ArrayRef))
    });
    let (fields, columns): (Vec<Arc<Field>>, Vec<ArrayRef>) =
        short.collect::<Result<Vec<_>, ArrowError>>()?.into_iter().unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// The text with its long lines cut; `None` if no line is long.
fn short_lines(text: &str) -> Option<String> {
    let cut = |line: &str| line.char_indices().nth(LINE_CHARS_MAX).map(|(at, _)| at);
    text.split('\n').any(|line| cut(line).is_some()).then(|| {
        let short = |line: &str| match cut(line) {
            Some(at) => {
                let left = line[at..].chars().count();
                format!("{}… and {left} characters more, which --format json shows", &line[..at])
            }
            None => line.to_owned(),
        };
        text.split('\n').map(short).collect::<Vec<_>>().join("\n")
    })
}

/// The batch with JSON text in place of lists and structs, which CSV cannot represent.
fn nested_as_json(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if !batch.schema_ref().fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch);
    }
    let fields = batch.schema_ref().fields();
    let flat = fields.iter().zip(batch.columns()).map(|(field, column)| {
        if !field.data_type().is_nested() {
            return Ok((Arc::clone(field), Arc::clone(column)));
        }
        Ok((Arc::new(Field::new(field.name(), DataType::Utf8, true)), json_rows::column_texts(column)?))
    });
    let (fields, columns): (Vec<_>, Vec<_>) =
        flat.collect::<Result<Vec<_>, ArrowError>>()?.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ends_a_long_line_and_says_how_much_is_left() {
        let long = "é".repeat(LINE_CHARS_MAX + 3);
        assert_eq!(short_lines(&"é".repeat(LINE_CHARS_MAX)), None);
        let short = short_lines(&format!("first\n{long}\nlast")).expect("one line is long");
        let lines: Vec<&str> = short.split('\n').collect();
        assert_eq!((lines[0], lines[2]), ("first", "last"));
        assert_eq!(lines[1].trim_start_matches('é'), "… and 3 characters more, which --format json shows");
        let texts = StringArray::from(vec![Some(long.as_str()), None, Some("")]);
        let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).expect("one column");
        let batch = with_short_lines(batch, &FormatOptions::default().with_null("NULL")).expect("texts");
        let texts = arrow::array::AsArray::as_string::<i32>(batch.column(0));
        assert!(texts.value(0).contains("3 characters more"));
        assert_eq!((texts.value(1), texts.value(2)), ("NULL", ""));
    }
}
