//! Decides each row by a bundle: an ordered list of rules and a score.
//!
//! Reference: fraud platform 2.8. Each rule is a SQL boolean. The first rule of the bundle that
//! fires determines the action, and the decision cites every rule that fired. A rule whose
//! evaluation fails counts as fired with the reason `EVALUATION_ERROR`, and the decision is then at
//! least a review, so that a failure never lets an event pass.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Float64Array, Int32Array, ListBuilder, RecordBatch,
    StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use serde::Deserialize;
use tidegate_facts::digest::push_parts;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Digest, DigestBatch, PolicyRev, Tick, columns, strict_json};
use toml::de::DeTable;

use crate::core::effective::Effective;
use crate::core::expr::{ErrorCollector, Expr, Split, error_schema};
use crate::core::rows::{digest_column, repeated_text, ticks_of};

/// The action that a bundle decides for an event, from allowing to blocking it, in the order of
/// severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Lets the event pass.
    Allow,
    /// Asks the customer for further authentication.
    StepUp,
    /// Sends the event to manual review.
    QueueReview,
    /// Stops the event.
    Block,
}

impl Action {
    /// Every action of a decision, in the order of severity.
    pub const ALL: [Action; 4] = [Action::Allow, Action::StepUp, Action::QueueReview, Action::Block];

    /// The name of the action in bundles, rows and receipts.
    pub fn name(self) -> &'static str {
        match self {
            Action::Allow => "ALLOW",
            Action::StepUp => "STEP_UP",
            Action::QueueReview => "QUEUE_REVIEW",
            Action::Block => "BLOCK",
        }
    }
}

/// A rule as written in a bundle file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    /// The rule's name, unique in its bundle.
    pub id: String,
    /// A SQL boolean over the row.
    pub when: toml::Spanned<String>,
    /// The action when this rule is the first to fire.
    pub action: Action,
    /// The reason code that decisions cite.
    pub reason: String,
}

/// A bundle as written in its file: the rules in order, the default action and the score.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleText {
    /// The bundle's stable name.
    pub id: String,
    /// The version that its authors gave it.
    pub version: String,
    /// The action when no rule fires; `ALLOW` unless given.
    #[serde(default = "allow")]
    pub default_action: Action,
    /// A SQL number over the row; a greater score is more suspicious.
    pub score: toml::Spanned<String>,
    /// The rules, most important first.
    #[serde(rename = "rule")]
    pub rules: Vec<RuleText>,
}

fn allow() -> Action {
    Action::Allow
}

impl BundleText {
    /// Parses a bundle file.
    ///
    /// # Errors
    /// For each error its line, counted from 1, and a message.
    pub fn parse(text: &str) -> Result<BundleText, Vec<(u32, String)>> {
        let renamed = renamed_keys(text);
        if !renamed.is_empty() {
            return Err(renamed);
        }
        let bundle: BundleText = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            vec![(line, error.message().to_owned())]
        })?;
        let mut errors = Vec::new();
        for (index, rule) in bundle.rules.iter().enumerate() {
            if bundle.rules[..index].iter().any(|earlier| earlier.id == rule.id) {
                errors.push((
                    line_of(text, rule.when.span().start),
                    format!("the bundle already has a rule `{}` above; give each rule its own `id`", rule.id),
                ));
            }
        }
        if errors.is_empty() { Ok(bundle) } else { Err(errors) }
    }

    /// The bundle digest: BLAKE3 over its content in canonical JSON. Layout and comments do not
    /// matter.
    pub fn digest(&self) -> Digest {
        let rules: Vec<serde_json::Value> = self
            .rules
            .iter()
            .map(|r| serde_json::json!({"id": r.id, "when": r.when.get_ref(), "action": r.action.name(), "reason": r.reason}))
            .collect();
        let content = serde_json::json!({
            "recipe": "tidegate.bundle.v2", "id": self.id, "version": self.version,
            "default_action": self.default_action.name(), "score": self.score.get_ref(), "rules": rules,
        });
        let canonical = strict_json::canonical(&content.to_string()).expect("serde_json writes valid JSON");
        Digest::of(canonical.as_bytes())
    }
}

