//! What one forward works on: tokens of several sequences one behind the other, and where their keys live.

use super::block::Paging;
use super::config::Config;
use super::rotation::language_rotation;
use crate::ops::attention::Packed;
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
    pub tables: Vec<Vec<u32>>,
    /// Each sequence's tokens so far, this batch's included.
    pub lengths: Vec<usize>,
}

/// A batch's arrays on the backend.
#[derive(Debug)]
pub(super) struct BatchTensors {
    pub ids: Tensor,
    pub rotation: Tensor,
    pub bounds: Tensor,
    pub prefixes: Option<Tensor>,
    pub image_index: Option<Tensor>,
    pub rows: Option<Tensor>,
    pub paging: Option<Paging>,
}

impl Batch {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn upload(&self, config: &Config, backend: &dyn Backend) -> BatchTensors {
        let tokens = self.tokens();
        assert_eq!(self.positions.len(), tokens, "a position for each token");
        let indices = |values: &[usize]| {
            let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
            backend.indices(&values)
        };
        let ids: Vec<i32> = self.ids.iter().map(|&id| id as i32).collect();
        let rotation = language_rotation(config, &self.positions);
        BatchTensors {
            ids: backend.indices(&ids),
            rotation: backend.upload(Host::F32(&rotation), &[tokens, config.heads.head_dim], Dtype::F32),
            bounds: indices(&self.bounds),
            prefixes: (!self.prefixes.is_empty()).then(|| {
                let prefixes: Vec<i32> = self.prefixes.iter().map(|p| p.map_or(-1, |p| p as i32)).collect();
                backend.indices(&prefixes)
            }),
            image_index: (!self.image_index.is_empty()).then(|| backend.indices(&self.image_index)),
            rows: self.rows.as_deref().map(indices),
            paging: self.pages.as_ref().map(|pages| Paging {
                slots: indices(&pages.slots),
                bounds: indices(&self.bounds),
                tables: pages.upload_tables(backend),
                lengths: indices(&pages.lengths),
            }),
        }
    }
}

impl BatchTensors {
    pub fn segments(&self) -> Packed<'_> {
        Packed { bounds: &self.bounds, prefixes: self.prefixes.as_ref(), causal: true }
    }
}

impl BatchPages {
    fn upload_tables(&self, backend: &dyn Backend) -> Tensor {
        let width = self.tables.iter().map(Vec::len).max().unwrap_or(0);
        let mut flat = vec![0i32; self.tables.len() * width];
        for (row, table) in flat.chunks_mut(width.max(1)).zip(&self.tables) {
            for (to, &page) in row.iter_mut().zip(table) {
                *to = page as i32;
            }
        }
        backend.upload(Host::I32(&flat), &[self.tables.len(), width], Dtype::I32)
    }
}
