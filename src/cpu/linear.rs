//! Matrix products. Every output element is one chain of fused multiply-adds over `k` ascending, begun at the bias, at zero or at the sum
//! so far; a chain that is stored and taken up again rounds nothing. So neither tile, edge, number of rows nor thread shows in the bits.
//!
//! The right matrix is packed into panels of one or two vectors, `k` by `k`, and so is the left one into blocks of a few rows where it is
//! stored by columns; a micro-kernel keeps a tile of the output in registers. Parameters stay packed, in bf16, unless they are very large:
//! of those one to four rows (decoding) are multiplied without packing.

mod operands;
mod pack;

use std::ops::Range;

use half::bf16;
use operands::{DEPTH, tile_size};
pub(super) use operands::{Left, Right, Size, Start};
use pack::{block_len, pack_columns, pack_parameter, pack_right_panel, panel_start, transposed_parameters};
use rayon::prelude::*;

use super::memory::Parameter;
use super::simd::{LANES, Lanes, kernel, unroll};
use super::{Cpu, PARALLEL_COST, bf16s, floats, floats_mut, parameter};
use crate::ops::linear::Linear;
use crate::ops::{Dtype, Tensor};

/// Rows packed at a time: with the panels they stay in the second-level cache.
const CHUNK: usize = 96;
/// Columns that share a pass over the rows, at most: their panels stay in the second-level cache.
const GROUP: usize = 128;
/// Tiles over a panel up to which what takes time is to read the panel.
const FEW_TILES: usize = 8;
/// Rows up to which the parameters are used as they come.
const FEW: usize = 4;

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
    match left {
        Left::Rows(values) | Left::Columns(values) => assert_eq!(values.len(), rows * depth, "left operand"),
    }
    many_rows(cpu, left, right, start, size, out);
}

/// The output, shared by tasks that each write elements of their own.
#[derive(Clone, Copy)]
struct Tiles {
    pointer: *mut f32,
    stride: usize,
}

// SAFETY: tasks address disjoint elements, and the output is borrowed for as long as they run.
unsafe impl Send for Tiles {}
// SAFETY: the same.
unsafe impl Sync for Tiles {}

impl Tiles {
    /// Element `(row, col)`; both must lie in the output.
    #[inline(always)]
    fn at(self, row: usize, col: usize) -> *mut f32 {
        self.pointer.wrapping_add(row * self.stride + col)
    }
}

