//! The declaration of a backfill: which tables are computed again, from which range of the log, by
//! whom and why.
//!
//! Its digest covers everything that decides the outputs: the plan, the range, the partitions and
//! the tables, and no path of a file. A backfill writes derived tables only; a declaration that
//! names a table of primary records is refused.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::{Digest, Tick};
use tidegate_sinks::commits::BuildInfo;

use crate::config::{Diagnostic, Diagnostics, Section, Spanned};
use crate::plan::Plan;
use crate::topology::Override;

/// The tables and topics of primary records: what was admitted, and its receipts. None of them is
/// derived.
const PRIMARY: [&str; 7] = ["facts", "receipts", "quarantine", "governance", "traffic", "control", "audit"];

/// The declaration of a backfill, without faults: its plan, range of ticks and output tables.
#[derive(Clone)]
pub struct BackfillDeclaration {
    /// The backfill's name in the data folder.
    pub id: String,
    /// Why it runs.
    pub purpose: String,
    /// Who declared it.
    pub actor: String,
    /// The plan that computes it.
    pub plan: Arc<Plan>,
    /// Rows from this tick on; from the first when not given.
    pub from: Option<Tick>,
    /// Rows before this tick; when not given, to where the basis or the log ends.
    pub to: Option<Tick>,
    /// Rows of these partitions, ascending; of all, when none is named.
    pub partitions: Vec<u16>,
    /// The commit that must be in the store.
    pub basis: Option<Digest>,
    /// The tables, sorted.
    pub outputs: Vec<String>,
    /// The digest of everything above.
    pub digest: Digest,
}

impl BackfillDeclaration {
    /// Reads the declaration in `file`, and plans its topology.
    ///
    /// # Errors
    /// Every fault of the declaration, the topology and what that names.
    pub fn read(file: &Path) -> Result<BackfillDeclaration, Vec<Diagnostic>> {
        let (text, faults) = Diagnostics::read(file)?;
        let root = faults.table(&text)?;
        let root = Section::new(root.get_ref(), 0, "the declaration", &faults);
        let reader = DeclarationReader { file, faults: &faults };
        let declaration = reader.declaration(&root);
        let found = faults.take();
        declaration.filter(|_| found.is_empty()).ok_or(found)
    }

    fn with_digest(mut self) -> BackfillDeclaration {
        let canonical = serde_json::json!({
            "id": self.id, "purpose": self.purpose, "actor": self.actor,
            "topology": self.plan.topology.name, "plan": self.plan.digest,
            "from": self.from.map(|tick| tick.0.to_string()), "to": self.to.map(|tick| tick.0.to_string()),
            "partitions": self.partitions, "basis": self.basis, "outputs": self.outputs,
        });
        let canonical =
            tidegate_facts::strict_json::canonical(&canonical.to_string()).expect("it was just written");
        self.digest = Digest::of_parts("tidegate.backfill.v1", &[canonical.as_bytes()]);
        self
    }
}

/// Reads the sections of one file.
struct DeclarationReader<'r> {
    file: &'r Path,
    faults: &'r Diagnostics,
}

