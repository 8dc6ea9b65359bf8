//! How rows arrive: each type of Arrow as one that the encoder knows, under the names that Postgres would give.
//!
//! The encoder of `arrow-pg` describes more types than it can write, and writes some inside lists by their place alone. What it
//! cannot write is cast as the rows are sent, behind the plan: order, limits and what `EXPLAIN` says stay as they are.
//!
//! | a column of | arrives as |
//! |---|---|
//! | bytes of a fixed size | `bytea` |
//! | texts by their numbers (a dictionary) | `text` |
//! | lists of lists, maps | `text`, their JSON |
//! | other lists | an array of what its elements arrive as |
//! | structs | a record of what its fields arrive as |

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, DictionaryArray, Int32Array, MapArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::DFSchema;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::sql::sqlparser::ast::{Expr, SelectItem, SetExpr, Statement};
use datafusion_postgres::arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch, into_pg_type};
use datafusion_postgres::pgwire::api::portal::Format;
use datafusion_postgres::pgwire::api::results::{FieldInfo, QueryResponse};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::data::DataRow;
use datafusion_postgres::pgwire::types::format::FormatOptions;
use futures::{Stream, StreamExt, stream};

use crate::json;

/// The columns of an answer, as they arrive.
#[derive(Clone, Debug)]
pub(super) struct Columns(SchemaRef);

impl Columns {
    /// Those of what a statement gives.
    pub(super) fn of(schema: &Schema, statement: &Statement) -> Columns {
        let names = names(statement).filter(|names| names.len() == schema.fields().len());
        let fields = schema.fields().iter().enumerate().map(|(at, field)| {
            let name = names.as_ref().and_then(|names| names[at].clone()).unwrap_or(field.name().clone());
            let arrives = Field::new(name, arrives(field.data_type()), field.is_nullable());
            arrives.with_metadata(field.metadata().clone())
        });
        Columns(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }

    /// Them as the columns of a plan, if each has a name of its own.
    pub(super) fn schema(&self) -> Option<DFSchema> {
        DFSchema::try_from(Arc::clone(&self.0)).ok()
    }

    /// What a client is told of them.
    pub(super) fn described(
        &self,
        format: &Format,
        options: Option<Arc<FormatOptions>>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        arrow_schema_to_pg_fields(&self.0, format, options)
    }

    /// The rows of an answer, in a format.
    pub(super) fn answer(
        &self,
        rows: SendableRecordBatchStream,
        format: &Format,
        options: Arc<FormatOptions>,
    ) -> PgWireResult<QueryResponse> {
        let fields = Arc::new(self.described(format, Some(options))?);
        let (columns, described) = (self.clone(), Arc::clone(&fields));
        let rows = rows.flat_map(move |batch| match batch {
            Ok(batch) => columns.rows(&batch, &described).left_stream(),
            Err(error) => stream::once(async { Err(PgWireError::ApiError(Box::new(error))) }).right_stream(),
        });
        Ok(QueryResponse::new(fields, rows))
    }

    /// The rows of a batch, as a client is told of them.
    pub(super) fn rows(
        &self,
        batch: &RecordBatch,
        fields: &Arc<Vec<FieldInfo>>,
    ) -> impl Stream<Item = PgWireResult<DataRow>> + Send + use<> {
        let rows: Box<dyn Iterator<Item = PgWireResult<DataRow>> + Send> = match self.arrived(batch) {
            Ok(batch) => encode_recordbatch(Arc::clone(fields), batch),
            Err(error) => Box::new(std::iter::once(Err(PgWireError::ApiError(Box::new(error))))),
        };
        stream::iter(rows)
    }

    fn arrived(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let arrived = self.0.fields().iter().zip(batch.columns()).map(|(field, column)| {
            let own = arrives(column.data_type());
            // A parameter's value may have made another type of what was described before it came.
            let is_described = match (into_pg_type(&own), into_pg_type(field.data_type())) {
                (Ok(own), Ok(described)) => own == described,
                _ => true,
            };
            let arrived = match field.data_type() {
                _ if is_described => own,
                // A double in the place of a decimal keeps digits that the decimal had no place for.
                DataType::Decimal128(..) if own.is_floating() => DataType::Decimal128(38, 15),
                described => described.clone(),
            };
            let column = arrive(column, &arrived)?;
            Ok((Arc::new(field.as_ref().clone().with_data_type(arrived).with_nullable(true)), column))
        });
        let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) =
            arrived.collect::<Result<Vec<_>, ArrowError>>()?.into_iter().unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
    }
}

