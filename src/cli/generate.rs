//! `thyme-engine generate`: answers in bulk, or one streamed to the terminal; with an environment, tools run on the way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::device::Device;
use super::generation_config::GenerationConfig;
use super::lines::{Lines, print};
use super::loaded::Loaded;
use super::requests::{Form, Problem, Requests};
use crate::engine::kv_cache::KvCache;
use crate::engine::{Engine, EngineLimits};
use crate::ops::attention::PAGE_TOKENS;
use crate::prompt::{ImageSource, Message, Part, Processor};
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::{Environment, EnvironmentError, Task, Tasks};
use crate::rollout::environments::direct::Direct;
use crate::rollout::generator::Sampling;
use crate::rollout::repetition::RepetitionSettings;
use crate::rollout::tool::{ToolImage, ToolOutput};
use crate::rollout::transcript::{End, Transcript};
use crate::rollout::{RolloutSettings, Update, registry, run_watched};
use crate::telemetry::Progress;

/// Tokens of an answer where neither a flag nor `generation_config.json` says.
const MAX_TOKENS: usize = 1024;
/// Keys and values that are kept at most, unless one group alone needs more.
const CACHE_BYTES: usize = 4 << 30;
/// Sequences decoded together.
const SEQUENCES: usize = 64;
/// Prompt tokens of one forward.
const PREFILL_TOKENS: usize = 2048;
/// Lower positive temperatures are raised to this one, as in vLLM.
const TEMPERATURE_MIN: f32 = 0.01;

const EXAMPLES: &str = r#"Examples:
  thyme-engine generate --model recipes/tiny-sft --image photo.png "What digit is on the red plate?"
  thyme-engine generate --model recipes/tiny-sft --input requests.jsonl --output answers.jsonl --temperature 0
  thyme-engine generate --model recipes/tiny-sft --input requests.jsonl --output answers.jsonl --env think_with_code --n 4

With a question the answer is streamed to the terminal; if images are given, the model may run code on them (--env none forbids it), and
each crop that it makes is saved. With --input and --output each request line (see `score --help`) gets n reply lines, in order:
  {"id", "prompt_token_ids", "token_ids", "text", "logprobs", "finish_reason"}
Log-probs are natural, at temperature 1; tokens that tools brought have null. finish_reason is "stop" or "length"; with an environment it
is the name of how the trajectory ended (answered, end_of_turn, total_tokens, ...), and text holds the observations too.
Sampling defaults come from the checkpoint's generation_config.json."#;

/// Let a model answer, in bulk or one question on the terminal.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArguments {
    /// Checkpoint folder, or org/name in the local Hugging Face cache.
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Requests, a JSON object a line; relative image paths start at its folder.
    #[arg(long, value_name = "A.jsonl", requires = "output", conflicts_with_all = ["question", "image"])]
    input: Option<PathBuf>,
    /// Replies, in the same order.
    #[arg(long, value_name = "B.jsonl", requires = "input")]
    output: Option<PathBuf>,
    /// A picture that the question is about; may be given several times.
    #[arg(long, value_name = "X", requires = "question")]
    image: Vec<PathBuf>,
    /// One question; its answer is streamed to the terminal.
    #[arg(required_unless_present = "input")]
    question: Option<String>,
    /// With a question: the system message; without it the environment's own.
    #[arg(long, value_name = "TEXT", requires = "question")]
    system: Option<String>,
    /// With a question: the folder for crops.
    #[arg(long, value_name = "DIR", default_value = "crops")]
    crops: PathBuf,
    /// Run tools as this environment does.
    #[arg(long = "env", value_enum, value_name = "NAME")]
    environment: Option<EnvironmentName>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// What the model may do besides writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum EnvironmentName {
    /// Nothing.
    None,
    /// Run Python between <code> and </code>.
    ThinkWithCode,
}

/// How tokens are drawn, where it differs from `generation_config.json`.
#[derive(Debug, Args)]
struct SamplingArguments {
    /// 0 draws the likeliest token.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the likeliest tokens with at least this mass; 1 keeps all.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep the K likeliest tokens; 0 or -1 keeps all.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<i64>,
    /// Keep tokens of at least this share of the likeliest's probability.
    #[arg(long, value_name = "P", hide_short_help = true, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Above 1 makes tokens that are in the sequence less likely.
    #[arg(long, value_name = "X", hide_short_help = true, allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Temperature inside code, with an environment.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    code_temperature: f32,
    /// Tokens after the prompt; 1024 where generation_config.json has no max_new_tokens either.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Seed of the random draws.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Text that ends an answer and is left out of it; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Answers to each request.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    n: u16,
}

