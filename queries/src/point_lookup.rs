//! Answers look-ups of one key in a timeline without the planner.
//!
//! `SELECT columns FROM timeline WHERE key = value` is the most frequent statement of a running
//! service, and planning it takes many times as long as reading its rows. A statement of exactly
//! this form is answered from the timeline's batches: as of the same tick, with the same columns,
//! and with the same rows in the same order as a planned one (`tests/live_tables.rs` compares
//! them).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, ObjectNamePart, Query, SelectItem, SetExpr, Statement, TableAlias,
    TableFactor, Value, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidegate_dataflows::timeline_tables::TimelineTableRows;
use tidegate_facts::Tick;

use crate::error::QueryError;
use crate::timelines::TimelineProvider;

/// The timelines in which one key can be looked up without the planner, by name.
pub(crate) type Timelines = BTreeMap<String, Arc<TimelineProvider>>;

/// The most rows of an answer that an HTTP thread builds itself: fewer than waking another thread
/// costs.
const FEW_ROWS_MAX: usize = 512;

/// The most bytes of a text that an HTTP thread parses itself.
const SHORT_BYTES_MAX: usize = 512;

/// A statement that looks up one key of a timeline.
pub(crate) struct PointLookup {
    timeline: Arc<TimelineProvider>,
    /// The indices of the columns, and their names in the answer.
    columns: Vec<(usize, String)>,
    /// The key, as a column of one row.
    key: ArrayRef,
}

impl PointLookup {
    /// The look-up of a statement with resolved names; `None` if it is anything more.
    pub(crate) fn of(statement: &AnyStatement, timelines: &Timelines) -> Option<PointLookup> {
        let AnyStatement::Statement(statement) = statement else { return None };
        let Statement::Query(query) = statement.as_ref() else { return None };
        // Most statements read other tables; only a statement that may be a look-up is cloned.
        let table = table_of(query)?;
        let timeline = Arc::clone(timelines.get(table)?);
        let mut rest = query.as_ref().clone();
        let LookupParts { items, alias, condition } = take_parts(&mut rest)?;
        if rest != *REST_OF_LOOKUP || alias.as_ref().is_some_and(|a| !a.columns.is_empty() || a.at.is_some())
        {
            return None;
        }
        let qualifier = alias.map_or_else(|| table.to_owned(), |alias| alias.name.value);
        let (columns, key) = {
            let schema = &timeline.table().schema;
            let table = LookupTable { schema, qualifier: &qualifier };
            (table.columns(items)?, table.key(condition?)?)
        };
        Some(PointLookup { timeline, columns, key })
    }

    /// Whether a text may be a look-up and is cheap to parse: it is short, and the parser never
    /// backtracks in it.
    pub(crate) fn is_candidate(sql: &str) -> bool {
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b" _,.*='\"-\n".contains(&byte);
        let is_name = |word: &str| word.bytes().filter(|byte| *byte == b'.').count() < 2;
        let is_select = sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"));
        is_select
            && sql.len() <= SHORT_BYTES_MAX
            && sql.bytes().all(is_usual)
            && sql.split([' ', ',', '=', '\n']).all(is_name)
    }

    /// The rows of the answer as of the tick `before`.
    ///
    /// # Errors
    /// When the timeline cannot be read as of that tick.
    pub(crate) fn rows(&self, before: Tick) -> Result<SendableRecordBatchStream, QueryError> {
        let parts = self.worker_rows(before).map_err(|error| QueryError::of_plan(&error))?;
        self.named(parts.into_iter().flatten().collect())
    }

    /// The same rows; `None` if they are more than [`FEW_ROWS_MAX`] or cannot be read.
    pub(crate) fn few_rows(&self, before: Tick) -> Option<SendableRecordBatchStream> {
        let (mut few, mut count) = (Vec::new(), 0);
        for rows in self.worker_rows(before).ok()?.into_iter().flatten() {
            count += rows.num_rows();
            if count > FEW_ROWS_MAX {
                return None;
            }
            few.push(rows);
        }
        self.named(few).ok()
    }

    fn worker_rows(&self, before: Tick) -> DataFusionResult<Vec<TimelineTableRows>> {
        let projection: Vec<usize> = self.columns.iter().map(|(index, _)| *index).collect();
        self.timeline.worker_rows(before, Some(&self.key), &projection)
    }

