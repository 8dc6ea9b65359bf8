//! The spans of one call that brings records.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use arrow::util::display::array_value_to_string;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tidegate_dataflows::live::{Appended, Decided, Live, Receipt, Receipted};
use tidegate_facts::envelope::ScenarioId;
use tidegate_facts::{Tick, Verdict};

use super::context::{Parent, SpanId, TraceId};
use super::otlp::{Attribute, Kind, Link, Span, Status};
use super::{Clock, Traces, Unsealed};

/// What a record says of itself by which it is found again. A record that is no envelope says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Origin {
    event_id: Option<String>,
    event_type: Option<String>,
    schema_version: Option<String>,
    producer: Option<String>,
    manifest_fingerprint: Option<String>,
    parameter_hash: Option<String>,
    seed: Option<u64>,
    scenario_id: Option<ScenarioId>,
    run_id: Option<String>,
    scenario_run_id: Option<String>,
    platform_run_id: Option<String>,
    trace_id: Option<String>,
    span_id: Option<String>,
}

impl Origin {
    /// What a record says.
    pub(crate) fn of(record: &[u8]) -> Origin {
        serde_json::from_slice(record).unwrap_or_default()
    }

    /// The trace that the record itself names.
    fn parent(&self) -> Option<Parent> {
        self.trace_id.as_ref().map(|trace| Parent::of_fields(trace, self.span_id.as_deref()))
    }

    fn attributes(&self) -> Vec<Attribute> {
        let (seed, scenario) =
            (self.seed.map(|seed| seed.to_string()), self.scenario_id.as_ref().map(ToString::to_string));
        let texts = [
            ("tidegate.event_id", &self.event_id),
            ("tidegate.event_type", &self.event_type),
            ("tidegate.schema_version", &self.schema_version),
            ("tidegate.producer", &self.producer),
            ("tidegate.manifest_fingerprint", &self.manifest_fingerprint),
            ("tidegate.parameter_hash", &self.parameter_hash),
            ("tidegate.seed", &seed),
            ("tidegate.scenario_id", &scenario),
            ("tidegate.run_id", &self.run_id),
            ("tidegate.scenario_run_id", &self.scenario_run_id),
            ("tidegate.platform_run_id", &self.platform_run_id),
            ("tidegate.record.trace_id", &self.trace_id),
            ("tidegate.record.span_id", &self.span_id),
        ];
        texts.into_iter().filter_map(|(key, text)| Some(Attribute::text(key, text.as_ref()?))).collect()
    }
}

/// The columns of a decided row by which it is found again, and what was decided.
const DECIDED: [(&str, &str); 8] = [
    ("decision_id", "tidegate.decision_id"),
    ("action", "tidegate.action"),
    ("bundle_id", "tidegate.bundle_id"),
    ("bundle_version", "tidegate.bundle_version"),
    ("bundle_digest", "tidegate.bundle_digest"),
    ("policy_id", "tidegate.policy_id"),
    ("policy_revision", "tidegate.policy_revision"),
    ("snapshot_digest", "tidegate.snapshot_digest"),
];

/// A call that is followed until it is answered, or given up.
pub(crate) struct Call {
    traces: Arc<Traces>,
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    /// Whether the call's own trace is followed; those of its records may be.
    followed: bool,
    name: &'static str,
    arrived: Instant,
    attributes: Vec<Attribute>,
    parts: Vec<Part>,
    event_id: Option<String>,
    /// When its decision was there.
    told: Option<Instant>,
    answered: Option<StatusCode>,
}

/// A span whose times are not written yet.
struct Part {
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    name: &'static str,
    times: (Instant, Instant),
    attributes: Vec<Attribute>,
    links: Vec<Link>,
}

impl Call {
    /// A call that has arrived, with one record or many. One record's own trace is the call's, unless its header names one.
    pub(crate) fn begin(
        traces: &Arc<Traces>,
        name: &'static str,
        headers: &HeaderMap,
        record: Option<&Origin>,
        arrived: Instant,
    ) -> Call {
        let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let said = header.and_then(Parent::of_header).or_else(|| record.and_then(Origin::parent));
        let trace = said.map_or_else(|| traces.ids.trace(), |said| said.trace);
        Call {
            trace,
            id: traces.ids.span(),
            parent: said.and_then(|said| said.span),
            followed: traces.sampler.follows(trace, said.and_then(|said| said.sampled)),
            traces: Arc::clone(traces),
            name,
            arrived,
            attributes: record.map(Origin::attributes).unwrap_or_default(),
            parts: Vec::new(),
            event_id: record.and_then(|record| record.event_id.clone()),
            told: None,
            answered: None,
        }
    }

    /// Its records were submitted, and are durable.
    pub(crate) fn logged(&mut self, submitted: Instant, receipted: &Receipted) {
        if !self.followed {
            return;
        }
        let Appended { began, durable, synced } = receipted.appended;
        let taken = submitted + receipted.queued;
        self.attributes.push(Attribute::number("tidegate.records", receipted.receipts.len() as u32));
        self.part("queue", self.id, (submitted, taken), Vec::new());
        let log = self.part("log", self.id, (taken, durable), Vec::new());
        let append = self.part("append", log, (began, durable), Vec::new());
        self.part("fsync", append, (durable.checked_sub(synced).unwrap_or(began), durable), Vec::new());
    }

    /// The call's one record has this receipt.
    pub(crate) fn received(&mut self, receipt: &Receipt) {
        if self.followed {
            self.attributes.extend(receipt_attributes(receipt));
        }
    }

