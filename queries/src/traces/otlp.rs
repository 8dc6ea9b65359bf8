//! Spans, and their JSON encoding in OTLP over HTTP.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use super::context::{SpanId, TraceId, hex};

/// A span, as OTLP encodes it: a named interval of time in a trace.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Span {
    #[serde(rename = "traceId", serialize_with = "trace_hex")]
    pub(super) trace: TraceId,
    #[serde(rename = "spanId", serialize_with = "span_hex")]
    pub(super) id: SpanId,
    #[serde(rename = "parentSpanId", serialize_with = "parent_hex", skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<SpanId>,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    /// Nanoseconds since 1970-01-01 UTC.
    #[serde(rename = "startTimeUnixNano", serialize_with = "as_text")]
    pub(super) start: u64,
    #[serde(rename = "endTimeUnixNano", serialize_with = "as_text")]
    pub(super) end: u64,
    pub(super) attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) links: Vec<SpanLink>,
    pub(super) status: SpanStatus,
}

/// The OTLP kind of a span.
#[derive(Clone, Copy, Debug)]
pub(super) enum SpanKind {
    /// Work within the process.
    Internal = 1,
    /// The answer to a call.
    Server = 2,
}

/// A related span in another trace, as OTLP encodes it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpanLink {
    #[serde(rename = "traceId", serialize_with = "trace_hex")]
    pub(super) trace: TraceId,
    #[serde(rename = "spanId", serialize_with = "span_hex")]
    pub(super) span: SpanId,
}

/// The OTLP status of a span.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct SpanStatus {
    /// 0: unset; 2: error.
    code: u8,
}

impl SpanStatus {
    pub(super) const FAILED: SpanStatus = SpanStatus { code: 2 };
}

/// An OTLP attribute of a span: a name and a value.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attribute {
    key: &'static str,
    value: AttributeValue,
}

#[derive(Clone, Debug, Serialize)]
enum AttributeValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue")]
    Whole(String),
    #[serde(rename = "boolValue")]
    Flag(bool),
}

/// The most characters of a text in a span.
const TEXT_CHARS_MAX: usize = 256;

impl Attribute {
    pub(super) fn text(key: &'static str, text: impl Into<String>) -> Attribute {
        let mut text = text.into();
        if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
            text.truncate(end);
        }
        Attribute { key, value: AttributeValue::Text(text) }
    }

    pub(super) fn number(key: &'static str, number: impl Into<i64>) -> Attribute {
        Attribute { key, value: AttributeValue::Whole(number.into().to_string()) }
    }

    pub(super) fn flag(key: &'static str, flag: bool) -> Attribute {
        Attribute { key, value: AttributeValue::Flag(flag) }
    }
}

/// The OTLP resource of all spans: the service and its version.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Resource {
    pub(super) attributes: Vec<Attribute>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: &'a Resource,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: InstrumentationScope,
    spans: &'a [Span],
}

/// The name and version of the library that made the spans.
#[derive(Serialize)]
struct InstrumentationScope {
    name: &'static str,
    version: &'static str,
}

/// The OTLP body of a request that carries spans.
pub(super) fn body(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let scope = InstrumentationScope { name: "tidegate", version: env!("CARGO_PKG_VERSION") };
    let request =
        Request { resource_spans: [ResourceSpans { resource, scope_spans: [ScopeSpans { scope, spans }] }] };
    serde_json::to_vec(&request).expect("spans have a JSON form")
}

impl Serialize for SpanKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

fn trace_hex<S: Serializer>(id: &TraceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(&id.0))
}

fn span_hex<S: Serializer>(id: &SpanId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(&id.0))
}

fn parent_hex<S: Serializer>(id: &Option<SpanId>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&id.map(|id| hex(&id.0)).unwrap_or_default())
}

fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_span_is_encoded_as_the_standard_says() {
        let span = Span {
            trace: TraceId([0x5b; 16]),
            id: SpanId([0xee; 8]),
            parent: Some(SpanId([1; 8])),
            name: "log".into(),
            kind: SpanKind::Internal,
            start: 1_544_712_660_000_000_000,
            end: 1_544_712_661_000_000_000,
            attributes: vec![
                Attribute::text("a", "é".repeat(300)),
                Attribute::number("b", 7),
                Attribute::flag("c", true),
            ],
            links: vec![SpanLink { trace: TraceId([2; 16]), span: SpanId([3; 8]) }],
            status: SpanStatus::FAILED,
        };
        let resource = Resource { attributes: vec![Attribute::text("service.name", "tidegate")] };
        let body = String::from_utf8(body(&resource, &[span])).expect("JSON is UTF-8");
        let body = body.replace(&"é".repeat(256), "(256 characters)").replace(env!("CARGO_PKG_VERSION"), "V");
        expect![[r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"tidegate"}}]},"scopeSpans":[{"scope":{"name":"tidegate","version":"V"},"spans":[{"traceId":"5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b","spanId":"eeeeeeeeeeeeeeee","parentSpanId":"0101010101010101","name":"log","kind":1,"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000","attributes":[{"key":"a","value":{"stringValue":"(256 characters)"}},{"key":"b","value":{"intValue":"7"}},{"key":"c","value":{"boolValue":true}}],"links":[{"traceId":"02020202020202020202020202020202","spanId":"0303030303030303"}],"status":{"code":2}}]}]}]}"#]]
        .assert_eq(&body);
    }
}
