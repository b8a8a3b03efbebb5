//! The forward pass over pages of keys, a block of queries at a time.

use super::super::simd::{LANES, Lanes, Simd, kernel};
use super::super::tasks;
use super::pages::page_len;
use crate::ops::attention::{Heads, PAGE_TOKENS};

/// The widest head: query rows are kept on the stack.
pub(super) const HEAD_DIM_MAX: usize = 128;
/// Queries of a task.
const QUERY_BLOCK: usize = 16;

/// The queries of a call that share keys.
pub(super) struct Sequence<'a> {
    /// First and end row of the queries.
    pub(super) rows: (usize, usize),
    /// Page of each tile.
    pub(super) page_table: &'a [i32],
    /// Keys, the queries' own included.
    pub(super) length: usize,
    /// A query sees only keys up to itself; the queries are the last rows of the sequence.
    pub(super) causal: bool,
}

/// The output `o` and the log-sum-exps `lse` of all queries.
pub(super) fn attend_all(
    simd: Simd,
    qkv: &[f32],
    pages: &[f32],
    sequences: &[Sequence<'_>],
    heads: Heads,
    o: &mut [f32],
    lse: &mut [f32],
) {
    let blocks = || {
        sequences.iter().flat_map(|sequence| {
            let (from, to) = sequence.rows;
            (from..to).step_by(QUERY_BLOCK).map(move |row| (sequence, row, to.min(row + QUERY_BLOCK)))
        })
    };
    let width = heads.heads * heads.head_dim;
    let o = tasks::pieces(o, blocks().map(|(_, from, to)| (to - from) * width));
    let lse = tasks::pieces(lse, blocks().map(|(_, from, to)| (to - from) * heads.heads));
    let cost: usize = sequences.iter().map(|s| 2 * (s.rows.1 - s.rows.0) * s.length * width).sum();
    let tasks = blocks().zip(o).zip(lse).collect();
    tasks::for_each(tasks, cost, |(((sequence, from, to), o), lse)| {
        let block = Block {
            queries: &qkv[from * heads.qkv()..to * heads.qkv()],
            heads,
            pages,
            page_table: sequence.page_table,
            length: sequence.length,
            position: sequence.causal.then(|| sequence.length - (sequence.rows.1 - from)),
        };
        attend(simd, &block, o, lse);
    });
}

/// Some queries of one sequence, all heads.
struct Block<'a> {
    /// Rows of qkv.
    queries: &'a [f32],
    heads: Heads,
    pages: &'a [f32],
    page_table: &'a [i32],
    /// How many keys there are.
    length: usize,
    /// Of the first query, when causal.
    position: Option<usize>,
}

impl Block<'_> {
    /// Keys that a query sees: a number that does not fall from query to query.
    fn visible(&self, query: usize) -> usize {
        self.position.map_or(self.length, |position| position + query + 1)
    }

    /// A tile's keys, transposed: `[head_dim][16]`.
    #[inline(always)]
    fn key_tile(&self, tile: usize, kv_head: usize) -> &[[f32; LANES]] {
        self.tile(tile, kv_head).as_chunks().0
    }

    /// A tile's values: `[16][head_dim]`.
    #[inline(always)]
    fn value_tile(&self, tile: usize, kv_head: usize) -> &[f32] {
        self.tile(tile, self.heads.kv_heads + kv_head)
    }

    /// Where a tile of keys, or of values after `kv_heads`, begins, to prefetch it; the first tile's for those past the last.
    #[inline(always)]
    fn ahead(&self, tile: usize, index: usize) -> *const f32 {
        self.tile(if tile < self.length.div_ceil(LANES) { tile } else { 0 }, index).as_ptr()
    }

    #[inline(always)]
    fn tile(&self, tile: usize, index: usize) -> &[f32] {
        let len = PAGE_TOKENS * self.heads.head_dim;
        &self.pages[self.page_table[tile] as usize * page_len(self.heads) + index * len..][..len]
    }
}

