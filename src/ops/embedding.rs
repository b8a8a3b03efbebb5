//! Token embedding with image rows spliced in.

use super::Tensor;

/// Table lookup; a token that is an image's placeholder takes the vision tower's row instead.
pub trait Embedding {
    /// `x[t] = images[image_index[t]]` where `image_index[t] >= 0`, else `table[ids[t]]`.
    ///
    /// table Bf16 `[V, D]`; ids I32 `[T]`; images: rows Activation `[R, D]` and index I32 `[T]`. Returns Activation `[T, D]`.
    fn embedding_forward(&self, table: &Tensor, ids: &Tensor, images: Option<ImageRows<'_>>) -> Tensor;
    /// `dtable[ids[t]] += dy[t]` for text, `dimages[image_index[t]] += dy[t]` for images, each row summed in ascending `t`.
    ///
    /// Either gradient may be absent (frozen, or no images). dtable F32 `[V, D]`, dimages Activation `[R, D]`.
    fn embedding_backward(
        &self,
        dy: &Tensor,
        ids: &Tensor,
        image_index: Option<&Tensor>,
        dtable: Option<&mut Tensor>,
        dimages: Option<&mut Tensor>,
    );
}

/// Image rows to splice in.
#[derive(Clone, Copy, Debug)]
pub struct ImageRows<'a> {
    /// Activation `[R, D]`: the vision tower's output.
    pub rows: &'a Tensor,
    /// I32 `[T]`: the row of each token, or -1.
    pub index: &'a Tensor,
}
