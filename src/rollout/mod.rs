//! Generate, act, observe, repeat: rolls out many sequences of many tasks at once. One thread drives the generator; pictures are
//! prepared and tools run on worker threads and come back through a channel, while the other sequences go on decoding. What comes out
//! is ordered by task, not by completion, and does not depend on which tool was faster. [`scored`] computes rewards on worker threads meanwhile;
//! [`reward_set::RewardSet::score_groups`] does it afterwards.
//!
//! [`agent_loop`] takes each sequence a step on, whoever drives the generator: this file over a list of tasks, `serve` over chats as they come. A task is
//! made, and its pictures decoded, when its turn comes, so a file of any length goes through one engine. [`call`] finds the code in a turn,
//! [`call_formats`] the calls of all other forms, [`trajectory`] alone says which tokens are the model's own. Five small contracts:
//! [`environment`], [`tool`], [`reward`], [`judge`], [`generator`]; [`registry`] has what recipes can name. [`branching`] lets rollouts of a group share
//! a beginning, of one turn or several. [`generator::Scripted`] speaks from a script, so that all of this is tested without a model, and [`script`] plays
//! a task by one. `rewards/equivalence/` says whether two answers are the same; a rule that would have to guess gives no verdict.

pub mod environment;
pub mod generator;
pub mod judge;
pub mod reward;
pub mod tool;

mod active;
pub mod agent_loop;
pub mod answer;
pub mod branching;
pub mod call;
pub mod call_formats;
pub mod engine_generator;
pub mod images;
mod shown;
mod weighted;
pub mod reward_set;
pub mod scored;
pub mod script;
pub mod task;
pub mod tool_set;
pub mod trajectory;

pub mod environments;
pub mod judges;
pub mod rewards;
pub mod tools;

pub mod registry;
pub mod repetition;
pub mod retry;
mod error;
mod panics;
pub mod python_file;
mod settings;
mod workers;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub use agent_loop::Update;
use agent_loop::{AgentLoop, Start};
use branching::{Branch, Members, Shared};
use environment::{Environment, EnvironmentError, Episode, PreparedTask, Tasks, TokenLimits};
pub use error::RolloutError;
use generator::{Generator, GeneratorError};
pub use settings::RolloutSettings;
use task::Task;
use trajectory::{End, Trajectory};

use crate::prompt::{Processor, Prompt};

/// The trajectories of one task.
#[derive(Clone, Debug)]
pub struct Group {
    /// Index of the task in the slice that was rolled out.
    pub task: usize,
    /// One for each sequence, in order.
    pub trajectories: Vec<Trajectory>,
}

/// Time in which somebody waited for a tool or its observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolWait {
    /// While others decoded.
    pub hidden: Duration,
    /// While nothing decoded: what they cost.
    pub open: Duration,
}

impl ToolWait {
    /// Adds time in which tools ran.
    pub fn add(&mut self, time: Duration, is_hidden: bool) {
        *(if is_hidden { &mut self.hidden } else { &mut self.open }) += time;
    }
}

/// Rolls out `settings.group_size` sequences of each task and gives the groups in the order of the tasks.
///
/// # Errors
/// When the generator fails or not even one group fits.
pub fn run(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &[Task],
    settings: &RolloutSettings,
) -> Result<Vec<Group>, RolloutError> {
    run_timed(generator, processor, environment, tasks, settings).map(|(groups, _)| groups)
}

/// Rolls out as [`run`] does; also how long tools ran.
///
/// # Errors
/// As [`run`].
pub fn run_timed(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &[Task],
    settings: &RolloutSettings,
) -> Result<(Vec<Group>, ToolWait), RolloutError> {
    let mut groups = Vec::with_capacity(tasks.len());
    let mut open: BTreeMap<usize, Vec<Trajectory>> = BTreeMap::new();
    let mut keep = |update: Update<'_>| {
        if let Update::Finished(trajectory) = update {
            let task = trajectory.task;
            let members = open.entry(task).or_default();
            members.push(*trajectory);
            if members.len() == settings.group_size {
                let mut trajectories = open.remove(&task).unwrap_or_default();
                trajectories.sort_by_key(|trajectory| trajectory.sample);
                groups.push(Group { task, trajectories });
            }
        }
        ControlFlow::Continue(())
    };
    let wait = run_watched(generator, processor, environment, &tasks, settings, &mut keep)?;
    groups.sort_by_key(|group: &Group| group.task);
    Ok((groups, wait))
}

