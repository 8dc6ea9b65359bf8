//! `resolve`, `profile` and `neighbours`: what an analyst asks of an entity graph, as table functions.
//!
//! Each is a statement over the changes that the graph's tables hold. A call is replaced by that statement before anything is
//! planned, so that the planner sees through it: conditions reach the files, parameters find their places, and all is
//! as of the one tick of the whole statement. What a call is given must be a literal or a parameter.

use std::ops::ControlFlow;

use datafusion::common::ScalarValue;
use datafusion::sql::parser::{DFParser, Statement as AnyStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectNamePart, Query, Statement, TableAlias, TableFactor,
    Value, VisitMut, VisitorMut,
};
use tidegate_facts::Tick;
use tidegate_facts::names::choices;
use tidegate_sinks::graphs::Graph;

use crate::QueryError;
use crate::catalogue::CATALOGUE;
use crate::changelog::changes_name;
use crate::live::tick_asked;
use crate::names;
use crate::version::GRAPH_VERSION;

/// How many identifiers one `resolve` may be given.
const HINTS_MAX: usize = 32;

/// How many neighbours a page has when the call does not say.
const PAGE: &str = "100";

/// The functions.
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

    /// How it is called.
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

    /// What it takes by name.
    fn options(self) -> &'static [&'static str] {
        match self {
            Function::Resolve | Function::Profile => &["as_of", "graph"],
            Function::Neighbours => &["limit", "after", "through", "as_of", "graph"],
        }
    }

    fn refuses(self, what: impl Into<String>) -> QueryError {
        QueryError::Call { function: self.name(), what: what.into(), usage: self.usage() }
    }
}

/// Puts the statements that they stand for in the place of all calls.
pub(crate) fn expand(statement: &mut AnyStatement, graphs: &[Graph]) -> Result<(), QueryError> {
    let Some(statement) = names::inner(statement) else { return Ok(()) };
    let mut calls = Calls { graphs, refused: None };
    let _ = VisitMut::visit(statement, &mut calls);
    calls.refused.map_or(Ok(()), Err)
}

struct Calls<'g> {
    graphs: &'g [Graph],
    refused: Option<QueryError>,
}

