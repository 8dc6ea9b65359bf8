//! Limits on a statement before it is planned, and on its plan before it runs.
//!
//! The parser and the planner walk, print and drop trees by recursion, so a text of a few kilobytes
//! could overflow the stack and end the process; and planning cannot be interrupted. So three
//! things are limited:
//!
//! * the text: its bytes; the words between two commas, which limits the depth of the parsed tree
//!   (a chain of operators makes a one-sided tree; the parser itself limits brackets); and the
//!   length of a chain of names and subscripts, since the parser may try each link in two ways;
//! * the tables and columns that it names: planning takes time in the square of their number. A
//!   `WITH` whose parts use each other twice expands to two to the power of their number, so tables
//!   are counted after expansion;
//! * the nodes of the plan.
//!
//! The size of values is limited where they are computed, in [`crate::bounded_functions`].

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ObjectName, Query, Select, TableFactor, Visit, Visitor, visit_relations,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::QueryError;

/// The limit on the text of a statement: the most bytes that it may have.
pub const SQL_BYTES_MAX: usize = 256 << 10;

/// The most tokens between two commas, counting those around the enclosing brackets.
const RUN_MAX: usize = 2000;

/// The most names and subscripts in one chain, as in `a.b[1].c`.
const LINKS_MAX: usize = 16;

/// The most `UNION`, `EXCEPT` and `INTERSECT` in one text.
const SET_OPERATIONS_MAX: usize = 200;

/// The most tables that a statement may read, each counted as often as it is named.
const TABLES_MAX: usize = 64;

/// The most tables once the parts of every `WITH` are expanded wherever they are named.
const EXPANDED_TABLES_MAX: usize = 1000;

/// The most columns of one `SELECT`.
const COLUMNS_MAX: usize = 2000;

/// The most nodes of a plan.
const PLAN_NODES_MAX: usize = 2000;

fn too_large(what: String) -> QueryError {
    QueryError::TooLarge { what }
}

/// Checks the limits on the text of a statement: it must be small enough to be parsed.
///
/// # Errors
/// [`QueryError::TooLarge`] when it exceeds a limit.
pub fn check_text(sql: &str) -> Result<(), QueryError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(too_large(format!("it has {} bytes, and at most {SQL_BYTES_MAX} are read", sql.len())));
    }
    // The parser reads the same tokens, and reports what is not SQL.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let (mut outer, mut run, mut outer_sum, mut set_operations) = (Vec::new(), 0usize, 0usize, 0usize);
    let mut chain = Chain::default();
    for token in tokens {
        if !matches!(token, Token::Whitespace(_)) && chain.add(&token) > LINKS_MAX {
            return Err(too_large(format!("it links more than {LINKS_MAX} names and subscripts")));
        }
        match token {
            Token::Whitespace(_) => continue,
            Token::Comma => run = 0,
            Token::LParen | Token::LBracket | Token::LBrace => {
                outer.push(run + 1);
                outer_sum += run + 1;
                run = 0;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                run = outer.pop().unwrap_or(run);
                outer_sum = outer_sum.saturating_sub(run);
            }
            Token::Word(ref word)
                if [Keyword::UNION, Keyword::EXCEPT, Keyword::INTERSECT].contains(&word.keyword) =>
            {
                set_operations += 1;
            }
            _ => run += 1,
        }
        if outer_sum + run > RUN_MAX {
            return Err(too_large(format!(
                "it has more than {RUN_MAX} words without a comma; write IN (..) for a long OR"
            )));
        }
    }
    if set_operations > SET_OPERATIONS_MAX {
        return Err(too_large(format!(
            "it combines {set_operations} queries, and at most {SET_OPERATIONS_MAX} are allowed"
        )));
    }
    Ok(())
}

/// The chain of names and subscripts that the tokens so far end with.
#[derive(Default)]
struct Chain {
    links: usize,
    /// The number of open subscripts.
    open: usize,
    /// Whether the last token ended a name or a subscript, so that a word begins a new chain.
    is_ended: bool,
}

