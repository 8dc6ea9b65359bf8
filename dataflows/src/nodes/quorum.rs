//! `quorum`: what is known of each claim, by the votes of independent streams.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use tidegate_facts::columns;
use tidegate_operators::core::expr::Expr;
use tidegate_operators::core::row_layout::{INPUT_KEY, INPUT_TIME};
use tidegate_operators::core::tick_ordered::Exchange;
use tidegate_operators::credibility::quorum::{
    DeclarationColumns, EvidenceColumns, FamilyColumns, Quorum, QuorumConfig, Requirement,
};
use tidegate_operators::temporal::expire::EXPIRES_AT;

use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::stateful::{
    InputProjection, SnapshotSpec, StateFactory, StateInput, StatePlan, optional, retained_type, stateful,
};
use crate::node::{
    Accepts, Capability, FurtherInput, NodeKind, NodeSpec, PlanContext, PlannedNode, Port, ReadContext,
    Setting,
};
use crate::timeline_names::Retention;

/// The kind of node `quorum`.
pub struct QuorumKind;

const VOTES: &str = "votes";

const PORTS: &[Port] = &[
    Port { name: "flips", about: "Each change of a claim's status or value, as facts." },
    Port { name: VOTES, about: "Each stream's vote, and why it was excluded, as a changelog." },
];

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "claim",
        "column",
        Default::Required,
        "The column that names the claim.",
        ["\"claim_id\"", "\"item\""],
    ),
    Setting::answer(
        "stream",
        "column",
        Default::Required,
        "The column that names the voting stream.",
        ["\"source_id\"", "\"source\""],
    ),
    Setting::answer(
        "value",
        "column",
        Default::Required,
        "The column with the value it votes for.",
        ["\"value\"", "\"claimed\""],
    ),
    Setting::answer(
        "time",
        "column",
        Default::Value("\"ts_utc\""),
        "The event-time column. A changelog needs none.",
        ["\"event_time\"", "\"booked_at\""],
    ),
    Setting::answer(
        "group",
        "column",
        Default::Absent("each stream is a group of its own"),
        "The column with the stream's declared correlation group.",
        ["\"correlation_group\"", "\"operator\""],
    ),
    Setting::answer(
        "out_of_band",
        "SQL, boolean",
        Default::Absent("no stream is"),
        "Whether the stream is out of band.",
        ["\"tier = 0\"", "\"tier = 1\""],
    ),
    Setting::answer(
        "eligible",
        "SQL, boolean",
        Default::Absent("all evidence may vote"),
        "Whether a row of evidence may vote.",
        ["\"status = 'OK'\"", "\"status <> 'BAD'\""],
    ),
    Setting::answer(
        "passthrough",
        "list of columns",
        Default::Absent("none"),
        "Columns that a claim retains, of its declaration or of its first row.",
        ["[\"tier\"]", "[\"region\"]"],
    ),
    Setting::answer(
        "require",
        "table",
        Default::Absent("`require_from` says it for each claim"),
        "The requirement of claims without a declaration: n, k, groups, out_of_band.",
        ["{ n = 3, k = 2 }", "{ n = 4, k = 2 }"],
    ),
    Setting::answer(
        "require.n",
        "whole number",
        Default::Value("1"),
        "How many streams should vote.",
        ["3", "4"],
    ),
    Setting::answer("require.k", "whole number", Default::Value("1"), "How many must agree.", ["2", "3"]),
    Setting::answer(
        "require.groups",
        "whole number",
        Default::Value("1"),
        "Of how many correlation groups they must be.",
        ["2", "3"],
    ),
    Setting::answer(
        "require.out_of_band",
        "true or false",
        Default::Value("false"),
        "Whether one of them must be out of band.",
        ["true", "false"],
    ),
    Setting::answer(
        "require_from",
        "table",
        Default::Absent("`require` holds for every claim"),
        "The node whose rows declare what each claim requires.",
        ["{ from = \"declared\", n = \"n\" }", "{ from = \"declared\", n = \"k\" }"],
    ),
    Setting::answer(
        "require_from.from",
        "node",
        Default::Required,
        "The node whose rows declare claims.",
        ["\"declared\"", "\"claims\""],
    ),
    Setting::answer(
        "require_from.claim",
        "column",
        Default::Absent("the column that `claim` names"),
        "Its claim column.",
        ["\"id\"", "\"name\""],
    ),
    Setting::answer(
        "require_from.n",
        "SQL, whole number",
        Default::Absent("1"),
        "How many streams should vote.",
        ["\"n\"", "\"m\""],
    ),
    Setting::answer(
        "require_from.k",
        "SQL, whole number",
        Default::Absent("1"),
        "How many must agree.",
        ["\"k\"", "\"j\""],
    ),
    Setting::answer(
        "require_from.groups",
        "SQL, whole number",
        Default::Absent("1"),
        "Of how many correlation groups they must be.",
        ["\"g\"", "\"h\""],
    ),
    Setting::answer(
        "require_from.out_of_band",
        "SQL, boolean",
        Default::Absent("false"),
        "Whether one of them must be out of band.",
        ["\"o\"", "\"p\""],
    ),
    Setting::answer(
        "families",
        "node",
        Default::Absent("no stream copies"),
        "A node of kind `copy_detection`: its families vote once.",
        ["\"families\"", "\"other_families\""],
    ),
];