impl VisitorMut for Calls<'_> {
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
        match Call::read(function, &args.args, self.graphs).and_then(|call| call.query()) {
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

/// Something that a call is given.
#[derive(Clone, Debug)]
struct Arg {
    /// As it stands in a statement: a text, or a parameter.
    sql: String,
    /// Its text, unless it is a parameter.
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
            // Drivers say of what type their parameters are.
            Expr::Cast { expr, .. } => Arg::read(expr),
            Expr::Nested(expr) => Arg::read(expr),
            _ => None,
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// One call, whose parts fit together.
struct Call<'g> {
    function: Function,
    graph: &'g Graph,
    /// Kinds and identifiers.
    hints: Vec<(Arg, Arg)>,
    limit: Arg,
    after: Arg,
    through: Option<Arg>,
    /// The first tick that is not seen.
    before: Option<Tick>,
}

impl<'g> Call<'g> {
    fn read(function: Function, args: &[FunctionArg], graphs: &'g [Graph]) -> Result<Call<'g>, QueryError> {
        let mut given: Vec<Arg> = Vec::new();
        let mut options: Vec<(&'static str, Arg)> = Vec::new();
        let add = |options: &mut Vec<(&'static str, Arg)>, name: &str, arg: Arg| {
            let known = function.options().iter().find(|known| name.eq_ignore_ascii_case(known));
            let Some(known) = known else {
                let offered = choices(name, function.options());
                return Err(function.refuses(format!("takes nothing called `{name}`; {offered}")));
            };
            if options.iter().any(|(taken, _)| taken == known) {
                return Err(function.refuses(format!("is given `{known}` twice")));
            }
            options.push((known, arg));
            Ok(())
        };
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
                other => return Err(function.refuses(format!("cannot be given `{other}`"))),
            };
            let arg = Arg::read(value).ok_or_else(|| {
                function.refuses(format!("is given `{value}`, and takes literals and parameters only"))
            })?;
            match name {
                None => given.push(arg),
                Some(name) => add(&mut options, name, arg)?,
            }
        }
        if function == Function::Neighbours {
            // What stands behind the identifier without a name is the limit, then where to go on.
            for (name, arg) in ["limit", "after"].into_iter().zip(given.split_off(given.len().min(2))) {
                add(&mut options, name, arg)?;
            }
        }
        let is_pairs = !given.is_empty() && given.len().is_multiple_of(2);
        if !is_pairs || given.len() > 2 && function != Function::Resolve {
            return Err(function.refuses("takes a kind and an identifier"));
        }
        if given.len() > 2 * HINTS_MAX {
            return Err(function.refuses(format!("takes at most {HINTS_MAX} identifiers")));
        }
        let option =
            |name: &str| options.iter().find(|(known, _)| *known == name).map(|(_, arg)| arg.clone());
        let graph = graph_named(function, option("graph"), graphs)?;
        let hints: Vec<(Arg, Arg)> =
            given.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let through = option("through");
        for kind in hints.iter().map(|(kind, _)| kind).chain(&through).filter_map(|kind| kind.text.as_ref()) {
            if !graph.kinds.contains(kind) {
                let known: Vec<&str> = graph.kinds.iter().map(String::as_str).collect();
                let what =
                    format!("`{kind}` is no kind of graph `{}`; {}", graph.node, choices(kind, &known));
                return Err(function.refuses(what));
            }
        }
        let before = match option("as_of") {
            None => None,
            Some(arg) => {
                let asked = arg.text.as_deref().and_then(|text| tick_asked(&ScalarValue::from(text)));
                let refused =
                    || function.refuses("is asked as of what is neither a tick nor a time, both as literals");
                Some(asked.ok_or_else(refused)?)
            }
        };
        let limit = option("limit").unwrap_or_else(|| Arg::of_text(PAGE));
        if limit.text.as_ref().is_some_and(|rows| rows.parse::<u32>().is_err()) {
            return Err(
                function.refuses(format!("takes a number of rows as its limit, and {} is none", limit.sql))
            );
        }
        let after = option("after").unwrap_or_else(|| Arg::of_text(""));
        Ok(Call { function, graph, hints, limit, after, through, before })
    }

    fn query(&self) -> Result<Box<Query>, QueryError> {
        let sql = match self.function {
            Function::Resolve => self.resolve()?,
            Function::Profile => self.profile()?,
            Function::Neighbours => self.neighbours()?,
        };
        let parsed = DFParser::parse_sql(&sql).expect("it is SQL").pop_front();
        let Some(AnyStatement::Statement(statement)) = parsed else { panic!("it is one statement") };
        let Statement::Query(mut query) = *statement else { panic!("it is a query") };
        // What it names is what it means, whatever else the whole statement calls so.
        let _ = VisitMut::visit(&mut query, &mut Exact);
        Ok(query)
    }

    fn resolve(&self) -> Result<String, QueryError> {
        let hints: Vec<String> = self
            .hints
            .iter()
            .zip(1..)
            .map(|((kind, identifier), place)| {
                format!(
                    "SELECT {place} AS hint, '' || {} AS kind, '' || {} AS identifier",
                    kind.sql, identifier.sql
                )
            })
            .collect();
        Ok(format!(
            "WITH hints AS ({hints}), {found}, {whole}
             SELECT hints.hint AS hint, hints.kind AS kind, hints.identifier AS identifier,
                    found.component AS component, whole.size AS size, whole.frauds AS frauds,
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
                self.seen("seen._tick"),
            ),
            None => "SELECT CAST(NULL AS DATE) AS last_seen, CAST(NULL AS BIGINT) AS days_seen".to_owned(),
        };
        Ok(format!(
            "WITH {found}, {whole}, ties AS ({ties}), sightings AS ({sightings})
             SELECT found.kind AS kind, found.identifier AS identifier,
                    found.first_tick AS first_tick, {first_seen} AS first_seen,
                    sightings.last_seen AS last_seen, sightings.days_seen AS days_seen,
                    degrees.degree AS degree, {columns},
                    found.component AS component, whole.size AS size, whole.frauds AS frauds, {version}
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

    /// The only kind and identifier.
    fn one(&self) -> (&str, &str) {
        (&self.hints[0].0.sql, &self.hints[0].1.sql)
    }

    /// The part `found`: which of the identifiers there are.
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
            self.seen("_tick"),
        ))
    }

    /// The part `whole`: the components that these belong to.
    fn whole(&self) -> Result<String, QueryError> {
        Ok(format!(
            "whole AS (SELECT component, size, frauds FROM {}
                       WHERE component IN (SELECT component FROM found){}
                       GROUP BY component, size, frauds HAVING sum(_diff) > 0)",
            self.changes(&self.graph.components, "components")?,
            self.seen("_tick"),
        ))
    }

    /// What the only identifier is linked with, and since when.
    fn ties(&self) -> Result<String, QueryError> {
        let (kind, identifier) = self.one();
        self.links(&|near, far| {
            let condition = format!("{near}_kind = {kind} AND {near}_identifier = {identifier}");
            (format!("{far}_kind AS kind, {far}_identifier AS identifier"), condition)
        })
    }

    /// The links that there are, from both ends: `part` is given the names of the near and of the far end, and says what is
    /// asked, in columns that are all of the ends, and of which links. Apart, so that each end's kind leaves out files.
    fn links(&self, part: &dyn Fn(&str, &str) -> (String, String)) -> Result<String, QueryError> {
        let table = self.changes(&self.graph.links, "links")?;
        let seen = self.seen("_tick");
        let parts = [("from", "to"), ("to", "from")].map(|(near, far)| {
            let (columns, condition) = part(near, far);
            format!(
                "SELECT {columns}, first_tick AS first_tick FROM {table} WHERE {condition}{seen}
                 GROUP BY from_kind, from_identifier, to_kind, to_identifier, first_tick HAVING sum(_diff) > 0"
            )
        });
        Ok(parts.join(" UNION ALL "))
    }

    /// The table of all changes of a port.
    fn changes(&self, table: &Option<String>, port: &str) -> Result<String, QueryError> {
        let node = &self.graph.node;
        match table {
            Some(table) => Ok(table_of(&changes_name(table))),
            None => Err(self.function.refuses(format!(
                "graph `{node}` has no table of its {port}: add a node of kind `sink.parquet` with input `{node}.{port}` to the topology"
            ))),
        }
    }

    /// Only what was before the tick that is asked.
    fn seen(&self, column: &str) -> String {
        self.before.map(|before| format!(" AND {column} < {}", before.0)).unwrap_or_default()
    }

    fn version(&self) -> String {
        let when = self.before.map(|before| format!(", {}", before.0.saturating_sub(1))).unwrap_or_default();
        format!("{GRAPH_VERSION}({}{when})", quoted(&self.graph.node))
    }
}

