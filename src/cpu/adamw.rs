//! AdamW over weights and their remainders, element by element.

use half::bf16;
use rayon::prelude::*;

use super::simd::kernel;
use super::{Cpu, bf16s_mut, floats, floats_mut, values_mut};
use crate::ops::Tensor;
use crate::ops::adamw::{Adamw, AdamwStep, join_master, split_master};

/// Elements updated by one task.
const BLOCK: usize = 1 << 15;

impl Adamw for Cpu {
    fn adamw(
        &self,
        w: &mut Tensor,
        remainder: &mut Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        dw: &Tensor,
        step: &AdamwStep,
    ) {
        let len = w.len();
        assert!(
            remainder.len() == len && m.len() == len && v.len() == len && dw.len() == len,
            "adamw: w {w:?}, remainder {remainder:?}, m {m:?}, v {v:?}, dw {dw:?}"
        );
        let update = Update::new(step);
        let w = bf16s_mut(w).par_chunks_mut(BLOCK);
        let remainder = values_mut::<i16>(remainder).par_chunks_mut(BLOCK);
        let moments = floats_mut(m).par_chunks_mut(BLOCK).zip(floats_mut(v).par_chunks_mut(BLOCK));
        let dw = floats(dw).par_chunks(BLOCK);
        w.zip(remainder).zip(moments).zip(dw).for_each(|(((w, remainder), (m, v)), dw)| {
            update_block(self.simd, w, remainder, m, v, dw, update);
        });
    }
}

/// A step with its bias corrections worked out.
#[derive(Clone, Copy)]
struct Update {
    step: AdamwStep,
    /// `lr / (1 − β₁ᵗ)`.
    rate: f32,
    /// `1 / sqrt(1 − β₂ᵗ)`.
    root: f32,
    /// `lr · decay`.
    decay: f32,
}

impl Update {
    fn new(step: &AdamwStep) -> Update {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
        let rate = f64::from(step.learning_rate);
        Update {
            step: *step,
            rate: (rate / correction(step.beta1)) as f32,
            root: (1.0 / correction(step.beta2).sqrt()) as f32,
            decay: (rate * f64::from(step.weight_decay)) as f32,
        }
    }
}

kernel! {
    /// Plain arithmetic, which the compiler spreads over lanes; nothing is fused, so the bits are the same everywhere.
    fn update_block<L>(
        w: &mut [bf16],
        remainder: &mut [i16],
        m: &mut [f32],
        v: &mut [f32],
        dw: &[f32],
        update: Update,
    ) {
        let Update { step, rate, root, decay } = update;
        let (keep1, keep2) = (1.0 - step.beta1, 1.0 - step.beta2);
        let len = w.len();
        let (remainder, m, v, dw) = (&mut remainder[..len], &mut m[..len], &mut v[..len], &dw[..len]);
        for i in 0..len {
            let g = dw[i] * step.gradient_scale;
            m[i] = step.beta1 * m[i] + keep1 * g;
            v[i] = step.beta2 * v[i] + keep2 * (g * g);
            let master = join_master(w[i].to_bits(), remainder[i]);
            let change = rate * m[i] / (v[i].sqrt() * root + step.epsilon) + decay * master;
            let (weight, rest) = split_master(master - change);
            w[i] = bf16::from_bits(weight);
            remainder[i] = rest;
        }
    }
}
