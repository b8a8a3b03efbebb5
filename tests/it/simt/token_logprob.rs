//! Head and softmax on simt against the reference, and to the bit against the sampler.

use thyme_engine::cuda::kernels::common::log_sum_exp::SLICE;
use thyme_engine::ops::sample::{Sample, SamplingParams};
use thyme_engine::ops::token_logprob::{EntropyGradient, LOGITS_MAX, TokenLogprob, TokenLogprobs};
use thyme_engine::ops::{Buffers, Dtype, Host, Tensor};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, fast, pair, values};

const TEMPERATURES: [f64; 4] = [1.0, 0.5, 1.75, 0.875];

/// Sizes: nothing, one, odd, vectors, more than one tile, a slice of the vocabulary and a token more, three slices, more than one chunk of rows.
#[test]
fn token_logprob_agrees_with_the_reference_in_both_directions() {
    let cuda = checked();
    let mut random = Random::new(54);
    for [rows, dim, vocab] in [
        [0, 8, 5],
        [1, 5, 1],
        [7, 3, 7],
        [9, 40, 132],
        [66, 37, 131],
        [3, 8, SLICE],
        [3, 8, SLICE + 1],
        [3, 3, 2 * SLICE + 6],
        [LOGITS_MAX / SLICE + 1, 1, 3],
    ] {
        let what = format!("token_logprob [{rows}, {dim}], vocabulary {vocab}");
        let (h, rh) = pair(&cuda, &exact_in_bf16(&mut random, rows * dim), &[rows, dim], Dtype::Activation);
        let (w, rw) = pair(&cuda, &exact_in_bf16(&mut random, vocab * dim), &[vocab, dim], Dtype::Bf16);
        let (dlogprob, rdlogprob) = pair(&cuda, &exact_in_bf16(&mut random, rows), &[rows], Dtype::F32);
        let (mut dw, mut rdw) = pair(&cuda, &vec![0.25; vocab * dim], &[vocab, dim], Dtype::F32);
        let temperatures: Vec<f64> = TEMPERATURES.into_iter().cycle().take(rows).collect();
        let (temperatures, rtemperatures) = pair(&cuda, &temperatures, &[rows], Dtype::F32);
        let ids: Vec<i32> =
            (0..rows).map(|_| random.below(vocab.min(130)).max(usize::from(vocab > 100)) as i32).collect();
        let targets = cuda.upload(Host::I32(&ids), &[rows], Dtype::I32);
        let rtargets = Reference.upload(Host::I32(&ids), &[rows], Dtype::I32);

        let excluded: &[u32] = if vocab > 100 { &[0, 130] } else { &[] };
        let found = cuda.token_logprob_forward(&h, &w, &targets, &temperatures, excluded);
        let expected = Reference.token_logprob_forward(&rh, &rw, &rtargets, &rtemperatures, excluded);
        let chain = dim + vocab;
        expect_close(&format!("{what}: logprob"), &cuda, &found.logprob, &expected.logprob, chain);
        expect_close(
            &format!("{what}: logprob_at_temperature"),
            &cuda,
            &found.logprob_at_temperature,
            &expected.logprob_at_temperature,
            chain,
        );
        expect_close(&format!("{what}: lse_raw"), &cuda, &found.lse_raw, &expected.lse_raw, chain);
        expect_close(
            &format!("{what}: lse_at_temperature"),
            &cuda,
            &found.lse_at_temperature,
            &expected.lse_at_temperature,
            chain,
        );
        expect_close(&format!("{what}: entropy"), &cuda, &found.entropy, &expected.entropy, chain);

        for with_entropy in [false, true] {
            let (lse, rlse) = (&found.lse_at_temperature, &expected.lse_at_temperature);
            let dh = cuda.token_logprob_backward(
                &dlogprob,
                &h,
                &w,
                &targets,
                &temperatures,
                lse,
                excluded,
                with_entropy.then_some(of_entropy(&dlogprob, &found)),
                Some(&mut dw),
            );
            let rdh = Reference.token_logprob_backward(
                &rdlogprob,
                &rh,
                &rw,
                &rtargets,
                &rtemperatures,
                rlse,
                excluded,
                with_entropy.then_some(of_entropy(&rdlogprob, &expected)),
                Some(&mut rdw),
            );
            expect_close(&format!("{what}: dh, entropy {with_entropy}"), &cuda, &dh, &rdh, vocab);
            expect_close(&format!("{what}: dw, entropy {with_entropy}"), &cuda, &dw, &rdw, rows);
        }
    }
}

fn of_entropy<'a>(dentropy: &'a Tensor, found: &'a TokenLogprobs) -> EntropyGradient<'a> {
    EntropyGradient { dentropy, entropy: &found.entropy, lse_raw: &found.lse_raw }
}

