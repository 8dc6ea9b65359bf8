//! What a statement may be before it is planned, and what its plan may be before it is run.
//!
//! Whoever walks, prints or drops a tree does it by recursion, in code that is not ours, so a text of a few kilobytes could make a
//! tree that ends the process; and a planner cannot be interrupted. So three things are bounded:
//!
//! * the text, in bytes, and in how long it goes on at one place without a comma, which bounds the depth of what is parsed of
//!   it: chains of operators lean to one side, and brackets are bounded by the parser; and in how long a chain of names and
//!   subscripts is, each link of which the parser may try in two ways;
//! * the tables and the columns that it names: both are planned in the square of their number. A `WITH` whose parts use each
//!   other twice unfolds to two to the power of their number, so they are counted as they unfold;
//! * the plan, in its nodes.
//!
//! Values are bounded where they are made: [`crate::functions`].

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

use crate::QueryError;

/// How many bytes the text of a statement may have.
pub const SQL_BYTES_MAX: usize = 256 << 10;

/// How many words and marks may stand between two commas, with those around the brackets that they stand in.
const RUN_MAX: usize = 2000;

/// How many names and subscripts may be linked, as in `a.b[1].c`.
const LINKS_MAX: usize = 16;

/// How many `UNION`, `EXCEPT` and `INTERSECT` a text may have.
const SET_OPERATIONS_MAX: usize = 200;

/// How many tables a statement may read, each as often as it is named.
const TABLES_MAX: usize = 64;

/// How many tables that may be, once the parts of a `WITH` stand wherever they are named.
const UNFOLDED_MAX: usize = 1000;

/// How many columns one `SELECT` may have.
const COLUMNS_MAX: usize = 2000;

/// How many nodes a plan may have.
const PLAN_NODES_MAX: usize = 2000;

fn too_large(what: String) -> QueryError {
    QueryError::TooLarge { what }
}

/// Whether a text may be parsed.
pub(crate) fn text(sql: &str) -> Result<(), QueryError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(too_large(format!("it has {} bytes, and at most {SQL_BYTES_MAX} are read", sql.len())));
    }
    // What is no SQL is for the parser to refuse, which reads the same tokens.
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
                "it goes on for more than {RUN_MAX} words without a comma; write IN (..) for a long OR"
            )));
        }
    }
    if set_operations > SET_OPERATIONS_MAX {
        return Err(too_large(format!(
            "it puts together {set_operations} queries, and at most {SET_OPERATIONS_MAX} may be"
        )));
    }
    Ok(())
}

/// A chain of names and subscripts, as far as it was read.
#[derive(Default)]
struct Chain {
    links: usize,
    /// How many subscripts are open.
    open: usize,
    /// Whether a name or a subscript has just ended, so that a word begins something else.
    is_ended: bool,
}

