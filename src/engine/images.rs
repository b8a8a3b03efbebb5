//! The vision tower's output for each image, by its content: computed once, shared by the sequences of a group, by requests that show
//! the same picture and, where the tower is frozen, by training.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tracing::debug_span;

use crate::model::Model;
use crate::model::parameters::Weights;
use crate::model::vision::ImageBatch;
use crate::ops::Tensor;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::PreparedImage;

/// Image tokens that are kept for pictures that nobody holds any more: they may come again.
pub const IDLE_TOKENS_MAX: usize = 1 << 14;

/// Encoded images by digest.
#[derive(Debug, Default)]
pub struct EncodedImages {
    encoded: BTreeMap<u128, Encoded>,
    /// Uses that there ever were.
    uses: u64,
    /// Images that were encoded, and that were found encoded.
    counts: [u64; 2],
}

#[derive(Debug)]
struct Encoded {
    /// The tower's output before the merger: `[image tokens, merge² · width]`, a row for the patches that merge into one token.
    unmerged_features: Arc<Tensor>,
    /// The image as it was last shown. Perhaps nobody holds it any more.
    image: Weak<PreparedImage>,
    used: u64,
}

impl EncodedImages {
    /// The tower's output before the merger, `[image tokens, merge² · width]`, of an image that was encoded since the last
    /// [`EncodedImages::clear`], and is in use or was among the last.
    pub fn unmerged_features(&self, image: &PreparedImage) -> Option<Arc<Tensor>> {
        self.encoded.get(&image.digest).map(|encoded| encoded.unmerged_features.clone())
    }

    /// How many images were encoded, and how many were found encoded when they were first shown to a step.
    pub fn counts(&self) -> [u64; 2] {
        self.counts
    }

    /// Encodes those of `images` that are new, all in one pass. Of those that nobody holds any more, the last used stay.
    pub fn encode(&mut self, model: &Model, weights: &Weights, images: &[Arc<PreparedImage>], scale: PixelScale) {
        self.uses += 1;
        let mut new: Vec<&Arc<PreparedImage>> = Vec::new();
        for image in images {
            if let Some(encoded) = self.encoded.get_mut(&image.digest) {
                let is_another = !std::ptr::eq(encoded.image.as_ptr(), Arc::as_ptr(image));
                self.counts[1] += u64::from(is_another);
                (encoded.used, encoded.image) = (self.uses, Arc::downgrade(image));
            } else if !new.iter().any(|other| other.digest == image.digest) {
                new.push(image);
            }
        }
        if new.is_empty() {
            return;
        }
        self.counts[0] += new.len() as u64;
        let _span = debug_span!("encode images", images = new.len()).entered();
        self.forget_idle();
        let batch = new.iter().map(|image| (image.patches.as_slice(), image.grid)).collect();
        let (unmerged_features, _) = model.tower_forward(weights, &ImageBatch { images: batch, scale }, false);
        let mut first = 0;
        for image in new {
            let rows = image.grid.tokens(model.config.merge()) as i32;
            let index: Vec<i32> = (first..first + rows).collect();
            first += rows;
            let own = Arc::new(model.backend.gather_rows(&unmerged_features, &model.backend.indices(&index)));
            let encoded = Encoded { unmerged_features: own, image: Arc::downgrade(image), used: self.uses };
            self.encoded.insert(image.digest, encoded);
        }
    }

    /// Of the images that nobody holds, forgets those that were not used for longest, until few tokens are left.
    fn forget_idle(&mut self) {
        let idle = self.encoded.iter().filter(|(_, encoded)| encoded.image.strong_count() == 0);
        let mut idle: Vec<(u64, u128, usize)> =
            idle.map(|(digest, encoded)| (encoded.used, *digest, encoded.unmerged_features.rows())).collect();
        idle.sort_unstable();
        let mut tokens: usize = idle.iter().map(|(.., tokens)| tokens).sum();
        for (_, digest, own) in idle {
            if tokens <= IDLE_TOKENS_MAX {
                break;
            }
            self.encoded.remove(&digest);
            tokens -= own;
        }
    }

    /// Forgets all: the weights have changed, or nobody will ask any more.
    pub fn clear(&mut self) {
        self.encoded.clear();
    }
}
