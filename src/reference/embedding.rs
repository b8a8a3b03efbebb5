//! Token embedding with image rows: see [`crate::ops::embedding`].

use super::buffers::{f64s, f64s_mut, floats, i32s};
use super::linear::add_scaled;
use super::{Reference, expect_shape};
use crate::ops::embedding::{Embedding, ImageRows};
use crate::ops::{Dtype, Tensor};

impl Embedding for Reference {
    fn embedding_forward(&self, table: &Tensor, ids: &Tensor, images: Option<ImageRows<'_>>) -> Tensor {
        let dim = table.cols();
        let mut x = Vec::with_capacity(ids.len() * dim);
        for (t, id) in i32s(ids).iter().enumerate() {
            let row = match images.map(|images| (images.rows, i32s(images.index)[t])) {
                Some((rows, index)) if index >= 0 => &f64s(rows)[index as usize * dim..],
                _ => &f64s(table)[*id as usize * dim..],
            };
            x.extend_from_slice(&row[..dim]);
        }
        floats(x, &[ids.len(), dim], Dtype::Activation)
    }

    fn embedding_backward(
        &self,
        dy: &Tensor,
        ids: &Tensor,
        image_index: Option<&Tensor>,
        mut dtable: Option<&mut Tensor>,
        mut dimages: Option<&mut Tensor>,
    ) {
        let dim = dy.cols();
        expect_shape("embedding_backward dy", dy, &[ids.len(), dim]);
        for (t, dy) in f64s(dy).chunks_exact(dim).enumerate() {
            let image = image_index.map_or(-1, |index| i32s(index)[t]);
            let (gradient, row) =
                if image >= 0 { (dimages.as_deref_mut(), image) } else { (dtable.as_deref_mut(), i32s(ids)[t]) };
            if let Some(gradient) = gradient {
                add_scaled(&mut f64s_mut(gradient)[row as usize * dim..][..dim], 1.0, dy);
            }
        }
    }
}
