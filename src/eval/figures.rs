//! Numbers of several values, and how they are shown.

use serde::Serialize;

/// Mean, least and greatest of several values; NaN of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// That of `values`.
    pub fn of(values: &[f64]) -> Spread {
        let extreme = |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose).unwrap_or(f64::NAN);
        Spread { mean: mean(values), min: extreme(f64::min), max: extreme(f64::max) }
    }
}

/// Three digits, or a dash for what nothing was measured of.
pub fn figure(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.3}") }
}

/// The mean; NaN of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Unbiased; NaN of less than two values.
pub fn standard_deviation(values: &[f64]) -> f64 {
    let center = mean(values);
    match values.len() {
        0 | 1 => f64::NAN,
        count => (values.iter().map(|value| (value - center).powi(2)).sum::<f64>() / (count as f64 - 1.0)).sqrt(),
    }
}

/// Entropy of the distribution that these counts are, in nats: `−Σ p ln p`; 0 of one kind, NaN of nothing.
pub fn entropy(counts: &[usize]) -> f64 {
    let all = counts.iter().sum::<usize>() as f64;
    if all == 0.0 {
        return f64::NAN;
    }
    let terms = counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 / all);
    terms.map(|share| -share * share.ln()).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entropy_of_counts_is_that_of_their_shares() {
        assert_eq!(entropy(&[7]), 0.0);
        assert_eq!(entropy(&[0, 3, 0]), 0.0);
        assert!((entropy(&[2, 2, 2, 2]) - 4f64.ln()).abs() < 1e-15);
        // scipy.stats.entropy([1, 2, 5])
        assert!((entropy(&[1, 2, 5]) - 0.900_256_051_268_536_9).abs() < 1e-12);
        assert!(entropy(&[]).is_nan() && entropy(&[0, 0]).is_nan());
    }

    #[test]
    fn a_spread_of_nothing_is_no_number() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { mean: 2.0, min: 1.0, max: 3.0 });
        let none = Spread::of(&[]);
        assert!(none.mean.is_nan() && none.min.is_nan() && none.max.is_nan());
    }
}
