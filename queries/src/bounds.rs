//! What a statement may be before it is planned, and what its plan may be before it is run.
//!
//! Whoever walks, prints or drops a tree does it by recursion, in code that is not ours, so a text of a few kilobytes could make a
//! tree that ends the process; and a planner cannot be interrupted. So three things are bounded:
//!
//! * the text, in bytes, and in how long it goes on at one place without a comma, which bounds the depth of what is parsed of
//!   it: chains of operators lean to one side, and brackets are bounded by the parser;
//! * the tables that it names, with what stands in brackets like one: joins are planned in the square of their number;
//! * the plan, in its nodes: a `WITH` whose parts use each other twice unfolds to two to the power of their number.
//!
//! Values are bounded where they are made: [`crate::functions`].

use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::QueryError;

/// How many bytes the text of a statement may have.
pub const SQL_BYTES_MAX: usize = 256 << 10;

/// How many words and marks may stand between two commas, with those around the brackets that they stand in.
const RUN_MAX: usize = 2000;

/// How many `UNION`, `EXCEPT` and `INTERSECT` a text may have.
const SET_OPERATIONS_MAX: usize = 200;

/// How many tables a statement may read, each as often as it is named.
const TABLES_MAX: usize = 100;

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
    for token in tokens {
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

/// Whether a statement may be planned.
pub(crate) fn statement(statement: &Statement) -> Result<(), QueryError> {
    struct Tables(usize);
    impl Visitor for Tables {
        type Break = ();
        fn pre_visit_table_factor(&mut self, _: &TableFactor) -> ControlFlow<()> {
            self.0 += 1;
            if self.0 > TABLES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let mut statement = statement;
    while let Statement::Explain(explain) = statement {
        statement = &explain.statement;
    }
    match statement {
        Statement::Statement(statement) if statement.visit(&mut Tables(0)).is_break() => {
            Err(too_large(format!("it reads more than {TABLES_MAX} tables")))
        }
        _ => Ok(()),
    }
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
        check("SELECT ')))(((' -- ((((\n, '+,+,+'", "");
        check("SELECT ]]])))", "");
        check("SELECT 'never closed", "");
    }
}
