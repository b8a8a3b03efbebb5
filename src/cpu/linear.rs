//! Matrix products. Every output element is one chain of fused multiply-adds over `k` ascending, begun at the bias, at zero or at the sum
//! so far; a chain that is stored and taken up again rounds nothing. So neither tile, edge, number of rows nor thread shows in the bits.
//!
//! The left matrix is packed into blocks of a few rows, the right one into panels of 32 columns, `k` by `k`; a micro-kernel keeps a
//! tile of the output in registers. One to four rows (decoding) read the parameters once, without packing.

use half::bf16;
use rayon::prelude::*;

use super::simd::{LANES, Lanes, kernel, unroll};
use super::{Cpu, Floats, PARALLEL_COST, floats, floats_mut, values};
use crate::ops::linear::Linear;
use crate::ops::{Dtype, Tensor};

/// Columns of a panel: two vectors.
const PANEL: usize = 2 * LANES;
/// Length of `k` between stores of a tile: a packed block of rows stays in the first-level cache.
const DEPTH: usize = 512;
/// Panels that share a pass over the rows, at most: together they stay in the second-level cache.
const GROUP: usize = 4;
/// Floats of the left matrix packed at a time.
const LEFT_MAX: usize = 1 << 22;
/// Rows up to which the parameters are used as they come.
const FEW: usize = 4;

/// The left operand, `[M, K]` as the product sees it.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Stored `[M, K]`.
    Rows(&'a [f32]),
    /// Stored `[K, M]`.
    Columns(&'a [f32]),
}

/// The right operand, `[K, N]` as the product sees it.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// Stored `[N, K]`: a parameter, going forward.
    Parameter(&'a [bf16]),
    /// Stored `[K, N]`: a parameter, going backward.
    ParameterBackward(&'a [bf16]),
    /// Stored `[K, N]`.
    Rows(&'a [f32]),
}

/// Where each chain begins.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// At 0.
    Zero,
    /// At the column's bias, `[N]`.
    Bias(&'a [bf16]),
    /// At the output's value.
    Sum,
}

/// Sizes of a product: `[rows, depth] · [depth, cols]`.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
}

/// `out = start + left · right`, out `[rows, cols]`.
pub(super) fn product(cpu: &Cpu, left: Left<'_>, right: Right<'_>, start: Start<'_>, size: Size, out: &mut [f32]) {
    let Size { rows, cols, depth } = size;
    assert_eq!(out.len(), rows * cols, "product of [{rows}, {depth}] and [{depth}, {cols}]");
    if out.is_empty() {
        return;
    }
    let out = Tiles { pointer: out.as_mut_ptr(), stride: cols };
    if let (Left::Rows(left), Right::Parameter(right), true) = (left, right, rows <= FEW) {
        assert!(left.len() == rows * depth && right.len() == cols * depth);
        return few_rows_on_all_threads(cpu, left, right, start, size, out);
    }
    let rows_at_once = (LEFT_MAX / depth.max(1)).max(96) / 24 * 24;
    for first in (0..rows).step_by(rows_at_once) {
        let count = rows_at_once.min(rows - first);
        many_rows(cpu, left, first, right, start, size, count, out);
    }
}

/// The output, shared by tasks that each write elements of their own.
#[derive(Clone, Copy)]
struct Tiles {
    pointer: *mut f32,
    stride: usize,
}

// Safety: tasks address disjoint elements, and the output is borrowed for as long as they run.
unsafe impl Send for Tiles {}
// Safety: the same.
unsafe impl Sync for Tiles {}

impl Tiles {
    /// Element `(row, col)`; both must lie in the output.
    #[inline(always)]
    fn at(self, row: usize, col: usize) -> *mut f32 {
        self.pointer.wrapping_add(row * self.stride + col)
    }
}

/// The packed left matrix: for each `DEPTH` of `k`, for each block of rows, `[k][block]`.
struct Packed {
    values: Floats,
    /// Rows of the left matrix before the first packed one.
    first: usize,
    /// Rows packed.
    rows: usize,
    /// Rows with the padding of the last block.
    padded: usize,
    /// Rows of a whole block.
    tile: usize,
}

impl Packed {
    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.tile)
    }

    /// Rows of the block, and rows it is packed with.
    #[inline(always)]
    fn block_rows(&self, block: usize) -> (usize, usize) {
        let rows = self.tile.min(self.rows - block * self.tile);
        (rows, padded_rows(rows))
    }
}

