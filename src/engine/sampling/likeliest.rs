//! The likeliest tokens of a row of logits.

use crate::ops::sample::Draw;

/// The `count` likeliest tokens with their log-probabilities at temperature 1, in descending order (ties: lower id first).
pub fn likeliest(z: &[f32], count: usize) -> Vec<(u32, f32)> {
    let lse = log_sum_exp(z);
    let ids = ranked(z, count);
    ids.into_iter().map(|id| (id, (f64::from(z[id as usize]) - lse) as f32)).collect()
}

/// The `count` likeliest tokens under the distribution that is drawn from, those that may be drawn only. At temperature 0 that is one.
pub fn likeliest_processed(z: &[f32], draw: &Draw<'_>, excluded: &[u32], count: usize) -> Vec<(u32, f32)> {
    let z = adjusted(z, draw, excluded);
    let mut ids = ranked(&z, z.len());
    ids.retain(|id| z[*id as usize] > f32::NEG_INFINITY);
    if draw.temperature == 0.0 {
        return ids.into_iter().take(count.min(1)).map(|id| (id, 0.0)).collect();
    }
    let tempered: Vec<f32> = z.iter().map(|z| z / draw.temperature).collect();
    let lse = log_sum_exp(&tempered);
    let p = |id: u32| (f64::from(tempered[id as usize]) - lse).exp();
    if draw.top_k > 0 {
        ids.truncate(draw.top_k);
    }
    if draw.top_p < 1.0 {
        let wanted = f64::from(draw.top_p) * ids.iter().map(|id| p(*id)).sum::<f64>();
        let mut mass = 0.0;
        let enough = ids.iter().position(|id| {
            mass += p(*id);
            mass >= wanted
        });
        ids.truncate(enough.map_or(ids.len(), |last| last + 1));
    }
    let least = ids.first().map_or(0.0, |first| f64::from(draw.min_p) * p(*first));
    ids.retain(|id| p(*id) >= least);
    let kept: f64 = ids.iter().map(|id| p(*id)).sum();
    ids.truncate(count);
    ids.into_iter().map(|id| (id, (p(id) / kept).ln() as f32)).collect()
}

/// The logits after repetition penalty, bias and mask, those of excluded tokens at minus infinity.
fn adjusted(z: &[f32], draw: &Draw<'_>, excluded: &[u32]) -> Vec<f32> {
    let mut adjusted = z.to_vec();
    for token in draw.seen.iter().map(|token| *token as usize) {
        adjusted[token] =
            if z[token] > 0.0 { z[token] / draw.repetition_penalty } else { z[token] * draw.repetition_penalty };
    }
    for &(token, bias) in draw.bias {
        adjusted[token as usize] += bias;
    }
    if draw.allowed.is_some() {
        let banned = (0..z.len()).filter(|token| !draw.allows(*token));
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
        let ids = |count| likeliest(&z, count).into_iter().map(|(id, _)| id).collect::<Vec<u32>>();
        assert!(ids(0).is_empty());
        assert_eq!(ids(3), [1, 3, 2]);
        assert_eq!(ids(9), [1, 3, 2, 0, 4]);
        let mass: f64 = likeliest(&z, 5).into_iter().map(|(_, logprob)| f64::from(logprob).exp()).sum();
        assert!((mass - 1.0).abs() < 1e-6, "{mass}");
    }

    /// Weights 8, 4, 2, 2, one that is banned and one that is excluded.
    #[test]
    fn the_likeliest_of_what_is_drawn_from_are_those_that_may_be_drawn() {
        let z = [2f32, 8.0, 4.0, 2.0, 9.0, 1e9].map(f32::ln);
        let plain = Draw {
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
        let expect = |draw: Draw<'_>, count: usize, expected: &[(u32, f64)]| {
            let found = likeliest_processed(&z, &draw, &[5], count);
            assert_eq!(found.len(), expected.len(), "{draw:?}: {found:?}");
            for ((id, logprob), (expected_id, p)) in found.into_iter().zip(expected) {
                assert!(id == *expected_id && (f64::from(logprob).exp() - p).abs() < 1e-6, "{draw:?}: {id} {logprob}");
            }
        };
        expect(plain, 2, &[(1, 0.5), (2, 0.25)]);
        expect(plain, 9, &[(1, 0.5), (2, 0.25), (0, 0.125), (3, 0.125)]);
        expect(Draw { allowed: Some(&[0b01110]), ..plain }, 1, &[(1, 8.0 / 14.0)]);
        expect(Draw { top_p: 0.6, ..plain }, 3, &[(1, 2.0 / 3.0), (2, 1.0 / 3.0)]);
        expect(Draw { top_k: 1, ..plain }, 3, &[(1, 1.0)]);
        expect(Draw { min_p: 0.3, temperature: 0.5, ..plain }, 3, &[(1, 1.0)]);
        expect(Draw { temperature: 0.0, seen: &[1], repetition_penalty: 3.0, ..plain }, 3, &[(2, 1.0)]);
        expect(Draw { temperature: 0.0, allowed: Some(&[0]), ..plain }, 3, &[]);
    }
}
