//! The features of one key as they stand now: what an event of that key would be given if it came next.
//!
//! They are read from the timelines that the graph keeps, by the windows' own reading, as of the last tick that every worker is
//! behind. That tick ends a group of the log, so the count of facts up to it is known for each partition: that is the
//! basis. Nobody asks the graph.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use tidegate_facts::{Digest, KeyHash, Tick};
use tidegate_operators::entities::graph_version;
use tidegate_operators::keys::keys_of;
use tidegate_operators::lookup::Asks;
use tidegate_operators::snapshot::snapshot_digests;
use tidegate_operators::timeline::{View, Wanted};

use crate::build::timeline_name;
use crate::feed::basis_column;
use crate::live::Live;
use crate::plan::{GroupPlan, Plan, StepKind};

/// The features of one key.
#[derive(Clone, Debug)]
pub struct Features {
    /// The group that was asked, as its topology names it.
    pub group: String,
    /// The column that holds its key.
    pub key_column: String,
    /// One row: a column for each feature.
    pub values: RecordBatch,
    /// Why they are null, if they are.
    pub reason: Option<Missing>,
    /// The facts with this tick and those before were seen,
    pub as_of: Tick,
    /// and these are the windows that end here, in microseconds of event time.
    pub at: i64,
    /// How many facts of each partition were seen.
    pub basis: Vec<u64>,
    /// BLAKE3 over the canonical form of `["tidegate.graph.v1",plan,[basis]]`.
    pub graph_version: Digest,
    /// As rows carry it; the id of the event is `<group>/<key>`.
    pub snapshot_digest: Digest,
    /// Event time and tick of the newest row of the key that a window can reach.
    pub newest: Option<(i64, Tick)>,
}

/// Why features are null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No window can reach a row of the key.
    UnknownKey,
    /// The rows of the time asked for may be gone.
    BeyondRetention,
}

