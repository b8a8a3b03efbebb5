//! Numbers of several values, and how they are shown.

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

/// Least, mean and greatest value; NaN of none.
pub fn spread(values: &[f64]) -> [f64; 3] {
    let extreme = |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose).unwrap_or(f64::NAN);
    [extreme(f64::min), mean(values), extreme(f64::max)]
}
