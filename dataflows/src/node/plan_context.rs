//! What a node is planned with: the schemas of its inputs, expressions, files, and the rules of
//! every input.
//!
//! Rules that hold for all kinds are here and in the planner, never in a kind: whether an input
//! gives facts or a changelog, whether two key columns have one type, and that no output has two
//! columns of one name.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::{Tick, columns};
use tidegate_operators::core::effective::Effective;
use tidegate_operators::core::expr::{Expr, ProjectedColumn, Projection};
use tidegate_operators::core::keys::is_key;
use tidegate_operators::core::row_encoding::{decoded_type, is_encodable};
use tidegate_operators::gate::GatePolicy;

use super::{Accepts, Capability, ColumnSet, path_from};
use crate::config::{Diagnostics, Expressions, PlannedExpr, Spanned};

/// A text that nodes are planned with in place of a file of the topology, and the name that faults
/// give it.
#[derive(Clone, Debug)]
pub struct RevisionText {
    /// What faults call it.
    pub file: PathBuf,
    /// The text.
    pub text: Arc<str>,
}

/// The texts that nodes are planned with once they are effective after the topology's own files, by
/// node, each with its first tick; `None` for the topology's own file.
pub type Revisions = BTreeMap<String, Vec<(Tick, Option<RevisionText>)>>;

/// The texts of the files that a topology names, read once while its nodes are planned.
pub struct TopologyFiles<'t> {
    topology: &'t Path,
    texts: RefCell<BTreeMap<PathBuf, Arc<str>>>,
}

impl<'t> TopologyFiles<'t> {
    /// The files of the topology in `topology`; the texts in `known` are not read again.
    pub fn new(topology: &'t Path, known: BTreeMap<PathBuf, Arc<str>>) -> TopologyFiles<'t> {
        TopologyFiles { topology, texts: RefCell::new(known) }
    }

    /// The text of the file at `path`, which faults call `meaning`. `None` after a fault was added.
    pub fn text(&self, path: &Spanned, meaning: &str, diagnostics: &Diagnostics) -> Option<RevisionText> {
        if path.is_absent() {
            return None;
        }
        let file = path_from(self.topology, path);
        if let Some(text) = self.texts.borrow().get(&file) {
            return Some(RevisionText { file, text: Arc::clone(text) });
        }
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let text: Arc<str> = text.into();
                self.texts.borrow_mut().insert(file.clone(), Arc::clone(&text));
                Some(RevisionText { file, text })
            }
            Err(error) => {
                let from = if path.line == 0 { "the working directory" } else { "the topology" };
                let what = format!(
                    "{meaning} file `{}` cannot be read ({error}); check the path, which is relative to {from}",
                    file.display()
                );
                diagnostics.add(path.line, what);
                None
            }
        }
    }

    /// Every text that was read.
    pub fn into_texts(self) -> BTreeMap<PathBuf, Arc<str>> {
        self.texts.into_inner()
    }
}

/// What is known when a node is planned: of the nodes before it, and of who reads it.
#[derive(Default)]
pub struct GraphSoFar {
    /// The columns of each node and port that could be planned. One that is missing has a fault, or
    /// reads a node that has one.
    pub schemas: BTreeMap<String, SchemaRef>,
    /// What the rows of each node carry.
    pub capabilities: BTreeMap<String, Vec<Capability>>,
    /// Every node and port that some node reads.
    pub read: BTreeSet<String>,
}

/// The context in which one node is planned.
pub struct PlanContext<'p> {
    /// Its name.
    pub name: &'p str,
    /// The line on which it begins.
    pub line: u32,
    /// The nodes that it reads in `input` or `inputs`.
    pub inputs: &'p [Spanned],
    /// The other nodes.
    pub graph: &'p GraphSoFar,
    /// Where faults are collected.
    pub diagnostics: &'p Diagnostics,
    /// Plans expressions.
    pub expressions: &'p Expressions,
    /// The files that the topology names.
    pub files: &'p TopologyFiles<'p>,
    /// Texts that became effective after them.
    pub revisions: &'p Revisions,
    /// The gate's policies; `None` when they have faults.
    pub policies: Option<&'p Effective<Arc<GatePolicy>>>,
}