impl Chain {
    /// Adds a token, and returns the number of links in the chain.
    fn add(&mut self, token: &Token) -> usize {
        match token {
            Token::Period => self.links += 1,
            // Without a name before it, it begins a list.
            Token::LBracket => {
                self.links += usize::from(self.is_ended);
                self.open += 1;
            }
            Token::RBracket => self.open = self.open.saturating_sub(1),
            Token::Word(_) | Token::Number(..) if self.is_ended && self.open == 0 => self.links = 0,
            Token::Word(_) | Token::Number(..) => {}
            _ if self.open == 0 => self.links = 0,
            _ => {}
        }
        self.is_ended = matches!(token, Token::Word(_) | Token::Number(..) | Token::RBracket);
        self.links
    }
}

/// Checks the limits on a parsed statement: it must be small enough to be planned.
pub(crate) fn check_statement(statement: &Statement) -> Result<(), QueryError> {
    let mut statement = statement;
    while let Statement::Explain(explain) = statement {
        statement = &explain.statement;
    }
    let Statement::Statement(statement) = statement else { return Ok(()) };
    let mut sizes = StatementSize::default();
    let _ = statement.visit(&mut sizes);
    if sizes.tables > TABLES_MAX {
        return Err(too_large(format!(
            "it reads {} tables, and at most {TABLES_MAX} are allowed",
            sizes.tables
        )));
    }
    if sizes.columns > COLUMNS_MAX {
        return Err(too_large(format!(
            "it selects {} columns, and at most {COLUMNS_MAX} are allowed",
            sizes.columns
        )));
    }
    // Each pass counts one more level of parts that use parts; there are at most as many as tables.
    let mut parts = WithParts::default();
    for _ in 0..=TABLES_MAX {
        let before = parts.0.clone();
        let _ = statement.visit(&mut parts);
        if parts.expanded_tables(statement) > EXPANDED_TABLES_MAX {
            return Err(too_large(format!(
                "its WITH parts use each other and expand to more than {EXPANDED_TABLES_MAX} tables"
            )));
        }
        if parts.0 == before {
            break;
        }
    }
    Ok(())
}

/// The number of tables and columns that a statement names.
#[derive(Default)]
struct StatementSize {
    tables: usize,
    /// The columns of the widest `SELECT`.
    columns: usize,
}

impl Visitor for StatementSize {
    type Break = ();

    fn pre_visit_table_factor(&mut self, _: &TableFactor) -> ControlFlow<()> {
        self.tables += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.columns = self.columns.max(select.projection.len());
        ControlFlow::Continue(())
    }
}

/// The parts of every `WITH`, by name, and the number of tables that each expands to.
#[derive(Default)]
struct WithParts(BTreeMap<String, usize>);

impl WithParts {
    /// The number of tables in a tree once its parts are expanded.
    fn expanded_tables(&self, whole: &impl Visit) -> usize {
        let mut tables = 0usize;
        let _ = visit_relations(whole, |name| {
            tables = tables.saturating_add(self.0.get(&last_of(name)).copied().unwrap_or(1));
            ControlFlow::<()>::Continue(())
        });
        tables
    }
}

impl Visitor for WithParts {
    type Break = ();

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for part in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = part.alias.name.value.to_lowercase();
            let own = self.0.remove(&name); // A recursive part is not expanded, but run repeatedly.
            let tables = self.expanded_tables(&part.query).max(own.unwrap_or(1)).max(1);
            self.0.insert(name, tables);
        }
        ControlFlow::Continue(())
    }
}

fn last_of(name: &ObjectName) -> String {
    let last = name.0.last().and_then(|part| part.as_ident());
    last.map(|ident| ident.value.to_lowercase()).unwrap_or_default()
}

