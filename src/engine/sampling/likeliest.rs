//! The likeliest tokens of a row of logits.

/// The `count` likeliest tokens with their log-probabilities at temperature 1, in descending order (ties: lower id first).
pub fn likeliest(z: &[f32], count: usize) -> Vec<(u32, f32)> {
    let lse = log_sum_exp(z);
    let mut ids: Vec<u32> = (0..z.len() as u32).collect();
    let descending = |a: &u32, b: &u32| z[*b as usize].total_cmp(&z[*a as usize]).then(a.cmp(b));
    if (1..ids.len()).contains(&count) {
        ids.select_nth_unstable_by(count - 1, descending);
    }
    ids.truncate(count);
    ids.sort_by(descending);
    ids.into_iter().map(|id| (id, (f64::from(z[id as usize]) - lse) as f32)).collect()
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
}
