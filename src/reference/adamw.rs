//! AdamW: see [`crate::ops::adamw`].

use half::bf16;

use super::buffers::{f64s, f64s_mut, i16s_mut};
use super::{Reference, expect_shape};
use crate::ops::Tensor;
use crate::ops::adamw::{Adamw, AdamwStep, join_master, split_master};

impl Adamw for Reference {
    /// The master is an f32 in two halves as everywhere; the update is computed in f64 and rounded once. Moments stay f64.
    fn adamw(
        &self,
        w: &mut Tensor,
        remainder: &mut Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        dw: &Tensor,
        step: &AdamwStep,
    ) {
        for (name, tensor) in [("remainder", &*remainder), ("m", &*m), ("v", &*v), ("dw", dw)] {
            expect_shape(&format!("adamw {name}"), tensor, w.shape());
        }
        let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
        let correction1 = 1.0 - beta1.powf(step.step as f64);
        let correction2 = 1.0 - beta2.powf(step.step as f64);
        let (w, remainder, m, v) = (f64s_mut(w), i16s_mut(remainder), f64s_mut(m), f64s_mut(v));
        for (i, dw) in f64s(dw).iter().enumerate() {
            let g = dw * f64::from(step.gradient_scale);
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let direction = (m[i] / correction1) / ((v[i] / correction2).sqrt() + f64::from(step.epsilon));
            let master = f64::from(join_master(bf16::from_f64(w[i]).to_bits(), remainder[i]));
            let moved = master - f64::from(step.learning_rate) * (direction + f64::from(step.weight_decay) * master);
            let (weight, rest) = split_master(moved as f32);
            w[i] = bf16::from_bits(weight).to_f64();
            remainder[i] = rest;
        }
    }
}
