//! `thyme-engine score`: the log-probability of every token of given sequences.

use std::path::PathBuf;

use clap::Args;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::device::Device;
use super::jsonl::JsonlWriter;
use super::loaded_checkpoint::LoadedCheckpoint;
use super::requests::{Request, RequestError, Requests};
use crate::prompt::Prompt;
use crate::recipe::optimizer::OptimizerSettings;
use crate::telemetry::Progress;
use crate::train::learner::{LearnerSettings, logprobs};
use crate::train::sample::{Layout, Pack, Sample, SampleImage, runs_by_tokens};

/// Requests whose pictures are decoded at once.
const REQUESTS_AHEAD: usize = 64;

const EXAMPLES: &str = r#"Example: thyme-engine score --model recipes/tiny-sft --input requests.jsonl --output scores.jsonl

A request line has an `id` and one of
  {"id": "a", "messages": [{"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What is it?"}]}]}
  {"id": "b", "prompt": "<|vision_start|><|image_pad|><|vision_end|>A cat", "images": ["x.png"]}
  {"id": "c", "token_ids": [151644, 872, 198]}
Its reply is {"id", "token_ids", "logprobs": [null, ...]}: the natural log of each token's probability given those before it, at
temperature 1. Messages are scored as they stand, without a generation prompt."#;

/// Give the log-probability of every token of given sequences.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ScoreArguments {
    /// Checkpoint folder, or org/name in the local Hugging Face cache.
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Requests, a JSON object a line; relative image paths start at its folder.
    #[arg(long, value_name = "A.jsonl")]
    input: PathBuf,
    /// Replies, in the same order.
    #[arg(long, value_name = "B.jsonl")]
    output: PathBuf,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
    /// Tokens computed together; a longer sequence stands alone.
    #[arg(long, value_name = "N", default_value_t = 4096, hide_short_help = true)]
    batch_tokens: usize,
}

#[derive(Serialize)]
struct Reply<'a> {
    id: &'a Value,
    token_ids: &'a [u32],
    logprobs: &'a [Option<f32>],
}

/// Runs the command.
pub fn run(arguments: &ScoreArguments) -> anyhow::Result<()> {
    let requests = Requests::read(&arguments.input)?;
    let checkpoint = LoadedCheckpoint::open(&arguments.model, arguments.device)?;
    let mut output = JsonlWriter::create(&arguments.output, &arguments.input)?;
    let progress = Progress::new("score", "sequences", requests.list.len() as u64);
    for some in requests.list.chunks(REQUESTS_AHEAD) {
        let (prompts, usable) = prepare(&checkpoint, &requests, some);
        let samples: Vec<Sample> = prompts.into_iter().map(sample).collect();
        let tokens: Vec<usize> = samples.iter().map(Sample::tokens).collect();
        for run in runs_by_tokens(&tokens, arguments.batch_tokens) {
            write_replies(&mut output, &checkpoint, &some[run.clone()], &samples[run.clone()])?;
            progress.advance(run.len() as u64);
        }
        usable?;
    }
    progress.finish();
    Ok(())
}

/// Makes several requests ready, in parallel: as many as come before the first that cannot be used, and what is wrong with that one.
fn prepare(
    checkpoint: &LoadedCheckpoint,
    requests: &Requests,
    some: &[Request],
) -> (Vec<Prompt>, Result<(), RequestError>) {
    let prepared: Vec<_> = some.par_iter().map(|request| checkpoint.prompt(request, requests.folder(), 0)).collect();
    let mut prompts = Vec::with_capacity(prepared.len());
    for (request, prompt) in some.iter().zip(prepared) {
        match prompt {
            Ok(prompt) => prompts.push(prompt),
            Err(problem) => return (prompts, Err(requests.error(request, problem))),
        }
    }
    (prompts, Ok(()))
}

/// A sequence of which every token is wanted.
fn sample(prompt: Prompt) -> Sample {
    Sample {
        trained: vec![true; prompt.token_ids.len()],
        ids: prompt.token_ids,
        images: prompt.images.into_iter().map(|prepared| SampleImage { prepared, unmerged_features: None }).collect(),
    }
}

/// Scores sequences in one forward.
fn write_replies(
    output: &mut JsonlWriter,
    checkpoint: &LoadedCheckpoint,
    requests: &[Request],
    samples: &[Sample],
) -> anyhow::Result<()> {
    let config = &checkpoint.model.config;
    let layout = Layout { merge: config.merge(), image_pad: config.image_pad };
    let pack = Pack::new(&samples.iter().collect::<Vec<_>>(), layout);
    let raw = match pack.targets.len() {
        0 => Vec::new(),
        targets => {
            logprobs(&checkpoint.model, &checkpoint.weights, &pack, &vec![1.0; targets], &settings(checkpoint)).logprob
        }
    };
    let mut replies: Vec<Vec<Option<f32>>> = samples.iter().map(|sample| vec![None; sample.tokens()]).collect();
    for (&(number, position), &logprob) in pack.places.iter().zip(&raw) {
        replies[number][position] = Some(logprob);
    }
    for ((request, sample), logprobs) in requests.iter().zip(samples).zip(&replies) {
        output.write(&Reply { id: &request.id, token_ids: &sample.ids, logprobs })?;
    }
    Ok(())
}

/// Nothing is learned, so that only the pixels' scale counts.
fn settings(checkpoint: &LoadedCheckpoint) -> LearnerSettings {
    LearnerSettings {
        optimizer: OptimizerSettings::default(),
        freeze_vision_tower: true,
        freeze_merger: true,
        activation_recompute: false,
        pixel_scale: checkpoint.pixel_scale(),
    }
}