fn many_rows(cpu: &Cpu, left: Left<'_>, right: Right<'_>, start: Start<'_>, size: Size, out: Tiles) {
    let threads = threads_for(size.rows * size.cols * size.depth);
    let (tile, panel) = tile_size(cpu.simd);
    let panels = size.cols.div_ceil(panel);
    let blocks = size.rows.div_ceil(tile);
    // A group packs its columns of the right matrix, a cut its rows of a left one stored by columns: those are packed once.
    let wanted = if threads == 1 { 1 } else { 3 * threads };
    let group = match left {
        Left::Rows(_) => (panels / wanted).clamp(1, GROUP / panel),
        Left::Columns(_) => panels.min(GROUP / panel),
    };
    let groups = panels.div_ceil(group);
    let cuts = wanted.div_ceil(groups).min(blocks.div_ceil(8));
    let cut = blocks.div_ceil(cuts) * tile;
    let task = |i: usize| {
        let (row_cut, panel_group) = (i % cuts, i / cuts);
        let rows = (row_cut * cut).min(size.rows)..((row_cut + 1) * cut).min(size.rows);
        let panels = panel_group * group..((panel_group + 1) * group).min(panels);
        let depth = DEPTH.min(size.depth);
        let mut room = cpu.scratch(group * panel * depth + CHUNK / tile * block_len(tile, depth));
        multiply(cpu.simd, left, right, start, size, rows, panels, &mut room, out);
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

kernel! {
    /// The tiles of some rows and some panels; `room` holds the panels and a chunk of packed rows for one `DEPTH`.
    fn multiply<L>(
        left: Left<'_>,
        right: Right<'_>,
        start: Start<'_>,
        size: Size,
        rows: Range<usize>,
        panels: Range<usize>,
        room: &mut [f32],
        out: Tiles,
    ) {
        let panel = L::TILE_VECTORS * LANES;
        for k in (0..size.depth.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(size.depth - k);
            let (packed, left_blocks) = room.split_at_mut(panels.len() * panel * depth);
            let columns = match right {
                Right::Panels(values) => {
                    Columns::Narrow(&values[panel_start(size, panel, panels.start, k)..][..packed.len()])
                }
                _ => {
                    for (i, to) in panels.clone().zip(packed.chunks_exact_mut((panel * depth).max(1))) {
                        pack_right_panel::<L>(right, size, i, k, to);
                    }
                    Columns::Wide(packed)
                }
            };
            let start = if k == 0 { start } else { Start::Sum };
            for chunk in rows.clone().step_by(CHUNK) {
                let chunk = chunk..rows.end.min(chunk + CHUNK);
                if let Left::Columns(values) = left {
                    pack_columns::<L>(values, size, chunk.clone(), k, depth, left_blocks);
                }
                let tiles = chunk.len().div_ceil(L::TILE_ROWS);
                let is_few = tiles <= FEW_TILES;
                for i in 0..tiles * panels.len() {
                    // Few tiles go over a panel while it is near, and fetch the next; of many each goes over all panels.
                    let (tile, i) = if is_few { (i % tiles, i / tiles) } else { (i / panels.len(), i % panels.len()) };
                    let rows = match left {
                        Left::Rows(_) => tile_rows::<L>(chunk.len(), tile),
                        Left::Columns(_) => tile * L::TILE_ROWS..chunk.len().min((tile + 1) * L::TILE_ROWS),
                    };
                    let (row, col) = (chunk.start + rows.start, (panels.start + i) * panel);
                    let ahead = is_few.then_some((tile, tiles));
                    let place = Place { out, row, col, rows: rows.len(), cols: panel.min(size.cols - col), ahead };
                    let panel = i * panel * depth..(i + 1) * panel * depth;
                    match (left, columns) {
                        (Left::Rows(values), Columns::Narrow(right)) => {
                            let block = &values[row * size.depth + k..];
                            whole_tile::<L, _, false>(block, size.depth, &right[panel], start, place);
                        }
                        (Left::Rows(values), Columns::Wide(right)) => {
                            let block = &values[row * size.depth + k..];
                            whole_tile::<L, _, false>(block, size.depth, &right[panel], start, place);
                        }
                        (Left::Columns(_), Columns::Wide(right)) => {
                            let block = &left_blocks[tile * block_len(L::TILE_ROWS, depth)..];
                            whole_tile::<L, _, true>(block, L::TILE_ROWS, &right[panel], start, place);
                        }
                        (Left::Columns(_), Columns::Narrow(_)) => unreachable!("a parameter is multiplied by rows"),
                    }
                }
            }
        }
    }
}

/// Panels side by side, for one `DEPTH`.
#[derive(Clone, Copy)]
enum Columns<'a> {
    Narrow(&'a [bf16]),
    Wide(&'a [f32]),
}

/// What a panel consists of.
trait Element: Copy {
    /// Reads 16. Safety: `from` is readable for 16.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
    /// Asks for the cache line at `from`, which need not be readable, if it comes from far away.
    fn prefetch<L: Lanes>(from: *const Self);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_pointer(from) }
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(_: *const f32) {}
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const bf16) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_bf16_pointer(from) }
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(from: *const bf16) {
        L::prefetch(from.cast());
    }
}

/// The rows of tile number `tile` over `rows` rows. Where the last holds a third or less, it shares evenly with the one before: a tile of one
/// or two rows waits for its sums and takes as long as one of four.
#[inline(always)]
fn tile_rows<L: Lanes>(rows: usize, tile: usize) -> Range<usize> {
    let whole = L::TILE_ROWS;
    let (last, rest) = ((rows - 1) / whole, (rows - 1) % whole + 1);
    let end = |tile: usize| match last - tile {
        0 => rows,
        1 if 3 * rest <= whole => rows - (whole + rest) / 2,
        _ => (tile + 1) * whole,
    };
    (if tile == 0 { 0 } else { end(tile - 1) })..end(tile)
}

/// A tile of the output; `rows` and `cols` of it lie inside.
#[derive(Clone, Copy)]
struct Place {
    out: Tiles,
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
    /// Where few tiles go over the same panel, which of how many it is.
    ahead: Option<(usize, usize)>,
}

/// The smallest tile that holds `place`. A block stored by columns is `[k][stride]`, else `[row][stride]`.
#[inline(always)]
fn whole_tile<L: Lanes, E: Element, const COLUMNS: bool>(
    left: &[f32],
    stride: usize,
    right: &[E],
    start: Start<'_>,
    place: Place,
) {
    match (L::TILE_VECTORS, place.rows) {
        (1, 1) => tile::<L, E, 1, 1, COLUMNS>(left, stride, right, start, place),
        (1, 2) => tile::<L, E, 2, 1, COLUMNS>(left, stride, right, start, place),
        (1, 3..=4) => tile::<L, E, 4, 1, COLUMNS>(left, stride, right, start, place),
        (1, _) => tile::<L, E, 6, 1, COLUMNS>(left, stride, right, start, place),
        (_, 1) => tile::<L, E, 1, 2, COLUMNS>(left, stride, right, start, place),
        (_, 2) => tile::<L, E, 2, 2, COLUMNS>(left, stride, right, start, place),
        (_, 3..=4) => tile::<L, E, 4, 2, COLUMNS>(left, stride, right, start, place),
        (_, 5..=8) => tile::<L, E, 8, 2, COLUMNS>(left, stride, right, start, place),
        _ => tile::<L, E, 12, 2, COLUMNS>(left, stride, right, start, place),
    }
}

