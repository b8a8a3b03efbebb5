//! Sampling the next token: `kernels/sample.cu`. The rows' parameters go up in one piece, and what was sampled comes back in one.

use super::token_logprob::{ROW_THREADS, excluded_ids};
use super::{Cuda, expect_shape, optional, rows_of, size, tensor};
use crate::ops::sample::{Sample, SampledToken, SamplingParams};
use crate::ops::{Buffers, Dtype, Host, HostMut, Tensor};

/// Words of the kernel's `SamplingParams`.
const PARAMS_WORDS: usize = 18;
/// Words of the kernel's `SampledToken`.
const SAMPLED_WORDS: usize = 6;

impl Sample for Cuda {
    fn logits(&self, h: &Tensor, w: &Tensor) -> Tensor {
        let (rows, vocab) = (h.rows(), w.rows());
        expect_shape("logits h", h, &[rows, w.cols()]);
        let z = self.empty(&[rows, vocab], Dtype::F32);
        if rows > 0 {
            self.logits_of_rows(h, w, &z, 0, rows);
        }
        z
    }

    fn sample(&self, logits: &Tensor, row_params: &[SamplingParams<'_>], excluded: &[u32]) -> Vec<SampledToken> {
        let (rows, vocab) = (row_params.len(), logits.cols());
        assert_eq!(logits.dtype(), Dtype::F32, "sample: logits {logits:?}");
        assert!(logits.rows() >= rows, "sample: {rows} rows of {logits:?}");
        if rows == 0 {
            return Vec::new();
        }
        let mask_words = vocab.div_ceil(32);
        let mut lists = Lists::default();
        let words: Vec<i32> =
            row_params.iter().flat_map(|params| params_words(params, lists.add(params, vocab))).collect();
        let marks = (!lists.seen.is_empty()).then(|| self.empty(&[rows, mask_words], Dtype::I32));
        let adjusted = (lists.adjusted > 0).then(|| self.empty(&[lists.adjusted, vocab], Dtype::F32));
        let upload =
            |list: &[i32], shape: &[usize]| (!list.is_empty()).then(|| self.upload(Host::I32(list), shape, Dtype::I32));
        let bias = upload(&lists.bias, &[lists.bias.len() / 2, 2]);
        let allowed = upload(&lists.allowed, &[lists.allowed.len() / mask_words, mask_words]);
        let seen = self.upload(Host::I32(&lists.seen), &[lists.seen.len()], Dtype::I32);
        let row_params = self.upload(Host::I32(&words), &[rows, PARAMS_WORDS], Dtype::I32);
        let sampled = self.empty(&[rows, SAMPLED_WORDS], Dtype::I32);
        let [first, second] = excluded_ids(excluded, vocab);
        self.launch(
            "sample",
            [rows, 1, 1],
            ROW_THREADS,
            &[
                rows_of("logits", logits, 0, rows),
                tensor("row_params", &row_params),
                tensor("seen", &seen),
                optional("bits", marks.as_ref()),
                optional("bias", bias.as_ref()),
                optional("allowed", allowed.as_ref()),
                optional("adjusted", adjusted.as_ref()),
                tensor("sampled", &sampled),
                first,
                second,
                size(vocab),
            ],
        );
        let mut words = vec![0; rows * SAMPLED_WORDS];
        self.download(&sampled, HostMut::I32(&mut words));
        words.chunks_exact(SAMPLED_WORDS).map(sampled_of_words).collect()
    }
}

/// What rows bring besides, one row's behind the other's.
#[derive(Default)]
struct Lists {
    seen: Vec<i32>,
    /// Tokens, each with the bits of what is added to its logit.
    bias: Vec<i32>,
    /// Masks of allowed tokens, a bit for each token.
    allowed: Vec<i32>,
    /// Rows with bias or mask.
    adjusted: usize,
}

impl Lists {
    /// Adds a row's: where its part of `seen` and `bias` begins and ends, which mask is its own, and which of the adjusted rows it is; -1
    /// for none.
    fn add(&mut self, params: &SamplingParams<'_>, vocab: usize) -> [i32; 6] {
        let id = |name: &str, token: u32| {
            assert!((token as usize) < vocab, "sample: {name} token {token} of {vocab}");
            token as i32
        };
        let (seen_begin, bias_begin) = (self.seen.len(), self.bias.len() / 2);
        if params.repetition_penalty != 1.0 {
            self.seen.extend(params.seen.iter().map(|&token| id("seen", token)));
        }
        self.bias.extend(params.bias.iter().flat_map(|&(token, bias)| [id("biased", token), bias.to_bits() as i32]));
        let mut mask = -1;
        if let Some(allowed) = params.allowed {
            assert_eq!(allowed.len(), vocab.div_ceil(32), "sample: words of the mask for {vocab} tokens");
            mask = place(self.allowed.len() / allowed.len());
            self.allowed.extend(allowed.iter().map(|&word| word as i32));
        }
        let mut adjusted = -1;
        if params.is_constrained() {
            adjusted = place(self.adjusted);
            self.adjusted += 1;
        }
        let ends = [seen_begin, self.seen.len(), bias_begin, self.bias.len() / 2].map(place);
        [ends[0], ends[1], ends[2], ends[3], mask, adjusted]
    }
}

fn place(x: usize) -> i32 {
    i32::try_from(x).expect("fewer than 2³¹ tokens in a list")
}

/// The kernel's `SamplingParams`; `places` are those of the row's lists.
fn params_words(params: &SamplingParams<'_>, places: [i32; 6]) -> [i32; PARAMS_WORDS] {
    let halves = |x: u64| [x as i32, (x >> 32) as i32];
    let is_greedy = params.temperature == 0.0;
    let inverse = if is_greedy { 1.0 } else { 1.0 / params.temperature };
    let floats = [inverse, params.top_p, params.min_p, params.repetition_penalty].map(|x: f32| x.to_bits() as i32);
    let top_k = params.top_k.min(i32::MAX as usize) as i32;
    let mut words = [0; PARAMS_WORDS];
    words[..6].copy_from_slice([params.seed, params.sequence, params.position].map(halves).as_flattened());
    words[6..10].copy_from_slice(&floats);
    words[10..12].copy_from_slice(&[i32::from(is_greedy), top_k]);
    words[12..].copy_from_slice(&places);
    words
}

/// From the kernel's `SampledToken`.
fn sampled_of_words(words: &[i32]) -> SampledToken {
    let float = |word: usize| f32::from_bits(words[word] as u32);
    SampledToken {
        token: words[0] as u32,
        logprob: float(1),
        logprob_at_temperature: float(2),
        processed_logprob: float(3),
        kept_mass: float(4),
        entropy: float(5),
    }
}