impl<'p> PlanContext<'p> {
    /// Adds a fault at a line of the topology.
    pub fn fault(&self, line: u32, message: impl Into<String>) {
        self.diagnostics.add(line, message);
    }

    /// What faults call the node: "node `NAME`".
    pub fn called(&self) -> String {
        called("node", self.name)
    }

    /// The name of the first input.
    pub fn input_name(&self) -> &'p str {
        &self.inputs[0].value
    }

    /// The columns of the first input; `None` when it has a fault.
    pub fn input(&self) -> Option<&'p SchemaRef> {
        self.schema(self.input_name())
    }

    /// The columns of a node or port; `None` when it has a fault.
    pub fn schema(&self, node: &str) -> Option<&'p SchemaRef> {
        self.graph.schemas.get(node)
    }

    /// The capabilities of a node.
    pub fn capabilities(&self, node: &str) -> &'p [Capability] {
        self.graph.capabilities.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whether some node of the topology has a capability.
    pub fn topology_has(&self, capability: &Capability) -> bool {
        self.graph.capabilities.values().flatten().any(|other| other == capability)
    }

    /// Whether some node reads a port of this one.
    pub fn is_port_read(&self, port: &str) -> bool {
        self.graph.read.contains(&format!("{}.{port}", self.name))
    }

    /// The result of planning the expression `text`; a fault at its line when it failed.
    pub fn checked<T>(&self, text: &Spanned, planned: Result<T, String>) -> Option<T> {
        if text.is_absent() {
            return None;
        }
        planned.map_err(|what| self.fault(text.line, what)).ok()
    }

    /// Plans an expression over rows of `schema`, cast to a type when that is given.
    pub fn expression(
        &self,
        text: &Spanned,
        schema: &Schema,
        data_type: Option<&DataType>,
    ) -> Option<PlannedExpr> {
        self.checked(text, self.expressions.plan(&text.value, schema, data_type))
    }

    /// Plans a boolean over rows of `schema`.
    pub fn condition(&self, text: &Spanned, schema: &Schema) -> Option<Expr> {
        Some(self.checked(text, self.expressions.plan_boolean(&text.value, schema))?.expr)
    }

    /// Plans a whole number over rows of `schema`, cast to 64 bits.
    pub fn whole_number(&self, text: &Spanned, schema: &Schema) -> Option<Expr> {
        let planned = self.expressions.plan(&text.value, schema, None);
        let planned = planned.and_then(|planned| match planned.expr.data_type {
            ref whole if whole.is_integer() => {
                self.expressions.plan(&text.value, schema, Some(&DataType::Int64))
            }
            ref other => Err(format!("`{}` is a {other}; write a whole number", text.value)),
        });
        Some(self.checked(text, planned)?.expr)
    }

    /// An expression of the engine's own, whose text cannot be wrong.
    pub fn own_expression(&self, sql: &str, schema: &Schema, data_type: &DataType) -> Expr {
        self.expressions.plan(sql, schema, Some(data_type)).expect("the engine's own SQL can be planned").expr
    }

    /// The index of a column of `of`; a fault when it has none of that name.
    pub fn column(&self, name: &Spanned, schema: &Schema, of: &str) -> Option<usize> {
        let index = schema.index_of(&name.value).ok();
        if index.is_none() && !name.is_absent() {
            let existing: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let mend = did_you_mean(&name.value, &existing);
            self.fault(name.line, format!("`{of}` has no column `{}`; {mend}", name.value));
        }
        index
    }

    /// The index of a key column of `of`.
    pub fn key_column(&self, name: &Spanned, schema: &Schema, of: &str) -> Option<usize> {
        let index = self.column(name, schema, of)?;
        let data_type = schema.field(index).data_type();
        if !is_key(data_type) {
            self.fault(name.line, format!("column `{}` is {data_type}, which cannot be a key; a key is a whole number, a text or a boolean: cast it in a `project` before", name.value));
            return None;
        }
        Some(index)
    }

    /// The index of an event-time column of `of`.
    pub fn time_column(&self, name: &Spanned, schema: &Schema, of: &str) -> Option<usize> {
        let index = self.column(name, schema, of)?;
        let data_type = schema.field(index).data_type();
        if *data_type != timestamp() {
            self.fault(name.line, format!("column `{}` is {data_type}, and an event time is a timestamp in microseconds, UTC: cast it in a `project` before", name.value));
            return None;
        }
        Some(index)
    }

    /// The index of the column `ts_utc` of `of`.
    pub fn ts_utc_column(&self, schema: &Schema, of: &str) -> Option<usize> {
        self.time_column(&Spanned::new(columns::TS_UTC, self.line), schema, of)
    }

    /// The index of a column of `of` that a state can retain.
    pub fn retained_column(&self, name: &Spanned, schema: &Schema, of: &str) -> Option<usize> {
        let index = self.column(name, schema, of)?;
        let data_type = schema.field(index).data_type();
        if !is_encodable(data_type) {
            let what = format!(
                "column `{}` is {data_type}, which a state cannot retain; cast it in a `project` before",
                name.value
            );
            self.fault(name.line, what);
            return None;
        }
        Some(index)
    }

    /// The index of a boolean column of `of`.
    pub fn boolean_column(&self, name: &Spanned, schema: &Schema, of: &str) -> Option<usize> {
        let index = self.column(name, schema, of)?;
        let data_type = schema.field(index).data_type();
        if *data_type != DataType::Boolean {
            let what = format!(
                "column `{}` is {data_type}, and must be a boolean: make one in a `project` before",
                name.value
            );
            self.fault(name.line, what);
            return None;
        }
        Some(index)
    }

    /// The indexes of the columns that a node names, always with the tick; all when it names none.
    pub fn chosen_columns(&self, names: &[Spanned], input: &SchemaRef) -> Option<Vec<usize>> {
        if names.is_empty() {
            return Some((0..input.fields().len()).collect());
        }
        let tick = tick_index(input);
        let named = names.iter().enumerate().map(|(index, name)| {
            if !name.is_absent() && names[..index].iter().any(|other| other.value == name.value) {
                self.fault(name.line, format!("`columns` names `{}` twice; name it once", name.value));
                return None;
            }
            self.column(name, input, self.input_name())
        });
        let named: Vec<Option<usize>> = named.collect();
        let mut indexes = named.into_iter().collect::<Option<Vec<_>>>()?;
        if !indexes.contains(&tick) {
            indexes.insert(0, tick);
        }
        Some(indexes)
    }

    /// Adds a fault for each column that the first input must have and lacks. Whether it has all.
    pub fn requires_columns(&self, input: &Schema, required: &[&str]) -> bool {
        let missing: Vec<&&str> = required.iter().filter(|name| input.index_of(name).is_err()).collect();
        for name in &missing {
            let (called, of) = (self.called(), self.input_name());
            self.fault(self.line, format!("{called} needs column `{name}` of `{of}`; keep it there"));
        }
        missing.is_empty()
    }

    /// Checks that two key columns hold the same type, so that equal keys are found equal.
    ///
    /// Whole numbers of all widths are one type.
    pub fn same_key_type(&self, line: u32, one: &Field, (of, other): (&str, &Field)) -> Option<()> {
        if is_same_key_type(one.data_type(), other.data_type()) {
            return Some(());
        }
        let what = format!(
            "`{}` is {} and `{}` of `{of}` is {}, so no key of one equals a key of the other; cast one of them in \
             a `project` before",
            one.name(),
            one.data_type(),
            other.name(),
            other.data_type()
        );
        self.fault(line, what);
        None
    }

    /// Plans every revision of a file: the topology's own, and those that became effective later.
    pub fn every_revision<T: Clone>(
        &self,
        file: &RevisionText,
        plan: impl Fn(&RevisionText) -> Option<T>,
    ) -> Option<Effective<T>> {
        every_revision(self.revisions.get(self.name).map_or(&[][..], Vec::as_slice), file, plan)
    }

    /// The rows of `from` as `fields`: their tick, and for each other field the expression with its
    /// name.
    ///
    /// # Panics
    /// If a field has no expression.
    pub fn computed(
        &self,
        from: &str,
        fields: Vec<Field>,
        texts: &[(&str, Spanned)],
    ) -> Option<Arc<Projection>> {
        let schema = self.schema(from)?;
        let count = fields.len();
        let diff = schema.index_of(columns::DIFF).ok();
        let mut computed: Vec<(ProjectedColumn, Field)> = Vec::new();
        for field in fields {
            if field.name() == columns::TICK {
                computed.push((ProjectedColumn::Input(tick_index(schema)), field));
                continue;
            }
            let text = texts.iter().find(|(name, _)| name == field.name());
            let (_, text) = text.expect("an expression for each field but the tick");
            if text.is_absent() {
                continue;
            }
            // A node that reads a changelog reads its differences as they are; nothing may be
            // computed from them. Facts have none, and the planner refuses them.
            if text.value == columns::DIFF && *field.data_type() == DataType::Int64 {
                computed.extend(diff.map(|diff| (ProjectedColumn::Input(diff), field)));
                continue;
            }
            let planned = self.expression(text, schema, Some(field.data_type()));
            computed.extend(planned.map(|planned| (ProjectedColumn::Computed(planned.expr), field)));
        }
        let is_complete = computed.len() == count;
        is_complete.then(|| Arc::new(Projection::new(self.name, computed)))
    }
}