impl NodeKind for QuorumKind {
    fn name(&self) -> &'static str {
        "quorum"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "Gives, as a changelog, what is known of each claim: VERIFIED when at least k of n live streams of enough \
         correlation groups agree, DEGRADED or UNKNOWN otherwise, with the winning value, the margin and the reason."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Either
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        &[("need", "require"), ("declared", "require_from"), ("votes", "eligible"), ("keep", "passthrough")]
    }

    fn example(&self) -> &'static str {
        "name = \"claims\"\nkind = \"quorum\"\ninput = \"live_evidence\"\nclaim = \"claim_id\"\nstream = \"source_id\"\n\
         value = \"value\"\nrequire = { n = 3, k = 2, groups = 2 }\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let require = section.section("require").map(|require| {
            let number = |key| u32::try_from(require.count_or(key, 1, 1)).unwrap_or(u32::MAX);
            let read = Requirement {
                n: number("n"),
                k: number("k"),
                groups: number("groups"),
                out_of_band: require.flag_or("out_of_band", false),
            };
            require.finish();
            (read, require.line())
        });
        let claim = section.required_text("claim", "the column that names the claim");
        let require_from = section.section("require_from").map(|from| {
            from.refuse_renamed(&[("over", "from")]);
            let read = RequireFrom {
                from: from.required_text("from", "the node whose rows declare claims"),
                claim: from.text_or("claim", &claim.value),
                numbers: ["n", "k", "groups"].map(|key| from.text(key)),
                out_of_band: from.text("out_of_band"),
            };
            from.finish();
            read
        });
        if !section.has("require") && !section.has("require_from") {
            section.missing(
                "require",
                "how many streams should vote, must agree, and of how many groups, such as { n = 3, k = 2, groups = 2 }; \
                 or `require_from`, the node whose rows say so of each claim",
            );
        }
        Box::new(Spec {
            claim,
            stream: section.required_text("stream", "the column that names the voting stream"),
            value: section.required_text("value", "the column with the value it votes for"),
            time: section.text_or("time", columns::TS_UTC),
            group: section.text("group"),
            out_of_band: section.text("out_of_band"),
            eligible: section.text("eligible"),
            passthrough: section.texts("passthrough"),
            require,
            require_from,
            families: section.text("families"),
        })
    }
}

struct Spec {
    claim: Spanned,
    stream: Spanned,
    value: Spanned,
    time: Spanned,
    /// Whether the file names a time column.
    group: Option<Spanned>,
    out_of_band: Option<Spanned>,
    eligible: Option<Spanned>,
    passthrough: Vec<Spanned>,
    /// The requirement of claims without a declaration, and its line.
    require: Option<(Requirement, u32)>,
    require_from: Option<RequireFrom>,
    families: Option<Spanned>,
}

/// Rows that declare what claims require.
struct RequireFrom {
    from: Spanned,
    claim: Spanned,
    /// How many streams should vote, how many must agree, and of how many groups.
    numbers: [Option<Spanned>; 3],
    out_of_band: Option<Spanned>,
}

