//! What the images of a batch give the language model, and the gradients of it.

use crate::ops::Tensor;

/// A row for each image token, in the order of the batch's images.
#[derive(Debug)]
pub struct ImageFeatures {
    /// They stand in place of the image tokens' embeddings: Activation `[R, dim]`.
    pub rows: Tensor,
    /// Added to the image tokens' rows of the residual stream behind the first decoder layers, one tensor for each layer from the first on
    /// (DeepStack, Meng et al. 2024): Activation `[R, dim]` each.
    pub deep: Vec<Tensor>,
}
