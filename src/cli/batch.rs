//! `thyme-engine batch`: a file of requests is answered, and an interrupted run goes on where it stopped.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::device;
use super::inference_session::{InferenceSession, NO_ENVIRONMENT, Room, check_environment, start_environment};
use super::jsonl::JsonlWriter;
use super::loaded_checkpoint::LoadedCheckpoint;
use super::openai_batch::{self, OpenAiBatch};
use super::ordered_writer::OrderedWriter;
use super::requests::{Form, Problem, Requests};
use super::sampling::SamplingArguments;
use super::serve::ServingArguments;
use super::sft_output::SftOutput;
use crate::prompt::PixelLimits;
use crate::rollout::Update;
use crate::rollout::environment::{EnvironmentError, Tasks};
use crate::rollout::registry::Registry;
use crate::rollout::task::{Task, TaskPrompt};
use crate::rollout::trajectory::{End, Trajectory};
use crate::serve::ServerConfig;
use crate::serve::request::settings::LogprobsMode;

/// More tokens than an environment adds to a question that it puts in its own words.
const OWN_WORDS_TOKENS: usize = 4096;

const EXAMPLES: &str = r#"Examples:
  thyme-engine batch --model recipes/tiny-sft --input requests.jsonl --output answers.jsonl --temperature 0
  thyme-engine batch --model recipes/tiny-sft --input requests.jsonl --output answers.jsonl --env think_with_code --n 4
  thyme-engine batch --model recipes/tiny-sft --input requests.jsonl --output answers.jsonl --env think_with_code --sft-output demonstrations.jsonl

A request line is one of
  {"id", and one of "messages", "prompt", "token_ids"}                           (see `score --help`)
  {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}  (OpenAI's batch file)
Each of the first kind gets n reply lines, in order:
  {"id", "prompt_token_ids", "token_ids", "text", "logprobs", "finish_reason"}
Log-probs are natural, at temperature 1 or, with --logprobs-mode processed_logprobs, under the distribution sampled from; tokens that tools
brought have null. finish_reason is "stop" or "length"; with an environment it
is the name of how the trajectory ended (answered, end_of_turn, total_tokens, ...), and text holds the observations too.
Each of the second kind, whose url is /v1/chat/completions or /v1/completions, gets one line as `serve` would answer it; flags stand for fields that a body lacks:
  {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}

Replies are written in the order of the requests, each as soon as those before it are. With --resume a run that was killed goes on behind
the last whole line of its output, to the same bytes of the first form as without the kill. In an environment a single message of the user is a
question that it puts in its own words; any other conversation is taken as it is."#;

/// Answer a file of requests.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BatchArguments {
    /// Checkpoint folder, or org/name in the local Hugging Face cache.
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Requests, a JSON object a line; relative image paths start at its folder.
    #[arg(long, value_name = "A.jsonl")]
    input: PathBuf,
    /// Replies, in the same order.
    #[arg(long, value_name = "B.jsonl")]
    output: PathBuf,
    /// Go on behind the replies that the output has already; give the same flags as before.
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Begin anew where the output has replies already.
    #[arg(long)]
    overwrite: bool,
    /// Run tools as this environment does, such as think_with_code; `none` runs none.
    #[arg(long = "env", value_name = "NAME", default_value = NO_ENVIRONMENT)]
    environment: String,
    /// Also write the trajectories that the model ended itself, as demonstrations for `method = "sft"`; their images go to `images` beside it.
    #[arg(long, value_name = "C.jsonl")]
    sft_output: Option<PathBuf>,
    /// Answers to each request.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    n: u16,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    serving: ServingArguments,
}

/// Runs the command.
pub fn run(arguments: &BatchArguments, registry: &Registry) -> anyhow::Result<()> {
    if openai_batch::is_openai_batch(&arguments.input)? {
        return arguments.answer_openai_batch(registry);
    }
    device::on_workers(|| arguments.answer_requests(registry))
}

impl BatchArguments {
    fn output(&self, key: &str, ids: impl Iterator<Item = Value>) -> anyhow::Result<(JsonlWriter, usize)> {
        if self.resume {
            return JsonlWriter::resume(&self.output, &self.input, key, ids);
        }
        let has_replies = std::fs::metadata(&self.output).is_ok_and(|metadata| metadata.len() > 0);
        anyhow::ensure!(
            self.overwrite || !has_replies || self.output == self.input,
            "{} has replies already; --resume goes on behind them, --overwrite begins anew",
            self.output.display()
        );
        Ok((JsonlWriter::create(&self.output, &self.input)?, 0))
    }

    /// OpenAI's form: the routes of the server answer.
    fn answer_openai_batch(&self, registry: &Registry) -> anyhow::Result<()> {
        anyhow::ensure!(self.sft_output.is_none(), "--sft-output takes requests of the first form (see --help)");
        let batch = OpenAiBatch::read(&self.input, self.n, &self.sampling)?;
        let ids = batch.ids().map(|id| Value::String(id.to_owned()));
        let (mut output, done) = self.output("custom_id", ids)?;
        let Some(writer) = OrderedWriter::start("requests", batch.count(), done) else { return Ok(()) };
        let mut serving = self.serving.clone();
        serving.allowed_local_media_path.get_or_insert_with(|| batch.folder().join("."));
        let environment = start_environment(&self.environment, None, registry)?;
        let config = ServerConfig { environment, ..serving.config(&self.model)? };
        batch.answer(config, done, usize::from(self.serving.max_num_seqs), writer, &mut output)
    }