/// Rolls out as [`run`] does, and calls `watch` with each update until it breaks; returns how long tools ran.
///
/// # Errors
/// As [`run`].
pub fn run_watched(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &dyn Tasks,
    settings: &RolloutSettings,
    watch: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>,
) -> Result<ToolWait, RolloutError> {
    std::thread::scope(|scope| {
        let mut rollout = Rollout {
            generator,
            agent_loop: AgentLoop::start(scope, settings.tool_threads, processor, environment, tasks),
            settings,
            limits: environment.limits(),
            watcher: Watcher { tell: watch, has_enough: false, finished: 0, settings, branches: Vec::new() },
            tasks: tasks.count(),
            next_prepared: 0,
            next_opened: 0,
            prepared_tasks: BTreeMap::new(),
            episodes: BTreeMap::new(),
            branches: Vec::new(),
            tool_wait: ToolWait::default(),
        };
        let result = rollout.drive();
        // However it ended, the generator is left as it was found.
        rollout.agent_loop.close_all(rollout.generator);
        result.map(|()| rollout.tool_wait)
    })
}

/// A rollout under way: which task comes next, and what became of those before.
struct Rollout<'a> {
    generator: &'a mut dyn Generator,
    agent_loop: AgentLoop<'a>,
    settings: &'a RolloutSettings,
    limits: TokenLimits,
    watcher: Watcher<'a>,
    /// How many there are.
    tasks: usize,
    /// The next task that a worker prepares, and the next that is opened.
    next_prepared: usize,
    next_opened: usize,
    /// Tasks prepared and not opened yet.
    prepared_tasks: BTreeMap<usize, Result<PreparedTask, EnvironmentError>>,
    /// Of tasks whose trunks are open: an episode for each branch.
    episodes: BTreeMap<usize, Vec<Box<dyn Episode>>>,
    /// Branches that wait for room.
    branches: Vec<Branch>,
    tool_wait: ToolWait,
}

/// The caller's function for updates, and what is known from them.
struct Watcher<'a> {
    tell: &'a mut dyn FnMut(Update<'_>) -> ControlFlow<()>,
    /// It broke off.
    has_enough: bool,
    /// Sequences that ended.
    finished: usize,
    settings: &'a RolloutSettings,
    /// How branches begin whose trunk has ended.
    branches: Vec<Shared>,
}

impl Watcher<'_> {
    fn tell(&mut self, update: Update<'_>) {
        if let Update::Finished(trajectory) = &update {
            self.finished += 1;
            self.branch(trajectory);
        }
        self.has_enough = self.has_enough || (self.tell)(update).is_break();
    }
}

impl Watcher<'_> {
    /// Notes the branches of a trajectory that has ended, where it has some.
    fn branch(&mut self, trajectory: &Trajectory) {
        let group_size = self.settings.group_size;
        let Some(branching) = self.settings.branching else { return };
        if trajectory.sample < branching.trunks(group_size).count {
            let Members { first, count } = branching.branches(group_size, trajectory.sample);
            let shared = branching.shared(trajectory);
            self.branches.extend((first..first + count).map(|sample| shared.of_sample(sample)));
        }
    }
}

impl<'a> Rollout<'a> {
    fn drive(&mut self) -> Result<(), RolloutError> {
        while self.watcher.finished < self.tasks * self.settings.group_size && !self.watcher.has_enough {
            self.prepare_ahead();
            self.open_what_fits()?;
            let mut tell = |update: Update<'_>| self.watcher.tell(update);
            let (began, is_calling) = (Instant::now(), self.agent_loop.is_calling());
            let is_decoding = self.agent_loop.is_running();
            // Workers are waited for only if nothing decodes.
            self.prepared_tasks.extend(self.agent_loop.receive(self.generator, !is_decoding, &mut tell)?);
            if self.agent_loop.is_running() {
                let events = self.generator.step()?;
                self.agent_loop.take(self.generator, &events, &mut tell);
            }
            if is_calling {
                self.tool_wait.add(began.elapsed(), is_decoding);
            }
        }
        Ok(())
    }

