//! The backward pass over packed keys, a head of a segment at a time.

use super::super::simd::{LANES, Lanes, kernel};
use super::super::{Cpu, tasks};
use crate::ops::attention::Heads;

/// What [`Attention::attention_backward`] reads.
pub(super) struct Inputs<'a> {
    pub d_o: &'a [f32],
    pub qkv: &'a [f32],
    pub o: &'a [f32],
    pub lse: &'a [f32],
    pub heads: Heads,
    pub causal: bool,
}

/// dqkv `[T, (heads + 2 kv_heads) · head_dim]` for segments between `bounds`.
pub(super) fn backward(cpu: &Cpu, inputs: &Inputs<'_>, bounds: &[usize], dqkv: &mut [f32]) {
    let heads = inputs.heads;
    let (width, head_dim) = (heads.heads * heads.head_dim, heads.head_dim);
    let tokens = inputs.lse.len() / heads.heads;

    // Gradients of q, k, v, a block `[3][rows][head_dim]` for every segment and query head.
    let mut parts = cpu.scratch(3 * tokens * width);
    let segments = || bounds.windows(2).filter(|bound| bound[1] > bound[0]);
    let owners = || segments().flat_map(|bound| (0..heads.heads).map(move |head| (bound[0], bound[1], head)));
    let pieces = tasks::pieces(&mut parts, owners().map(|(from, to, _)| 3 * (to - from) * head_dim));
    let pairs: usize = bounds.windows(2).map(|bound| (bound[1] - bound[0]).pow(2)).sum();
    tasks::for_each(owners().zip(pieces).collect(), 5 * pairs * width, |((from, to, head), piece)| {
        let mut scratch = cpu.scratch(HeadScratch::len(to - from, head_dim));
        backward_head(cpu.simd, inputs, (from, to), head, &mut scratch, piece);
    });

    let rows = tasks::pieces(dqkv, segments().map(|bound| (bound[1] - bound[0]) * heads.qkv()));
    let tasks = segments().zip(rows).collect();
    tasks::for_each(tasks, 3 * tokens * width, |(bound, rows)| {
        let length = bound[1] - bound[0];
        gather_heads(&parts[3 * bound[0] * width..][..3 * length * width], heads, rows);
    });
}

/// One head of one segment, padded with zeros to whole blocks of 16 rows and of 16 columns.
struct HeadScratch<'a> {
    /// `[rows][width]` each; rows of width `head_dim` up to a multiple of 16.
    q: &'a mut [f32],
    d_o: &'a mut [f32],
    k: &'a mut [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// `[tile][head_dim][16]` each: the transposes.
    q_columns: &'a mut [f32],
    d_o_columns: &'a mut [f32],
    k_columns: &'a mut [f32],
    v_columns: &'a mut [f32],
    /// `[rows]` each.
    lse: &'a mut [f32],
    delta: &'a mut [f32],
}

impl<'a> HeadScratch<'a> {
    fn len(rows: usize, head_dim: usize) -> usize {
        let rows = rows.next_multiple_of(LANES);
        rows * (6 * head_dim.next_multiple_of(LANES) + 4 * head_dim + 2)
    }

