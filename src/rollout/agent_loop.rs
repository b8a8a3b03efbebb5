//! Trajectories under way in one environment: the model writes a turn, a worker runs what it asks for, the observation goes back, until
//! it ends. Whoever drives a generator opens tasks here, hands over what the generator sampled, and hears what happens.

use std::collections::BTreeMap;
use std::thread::Scope;

use super::active::Active;
pub use super::active::Start;
use super::branching::{Branch, Members, Shared};
use super::environment::{Environment, EnvironmentError, Episode, Next, Observation, PreparedTask, Tasks};
use super::error::RolloutError;
use super::generator::{Generator, GeneratorError, Sampled, StopReason, TokenEvent};
use super::tool::{CallResult, ToolCall};
use super::trajectory::{Call, End, OwnParts, Trajectory, TurnEnd};
use super::workers::{Done, Job, Workers};
use crate::prompt::Processor;

/// A task's number, and the prepared task or why it failed.
pub type Ready = (usize, Result<PreparedTask, EnvironmentError>);

/// What happens while sequences roll out, for those who watch.
#[derive(Debug)]
pub enum Update<'a> {
    /// The model wrote.
    Text {
        /// Number of the sequence that wrote.
        sequence: u64,
        /// The text since the last update of this sequence.
        text: &'a str,
    },
    /// The calls of a turn came back.
    Observed {
        /// Number of the sequence that called.
        sequence: u64,
        /// What was asked, and what came back.
        calls: &'a [Call],
        /// What the model reads.
        text: &'a str,
    },
    /// A sequence ended. The watcher gets the trajectory: nobody else keeps it.
    Finished(Box<Trajectory>),
}

/// Sequences under way in one environment, and the workers that run its tools.
pub struct AgentLoop<'a> {
    processor: &'a Processor,
    environment: &'a dyn Environment,
    /// What ends a turn in it.
    stop_strings: Vec<String>,
    workers: Workers,
    active: BTreeMap<u64, Active>,
    /// Branches that a worker has, and those that can be opened.
    replaying: usize,
    replayed: Vec<Branch>,
}

