//! From the rows of a graph to commits: rows wait for their boundary, are cut there, written, and published.
//!
//! Cutting, chaining, encoding and syncing are a third of a job's work, and none of it has to hold up the graph: a
//! worker hands it to a thread beside it, in order, and hears what became of it. What is published, and
//! when, still follows from frontiers alone: an interval is closed once every worker's files of it are there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use tidegate_facts::Tick;
use tidegate_operators::rows::{RowStream, Rows, ticks_of};
use tidegate_sinks::checkpoint::Piece;
use tidegate_sinks::table::{Cut, Format, Interval, TableError, Unsealed};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Capability, Operator, Probe, probe};
use timely::dataflow::{Scope, Stream};
use timely::scheduling::SyncActivator;

use crate::live::Live;
use crate::output::{Boundary, Made, Output};
use crate::shelf::Shelf;
use crate::watch::{Times, Watch};

/// A stream of commit boundaries, the same on every worker.
pub type BoundaryStream<'scope> = Stream<'scope, Tick, Vec<Boundary>>;

/// What was made of intervals, by their upper ends.
type MadeStream<'scope> = Stream<'scope, Tick, Vec<(Tick, Made)>>;

type Job = Box<dyn FnOnce() + Send>;

/// So many batches are handed to the thread that writes at once, since waking it costs as much as a small batch does,
const CRUMBS: usize = 64;

/// but a batch of so many rows goes at once.
const CRUMB_ROWS: usize = 1024;

/// The thread beside a worker that writes, and the output it writes to.
pub struct Writing {
    output: Output,
    jobs: Sender<Job>,
    times: Arc<Times>,
}

impl Writing {
    /// Starts the thread; it ends with what it was given, once the last operator that writes is gone.
    pub fn start(output: &Output, worker: usize, watch: &Watch) -> (Writing, JoinHandle<()>) {
        let (jobs, taken) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(format!("writer-{worker}"))
            .spawn(move || taken.into_iter().for_each(|job| job()))
            .expect("a thread can be started");
        (Writing { output: output.clone(), jobs, times: Arc::clone(&watch.times) }, thread)
    }

    /// Where it writes to.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// A way for the operator at `address` to have things written, in the order of its asking.
    fn desk<T: Send + 'static>(&self, scope: Scope<'_, Tick>, address: &[usize]) -> Desk<T> {
        let (answer, answers) = channel();
        Desk {
            jobs: self.jobs.clone(),
            failed: Arc::clone(&self.output.failed),
            activator: scope.worker().sync_activator_for(address.to_vec()),
            answer,
            answers,
        }
    }
}

/// Where one operator gives its jobs, and hears what became of them.
struct Desk<T> {
    jobs: Sender<Job>,
    failed: Arc<Mutex<Option<TableError>>>,
    activator: SyncActivator,
    answer: Sender<T>,
    answers: Receiver<T>,
}

impl<T: Send + 'static> Desk<T> {
    /// Has a job done that nobody waits for.
    fn tell(&self, job: impl FnOnce() + Send + 'static) {
        // A thread that is gone has panicked, and left its message; the run then never finishes by itself.
        assert!(self.jobs.send(Box::new(job)).is_ok(), "the thread that writes has stopped");
    }

    /// Has a job done, unless the run has failed; [`Self::answers`] has its result then.
    fn ask(&self, job: impl FnOnce() -> Result<T, TableError> + Send + 'static) {
        let (failed, answer, activator) =
            (Arc::clone(&self.failed), self.answer.clone(), self.activator.clone());
        self.tell(move || {
            if failed.lock().expect("no panic").is_some() {
                return;
            }
            match job() {
                Ok(done) => drop(answer.send(done)), // An operator that is gone needs no answer.
                Err(error) => *failed.lock().expect("no panic") = Some(error),
            }
            let _ = activator.activate();
        });
    }

    /// What was done since it was last asked.
    fn answers(&self) -> impl Iterator<Item = T> {
        self.answers.try_iter()
    }
}

/// What is done with rows in front of where they are kept.
pub struct Front {
    /// Makes of a batch what is kept of it.
    pub rows: Box<dyn FnMut(RecordBatch) -> RecordBatch>,
    /// Is told how far rows have come: none before that tick come any more, and at the end none at all.
    pub reached: Box<dyn FnMut(Option<Tick>)>,
}

/// Hands the rows of a table to the outlet, interval by interval.
pub fn keep_files<'scope>(
    rows: RowStream<'scope>,
    boundaries: &BoundaryStream<'scope>,
    unsealed: Unsealed,
    front: Front,
    writing: &Writing,
    name: &str,
) -> MadeStream<'scope> {
    let outlet = Arc::clone(&writing.output.outlet);
    let take = move |cut: &Cut| Ok(outlet.take(cut)?.map(Made::File));
    let seen = writing.output.live.as_ref().map(|live| Seen::new(live, unsealed.table()));
    keep(rows, boundaries.clone(), Open { unsealed, seen }, take, front, writing, name)
}