/// The columns of the graph's version.
const VERSION: &str =
    "version.before_tick AS before_tick, version.basis AS basis, version.graph_version AS graph_version";

fn degree(kind: &str) -> String {
    format!("degree_{kind}")
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The time of a tick.
fn time(tick: &str) -> String {
    format!("arrow_cast({tick} / arrow_cast(4096, 'UInt64'), 'Timestamp(Microsecond, Some(\"UTC\"))')")
}

/// A table, and nothing that the statement around calls so.
fn table_of(name: &str) -> String {
    format!("{CATALOGUE}.public.{}", ident(name))
}

/// The graph that a call means.
fn graph_named(function: Function, named: Option<Arg>, graphs: &[Graph]) -> Result<&Graph, QueryError> {
    let known: Vec<&str> = graphs.iter().map(|graph| graph.node.as_str()).collect();
    match (named, graphs) {
        (_, []) => Err(function.refuses(
            "there is no entity graph here: give the topology a node of kind `entities`, and a `sink.parquet` for each of its \
             ports `entities`, `links` and `components`, and run it (of a folder that an earlier version ran, run it again)",
        )),
        (None, [graph]) => Ok(graph),
        (None, _) => Err(function.refuses(format!(
            "there are several graphs ({}); say which with graph => '{}'",
            known.join(", "),
            known[0]
        ))),
        (Some(Arg { text: None, .. }), _) => Err(function.refuses("takes the name of its graph as a literal")),
        (Some(Arg { text: Some(name), .. }), _) => {
            let found = graphs.iter().find(|graph| graph.node == name);
            found.ok_or_else(|| function.refuses(format!("there is no graph `{name}`; {}", choices(&name, &known))))
        }
    }
}

/// Quotes every column.
struct Exact;

impl VisitorMut for Exact {
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