impl<'a> AgentLoop<'a> {
    /// Starts the threads that prepare tasks and those that run tools: of the latter `tool_threads`, or as many as the environment can use
    /// if 0.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, 'a>,
        tool_threads: usize,
        processor: &'a Processor,
        environment: &'a dyn Environment,
        tasks: &'a dyn Tasks,
    ) -> Self {
        let workers = Workers::start(scope, tool_threads, processor, environment, tasks);
        let stop_strings = environment.stop_strings();
        let (active, replaying, replayed) = (BTreeMap::new(), 0, Vec::new());
        Self { processor, environment, stop_strings, workers, active, replaying, replayed }
    }

    /// Threads that prepare tasks.
    pub fn preparing_threads(&self) -> usize {
        self.workers.threads()
    }

    /// Lets a worker prepare a task for a group of this size.
    pub fn prepare(&mut self, task: usize, group_size: usize) {
        self.workers.send(Job::Prepare { task, group_size });
    }

    /// Lets a worker play what a branch shares on its episode, where that is a whole turn or more.
    pub fn replay(&mut self, branch: Branch) {
        if branch.has_turns() {
            self.replaying += 1;
            self.workers.send(Job::Replay(Box::new(branch)));
        } else {
            self.replayed.push(branch);
        }
    }

    /// The branches that can be opened since the last call.
    pub fn take_replayed(&mut self) -> Vec<Branch> {
        std::mem::take(&mut self.replayed)
    }

    /// Whether a sequence waits for its next token.
    pub fn is_running(&self) -> bool {
        self.active.values().any(|active| active.is_running)
    }

    /// Whether a worker has a sequence's call, or replays one.
    pub fn is_calling(&self) -> bool {
        self.replaying > 0 || self.active.values().any(|active| active.episode.is_none())
    }

    /// Whether a worker has something to do.
    pub fn is_working(&self) -> bool {
        self.workers.are_busy()
    }

    /// Whether no sequence is open.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Opens sequences of a task, and takes an episode of the prepared task for each.
    ///
    /// # Errors
    /// The generator's; the prepared task is then as it was.
    pub fn open(
        &mut self,
        generator: &mut dyn Generator,
        prepared_task: &mut PreparedTask,
        start: &Start<'_>,
    ) -> Result<(), GeneratorError> {
        let Members { first, count } = start.members;
        let number = start.first_sequence + first as u64;
        let mut beginning = Trajectory::of_prompt(&prepared_task.prompt, start.task, first, number, End::Running);
        beginning.conversation = prepared_task.conversation.clone();
        let sizes = prepared_task.prompt.images.iter().map(|image| image.resized()).collect();
        beginning.original_images = prepared_task.images.clone().seen_at(sizes);
        generator.open(start.request(&beginning, Vec::new(), self.environment, self.processor))?;
        assert!(prepared_task.episodes.len() >= count, "an environment opens an episode for each sequence");
        for (sample, episode) in (first..).zip(prepared_task.episodes.drain(..count)) {
            let sequence = start.first_sequence + sample as u64;
            let trajectory = Trajectory { sample, sequence, ..beginning.clone() };
            let active = Active::new(trajectory, &[], episode, start, self.processor.tokenizer());
            self.active.insert(sequence, active);
        }
        Ok(())
    }

    /// Opens a branch, which is the one that `start` names. It comes back if there is no room now; one that leaves no room for another token ends.
    ///
    /// # Errors
    /// The generator's others.
    pub fn open_branch(
        &mut self,
        generator: &mut dyn Generator,
        branch: Branch,
        start: &Start<'_>,
        watch: &mut dyn FnMut(Update<'_>),
    ) -> Result<Option<Branch>, GeneratorError> {
        let Shared { trajectory, .. } = &branch.shared;
        let request = start.request(trajectory, branch.shared.history(), self.environment, self.processor);
        let is_too_long = match generator.open(request) {
            Ok(()) => false,
            Err(GeneratorError::TooLong { .. }) => true,
            Err(GeneratorError::Full) => return Ok(Some(branch)),
            Err(error) => return Err(error),
        };
        let Branch { shared: Shared { trajectory, begun }, episode } = branch;
        let sequence = trajectory.sequence;
        self.active.insert(sequence, Active::new(trajectory, &begun, episode, start, self.processor.tokenizer()));
        if is_too_long {
            self.finish(generator, sequence, End::ContextFull, watch);
        }
        Ok(None)
    }

    /// Takes what workers have done: returns prepared tasks, keeps branches for [`AgentLoop::take_replayed`], and gives observations to their
    /// sequences. Waits for the first result if `may_wait`, but only while a worker has a job.
    ///
    /// # Errors
    /// When a worker panicked, or an observation cannot be written.
    pub fn receive(
        &mut self,
        generator: &mut dyn Generator,
        mut may_wait: bool,
        watch: &mut dyn FnMut(Update<'_>),
    ) -> Result<Vec<Ready>, RolloutError> {
        let mut ready = Vec::new();
        while let Some(done) = self.workers.receive(may_wait) {
            may_wait = false;
            match done {
                Done::Prepared { task, prepared_task } => ready.push((task, prepared_task)),
                Done::Observed { sequence, episode, result } => {
                    self.observed(generator, sequence, episode, result, watch)?;
                }
                Done::Replayed { branch, result } => {
                    self.replaying -= 1;
                    match result {
                        Ok(()) => self.replayed.push(*branch),
                        Err(error) => {
                            let end = End::TaskFailed(error.to_string());
                            watch(Update::Finished(Box::new(Trajectory { end, ..branch.shared.trajectory })));
                        }
                    }
                }
                Done::Panicked(message) => return Err(RolloutError::Worker(message)),
            }
        }
        Ok(ready)
    }

    /// Gives a sequence its observation and lets it run again.
    fn observed(
        &mut self,
        generator: &mut dyn Generator,
        sequence: u64,
        episode: Box<dyn Episode>,
        result: Result<(Vec<CallResult>, Observation), EnvironmentError>,
        watch: &mut dyn FnMut(Update<'_>),
    ) -> Result<(), RolloutError> {
        let Some(active) = self.active.get_mut(&sequence) else { return Ok(()) };
        let (results, observation) = match result {
            Ok(observed) => observed,
            Err(EnvironmentError::Tool(fault)) => {
                self.finish(generator, sequence, End::ToolFailed(fault.to_string()), watch);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        active.episode = Some(episode);
        let trajectory = &mut active.trajectory;
        let total = trajectory.completion_tokens() + observation.token_ids.len();
        let end = if total >= active.total_tokens {
            Some(End::TotalTokens)
        } else {
            match generator.append(sequence, &observation.token_ids, &observation.images) {
                Ok(()) => None,
                Err(GeneratorError::TooLong { .. }) => Some(End::ContextFull),
                Err(error) => return Err(error.into()),
            }
        };
        let pixels_left = &mut active.pixels_left;
        let calls = results.into_iter().map(|CallResult { call: ToolCall { tool, request }, output }| {
            let images_shown = if end.is_none() { output.images.len() } else { 0 };
            let mut call = Call { tool, request, output, images_shown };
            call.keep_images(pixels_left);
            call
        });
        let first = trajectory.calls.len();
        trajectory.calls.extend(calls);
        if let Some(end) = end {
            self.finish(generator, sequence, end, watch);
            return Ok(());
        }
        trajectory.push_observation(&observation.token_ids, &observation.images, &observation.text, first);
        watch(Update::Observed { sequence, calls: &trajectory.calls[first..], text: &observation.text });
        active.is_running = true;
        Ok(())
    }

    /// Takes the events of a generator's step; those of sequences that are not here are ignored.
    pub fn take(&mut self, generator: &mut dyn Generator, events: &[TokenEvent], watch: &mut dyn FnMut(Update<'_>)) {
        for event in events {
            if let Some(token) = event.token {
                self.sampled(generator, event.sequence, token, watch);
            }
            if let Some(reason) = event.stopped {
                self.stopped(generator, event.sequence, reason, watch);
            }
        }
        let repeating =
            |(&sequence, active): (&u64, &Active)| (active.is_running && active.repeats).then_some(sequence);
        for sequence in self.active.iter().filter_map(repeating).collect::<Vec<_>>() {
            self.finish(generator, sequence, End::Repetition, watch);
        }
    }

    /// Adds a sampled token to its sequence's turn; where the turn already repeats itself, ends the sequence instead.
    fn sampled(
        &mut self,
        generator: &mut dyn Generator,
        sequence: u64,
        token: Sampled,
        watch: &mut dyn FnMut(Update<'_>),
    ) {
        let Some(active) = self.active.get_mut(&sequence) else { return };
        // A step may bring several tokens; those after the one that repeats are dropped.
        if active.repeats {
            return self.finish(generator, sequence, End::Repetition, watch);
        }
        let text = active.push(token, self.processor.tokenizer());
        if !text.is_empty() {
            watch(Update::Text { sequence, text: &text });
        }
    }

    /// Reads the turn that ended, once, and does what it says.
    fn stopped(
        &mut self,
        generator: &mut dyn Generator,
        sequence: u64,
        reason: StopReason,
        watch: &mut dyn FnMut(Update<'_>),
    ) {
        let Some(active) = self.active.get_mut(&sequence) else { return };
        active.is_running = false;
        let end = match reason {
            StopReason::Text(stop) if stop < self.stop_strings.len() => {
                return self.read(generator, sequence, TurnEnd::StopString(stop), watch);
            }
            StopReason::Token(id) if id == self.processor.special_ids().im_end => {
                return self.read(generator, sequence, TurnEnd::Message, watch);
            }
            StopReason::Text(_) => End::StopString,
            StopReason::Token(_) | StopReason::NothingAllowed => End::EndOfTurn,
            StopReason::TurnTokens => End::TurnTokens,
            StopReason::TotalTokens => End::TotalTokens,
            StopReason::ContextFull => End::ContextFull,
        };
        self.finish(generator, sequence, end, watch);
    }

    /// Lets the episode read a turn that the model ended.
    fn read(&mut self, generator: &mut dyn Generator, sequence: u64, end: TurnEnd, watch: &mut dyn FnMut(Update<'_>)) {
        let Some(active) = self.active.get_mut(&sequence) else { return };
        let Some(mut episode) = active.episode.take() else { return };
        let rest = active.decoder.finish();
        active.text.push_str(&rest);
        let parsed = episode.read_ended(&active.text, end);
        active.trajectory.turn_ends.push(end);
        active.trajectory.set_answer(parsed.answer);
        active.end_turn(OwnParts::Then { split_at: parsed.split_at, kind: parsed.kind });
        match parsed.next {
            Next::Call(calls) => {
                let images = active.trajectory.original_images.clone();
                self.workers.send(Job::Observe { sequence, episode, calls, images });
            }
            Next::End(end) => self.finish(generator, sequence, end, watch),
        }
    }

    /// Ends a sequence; what it has sampled since its last turn is thought.
    fn finish(&mut self, generator: &mut dyn Generator, sequence: u64, end: End, watch: &mut dyn FnMut(Update<'_>)) {
        let Some(mut active) = self.active.remove(&sequence) else { return };
        generator.close(sequence);
        if let Some(episode) = &active.episode {
            active.trajectory.set_answer(episode.answer_at_end(&active.text));
        }
        active.end_turn(OwnParts::Thought);
        active.trajectory.end = end;
        watch(Update::Finished(Box::new(active.trajectory)));
    }

    /// Closes a sequence without a trajectory.
    pub fn close(&mut self, generator: &mut dyn Generator, sequence: u64) {
        if self.active.remove(&sequence).is_some() {
            generator.close(sequence);
        }
    }

    /// Closes all sequences.
    pub fn close_all(&mut self, generator: &mut dyn Generator) {
        for sequence in std::mem::take(&mut self.active).into_keys() {
            generator.close(sequence);
        }
    }
}
