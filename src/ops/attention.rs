//! Softmax attention over packed or paged keys: one op, one arithmetic.

use std::any::Any;
use std::fmt;

use super::{Storage, Tensor};

/// Tokens in a page of keys and values.
pub const PAGE_TOKENS: usize = 16;

/// Grouped-query attention: query head `h` reads key/value head `h / (heads / kv_heads)`.
///
/// `s[i, j] = scale · q[i]·k[j]` over the keys that query `i` may see, `p = softmax(s)`, `o[i] = Σ_j p[i, j] v[j]`. Every sum runs in an
/// order fixed by absolute key positions in the sequence.
pub trait Attention {
    /// A layer's pages for `pages` pages: Activation `[pages, 2 · kv_heads · PAGE_TOKENS · head_dim]`, keys then values; the order
    /// inside a page is the backend's own.
    fn attention_pages(&self, pages: usize, heads: Heads) -> Tensor;
    /// Segments of rows between `bounds`, ascending from 0, for all layers with these `heads` that work on them.
    fn attention_bounds(&self, bounds: &[i32], heads: Heads) -> Bounds;
    /// qkv Activation `[T, (heads + 2 kv_heads) · head_dim]`, rotated. Returns `o` Activation `[T, heads · head_dim]` and, saved,
    /// `lse` F32 `[T, heads]`: the natural log of `Σ_j exp(s[i, j])`.
    fn attention_forward(&self, qkv: &Tensor, heads: Heads, keys: Keys<'_>) -> (Tensor, Tensor);
    /// Gradient of qkv for packed keys: with `delta = do·o`, `ds = p · (do·v − delta)`, `dq = scale · ds k`, `dk = scale · dsᵀ q`,
    /// `dv = pᵀ do`.
    fn attention_backward(
        &self,
        d_o: &Tensor,
        qkv: &Tensor,
        o: &Tensor,
        lse: &Tensor,
        heads: Heads,
        segments: Packed<'_>,
    ) -> Tensor;
}

/// The head layout of a qkv row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Heads {
    /// Width of a qkv row.
    pub fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Where segments of rows end, and what a backend works out of it once for all layers.
pub struct Bounds {
    /// I32 `[segments + 1]`, ascending from 0 to `T`: segment `i` is rows `rows[i]..rows[i + 1]`.
    pub rows: Tensor,
    /// The backend's own, if it has any.
    pub plan: Option<Box<dyn Storage>>,
}

impl Bounds {
    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.rows.len() - 1
    }

    /// The plan as the backend's own type. Panics if it is another backend's.
    pub fn plan<S: Storage>(&self) -> &S {
        let plan = self.plan.as_deref().and_then(|plan| (plan as &dyn Any).downcast_ref());
        plan.expect("bounds of another backend")
    }
}

impl fmt::Debug for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bounds({:?})", self.rows)
    }
}

/// Rows that are cut into segments; a segment sees itself, and the prefix that it shares with others.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// The segments.
    pub bounds: &'a Bounds,
    /// I32 `[segments]`: the earlier segment, itself without a prefix, whose rows come before a segment's own, or -1. No prefixes where
    /// `None`.
    pub prefixes: Option<&'a Tensor>,
    /// A row sees keys only up to itself.
    pub causal: bool,
}

/// Where keys and values live.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// In the qkv rows themselves.
    Packed(Packed<'a>),
    /// In pages, this call's own tokens included; always causal. Queries of sequence `i` are segment `i` of `bounds`, the last of its
    /// `lengths[i]` tokens so far.
    Paged {
        /// One layer's pages.
        pages: &'a Tensor,
        /// A segment for each sequence.
        bounds: &'a Bounds,
        /// I32 `[sequences, pages_max]`: page numbers in order; entries past a sequence's length are not read.
        page_tables: &'a Tensor,
        /// I32 `[sequences]`: tokens of each so far, those of this call included.
        lengths: &'a Tensor,
    },
}
