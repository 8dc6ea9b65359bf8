//! Payload schemas: the fields of an event type's payload and their types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Fields, TimeUnit};

/// The type of one field of a payload schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer; a JSON number in canonical JSON.
    Int32,
    /// A 64-bit integer; a string in canonical JSON.
    Int64,
    /// A finite binary floating-point number.
    Float64,
    /// An exact decimal: the number of digits (at most 18), and how many of them follow the point.
    Decimal(u8, i8),
    /// UTF-8 text.
    Text,
    /// A time in microseconds since 1970-01-01 UTC.
    Timestamp,
}

impl FieldType {
    /// Reads `bool`, `int32`, `int64`, `float64`, `decimal(P,S)`, `text` or `timestamp`.
    ///
    /// # Errors
    /// A sentence that lists the types, when `text` names none of them.
    pub fn parse(text: &str) -> Result<FieldType, String> {
        let field_type = match text {
            "bool" => FieldType::Bool,
            "int32" => FieldType::Int32,
            "int64" => FieldType::Int64,
            "float64" => FieldType::Float64,
            "text" => FieldType::Text,
            "timestamp" => FieldType::Timestamp,
            _ => return FieldType::parse_decimal(text),
        };
        Ok(field_type)
    }

    fn parse_decimal(text: &str) -> Result<FieldType, String> {
        let wrong = || {
            format!(
                "`{text}` is not a type; use bool, int32, int64, float64, decimal(P,S) with P at most 18, \
                 text or timestamp"
            )
        };
        let inner = text.strip_prefix("decimal(").and_then(|t| t.strip_suffix(')')).ok_or_else(wrong)?;
        let (digits, scale) = inner.split_once(',').ok_or_else(wrong)?;
        let digits: u8 = digits.trim().parse().map_err(|_| wrong())?;
        let scale: i8 = scale.trim().parse().map_err(|_| wrong())?;
        if (1..=18).contains(&digits) && (0..=digits.cast_signed()).contains(&scale) {
            Ok(FieldType::Decimal(digits, scale))
        } else {
            Err(wrong())
        }
    }

    /// The Arrow type of columns of this field.
    pub fn arrow(self) -> DataType {
        match self {
            FieldType::Bool => DataType::Boolean,
            FieldType::Int32 => DataType::Int32,
            FieldType::Int64 => DataType::Int64,
            FieldType::Float64 => DataType::Float64,
            FieldType::Decimal(digits, scale) => DataType::Decimal128(digits, scale),
            FieldType::Text => DataType::Utf8,
            FieldType::Timestamp => timestamp(),
        }
    }
}

impl std::fmt::Display for FieldType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FieldType::Bool => f.write_str("bool"),
            FieldType::Int32 => f.write_str("int32"),
            FieldType::Int64 => f.write_str("int64"),
            FieldType::Float64 => f.write_str("float64"),
            FieldType::Decimal(digits, scale) => write!(f, "decimal({digits},{scale})"),
            FieldType::Text => f.write_str("text"),
            FieldType::Timestamp => f.write_str("timestamp"),
        }
    }
}

/// The Arrow type of payload fields that are a `timestamp`, and of all other times: microseconds
/// since 1970-01-01, UTC.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

/// One field of a payload schema: its name, its type, and whether it is required.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// The key of the field in the payload object.
    pub name: String,
    /// The type of its values.
    pub field_type: FieldType,
    /// Whether the gate refuses a record without it.
    pub required: bool,
}

/// The payload schema of an event type: the fields of its payload, as declared. The gate refuses
/// records with other fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PayloadSchema {
    /// The fields in the order of their declaration; their names are unique.
    pub fields: Vec<Field>,
}

impl PayloadSchema {
    /// The Arrow fields of a payload column.
    pub fn arrow(&self) -> Fields {
        self.fields.iter().map(|f| ArrowField::new(&f.name, f.field_type.arrow(), !f.required)).collect()
    }

    /// The index of the field `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }
}
