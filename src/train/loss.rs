//! The policy-gradient losses of a sequence's tokens, and the weights that make token losses one number over a whole batch.

use crate::recipe::{GrpoSettings, KlEstimator, LossType};

/// What a token's loss is, and where it leads.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TokenLoss {
    /// Surrogate of the policy gradient plus `beta` times KL; unweighted, as all of these.
    pub loss: f64,
    /// Derivative of the sequence's loss, the sum over its tokens, by this token's log-probability under the weights that learn.
    pub dlogprob: f64,
    /// Estimate of the KL divergence from the reference.
    pub kl: f64,
    /// Ratio of the token's probability to that under the weights that sampled it; with `gspo`, the sequence's.
    pub ratio: f64,
    /// Whether the ratio was clipped from below in effect: the advantage is negative.
    pub clipped_low: bool,
    /// Whether it was clipped from above in effect: the advantage is positive.
    pub clipped_high: bool,
}

/// A token in the loss.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LossToken {
    /// Log-probability under the weights that learn.
    pub new: f32,
    /// Under those that sampled it.
    pub old: f32,
    /// Under the frozen reference, if there is one.
    pub reference: Option<f32>,
    /// The advantage; `None` where the token has a KL divergence only.
    pub advantage: Option<f64>,
}

impl LossToken {
    fn log_ratio(&self) -> f64 {
        f64::from(self.new) - f64::from(self.old)
    }
}

/// The losses of a sequence's tokens: `−s + beta · kl` each, with the surrogate `s` of [`LossType`].
///
/// With `loss_clamp`, a sequence whose mean policy loss is above it counts as 1 a token, without a gradient of the policy.
pub fn sequence_losses(settings: &GrpoSettings, tokens: &[LossToken]) -> Vec<TokenLoss> {
    let advantages = tokens.iter().filter_map(|token| Some((token, token.advantage?)));
    let count = advantages.clone().count() as f64;
    let of_sequence = advantages.clone().map(|(token, _)| token.log_ratio()).sum::<f64>() / count;
    let is_sequence = settings.loss_type == LossType::Gspo;
    let surrogate = |(token, advantage): (&LossToken, f64)| {
        let log_ratio = if is_sequence { of_sequence } else { token.log_ratio() };
        surrogate(settings, log_ratio.exp(), f64::from(token.new), advantage)
    };
    let mut policy: Vec<TokenLoss> = advantages.map(surrogate).collect();
    if is_sequence {
        // Each token moves the ratio of all.
        let shared = policy.iter().map(|token| token.dlogprob).sum::<f64>() / count;
        policy.iter_mut().for_each(|token| token.dlogprob = shared);
    }
    let mean = policy.iter().map(|token| token.loss).sum::<f64>() / count;
    if settings.loss_clamp.is_some_and(|most| mean > most) {
        policy.iter_mut().for_each(|token| (token.loss, token.dlogprob) = (1.0, 0.0));
    }
    let mut policy = policy.into_iter();
    let one = |token: &LossToken| {
        let of_policy =
            token.advantage.and_then(|_| policy.next()).unwrap_or(TokenLoss { ratio: 1.0, ..TokenLoss::default() });
        let (kl, dkl) = token.reference.map_or((0.0, 0.0), |reference| kl(settings.kl_estimator, token.new, reference));
        let beta = settings.beta_in_loss();
        TokenLoss {
            loss: beta.mul_add(kl, of_policy.loss),
            dlogprob: beta.mul_add(dkl, of_policy.dlogprob),
            kl,
            ..of_policy
        }
    };
    tokens.iter().map(one).collect()
}