/// `ROWS` rows of `VECTORS` vectors of outputs, in registers; right `[k][VECTORS · 16]`. Rows that lie outside compute the last one again.
#[inline(always)]
fn tile<L: Lanes, E: Element, const ROWS: usize, const VECTORS: usize, const COLUMNS: bool>(
    left: &[f32],
    left_stride: usize,
    right: &[E],
    start: Start<'_>,
    place: Place,
) {
    let panel = VECTORS * LANES;
    let depth = right.len() / panel;
    let (row_step, k_step) = if COLUMNS { (1, left_stride) } else { (left_stride, 1) };
    assert!(0 < place.rows && place.rows <= ROWS && place.cols <= panel);
    assert!(depth == 0 || left.len() > (place.rows - 1) * row_step + (depth - 1) * k_step);
    let whole = place.rows == ROWS && place.cols == panel;
    let inside = |row: usize| place.out.at(place.row + row, place.col);
    let mut sums = [[L::splat(0.0); VECTORS]; ROWS];
    match start {
        Start::Zero => {}
        Start::Bias(bias) => {
            let bias = &bias[place.col..];
            let mut first = [L::splat(0.0); VECTORS];
            unroll!(v < VECTORS => {
                let bias = &bias[(v * LANES).min(bias.len())..];
                first[v] = if bias.len() >= LANES { L::load_bf16(bias) } else { L::load_bf16_tail(bias) };
            });
            sums = [first; ROWS];
        }
        Start::Sum if whole => {
            unroll!(row < ROWS => {
                unroll!(v < VECTORS => {
                    // SAFETY: the elements of a whole tile lie in the output, and are this task's own.
                    sums[row][v] = unsafe { L::load_pointer(inside(row).wrapping_add(v * LANES)) };
                });
            });
        }
        Start::Sum => {
            unroll!(row < ROWS => {
                if row < place.rows {
                    // SAFETY: `cols` elements of this row lie in the output, and are this task's own.
                    let from = unsafe { std::slice::from_raw_parts(inside(row), place.cols) };
                    unroll!(v < VECTORS => {
                        sums[row][v] = L::load_tail(&from[(v * LANES).min(from.len())..], 0.0);
                    });
                }
            });
        }
    }
    // The output is far away; it comes while the sums are formed.
    unroll!(row < ROWS => { L::prefetch(inside(row.min(place.rows - 1))); });
    let mut a = [left.as_ptr(); ROWS];
    unroll!(row < ROWS => { a[row] = left.as_ptr().wrapping_add(row.min(place.rows - 1) * row_step); });
    let mut b = right.as_ptr();
    // Each of few tiles over a panel fetches its share of the one behind, so that memory is as busy as arithmetic.
    let (ahead_step, mut ahead) = match place.ahead {
        Some((tile, tiles)) => {
            let step = panel * size_of::<E>() / tiles;
            (step, right.as_ptr_range().end.wrapping_byte_add(tile * depth * step))
        }
        None => (0, b),
    };
    let mut at = 0;
    for _ in 0..depth {
        E::prefetch::<L>(ahead);
        ahead = ahead.wrapping_byte_add(ahead_step);
        let mut columns = [L::splat(0.0); VECTORS];
        // SAFETY: the assertion on `left` covers its last element; `depth` steps of a panel are what `right` holds.
        unsafe {
            unroll!(v < VECTORS => { columns[v] = E::load(b.wrapping_add(v * LANES)); });
            unroll!(row < ROWS => {
                let x = L::splat(*a[row].wrapping_add(at));
                unroll!(v < VECTORS => { sums[row][v] = x.mul_add(columns[v], sums[row][v]); });
            });
        }
        at += k_step;
        b = b.wrapping_add(panel);
    }
    if whole {
        unroll!(row < ROWS => {
            unroll!(v < VECTORS => {
                // SAFETY: as for the loads.
                unsafe { sums[row][v].store_pointer(inside(row).wrapping_add(v * LANES)) };
            });
        });
    } else {
        unroll!(row < ROWS => {
            if row < place.rows {
                // SAFETY: as for the loads.
                let to = unsafe { std::slice::from_raw_parts_mut(inside(row), place.cols) };
                unroll!(v < VECTORS => {
                    let first = (v * LANES).min(to.len());
                    sums[row][v].store_tail(&mut to[first..]);
                });
            }
        });
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
