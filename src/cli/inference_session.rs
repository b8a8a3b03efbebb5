//! A model that is ready to answer, in an environment or without one: what `generate` and `batch` have in common.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::loaded_checkpoint::LoadedCheckpoint;
use super::sampling::SamplingArguments;
use crate::engine::kv_cache::KvCache;
use crate::engine::sizing::{EngineSize, PageDemand};
use crate::engine::speculation::Speculation;
use crate::engine::{Engine, EngineLimits};
use crate::prompt::Processor;
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::{Environment, Tasks};
use crate::rollout::environments::direct::Direct;
use crate::rollout::registry::{Registry, RegistryError};
use crate::rollout::repetition::RepetitionSettings;
use crate::rollout::{RolloutSettings, Update, run_watched};

/// The value of `--env` for answers that nothing is run for.
pub const NO_ENVIRONMENT: &str = "none";

/// Refuses a name that is neither [`NO_ENVIRONMENT`] nor an environment's.
pub fn check_environment(name: &str, registry: &Registry) -> Result<(), RegistryError> {
    let mut known = registry.environments();
    known.insert(0, NO_ENVIRONMENT);
    if known.contains(&name) { Ok(()) } else { Err(RegistryError::unknown("environment", name, &known)) }
}

/// The environment of that name, with its tools running; `None` for [`NO_ENVIRONMENT`]. An answer takes `max_tokens` if given, else what the
/// environment allows.
pub fn start_environment(
    name: &str,
    max_tokens: Option<usize>,
    registry: &Registry,
) -> Result<Option<Arc<dyn Environment>>, RegistryError> {
    check_environment(name, registry)?;
    if name == NO_ENVIRONMENT {
        return Ok(None);
    }
    let mut table = toml::Table::new();
    if let Some(tokens) = max_tokens {
        table.insert("max_total_tokens".to_owned(), (tokens as i64).into());
        table.insert("max_turn_tokens".to_owned(), (tokens as i64).into());
    }
    registry.environment((name.to_owned(), table), &[]).map(Some)
}

/// How much may run together, and how.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Sequences decoded together.
    pub sequences: usize,
    /// Bytes of keys and values, unless one group alone needs more.
    pub cache_bytes: usize,
    /// Whether drafts are made.
    pub speculation: Speculation,
}

/// The model, what it may do, and how it samples.
pub struct InferenceSession {
    /// The model and its weights, in memory.
    pub checkpoint: LoadedCheckpoint,
    /// Its prompt side.
    pub processor: Arc<Processor>,
    /// What it may do.
    pub environment: Arc<dyn Environment>,
    /// How it samples, and how many answers.
    pub settings: RolloutSettings,
    /// Tokens of an answer.
    pub max_tokens: usize,
    /// Whether the environment runs anything.
    pub has_tools: bool,
}

impl InferenceSession {
    /// Reads the settings beside the model, and starts the environment; `n` answers to each question.
    pub fn new(
        checkpoint: LoadedCheckpoint,
        sampling: &SamplingArguments,
        environment: &str,
        n: usize,
        registry: &Registry,
    ) -> anyhow::Result<InferenceSession> {
        let (mut settings, max_tokens) = sampling.settings(&checkpoint.dir)?;
        settings.group_size = n;
        let processor = checkpoint.processor()?;
        let has_tools = registry.calls_tools(environment);
        let environment = start_environment(environment, sampling.max_tokens.map(|_| max_tokens), registry)?;
        if has_tools {
            settings.sampling.code_temperature = Some(sampling.code_temperature);
        } else {
            settings.repetition = RepetitionSettings { share: 1.0, ..settings.repetition };
        }
        let plain = || Arc::new(Direct { max_turn_tokens: max_tokens, max_total_tokens: max_tokens }) as _;
        let environment = environment.unwrap_or_else(plain);
        Ok(InferenceSession { checkpoint, processor, environment, settings, max_tokens, has_tools })
    }

    /// Rolls tasks out, whose prompts have at most as many tokens as `prompts` says; the first has the number `first` in the whole.
    pub fn roll_out(
        &self,
        tasks: &dyn Tasks,
        first: usize,
        prompts: &[usize],
        room: Room,
        watch: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let limits = self.engine_limits(prompts, room);
        let engine = Engine::new(self.checkpoint.model.clone(), self.processor.clone(), limits);
        let mut engine = engine.with_speculation(room.speculation);
        let mut generator = EngineGenerator { engine: &mut engine, weights: &self.checkpoint.weights };
        let settings = RolloutSettings { first_task: first, ..self.settings.clone() };
        run_watched(&mut generator, &self.processor, &*self.environment, tasks, &settings, watch)?;
        Ok(())
    }

    /// Pages for the largest groups that can run together, or as many as memory should hold, but always for the largest alone.
    fn engine_limits(&self, prompts: &[usize], room: Room) -> EngineLimits {
        let (config, group) = (&self.checkpoint.model.config, self.settings.group_size);
        let total = self.environment.limits().total;
        let demand = PageDemand::of_prompts(prompts, group, room.sequences, total, config.context_tokens);
        let page_bytes = KvCache::page_bytes(config, self.checkpoint.model.backend.activation_bytes());
        EngineSize::new(room.sequences, demand).limits_within(room.cache_bytes, page_bytes)
    }
}