/// The loss of the policy at a ratio, and its derivative by the logarithm of the ratio.
fn surrogate(settings: &GrpoSettings, ratio: f64, new: f64, advantage: f64) -> TokenLoss {
    let high = settings.epsilon_high.unwrap_or(settings.epsilon);
    let token = TokenLoss { ratio, ..TokenLoss::default() };
    let loss = |gain: f64, dgain: f64| TokenLoss { loss: -gain * advantage, dlogprob: -dgain * advantage, ..token };
    match settings.loss_type {
        LossType::Cispo => {
            let weight = ratio.min(high);
            TokenLoss { clipped_high: advantage > 0.0 && ratio > high, ..loss(weight * new, weight) }
        }
        LossType::Sapo => {
            let positive = advantage > 0.0;
            let steepness = if positive { settings.sapo_temperature_pos } else { settings.sapo_temperature_neg };
            let gate = 1.0 / (1.0 + (-steepness * (ratio - 1.0)).exp());
            loss(gate * 4.0 / steepness, 4.0 * gate * (1.0 - gate) * ratio)
        }
        LossType::Grpo | LossType::Dapo | LossType::Bnpo | LossType::DrGrpo | LossType::Gspo => {
            let (low, high) = (1.0 - settings.epsilon, 1.0 + high);
            let clipped_low = advantage < 0.0 && ratio < low;
            let clipped_high = advantage > 0.0 && ratio > high;
            let most = settings.delta.filter(|most| advantage < 0.0 && ratio > *most);
            let (gain, dgain) = match (clipped_low || clipped_high, most) {
                (true, _) => (ratio.clamp(low, high), 0.0),
                // A clip from above that `delta` undercuts stays as it is.
                (false, Some(most)) => (most.max(high), 0.0),
                (false, None) => (ratio, ratio),
            };
            TokenLoss { clipped_low, clipped_high, ..loss(gain, dgain) }
        }
    }
}

/// A token's KL divergence from the reference, and its derivative by the log-probability under the weights that learn.
pub fn kl(estimator: KlEstimator, new: f32, reference: f32) -> (f64, f64) {
    let difference = f64::from(reference) - f64::from(new);
    match estimator {
        KlEstimator::K1 => (-difference, 1.0),
        KlEstimator::K2 => (0.5 * difference * difference, -difference),
        KlEstimator::K3 => (difference.exp() - difference - 1.0, 1.0 - difference.exp()),
    }
}

/// What the losses of a batch's tokens are divided by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Divisor {
    /// Sequences that the loss is averaged over.
    pub sequences: usize,
    /// Their tokens in the loss.
    pub tokens: usize,
}

