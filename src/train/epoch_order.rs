//! The order in which the rows of files are drawn: a new one each epoch, computed from the number of a draw and never written down.

use crate::ops::sample::philox_uniform;

/// Which row each draw is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochOrder {
    rows: usize,
    /// Seed of the orders; that of the files where absent.
    shuffle: Option<u64>,
    /// The rows of the first epoch, where it has an order of its own.
    first: Option<Vec<usize>>,
}

impl EpochOrder {
    /// Of at least one row, shuffled by a seed or in the order of the files.
    pub fn new(rows: usize, shuffle: Option<u64>) -> EpochOrder {
        EpochOrder { rows, shuffle, first: None }
    }

    /// The same with another first epoch, in which rows with larger values come first; equal ones stay as they were.
    pub fn with_largest_first(mut self, values: &[f64]) -> EpochOrder {
        let mut first: Vec<usize> = (0..self.rows as u64).map(|number| self.row(number)).collect();
        first.sort_by(|&one, &other| values[other].total_cmp(&values[one]));
        self.first = Some(first);
        self
    }

    /// The row that draw `number` is.
    pub fn row(&self, number: u64) -> usize {
        let (epoch, place) = (number / self.rows as u64, (number % self.rows as u64) as usize);
        match &self.first {
            Some(first) if epoch == 0 => first[place],
            _ => self.shuffle.map_or(place, |seed| shuffled(place, self.rows, seed, epoch)),
        }
    }
}

/// Rounds of [`shuffled`]; Luby and Rackoff need four for a network that cannot be told from a random permutation.
const ROUNDS: u64 = 6;

/// Where `place` goes in epoch `epoch`'s order of `count`. The order is never written down: a Feistel network permutes the numbers of an even
/// count of bits (Luby and Rackoff 1988), and is applied until the number is one below `count` (Black and Rogaway 2002), which takes less
/// than four times on average.
pub fn shuffled(place: usize, count: usize, seed: u64, epoch: u64) -> usize {
    let half_bits = (u64::BITS - (count as u64 - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1 << half_bits) - 1;
    let mut number = place as u64;
    loop {
        let (mut high, mut low) = (number >> half_bits, number & mask);
        for round in 0..ROUNDS {
            let scattered = philox_uniform(seed, epoch, round << 32 | low) * (mask + 1) as f64;
            (high, low) = (low, high ^ scattered as u64);
        }
        number = high << half_bits | low;
        if number < count as u64 {
            return number as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_epoch_goes_from_large_to_small_and_later_ones_are_as_ever() {
        let values = [0.5, 1.0, 0.0, 1.0, 0.5, 0.25];
        let plain = EpochOrder::new(6, Some(3));
        let sorted = plain.clone().with_largest_first(&values);
        let rows = |order: &EpochOrder, epoch: u64| (0..6).map(|i| order.row(6 * epoch + i)).collect::<Vec<_>>();
        let first = rows(&sorted, 0);
        let drawn: Vec<f64> = first.iter().map(|&row| values[row]).collect();
        assert_eq!(drawn, [1.0, 1.0, 0.5, 0.5, 0.25, 0.0]);
        let place = |row: usize| rows(&plain, 0).iter().position(|&other| other == row);
        assert_eq!(first[0] == 1, place(1) < place(3), "equal ones are in the shuffled order");
        assert_eq!(rows(&sorted, 1), rows(&plain, 1));
        let of_files = EpochOrder::new(6, None).with_largest_first(&values);
        assert_eq!([rows(&of_files, 0), rows(&of_files, 1)], [vec![1, 3, 0, 4, 5, 2], vec![0, 1, 2, 3, 4, 5]]);
    }
}
