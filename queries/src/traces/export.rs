//! Sends spans to a collector, in batches from a bounded queue, with a timeout and retries.
//!
//! Adding a span never blocks. Spans that do not fit in the queue, or that the collector does not
//! accept in time, are dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::otlp::{Resource, Span, body};
use super::settings::Settings;
use crate::shutdown::shutdown_requested;

/// The most spans in the queue, and the most in one request.
const QUEUE_MAX: usize = 16_384;
const BATCH_MAX: usize = 512;

/// How long the first span of a batch waits for more.
const BATCH_DELAY: Duration = Duration::from_millis(500);

/// The number of attempts for a batch, and the pause after the first; each pause doubles.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);

/// The time for sending the rest of the queue when the service stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of the collector's response that are read.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// The sending end of the queue of spans that are exported to a collector.
#[derive(Debug)]
pub(super) struct SpanQueue {
    spans: mpsc::Sender<Span>,
    counts: Arc<ExportCounts>,
}

/// What was exported: the number of spans that were sent, and that were dropped.
#[derive(Debug, Default)]
pub(super) struct ExportCounts {
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl SpanQueue {
    /// Creates a queue, and the task that sends its spans until `stop` turns true.
    pub(super) fn start(
        settings: Settings,
        resource: Resource,
        counts: &Arc<ExportCounts>,
        stop: watch::Receiver<bool>,
    ) -> (SpanQueue, JoinHandle<()>) {
        let (spans, waiting) = mpsc::channel(QUEUE_MAX);
        let exporter =
            Exporter { settings, resource, connection: None, counts: Arc::clone(counts), last_warning: None };
        (SpanQueue { spans, counts: Arc::clone(counts) }, tokio::spawn(exporter.run(waiting, stop)))
    }

    /// Adds a span, or drops and counts it if the queue is full.
    pub(super) fn push(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The task that sends spans to the collector.
struct Exporter {
    settings: Settings,
    resource: Resource,
    connection: Option<SendRequest<Body>>,
    counts: Arc<ExportCounts>,
    /// When the log last had a warning about lost spans.
    last_warning: Option<Instant>,
}

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error("the collector cannot be reached")]
    Connect(#[from] std::io::Error),
    #[error("the connection to the collector broke")]
    Http(#[from] hyper::Error),
    #[error("the collector answered {0}")]
    Status(StatusCode),
    #[error("the collector did not answer in time")]
    Timeout,
}

impl DeliveryError {
    /// Whether another attempt may succeed.
    fn is_transient(&self) -> bool {
        match self {
            DeliveryError::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            _ => true,
        }
    }
}

impl Exporter {
    async fn run(mut self, mut waiting: mpsc::Receiver<Span>, mut stop: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                taken = waiting.recv_many(&mut batch, BATCH_MAX) => if taken == 0 { return },
                () = shutdown_requested(&mut stop) => break,
            }
            let until = Instant::now() + BATCH_DELAY;
            while batch.len() < BATCH_MAX {
                let room = BATCH_MAX - batch.len();
                match timeout_at(until, waiting.recv_many(&mut batch, room)).await {
                    Ok(taken) if taken > 0 => {}
                    _ => break,
                }
            }
            tokio::select! {
                () = self.deliver(&mut batch) => {}
                // The interrupted batch is sent again below; a collector identifies a span by its
                // id.
                () = shutdown_requested(&mut stop) => break,
            }
        }
        waiting.close();
        let rest = async {
            while !batch.is_empty() || waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
                self.deliver(&mut batch).await;
            }
        };
        if timeout(FLUSH_TIMEOUT, rest).await.is_err() {
            let lost = waiting.len() + batch.len();
            self.counts.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            tracing::warn!(lost, "spans are lost: the collector did not accept them before the shutdown");
        }
    }

