//! AdamW over weights and their remainders: `kernels/adamw.cu`.

use super::device::Argument;
use super::kernels::adamw as kernel;
use super::{Cuda, tensor};
use crate::ops::Tensor;
use crate::ops::adamw::{Adamw, AdamwStep, MOMENT_BLOCK, Moment, expect_shapes};

const _: () = assert!(kernel::MOMENT_BLOCK == MOMENT_BLOCK);

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
        let numbers = kernel::AdamwStep {
            beta1: step.beta1,
            beta2: step.beta2,
            rate: (learning_rate / correction(step.beta1)) as f32,
            root: (1.0 / correction(step.beta2).sqrt()) as f32,
            epsilon: step.epsilon,
            decay: (learning_rate * f64::from(step.weight_decay)) as f32,
            gradient_scale: step.gradient_scale,
        };
        let mut arguments = vec![tensor("w", w), tensor("remainder", remainder)];
        for (role, scales_role, moment) in [("m", "m_scales", &*m), ("v", "v_scales", &*v)] {
            arguments.push(tensor(role, &moment.values));
            arguments.extend(moment.scales.as_ref().map(|scales| tensor(scales_role, scales)));
        }
        arguments.extend([tensor("dw", dw), Argument::by_value(&numbers), Argument::I64(w.len() as i64)]);
        let (name, elements) = match m.scales {
            Some(_) => ("adamw_8bit", kernel::BLOCK_ELEMENTS_8BIT),
            None => ("adamw", kernel::BLOCK_ELEMENTS),
        };
        self.launch(name, [w.len().div_ceil(elements), 1, 1], &arguments);
    }
}
