//! Tasks that run on the thread of whoever steps or joins them: what a simulator schedules.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io, thread};

use parking_lot::Mutex;

use crate::tasks::{Job, JobQueue, Task, Tasks};

/// Stepped tasks, of which none runs by itself: a simulator steps or joins them.
///
/// A simulator draws from [`SteppedTasks::runnable`] and calls [`SteppedTasks::step`]. A task that
/// is joined, or a queue that is waited for, runs then and there, so nothing can wait for ever.
/// With [`SteppedTasks::inline`] every job runs where it is spawned or pushed. A panic of a job
/// goes to whoever runs it. Clones share their tasks.
#[derive(Clone, Debug)]
pub struct SteppedTasks {
    waiting: Arc<Mutex<VecDeque<Waiting>>>,
    numbers: Arc<AtomicU64>,
    is_inline: bool,
}

/// A job that has not run yet.
struct Waiting {
    name: String,
    /// The task or queue that it belongs to.
    owner: u64,
    job: Job,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.owner)
    }
}

impl Default for SteppedTasks {
    fn default() -> Self {
        SteppedTasks::new()
    }
}

impl SteppedTasks {
    /// No tasks yet; each will wait for its step.
    pub fn new() -> SteppedTasks {
        SteppedTasks { waiting: Arc::default(), numbers: Arc::default(), is_inline: false }
    }

    /// No tasks yet; each will run as soon as it is spawned.
    pub fn inline() -> SteppedTasks {
        SteppedTasks { is_inline: true, ..SteppedTasks::new() }
    }

    /// The names of the tasks, and of the queues' first jobs, that can be stepped; the oldest
    /// first.
    pub fn runnable(&self) -> Vec<String> {
        let waiting = self.waiting.lock();
        runnable(&waiting).map(|index| waiting[index].name.clone()).collect()
    }

    /// Runs the job at this index of [`SteppedTasks::runnable`] to its end. Returns `false` when
    /// there is none.
    pub fn step(&self, index: usize) -> bool {
        let job = {
            let mut waiting = self.waiting.lock();
            let index = runnable(&waiting).nth(index);
            index.and_then(|index| waiting.remove(index))
        };
        match job {
            Some(waiting) => {
                (waiting.job)();
                true
            }
            None => false,
        }
    }

    /// Runs jobs, the oldest first, until none is left, also those that jobs spawn. Returns how
    /// many ran.
    pub fn run_all(&self) -> usize {
        let mut count = 0;
        while self.step(0) {
            count += 1;
        }
        count
    }

    fn add(&self, name: &str, owner: u64, job: Job) {
        if self.is_inline {
            job();
        } else {
            self.waiting.lock().push_back(Waiting { name: name.to_owned(), owner, job });
        }
    }

    fn owner(&self, name: &str) -> Owner {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        Owner { tasks: self.clone(), name: name.to_owned(), number }
    }
}

/// The indexes of the jobs before which no job of the same queue waits.
fn runnable(waiting: &VecDeque<Waiting>) -> impl Iterator<Item = usize> {
    let is_first = |index: &usize| {
        let owner = waiting[*index].owner;
        waiting.iter().take(*index).all(|earlier| earlier.owner != owner)
    };
    (0..waiting.len()).filter(is_first)
}

impl Tasks for SteppedTasks {
    fn spawn(&self, name: &str, job: Job) -> io::Result<Box<dyn Task>> {
        let owner = self.owner(name);
        self.add(name, owner.number, job);
        Ok(Box::new(owner))
    }

    fn queue(&self, name: &str) -> io::Result<Box<dyn JobQueue>> {
        Ok(Box::new(self.owner(name)))
    }
}

/// A task or queue whose jobs wait among the others.
struct Owner {
    tasks: SteppedTasks,
    name: String,
    number: u64,
}

impl Owner {
    fn has_none_waiting(&self) -> bool {
        self.tasks.waiting.lock().iter().all(|waiting| waiting.owner != self.number)
    }

    fn run_waiting(&self) {
        let next = || {
            let mut waiting = self.tasks.waiting.lock();
            let index = waiting.iter().position(|waiting| waiting.owner == self.number)?;
            waiting.remove(index)
        };
        while let Some(waiting) = next() {
            (waiting.job)();
        }
    }
}

impl Task for Owner {
    fn is_finished(&self) -> bool {
        self.has_none_waiting()
    }

    fn join(self: Box<Self>) -> thread::Result<()> {
        self.run_waiting();
        Ok(())
    }
}

impl JobQueue for Owner {
    fn push(&self, job: Job) {
        self.tasks.add(&self.name, self.number, job);
    }

    fn is_idle(&self) -> bool {
        self.has_none_waiting()
    }

    fn wait(&self) -> thread::Result<()> {
        self.run_waiting();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::spawn;

    /// Tasks, and a way to make jobs that note their names when they run.
    fn sample() -> (SteppedTasks, Arc<Mutex<Vec<&'static str>>>) {
        (SteppedTasks::new(), Arc::default())
    }

    fn note(ran: &Arc<Mutex<Vec<&'static str>>>, name: &'static str) -> Job {
        let ran = Arc::clone(ran);
        Box::new(move || ran.lock().push(name))
    }

    #[test]
    fn the_simulator_chooses_among_tasks_and_the_first_jobs_of_queues() {
        let (tasks, ran) = sample();
        let queue = tasks.queue("queue").unwrap();
        queue.push(note(&ran, "queue 1"));
        queue.push(note(&ran, "queue 2"));
        let _task = tasks.spawn("task", note(&ran, "task")).unwrap();
        assert_eq!(tasks.runnable(), ["queue", "task"]);
        assert!(tasks.step(1));
        assert!(!tasks.step(1), "the second job of a queue waits for the first");
        assert!(!queue.is_idle());
        assert_eq!(tasks.run_all(), 2);
        assert_eq!(*ran.lock(), ["task", "queue 1", "queue 2"]);
        assert!(queue.is_idle());
    }

    #[test]
    fn what_is_joined_or_waited_for_runs_then_and_there() {
        let (tasks, ran) = sample();
        let value = spawn(&tasks, "value", || 7).unwrap();
        let queue = tasks.queue("queue").unwrap();
        queue.push(note(&ran, "queued"));
        assert!(!value.is_finished());
        assert_eq!(value.join().unwrap(), 7);
        queue.wait().unwrap();
        assert_eq!((ran.lock().clone(), tasks.run_all()), (vec!["queued"], 0));
    }

    #[test]
    fn inline_tasks_run_where_they_are_spawned() {
        let (_, ran) = sample();
        let tasks = SteppedTasks::inline();
        let task = tasks.spawn("task", note(&ran, "task")).unwrap();
        assert!(task.is_finished());
        tasks.queue("queue").unwrap().push(note(&ran, "queued"));
        assert_eq!(*ran.lock(), ["task", "queued"]);
    }
}
