//! Keys and values in pages: written by rope, copied, read by attention.

use thyme_engine::ops::attention::{Heads, Keys, PAGE_TOKENS, Packed};
use thyme_engine::ops::rope::PageWrite;
use thyme_engine::ops::{Backend, Tensor};

use super::rope::cos_sin;
use super::{Input, Random, all_backends, bits, takes};

const HEADS: [Heads; 5] = [
    Heads { heads: 2, kv_heads: 2, head_dim: 16 },
    Heads { heads: 6, kv_heads: 2, head_dim: 80 },
    Heads { heads: 4, kv_heads: 2, head_dim: 8 },
    Heads { heads: 3, kv_heads: 3, head_dim: 6 },
    Heads { heads: 7, kv_heads: 1, head_dim: 20 },
];

/// Sequences of these lengths, their tokens one after the other in a call's rows, their pages in random order.
struct Layout {
    lengths: Vec<usize>,
    /// `[sequences, pages_max]`; past a sequence's end what must not be read.
    page_tables: Vec<i32>,
    pages: usize,
}

impl Layout {
    fn new(lengths: &[usize], random: &mut Random) -> Layout {
        let counts: Vec<usize> = lengths.iter().map(|length| length.div_ceil(PAGE_TOKENS)).collect();
        let (pages, pages_max) = (counts.iter().sum(), counts.iter().copied().max().unwrap_or(0));
        let mut order = random.permutation(pages).into_iter();
        let entry = |(count, i)| if i < count { order.next().map_or(-1, |page| page as i32) } else { i32::MAX };
        let places = counts.into_iter().flat_map(|count| (0..pages_max).map(move |i| (count, i)));
        Layout { lengths: lengths.to_vec(), page_tables: places.map(entry).collect(), pages }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn pages_max(&self) -> usize {
        self.page_tables.len() / self.lengths.len()
    }

    fn slots(&self) -> Vec<i32> {
        let slot = |(sequence, j): (usize, usize)| {
            self.page_tables[sequence * self.pages_max() + j / PAGE_TOKENS] * PAGE_TOKENS as i32
                + (j % PAGE_TOKENS) as i32
        };
        let tokens = self.lengths.iter().enumerate().flat_map(|(i, length)| (0..*length).map(move |j| (i, j)));
        tokens.map(slot).collect()
    }
}

/// Cumulative sums from 0.
fn bounds(lengths: &[usize]) -> Vec<i32> {
    let mut bounds = vec![0];
    bounds.extend(lengths.iter().scan(0, |end, length| {
        *end += *length as i32;
        Some(*end)
    }));
    bounds
}

/// The rotated rows of all sequences, and the pages with their keys and values.
fn written(backend: &dyn Backend, heads: Heads, layout: &Layout, spare: usize) -> (Tensor, Tensor) {
    let mut pages = backend.attention_pages(layout.pages + spare, heads);
    let mut qkv = Input::activation(&mut Random::new(13), &[layout.tokens(), heads.qkv()]).upload(backend);
    let slots = backend.indices(&layout.slots());
    let write = PageWrite { pages: &mut pages, slots: &slots };
    backend.rope_forward(&mut qkv, heads, &cos_sin(backend, layout.tokens(), heads.head_dim), Some(write));
    (qkv, pages)
}

/// Output and log-sum-exp bits of the last `fresh[i]` tokens of each sequence, read from pages.
fn paged(
    backend: &dyn Backend,
    heads: Heads,
    layout: &Layout,
    qkv: &Tensor,
    pages: &Tensor,
    page_tables: &[i32],
    fresh: &[usize],
) -> (Vec<u32>, Vec<u32>) {
    let rows = backend.indices(&last_rows(layout, fresh));
    let lengths: Vec<i32> = layout.lengths.iter().map(|length| *length as i32).collect();
    let page_tables = backend.indices(page_tables).reshape(&[layout.lengths.len(), layout.pages_max()]);
    let (bounds, lengths) = (backend.attention_bounds(&bounds(fresh), heads), backend.indices(&lengths));
    let keys = Keys::Paged { pages, bounds: &bounds, page_tables: &page_tables, lengths: &lengths };
    let (o, lse) = backend.attention_forward(&backend.gather_rows(qkv, &rows), heads, keys);
    (bits(backend, &o), bits(backend, &lse))
}

fn last_rows(layout: &Layout, fresh: &[usize]) -> Vec<i32> {
    let ends = bounds(&layout.lengths);
    ends[1..].iter().zip(fresh).flat_map(|(end, fresh)| end - *fresh as i32..*end).collect()
}

/// The same from the rows themselves.
fn packed(backend: &dyn Backend, heads: Heads, layout: &Layout, qkv: &Tensor, fresh: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let bounds = backend.attention_bounds(&bounds(&layout.lengths), heads);
    let (o, lse) =
        backend.attention_forward(qkv, heads, Keys::Packed(Packed { bounds: &bounds, prefixes: None, causal: true }));
    let rows = last_rows(layout, fresh);
    let pick = |tensor: &Tensor| {
        let (all, width) = (bits(backend, tensor), tensor.cols());
        rows.iter().flat_map(|row| &all[*row as usize * width..][..width]).copied().collect()
    };
    (pick(&o), pick(&lse))
}

#[test]
fn paged_attention_has_the_bits_of_packed_attention() {
    for backend in all_backends() {
        for heads in HEADS.into_iter().filter(|heads| takes(&*backend, *heads)) {
            let layout = Layout::new(&[1, 37, 16, 50, 17], &mut Random::new(14));
            let (qkv, pages) = written(&*backend, heads, &layout, 0);
            for fresh in [[1, 1, 1, 1, 1], [1, 37, 16, 50, 17], [0, 5, 16, 33, 1]] {
                let found = paged(&*backend, heads, &layout, &qkv, &pages, &layout.page_tables, &fresh);
                let expected = packed(&*backend, heads, &layout, &qkv, &fresh);
                assert_eq!(found, expected, "{} {heads:?}, the last {fresh:?}", backend.name());
            }
        }
    }
}

#[test]
fn paged_attention_over_long_sequences_has_the_bits_of_packed_attention() {
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 16 };
    for backend in all_backends() {
        let layout = Layout::new(&[1100, 40], &mut Random::new(15));
        let (qkv, pages) = written(&*backend, heads, &layout, 0);
        for fresh in [[1, 1], [100, 40]] {
            let found = paged(&*backend, heads, &layout, &qkv, &pages, &layout.page_tables, &fresh);
            assert_eq!(found, packed(&*backend, heads, &layout, &qkv, &fresh), "{}, last {fresh:?}", backend.name());
        }
    }
}