    /// The rows, with the names that the statement gives their columns.
    fn named(&self, rows: Vec<RecordBatch>) -> Result<SendableRecordBatchStream, QueryError> {
        let fields = self.columns.iter().map(|(index, name)| {
            let field: &Field = self.timeline.table().schema.field(*index);
            field.clone().with_name(name)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let named = rows
            .into_iter()
            .map(|rows| RecordBatch::try_new(Arc::clone(&schema), rows.columns().to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(DataFusionError::from);
        let stream = named.and_then(|rows| MemoryStream::try_new(rows, schema, None));
        stream.map(|rows| Box::pin(rows) as _).map_err(|error| QueryError::of_plan(&error))
    }
}

/// The parts in which look-ups differ from each other.
struct LookupParts {
    items: Vec<SelectItem>,
    alias: Option<TableAlias>,
    condition: Option<Expr>,
}

/// A look-up without these parts. A statement with anything more, even a clause that a later
/// version of the parser adds, differs from it.
static REST_OF_LOOKUP: LazyLock<Query> = LazyLock::new(|| {
    let parsed = Parser::parse_sql(&GenericDialect {}, "SELECT * FROM t").expect("it is a statement");
    let Some(Statement::Query(query)) = parsed.into_iter().next() else { unreachable!("it is a query") };
    let mut form = *query;
    take_parts(&mut form).expect("it reads one table");
    form
});

/// The first table that a query reads, if its name is one word.
fn table_of(query: &Query) -> Option<&str> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let TableFactor::Table { name, .. } = &select.from.first()?.relation else { return None };
    let [ObjectNamePart::Identifier(table)] = name.0.as_slice() else { return None };
    Some(&table.value)
}

/// Takes the parts out of a query that reads one table, and clears the table's name.
fn take_parts(query: &mut Query) -> Option<LookupParts> {
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let [from] = select.from.as_mut_slice() else { return None };
    let TableFactor::Table { name, alias, .. } = &mut from.relation else { return None };
    name.0.clear();
    Some(LookupParts {
        items: std::mem::take(&mut select.projection),
        alias: alias.take(),
        condition: select.selection.take(),
    })
}

/// The table that a look-up reads.
struct LookupTable<'s> {
    schema: &'s Schema,
    /// The qualifier that its columns may have.
    qualifier: &'s str,
}

impl LookupTable<'_> {
    /// The index of the column that an expression names.
    fn index(&self, expr: &Expr) -> Option<usize> {
        let column: &Ident = match expr {
            Expr::Identifier(column) => column,
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [qualifier, column] if qualifier.value == self.qualifier => column,
                _ => return None,
            },
            _ => return None,
        };
        self.schema.index_of(&column.value).ok()
    }

    /// The selected columns, if each is a column of the table and no two names are equal.
    fn columns(&self, items: Vec<SelectItem>) -> Option<Vec<(usize, String)>> {
        let mut columns: Vec<(usize, String)> = Vec::new();
        for item in items {
            let (index, name) = match item {
                SelectItem::Wildcard(options) if options == WildcardAdditionalOptions::default() => {
                    let names = self.schema.fields().iter().map(|field| field.name().clone());
                    columns.extend(names.enumerate());
                    continue;
                }
                SelectItem::UnnamedExpr(expr) => (self.index(&expr)?, None),
                SelectItem::ExprWithAlias { expr, alias } => (self.index(&expr)?, Some(alias.value)),
                _ => return None,
            };
            columns.push((index, name.unwrap_or_else(|| self.schema.field(index).name().clone())));
        }
        let names: std::collections::BTreeSet<&str> = columns.iter().map(|(_, name)| name.as_str()).collect();
        (!columns.is_empty() && names.len() == columns.len()).then_some(columns)
    }

