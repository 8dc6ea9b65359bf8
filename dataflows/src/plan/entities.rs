//! Planning `entities`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::columns;
use tidegate_facts::names::choices;
use tidegate_facts::schema::timestamp;
use tidegate_operators::entities::{Entities, Kind, Names, Naming, PORTS, Settings, Wanted, port_schemas};
use tidegate_operators::expr::{Column, Projection};

use super::{Draft, Planner, StepKind};
use crate::settings::Text;
use crate::topology::Node;
use crate::topology::entities::{EntitiesNode, FraudsNode, NamesNode};

/// An `entities`, planned.
#[derive(Clone)]
pub struct EntitiesPlan {
    /// The graph and how its inputs name identifiers.
    pub entities: Entities,
    /// The rows that are answered, as the graph hears of them.
    pub asking: Arc<Projection>,
    /// The boundaries, as the graph hears of them.
    pub boundaries: Arc<Projection>,
    /// Where frauds come from, and how the graph hears of them.
    pub frauds: Option<(String, Arc<Projection>)>,
    /// Where other links come from, and how the graph hears of them.
    pub linked: Vec<(String, Arc<Projection>)>,
}

impl EntitiesPlan {
    /// How many inputs the graph has.
    pub fn inputs(&self) -> usize {
        2 + usize::from(self.frauds.is_some()) + self.linked.len()
    }
}

/// The field with the graph's version.
pub fn version_field(node: &str) -> Field {
    Field::new(format!("{node}_version"), DataType::FixedSizeBinary(32), false)
}

/// The columns of [`EntitiesPlan::boundaries`]: the boundary, and its time.
pub fn boundary_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::UInt64, false);
    let fields =
        vec![number(columns::TICK), number("boundary"), Field::new(columns::TS_UTC, timestamp(), false)];
    Arc::new(Schema::new(fields))
}

/// The names and columns of the ports.
pub fn ports() -> Vec<(&'static str, SchemaRef)> {
    PORTS.into_iter().zip(port_schemas()).collect()
}

/// What the rows of a node name.
struct Named {
    /// The rows as the graph hears of them.
    narrow: Arc<Projection>,
    /// The kind of each identifier column.
    kinds: Vec<usize>,
    /// Whether a last column says which rows end links.
    with_ends: bool,
}

