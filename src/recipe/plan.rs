//! From recipe to plan: paths opened, contradictions refused; nothing large is loaded yet.

mod curriculum;
mod error;
mod grpo;

use std::path::PathBuf;
use std::sync::Arc;

use curriculum::check_curriculum;
pub use error::PlanError;
use error::value;
use grpo::{check_grpo, check_reference};

use super::layers::explain;
use super::{
    DpoSettings, MaxLengthAction, Method, NeedleSettings, PreferenceLoss, Recipe, SftSettings, TrainTokens, TrainTurns,
};
use crate::checkpoint::Checkpoint;
use crate::isolated::Isolated;
use crate::prompt::{OWN_VARIABLES, Processor, PromptError};
use crate::rollout::environment::TokenLimits;
use crate::rollout::registry::{Registry, RegistryError};
use crate::rollout::reward_set::RewardSet;
use crate::tasks::needle::Variant;

/// Steps of a run whose recipe gives neither steps nor epochs.
const DEFAULT_STEPS: u64 = 100;

/// A recipe that can be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As the user wrote it, defaults filled.
    pub recipe: Recipe,
    /// Where it starts.
    pub checkpoint: Checkpoint,
    /// The reference, where it is another checkpoint.
    pub reference: Option<Checkpoint>,
    /// The judge that is loaded beside it, where there is one.
    pub judge: Option<Checkpoint>,
    /// The environment's limits of tokens.
    pub limits: TokenLimits,
    /// The environments, tools and rewards that it may name.
    pub registry: Arc<Registry>,
    /// Renders the chat template; this process without one.
    renderer: Option<Arc<Isolated>>,
}

impl Plan {
    /// Checks a recipe, whose plug-ins are those of `registry`, and finds its checkpoint.
    pub fn new(mut recipe: Recipe, registry: &Arc<Registry>) -> Result<Plan, PlanError> {
        if recipe.training.num_train_epochs.is_none() {
            recipe.training.max_steps.get_or_insert(DEFAULT_STEPS);
        }
        check_names(&recipe)?;
        let limits = check_plug_ins(&recipe, registry)?;
        check_counts(&recipe, limits)?;
        check_numbers(&recipe)?;
        check_contradictions(&recipe)?;
        let checkpoint = Checkpoint::open(&recipe.model.path)?;
        let reference = recipe.grpo.ref_model.as_ref().map(Checkpoint::open).transpose()?;
        check_reference(&recipe, &checkpoint, reference.as_ref())?;
        let model_path = recipe.reward.judge.as_ref().and_then(|judge| judge.model_path.as_ref());
        let judge = model_path.filter(|_| recipe.method == Method::Grpo).map(Checkpoint::open).transpose()?;
        Ok(Plan { recipe, checkpoint, reference, judge, limits, registry: registry.clone(), renderer: None })
    }

    /// The same with children that render the chat template.
    pub fn rendered_by(self, renderer: Arc<Isolated>) -> Plan {
        Plan { renderer: Some(renderer), ..self }
    }

    /// The run's folder.
    pub fn run_dir(&self) -> PathBuf {
        self.recipe.output_dir.0.join(&self.recipe.name)
    }

    /// The judge's processor, where one is loaded beside the policy.
    pub fn judge_processor(&self) -> Option<Result<Processor, PromptError>> {
        self.judge.as_ref().map(|judge| judge.processor(self.renderer.clone()))
    }

    /// The checkpoint's processor, with the recipe's image sizes.
    pub fn processor(&self) -> Result<Processor, PromptError> {
        Ok(self.recipe.model.configured(self.checkpoint.processor(self.renderer.clone())?))
    }
}

fn check_names(recipe: &Recipe) -> Result<(), PlanError> {
    if recipe.model.path.is_empty() {
        let remedy = "give a checkpoint folder, or org/name in the local Hugging Face cache";
        return Err(PlanError::Missing { key: "model.path", remedy });
    }
    if recipe.name.is_empty() || recipe.name.contains(['/', '\\']) || recipe.name.starts_with('.') {
        return value("name", format!("{:?}", recipe.name), "give the run folder a plain name");
    }
    let (files, sources) = (&recipe.data.files, &recipe.data.sources);
    match (&recipe.data.needle, files.is_empty(), sources.is_empty()) {
        (None, true, true) => {
            let remedy = "write [data.needle] for the built-in task, data.files = [...], or [[data.sources]] with files and weights";
            Err(PlanError::Missing { key: "data", remedy })
        }
        (Some(_), false, _) => value("data.files", "given beside [data.needle]", "keep one of the two"),
        (Some(_), _, false) => value("data.sources", "given beside [data.needle]", "keep one of the two"),
        (None, false, false) => value("data.sources", "given beside `data.files`", "make a source of these files too"),
        _ if sources.iter().any(|source| source.files.is_empty()) => {
            value("data.sources", "a source without `files`", "give each source its files, or take it out")
        }
        _ => Ok(()),
    }
}

