//! Drawing the next token: `kernels/sample.cu`. Draws go up in one piece, and what was drawn comes back in one.

use super::token_logprob::{ROW_THREADS, excluded_ids};
use super::{Cuda, expect_shape, optional, rows_of, size, tensor};
use crate::ops::sample::{Draw, Drawn, Sample};
use crate::ops::{Buffers, Dtype, Host, HostMut, Tensor};

/// Words of the kernel's `Draw`.
const DRAW_WORDS: usize = 18;
/// Words of the kernel's `Drawn`.
const DRAWN_WORDS: usize = 6;

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

    fn sample(&self, logits: &Tensor, draws: &[Draw<'_>], excluded: &[u32]) -> Vec<Drawn> {
        let (rows, vocab) = (draws.len(), logits.cols());
        assert_eq!(logits.dtype(), Dtype::F32, "sample: logits {logits:?}");
        assert!(logits.rows() >= rows, "sample: {rows} draws of {logits:?}");
        if rows == 0 {
            return Vec::new();
        }
        let mask_words = vocab.div_ceil(32);
        let mut lists = Lists::default();
        let words: Vec<i32> = draws.iter().flat_map(|draw| draw_words(draw, lists.add(draw, vocab))).collect();
        let marks = (!lists.seen.is_empty()).then(|| self.empty(&[rows, mask_words], Dtype::I32));
        let adjusted = (lists.adjusted > 0).then(|| self.empty(&[lists.adjusted, vocab], Dtype::F32));
        let upload =
            |list: &[i32], shape: &[usize]| (!list.is_empty()).then(|| self.upload(Host::I32(list), shape, Dtype::I32));
        let bias = upload(&lists.bias, &[lists.bias.len() / 2, 2]);
        let allowed = upload(&lists.allowed, &[lists.allowed.len() / mask_words, mask_words]);
        let seen = self.upload(Host::I32(&lists.seen), &[lists.seen.len()], Dtype::I32);
        let draws = self.upload(Host::I32(&words), &[rows, DRAW_WORDS], Dtype::I32);
        let drawn = self.empty(&[rows, DRAWN_WORDS], Dtype::I32);
        let [first, second] = excluded_ids(excluded, vocab);
        self.launch(
            "sample",
            [rows, 1, 1],
            ROW_THREADS,
            &[
                rows_of("logits", logits, 0, rows),
                tensor("draws", &draws),
                tensor("seen", &seen),
                optional("bits", marks.as_ref()),
                optional("bias", bias.as_ref()),
                optional("allowed", allowed.as_ref()),
                optional("adjusted", adjusted.as_ref()),
                tensor("drawn", &drawn),
                first,
                second,
                size(vocab),
            ],
        );
        let mut words = vec![0; rows * DRAWN_WORDS];
        self.download(&drawn, HostMut::I32(&mut words));
        words.chunks_exact(DRAWN_WORDS).map(drawn_of_words).collect()
    }
}

/// What rows bring besides, one row's behind the other's.
#[derive(Default)]
struct Lists {
    /// Tokens.
    seen: Vec<i32>,
    /// Tokens, each with the bits of what is added to its logit.
    bias: Vec<i32>,
    /// Masks.
    allowed: Vec<i32>,
    /// Rows with bias or mask.
    adjusted: usize,
}

impl Lists {
    /// Adds a row's: where its part of `seen` and `bias` begins and ends, which mask is its own, and which of the adjusted rows it is; -1
    /// for none.
    fn add(&mut self, draw: &Draw<'_>, vocab: usize) -> [i32; 6] {
        let id = |name: &str, token: u32| {
            assert!((token as usize) < vocab, "sample: {name} token {token} of {vocab}");
            token as i32
        };
        let (seen_begin, bias_begin) = (self.seen.len(), self.bias.len() / 2);
        if draw.repetition_penalty != 1.0 {
            self.seen.extend(draw.seen.iter().map(|&token| id("seen", token)));
        }
        self.bias.extend(draw.bias.iter().flat_map(|&(token, bias)| [id("biased", token), bias.to_bits() as i32]));
        let mut mask = -1;
        if let Some(allowed) = draw.allowed {
            assert_eq!(allowed.len(), vocab.div_ceil(32), "sample: words of the mask for {vocab} tokens");
            mask = place(self.allowed.len() / allowed.len());
            self.allowed.extend(allowed.iter().map(|&word| word as i32));
        }
        let mut adjusted = -1;
        if draw.is_constrained() {
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

/// The kernel's `Draw`; `places` are those of the row's lists.
fn draw_words(draw: &Draw<'_>, places: [i32; 6]) -> [i32; DRAW_WORDS] {
    let halves = |x: u64| [x as i32, (x >> 32) as i32];
    let is_greedy = draw.temperature == 0.0;
    let inverse = if is_greedy { 1.0 } else { 1.0 / draw.temperature };
    let floats = [inverse, draw.top_p, draw.min_p, draw.repetition_penalty].map(|x: f32| x.to_bits() as i32);
    let top_k = draw.top_k.min(i32::MAX as usize) as i32;
    let mut words = [0; DRAW_WORDS];
    words[..6].copy_from_slice([draw.seed, draw.sequence, draw.position].map(halves).as_flattened());
    words[6..10].copy_from_slice(&floats);
    words[10..12].copy_from_slice(&[i32::from(is_greedy), top_k]);
    words[12..].copy_from_slice(&places);
    words
}

/// From the kernel's `Drawn`.
fn drawn_of_words(words: &[i32]) -> Drawn {
    let float = |word: usize| f32::from_bits(words[word] as u32);
    Drawn {
        token: words[0] as u32,
        raw: float(1),
        tempered: float(2),
        processed: float(3),
        kept: float(4),
        entropy: float(5),
    }
}
