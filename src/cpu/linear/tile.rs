//! The micro-kernel of matrix products: a tile of the output, kept in registers.

use half::bf16;

use super::super::simd::{LANES, Lanes, unroll};
use super::operands::Start;
use super::output::Tiles;

/// What a panel consists of.
pub(super) trait Element: Copy {
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

/// A tile of the output; `rows` and `cols` of it lie inside.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) out: Tiles,
    pub(super) row: usize,
    pub(super) col: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Where few tiles go over the same panel, which of how many it is.
    pub(super) ahead: Option<(usize, usize)>,
}

/// The smallest tile that holds `place`. A block stored by columns is `[k][stride]`, else `[row][stride]`.
#[inline(always)]
pub(super) fn whole_tile<L: Lanes, E: Element, const COLUMNS: bool>(
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