/// Plans every revision of a node's file: its own text, and those that became effective later.
pub fn every_revision<T: Clone>(
    later: &[(Tick, Option<RevisionText>)],
    file: &RevisionText,
    plan: impl Fn(&RevisionText) -> Option<T>,
) -> Option<Effective<T>> {
    let first = plan(file);
    let later: Vec<Option<(Tick, T)>> = later
        .iter()
        .map(|(tick, revision)| {
            let value = revision.as_ref().map_or_else(|| first.clone(), &plan);
            Some((*tick, value?))
        })
        .collect();
    let mut values = Effective::always(first?);
    for (tick, value) in later.into_iter().collect::<Option<Vec<_>>>()? {
        values.change(tick, value);
    }
    Some(values)
}

/// What faults of planning call a node: `what` and its name, if it has one.
pub fn called(what: &str, name: &str) -> String {
    if name.is_empty() { format!("a {what}") } else { format!("{what} `{name}`") }
}

/// The node that an input of a planned node names: itself, or the one before the point when it
/// names a port (`NODE.PORT`).
pub fn node_of_input(input: &str) -> &str {
    input.split_once('.').map_or(input, |(node, _)| node)
}

/// The index of the tick column, for planning: every stream carries one.
pub fn tick_index(schema: &Schema) -> usize {
    schema.index_of(columns::TICK).expect("every stream carries _tick")
}