/// Checks the limits on a logical plan: it must be small enough to be optimized and run.
pub(crate) fn check_plan(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut nodes = 0;
    let walked = plan.apply_with_subqueries(|_| {
        nodes += 1;
        Ok(if nodes > PLAN_NODES_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error| QueryError::of_plan(&error))?;
    if nodes > PLAN_NODES_MAX {
        return Err(too_large(format!("its plan has more than {PLAN_NODES_MAX} nodes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a text; `refusal` is a part of the expected error, or empty if none is expected.
    fn check(sql: &str, refusal: &str) {
        match check_text(sql) {
            Ok(()) => assert!(refusal.is_empty(), "it was accepted: {refusal}"),
            Err(error) => {
                assert!(!refusal.is_empty() && error.to_string().contains(refusal), "{error}");
            }
        }
    }

    #[test]
    fn the_expansion_of_a_statement_is_limited_before_it_is_planned() {
        use datafusion::sql::parser::DFParser;
        let refusal = |sql: &str| {
            let parsed = DFParser::parse_sql(sql).expect("it is SQL").pop_front().expect("one statement");
            check_statement(&parsed).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let twice = |parts: usize| {
            let parts = (1..parts).map(|i| format!("C{i} AS (SELECT a.x FROM c{} a, c{} b)", i - 1, i - 1));
            format!("WITH c0 AS (SELECT 1 x), {}", parts.collect::<Vec<_>>().join(", "))
        };
        assert_eq!(refusal(&format!("{} SELECT * FROM c7", twice(8))), "");
        let expands = "expand to more than 1000 tables";
        assert!(refusal(&format!("{} SELECT * FROM c24", twice(25))).contains(expands));
        assert!(
            refusal(&format!("EXPLAIN {} SELECT * FROM (SELECT * FROM c24)", twice(25))).contains(expands)
        );
        // Inside another part, and in a part of a part.
        let inner =
            format!("WITH o AS ({} SELECT x FROM c5), p AS (SELECT 1 FROM o, o a, o b, o c)", twice(6));
        assert_eq!(refusal(&format!("{inner} SELECT * FROM p")), "");
        assert!(refusal(&format!("{inner} SELECT * FROM p, p a, p b, p c, p d")).contains(expands));
        let outer = format!(
            "{}, q AS (WITH n AS (SELECT a.x FROM c7 a, c7 b) SELECT 1 FROM n, n a) SELECT * FROM q",
            twice(8)
        );
        assert!(refusal(&outer).contains(expands), "{}", refusal(&outer));
        let again =
            "WITH RECURSIVE t AS (SELECT 1 x UNION ALL SELECT x + 1 FROM t WHERE x < 9) SELECT * FROM t, t a";
        assert_eq!(refusal(again), "");
        assert!(refusal(&format!("SELECT 1 FROM {}", vec!["d"; 65].join(", "))).contains("65 tables"));
        let columns: Vec<String> = (0..2001).map(|i| format!("1 AS a{i}")).collect();
        assert!(refusal(&format!("SELECT {}", columns.join(", "))).contains("2001 columns"));
    }

    #[test]
    fn the_length_and_the_depth_of_a_text_are_limited() {
        let list = |part: &str, count: usize| vec![part; count].join(",");
        check(&format!("SELECT 1 /* {} */", "x".repeat(SQL_BYTES_MAX)), "bytes");
        check(&format!("SELECT {}", vec!["1"; 1500].join("+")), "without a comma");
        check(&format!("SELECT 1, ({}), 2", vec!["1"; 1500].join("+")), "without a comma");
        check(&format!("SELECT {}1{}", "(1+".repeat(800), ")".repeat(800)), "without a comma");
        check(&vec!["SELECT 1, 1"; 300].join(" UNION ALL "), "at most 200");
        check(&format!("SELECT 1 WHERE 1 IN ({})", list("1", 50_000)), "");
        check(&format!("VALUES {}", list("(1, 'a', 2.5)", 10_000)), "");
        check(&format!("SELECT {}", list("a + b * (c - 1) AS x", 5000)), "");
        check(&format!("SELECT a{} IN.r[0TIMESTAMP].x", ".b[0].IN".repeat(20)), "links more than 16");
        check(&format!("SELECT a{}", "[0][x y]".repeat(20)), "links more than 16");
        check(&format!("SELECT 1 WHERE {}", vec!["a.b[1].c IS NULL"; 100].join(" AND ")), "");
        check("SELECT a.b.c.d[1][2].e, f.g FROM h.i.j AS k JOIN l.m ON k.n = m.o.p[3]", "");
        check("SELECT ')))(((' -- ((((\n, '+,+,+'", "");
        check("SELECT ]]])))", "");
        check("SELECT 'never closed", "");
    }
}
