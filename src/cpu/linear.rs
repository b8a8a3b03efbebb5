//! Matrix products. Every output element is one chain of fused multiply-adds over `k` ascending, begun at the bias, at zero or at the sum
//! so far; a chain that is stored and taken up again rounds nothing. So neither tile, edge, number of rows nor thread shows in the bits.
//!
//! The right matrix is packed into panels of one or two vectors, `k` by `k`, and so is the left one into blocks of a few rows where it is
//! stored by columns; a micro-kernel keeps a tile of the output in registers. Parameters stay packed, in bf16, unless they are very large:
//! of those one to four rows (decoding) are multiplied without packing.

mod few_rows;
mod many_rows;
mod operands;
mod output;
mod pack;
mod tile;

use few_rows::{FEW, few_rows_on_all_threads};
use many_rows::many_rows;
pub(super) use operands::{Left, Right, Size, Start};
use output::Tiles;
use pack::pack_parameter;
use rayon::prelude::*;

use super::memory::Parameter;
use super::simd::{LANES, kernel};
use super::tasks::threads_for;
use super::{Cpu, bf16s, floats, floats_mut, parameter};
use crate::ops::linear::Linear;
use crate::ops::{Dtype, Tensor};

/// `out = start + left · right`, out `[rows, cols]`.
pub(super) fn product(cpu: &Cpu, left: Left<'_>, right: Right<'_>, start: Start<'_>, size: Size, out: &mut [f32]) {
    let Size { rows, cols, depth } = size;
    assert_eq!(out.len(), rows * cols, "product of [{rows}, {depth}] and [{depth}, {cols}]");
    if out.is_empty() {
        return;
    }
    let out = Tiles::new(out, cols);
    if let (Left::Rows(left), Right::Parameter(right), true) = (left, right, rows <= FEW) {
        assert!(left.len() == rows * depth && right.len() == cols * depth);
        return few_rows_on_all_threads(cpu, left, right, start, size, out);
    }
    match left {
        Left::Rows(values) | Left::Columns(values) => assert_eq!(values.len(), rows * depth, "left operand"),
    }
    many_rows(cpu, left, right, start, size, out);
}

/// `out = start + x wᵀ`; x `[rows, depth]`, w `[cols, depth]`, out `[rows, cols]`.
pub(super) fn forward(cpu: &Cpu, x: &[f32], w: &Parameter, start: Start<'_>, size: Size, out: &mut [f32]) {
    assert_eq!(w.values().len(), size.cols * size.depth, "parameter of a product");
    let right = match w.panels(|values| pack_parameter(cpu, values, size)) {
        Some(panels) => Right::Panels(panels),
        None => Right::Parameter(w.values()),
    };
    product(cpu, Left::Rows(x), right, start, size, out);
}

/// `dw[n, k] += Σ_t dy[t, n] x[t, k]`; dy `[tokens, n]`, x `[tokens, k]`, dw `[n, k]`.
pub(super) fn add_weight_gradient(cpu: &Cpu, dy: &[f32], x: &[f32], tokens: usize, dw: &mut [f32]) {
    if tokens == 0 {
        return;
    }
    let size = Size { rows: dy.len() / tokens, cols: x.len() / tokens, depth: tokens };
    product(cpu, Left::Columns(dy), Right::Rows(x), Start::Sum, size, dw);
}

impl Linear for Cpu {
    fn linear_forward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
        let size = Size { rows: x.rows(), cols: w.rows(), depth: x.cols() };
        assert_eq!(w.cols(), x.cols(), "linear_forward: x {x:?}, w {w:?}");
        let start = match b {
            Some(b) => {
                assert_eq!(b.len(), size.cols, "linear_forward: w {w:?}, b {b:?}");
                Start::Bias(bf16s(b))
            }
            None => Start::Zero,
        };
        let mut y = self.empty(&[size.rows, size.cols], Dtype::Activation);
        forward(self, floats(x), parameter(w), start, size, floats_mut(&mut y));
        y
    }

    fn linear_backward_input(&self, dy: &Tensor, w: &Tensor) -> Tensor {
        let size = Size { rows: dy.rows(), cols: w.cols(), depth: dy.cols() };
        assert_eq!(w.rows(), dy.cols(), "linear_backward_input: dy {dy:?}, w {w:?}");
        let mut dx = self.empty(&[size.rows, size.cols], Dtype::Activation);
        let right = Right::ParameterBackward(bf16s(w));
        product(self, Left::Rows(floats(dy)), right, Start::Zero, size, floats_mut(&mut dx));
        dx
    }

    fn linear_backward_weight(&self, dy: &Tensor, x: &Tensor, dw: &mut Tensor, db: Option<&mut Tensor>) {
        let (tokens, cols) = (dy.rows(), dy.cols());
        assert!(
            x.rows() == tokens && dw.shape() == [cols, x.cols()],
            "linear_backward_weight: dy {dy:?}, x {x:?}, dw {dw:?}"
        );
        add_weight_gradient(self, floats(dy), floats(x), tokens, floats_mut(dw));
        if let Some(db) = db {
            assert_eq!(db.len(), cols, "linear_backward_weight: dy {dy:?}, db {db:?}");
            let dy = floats(dy);
            let share = if threads_for(8 * dy.len()) == 1 { cols } else { 4 * LANES };
            floats_mut(db).par_chunks_mut(share).enumerate().for_each(|(i, db)| {
                add_columns(self.simd, dy, cols, i * share, db);
            });
        }
    }
}

