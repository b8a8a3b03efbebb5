//! Sum of squares in f64, in blocks of fixed size.

use rayon::prelude::*;

use super::simd::{LANES, kernel};
use super::{Cpu, floats};
use crate::ops::Tensor;
use crate::ops::grad_norm::GradNorm;

/// Elements summed by one task.
const BLOCK: usize = 1 << 15;

impl GradNorm for Cpu {
    fn sum_of_squares(&self, tensors: &[&Tensor]) -> f64 {
        let sum = |x: &&Tensor| -> f64 {
            let blocks: Vec<f64> = floats(x).par_chunks(BLOCK).map(|block| sum_block(self.simd, block)).collect();
            blocks.iter().sum()
        };
        tensors.iter().map(sum).sum()
    }
}

kernel! {
    /// Lane `i` sums the squares of elements `i`, `i + 16`, …; then the lanes in order.
    fn sum_block<L>(x: &[f32]) -> f64 {
        let mut sums = [0.0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        let tail = chunks.remainder();
        for chunk in chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(tail) {
            *sum += f64::from(x) * f64::from(x);
        }
        sums.iter().sum()
    }
}
