//! AdamW over weights and their remainders: `kernels/adamw.cu`.

use super::device::Argument::{F32, I64};
use super::{Cuda, tensor};
use crate::ops::Tensor;
use crate::ops::adamw::{Adamw, AdamwStep, Moment, expect_shapes};

/// Threads of a block.
const THREADS: usize = 256;
/// Elements of a block: a thread has 8 at a time, and with moments in 8 bits it takes 8 turns.
const ELEMENTS: usize = 8 * THREADS;
const ELEMENTS_8BIT: usize = 8 * ELEMENTS;

impl Adamw for Cuda {
    fn adamw(
        &self,
        w: &mut Tensor,
        remainder: &mut Tensor,
        m: &mut Moment,
        v: &mut Moment,
        dw: &Tensor,
        step: &AdamwStep,
    ) {
        expect_shapes(w, remainder, m, v, dw);
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
        let learning_rate = f64::from(step.learning_rate);
        let numbers = [
            F32(step.beta1),
            F32(step.beta2),
            F32((learning_rate / correction(step.beta1)) as f32),
            F32((1.0 / correction(step.beta2).sqrt()) as f32),
            F32(step.epsilon),
            F32((learning_rate * f64::from(step.weight_decay)) as f32),
            F32(step.gradient_scale),
            I64(w.len() as i64),
        ];
        let mut arguments = vec![tensor("w", w), tensor("remainder", remainder)];
        for (role, scales_role, moment) in [("m", "m_scales", &*m), ("v", "v_scales", &*v)] {
            arguments.push(tensor(role, &moment.values));
            arguments.extend(moment.scales.as_ref().map(|scales| tensor(scales_role, scales)));
        }
        arguments.push(tensor("dw", dw));
        arguments.extend(numbers);
        let (kernel, elements) = if m.scales.is_some() { ("adamw_8bit", ELEMENTS_8BIT) } else { ("adamw", ELEMENTS) };
        self.launch(kernel, [w.len().div_ceil(elements), 1, 1], THREADS, &arguments);
    }
}
