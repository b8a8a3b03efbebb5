//! The vision tower's output for each image in use: computed once, shared by the sequences of a group and, where the tower is
//! frozen, by training.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::Model;
use crate::model::parameters::Weights;
use crate::model::vision::ImageBatch;
use crate::ops::Tensor;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::PreparedImage;

/// Encoded images by identity.
#[derive(Debug, Default)]
pub struct EncodedImages {
    /// Address of the image -> the image (so that the address stays its own) and the tower's units.
    encoded: BTreeMap<usize, (Arc<PreparedImage>, Arc<Tensor>)>,
}

impl EncodedImages {
    /// The units of an image that was encoded, and held by somebody, since the last [`EncodedImages::clear`].
    pub fn units(&self, image: &Arc<PreparedImage>) -> Option<Arc<Tensor>> {
        self.encoded.get(&address(image)).map(|(_, units)| units.clone())
    }

    /// Encodes those of `images` that are new, all in one pass. Room is made for them: what nobody else holds any more is forgotten.
    pub fn encode(&mut self, model: &Model, weights: &Weights, images: &[Arc<PreparedImage>], scale: PixelScale) {
        let mut new: Vec<&Arc<PreparedImage>> = Vec::new();
        for image in images {
            let is_known = self.encoded.contains_key(&address(image));
            if !is_known && !new.iter().any(|other| Arc::ptr_eq(other, image)) {
                new.push(image);
            }
        }
        if new.is_empty() {
            return;
        }
        self.encoded.retain(|_, (image, _)| Arc::strong_count(image) > 1);
        let batch = new.iter().map(|image| (image.patches.as_slice(), image.grid)).collect();
        let (units, _) = model.tower_forward(weights, &ImageBatch { images: batch, scale }, false);
        let mut first = 0;
        for image in new {
            let rows = image.grid.tokens(model.config.vision.merge) as i32;
            let index: Vec<i32> = (first..first + rows).collect();
            first += rows;
            let own = model.backend.gather_rows(&units, &model.backend.indices(&index));
            self.encoded.insert(address(image), (image.clone(), Arc::new(own)));
        }
    }

    /// Forgets all: the weights have changed, or nobody will ask any more.
    pub fn clear(&mut self) {
        self.encoded.clear();
    }
}

fn address(image: &Arc<PreparedImage>) -> usize {
    Arc::as_ptr(image) as usize
}