impl NodeSpec for Spec {
    fn inputs(&self) -> Vec<FurtherInput<'_>> {
        let declared =
            self.require_from.iter().map(|d| FurtherInput { node: &d.from, accepts: Accepts::Either });
        let families = self.families.iter().map(|node| FurtherInput { node, accepts: Accepts::Changelog });
        declared.chain(families).collect()
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let (input, of) = (cx.input()?, cx.input_name());
        let claim = cx.key_column(&self.claim, input, of);
        let stream = cx.retained_column(&self.stream, input, of);
        let value = cx.retained_column(&self.value, input, of);
        // A changelog has the order of its ticks; it needs no time of its own.
        // The default may be written out, as in a recorded plan, and means the same.
        let is_default = self.time.value == columns::TS_UTC;
        let is_changelog = input.index_of(columns::DIFF).is_ok();
        let time = if is_changelog && is_default {
            input.index_of(&self.time.value).is_ok().then(|| cx.time_column(&self.time, input, of))
        } else {
            Some(cx.time_column(&self.time, input, of))
        };
        let group = self.group.as_ref().map(|group| cx.retained_column(group, input, of));
        let expires = Spanned::new(EXPIRES_AT, cx.line);
        let expires = input.index_of(EXPIRES_AT).is_ok().then(|| cx.time_column(&expires, input, of));
        let [out_of_band, eligible] = [&self.out_of_band, &self.eligible]
            .map(|text| text.as_ref().map(|text| cx.condition(text, input)));
        self.validate_requirement(cx);
        let (claim, stream, value, time) = (claim?, stream?, value?, optional(time)?);
        let mut projection = InputProjection::new(cx, input, claim, time);
        let mut evidence = EvidenceColumns {
            claim: INPUT_KEY,
            time: INPUT_TIME,
            stream: projection.keep(stream),
            value: projection.keep(value),
            group: optional(group)?.map(|group| projection.keep(group)),
            out_of_band: optional(out_of_band)?.map(|expr| projection.compute("_out_of_band", expr)),
            is_eligible: optional(eligible)?.map(|expr| projection.compute("_eligible", expr)),
            expires: optional(expires)?.map(|index| projection.keep(index)),
            diff: projection.diff(),
            passthrough: vec![INPUT_KEY],
        };
        let mut fields = vec![input.field(claim).clone()];
        let (mut declared_input, mut declared) = (None, None);
        match &self.require_from {
            Some(from) => {
                let (input, columns, retained) = self.declarations(cx, from, input.field(claim))?;
                fields.extend(retained);
                (declared_input, declared) = (Some(input), Some(columns));
            }
            None => {
                for name in &self.passthrough {
                    let index = cx.retained_column(name, input, of)?;
                    fields.push(input.field(index).clone());
                    evidence.passthrough.push(projection.keep(index));
                }
            }
        }
        let families = match &self.families {
            Some(families) => Some(memberships(cx, families, input.field(stream))?),
            None => None,
        };
        let group_type = match self.group.as_ref().and_then(|group| input.index_of(&group.value).ok()) {
            Some(group) => retained_type(input, group),
            None => DataType::Utf8,
        };
        let config = QuorumConfig {
            evidence,
            declaration: declared,
            families: families.as_ref().map(|(_, columns)| *columns),
            default_requirement: self.require.map(|(require, _)| require),
            emits_votes: cx.is_port_read(VOTES),
            claim_fields: fields,
            types: [retained_type(input, value), retained_type(input, stream), group_type],
        };
        let outputs = config.outputs().into_iter().map(|output| (output.schema, output.order)).collect();
        let mut inputs = vec![projection.input(of, Exchange::Key(INPUT_KEY))];
        inputs.extend(declared_input);
        // Every worker receives all families, so no worker could snapshot them for the others.
        inputs.iter_mut().for_each(|input| input.retention = Retention::SinceSnapshot);
        inputs.extend(families.map(|(input, _)| input));
        let (output, exchange) = config.snapshot_output();
        let snapshot = SnapshotSpec { schema: output.schema, exchange, order: output.order };
        let factory =
            StateFactory::Snapshotted(Arc::new(move || Box::new(Quorum::new(config.clone()))), snapshot);
        Some(stateful(cx, PORTS, None, StatePlan { inputs, outputs, factory }))
    }
}

