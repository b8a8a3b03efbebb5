//! Generate, act, observe, repeat: rolls out many sequences of many tasks at once. One thread drives the generator; pictures are
//! prepared and tools run on worker threads and come back through a channel, while the other sequences go on decoding. What comes out
//! is ordered by task, not by completion, and does not depend on which tool was faster.

pub mod engine_generator;
pub mod environment;
pub mod generator;
pub mod reward;
pub mod tool;
pub mod transcript;

pub mod environments;
pub mod rewards;
pub mod tools;

pub mod registry;
pub mod repetition;
mod workers;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use environment::{Environment, EnvironmentError, Episode, Next, Observation, Scene, Task, Tasks};
use generator::{AdaptiveTemperature, Event, Generator, GeneratorError, Opening, Sampled, Sampling, StopReason, Stops};
use repetition::{Repetition, RepetitionSettings};
use tool::ToolOutput;
use transcript::{Call, End, OwnParts, Transcript};
use workers::{Done, Job, Workers};

use crate::prompt::{Processor, StreamDecoder};

/// How to roll out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSettings {
    /// Sequences of each task.
    pub group_size: usize,
    /// Index of the first task in the run as a whole; with the group size it numbers the sequences.
    pub first_task: usize,
    /// Seed of the random draws.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Strings that end a sequence, besides the environment's.
    pub stop: Vec<String>,
    /// When a turn counts as repeating itself.
    pub repetition: RepetitionSettings,
    /// Threads for tools; 0 takes as many as the environment has use for, which is one for each core if its tool computes.
    pub tool_threads: usize,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            group_size: 1,
            first_task: 0,
            seed: 0,
            sampling: Sampling::default(),
            stop: Vec::new(),
            repetition: RepetitionSettings::default(),
            tool_threads: 0,
        }
    }
}

/// The transcripts of one task.
#[derive(Clone, Debug)]
pub struct Group {
    /// Index of the task in the slice that was rolled out.
    pub task: usize,
    /// One for each sequence, in order.
    pub transcripts: Vec<Transcript>,
}

/// What happens while sequences roll out, for those who watch.
#[derive(Debug)]
pub enum Update<'a> {
    /// The model wrote.
    Text {
        /// Which sequence.
        sequence: u64,
        /// The text since the last update of this sequence.
        text: &'a str,
    },
    /// A call came back.
    Observed {
        /// Which sequence.
        sequence: u64,
        /// The call.
        call: &'a Call,
        /// What the model reads.
        text: &'a str,
    },
    /// A sequence ended. The watcher gets the transcript: nobody else keeps it.
    Finished(Transcript),
}

/// Why nothing came out. What goes wrong in one sequence is not here but in its [`End`].
#[derive(Debug, Error)]
pub enum RolloutError {
    /// The generator failed.
    #[error(transparent)]
    Generator(#[from] GeneratorError),
    /// Not even one group fits.
    #[error(
        "a group of {group_size} sequences of up to {tokens} tokens after a prompt of {prompt} does not fit in the engine; lower the \
         group size, max_total_tokens or max_pixels, or give the engine more pages"
    )]
    NoRoom {
        /// Sequences in the group.
        group_size: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens after it.
        tokens: usize,
    },
    /// An observation cannot be written.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// A worker thread panicked: a fault in an environment or a tool.
    #[error("a worker thread of the rollout panicked: {0}")]
    Worker(String),
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
    let group = |task| Group { task, transcripts: Vec::with_capacity(settings.group_size) };
    let mut groups: Vec<Group> = (0..tasks.len()).map(group).collect();
    let mut keep = |update: Update<'_>| {
        if let Update::Finished(transcript) = update {
            groups[transcript.task].transcripts.push(transcript);
        }
        ControlFlow::Continue(())
    };
    run_watched(generator, processor, environment, &tasks, settings, &mut keep)?;
    groups.iter_mut().for_each(|group| group.transcripts.sort_by_key(|transcript| transcript.sample));
    Ok(groups)
}

/// Rolls out as [`run`] does, telling `watch` what happens as it happens, until it breaks off.
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
) -> Result<(), RolloutError> {
    std::thread::scope(|scope| {
        let workers = Workers::start(scope, settings.tool_threads, processor, environment, tasks, settings.group_size);
        let watcher = Watcher { tell: watch, has_enough: false };
        let mut rollout = Rollout::new(generator, processor, environment, tasks, settings, watcher, workers);
        let result = rollout.drive();
        // However it ended, the generator is left as it was found.
        for sequence in std::mem::take(&mut rollout.active).into_keys() {
            rollout.generator.close(sequence);
        }
        result
    })
}

