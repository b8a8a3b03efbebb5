//! Normal random numbers: see [`crate::ops::random_normal`].

use half::bf16;

use super::Reference;
use super::buffers::floats;
use crate::ops::random_normal::{RandomNormal, standard_normal};
use crate::ops::{Dtype, Tensor};

impl RandomNormal for Reference {
    fn random_normal(&self, shape: &[usize], std: f32, seed: u64, stream: u64) -> Tensor {
        let count = shape.iter().product::<usize>() as u64;
        let value = |i| bf16::from_f32(std * standard_normal(seed, stream, i)).to_f64();
        floats((0..count).map(value).collect(), shape, Dtype::Bf16)
    }
}
