//! Normal random numbers, on all cores.

use half::bf16;
use rayon::prelude::*;

use super::Cpu;
use super::memory::Parameter;
use crate::ops::random_normal::{RandomNormal, standard_normal};
use crate::ops::{Dtype, Tensor};

impl RandomNormal for Cpu {
    fn random_normal(&self, shape: &[usize], std: f32, seed: u64, stream: u64) -> Tensor {
        let count = shape.iter().product::<usize>() as u64;
        let value = |i| bf16::from_f32(std * standard_normal(seed, stream, i));
        let values = (0..count).into_par_iter().map(value).collect();
        Tensor::new(shape, Dtype::Bf16, Box::new(Parameter::new(values)))
    }
}
