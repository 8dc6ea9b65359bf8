//! `linkage`: which records are of one thing, by comparing their fields.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use tidegate_facts::suggest::did_you_mean;
use tidegate_operators::core::keys::is_key;
use tidegate_operators::core::tick_ordered::Exchange;
use tidegate_operators::identity::linkage::{
    Comparator, Comparison, LinkageConfig, MatchRules, SIMILARITY_MAX, block_column, compared_column, weights,
};

use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::stateful::{InputProjection, StateFactory, StatePlan, stateful};
use crate::node::{NodeKind, NodeSpec, PlanContext, PlannedNode, Port, ReadContext, Setting};

/// The kind of node `linkage`.
pub struct LinkageKind;

const PORTS: &[Port] = &[Port {
    name: "full",
    about: "Blocks that became full: further records with their key are not compared.",
}];

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "id",
        "column",
        Default::Required,
        "The column that names the record.",
        ["\"record_id\"", "\"id\""],
    ),
    Setting::answer(
        "blocks",
        "list of SQL",
        Default::Required,
        "Blocking keys. Records that agree in one of them are compared.",
        ["[\"date_of_birth\"]", "[\"postcode\"]"],
    ),
    Setting::answer(
        "block_max",
        "whole number",
        Default::Value("500"),
        "How many records a block holds at most.",
        ["100", "200"],
    ),
    Setting::answer(
        "threshold",
        "number",
        Default::Required,
        "How many bits of evidence make a link.",
        ["10", "11"],
    ),
    Setting::answer(
        "compare",
        "table of comparisons",
        Default::Required,
        "The columns that are compared, and how.",
        [
            "{ surname = { by = \"exact\", m = 0.9, u = 0.01 } }",
            "{ surname = { by = \"exact\", m = 0.8, u = 0.01 } }",
        ],
    ),
    Setting::answer(
        "compare.*.comparator",
        "text",
        Default::Absent("`within` compares whole numbers"),
        "`exact`, `jaro_winkler`, `levenshtein` or `words`.",
        ["\"levenshtein\"", "\"words\""],
    ),
    Setting::answer(
        "compare.*.within",
        "whole number",
        Default::Absent("`comparator` compares"),
        "Whole numbers agree when they differ by no more.",
        ["1", "2"],
    ),
    Setting::answer(
        "compare.*.agree_at",
        "share",
        Default::Value("1.0"),
        "The similarity from which on values agree.",
        ["0.9", "0.95"],
    ),
    Setting::answer(
        "compare.*.disagree_at",
        "share",
        Default::Value("0.0"),
        "The similarity up to which values disagree.",
        ["0.5", "0.6"],
    ),
    Setting::answer(
        "compare.*.m",
        "share",
        Default::Required,
        "How often two records of one thing agree.",
        ["0.9", "0.95"],
    ),
    Setting::answer(
        "compare.*.u",
        "share",
        Default::Required,
        "How often records of two things agree.",
        ["0.01", "0.02"],
    ),
];

impl NodeKind for LinkageKind {
    fn name(&self) -> &'static str {
        "linkage"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "Finds records of one thing by comparing fields in the way of Fellegi and Sunter: each comparison adds or \
         takes bits of evidence, and a pair whose sum reaches the threshold is a link. It gives links as facts; an \
         `entities` node joins them."
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"links\"\nkind = \"linkage\"\ninput = \"people\"\nid = \"record_id\"\nblocks = [\"date_of_birth\"]\nthreshold = 10\n\n\
         [compare.surname]\ncomparator = \"jaro_winkler\"\nagree_at = 0.92\ndisagree_at = 0.7\nm = 0.9\nu = 0.01\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let before = section.diagnostics().count();
        let blocks = section.texts("blocks");
        if blocks.is_empty() && section.diagnostics().count() == before {
            section.missing(
                "blocks",
                "a list of SQL keys, such as [\"date_of_birth\"]; records that agree in one are compared",
            );
        }
        let before = section.diagnostics().count();
        let compare = section.sections("compare").into_iter().map(|(column, section)| {
            let compare = read_compare(column, &section);
            section.finish();
            compare
        });
        let compare: Vec<Compare> = compare.collect();
        if compare.is_empty() && section.diagnostics().count() == before {
            section.missing(
                "compare",
                "a table for each column that is compared, such as [node.compare.surname]",
            );
        }
        let threshold = section.number("threshold");
        if threshold.is_none() && !section.has("threshold") {
            section.missing("threshold", "how many bits of evidence make a link, such as 10");
        }
        Box::new(Spec {
            id: section.required_text("id", "the column that says which record a row is"),
            blocks,
            block_max: section.count_or("block_max", 2, 500),
            threshold: threshold.unwrap_or(0.0),
            compare,
        })
    }
}