/// The type that a value of some type arrives as.
pub(super) fn arrives(data_type: &DataType) -> DataType {
    let inside = |field: &FieldRef| {
        Arc::new(field.as_ref().clone().with_data_type(element(field.data_type())).with_nullable(true))
    };
    match data_type {
        DataType::Null => DataType::Utf8,
        // The encoder looks for nulls in a dictionary, and not among intervals.
        DataType::Interval(_) => DataType::Dictionary(Box::new(DataType::Int32), Box::new(data_type.clone())),
        DataType::Dictionary(_, values) => arrives(values),
        DataType::RunEndEncoded(_, values) => arrives(values.data_type()),
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(_, scale) => DataType::Decimal128(38, *scale),
        DataType::Map(_, _) => DataType::Utf8,
        DataType::List(of)
        | DataType::LargeList(of)
        | DataType::ListView(of)
        | DataType::LargeListView(of)
        | DataType::FixedSizeList(of, _) => match of.data_type() {
            of if is_list(of) || matches!(of, DataType::Map(_, _)) => DataType::Utf8,
            _ => DataType::List(inside(of)),
        },
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inside).collect()),
        other => other.clone(),
    }
}

/// The type that an element of a list or a field of a struct arrives as.
fn element(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Interval(_) => data_type.clone(),
        other => arrives(other),
    }
}

fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(_, _)
    )
}

/// A column as the type that it arrives as.
fn arrive(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match to {
        to if column.data_type() == to => Ok(Arc::clone(column)),
        DataType::Dictionary(_, of) if **of == *column.data_type() => {
            let rows = 0..column.len();
            let keys: Int32Array = rows.map(|row| column.is_valid(row).then_some(row as i32)).collect();
            Ok(Arc::new(DictionaryArray::try_new(keys, Arc::clone(column))?))
        }
        DataType::Utf8 if is_list(column.data_type()) || column.as_any().is::<MapArray>() => {
            json::texts(column)
        }
        to => cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

/// What Postgres calls the columns of a `SELECT` where DataFusion would show their expressions; `None` for a column that has a
/// name, and where it cannot be told which column is which.
fn names(statement: &Statement) -> Option<Vec<Option<String>>> {
    let Statement::Query(query) = statement else { return None };
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(query) => body = query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return None,
        }
    };
    let name = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => Some(None),
        SelectItem::UnnamedExpr(expr) => Some(Some(called(expr).unwrap_or_else(|| "?column?".to_owned()))),
        SelectItem::ExprWithAlias { .. } => Some(None),
        _ => None,
    };
    select.projection.iter().map(name).collect()
}