/// Runs the command.
pub fn run(arguments: GenerateArguments) -> anyhow::Result<()> {
    let requests = arguments.input.as_deref().map(Requests::read).transpose()?;
    let loaded = Loaded::open(&arguments.model, arguments.device)?;
    let (settings, max_tokens) = arguments.sampling.settings(&loaded.dir)?;
    let command = Command::new(&arguments, loaded, settings, max_tokens)?;
    match (requests, &arguments.output, &arguments.question) {
        (Some(requests), Some(output), _) => command.answer_all(&requests, output),
        (_, _, Some(question)) => command.stream(&arguments, question),
        _ => anyhow::bail!("give a question, or --input and --output"),
    }
}

/// What both forms need.
struct Command {
    loaded: Loaded,
    processor: Arc<Processor>,
    environment: Arc<dyn Environment>,
    settings: RolloutSettings,
    max_tokens: usize,
    has_tools: bool,
}

impl Command {
    fn new(
        arguments: &GenerateArguments,
        loaded: Loaded,
        mut settings: RolloutSettings,
        max_tokens: usize,
    ) -> anyhow::Result<Command> {
        // A picture on the terminal is there to be looked at closely.
        let default = match arguments.image.is_empty() {
            true => EnvironmentName::None,
            false => EnvironmentName::ThinkWithCode,
        };
        let has_tools = arguments.environment.unwrap_or(default) == EnvironmentName::ThinkWithCode;
        let environment: Arc<dyn Environment> = if has_tools {
            settings.sampling.code_temperature = Some(arguments.sampling.code_temperature);
            let mut table = toml::Table::new();
            if arguments.sampling.max_tokens.is_some() {
                table.insert("max_total_tokens".to_owned(), (max_tokens as i64).into());
                table.insert("max_turn_tokens".to_owned(), (max_tokens as i64).into());
            }
            registry::environment("think_with_code", table, || registry::tool("python", toml::Table::new()))?
        } else {
            settings.repetition = RepetitionSettings { share: 1.0, ..settings.repetition };
            Arc::new(Direct { max_turn_tokens: max_tokens, max_total_tokens: max_tokens })
        };
        Ok(Command { processor: loaded.processor()?, loaded, environment, settings, max_tokens, has_tools })
    }