/// Keys that bundles had before, and the words that replaced them.
const RENAMED: [(&str, &str); 1] = [("otherwise", "default_action")];

/// The errors of a bundle's keys that were renamed; none when the text is not TOML.
fn renamed_keys(text: &str) -> Vec<(u32, String)> {
    let Ok(table) = DeTable::parse(text) else { return Vec::new() };
    let renamed = RENAMED.iter().filter_map(|(before, now)| {
        let value = table.get_ref().get(*before)?;
        let what = format!("`{before}` of the bundle is now called `{now}`; rename it");
        Some((line_of(text, value.span().start), what))
    });
    renamed.collect()
}

/// The line of a bundle or policy file, counted from 1, with the byte at index `at` of `text`.
pub fn line_of(text: &str, at: usize) -> u32 {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() as u32
}

/// A rule of a bundle with its planned condition.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The rule's name.
    pub id: String,
    /// The planned condition.
    pub when: Expr,
    /// The action when this rule is the first to fire.
    pub action: Action,
    /// The reason code that decisions cite.
    pub reason: String,
}

/// A bundle with planned expressions, which decides rows.
#[derive(Clone)]
pub struct Decider {
    /// The name of the `decide` node, for error rows; decision ids do not depend on it.
    pub node: Arc<str>,
    /// The bundle's name.
    pub bundle_id: String,
    /// The bundle's version.
    pub bundle_version: String,
    /// The bundle's digest.
    pub bundle_digest: Digest,
    /// The action when no rule fires.
    pub default_action: Action,
    /// The planned score, a 64-bit float.
    pub score: Expr,
    /// The rules, most important first.
    pub rules: Vec<Rule>,
    /// The revision of the gate policy that admitted the facts.
    pub policy: PolicyRev,
}

/// The fields of the columns that a decision appends to a row.
///
/// | column | meaning |
/// |---|---|
/// | `decision_id` | BLAKE3 of the recipe's name, event id, tick and bundle digest |
/// | `action` | a name of [`Action`] |
/// | `score` | the bundle's score of the row; null when its evaluation failed |
/// | `rules_fired`, `reason_codes` | every rule that fired, in the bundle's order |
/// | `bundle_id`, `bundle_version`, `bundle_digest` | the bundle that decided |
/// | `policy_id`, `policy_revision`, `policy_digest` | the gate policy that admitted the fact |
/// | `decided_at_utc` | the fact's tick as a time |
pub fn decision_fields() -> Vec<Field> {
    let texts = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    vec![
        Field::new("decision_id", DataType::FixedSizeBinary(32), false),
        Field::new("action", columns::dictionary(), false),
        Field::new("score", DataType::Float64, true),
        Field::new("rules_fired", texts.clone(), false),
        Field::new("reason_codes", texts, false),
        Field::new("bundle_id", columns::dictionary(), false),
        Field::new("bundle_version", columns::dictionary(), false),
        Field::new("bundle_digest", columns::dictionary(), false),
        Field::new("policy_id", columns::dictionary(), false),
        Field::new("policy_revision", columns::dictionary(), false),
        Field::new("policy_digest", columns::dictionary(), false),
        Field::new("decided_at_utc", timestamp(), false),
    ]
}

/// The reason code that a decision cites for a rule whose evaluation failed.
pub const EVALUATION_ERROR: &str = "EVALUATION_ERROR";