impl Chain {
    /// How many links there are with this token.
    fn add(&mut self, token: &Token) -> usize {
        match token {
            Token::Period => self.links += 1,
            // With nothing in front of it, it begins a list.
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

/// Whether a statement may be planned.
pub(crate) fn statement(statement: &Statement) -> Result<(), QueryError> {
    let mut statement = statement;
    while let Statement::Explain(explain) = statement {
        statement = &explain.statement;
    }
    let Statement::Statement(statement) = statement else { return Ok(()) };
    let mut sizes = Sizes::default();
    let _ = statement.visit(&mut sizes);
    if sizes.tables > TABLES_MAX {
        return Err(too_large(format!("it reads {} tables, and at most {TABLES_MAX} may be", sizes.tables)));
    }
    if sizes.columns > COLUMNS_MAX {
        return Err(too_large(format!(
            "it selects {} columns, and at most {COLUMNS_MAX} may be",
            sizes.columns
        )));
    }
    // Each pass knows the parts that stand before or around a part better; there are no more of them than tables.
    let mut parts = Parts::default();
    for _ in 0..=TABLES_MAX {
        let before = parts.0.clone();
        let _ = statement.visit(&mut parts);
        if parts.unfolds(statement) > UNFOLDED_MAX {
            return Err(too_large(format!(
                "its WITH parts use each other and unfold to more than {UNFOLDED_MAX} tables"
            )));
        }
        if parts.0 == before {
            break;
        }
    }
    Ok(())
}

/// What stands in a statement.
#[derive(Default)]
struct Sizes {
    tables: usize,
    /// Of the widest `SELECT`.
    columns: usize,
}

impl Visitor for Sizes {
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

/// The parts of every `WITH`, by name, and how many tables each unfolds to.
#[derive(Default)]
struct Parts(BTreeMap<String, usize>);

impl Parts {
    /// How many tables stand in something, once its parts are in their places.
    fn unfolds(&self, whole: &impl Visit) -> usize {
        let mut tables = 0usize;
        let _ = visit_relations(whole, |name| {
            tables = tables.saturating_add(self.0.get(&last_of(name)).copied().unwrap_or(1));
            ControlFlow::<()>::Continue(())
        });
        tables
    }
}

impl Visitor for Parts {
    type Break = ();

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for part in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = part.alias.name.value.to_lowercase();
            let own = self.0.remove(&name); // What names itself is not unfolded, but run again and again.
            let tables = self.unfolds(&part.query).max(own.unwrap_or(1)).max(1);
            self.0.insert(name, tables);
        }
        ControlFlow::Continue(())
    }
}

fn last_of(name: &ObjectName) -> String {
    let last = name.0.last().and_then(|part| part.as_ident());
    last.map(|ident| ident.value.to_lowercase()).unwrap_or_default()
}

/// Whether a plan may be worked on.
pub(crate) fn plan(plan: &LogicalPlan) -> Result<(), QueryError> {
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

    fn check(sql: &str, says: &str) {
        match text(sql) {
            Ok(()) => assert!(says.is_empty(), "it was let pass: {says}"),
            Err(error) => {
                assert!(!says.is_empty() && error.to_string().contains(says), "{error}");
            }
        }
    }

    #[test]
    fn what_a_statement_unfolds_to_is_bounded_before_it_is_planned() {
        use datafusion::sql::parser::DFParser;
        let says = |sql: &str| {
            let parsed = DFParser::parse_sql(sql).expect("it is SQL").pop_front().expect("one statement");
            statement(&parsed).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let twice = |parts: usize| {
            let parts = (1..parts).map(|i| format!("C{i} AS (SELECT a.x FROM c{} a, c{} b)", i - 1, i - 1));
            format!("WITH c0 AS (SELECT 1 x), {}", parts.collect::<Vec<_>>().join(", "))
        };
        assert_eq!(says(&format!("{} SELECT * FROM c7", twice(8))), "");
        let unfolds = "unfold to more than 1000 tables";
        assert!(says(&format!("{} SELECT * FROM c24", twice(25))).contains(unfolds));
        assert!(says(&format!("EXPLAIN {} SELECT * FROM (SELECT * FROM c24)", twice(25))).contains(unfolds));
        // Inside another part, and in a part of a part.
        let inner =
            format!("WITH o AS ({} SELECT x FROM c5), p AS (SELECT 1 FROM o, o a, o b, o c)", twice(6));
        assert_eq!(says(&format!("{inner} SELECT * FROM p")), "");
        assert!(says(&format!("{inner} SELECT * FROM p, p a, p b, p c, p d")).contains(unfolds));
        let outer = format!(
            "{}, q AS (WITH n AS (SELECT a.x FROM c7 a, c7 b) SELECT 1 FROM n, n a) SELECT * FROM q",
            twice(8)
        );
        assert!(says(&outer).contains(unfolds), "{}", says(&outer));
        let again =
            "WITH RECURSIVE t AS (SELECT 1 x UNION ALL SELECT x + 1 FROM t WHERE x < 9) SELECT * FROM t, t a";
        assert_eq!(says(again), "");
        assert!(says(&format!("SELECT 1 FROM {}", vec!["d"; 65].join(", "))).contains("65 tables"));
        let columns: Vec<String> = (0..2001).map(|i| format!("1 AS a{i}")).collect();
        assert!(says(&format!("SELECT {}", columns.join(", "))).contains("2001 columns"));
    }

    #[test]
    fn a_text_is_bounded_in_length_and_in_what_makes_it_deep() {
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
