//! What a further row costs a step: a line through the times of the last steps, by their rows.

/// What is left of a step's weight after the next: about the last 256 count.
const KEEPS: f64 = 1.0 - 1.0 / 256.0;
/// Variance of rows below which a slope is not believed. As long as steps have the same number of rows, earlier differences fade, the slope
/// with them, and somebody tries again.
const VARIANCE_MIN: f64 = 0.25;
/// A step counts as taking at most this many times the mean: a longer one was held up by something else.
const OUTLIER: f64 = 3.0;
/// Rows beyond those measured that a step may try: this many, or `TRIED_SHARE` of the mean rows if that is more.
const TRIED_ROWS: f64 = 4.0;
const TRIED_SHARE: f64 = 0.125;

/// Decaying moments of rows and seconds.
#[derive(Debug, Default)]
pub struct StepTime {
    weight: f64,
    rows: f64,
    seconds: f64,
    variance: f64,
    covariance: f64,
}

impl StepTime {
    /// Takes note of a step.
    pub fn add(&mut self, rows: f64, seconds: f64) {
        let seconds = if self.weight > 1.0 { seconds.min(OUTLIER * self.seconds) } else { seconds };
        self.weight = self.weight * KEEPS + 1.0;
        let gain = 1.0 / self.weight;
        let (more_rows, more_seconds) = (rows - self.rows, seconds - self.seconds);
        self.rows += gain * more_rows;
        self.seconds += gain * more_seconds;
        self.variance = (1.0 - gain) * (self.variance + gain * more_rows * more_rows);
        self.covariance = (1.0 - gain) * (self.covariance + gain * more_rows * more_seconds);
    }

    /// The seconds of one more row, as a share of those of a token in a step of `rows` rows; 1 while nothing is measured.
    pub fn price(&self, rows: usize) -> f64 {
        let rows = rows as f64;
        let slope = (self.covariance / (self.variance + VARIANCE_MIN)).max(0.0);
        let step = (self.seconds + slope * (rows - self.rows)).max(0.1 * self.seconds);
        if step > 0.0 { slope * rows / step } else { 1.0 }
    }

    /// Rows up to which the line may be trusted, or tried.
    pub fn rows_known(&self) -> usize {
        let tried = TRIED_ROWS.max(TRIED_SHARE * self.rows);
        (self.rows + 3.0 * self.variance.sqrt() + tried) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of 1 ms and 0.1 ms a row.
    fn seconds(rows: usize) -> f64 {
        1e-3 + 1e-4 * rows as f64
    }

    #[test]
    fn the_price_is_a_rows_share_of_a_token() {
        let mut time = StepTime::default();
        assert_eq!(time.price(8), 1.0, "nothing is known");
        (0..400).for_each(|step| time.add((8 + step % 9) as f64, seconds(8 + step % 9)));
        for rows in [1, 8, 12] {
            let expected = 1e-4 / (seconds(rows) / rows as f64);
            assert!((time.price(rows) / expected - 1.0).abs() < 0.1, "{rows} rows: {}", time.price(rows));
        }
        assert!((20..40).contains(&time.rows_known()), "{}", time.rows_known());
    }

    #[test]
    fn what_was_measured_fades_until_it_is_tried_again() {
        let mut time = StepTime::default();
        (0..200).for_each(|step| time.add((8 + step % 2 * 4) as f64, seconds(8 + step % 2 * 4)));
        let known = time.price(8);
        (0..2_000).for_each(|_| time.add(8.0, seconds(8)));
        assert!(known > 0.3 && time.price(8) < 0.05, "{known} {}", time.price(8));
        assert_eq!(time.rows_known(), 12);
    }

    #[test]
    fn a_step_that_was_held_up_changes_little() {
        let mut time = StepTime::default();
        (0..200).for_each(|step| time.add((8 + step % 9) as f64, seconds(8 + step % 9)));
        let before = time.price(8);
        time.add(10.0, 5.0);
        assert!((time.price(8) / before - 1.0).abs() < 0.3, "{before} {}", time.price(8));
    }
}