/// The tables that belong to plug-ins; nothing is started.
fn check_plug_ins(recipe: &Recipe, registry: &Registry) -> Result<TokenLimits, PlanError> {
    let explained = |error| match error {
        RegistryError::Settings { kind, name, source } => {
            PlanError::Value { key: kind, value: format!("{name:?} with keys of its own"), remedy: explain(&source) }
        }
        other => PlanError::Registry(other),
    };
    RewardSet::new(&recipe.reward, registry).map_err(explained)?;
    let (environment, tools) = recipe.environment_and_tools();
    registry.check(&environment, &tools).map_err(explained)
}

/// Whole numbers, each with its least and its greatest.
fn check_counts(recipe: &Recipe, limits: TokenLimits) -> Result<(), PlanError> {
    const MANY: u64 = 1 << 20;
    const TOKENS: u64 = 1 << 28;
    let (training, grpo) = (&recipe.training, &recipe.grpo);
    let counts = [
        ("training.max_steps", training.max_steps.unwrap_or(1), 1, 1 << 40),
        ("training.batch_size", training.batch_size as u64, 1, MANY),
        ("training.micro_batch_tokens", training.micro_batch_tokens as u64, 1, TOKENS),
        ("sft.max_length", recipe.sft.max_length.unwrap_or(2) as u64, 2, TOKENS),
        ("training.logging_steps", training.logging_steps, 1, u64::MAX),
        ("training.max_skipped_updates", training.max_skipped_updates, 1, u64::MAX),
        ("grpo.prompts_per_step", grpo.prompts_per_step as u64, 1, MANY),
        // An advantage is relative to a group.
        ("grpo.num_generations", grpo.num_generations as u64, 2, MANY),
        ("grpo.num_iterations", grpo.num_iterations as u64, 1, MANY),
        ("grpo.max_num_gen_batches", grpo.max_num_gen_batches as u64, 1, MANY),
        ("grpo.num_mini_batches", grpo.num_mini_batches as u64, 1, MANY),
        ("environment.max_turn_tokens", limits.turn as u64, 1, TOKENS),
        ("environment.max_total_tokens", limits.total as u64, 1, TOKENS),
        ("engine.max_num_seqs", recipe.engine.max_num_seqs as u64, 1, MANY),
        ("engine.prefill_chunk_tokens", recipe.engine.prefill_chunk_tokens as u64, 1, TOKENS),
        ("evaluation.tasks", recipe.evaluation.tasks as u64, 0, MANY),
        ("model.min_pixels", recipe.model.min_pixels.unwrap_or(1), 1, TOKENS),
        ("model.max_pixels", recipe.model.max_pixels.unwrap_or(1), 1, TOKENS),
    ];
    match counts.into_iter().find(|&(_, count, least, most)| !(least..=most).contains(&count)) {
        Some((key, count, least, u64::MAX)) => value(key, count.to_string(), format!("give at least {least}")),
        Some((key, count, least, most)) => {
            value(key, count.to_string(), format!("give a whole number from {least} to {most}"))
        }
        None => Ok(()),
    }
}

