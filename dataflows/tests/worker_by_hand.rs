//! A worker that is driven turn by turn, with a writer whose jobs are stepped, commits what threads commit.

mod small_world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tidegate_dataflows::Plan;
use tidegate_dataflows::commit::CommitContext;
use tidegate_dataflows::ingest::log_feed::LogFeed;
use tidegate_dataflows::render::workers::{GraphWorker, WorkerInput, WorkerStatus};
use tidegate_dataflows::run::{Options, run};
use tidegate_host::{Host, SteppedTasks};
use tidegate_sinks::archive::{Bound, Preference, read_range};
use tidegate_sinks::commits::Commits;
use tidegate_sinks::log::LogFolder;
use tidegate_sinks::store::Store;

use small_world::{metrics, plan};

/// Drives one worker over the log of `data`. A job of the writer runs after every `stride` turns.
fn drive(plan: &Arc<Plan>, data: &Path, out: &Path, stride: usize) -> Commits {
    let (plan, data, store) = (Arc::clone(plan), data.to_owned(), Store::open(out).unwrap());
    let context = CommitContext::to_store(store.clone(), plan.digest, None).unwrap();
    let guards = timely::execute(timely::Config::thread(), move |worker| {
        let (sender, receiver) = sync_channel(1);
        let tasks = SteppedTasks::new();
        let mut graph = GraphWorker::new(worker, &plan, receiver, &context, &metrics(&plan), &tasks);
        let (log, mut feed) = (LogFolder::of_data(&Host::real(), &data), LogFeed::new(&plan, 1));
        for group in read_range(&log, None, Bound::Group(0), None, Preference::Log).unwrap() {
            let group = group.unwrap();
            let mut input = feed.feed(&group.link, &group);
            let (rows, upper) = (input.rows.remove(0), input.upper);
            let mut waiting = Some(WorkerInput { rows, upper, boundaries: input.boundaries });
            while let Some(input) = waiting.take() {
                waiting = sender.try_send(input).err().map(|error| match error {
                    std::sync::mpsc::TrySendError::Full(input) => input,
                    std::sync::mpsc::TrySendError::Disconnected(_) => panic!("the worker is gone"),
                });
                assert_eq!(graph.turn(None), WorkerStatus::Running);
                tasks.step(0);
            }
        }
        drop(sender);
        let mut turns = 0;
        while graph.turn(None) == WorkerStatus::Running {
            turns += 1;
            if turns % stride == 0 {
                tasks.step(0);
            }
        }
        graph.finish();
    });
    guards.unwrap().join().into_iter().for_each(|result| result.unwrap());
    Commits::read(&store).unwrap()
}

#[test]
fn a_worker_in_one_thread_commits_what_threads_commit() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { scratch.path().join(name) };
    let plan = plan();
    run(&plan, &Options::new(&path("data")), &metrics(&plan)).unwrap_or_else(|error| panic!("{error}"));
    let threads = Commits::read(&Store::open(path("data").join("store")).unwrap()).unwrap();
    assert!(threads.list.len() > 2, "{} commits", threads.list.len());
    for stride in [1, 7] {
        let by_hand = drive(&plan, &path("data"), &path(&format!("by-hand-{stride}")), stride);
        assert_eq!(by_hand.head, threads.head, "a job after every {stride} turns");
    }
}