    /// The bulk form: one rollout over the whole file. A reply is written as soon as those before it are; until then it waits without its
    /// pictures.
    fn answer_all(&self, requests: &Requests, output: &Path) -> anyhow::Result<()> {
        let mut output = Lines::create(output, &requests.path)?;
        let group = self.settings.group_size;
        let progress = Progress::new("generate", "sequences", (requests.list.len() * group) as u64);
        let (mut waiting, mut next, mut written) = (BTreeMap::new(), 0, Ok(()));
        let mut watch = |update: Update<'_>| {
            let Update::Finished(transcript) = update else { return ControlFlow::Continue(()) };
            progress.advance(1);
            waiting.insert(transcript.task * group + transcript.sample, self.reply(requests, transcript));
            while let Some(reply) = waiting.remove(&next) {
                next += 1;
                written = reply.and_then(|reply| output.write(&reply));
                if written.is_err() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        let tasks = RequestTasks { loaded: &self.loaded, requests, answer_tokens: self.max_tokens };
        let prompt = |request| self.loaded.prompt_tokens_max(request, requests.folder());
        let prompts: Vec<usize> = requests.list.par_iter().map(prompt).collect();
        self.roll_out(&tasks, &prompts, &mut watch)?;
        written?;
        progress.finish();
        Ok(())
    }

    /// Rolls tasks out, whose prompts have at most as many tokens as `prompts` says.
    fn roll_out(
        &self,
        tasks: &dyn Tasks,
        prompts: &[usize],
        watch: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let limits = self.engine_limits(prompts);
        let mut engine = Engine::new(self.loaded.model.clone(), self.processor.clone(), limits);
        let mut generator = EngineGenerator { engine: &mut engine, weights: &self.loaded.weights };
        run_watched(&mut generator, &self.processor, &*self.environment, tasks, &self.settings, watch)?;
        Ok(())
    }

    /// Pages for the largest groups that can run together, or as many as memory should hold, but always for the largest alone.
    fn engine_limits(&self, prompts: &[usize]) -> EngineLimits {
        let (config, group) = (&self.loaded.model.config, self.settings.group_size);
        let total = self.environment.limits().total;
        let pages = |prompt: &usize| {
            let longest = prompt.saturating_add(total).min(config.context_tokens).div_ceil(PAGE_TOKENS);
            // A shorter prompt may end elsewhere in its page, and its answer then touch one page more.
            let own = (total.div_ceil(PAGE_TOKENS) + 1).min(longest);
            longest + own * (group - 1)
        };
        let mut needed: Vec<usize> = prompts.iter().map(pages).collect();
        needed.sort_unstable_by(|a, b| b.cmp(a));
        needed.truncate(SEQUENCES.div_ceil(group));
        let affordable = CACHE_BYTES / KvCache::page_bytes(config, self.loaded.model.backend.activation_bytes());
        let largest = needed.first().copied().unwrap_or(0);
        let pages = needed.iter().sum::<usize>().min(affordable).max(largest);
        EngineLimits { pages, prefill_chunk_tokens: PREFILL_TOKENS, sequences: SEQUENCES }
    }

    fn reply<'a>(&self, requests: &'a Requests, transcript: Transcript) -> anyhow::Result<Reply<'a>> {
        let request = &requests.list[transcript.task];
        if let End::TaskFailed(reason) = transcript.end {
            return Err(requests.error(request, Problem::Unopened(reason)).into());
        }
        let (prompt_token_ids, token_ids) = transcript.token_ids.split_at(transcript.prompt_tokens);
        let logprobs = &transcript.sampled[transcript.prompt_tokens..];
        Ok(Reply {
            id: &request.id,
            prompt_token_ids: prompt_token_ids.to_vec(),
            token_ids: token_ids.to_vec(),
            text: self.text(&transcript),
            logprobs: logprobs.iter().map(|sampled| Some(sampled.as_ref()?.raw)).collect(),
            finish_reason: if self.has_tools { transcript.end.name() } else { finish_reason(&transcript.end) },
        })
    }

    /// The answer without the stop string that ended it; with tools the whole trajectory.
    fn text(&self, transcript: &Transcript) -> String {
        let mut text = transcript.text();
        if !self.has_tools && transcript.end == End::StopString {
            let first = self.settings.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
            text.truncate(first.unwrap_or(text.len()));
        }
        text
    }

    /// The terminal form.
    fn stream(&self, arguments: &GenerateArguments, question: &str) -> anyhow::Result<()> {
        let task = self.question_task(arguments, question)?;
        let mut crops = Crops { folder: &arguments.crops, saved: 0 };
        let (mut said, mut end) = (Ok(()), None);
        let mut watch = |update: Update<'_>| {
            let step = match update {
                Update::Text { text, .. } => print(text).map(drop),
                Update::Observed { call, text, .. } => crops.show(&call.output, text),
                Update::Finished(transcript) => {
                    end = Some(transcript.end);
                    Ok(())
                }
            };
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    said = Err(error);
                    ControlFlow::Break(())
                }
            }
        };
        // The environment makes the prompt; it may take the whole context.
        let context = self.loaded.model.config.context_tokens;
        self.roll_out(&std::slice::from_ref(&task), &[context], &mut watch)?;
        said?;
        print("\n")?;
        match end {
            Some(End::TaskFailed(reason) | End::ToolFailed(reason)) => anyhow::bail!("{reason}"),
            Some(End::PromptTooLong { needed, limit }) => anyhow::bail!(
                "the prompt and its answer take {needed} tokens of {limit}; give a smaller image or a shorter question"
            ),
            Some(end) if end.is_truncated() => eprintln!("(cut off: {}; --max-tokens gives more)", end.name()),
            _ => {}
        }
        Ok(())
    }

    /// The question as the environment puts it, or plainly under the given system message.
    fn question_task(&self, arguments: &GenerateArguments, question: &str) -> anyhow::Result<Task> {
        let images: Vec<ImageSource> = arguments.image.iter().cloned().map(ImageSource::Path).collect();
        for source in &images {
            source.load(Path::new(""))?;
        }
        let mut messages = Vec::new();
        if !self.has_tools || arguments.system.is_some() {
            messages.extend(arguments.system.as_ref().map(|system| Message::text("system", system)));
            // With tools as Thyme's data has it: the image, a new line, the question.
            let text = if self.has_tools { format!("\n{question}") } else { question.to_owned() };
            let parts = images.iter().cloned().map(Part::Image).chain([Part::Text(text)]);
            messages.push(Message::new("user", parts.collect()));
        }
        Ok(Task { question: question.to_owned(), messages, images, ..Task::default() })
    }
}

#[derive(Serialize)]
struct Reply<'a> {
    id: &'a Value,
    prompt_token_ids: Vec<u32>,
    token_ids: Vec<u32>,
    text: String,
    logprobs: Vec<Option<f32>>,
    finish_reason: &'static str,
}

/// The two reasons that a plain answer has.
fn finish_reason(end: &End) -> &'static str {
    if end.is_truncated() { "length" } else { "stop" }
}

/// The requests of a file. Each becomes tokens, and its pictures are decoded, when it is about to be answered.
struct RequestTasks<'a> {
    loaded: &'a Loaded,
    requests: &'a Requests,
    answer_tokens: usize,
}

