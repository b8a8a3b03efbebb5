//! What drafts bring: tokens a second with them beside without, in one run, and the share of drafted tokens that come true.
//!
//! Texts: a model of 6 layers of 640 with random weights computes every token, but what it says is a given text: files of this repository
//! with a name replaced behind the same files, an implementation behind its contract, JSON records, prose. So the work is real, and drafts come true
//! as often as they would for a model that writes this. Rollouts: the recipe's, of the shipped model, with its tool.
//!
//!     cargo bench --bench speculation                  (behind `--`, words of the rows that are wanted: JSON rollouts)

#[path = "../tests/it/support/over_cpu.rs"]
mod over_cpu;
#[path = "policy/wide.rs"]
mod wide;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use over_cpu::delegate_ops;
use thyme_engine::checkpoint::{Checkpoint, init};
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{GenerateRequest, Stops, TokenEvent};
use thyme_engine::engine::speculation::Speculation;
use thyme_engine::engine::{Engine, EngineLimits, Statistics};
use thyme_engine::model::Model;
use thyme_engine::model::parameters::Weights;
use thyme_engine::ops::Tensor;
use thyme_engine::ops::sample::{Sample, SampledToken, SamplingParams};
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::layers;
use thyme_engine::recipe::plan::Plan;
use thyme_engine::rollout::engine_generator::EngineGenerator;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::trajectory::Trajectory;
use thyme_engine::rollout::{RolloutSettings, run};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::sizes::engine_limits;

/// Sequences at once.
const SIZES: [usize; 4] = [1, 4, 16, 96];
/// Tokens of a text: its prompt at most, and what is said.
const PROMPT: usize = 256;
const SAID: usize = 160;
/// Runs of each variant, in turn; the fastest counts.
const REPEATS: usize = 5;

/// The name of their rows.
const ROLLOUTS: &str = "rollouts of recipes/grpo_ats.toml";

const VARIANTS: [Speculation; 3] = [Speculation::Off, Speculation::Auto, Speculation::Always];

/// What a variant did.
struct Measured {
    tokens: usize,
    seconds: f64,
    statistics: Statistics,
}

/// The CPU, but each sequence says its text.
struct Reciting {
    cpu: Cpu,
    texts: Mutex<Vec<Vec<u32>>>,
}

impl Reciting {
    fn call<T>(&self, _op: &'static str, compute: impl FnOnce(&Cpu) -> T) -> T {
        compute(&self.cpu)
    }
}

delegate_ops!(Reciting, except Sample);

impl Sample for Reciting {
    fn logits(&self, h: &Tensor, w: &Tensor) -> Tensor {
        self.cpu.logits(h, w)
    }

