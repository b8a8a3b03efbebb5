//! Head and softmax fused: `kernels/token_logprob.cu`, and linear's product for the gradient of the head's weights. Logits exist for one slice
//! of the vocabulary at a time, forward and again backward, of all rows where these are not thousands.

use super::device::Argument;
use super::kernels::common::log_sum_exp::{self as kernel, SLICE};
use super::kernels::token_logprob::ROWS_PER_BLOCK;
use super::linear::{backward_tile, forward_tile};
use super::{Cuda, expect_shape, optional, rows_of, size, tensor};
use crate::ops::sample::EXCLUDED_MAX;
use crate::ops::token_logprob::{EntropyGradient, LOGITS_MAX, TokenLogprob, TokenLogprobs};
use crate::ops::{Dtype, Tensor};

/// Rows of a chunk, at most.
const CHUNK_ROWS_MAX: usize = LOGITS_MAX / SLICE;

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
        let (excluded, slices) = (excluded_ids(excluded, vocab), vocab.div_ceil(SLICE));
        let softmax = self.empty(&[rows, slices, SOFTMAX_WORDS], Dtype::F32);
        let [target_logits, logprob, logprob_at_temperature, lse_raw, lse_at_temperature, entropy] =
            [(); 6].map(|()| self.empty(&[rows], Dtype::F32));
        self.for_logits(h, w, |part, z| {
            self.launch(
                "token_logprob_slice",
                [part.rows, 1, 1],
                &[
                    tensor("z", z),
                    part.of_rows("targets", targets),
                    part.of_rows("temperatures", temperatures),
                    part.of_rows("target_logits", &target_logits),
                    part.of_rows("softmax", &softmax),
                    excluded,
                    size(part.first_token),
                    size(part.tokens),
                    size(slices),
                ],
            );
        });
        self.launch(
            "token_logprob_forward",
            [rows.div_ceil(ROWS_PER_BLOCK), 1, 1],
            &[
                tensor("softmax", &softmax),
                tensor("targets", targets),
                tensor("target_logits", &target_logits),
                tensor("temperatures", temperatures),
                tensor("logprob", &logprob),
                tensor("logprob_at_temperature", &logprob_at_temperature),
                tensor("lse_raw", &lse_raw),
                tensor("lse_at_temperature", &lse_at_temperature),
                tensor("entropy", &entropy),
                excluded,
                size(rows),
                size(slices),
            ],
        );
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
        entropy: Option<EntropyGradient<'_>>,
        dw: Option<&mut Tensor>,
    ) -> Tensor {
        let (rows, dim, vocab) = (h.rows(), h.cols(), w.rows());
        let of_rows = [("dlogprob", dlogprob), ("targets", targets), ("temperatures", temperatures), ("lse", lse)];
        for (name, of) in of_rows {
            expect_shape(&format!("token_logprob_backward {name}"), of, &[rows]);
        }
        for of in entropy.iter().flat_map(|of| [of.dentropy, of.entropy, of.lse_raw]) {
            expect_shape("token_logprob_backward entropy", of, &[rows]);
        }
        if let Some(dw) = &dw {
            expect_shape("token_logprob_backward dw", dw, &[vocab, dim]);
        }
        let (excluded, slices) = (excluded_ids(excluded, vocab), vocab.div_ceil(SLICE));
        let dh = self.empty(h.shape(), Dtype::Activation);
        let sum = (slices > 1).then(|| self.empty(&[rows, dim], Dtype::F32));
        let dz = self.empty(&[rows.min(CHUNK_ROWS_MAX), vocab.min(SLICE)], Dtype::Activation);
        self.for_logits(h, w, |part, z| {
            let of_rows = [
                tensor("z", z),
                part.of_rows("targets", targets),
                part.of_rows("temperatures", temperatures),
                part.of_rows("lse", lse),
                part.of_rows("dlogprob", dlogprob),
            ];
            let of_slice = [tensor("dz", &dz), excluded, size(part.first_token), size(part.tokens)];
            match entropy {
                None => self.launch("token_logprob_backward", [part.rows, 1, 1], &[&of_rows[..], &of_slice].concat()),
                Some(EntropyGradient { dentropy, entropy, lse_raw }) => {
                    let of_entropy = [
                        part.of_rows("dentropy", dentropy),
                        part.of_rows("entropy", entropy),
                        part.of_rows("lse_raw", lse_raw),
                    ];
                    let arguments = [&of_rows[..], &of_entropy, &of_slice].concat();
                    self.launch("token_logprob_entropy_backward", [part.rows, 1, 1], &arguments);
                }
            }
            let sizes = [size(part.rows), size(part.tokens), size(dim)];
            let of_sum = sum.as_ref().map_or(optional("sum", None), |sum| part.of_rows("sum", sum));
            let of_slice = [size(part.first_token / SLICE), size(slices)];
            let factors = [tensor("dz", &dz), part.of_tokens("w", w), of_sum, part.of_rows("dh", &dh)];
            let arguments = [&factors[..], &sizes[..], &of_slice[..]].concat();
            let tile = backward_tile(part.tokens, dim);
            self.launch_product("token_logprob_backward_input", tile, [part.rows, dim], &arguments);
            if let Some(dw) = &dw {
                let factors = [tensor("dz", &dz), part.of_rows("h", h), part.of_tokens("dw", dw)];
                let arguments = [&factors[..], &sizes[..]].concat();
                self.launch_product("linear_backward_weight", tile, [part.tokens, dim], &arguments);
            }
        });
        dh
    }
}