    /// What the call's one record is was decided at `told`. The commit that seals it will be told.
    pub(crate) fn decided(
        &mut self,
        live: &Live,
        (durable, told): (Instant, Instant),
        tick: Tick,
        Decided { node, rows, row }: &Decided,
    ) {
        if !self.followed {
            return;
        }
        let mut attributes = vec![Attribute::text("tidegate.node", node.as_ref())];
        let mut decision_id = None;
        for (column, key) in DECIDED {
            let values = rows.batch.column_by_name(column);
            let text = values.and_then(|values| array_value_to_string(values, *row).ok());
            if let Some(text) = text {
                attributes.push(Attribute::text(key, text.clone()));
                decision_id = decision_id.or((column == "decision_id").then_some(text));
            }
        }
        self.part("graph", self.id, (durable, told), attributes);
        self.told = Some(told);
        self.await_seal(live, tick, (self.trace, self.id), self.event_id.clone(), decision_id);
    }

    /// The call's one record is a fact, on which nothing was decided in this call.
    pub(crate) fn admitted(&mut self, live: &Live, tick: Tick) {
        if self.followed {
            self.await_seal(live, tick, (self.trace, self.id), self.event_id.clone(), None);
        }
    }

    /// One of many records, which has a span of its own if it names a trace that is followed.
    pub(crate) fn record(
        &mut self,
        live: &Live,
        origin: Origin,
        receipt: &Receipt,
        (submitted, receipted): (Instant, &Receipted),
    ) {
        let Some(parent) = origin.parent().filter(|p| self.traces.sampler.follows(p.trace, p.sampled)) else {
            return;
        };
        let id = self.traces.ids.span();
        let mut attributes = origin.attributes();
        attributes.extend(receipt_attributes(receipt));
        let times = (submitted + receipted.queued, receipted.appended.durable);
        let links = match self.followed {
            true => vec![Link { trace: self.trace, span: self.id }],
            false => Vec::new(),
        };
        let (trace, parent) = (parent.trace, parent.span);
        self.parts.push(Part { trace, id, parent, name: "admit", times, attributes, links });
        if let (Verdict::Admit, Some(tick)) = (receipt.verdict, receipt.tick) {
            self.await_seal(live, tick, (trace, id), origin.event_id, None);
        }
    }

    /// The call is answered.
    pub(crate) fn answered(mut self, status: StatusCode) {
        self.answered = Some(status);
    }

    fn part(
        &mut self,
        name: &'static str,
        parent: SpanId,
        times: (Instant, Instant),
        attributes: Vec<Attribute>,
    ) -> SpanId {
        let (trace, id) = (self.trace, self.traces.ids.span());
        self.parts.push(Part { trace, id, parent: Some(parent), name, times, attributes, links: Vec::new() });
        id
    }

    fn await_seal(
        &self,
        live: &Live,
        tick: Tick,
        (trace, parent): (TraceId, SpanId),
        event_id: Option<String>,
        decision_id: Option<String>,
    ) {
        let since = Instant::now();
        self.traces.await_seal(tick, Unsealed { trace, parent, since, event_id, decision_id });
        // It may have been published meanwhile, and is then not told again.
        let commits = live.commits();
        if commits.upper() > tick {
            self.traces.committed(&commits);
        }
    }
}

impl Drop for Call {
    /// Hands over its spans. A call that nobody waits for any more was given up.
    fn drop(&mut self) {
        if let Some(told) = self.told {
            self.part("reply", self.id, (told, Instant::now()), Vec::new());
        }
        let clock = self.traces.clock();
        for part in self.parts.drain(..) {
            self.traces.queue.put(part.span(clock));
        }
        if !self.followed {
            return;
        }
        let mut attributes = std::mem::take(&mut self.attributes);
        let (method, route) = self.name.split_once(' ').unwrap_or(("", self.name));
        attributes.push(Attribute::text("http.request.method", method));
        attributes.push(Attribute::text("http.route", route));
        let status = match self.answered {
            Some(status) => {
                attributes.push(Attribute::number("http.response.status_code", status.as_u16()));
                if status.is_server_error() { Status::FAILED } else { Status::default() }
            }
            None => {
                attributes.push(Attribute::flag("tidegate.given_up", true));
                Status::FAILED
            }
        };
        self.traces.queue.put(Span {
            trace: self.trace,
            id: self.id,
            parent: self.parent,
            name: Cow::Borrowed(self.name),
            kind: Kind::Server,
            start: clock.at(self.arrived),
            end: clock.at(Instant::now()),
            attributes,
            links: Vec::new(),
            status,
        });
    }
}

impl Part {
    fn span(self, clock: Clock) -> Span {
        let Part { trace, id, parent, name, times, attributes, links } = self;
        Span {
            trace,
            id,
            parent,
            name: Cow::Borrowed(name),
            kind: Kind::Internal,
            start: clock.at(times.0),
            end: clock.at(times.1),
            attributes,
            links,
            status: Status::default(),
        }
    }
}

fn receipt_attributes(receipt: &Receipt) -> Vec<Attribute> {
    let mut attributes = vec![Attribute::text("tidegate.verdict", receipt.verdict.name())];
    if let Some(reason) = receipt.reason.filter(|_| receipt.verdict == Verdict::Quarantine) {
        attributes.push(Attribute::text("tidegate.reason", reason.code()));
    }
    if let Some(tick) = receipt.tick {
        attributes.push(Attribute::text("tidegate.tick", tick.0.to_string()));
        attributes.push(Attribute::number("tidegate.partition", tick.partition()));
    }
    attributes.extend(receipt.offset.map(|offset| Attribute::text("tidegate.offset", offset.to_string())));
    attributes
}
