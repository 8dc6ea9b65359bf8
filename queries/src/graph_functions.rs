//! The table functions `resolve`, `profile` and `neighbours` over entity graphs.
//!
//! Each function is a subquery over the changelogs that the graph's tables hold. A call is replaced
//! by that subquery before planning. So the planner pushes conditions into the files, binds the
//! parameters, and reads everything as of the one tick of the whole statement. The arguments of a
//! call must be literals or parameters.

use std::ops::ControlFlow;

use datafusion::common::ScalarValue;
use datafusion::sql::parser::{DFParser, Statement as AnyStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectNamePart, Query, Statement, TableAlias, TableFactor,
    Value, VisitMut, VisitorMut,
};
use tidegate_facts::Tick;
use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::tick::PARTITIONS_MAX;
use tidegate_sinks::graph_catalog::Graph;

use crate::changelog::changes_name;
use crate::error::QueryError;
use crate::graph_version::GRAPH_VERSION;
use crate::live_session::end_of_as_of;
use crate::name_resolution;
use crate::session::CATALOGUE;

/// The most identifiers that one call of `resolve` may have.
const HINTS_MAX: usize = 32;

/// The number of neighbours in a page when the call has no limit.
const PAGE: &str = "100";

/// The functions that are replaced by subqueries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Resolve,
    Profile,
    Neighbours,
}

impl Function {
    const ALL: [Function; 3] = [Function::Resolve, Function::Profile, Function::Neighbours];

    fn name(self) -> &'static str {
        match self {
            Function::Resolve => "resolve",
            Function::Profile => "profile",
            Function::Neighbours => "neighbours",
        }
    }

    /// The form of a correct call.
    fn usage(self) -> &'static str {
        match self {
            Function::Resolve => {
                "resolve('KIND', 'IDENTIFIER' [, 'KIND', 'IDENTIFIER' ..] [, as_of => TICK or TIME] [, graph => 'NODE'])"
            }
            Function::Profile => {
                "profile('KIND', 'IDENTIFIER' [, as_of => TICK or TIME] [, graph => 'NODE'])"
            }
            Function::Neighbours => {
                "neighbours('KIND', 'IDENTIFIER' [, limit => ROWS] [, after => 'PAGE'] [, through => 'KIND'] \
                 [, as_of => TICK or TIME] [, graph => 'NODE'])"
            }
        }
    }

    /// The names of its named arguments.
    fn options(self) -> &'static [&'static str] {
        match self {
            Function::Resolve | Function::Profile => &["as_of", "graph"],
            Function::Neighbours => &["limit", "after", "through", "as_of", "graph"],
        }
    }

    /// The error of a call with wrong arguments.
    fn call_error(self, what: impl Into<String>) -> QueryError {
        QueryError::Call { function: self.name(), what: what.into(), usage: self.usage() }
    }
}

/// Replaces every call of a graph function in a statement by its subquery.
pub(crate) fn expand(statement: &mut AnyStatement, graphs: &[Graph]) -> Result<(), QueryError> {
    let Some(statement) = name_resolution::explained(statement) else { return Ok(()) };
    let mut calls = CallExpander { graphs, refused: None };
    let _ = VisitMut::visit(statement, &mut calls);
    calls.refused.map_or(Ok(()), Err)
}

/// Walks a statement and replaces the calls in it.
struct CallExpander<'g> {
    graphs: &'g [Graph],
    refused: Option<QueryError>,
}

impl VisitorMut for CallExpander<'_> {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args: Some(args), alias, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let [ObjectNamePart::Identifier(called)] = name.0.as_slice() else {
            return ControlFlow::Continue(());
        };
        let function = Function::ALL.into_iter().find(|f| called.value.eq_ignore_ascii_case(f.name()));
        let Some(function) = function else { return ControlFlow::Continue(()) };
        match GraphCall::read(function, &args.args, self.graphs).and_then(|call| call.query()) {
            Ok(subquery) => {
                let own = || TableAlias {
                    explicit: false,
                    name: Ident::new(function.name()),
                    columns: Vec::new(),
                    at: None,
                };
                let alias = Some(alias.take().unwrap_or_else(own));
                *factor = TableFactor::Derived { lateral: false, subquery, alias, sample: None };
                ControlFlow::Continue(())
            }
            Err(refused) => {
                self.refused = Some(refused);
                ControlFlow::Break(())
            }
        }
    }
}

