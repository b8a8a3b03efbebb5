//! The clipped policy-gradient loss of one token, and the weights that make token losses one number over a whole batch.

use crate::recipe::{GrpoSettings, LossType};

/// A token's loss and its derivative by the new log-probability, both unweighted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TokenLoss {
    /// Clipped surrogate plus `beta` times KL.
    pub loss: f64,
    /// Derivative of `loss` by the log-probability under the weights that learn.
    pub dlogprob: f64,
    /// k3 estimate of the KL divergence from the reference.
    pub kl: f64,
    /// Whether the ratio was clipped from below in effect: the advantage is negative.
    pub clipped_low: bool,
    /// Whether it was clipped from above in effect: the advantage is positive.
    pub clipped_high: bool,
}

/// Log-probabilities of one token.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TokenLogprobs {
    /// Under the weights that learn.
    pub new: f32,
    /// Under those that sampled it.
    pub old: f32,
    /// Under the frozen reference, if there is one.
    pub reference: Option<f32>,
}

/// `−min(r A, clip(r, 1−ε, 1+ε_high) A) + β (e^d − d − 1)` with `r = exp(new − old)`, `d = reference − new` (k3, Schulman 2020).
pub fn token_loss(settings: &GrpoSettings, logprobs: TokenLogprobs, advantage: f64) -> TokenLoss {
    let new = f64::from(logprobs.new);
    let ratio = (new - f64::from(logprobs.old)).exp();
    let (low, high) = (1.0 - settings.epsilon, 1.0 + settings.epsilon_high.unwrap_or(settings.epsilon));
    let (clipped_low, clipped_high) = (advantage < 0.0 && ratio < low, advantage > 0.0 && ratio > high);
    let (surrogate, dsurrogate) = match clipped_low || clipped_high {
        true => (ratio.clamp(low, high) * advantage, 0.0),
        false => (ratio * advantage, ratio * advantage),
    };
    let difference = logprobs.reference.map_or(0.0, |reference| f64::from(reference) - new);
    let kl = difference.exp() - difference - 1.0;
    TokenLoss {
        loss: settings.beta.mul_add(kl, -surrogate),
        dlogprob: settings.beta.mul_add(1.0 - difference.exp(), -dsurrogate),
        kl,
        clipped_low,
        clipped_high,
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
        LossType::Grpo => 1.0 / (sequences * count.max(1) as f64),
        LossType::Dapo | LossType::Bnpo => 1.0 / all,
        LossType::DrGrpo => 1.0 / (sequences * tokens_max as f64),
    };
    tokens.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss_at(new: f32, old: f32, reference: Option<f32>, advantage: f64) -> TokenLoss {
        let settings = GrpoSettings { beta: 0.1, epsilon: 0.2, epsilon_high: Some(0.3), ..GrpoSettings::default() };
        token_loss(&settings, TokenLogprobs { new, old, reference }, advantage)
    }

    #[test]
    fn the_derivative_is_that_of_the_loss() {
        for (new, old, reference, advantage) in
            [(-1.0, -1.0, None, 0.7), (-1.0, -1.1, Some(-0.8), -0.4), (-0.5, -1.5, Some(-0.6), -2.0)]
        {
            let step = 1.0 / 1024.0;
            let slope = (loss_at(new + step, old, reference, advantage).loss
                - loss_at(new - step, old, reference, advantage).loss)
                / f64::from(2.0 * step);
            assert!((slope - loss_at(new, old, reference, advantage).dlogprob).abs() < 1e-4);
        }
    }

    #[test]
    fn a_ratio_beyond_the_clip_stops_learning_only_where_it_gains() {
        let clips = |new, old, advantage| {
            let loss = loss_at(new, old, None, advantage);
            (loss.clipped_low, loss.clipped_high)
        };
        assert_eq!(clips(-1.0, -1.5, 1.0), (false, true));
        assert_eq!(clips(-1.5, -1.0, -1.0), (true, false));
        assert_eq!([clips(-1.0, -1.5, -1.0), clips(-1.0, -1.5, 0.0)], [(false, false); 2]);
        assert_eq!(loss_at(-1.0, -1.5, None, 1.0).dlogprob, 0.0);
        assert!(loss_at(-1.0, -1.5, None, -1.0).dlogprob > 0.0);
        assert_eq!(loss_at(-1.5, -1.0, None, -1.0).dlogprob, 0.0);
        assert!(loss_at(-1.5, -1.0, None, 1.0).dlogprob < 0.0);
    }

    #[test]
    fn on_policy_the_gradient_is_the_advantage() {
        assert_eq!(loss_at(-2.0, -2.0, Some(-2.0), 0.5).dlogprob, -0.5);
    }

    #[test]
    fn weights_are_shares_of_what_the_divisor_counts() {
        // Four sequences were sampled, two of them have tokens in the loss, and one more is not here.
        let (tokens, divisor) = ([3, 0, 5], Divisor { sequences: 4, tokens: 10 });
        assert_eq!(token_weights(LossType::Grpo, &tokens, divisor, 20), [1.0 / 12.0, 0.25, 0.05]);
        for loss in [LossType::Dapo, LossType::Bnpo] {
            assert_eq!(token_weights(loss, &tokens, divisor, 20), [0.1; 3]);
        }
        assert_eq!(token_weights(LossType::DrGrpo, &tokens, divisor, 20), [1.0 / 80.0; 3]);
    }
}