/// The micro-kernel sizes.
#[inline(always)]
fn padded_rows(rows: usize) -> usize {
    match rows {
        0..=2 => rows,
        3..=4 => 4,
        5..=8 => 8,
        _ => 12,
    }
}

kernel! {
    fn tile_rows<L>() -> usize {
        L::TILE_ROWS
    }
}

/// The product for rows `first..first + count`.
#[allow(clippy::too_many_arguments)] // the operands of `product` and a range
fn many_rows(
    cpu: &Cpu,
    left: Left<'_>,
    first: usize,
    right: Right<'_>,
    start: Start<'_>,
    size: Size,
    count: usize,
    out: Tiles,
) {
    let threads = threads_for(count * size.cols * size.depth);
    let packed = pack_left(cpu, left, first, size, count, threads);
    let panels = size.cols.div_ceil(PANEL);
    let group = (panels / (3 * threads)).clamp(1, GROUP);
    let groups = panels.div_ceil(group);
    // With few panels, the rows are cut as well; each cut packs the panels again, so it is kept above 8 blocks.
    let cuts = if threads == 1 { 1 } else { (3 * threads).div_ceil(groups).min(packed.blocks().div_ceil(8)) };
    let cut = packed.blocks().div_ceil(cuts);
    let task = |i: usize| {
        let (row_cut, panel_group) = (i % cuts, i / cuts);
        let blocks = (row_cut * cut).min(packed.blocks())..((row_cut + 1) * cut).min(packed.blocks());
        let panels = panel_group * group..((panel_group + 1) * group).min(panels);
        let mut room = cpu.scratch(group * PANEL * DEPTH.min(size.depth));
        multiply(cpu.simd, &packed, right, start, size, blocks, panels, &mut room, out);
    };
    if threads == 1 {
        (0..groups * cuts).for_each(task);
    } else {
        (0..groups * cuts).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// One thread for small work, else all.
fn threads_for(multiply_adds: usize) -> usize {
    if multiply_adds < 10 * PARALLEL_COST { 1 } else { rayon::current_num_threads() }
}

fn pack_left(cpu: &Cpu, left: Left<'_>, first: usize, size: Size, rows: usize, threads: usize) -> Packed {
    match left {
        Left::Rows(values) | Left::Columns(values) => assert_eq!(values.len(), size.rows * size.depth, "left operand"),
    }
    let tile = tile_rows(cpu.simd);
    let padded = rows / tile * tile + padded_rows(rows % tile);
    let mut packed = Packed { values: cpu.scratch(padded * size.depth), first, rows, padded, tile };
    let to = Tiles { pointer: packed.values.as_mut_ptr(), stride: 0 };
    let pack = |block: usize| {
        for k in (0..size.depth).step_by(DEPTH) {
            let depth = DEPTH.min(size.depth - k);
            let (rows, padded) = packed.block_rows(block);
            // Safety: the blocks are disjoint and lie in `packed.values`, which nothing else touches meanwhile.
            let to = unsafe {
                std::slice::from_raw_parts_mut(to.at(0, k * packed.padded + block * tile * depth), padded * depth)
            };
            pack_left_block(cpu.simd, left, size, first + block * tile, rows, padded, k, to);
        }
    };
    if threads == 1 {
        (0..packed.blocks()).for_each(pack);
    } else {
        (0..packed.blocks()).into_par_iter().with_min_len(8).for_each(pack);
    }
    packed
}

kernel! {
    /// Rows `row..row + rows` of the left matrix to `[k][padded]` for `k` from `k`; the padding rows are zeros.
    fn pack_left_block<L>(
        left: Left<'_>,
        size: Size,
        row: usize,
        rows: usize,
        padded: usize,
        k: usize,
        to: &mut [f32],
    ) {
        let depth = to.len() / padded;
        match left {
            Left::Columns(values) => {
                for (i, to) in to.chunks_exact_mut(padded).enumerate() {
                    let from = &values[(k + i) * size.rows + row..][..rows];
                    L::load_tail(from, 0.0).store_tail(to);
                }
            }
            Left::Rows(values) => {
                for (i, to) in to.chunks_mut(padded * LANES).enumerate() {
                    let k = k + i * LANES;
                    let count = LANES.min(depth - i * LANES);
                    let mut lanes = [L::splat(0.0); LANES];
                    unroll!(r < LANES => {
                        if r < rows {
                            lanes[r] = L::load_tail(&values[(row + r) * size.depth + k..][..count], 0.0);
                        }
                    });
                    let lanes = L::transpose(lanes);
                    unroll!(j < LANES => {
                        if j < count {
                            lanes[j].store_tail(&mut to[j * padded..][..padded]);
                        }
                    });
                }
            }
        }
    }
}

/// 32 columns from `col` of the right matrix, from `k`, to `[k][32]`; the columns past the edge are zeros.
#[inline(always)]
fn pack_right_panel<L: Lanes>(right: Right<'_>, size: Size, col: usize, k: usize, to: &mut [f32]) {
    let cols = PANEL.min(size.cols - col);
    let depth = to.len() / PANEL;
    match right {
        Right::Parameter(values) => {
            for half in [0, LANES] {
                let cols = cols.saturating_sub(half).min(LANES);
                for i in (0..depth).step_by(LANES) {
                    let lanes = transposed_parameters::<L>(values, size, col + half, cols, k + i);
                    let to = &mut to[i * PANEL..];
                    unroll!(j < LANES => {
                        if i + j < depth {
                            lanes[j].store(&mut to[j * PANEL + half..]);
                        }
                    });
                }
            }
        }
        Right::ParameterBackward(values) => {
            for (i, to) in to.chunks_exact_mut(PANEL).enumerate() {
                let from = &values[(k + i) * size.cols + col..][..cols];
                for half in [0, LANES] {
                    let from = &from[half.min(cols)..];
                    let lanes = if from.len() >= LANES { L::load_bf16(from) } else { L::load_bf16_tail(from) };
                    lanes.store(&mut to[half..]);
                }
            }
        }
        Right::Rows(values) => {
            for (i, to) in to.chunks_exact_mut(PANEL).enumerate() {
                let from = &values[(k + i) * size.cols + col..][..cols];
                for half in [0, LANES] {
                    let from = &from[half.min(cols)..];
                    let lanes = if from.len() >= LANES { L::load(from) } else { L::load_tail(from, 0.0) };
                    lanes.store(&mut to[half..]);
                }
            }
        }
    }
}

/// Of a parameter `[N, K]`: vector `i` holds `k + i` for columns `col..col + cols`, at most 16; zeros elsewhere.
#[inline(always)]
fn transposed_parameters<L: Lanes>(values: &[bf16], size: Size, col: usize, cols: usize, k: usize) -> [L; LANES] {
    let mut lanes = [L::splat(0.0); LANES];
    if cols == LANES && k + LANES <= size.depth {
        let values = &values[col * size.depth + k..][..15 * size.depth + LANES];
        unroll!(i < LANES => {
            // Safety: row `i` of 16 ends within the slice just taken.
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

kernel! {
    /// The tiles of some blocks of rows and some panels. `room` holds the panels for one `DEPTH`.
    fn multiply<L>(
        left: &Packed,
        right: Right<'_>,
        start: Start<'_>,
        size: Size,
        blocks: std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
        room: &mut [f32],
        out: Tiles,
    ) {
        for k in (0..size.depth.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(size.depth - k);
            let room = &mut room[..panels.len() * PANEL * depth];
            for (panel, to) in panels.clone().zip(room.chunks_exact_mut((PANEL * depth).max(1))) {
                pack_right_panel::<L>(right, size, panel * PANEL, k, to);
            }
            let start = if k == 0 { start } else { Start::Sum };
            for block in blocks.clone() {
                let (rows, padded) = left.block_rows(block);
                let left_block = &left.values[k * left.padded + block * left.tile * depth..][..padded * depth];
                for panel in panels.clone() {
                    let right_panel = &room[(panel - panels.start) * PANEL * depth..][..PANEL * depth];
                    let (row, col) = (left.first + block * left.tile, panel * PANEL);
                    let place = Place { out, row, col, rows, cols: PANEL.min(size.cols - col) };
                    match padded {
                        1 => tile::<L, 1>(left_block, right_panel, start, place),
                        2 => tile::<L, 2>(left_block, right_panel, start, place),
                        4 => tile::<L, 4>(left_block, right_panel, start, place),
                        8 => tile::<L, 8>(left_block, right_panel, start, place),
                        _ => tile::<L, 12>(left_block, right_panel, start, place),
                    }
                }
            }
        }
    }
}

/// A tile of the output; `rows` and `cols` of it lie inside.
#[derive(Clone, Copy)]
struct Place {
    out: Tiles,
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
}

/// `ROWS x 32` outputs, in registers: left `[k][ROWS]`, right `[k][32]`.
#[inline(always)]
fn tile<L: Lanes, const ROWS: usize>(left: &[f32], right: &[f32], start: Start<'_>, place: Place) {
    let depth = right.len() / PANEL;
    assert!(left.len() == depth * ROWS && place.rows <= ROWS && place.cols <= PANEL);
    let whole = place.rows == ROWS && place.cols == PANEL;
    let mut edge = [0.0f32; 12 * PANEL];
    let (target, stride) =
        if whole { (place.out.at(place.row, place.col), place.out.stride) } else { (edge.as_mut_ptr(), PANEL) };
    let outside = |row: usize| place.out.at(place.row + row, place.col);
    let mut sums = [[L::splat(0.0); 2]; ROWS];
    match start {
        Start::Zero => {}
        Start::Bias(bias) => {
            let bias = &bias[place.col..];
            let first = if bias.len() >= LANES { L::load_bf16(bias) } else { L::load_bf16_tail(bias) };
            let second = L::load_bf16_tail(&bias[LANES.min(bias.len())..]);
            sums = [[first, second]; ROWS];
        }
        Start::Sum => {
            if !whole {
                for row in 0..place.rows {
                    // Safety: `cols` elements of this row lie in the output, and are this task's own.
                    let from = unsafe { std::slice::from_raw_parts(outside(row), place.cols) };
                    edge[row * PANEL..][..place.cols].copy_from_slice(from);
                }
            }
            unroll!(row < ROWS => {
                // Safety: 32 elements from each row of a whole tile lie in the output, those of an edge in `edge`.
                sums[row] = unsafe {
                    let from = target.wrapping_add(row * stride);
                    [L::load_pointer(from), L::load_pointer(from.wrapping_add(LANES))]
                };
            });
        }
    }
    let (mut a, mut b) = (left.as_ptr(), right.as_ptr());
    for _ in 0..depth {
        // Safety: `depth` steps of ROWS and 32 elements are what the slices hold.
        unsafe {
            let (first, second) = (L::load_pointer(b), L::load_pointer(b.wrapping_add(LANES)));
            unroll!(row < ROWS => {
                let x = L::splat(*a.wrapping_add(row));
                sums[row][0] = x.mul_add(first, sums[row][0]);
                sums[row][1] = x.mul_add(second, sums[row][1]);
            });
        }
        a = a.wrapping_add(ROWS);
        b = b.wrapping_add(PANEL);
    }
    unroll!(row < ROWS => {
        let to = target.wrapping_add(row * stride);
        // Safety: as for the loads.
        unsafe {
            sums[row][0].store_pointer(to);
            sums[row][1].store_pointer(to.wrapping_add(LANES));
        }
    });
    if !whole {
        for row in 0..place.rows {
            // Safety: as for the loads.
            let to = unsafe { std::slice::from_raw_parts_mut(outside(row), place.cols) };
            to.copy_from_slice(&edge[row * PANEL..][..place.cols]);
        }
    }
}

fn few_rows_on_all_threads(cpu: &Cpu, left: &[f32], right: &[bf16], start: Start<'_>, size: Size, out: Tiles) {
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
        cols: std::ops::Range<usize>,
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
    cols: std::ops::Range<usize>,
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
                // Safety: `count` elements of the row lie in the output, and are this task's own.
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
            // Safety: as for the loads.
            sum.store_tail(unsafe { std::slice::from_raw_parts_mut(out.at(row, col), count) });
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

/// `left` `[T, K]` times parameter `w` `[N, K]`.
pub(super) fn forward(cpu: &Cpu, x: &[f32], w: &[bf16], start: Start<'_>, size: Size, out: &mut [f32]) {
    product(cpu, Left::Rows(x), Right::Parameter(w), start, size, out);
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
                Start::Bias(values(b))
            }
            None => Start::Zero,
        };
        let mut y = self.empty(&[size.rows, size.cols], Dtype::Activation);
        forward(self, floats(x), values(w), start, size, floats_mut(&mut y));
        y
    }

    fn linear_backward_input(&self, dy: &Tensor, w: &Tensor) -> Tensor {
        let size = Size { rows: dy.rows(), cols: w.cols(), depth: dy.cols() };
        assert_eq!(w.rows(), dy.cols(), "linear_backward_input: dy {dy:?}, w {w:?}");
        let mut dx = self.empty(&[size.rows, size.cols], Dtype::Activation);
        let right = Right::ParameterBackward(values(w));
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

#[cfg(test)]
mod tests {
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
        forward(cpu, x, w, Start::Bias(b), size, &mut out);
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