/// Chunks of prompts and decoded tokens of one call, over splits that are full, begun, and not reached at all.
#[test]
fn a_mixed_step_has_the_bits_of_packed_attention() {
    let heads = Heads { heads: 6, kv_heads: 2, head_dim: 16 };
    for backend in all_backends() {
        let layout = Layout::new(&[1100, 40, 512, 513, 1], &mut Random::new(17));
        let (qkv, pages) = written(&*backend, heads, &layout, 0);
        for fresh in [[1, 40, 1, 1, 1], [3, 17, 16, 1, 0], [20, 0, 1, 0, 1], [0, 0, 0, 3, 0]] {
            let found = paged(&*backend, heads, &layout, &qkv, &pages, &layout.page_tables, &fresh);
            assert_eq!(found, packed(&*backend, heads, &layout, &qkv, &fresh), "{}, last {fresh:?}", backend.name());
        }
    }
}

#[test]
fn a_copied_page_reads_as_its_original() {
    for backend in all_backends() {
        for heads in HEADS.into_iter().filter(|heads| takes(&*backend, *heads)) {
            let layout = Layout::new(&[37], &mut Random::new(16));
            let (qkv, mut pages) = written(&*backend, heads, &layout, 2);
            let (spare, other) = (layout.pages as u32, layout.pages as u32 + 1);
            backend.copy_pages(&mut pages, &[(layout.page_tables[1] as u32, spare), (spare, other)]);
            for copy in [spare, other] {
                let mut page_tables = layout.page_tables.clone();
                page_tables[1] = copy as i32;
                let found = paged(&*backend, heads, &layout, &qkv, &pages, &page_tables, &[2]);
                assert_eq!(found, packed(&*backend, heads, &layout, &qkv, &[2]), "{} {heads:?}", backend.name());
            }
        }
    }
}
