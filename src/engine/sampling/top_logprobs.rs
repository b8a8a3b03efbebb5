//! The likeliest tokens of a row of logits.

use crate::ops::sample::SamplingParams;

/// The `count` likeliest tokens with their log-probabilities at temperature 1, in descending order (ties: lower id first).
pub fn top_logprobs(z: &[f32], count: usize) -> Vec<(u32, f32)> {
    let lse = log_sum_exp(z);
    let ids = ranked(z, count);
    ids.into_iter().map(|id| (id, (f64::from(z[id as usize]) - lse) as f32)).collect()
}

/// The `count` likeliest tokens under the distribution that is sampled from, those that may be sampled only. At temperature 0 that is one.
pub fn top_logprobs_processed(
    z: &[f32],
    params: &SamplingParams<'_>,
    excluded: &[u32],
    count: usize,
) -> Vec<(u32, f32)> {
    let z = adjusted(z, params, excluded);
    let mut ids = ranked(&z, z.len());
    ids.retain(|id| z[*id as usize] > f32::NEG_INFINITY);
    if params.temperature == 0.0 {
        return ids.into_iter().take(count.min(1)).map(|id| (id, 0.0)).collect();
    }
    let scaled: Vec<f32> = z.iter().map(|z| z / params.temperature).collect();
    let lse = log_sum_exp(&scaled);
    let p = |id: u32| (f64::from(scaled[id as usize]) - lse).exp();
    if params.top_k > 0 {
        ids.truncate(params.top_k);
    }
    if params.top_p < 1.0 {
        let wanted = f64::from(params.top_p) * ids.iter().map(|id| p(*id)).sum::<f64>();
        let mut mass = 0.0;
        let enough = ids.iter().position(|id| {
            mass += p(*id);
            mass >= wanted
        });
        ids.truncate(enough.map_or(ids.len(), |last| last + 1));
    }
    let least = ids.first().map_or(0.0, |first| f64::from(params.min_p) * p(*first));
    ids.retain(|id| p(*id) >= least);
    let kept: f64 = ids.iter().map(|id| p(*id)).sum();
    ids.truncate(count);
    ids.into_iter().map(|id| (id, (p(id) / kept).ln() as f32)).collect()
}

/// The logits after repetition penalty, bias and mask, those of excluded tokens at minus infinity.
fn adjusted(z: &[f32], params: &SamplingParams<'_>, excluded: &[u32]) -> Vec<f32> {
    let mut adjusted = z.to_vec();
    for token in params.seen.iter().map(|token| *token as usize) {
        adjusted[token] =
            if z[token] > 0.0 { z[token] / params.repetition_penalty } else { z[token] * params.repetition_penalty };
    }
    for &(token, bias) in params.bias {
        adjusted[token as usize] += bias;
    }
    if params.allowed.is_some() {
        let banned = (0..z.len()).filter(|token| !params.allows(*token));
        banned.for_each(|token| adjusted[token] = f32::NEG_INFINITY);
    }
    for &token in excluded {
        adjusted[token as usize] = f32::NEG_INFINITY;
    }
    adjusted
}

/// The `count` largest in descending order (ties: lower id first).
fn ranked(z: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..z.len() as u32).collect();
    let descending = |a: &u32, b: &u32| z[*b as usize].total_cmp(&z[*a as usize]).then(a.cmp(b));
    if (1..ids.len()).contains(&count) {
        ids.select_nth_unstable_by(count - 1, descending);
    }
    ids.truncate(count);
    ids.sort_by(descending);
    ids
}

/// `log Σ exp z`.
pub fn log_sum_exp(z: &[f32]) -> f64 {
    let most = f64::from(z.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + z.iter().map(|z| (f64::from(*z) - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_equal_ones_by_id() {
        let z = [0.0, 2.0, 1.0, 2.0, -1.0];
        let ids = |count| top_logprobs(&z, count).into_iter().map(|(id, _)| id).collect::<Vec<u32>>();
        assert!(ids(0).is_empty());
        assert_eq!(ids(3), [1, 3, 2]);
        assert_eq!(ids(9), [1, 3, 2, 0, 4]);
        let mass: f64 = top_logprobs(&z, 5).into_iter().map(|(_, logprob)| f64::from(logprob).exp()).sum();
        assert!((mass - 1.0).abs() < 1e-6, "{mass}");
    }

    /// Weights 8, 4, 2, 2, one that is banned and one that is excluded.
    #[test]
    fn the_likeliest_of_what_is_sampled_from_are_those_that_may_be_sampled() {
        let z = [2f32, 8.0, 4.0, 2.0, 9.0, 1e9].map(f32::ln);
        let plain = SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seen: &[],
            bias: &[(4, f32::NEG_INFINITY)],
            allowed: None,
            seed: 0,
            sequence: 0,
            position: 0,
        };
        let expect = |params: SamplingParams<'_>, count: usize, expected: &[(u32, f64)]| {
            let found = top_logprobs_processed(&z, &params, &[5], count);
            assert_eq!(found.len(), expected.len(), "{params:?}: {found:?}");
            for ((id, logprob), (expected_id, p)) in found.into_iter().zip(expected) {
                assert!(
                    id == *expected_id && (f64::from(logprob).exp() - p).abs() < 1e-6,
                    "{params:?}: {id} {logprob}"
                );
            }
        };
        expect(plain, 2, &[(1, 0.5), (2, 0.25)]);
        expect(plain, 9, &[(1, 0.5), (2, 0.25), (0, 0.125), (3, 0.125)]);
        expect(SamplingParams { allowed: Some(&[0b01110]), ..plain }, 1, &[(1, 8.0 / 14.0)]);
        expect(SamplingParams { top_p: 0.6, ..plain }, 3, &[(1, 2.0 / 3.0), (2, 1.0 / 3.0)]);
        expect(SamplingParams { top_k: 1, ..plain }, 3, &[(1, 1.0)]);
        expect(SamplingParams { min_p: 0.3, temperature: 0.5, ..plain }, 3, &[(1, 1.0)]);
        expect(SamplingParams { temperature: 0.0, seen: &[1], repetition_penalty: 3.0, ..plain }, 3, &[(2, 1.0)]);
        expect(SamplingParams { temperature: 0.0, allowed: Some(&[0]), ..plain }, 3, &[]);
    }
}
