//! Drawing the next token: `kernels/sample.cu`. Draws go up in one piece, and what was drawn comes back in one.

use super::token_logprob::ROW_THREADS;
use super::{Cuda, expect_shape, optional, rows_of, size, tensor};
use crate::ops::sample::{Draw, Drawn, Sample};
use crate::ops::{Buffers, Dtype, Host, HostMut, Tensor};

/// Words of the kernel's `Draw`.
const DRAW_WORDS: usize = 14;
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

    fn sample(&self, logits: &Tensor, draws: &[Draw<'_>]) -> Vec<Drawn> {
        let (rows, vocab) = (draws.len(), logits.cols());
        assert_eq!(logits.dtype(), Dtype::F32, "sample: logits {logits:?}");
        assert!(logits.rows() >= rows, "sample: {rows} draws of {logits:?}");
        if rows == 0 {
            return Vec::new();
        }
        let (mut words, mut seen) = (Vec::with_capacity(rows * DRAW_WORDS), Vec::new());
        for draw in draws {
            let begin = seen.len();
            if draw.repetition_penalty != 1.0 {
                seen.extend(draw.seen.iter().map(|&token| {
                    assert!((token as usize) < vocab, "sample: seen token {token} of {vocab}");
                    token as i32
                }));
            }
            words.extend(draw_words(draw, begin, seen.len()));
        }
        let marks = (!seen.is_empty()).then(|| self.empty(&[rows, vocab.div_ceil(32)], Dtype::I32));
        let seen = self.upload(Host::I32(&seen), &[seen.len()], Dtype::I32);
        let draws = self.upload(Host::I32(&words), &[rows, DRAW_WORDS], Dtype::I32);
        let drawn = self.empty(&[rows, DRAWN_WORDS], Dtype::I32);
        self.launch(
            "sample",
            [rows, 1, 1],
            ROW_THREADS,
            &[
                rows_of("logits", logits, 0, rows),
                tensor("draws", &draws),
                tensor("seen", &seen),
                optional("bits", marks.as_ref()),
                tensor("drawn", &drawn),
                size(vocab),
            ],
        );
        let mut words = vec![0; rows * DRAWN_WORDS];
        self.download(&drawn, HostMut::I32(&mut words));
        words.chunks_exact(DRAWN_WORDS).map(drawn_of_words).collect()
    }
}

/// The kernel's `Draw`.
fn draw_words(draw: &Draw<'_>, seen_begin: usize, seen_end: usize) -> [i32; DRAW_WORDS] {
    let halves = |x: u64| [x as i32, (x >> 32) as i32];
    let count = |x: usize| i32::try_from(x).expect("fewer than 2³¹ seen tokens");
    let is_greedy = draw.temperature == 0.0;
    let inverse = if is_greedy { 1.0 } else { 1.0 / draw.temperature };
    let floats = [inverse, draw.top_p, draw.min_p, draw.repetition_penalty].map(|x: f32| x.to_bits() as i32);
    let top_k = draw.top_k.min(i32::MAX as usize) as i32;
    let mut words = [0; DRAW_WORDS];
    words[..6].copy_from_slice([draw.seed, draw.sequence, draw.position].map(halves).as_flattened());
    words[6..10].copy_from_slice(&floats);
    words[10..].copy_from_slice(&[i32::from(is_greedy), top_k, count(seen_begin), count(seen_end)]);
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