/// Real numbers, each with the interval that it must lie in.
fn check_numbers(recipe: &Recipe) -> Result<(), PlanError> {
    use Interval::{AboveZero, Fraction, NotNegative, Share};
    let (optimizer, grpo, sampling) = (&recipe.optimizer, &recipe.grpo, &recipe.sampling);
    let mut numbers = vec![
        ("optimizer.learning_rate", optimizer.learning_rate, AboveZero),
        ("optimizer.min_lr_rate", optimizer.min_lr_rate, Share),
        ("optimizer.warmup_ratio", optimizer.warmup_ratio, Share),
        ("optimizer.weight_decay", f64::from(optimizer.weight_decay), NotNegative),
        ("optimizer.adam_beta1", f64::from(optimizer.adam_beta1), Fraction),
        ("optimizer.adam_beta2", f64::from(optimizer.adam_beta2), Fraction),
        ("optimizer.adam_epsilon", f64::from(optimizer.adam_epsilon), AboveZero),
        ("optimizer.max_grad_norm", optimizer.max_grad_norm, NotNegative),
        ("training.num_train_epochs", recipe.training.num_train_epochs.unwrap_or(1.0), AboveZero),
        ("training.warn_kl", recipe.training.warn_kl, NotNegative),
        ("data.max_left_out", recipe.data.max_left_out, Share),
        ("dpo.beta", recipe.dpo.beta, AboveZero),
        ("grpo.beta", grpo.beta, NotNegative),
        ("grpo.epsilon", grpo.epsilon, NotNegative),
        ("grpo.epsilon_high", grpo.epsilon_high.unwrap_or(0.0), NotNegative),
        ("grpo.delta", grpo.delta.unwrap_or(1.0), AboveZero),
        ("grpo.ref_model_mixup_alpha", grpo.ref_model_mixup_alpha, Interval::PositiveShare),
        ("grpo.oversampling", grpo.oversampling, Interval::FromOne),
        ("grpo.entropy_coef", grpo.entropy_coef, NotNegative),
        ("grpo.top_entropy_quantile", grpo.top_entropy_quantile, Interval::PositiveShare),
        ("grpo.loss_clamp", grpo.loss_clamp.unwrap_or(1.0), AboveZero),
        ("grpo.sapo_temperature_pos", grpo.sapo_temperature_pos, AboveZero),
        ("grpo.sapo_temperature_neg", grpo.sapo_temperature_neg, AboveZero),
        ("grpo.tool_economy_weight", grpo.tool_economy_weight, NotNegative),
        ("sampling.temperature", f64::from(sampling.temperature), NotNegative),
        ("sampling.code_temperature", f64::from(sampling.code_temperature.unwrap_or(0.0)), NotNegative),
        ("sampling.top_p", f64::from(sampling.top_p), Interval::PositiveShare),
        ("sampling.min_p", f64::from(sampling.min_p), Share),
        ("sampling.repetition_penalty", f64::from(sampling.repetition_penalty), AboveZero),
    ];
    let of_turns = sampling.turn_temperatures.iter();
    numbers.extend(of_turns.map(|temperature| ("sampling.turn_temperatures", f64::from(*temperature), NotNegative)));
    numbers.extend(recipe.data.sources.iter().map(|source| ("the weight of data.sources", source.weight, AboveZero)));
    if let Some(mixture) = recipe.data.needle.as_ref().and_then(|needle| needle.mixture) {
        let shares = [mixture.caption, mixture.read, mixture.look, mixture.look_twice, mixture.guess];
        numbers.extend(shares.map(|share| ("data.needle.mixture", share, NotNegative)));
        numbers.push(("the sum of data.needle.mixture", shares.iter().sum(), AboveZero));
    }
    match numbers.into_iter().find(|(_, number, interval)| !interval.contains(*number)) {
        Some((key, number, interval)) => value(key, number.to_string(), interval.description()),
        None => Ok(()),
    }
}

/// Where a number may lie. NaN lies nowhere; what is too large to square or to wait for is refused as infinity is.
#[derive(Clone, Copy)]
enum Interval {
    AboveZero,
    NotNegative,
    FromOne,
    Share,
    PositiveShare,
    Fraction,
}

impl Interval {
    const LARGEST: f64 = 1e9;

    fn contains(self, number: f64) -> bool {
        match self {
            Interval::AboveZero => number > 0.0 && number <= Interval::LARGEST,
            Interval::NotNegative => (0.0..=Interval::LARGEST).contains(&number),
            Interval::FromOne => (1.0..=1e3).contains(&number),
            Interval::Share => (0.0..=1.0).contains(&number),
            Interval::PositiveShare => number > 0.0 && number <= 1.0,
            Interval::Fraction => (0.0..1.0).contains(&number),
        }
    }

    fn description(self) -> &'static str {
        match self {
            Interval::AboveZero => "give a number above 0, at most 1e9",
            Interval::NotNegative => "give a number from 0 to 1e9",
            Interval::FromOne => "give a number from 1 to 1000",
            Interval::Share => "give a number from 0 to 1",
            Interval::PositiveShare => "give a number above 0, at most 1",
            Interval::Fraction => "give a number from 0 to below 1",
        }
    }
}

fn check_sft(sft: &SftSettings) -> Result<(), PlanError> {
    if sft.train_tokens == TrainTokens::All && sft.train_turns != TrainTurns::All {
        let remedy =
            "`sft.train_turns` picks turns of the assistant; set it to \"all\", or `sft.train_tokens` to \"assistant\"";
        return value("sft.train_tokens", "\"all\" beside a choice of turns", remedy);
    }
    if sft.max_length_action == MaxLengthAction::Truncate && sft.max_length.is_none() {
        return value("sft.max_length_action", "\"truncate\"", "give `sft.max_length`, the tokens to keep");
    }
    Ok(())
}

