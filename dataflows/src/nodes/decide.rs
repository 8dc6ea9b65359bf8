//! `decide`: ordered rules over each row, and the decision that follows from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use tidegate_facts::{PolicyRev, columns};
use tidegate_operators::core::effective::Effective;
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::decision::decide::{BundleText, Decider, Rule, line_of};

use crate::config::{PlannedExpr, Section, Spanned};
use crate::node::plan_context::{RevisionText, columns_of};
use crate::node::settings::Default;
use crate::node::{
    ColumnSet, FirstRevision, InputSchemas, NodeKind, NodeSpec, OutputSpec, PlanContext, PlannedNode,
    ReadContext, RenderContext, Revisable, Setting, Summary,
};

/// The kind of node `decide`.
pub struct Decide;

const SETTINGS: &[Setting] = &[Setting::wiring(
    "bundle",
    "path",
    Default::Required,
    "The file of the rules, relative to the topology. The plan digest covers the content of the rules and not the path.",
    ["\"policies/card-rules.toml\"", "\"policies/other-rules.toml\""],
)];

impl NodeKind for Decide {
    fn name(&self) -> &'static str {
        "decide"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "Decides each row by the rules of a bundle: SQL conditions, each with an action and a reason code. The \
         first rule that fires decides the action, and the decision cites every rule that fired; when none fires, \
         the action is the bundle's `default_action`. A rule that fails on a row counts as fired with \
         EVALUATION_ERROR, and the decision is at least a review. The rules can be revised \
         while the topology runs (`tidegate policy`)."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"decisions\"\nkind = \"decide\"\ninput = \"features\"\nbundle = \"policies/card-rules.toml\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        Box::new(Spec { bundle: section.required_text("bundle", "the path of its rules") })
    }
}

struct Spec {
    bundle: Spanned,
}

impl NodeSpec for Spec {
    fn revisable(&self) -> Option<Revisable<'_>> {
        Some(Revisable::Bundle(&self.bundle))
    }

    fn schema_despite_faults(&self, input: &SchemaRef) -> Option<SchemaRef> {
        Some(Decider::schema(input))
    }

    /// The faults of a bundle are found without its input, and those of its rules with it.
    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let input = cx.input();
        if let Some(input) = input {
            cx.requires_columns(input, &[columns::EVENT_ID]);
        }
        let policies = cx.policies.map(|policies| policies.map(|policy| policy.rev()));
        let file = cx.files.text(&self.bundle, "bundle", cx.diagnostics)?;
        let first = policies.as_ref().map(Effective::first);
        let bundles = cx.every_revision(&file, |text| decider(cx, text, input, first))?;
        let deciders = bundles
            .combine(&policies?, |decider, policy| Decider { policy: policy.clone(), ..decider.clone() });
        Some(Box::new(Planned { deciders: Arc::new(deciders), schema: Decider::schema(input?) }))
    }
}

/// The rules of one revision of a bundle over its input, if that is known.
fn decider(
    cx: &PlanContext<'_>,
    revision: &RevisionText,
    input: Option<&SchemaRef>,
    policy: Option<&PolicyRev>,
) -> Option<Decider> {
    let RevisionText { file, text } = revision;
    let bundle = match BundleText::parse(text) {
        Ok(bundle) => bundle,
        Err(found) => {
            for (line, what) in found {
                cx.diagnostics.add_in(file, line, what);
            }
            return None;
        }
    };
    let input = input?;
    let in_bundle = |span: std::ops::Range<usize>, what: String| {
        cx.diagnostics.add_in(file, line_of(text, span.start), what)
    };
    let is_number = |planned: &PlannedExpr| {
        let data_type = &planned.expr.data_type;
        (data_type.is_numeric() || *data_type == DataType::Null)
            .then_some(())
            .ok_or_else(|| format!("the score `{}` is {data_type}; write a number", bundle.score.get_ref()))
    };
    let score = bundle.score.get_ref();
    let score = cx
        .expressions
        .plan(score, input, None)
        .and_then(|planned| is_number(&planned))
        .and_then(|()| cx.expressions.plan(score, input, Some(&DataType::Float64)))
        .map_err(|what| in_bundle(bundle.score.span(), what))
        .ok();
    let mut rules = Vec::new();
    for rule in &bundle.rules {
        match cx.expressions.plan_boolean(rule.when.get_ref(), input) {
            Ok(planned) => rules.push(Rule {
                id: rule.id.clone(),
                when: planned.expr,
                action: rule.action,
                reason: rule.reason.clone(),
            }),
            Err(what) => in_bundle(rule.when.span(), format!("rule `{}`: {what}", rule.id)),
        }
    }
    if rules.len() < bundle.rules.len() {
        return None;
    }
    Some(Decider {
        node: cx.name.into(),
        bundle_digest: bundle.digest(),
        bundle_id: bundle.id,
        bundle_version: bundle.version,
        default_action: bundle.default_action,
        score: score?.expr,
        rules,
        policy: policy?.clone(),
    })
}

struct Planned {
    /// The topology's rules, and those that became effective later.
    deciders: Arc<Effective<Decider>>,
    schema: SchemaRef,
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(&self.schema))]
    }

    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let rules = self.deciders.values().flat_map(|d| d.rules.iter().map(|r| &r.when).chain([&d.score]));
        let mut reads = wanted[0].clone();
        reads.extend(rules.flat_map(columns_of));
        reads.insert(columns::EVENT_ID.to_owned());
        vec![(inputs.name().to_owned(), reads)]
    }

    fn first_revision(&self) -> Option<FirstRevision> {
        let first = self.deciders.first();
        Some(FirstRevision {
            id: first.bundle_id.clone(),
            version: first.bundle_version.clone(),
            digest: first.bundle_digest,
        })
    }

    fn columns_of_reasons(&self) -> BTreeMap<String, Vec<String>> {
        let mut columns: BTreeMap<String, ColumnSet> = BTreeMap::new();
        for rule in self.deciders.values().flat_map(|decider| &decider.rules) {
            columns.entry(rule.reason.to_string()).or_default().extend(columns_of(&rule.when));
        }
        columns.into_iter().map(|(reason, columns)| (reason, columns.into_iter().collect())).collect()
    }

    fn summary(&self) -> Option<Summary> {
        Some(Summary::Decisions)
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let deciders = Arc::clone(&self.deciders);
        let rows = cx.input();
        let decided = cx.map_rows(rows, move |batch| deciders.decide(&batch));
        vec![cx.publish_decisions(decided)]
    }
}