/// Whether a node can be planned with keys of both types: equal keys are then found equal.
pub fn is_same_key_type(one: &DataType, other: &DataType) -> bool {
    decoded_type(one) == decoded_type(other) || one.is_integer() && other.is_integer()
}

/// Checks, when a node is planned, that its input `accepts` rows of `schema`; else says what is
/// wrong and how to mend it.
///
/// # Errors
/// A sentence that begins with the name of the reading node.
pub fn accepted(accepts: Accepts, schema: &Schema, called: &str, input: &str) -> Result<(), String> {
    let is_changelog = schema.index_of(columns::DIFF).is_ok();
    match accepts {
        Accepts::Facts if is_changelog => Err(format!(
            "{called} reads facts, and `{input}` gives a changelog, whose rows are retracted; read the node that \
             the changelog is computed from"
        )),
        Accepts::Changelog if !is_changelog => Err(format!(
            "{called} reads a changelog, and `{input}` gives facts, which are never retracted; read a node that \
             retracts, such as one of kind `expire`"
        )),
        _ => Ok(()),
    }
}

/// The columns that an expression of a planned node reads.
pub fn columns_of(expr: &Expr) -> ColumnSet {
    let columns = datafusion::physical_expr::utils::collect_columns(&expr.physical);
    columns.into_iter().map(|column| column.name().to_owned()).collect()
}

/// The input columns that a projection of a planned node reads.
pub fn columns_of_projection(projection: &Projection, input: &Schema) -> ColumnSet {
    let mut read = ColumnSet::new();
    for column in projection.columns() {
        match column {
            ProjectedColumn::Input(index) => {
                read.insert(input.field(*index).name().clone());
            }
            ProjectedColumn::Computed(expr) => read.extend(columns_of(expr)),
        }
    }
    read
}
