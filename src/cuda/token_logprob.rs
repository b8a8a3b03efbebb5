//! Head and softmax fused: `kernels/token_logprob.cu`, and linear's products for the gradients. Logits exist for one chunk of rows at a
//! time, forward and again backward.

use super::device::Argument;
use super::kernels::common::log_sum_exp as kernel;
use super::linear::{backward_tile, forward_tile};
use super::{Cuda, expect_shape, rows_of, size, tensor};
use crate::ops::sample::EXCLUDED_MAX;
use crate::ops::token_logprob::{TokenLogprob, TokenLogprobs};
use crate::ops::{Dtype, Tensor};

/// Logits held at a time.
const LOGITS_MAX: usize = 1 << 24;
/// Rows of a chunk, at most: more would not keep a GPU busier.
const CHUNK_ROWS_MAX: usize = 512;

impl TokenLogprob for Cuda {
    fn token_logprob_forward(
        &self,
        h: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        temperatures: &Tensor,
        excluded: &[u32],
    ) -> TokenLogprobs {
        let (rows, vocab) = (h.rows(), w.rows());
        expect_shape("token_logprob_forward targets", targets, &[rows]);
        expect_shape("token_logprob_forward temperatures", temperatures, &[rows]);
        let excluded = excluded_ids(excluded, vocab);
        let [logprob, logprob_at_temperature, lse_raw, lse_at_temperature, entropy] =
            [(); 5].map(|()| self.empty(&[rows], Dtype::F32));
        self.for_logits(h, w, |first, count, z| {
            let of = |role, tensor| rows_of(role, tensor, first, count);
            self.launch(
                "token_logprob_forward",
                [count, 1, 1],
                &[
                    tensor("z", z),
                    of("targets", targets),
                    of("temperatures", temperatures),
                    of("logprob", &logprob),
                    of("logprob_at_temperature", &logprob_at_temperature),
                    of("lse_raw", &lse_raw),
                    of("lse_at_temperature", &lse_at_temperature),
                    of("entropy", &entropy),
                    excluded,
                    size(vocab),
                ],
            );
        });
        TokenLogprobs { logprob, logprob_at_temperature, lse_raw, lse_at_temperature, entropy }
    }

    fn token_logprob_backward(
        &self,
        dlogprob: &Tensor,
        h: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        temperatures: &Tensor,
        lse: &Tensor,
        excluded: &[u32],
        dw: Option<&mut Tensor>,
    ) -> Tensor {
        let (rows, dim, vocab) = (h.rows(), h.cols(), w.rows());
        let of_rows = [("dlogprob", dlogprob), ("targets", targets), ("temperatures", temperatures), ("lse", lse)];
        for (name, of) in of_rows {
            expect_shape(&format!("token_logprob_backward {name}"), of, &[rows]);
        }
        if let Some(dw) = &dw {
            expect_shape("token_logprob_backward dw", dw, &[vocab, dim]);
        }
        let excluded = excluded_ids(excluded, vocab);
        let dh = self.empty(h.shape(), Dtype::Activation);
        let dz = self.empty(&[chunk_rows(rows, vocab), vocab], Dtype::Activation);
        let sizes = |count| [size(count), size(vocab), size(dim)];
        self.for_logits(h, w, |first, count, z| {
            let of = |role, tensor| rows_of(role, tensor, first, count);
            self.launch(
                "token_logprob_backward",
                [count, 1, 1],
                &[
                    tensor("z", z),
                    of("targets", targets),
                    of("temperatures", temperatures),
                    of("lse", lse),
                    of("dlogprob", dlogprob),
                    tensor("dz", &dz),
                    excluded,
                    size(vocab),
                ],
            );
            let arguments = [&[tensor("dz", &dz), tensor("w", w), of("dh", &dh)], &sizes(count)[..]].concat();
            self.launch_product("linear_backward_input", backward_tile(vocab, dim), [count, dim], &arguments);
            if let Some(dw) = &dw {
                let arguments = [&[tensor("dz", &dz), of("h", h), tensor("dw", dw)], &sizes(count)[..]].concat();
                self.launch_product("linear_backward_weight", backward_tile(vocab, dim), [vocab, dim], &arguments);
            }
        });
        dh
    }
}

impl Cuda {
    /// `z = h wᵀ` in f32, of `count` rows of h from `first` on.
    #[track_caller]
    pub(super) fn logits_of_rows(&self, h: &Tensor, w: &Tensor, z: &Tensor, first: usize, count: usize) {
        let (vocab, dim) = (w.rows(), w.cols());
        let h = rows_of("h", h, first, count);
        let arguments: [Argument<'_>; 6] = [h, tensor("w", w), tensor("z", z), size(count), size(vocab), size(dim)];
        let tile = forward_tile(count, vocab, dim);
        self.launch_product("token_logprob_logits", tile, [count, vocab], &arguments);
    }

    /// Calls `work(first_row, rows, logits)` for each chunk of rows, in order.
    #[track_caller]
    fn for_logits(&self, h: &Tensor, w: &Tensor, mut work: impl FnMut(usize, usize, &Tensor)) {
        let (rows, vocab) = (h.rows(), w.rows());
        expect_shape("token_logprob w", w, &[vocab, h.cols()]);
        let chunk = chunk_rows(rows, vocab);
        let z = self.empty(&[chunk, vocab], Dtype::F32);
        for first in (0..rows).step_by(chunk) {
            let count = chunk.min(rows - first);
            self.logits_of_rows(h, w, &z, first, count);
            work(first, count, &z);
        }
    }
}

/// The kernels' `Excluded`; -1 for none.
#[track_caller]
pub(super) fn excluded_ids(excluded: &[u32], vocab: usize) -> Argument<'static> {
    let is_id = |&id: &u32| (id as usize) < vocab;
    assert!(excluded.len() <= EXCLUDED_MAX && excluded.iter().all(is_id), "excluded tokens {excluded:?} of {vocab}");
    let [first, second]: [i32; EXCLUDED_MAX] = std::array::from_fn(|i| excluded.get(i).map_or(-1, |&id| id as i32));
    Argument::by_value(&kernel::Excluded { first, second })
}

/// Rows of a chunk, at least one.
fn chunk_rows(rows: usize, vocab: usize) -> usize {
    (LOGITS_MAX / vocab).min(CHUNK_ROWS_MAX).clamp(1, rows.max(1))
}
