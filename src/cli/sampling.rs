//! Flags of how tokens are sampled.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};

use super::generation_config::GenerationConfig;
use crate::rollout::RolloutSettings;
use crate::rollout::generator::Sampling;

/// Tokens of an answer where neither a flag nor `generation_config.json` says.
const MAX_TOKENS: usize = 1024;
/// Lower positive temperatures are raised to this one, as in vLLM.
const TEMPERATURE_MIN: f32 = 0.01;

/// How tokens are sampled, where it differs from `generation_config.json`.
#[derive(Debug, Args)]
pub struct SamplingArguments {
    /// 0 takes the likeliest token.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens with at least this mass; 1 keeps all.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep the K likeliest tokens; 0 or -1 keeps all.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<i64>,
    /// Keep tokens of at least this share of the likeliest's probability.
    #[arg(long, value_name = "P", hide_short_help = true, allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Above 1 makes tokens that are in the sequence less likely.
    #[arg(long, value_name = "X", hide_short_help = true, allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Temperature inside code, with an environment.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub code_temperature: f32,
    /// Tokens after the prompt; 1024 where generation_config.json has no max_new_tokens either.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Seed of the random numbers.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Text that ends an answer and is left out of it; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl SamplingArguments {
    /// Flags over `generation_config.json` over the defaults of the type; and the tokens of an answer.
    pub fn settings(&self, dir: &Path) -> anyhow::Result<(RolloutSettings, usize)> {
        let config = GenerationConfig::open(dir)?;
        let default = config.sampling()?;
        let top_k = self.top_k.unwrap_or(default.top_k as i64);
        let temperature = self.temperature.unwrap_or(default.temperature);
        let sampling = Sampling {
            temperature: if temperature > 0.0 { temperature.max(TEMPERATURE_MIN) } else { temperature },
            turn_temperatures: Vec::new(),
            top_k: usize::try_from(top_k.max(0)).unwrap_or(0),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            code_temperature: None,
        };
        let max_tokens = self.max_tokens.or(config.max_tokens()?).unwrap_or(MAX_TOKENS);
        check("--top-k", top_k as f64, (-1.0..).contains(&(top_k as f64)), "-1 or more")?;
        self.check(&sampling, max_tokens)?;
        let (stop, eos) = (self.stop.clone(), config.eos()?);
        let settings = RolloutSettings { seed: self.seed, sampling, stop, eos, ..RolloutSettings::default() };
        Ok((settings, max_tokens))
    }

    /// The flags that were given, as fields of an OpenAI request; the seed, which each has for itself, is not among them.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Option<Value>| fields.extend(value.map(|value| (key.to_owned(), value)));
        set("temperature", self.temperature.map(|value| json!(value)));
        set("top_p", self.top_p.map(|value| json!(value)));
        set("top_k", self.top_k.map(|value| json!(value)));
        set("min_p", self.min_p.map(|value| json!(value)));
        set("repetition_penalty", self.repetition_penalty.map(|value| json!(value)));
        set("max_tokens", self.max_tokens.map(|value| json!(value)));
        set("stop", (!self.stop.is_empty()).then(|| json!(self.stop)));
        set("code_temperature", (self.code_temperature != 0.0).then(|| json!(self.code_temperature)));
        fields
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
    anyhow::ensure!(holds, "{flag} is {value}; it must be {range}");
    Ok(())
}