impl DeclarationReader<'_> {
    /// The declaration, if it is complete; its faults are added to the list.
    fn declaration(&self, root: &Section<'_>) -> Option<BackfillDeclaration> {
        let id = root.required_text("id", "the name of the backfill, by which it is resumed");
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !id.is_absent() && (id.value.len() > 64 || !id.value.chars().all(fits)) {
            let what = "an id is at most 64 lower-case letters, digits and `-`; write it so";
            self.faults.add(id.line, format!("`{}`: {what}", id.value));
        }
        let purpose = root.required_text("purpose", "what the backfill is for").value;
        let actor = root.required_text("actor", "who declares it").value;
        let plan = self.plan(root);
        let outputs = self.outputs(root, plan.as_deref());
        let (mut from, mut to, mut partitions) = (None, None, Vec::new());
        if let Some(scope) = root.section("scope") {
            from = self.moment(&scope, "from");
            to = self.moment(&scope, "to");
            if let (Some((from, _)), Some((to, line))) = (from, to)
                && from >= to
            {
                self.faults.add(line, "`to` is not behind `from`; name a range that is not empty");
            }
            partitions = self.partitions(&scope, plan.as_deref());
            self.streams(&scope, plan.as_deref());
            scope.finish();
        }
        let mut basis = None;
        if let Some(section) = root.section("basis") {
            let commit = section.required_text("commit", "the digest of a commit of the data folder");
            basis = Digest::from_hex(&commit.value);
            if basis.is_none() && !commit.is_absent() {
                let what =
                    "a digest is 64 lower-case hexadecimal digits; BLAKE3 of the commit's file is meant";
                self.faults.add(commit.line, format!("`commit`: {what}"));
            }
            section.finish();
        }
        if let Some(code) = root.section("code") {
            let BuildInfo { version, commit } = BuildInfo::this();
            for (key, own) in [("version", version), ("commit", commit)] {
                if let Some(text) = code.text(key).filter(|text| !text.is_absent() && text.value != own) {
                    let what = format!("`{key}` is `{}`, and this build's is `{own}`", text.value);
                    self.faults.add(text.line, format!("{what}; run it with the build that was meant"));
                }
            }
            code.finish();
        }
        root.finish();
        let (from, to) = (from.map(|(tick, _)| tick), to.map(|(tick, _)| tick));
        let (id, plan, digest) = (id.value, plan?, Digest::default());
        Some(
            BackfillDeclaration { id, purpose, actor, plan, from, to, partitions, basis, outputs, digest }
                .with_digest(),
        )
    }

    fn plan(&self, root: &Section<'_>) -> Option<Arc<Plan>> {
        let topology = root.required_text("topology", "the path of the topology that computes it");
        let mut overrides = Vec::new();
        for set in root.texts("set").into_iter().filter(|set| !set.is_absent()) {
            match Override::parse(&set.value) {
                Ok(set) => overrides.push(set),
                Err(what) => self.faults.add(set.line, what),
            }
        }
        if topology.is_absent() {
            return None;
        }
        let path = self.file.parent().unwrap_or(Path::new("")).join(&topology.value);
        match Plan::read(&path, &overrides) {
            Ok(plan) => Some(Arc::new(plan)),
            Err(found) => {
                for Diagnostic { file, line, message } in found {
                    self.faults.add_in(&file, line, message);
                }
                None
            }
        }
    }

    fn outputs(&self, root: &Section<'_>, plan: Option<&Plan>) -> Vec<String> {
        let named = root.texts("outputs");
        if named.is_empty() {
            let what = "the tables that are computed again";
            if root.has("outputs") {
                self.faults.add(root.line(), format!("`outputs` is empty; name {what}"));
            } else {
                root.missing("outputs", what);
            }
        }
        let tables: Option<Vec<String>> =
            plan.map(|plan| plan.tables().into_iter().map(|(table, _)| table).collect());
        let mut outputs = BTreeSet::new();
        for Spanned { value, line } in named.into_iter().filter(|name| !name.is_absent()) {
            let derived: Option<Vec<&str>> = tables.as_ref().map(|t| t.iter().map(String::as_str).collect());
            if PRIMARY.contains(&value.as_str()) {
                let what = "holds primary records, which no graph computes again";
                let mend = "name tables that the topology derives, and correct the past by new facts";
                self.faults.add(line, format!("`{value}` {what}; {mend}"));
            } else if let Some(derived) = derived.filter(|derived| !derived.contains(&value.as_str())) {
                let what = format!("the topology has no table `{value}`");
                self.faults.add(line, format!("{what}; {}", did_you_mean(&value, &derived)));
            } else if !outputs.insert(value.clone()) {
                self.faults.add(line, format!("`{value}` is named twice; name it once"));
            }
        }
        outputs.into_iter().collect()
    }

    fn moment(&self, scope: &Section<'_>, key: &'static str) -> Option<(Tick, u32)> {
        let text = scope.text(key).filter(|text| !text.is_absent())?;
        match Tick::parse(&text.value) {
            Ok(tick) => Some((tick, text.line)),
            Err(what) => {
                self.faults.add(text.line, format!("`{key}`: {what}"));
                None
            }
        }
    }

    fn partitions(&self, scope: &Section<'_>, plan: Option<&Plan>) -> Vec<u16> {
        let named = scope.partitions("partitions");
        if let Some(count) = plan.map(|plan| plan.topology.partitions) {
            for (partition, line) in named.iter().filter(|(partition, _)| *partition >= count) {
                let what = format!("there is no partition {partition}; the topology has 0 to {}", count - 1);
                self.faults.add(*line, what);
            }
        }
        let named: BTreeSet<u16> = named.into_iter().map(|(partition, _)| partition).collect();
        named.into_iter().collect()
    }

    /// Checks `streams`, which must name all streams if it is given: a feature may be made of any
    /// of them.
    fn streams(&self, scope: &Section<'_>, plan: Option<&Plan>) {
        let line = scope.line();
        let named = scope.texts("streams");
        let Some(policy) = plan.map(|plan| plan.policies.first()).filter(|_| !named.is_empty()) else {
            return;
        };
        let streams: Vec<&str> = policy.events().map(|event| &*event.event_type).collect();
        for stream in named.iter().filter(|text| !text.is_absent() && !streams.contains(&text.value.as_str()))
        {
            let what = format!("the gate lets no stream `{}` in", stream.value);
            self.faults.add(stream.line, format!("{what}; {}", did_you_mean(&stream.value, &streams)));
        }
        let missing = streams.iter().filter(|stream| !named.iter().any(|text| text.value == **stream));
        let missing: Vec<String> = missing.map(|stream| format!("`{stream}`")).collect();
        if !missing.is_empty() {
            let what = format!("`streams` leaves out {}", missing.join(", "));
            let why = "rows of the other streams may need them";
            let mend = "leave `streams` out, or filter in the topology";
            self.faults.add(line, format!("{what}, and {why}; {mend}"));
        }
    }
}
