//! Rollouts of a fixed length: every sequence samples exactly so many tokens, whatever it says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use thyme_engine::checkpoint::{Checkpoint, init};
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{GenerateRequest, GeneratorError, StopReason, Stops};
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Model;
use thyme_engine::model::parameters::Weights;
use thyme_engine::ops::attention::PAGE_TOKENS;
use thyme_engine::prompt::{Processor, Prompt};
use thyme_engine::rollout::task::{Task, TaskPrompt};

/// A model on the CPU, ready to sample.
pub struct Policy {
    pub model: Model,
    pub weights: Weights,
    pub processor: Arc<Processor>,
}

/// A sequence that has sampled all its tokens.
pub struct Rolled {
    /// Index of its prompt.
    pub prompt: usize,
    /// What it sampled.
    pub sampled: Vec<u32>,
}

impl Policy {
    /// A checkpoint; with random weights where the folder has none.
    pub fn open(dir: &str) -> Policy {
        let checkpoint = Checkpoint::open(dir).expect("a checkpoint folder");
        let model = checkpoint.model(Arc::new(Cpu::new()));
        let has_weights =
            ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| checkpoint.dir.join(name).exists());
        let weights = match has_weights {
            true => checkpoint.weights(&model).expect("intact weights"),
            false => init::random_weights(&model, 0),
        };
        let processor = Arc::new(checkpoint.processor(None).expect("a tokenizer"));
        Policy { model, weights, processor }
    }

    /// Prompts of tasks, images prepared.
    pub fn prompts(&self, tasks: &[Task]) -> Vec<Prompt> {
        let prompt = |task: &Task| match &task.prompt {
            TaskPrompt::Conversation(messages) => self.processor.encode_messages(messages, Path::new(""), true),
            other => panic!("a task of a file begins with a conversation, and not with {other:?}"),
        };
        tasks.iter().map(prompt).collect::<Result<_, _>>().expect("tasks that can be encoded")
    }

    /// An engine with room for `batch` sequences of `tokens` after the longest prompt.
    pub fn engine(&self, prompts: &[Prompt], tokens: usize, batch: usize) -> Engine {
        let longest = prompts.iter().map(|prompt| prompt.token_ids.len()).max().unwrap_or(0) + tokens;
        let pages = (batch + prompts.len()) * (longest / PAGE_TOKENS + 2);
        let limits = EngineLimits { pages, prefill_chunk_tokens: 2048, sequences: batch };
        Engine::new(self.model.clone(), self.processor.clone(), limits)
    }
}

/// Samples `tokens` tokens at temperature 1 for `group` sequences of each prompt. A sequence that samples an image's placeholder stops, since
/// there is no picture for it; it goes on behind a token 0, which counts as one of its own.
pub fn roll_out(
    engine: &mut Engine,
    weights: &Weights,
    prompts: &[Prompt],
    group: usize,
    tokens: usize,
) -> Vec<Rolled> {
    let mut waiting = prompts.iter().enumerate().peekable();
    let mut open: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut rolled = Vec::with_capacity(prompts.len() * group);
    while waiting.peek().is_some() || !open.is_empty() {
        while let Some(&(index, prompt)) = waiting.peek() {
            let sequences: Vec<u64> = (0..group).map(|member| (index * group + member) as u64).collect();
            let request = GenerateRequest {
                token_ids: prompt.token_ids.clone(),
                images: prompt.images.clone(),
                sequences: sequences.clone(),
                stops: Stops { turn_tokens: tokens, total_tokens: tokens, ..Stops::default() },
                ..GenerateRequest::default()
            };
            match engine.open(&request) {
                Ok(()) => {
                    open.extend(sequences.into_iter().map(|number| (number, Vec::with_capacity(tokens))));
                    waiting.next();
                }
                Err(GeneratorError::Full) => break,
                Err(error) => panic!("the engine was made for these prompts: {error}"),
            }
        }
        for event in engine.step(weights).expect("the engine works") {
            let sequence = event.sequence;
            let tokens = open.get_mut(&sequence).expect("it is open");
            tokens.extend(event.token.map(|token| token.id));
            match event.stopped {
                None => {}
                Some(StopReason::Token(_)) if engine.append(sequence, &[0], &[]).is_ok() => tokens.push(0),
                Some(_) => {
                    engine.close(sequence);
                    let sampled = open.remove(&sequence).expect("it is open");
                    rolled.push(Rolled { prompt: sequence as usize / group, sampled });
                }
            }
        }
    }
    rolled
}
