//! Sampling the next token: `kernels/sample.cu`. The rows' parameters go up in one piece, and what was sampled comes back in one.

use bytemuck::Zeroable;

use super::kernels::common::log_sum_exp::SLICE;
use super::kernels::sample::{self as kernel, CLASSES};
use super::token_logprob::{Part, SOFTMAX_WORDS, excluded_ids};
use super::{Cuda, expect_shape, optional, rows_of, size, tensor};
use crate::ops::sample::{Sample, SampledToken, SamplingParams};
use crate::ops::{Buffers, Dtype, Host, Tensor};

impl Sample for Cuda {
    fn logits(&self, h: &Tensor, w: &Tensor) -> Tensor {
        let (rows, vocab) = (h.rows(), w.rows());
        expect_shape("logits h", h, &[rows, w.cols()]);
        let z = self.empty(&[rows, vocab], Dtype::F32);
        if rows > 0 {
            self.logits_of(h, w, &z, Part { first_row: 0, rows, first_token: 0, tokens: vocab });
        }
        z
    }

    fn sample_overlapped(
        &self,
        logits: &Tensor,
        row_params: &[SamplingParams<'_>],
        excluded: &[u32],
        meanwhile: &mut dyn FnMut(&Tensor),
    ) -> Vec<SampledToken> {
        let (rows, vocab) = (row_params.len(), logits.cols());
        assert_eq!(logits.dtype(), Dtype::F32, "sample: logits {logits:?}");
        assert!(logits.rows() >= rows, "sample: {rows} rows of {logits:?}");
        if rows == 0 {
            return Vec::new();
        }
        let (mask_words, slices) = (vocab.div_ceil(32), vocab.div_ceil(SLICE));
        let mut lists = Lists::default();
        let row_params: Vec<kernel::SamplingParams> =
            row_params.iter().map(|params| lists.add(params, vocab)).collect();
        let adjusted = (lists.adjusted > 0).then(|| self.empty(&[lists.adjusted, vocab], Dtype::F32));
        let upload =
            |list: &[i32], shape: &[usize]| (!list.is_empty()).then(|| self.upload(Host::I32(list), shape, Dtype::I32));
        let seen = upload(&lists.seen, &[lists.seen.len()]);
        let bias = upload(bytemuck::cast_slice(&lists.bias), &[lists.bias.len(), words::<kernel::Bias>()]);
        let allowed = upload(&lists.allowed, &[lists.allowed.len() / mask_words, mask_words]);
        let params_words = Host::I32(bytemuck::cast_slice(&row_params));
        let row_params = self.upload(params_words, &[rows, words::<kernel::SamplingParams>()], Dtype::I32);
        let softmax = self.empty(&[rows, slices, SOFTMAX_WORDS], Dtype::F32);
        let tops = self.empty(&[rows, slices], Dtype::F32);
        let counts = self.empty(&[rows, slices, CLASSES], Dtype::I32);
        let masses = self.empty(&[rows, slices, CLASSES], Dtype::F32);
        let sampled = self.empty(&[rows, words::<kernel::SampledToken>()], Dtype::I32);
        let ids = self.empty(&[rows], Dtype::I32);
        let (logits, excluded) = (rows_of("logits", logits, 0, rows), excluded_ids(excluded, vocab));
        self.launch(
            "sample_slices",
            [rows, slices, 1],
            &[
                logits,
                tensor("row_params", &row_params),
                optional("seen", seen.as_ref()),
                optional("bias", bias.as_ref()),
                optional("allowed", allowed.as_ref()),
                optional("adjusted", adjusted.as_ref()),
                tensor("softmax", &softmax),
                tensor("tops", &tops),
                tensor("counts", &counts),
                tensor("masses", &masses),
                excluded,
                size(vocab),
            ],
        );
        self.launch(
            "sample",
            [rows, 1, 1],
            &[
                logits,
                tensor("row_params", &row_params),
                optional("adjusted", adjusted.as_ref()),
                tensor("softmax", &softmax),
                tensor("tops", &tops),
                tensor("counts", &counts),
                tensor("masses", &masses),
                tensor("sampled", &sampled),
                tensor("ids", &ids),
                excluded,
                size(vocab),
                size(slices),
            ],
        );
        let mut found = vec![kernel::SampledToken::zeroed(); rows];
        self.download_overlapped(&sampled, bytemuck::cast_slice_mut(&mut found), &mut || meanwhile(&ids));
        found.into_iter().map(sampled_token).collect()
    }
}

/// What rows bring besides, one row's behind the other's.
#[derive(Default)]
struct Lists {
    seen: Vec<i32>,
    bias: Vec<kernel::Bias>,
    /// Masks of allowed tokens, a bit for each token.
    allowed: Vec<i32>,
    /// Rows whose logits a penalty, a bias or a mask changes.
    adjusted: usize,
}

impl Lists {
    /// Adds a row's; gives the kernel's parameters, which say where in the lists they are.
    fn add(&mut self, params: &SamplingParams<'_>, vocab: usize) -> kernel::SamplingParams {
        let id = |name: &str, token: u32| {
            assert!((token as usize) < vocab, "sample: {name} token {token} of {vocab}");
            token as i32
        };
        let (seen_begin, bias_begin) = (place(self.seen.len()), place(self.bias.len()));
        if params.repetition_penalty != 1.0 {
            self.seen.extend(params.seen.iter().map(|&token| id("seen", token)));
        }
        self.bias.extend(params.bias.iter().map(|&(token, value)| kernel::Bias { id: id("biased", token), value }));
        let mut mask = -1;
        if let Some(allowed) = params.allowed {
            assert_eq!(allowed.len(), vocab.div_ceil(32), "sample: words of the mask for {vocab} tokens");
            mask = place(self.allowed.len() / allowed.len());
            self.allowed.extend(allowed.iter().map(|&word| word as i32));
        }
        let mut own = -1;
        if params.is_constrained() || seen_begin < place(self.seen.len()) {
            own = place(self.adjusted);
            self.adjusted += 1;
        }
        let is_greedy = params.temperature == 0.0;
        kernel::SamplingParams {
            seed: params.seed,
            sequence: params.sequence,
            position: params.position,
            inverse: if is_greedy { 1.0 } else { 1.0 / params.temperature },
            top_p: params.top_p,
            min_p: params.min_p,
            penalty: params.repetition_penalty,
            is_greedy: i32::from(is_greedy),
            top_k: params.top_k.min(i32::MAX as usize) as i32,
            seen_begin,
            seen_end: place(self.seen.len()),
            bias_begin,
            bias_end: place(self.bias.len()),
            mask,
            own,
        }
    }
}

fn place(x: usize) -> i32 {
    i32::try_from(x).expect("fewer than 2³¹ tokens in a list")
}

/// Words of a kernel's struct.
const fn words<T>() -> usize {
    size_of::<T>() / size_of::<i32>()
}

fn sampled_token(of: kernel::SampledToken) -> SampledToken {
    SampledToken {
        token: of.token as u32,
        logprob: of.logprob,
        logprob_at_temperature: of.logprob_at_temperature,
        processed_logprob: of.processed_logprob,
        kept_mass: of.kept_mass,
        entropy: of.entropy,
    }
}
