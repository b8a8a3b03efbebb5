//! The backward pass over packed keys, a head of a segment at a time.

use super::super::simd::{LANES, Lanes, kernel};
use super::super::{Cpu, tasks};
use super::segments::Segment;
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

/// dqkv `[T, (heads + 2 kv_heads) · head_dim]`.
pub(super) fn backward(cpu: &Cpu, inputs: &Inputs<'_>, segments: &[Segment], dqkv: &mut [f32]) {
    let Heads { heads, head_dim, .. } = inputs.heads;
    let cost = |segment: &Segment| 5 * segment.queries() * segment.keys() * heads * head_dim;

    // Gradients of a segment's queries and of all keys that they see, for every query head.
    let mut starts = vec![0];
    for segment in segments {
        starts.push(starts[starts.len() - 1] + heads * part_len(segment, head_dim));
    }
    let mut parts = cpu.scratch(starts[segments.len()]);
    let owners = || segments.iter().flat_map(|segment| (0..heads).map(move |head| (segment, head)));
    let pieces = tasks::pieces(&mut parts, owners().map(|(segment, _)| part_len(segment, head_dim)));
    tasks::for_each(owners().zip(pieces).collect(), segments.iter().map(cost).sum(), |((segment, head), piece)| {
        let mut scratch = cpu.scratch(HeadScratch::len(segment, head_dim));
        backward_head(cpu.simd, inputs, segment, head, &mut scratch, piece);
    });

    let mut followers = vec![Vec::new(); segments.len()];
    for (i, segment) in segments.iter().enumerate() {
        if let Some(prefix) = segment.prefix.filter(|_| segment.queries() > 0) {
            followers[prefix].push(i);
        }
    }
    let cost = 3 * dqkv.len();
    let rows = tasks::pieces(dqkv, segments.iter().map(|segment| segment.queries() * inputs.heads.qkv()));
    let part = |i: usize| Part { values: &parts[starts[i]..starts[i + 1]], segment: &segments[i], heads: inputs.heads };
    tasks::for_each(rows.into_iter().enumerate().collect(), cost, |(i, rows)| {
        let followers: Vec<Part<'_>> = followers[i].iter().map(|&follower| part(follower)).collect();
        gather_heads(part(i), &followers, rows);
    });
}

/// Floats of one head's gradients: `[queries][head_dim]` of q, `[keys][head_dim]` of k, then of v.
fn part_len(segment: &Segment, head_dim: usize) -> usize {
    (segment.queries() + 2 * segment.keys()) * head_dim
}

/// One head of one segment, padded with zeros to whole blocks of 16 rows and of 16 columns.
struct HeadScratch<'a> {
    /// `[queries or keys][width]` each; `width` is `head_dim` up to a multiple of 16.
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
    /// `[queries]` each: one value a query.
    lse: &'a mut [f32],
    delta: &'a mut [f32],
}

impl<'a> HeadScratch<'a> {
    fn len(segment: &Segment, head_dim: usize) -> usize {
        let (queries, keys) = (segment.queries().next_multiple_of(LANES), segment.keys().next_multiple_of(LANES));
        (queries + keys) * (3 * head_dim.next_multiple_of(LANES) + 2 * head_dim) + 2 * queries
    }

