//! Attention over packed keys, and over pages that rope wrote and `copy_pages` copied.

use super::calls::{Against, Calls, Within, real, small, values};
use super::check::{Check, Sizes};
use super::norms::of_heads;
use super::values::{Values, cos_sin};
use crate::ops::attention::{Bounds, Heads, Keys, PAGE_TOKENS, Packed};
use crate::ops::rope::PageWrite;
use crate::ops::{Backend, Dtype, Host, Tensor};

/// The widths that the kernels take.
const HEAD_DIMS: [usize; 8] = [16, 32, 48, 64, 80, 96, 112, 128];

/// Rows in segments.
#[derive(Clone, Debug)]
struct Segments {
    bounds: Vec<i32>,
    prefixes: Vec<i32>,
    causal: bool,
}

/// Sequences in pages: how long each is, and how many of its tokens are queries.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Tokens of each.
    pub lengths: Vec<usize>,
    /// Of these the last ones that are asked for.
    pub fresh: Vec<usize>,
}

/// The checks of these ops.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let mut checks = Vec::new();
    // Several tiles of rows and of keys; prefixes of more than a tile, of none, and an empty segment.
    let plain: Vec<i32> = vec![0, 5, 75, 131];
    let (shared, prefixes) = (vec![0, 66, 70, 75, 75, 80], vec![-1, 0, 0, -1, 0]);
    for (number, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        let heads = Heads { heads: 3, kv_heads: 1, head_dim };
        let causal = number % 2 == 0;
        let segments = Segments { bounds: plain.clone(), prefixes: Vec::new(), causal };
        checks.push(of_packed(small, heads, segments));
        let segments = Segments { bounds: shared.clone(), prefixes: prefixes.clone(), causal: !causal };
        checks.push(of_packed(small, heads, segments));
        let sequences = Sequences { lengths: vec![1, 37, 16, 50], fresh: vec![1, 5, 16, 1] };
        checks.push(of_paged(small, heads, sequences));
    }
    // Keys in several splits, of one token and of many.
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 16 };
    for fresh in [vec![1, 1], vec![100, 40]] {
        checks.push(of_paged(small, heads, Sequences { lengths: vec![1100, 40], fresh }));
    }
    let segments = Segments { bounds: vec![0, 1100], prefixes: Vec::new(), causal: true };
    checks.push(of_packed(small, Heads { heads: 1, kv_heads: 1, head_dim: 32 }, segments));
    if sizes == Sizes::Real {
        let language = Heads { heads: 28, kv_heads: 4, head_dim: 128 };
        let vision = Heads { heads: 16, kv_heads: 16, head_dim: 80 };
        let packed = |bounds: &[i32], causal| Segments { bounds: bounds.to_vec(), prefixes: Vec::new(), causal };
        checks.push(of_packed(real, language, packed(&[0, 700, 1000], true)));
        checks.push(of_packed(real, vision, packed(&[0, 64, 128, 192, 704, 1024], false)));
        let lengths = vec![2048, 1500, 1025, 1024, 1023, 300, 17, 1];
        checks.push(of_paged(real, language, Sequences { fresh: vec![1; lengths.len()], lengths }));
        checks.push(of_paged(real, language, Sequences { lengths: vec![700, 300], fresh: vec![256, 300] }));
    }
    checks
}

fn of_packed(against: Against, heads: Heads, segments: Segments) -> Check {
    let Segments { bounds, prefixes, causal } = &segments;
    let shared = if prefixes.is_empty() { String::new() } else { format!(", prefixes {prefixes:?}") };
    let kind = if *causal { "causal" } else { "full" };
    let tokens = bounds.last().map_or(0, |tokens| *tokens as usize);
    let shape = format!("{}, {kind}, bounds {bounds:?}{shared}", of_heads(tokens, heads));
    against("attention", shape, Box::new(move |calls| packed(calls, heads, &segments)))
}

fn of_paged(against: Against, heads: Heads, sequences: Sequences) -> Check {
    let Sequences { lengths, fresh } = &sequences;
    let tokens = fresh.iter().sum();
    let shape = format!("{}, the last {fresh:?} of {lengths:?} in pages", of_heads(tokens, heads));
    against("attention", shape, Box::new(move |calls| paged(calls, heads, &sequences)))
}

fn packed(calls: &mut Calls<'_>, heads: Heads, segments: &Segments) {
    let (backend, mut random) = (calls.backend, Values::new(12));
    let tokens = segments.bounds[segments.bounds.len() - 1] as usize;
    let qkv = random.activation(backend, &[tokens, heads.qkv()]);
    let d_o = random.activation(backend, &[tokens, heads.heads * heads.head_dim]);
    let bounds = backend.attention_bounds(&segments.bounds, heads);
    let prefixes = (!segments.prefixes.is_empty()).then(|| backend.indices(&segments.prefixes));
    let packed = Packed { bounds: &bounds, prefixes: prefixes.as_ref(), causal: segments.causal };
    // A score's rounding enters its probability as a factor, like one more term of the chain.
    let longest = segments.bounds.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(1);
    let chain = heads.head_dim + if prefixes.is_some() { tokens } else { longest };
    let (o, lse) =
        calls.call("attention_forward", |backend| backend.attention_forward(&qkv, heads, Keys::Packed(packed)));
    calls.out("o", &o, chain);
    calls.out("lse", &lse, chain);
    let dqkv =
        calls.call("attention_backward", |backend| backend.attention_backward(&d_o, &qkv, &o, &lse, heads, packed));
    calls.out("dqkv", &dqkv, chain);
}

