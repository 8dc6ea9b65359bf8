//! `source.world`: records of a simulated world, the same on every machine.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_sources::{CardWorldConfig, CardWorldSource, CardWorldStream};
use tidegate_sources::{
    CredibilityWorldConfig, CredibilityWorldSource, CredibilityWorldStream, Source, SourceError,
};

use crate::config::{Diagnostics, Section};
use crate::node::settings::Default;
use crate::node::source::{
    Connector, OpenOptions, RENAMED, Records, no_such_node, read_source, with_event_settings,
};
use crate::node::{NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `source.world`.
pub struct SourceWorld;

const SETTINGS: &[Setting] = &with_event_settings::<2, 10>([
    Setting::wiring(
        "stream",
        "text",
        Default::Required,
        "Which records: `transactions` or `labels` of a world of card payments; `claims`, `sources`, `evidence` or `beacons` of a credibility world.",
        ["\"transactions\"", "\"labels\""],
    ),
    Setting::wiring(
        "world",
        "table, or { same_as = NODE }",
        Default::Required,
        "The world's settings: seed, start, and of card payments customers, terminals, towns, days, radius; of credibility percent, hours, incidents. Or the node whose world it shares.",
        ["{ seed = 1 }", "{ seed = 2 }"],
    ),
]);

impl NodeKind for SourceWorld {
    fn name(&self) -> &'static str {
        "source.world"
    }

    fn digest_name(&self) -> &'static str {
        "source"
    }

    fn version(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Source
    }

    fn about(&self) -> &'static str {
        "Generates the records of a simulated world from a seed, the same on every machine: card payments and \
         what they turned out to be, or claims and the evidence for them."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        RENAMED
    }

    fn example(&self) -> &'static str {
        "name = \"transactions\"\nkind = \"source.world\"\nstream = \"transactions\"\nworld = { seed = 42, customers = 1000, days = 100 }\n\n\
         [event]\ntype = \"card.transaction.v1\"\nid = \"concat('tx-', cast(transaction_id as text))\"\ntime = \"tx_datetime\"\n"
    }

    fn read(&self, section: &Section<'_>, cx: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        read_source(section, Some(read_world(section, cx)), Records::Rows)
    }
}

const STREAMS: &str =
    "`transactions` or `labels`, or of a credibility world `claims`, `sources`, `evidence` or `beacons`";

/// Reads `stream` and `world`.
fn read_world(section: &Section<'_>, cx: &ReadContext<'_, '_>) -> Arc<dyn Connector> {
    let stream = section.required_text("stream", STREAMS);
    let credibility = match stream.value.as_str() {
        "claims" => Some(CredibilityWorldStream::Claims),
        "sources" => Some(CredibilityWorldStream::Sources),
        "evidence" => Some(CredibilityWorldStream::Evidence),
        "beacons" => Some(CredibilityWorldStream::Beacons),
        _ => None,
    };
    if let Some(stream) = credibility {
        return Arc::new(CredibilityRecords { config: read_config(section, cx, read_credibility), stream });
    }
    let card = match stream.value.as_str() {
        "labels" => CardWorldStream::Labels,
        "transactions" | "" => CardWorldStream::Transactions,
        unknown => {
            let what = format!("`{unknown}` is not a stream of a world; it can be {STREAMS}");
            section.diagnostics().add(stream.line, what);
            CardWorldStream::Transactions
        }
    };
    Arc::new(CardRecords { config: read_config(section, cx, read_card), stream: card })
}

/// Reads `world`: its own settings, or those of the node that it shares.
fn read_config<C: std::default::Default>(
    section: &Section<'_>,
    cx: &ReadContext<'_, '_>,
    read: impl Fn(&Section<'_>) -> C,
) -> C {
    let Some(world) = section.section("world") else {
        if !section.has("world") {
            section.missing("world", "a table of its settings, or { same_as = .. }");
        }
        return C::default();
    };
    let Some(other) = world.text("same_as") else {
        return read(&world);
    };
    world.finish();
    let shared = cx.sections.iter().find(|(name, _)| *name == other.value);
    let silent = Diagnostics::new(Path::new(""), "");
    match shared.and_then(|(_, shared)| shared.section_with("world", &silent)) {
        // The faults of the other node's settings are found where that node is read.
        Some(shared) => read(&shared),
        None => {
            if !other.is_absent() {
                no_such_node(section, cx, &other, "has a world to share");
            }
            C::default()
        }
    }
}

fn set_small(world: &Section<'_>, key: &'static str, field: &mut u32) {
    if let Some(count) = world.count(key, 1) {
        *field = u32::try_from(count).unwrap_or(u32::MAX);
    }
}

fn read_card(world: &Section<'_>) -> CardWorldConfig {
    let mut config = CardWorldConfig::default();
    set_small(world, "customers", &mut config.customers);
    set_small(world, "terminals", &mut config.terminals);
    set_small(world, "towns", &mut config.towns);
    set_small(world, "days", &mut config.days);
    config.seed = world.seed("seed").unwrap_or(config.seed);
    config.radius = world.number("radius").unwrap_or(config.radius);
    config.start = read_start(world).unwrap_or(config.start);
    world.finish();
    config
}

fn read_credibility(world: &Section<'_>) -> CredibilityWorldConfig {
    let mut config = CredibilityWorldConfig::default();
    set_small(world, "percent", &mut config.percent);
    set_small(world, "hours", &mut config.hours);
    config.seed = world.seed("seed").unwrap_or(config.seed);
    config.incidents = world.flag("incidents").unwrap_or(config.incidents);
    config.start = read_start(world).unwrap_or(config.start);
    world.finish();
    config
}

/// When a world begins, in microseconds, if `start` says so.
fn read_start(world: &Section<'_>) -> Option<i64> {
    let start = world.text("start").filter(|start| !start.is_absent())?;
    let micros = tidegate_facts::time::parse_rfc3339_micros(&start.value);
    if micros.is_none() {
        let what = format!("`start` of {} must be a time such as 2026-01-01T00:00:00.000000Z", world.name());
        world.diagnostics().add(start.line, what);
    }
    micros
}

struct CardRecords {
    config: CardWorldConfig,
    stream: CardWorldStream,
}

impl Connector for CardRecords {
    fn schema(&self, _: OpenOptions) -> Result<Option<SchemaRef>, SourceError> {
        Ok(Some(self.stream.schema()))
    }

    fn open(
        &self,
        _: Option<&[String]>,
        from_position: u64,
        options: OpenOptions,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(CardWorldSource::new(
            self.config.clone(),
            self.stream,
            from_position,
            options.batch_rows,
        )?))
    }
}

struct CredibilityRecords {
    config: CredibilityWorldConfig,
    stream: CredibilityWorldStream,
}

impl Connector for CredibilityRecords {
    fn schema(&self, _: OpenOptions) -> Result<Option<SchemaRef>, SourceError> {
        Ok(Some(self.stream.schema()))
    }

    fn open(
        &self,
        _: Option<&[String]>,
        from_position: u64,
        options: OpenOptions,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(CredibilityWorldSource::new(
            self.config.clone(),
            self.stream,
            from_position,
            options.batch_rows,
        )?))
    }
}
