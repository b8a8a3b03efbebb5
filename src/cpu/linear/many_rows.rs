//! The product over many rows: cut into tasks, operands packed, tile by tile.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::super::Cpu;
use super::super::simd::{LANES, Lanes, kernel};
use super::super::tasks::threads_for;
use super::operands::{DEPTH, Left, Right, Size, Start, tile_size};
use super::output::Tiles;
use super::pack::{block_len, pack_columns, pack_right_panel, panel_start};
use super::tile::{Place, whole_tile};

/// Rows packed at a time: with the panels they stay in the second-level cache.
const CHUNK: usize = 96;
/// Columns that share a pass over the rows, at most: their panels stay in the second-level cache.
const GROUP: usize = 128;
/// Tiles over a panel up to which what takes time is to read the panel.
const FEW_TILES: usize = 8;

/// `out = start + left · right`, on all threads when there is work for them.
pub(super) fn many_rows(cpu: &Cpu, left: Left<'_>, right: Right<'_>, start: Start<'_>, size: Size, out: Tiles) {
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
