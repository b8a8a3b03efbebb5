//! Sampling the next token from logits.

use super::{Backend, Tensor};

/// Sampling with counter-based randomness.
///
/// Order: repetition penalty, then bias and mask, then temperature, then top-k, top-p, min-p on what remains; sampling inverts the
/// cumulative sum in descending probability (ties: lower id first) at `u = philox_uniform(seed, sequence, position)` (Salmon et al. 2011),
/// so it depends on nothing else.
/// At temperature 0 the token is the argmax after penalty, bias and mask (ties: lower id).
///
/// `excluded` tokens, which the model reads and must not write, are never sampled, whatever bias and mask say. They are left out before
/// anything else, for all rows alike: `logprob_at_temperature` is over the others.
///
/// A token whose bias is minus infinity, or that the mask does not allow, is banned: it is never sampled, and no cut counts it. Where all
/// are banned or excluded nothing can be sampled: `kept_mass` is 0, which it never is otherwise,
/// `processed_logprob` is minus infinity, and `token` says nothing.
pub trait Sample {
    /// `z = h wᵀ`: F32 `[N, V]`, by the arithmetic of [`super::token_logprob`]; h Activation `[N, D]`, w Bf16 `[V, D]`.
    fn logits(&self, h: &Tensor, w: &Tensor) -> Tensor;
    /// logits F32 `[N, V]`; one [`SamplingParams`] for each of the first rows; at most [`EXCLUDED_MAX`] different ids are excluded.
    fn sample(&self, logits: &Tensor, row_params: &[SamplingParams<'_>], excluded: &[u32]) -> Vec<SampledToken> {
        self.sample_overlapped(logits, row_params, excluded, &mut |_| {})
    }
    /// As [`Sample::sample`]; `meanwhile` is called once, unless there are no rows, with the sampled ids, I32 `[N]`. Where the device works
    /// beside the host, the ids are not known yet: what `meanwhile` asks of the backend comes behind the sampling, and the host waits for what
    /// was sampled, not for that.
    fn sample_overlapped(
        &self,
        logits: &Tensor,
        row_params: &[SamplingParams<'_>],
        excluded: &[u32],
        meanwhile: &mut dyn FnMut(&Tensor),
    ) -> Vec<SampledToken>;
}

/// The ids of what was sampled, I32 `[N]`, for backends that sample on the host.
pub fn sampled_ids(backend: &dyn Backend, sampled: &[SampledToken]) -> Tensor {
    let ids: Vec<i32> = sampled.iter().map(|sampled| sampled.token as i32).collect();
    backend.indices(&ids)
}

/// Ids that a call excludes at most: placeholders of images and of videos.
pub const EXCLUDED_MAX: usize = 2;

/// How to sample a row.
#[derive(Clone, Copy, Debug)]
pub struct SamplingParams<'a> {
    /// 0 for greedy.
    pub temperature: f32,
    /// Keep the `top_k` likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens with at least this mass; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least `min_p` times the likeliest's probability; 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens in `seen` are divided (positive) or multiplied (negative) by it (Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Tokens that the penalty applies to; repeats do not matter.
    pub seen: &'a [u32],
    /// Added to the logits of tokens, each at most once; minus infinity bans one.
    pub bias: &'a [(u32, f32)],
    /// Which tokens may be sampled: token `id` is bit `id % 32` of word `id / 32`, of `V.div_ceil(32)` words. None allows all.
    pub allowed: Option<&'a [u32]>,
    /// Seed of the run or request.
    pub seed: u64,
    /// Counter of the sequence: its number, or another that its request gives.
    pub sequence: u64,
    /// Position of the sampled token in its sequence.
    pub position: u64,
}

impl SamplingParams<'_> {
    /// Greedy, with nothing cut, penalised or banned.
    pub const GREEDY: SamplingParams<'static> = SamplingParams {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seen: &[],
        bias: &[],
        allowed: None,
        seed: 0,
        sequence: 0,
        position: 0,
    };

    /// Whether bias or mask change the logits.
    pub fn is_constrained(&self) -> bool {
        !self.bias.is_empty() || self.allowed.is_some()
    }

    /// Whether the mask allows a token.
    pub fn allows(&self, token: usize) -> bool {
        self.allowed.is_none_or(|words| words[token / 32] >> (token % 32) & 1 == 1)
    }
}

/// What was sampled from a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SampledToken {
    /// Its id in the vocabulary.
    pub token: u32,
    /// Its log-probability at temperature 1 over the full vocabulary, with nothing cut or penalised.
    pub logprob: f32,
    /// At the row's temperature (1 where that is 0) over the vocabulary without the excluded tokens; equal to `logprob` at temperatures
    /// 0 and 1 where nothing is excluded.
    pub logprob_at_temperature: f32,
    /// Under the distribution sampled from (after penalty, bias, mask and cuts, renormalised); 0 at temperature 0.
    pub processed_logprob: f32,
    /// Share of the mass at the temperature that the cuts kept, after penalty, bias and mask: what is banned or excluded is in neither. 1 if
    /// nothing was cut.
    pub kept_mass: f32,
    /// Entropy of the raw distribution in nats.
    pub entropy: f32,
}

impl SampledToken {
    /// Whether every token was banned or excluded, so that none could be sampled.
    pub fn is_nothing(&self) -> bool {
        self.kept_mass == 0.0
    }
}

/// The uniform number in `[0, 1)` for a counter: Philox 4x32-10 (Salmon et al. 2011) with key `seed` and counter
/// `(sequence, position)`; the first two output words give 53 bits.
pub fn philox_uniform(seed: u64, sequence: u64, position: u64) -> f64 {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut counter = [position as u32, (position >> 32) as u32, sequence as u32, (sequence >> 32) as u32];
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    let bits = (u64::from(counter[0]) << 32 | u64::from(counter[1])) >> 11;
    bits as f64 / (1u64 << 53) as f64
}