    fn new(memory: &'a mut [f32], segment: &Segment, head_dim: usize) -> HeadScratch<'a> {
        memory.fill(0.0);
        let (queries, keys) = (segment.queries().next_multiple_of(LANES), segment.keys().next_multiple_of(LANES));
        let mut rest = memory;
        let mut take = |len: usize| {
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            piece
        };
        let width = head_dim.next_multiple_of(LANES);
        HeadScratch {
            q: take(queries * width),
            d_o: take(queries * width),
            k: take(keys * width),
            dq: take(queries * width),
            dk: take(keys * width),
            dv: take(keys * width),
            q_columns: take(queries * head_dim),
            d_o_columns: take(queries * head_dim),
            k_columns: take(keys * head_dim),
            v_columns: take(keys * head_dim),
            lse: take(queries),
            delta: take(queries),
        }
    }
}

kernel! {
    /// Gradients of q, and of this head's share in k and v, for one segment.
    fn backward_head<L>(inputs: &Inputs<'_>, segment: &Segment, head: usize, scratch: &mut [f32], out: &mut [f32]) {
        let Heads { heads, kv_heads, head_dim } = inputs.heads;
        let (queries, keys) = (segment.queries(), segment.keys());
        let width = head_dim.next_multiple_of(LANES);
        let kv_head = head / (heads / kv_heads);
        let mut s = HeadScratch::new(scratch, segment, head_dim);
        for i in 0..queries {
            let row = segment.rows.0 + i;
            let q = &inputs.qkv[row * inputs.heads.qkv() + head * head_dim..][..head_dim];
            let d_o = &inputs.d_o[(row * heads + head) * head_dim..][..head_dim];
            let o = &inputs.o[(row * heads + head) * head_dim..][..head_dim];
            s.q[i * width..][..head_dim].copy_from_slice(q);
            s.d_o[i * width..][..head_dim].copy_from_slice(d_o);
            to_column(q, i, s.q_columns);
            to_column(d_o, i, s.d_o_columns);
            s.lse[i] = inputs.lse[row * heads + head];
            let mut delta = L::splat(0.0);
            for (d_o, o) in d_o.chunks(LANES).zip(o.chunks(LANES)) {
                delta = L::load_tail(d_o, 0.0).mul_add(L::load_tail(o, 0.0), delta);
            }
            s.delta[i] = delta.sum();
        }
        for j in 0..keys {
            let row = &inputs.qkv[segment.row(j) * inputs.heads.qkv()..][..inputs.heads.qkv()];
            let k = &row[(heads + kv_head) * head_dim..][..head_dim];
            s.k[j * width..][..head_dim].copy_from_slice(k);
            to_column(k, j, s.k_columns);
            to_column(&row[(heads + kv_heads + kv_head) * head_dim..][..head_dim], j, s.v_columns);
        }
        let scale = inputs.heads.scale();
        for tile in 0..keys.div_ceil(LANES) {
            // Earlier queries do not see a tile's keys.
            let first = if inputs.causal { (tile * LANES).saturating_sub(segment.prefix_len()) } else { 0 };
            if L::TILE_ROWS >= 8 {
                for block in first / 8..queries.div_ceil(8) {
                    backward_tile::<L, 8>(&mut s, head_dim, segment, inputs.causal, scale, tile, block);
                }
            } else {
                for block in first / 4..queries.div_ceil(4) {
                    backward_tile::<L, 4>(&mut s, head_dim, segment, inputs.causal, scale, tile, block);
                }
            }
        }
        let (dq, rest) = out.split_at_mut(queries * head_dim);
        let (dk, dv) = rest.split_at_mut(keys * head_dim);
        for (from, to) in [(&s.dq, dq), (&s.dk, dk), (&s.dv, dv)] {
            for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(head_dim)) {
                to.copy_from_slice(&from[..head_dim]);
            }
        }
    }
}

/// Row `i` into its tile of the transpose, `[tile][head_dim][16]`.
#[inline(always)]
fn to_column(row: &[f32], i: usize, columns: &mut [f32]) {
    let tile = &mut columns[i / LANES * LANES * row.len()..][..LANES * row.len()];
    for (&value, to) in row.iter().zip(tile.chunks_exact_mut(LANES)) {
        to[i % LANES] = value;
    }
}

/// Adds what `ROWS` queries and a tile of 16 keys have to do with each other. Every sum runs over ascending queries or keys, whatever
/// `ROWS`.
#[inline(always)]
fn backward_tile<L: Lanes, const ROWS: usize>(
    s: &mut HeadScratch<'_>,
    head_dim: usize,
    segment: &Segment,
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
        let visible = if query >= segment.queries() {
            0
        } else if causal {
            segment.prefix_len() + query + 1
        } else {
            segment.keys()
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

/// The gradients of a segment's heads, one behind the other.
struct Part<'a> {
    values: &'a [f32],
    segment: &'a Segment,
    heads: Heads,
}

impl Part<'_> {
    /// Of query `i`.
    fn query(&self, head: usize, i: usize) -> &[f32] {
        self.at(head, i)
    }

    /// Of key `j` (`half` 0) or of its value (`half` 1).
    fn key(&self, head: usize, half: usize, j: usize) -> &[f32] {
        self.at(head, self.segment.queries() + half * self.segment.keys() + j)
    }

    fn at(&self, head: usize, row: usize) -> &[f32] {
        &self.values[head * part_len(self.segment, self.heads.head_dim) + row * self.heads.head_dim..]
            [..self.heads.head_dim]
    }
}

/// Rows of dqkv of a segment. A key's gradient is the sum over the heads of its group, first of its own segment, then of each that it
/// precedes.
fn gather_heads(own: Part<'_>, followers: &[Part<'_>], out: &mut [f32]) {
    let Heads { heads, kv_heads, head_dim } = own.heads;
    let group = heads / kv_heads;
    for (row, out) in out.chunks_exact_mut(own.heads.qkv()).enumerate() {
        for (head, dq) in out[..heads * head_dim].chunks_exact_mut(head_dim).enumerate() {
            dq.copy_from_slice(own.query(head, row));
        }
        for (n, to) in out[heads * head_dim..].chunks_exact_mut(head_dim).enumerate() {
            let (half, kv_head) = (n / kv_heads, n % kv_heads);
            let group = kv_head * group..(kv_head + 1) * group;
            to.fill(0.0);
            let own = (&own, own.segment.prefix_len() + row);
            for (part, j) in std::iter::once(own).chain(followers.iter().map(|follower| (follower, row))) {
                for head in group.clone() {
                    for (to, &value) in to.iter_mut().zip(part.key(head, half, j)) {
                        *to += value;
                    }
                }
            }
        }
    }
}