    fn new(memory: &'a mut [f32], rows: usize, head_dim: usize) -> HeadScratch<'a> {
        memory.fill(0.0);
        let rows = rows.next_multiple_of(LANES);
        let mut rest = memory;
        let mut take = |len: usize| {
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            piece
        };
        let (padded, columns) = (rows * head_dim.next_multiple_of(LANES), rows * head_dim);
        HeadScratch {
            q: take(padded),
            d_o: take(padded),
            k: take(padded),
            dq: take(padded),
            dk: take(padded),
            dv: take(padded),
            q_columns: take(columns),
            d_o_columns: take(columns),
            k_columns: take(columns),
            v_columns: take(columns),
            lse: take(rows),
            delta: take(rows),
        }
    }
}

kernel! {
    /// Gradients `[3][rows][head_dim]` of q, and of this head's share in k and v, for rows `bound` of the batch.
    fn backward_head<L>(inputs: &Inputs<'_>, bound: (usize, usize), head: usize, scratch: &mut [f32], out: &mut [f32]) {
        let Heads { heads, kv_heads, head_dim } = inputs.heads;
        let rows = bound.1 - bound.0;
        let width = head_dim.next_multiple_of(LANES);
        let kv_head = head / (heads / kv_heads);
        let mut s = HeadScratch::new(scratch, rows, head_dim);
        for i in 0..rows {
            let row = bound.0 + i;
            let qkv = &inputs.qkv[row * inputs.heads.qkv()..][..inputs.heads.qkv()];
            let q = &qkv[head * head_dim..][..head_dim];
            let k = &qkv[(heads + kv_head) * head_dim..][..head_dim];
            let v = &qkv[(heads + kv_heads + kv_head) * head_dim..][..head_dim];
            let d_o = &inputs.d_o[(row * heads + head) * head_dim..][..head_dim];
            let o = &inputs.o[(row * heads + head) * head_dim..][..head_dim];
            for (from, to) in [(q, &mut s.q), (d_o, &mut s.d_o), (k, &mut s.k)] {
                to[i * width..][..head_dim].copy_from_slice(from);
            }
            let columns =
                [(q, &mut s.q_columns), (d_o, &mut s.d_o_columns), (k, &mut s.k_columns), (v, &mut s.v_columns)];
            for (from, to) in columns {
                let tile = &mut to[i / LANES * LANES * head_dim..][..LANES * head_dim];
                for (&value, to) in from.iter().zip(tile.chunks_exact_mut(LANES)) {
                    to[i % LANES] = value;
                }
            }
            s.lse[i] = inputs.lse[row * heads + head];
            let mut delta = L::splat(0.0);
            for (d_o, o) in d_o.chunks(LANES).zip(o.chunks(LANES)) {
                delta = L::load_tail(d_o, 0.0).mul_add(L::load_tail(o, 0.0), delta);
            }
            s.delta[i] = delta.sum();
        }
        let scale = inputs.heads.scale();
        for tile in 0..rows.div_ceil(LANES) {
            // Earlier queries do not see a tile's keys.
            let first = if inputs.causal { tile * LANES } else { 0 };
            if L::TILE_ROWS >= 8 {
                for block in first / 8..rows.div_ceil(8) {
                    backward_tile::<L, 8>(&mut s, head_dim, rows, inputs.causal, scale, tile, block);
                }
            } else {
                for block in first / 4..rows.div_ceil(4) {
                    backward_tile::<L, 4>(&mut s, head_dim, rows, inputs.causal, scale, tile, block);
                }
            }
        }
        let gradients = [&s.dq, &s.dk, &s.dv];
        for (from, to) in gradients.into_iter().zip(out.chunks_exact_mut(rows * head_dim)) {
            for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(head_dim)) {
                to.copy_from_slice(&from[..head_dim]);
            }
        }
    }
}

