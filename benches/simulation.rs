//! What the scheduler makes of a workload, with the model and without it. The engine is the real one, page counts, prompts in chunks and
//! preemptions included, and takes the time that it takes; where there is no model, its part of a step takes as long as a line through measured
//! steps says, and the tokens that it would sample are given. A call that takes time takes it on the run's own clock, which steps move on.
//!
//!     cargo bench --bench simulation
//!     cargo bench --bench simulation -- --large [--cost A,B,C,D,E,F]
//!
//! The first measures two workloads with the shipped tiny model, draws the line, and holds what it says of other workloads against
//! measurements of them in between. The second simulates 10,000 sequences on one device and on eight; seconds of a step, a prompt, a token of
//! it, a key that this attends to, a sequence that decodes and a key that it attends to come from the line, or from the command.

#[path = "simulation/cost.rs"]
mod cost;
#[path = "simulation/workload.rs"]
mod workload;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Instant;

use cost::{Cost, Measured, composition};
use thyme_engine::checkpoint::{Checkpoint, init};
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{GenerateRequest, GeneratorError, Sampled, Stops, TokenEvent};
use thyme_engine::engine::scheduler::Chunk;
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Model;
use thyme_engine::model::parameters::{Weights, WeightsId};
use thyme_engine::prompt::Processor;
use workload::{Script, Turn, Workload, tokens};

/// Ends a turn.
const STOP: u32 = 3;
/// All workloads are played so often in turns.
const ROUNDS: usize = 7;
/// A prediction is as good as this, in percent.
const ERROR_MAX: f64 = 10.0;
/// Devices of the large simulation.
const DEVICES: u64 = 8;
/// Pages of each device in it: enough for all in flight, and a sixth.
const LARGE_PAGES: [usize; 2] = [1024 * 24, 1024 * 4];

/// What computes a step.
enum Machine<'a> {
    /// The model, with these weights.
    Real(&'a Weights),
    /// Nobody: it takes as long as this.
    Simulated(Cost),
}

/// A sequence that is open.
struct Open {
    script: Script,
    turn: usize,
    /// Tokens sampled in the turn.
    sampled: usize,
    /// Tokens in all.
    position: u64,
}

/// What a run did.
#[derive(Default)]
struct Run {
    steps: Vec<Measured>,
    /// The clock at the end.
    seconds: f64,
    /// Seconds of all steps, of these the ones in which the device waited for the scheduler, and, where it is simulated, those in which the
    /// scheduler worked beside it.
    busy_seconds: f64,
    host_seconds: f64,
    ahead_seconds: f64,
    sampled_tokens: usize,
    /// Seconds in which a call ran, and of these the ones in which no step did.
    calls_seconds: f64,
    idle_seconds: f64,
    preemptions: u64,
    /// Sums over steps: sequences in the batch, share of pages held.
    batched: usize,
    pages_held: f64,
}

impl Run {
    fn throughput(&self) -> f64 {
        self.sampled_tokens as f64 / self.seconds
    }
}

/// The tiny model's shapes and tokenizer.
struct Tiny {
    model: Model,
    processor: Arc<Processor>,
}

impl Tiny {
    fn open() -> Tiny {
        let checkpoint = Checkpoint::open("recipes/tiny").expect("a config");
        let processor = Arc::new(checkpoint.processor(None).expect("a tokenizer"));
        Tiny { model: checkpoint.model(Arc::new(Cpu::new())), processor }
    }

    /// An engine that has taken its memory.
    fn engine(&self, workload: &Workload, machine: &Machine<'_>) -> Engine {
        let limits = EngineLimits { pages: workload.pages, prefill_chunk_tokens: 2048, sequences: workload.in_flight };
        let mut engine = Engine::new(self.model.clone(), self.processor.clone(), limits);
        if let Machine::Real(weights) = machine {
            let script = Script { number: u64::MAX, prompt: vec![STOP], turns: Vec::new() };
            assert!(admits(&mut engine, &script), "an engine takes one sequence");
            engine.step(weights).expect("a step");
            engine.close(script.number);
        }
        engine
    }