impl Missing {
    /// As it is written.
    pub fn code(self) -> &'static str {
        match self {
            Missing::UnknownKey => "UNKNOWN_KEY",
            Missing::BeyondRetention => "BEYOND_RETENTION",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// The topology has no such group.
    #[error("there is no group of features `{group}`; there are {}", .known.join(", "))]
    UnknownGroup {
        /// What was asked.
        group: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The key is not of the column's type.
    #[error("`{key}` is no {data_type}, which `{column}` is; ask with a value of that column")]
    Key {
        /// What was asked.
        key: String,
        /// The key's column.
        column: String,
        /// Its type.
        data_type: DataType,
    },
    /// The graph has not come far enough to say anything.
    #[error("the topology is still catching up with its log; ask /readyz, and try again")]
    NotYet,
}

/// A group of features that is asked with one key.
struct Group<'p> {
    name: String,
    parts: Vec<(String, &'p GroupPlan)>,
    key: &'p Field,
}

/// What can be asked: each group as `node.group`, and each node whose groups have one key.
fn groups(plan: &Plan) -> Vec<Group<'_>> {
    let mut found: Vec<Group<'_>> = Vec::new();
    for step in &plan.steps {
        let StepKind::Windows(groups) = &step.kind else { continue };
        let input = plan.schema_of(&step.inputs[0]);
        let part = |(place, group)| (timeline_name(&step.name, place), group);
        let parts: Vec<(String, &GroupPlan)> = groups.iter().enumerate().map(part).collect();
        let Some(first) = groups.first() else { continue };
        if groups.iter().all(|group| group.key == first.key) {
            found.push(Group { name: step.name.clone(), parts: parts.clone(), key: input.field(first.key) });
        }
        for (timeline, group) in parts.into_iter().filter(|(_, group)| !group.name.is_empty()) {
            let (name, key) = (format!("{}.{}", step.name, group.name), input.field(group.key));
            found.push(Group { name, parts: vec![(timeline, group)], key });
        }
    }
    found
}

/// The features of a key, for windows that end at `at`, or at the newest tick.
///
/// # Errors
/// When the group is unknown, the key none of its column's values, or nothing has been computed yet.
pub fn features(
    plan: &Plan,
    live: &Live,
    group: &str,
    key: &str,
    at: Option<i64>,
) -> Result<Features, FeatureError> {
    let mut known = groups(plan);
    let Some(place) = known.iter().position(|known| known.name == group) else {
        let known = known.into_iter().map(|known| known.name).collect();
        return Err(FeatureError::UnknownGroup { group: group.to_owned(), known });
    };
    let Group { name, parts, key: column } = known.swap_remove(place);
    let hash = key_of(key, column)?;
    let (before, basis) = live.as_of().ok_or(FeatureError::NotYet)?;
    let as_of = Tick(before.0 - 1);
    let at = at.unwrap_or(as_of.micros());

    let views: Vec<Vec<Arc<View>>> = parts.iter().map(|(timeline, _)| live.views(timeline)).collect();
    let newest = parts.iter().zip(&views).filter_map(|((_, part), views)| {
        let newest = views.iter().filter_map(|view| newest(view, hash, before)).max()?;
        // Older rows may be there or not: merges decide it.
        (newest.0 > as_of.micros().saturating_sub(part.plan.reach())).then_some(newest)
    });
    let newest = newest.max();
    let beyond = parts.iter().zip(&views).any(|((_, part), views)| {
        let since = views.iter().map(|view| view.since).max().unwrap_or_default();
        let gone = since.micros().saturating_sub(part.plan.lateness_max);
        at < gone || part.plan.is_beyond_retention(at, as_of)
    });
    let reason = match newest {
        _ if beyond => Some(Missing::BeyondRetention),
        None => Some(Missing::UnknownKey),
        Some(_) => None,
    };

    let (mut fields, mut values): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for ((_, part), views) in parts.iter().zip(&views) {
        let aggregates = part.plan.windows.iter().flat_map(|_| &part.plan.aggregates);
        let types = aggregates.map(|aggregate| part.plan.answer_type(*aggregate));
        let own: Vec<Field> =
            part.names.iter().zip(types).map(|(name, data_type)| Field::new(name, data_type, true)).collect();
        values.extend(match reason {
            Some(_) => own.iter().map(|field| new_null_array(field.data_type(), 1)).collect(),
            None => {
                // A key is on one worker; the batches of the others do not have it.
                let batches: Vec<_> = views.iter().flat_map(|view| view.batches.iter().cloned()).collect();
                part.plan.read(&batches, &Asks::from_outside(hash, at, as_of))
            }
        });
        fields.extend(own);
    }
    let named = fields.iter().map(|field| field.name().as_str()).zip(&values);
    let id = StringArray::from_iter_values([format!("{name}/{key}")]);
    let partitions = basis.len();
    let basis_row = basis_column(basis.clone(), partitions);
    let basis_row = basis_row.as_any().downcast_ref().expect("a basis is a list");
    let digests = snapshot_digests(&UInt64Array::from(vec![as_of.0]), &id, basis_row, named);
    let snapshot_digest = Digest(digests.value(0).try_into().expect("32 bytes"));
    let values = RecordBatch::try_new(Arc::new(Schema::new(fields)), values).expect("one row of each type");
    Ok(Features {
        group: name,
        key_column: column.name().clone(),
        values,
        reason,
        as_of,
        at,
        graph_version: graph_version(&plan.digest, &basis),
        basis,
        snapshot_digest,
        newest,
    })
}

/// The key that a text stands for.
fn key_of(text: &str, column: &Field) -> Result<KeyHash, FeatureError> {
    let refused = || FeatureError::Key {
        key: text.to_owned(),
        column: column.name().clone(),
        data_type: column.data_type().clone(),
    };
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values([text]));
    let value: ArrayRef = match column.data_type() {
        DataType::FixedSizeBinary(size) => {
            let digits = text
                .as_bytes()
                .chunks(2)
                .map(|two| std::str::from_utf8(two).ok().and_then(|two| u8::from_str_radix(two, 16).ok()));
            let bytes: Vec<u8> = digits.collect::<Option<_>>().ok_or_else(refused)?;
            if bytes.len() != *size as usize {
                return Err(refused());
            }
            Arc::new(arrow::array::FixedSizeBinaryArray::new(*size, bytes.into(), None))
        }
        data_type => cast(&texts, data_type).map_err(|_| refused())?,
    };
    if value.is_null(0) {
        return Err(refused());
    }
    Ok(keys_of(&value)[0])
}

/// Event time and tick of the newest row of a key before a tick.
fn newest(view: &Arc<View>, key: KeyHash, before: Tick) -> Option<(i64, Tick)> {
    let wanted = Wanted { keys: Some(vec![key]), before, after: None, measures: Vec::new() };
    let rows = view.read(wanted).next(1)?;
    rows.times.iter().copied().zip(rows.ticks.iter().copied()).max()
}