/// One argument of a call.
#[derive(Clone, Debug)]
struct Arg {
    /// Its SQL: a text literal, or a parameter.
    sql: String,
    /// The text of the literal; `None` for a parameter.
    text: Option<String>,
}

impl Arg {
    fn of_text(text: &str) -> Arg {
        Arg { sql: quoted(text), text: Some(text.to_owned()) }
    }

    fn read(expr: &Expr) -> Option<Arg> {
        match expr {
            Expr::Value(value) => match &value.value {
                Value::Placeholder(name) => Some(Arg { sql: name.clone(), text: None }),
                Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
                    Some(Arg::of_text(text))
                }
                Value::Number(digits, _) => Some(Arg::of_text(digits)),
                _ => None,
            },
            // Drivers cast their parameters.
            Expr::Cast { expr, .. } => Arg::read(expr),
            Expr::Nested(expr) => Arg::read(expr),
            _ => None,
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// One call whose arguments were checked.
struct GraphCall<'g> {
    function: Function,
    graph: &'g Graph,
    /// Pairs of kind and identifier.
    hints: Vec<(Arg, Arg)>,
    limit: Arg,
    after: Arg,
    through: Option<Arg>,
    /// The first tick that the call does not see; without it, that of the statement.
    before: Option<Tick>,
}

/// The arguments of a call as written: those by position, and those by name.
struct Arguments {
    positional: Vec<Arg>,
    named: Vec<(&'static str, Arg)>,
}

impl Arguments {
    fn read(function: Function, args: &[FunctionArg]) -> Result<Arguments, QueryError> {
        let mut read = Arguments { positional: Vec::new(), named: Vec::new() };
        for arg in args {
            let (name, value) = match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (None, value),
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                    (Some(name.value.as_str()), value)
                }
                FunctionArg::ExprNamed {
                    name: Expr::Identifier(name),
                    arg: FunctionArgExpr::Expr(value),
                    ..
                } => (Some(name.value.as_str()), value),
                other => return Err(function.call_error(format!("cannot take `{other}`"))),
            };
            let arg = Arg::read(value).ok_or_else(|| {
                function.call_error(format!("has `{value}`, and takes literals and parameters only"))
            })?;
            match name {
                None => read.positional.push(arg),
                Some(name) => read.add_named(function, name, arg)?,
            }
        }
        if function == Function::Neighbours {
            // After the identifier come the limit and the page to continue after.
            let rest = read.positional.split_off(read.positional.len().min(2));
            for (name, arg) in ["limit", "after"].into_iter().zip(rest) {
                read.add_named(function, name, arg)?;
            }
        }
        Ok(read)
    }

    fn add_named(&mut self, function: Function, name: &str, arg: Arg) -> Result<(), QueryError> {
        let Some(option) = function.options().iter().find(|option| name.eq_ignore_ascii_case(option)) else {
            let offered = did_you_mean(name, function.options());
            return Err(function.call_error(format!("has no argument `{name}`; {offered}")));
        };
        if self.named.iter().any(|(taken, _)| taken == option) {
            return Err(function.call_error(format!("has `{option}` twice")));
        }
        self.named.push((option, arg));
        Ok(())
    }

    fn named(&self, name: &str) -> Option<Arg> {
        self.named.iter().find(|(option, _)| *option == name).map(|(_, arg)| arg.clone())
    }
}