/// Where sequences lie in pages that are in random order.
pub struct Layout {
    /// `[sequences, columns]`; past a sequence's end what must not be read.
    pub page_tables: Vec<i32>,
    /// Columns of the page tables.
    pub columns: usize,
    /// Pages of all sequences.
    pub pages: usize,
    /// The slot of each token.
    pub slots: Vec<i32>,
    /// The rows of the tokens that are asked for.
    pub rows: Vec<i32>,
}

impl Layout {
    /// The pages of some sequences.
    pub fn new(sequences: &Sequences, random: &mut Values) -> Layout {
        let counts: Vec<usize> = sequences.lengths.iter().map(|length| length.div_ceil(PAGE_TOKENS)).collect();
        let (pages, columns) = (counts.iter().sum(), counts.iter().copied().max().unwrap_or(0));
        let mut order = random.permutation(pages).into_iter();
        let mut entry = |count, i| if i < count { order.next().map_or(-1, |page| page as i32) } else { i32::MAX };
        let page_tables: Vec<i32> =
            counts.iter().flat_map(|count| Vec::from_iter((0..columns).map(|i| entry(*count, i)))).collect();
        let (mut slots, mut rows) = (Vec::new(), Vec::new());
        for (number, (length, fresh)) in sequences.lengths.iter().zip(&sequences.fresh).enumerate() {
            rows.extend((slots.len() + length - fresh..slots.len() + length).map(|row| row as i32));
            let page = |token: usize| page_tables[number * columns + token / PAGE_TOKENS] * PAGE_TOKENS as i32;
            slots.extend((0..*length).map(|token| page(token) + (token % PAGE_TOKENS) as i32));
        }
        Layout { page_tables, columns, pages, slots, rows }
    }
}

/// Numbers from 0 to the sum of `counts`: where each begins and the last one ends.
pub fn bounds(counts: &[usize]) -> Vec<i32> {
    let ends = counts.iter().scan(0, |end, count| {
        *end += *count as i32;
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}

/// Keys of sequences in pages.
pub struct PagedKeys {
    /// One layer's pages.
    pub pages: Tensor,
    bounds: Bounds,
    page_tables: Tensor,
    lengths: Tensor,
}

impl PagedKeys {
    /// Pages with nothing in them, and as many to spare as `spare`.
    pub fn new(backend: &dyn Backend, heads: Heads, sequences: &Sequences, layout: &Layout, spare: usize) -> PagedKeys {
        let lengths: Vec<i32> = sequences.lengths.iter().map(|length| *length as i32).collect();
        let shape = [lengths.len(), layout.columns];
        PagedKeys {
            pages: backend.attention_pages(layout.pages + spare, heads),
            bounds: backend.attention_bounds(&bounds(&sequences.fresh), heads),
            page_tables: backend.upload(Host::I32(&layout.page_tables), &shape, Dtype::I32),
            lengths: backend.indices(&lengths),
        }
    }

    /// As an argument of attention.
    pub fn keys(&self) -> Keys<'_> {
        let PagedKeys { pages, bounds, page_tables, lengths } = self;
        Keys::Paged { pages, bounds, page_tables, lengths }
    }
}

fn paged(calls: &mut Calls<'_>, heads: Heads, sequences: &Sequences) {
    let (backend, mut random) = (calls.backend, Values::new(13));
    let layout = Layout::new(sequences, &mut random);
    let tokens = layout.slots.len();
    let mut keys = PagedKeys::new(backend, heads, sequences, &layout, 1);
    let mut qkv = random.activation(backend, &[tokens, heads.qkv()]);
    let (slots, cos_sin) = (backend.indices(&layout.slots), cos_sin(backend, tokens, heads.head_dim));
    calls.call("rope_forward", |backend| {
        let write = PageWrite { pages: &mut keys.pages, slots: &slots };
        backend.rope_forward(&mut qkv, heads, &cos_sin, Some(write));
    });
    calls.out("qkv", &qkv, 2);
    let queries = backend.gather_rows(&qkv, &backend.indices(&layout.rows));
    let chain = layout.columns * PAGE_TOKENS + heads.head_dim;
    let (o, lse) = calls.call("attention_forward", |backend| backend.attention_forward(&queries, heads, keys.keys()));
    calls.out("o", &o, chain);
    calls.out("lse", &lse, chain);

    // The order inside a page is the backend's own: a copy is compared with its original.
    let original = layout.page_tables[0];
    calls.call("copy_pages", |backend| {
        backend.copy_pages(&mut keys.pages, &[(original as u32, layout.pages as u32)]);
    });
    let (all, page) = (values(backend, &keys.pages), keys.pages.cols());
    let pair = [original as usize, layout.pages].map(|page_number| &all[page_number * page..][..page]);
    let differences = pair[1].iter().zip(pair[0]).map(|(copy, original)| copy - original).collect();
    calls.push("copy less original", &keys.pages, differences, Within::Exact);
}