impl Tasks for RequestTasks<'_> {
    fn count(&self) -> usize {
        self.requests.list.len()
    }

    fn task(&self, number: usize) -> Result<Cow<'_, Task>, EnvironmentError> {
        let (request, folder) = (&self.requests.list[number], self.requests.folder());
        let prompt = self.loaded.prompt(request, folder, self.answer_tokens);
        let question = match &request.form {
            Form::Prompt(text) => text.clone(),
            Form::Messages(_) | Form::TokenIds(_) => String::new(),
        };
        Ok(Cow::Owned(Task {
            question,
            prompt: Some(prompt.map_err(|problem| EnvironmentError::Task(problem.to_string()))?),
            images: request.sources(),
            folder: folder.to_owned(),
            ..Task::default()
        }))
    }
}

/// Where the terminal form puts what tools made.
struct Crops<'a> {
    folder: &'a Path,
    saved: usize,
}

impl Crops<'_> {
    /// Shows an observation and says where each of its images was saved.
    fn show(&mut self, output: &ToolOutput, text: &str) -> anyhow::Result<()> {
        print(&format!("\n{text}\n"))?;
        for image in &output.images {
            let path = self.save(image)?;
            let (width, height) = image.pixels.dimensions();
            print(&format!("[{width}x{height} image saved as {}]\n", path.display()))?;
        }
        Ok(())
    }

    fn save(&mut self, image: &ToolImage) -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(self.folder).with_context(|| {
            format!("cannot make the folder {}; choose another with --crops", self.folder.display())
        })?;
        self.saved += 1;
        let path = self.folder.join(format!("{}-{}", self.saved, image.name));
        std::fs::write(&path, &*image.bytes)
            .with_context(|| format!("cannot write {}; free some space or choose another --crops", path.display()))?;
        Ok(path)
    }
}

impl SamplingArguments {
    /// Flags over `generation_config.json` over the defaults of the type; and the tokens of an answer.
    fn settings(&self, dir: &Path) -> anyhow::Result<(RolloutSettings, usize)> {
        let config = GenerationConfig::open(dir)?;
        let default = Sampling::default();
        let top_k = self.top_k.or(config.number("top_k")?.map(|k| k as i64)).unwrap_or(0);
        let pick = |flag: Option<f32>, key, default: f32| {
            Ok::<f32, anyhow::Error>(flag.or(config.number(key)?.map(|value| value as f32)).unwrap_or(default))
        };
        let temperature = pick(self.temperature, "temperature", default.temperature)?;
        let sampling = Sampling {
            temperature: if temperature > 0.0 { temperature.max(TEMPERATURE_MIN) } else { temperature },
            top_k: usize::try_from(top_k.max(0)).unwrap_or(0),
            top_p: pick(self.top_p, "top_p", default.top_p)?,
            min_p: pick(self.min_p, "min_p", default.min_p)?,
            repetition_penalty: pick(self.repetition_penalty, "repetition_penalty", default.repetition_penalty)?,
            code_temperature: None,
        };
        let max_tokens = self.max_tokens.or(config.number("max_new_tokens")?.map(|n| n as usize)).unwrap_or(MAX_TOKENS);
        check("--top-k", top_k as f64, (-1.0..).contains(&(top_k as f64)), "-1 or more")?;
        self.check(&sampling, max_tokens)?;
        let settings = RolloutSettings {
            group_size: usize::from(self.n),
            seed: self.seed,
            sampling,
            stop: self.stop.clone(),
            ..RolloutSettings::default()
        };
        Ok((settings, max_tokens))
    }

    fn check(&self, sampling: &Sampling, max_tokens: usize) -> anyhow::Result<()> {
        let finite = |value: f32| value.is_finite() && value >= 0.0;
        check("--temperature", sampling.temperature, finite(sampling.temperature), "0 or more")?;
        check("--code-temperature", self.code_temperature, finite(self.code_temperature), "0 or more")?;
        check("--top-p", sampling.top_p, sampling.top_p > 0.0 && sampling.top_p <= 1.0, "above 0 and at most 1")?;
        check("--min-p", sampling.min_p, (0.0..=1.0).contains(&sampling.min_p), "between 0 and 1")?;
        let penalty = sampling.repetition_penalty;
        check("--repetition-penalty", penalty, penalty.is_finite() && penalty > 0.0, "above 0")?;
        check("--max-tokens", max_tokens, max_tokens > 0, "1 or more")?;
        anyhow::ensure!(!self.stop.iter().any(String::is_empty), "--stop is empty; give the text that ends an answer");
        Ok(())
    }
}

fn check(flag: &str, value: impl std::fmt::Display, holds: bool, range: &str) -> anyhow::Result<()> {
    anyhow::ensure!(holds, "{flag} (or its key in generation_config.json) is {value}; it must be {range}");
    Ok(())
}
