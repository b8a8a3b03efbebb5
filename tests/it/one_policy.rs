//! Promise 2: the log-probs recorded when tokens are sampled, from paged keys in any batch, are those that the training forward
//! computes over packed keys, to the bit.

use std::ops::Range;
use std::sync::Arc;

use thyme_engine::cpu::Cpu;
use thyme_engine::engine::EngineLimits;
use thyme_engine::engine::request::Sampled;
use thyme_engine::engine::speculation::Speculation;
use thyme_engine::model::rope::{RopeScaling, Yarn};
use thyme_engine::ops::linear::Linear;
use thyme_engine::ops::rms_norm::{RmsNorm, RmsNormed};
use thyme_engine::ops::rows::Rows;
use thyme_engine::ops::{Backend, Buffers, Dtype, Host, HostMut, Tensor};

use crate::support::over_cpu::delegate_ops;
use crate::support::small_policy::{CHECKPOINTS, Compared, Game, Random, Record, SmallPolicy, compare_with_training};

#[test]
fn one_policy() {
    let compared = play_and_compare(&Arc::new(Cpu::new()), &CHECKPOINTS, 5_000, 625);
    assert!(compared.tokens >= 5_000, "{compared:?}");
    assert_eq!(compared.differing, 0, "{compared:?}");
    assert!(compared.preemptions >= 30 && compared.cached_tokens >= 1_000, "{compared:?}");
    assert!(compared.cached_images >= 10 && compared.accepted_tokens >= 50, "{compared:?}");
}

#[test]
fn one_policy_with_scaled_rotary_positions() {
    let yarn = Yarn {
        factor: 4.0,
        original_context: 64.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: false,
        attention_factor: 1.1386,
    };
    let scaled = [RopeScaling::Yarn(yarn), RopeScaling::Linear { factor: 4.0 }].map(|scaling| {
        let mut policy = SmallPolicy::open(CHECKPOINTS[0], Arc::new(Cpu::new()));
        policy.model.config.rope.scaling = scaling;
        policy
    });
    let compared = play_policies(&scaled, 1_000, 250);
    assert!(compared.tokens >= 1_000, "{compared:?}");
    assert_eq!(compared.differing, 0, "{compared:?}");
}

#[test]
#[ignore = "takes minutes without optimisation; run: cargo test --release --test it one_policy_long -- --ignored --nocapture"]
fn one_policy_long() {
    let compared = play_and_compare(&Arc::new(Cpu::new()), &CHECKPOINTS, 100_000, 2_500);
    println!("{compared:?}");
    assert!(compared.tokens >= 100_000 && compared.accepted_tokens >= 1_000);
    assert_eq!(compared.differing, 0);
}

/// Placeholders that would be sampled nearly always are never sampled. The others have the probabilities that they have without them, the same
/// in sampler and trainer.
#[test]
fn placeholders_of_pictures_are_never_sampled() {
    for (seed, name) in (1..).zip(CHECKPOINTS) {
        let mut policy = SmallPolicy::open(name, Arc::new(Cpu::new()));
        policy.prefer_placeholders();
        let limits = EngineLimits { pages: 40, prefill_chunk_tokens: 33, sequences: 12 };
        let mut game = Game::new(&policy, policy.engine(limits).with_speculation(Speculation::Always), seed);
        game.play(400);
        let compared = compare_with_training(&policy, &game.engine, &game.finished, seed);
        assert!(compared.tokens >= 400 && compared.differing == 0, "{name}: {compared:?}");
        let sampled: Vec<&Sampled> = game.finished.iter().flat_map(Record::sampled).collect();
        let placeholders = policy.model.config.placeholders();
        assert_eq!(placeholders.len(), 2);
        assert!(sampled.iter().all(|token| !placeholders.contains(&token.id)), "{name}");
        // At temperatures 0 and 1 the two log-probabilities differ by the mass of the placeholders alone.
        let plain: Vec<_> = sampled.iter().filter(|token| [0.0, 1.0].contains(&token.temperature)).collect();
        let preferred = plain.iter().filter(|token| token.logprob_at_temperature - token.logprob > 5.0).count();
        assert!(10 * preferred > 9 * plain.len(), "{name}: {preferred} of {}", plain.len());
    }
}

#[test]
fn a_norm_reordered_for_few_rows_is_found() {
    fault_is_found(ReversedNorm(Cpu::new()));
}

#[test]
fn a_product_split_over_k_for_few_rows_is_found() {
    fault_is_found(SplitLinear(Cpu::new()));
}

fn fault_is_found<B: Backend + Clone + 'static>(backend: B) {
    let compared = play_and_compare(&Arc::new(backend), &CHECKPOINTS, 400, 100);
    assert!(compared.differing * 2 > compared.tokens, "{compared:?}");
}

/// Games of `game` tokens each on the checkpoints in turn, with engines of random sizes that draft, until `tokens` are compared.
pub fn play_and_compare<B: Backend + Clone + 'static>(
    backend: &Arc<B>,
    checkpoints: &[&str],
    tokens: usize,
    game: usize,
) -> Compared {
    let policies: Vec<SmallPolicy> = checkpoints.iter().map(|name| SmallPolicy::open(name, backend.clone())).collect();
    play_policies(&policies, tokens, game)
}