/// Who is told what happens.
struct Watcher<'a> {
    tell: &'a mut dyn FnMut(Update<'_>) -> ControlFlow<()>,
    /// It broke off.
    has_enough: bool,
}

impl Watcher<'_> {
    fn tell(&mut self, update: Update<'_>) {
        self.has_enough = self.has_enough || (self.tell)(update).is_break();
    }
}

/// A rollout under way.
struct Rollout<'a> {
    generator: &'a mut dyn Generator,
    processor: &'a Processor,
    /// How many there are.
    tasks: usize,
    settings: &'a RolloutSettings,
    watcher: Watcher<'a>,
    workers: Workers,
    stops: Stops,
    adaptive: Option<AdaptiveTemperature>,
    /// How many of `stops.strings` are the environment's.
    environment_stops: usize,
    /// The next task that a worker prepares, and the next that is opened.
    next_prepared: usize,
    next_opened: usize,
    /// Tasks prepared and not opened yet.
    scenes: BTreeMap<usize, Result<Scene, EnvironmentError>>,
    active: BTreeMap<u64, Active>,
    finished: usize,
}

/// A sequence under way.
struct Active {
    transcript: Transcript,
    /// Absent while a worker has it.
    episode: Option<Box<dyn Episode>>,
    is_running: bool,
    /// The turn so far: tokens, the length of the text that each completed, the text.
    tokens: Vec<Sampled>,
    pieces: Vec<usize>,
    text: String,
    decoder: StreamDecoder,
    repetition: Repetition,
    repeats: bool,
}

impl Active {
    /// Closes the turn: its tokens become the model's own part of the transcript.
    fn end_turn(&mut self, parts: OwnParts) {
        let rest = self.decoder.finish();
        self.text.push_str(&rest);
        self.transcript.push_own(&self.tokens, &self.pieces, &self.text, parts);
        self.tokens.clear();
        self.pieces.clear();
        self.text.clear();
        self.repetition.clear();
    }
}

impl<'a> Rollout<'a> {
    fn new(
        generator: &'a mut dyn Generator,
        processor: &'a Processor,
        environment: &dyn Environment,
        tasks: &dyn Tasks,
        settings: &'a RolloutSettings,
        watcher: Watcher<'a>,
        workers: Workers,
    ) -> Self {
        let ids = processor.special_ids();
        let mut strings = environment.stop_strings();
        let environment_stops = strings.len();
        strings.extend(settings.stop.iter().cloned());
        let limits = environment.limits();
        let code = environment.code_tags().zip(settings.sampling.code_temperature);
        Self {
            generator,
            processor,
            tasks: tasks.count(),
            settings,
            watcher,
            workers,
            stops: Stops {
                strings,
                token_ids: vec![ids.im_end, ids.endoftext, ids.image_pad, ids.video_pad],
                turn_tokens: limits.turn,
                total_tokens: limits.total,
            },
            adaptive: code.map(|((open, close), temperature)| AdaptiveTemperature { open, close, temperature }),
            environment_stops,
            next_prepared: 0,
            next_opened: 0,
            scenes: BTreeMap::new(),
            active: BTreeMap::new(),
            finished: 0,
        }
    }

    fn drive(&mut self) -> Result<(), RolloutError> {
        while self.finished < self.tasks * self.settings.group_size && !self.watcher.has_enough {
            self.prepare_ahead();
            self.open_what_fits()?;
            self.take_from_workers()?;
            self.step()?;
        }
        Ok(())
    }

    /// Lets workers prepare a few tasks more than are open.
    fn prepare_ahead(&mut self) {
        let ahead = self.workers.threads() + 2;
        while self.next_prepared < self.tasks && self.next_prepared < self.next_opened + ahead {
            self.workers.send(Job::Open { task: self.next_prepared });
            self.next_prepared += 1;
        }
    }

