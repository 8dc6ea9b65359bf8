//! `quorum`, planned.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use tidegate_facts::columns;
use tidegate_operators::expire::EXPIRES_AT;
use tidegate_operators::expr::Expr;
use tidegate_operators::kept::plain;
use tidegate_operators::ordered::Route;
use tidegate_operators::quorum::{Declared, Evidences, Memberships, Quorum, Shape};

use super::state::{Heard, Made, Narrow, PutDown, Retention, StatePlan};
use super::{Draft, Planner};
use crate::settings::Text;
use crate::topology::quorum::{DeclaredNode, QuorumNode};
use crate::topology::{Node, NodeKind};

/// What a `quorum` gives besides the claims.
pub const PORTS: [&str; 2] = ["flips", "votes"];

impl Planner<'_> {
    pub(super) fn quorum(
        &self,
        node: &Node,
        settings: &QuorumNode,
        input: &SchemaRef,
        draft: &Draft,
    ) -> Option<StatePlan> {
        let of = node.inputs[0].value.as_str();
        let claim = self.key_column(&settings.claim, input, of);
        let stream = self.kept_column(&settings.stream, input, of);
        let value = self.kept_column(&settings.value, input, of);
        // What stands in a changelog stands in its order; a time of its own it need not have.
        let is_changelog = input.index_of(columns::DIFF).is_ok();
        let time = if is_changelog && !settings.has_time {
            input.index_of(&settings.time.value).is_ok().then(|| self.time_column(&settings.time, input, of))
        } else {
            Some(self.time_column(&settings.time, input, of))
        };
        let group = settings.group.as_ref().map(|group| self.kept_column(group, input, of));
        let [out_of_band, votes] = [&settings.out_of_band, &settings.votes]
            .map(|text| text.as_ref().map(|text| self.condition(text, input)));
        let (claim, stream, value, time) = (claim?, stream?, value?, optional(time)?);
        let mut narrow = Narrow::new(self, node, input, claim, time);
        let mut evidence = Evidences {
            claim: 1,
            time: 2,
            stream: narrow.keep(stream),
            value: narrow.keep(value),
            group: optional(group)?.map(|group| narrow.keep(group)),
            out_of_band: optional(out_of_band)?.map(|expr| narrow.compute("_out_of_band", expr)),
            is_fit: optional(votes)?.map(|expr| narrow.compute("_votes", expr)),
            expires: input.index_of(EXPIRES_AT).ok().map(|place| narrow.keep(place)),
            diff: narrow.diff(),
            kept: vec![1],
        };
        let mut fields = vec![input.field(claim).clone()];
        let mut heard_of_declared = None;
        let mut declared_shape = None;
        match &settings.declared {
            Some(declared) => {
                let (heard, shape, kept) =
                    self.declared(node, settings, declared, input.field(claim), draft)?;
                fields.extend(kept);
                heard_of_declared = Some(heard);
                declared_shape = Some(shape);
            }
            None => {
                for name in &settings.keep {
                    let place = self.kept_column(name, input, of)?;
                    fields.push(input.field(place).clone());
                    evidence.kept.push(narrow.keep(place));
                }
            }
        }
        let families = match &settings.families {
            Some(families) => Some(self.memberships(node, families, input.field(stream), draft)?),
            None => None,
        };
        let data_type = |place: usize| plain(input.field(place).data_type());
        let group_type = evidence.group.map_or(DataType::Utf8, |_| {
            let group = settings.group.as_ref().and_then(|group| input.index_of(&group.value).ok());
            data_type(group.expect("it was found"))
        });
        let shape = Shape {
            evidence,
            declared: declared_shape,
            families: families.as_ref().map(|(_, shape)| *shape),
            need: settings.need,
            tells_votes: self.is_port_read(node, PORTS[1]),
            claim: fields,
            types: [data_type(value), data_type(stream), group_type],
        };
        let schemas = shape.schemas();
        for schema in &schemas {
            let fields: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
            self.no_twins(node, &fields);
        }
        let outputs = schemas.into_iter().zip(shape.orders()).collect();
        let mut inputs = vec![narrow.heard(of, Route::Key(1))];
        inputs.extend(heard_of_declared);
        // Families are heard by all workers, so that none could put them down for the others.
        inputs.iter_mut().for_each(|heard| heard.retention = Retention::PutDown);
        inputs.extend(families.map(|(heard, _)| heard));
        let (schema, order) = shape.put_down();
        let put_down = PutDown { schema, route: Route::Key(1), order };
        let state = Made::PutDown(Arc::new(move || Box::new(Quorum::new(shape.clone()))), put_down);
        Some(StatePlan { inputs, outputs, state })
    }

    /// What is heard of declarations, where it stands, and what claims keep of them.
    fn declared(
        &self,
        node: &Node,
        settings: &QuorumNode,
        declared: &DeclaredNode,
        claim: &Field,
        draft: &Draft,
    ) -> Option<(Heard, Declared, Vec<Field>)> {
        let of = declared.over.value.as_str();
        let schema = draft.schema(of)?;
        let name = declared.claim.as_ref().unwrap_or(&settings.claim);
        let key = self.key_column(name, schema, of)?;
        self.same_type(name.line, claim, (of, schema.field(key)))?;
        let mut narrow = Narrow::new(self, node, schema, key, None);
        let one = |sql: &str, data_type: &DataType| -> Expr {
            self.sql.plan(sql, schema, Some(data_type)).expect("a literal can be planned").expr
        };
        let mut numbers = Vec::new();
        for (text, name) in declared.numbers.iter().zip(["_n", "_k", "_groups"]) {
            let expr = match text {
                Some(text) => self.whole(text, schema)?,
                None => one("1", &DataType::Int64),
            };
            numbers.push(narrow.compute(name, expr));
        }
        let out_of_band = match &declared.out_of_band {
            Some(text) => self.condition(text, schema)?,
            None => one("false", &DataType::Boolean),
        };
        let out_of_band = narrow.compute("_out_of_band", out_of_band);
        let diff = narrow.diff();
        let (mut kept, mut fields) = (vec![1], Vec::new());
        for name in &settings.keep {
            let place = self.kept_column(name, schema, of)?;
            fields.push(schema.field(place).clone());
            kept.push(narrow.keep(place));
        }
        let numbers = numbers.try_into().expect("three numbers");
        let shape = Declared { claim: 1, numbers, out_of_band, diff, kept };
        Some((narrow.heard(of, Route::Key(1)), shape, fields))
    }

    /// What is heard of families, by every worker, and where it stands.
    fn memberships(
        &self,
        node: &Node,
        families: &Text,
        stream: &Field,
        draft: &Draft,
    ) -> Option<(Heard, Memberships)> {
        let of = families.value.as_str();
        let schema = draft.schema(of)?;
        if !self.topology.node(of).is_some_and(|node| matches!(node.kind, NodeKind::Families(_))) {
            let what = format!("`{of}` is no node of kind `families`; name one, or leave `families` out");
            self.faults.add(families.line, what);
            return None;
        }
        let place = |name: &str| schema.index_of(name).expect("a `families` gives it");
        self.same_type(families.line, stream, (of, schema.field(place("stream"))))?;
        let mut narrow = Narrow::new(self, node, schema, place("stream"), None);
        let shape = Memberships {
            stream: 1,
            family: narrow.keep(place("family")),
            kin: narrow.keep(place("kin")),
            weight: narrow.keep(place("weight")),
            diff: narrow.diff().expect("a `families` gives a changelog"),
        };
        Some((narrow.heard(of, Route::All), shape))
    }

    /// Whether two columns name the same things.
    fn same_type(&self, line: u32, one: &Field, (of, other): (&str, &Field)) -> Option<()> {
        if plain(one.data_type()) == plain(other.data_type()) {
            return Some(());
        }
        let what = format!(
            "`{}` is {} and `{}` of `{of}` is {}; cast one of them in a `project` before",
            one.name(),
            one.data_type(),
            other.name(),
            other.data_type()
        );
        self.faults.add(line, what);
        None
    }
}

/// What was asked for, if it could be planned.
fn optional<T>(asked: Option<Option<T>>) -> Option<Option<T>> {
    match asked {
        None => Some(None),
        Some(None) => None,
        Some(planned) => Some(planned),
    }
}