/// As [`play_and_compare`], on these policies. Every third game has no drafts.
pub fn play_policies(policies: &[SmallPolicy], tokens: usize, game: usize) -> Compared {
    let mut random = Random::new(1);
    let mut total = Compared::default();
    let mut seed = 0;
    while total.tokens < tokens {
        let policy = &policies[seed as usize % policies.len()];
        let limits = EngineLimits {
            pages: 10 + random.below(40),
            prefill_chunk_tokens: random.pick(&[1, 3, 7, 16, 33, 500]),
            sequences: random.pick(&[4, 12, 40]),
        };
        seed += 1;
        let speculation = if seed % 3 == 0 { Speculation::Off } else { Speculation::Always };
        let engine = policy.engine(limits).with_speculation(speculation);
        let mut game_under_way = Game::new(policy, engine, seed);
        game_under_way.play(game);
        let free = game_under_way.engine.pages();
        assert_eq!(free.0, free.1, "pages are lost");
        let found = compare_with_training(policy, &game_under_way.engine, &game_under_way.finished, seed);
        total.tokens += found.tokens;
        total.differing += found.differing;
        let statistics = game_under_way.engine.statistics();
        total.preemptions += statistics.preemptions;
        total.cached_tokens += statistics.cached_tokens;
        total.cached_images += statistics.cached_images;
        total.accepted_tokens += statistics.accepted_tokens;
        total.overlapped_steps += statistics.overlapped_steps;
    }
    total
}

/// Calls with fewer rows are reordered.
const FEW: usize = 16;

/// The CPU, but RMSNorm of a call with few rows adds a row's squares up from its end.
#[derive(Clone)]
struct ReversedNorm(Cpu);

impl ReversedNorm {
    fn call<T>(&self, _op: &'static str, compute: impl FnOnce(&Cpu) -> T) -> T {
        compute(&self.0)
    }
}

delegate_ops!(ReversedNorm, except RmsNorm);

impl RmsNorm for ReversedNorm {
    fn rms_norm_forward(&self, x: &Tensor, add: Option<&Tensor>, w: &Tensor, epsilon: f32) -> RmsNormed {
        let normal = self.0.rms_norm_forward(x, add, w, epsilon);
        if x.rows() >= FEW {
            return normal;
        }
        let read = |tensor: &Tensor| {
            let mut values = vec![0.0f32; tensor.len()];
            self.0.download(tensor, HostMut::F32(&mut values));
            values
        };
        let (h, w) = (read(normal.sum.as_ref().unwrap_or(x)), read(w));
        let mut y = Vec::with_capacity(h.len());
        for row in h.chunks(w.len()) {
            let squares: f32 = row.iter().rev().map(|h| h * h).sum();
            let rstd = 1.0 / (squares / w.len() as f32 + epsilon).sqrt();
            y.extend(row.iter().zip(&w).map(|(h, w)| h * rstd * w));
        }
        RmsNormed { y: self.0.upload(Host::F32(&y), x.shape(), Dtype::Activation), ..normal }
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        h: &Tensor,
        w: &Tensor,
        rstd: &Tensor,
        dw: Option<&mut Tensor>,
    ) -> Tensor {
        self.0.rms_norm_backward(dy, dresidual, h, w, rstd, dw)
    }
}

/// The CPU, but the product of a call with few rows is the sum of two: over the first half of `k`, and over the second.
#[derive(Clone)]
struct SplitLinear(Cpu);

impl SplitLinear {
    fn call<T>(&self, _op: &'static str, compute: impl FnOnce(&Cpu) -> T) -> T {
        compute(&self.0)
    }

    /// `x` with zeros, which change no sum, in all columns but `kept`.
    fn only(&self, x: &Tensor, kept: Range<usize>) -> Tensor {
        let mut values = vec![0.0f32; x.len()];
        self.0.download(x, HostMut::F32(&mut values));
        for row in values.chunks_mut(x.cols()) {
            row[..kept.start].fill(0.0);
            row[kept.end..].fill(0.0);
        }
        self.0.upload(Host::F32(&values), x.shape(), Dtype::Activation)
    }
}

delegate_ops!(SplitLinear, except Linear);

impl Linear for SplitLinear {
    fn linear_forward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
        if x.rows() >= FEW {
            return self.0.linear_forward(x, w, b);
        }
        let k = x.cols();
        let mut y = self.0.linear_forward(&self.only(x, 0..k / 2), w, b);
        self.0.add(&mut y, &self.0.linear_forward(&self.only(x, k / 2..k), w, None));
        y
    }

    fn linear_backward_input(&self, dy: &Tensor, w: &Tensor) -> Tensor {
        self.0.linear_backward_input(dy, w)
    }

    fn linear_backward_weight(&self, dy: &Tensor, x: &Tensor, dw: &mut Tensor, db: Option<&mut Tensor>) {
        self.0.linear_backward_weight(dy, x, dw, db);
    }
}