impl Decider {
    /// The schema of decisions on rows of schema `input`.
    pub fn schema(input: &Schema) -> SchemaRef {
        let fields = input.fields().iter().cloned().chain(decision_fields().into_iter().map(Arc::new));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Decides each row of a batch by the bundle. A failed evaluation makes the decision at least a
    /// review and adds an error row; no row is dropped.
    ///
    /// # Panics
    /// When the rows have no `event_id`; the plan checks that.
    pub fn decide(&self, batch: &RecordBatch) -> Split {
        let rows = batch.num_rows();
        let mut errors = ErrorCollector::new(&self.node, batch);
        let score = errors.evaluate(&self.score);
        let score: ArrayRef = Arc::new(score.as_primitive::<Float64Type>().iter().collect::<Float64Array>());
        let mut failed: Vec<bool> = vec![false; rows];
        for row in errors.rows() {
            failed[row] = true;
        }
        let mut action: Vec<Option<Action>> = vec![None; rows];
        // The row, the index of the rule, and whether its evaluation failed.
        let mut fired: Vec<(u32, u16, bool)> = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let (holds, rule_errors) = rule.when.evaluate(batch);
            let holds = holds.as_boolean();
            for row in holds.values().set_indices().filter(|row| holds.is_valid(*row)) {
                action[row].get_or_insert(rule.action);
                fired.push((row as u32, index as u16, false));
            }
            for error in &rule_errors {
                failed[error.row] = true;
                fired.push((error.row as u32, index as u16, true));
            }
            errors.add(&rule.when, rule_errors);
        }
        fired.sort_unstable();
        let decided = self.columns(batch, &action, &failed, &fired, score);
        let mut columns = batch.columns().to_vec();
        columns.extend(decided);
        let passed = RecordBatch::try_new(Decider::schema(batch.schema_ref()), columns)
            .expect("the columns match the schema");
        Split { passed, errors: errors.into_batch() }
    }

    fn columns(
        &self,
        batch: &RecordBatch,
        action: &[Option<Action>],
        failed: &[bool],
        fired: &[(u32, u16, bool)],
        score: ArrayRef,
    ) -> Vec<ArrayRef> {
        let rows = batch.num_rows();
        let ticks = ticks_of(batch);
        let event_ids = batch
            .column_by_name(columns::EVENT_ID)
            .expect("the plan checks that it exists")
            .as_string::<i32>();
        let mut ids = DigestBatch::with_capacity(rows);
        let mut rules_fired = ListBuilder::with_capacity(StringBuilder::new(), rows);
        let mut reasons = ListBuilder::with_capacity(StringBuilder::new(), rows);
        let mut remaining = fired;
        for (row, failed) in failed.iter().enumerate() {
            let (event_id, tick) = (event_ids.value(row), Tick(ticks.value(row)));
            ids.push(|text| push_decision_text(event_id, tick, &self.bundle_digest, text));
            let of_row = remaining.iter().take_while(|(r, _, _)| *r as usize == row).count();
            for (_, index, is_error) in &remaining[..of_row] {
                let rule = &self.rules[usize::from(*index)];
                rules_fired.values().append_value(&rule.id);
                reasons.values().append_value(if *is_error { EVALUATION_ERROR } else { &rule.reason });
            }
            if *failed && !remaining[..of_row].iter().any(|(_, _, is_error)| *is_error) {
                reasons.values().append_value(EVALUATION_ERROR); // The score failed, but no rule did.
            }
            remaining = &remaining[of_row..];
            rules_fired.append(true);
            reasons.append(true);
        }
        let names = StringArray::from_iter_values(Action::ALL.iter().map(|a| a.name()));
        let actions = action.iter().zip(failed).map(|(action, failed)| {
            let action = action.unwrap_or(self.default_action);
            Some((if *failed { action.max(Action::QueueReview) } else { action }) as i32)
        });
        let actions = DictionaryArray::new(actions.collect::<Int32Array>(), Arc::new(names));
        let times =
            TimestampMicrosecondArray::from_iter_values(ticks.values().iter().map(|t| Tick(*t).micros()));
        let same = |text: &str| repeated_text(text, rows);
        vec![
            Arc::new(digest_column(&ids.finish())),
            Arc::new(actions),
            score,
            Arc::new(rules_fired.finish()),
            Arc::new(reasons.finish()),
            same(&self.bundle_id),
            same(&self.bundle_version),
            same(&self.bundle_digest.to_hex()),
            same(&self.policy.policy_id),
            same(&self.policy.revision),
            same(&self.policy.content_digest.to_hex()),
            Arc::new(times.with_timezone("UTC")),
        ]
    }
}

