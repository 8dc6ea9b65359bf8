//! Sends spans to a collector: a bounded queue, batches, a deadline and a few tries.
//!
//! Whoever has a span to tell never waits. What does not fit the queue, or no collector took in time, is dropped and counted.

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

/// How many spans may wait, and how many go in one request.
const QUEUE_MAX: usize = 16_384;
const BATCH_MAX: usize = 512;

/// How long the first span of a batch waits for others.
const BATCH_WITHIN: Duration = Duration::from_millis(500);

/// How often a batch is tried, and how long it rests after the first time; twice as long after each other.
const TRIES: u32 = 4;
const REST: Duration = Duration::from_millis(200);

/// How long what waits may take to leave when the service ends.
const LAST_WITHIN: Duration = Duration::from_secs(5);

/// How many bytes of an answer are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The end of the queue at which spans are put in.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<Span>,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Queue {
    /// A queue, and the task that empties it until `stop` turns true.
    pub(super) fn start(
        settings: Settings,
        resource: Resource,
        counts: &Arc<Counts>,
        stop: watch::Receiver<bool>,
    ) -> (Queue, JoinHandle<()>) {
        let (spans, waiting) = mpsc::channel(QUEUE_MAX);
        let exporter =
            Exporter { settings, resource, connection: None, counts: Arc::clone(counts), told: None };
        (Queue { spans, counts: Arc::clone(counts) }, tokio::spawn(exporter.run(waiting, stop)))
    }

    pub(super) fn put(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Exporter {
    settings: Settings,
    resource: Resource,
    connection: Option<SendRequest<Body>>,
    counts: Arc<Counts>,
    /// When it was last said that spans are lost.
    told: Option<Instant>,
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the collector cannot be reached")]
    Connect(#[from] std::io::Error),
    #[error("the connection to the collector broke off")]
    Http(#[from] hyper::Error),
    #[error("the collector answered {0}")]
    Status(StatusCode),
    #[error("the collector did not answer in time")]
    Late,
}

impl Failure {
    /// Whether it may be better in a moment.
    fn may_pass(&self) -> bool {
        match self {
            Failure::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
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
                () = crate::http::told_to_stop(&mut stop) => break,
            }
            let until = Instant::now() + BATCH_WITHIN;
            while batch.len() < BATCH_MAX {
                let room = BATCH_MAX - batch.len();
                match timeout_at(until, waiting.recv_many(&mut batch, room)).await {
                    Ok(taken) if taken > 0 => {}
                    _ => break,
                }
            }
            tokio::select! {
                () = self.deliver(&mut batch) => {}
                // What was under way is sent again below; a collector knows a span by its id.
                () = crate::http::told_to_stop(&mut stop) => break,
            }
        }
        waiting.close();
        let rest = async {
            while !batch.is_empty() || waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
                self.deliver(&mut batch).await;
            }
        };
        if timeout(LAST_WITHIN, rest).await.is_err() {
            let lost = waiting.len() + batch.len();
            self.counts.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            tracing::warn!(lost, "spans are lost: the collector did not take them before the end");
        }
    }

    async fn deliver(&mut self, batch: &mut Vec<Span>) {
        let (count, bytes) = (batch.len() as u64, body(&self.resource, batch));
        let mut rest = REST;
        for tried in 1..=TRIES {
            let sent = timeout(self.settings.within, self.send(bytes.clone())).await;
            let failure = match sent.unwrap_or(Err(Failure::Late)) {
                Ok(()) => {
                    self.counts.sent.fetch_add(count, Ordering::Relaxed);
                    batch.clear();
                    return;
                }
                Err(failure) => failure,
            };
            self.connection = None;
            if tried == TRIES || !failure.may_pass() {
                self.counts.dropped.fetch_add(count, Ordering::Relaxed);
                batch.clear();
                self.tell(count, &failure);
                return;
            }
            sleep(rest).await;
            rest *= 2;
        }
    }

    /// Says that spans are lost, once a minute.
    fn tell(&mut self, lost: u64, failure: &Failure) {
        if self.told.is_none_or(|told| told.elapsed() > Duration::from_secs(60)) {
            self.told = Some(Instant::now());
            let endpoint =
                self.settings.endpoint.authority().map_or("", |authority| without_user(authority.as_str()));
            tracing::warn!(lost, endpoint, error = %failure, "spans are lost; tidegate_trace_spans_total counts them");
        }
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Failure> {
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
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        // Read to its end, or the connection could not be used again.
        let read = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await;
        if !status.is_success() {
            return Err(Failure::Status(status));
        }
        if read.is_ok() {
            self.connection = Some(connection);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Failure> {
        let (endpoint, port) = (&self.settings.endpoint, self.settings.endpoint.port_u16().unwrap_or(80));
        let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, port)).await?;
        let _ = stream.set_nodelay(true);
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = driver.await; // Whoever sends hears of it.
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
    use super::super::otlp::{Kind, Status};
    use super::*;

    fn span() -> Span {
        Span {
            trace: TraceId([1; 16]),
            id: SpanId([2; 8]),
            parent: None,
            name: "span".into(),
            kind: Kind::Internal,
            start: 1,
            end: 2,
            attributes: Vec::new(),
            links: Vec::new(),
            status: Status::default(),
        }
    }

    /// Puts so many spans before a collector that gives this answer, then stops; how many were sent and dropped.
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
            let (counts, (stop, stopped)) = (Arc::<Counts>::default(), watch::channel(false));
            let resource = Resource { attributes: Vec::new() };
            let (queue, task) = Queue::start(settings, resource, &counts, stopped);
            // The task has its first turn when this one waits.
            (0..spans).for_each(|_| queue.put(span()));
            stop.send(true).expect("the task listens");
            task.await.expect("no panic");
            (counts.sent.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed))
        })
    }

    #[test]
    fn what_waits_at_the_end_is_sent_and_what_did_not_fit_is_counted() {
        assert_eq!(check(1_000, "200 OK"), (1_000, 0));
        assert_eq!(check(QUEUE_MAX + 7, "200 OK"), (QUEUE_MAX as u64, 7));
    }

    #[test]
    fn what_a_collector_refuses_is_dropped_and_not_tried_again() {
        assert_eq!(check(600, "400 Bad Request"), (0, 600));
    }
}