impl Spec {
    /// The input of declarations, where their columns are, and the columns that claims retain of
    /// them.
    fn declarations(
        &self,
        cx: &PlanContext<'_>,
        from: &RequireFrom,
        claim: &Field,
    ) -> Option<(StateInput, DeclarationColumns, Vec<Field>)> {
        let of = from.from.value.as_str();
        let schema = cx.schema(of)?;
        let key = cx.key_column(&from.claim, schema, of)?;
        cx.same_key_type(from.claim.line, claim, (of, schema.field(key)))?;
        let mut projection = InputProjection::new(cx, schema, key, None);
        let mut numbers = Vec::new();
        for (text, name) in from.numbers.iter().zip(["_n", "_k", "_groups"]) {
            let expr: Expr = match text {
                Some(text) => cx.whole_number(text, schema)?,
                None => cx.own_expression("1", schema, &DataType::Int64),
            };
            numbers.push(projection.compute(name, expr));
        }
        let out_of_band = match &from.out_of_band {
            Some(text) => cx.condition(text, schema)?,
            None => cx.own_expression("false", schema, &DataType::Boolean),
        };
        let out_of_band = projection.compute("_out_of_band", out_of_band);
        let diff = projection.diff();
        let (mut passthrough, mut fields) = (vec![INPUT_KEY], Vec::new());
        for name in &self.passthrough {
            let index = cx.retained_column(name, schema, of)?;
            fields.push(schema.field(index).clone());
            passthrough.push(projection.keep(index));
        }
        let numbers = numbers.try_into().expect("three numbers");
        let columns = DeclarationColumns { claim: INPUT_KEY, numbers, out_of_band, diff, passthrough };
        Some((projection.input(of, Exchange::Key(INPUT_KEY)), columns, fields))
    }

    /// Adds a fault when what claims require contradicts itself, or can never be met.
    fn validate_requirement(&self, cx: &PlanContext<'_>) {
        let needs_stream = |setting: &str, line: u32| {
            let what = format!(
                "`{setting}` asks for an out-of-band vote, but no stream is out of band; set `out_of_band`, such as \
                 \"tier = 0\""
            );
            cx.fault(line, what);
        };
        if let Some((require, line)) = &self.require {
            let fault = |what: String| cx.fault(*line, format!("`require` {what}"));
            if require.k > require.n {
                fault(format!(
                    "requires {k} of {n} streams to agree; `k` is at most `n`, the number of streams that should vote",
                    k = require.k,
                    n = require.n
                ));
            }
            if require.groups > require.k {
                fault(format!(
                    "requires {k} agreeing votes from {groups} groups; {k} votes come from at most {k} groups: \
                     set `k` to {groups} or more",
                    k = require.k,
                    groups = require.groups
                ));
            }
            if require.out_of_band && self.out_of_band.is_none() {
                needs_stream("require", *line);
            }
        }
        if let Some(text) = self.require_from.as_ref().and_then(|from| from.out_of_band.as_ref())
            && self.out_of_band.is_none()
        {
            needs_stream("require_from", text.line);
        }
    }
}

/// The input of families, which every worker receives, and where their columns are.
fn memberships(
    cx: &PlanContext<'_>,
    families: &Spanned,
    stream: &Field,
) -> Option<(StateInput, FamilyColumns)> {
    let of = families.value.as_str();
    let schema = cx.schema(of)?;
    if !cx.capabilities(of).contains(&Capability::StreamGroups) {
        let what =
            format!("`{of}` is not a node of kind `copy_detection`; name one, or leave `families` out");
        cx.fault(families.line, what);
        return None;
    }
    let index = |name: &str| schema.index_of(name).expect("a `copy_detection` gives it");
    cx.same_key_type(families.line, stream, (of, schema.field(index("stream"))))?;
    let mut projection = InputProjection::new(cx, schema, index("stream"), None);
    let columns = FamilyColumns {
        stream: INPUT_KEY,
        family: projection.keep(index("family")),
        suspected_group: projection.keep(index("suspected_group")),
        weight: projection.keep(index("weight")),
        diff: projection.diff().expect("a `copy_detection` gives a changelog"),
    };
    Some((projection.input(of, Exchange::Broadcast), columns))
}