    fn play(&self, workload: &Workload, machine: &Machine<'_>) -> Run {
        let mut engine = self.engine(workload, machine);
        let mut run = Run::default();
        let mut coming = workload.sequences.clone().map(|number| workload.script(number)).peekable();
        let mut open: BTreeMap<u64, Open> = BTreeMap::new();
        // When a call ends, in nanoseconds, and whose it is.
        let mut calls: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        loop {
            while let Some(script) = coming.next_if(|script| admits(&mut engine, script)) {
                open.insert(script.number, Open { position: script.prompt.len() as u64, script, turn: 0, sampled: 0 });
            }
            let now = (run.seconds * 1e9) as u64;
            while let Some(Reverse((_, number))) = calls.peek().filter(|call| call.0.0 <= now).copied() {
                calls.pop();
                observe(&mut engine, open.get_mut(&number).expect("who calls is open"));
            }
            let began = Instant::now();
            let pass = engine.plan(WeightsId::default());
            if pass.chunks.is_empty() {
                let Some(Reverse((due, _))) = calls.peek() else { break };
                let idle = *due as f64 / 1e9 - run.seconds;
                run.idle_seconds += idle;
                run.calls_seconds += idle;
                // Past the moment, whatever a float makes of it.
                run.seconds += idle + 1e-8;
                continue;
            }
            let composition = composition(&pass.chunks);
            let computing = Instant::now();
            match machine {
                Machine::Real(weights) => drop(engine.compute(weights, &pass.chunks)),
                Machine::Simulated(_) => engine.look_ahead(&pass.chunks),
            }
            let computed = computing.elapsed().as_secs_f64();
            let sampled = sampled(&pass.chunks, &mut open);
            run.sampled_tokens += sampled.len();
            let events = engine.accept(&pass.chunks, sampled);
            // The host's part is real in either.
            let host = began.elapsed().as_secs_f64() - computed;
            let model = match machine {
                Machine::Real(_) => computed,
                Machine::Simulated(cost) => {
                    run.ahead_seconds += computed;
                    cost.seconds(&composition).max(computed)
                }
            };
            let seconds = model + host;
            run.seconds += seconds;
            run.busy_seconds += seconds;
            run.host_seconds += host;
            run.calls_seconds += if calls.is_empty() { 0.0 } else { seconds };
            run.batched += pass.chunks.len();
            let (free, pages) = engine.pages();
            run.pages_held += 1.0 - free as f64 / pages as f64;
            run.steps.push(Measured { composition, seconds: model });
            for event in events {
                if event.stopped.is_none() {
                    continue;
                }
                let sequence = event.sequence;
                let own = &open[&sequence];
                if own.turn + 1 == own.script.turns.len() {
                    engine.close(sequence);
                    open.remove(&sequence);
                } else {
                    let seconds = own.script.turns[own.turn].call_seconds;
                    calls.push(Reverse((((run.seconds + seconds) * 1e9) as u64, sequence)));
                }
            }
        }
        assert!(open.is_empty(), "all sequences end");
        run.preemptions = engine.statistics().preemptions;
        run
    }
}

