//! Inputs that are the same on every machine, and that every backend holds exactly.

use half::bf16;

use crate::ops::{Backend, Dtype, Host, Tensor};

/// A prime, so that the rows of no tensor are alike.
const TABLE: usize = 16_381;

/// Numbers of a seed (Vigna's SplitMix64). Normal ones come from a table again and again: there are many.
pub struct Values {
    state: u64,
    table: Vec<bf16>,
    at: usize,
}

impl Values {
    /// Those of a seed.
    pub fn new(seed: u64) -> Values {
        let mut values = Values { state: seed, table: Vec::with_capacity(TABLE), at: 0 };
        for _ in 0..TABLE {
            // Box & Muller.
            let (radius, angle) = (1.0 - values.uniform(), values.uniform() * std::f64::consts::TAU);
            values.table.push(bf16::from_f64((-2.0 * radius.ln()).sqrt() * angle.cos()));
        }
        values
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// Numbers below `limit`.
    pub fn indices(&mut self, count: usize, limit: usize) -> Vec<i32> {
        (0..count).map(|_| self.below(limit) as i32).collect()
    }

    /// The numbers below `count` in random order.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// Normal numbers of mean 0 and variance 1.
    pub fn normals(&mut self, count: usize) -> Vec<bf16> {
        self.scaled(count, bf16::ONE)
    }

    /// Normal numbers times a power of two, which is exact.
    fn scaled(&mut self, count: usize, factor: bf16) -> Vec<bf16> {
        let table: Vec<bf16> = self.table.iter().map(|x| *x * factor).collect();
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            let part = &table[self.at..TABLE.min(self.at + count - values.len())];
            values.extend_from_slice(part);
            self.at = (self.at + part.len()) % TABLE;
        }
        values
    }

    /// A tensor of them.
    pub fn tensor(&mut self, backend: &dyn Backend, shape: &[usize], dtype: Dtype) -> Tensor {
        backend.upload(Host::Bf16(&self.normals(shape.iter().product())), shape, dtype)
    }

    /// Activations.
    pub fn activation(&mut self, backend: &dyn Backend, shape: &[usize]) -> Tensor {
        self.tensor(backend, shape, Dtype::Activation)
    }

    /// A matrix whose product with activations is of their size.
    pub fn matrix(&mut self, backend: &dyn Backend, [rows, inner]: [usize; 2]) -> Tensor {
        let factor = bf16::from_f64(2f64.powi(-((inner as f64).log2() / 2.0).round() as i32));
        backend.upload(Host::Bf16(&self.scaled(rows * inner, factor)), &[rows, inner], Dtype::Bf16)
    }

    /// A parameter with a dimension, such as the scale of a norm.
    pub fn vector(&mut self, backend: &dyn Backend, count: usize) -> Tensor {
        self.tensor(backend, &[count], Dtype::Bf16)
    }
}

/// What gradients that are added to start from.
pub fn start(backend: &dyn Backend, shape: &[usize], dtype: Dtype) -> Tensor {
    backend.upload(Host::F32(&vec![0.25; shape.iter().product()]), shape, dtype)
}

/// Cosines of random angles, then their sines: `[tokens, head_dim]`.
pub fn cos_sin(backend: &dyn Backend, tokens: usize, head_dim: usize) -> Tensor {
    let mut random = Values::new(9);
    let mut table = Vec::with_capacity(tokens * head_dim);
    for _ in 0..tokens {
        let angles: Vec<f64> = (0..head_dim / 2).map(|_| random.uniform() * 100.0).collect();
        table.extend(angles.iter().map(|angle| angle.cos() as f32));
        table.extend(angles.iter().map(|angle| angle.sin() as f32));
    }
    backend.upload(Host::F32(&table), &[tokens, head_dim], Dtype::F32)
}
