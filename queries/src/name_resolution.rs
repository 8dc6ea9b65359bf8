//! Resolves unquoted names of a statement to tables and columns that exist.
//!
//! Columns of real data are named `TX_AMOUNT` as often as `tx_amount`, and SQL would fold an
//! unquoted name to one case. Here an unquoted name means exactly that name; if it does not exist,
//! it means the one name that differs in case only. A quoted name is never changed.
//!
//! The parsed statement is rewritten before it is planned, in two passes: the first resolves tables
//! and collects the names that the statement defines itself, the second resolves columns.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query,
    RenameSelectItem, Select, SelectItem, SelectItemQualifiedWildcardKind, Statement, TableFactor,
    TableWithJoins, VisitMut, VisitorMut, WildcardAdditionalOptions,
};

/// The tables and columns to which names are resolved: the names of the columns of each table.
pub(crate) type TableColumns = BTreeMap<String, Vec<String>>;

const INFORMATION_SCHEMA: &str = "information_schema";
const PG_CATALOG: &str = "pg_catalog";

/// Resolves the names of a statement in place; the error is the name of a table that does not
/// exist.
pub(crate) fn resolve(statement: &mut AnyStatement, tables: &TableColumns) -> Result<(), String> {
    let Some(statement) = explained(statement) else { return Ok(()) };
    let mut scope = Scope::new(tables);
    let _ = VisitMut::visit(statement, &mut scope);
    if let Some(table) = scope.unknown.take() {
        return Err(table);
    }
    let _ = VisitMut::visit(statement, &mut Columns(&scope));
    Ok(())
}

/// The statement that an `EXPLAIN` explains, or else the statement itself.
pub(crate) fn explained(statement: &mut AnyStatement) -> Option<&mut Statement> {
    match statement {
        AnyStatement::Statement(statement) => Some(statement),
        AnyStatement::Explain(explain) => explained(&mut explain.statement),
        _ => None,
    }
}

/// The names that a statement may refer to. Subqueries have no scopes of their own here: a name is
/// looked up in the whole statement, and the planner checks whether it is visible where it is used.
struct Scope<'k> {
    tables: &'k TableColumns,
    /// Names that `WITH` defines.
    queries: Vec<String>,
    /// Table functions that are called.
    functions: BTreeSet<String>,
    /// Qualifiers, that is names before a dot, and their columns where these are known.
    qualifiers: BTreeMap<String, Option<&'k [String]>>,
    /// Columns of the tables that are read.
    columns: BTreeSet<&'k str>,
    /// Names that `AS` defines.
    aliases: Vec<String>,
    /// A table that does not exist.
    unknown: Option<String>,
    /// Whether a table of the information schema is read; its column names are in lower case.
    information: bool,
    /// Whether the last relation was such a table, and the qualifiers of all such tables.
    is_system: bool,
    system_qualifiers: BTreeSet<String>,
}

impl<'k> Scope<'k> {
    fn new(tables: &'k TableColumns) -> Scope<'k> {
        Scope {
            tables,
            queries: Vec::new(),
            functions: BTreeSet::new(),
            qualifiers: BTreeMap::new(),
            columns: BTreeSet::new(),
            aliases: Vec::new(),
            unknown: None,
            information: false,
            is_system: false,
            system_qualifiers: BTreeSet::new(),
        }
    }

    /// Adds a qualifier. If two relations share it, its columns are unknown.
    fn add_qualifier(&mut self, name: &str, columns: Option<&'k [String]>) {
        let merged = match self.qualifiers.get(name) {
            Some(other) if *other != columns => None,
            _ => columns,
        };
        self.qualifiers.insert(name.to_owned(), merged);
    }

    fn fix_qualifier(&self, ident: &mut Ident) -> Option<Option<&'k [String]>> {
        let name = matching(ident, self.qualifiers.keys().map(String::as_str))?.to_owned();
        let columns = self.qualifiers[&name];
        ident.value = name;
        Some(columns)
    }