/// The weight of each token of a sequence in the batch's loss.
///
/// `tokens` are the tokens in the loss of each sequence; `tokens_max` what a sequence may have at most. The divisor may count sequences
/// that are not among these, because nothing is to be learned from them.
pub fn token_weights(loss: LossType, tokens: &[usize], divisor: Divisor, tokens_max: usize) -> Vec<f64> {
    let sequences = divisor.sequences.max(1) as f64;
    let all = divisor.tokens.max(1) as f64;
    let weight = |&count: &usize| match loss {
        LossType::Grpo | LossType::Gspo | LossType::Sapo => 1.0 / (sequences * count.max(1) as f64),
        LossType::Dapo | LossType::Bnpo | LossType::Cispo => 1.0 / all,
        LossType::DrGrpo => 1.0 / (sequences * tokens_max as f64),
    };
    tokens.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [LossType; 7] = [
        LossType::Grpo,
        LossType::Dapo,
        LossType::Bnpo,
        LossType::DrGrpo,
        LossType::Gspo,
        LossType::Cispo,
        LossType::Sapo,
    ];

    fn settings(loss_type: LossType) -> GrpoSettings {
        GrpoSettings { beta: 0.1, epsilon: 0.2, epsilon_high: Some(0.3), loss_type, ..GrpoSettings::default() }
    }

    fn token(new: f32, old: f32, reference: Option<f32>, advantage: f64) -> LossToken {
        LossToken { new, old, reference, advantage: Some(advantage) }
    }

    fn loss_at(new: f32, old: f32, reference: Option<f32>, advantage: f64) -> TokenLoss {
        sequence_losses(&settings(LossType::Grpo), &[token(new, old, reference, advantage)])[0]
    }

    /// Tokens on both sides of both clips, one that has a divergence only, and one that is masked.
    fn sequence() -> Vec<LossToken> {
        let divergence_only = LossToken { advantage: None, ..token(-0.4, -0.2, Some(-0.9), 0.0) };
        vec![
            token(-1.0, -1.0625, Some(-0.75), 0.7),
            token(-1.0, -1.5, Some(-0.75), 0.7),
            token(-1.5, -1.0, None, 0.7),
            divergence_only,
            token(-2.0, -2.0, Some(-2.0), 0.0),
        ]
    }

    #[test]
    fn derivatives_are_those_of_the_sum_over_the_sequence() {
        let step = 1.0 / 1024.0;
        for loss_type in TYPES {
            for kl_estimator in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3] {
                for (sign, delta) in [(1.0, None), (-1.0, None), (-1.0, Some(1.45))] {
                    let settings = GrpoSettings { kl_estimator, delta, ..settings(loss_type) };
                    let tokens: Vec<LossToken> = sequence()
                        .into_iter()
                        .map(|token| LossToken { advantage: token.advantage.map(|a| sign * a), ..token })
                        .collect();
                    let found = sequence_losses(&settings, &tokens);
                    for at in 0..tokens.len() {
                        let moved = |by: f32| {
                            let mut tokens = tokens.clone();
                            tokens[at].new += by;
                            // The ratio of CISPO is a constant of the derivative.
                            tokens[at].old += if loss_type == LossType::Cispo { by } else { 0.0 };
                            sequence_losses(&settings, &tokens).iter().map(|token| token.loss).sum::<f64>()
                        };
                        let slope = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                        let what = format!("{loss_type:?} {kl_estimator:?} sign {sign} delta {delta:?} token {at}");
                        assert!((slope - found[at].dlogprob).abs() < 1e-4, "{what}: {slope} {}", found[at].dlogprob);
                    }
                }
            }
        }
    }

    #[test]
    fn a_ratio_beyond_the_clip_stops_learning_only_where_it_gains() {
        assert_eq!(loss_at(-0.5, -1.0, None, 1.0).dlogprob, 0.0);
        assert!(loss_at(-0.5, -1.0, None, -1.0).dlogprob > 0.0);
        assert_eq!(loss_at(-1.5, -1.0, None, -1.0).dlogprob, 0.0);
        assert!(loss_at(-1.5, -1.0, None, 1.0).dlogprob < 0.0);
    }

    #[test]
    fn on_policy_the_gradient_is_the_advantage() {
        for loss_type in TYPES {
            let tokens = [token(-2.0, -2.0, Some(-2.0), 0.5); 3];
            let found = sequence_losses(&GrpoSettings { epsilon_high: Some(2.0), ..settings(loss_type) }, &tokens);
            assert!(found.iter().all(|token| token.dlogprob == -0.5), "{loss_type:?}: {found:?}");
        }
    }

    #[test]
    fn a_sequence_with_a_large_loss_counts_as_one_and_teaches_nothing() {
        let settings = GrpoSettings { loss_clamp: Some(10.0), beta: 0.0, ..settings(LossType::Grpo) };
        let tokens = [token(0.0, -4.0, None, -1.0), token(-1.0, -1.0, None, -1.0)];
        assert!(sequence_losses(&settings, &tokens).iter().all(|token| (token.loss, token.dlogprob) == (1.0, 0.0)));
        let tokens = [token(0.0, -2.0, None, -1.0), token(-1.0, -1.0, None, -1.0)];
        assert!(sequence_losses(&settings, &tokens).iter().all(|token| token.dlogprob > 0.0));
    }

    #[test]
    fn weights_are_shares_of_what_the_divisor_counts() {
        // Four sequences were sampled, two of them have tokens in the loss, and one more is not here.
        let (tokens, divisor) = ([3, 0, 5], Divisor { sequences: 4, tokens: 10 });
        for loss in [LossType::Grpo, LossType::Gspo, LossType::Sapo] {
            assert_eq!(token_weights(loss, &tokens, divisor, 20), [1.0 / 12.0, 0.25, 0.05]);
        }
        for loss in [LossType::Dapo, LossType::Bnpo, LossType::Cispo] {
            assert_eq!(token_weights(loss, &tokens, divisor, 20), [0.1; 3]);
        }
        assert_eq!(token_weights(LossType::DrGrpo, &tokens, divisor, 20), [1.0 / 80.0; 3]);
    }
}