impl<'g> GraphCall<'g> {
    fn read(
        function: Function,
        args: &[FunctionArg],
        graphs: &'g [Graph],
    ) -> Result<GraphCall<'g>, QueryError> {
        let arguments = Arguments::read(function, args)?;
        let given = &arguments.positional;
        let is_pairs = !given.is_empty() && given.len().is_multiple_of(2);
        if !is_pairs || given.len() > 2 && function != Function::Resolve {
            return Err(function.call_error("takes a kind and an identifier"));
        }
        if given.len() > 2 * HINTS_MAX {
            return Err(function.call_error(format!("takes at most {HINTS_MAX} identifiers")));
        }
        let graph = graph_named(function, arguments.named("graph"), graphs)?;
        let hints: Vec<(Arg, Arg)> =
            given.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let through = arguments.named("through");
        for kind in hints.iter().map(|(kind, _)| kind).chain(&through).filter_map(|kind| kind.text.as_ref()) {
            if !graph.kinds.contains(kind) {
                let known: Vec<&str> = graph.kinds.iter().map(String::as_str).collect();
                let what =
                    format!("`{kind}` is no kind of graph `{}`; {}", graph.node, did_you_mean(kind, &known));
                return Err(function.call_error(what));
            }
        }
        let before = match arguments.named("as_of") {
            None => None,
            Some(arg) => {
                let before = arg.text.as_deref().and_then(|text| end_of_as_of(&ScalarValue::from(text)));
                let refused =
                    || function.call_error("takes a literal tick or time for `as_of`, and this is neither");
                Some(before.ok_or_else(refused)?)
            }
        };
        let limit = arguments.named("limit").unwrap_or_else(|| Arg::of_text(PAGE));
        if limit.text.as_ref().is_some_and(|rows| rows.parse::<u32>().is_err()) {
            let what = format!("takes a number of rows as its limit, and {} is none", limit.sql);
            return Err(function.call_error(what));
        }
        let after = arguments.named("after").unwrap_or_else(|| Arg::of_text(""));
        Ok(GraphCall { function, graph, hints, limit, after, through, before })
    }

    /// The subquery of the call.
    fn query(&self) -> Result<Box<Query>, QueryError> {
        let sql = match self.function {
            Function::Resolve => self.resolve()?,
            Function::Profile => self.profile()?,
            Function::Neighbours => self.neighbours()?,
        };
        let parsed = DFParser::parse_sql(&sql).expect("it is SQL").pop_front();
        let Some(AnyStatement::Statement(statement)) = parsed else { panic!("it is one statement") };
        let Statement::Query(mut query) = *statement else { panic!("it is a query") };
        // Its names are exact, even if the statement around it uses the same names.
        let _ = VisitMut::visit(&mut query, &mut QuoteColumns);
        Ok(query)
    }

    fn resolve(&self) -> Result<String, QueryError> {
        let hints: Vec<String> = self
            .hints
            .iter()
            .zip(1..)
            .map(|((kind, identifier), number)| {
                format!(
                    "SELECT {number} AS hint, '' || {} AS kind, '' || {} AS identifier",
                    kind.sql, identifier.sql
                )
            })
            .collect();
        Ok(format!(
            "WITH hints AS ({hints}), {found}, {whole}
             SELECT hints.hint AS hint, hints.kind AS kind, hints.identifier AS identifier,
                    found.component AS component, whole.size AS size, whole.positives AS positives,
                    found.first_tick AS first_tick, {first_seen} AS first_seen,
                    candidates.candidates AS candidates, candidates.candidates > 1 AS conflict, {version}
             FROM hints
             LEFT JOIN found ON hints.kind = found.kind AND hints.identifier = found.identifier
             LEFT JOIN whole ON found.component = whole.component
             CROSS JOIN (SELECT count(DISTINCT component) AS candidates FROM found) AS candidates
             CROSS JOIN {version_of} AS version",
            hints = hints.join(" UNION ALL "),
            found = self.found()?,
            whole = self.whole()?,
            first_seen = time("found.first_tick"),
            version = VERSION,
            version_of = self.version(),
        ))
    }

    fn profile(&self) -> Result<String, QueryError> {
        let degrees: Vec<String> = self
            .graph
            .kinds
            .iter()
            .map(|kind| {
                format!("count(CASE WHEN kind = {} THEN 1 END) AS {}", quoted(kind), ident(&degree(kind)))
            })
            .collect();
        let columns: Vec<String> =
            self.graph.kinds.iter().map(|kind| format!("degrees.{0} AS {0}", ident(&degree(kind)))).collect();
        let (kind, identifier) = self.one();
        let sightings = match &self.graph.sightings {
            Some(table) => format!(
                "SELECT CAST({} AS DATE) AS last_seen, count(*) AS days_seen
                 FROM {} AS seen JOIN found ON seen._tick >= found.first_tick
                 WHERE seen.kind = {kind} AND seen.identifier = {identifier}{}",
                time("max(seen._tick)"),
                table_of(table),
                self.before_tick("seen._tick"),
            ),
            None => "SELECT CAST(NULL AS DATE) AS last_seen, CAST(NULL AS BIGINT) AS days_seen".to_owned(),
        };
        Ok(format!(
            "WITH {found}, {whole}, ties AS ({ties}), sightings AS ({sightings})
             SELECT found.kind AS kind, found.identifier AS identifier,
                    found.first_tick AS first_tick, {first_seen} AS first_seen,
                    sightings.last_seen AS last_seen, sightings.days_seen AS days_seen,
                    degrees.degree AS degree, {columns},
                    found.component AS component, whole.size AS size, whole.positives AS positives, {version}
             FROM found
             LEFT JOIN whole ON found.component = whole.component
             CROSS JOIN (SELECT count(*) AS degree, {degrees} FROM ties) AS degrees
             CROSS JOIN sightings
             CROSS JOIN {version_of} AS version",
            found = self.found()?,
            whole = self.whole()?,
            ties = self.ties()?,
            first_seen = time("found.first_tick"),
            columns = columns.join(", "),
            degrees = degrees.join(", "),
            version = VERSION,
            version_of = self.version(),
        ))
    }

    fn neighbours(&self) -> Result<String, QueryError> {
        let (kind, identifier) = self.one();
        let neighbours = match &self.through {
            None => format!(
                "SELECT kind, identifier, concat(kind, ':', identifier) AS page, CAST(NULL AS TEXT) AS shared,
                        first_tick AS since_tick
                 FROM ({}) AS ties",
                self.ties()?
            ),
            Some(Arg { sql: through, .. }) => format!(
                "SELECT others.kind AS kind, others.identifier AS identifier,
                        concat(others.kind, ':', others.identifier, ' through ', ties.kind, ':', ties.identifier) AS page,
                        concat(ties.kind, ':', ties.identifier) AS shared,
                        greatest(ties.first_tick, others.first_tick) AS since_tick
                 FROM (SELECT kind, identifier, first_tick FROM ties WHERE kind = {through}) AS ties
                 JOIN ({others}) AS others ON ties.identifier = others.through
                 WHERE NOT (others.kind = {kind} AND others.identifier = {identifier})",
                others = self.links(&|near, far| {
                    let condition = format!(
                        "{near}_kind = {through} AND {near}_identifier IN (SELECT identifier FROM ties WHERE kind = {through})"
                    );
                    (format!("{near}_identifier AS through, {far}_kind AS kind, {far}_identifier AS identifier"), condition)
                })?,
            ),
        };
        let ties = match &self.through {
            None => String::new(),
            Some(_) => format!("WITH ties AS ({}) ", self.ties()?),
        };
        let limit = self.limit.text.as_ref().unwrap_or(&self.limit.sql);
        Ok(format!(
            "{ties}SELECT kind AS kind, identifier AS identifier, shared AS shared, since_tick AS since_tick,
                    {since} AS since, page AS page
             FROM ({neighbours}) AS neighbours WHERE page > {after} ORDER BY page LIMIT {limit}",
            since = time("since_tick"),
            after = self.after.sql,
        ))
    }

    /// The SQL of the first kind and identifier; `profile` and `neighbours` have only one.
    fn one(&self) -> (&str, &str) {
        (&self.hints[0].0.sql, &self.hints[0].1.sql)
    }

    /// The `WITH` part `found`: those of the identifiers that exist.
    fn found(&self) -> Result<String, QueryError> {
        let named: Vec<String> = self
            .hints
            .iter()
            .map(|(kind, identifier)| format!("kind = {} AND identifier = {}", kind.sql, identifier.sql))
            .collect();
        Ok(format!(
            "found AS (SELECT kind, identifier, component, first_tick FROM {}
                       WHERE ({}){} GROUP BY kind, identifier, component, first_tick HAVING sum(_diff) > 0)",
            self.changes(&self.graph.entities, "entities")?,
            named.join(" OR "),
            self.before_tick("_tick"),
        ))
    }

    /// The `WITH` part `whole`: the components that these belong to.
    fn whole(&self) -> Result<String, QueryError> {
        Ok(format!(
            "whole AS (SELECT component, size, positives FROM {}
                       WHERE component IN (SELECT component FROM found){}
                       GROUP BY component, size, positives HAVING sum(_diff) > 0)",
            self.changes(&self.graph.components, "components")?,
            self.before_tick("_tick"),
        ))
    }

    /// The identifiers that the one identifier is linked with, and since when.
    fn ties(&self) -> Result<String, QueryError> {
        let (kind, identifier) = self.one();
        self.links(&|near, far| {
            let condition = format!("{near}_kind = {kind} AND {near}_identifier = {identifier}");
            (format!("{far}_kind AS kind, {far}_identifier AS identifier"), condition)
        })
    }

    /// The links that exist, from both ends.
    ///
    /// `part` takes the names of the near and of the far end, and returns the columns to select,
    /// and the condition on the links. The two ends are separate selects, so that the kind of each
    /// end excludes files.
    fn links(&self, part: &dyn Fn(&str, &str) -> (String, String)) -> Result<String, QueryError> {
        let table = self.changes(&self.graph.links, "links")?;
        let before = self.before_tick("_tick");
        let parts = [("from", "to"), ("to", "from")].map(|(near, far)| {
            let (columns, condition) = part(near, far);
            format!(
                "SELECT {columns}, first_tick AS first_tick FROM {table} WHERE {condition}{before}
                 GROUP BY from_kind, from_identifier, to_kind, to_identifier, first_tick HAVING sum(_diff) > 0"
            )
        });
        Ok(parts.join(" UNION ALL "))
    }

    /// The changelog table of one port of the graph.
    fn changes(&self, table: &Option<String>, port: &str) -> Result<String, QueryError> {
        let node = &self.graph.node;
        match table {
            Some(table) => Ok(table_of(&changes_name(table))),
            None => Err(self.function.call_error(format!(
                "graph `{node}` has no table of its {port}: add a node of kind `sink.parquet` with input `{node}.{port}` to the topology"
            ))),
        }
    }

    /// The condition that a tick is visible to the call; empty without `as_of`.
    fn before_tick(&self, column: &str) -> String {
        self.before.map(|before| format!(" AND {column} < {}", before.0)).unwrap_or_default()
    }

    /// The call of `graph_version` with the same graph and tick.
    fn version(&self) -> String {
        let last = |before: Tick| before.previous().unwrap_or(Tick::ZERO);
        let when = self.before.map(|before| format!(", {}", last(before).0)).unwrap_or_default();
        format!("{GRAPH_VERSION}({}{when})", quoted(&self.graph.node))
    }
}