impl Planner<'_> {
    pub(super) fn entities(
        &self,
        node: &Node,
        settings: &EntitiesNode,
        input: &SchemaRef,
        draft: &Draft,
    ) -> Option<(StepKind, SchemaRef)> {
        let of = node.inputs[0].value.as_str();
        for (needed, why) in [
            (columns::BASIS, "the graph's version is a digest of it"),
            (columns::EVENT_ID, "answers are of facts"),
        ] {
            if input.index_of(needed).is_err() {
                let called = node.called("node");
                self.faults.add(
                    node.line,
                    format!("{called} needs column `{needed}` of `{of}` ({why}); keep it there"),
                );
                return None;
            }
        }
        self.facts_only(node, input)?;
        // Kinds in the order in which they are first named.
        let mut kinds: Vec<(Text, DataType)> = Vec::new();
        let asking = self.names(node, &settings.names, input, of, &mut kinds);
        let mut linked = Vec::new();
        for other in &settings.linked {
            let schema = draft.schema(&other.over.value)?;
            self.facts_of(node, &other.over, schema)?;
            let names = self.names(node, &other.names, schema, &other.over.value, &mut kinds)?;
            linked.push((other.over.value.clone(), names));
        }
        let asking = asking?;
        let known: Vec<&str> = kinds.iter().map(|(kind, _)| kind.value.as_str()).collect();
        let kind_of = |name: &Text| {
            let place = known.iter().position(|kind| *kind == name.value);
            if place.is_none() && !name.is_absent() {
                let what = format!(
                    "`{}` is no kind of `{}`; {}",
                    name.value,
                    node.name,
                    choices(&name.value, &known)
                );
                self.faults.add(name.line, what);
            }
            place
        };
        let mut pairs = Vec::new();
        for (one, others) in &settings.links {
            for other in others {
                pairs.push((kind_of(one)?, kind_of(other)?));
            }
        }
        let mut degree_max = vec![u32::MAX; known.len()];
        for (kind, count) in &settings.degree_max {
            degree_max[kind_of(kind)?] = u32::try_from(*count).unwrap_or(u32::MAX);
        }
        let frauds = match &settings.frauds {
            None => None,
            Some(frauds) => {
                let kind = kind_of(&frauds.kind)?;
                let narrow = self.frauds(node, frauds, &kinds[kind].1, draft)?;
                Some((kind, frauds.over.value.clone(), narrow))
            }
        };
        let naming = |Named { kinds, with_ends, .. }: Named| {
            let is_linked = |one: usize, other: usize| {
                pairs.is_empty() || pairs.contains(&(one, other)) || pairs.contains(&(other, one))
            };
            let columns = 0..kinds.len();
            let links = columns.flat_map(|one| (one + 1..kinds.len()).map(move |other| (one, other)));
            let links = links.filter(|(one, other)| is_linked(kinds[*one], kinds[*other])).collect();
            Names { naming: Naming { kinds, links }, with_ends }
        };
        let (linked, linked_names): (Vec<_>, Vec<_>) = linked
            .into_iter()
            .map(|(over, named)| ((over, Arc::clone(&named.narrow)), naming(named)))
            .unzip();
        let narrow = Arc::clone(&asking.narrow);
        let kind = |(name, degree_max): (&&str, u32)| Kind { name: (*name).to_owned(), degree_max };
        let entities = Entities {
            settings: Settings {
                kinds: known.iter().zip(degree_max).map(kind).collect(),
                ttl: settings.ttl,
                wanted: Wanted::default(),
            },
            asking: naming(asking),
            frauds: frauds.as_ref().map(|(kind, _, _)| *kind),
            linked: linked_names,
        };
        let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(entities.answer_fields(&node.name));
        fields.push(version_field(&node.name));
        self.no_twins(node, &fields);
        let boundaries = boundary_schema();
        let kept = boundaries.fields().iter().enumerate().map(|(p, f)| (Column::Kept(p), f.as_ref().clone()));
        let boundaries = Arc::new(Projection::new(&node.name, kept.collect()));
        let frauds = frauds.map(|(_, over, narrow)| (over, narrow));
        let plan = EntitiesPlan { entities, asking: narrow, boundaries, frauds, linked };
        Some((StepKind::Entities(Box::new(plan)), Arc::new(Schema::new(fields))))
    }

    /// What the rows of a node name. Kinds that are new are added.
    fn names(
        &self,
        node: &Node,
        names: &NamesNode,
        schema: &SchemaRef,
        of: &str,
        kinds: &mut Vec<(Text, DataType)>,
    ) -> Option<Named> {
        let mut named = Vec::new();
        let mut whole = true;
        for (kind, columns) in &names.identifiers {
            for column in columns {
                let Some(place) = self.key_column(column, schema, of) else {
                    whole = false;
                    continue;
                };
                let data_type = schema.field(place).data_type();
                let number = match kinds.iter().position(|(known, _)| known.value == kind.value) {
                    Some(number) => number,
                    None => {
                        kinds.push((kind.clone(), data_type.clone()));
                        kinds.len() - 1
                    }
                };
                whole &= self.one_type(column, data_type, &kinds[number]);
                named.push((number, place));
            }
        }
        let ends = names.ends.as_ref().map(|ends| self.flag_column(ends, schema, of));
        let own_time = Text { value: columns::TS_UTC.to_owned(), line: node.line };
        let time = self.time_column(&own_time, schema, of)?;
        if !whole || named.is_empty() || matches!(ends, Some(None)) {
            return None; // That nothing is named has been said.
        }
        let tick = schema.index_of(columns::TICK).expect("every stream carries _tick");
        let kept =
            |place: usize, name: &str| (Column::Kept(place), schema.field(place).clone().with_name(name));
        let identifier = |number: usize| kept(named[number].1, &format!("identifier_{number}"));
        let mut narrow = vec![kept(tick, columns::TICK), identifier(0), kept(time, columns::TS_UTC)];
        narrow.extend((1..named.len()).map(identifier));
        narrow.extend(ends.flatten().map(|place| kept(place, "ends")));
        let kinds = named.into_iter().map(|(kind, _)| kind).collect();
        let narrow = Arc::new(Projection::new(&node.name, narrow));
        Some(Named { narrow, kinds, with_ends: names.ends.is_some() })
    }

    /// The rows that tell of frauds, as the graph hears of them.
    fn frauds(
        &self,
        node: &Node,
        frauds: &FraudsNode,
        data_type: &DataType,
        draft: &Draft,
    ) -> Option<Arc<Projection>> {
        let of = frauds.over.value.as_str();
        let schema = draft.schema(of)?;
        self.facts_of(node, &frauds.over, schema)?;
        let identifier = self.key_column(&frauds.identifier, schema, of);
        let about = self.key_column(&frauds.about, schema, of);
        let own_time = Text { value: columns::TS_UTC.to_owned(), line: node.line };
        let time = self.time_column(&own_time, schema, of);
        let condition = self.boolean(&frauds.condition, schema);
        let (identifier, about, time, condition) = (identifier?, about?, time?, condition?);
        let kind = (frauds.kind.clone(), data_type.clone());
        if !self.one_type(&frauds.identifier, schema.field(identifier).data_type(), &kind) {
            return None;
        }
        let tick = schema.index_of(columns::TICK).expect("every stream carries _tick");
        let kept =
            |place: usize, name: &str| (Column::Kept(place), schema.field(place).clone().with_name(name));
        let is_fraud = Field::new("is_fraud", DataType::Boolean, true);
        let narrow = vec![
            kept(tick, columns::TICK),
            kept(identifier, "identifier_0"),
            kept(time, columns::TS_UTC),
            kept(about, "about"),
            (Column::Computed(condition.expr), is_fraud),
        ];
        Some(Arc::new(Projection::new(&node.name, narrow)))
    }

    /// Identifiers of a kind are written alike, so that two of them are one where they are the same.
    fn one_type(&self, column: &Text, data_type: &DataType, (kind, wanted): &(Text, DataType)) -> bool {
        let alike = data_type == wanted || data_type.is_integer() && wanted.is_integer();
        if !alike {
            let what = format!(
                "column `{}` is {data_type}, and another column of kind `{}` is {wanted}; cast one of them in a `project` before",
                column.value, kind.value
            );
            self.faults.add(column.line, what);
        }
        alike
    }

    fn flag_column(&self, name: &Text, schema: &Schema, of: &str) -> Option<usize> {
        let place = self.column(name, schema, of)?;
        let data_type = schema.field(place).data_type();
        if *data_type != DataType::Boolean {
            let what = format!(
                "column `{}` is {data_type}, and must be a boolean: make one in a `project` before",
                name.value
            );
            self.faults.add(name.line, what);
            return None;
        }
        Some(place)
    }
}