    async fn deliver(&mut self, batch: &mut Vec<Span>) {
        let (count, bytes) = (batch.len() as u64, body(&self.resource, batch));
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            let sent = timeout(self.settings.timeout, self.send(bytes.clone())).await;
            let error = match sent.unwrap_or(Err(DeliveryError::Timeout)) {
                Ok(()) => {
                    self.counts.sent.fetch_add(count, Ordering::Relaxed);
                    batch.clear();
                    return;
                }
                Err(error) => error,
            };
            self.connection = None;
            if attempt == ATTEMPTS || !error.is_transient() {
                self.counts.dropped.fetch_add(count, Ordering::Relaxed);
                batch.clear();
                self.warn_lost(count, &error);
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Logs that spans are lost, at most once a minute.
    fn warn_lost(&mut self, lost: u64, error: &DeliveryError) {
        if self.last_warning.is_none_or(|last| last.elapsed() > Duration::from_secs(60)) {
            self.last_warning = Some(Instant::now());
            let endpoint =
                self.settings.endpoint.authority().map_or("", |authority| without_user(authority.as_str()));
            tracing::warn!(lost, endpoint, %error, "spans are lost; tidegate_trace_spans_total counts them");
        }
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), DeliveryError> {
        let endpoint = self.settings.endpoint.clone();
        let authority = without_user(endpoint.authority().map_or("", |authority| authority.as_str()));
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut request = Request::post(endpoint.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(bytes)).expect("its parts were checked when they were read");
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        // The connection can only be reused once the response is read to its end.
        let read = to_bytes(Body::new(response.into_body()), RESPONSE_BYTES_MAX).await;
        if !status.is_success() {
            return Err(DeliveryError::Status(status));
        }
        if read.is_ok() {
            self.connection = Some(connection);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<SendRequest<Body>, DeliveryError> {
        let (endpoint, port) = (&self.settings.endpoint, self.settings.endpoint.port_u16().unwrap_or(80));
        let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, port)).await?;
        let _ = stream.set_nodelay(true);
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = driver.await; // `send_request` returns the error.
        });
        Ok(connection)
    }
}

fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::context::{SpanId, TraceId};
    use super::super::otlp::{SpanKind, SpanStatus};
    use super::*;

    fn span() -> Span {
        Span {
            trace: TraceId([1; 16]),
            id: SpanId([2; 8]),
            parent: None,
            name: "span".into(),
            kind: SpanKind::Internal,
            start: 1,
            end: 2,
            attributes: Vec::new(),
            links: Vec::new(),
            status: SpanStatus::default(),
        }
    }

    /// Queues spans for a collector that answers with `answer`, and stops; returns sent and
    /// dropped.
    fn check(spans: usize, answer: &'static str) -> (u64, u64) {
        let collector = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", collector.local_addr().expect("it is bound"));
        std::thread::spawn(move || {
            for mut stream in collector.incoming().map_while(Result::ok) {
                let (mut text, mut part) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = stream.read(&mut part) {
                    text.extend_from_slice(&part[..read]);
                    if text.ends_with(b"}]}]}]}") {
                        text.clear();
                        let _ = write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                    }
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let named = |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.clone());
            let settings = Settings::read(named).expect("they are right").expect("an endpoint is named");
            let (counts, (stop, stopped)) = (Arc::<ExportCounts>::default(), watch::channel(false));
            let resource = Resource { attributes: Vec::new() };
            let (queue, task) = SpanQueue::start(settings, resource, &counts, stopped);
            // The task is first polled when this one awaits.
            (0..spans).for_each(|_| queue.push(span()));
            stop.send(true).expect("the task listens");
            task.await.expect("the task does not panic");
            (counts.sent.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed))
        })
    }

    #[test]
    fn queued_spans_are_sent_at_shutdown_and_dropped_ones_are_counted() {
        assert_eq!(check(1_000, "200 OK"), (1_000, 0));
        assert_eq!(check(QUEUE_MAX + 7, "200 OK"), (QUEUE_MAX as u64, 7));
    }

    #[test]
    fn spans_that_a_collector_refuses_are_dropped_without_a_retry() {
        assert_eq!(check(600, "400 Bad Request"), (0, 600));
    }
}
