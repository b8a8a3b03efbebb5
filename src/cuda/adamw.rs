//! AdamW over the weights and remainders of many parameters in one launch: `kernels/adamw.cu`.

use super::device::{Argument, Reached};
use super::kernels::adamw as kernel;
use super::table::{BlockCount, address, reached};
use super::{Cuda, buffers, size};
use crate::ops::adamw::{Adamw, AdamwParameter, AdamwStep, MOMENT_BLOCK};

const _: () = assert!(kernel::MOMENT_BLOCK == MOMENT_BLOCK);

impl Adamw for Cuda {
    fn adamw(&self, parameters: &mut [AdamwParameter<'_>], step: &AdamwStep) {
        parameters.iter().for_each(AdamwParameter::expect_shapes);
        for (kernel, is_8bit) in [("adamw", false), ("adamw_8bit", true)] {
            let of_form = |parameter: &&AdamwParameter<'_>| parameter.m.scales.is_some() == is_8bit;
            let parameters: Vec<_> = parameters.iter().filter(of_form).filter(|of| !of.w.is_empty()).collect();
            self.launch_updates(kernel, &parameters, step);
        }
    }
}

impl Cuda {
    #[track_caller]
    fn launch_updates(&self, kernel: &str, parameters: &[&AdamwParameter<'_>], step: &AdamwStep) {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
        let learning_rate = f64::from(step.learning_rate);
        let numbers = kernel::AdamwStep {
            beta1: step.beta1,
            beta2: step.beta2,
            rate: (learning_rate / correction(step.beta1)) as f32,
            root: (1.0 / correction(step.beta2).sqrt()) as f32,
            epsilon: step.epsilon,
            gradient_scale: step.gradient_scale,
        };
        let mut blocks = BlockCount::default();
        let row = |of: &&AdamwParameter<'_>| kernel::AdamwParameter {
            w: address(Some(of.w)),
            remainder: address(Some(of.remainder)),
            m: address(Some(&of.m.values)),
            m_scales: address(of.m.scales.as_ref()),
            v: address(Some(&of.v.values)),
            v_scales: address(of.v.scales.as_ref()),
            dw: address(Some(of.dw)),
            count: of.w.len() as i64,
            first_block: blocks.next(of.w.len().div_ceil(kernel::BLOCK_ELEMENTS)),
            decay: (learning_rate * f64::from(of.weight_decay)) as f32,
        };
        let rows: Vec<kernel::AdamwParameter> = parameters.iter().map(row).collect();
        if rows.is_empty() {
            return;
        }
        let pieces: Vec<Reached<'_>> = parameters.iter().flat_map(|of| pieces(of)).collect();
        let table = self.table(&rows);
        let arguments =
            [Argument::Table("table", buffers::span(&table), &pieces), Argument::by_value(&numbers), size(rows.len())];
        self.launch(kernel, [blocks.all(), 1, 1], &arguments);
    }
}

/// All that an update of a parameter touches.
fn pieces<'a>(of: &'a AdamwParameter<'_>) -> impl Iterator<Item = Reached<'a>> {
    let moments = [("m", "m_scales", &*of.m), ("v", "v_scales", &*of.v)];
    let moments = moments.into_iter().flat_map(|(role, scales_role, moment)| {
        let scales = moment.scales.as_ref().map(|scales| reached(scales_role, scales, true));
        [reached(role, &moment.values, true)].into_iter().chain(scales)
    });
    let own = [reached("w", of.w, true), reached("remainder", of.remainder, true), reached("dw", of.dw, false)];
    own.into_iter().chain(moments)
}
