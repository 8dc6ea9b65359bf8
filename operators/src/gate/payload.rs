//! The payload of one JSON record, read by its schema into cells, and cells grown into columns.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use tidegate_facts::json::{self, JsonFault};
use tidegate_facts::time::parse_rfc3339_micros;
use tidegate_facts::{Field, FieldType, PayloadSchema};

use super::literal::{self, NotDecimal};

/// The value of one field in one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// The field does not stand in the record.
    Absent,
    /// It stands there as `null`, which means the same.
    Null,
    /// Of a field of that type, as all below.
    Bool(bool),
    /// Of 32 or 64 bits.
    Integer(i64),
    /// Unscaled.
    Decimal(i128),
    /// Finite.
    Float(f64),
    /// Borrowed from the record unless it holds an escape.
    Text(Cow<'a, str>),
    /// In microseconds.
    Time(i64),
}

/// Reads the object `text` into one cell for each field of `schema`.
///
/// # Errors
/// A fault that names the field: one that the schema does not have, that stands twice, that is
/// missing, or that does not have its type.
pub fn read<'a>(text: &'a str, schema: &PayloadSchema, cells: &mut Vec<Cell<'a>>) -> Result<(), JsonFault> {
    let fields = &schema.fields;
    cells.clear();
    cells.resize(fields.len(), Cell::Absent);
    // Most records have their fields in the schema's order, so the next one is tried first.
    let mut next = 0;
    json::for_each_field(text, |key, value| {
        let place = match fields.get(next) {
            Some(field) if field.name == key => next,
            _ => schema.index_of(key).ok_or_else(|| {
                let known: Vec<&str> = fields.iter().map(|f| f.name.as_str()).collect();
                JsonFault(format!(
                    "`{}` is not a field of the payload; use those of {known:?}, or declare it in the policy",
                    json::shown(key)
                ))
            })?,
        };
        next = place + 1;
        if cells[place] != Cell::Absent {
            return Err(JsonFault(format!("`{key}` stands twice")));
        }
        cells[place] = cell(value, &fields[place])?;
        Ok(())
    })?;
    check_missing(schema, cells)
}

/// As [`read`], from the places of fields, none of them twice, and the source texts of their values.
///
/// # Errors
/// A fault that names a field that is missing or does not have its type.
pub fn read_values<'a>(
    values: &[(usize, &'a str)],
    schema: &PayloadSchema,
    cells: &mut Vec<Cell<'a>>,
) -> Result<(), JsonFault> {
    cells.clear();
    cells.resize(schema.fields.len(), Cell::Absent);
    for (place, value) in values {
        cells[*place] = cell(value, &schema.fields[*place])?;
    }
    check_missing(schema, cells)
}

fn check_missing(schema: &PayloadSchema, cells: &[Cell<'_>]) -> Result<(), JsonFault> {
    for (field, cell) in schema.fields.iter().zip(cells) {
        if field.required && matches!(cell, Cell::Absent | Cell::Null) {
            return Err(missing(&field.name));
        }
    }
    Ok(())
}

/// A fault that says that a required field has no value.
pub fn missing(field: &str) -> JsonFault {
    JsonFault(format!("`{field}` is missing; send it, or declare it optional in the policy"))
}

/// Reads one JSON value, whose syntax was checked, as a value of the type.
fn cell<'a>(raw: &'a str, field: &Field) -> Result<Cell<'a>, JsonFault> {
    if raw == "null" {
        return Ok(Cell::Null);
    }
    let is_string = raw.starts_with('"');
    let field_type = field.field_type;
    let cell = match field_type {
        FieldType::Text => json::string(raw).map(Cell::Text),
        FieldType::Int64 | FieldType::Decimal(..) if !is_string => value(raw, field_type),
        FieldType::Timestamp | FieldType::Int64 | FieldType::Decimal(..) => {
            json::string(raw).and_then(|text| value(&text, field_type))
        }
        _ if is_string => Err(json::expected(&form(field_type), raw)),
        _ => value(raw, field_type),
    };
    cell.map_err(|fault| JsonFault(format!("`{}`: {fault}", field.name)))
}