fn check_contradictions(recipe: &Recipe) -> Result<(), PlanError> {
    let kwargs = &recipe.model.chat_template_kwargs;
    if let Some(name) = OWN_VARIABLES.into_iter().find(|name| kwargs.contains_key(*name)) {
        let remedy = "the chat template is told it in any case; remove it";
        return value("model.chat_template_kwargs", format!("given with {name:?}"), remedy);
    }
    check_curriculum(recipe)?;
    if let (Some(min), Some(max)) = (recipe.model.min_pixels, recipe.model.max_pixels)
        && min > max
    {
        return value(
            "model.min_pixels",
            min.to_string(),
            format!("it is above `model.max_pixels`, {max}; swap or lower it"),
        );
    }
    if let (Some(epochs), Some(_)) = (recipe.training.num_train_epochs, &recipe.data.needle) {
        let remedy = "the built-in task has no end, and so no epochs; give `training.max_steps` instead";
        return value("training.num_train_epochs", epochs.to_string(), remedy);
    }
    if let Some(epochs) = recipe.training.num_train_epochs.filter(|_| !recipe.data.sources.is_empty()) {
        let remedy = "sources with weights end their epochs at different steps; give `training.max_steps` instead";
        return value("training.num_train_epochs", epochs.to_string(), remedy);
    }
    recipe.data.needle.as_ref().map_or(Ok(()), check_mixture)?;
    match recipe.method {
        Method::Sft => check_sft(&recipe.sft),
        Method::Grpo => check_rollouts(recipe),
        Method::Dpo => check_dpo(recipe),
    }
}

/// Kinds of sample that the built-in task does not have.
fn check_mixture(needle: &NeedleSettings) -> Result<(), PlanError> {
    let Some(mixture) = &needle.mixture else { return Ok(()) };
    let task =
        needle.variant.map_or("the plain task".to_owned(), |variant| format!("the variant {:?}", variant.name()));
    if needle.variant.is_some() && mixture.caption > 0.0 {
        let remedy = format!("{task} has demonstrations of `read`, `look` and `guess`");
        return value("data.needle.mixture", "given a share of `caption`", remedy);
    }
    if mixture.look_twice > 0.0 && !needle.variant.is_some_and(Variant::can_look_twice) {
        let remedy = format!("{task} has no demonstrations of it; give a share of `look`");
        return value("data.needle.mixture", "given a share of `look_twice`", remedy);
    }
    Ok(())
}

fn check_rollouts(recipe: &Recipe) -> Result<(), PlanError> {
    check_grpo(&recipe.grpo)?;
    if recipe.sampling.temperature_of(0) == 0.0 {
        let has_turns = !recipe.sampling.turn_temperatures.is_empty();
        return value(
            if has_turns { "sampling.turn_temperatures" } else { "sampling.temperature" },
            "0",
            "every rollout of a group would be the same, and nothing be learned; give 1.0",
        );
    }
    check_no_mixture(recipe)
}

fn check_dpo(recipe: &Recipe) -> Result<(), PlanError> {
    let DpoSettings { loss_type, label_smoothing, .. } = recipe.dpo;
    if !(0.0..0.5).contains(&label_smoothing) {
        let remedy = "give a number from 0 to below 0.5: the share of pairs that may be the wrong way round";
        return value("dpo.label_smoothing", label_smoothing.to_string(), remedy);
    }
    if label_smoothing > 0.0 && loss_type != PreferenceLoss::Sigmoid {
        let remedy = "only `dpo.loss_type = \"sigmoid\"` is smoothed; give 0";
        return value("dpo.label_smoothing", label_smoothing.to_string(), remedy);
    }
    if let Some(variant) = recipe.data.needle.as_ref().and_then(|needle| needle.variant) {
        let remedy = "`method = \"dpo\"` has pairs of the plain task; remove it, or give files of preferences";
        return value("data.needle.variant", format!("{:?}", variant.name()), remedy);
    }
    check_no_mixture(recipe)
}

fn check_no_mixture(recipe: &Recipe) -> Result<(), PlanError> {
    if recipe.data.needle.as_ref().is_some_and(|needle| needle.mixture.is_some()) {
        return value("data.needle.mixture", "given", "only `method = \"sft\"` has demonstrations to mix; remove it");
    }
    Ok(())
}