impl Effective<Decider> {
    /// Decides each row by the bundle that is effective at its tick; see [`Decider::decide`].
    ///
    /// # Panics
    /// When the rows have no `event_id`; the plan checks that.
    pub fn decide(&self, batch: &RecordBatch) -> Split {
        let mut parts: Vec<Split> =
            self.split(batch).into_iter().map(|(decider, rows)| decider.decide(&rows)).collect();
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let schema = Decider::schema(batch.schema_ref());
        let passed = concat_batches(&schema, parts.iter().map(|part| &part.passed)).expect("one schema");
        let errors: Vec<&RecordBatch> = parts.iter().filter_map(|part| part.errors.as_ref()).collect();
        let errors =
            (!errors.is_empty()).then(|| concat_batches(&error_schema(), errors).expect("one schema"));
        Split { passed, errors }
    }
}

/// Appends the text whose digest is the id of the decision on one fact by one bundle.
fn push_decision_text(event_id: &str, tick: Tick, bundle: &Digest, out: &mut Vec<u8>) {
    push_parts("tidegate.decision.v1", &[event_id.as_bytes(), &tick.0.to_le_bytes(), &bundle.0], out);
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Int32Type;
    use expect_test::{Expect, expect};
    use tidegate_facts::tick::PARTITION_BITS;

    use super::*;
    use crate::core::expr::tests::plan;

    fn rows(x: &[Option<i64>]) -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                columns::TICK,
                Arc::new(columns::TickArray::from_iter_values(
                    (1..=x.len() as i64).map(|row| row << PARTITION_BITS),
                )),
            ),
            (
                columns::EVENT_ID,
                Arc::new(StringArray::from_iter_values((1..=x.len()).map(|row| format!("event-{row}")))),
            ),
            ("x", Arc::new(Int64Array::from(x.to_vec()))),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), *name == "x")).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect())
            .expect("the columns have one length")
    }

    const BUNDLE: &str = r#"
        id = "velocity"
        version = "1"
        score = "cast(100 / (x - 50) as double)"

        [[rule]]
        id = "large"
        when = "x > 10"
        action = "STEP_UP"
        reason = "LARGE"

        [[rule]]
        id = "ratio"
        when = "60 / x >= 3"
        action = "BLOCK"
        reason = "RATIO"

        [[rule]]
        id = "negative"
        when = "x < 0"
        action = "ALLOW"
        reason = "NEGATIVE"
    "#;

    fn decider(schema: &Schema) -> Decider {
        let bundle = BundleText::parse(BUNDLE).expect("the test's bundle is valid");
        let rule = |r: &RuleText| Rule {
            id: r.id.clone(),
            when: plan(r.when.get_ref(), schema),
            action: r.action,
            reason: r.reason.clone(),
        };
        Decider {
            node: "decide".into(),
            bundle_id: bundle.id.clone(),
            bundle_version: bundle.version.clone(),
            bundle_digest: bundle.digest(),
            default_action: bundle.default_action,
            score: plan(bundle.score.get_ref(), schema),
            rules: bundle.rules.iter().map(rule).collect(),
            policy: PolicyRev {
                policy_id: "gate".to_owned(),
                revision: "1".to_owned(),
                content_digest: Digest::of(b""),
            },
        }
    }

    /// Checks one line for each `x`: its action, score, rules and reasons; then one for each error.
    fn check(x: &[Option<i64>], expected: &Expect) {
        let batch = rows(x);
        let split = decider(&batch.schema()).decide(&batch);
        let column = |name: &str| split.passed.column_by_name(name).expect("a column of decisions");
        let actions = column("action").as_dictionary::<Int32Type>();
        let scores = column("score").as_primitive::<Float64Type>();
        let cited = |name: &str, row: usize| {
            let texts = column(name).as_list::<i32>().value(row);
            texts.as_string::<i32>().iter().flatten().collect::<Vec<_>>().join(",")
        };
        let mut lines: Vec<String> = (0..batch.num_rows())
            .map(|row| {
                let x = x[row].map_or("null".to_owned(), |x| x.to_string());
                let action = actions.values().as_string::<i32>().value(actions.keys().value(row) as usize);
                let score =
                    scores.iter().nth(row).flatten().map_or("-".to_owned(), |score| score.to_string());
                format!(
                    "{x}: {action} {score} [{}] [{}]\n",
                    cited("rules_fired", row),
                    cited("reason_codes", row)
                )
            })
            .collect();
        if let Some(errors) = &split.errors {
            let texts = |column: usize| errors.column(column).as_string::<i32>();
            for row in 0..errors.num_rows() {
                let event = ticks_of(errors).value(row) >> PARTITION_BITS;
                lines.push(format!("event-{event}: {}: {}\n", texts(2).value(row), texts(3).value(row)));
            }
        }
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn the_first_rule_that_fires_determines_the_action_and_all_are_cited() {
        check(
            &[Some(1), Some(11), Some(30), Some(9), Some(-5), Some(40)],
            &expect![[r#"
            1: BLOCK -2 [ratio] [RATIO]
            11: STEP_UP -2 [large,ratio] [LARGE,RATIO]
            30: STEP_UP -5 [large] [LARGE]
            9: BLOCK -2 [ratio] [RATIO]
            -5: ALLOW -1 [negative] [NEGATIVE]
            40: STEP_UP -10 [large] [LARGE]
        "#]],
        );
    }

    #[test]
    fn a_null_fires_nothing() {
        check(
            &[None],
            &expect![[r#"
            null: ALLOW - [] []
        "#]],
        );
    }

    #[test]
    fn a_failed_evaluation_is_at_least_a_review() {
        // A rule fails on 0; the score fails on 50, where a less severe rule fires.
        check(
            &[Some(5), Some(0), Some(50)],
            &expect![[r#"
            5: BLOCK -2 [ratio] [RATIO]
            0: QUEUE_REVIEW -2 [ratio] [EVALUATION_ERROR]
            50: QUEUE_REVIEW - [large] [LARGE,EVALUATION_ERROR]
            event-2: 60 / x >= 3: Arrow error: Divide by zero error
            event-3: cast(100 / (x - 50) as double): Arrow error: Divide by zero error
        "#]],
        );
    }

    #[test]
    fn decision_ids_depend_on_event_tick_and_bundle_alone() {
        let batch = rows(&[Some(1), Some(0), Some(11)]);
        let whole = decider(&batch.schema()).decide(&batch).passed;
        for row in 0..3 {
            let alone = decider(&batch.schema()).decide(&batch.slice(row, 1)).passed;
            assert_eq!(alone, whole.slice(row, 1), "a decision does not depend on the rows beside it");
        }
        let text = |event_id, tick, bundle| {
            let mut text = Vec::new();
            push_decision_text(event_id, tick, &Digest::of(bundle), &mut text);
            text
        };
        let one = text("event-1", Tick(1), b"a");
        for other in [("event-2", Tick(1), b"a"), ("event-1", Tick(2), b"a"), ("event-1", Tick(1), b"b")] {
            assert_ne!(one, text(other.0, other.1, other.2));
        }
    }

    #[test]
    fn layout_and_comments_do_not_change_a_bundles_digest() {
        let digest = |text: &str| BundleText::parse(text).expect("a valid bundle").digest();
        assert_eq!(digest(BUNDLE), digest(&format!("# A remark.\n{}", BUNDLE.replace("\n        ", "\n"))));
        assert_ne!(digest(BUNDLE), digest(&BUNDLE.replace("x > 10", "x > 11")));
    }

    #[test]
    fn the_errors_of_a_bundle_have_lines() {
        let twice = BUNDLE.replace("\"negative\"", "\"large\"");
        let errors = BundleText::parse(&twice).expect_err("two rules have one name");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].0, 20);
        assert!(errors[0].1.contains("`large`"), "{errors:?}");
        let unknown = BundleText::parse(&BUNDLE.replace("action = \"BLOCK\"", "action = \"STOP\""))
            .expect_err("no such action");
        assert_eq!(unknown[0].0, 15);
        let before = BUNDLE.replace("version = \"1\"", "version = \"1\"\n        otherwise = \"ALLOW\"");
        let renamed = BundleText::parse(&before).expect_err("the key was renamed");
        let what = "`otherwise` of the bundle is now called `default_action`; rename it";
        assert_eq!(renamed, [(4, what.to_owned())]);
    }
}
