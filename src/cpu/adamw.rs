//! AdamW over weights and their remainders, element by element; moments in 8 bits are read and stored a block at a time.

use half::bf16;
use rayon::prelude::*;

use super::simd::kernel;
use super::{Cpu, bf16s_mut, floats, floats_mut, values_mut};
use crate::ops::adamw::{
    Adamw, AdamwParameter, AdamwStep, CodeMap, MOMENT_BLOCK, SIGNED, UNSIGNED, join_master, split_master,
};

/// Elements updated by one task.
const PART: usize = 1 << 15;
/// Blocks of moments among them.
const PART_BLOCKS: usize = PART / MOMENT_BLOCK;

impl Adamw for Cpu {
    fn adamw(&self, parameters: &mut [AdamwParameter<'_>], step: &AdamwStep) {
        for parameter in parameters {
            self.update(parameter, step);
        }
    }
}

impl Cpu {
    fn update(&self, parameter: &mut AdamwParameter<'_>, step: &AdamwStep) {
        parameter.expect_shapes();
        let AdamwParameter { w, remainder, m, v, dw, weight_decay } = parameter;
        let update = Update::new(step, *weight_decay);
        let weights = bf16s_mut(w).par_chunks_mut(PART).zip(values_mut::<i16>(remainder).par_chunks_mut(PART));
        let parts = weights.zip(floats(dw).par_chunks(PART));
        match (&mut m.scales, &mut v.scales) {
            (Some(m_scales), Some(v_scales)) => {
                let m = values_mut::<u8>(&mut m.values).par_chunks_mut(PART);
                let v = values_mut::<u8>(&mut v.values).par_chunks_mut(PART);
                let m = m.zip(floats_mut(m_scales).par_chunks_mut(PART_BLOCKS));
                let v = v.zip(floats_mut(v_scales).par_chunks_mut(PART_BLOCKS));
                parts.zip(m).zip(v).for_each(|((((w, remainder), dw), (m, m_scales)), (v, v_scales))| {
                    let (m, v) = (Codes { codes: m, scales: m_scales }, Codes { codes: v, scales: v_scales });
                    update_8bit(self.simd, w, remainder, m, v, dw, update);
                });
            }
            _ => {
                let m = floats_mut(&mut m.values).par_chunks_mut(PART);
                let v = floats_mut(&mut v.values).par_chunks_mut(PART);
                parts.zip(m).zip(v).for_each(|((((w, remainder), dw), m), v)| {
                    update_f32(self.simd, w, remainder, m, v, dw, update);
                });
            }
        }
    }
}

/// A part of a moment in 8 bits: a code an element, a scale a block.
struct Codes<'a> {
    codes: &'a mut [u8],
    scales: &'a mut [f32],
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
    fn new(step: &AdamwStep, weight_decay: f32) -> Update {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
        let rate = f64::from(step.learning_rate);
        Update {
            step: *step,
            rate: (rate / correction(step.beta1)) as f32,
            root: (1.0 / correction(step.beta2).sqrt()) as f32,
            decay: (rate * f64::from(weight_decay)) as f32,
        }
    }
}

kernel! {
    /// Plain arithmetic, which the compiler spreads over lanes; nothing is fused, so the bits are the same everywhere.
    fn update_f32<L>(
        w: &mut [bf16],
        remainder: &mut [i16],
        m: &mut [f32],
        v: &mut [f32],
        dw: &[f32],
        update: Update,
    ) {
        update_values(w, remainder, m, v, dw, update);
    }
}

kernel! {
    /// The same between reading codes and storing them.
    fn update_8bit<L>(
        w: &mut [bf16],
        remainder: &mut [i16],
        m: Codes<'_>,
        v: Codes<'_>,
        dw: &[f32],
        update: Update,
    ) {
        let (mut first, mut second) = ([0.0; MOMENT_BLOCK], [0.0; MOMENT_BLOCK]);
        let weights = w.chunks_mut(MOMENT_BLOCK).zip(remainder.chunks_mut(MOMENT_BLOCK)).zip(dw.chunks(MOMENT_BLOCK));
        let m = m.codes.chunks_mut(MOMENT_BLOCK).zip(m.scales);
        let v = v.codes.chunks_mut(MOMENT_BLOCK).zip(v.scales);
        for ((((w, remainder), dw), (m, m_scale)), (v, v_scale)) in weights.zip(m).zip(v) {
            let (first, second) = (&mut first[..w.len()], &mut second[..w.len()]);
            read(m, *m_scale, &SIGNED, first);
            read(v, *v_scale, &UNSIGNED, second);
            second.iter_mut().for_each(|v| *v *= *v);
            update_values(w, remainder, first, second, dw, update);
            second.iter_mut().for_each(|v| *v = v.sqrt());
            *m_scale = store(first, &SIGNED, m);
            *v_scale = store(second, &UNSIGNED, v);
        }
    }
}

#[inline(always)]
fn update_values(w: &mut [bf16], remainder: &mut [i16], m: &mut [f32], v: &mut [f32], dw: &[f32], update: Update) {
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

/// The numbers that a block of codes stands for.
#[inline(always)]
fn read(codes: &[u8], scale: f32, map: &CodeMap, values: &mut [f32]) {
    for (value, code) in values.iter_mut().zip(codes) {
        *value = map.value(*code) * scale;
    }
}

/// Stores a block as codes; returns its scale.
#[inline(always)]
fn store(values: &[f32], map: &CodeMap, codes: &mut [u8]) -> f32 {
    let scale = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs())).min(f32::MAX);
    let divisor = if scale > 0.0 { scale } else { 1.0 };
    for (value, code) in values.iter().zip(codes) {
        *code = map.code(value / divisor);
    }
    scale
}