    /// The engine's own form: one rollout over the whole file.
    fn answer_requests(&self, registry: &Registry) -> anyhow::Result<()> {
        self.serving.refuse_openai_batch_flags()?;
        check_environment(&self.environment, registry)?;
        let requests = Requests::read(&self.input)?;
        let group = usize::from(self.n);
        let ids = requests.list.iter().flat_map(|request| std::iter::repeat_n(&request.id, group)).cloned();
        let (mut output, done) = self.output("id", ids)?;
        let Some(mut writer) = OrderedWriter::start("replies", requests.list.len() * group, done) else {
            return Ok(());
        };
        anyhow::ensure!(
            self.sft_output.is_none() || self.environment != NO_ENVIRONMENT,
            "--sft-output takes the trajectories of an environment; name one with --env, `direct` for answers without tools"
        );
        let open = |path: &PathBuf| SftOutput::open(path, &self.input, requests.folder(), done);
        let mut demonstrations = self.sft_output.as_ref().map(open).transpose()?;
        let checkpoint = LoadedCheckpoint::open(&self.model, self.serving.device)?;
        let session = InferenceSession::new(checkpoint, &self.sampling, &self.environment, group, registry)?;
        // Of a group that was written in part the rest is sampled again with it, to the same bits.
        let first = done / group;
        let mut failed = Ok(());
        let mut watch = |update: Update<'_>| {
            let Update::Finished(trajectory) = update else { return ControlFlow::Continue(()) };
            let place = (first + trajectory.task) * group + trajectory.sample;
            if place < done {
                return ControlFlow::Continue(());
            }
            let tokens = trajectory.own_tokens();
            let reply = reply(&session, &requests, first, &trajectory, self.serving.logprobs_mode);
            let reply = reply.map(|reply| (reply, trajectory));
            failed = writer.add(place, reply, tokens, &mut |place, (reply, trajectory)| {
                if let Some(demonstrations) = &mut demonstrations {
                    demonstrations.write(place, &trajectory, session.processor.image_settings())?;
                }
                output.write(&reply)
            });
            if failed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let tasks = RequestTasks { session: &session, requests: &requests, first };
        let added = if session.has_tools { OWN_WORDS_TOKENS } else { 0 };
        let prompt = |request| session.checkpoint.prompt_tokens_max(request, requests.folder()) + added;
        let prompts: Vec<usize> = requests.list[first..].par_iter().map(prompt).collect();
        let room = Room {
            sequences: usize::from(self.serving.max_num_seqs),
            cache_bytes: self.serving.cache_bytes()?,
            speculation: self.serving.speculation,
        };
        session.roll_out(&tasks, first, &prompts, room, &mut watch)?;
        failed?;
        writer.finish();
        if let Some(demonstrations) = demonstrations {
            demonstrations.finish();
        }
        Ok(())
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

fn reply<'a>(
    session: &InferenceSession,
    requests: &'a Requests,
    first: usize,
    trajectory: &Trajectory,
    mode: LogprobsMode,
) -> anyhow::Result<Reply<'a>> {
    let request = &requests.list[first + trajectory.task];
    if let End::TaskFailed(reason) = &trajectory.end {
        return Err(requests.error(request, Problem::Unopened(reason.clone())).into());
    }
    let (prompt_token_ids, token_ids) = trajectory.token_ids.split_at(trajectory.prompt_tokens);
    let logprobs = &trajectory.sampled[trajectory.prompt_tokens..];
    Ok(Reply {
        id: &request.id,
        prompt_token_ids: prompt_token_ids.to_vec(),
        token_ids: token_ids.to_vec(),
        text: text(session, trajectory),
        logprobs: logprobs.iter().map(|sampled| sampled.as_ref().map(|sampled| mode.of(sampled))).collect(),
        finish_reason: if session.has_tools { trajectory.end.name() } else { finish_reason(&trajectory.end) },
    })
}

/// The answer without the stop string that ended it; with tools the whole trajectory.
fn text(session: &InferenceSession, trajectory: &Trajectory) -> String {
    let mut text = trajectory.text();
    if !session.has_tools && trajectory.end == End::StopString {
        let first = session.settings.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        text.truncate(first.unwrap_or(text.len()));
    }
    text
}

/// The two reasons that a plain answer has.
fn finish_reason(end: &End) -> &'static str {
    if end.is_truncated() { "length" } else { "stop" }
}

/// The requests of a file from `first` on. Each becomes tokens, and its pictures are decoded, when it is about to be answered.
struct RequestTasks<'a> {
    session: &'a InferenceSession,
    requests: &'a Requests,
    first: usize,
}

impl Tasks for RequestTasks<'_> {
    fn count(&self) -> usize {
        self.requests.list.len() - self.first
    }

    fn task(&self, number: usize) -> Result<Cow<'_, Task>, EnvironmentError> {
        let (request, folder) = (&self.requests.list[self.first + number], self.requests.folder());
        if let (true, Form::Messages(messages)) = (self.session.has_tools, &request.form) {
            if request.limits != PixelLimits::default() {
                let reason =
                    "mm_processor_kwargs has no effect with --env; give max_pixels beside the pictures in its messages";
                return Err(EnvironmentError::Task(reason.to_owned()));
            }
            return Ok(Cow::Owned(Task { folder: folder.to_owned(), ..Task::of_conversation(messages.clone()) }));
        }
        let prompt = self.session.checkpoint.prompt(request, folder, self.session.max_tokens);
        let prompt = prompt.map_err(|problem| EnvironmentError::Task(problem.to_string()))?;
        let images = request.sources();
        Ok(Cow::Owned(Task {
            prompt: TaskPrompt::Tokens(prompt),
            images,
            folder: folder.to_owned(),
            ..Task::default()
        }))
    }
}
