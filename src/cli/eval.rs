//! `thyme-engine eval`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::data::variant;
use super::device::Device;
use super::isolated::renderer;
use super::jsonl::refuse_input;
use super::pass_rates::PassRates;
use super::sft_output::SftOutput;
use crate::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::engine::sizing::{EngineSize, PageDemand};
use crate::eval::figures::figure;
use crate::eval::predictions::{Column, PredictionError, score_lines};
use crate::eval::selection::accepted;
use crate::eval::{Evaluation, evaluate_sampled, faults, greedy, sample};
use crate::files::lines::JsonLines;
use crate::files::open::{replace, write_output};
use crate::prompt::ImageSettings;
use crate::recipe::{Method, Recipe, layers};
use crate::rollout::RolloutSettings;
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::Environment;
use crate::rollout::generator::Sampling;
use crate::rollout::registry::{DEFAULT_ENVIRONMENT, Registry};
use crate::rollout::retry::{Retried, RetrySettings};
use crate::rollout::reward_set::{RewardSet, RewardSettings};
use crate::rollout::task::Task;
use crate::telemetry::versions::{VERSIONS_FILE, write_versions};
use crate::train::dataset::Dataset;
use crate::train::local_judge::{LocalJudge, judge_limits};
use crate::train::memory_plan::JudgeSizes;

const EXAMPLES: &str = r#"Examples:
  thyme-engine eval --model runs/grpo_ats/checkpoint-30 --data needle --limit 256
  thyme-engine eval --model runs/needle_compare/checkpoint-60 --recipe recipes/needle_variants/compare.toml --data needle:compare
  thyme-engine eval --model recipes/tiny-sft --data tasks/data.jsonl --samples-per-task 8 --temperature 1 --write-demonstrations right.jsonl --min-reward 1.5
  thyme-engine eval --model recipes/tiny-sft --data tasks/data.jsonl --samples-per-task 8 --temperature 1 --write-pass-rates tasks/rated.jsonl
  thyme-engine eval --predictions A.jsonl --output B.jsonl

A line of --predictions is an object with `answer` (as it stands) or `text` (searched for <answer>), `solution` and perhaps `question`; other
columns pass through. `solution` is a string, a number, {"regex": "..."}, {"number": 3.5, "tolerance": 0.1}, {"number": 3.5,
"relative_tolerance": 0.05}, or a list of these, of which one is enough. B.jsonl holds the same lines with `scores` (null where no rule can
judge) and `unscored` (why)."#;

/// Answer held-out tasks, greedily unless a temperature is given, and score the answers, or score answers that exist.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct EvalArguments {
    /// Checkpoint folder, or org/name in the local Hugging Face cache.
    #[arg(long, required_unless_present = "predictions")]
    model: Option<String>,
    /// Score the answers of these lines, without a model.
    #[arg(long, value_name = "A.jsonl", requires = "output",
        conflicts_with_all = ["model", "data", "environment", "limit", "max_num_seqs", "max_total_tokens"])]
    predictions: Option<PathBuf>,
    /// Answer in the environment of this recipe, with its tools and image sizes, and score by its rewards; with --predictions, score by them.
    #[arg(long, value_name = "R.toml", conflicts_with_all = ["environment", "max_total_tokens"])]
    recipe: Option<PathBuf>,
    /// `needle` for the built-in task's held-out pictures, `needle:NAME` for those of a variant, or a JSONL file in Thyme's RL form.
    #[arg(long, default_value = "needle")]
    data: String,
    /// How a task is answered: with tools (think_with_code), or without (direct).
    #[arg(long = "env", value_name = "NAME", default_value = DEFAULT_ENVIRONMENT)]
    environment: String,
    /// Tasks to answer at most.
    #[arg(long, default_value_t = 256)]
    limit: usize,
    /// Answers to each task; the report is of all of them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..),
        conflicts_with_all = ["predictions", "retries", "direct_fallback"])]
    samples_per_task: u16,
    /// Sample answers at this temperature, and otherwise as [sampling] of --recipe says; 0 takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.0, conflicts_with = "predictions")]
    temperature: f32,
    /// Seed of the random numbers.
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "predictions")]
    seed: u64,
    /// Write the answers that the model ended itself, as demonstrations for `method = "sft"`; their images go to `images` beside it.
    #[arg(long, value_name = "C.jsonl", conflicts_with = "predictions")]
    write_demonstrations: Option<PathBuf>,
    /// Write those with at least this total reward; all that are scored where absent.
    #[arg(long, value_name = "X", requires = "write_demonstrations", allow_negative_numbers = true)]
    min_reward: Option<f64>,
    /// Write so many of a task at most, those with the fewest tokens first.
    #[arg(long, value_name = "K", requires = "write_demonstrations", value_parser = clap::value_parser!(u16).range(1..))]
    max_per_task: Option<u16>,
    /// Write the rows of --data with a column `pass_rate`, the share of right answers to each, for `data.curriculum`; the file stands beside the data.
    #[arg(long, value_name = "P.jsonl", conflicts_with = "predictions")]
    write_pass_rates: Option<PathBuf>,
    /// Sequences answered together.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    max_num_seqs: u16,
    /// Tokens after the prompt that a sequence may have, observations included.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    max_total_tokens: u32,
    /// Roll a task that ended without an answer out again at temperature 1, so often at most; Thyme's evaluation does it 5 times.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "predictions")]
    retries: usize,
    /// Ask for the answer alone, without tools, where none has come.
    #[arg(long, conflicts_with = "predictions")]
    direct_fallback: bool,
    /// Where to write: a folder for the report and the trajectories (only the terminal where absent); the scored lines of --predictions.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