/// The rows of a table that no boundary has passed: held here, or where those see them who ask, but once.
struct Open {
    unsealed: Unsealed,
    seen: Option<Seen>,
}

impl Open {
    fn cut_before(&mut self, upper: Tick) -> Vec<Cut> {
        match &self.seen {
            Some(seen) => {
                let rows = seen.shelf.rows_between(self.unsealed.lower(), upper);
                self.unsealed.cut_out(&rows, upper)
            }
            None => self.unsealed.cut_before(upper),
        }
    }
}

/// Where those see the rows of a table who follow it, or ask it while the graph runs.
#[derive(Clone)]
struct Seen {
    live: Arc<Live>,
    table: String,
    shelf: Arc<Shelf>,
}

impl Seen {
    fn new(live: &Arc<Live>, table: &str) -> Seen {
        Seen { live: Arc::clone(live), table: table.to_owned(), shelf: live.shelf(table) }
    }

    /// Shows rows, unless all of them are before `lower`; whether the shelf should be tidied.
    fn put(&self, rows: RecordBatch, lower: Tick) -> bool {
        if ticks_of(&rows).values().iter().all(|tick| Tick(*tick) < lower) {
            return false;
        }
        let is_due = self.shelf.put(rows.clone());
        self.live.show(&self.table, &rows);
        is_due
    }

    /// None before `upper` come any more. What nobody gives rows is complete from the start.
    fn reached(&self, upper: Option<Tick>) {
        self.shelf.complete(upper.unwrap_or(Tick(u64::MAX)));
    }
}

/// Writes the rows of a timeline as pieces of the state, if the outlet keeps it.
pub fn keep_pieces<'scope>(
    rows: &RowStream<'scope>,
    boundaries: &BoundaryStream<'scope>,
    schema: &SchemaRef,
    writing: &Writing,
    timeline: &str,
) -> Option<MadeStream<'scope>> {
    let store = writing.output.outlet.state()?.clone();
    let unsealed = Unsealed::new(timeline, Arc::clone(schema), Format::Parquet, writing.output.restored);
    let name = timeline.to_owned();
    let take = move |cut: &Cut| {
        // A timeline's columns are tick, key and time, then what is kept; what is put down has its own, and no time.
        let times = cut.rows.column(2).as_primitive_opt::<TimestampMicrosecondType>();
        let last = times.and_then(max).unwrap_or(i64::MIN);
        let piece = Piece::write(&name, cut.partition, (cut.lower, cut.upper), last, &cut.rows, &store)?;
        Ok(Some(Made::Piece(piece)))
    };
    let operator = format!("{}: state", timeline.split('/').next().unwrap_or(timeline));
    let front = Front { rows: Box::new(|rows| rows), reached: Box::new(|_| {}) };
    let open = Open { unsealed, seen: None };
    Some(keep(rows.clone(), boundaries.clone(), open, take, front, writing, &operator))
}

/// Keeps rows until a commit boundary has passed, has them taken, and tells what was made of them.
///
/// * Output: what was made of each interval, at a time within it.
/// * State: what `front` has made of the rows since the last boundary, on the thread that writes or on a shelf.
fn keep<'scope>(
    rows: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    open: Open,
    take: impl Fn(&Cut) -> Result<Option<Made>, TableError> + Send + Sync + 'static,
    mut front: Front,
    writing: &Writing,
    name: &str,
) -> MadeStream<'scope> {
    let scope = rows.scope();
    let times = Arc::clone(&writing.times);
    let mut due: VecDeque<Tick> = VecDeque::new();
    let (lower, seen) = (open.unsealed.lower(), open.seen.clone());
    let open = Arc::new(Mutex::new(open));
    let take = Arc::new(take);
    rows.binary_frontier(boundaries, Pipeline, Pipeline, name, move |mut held, info| {
        let desk: Desk<Vec<Made>> = writing.desk(scope, &info.address);
        // One for each interval under way, and the last for the one that is open. What was committed by an
        // earlier run is not held back.
        held.downgrade(&lower);
        let mut under_way = held;
        let mut cutting: VecDeque<(Tick, Capability<Tick>)> = VecDeque::new();
        let mut crumbs: Vec<RecordBatch> = Vec::new();
        let hand_over =
            move |crumbs: &mut Vec<RecordBatch>, desk: &Desk<Vec<Made>>, open: &Arc<Mutex<Open>>| {
                let (rows, open) = (std::mem::take(crumbs), Arc::clone(open));
                desk.tell(move || open.lock().expect("no panic").unsealed.insert_all(&rows));
            };
        move |(rows, frontier), (boundaries, _), output| {
            boundaries.for_each(|_, new| due.extend(new.drain(..).map(|b| b.upper).filter(|b| *b > lower)));
            rows.for_each(|_, rows: &mut Rows| {
                let rows = (front.rows)(std::mem::take(rows).0);
                if let Some(seen) = &seen {
                    if seen.put(rows, lower) {
                        let shelf = Arc::clone(&seen.shelf);
                        desk.tell(move || shelf.tidy());
                    }
                    return;
                }
                let is_large = rows.num_rows() >= CRUMB_ROWS;
                crumbs.push(rows);
                if is_large || crumbs.len() >= CRUMBS {
                    hand_over(&mut crumbs, &desk, &open);
                }
            });
            let upper = frontier.frontier().iter().min().copied();
            if let Some(seen) = &seen {
                seen.reached(upper);
            }
            (front.reached)(upper);
            while let Some(upper) = due.front().copied() {
                if frontier.frontier().iter().any(|tick| *tick < upper) {
                    break;
                }
                due.pop_front();
                if !crumbs.is_empty() {
                    hand_over(&mut crumbs, &desk, &open);
                }
                let (open, take) = (Arc::clone(&open), Arc::clone(&take));
                let times = Arc::clone(&times);
                desk.ask(move || {
                    let from = Instant::now();
                    let cuts = open.lock().expect("no panic").cut_before(upper);
                    let made = cuts.iter().filter_map(|cut| take(cut).transpose()).collect();
                    times.write.time(from.elapsed());
                    made
                });
                cutting.push_back((upper, under_way.clone()));
                under_way.downgrade(&upper);
            }
            for made in desk.answers() {
                let (upper, capability) = cutting.pop_front().expect("an answer for each question");
                output.session(&capability).give_iterator(made.into_iter().map(|made| (upper, made)));
            }
        }
    })
}