kernel! {
    /// o `[queries, heads · head_dim]` and lse `[queries, heads]` of a block.
    fn attend<L>(block: &Block<'_>, o: &mut [f32], lse: &mut [f32]) {
        let queries = lse.len() / block.heads.heads;
        let group = block.heads.heads / block.heads.kv_heads;
        let rows_max = if L::TILE_ROWS >= 8 { 8 } else { 4 };
        let tiles = block.visible(queries - 1).div_ceil(LANES);
        let mut scores = vec![[0.0; LANES]; tiles * rows_max.min(queries * group)];
        for kv_head in 0..block.heads.kv_heads {
            let mut from = 0;
            while from < queries * group {
                let rows = rows_max.min(queries * group - from);
                match rows {
                    1 => attend_rows::<L, 1, 4, 4>(block, kv_head, from, &mut scores, o, lse),
                    2 => attend_rows::<L, 2, 4, 4>(block, kv_head, from, &mut scores, o, lse),
                    3 => attend_rows::<L, 3, 2, 2>(block, kv_head, from, &mut scores, o, lse),
                    4 => attend_rows::<L, 4, 2, 2>(block, kv_head, from, &mut scores, o, lse),
                    5 => attend_rows::<L, 5, 2, 2>(block, kv_head, from, &mut scores, o, lse),
                    6 => attend_rows::<L, 6, 2, 2>(block, kv_head, from, &mut scores, o, lse),
                    7 => attend_rows::<L, 7, 2, 2>(block, kv_head, from, &mut scores, o, lse),
                    _ => attend_rows::<L, 8, 2, 2>(block, kv_head, from, &mut scores, o, lse),
                }
                from += rows;
            }
        }
    }
}

/// `ROWS` query rows of one key/value head, numbered query-major over the heads of its group: they share every load of a tile, and
/// nothing else. `TILES` tiles of keys and `VECTORS` vectors of values at a time only keep the arithmetic units busy.
#[inline(always)]
fn attend_rows<L: Lanes, const ROWS: usize, const TILES: usize, const VECTORS: usize>(
    block: &Block<'_>,
    kv_head: usize,
    from: usize,
    scores: &mut [[f32; LANES]],
    o: &mut [f32],
    lse: &mut [f32],
) {
    let Heads { heads, kv_heads, head_dim } = block.heads;
    let group = heads / kv_heads;
    let query: [usize; ROWS] = std::array::from_fn(|i| (from + i) / group);
    let head: [usize; ROWS] = std::array::from_fn(|i| kv_head * group + (from + i) % group);
    let visible: [usize; ROWS] = std::array::from_fn(|i| block.visible(query[i]));

    // q transposed, `[head_dim][ROWS]`.
    let mut q = [[0.0; ROWS]; HEAD_DIM_MAX];
    for i in 0..ROWS {
        let row = &block.queries[query[i] * block.heads.qkv() + head[i] * head_dim..][..head_dim];
        for (q, &value) in q.iter_mut().zip(row) {
            q[i] = value;
        }
    }
    let q = &q[..head_dim];

    let tiles = visible[ROWS - 1].div_ceil(LANES);
    let scale = L::splat(block.heads.scale());
    let mut tile = 0;
    while tile + TILES <= tiles {
        score_tiles::<L, ROWS, TILES>(block, kv_head, tile, q, scale, scores);
        tile += TILES;
    }
    while tile < tiles {
        score_tiles::<L, ROWS, 1>(block, kv_head, tile, q, scale, scores);
        tile += 1;
    }

    let mut scale_o = [0.0; ROWS];
    for i in 0..ROWS {
        let (max, sum) = softmax_row::<L, ROWS>(&mut scores[..tiles * ROWS], i, visible[i]);
        scale_o[i] = 1.0 / sum;
        lse[query[i] * heads + head[i]] = max + sum.ln();
    }

    let mut column = 0;
    while column + VECTORS * LANES <= head_dim {
        let sums = weighted_values::<L, ROWS, VECTORS, false>(block, kv_head, column, &visible, scores);
        for i in 0..ROWS {
            let to = &mut o[(query[i] * heads + head[i]) * head_dim + column..][..VECTORS * LANES];
            for (sum, to) in sums[i].iter().zip(to.as_chunks_mut::<LANES>().0) {
                sum.mul(L::splat(scale_o[i])).store(to);
            }
        }
        column += VECTORS * LANES;
    }
    while column < head_dim {
        let width = LANES.min(head_dim - column);
        let sums = if width == LANES {
            weighted_values::<L, ROWS, 1, false>(block, kv_head, column, &visible, scores)
        } else {
            weighted_values::<L, ROWS, 1, true>(block, kv_head, column, &visible, scores)
        };
        for i in 0..ROWS {
            let to = &mut o[(query[i] * heads + head[i]) * head_dim + column..][..width];
            sums[i][0].mul(L::splat(scale_o[i])).store_tail(to);
        }
        column += width;
    }
}

