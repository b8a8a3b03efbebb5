//! Head and softmax: see [`crate::ops::token_logprob`].

use super::buffers::{f64s, floats, i32s};
use super::{Reference, expect_shape};
use crate::ops::linear::Linear;
use crate::ops::token_logprob::{EntropyGradient, TokenLogprob, TokenLogprobs};
use crate::ops::{Dtype, Tensor};

impl TokenLogprob for Reference {
    fn token_logprob_forward(
        &self,
        h: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        temperatures: &Tensor,
        excluded: &[u32],
    ) -> TokenLogprobs {
        let rows = h.rows();
        expect_shape("token_logprob_forward targets", targets, &[rows]);
        expect_shape("token_logprob_forward temperatures", temperatures, &[rows]);
        let logits = self.linear_forward(h, w, None);
        let [mut logprob, mut logprob_at_temperature, mut lse_raw, mut lse_at_temperature, mut entropy] =
            [const { Vec::<f64>::new() }; 5];
        for (t, z) in f64s(&logits).chunks_exact(w.rows()).enumerate() {
            let (target, inverse) = (i32s(targets)[t] as usize, 1.0 / f64s(temperatures)[t]);
            let lse = log_sum_exp(z);
            let scaled = exclude(z.iter().map(|z| z * inverse).collect(), excluded);
            let lse_scaled = log_sum_exp(&scaled);
            logprob.push(z[target] - lse);
            logprob_at_temperature.push(scaled[target] - lse_scaled);
            lse_raw.push(lse);
            lse_at_temperature.push(lse_scaled);
            entropy.push(-z.iter().map(|z| (z - lse).exp() * (z - lse)).sum::<f64>());
        }
        let [logprob, logprob_at_temperature, lse_raw, lse_at_temperature, entropy] =
            [logprob, logprob_at_temperature, lse_raw, lse_at_temperature, entropy]
                .map(|values| floats(values, &[rows], Dtype::F32));
        TokenLogprobs { logprob, logprob_at_temperature, lse_raw, lse_at_temperature, entropy }
    }

    fn token_logprob_backward(
        &self,
        dlogprob: &Tensor,
        h: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        temperatures: &Tensor,
        lse: &Tensor,
        excluded: &[u32],
        entropy: Option<EntropyGradient<'_>>,
        dw: Option<&mut Tensor>,
    ) -> Tensor {
        let vocab = w.rows();
        for (name, tensor) in [("dlogprob", dlogprob), ("targets", targets), ("lse", lse)] {
            expect_shape(&format!("token_logprob_backward {name}"), tensor, &[h.rows()]);
        }
        let logits = self.linear_forward(h, w, None);
        let mut dz = Vec::with_capacity(logits.len());
        for (t, z) in f64s(&logits).chunks_exact(vocab).enumerate() {
            let (target, inverse) = (i32s(targets)[t] as usize, 1.0 / f64s(temperatures)[t]);
            dz.extend(z.iter().enumerate().map(|(id, z)| {
                let of_entropy = entropy.map_or(0.0, |EntropyGradient { dentropy, entropy, lse_raw }| {
                    let log_p = z - f64s(lse_raw)[t];
                    -f64s(dentropy)[t] * log_p.exp() * (log_p + f64s(entropy)[t])
                });
                if excluded.contains(&(id as u32)) {
                    return of_entropy;
                }
                let one_hot = if id == target { 1.0 } else { 0.0 };
                of_entropy + f64s(dlogprob)[t] * inverse * (one_hot - (z * inverse - f64s(lse)[t]).exp())
            }));
        }
        let dz = floats(dz, logits.shape(), Dtype::Activation);
        if let Some(dw) = dw {
            self.linear_backward_weight(&dz, h, dw, None);
        }
        self.linear_backward_input(&dz, w)
    }
}

/// `ln Σ exp(z)`, the largest taken out first.
pub fn log_sum_exp(z: &[f64]) -> f64 {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln()
}

/// The logits with those of excluded tokens at minus infinity.
pub fn exclude(mut z: Vec<f64>, excluded: &[u32]) -> Vec<f64> {
    for &token in excluded {
        z[token as usize] = f64::NEG_INFINITY;
    }
    z
}