fn read_compare(column: Spanned, section: &Section<'_>) -> Compare {
    let diagnostics = section.diagnostics();
    section.refuse_renamed(&[("by", "comparator"), ("full", "agree_at"), ("none", "disagree_at")]);
    let within =
        section.count("within", 1).map(|most| Comparator::Within(i64::try_from(most).unwrap_or(i64::MAX)));
    let named = section.text("comparator").filter(|by| !by.is_absent()).and_then(|by| {
        let names = Comparator::NAMES.map(|(name, _)| name);
        let found = Comparator::NAMES.into_iter().find(|(name, _)| *name == by.value);
        if found.is_none() {
            let what = format!("`{}` is not a comparator; {}", by.value, did_you_mean(&by.value, &names));
            diagnostics.add(by.line, what);
        }
        found.map(|(_, comparator)| comparator)
    });
    let (has_comparator, has_within) =
        (section.has("comparator") || section.has("by"), section.has("within"));
    if !has_comparator && !has_within {
        section.missing(
            "comparator",
            "`exact`, `jaro_winkler`, `levenshtein` or `words`; or `within`, for whole numbers",
        );
    }
    if has_comparator && has_within {
        let what = format!("{} has both `comparator` and `within`; leave one out", section.name());
        diagnostics.add(section.line(), what);
    }
    let in_range = |key: &str, value: f64, is_inside: bool| {
        if !is_inside {
            let what = format!("`{key}` of {} is {value}; it is a share between 0 and 1", section.name());
            diagnostics.add(section.line(), what);
        }
    };
    let similarity = |key, default| {
        let value = section.number_or(key, default);
        in_range(key, value, (0.0..=1.0).contains(&value));
        (value * SIMILARITY_MAX as f64).round() as i64
    };
    let frequency = |key, meaning: &str| {
        let value = section.number(key);
        if value.is_none() && !section.has(key) {
            section.missing(key, meaning);
        }
        value.inspect(|value| in_range(key, *value, *value > 0.0 && *value < 1.0)).unwrap_or(0.5)
    };
    let compare = Compare {
        column,
        by: within.or(named).unwrap_or(Comparator::Exact),
        agree_at: similarity("agree_at", 1.0),
        disagree_at: similarity("disagree_at", 0.0),
        m: frequency("m", "how often two records of one thing agree, such as 0.9"),
        u: frequency("u", "how often records of two things agree, such as 0.01"),
    };
    if compare.disagree_at >= compare.agree_at {
        let what = format!(
            "`disagree_at` of {} must be less than `agree_at`, from which on values agree",
            section.name()
        );
        diagnostics.add(section.line(), what);
    }
    compare
}

struct Spec {
    id: Spanned,
    blocks: Vec<Spanned>,
    block_max: u64,
    threshold: f64,
    compare: Vec<Compare>,
}

/// One comparison, as a topology writes it.
struct Compare {
    column: Spanned,
    by: Comparator,
    /// From this similarity on values agree, in thousandths.
    agree_at: i64,
    /// Up to this similarity values disagree, in thousandths.
    disagree_at: i64,
    m: f64,
    u: f64,
}

impl NodeSpec for Spec {
    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let (input, of) = (cx.input()?, cx.input_name());
        let id = cx.key_column(&self.id, input, of);
        let time = cx.ts_utc_column(input, of);
        let compared: Vec<Option<usize>> =
            self.compare.iter().map(|compare| comparable_column(cx, compare, input)).collect();
        let blocks = self.blocks.iter().map(|text| {
            let planned = cx.expression(text, input, None)?;
            let data_type = &planned.expr.data_type;
            if !is_key(data_type) {
                let what = format!(
                    "`{}` is {data_type}, which cannot be a key; make it a text or a whole number",
                    text.value
                );
                cx.fault(text.line, what);
                return None;
            }
            Some(planned.expr)
        });
        let blocks: Vec<Option<_>> = blocks.collect();
        let (id, time) = (id?, time?);
        let compared: Vec<usize> = compared.into_iter().collect::<Option<_>>()?;
        let blocks: Vec<_> = blocks.into_iter().collect::<Option<_>>()?;
        let mut projection = InputProjection::new(cx, input, id, Some(time));
        for (number, index) in compared.iter().enumerate() {
            projection.keep_as(*index, &compared_column(number));
        }
        let count = blocks.len();
        for (number, expr) in blocks.into_iter().enumerate() {
            projection.compute(&block_column(number), expr);
        }
        let comparisons = self.compare.iter().map(|compare| {
            let (agree, disagree) = weights(compare.m, compare.u);
            Comparison {
                comparator: compare.by,
                agree_at: compare.agree_at,
                disagree_at: compare.disagree_at,
                agree,
                disagree,
            }
        });
        let rules = MatchRules {
            comparisons: comparisons.collect(),
            threshold: (self.threshold * 1_000.0).round() as i64,
            blocks: count,
            block_max: usize::try_from(self.block_max).unwrap_or(usize::MAX),
        };
        let linkage = LinkageConfig { rules, id: input.field(id).data_type().clone() };
        let outputs = linkage.outputs().into_iter().map(|output| (output.schema, output.order)).collect();
        let factory = StateFactory::Replayed(Arc::new(move || Box::new(linkage.operator())));
        let inputs = vec![projection.input(of, Exchange::Single)];
        Some(stateful(cx, PORTS, None, StatePlan { inputs, outputs, factory }))
    }
}

fn comparable_column(cx: &PlanContext<'_>, compare: &Compare, input: &SchemaRef) -> Option<usize> {
    let index = cx.column(&compare.column, input, cx.input_name())?;
    let data_type = input.field(index).data_type();
    let fits = data_type.is_integer() || *data_type == DataType::Utf8;
    if !fits {
        let expected = if matches!(compare.by, Comparator::Within(_)) { "a whole number" } else { "a text" };
        let what = format!(
            "column `{}` is {data_type}, and {expected} can be compared: cast it in a `project` before",
            compare.column.value
        );
        cx.fault(compare.column.line, what);
    }
    fits.then_some(index)
}
