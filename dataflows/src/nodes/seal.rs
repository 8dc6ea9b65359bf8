//! `seal`: decisions as episodes, the records that are chained and sealed.

use arrow::datatypes::SchemaRef;
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::decision::seal::{NEEDED, Sealer, episode_schema};
use tidegate_operators::temporal::feature_digest::feature_digest_field;

use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::{
    Capability, ColumnSet, InputSchemas, NodeKind, NodeSpec, OutputSpec, PlanContext, PlannedNode,
    ReadContext, RenderContext, Setting,
};

/// The kind of node `seal`.
pub struct Seal;

const SETTINGS: &[Setting] = &[Setting::answer(
    "columns",
    "list of columns",
    Default::Absent("all columns of the input"),
    "The columns that an episode holds, besides `_tick`.",
    ["[\"event_id\", \"action\"]", "[\"event_id\", \"score\"]"],
)];

impl NodeKind for Seal {
    fn name(&self) -> &'static str {
        "seal"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "Makes an episode of each decision: the record of the decision and of all it was based on, with its \
         digest. A `sink.seal` chains episodes and signs their heads. docs/seal-format.md defines what is hashed."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"episodes\"\nkind = \"seal\"\ninput = \"decisions\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        Box::new(Spec { columns: section.texts("columns") })
    }
}

struct Spec {
    columns: Vec<Spanned>,
}

impl NodeSpec for Spec {
    /// An episode must name its fact, the digest of the features that were looked up, and the
    /// decision.
    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let input = cx.input()?;
        let columns = cx.chosen_columns(&self.columns, input)?;
        let chosen = input.project(&columns).expect("the columns are the input's");
        let snapshot = feature_digest_field();
        let has_features = cx.topology_has(&Capability::Features);
        let required = NEEDED.into_iter().chain(has_features.then_some(snapshot.name().as_str()));
        let missing: Vec<String> =
            required.filter(|name| chosen.index_of(name).is_err()).map(|name| format!("`{name}`")).collect();
        if !missing.is_empty() {
            cx.fault(
                cx.line,
                format!(
                    "the episodes of {} would not name what they are based on: they lack {}; keep these columns in \
                     `{}` and in the nodes before it",
                    cx.called(),
                    missing.join(", "),
                    cx.input_name()
                ),
            );
        }
        for field in chosen.fields() {
            if !tidegate_facts::jcs::is_supported(field.data_type()) {
                cx.fault(
                    cx.line,
                    format!(
                        "column `{}` is {}, which has no canonical JSON form, so it cannot be sealed; cast it in a \
                         `project` before, or leave it out of `columns`",
                        field.name(),
                        field.data_type()
                    ),
                );
                return None;
            }
        }
        let schema = episode_schema(&chosen);
        missing.is_empty().then(|| Box::new(Planned { columns, schema }) as Box<_>)
    }
}

struct Planned {
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(&self.schema))]
    }

    fn reads(&self, _: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let schema = inputs.schema();
        let read = self.columns.iter().map(|index| schema.field(*index).name().clone());
        vec![(inputs.name().to_owned(), read.collect())]
    }

    fn is_seal(&self) -> bool {
        true
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let (columns, mut sealer) = (self.columns.clone(), Sealer::new(&cx.plan_digest()));
        vec![cx.map_every_row(cx.input(), "", move |batch| {
            sealer.seal(&batch.project(&columns).expect("the plan gave the columns"))
        })]
    }
}