/// What Postgres calls a column without a name: its function, or what is cast.
fn called(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(column) => Some(column.value.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|column| column.value.clone()),
        Expr::Function(function) => {
            let name = function.name.0.last()?.as_ident()?;
            Some(if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() })
        }
        Expr::Cast { expr, data_type, .. } => {
            called(expr).or_else(|| Some(type_name(&data_type.to_string())))
        }
        Expr::Nested(expr) | Expr::Collate { expr, .. } | Expr::AtTimeZone { timestamp: expr, .. } => {
            called(expr)
        }
        Expr::Case { else_result, .. } => {
            Some(else_result.as_deref().and_then(called).unwrap_or_else(|| "case".to_owned()))
        }
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::Tuple(_) => Some("row".to_owned()),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.as_slice() {
                [SelectItem::UnnamedExpr(expr)] => called(expr),
                [SelectItem::ExprWithAlias { alias, .. }] => Some(alias.value.clone()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The short name that Postgres has for a type.
fn type_name(written: &str) -> String {
    let name = written.to_lowercase();
    let name = name.split(['(', '[']).next().unwrap_or_default().trim();
    match name {
        "smallint" => "int2",
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" | "double" | "float" => "float8",
        "decimal" | "dec" => "numeric",
        "boolean" => "bool",
        "character varying" => "varchar",
        "timestamp with time zone" => "timestamptz",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use arrow::array::{FixedSizeBinaryArray, IntervalYearMonthArray, ListArray, StringArray};
    use arrow::datatypes::{Int32Type, IntervalUnit};
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it is SQL").remove(0)
    }

    #[test]
    fn columns_without_a_name_are_called_as_postgres_calls_them() {
        let named = |sql: &str| {
            let names = names(&parsed(sql)).expect("each is known");
            names.into_iter().map(|name| name.unwrap_or_else(|| "-".to_owned())).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(named("SELECT 1, 'a', 1 + 2, -x"), "?column? ?column? ?column? ?column?");
        assert_eq!(named("SELECT a, t.a, a AS b, 1 AS c"), "- - - -");
        assert_eq!(
            named("SELECT count(*), pg_catalog.Version(), current_user"),
            "count version current_user"
        );
        assert_eq!(named("SELECT a::text, 1::bigint, CAST('1' AS numeric(3, 1))"), "a int8 numeric");
        assert_eq!(named("SELECT CASE WHEN a THEN 1 END, (SELECT max(b) FROM t)"), "case max");
        assert_eq!(named("SELECT count(*) FROM t UNION ALL SELECT 2"), "count");
        assert!(names(&parsed("SELECT *, 1 FROM t")).is_none(), "nobody knows how many columns * is");
    }

    #[test]
    fn what_the_encoder_does_not_know_is_cast_to_what_it_knows() {
        let bytes = FixedSizeBinaryArray::try_from_iter([[1u8, 2], [3, 4]].iter()).expect("of one size");
        let words: DictionaryArray<Int32Type> = vec![Some("a"), None].into_iter().collect();
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let nested = ListArray::try_new(
            Arc::new(Field::new("item", lists.data_type().clone(), true)),
            arrow::buffer::OffsetBuffer::from_lengths([1, 1]),
            Arc::new(lists.clone()),
            None,
        );
        let months = IntervalYearMonthArray::from(vec![Some(3), None]);
        let columns: [(&str, ArrayRef, DataType); 5] = [
            ("bytes", Arc::new(bytes), DataType::Binary),
            ("words", Arc::new(words), DataType::Utf8),
            ("lists", Arc::new(lists.clone()), lists.data_type().clone()),
            ("nested", Arc::new(nested.expect("two lists")), DataType::Utf8),
            (
                "months",
                Arc::new(months),
                DataType::Dictionary(
                    Box::new(DataType::Int32),
                    Box::new(DataType::Interval(IntervalUnit::YearMonth)),
                ),
            ),
        ];
        for (name, column, wanted) in &columns {
            assert_eq!(arrives(column.data_type()), *wanted, "{name}");
            let arrived = arrive(column, wanted).expect("it can be cast");
            assert_eq!(arrived.data_type(), wanted, "{name}");
            assert_eq!(arrived.len(), 2, "{name}");
            assert_eq!(arrived.logical_null_count(), column.logical_null_count(), "{name}");
        }
        let texts = arrive(&columns[3].1, &DataType::Utf8).expect("it can be written");
        assert_eq!(
            texts.as_ref(),
            &StringArray::from(vec![Some("[[1,null]]"), Some("[null]")]) as &dyn Array
        );
        let records =
            DataType::Struct(vec![Field::new("digest", DataType::FixedSizeBinary(32), false)].into());
        let lists = DataType::List(Arc::new(Field::new("item", records, true)));
        let DataType::List(of) = arrives(&lists) else { panic!("{lists} arrives as {}", arrives(&lists)) };
        let wanted = DataType::Struct(vec![Field::new("digest", DataType::Binary, true)].into());
        assert_eq!(of.data_type(), &wanted);
    }
}