/// Reads a text strictly as a value of a type that is not text.
///
/// # Errors
/// A fault that says what was expected and what was found.
pub fn value(text: &str, field_type: FieldType) -> Result<Cell<'static>, JsonFault> {
    let cell = match field_type {
        FieldType::Bool => match text {
            "true" => Some(Cell::Bool(true)),
            "false" => Some(Cell::Bool(false)),
            _ => None,
        },
        FieldType::Int32 => literal::integer(text).filter(|v| i32::try_from(*v).is_ok()).map(Cell::Integer),
        FieldType::Int64 => literal::integer(text).map(Cell::Integer),
        FieldType::Float64 => literal::float(text).map(Cell::Float),
        FieldType::Text => unreachable!("a text is taken as it is"),
        FieldType::Timestamp => parse_rfc3339_micros(text).map(Cell::Time),
        FieldType::Decimal(precision, scale) => match literal::decimal(text, precision, scale) {
            Ok(unscaled) => Some(Cell::Decimal(unscaled)),
            Err(NotDecimal::Number) => None,
            Err(NotDecimal::Scale) => {
                let JsonFault(found) = json::expected(&form(field_type), text);
                return Err(JsonFault(format!("{found}, and nothing is rounded here")));
            }
            Err(NotDecimal::Digits) => return Err(json::expected(&form(field_type), text)),
        },
    };
    cell.ok_or_else(|| json::expected(&form(field_type), text))
}

/// What a value of the type looks like.
pub fn form(field_type: FieldType) -> String {
    match field_type {
        FieldType::Bool => "true or false".to_owned(),
        FieldType::Int32 => "a whole number of 32 bits".to_owned(),
        FieldType::Int64 => "a whole number of 64 bits".to_owned(),
        FieldType::Float64 => "a finite number".to_owned(),
        FieldType::Text => "text".to_owned(),
        FieldType::Timestamp => "a time such as 2018-04-01T00:00:31.000000Z".to_owned(),
        FieldType::Decimal(precision, scale) => {
            format!("a decimal number of at most {precision} digits, {scale} of them after the point")
        }
    }
}

/// One column of a payload, as it grows.
pub enum Column {
    /// Of that type, as all below.
    Bool(BooleanBuilder),
    /// Of 32 bits.
    Int32(Int32Builder),
    /// Of 64 bits.
    Int64(Int64Builder),
    /// Finite.
    Float64(Float64Builder),
    /// With its digits and scale.
    Decimal(Decimal128Builder, u8, i8),
    /// UTF-8.
    Text(StringBuilder),
    /// Microseconds, UTC.
    Timestamp(TimestampMicrosecondBuilder),
}

impl Column {
    /// An empty column.
    pub fn new(field_type: FieldType) -> Column {
        match field_type {
            FieldType::Bool => Column::Bool(BooleanBuilder::new()),
            FieldType::Int32 => Column::Int32(Int32Builder::new()),
            FieldType::Int64 => Column::Int64(Int64Builder::new()),
            FieldType::Float64 => Column::Float64(Float64Builder::new()),
            FieldType::Decimal(precision, scale) => {
                Column::Decimal(Decimal128Builder::new(), precision, scale)
            }
            FieldType::Text => Column::Text(StringBuilder::new()),
            FieldType::Timestamp => Column::Timestamp(TimestampMicrosecondBuilder::new()),
        }
    }

    /// Appends one cell.
    ///
    /// # Panics
    /// When the cell was read for another type.
    pub fn push(&mut self, cell: &Cell<'_>) {
        match (self, cell) {
            (Column::Bool(column), Cell::Bool(value)) => column.append_value(*value),
            (Column::Int32(column), Cell::Integer(value)) => {
                column.append_value(i32::try_from(*value).expect("the range was checked on reading"));
            }
            (Column::Int64(column), Cell::Integer(value)) => column.append_value(*value),
            (Column::Float64(column), Cell::Float(value)) => column.append_value(*value),
            (Column::Decimal(column, ..), Cell::Decimal(value)) => column.append_value(*value),
            (Column::Text(column), Cell::Text(value)) => column.append_value(value),
            (Column::Timestamp(column), Cell::Time(value)) => column.append_value(*value),
            (column, Cell::Absent | Cell::Null) => column.push_null(),
            (_, cell) => unreachable!("{cell:?} was read for another type"),
        }
    }

    fn push_null(&mut self) {
        match self {
            Column::Bool(column) => column.append_null(),
            Column::Int32(column) => column.append_null(),
            Column::Int64(column) => column.append_null(),
            Column::Float64(column) => column.append_null(),
            Column::Decimal(column, ..) => column.append_null(),
            Column::Text(column) => column.append_null(),
            Column::Timestamp(column) => column.append_null(),
        }
    }

    /// The column as Arrow has it.
    pub fn finish(self) -> ArrayRef {
        match self {
            Column::Bool(mut column) => Arc::new(column.finish()),
            Column::Int32(mut column) => Arc::new(column.finish()),
            Column::Int64(mut column) => Arc::new(column.finish()),
            Column::Float64(mut column) => Arc::new(column.finish()),
            Column::Decimal(mut column, precision, scale) => Arc::new(
                column
                    .finish()
                    .with_precision_and_scale(precision, scale)
                    .expect("the schema's scale is within its digits"),
            ),
            Column::Text(mut column) => Arc::new(column.finish()),
            Column::Timestamp(mut column) => Arc::new(column.finish().with_timezone("UTC")),
        }
    }
}
