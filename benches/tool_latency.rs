//! Tools do not stall a rollout: tokens a second with tools that take from 10 ms to 5 s, beside instant ones, and beside a barrier at which
//! a whole batch waits for its slowest call, as engines that roll out turn by turn have it. Latencies are slept; the engine is real, on the
//! shipped tiny model with random weights, and every variant samples the same tokens.
//!
//!     cargo bench --bench tool_latency
//!     cargo bench --bench tool_latency -- crop      # What a crop in the jail takes instead.

#[path = "tool_latency/crop.rs"]
mod crop;
#[path = "measure/photograph.rs"]
mod photograph;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use thyme_engine::checkpoint::{Checkpoint, init};
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Model;
use thyme_engine::model::parameters::Weights;
use thyme_engine::ops::sample::philox_uniform;
use thyme_engine::prompt::{Processor, Prompt};
use thyme_engine::rollout::engine_generator::EngineGenerator;
use thyme_engine::rollout::environment::{
    Environment, EnvironmentError, Episode, Next, Observation, ParsedTurn, PreparedTask, TokenLimits,
};
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::tool::{CallResult, CallStatus, ToolCall, ToolFault, ToolOutput};
use thyme_engine::rollout::trajectory::{End, Trajectory, TurnKind};
use thyme_engine::rollout::{RolloutSettings, Update, run_watched};

/// Calls of a sequence.
const CALLS: usize = 4;
/// Sequences of a task.
const GROUP: usize = 8;
/// Tasks of the run.
const TASKS: usize = 1024;
/// Runs with instant calls and with slow ones, in turns.
const ROUNDS: usize = 3;
/// Sequences in flight.
const IN_FLIGHT: usize = 2048;
/// Latencies are spread evenly on a logarithmic scale between these.
const FASTEST: f64 = 0.010;
const SLOWEST: f64 = 5.0;

/// How calls come back.
#[derive(Clone, Copy, PartialEq)]
enum Latency {
    Instant,
    Each,
    Barrier,
}

/// A batch whose calls come back together.
#[derive(Default)]
struct Batch {
    open: usize,
    waiting: usize,
    slowest: f64,
    rounds: u64,
}

struct Latent {
    latency: Latency,
    opened: AtomicU64,
    batch: Arc<(Mutex<Batch>, Condvar)>,
}

impl Environment for Latent {
    fn name(&self) -> &'static str {
        "latent"
    }
    fn stop_strings(&self) -> Vec<String> {
        // With random weights every few dozen tokens.
        ["q", "z"].map(String::from).to_vec()
    }
    fn limits(&self) -> TokenLimits {
        TokenLimits { turn: 200, total: 600 }
    }
    fn code_tags(&self) -> Option<(String, String)> {
        None
    }
    fn parallel_calls(&self) -> Option<usize> {
        Some(IN_FLIGHT)
    }
    fn open(&self, _: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError> {
        self.batch.0.lock().unwrap().open += group_size;
        let first = self.opened.fetch_add(group_size as u64, Ordering::Relaxed);
        let episode = |member| -> Box<dyn Episode> {
            let (number, latency, batch) = (first + member as u64, self.latency, self.batch.clone());
            Box::new(Calls { number, calls: 0, latency, batch })
        };
        let TaskPrompt::Tokens(prompt) = task.prompt.clone() else { panic!("tasks are made with prompts") };
        let images = TrajectoryImages::default();
        Ok(PreparedTask {
            prompt,
            conversation: Arc::default(),
            images,
            episodes: (0..group_size).map(episode).collect(),
        })
    }
}

/// One sequence's calls.
struct Calls {
    number: u64,
    calls: usize,
    latency: Latency,
    batch: Arc<(Mutex<Batch>, Condvar)>,
}

impl Episode for Calls {
    fn read(&mut self, text: &str, _: usize) -> ParsedTurn {
        let next = if self.calls < CALLS { Next::run(ToolCall::default()) } else { Next::End(End::EndOfTurn) };
        ParsedTurn { split_at: text.len(), kind: TurnKind::Answer, answer: None, next }
    }

    fn run(&mut self, _: &ToolCall, _: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.calls += 1;
        let seconds = FASTEST * (SLOWEST / FASTEST).powf(philox_uniform(0, self.number, self.calls as u64));
        match self.latency {
            Latency::Instant => {}
            Latency::Each => std::thread::sleep(Duration::from_secs_f64(seconds)),
            Latency::Barrier => self.wait_for_all(seconds),
        }
        Ok(ToolOutput::text(CallStatus::Ok, "ok"))
    }

    fn observe(&mut self, processor: &Processor, results: &mut [CallResult]) -> Result<Observation, EnvironmentError> {
        let mut observation = Observation::default();
        observation.push_text(processor, &results[0].output.text)?;
        Ok(observation)
    }
}