/// Closes each interval once the files of all tables are there.
pub fn publish<'scope>(
    files: MadeStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    writing: &Writing,
) -> probe::Handle<Tick> {
    let scope = files.scope();
    let (output, times) = (writing.output.clone(), Arc::clone(&writing.times));
    let mut due: VecDeque<(Boundary, Capability<Tick>)> = VecDeque::new();
    let mut waiting: BTreeMap<Tick, Vec<Made>> = BTreeMap::new();
    let is_publisher = scope.index() == 0;
    // Intervals whose state is not restored are behind it again, also where their tables are committed.
    let lower =
        if output.outlet.state().is_some() { output.restored.min(output.lower) } else { output.lower };
    let handle = probe::Handle::new();
    let published: Stream<'scope, Tick, Vec<Tick>> = files.binary_frontier(
        boundaries,
        Exchange::new(|_: &(Tick, Made)| 0),
        Pipeline,
        "publish",
        move |_, info| {
            let desk: Desk<()> = writing.desk(scope, &info.address);
            let mut closing: VecDeque<(Tick, Capability<Tick>)> = VecDeque::new();
            move |(files, frontier), (boundaries, _), published| {
                files.for_each(|_, files| {
                    for (upper, file) in files.drain(..) {
                        waiting.entry(upper).or_default().push(file);
                    }
                });
                boundaries.for_each(|time, boundaries| {
                    let new = boundaries.drain(..).filter(|b| is_publisher && b.upper > lower);
                    due.extend(new.map(|boundary| (boundary, time.retain(0))));
                });
                while let Some((boundary, _)) = due.front() {
                    let upper = boundary.upper;
                    if frontier.frontier().iter().any(|tick| *tick < upper) {
                        break;
                    }
                    let (boundary, capability) = due.pop_front().expect("it was just seen");
                    let (output, made) = (output.clone(), waiting.remove(&upper).unwrap_or_default());
                    let times = Arc::clone(&times);
                    desk.ask(move || close(&output, &boundary, made, &times));
                    closing.push_back((upper, capability));
                }
                for () in desk.answers() {
                    let (upper, capability) = closing.pop_front().expect("an answer for each question");
                    published.session(&capability).give(upper);
                }
            }
        },
    );
    published.probe_with(&handle);
    handle
}

/// Closes the interval that ends at a boundary, unless that was done before, and keeps the state there.
fn close(output: &Output, boundary: &Boundary, made: Vec<Made>, times: &Times) -> Result<(), TableError> {
    let from = Instant::now();
    let (mut files, mut pieces) = (Vec::new(), Vec::new());
    for made in made {
        match made {
            Made::File(file) => files.push(file),
            Made::Piece(piece) => pieces.push(piece),
        }
    }
    if boundary.upper > output.lower {
        let log = (*boundary.log).clone();
        output.outlet.close(Interval { upper: boundary.upper, plan: output.plan, log, files })?;
        times.commit.time(from.elapsed());
        if let Some(live) = &output.live
            && let Some(commits) = output.outlet.commits()
        {
            live.committed(Arc::new(commits));
        }
    }
    let from = Instant::now();
    output.outlet.checkpoint(boundary, pieces)?;
    if output.outlet.state().is_some() {
        times.checkpoint.time(from.elapsed());
    }
    Ok(())
}
