//! Builds the rows of catalogue tables. A row names only the columns that differ from their
//! defaults.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::ScalarValue;

/// A value of a catalogue table; the column decides its width.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    Numbers(Vec<i64>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::Text(value)
    }
}

impl From<char> for Value {
    fn from(value: char) -> Value {
        Value::Text(value.to_string())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

macro_rules! from_number {
    ($($number:ty),*) => {$(
        impl From<$number> for Value {
            fn from(value: $number) -> Value {
                Value::Number(value.into())
            }
        }
    )*};
}

from_number!(i8, i16, i32, i64, u32);

/// Collects the rows of a catalogue table.
pub(super) struct TableBuilder {
    schema: SchemaRef,
    columns: Vec<Vec<Value>>,
    rows: usize,
}

impl TableBuilder {
    pub(super) fn new(schema: &SchemaRef) -> TableBuilder {
        let columns = vec![Vec::new(); schema.fields().len()];
        TableBuilder { schema: SchemaRef::clone(schema), columns, rows: 0 }
    }

    /// Adds a row with these values. Other columns are null if they may be, else false, zero or
    /// empty.
    pub(super) fn row(&mut self, values: impl IntoIterator<Item = (&'static str, Value)>) {
        for (column, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            column.push(default_of(field));
        }
        for (name, value) in values {
            let index = self.schema.index_of(name).unwrap_or_else(|_| panic!("no column {name}"));
            self.columns[index][self.rows] = value;
        }
        self.rows += 1;
    }

    /// The batch of all rows; `None` if there are none.
    pub(super) fn finish(self) -> Option<RecordBatch> {
        if self.rows == 0 {
            return None;
        }
        let columns = self.columns.into_iter().zip(self.schema.fields());
        let arrays: Vec<ArrayRef> = columns
            .map(|(values, field)| {
                let values = values.into_iter().map(|value| scalar(value, field.data_type()));
                ScalarValue::iter_to_array(values).expect("of one type")
            })
            .collect();
        Some(RecordBatch::try_new(self.schema, arrays).expect("values of the columns' types"))
    }
}

fn default_of(field: &Field) -> Value {
    if field.is_nullable() {
        return Value::Null;
    }
    match field.data_type() {
        DataType::Boolean => Value::Bool(false),
        DataType::Utf8 => Value::Text(String::new()),
        DataType::List(_) => Value::Numbers(Vec::new()),
        _ => Value::Number(0),
    }
}

/// The value as a scalar of the type of its column.
fn scalar(value: Value, data_type: &DataType) -> ScalarValue {
    let null = || ScalarValue::try_from(data_type).expect("the catalogue has such columns");
    match (value, data_type) {
        (Value::Null, _) => null(),
        (Value::Bool(value), _) => ScalarValue::from(value),
        (Value::Text(value), _) => ScalarValue::Utf8(Some(value)),
        (Value::Number(value), data_type) => {
            ScalarValue::from(value).cast_to(data_type).expect("a number that the column holds")
        }
        (Value::Numbers(values), DataType::List(element)) => {
            let values: Vec<ScalarValue> =
                values.into_iter().map(|value| scalar(Value::Number(value), element.data_type())).collect();
            ScalarValue::List(ScalarValue::new_list(&values, element.data_type(), true))
        }
        (value, data_type) => panic!("{value:?} in a column of {data_type}"),
    }
}

/// The rows of a catalogue table as batches; no batch if there are no rows.
pub(super) fn batches(builder: TableBuilder) -> Vec<RecordBatch> {
    builder.finish().into_iter().collect()
}

/// The pairs of names and values for [`TableBuilder::row`].
macro_rules! values {
    ($($name:ident: $value:expr),* $(,)?) => {
        [$((stringify!($name), $crate::catalogue::table::Value::from($value))),*]
    };
}

pub(super) use values;

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use expect_test::expect;

    use super::super::columns;
    use super::*;

    #[test]
    fn a_row_names_only_what_differs() {
        let tables = columns::pg_catalog();
        let table = tables.iter().find(|table| table.name == "pg_am").expect("it is there");
        let mut builder = TableBuilder::new(&table.schema);
        builder.row(values! { oid: 2u32, amname: "heap", amtype: 't' });
        builder.row(values! { oid: 3u32 });
        let batch = builder.finish().expect("two rows");
        expect![[r#"
            +-----+--------+-----------+--------+
            | oid | amname | amhandler | amtype |
            +-----+--------+-----------+--------+
            | 2   | heap   | 0         | t      |
            | 3   |        | 0         |        |
            +-----+--------+-----------+--------+"#]]
        .assert_eq(&pretty_format_batches(&[batch]).expect("a table").to_string());
    }
}