impl EvalArguments {
    /// The environment of `--env`, with its limits.
    fn named_environment(&self) -> (String, toml::Table) {
        let limit = toml::Value::from(i64::from(self.max_total_tokens));
        let limits = ["max_turn_tokens", "max_total_tokens"].map(|key| (key.to_owned(), limit.clone()));
        (self.environment.clone(), limits.into_iter().collect())
    }

    /// How answers are sampled.
    fn rollout(&self, recipe: Option<&Recipe>) -> anyhow::Result<RolloutSettings> {
        let (samples, temperature) = (self.samples_per_task, self.temperature);
        anyhow::ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "--temperature is {temperature}; it must be 0 or more"
        );
        anyhow::ensure!(
            samples == 1 || temperature > 0.0,
            "at --temperature 0 all {samples} samples of a task would be the same; give --temperature 1"
        );
        anyhow::ensure!(
            samples <= self.max_num_seqs,
            "--samples-per-task is {samples}; raise --max-num-seqs, {}, to at least as many",
            self.max_num_seqs
        );
        if temperature == 0.0 {
            return Ok(greedy());
        }
        let sampling = recipe.map_or_else(Sampling::default, |recipe| recipe.sampling.clone());
        let sampling = Sampling { temperature, ..sampling };
        Ok(RolloutSettings { sampling, seed: self.seed, group_size: usize::from(samples), ..greedy() })
    }

    /// Rejection sampling: writes the accepted answers.
    fn write_accepted(
        &self,
        mut output: SftOutput,
        evaluation: &Evaluation,
        settings: &ImageSettings,
    ) -> anyhow::Result<()> {
        let (mut written, mut tasks) = (0, 0);
        for (group, scores) in evaluation.groups.iter().zip(&evaluation.scores) {
            let mut left = self.max_per_task.map_or(usize::MAX, usize::from);
            let before = written;
            for trajectory in accepted(group, scores, self.min_reward.unwrap_or(f64::NEG_INFINITY)) {
                let place = group.task * usize::from(self.samples_per_task) + trajectory.sample;
                if left > 0 && output.write(place, trajectory, settings)? {
                    (left, written) = (left - 1, written + 1);
                }
            }
            tasks += usize::from(written > before);
        }
        output.finish();
        let (answers, of) = (evaluation.report.count, evaluation.groups.len());
        eprintln!("{written} of {answers} answers, to {tasks} of {of} tasks, are demonstrations");
        Ok(())
    }
}

/// Runs the command.
pub fn run(arguments: EvalArguments, registry: &Registry) -> anyhow::Result<()> {
    let Some(model) = &arguments.model else { return score_predictions(&arguments, registry) };
    let recipe = arguments.recipe.as_ref().map(|recipe| layers::load(recipe, &[])).transpose()?;
    let rollout = arguments.rollout(recipe.as_ref())?;
    let open = |path: &PathBuf| SftOutput::open(path, Path::new(&arguments.data), Path::new(""), 0);
    let demonstrations = arguments.write_demonstrations.as_ref().map(open).transpose()?;
    let pass_rates = arguments.write_pass_rates.as_ref();
    let pass_rates = pass_rates.map(|path| PassRates::open(path, Path::new(&arguments.data))).transpose()?;
    let (environment, tools) = match &recipe {
        Some(recipe) => recipe.environment_and_tools(),
        None => (arguments.named_environment(), Vec::new()),
    };
    let limits = registry.check(&environment, &tools)?;
    let (dataset, tasks) = tasks(&arguments.data, arguments.limit)?;
    let checkpoint = Checkpoint::open(model)?;
    let processor = checkpoint.processor(Some(renderer()))?;
    let processor = Arc::new(recipe.iter().fold(processor, |processor, recipe| recipe.model.configured(processor)));
    // The judge takes the memory that it needs, and the model then most of what is left.
    let settings = recipe.map_or_else(RewardSettings::default, |recipe| recipe.reward);
    let rewards = rewards(&settings, registry, arguments.device)?;
    let model = checkpoint.model(arguments.device.backend(&checkpoint.config)?);
    let weights = checkpoint.weights(&model)?;
    let environment = registry.environment(environment, &tools)?;
    let longest = (2 * limits.total).min(model.config.context_tokens);
    let sequences = usize::from(arguments.max_num_seqs);
    // A page is to spare where the longest fills its last one.
    let demand = PageDemand::of_sequences(sequences, longest + 1);
    let mut engine = Engine::new(model, processor.clone(), EngineSize::new(sequences, demand).limits());
    let mut generator = EngineGenerator { engine: &mut engine, weights: &weights };
    let retries = RetrySettings { retries: arguments.retries, direct_fallback: arguments.direct_fallback };
    let evaluation = evaluate_sampled(&mut generator, &processor, &*environment, &tasks, &rewards, &rollout, &retries)?;
    if retries != RetrySettings::default() {
        let Retried { rollouts, asked_directly } = evaluation.retried;
        eprintln!("without an answer: {rollouts} rollouts made again, {asked_directly} asked directly");
    }
    for (task, reason) in faults(&evaluation.groups) {
        eprintln!("left out: {}: {reason}", dataset.name_of(task as u64));
    }
    print!("{}", evaluation.report);
    if let Some(output) = &arguments.output {
        write_results(output, &tasks, &evaluation, &*environment)?;
    }
    pass_rates.map_or(Ok(()), |output| output.write(&evaluation))?;
    demonstrations.map_or(Ok(()), |output| arguments.write_accepted(output, &evaluation, processor.image_settings()))
}

