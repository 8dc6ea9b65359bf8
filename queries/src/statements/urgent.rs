//! Short statements in real time: a look-up by key takes less than a turn of the threads it would wait for.
//!
//! A thread is urgent from when it begins to work. Whoever works for longer than a look-up takes is made ordinary, from outside,
//! since a statement cannot be interrupted: it keeps nothing else waiting then.

use std::cell::OnceCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_dataflows::realtime::{Priority, ThreadId};
use tokio::runtime::Builder;

/// How long a thread may work without a rest until it is made ordinary, and how often that is looked at.
const URGENT_MAX: Duration = Duration::from_millis(5);

/// Has the threads of a runtime work in real time, each for a short while.
///
/// # Errors
/// When the thread that looks after them cannot be started.
pub(super) fn in_realtime(builder: &mut Builder) -> io::Result<()> {
    let watched = Watched { began: Instant::now(), threads: Arc::default() };
    let watcher = watched.clone();
    builder.on_thread_unpark(move || watched.working());
    builder.on_thread_park(resting);
    thread::Builder::new().name("statements".to_owned()).spawn(move || watcher.watch())?;
    Ok(())
}

/// One thread.
struct Working {
    thread: ThreadId,
    /// When it began to work, in microseconds since the watch began, and one more; 0 while it rests.
    since: AtomicU64,
    is_urgent: AtomicBool,
}

thread_local! {
    static OWN: OnceCell<Arc<Working>> = const { OnceCell::new() };
}

#[derive(Clone)]
struct Watched {
    began: Instant,
    threads: Arc<Mutex<Vec<Arc<Working>>>>,
}

impl Watched {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("half a million years")
    }

    /// The calling thread begins to work.
    fn working(&self) {
        OWN.with(|own| {
            let own = own.get_or_init(|| self.enter());
            own.since.store(self.now() + 1, Ordering::Release);
            if !own.is_urgent.load(Ordering::Acquire) && Priority::Ask.take().is_ok() {
                own.is_urgent.store(true, Ordering::Release);
            }
        });
    }

    fn enter(&self) -> Arc<Working> {
        let (since, is_urgent) = (AtomicU64::new(0), AtomicBool::new(false));
        let own = Arc::new(Working { thread: ThreadId::current(), since, is_urgent });
        self.threads.lock().expect("no panic").push(Arc::clone(&own));
        own
    }

    /// Makes those ordinary who work for too long, until the process ends.
    fn watch(&self) {
        // Where this is not permitted, nor is it to them.
        let _ = Priority::Serve.take();
        loop {
            thread::sleep(URGENT_MAX);
            for working in &*self.threads.lock().expect("no panic") {
                let since = working.since.load(Ordering::Acquire);
                let for_long = since > 0 && self.now().saturating_sub(since) >= URGENT_MAX.as_micros() as u64;
                if for_long && working.is_urgent.swap(false, Ordering::AcqRel) {
                    // A thread that has ended needs nothing.
                    let _ = Priority::Ordinary.give(working.thread);
                }
            }
        }
    }
}

fn resting() {
    OWN.with(|own| {
        if let Some(own) = own.get() {
            own.since.store(0, Ordering::Release);
        }
    });
}