    fn sample_overlapped(
        &self,
        logits: &Tensor,
        row_params: &[SamplingParams<'_>],
        excluded: &[u32],
        _: &mut dyn FnMut(&Tensor),
    ) -> Vec<SampledToken> {
        let texts = self.texts.lock().unwrap();
        let told = |params: &SamplingParams<'_>| texts[params.sequence as usize][params.position as usize];
        let sampled = self.cpu.sample(logits, row_params, excluded).into_iter().zip(row_params);
        sampled.map(|(sampled, params)| SampledToken { token: told(params), ..sampled }).collect()
    }
}

/// A prompt and what is said behind it.
type Text = (Vec<u32>, Vec<u32>);

fn main() {
    println!(
        "{:<38}{:>10}{:>12}{:>9}{:>9}{:>24}{:>24}",
        "", "sequences", "tokens/s", "auto", "always", "auto: came true", "always: came true"
    );
    rayon::scope(|_| {
        texts();
        rollouts();
    });
}

/// Whether a row of that name is asked for.
fn is_wanted(name: &str) -> bool {
    let mut wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    wanted.peek().is_none() || wanted.any(|word| name.contains(&word))
}

/// Measures the variants in turn and prints a row.
fn compare(name: &str, sequences: usize, mut measure: impl FnMut(Speculation) -> Measured) {
    let mut best: [Option<Measured>; 3] = [None, None, None];
    for _ in 0..REPEATS {
        for (best, variant) in best.iter_mut().zip(VARIANTS) {
            let measured = measure(variant);
            if best.as_ref().is_none_or(|best| measured.seconds < best.seconds) {
                *best = Some(measured);
            }
        }
    }
    let [off, auto, always] = best.map(|measured| measured.expect("every variant ran"));
    assert!([&auto, &always].iter().all(|other| other.tokens == off.tokens), "drafts change no token");
    let ratio = |measured: &Measured| format!("{:.2}x", off.seconds / measured.seconds);
    let came_true = |Measured { statistics, .. }: &Measured| {
        let share = 100.0 * statistics.accepted_tokens as f64 / statistics.drafted_tokens.max(1) as f64;
        format!("{} of {} ({share:.0} %)", statistics.accepted_tokens, statistics.drafted_tokens)
    };
    println!(
        "{name:<38}{sequences:>10}{:>12.0}{:>9}{:>9}{:>24}{:>24}",
        off.tokens as f64 / off.seconds,
        ratio(&auto),
        ratio(&always),
        came_true(&auto),
        came_true(&always)
    );
}

fn texts() {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let ops = ["gelu", "swiglu", "rms_norm", "layer_norm", "embedding", "rope", "rows", "adamw", "grad_norm"];
    let code = |op: &&str| file(&format!("src/cpu/{op}.rs"));
    let rewrite = |op: &&str| (code(op), code(op).replace("rows", "lines").replace("simd", "lanes"));
    let implementation = |op: &&str| (file(&format!("src/ops/{op}.rs")), file(&format!("src/reference/{op}.rs")));
    let json = (0..9).map(|seed| (records(seed, 0..4), records(seed, 4..40)));
    let readme = file("README.md");
    let paragraphs: Vec<&str> = readme.split("\n## ").collect();
    let prose = paragraphs.windows(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned()));
    let kinds: [(&str, Vec<(String, String)>); 4] = [
        ("code, written again with new names", ops.iter().map(rewrite).collect()),
        ("code, behind its contract", ops.iter().map(implementation).collect()),
        ("JSON records", json.collect()),
        ("prose", prose.collect()),
    ];
    let reciter = Reciter::new();
    for (name, texts) in kinds.into_iter().filter(|(name, _)| is_wanted(name)) {
        let texts: Vec<Text> = texts.iter().filter_map(|(before, said)| text(before, said)).collect();
        assert!(texts.len() >= 4, "{name}: texts of enough tokens");
        for sequences in SIZES.into_iter().filter(|&sequences| sequences <= 16) {
            let texts: Vec<Text> = texts.iter().cycle().take(sequences).cloned().collect();
            compare(name, sequences, |speculation| reciter.recite(&texts, speculation));
        }
    }
}

/// Records as a program prints them.
fn records(seed: usize, numbers: std::ops::Range<usize>) -> String {
    let names = ["crate", "plate", "stone", "river", "engine", "mirror", "garden", "window"];
    let record = |i: usize| {
        let pick = |salt: usize| (i * 7919 + seed * 104_729 + salt * 31) % 997;
        format!(
            "  {{\n    \"id\": {i},\n    \"name\": \"{}\",\n    \"box\": [{}, {}, {}, {}],\n    \"confidence\": 0.{},\n    \"is_visible\": {}\n  }},\n",
            names[pick(1) % names.len()],
            pick(2),
            pick(3),
            pick(4),
            pick(5),
            pick(6),
            pick(7) % 3 > 0
        )
    };
    numbers.map(record).collect()
}

/// Token ids of a prompt and of what is said, if that is enough: pieces of words, signs and runs of spaces, numbered by a hash.
fn text(before: &str, said: &str) -> Option<Text> {
    let class = |c: char| {
        if c.is_alphanumeric() {
            0
        } else if c.is_whitespace() {
            1
        } else {
            2
        }
    };
    let ids = |text: &str| -> Vec<u32> {
        let mut pieces: Vec<String> = Vec::new();
        for c in text.chars() {
            match pieces.last_mut() {
                Some(piece) if class(c) < 2 && piece.len() < 6 && piece.ends_with(|last| class(last) == class(c)) => {
                    piece.push(c);
                }
                _ => pieces.push(c.to_string()),
            }
        }
        let hash =
            |piece: &String| piece.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        pieces.iter().map(|piece| 1024 + hash(piece) % (wide::VOCAB as u32 - 1024)).collect()
    };
    let (mut before, mut said) = (ids(before), ids(said));
    before.truncate(PROMPT);
    said.truncate(SAID);
    (said.len() == SAID).then_some((before, said))
}

/// The model that says texts.
struct Reciter {
    backend: Arc<Reciting>,
    model: Model,
    weights: Weights,
    processor: Arc<Processor>,
}

