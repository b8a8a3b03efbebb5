//! AdamW: see [`crate::ops::adamw`].

use half::bf16;

use super::Reference;
use super::buffers::{f64s, f64s_mut, i16s_mut, u8s, u8s_mut};
use crate::ops::adamw::{
    Adamw, AdamwParameter, AdamwStep, CodeMap, MOMENT_BLOCK, Moment, SIGNED, UNSIGNED, join_master, split_master,
};

impl Adamw for Reference {
    fn adamw(&self, parameters: &mut [AdamwParameter<'_>], step: &AdamwStep) {
        for parameter in parameters {
            update(parameter, step);
        }
    }
}

/// The master is an f32 in two halves as everywhere; the update is computed in f64 and rounded once. Moments stay f64, or become codes.
fn update(parameter: &mut AdamwParameter<'_>, step: &AdamwStep) {
    parameter.expect_shapes();
    let AdamwParameter { w, remainder, m, v, dw, weight_decay } = parameter;
    let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
    let correction1 = 1.0 - beta1.powf(step.step as f64);
    let correction2 = 1.0 - beta2.powf(step.step as f64);
    let (mut first, mut second) = (read(m, &SIGNED, |m| m), read(v, &UNSIGNED, |root| root * root));
    let (w, remainder) = (f64s_mut(w), i16s_mut(remainder));
    for (i, dw) in f64s(dw).iter().enumerate() {
        let (m, v) = (&mut first[i], &mut second[i]);
        let g = dw * f64::from(step.gradient_scale);
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        let direction = (*m / correction1) / ((*v / correction2).sqrt() + f64::from(step.epsilon));
        let master = f64::from(join_master(bf16::from_f64(w[i]).to_bits(), remainder[i]));
        let moved = master - f64::from(step.learning_rate) * (direction + f64::from(*weight_decay) * master);
        let (weight, rest) = split_master(moved as f32);
        w[i] = bf16::from_bits(weight).to_f64();
        remainder[i] = rest;
    }
    write(m, &SIGNED, first, |m| m);
    write(v, &UNSIGNED, second, f64::sqrt);
}

/// A moment's values; `restore` makes one of what a code stands for.
fn read(moment: &Moment, map: &CodeMap, restore: impl Fn(f64) -> f64) -> Vec<f64> {
    let Some(scales) = &moment.scales else { return f64s(&moment.values).to_vec() };
    let codes = u8s(&moment.values).iter().enumerate();
    codes.map(|(i, code)| restore(f64::from(map.value(*code)) * f64s(scales)[i / MOMENT_BLOCK])).collect()
}

/// Stores a moment's values; of codes, those of what `prepare` makes of each.
fn write(moment: &mut Moment, map: &CodeMap, values: Vec<f64>, prepare: impl Fn(f64) -> f64) {
    let Some(scales) = &mut moment.scales else { return f64s_mut(&mut moment.values).copy_from_slice(&values) };
    let values: Vec<f64> = values.into_iter().map(prepare).collect();
    let codes = u8s_mut(&mut moment.values).chunks_mut(MOMENT_BLOCK);
    for ((values, codes), scale) in values.chunks(MOMENT_BLOCK).zip(codes).zip(f64s_mut(scales)) {
        let largest = values.iter().fold(0.0f64, |largest, x| largest.max(x.abs())) as f32;
        *scale = f64::from(largest.min(f32::MAX));
        for (value, code) in values.iter().zip(codes) {
            *code = if *scale == 0.0 { 0 } else { map.code((value / *scale) as f32) };
        }
    }
}