    fn fix_column(&self, ident: &mut Ident, of: Option<&[String]>) {
        let column = match of {
            Some(columns) => matching(ident, columns.iter().map(String::as_str)),
            None if self.aliases.contains(&ident.value) => return,
            None => matching(ident, self.columns.iter().copied())
                .or_else(|| matching(ident, self.aliases.iter().map(String::as_str))),
        };
        if let Some(name) = column {
            ident.value = name.to_owned();
        } else if self.information {
            lower(ident);
        }
    }

    fn fix_column_of(&self, name: &mut ObjectName) {
        if let [ObjectNamePart::Identifier(column)] = name.0.as_mut_slice() {
            self.fix_column(column, None);
        }
    }
}

/// The name that an identifier refers to: the equal one, or the only one that differs just in case.
fn matching<'n>(ident: &Ident, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut similar = BTreeSet::new();
    for name in names {
        if name == ident.value {
            return Some(name);
        }
        if ident.quote_style.is_none() && name.eq_ignore_ascii_case(&ident.value) {
            similar.insert(name);
        }
    }
    if similar.len() == 1 { similar.pop_first() } else { None }
}

fn lower(ident: &mut Ident) {
    if ident.quote_style.is_none() {
        ident.value.make_ascii_lowercase();
    }
}

