//! AdamW over weights and their remainders: `kernels/adamw.cu`.

use super::device::Argument::{F32, I64};
use super::{Cuda, expect_shape, tensor};
use crate::ops::Tensor;
use crate::ops::adamw::{Adamw, AdamwStep};

/// Elements of a thread.
const ELEMENTS: usize = 8;
/// Threads of a block.
const THREADS: usize = 256;

impl Adamw for Cuda {
    fn adamw(
        &self,
        w: &mut Tensor,
        remainder: &mut Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        dw: &Tensor,
        step: &AdamwStep,
    ) {
        for (name, of) in [("remainder", &*remainder), ("m", &*m), ("v", &*v), ("dw", dw)] {
            expect_shape(&format!("adamw {name}"), of, w.shape());
        }
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
        let learning_rate = f64::from(step.learning_rate);
        self.launch(
            "adamw",
            [w.len().div_ceil(ELEMENTS * THREADS), 1, 1],
            THREADS,
            &[
                tensor("w", w),
                tensor("remainder", remainder),
                tensor("m", m),
                tensor("v", v),
                tensor("dw", dw),
                F32(step.beta1),
                F32(step.beta2),
                F32((learning_rate / correction(step.beta1)) as f32),
                F32((1.0 / correction(step.beta2).sqrt()) as f32),
                F32(step.epsilon),
                F32((learning_rate * f64::from(step.weight_decay)) as f32),
                F32(step.gradient_scale),
                I64(w.len() as i64),
            ],
        );
    }
}
