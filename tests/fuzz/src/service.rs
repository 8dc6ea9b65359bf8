//! What a running service is sent: requests, statements, messages of Postgres clients.
//!
//! The service has the tables of a topology and no rows. It runs on the thread of the target, and a client has had its answer when
//! nobody has anything to do any more; so nothing here waits for a clock.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tempfile::TempDir;
use tidegate_dataflows::Plan;
use tidegate_dataflows::entity_graphs::entity_graphs;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::serve::{INGRESS, Ingress, IngressLimits, LiveReads, ServeState};
use tidegate_dataflows::timeline_tables::TimelineTable;
use tidegate_host::Host;
use tidegate_postgres::Handlers;
use tidegate_queries::Catalogue;
use tidegate_queries::access::Keys;
use tidegate_queries::http::{Calls, Service};
use tidegate_queries::telemetry::Telemetry;
use tidegate_sinks::log::{LogFolder, LogReader};
use tidegate_sinks::store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;

struct World {
    runtime: Runtime,
    catalogue: Arc<Catalogue>,
    calls: Calls,
    handlers: Handlers,
    _folder: TempDir,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> World {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../topologies/live.toml");
        let plan = Arc::new(Plan::read(&file, &[]).unwrap_or_else(|faults| panic!("{faults:?}")));
        let (data, store) = (folder.path().join("data"), folder.path().join("store"));
        std::fs::create_dir_all(data.join("log")).expect("a folder");
        let live = Arc::new(ServeState::new(Ingress::new(IngressLimits::default())));
        let timelines = TimelineTable::of_plan(&plan);
        let log: Arc<dyn LogReader> = Arc::new(LogFolder::of_data(&Host::real(), &data));
        let store = Store::open(store).expect("a folder can be a store");
        let (tables, graphs) = (plan.tables(), entity_graphs(&plan));
        let reads = Arc::clone(&live) as Arc<dyn LiveReads>;
        let catalogue =
            Catalogue::live(Arc::clone(&log), store.clone(), &tables, timelines, graphs, reads, 64 << 20);
        let catalogue = Arc::new(catalogue.unwrap_or_else(|error| panic!("{error}")));
        let sources: Vec<String> =
            plan.sources.iter().map(|s| s.name.clone()).chain([INGRESS.to_owned()]).collect();
        let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
        let telemetry = Arc::new(Telemetry::new(None));
        let handlers = Handlers::new(&catalogue, Keys::default(), &telemetry);
        let calls = Calls::of(Arc::new(Service {
            plan,
            live,
            metrics: RunMetrics::new(&sources, &nodes),
            catalogue: Arc::clone(&catalogue),
            keys: Keys::default(),
            data,
            log,
            store,
            workers: 1,
            telemetry,
            statements: runtime.handle().clone(),
        }));
        World { runtime, catalogue, calls, handlers, _folder: folder }
    }
}

/// A text is answered or refused, and its planning ends.
pub fn sql(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    WORLD.with(|world| {
        world.runtime.block_on(async {
            match world.catalogue.query(text).await {
                Ok(rows) => drop(rows),
                Err(error) => assert!(!error.to_string().is_empty(), "it is refused, and nothing is said"),
            }
        });
    });
}

/// The bytes of a connection are answered in HTTP or not at all.
pub fn request(bytes: &[u8]) {
    WORLD.with(|world| {
        let said = talk(&world.runtime, bytes, |stream| world.calls.serve_one(stream));
        assert!(said.is_empty() || said.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&said));
        assert!(!said.starts_with(b"HTTP/1.1 500"), "{}", String::from_utf8_lossy(&said));
    });
}

/// The bytes of a connection are answered in messages of which each has a type and a length.
pub fn postgres(bytes: &[u8]) {
    WORLD.with(|world| {
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let said = talk(&world.runtime, bytes, |stream| world.handlers.serve_one(stream, peer));
        let mut rest = said.as_slice();
        // Who asks for encryption is answered with one letter.
        while let [b'N', behind @ ..] = rest
            && !matches!(behind, [0, ..])
        {
            rest = behind;
        }
        while !rest.is_empty() {
            let length =
                rest.get(1..5).map(|length| u32::from_be_bytes(length.try_into().expect("four bytes")));
            let length = length.expect("a message has a length") as usize;
            rest = rest.get(1 + length..).expect("a message has the bytes that it says");
        }
    });
}

/// What a server says to who sends some bytes and then listens until there is silence.
fn talk<F: Future<Output = ()>>(
    runtime: &Runtime,
    bytes: &[u8],
    serve: impl FnOnce(DuplexStream) -> F,
) -> Vec<u8> {
    runtime.block_on(async {
        let (mut client, server) = duplex(1 << 20);
        let mut served = pin!(serve(server));
        client.write_all(&bytes[..bytes.len().min(1 << 19)]).await.expect("there is room");
        let mut said = Vec::new();
        let (mut silent, mut is_served) = (0, false);
        while silent < SILENCE && !is_served {
            is_served = now(&mut served);
            silent = if hear(&mut client, &mut said) { 0 } else { silent + 1 };
            tokio::task::yield_now().await; // Statements are tasks of this thread.
        }
        if !is_served {
            client.shutdown().await.expect("it is in memory");
            for _ in 0..SILENCE {
                is_served = is_served || now(&mut served);
                hear(&mut client, &mut said);
                tokio::task::yield_now().await;
            }
        }
        hear(&mut client, &mut said);
        said
    })
}

/// For how many turns nobody says anything until nobody will.
const SILENCE: usize = 32;

/// Whether a future is done after one more look.
fn now(future: &mut std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Takes what there is to hear, if anything.
fn hear(client: &mut DuplexStream, said: &mut Vec<u8>) -> bool {
    let mut heard = false;
    let mut part = [0; 4096];
    loop {
        let mut reading = pin!(client.read(&mut part));
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(count)) if count > 0 => {
                said.extend_from_slice(&part[..count]);
                heard = true;
            }
            _ => return heard,
        }
    }
}
