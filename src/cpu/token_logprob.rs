//! Head and softmax fused: logits exist for one chunk of rows at a time, forward and again backward.

use rayon::prelude::*;

use super::linear::{self, Left, Right, Size, Start};
use super::log_sum_exp::{exclude, log_probability, softmax, softmax_at_temperature};
use super::simd::{LANES, kernel};
use super::{Cpu, PARALLEL_COST, bf16s, floats, floats_mut, for_row_blocks, parameter, values};
use crate::ops::token_logprob::{EntropyGradient, LOGITS_MAX, TokenLogprob, TokenLogprobs};
use crate::ops::{Dtype, Tensor};

/// Rough number of operations per logit.
const COST: usize = 30;

impl TokenLogprob for Cpu {
    fn token_logprob_forward(
        &self,
        h: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        temperatures: &Tensor,
        excluded: &[u32],
    ) -> TokenLogprobs {
        let (rows, vocab) = (h.rows(), w.rows());
        assert!(
            w.cols() == h.cols() && targets.len() == rows && temperatures.len() == rows,
            "token_logprob_forward: h {h:?}, w {w:?}, targets {targets:?}, temperatures {temperatures:?}"
        );
        let (targets, temperatures) = (values::<i32>(targets), floats(temperatures));
        let mut found: Vec<[f32; 5]> = Vec::with_capacity(rows);
        for_logits(self, h, w, |first, logits| {
            let row = |(i, z): (usize, &mut [f32])| {
                let (target, inverse) = (targets[first + i] as usize, 1.0 / temperatures[first + i]);
                let raw = softmax(self.simd, z, 1.0);
                let logprob = log_probability(z, 1.0, raw.lse, target);
                let z = exclude(z, excluded);
                let at_temperature = softmax_at_temperature(self.simd, z, inverse, raw, excluded);
                let logprob_at_temperature = log_probability(z, inverse, at_temperature.lse, target);
                [logprob, logprob_at_temperature, raw.lse, at_temperature.lse, raw.entropy]
            };
            if logits.len() * COST < PARALLEL_COST {
                found.extend(logits.chunks_exact_mut(vocab).enumerate().map(row));
            } else {
                found.par_extend(logits.par_chunks_exact_mut(vocab).enumerate().map(row));
            }
        });
        let [logprob, logprob_at_temperature, lse_raw, lse_at_temperature, entropy] = std::array::from_fn(|field| {
            let mut tensor = self.empty(&[rows], Dtype::F32);
            floats_mut(&mut tensor).iter_mut().zip(&found).for_each(|(to, found)| *to = found[field]);
            tensor
        });
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
        mut dw: Option<&mut Tensor>,
    ) -> Tensor {
        let (rows, dim, vocab) = (h.rows(), h.cols(), w.rows());
        assert!(
            w.cols() == dim && [dlogprob, targets, temperatures, lse].iter().all(|tensor| tensor.len() == rows),
            "token_logprob_backward: dlogprob {dlogprob:?}, h {h:?}, w {w:?}, targets {targets:?}, lse {lse:?}"
        );
        let (dlogprob, lse) = (floats(dlogprob), floats(lse));
        let (targets, temperatures) = (values::<i32>(targets), floats(temperatures));
        let entropy = entropy.map(|of| [of.dentropy, of.entropy, of.lse_raw].map(floats));
        let mut dh = self.empty(h.shape(), Dtype::Activation);
        for_logits(self, h, w, |first, logits| {
            for_row_blocks(logits, vocab, COST * vocab, |start, block| {
                for (i, z) in block.chunks_exact_mut(vocab).enumerate() {
                    let row = first + start + i;
                    let inverse = 1.0 / temperatures[row];
                    let scale = dlogprob[row] * inverse;
                    let of_row = entropy.map(|of| of.map(|values| values[row]));
                    let of_entropy = |z: f32| {
                        let [dentropy, entropy, lse] = of_row?;
                        Some(-dentropy * (z - lse).exp() * (z - lse + entropy))
                    };
                    let kept: Vec<f32> =
                        excluded.iter().map(|&token| of_entropy(z[token as usize]).unwrap_or(0.0)).collect();
                    match of_row {
                        None => softmax_gradient(self.simd, z, inverse, lse[row], scale),
                        Some(of_row) => entropy_gradient(self.simd, z, inverse, lse[row], scale, of_row),
                    }
                    z[targets[row] as usize] += scale;
                    excluded.iter().zip(kept).for_each(|(&token, kept)| z[token as usize] = kept);
                }
            });
            let count = logits.len() / vocab;
            let size = Size { rows: count, cols: dim, depth: vocab };
            let dh = &mut floats_mut(&mut dh)[first * dim..][..count * dim];
            linear::product(self, Left::Rows(logits), Right::ParameterBackward(bf16s(w)), Start::Zero, size, dh);
            if let Some(dw) = dw.as_deref_mut() {
                let h = &floats(h)[first * dim..][..count * dim];
                linear::add_weight_gradient(self, logits, h, count, floats_mut(dw));
            }
        });
        dh
    }
}

/// Calls `work(first_row, logits)` for each chunk of rows, in order.
fn for_logits(cpu: &Cpu, h: &Tensor, w: &Tensor, mut work: impl FnMut(usize, &mut [f32])) {
    let (rows, dim, vocab) = (h.rows(), h.cols(), w.rows());
    let chunk = (LOGITS_MAX / vocab).clamp(1, rows.max(1));
    let mut logits = cpu.scratch(chunk * vocab);
    for first in (0..rows).step_by(chunk) {
        let size = Size { rows: chunk.min(rows - first), cols: vocab, depth: dim };
        let logits = &mut logits[..size.rows * vocab];
        let h = &floats(h)[first * dim..][..size.rows * dim];
        linear::forward(cpu, h, parameter(w), Start::Zero, size, logits);
        work(first, logits);
    }
}

kernel! {
    /// `z = −scale · exp(z · inverse − lse)`: the gradient of the logits but for the target's own share.
    fn softmax_gradient<L>(z: &mut [f32], inverse: f32, lse: f32, scale: f32) {
        for chunk in z.chunks_mut(LANES) {
            let p = L::load_tail(chunk, 0.0).mul(L::splat(inverse)).sub(L::splat(lse)).exp();
            p.mul(L::splat(-scale)).store_tail(chunk);
        }
    }
}

kernel! {
    /// The same, and the gradient of the row's entropy: `of_row` has its derivative, the entropy, and the log-sum-exp at temperature 1.
    fn entropy_gradient<L>(z: &mut [f32], inverse: f32, lse: f32, scale: f32, of_row: [f32; 3]) {
        let [dentropy, entropy, lse_raw] = of_row;
        for chunk in z.chunks_mut(LANES) {
            let z = L::load_tail(chunk, 0.0);
            let p = z.mul(L::splat(inverse)).sub(L::splat(lse)).exp();
            let log_p = z.sub(L::splat(lse_raw));
            let of_entropy = log_p.exp().mul(log_p.add(L::splat(entropy))).mul(L::splat(-dentropy));
            p.mul(L::splat(-scale)).add(of_entropy).store_tail(chunk);
        }
    }
}
