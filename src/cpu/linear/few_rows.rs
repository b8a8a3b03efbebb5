//! The product over at most four rows, as in decoding: parameters are used as they come, without packing.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::super::Cpu;
use super::super::simd::{LANES, Lanes, kernel, unroll};
use super::super::tasks::threads_for;
use super::operands::{Size, Start};
use super::output::Tiles;
use super::pack::transposed_parameters;

/// Rows up to which the parameters are used as they come.
pub(super) const FEW: usize = 4;

/// `out = start + left · right`, on all threads when there is work for them.
pub(super) fn few_rows_on_all_threads(
    cpu: &Cpu,
    left: &[f32],
    right: &[bf16],
    start: Start<'_>,
    size: Size,
    out: Tiles,
) {
    let threads = threads_for(2 * size.cols * size.depth);
    let groups = size.cols.div_ceil(LANES);
    let share = if threads == 1 { groups } else { groups.div_ceil(4 * threads) };
    let task = |i: usize| {
        let cols = i * share * LANES..((i + 1) * share * LANES).min(size.cols);
        few_rows(cpu.simd, left, right, start, size, cols, out);
    };
    if threads == 1 {
        task(0);
    } else {
        (0..groups.div_ceil(share)).into_par_iter().with_max_len(1).for_each(task);
    }
}

kernel! {
    /// At most four rows, some columns; `k` runs along registers of transposed parameters.
    fn few_rows<L>(
        left: &[f32],
        right: &[bf16],
        start: Start<'_>,
        size: Size,
        cols: Range<usize>,
        out: Tiles,
    ) {
        match size.rows {
            1 => few_rows_of::<L, 1>(left, right, start, size, cols, out),
            2 => few_rows_of::<L, 2>(left, right, start, size, cols, out),
            3 => few_rows_of::<L, 3>(left, right, start, size, cols, out),
            _ => few_rows_of::<L, 4>(left, right, start, size, cols, out),
        }
    }
}

#[inline(always)]
fn few_rows_of<L: Lanes, const ROWS: usize>(
    left: &[f32],
    right: &[bf16],
    start: Start<'_>,
    size: Size,
    cols: Range<usize>,
    out: Tiles,
) {
    assert!(left.len() == ROWS * size.depth && cols.end <= size.cols);
    for col in cols.clone().step_by(LANES) {
        let count = LANES.min(cols.end - col);
        let mut sums = [L::splat(0.0); ROWS];
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = match start {
                Start::Zero => L::splat(0.0),
                Start::Bias(bias) => L::load_bf16_tail(&bias[col..][..count]),
                // SAFETY: `count` elements of the row lie in the output, and are this task's own.
                Start::Sum => L::load_tail(unsafe { std::slice::from_raw_parts(out.at(row, col), count) }, 0.0),
            };
        }
        let whole = size.depth / LANES * LANES;
        for k in (0..whole).step_by(LANES) {
            let lanes = transposed_parameters::<L>(right, size, col, count, k);
            let x: [&[f32]; ROWS] = std::array::from_fn(|row| &left[row * size.depth + k..][..LANES]);
            unroll!(i < LANES => {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = L::splat(x[i]).mul_add(lanes[i], *sum);
                }
            });
        }
        if whole < size.depth {
            let lanes = transposed_parameters::<L>(right, size, col, count, whole);
            for (k, lanes) in (whole..size.depth).zip(lanes) {
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = L::splat(left[row * size.depth + k]).mul_add(lanes, *sum);
                }
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            // SAFETY: as for the loads.
            sum.store_tail(unsafe { std::slice::from_raw_parts_mut(out.at(row, col), count) });
        }
    }
}