impl Cuda {
    /// `z = h wᵀ` in f32, for a part of the rows and of the vocabulary.
    #[track_caller]
    pub(super) fn logits_of(&self, h: &Tensor, w: &Tensor, z: &Tensor, part: Part) {
        let [rows, tokens, dim] = [part.rows, part.tokens, w.cols()].map(size);
        let arguments = [part.of_rows("h", h), part.of_tokens("w", w), tensor("z", z), rows, tokens, dim];
        let tile = forward_tile(part.rows, part.tokens, w.cols());
        self.launch_product("token_logprob_logits", tile, [part.rows, part.tokens], &arguments);
    }

    /// Calls `work(part, logits)` for each slice of the vocabulary in order, and within it for each chunk of rows.
    #[track_caller]
    fn for_logits(&self, h: &Tensor, w: &Tensor, mut work: impl FnMut(Part, &Tensor)) {
        let (all_rows, vocab) = (h.rows(), w.rows());
        expect_shape("token_logprob w", w, &[vocab, h.cols()]);
        let z = self.empty(&[all_rows.min(CHUNK_ROWS_MAX), vocab.min(SLICE)], Dtype::F32);
        for first_token in (0..vocab).step_by(SLICE) {
            for first_row in (0..all_rows).step_by(CHUNK_ROWS_MAX) {
                let (rows, tokens) = (CHUNK_ROWS_MAX.min(all_rows - first_row), SLICE.min(vocab - first_token));
                let part = Part { first_row, rows, first_token, tokens };
                self.logits_of(h, w, &z, part);
                work(part, &z);
            }
        }
    }
}

/// A part of the rows and of the vocabulary.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub first_row: usize,
    pub rows: usize,
    pub first_token: usize,
    pub tokens: usize,
}

impl Part {
    /// What a tensor with a row for each row has of it.
    #[track_caller]
    fn of_rows<'a>(&self, role: &'static str, of: &'a Tensor) -> Argument<'a> {
        rows_of(role, of, self.first_row, self.rows)
    }

    /// What a tensor with a row for each token has of it.
    #[track_caller]
    fn of_tokens<'a>(&self, role: &'static str, of: &'a Tensor) -> Argument<'a> {
        rows_of(role, of, self.first_token, self.tokens)
    }
}

/// Words of the kernels' `SliceSoftmax`.
pub(super) const SOFTMAX_WORDS: usize = size_of::<kernel::SliceSoftmax>() / size_of::<f32>();

/// The kernels' `Excluded`; -1 for none.
#[track_caller]
pub(super) fn excluded_ids(excluded: &[u32], vocab: usize) -> Argument<'static> {
    let is_id = |&id: &u32| (id as usize) < vocab;
    assert!(excluded.len() <= EXCLUDED_MAX && excluded.iter().all(is_id), "excluded tokens {excluded:?} of {vocab}");
    let [first, second]: [i32; EXCLUDED_MAX] = std::array::from_fn(|i| excluded.get(i).map_or(-1, |&id| id as i32));
    Argument::by_value(&kernel::Excluded { first, second })
}