/// Adds what `ROWS` queries and a tile of 16 keys have to do with each other. Every sum runs over ascending queries or keys, whatever
/// `ROWS`.
#[inline(always)]
fn backward_tile<L: Lanes, const ROWS: usize>(
    s: &mut HeadScratch<'_>,
    head_dim: usize,
    rows: usize,
    causal: bool,
    scale: f32,
    tile: usize,
    block: usize,
) {
    let width = head_dim.next_multiple_of(LANES);
    let first = block * ROWS;
    let queries = first / LANES * LANES * head_dim;
    let lane = first % LANES;
    let keys = tile * LANES * head_dim;
    let q = columns(s.q_columns, queries, head_dim).iter().zip(columns(s.d_o_columns, queries, head_dim));
    let k = columns(s.k_columns, keys, head_dim).iter().zip(columns(s.v_columns, keys, head_dim));
    let mut score = [L::splat(0.0); ROWS];
    let mut dp = [L::splat(0.0); ROWS];
    for ((q, d_o), (k, v)) in q.zip(k) {
        let (q, d_o) = (&q[lane..lane + ROWS], &d_o[lane..lane + ROWS]);
        let (k, v) = (L::load(k), L::load(v));
        for i in 0..ROWS {
            score[i] = L::splat(q[i]).mul_add(k, score[i]);
            dp[i] = L::splat(d_o[i]).mul_add(v, dp[i]);
        }
    }

    let mut p = [[0.0; LANES]; ROWS];
    let mut ds = [[0.0; LANES]; ROWS];
    for i in 0..ROWS {
        let query = first + i;
        let visible = if query >= rows {
            0
        } else if causal {
            query + 1
        } else {
            rows
        };
        let weight = score[i].mul(L::splat(scale)).sub(L::splat(s.lse[query])).exp();
        let gradient = weight.mul(dp[i].sub(L::splat(s.delta[query]))).mul(L::splat(scale));
        weight.store(&mut p[i]);
        gradient.store(&mut ds[i]);
        let visible = visible.saturating_sub(tile * LANES).min(LANES);
        p[i][visible..].fill(0.0);
        ds[i][visible..].fill(0.0);
    }

    let queries = first * width..(first + ROWS) * width;
    let keys = tile * LANES * width..(tile + 1) * LANES * width;
    let (q, d_o, dq) = (&s.q[queries.clone()], &s.d_o[queries.clone()], &mut s.dq[queries]);
    let (k, dk, dv) = (&s.k[keys.clone()], &mut s.dk[keys.clone()], &mut s.dv[keys]);
    for column in (0..width).step_by(LANES) {
        add_to_keys::<L, ROWS>(&p, &d_o[column..], &mut dv[column..], width);
        add_to_keys::<L, ROWS>(&ds, &q[column..], &mut dk[column..], width);
        let mut sums: [L; ROWS] = std::array::from_fn(|i| L::load(&dq[i * width + column..]));
        for j in 0..LANES {
            let k = L::load(&k[j * width + column..]);
            for i in 0..ROWS {
                sums[i] = L::splat(ds[i][j]).mul_add(k, sums[i]);
            }
        }
        for i in 0..ROWS {
            sums[i].store(&mut dq[i * width + column..]);
        }
    }
}

/// The tile at `at`: `[head_dim][16]`.
#[inline(always)]
fn columns(values: &[f32], at: usize, head_dim: usize) -> &[[f32; LANES]] {
    values[at..][..LANES * head_dim].as_chunks().0
}

/// `to[j] += Σ_i weights[i][j] · from[i]` for one vector of columns; rows are `width` apart.
#[inline(always)]
fn add_to_keys<L: Lanes, const ROWS: usize>(
    weights: &[[f32; LANES]; ROWS],
    from: &[f32],
    to: &mut [f32],
    width: usize,
) {
    let from: [L; ROWS] = std::array::from_fn(|i| L::load(&from[i * width..]));
    for j in 0..LANES {
        let to = &mut to[j * width..];
        let mut sum = L::load(to);
        for i in 0..ROWS {
            sum = L::splat(weights[i][j]).mul_add(from[i], sum);
        }
        sum.store(to);
    }
}

/// Gradients of a segment's heads, `[heads][3][rows][head_dim]`, as rows of dqkv; heads of a group add up in order.
fn gather_heads(parts: &[f32], heads: Heads, out: &mut [f32]) {
    let Heads { heads: count, kv_heads, head_dim } = heads;
    let group = count / kv_heads;
    let rows = out.len() / heads.qkv();
    let part =
        |head: usize, which: usize, row: usize| &parts[((head * 3 + which) * rows + row) * head_dim..][..head_dim];
    for (row, out) in out.chunks_exact_mut(heads.qkv()).enumerate() {
        for (head, dq) in out[..count * head_dim].chunks_exact_mut(head_dim).enumerate() {
            dq.copy_from_slice(part(head, 0, row));
        }
        for (n, to) in out[count * head_dim..].chunks_exact_mut(head_dim).enumerate() {
            let (which, kv_head) = (1 + n / kv_heads, n % kv_heads);
            to.copy_from_slice(part(kv_head * group, which, row));
            for head in kv_head * group + 1..(kv_head + 1) * group {
                for (to, &value) in to.iter_mut().zip(part(head, which, row)) {
                    *to += value;
                }
            }
        }
    }
}