    /// The key, if the condition is that the first column equals it.
    fn key(&self, condition: Expr) -> Option<ArrayRef> {
        let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = condition else { return None };
        let value = match (self.index(&left), self.index(&right)) {
            (Some(0), _) => right,
            (_, Some(0)) => left,
            _ => return None,
        };
        let Expr::Value(value) = *value else { return None };
        match (value.value, self.schema.field(0).data_type()) {
            (Value::Number(digits, false), DataType::Int64) => {
                Some(Arc::new(Int64Array::from(vec![digits.parse::<i64>().ok()?])))
            }
            (Value::Number(digits, false), DataType::Int32) => {
                Some(Arc::new(Int32Array::from(vec![digits.parse::<i32>().ok()?])))
            }
            (Value::SingleQuotedString(text), DataType::Utf8) => {
                Some(Arc::new(StringArray::from_iter_values([text])))
            }
            _ => None, // The planner compares all other types.
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    /// The look-up of a statement in a table `t` with the key `id`, a time `at`, and `amount`.
    fn check(sql: &str) -> Option<(Vec<(usize, String)>, String)> {
        let statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        let AnyStatement::Statement(statement) = statement else { panic!("{sql}") };
        let Statement::Query(query) = *statement else { panic!("{sql}") };
        let mut rest = *query;
        let LookupParts { items, alias, condition, .. } = take_parts(&mut rest)?;
        let fields = [("id", DataType::Int64), ("at", DataType::Int64), ("amount", DataType::Utf8)];
        let fields = fields.map(|(name, data_type)| Field::new(name, data_type, false));
        let schema = Schema::new(fields.to_vec());
        let qualifier = alias.map_or_else(|| "t".to_owned(), |alias| alias.name.value);
        let table = LookupTable { schema: &schema, qualifier: &qualifier };
        if rest != *REST_OF_LOOKUP {
            return None;
        }
        Some((table.columns(items)?, format!("{:?}", table.key(condition?)?)))
    }

    #[test]
    fn a_short_and_plain_text_is_a_candidate() {
        for sql in
            ["SELECT at, amount FROM t WHERE id = 7", "select x.*\nfrom t AS x where x.\"id\" = 'card-7'"]
        {
            assert!(PointLookup::is_candidate(sql), "{sql}");
        }
        let long = format!("SELECT at FROM t WHERE id = '{}'", "x".repeat(SHORT_BYTES_MAX));
        for sql in
            ["SELECT f(at) FROM t", "SELECT a.b.c FROM t", "SELECT a[0] FROM t", "WITH t", "sel", "é", &long]
        {
            assert!(!PointLookup::is_candidate(sql), "{sql}");
        }
    }

    #[test]
    fn a_statement_with_columns_and_one_key_is_a_lookup() {
        let columns = |sql: &str| check(sql).map(|(columns, _)| columns);
        let named = |named: &[(usize, &str)]| {
            Some(named.iter().map(|(index, name)| (*index, (*name).to_owned())).collect::<Vec<_>>())
        };
        for (sql, expected) in [
            ("SELECT at, amount FROM t WHERE id = 7", named(&[(1, "at"), (2, "amount")])),
            ("select x.amount as a, id from t as x where 7 = x.id", named(&[(2, "a"), (0, "id")])),
            ("SELECT * FROM t WHERE t.id = 7", named(&[(0, "id"), (1, "at"), (2, "amount")])),
            (
                "SELECT *, at AS then FROM t WHERE id = 7",
                named(&[(0, "id"), (1, "at"), (2, "amount"), (1, "then")]),
            ),
        ] {
            assert_eq!(columns(sql), expected, "{sql}");
        }
        let key = check("SELECT at FROM t WHERE id = 7").expect("it is a look-up").1;
        assert_eq!(key, format!("{:?}", Arc::new(Int64Array::from(vec![7])) as ArrayRef));
    }

    #[test]
    fn a_statement_with_anything_more_is_planned() {
        for sql in [
            "SELECT at FROM t",
            "SELECT at FROM t WHERE id > 7",
            "SELECT at FROM t WHERE id = 7 AND at > 3",
            "SELECT at FROM t WHERE at = 7",
            "SELECT at FROM t WHERE id = '7'",
            "SELECT at FROM t WHERE id = 7.0",
            "SELECT at FROM t WHERE id = -7",
            "SELECT at FROM t WHERE id = $1",
            "SELECT at FROM t WHERE id = NULL",
            "SELECT at FROM t WHERE id = 99999999999999999999",
            "SELECT at + 1 FROM t WHERE id = 7",
            "SELECT count(*) FROM t WHERE id = 7",
            "SELECT at, at FROM t WHERE id = 7",
            "SELECT *, at FROM t WHERE id = 7",
            "SELECT u.at FROM t WHERE id = 7",
            "SELECT t.at FROM t AS x WHERE id = 7",
            "SELECT none FROM t WHERE id = 7",
            "SELECT * EXCLUDE (at) FROM t WHERE id = 7",
            "SELECT DISTINCT at FROM t WHERE id = 7",
            "SELECT at FROM t WHERE id = 7 ORDER BY at",
            "SELECT at FROM t WHERE id = 7 LIMIT 1",
            "SELECT at FROM t WHERE id = 7 OFFSET 1",
            "SELECT at FROM t WHERE id = 7 GROUP BY at",
            "SELECT at FROM t, t AS u WHERE id = 7",
            "SELECT at FROM t JOIN u USING (id) WHERE id = 7",
            "SELECT at FROM t TABLESAMPLE (1 ROWS) WHERE id = 7",
            "WITH u AS (SELECT 1) SELECT at FROM t WHERE id = 7",
            "SELECT at FROM t WHERE id = 7 UNION SELECT at FROM t WHERE id = 7",
            "SELECT at FROM (SELECT * FROM t) WHERE id = 7",
            "VALUES (7)",
        ] {
            assert_eq!(check(sql), None, "{sql}");
        }
    }
}
