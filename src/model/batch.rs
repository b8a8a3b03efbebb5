//! What one forward works on: tokens of several sequences one behind the other, and where their keys live.

use super::block::Paging;
use super::config::Config;
use super::cos_sin::language_cos_sin;
use crate::ops::attention::{Bounds, PAGE_TOKENS, Packed};
use crate::ops::{Backend, Dtype, Host, Tensor};

/// Host description of a forward's input.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Batch {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// 3-D positions, `[T]`.
    pub positions: Vec<[u32; 3]>,
    /// Sequence `i` is tokens `bounds[i]..bounds[i + 1]`; ascending from 0 to T.
    pub bounds: Vec<usize>,
    /// For each sequence the earlier one, itself without a prefix, whose tokens come before its own; empty where none has. Packed keys
    /// only.
    pub prefixes: Vec<Option<usize>>,
    /// The vision tower's row of each token, or -1, `[T]`; empty where there are no images.
    pub image_index: Vec<i32>,
    /// Tokens whose final hidden rows are wanted; all where `None`.
    pub rows: Option<Vec<usize>>,
    /// Where keys live; in the batch itself where `None`.
    pub pages: Option<BatchPages>,
}

/// Pages of a batch's sequences.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct BatchPages {
    /// `page · PAGE_TOKENS + offset` of each token, `[T]`.
    pub slots: Vec<usize>,
    /// Each sequence's pages in order.
    pub page_tables: Vec<Vec<u32>>,
    /// Each sequence's tokens so far, this batch's included.
    pub lengths: Vec<usize>,
    /// Columns that the tables have on the backend, if no sequence needs more.
    pub width_min: usize,
}

/// A batch's arrays on the backend.
#[derive(Debug)]
pub struct BatchTensors {
    pub(super) ids: Tensor,
    pub(super) cos_sin: Tensor,
    bounds: Bounds,
    prefixes: Option<Tensor>,
    pub(super) image_index: Option<Tensor>,
    pub(super) rows: Option<Tensor>,
    pages: Option<PageTensors>,
}

/// [`BatchPages`] on the backend.
#[derive(Debug)]
struct PageTensors {
    slots: Tensor,
    page_tables: Tensor,
    lengths: Tensor,
}

impl Batch {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Adds sequences of one token, which nobody asks for, until there are `sequences`; each writes a slot of its own of the page
    /// `scratch`. To be given to batches of one token a sequence with pages.
    pub fn pad(&mut self, sequences: usize, scratch: u32) {
        let pages = self.pages.as_mut().expect("only paged batches are padded");
        for added in 0..sequences - self.ids.len() {
            assert!(added < PAGE_TOKENS, "a scratch page has {PAGE_TOKENS} slots");
            self.ids.push(0);
            self.positions.push([0; 3]);
            self.bounds.push(self.ids.len());
            pages.slots.push(scratch as usize * PAGE_TOKENS + added);
            pages.page_tables.push(vec![scratch]);
            pages.lengths.push(1);
        }
    }

    /// Copies the batch to the backend.
    pub fn upload(&self, config: &Config, backend: &dyn Backend) -> BatchTensors {
        let tokens = self.tokens();
        assert_eq!(self.positions.len(), tokens, "a position for each token");
        let cos_sin = language_cos_sin(config, &self.positions);
        let prefix = |prefix: &Option<usize>| prefix.map_or(-1, |prefix| prefix as i32);
        let optional = |values: Vec<i32>| (!values.is_empty()).then(|| backend.indices(&values));
        BatchTensors {
            ids: backend.indices(&indices(&self.ids)),
            cos_sin: backend.upload(Host::F32(&cos_sin), &[tokens, config.heads.head_dim], Dtype::F32),
            bounds: backend.attention_bounds(&indices(&self.bounds), config.heads),
            prefixes: optional(self.prefixes.iter().map(prefix).collect()),
            image_index: optional(self.image_index.clone()),
            rows: self.rows.as_deref().map(|rows| backend.indices(&indices(rows))),
            pages: self.pages.as_ref().map(|pages| PageTensors {
                slots: backend.indices(&indices(&pages.slots)),
                page_tables: backend
                    .indices(&pages.flat_page_tables())
                    .reshape(&[pages.page_tables.len(), pages.width()]),
                lengths: backend.indices(&indices(&pages.lengths)),
            }),
        }
    }

    /// Writes the batch over tensors of one of the same sizes, without prefixes, images and rows to choose. Both have one token a sequence,
    /// so their bounds are the same.
    pub fn overwrite(&self, tensors: &mut BatchTensors, config: &Config, backend: &dyn Backend) {
        let BatchTensors { ids, cos_sin, bounds: _, prefixes: None, image_index: None, rows: None, pages: Some(pages) } =
            tensors
        else {
            panic!("only plain paged batches are overwritten")
        };
        assert!(
            self.bounds.iter().copied().eq(0..=self.tokens()),
            "only batches of one token a sequence are overwritten"
        );
        let own = self.pages.as_ref().expect("a paged batch over a paged batch");
        backend.overwrite(ids, Host::I32(&indices(&self.ids)));
        backend.overwrite(cos_sin, Host::F32(&language_cos_sin(config, &self.positions)));
        backend.overwrite(&mut pages.slots, Host::I32(&indices(&own.slots)));
        backend.overwrite(&mut pages.page_tables, Host::I32(&own.flat_page_tables()));
        backend.overwrite(&mut pages.lengths, Host::I32(&indices(&own.lengths)));
    }
}

impl BatchTensors {
    /// Writes token ids that are on the backend over the first ones: the ids `rows[i]` of `sampled`, I32.
    pub fn overwrite_ids(&mut self, sampled: &Tensor, rows: &[usize], backend: &dyn Backend) {
        let mut at = 0;
        // Most follow each other, so there are few copies.
        for run in rows.chunk_by(|&row, &next| row + 1 == next) {
            backend.copy_indices(&mut self.ids, at, sampled, run[0]..run[0] + run.len());
            at += run.len();
        }
    }

    pub(super) fn segments(&self) -> Packed<'_> {
        Packed { bounds: &self.bounds, prefixes: self.prefixes.as_ref(), causal: true }
    }

    pub(super) fn paging(&self) -> Paging<'_> {
        let PageTensors { slots, page_tables, lengths } = self.pages.as_ref().expect("a batch with pages");
        Paging { slots, bounds: &self.bounds, page_tables, lengths }
    }
}

impl BatchPages {
    /// Columns of the tables on the backend.
    pub fn width(&self) -> usize {
        self.page_tables.iter().map(Vec::len).max().unwrap_or(0).max(self.width_min)
    }

    fn flat_page_tables(&self) -> Vec<i32> {
        let width = self.width();
        let mut flat = vec![0i32; self.page_tables.len() * width];
        for (row, page_table) in flat.chunks_mut(width.max(1)).zip(&self.page_tables) {
            for (to, &page) in row.iter_mut().zip(page_table) {
                *to = page as i32;
            }
        }
        flat
    }
}

fn indices<T: Copy + TryInto<i32>>(values: &[T]) -> Vec<i32> {
    values.iter().map(|&value| value.try_into().ok().expect("an index of fewer than 2³¹")).collect()
}