/// Scores of the rows against `TILES` tiles, into `scores[tile][row]`.
#[inline(always)]
fn score_tiles<L: Lanes, const ROWS: usize, const TILES: usize>(
    block: &Block<'_>,
    kv_head: usize,
    first: usize,
    q: &[[f32; ROWS]],
    scale: L,
    scores: &mut [[f32; LANES]],
) {
    let keys: [&[[f32; LANES]]; TILES] = std::array::from_fn(|tile| &block.key_tile(first + tile, kv_head)[..q.len()]);
    let next: [*const f32; TILES] = std::array::from_fn(|tile| block.ahead(first + TILES + tile, kv_head));
    let mut sums = [[L::splat(0.0); ROWS]; TILES];
    for (d, q) in q.iter().enumerate() {
        for tile in 0..TILES {
            L::prefetch(next[tile].wrapping_add(d * LANES));
            let k = L::load(&keys[tile][d]);
            for i in 0..ROWS {
                sums[tile][i] = L::splat(q[i]).mul_add(k, sums[tile][i]);
            }
        }
    }
    for tile in 0..TILES {
        for i in 0..ROWS {
            sums[tile][i].mul(scale).store(&mut scores[(first + tile) * ROWS + i]);
        }
    }
}

/// Turns a row's scores into `exp(s − max)`, zero for keys it does not see; returns the maximum and the sum.
#[inline(always)]
fn softmax_row<L: Lanes, const ROWS: usize>(scores: &mut [[f32; LANES]], row: usize, visible: usize) -> (f32, f32) {
    let (full, rest) = (visible / LANES, visible % LANES);
    let mut max = L::splat(f32::NEG_INFINITY);
    for tile in 0..full {
        max = max.max(L::load(&scores[tile * ROWS + row]));
    }
    if rest > 0 {
        max = max.max(L::load_tail(&scores[full * ROWS + row][..rest], f32::NEG_INFINITY));
    }
    let max = max.max_lane();
    let shift = L::splat(max);
    let mut sum = L::splat(0.0);
    for tile in 0..full {
        let p = L::load(&scores[tile * ROWS + row]).sub(shift).exp();
        p.store(&mut scores[tile * ROWS + row]);
        sum = sum.add(p);
    }
    if rest > 0 {
        let p = L::load_tail(&scores[full * ROWS + row][..rest], f32::NEG_INFINITY).sub(shift).exp();
        p.store(&mut scores[full * ROWS + row]);
        sum = sum.add(p);
    }
    (max, sum.sum())
}

/// `Σ_j p_j v_j` over the keys that each row sees, for `VECTORS` vectors of columns; `TAIL`: for the one vector that is not whole.
#[inline(always)]
fn weighted_values<L: Lanes, const ROWS: usize, const VECTORS: usize, const TAIL: bool>(
    block: &Block<'_>,
    kv_head: usize,
    column: usize,
    visible: &[usize; ROWS],
    scores: &[[f32; LANES]],
) -> [[L; VECTORS]; ROWS] {
    let head_dim = block.heads.head_dim;
    let mut sums = [[L::splat(0.0); VECTORS]; ROWS];
    let common = visible[0];
    for tile in 0..common.div_ceil(LANES) {
        let values = block.value_tile(tile, kv_head);
        let next = block.ahead(tile + 1, block.heads.kv_heads + kv_head);
        for line in 0..head_dim {
            L::prefetch(next.wrapping_add(line * LANES));
        }
        let p: &[[f32; LANES]; ROWS] = scores[tile * ROWS..].first_chunk().unwrap_or(&[[0.0; LANES]; ROWS]);
        for (j, v) in values.chunks_exact(head_dim).take(common - tile * LANES).enumerate().take(LANES) {
            let v = value_vectors::<L, VECTORS, TAIL>(&v[column..]);
            for i in 0..ROWS {
                let p = L::splat(p[i][j]);
                for n in 0..VECTORS {
                    sums[i][n] = p.mul_add(v[n], sums[i][n]);
                }
            }
        }
    }
    // Keys that only later rows see. A zero weight would do, but for the sign of a zero and for values that are not finite.
    for i in 1..ROWS {
        for j in common..visible[i] {
            let v = &block.value_tile(j / LANES, kv_head)[j % LANES * head_dim..][..head_dim];
            let v = value_vectors::<L, VECTORS, TAIL>(&v[column..]);
            let p = L::splat(scores[j / LANES * ROWS + i][j % LANES]);
            for n in 0..VECTORS {
                sums[i][n] = p.mul_add(v[n], sums[i][n]);
            }
        }
    }
    sums
}

#[inline(always)]
fn value_vectors<L: Lanes, const VECTORS: usize, const TAIL: bool>(v: &[f32]) -> [L; VECTORS] {
    std::array::from_fn(|n| if TAIL { L::load_tail(v, 0.0) } else { L::load(&v[n * LANES..]) })
}