/// The columns of the graph's version that every function returns.
const VERSION: &str =
    "version.before_tick AS before_tick, version.basis AS basis, version.graph_version AS graph_version";

fn degree(kind: &str) -> String {
    format!("degree_{kind}")
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The SQL that computes the time of a tick.
fn time(tick: &str) -> String {
    let ticks_per_micro = PARTITIONS_MAX;
    format!("arrow_cast({tick} / {ticks_per_micro}, 'Timestamp(Microsecond, Some(\"UTC\"))')")
}

/// The full name of a table, which no name in the statement around can hide.
fn table_of(name: &str) -> String {
    format!("{CATALOGUE}.public.{}", ident(name))
}

/// The graph that a call names, or the only one.
fn graph_named(function: Function, named: Option<Arg>, graphs: &[Graph]) -> Result<&Graph, QueryError> {
    let known: Vec<&str> = graphs.iter().map(|graph| graph.node.as_str()).collect();
    match (named, graphs) {
        (_, []) => Err(function.call_error(
            "there is no entity graph here: give the topology a node of kind `entities`, and a `sink.parquet` for each of \
             its ports `entities`, `links` and `components`, and run it (if an earlier version ran it, run it again)",
        )),
        (None, [graph]) => Ok(graph),
        (None, _) => Err(function.call_error(format!(
            "there are several graphs ({}); choose one with graph => '{}'",
            known.join(", "),
            known[0]
        ))),
        (Some(Arg { text: None, .. }), _) => Err(function.call_error("takes the name of its graph as a literal")),
        (Some(Arg { text: Some(name), .. }), _) => {
            let found = graphs.iter().find(|graph| graph.node == name);
            found.ok_or_else(|| {
                function.call_error(format!("there is no graph `{name}`; {}", did_you_mean(&name, &known)))
            })
        }
    }
}

/// Quotes every column, so that name resolution leaves it unchanged.
struct QuoteColumns;

impl VisitorMut for QuoteColumns {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let parts = match expr {
            Expr::Identifier(column) => std::slice::from_mut(column),
            Expr::CompoundIdentifier(parts) => parts.as_mut_slice(),
            _ => &mut [],
        };
        parts.iter_mut().for_each(|part| part.quote_style = Some('"'));
        ControlFlow::Continue(())
    }
}
