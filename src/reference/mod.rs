//! The definition: every op as naive f64 loops, forward above backward, one file each.
//!
//! A backend like the others, so finite differences and whole-model oracles need nothing else. Everything but integers is stored as
//! f64, whatever its dtype. Shapes are asserted here and formulas are in [`crate::ops`].

mod buffers;

mod adamw;
mod attention;
mod copy_pages;
mod embedding;
mod gelu;
mod grad_norm;
mod layer_norm;
mod linear;
mod patch_embed;
mod qk_norm;
mod random_normal;
mod rms_norm;
mod rope;
mod rows;
mod sample;
mod swiglu;
mod token_logprob;

use crate::ops::{Backend, Tensor};

/// The f64 backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {}

/// Asserts that an argument has the shape that the contract gives it.
#[track_caller]
fn expect_shape(argument: &str, tensor: &Tensor, shape: &[usize]) {
    assert_eq!(tensor.shape(), shape, "{argument}: found {:?}, expected {shape:?}", tensor.shape());
}
