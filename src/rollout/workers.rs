//! The threads on which pictures are prepared and tools run: a thread for each core that prepares tasks, so that no tool keeps them waiting,
//! and threads for tools. Each kind takes jobs from one channel; all answer through another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use tracing::{debug_span, warn};

use super::branching::Branch;
use super::environment::{Environment, EnvironmentError, Episode, Observation, PlannedCall, PreparedTask, Tasks};
use super::images::TrajectoryImages;
use super::panics::message_of;
use super::tool::CallResult;
use crate::prompt::Processor;

/// Work for a worker.
pub(super) enum Job {
    /// Prepare a task.
    Prepare { task: usize, group_size: usize },
    /// Run a turn's calls and write the observation.
    Observe {
        sequence: u64,
        /// The sequence's episode, which comes back.
        episode: Box<dyn Episode>,
        /// What the model asked.
        calls: Vec<PlannedCall>,
        /// The trajectory's images so far.
        images: TrajectoryImages,
    },
    /// Play what a branch shares on its episode.
    Replay(Box<Branch>),
}

/// What a worker did.
pub(super) enum Done {
    /// A [`Job::Prepare`] has ended.
    Prepared {
        task: usize,
        /// The prepared task, or why it failed.
        prepared_task: Result<PreparedTask, EnvironmentError>,
    },
    /// A [`Job::Observe`] has ended.
    Observed {
        sequence: u64,
        episode: Box<dyn Episode>,
        /// What came of the calls, and how the model reads it.
        result: Result<(Vec<CallResult>, Observation), EnvironmentError>,
    },
    /// A [`Job::Replay`] has ended.
    Replayed {
        branch: Box<Branch>,
        /// Why the branch cannot be opened, if it cannot.
        result: Result<(), EnvironmentError>,
    },
    /// The job panicked.
    Panicked(String),
}

/// The worker threads. They end when this is dropped.
pub(super) struct Workers {
    openings: Sender<Job>,
    calls: Sender<Job>,
    done: Receiver<Done>,
    threads: usize,
    pending: usize,
}

impl Workers {
    /// Starts the threads: for tools `tool_threads`, or as many as the environment can use if 0.
    pub(super) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        tool_threads: usize,
        processor: &'env Processor,
        environment: &'env dyn Environment,
        tasks: &'env dyn Tasks,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (report, done) = channel();
        let start = |threads: usize| {
            let (jobs, to_do) = channel::<Job>();
            let to_do = Arc::new(Mutex::new(to_do));
            for _ in 0..threads {
                let (to_do, report) = (Arc::clone(&to_do), report.clone());
                scope.spawn(move || {
                    loop {
                        let job = to_do.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = job else { return };
                        let work = AssertUnwindSafe(|| perform(job, processor, environment, tasks));
                        let done = catch_unwind(work).unwrap_or_else(|panic| Done::Panicked(message_of(&*panic)));
                        if report.send(done).is_err() {
                            return;
                        }
                    }
                });
            }
            jobs
        };
        let for_tools = if tool_threads == 0 { environment.parallel_calls().unwrap_or(cores) } else { tool_threads };
        Self { openings: start(cores), calls: start(for_tools.max(1)), done, threads: cores, pending: 0 }
    }

    /// Threads that prepare tasks.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a job is not done yet.
    pub(super) fn are_busy(&self) -> bool {
        self.pending > 0
    }

    /// Gives a job to the next thread that is free.
    pub(super) fn send(&mut self, job: Job) {
        let jobs = match job {
            Job::Prepare { .. } => &self.openings,
            Job::Observe { .. } | Job::Replay(_) => &self.calls,
        };
        // Workers live as long as this sender, so somebody receives.
        if jobs.send(job).is_ok() {
            self.pending += 1;
        }
    }

    /// The next result. Waits for it if `may_wait`, but only while a job is pending.
    pub(super) fn receive(&mut self, may_wait: bool) -> Option<Done> {
        if self.pending == 0 {
            return None;
        }
        let done = if may_wait { self.done.recv().ok() } else { self.done.try_recv().ok() };
        self.pending -= usize::from(done.is_some());
        done
    }
}

fn perform(job: Job, processor: &Processor, environment: &dyn Environment, tasks: &dyn Tasks) -> Done {
    match job {
        Job::Prepare { task, group_size } => {
            let _span = debug_span!("prepare", task).entered();
            let prepared_task = tasks.task(task).and_then(|task| environment.open(processor, &task, group_size));
            Done::Prepared { task, prepared_task }
        }
        Job::Observe { sequence, mut episode, calls, images } => {
            let _span = debug_span!("call", sequence).entered();
            let result = observe(&mut *episode, processor, calls, &images);
            Done::Observed { sequence, episode, result }
        }
        Job::Replay(mut branch) => {
            let (task, sequence) = (branch.shared.trajectory.task, branch.shared.trajectory.sequence);
            let _span = debug_span!("replay", sequence).entered();
            let result = branch.replay(processor).or_else(|error| {
                warn!("a branch begins with the prompt, since its trunk's calls cannot be made again: {error}");
                branch.begin_anew(tasks.task(task).and_then(|task| environment.open(processor, &task, 1)))
            });
            Done::Replayed { branch, result }
        }
    }
}

fn observe(
    episode: &mut dyn Episode,
    processor: &Processor,
    calls: Vec<PlannedCall>,
    images: &TrajectoryImages,
) -> Result<(Vec<CallResult>, Observation), EnvironmentError> {
    let mut results = Vec::with_capacity(calls.len());
    for PlannedCall { call, refusal, repairs } in calls {
        let mut output = match refusal {
            Some(output) => output,
            None => episode.run(&call, images)?,
        };
        output.repairs.extend(repairs.into_iter().map(str::to_owned));
        results.push(CallResult { call, output });
    }
    let observation = episode.observe(processor, &mut results)?;
    Ok((results, observation))
}