/// The folder of `--output`: `results.json`, `versions.json`, `samples.jsonl`.
fn write_results(
    output: &Path,
    tasks: &[Task],
    evaluation: &Evaluation,
    environment: &dyn Environment,
) -> anyhow::Result<()> {
    let Evaluation { report, groups, scores, .. } = evaluation;
    std::fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    let path = output.join("results.json");
    replace(&path, (serde_json::to_string_pretty(report)? + "\n").as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    write_versions(output, environment.versions())
        .with_context(|| format!("cannot write {}", output.join(VERSIONS_FILE).display()))?;
    let mut lines = String::new();
    for (trajectory, scores) in groups.iter().flat_map(|group| &group.trajectories).zip(scores.iter().flatten()) {
        lines += &format!("{}\n", sample::line(&tasks[trajectory.task], trajectory, scores));
    }
    let path = output.join("samples.jsonl");
    replace(&path, lines.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Rewards with their judge; one that is a checkpoint is loaded.
fn rewards(settings: &RewardSettings, registry: &Registry, device: Device) -> anyhow::Result<RewardSet> {
    let rewards = RewardSet::new(settings, registry)?;
    let local = settings.judge.as_ref().and_then(|judge| Some((judge, judge.model_path.as_ref()?)));
    let Some((judge, path)) = local else { return Ok(rewards) };
    let checkpoint = Checkpoint::open(path)?;
    let processor = Arc::new(checkpoint.processor(Some(renderer()))?);
    let (config, device) = (&checkpoint.config, device.open(&checkpoint.config)?);
    let arena = JudgeSizes { config, limits: judge_limits(judge) }.arena(device.footprint());
    let judge = LocalJudge::start(&checkpoint, processor, device.backend(config, arena)?, judge)?;
    Ok(RewardSet::with_judge(settings, registry, Some(Arc::new(judge)))?)
}

fn score_predictions(arguments: &EvalArguments, registry: &Registry) -> anyhow::Result<()> {
    let (Some(input), Some(output)) = (&arguments.predictions, &arguments.output) else {
        anyhow::bail!("--predictions needs --output")
    };
    let rewards = match &arguments.recipe {
        Some(recipe) => rewards(&layers::load(recipe, &[])?.reward, registry, arguments.device)?,
        None => RewardSet::answer_only(registry)?,
    };
    refuse_input(output, input)?;
    rewards.start()?;
    let (lines, columns) = score_lines(JsonLines::open(input)?, &rewards).map_err(|error| match error {
        PredictionError::Line { line, problem } => anyhow::anyhow!("{}:{line}: {problem}", input.display()),
        PredictionError::Lines(error) => error.into(),
    })?;
    let cannot = || format!("cannot write {}; give a file in a folder that exists", output.display());
    write_output(output, lines.as_bytes()).with_context(cannot)?;
    print_columns(&columns);
    Ok(())
}

/// A row for each reward: mean of the scored, how many have a score, how many have none, the sum's share of all.
fn print_columns(columns: &[Column]) {
    println!("{:<16}{:>8}{:>8}{:>10}{:>8}", "reward", "mean", "scored", "unscored", "of all");
    for Column { name, scored, unscored, sum } in columns {
        let of = |count: usize| figure(sum / count as f64);
        println!("{name:<16}{:>8}{scored:>8}{unscored:>10}{:>8}", of(*scored), of(scored + unscored));
    }
}

/// The data and its first tasks.
fn tasks(data: &str, limit: usize) -> anyhow::Result<(Dataset, Vec<Task>)> {
    let dataset = match (data, data.strip_prefix("needle:")) {
        ("needle", _) => Dataset::held_out_needle(None),
        (_, Some(name)) => Dataset::held_out_needle(Some(variant(name).map_err(anyhow::Error::msg)?)),
        (file, None) => Dataset::from_files(&[PathBuf::from(file)], Method::Grpo, None)?,
    };
    let count = dataset.len().map_or(limit, |len| len.min(limit));
    let tasks = (0..count as u64).map(|number| dataset.task(number)).collect::<Result<_, _>>()?;
    Ok((dataset, tasks))
}