    /// Opens prepared tasks in order as long as the generator has room.
    fn open_what_fits(&mut self) -> Result<(), RolloutError> {
        while let Some(scene) = self.scenes.remove(&self.next_opened) {
            let scene = match scene {
                Ok(scene) => scene,
                Err(error) => {
                    self.finish_unopened(
                        &Scene { prompt: Default::default(), episodes: Vec::new() },
                        &End::TaskFailed(error.to_string()),
                    );
                    continue;
                }
            };
            match self.generator.open(self.opening(&scene)) {
                Ok(()) => self.activate(scene),
                Err(GeneratorError::TooLong { needed, limit }) => {
                    self.finish_unopened(&scene, &End::PromptTooLong { needed, limit });
                }
                Err(error @ GeneratorError::EmptyPrompt) => {
                    self.finish_unopened(&scene, &End::TaskFailed(error.to_string()));
                }
                // Nothing of ours will make room; the generator says `NeverFits` itself where it knows.
                Err(GeneratorError::Full) if self.active.is_empty() => {
                    return Err(RolloutError::NoRoom {
                        group_size: self.settings.group_size,
                        prompt: scene.prompt.token_ids.len(),
                        tokens: self.stops.total_tokens,
                    });
                }
                Err(GeneratorError::Full) => {
                    self.scenes.insert(self.next_opened, Ok(scene));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn opening(&self, scene: &Scene) -> Opening {
        Opening {
            token_ids: scene.prompt.token_ids.clone(),
            images: scene.prompt.images.clone(),
            sequences: (0..self.settings.group_size).map(|sample| self.sequence(self.next_opened, sample)).collect(),
            first_counter: None,
            likeliest: 0,
            seed: self.settings.seed,
            sampling: self.settings.sampling.clone(),
            adaptive: self.adaptive.clone(),
            stops: self.stops.clone(),
        }
    }

    fn sequence(&self, task: usize, sample: usize) -> u64 {
        ((self.settings.first_task + task) * self.settings.group_size + sample) as u64
    }

    /// A transcript of the next task that holds only its prompt.
    fn transcript(&self, scene: &Scene, sample: usize, end: End) -> Transcript {
        Transcript {
            task: self.next_opened,
            sample,
            sequence: self.sequence(self.next_opened, sample),
            prompt_tokens: scene.prompt.token_ids.len(),
            token_ids: scene.prompt.token_ids.clone(),
            sampled: vec![None; scene.prompt.token_ids.len()],
            images: scene.prompt.images.clone(),
            turns: Vec::new(),
            calls: Vec::new(),
            end,
        }
    }

    /// Makes the sequences of the next task active.
    fn activate(&mut self, mut scene: Scene) {
        let episodes = std::mem::take(&mut scene.episodes);
        assert_eq!(episodes.len(), self.settings.group_size, "an environment opens an episode for each sequence");
        for (sample, episode) in episodes.into_iter().enumerate() {
            let transcript = self.transcript(&scene, sample, End::Running);
            let active = Active {
                episode: Some(episode),
                is_running: true,
                tokens: Vec::new(),
                pieces: Vec::new(),
                text: String::new(),
                decoder: StreamDecoder::default(),
                repetition: Repetition::new(self.settings.repetition),
                repeats: false,
                transcript,
            };
            self.active.insert(active.transcript.sequence, active);
        }
        self.next_opened += 1;
    }

    /// Ends the next task's sequences before they began.
    fn finish_unopened(&mut self, scene: &Scene, end: &End) {
        for sample in 0..self.settings.group_size {
            let transcript = self.transcript(scene, sample, end.clone());
            self.watcher.tell(Update::Finished(transcript));
        }
        self.finished += self.settings.group_size;
        self.next_opened += 1;
    }

    /// Takes what workers have done; waits for them only if nothing decodes.
    fn take_from_workers(&mut self) -> Result<(), RolloutError> {
        let mut may_wait = !self.active.values().any(|active| active.is_running);
        while let Some(done) = self.workers.receive(may_wait) {
            may_wait = false;
            match done {
                Done::Opened { task, scene } => {
                    self.scenes.insert(task, scene);
                }
                Done::Observed { sequence, episode, request, result } => {
                    self.observed(sequence, episode, request, result)?
                }
                Done::Panicked(message) => return Err(RolloutError::Worker(message)),
            }
        }
        Ok(())
    }

    /// Gives a sequence its observation and lets it run again.
    fn observed(
        &mut self,
        sequence: u64,
        episode: Box<dyn Episode>,
        request: String,
        result: Result<(ToolOutput, Observation), EnvironmentError>,
    ) -> Result<(), RolloutError> {
        let Some(active) = self.active.get_mut(&sequence) else { return Ok(()) };
        let (output, observation) = match result {
            Ok(observed) => observed,
            Err(EnvironmentError::Tool(fault)) => {
                self.finish(sequence, End::ToolFailed(fault.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        active.episode = Some(episode);
        let transcript = &mut active.transcript;
        let mut call = Call { request, output, images_shown: 0 };
        let total = transcript.completion_tokens() + observation.token_ids.len();
        let end = if total >= self.stops.total_tokens {
            Some(End::TotalTokens)
        } else {
            match self.generator.append(sequence, &observation.token_ids, &observation.images) {
                Ok(()) => None,
                Err(GeneratorError::TooLong { .. }) => Some(End::ContextFull),
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(end) = end {
            transcript.calls.push(call);
            self.finish(sequence, end);
            return Ok(());
        }
        call.images_shown = observation.images.len();
        transcript.push_observation(&observation.token_ids, &observation.images, &observation.text);
        self.watcher.tell(Update::Observed { sequence, call: &call, text: &observation.text });
        transcript.calls.push(call);
        active.is_running = true;
        Ok(())
    }

    /// Lets the generator draw a token for every running sequence.
    fn step(&mut self) -> Result<(), RolloutError> {
        if !self.active.values().any(|active| active.is_running) {
            return Ok(());
        }
        for event in self.generator.step()? {
            match event {
                Event::Token { sequence, token } => self.drawn(sequence, token),
                Event::Stopped { sequence, reason } => self.stopped(sequence, reason),
            }
        }
        let repeating =
            |(&sequence, active): (&u64, &Active)| (active.is_running && active.repeats).then_some(sequence);
        for sequence in self.active.iter().filter_map(repeating).collect::<Vec<_>>() {
            self.finish(sequence, End::Repetition);
        }
        Ok(())
    }

    fn drawn(&mut self, sequence: u64, token: Sampled) {
        let Some(active) = self.active.get_mut(&sequence) else { return };
        let tokenizer = self.processor.tokenizer();
        let bytes = if tokenizer.is_special(token.id) { &[][..] } else { tokenizer.token_bytes(token.id) };
        let text = active.decoder.push(bytes);
        active.repeats = active.repetition.push(bytes);
        active.tokens.push(token);
        active.pieces.push(text.len());
        active.text.push_str(&text);
        if !text.is_empty() {
            self.watcher.tell(Update::Text { sequence, text: &text });
        }
    }

    /// Reads the turn that ended, once, and does what it says.
    fn stopped(&mut self, sequence: u64, reason: StopReason) {
        let Some(active) = self.active.get_mut(&sequence) else { return };
        active.is_running = false;
        let ids = self.processor.special_ids();
        let end = match reason {
            StopReason::Text(stop) if stop < self.environment_stops => return self.read(sequence, stop),
            StopReason::Text(_) => End::StopString,
            StopReason::Token(id) if id == ids.image_pad || id == ids.video_pad => {
                active.tokens.pop();
                active.pieces.pop();
                End::StrayImageToken
            }
            StopReason::Token(_) => End::EndOfTurn,
            StopReason::TurnTokens => End::TurnTokens,
            StopReason::TotalTokens => End::TotalTokens,
            StopReason::ContextFull => End::ContextFull,
        };
        self.finish(sequence, end);
    }

    /// Lets the episode read a turn that one of the environment's stops ended.
    fn read(&mut self, sequence: u64, stop: usize) {
        let Some(active) = self.active.get_mut(&sequence) else { return };
        let Some(mut episode) = active.episode.take() else { return };
        let reading = episode.read(&active.text, stop);
        active.end_turn(OwnParts::Then { border: reading.border, kind: reading.kind });
        match reading.next {
            Next::Run(request) => self.workers.send(Job::Observe { sequence, episode, request, output: None }),
            Next::Refuse { request, output } => {
                self.workers.send(Job::Observe { sequence, episode, request, output: Some(output) });
            }
            Next::End(end) => self.finish(sequence, end),
        }
    }

    /// Ends a sequence; what it has drawn since its last turn is thought.
    fn finish(&mut self, sequence: u64, end: End) {
        let Some(mut active) = self.active.remove(&sequence) else { return };
        self.generator.close(sequence);
        active.end_turn(OwnParts::Thought);
        active.transcript.end = end;
        self.watcher.tell(Update::Finished(active.transcript));
        self.finished += 1;
    }
}
