//! The loss of a pair of answers, and its derivative by their log-probabilities.

use crate::recipe::{DpoSettings, PreferenceLoss};

/// An answer: log-probabilities of its learned tokens, summed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answer {
    /// Under the policy.
    pub logp: f64,
    /// Under the reference.
    pub reference_logp: f64,
    /// Its learned tokens.
    pub tokens: usize,
}

impl Answer {
    /// `log π(y|x) − log π_ref(y|x)`.
    fn log_ratio(self) -> f64 {
        self.logp - self.reference_logp
    }

    /// What DPO takes the answer to be worth: `beta` times its log-ratio.
    pub fn reward(self, beta: f64) -> f64 {
        beta * self.log_ratio()
    }
}

/// What a pair costs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PairLoss {
    /// The loss.
    pub loss: f64,
    /// Its derivative by the log-probability of each token of the chosen answer.
    pub dchosen: f64,
    /// The same of the rejected one.
    pub drejected: f64,
}

/// The loss of a pair. With log-ratios `r = log π − log π_ref` of the chosen (w) and the rejected (l) answer, and ε for `label_smoothing`:
///
/// - `sigmoid` (Rafailov et al. 2023, eq. 7; ε as in Mitchell 2023): `−(1 − ε) log σ(z) − ε log σ(−z)` with `z = beta (r_w − r_l)`;
/// - `ipo` (Azar et al. 2023, eq. 17): `(r_w / |w| − r_l / |l| − 1 / (2 beta))²`, where `|·|` counts tokens, as TRL has it.
pub fn pair_loss(settings: &DpoSettings, chosen: Answer, rejected: Answer) -> PairLoss {
    let (beta, smoothing) = (settings.beta, settings.label_smoothing);
    match settings.loss_type {
        PreferenceLoss::Sigmoid => {
            let z = beta * (chosen.log_ratio() - rejected.log_ratio());
            let loss = (1.0 - smoothing) * softplus(-z) + smoothing * softplus(z);
            let dz = smoothing * sigmoid(z) - (1.0 - smoothing) * sigmoid(-z);
            PairLoss { loss, dchosen: beta * dz, drejected: -beta * dz }
        }
        PreferenceLoss::Ipo => {
            let mean = |answer: Answer| answer.log_ratio() / answer.tokens as f64;
            let distance = mean(chosen) - mean(rejected) - 1.0 / (2.0 * beta);
            PairLoss {
                loss: distance * distance,
                dchosen: 2.0 * distance / chosen.tokens as f64,
                drejected: -2.0 * distance / rejected.tokens as f64,
            }
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log(1 + e^x) = −log σ(−x)`, also where `e^x` overflows.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
