//! Table lookup and its scatter, in order of tokens.

use super::rows::add_to;
use super::{Cpu, bf16s, floats, floats_mut, for_row_blocks, values};
use crate::ops::embedding::{Embedding, ImageRows};
use crate::ops::{Dtype, Tensor};

impl Embedding for Cpu {
    fn embedding_forward(&self, table: &Tensor, ids: &Tensor, images: Option<ImageRows<'_>>) -> Tensor {
        let (vocab, dim) = (table.rows(), table.cols());
        let (table, ids) = (bf16s(table), values::<i32>(ids));
        if let Some(images) = &images {
            assert_eq!(images.index.len(), ids.len(), "embedding: image index for {} tokens", ids.len());
            assert_eq!(images.rows.cols(), dim, "embedding: image rows {:?}, width {dim}", images.rows.shape());
        }
        let images = images.map(|images| (floats(images.rows), values::<i32>(images.index)));
        let mut x = self.empty(&[ids.len(), dim], Dtype::Activation);
        for_row_blocks(floats_mut(&mut x), dim, dim, |first, x| {
            for (t, x) in x.chunks_exact_mut(dim).enumerate() {
                let t = first + t;
                match images {
                    Some((rows, index)) if index[t] >= 0 => {
                        x.copy_from_slice(&rows[index[t] as usize * dim..][..dim]);
                    }
                    _ => {
                        assert!((ids[t] as usize) < vocab, "embedding: id {} of {vocab}", ids[t]);
                        for (x, w) in x.iter_mut().zip(&table[ids[t] as usize * dim..][..dim]) {
                            *x = w.to_f32();
                        }
                    }
                }
            }
        });
        x
    }

    fn embedding_backward(
        &self,
        dy: &Tensor,
        ids: &Tensor,
        image_index: Option<&Tensor>,
        dtable: Option<&mut Tensor>,
        dimages: Option<&mut Tensor>,
    ) {
        let dim = dy.cols();
        let ids = values::<i32>(ids);
        assert_eq!(ids.len(), dy.rows(), "embedding_backward: {} ids for dy {:?}", ids.len(), dy.shape());
        let image_index = image_index.map(values::<i32>);
        let mut dtable = dtable.map(floats_mut);
        let mut dimages = dimages.map(floats_mut);
        for (t, dy) in floats(dy).chunks_exact(dim).enumerate() {
            let (to, row) = match image_index {
                Some(index) if index[t] >= 0 => (&mut dimages, index[t]),
                _ => (&mut dtable, ids[t]),
            };
            if let Some(to) = to {
                add_to(self.simd, &mut to[row as usize * dim..][..dim], dy);
            }
        }
    }
}
