//! Operands in the order in which the product reads them.

use std::ops::Range;

use half::bf16;

use super::super::simd::{LANES, Lanes, unroll};
use super::operands::{DEPTH, Right, Size, tile_size};
use crate::cpu::Cpu;

/// Floats from one packed block of rows to the next; a line more than it holds, lest all blocks fall into the same sets of the cache.
pub(super) fn block_len(tile: usize, depth: usize) -> usize {
    tile * depth + LANES
}

/// `rows` of a left matrix stored by columns, from `k`, to blocks of `[k][tile]`; what is past the last row holds anything.
#[inline(always)]
pub(super) fn pack_columns<L: Lanes>(
    values: &[f32],
    size: Size,
    rows: Range<usize>,
    k: usize,
    depth: usize,
    to: &mut [f32],
) {
    for i in 0..depth {
        let from = &values[(k + i) * size.rows..][rows.clone()];
        let ahead = from.as_ptr().wrapping_add(8 * size.rows);
        for line in (0..from.len()).step_by(LANES) {
            L::prefetch(ahead.wrapping_add(line));
        }
        for (from, block) in from.chunks(L::TILE_ROWS).zip(to.chunks_exact_mut(block_len(L::TILE_ROWS, depth))) {
            let to = &mut block[i * L::TILE_ROWS..][..L::TILE_ROWS];
            if from.len() == L::TILE_ROWS {
                to.copy_from_slice(from);
            } else {
                to[..from.len()].copy_from_slice(from);
            }
        }
    }
}

/// The columns of panel `number` of the right matrix, from `k`, to `[k][panel]`; the columns past the edge are zeros.
#[inline(always)]
pub(super) fn pack_right_panel<L: Lanes>(right: Right<'_>, size: Size, number: usize, k: usize, to: &mut [f32]) {
    let panel = L::TILE_VECTORS * LANES;
    let (col, depth) = (number * panel, to.len() / panel);
    match right {
        Right::Parameter(values) => {
            for first in (0..panel).step_by(LANES) {
                let cols = size.cols.saturating_sub(col + first).min(LANES);
                for i in (0..depth).step_by(LANES) {
                    let to = &mut to[i * panel + first..];
                    if cols == LANES && i + LANES <= depth {
                        let from = &values[(col + first) * size.depth + k + i..][..15 * size.depth + LANES];
                        let to = &mut to[..15 * panel + LANES];
                        // SAFETY: row 15 of each side ends within the slices just taken.
                        unsafe { L::transpose_bf16(from.as_ptr(), size.depth, to.as_mut_ptr(), panel) };
                    } else {
                        let lanes = transposed_parameters::<L>(values, size, col + first, cols, k + i);
                        for (lanes, to) in lanes.into_iter().zip(to.chunks_mut(panel)).take(depth - i) {
                            lanes.store(to);
                        }
                    }
                }
            }
        }
        Right::ParameterBackward(values) => {
            for (i, to) in to.chunks_exact_mut(panel).enumerate() {
                let from = &values[(k + i) * size.cols + col..(k + i + 1) * size.cols];
                for first in (0..panel).step_by(LANES) {
                    let from = &from[first.min(from.len())..];
                    let lanes = if from.len() >= LANES { L::load_bf16(from) } else { L::load_bf16_tail(from) };
                    lanes.store(&mut to[first..]);
                }
            }
        }
        Right::Panels(_) => unreachable!("packed already"),
        Right::Rows(values) => {
            for (i, to) in to.chunks_exact_mut(panel).enumerate() {
                let from = &values[(k + i) * size.cols + col..(k + i + 1) * size.cols];
                for first in (0..panel).step_by(LANES) {
                    let from = &from[first.min(from.len())..];
                    let lanes = if from.len() >= LANES { L::load(from) } else { L::load_tail(from, 0.0) };
                    lanes.store(&mut to[first..]);
                }
            }
        }
    }
}

/// Of a parameter `[N, K]`: vector `i` holds `k + i` for columns `col..col + cols`, at most 16; zeros elsewhere.
#[inline(always)]
pub(super) fn transposed_parameters<L: Lanes>(
    values: &[bf16],
    size: Size,
    col: usize,
    cols: usize,
    k: usize,
) -> [L; LANES] {
    let mut lanes = [L::splat(0.0); LANES];
    if cols == LANES && k + LANES <= size.depth {
        let values = &values[col * size.depth + k..][..15 * size.depth + LANES];
        unroll!(i < LANES => {
            // SAFETY: row `i` of 16 ends within the slice just taken.
            lanes[i] = unsafe { L::load_bf16_pointer(values.as_ptr().wrapping_add(i * size.depth)) };
        });
    } else {
        for (i, lanes) in lanes[..cols].iter_mut().enumerate() {
            let row = (col + i) * size.depth;
            *lanes = L::load_bf16_tail(&values[row + k..row + size.depth.min(k + LANES)]);
        }
    }
    L::transpose(lanes)
}

/// Where panel `number` of a packed parameter begins, from `k`, which is a multiple of `DEPTH`.
#[inline(always)]
pub(super) fn panel_start(size: Size, panel: usize, number: usize, k: usize) -> usize {
    size.cols.next_multiple_of(panel) * k + number * panel * DEPTH.min(size.depth - k)
}

/// The panels of a whole parameter `[cols, depth]`: for each `DEPTH`, panel by panel as the product reads them; zeros past the edge.
pub(super) fn pack_parameter(cpu: &Cpu, values: &[bf16], size: Size) -> Vec<bf16> {
    let (_, panel) = tile_size(cpu.simd);
    let mut panels = vec![bf16::ZERO; size.cols.next_multiple_of(panel) * size.depth];
    for k in (0..size.depth).step_by(DEPTH) {
        let depth = DEPTH.min(size.depth - k);
        for col in 0..size.cols {
            let from = &values[col * size.depth + k..][..depth];
            let to = &mut panels[panel_start(size, panel, col / panel, k) + col % panel..];
            to.iter_mut().step_by(panel).zip(from).for_each(|(to, from)| *to = *from);
        }
    }
    panels
}