kernel! {
    /// `sums[n] += Σ_t x[t, col + n]`, in ascending `t`; x `[T, cols]`.
    fn add_columns<L>(x: &[f32], cols: usize, col: usize, sums: &mut [f32]) {
        for (i, sums) in sums.chunks_mut(LANES).enumerate() {
            let mut sum = L::load_tail(sums, 0.0);
            for row in x.chunks_exact(cols) {
                sum = sum.add(L::load_tail(&row[col + i * LANES..][..sums.len()], 0.0));
            }
            sum.store_tail(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::simd::Simd;
    use super::*;

    /// Numbers in (-1, 1) without pattern.
    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let uniform = |i| crate::ops::sample::philox_uniform(seed, 0, i as u64);
        (0..len).map(|i| (2.0 * uniform(i) - 1.0) as f32).collect()
    }

    fn bf16s(len: usize, seed: u64) -> Vec<bf16> {
        noise(len, seed).into_iter().map(bf16::from_f32).collect()
    }

    fn forward_of(cpu: &Cpu, x: &[f32], w: &[bf16], b: &[bf16], size: Size) -> Vec<f32> {
        let mut out = vec![f32::NAN; size.rows * size.cols];
        forward(cpu, x, &Parameter::new(w.to_vec()), Start::Bias(b), size, &mut out);
        let mut unpacked = vec![f32::NAN; out.len()];
        product(cpu, Left::Rows(x), Right::Parameter(w), Start::Bias(b), size, &mut unpacked);
        assert_eq!(out, unpacked, "packed or as it comes");
        out
    }

    /// One chain per output, in plain scalars: the bits that every path must give.
    fn chain(x: &[f32], w: &[bf16], b: &[bf16], size: Size) -> Vec<f32> {
        let Size { rows, cols, depth } = size;
        let element = |row: usize, col: usize| {
            (0..depth).fold(b[col].to_f32(), |sum, k| x[row * depth + k].mul_add(w[col * depth + k].to_f32(), sum))
        };
        (0..rows * cols).map(|i| element(i / cols, i % cols)).collect()
    }

    #[test]
    fn every_number_of_rows_and_every_instruction_set_gives_the_bits_of_the_plain_chain() {
        for (cols, depth) in [(1, 1), (16, 16), (33, 17), (70, 129), (45, 530)] {
            let (x, w, b) = (noise(70 * depth, 1), bf16s(cols * depth, 2), bf16s(cols, 3));
            let expected = chain(&x, &w, &b, Size { rows: 70, cols, depth });
            for simd in Simd::available() {
                let cpu = Cpu::with_simd(simd);
                for rows in [1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 24, 29, 70] {
                    let size = Size { rows, cols, depth };
                    let y = forward_of(&cpu, &x[..rows * depth], &w, &b, size);
                    assert_eq!(y, expected[..rows * cols], "{simd:?} [{rows}, {depth}] to {cols}");
                }
                let last = forward_of(&cpu, &x[69 * depth..], &w, &b, Size { rows: 1, cols, depth });
                assert_eq!(last, expected[69 * cols..], "{simd:?}: row 69 alone");
            }
        }
    }

    #[test]
    fn a_product_large_enough_for_all_threads_gives_the_bits_of_the_plain_chain() {
        for size in [Size { rows: 300, cols: 96, depth: 700 }, Size { rows: 3, cols: 1100, depth: 640 }] {
            let Size { rows, cols, depth } = size;
            let (x, w, b) = (noise(rows * depth, 1), bf16s(cols * depth, 2), bf16s(cols, 3));
            assert!(threads_for(rows * cols * depth) == rayon::current_num_threads());
            assert_eq!(forward_of(&Cpu::new(), &x, &w, &b, size), chain(&x, &w, &b, size));
        }
    }

    #[test]
    fn backward_products_are_plain_chains_onto_what_was_there() {
        let (tokens, n, k) = (61, 43, 37);
        let (dy, x, w) = (noise(tokens * n, 4), noise(tokens * k, 5), bf16s(n * k, 6));
        let before = noise(n * k, 7);
        for simd in Simd::available() {
            let cpu = Cpu::with_simd(simd);
            let mut dx = vec![f32::NAN; tokens * k];
            let size = Size { rows: tokens, cols: k, depth: n };
            product(&cpu, Left::Rows(&dy), Right::ParameterBackward(&w), Start::Zero, size, &mut dx);
            let mut dw = before.clone();
            add_weight_gradient(&cpu, &dy, &x, tokens, &mut dw);
            for i in 0..tokens * k {
                let chain = (0..n).fold(0.0f32, |sum, j| dy[i / k * n + j].mul_add(w[j * k + i % k].to_f32(), sum));
                assert_eq!(dx[i], chain, "{simd:?}: dx {i}");
            }
            for i in 0..n * k {
                let chain = (0..tokens).fold(before[i], |sum, t| dy[t * n + i / k].mul_add(x[t * k + i % k], sum));
                assert_eq!(dw[i], chain, "{simd:?}: dw {i}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_show_in_the_bits() {
        let size = Size { rows: 200, cols: 161, depth: 600 };
        let (x, w) = (noise(200 * 600, 1), bf16s(161 * 600, 2));
        let with_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let cpu = Cpu::new();
                let y = forward_of(&cpu, &x, &w, &bf16s(161, 3), size);
                let mut dw = vec![0.5; 161 * 600];
                add_weight_gradient(&cpu, &y, &x, 200, &mut dw);
                (y, dw)
            })
        };
        let alone = with_threads(1);
        assert!([2, 3, 5].into_iter().all(|threads| with_threads(threads) == alone));
    }
}