impl VisitorMut for Scope<'_> {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<()> {
        // The words after SHOW TABLES name no table.
        if matches!(statement, Statement::ShowTables { .. }) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.queries.push(cte.alias.name.value.clone());
            self.aliases.extend(cte.alias.columns.iter().map(|column| column.name.value.clone()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => self.aliases.push(alias.value.clone()),
                SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
                    let renamed = match &options.opt_rename {
                        Some(RenameSelectItem::Single(renamed)) => std::slice::from_ref(renamed),
                        Some(RenameSelectItem::Multiple(renamed)) => renamed,
                        None => &[],
                    };
                    self.aliases.extend(renamed.iter().map(|renamed| renamed.alias.value.clone()));
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        self.is_system = false;
        if let TableFactor::Table { name, args: Some(_), .. } = factor
            && let [ObjectNamePart::Identifier(function)] = name.0.as_mut_slice()
        {
            lower(function);
            self.functions.insert(function.value.clone());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        let mut parts: Vec<&mut Ident> = relation.0.iter_mut().filter_map(ident).collect();
        let Some((table, schemas)) = parts.split_last_mut() else { return ControlFlow::Continue(()) };
        schemas.iter_mut().for_each(|schema| lower(schema));
        let is_system =
            |schema: &&mut Ident| [INFORMATION_SCHEMA, PG_CATALOG].contains(&schema.value.as_str());
        // Postgres clients omit the schema `pg_catalog`.
        let is_postgres = schemas.is_empty() && table.value.to_ascii_lowercase().starts_with("pg_");
        if schemas.last().is_some_and(is_system)
            || is_postgres && matching(table, self.tables.keys().map(String::as_str)).is_none()
        {
            lower(table);
            self.information = true;
            self.is_system = true;
            return ControlFlow::Continue(());
        }
        if self.functions.contains(&table.value) {
            return ControlFlow::Continue(());
        }
        let query =
            if schemas.is_empty() { matching(table, self.queries.iter().map(String::as_str)) } else { None };
        match query.or_else(|| matching(table, self.tables.keys().map(String::as_str))) {
            Some(name) => table.value = name.to_owned(),
            None => self.unknown = self.unknown.take().or_else(|| Some(table.value.clone())),
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let (alias, name) = match factor {
            TableFactor::Table { name, alias, .. } => (alias, name.0.last_mut().and_then(ident)),
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => (alias, None),
            _ => return ControlFlow::Continue(()),
        };
        let name = name.map(|name| name.value.as_str());
        if std::mem::take(&mut self.is_system)
            && let Some(qualifier) = alias.as_ref().map(|alias| alias.name.value.as_str()).or(name)
        {
            self.system_qualifiers.insert(qualifier.to_owned());
        }
        let is_query = name.is_some_and(|name| self.queries.iter().any(|query| query == name));
        let tables = self.tables;
        let columns = name.filter(|_| !is_query).and_then(|name| tables.get(name)).map(Vec::as_slice);
        self.columns.extend(columns.into_iter().flatten().map(String::as_str));
        match alias {
            Some(alias) => {
                self.aliases.extend(alias.columns.iter().map(|column| column.name.value.clone()));
                self.add_qualifier(&alias.name.value, columns.filter(|_| alias.columns.is_empty()));
            }
            None => name.into_iter().for_each(|name| self.add_qualifier(name, columns)),
        }
        ControlFlow::Continue(())
    }
}

fn ident(part: &mut ObjectNamePart) -> Option<&mut Ident> {
    match part {
        ObjectNamePart::Identifier(ident) => Some(ident),
        ObjectNamePart::Function(_) => None,
    }
}

/// The second pass, which resolves columns.
struct Columns<'s, 'k>(&'s Scope<'k>);

impl VisitorMut for Columns<'_, '_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(column) => self.0.fix_column(column, None),
            Expr::CompoundIdentifier(parts) => {
                // The name before the dot is a table, or else a column of a struct type.
                if let [.., qualifier, column] = parts.as_mut_slice() {
                    let qualified = self.0.fix_qualifier(qualifier);
                    // In `d.encoding AS "Encoding"` the column is that of `d`, not the alias.
                    if qualified.is_some() && self.0.system_qualifiers.contains(&qualifier.value) {
                        lower(column);
                        return ControlFlow::Continue(());
                    }
                    match qualified {
                        Some(columns) => self.0.fix_column(column, columns),
                        None => self.0.fix_column(qualifier, None),
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        select.from.iter_mut().for_each(|from| self.fix_joins(from));
        for item in &mut select.projection {
            match item {
                SelectItem::Wildcard(options) => self.fix_wildcard(options),
                SelectItem::QualifiedWildcard(kind, options) => {
                    if let SelectItemQualifiedWildcardKind::ObjectName(name) = kind
                        && let Some(qualifier) = name.0.last_mut().and_then(ident)
                    {
                        self.0.fix_qualifier(qualifier);
                    }
                    self.fix_wildcard(options);
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

impl Columns<'_, '_> {
    fn fix_joins(&self, tables: &mut TableWithJoins) {
        let joins = tables.joins.iter_mut();
        let (operators, joined): (Vec<_>, Vec<_>) =
            joins.map(|join| (&mut join.join_operator, &mut join.relation)).unzip();
        for constraint in operators.into_iter().filter_map(constraint) {
            if let JoinConstraint::Using(columns) = constraint {
                columns.iter_mut().for_each(|column| self.0.fix_column_of(column));
            }
        }
        for relation in joined.into_iter().chain([&mut tables.relation]) {
            if let TableFactor::NestedJoin { table_with_joins, .. } = relation {
                self.fix_joins(table_with_joins);
            }
        }
    }

    fn fix_wildcard(&self, options: &mut WildcardAdditionalOptions) {
        match &mut options.opt_exclude {
            Some(ExcludeSelectItem::Single(column)) => self.0.fix_column_of(column),
            Some(ExcludeSelectItem::Multiple(columns)) => {
                columns.iter_mut().for_each(|c| self.0.fix_column_of(c))
            }
            None => {}
        }
        if let Some(except) = &mut options.opt_except {
            let first = std::iter::once(&mut except.first_element);
            first.chain(&mut except.additional_elements).for_each(|column| self.0.fix_column(column, None));
        }
        for replaced in options.opt_replace.iter_mut().flat_map(|replace| &mut replace.items) {
            self.0.fix_column(&mut replaced.column_name, None);
        }
        match &mut options.opt_rename {
            Some(RenameSelectItem::Single(renamed)) => self.0.fix_column(&mut renamed.ident, None),
            Some(RenameSelectItem::Multiple(renamed)) => {
                renamed.iter_mut().for_each(|renamed| self.0.fix_column(&mut renamed.ident, None));
            }
            None => {}
        }
    }
}

fn constraint(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::Semi(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::RightSemi(constraint)
        | JoinOperator::Anti(constraint)
        | JoinOperator::LeftAnti(constraint)
        | JoinOperator::RightAnti(constraint) => Some(constraint),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;
    use expect_test::{Expect, expect};

    use super::*;

    fn check(sql: &str, expect: Expect) {
        let table = |name: &str, columns: &[&str]| {
            (name.to_owned(), columns.iter().map(|c| (*c).to_owned()).collect())
        };
        let tables = TableColumns::from([
            table("decisions", &["_tick", "TX_AMOUNT", "CUSTOMER_ID", "action"]),
            table("Labels", &["_tick", "customer_id", "genuine", "Genuine"]),
        ]);
        let mut statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        let resolved = resolve(&mut statement, &tables);
        expect.assert_eq(
            &resolved.map_or_else(|table| format!("no table {table}"), |()| statement.to_string()),
        );
    }

    #[test]
    fn an_unquoted_name_may_differ_in_case_and_a_quoted_one_may_not() {
        check("select Tx_Amount, ACTION from Decisions", expect!["SELECT TX_AMOUNT, action FROM decisions"]);
        check("select \"tx_amount\" from decisions", expect![[r#"SELECT "tx_amount" FROM decisions"#]]);
        check("select 1 from \"Decisions\"", expect!["no table Decisions"]);
        check(
            "select sum(tx_amount) from decisions group by customer_id order by customer_id",
            expect!["SELECT sum(TX_AMOUNT) FROM decisions GROUP BY CUSTOMER_ID ORDER BY CUSTOMER_ID"],
        );
    }

    #[test]
    fn an_ambiguous_name_is_unchanged() {
        check(
            "select genuine, Genuine, GENUINE from labels",
            expect!["SELECT genuine, Genuine, GENUINE FROM Labels"],
        );
    }

    #[test]
    fn a_qualifier_decides_between_tables() {
        check(
            "select D.Customer_Id, l.CUSTOMER_ID from decisions d join labels L on d.customer_id = L.Customer_id",
            expect![
                "SELECT d.CUSTOMER_ID, L.customer_id FROM decisions d JOIN Labels L ON d.CUSTOMER_ID = L.customer_id"
            ],
        );
        check(
            "select DECISIONS.* from decisions join labels using (_TICK)",
            expect!["SELECT decisions.* FROM decisions JOIN Labels USING(_tick)"],
        );
    }

    #[test]
    fn names_that_the_statement_defines_are_unchanged() {
        check(
            "select TX_AMOUNT as tx_amount, count(*) as N from decisions order by n, tx_amount",
            expect!["SELECT TX_AMOUNT AS tx_amount, count(*) AS N FROM decisions ORDER BY N, tx_amount"],
        );
        check(
            "with Big (Who) as (select customer_id from decisions where tx_amount > 9) select who from BIG b where B.WHO > 1",
            expect![
                "WITH Big (Who) AS (SELECT CUSTOMER_ID FROM decisions WHERE TX_AMOUNT > 9) SELECT Who FROM Big b WHERE b.Who > 1"
            ],
        );
        check(
            "explain select x.ACTION from (select action from decisions) X",
            expect!["EXPLAIN SELECT X.action FROM (SELECT action FROM decisions) X"],
        );
        check(
            "select * exclude (tx_amount) from decisions",
            expect!["SELECT * EXCLUDE (TX_AMOUNT) FROM decisions"],
        );
        check("select Value from Generate_Series(1, 3)", expect!["SELECT Value FROM generate_series(1, 3)"]);
    }

    #[test]
    fn the_information_schema_is_in_lower_case() {
        check(
            "select TABLE_NAME from INFORMATION_SCHEMA.TABLES",
            expect!["SELECT table_name FROM information_schema.tables"],
        );
        check(
            "select D.encoding as \"Encoding\", upper(d.Encoding) from pg_catalog.pg_database d",
            expect![[r#"SELECT d.encoding AS "Encoding", upper(d.encoding) FROM pg_catalog.pg_database d"#]],
        );
    }
}