/// Opens a sequence if there is room.
fn admits(engine: &mut Engine, script: &Script) -> bool {
    let total = script.total_tokens() + 1;
    let request = GenerateRequest {
        token_ids: script.prompt.clone(),
        sequences: vec![script.number],
        stops: Stops { token_ids: vec![STOP], turn_tokens: total, total_tokens: total, ..Stops::default() },
        ..GenerateRequest::default()
    };
    match engine.open(&request) {
        Ok(()) => true,
        Err(GeneratorError::Full) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A call has ended: what it brought is read, and the next turn begins.
fn observe(engine: &mut Engine, open: &mut Open) {
    let Turn { observation_tokens, .. } = open.script.turns[open.turn];
    let observation = tokens(open.script.number, open.position, observation_tokens);
    engine.append(open.script.number, &observation, &[]).expect("room for what was planned");
    open.position += observation_tokens as u64;
    (open.turn, open.sampled) = (open.turn + 1, 0);
}

/// The tokens that the scripts have where a model samples.
fn sampled(chunks: &[Chunk], open: &mut BTreeMap<u64, Open>) -> Vec<TokenEvent> {
    let sample = |chunk: &Chunk| {
        let own = open.get_mut(&chunk.sequence).expect("who is scheduled is open");
        own.sampled += 1;
        own.position += 1;
        let is_last = own.sampled == own.script.turns[own.turn].tokens;
        let id = if is_last { STOP } else { tokens(chunk.sequence, own.position, 1)[0] };
        let token = Some(Sampled { id, ..Sampled::default() });
        TokenEvent { sequence: chunk.sequence, token, ..TokenEvent::default() }
    };
    chunks.iter().filter(|chunk| chunk.samples_next).map(sample).collect()
}

/// Short prompts, many sequences, no calls.
fn base() -> Workload {
    Workload {
        name: "128 in flight",
        sequences: 0..512,
        in_flight: 128,
        pages: 128 * 40,
        prompt_tokens: 32.0..256.0,
        turns: 1.0..4.0,
        turn_tokens: 8.0..96.0,
        observation_tokens: 8.0..64.0,
        call_seconds: 0.0..0.0,
    }
}

/// What the line is drawn through: batches large and, as the sequences end, small; short sequences and long.
fn calibration() -> [Workload; 2] {
    let short = Workload { sequences: 0..256, ..base() };
    let long =
        Workload { in_flight: 48, pages: 48 * 100, prompt_tokens: 256.0..1024.0, sequences: 6000..6064, ..base() };
    [short, long]
}

/// What the line has not seen.
fn others() -> Vec<Workload> {
    let base = base();
    vec![
        Workload { name: "32 in flight", in_flight: 32, sequences: 1000..1576, ..base.clone() },
        Workload { name: "256 in flight", in_flight: 256, pages: 256 * 40, sequences: 2000..2768, ..base.clone() },
        Workload { name: "128 in flight, a tenth of the pages", pages: 500, sequences: 3000..3512, ..base.clone() },
        Workload {
            name: "128 in flight, calls of 10 ms to 1 s",
            call_seconds: 0.01..1.0,
            sequences: 4000..4512,
            ..base.clone()
        },
        Workload {
            name: "128 in flight, long prompts, few pages, calls",
            prompt_tokens: 256.0..1024.0,
            pages: 2000,
            call_seconds: 0.01..1.0,
            sequences: 5000..5256,
            ..base
        },
    ]
}

/// 10,000 sequences of a rollout with calls of up to five seconds.
fn large() -> Workload {
    Workload {
        name: "large",
        sequences: 0..10_000,
        in_flight: 1024,
        pages: LARGE_PAGES[0],
        prompt_tokens: 64.0..1024.0,
        turns: 1.0..6.0,
        turn_tokens: 16.0..256.0,
        observation_tokens: 8.0..128.0,
        call_seconds: 0.01..5.0,
    }
}

/// Measures, draws the line, and compares.
fn measure(tiny: &Tiny) -> Cost {
    let weights = init::random_weights(&tiny.model, 0);
    let machine = Machine::Real(&weights);
    // The first run finds caches cold and memory untouched.
    tiny.play(&Workload { sequences: 9000..9128, ..base() }, &machine);
    let others = others();
    let mut steps = Vec::new();
    // Of each workload, what each round measured and predicted.
    let mut rounds: Vec<Vec<(Run, Run)>> = others.iter().map(|_| Vec::new()).collect();
    let calibrate =
        || calibration().iter().flat_map(|workload| tiny.play(workload, &machine).steps).collect::<Vec<Measured>>();
    for _ in 0..ROUNDS {
        // A machine is faster in one minute and slower in the next: a line is drawn through what stands before and behind.
        let mut before = calibrate();
        for (rounds, workload) in rounds.iter_mut().zip(&others) {
            let measured = tiny.play(workload, &machine);
            let behind = calibrate();
            let around = [before, behind.clone()].concat();
            rounds.push((measured, tiny.play(workload, &Machine::Simulated(Cost::fit(&around).cost))));
            before = behind;
            steps.extend(around);
        }
    }
    let fit = Cost::fit(&steps);
    let [step, chunk, prompt, prompt_key, row, row_key] = fit.cost.0.map(|seconds| seconds * 1e6);
    println!(
        "a step takes {step:.0} us + {chunk:.0} us a prompt + {prompt:.1} us a token of it + {prompt_key:.3} us a key of this + {row:.1} us a decoding sequence \
         + {row_key:.3} us a key of it"
    );
    println!(
        "through {} steps: it misses one by {:.0} % of the mean, and explains {:.1} %",
        steps.len(),
        100.0 * fit.residual,
        100.0 * fit.explained
    );
    println!(
        "{:<48}{:>9}{:>11}{:>9}{:>16}{:>16}{:>7}",
        "tokens/s, the middle of the rounds", "measured", "predicted", "error", "of all rounds", "preemptions", "batch"
    );
    let mut worst = 0.0_f64;
    for (mut rounds, workload) in rounds.into_iter().zip(&others) {
        let error = |(measured, simulated): &(Run, Run)| 100.0 * (simulated.throughput() / measured.throughput() - 1.0);
        rounds.sort_by(|a, b| error(a).total_cmp(&error(b)));
        let middle = &rounds[ROUNDS / 2];
        let (measured, simulated) = middle;
        worst = worst.max(error(middle).abs());
        println!(
            "{:<48}{:>9.0}{:>11.0}{:>7.1} %{:>16}{:>16}{:>7.0}",
            workload.name,
            measured.throughput(),
            simulated.throughput(),
            error(middle),
            format!("{:.0} to {:.0} %", error(&rounds[0]), error(&rounds[ROUNDS - 1])),
            format!("{} and {}", measured.preemptions, simulated.preemptions),
            measured.batched as f64 / measured.steps.len() as f64,
        );
    }
    println!("the worst prediction is {worst:.1} % off; {ERROR_MAX} % are allowed");
    assert!(worst < ERROR_MAX, "a prediction is worse than it may be");
    fit.cost
}

/// Simulates the large workload on one device and on several, with pages for all in flight and with fewer. The host's time is that of all
/// steps over the sequences in them, in microseconds: what a device waits for (schedule, page accounting, stops, and the scripts), and what is
/// done beside it.
fn simulate(tiny: &Tiny, cost: Cost) {
    println!("simulated, with seconds of {:?}", cost.0);
    println!(
        "{:<9}{:>13}{:>10}{:>10}{:>10}{:>7}{:>13}{:>12}{:>14}{:>11}{:>12}",
        "devices",
        "pages each",
        "seconds",
        "tokens",
        "tokens/s",
        "batch",
        "preemptions",
        "pages held",
        "calls hidden",
        "computing",
        "host, us"
    );
    for (devices, pages) in [1, DEVICES].into_iter().flat_map(|devices| LARGE_PAGES.map(|pages| (devices, pages))) {
        // Each device has its share of the sequences from the start.
        let share = |device: u64| {
            let Workload { sequences, .. } = large();
            let each = sequences.end / devices;
            Workload { sequences: device * each..(device + 1) * each, pages, ..large() }
        };
        let runs: Vec<Run> = (0..devices).map(|device| tiny.play(&share(device), &Machine::Simulated(cost))).collect();
        let total = |value: &dyn Fn(&Run) -> f64| runs.iter().map(value).sum::<f64>();
        let seconds = runs.iter().map(|run| run.seconds).fold(0.0, f64::max);
        let steps = total(&|run| run.steps.len() as f64);
        let sampled = total(&|run| run.sampled_tokens as f64);
        let batched = total(&|run| run.batched as f64);
        println!(
            "{devices:<9}{pages:>13}{seconds:>10.1}{sampled:>10}{:>10.0}{:>7.0}{:>13}{:>10.0} %{:>12.1} %{:>9.1} %{:>12}",
            sampled / seconds,
            batched / steps,
            total(&|run| run.preemptions as f64),
            100.0 * total(&|run| run.pages_held) / steps,
            100.0 * (1.0 - total(&|run| run.idle_seconds) / total(&|run| run.calls_seconds)),
            100.0 * total(&|run| run.busy_seconds) / (devices as f64 * seconds),
            format!(
                "{:.2} + {:.2}",
                1e6 * total(&|run| run.host_seconds) / batched,
                1e6 * total(&|run| run.ahead_seconds) / batched
            ),
        );
    }
}

/// The numbers behind `--cost`.
fn given_cost(arguments: &[String]) -> Option<Cost> {
    let place = arguments.iter().position(|argument| argument == "--cost")?;
    let numbers: Vec<f64> = arguments[place + 1].split(',').map(|number| number.parse().expect("a number")).collect();
    Some(Cost(
        numbers
            .try_into()
            .expect("six numbers: of a step, a prompt, a token of it, a key of this, a decoding sequence, a key of it"),
    ))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let tiny = Tiny::open();
    // As the commands do it: parallel work is shared from where it stands.
    let cost = given_cost(&arguments).unwrap_or_else(|| rayon::scope(|_| measure(&tiny)));
    if arguments.iter().any(|argument| argument == "--large") {
        simulate(&tiny, cost);
    }
}