    /// Lets workers prepare a few tasks more than are open.
    fn prepare_ahead(&mut self) {
        let ahead = self.agent_loop.preparing_threads() + 2;
        while self.next_prepared < self.tasks && self.next_prepared < self.next_opened + ahead {
            self.agent_loop.prepare(self.next_prepared, self.settings.group_size);
            self.next_prepared += 1;
        }
    }

    /// Opens prepared tasks in order as long as the generator has room.
    fn open_what_fits(&mut self) -> Result<(), RolloutError> {
        self.open_branches()?;
        let group_size = self.settings.group_size;
        let all = Members { first: 0, count: group_size };
        let members = self.settings.branching.map_or(all, |branching| branching.trunks(group_size));
        while let Some(prepared_task) = self.prepared_tasks.remove(&self.next_opened) {
            let mut prepared_task = match prepared_task {
                Ok(prepared_task) => prepared_task,
                Err(error) => {
                    self.finish_unopened(&Prompt::default(), &End::TaskFailed(error.to_string()));
                    continue;
                }
            };
            let start = self.start(self.next_opened, members);
            match self.agent_loop.open(self.generator, &mut prepared_task, &start) {
                Ok(()) => {
                    if members != all {
                        self.episodes.insert(self.next_opened, prepared_task.episodes);
                    }
                    self.next_opened += 1;
                }
                Err(GeneratorError::TooLong { needed, limit }) => {
                    self.finish_unopened(&prepared_task.prompt, &End::PromptTooLong { needed, limit });
                }
                Err(error @ (GeneratorError::EmptyPrompt | GeneratorError::NeverFits { .. })) => {
                    self.finish_unopened(&prepared_task.prompt, &End::TaskFailed(error.to_string()));
                }
                // Nothing of ours will make room.
                Err(GeneratorError::Full) if self.agent_loop.is_empty() => {
                    return Err(self.no_room(prepared_task.prompt.token_ids.len()));
                }
                Err(GeneratorError::Full) => {
                    self.prepared_tasks.insert(self.next_opened, Ok(prepared_task));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Opens the branches whose trunk has ended, as long as the generator has room.
    fn open_branches(&mut self) -> Result<(), RolloutError> {
        for shared in std::mem::take(&mut self.watcher.branches) {
            // A task that was not opened has no branches.
            let episodes = self.episodes.get_mut(&shared.trajectory.task);
            if let Some(episode) = episodes.and_then(Vec::pop) {
                self.agent_loop.replay(Branch { shared, episode });
            }
        }
        self.branches.extend(self.agent_loop.take_replayed());
        while let Some(branch) = self.branches.pop() {
            let Trajectory { task, sample, prompt_tokens, .. } = branch.shared.trajectory;
            let start = self.start(task, Members { first: sample, count: 1 });
            let mut tell = |update: Update<'_>| self.watcher.tell(update);
            let Some(branch) = self.agent_loop.open_branch(self.generator, branch, &start, &mut tell)? else {
                continue;
            };
            self.branches.push(branch);
            // If nothing is open, nothing of ours will make room.
            return if self.agent_loop.is_empty() { Err(self.no_room(prompt_tokens)) } else { Ok(()) };
        }
        Ok(())
    }

    /// How sequences of a task begin.
    fn start(&self, task: usize, members: Members) -> Start<'a> {
        Start {
            pixels_kept: usize::MAX,
            task,
            members,
            first_sequence: ((self.settings.first_task + task) * self.settings.group_size) as u64,
            first_counter: None,
            limits: self.limits,
            settings: self.settings,
        }
    }

    fn no_room(&self, prompt: usize) -> RolloutError {
        RolloutError::NoRoom { group_size: self.settings.group_size, prompt, tokens: self.limits.total }
    }

    /// Ends the next task's sequences before they began.
    fn finish_unopened(&mut self, prompt: &Prompt, end: &End) {
        for sample in 0..self.settings.group_size {
            let sequence = (self.settings.first_task + self.next_opened) * self.settings.group_size + sample;
            let trajectory = Trajectory::of_prompt(prompt, self.next_opened, sample, sequence as u64, end.clone());
            self.watcher.tell(Update::Finished(Box::new(trajectory)));
        }
        self.next_opened += 1;
    }
}