impl Reciter {
    fn new() -> Reciter {
        let backend = Arc::new(Reciting { cpu: Cpu::new(), texts: Mutex::default() });
        let model = Model::new(wide::config(), backend.clone());
        let weights = init::random_weights(&model, 0);
        let tiny = Checkpoint::open("recipes/tiny").expect("a config");
        let processor = Arc::new(tiny.processor(None).expect("a tokenizer"));
        Reciter { backend, model, weights, processor }
    }

    /// Lets a sequence say each text, all at once.
    fn recite(&self, texts: &[Text], speculation: Speculation) -> Measured {
        *self.backend.texts.lock().unwrap() =
            texts.iter().map(|(before, said)| [before.as_slice(), said].concat()).collect();
        let limits = EngineLimits {
            pages: texts.len() * 40,
            prefill_chunk_tokens: texts.len() * PROMPT,
            sequences: texts.len(),
        };
        let engine = Engine::new(self.model.clone(), self.processor.clone(), limits);
        let mut engine = engine.with_speculation(speculation);
        for (number, (before, _)) in (0..).zip(texts) {
            engine.open(&request(number, before.clone())).expect("room for all");
        }
        // One step computes all prompts, before the time begins.
        let sampled = |events: &[TokenEvent]| events.iter().filter(|event| event.token.is_some()).count();
        assert_eq!(sampled(&engine.step(&self.weights).expect("a step")), texts.len());
        let (began, mut tokens) = (Instant::now(), 0);
        while tokens < texts.len() * (SAID - 1) {
            tokens += sampled(&engine.step(&self.weights).expect("a step"));
        }
        let seconds = began.elapsed().as_secs_f64();
        Measured { tokens, seconds, statistics: engine.statistics() }
    }
}

fn request(number: u64, token_ids: Vec<u32>) -> GenerateRequest {
    GenerateRequest {
        token_ids,
        sequences: vec![number],
        stops: Stops { turn_tokens: SAID, total_tokens: SAID, ..Stops::default() },
        ..GenerateRequest::default()
    }
}

/// The recipe's rollouts, so many sequences at once: alone with their prompts, and in the recipe's own groups.
fn rollouts() {
    if !is_wanted(ROLLOUTS) {
        return;
    }
    let plan = layers::load(Path::new("recipes/grpo_ats.toml"), &[]).expect("a recipe");
    let plan = Plan::new(plan, &Default::default()).expect("a recipe that can be run");
    let dataset = Dataset::held_out_needle(None);
    let checkpoint = Checkpoint::open("recipes/tiny-sft").expect("a config");
    let model = checkpoint.model(Arc::new(Cpu::new()));
    let weights = checkpoint.weights(&model).expect("intact weights");
    let processor = Arc::new(checkpoint.processor(None).expect("a tokenizer"));
    let recipe = &plan.recipe;
    let (environment, tools) = recipe.environment_and_tools();
    let environment = plan.registry.environment(environment, &tools).expect("an environment with its tool");
    for sequences in SIZES {
        let group_size = recipe.grpo.num_generations.min(sequences);
        let at_once = sequences / group_size;
        // As many sequences in all, but fewer where they come one by one.
        let total = (12 * sequences).min(96);
        let task = |number: usize| {
            let task = dataset.task(number as u64).expect("the built-in task");
            let prompt = match &task.prompt {
                TaskPrompt::Conversation(messages) => processor.encode_messages(messages, Path::new(""), true),
                other => panic!("the built-in task begins with a conversation, and not with {other:?}"),
            };
            let prompt = prompt.expect("a prompt");
            Task { prompt: TaskPrompt::Tokens(prompt), ..task }
        };
        let tasks: Vec<Task> = (0..total / group_size).map(task).collect();
        compare(ROLLOUTS, sequences, |speculation| {
            let limits = engine_limits(&plan, model.backend.activation_bytes());
            let mut engine = Engine::new(model.clone(), processor.clone(), limits).with_speculation(speculation);
            let began = Instant::now();
            let mut tokens = 0;
            for (step, tasks) in tasks.chunks(at_once).enumerate() {
                let settings = RolloutSettings {
                    group_size,
                    first_task: step * at_once,
                    seed: recipe.seed,
                    sampling: recipe.sampling.clone(),
                    ..RolloutSettings::default()
                };
                let mut generator = EngineGenerator { engine: &mut engine, weights: &weights };
                let groups = run(&mut generator, &processor, &*environment, tasks, &settings).expect("a rollout");
                let trajectories = groups.iter().flat_map(|group| &group.trajectories);
                tokens += trajectories.map(Trajectory::own_tokens).sum::<usize>();
            }
            Measured { tokens, seconds: began.elapsed().as_secs_f64(), statistics: engine.statistics() }
        });
    }
}