impl Calls {
    fn wait_for_all(&self, seconds: f64) {
        let (batch, changed) = &*self.batch;
        let mut state = batch.lock().unwrap();
        let round = state.rounds;
        state.waiting += 1;
        state.slowest = state.slowest.max(seconds);
        changed.notify_all();
        while state.rounds == round {
            if state.waiting == state.open {
                let slowest = std::mem::take(&mut state.slowest);
                state.waiting = 0;
                std::thread::sleep(Duration::from_secs_f64(slowest));
                state.rounds += 1;
                changed.notify_all();
            } else {
                state = changed.wait(state).unwrap();
            }
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let (batch, changed) = &*self.batch;
        batch.lock().unwrap().open -= 1;
        changed.notify_all();
    }
}

struct Policy {
    model: Model,
    weights: Weights,
    processor: Arc<Processor>,
}

/// A rollout of all tasks.
struct Measured {
    tokens: usize,
    /// Of the tokens, in the order of the tasks.
    digest: u64,
    seconds: f64,
    /// Seconds in which the middle of the text was written: while tasks are waiting, so that no sequence that ended leaves a gap.
    middle_seconds: f64,
}

/// The share of the text that is its middle.
const MIDDLE: std::ops::Range<f64> = 0.15..0.65;

fn measure(policy: &Policy, tasks: &[Task], latency: Latency) -> Measured {
    let environment = Latent { latency, opened: AtomicU64::new(0), batch: Arc::default() };
    let limits = EngineLimits { pages: IN_FLIGHT * 40, prefill_chunk_tokens: 2048, sequences: IN_FLIGHT };
    let mut engine = Engine::new(policy.model.clone(), policy.processor.clone(), limits);
    let mut generator = EngineGenerator { engine: &mut engine, weights: &policy.weights };
    let began = Instant::now();
    // Bytes written by when.
    let mut written: Vec<(f64, usize)> = Vec::new();
    let mut trajectories: Vec<Trajectory> = Vec::new();
    // A barrier is of a batch: the next begins when all of the last have ended.
    let at_once = if latency == Latency::Barrier { IN_FLIGHT / GROUP } else { tasks.len() };
    for (batch, tasks) in tasks.chunks(at_once).enumerate() {
        let first_task = batch * at_once;
        let settings = RolloutSettings { group_size: GROUP, first_task, ..RolloutSettings::default() };
        let mut watch = |update: Update<'_>| {
            match update {
                Update::Text { text, .. } => {
                    let before = written.last().map_or(0, |(_, bytes)| *bytes);
                    written.push((began.elapsed().as_secs_f64(), before + text.len()));
                }
                Update::Finished(trajectory) => {
                    trajectories.push(Trajectory { task: trajectory.task + first_task, ..*trajectory });
                }
                Update::Observed { .. } => {}
            }
            ControlFlow::Continue(())
        };
        run_watched(&mut generator, &policy.processor, &environment, &tasks, &settings, &mut watch).expect("a rollout");
    }
    let seconds = began.elapsed().as_secs_f64();
    let all = written.last().map_or(0, |(_, bytes)| *bytes) as f64;
    let when = |share: f64| written.iter().find(|(_, bytes)| *bytes as f64 >= share * all).map_or(0.0, |(at, _)| *at);
    trajectories.sort_by_key(|trajectory| (trajectory.task, trajectory.sample));
    let ids = trajectories.iter().flat_map(|trajectory| &trajectory.token_ids);
    Measured {
        tokens: trajectories.iter().map(Trajectory::own_tokens).sum(),
        digest: ids.fold(0, |digest: u64, &id| (digest ^ u64::from(id)).wrapping_mul(0x0000_0100_0000_01b3)),
        seconds,
        middle_seconds: when(MIDDLE.end) - when(MIDDLE.start),
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "crop") {
        return crop::measure();
    }
    let checkpoint = Checkpoint::open("recipes/tiny").expect("a config");
    let model = checkpoint.model(Arc::new(Cpu::new()));
    let (weights, processor) = (init::random_weights(&model, 0), checkpoint.processor(None).expect("a tokenizer"));
    let policy = Policy { model, weights, processor: Arc::new(processor) };
    let prompt = |number: usize| Prompt {
        token_ids: (0..64).map(|i| ((number * 31 + i * 7) % 500) as u32 + 4).collect(),
        images: Vec::new(),
    };
    let tasks: Vec<Task> =
        (0..TASKS).map(|number| Task { prompt: TaskPrompt::Tokens(prompt(number)), ..Task::default() }).collect();
    println!(
        "{TASKS} tasks of {GROUP}, {IN_FLIGHT} sequences in flight, up to {CALLS} calls each of {FASTEST} s to {SLOWEST} s"
    );
    println!(
        "{:<40}{:>9}{:>9}{:>22}{:>22}",
        "calls", "tokens", "seconds", "tokens/s, whole run", "with enough in flight"
    );
    // As the commands do it: parallel work is shared from where it stands.
    let run = |latency| rayon::scope(|_| measure(&policy, &tasks, latency));
    let mut expected = None;
    let mut row = |name: &str, measured: &Measured, instant: &Measured| {
        let Measured { tokens, digest, seconds, middle_seconds } = *measured;
        assert_eq!(digest, *expected.get_or_insert(digest), "the tokens do not depend on latencies");
        let shares = [instant.seconds / seconds, instant.middle_seconds / middle_seconds];
        let rates = [1.0 / seconds, (MIDDLE.end - MIDDLE.start) / middle_seconds].map(|rate| rate * tokens as f64);
        let [whole, middle] = [0, 1].map(|i| format!("{:.0} ({:.0} %)", rates[i], 100.0 * shares[i]));
        println!("{name:<40}{tokens:>9}{seconds:>9.1}{whole:>22}{middle:>22}");
        shares
    };
    let mut shares = Vec::new();
    // A machine is faster in one minute than in the next: what is compared stands side by side.
    for round in 0..ROUNDS {
        let instant = run(Latency::Instant);
        row("instant", &instant, &instant);
        shares.push(row("slow, sequences go on one by one", &run(Latency::Each), &instant));
        if round + 1 == ROUNDS {
            row("slow, a batch waits for its slowest", &run(Latency::Barrier), &instant);
        }
    }
    let middle = |i: usize| {
        let mut shares: Vec<f64> = shares.iter().map(|shares| 100.0 * shares[i]).collect();
        shares.sort_by(f64::total_cmp);
        shares[ROUNDS / 2]
    };
    println!(
        "one by one, the middle of {ROUNDS} rounds: {:.0} % of instant calls over the whole run, {:.0} % with enough in flight",
        middle(0),
        middle(1)
    );
}