/// A row's numbers and the gradient of its input have the same bits alone and among others, over several slices.
#[test]
fn a_row_has_its_bits_whatever_the_company() {
    let (cuda, rows, dim, vocab) = (fast(), 70, 24, SLICE + 130);
    let mut random = Random::new(56);
    let h = exact_in_bf16(&mut random, rows * dim);
    let w = cuda.upload(Host::F64(&exact_in_bf16(&mut random, vocab * dim)), &[vocab, dim], Dtype::Bf16);
    let ids: Vec<i32> = (0..rows).map(|_| random.below(vocab) as i32).collect();
    let run = |first: usize, count: usize| {
        let h = cuda.upload(Host::F64(&h[first * dim..][..count * dim]), &[count, dim], Dtype::Activation);
        let targets = cuda.upload(Host::I32(&ids[first..][..count]), &[count], Dtype::I32);
        let temperatures = cuda.upload(Host::F32(&vec![0.8; count]), &[count], Dtype::F32);
        let ones = cuda.upload(Host::F32(&vec![1.0; count]), &[count], Dtype::F32);
        let found = cuda.token_logprob_forward(&h, &w, &targets, &temperatures, &[7]);
        let lse = &found.lse_at_temperature;
        let dh = cuda.token_logprob_backward(&ones, &h, &w, &targets, &temperatures, lse, &[7], None, None);
        let numbers = [&found.logprob, &found.logprob_at_temperature, lse, &found.lse_raw, &found.entropy];
        (numbers.map(|tensor| values(&cuda, tensor)), values(&cuda, &dh))
    };
    let (numbers, dh) = run(0, rows);
    for row in [0, 5, rows - 1] {
        let (alone, dh_alone) = run(row, 1);
        assert_eq!(alone.map(|numbers| numbers[0]), [0, 1, 2, 3, 4].map(|i| numbers[i][row]), "row {row}");
        assert_eq!(dh_alone, dh[row * dim..][..dim], "row {row}");
    }
}

/// What is stored when a token is sampled is what training computes for it, whatever the company.
#[test]
fn the_sampler_and_token_logprob_give_the_same_bits() {
    let cuda = fast();
    let (none, two, one_of_each): (&[u32], &[u32], &[u32]) = (&[], &[131, 2], &[2, SLICE as u32]);
    for (rows, dim, vocab, temperature, excluded) in [
        (66, 37, 131, 1.0, none),
        (5, 40, 132, 0.7, none),
        (5, 40, 132, 1.0, two),
        (5, 40, 132, 0.7, two),
        (5, 16, SLICE, 0.7, two),
        (5, 16, SLICE + 1, 1.0, one_of_each),
        (5, 16, 2 * SLICE + 40, 1.0, none),
        (5, 16, 2 * SLICE + 40, 0.7, one_of_each),
    ] {
        let mut random = Random::new(55);
        let h = exact_in_bf16(&mut random, rows * dim);
        let w = cuda.upload(Host::F64(&exact_in_bf16(&mut random, vocab * dim)), &[vocab, dim], Dtype::Bf16);
        let params = SamplingParams {
            temperature,
            top_k: 20,
            top_p: 0.9,
            min_p: 0.0,
            repetition_penalty: 1.1,
            seen: &[3, 5],
            bias: &[],
            allowed: None,
            seed: 7,
            sequence: 8,
            position: 9,
        };
        let run = |rows: &[f64]| {
            let count = rows.len() / dim;
            let h = cuda.upload(Host::F64(rows), &[count, dim], Dtype::Activation);
            let sampled = cuda.sample(&cuda.logits(&h, &w), &vec![params; count], excluded);
            let ids: Vec<i32> = sampled.iter().map(|sampled| sampled.token as i32).collect();
            let targets = cuda.upload(Host::I32(&ids), &[count], Dtype::I32);
            let temperatures = cuda.upload(Host::F32(&vec![temperature; count]), &[count], Dtype::F32);
            let found = cuda.token_logprob_forward(&h, &w, &targets, &temperatures, excluded);
            let found =
                [&found.logprob, &found.logprob_at_temperature, &found.entropy].map(|tensor| values(&cuda, tensor));
            for (i, sampled) in sampled.iter().enumerate() {
                let stored = [sampled.logprob, sampled.logprob_at_temperature, sampled.entropy].map(f64::from);
                assert_eq!(stored, [found[0][i], found[1][i], found[2][i]], "row {i} at {temperature}");
            }
            assert!(
                temperature != 1.0 || !excluded.is_empty() || found[0] == found[1],
                "logprob is logprob_at_temperature at temperature 1"
            );
            sampled
        };
        let all = run(&h);
        for row in [0, rows - 1] {
            assert_eq!(run(&h[row * dim..][..dim]), all[row..=row], "row {row} alone");
        }
    }
}
