//! A curriculum: which draws a run of GRPO passes over, because the row was too easy or too hard when it was last measured.
//!
//! The order of draws stays that of the data set; a draw is taken or passed over as its number comes up. So what a run draws depends on its seed and on
//! the pass rates alone, and these are saved with a checkpoint.

use std::path::Path;

use super::dataset::Dataset;
use super::error::TrainError;
use crate::checkpoint::CheckpointError;
use crate::files::json::read_json;
use crate::files::open::{is_there, read, replace};
use crate::ops::sample::philox_uniform;
use crate::recipe::CurriculumSettings;
use crate::telemetry::window::{Aggregation, Metric};

/// The file in a checkpoint: a list with the pass rate of each row, null where none is known.
const PASS_RATES_FILE: &str = "pass_rates.json";
/// Most bytes of it that are read.
const BYTES_MAX: u64 = 1 << 32;
/// The sequence of random numbers by which rows outside the band are drawn; epochs, which shuffle by the same seed, never get so far.
const OUTSIDE: u64 = 1 << 63;

/// The pass rates of rows, and the band in which they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Curriculum {
    settings: CurriculumSettings,
    seed: u64,
    /// Of each row, in the order of [`Dataset::row_of`]; `None` where none is known.
    pass_rates: Vec<Option<f64>>,
    /// Draws that were taken and that were passed over, since [`Curriculum::metrics`].
    taken: usize,
    passed_over: usize,
}

impl Curriculum {
    /// Of rows with these pass rates.
    pub fn new(settings: &CurriculumSettings, seed: u64, pass_rates: Vec<Option<f64>>) -> Curriculum {
        Curriculum { settings: settings.clone(), seed, pass_rates, taken: 0, passed_over: 0 }
    }

    /// At the start of a run, with what the rows themselves say; or as it was in a checkpoint, which has nothing of it where the run had no curriculum then.
    ///
    /// # Errors
    /// When a row's pass rate is none, or the checkpoint's are damaged or of other files.
    pub fn open(
        settings: &CurriculumSettings,
        seed: u64,
        dataset: &Dataset,
        checkpoint: Option<&Path>,
    ) -> Result<Curriculum, TrainError> {
        let of_rows = dataset.pass_rates()?;
        let path = checkpoint.map(|checkpoint| checkpoint.join(PASS_RATES_FILE)).filter(|path| is_there(path));
        let Some(path) = path else { return Ok(Curriculum::new(settings, seed, of_rows)) };
        let bytes = read(&path, BYTES_MAX).map_err(CheckpointError::file("read", &path))?;
        let known: Vec<Option<f64>> =
            read_json(&bytes).map_err(|reason| CheckpointError::Damaged { path: path.clone(), reason })?;
        if known.len() != of_rows.len() {
            let problem = format!("are of {} rows, and `data.files` has {}", known.len(), of_rows.len());
            return Err(CheckpointError::State { path, name: "pass rates".to_owned(), problem }.into());
        }
        Ok(Curriculum::new(settings, seed, known))
    }

    /// Writes the pass rates into a checkpoint that is being written.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn write_to(&self, checkpoint: &Path) -> Result<(), CheckpointError> {
        let path = checkpoint.join(PASS_RATES_FILE);
        let text = serde_json::to_string(&self.pass_rates).expect("numbers serialise");
        replace(&path, text.as_bytes()).map_err(CheckpointError::file("write", path))
    }

    /// The numbers of the next `count` draws from `from` on; `row_of` says which row a draw is. Where a whole epoch has no row to draw, the next draw is
    /// taken all the same.
    pub fn draw(&mut self, from: u64, count: usize, row_of: impl Fn(u64) -> usize) -> Vec<u64> {
        let mut next = from;
        let numbers: Vec<u64> = (0..count)
            .map(|_| {
                // So many draws hold a whole epoch, wherever they begin.
                let searched = next..next + 2 * self.pass_rates.len() as u64;
                let number = searched.clone().find(|&number| self.takes(number, row_of(number)));
                let number = number.unwrap_or(searched.start);
                next = number + 1;
                number
            })
            .collect();
        self.taken += count;
        self.passed_over += (next - from) as usize - count;
        numbers
    }

    fn takes(&self, number: u64, row: usize) -> bool {
        let Some(rate) = self.pass_rates[row] else { return true };
        self.is_inside(rate) || philox_uniform(self.seed, OUTSIDE, number) < self.settings.outside_share
    }

    fn is_inside(&self, rate: f64) -> bool {
        let [low, high] = self.settings.pass_rate;
        low < rate && rate < high
    }

    /// Takes in the pass rate of a row's group; NaN, of a group of which nothing was scored, says nothing.
    pub fn note(&mut self, row: usize, pass_rate: f64) {
        if !pass_rate.is_nan() {
            self.pass_rates[row] = Some(pass_rate);
        }
    }

    /// How hard the rows are as they are known now, and the share of the draws since the last call that were passed over.
    pub fn metrics(&mut self) -> Vec<Metric> {
        let known: Vec<f64> = self.pass_rates.iter().flatten().copied().collect();
        let of_known = |sum: f64| sum / known.len() as f64;
        let inside = known.iter().filter(|rate| self.is_inside(**rate)).count();
        let (taken, passed_over) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.passed_over));
        vec![
            Metric::mean("curriculum/skipped", passed_over as f64 / (taken + passed_over) as f64),
            Metric::new("curriculum/measured", known.len() as f64 / self.pass_rates.len() as f64, Aggregation::Last),
            Metric::new("curriculum/pass_rate", of_known(known.iter().sum()), Aggregation::Last),
            Metric::new("curriculum/in_band", of_known(inside as f64), Aggregation::Last),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Method;
    use crate::telemetry::window::Window;

    const RATES: [Option<f64>; 6] = [Some(0.0), Some(0.5), None, Some(1.0), Some(0.25), Some(1.0)];

    fn curriculum(pass_rate: [f64; 2], outside_share: f64) -> Curriculum {
        let settings = CurriculumSettings { pass_rate, outside_share, easy_first: false };
        Curriculum::new(&settings, 7, RATES.to_vec())
    }

    fn row_of(number: u64) -> usize {
        (number % 6) as usize
    }

    #[test]
    fn rows_outside_the_band_are_passed_over_until_they_are_measured_inside() {
        let mut curriculum = curriculum([0.0, 1.0], 0.0);
        assert_eq!(curriculum.draw(0, 5, row_of), [1, 2, 4, 7, 8], "the band has no ends");
        curriculum.note(0, 0.75);
        curriculum.note(1, 1.0);
        curriculum.note(2, f64::NAN);
        assert_eq!(curriculum.draw(9, 4, row_of), [10, 12, 14, 16], "an unmeasured row is always drawn");
        let mut window = Window::default();
        window.add_step(curriculum.metrics());
        let found = window.averages();
        for (name, wanted) in [
            ("curriculum/skipped", 8.0 / 17.0),
            ("curriculum/measured", 5.0 / 6.0),
            ("curriculum/pass_rate", (0.75 + 1.0 + 1.0 + 0.25 + 1.0) / 5.0),
            ("curriculum/in_band", 2.0 / 5.0),
        ] {
            assert_eq!(found.get(name), wanted, "{name}");
        }
    }

    #[test]
    fn a_bound_beyond_all_rates_is_none() {
        assert_eq!(curriculum([-1.0, 0.5], 0.0).draw(0, 4, row_of), [0, 2, 4, 6]);
    }

    #[test]
    fn some_of_the_rows_outside_are_drawn_by_the_seed_alone() {
        let drawn = |from: u64, count: usize| curriculum([0.0, 1.0], 0.3).draw(from, count, row_of);
        let numbers = drawn(0, 600);
        let outside = numbers.iter().filter(|number| [0, 3, 5].contains(&row_of(**number))).count() as f64;
        let passed = numbers.last().unwrap() / 2;
        assert!((outside / passed as f64 - 0.3).abs() < 0.06, "{outside} of {passed}");
        assert_eq!(drawn(numbers[99] + 1, 500), numbers[100..], "wherever one begins");
    }

    #[test]
    fn where_no_row_is_left_one_is_drawn_all_the_same() {
        let mut curriculum = curriculum([0.0, 1.0], 0.0);
        (0..6).for_each(|row| curriculum.note(row, 1.0));
        assert_eq!(curriculum.draw(3, 3, row_of), [3, 4, 5]);
    }

    #[test]
    fn what_a_checkpoint_has_takes_the_place_of_what_the_rows_say() {
        let folder = tempfile::tempdir().unwrap();
        let rows = folder.path().join("rows.jsonl");
        let row = |rate: &str| {
            format!(
                "{{\"messages\": [{{\"role\": \"user\", \"content\": \"1 + 1?\"}}], \"images\": [], \"solution\": \"2\"{rate}}}\n"
            )
        };
        let read = |rows| Dataset::from_files(std::slice::from_ref(rows), Method::Grpo, None).unwrap();
        std::fs::write(&rows, ["", ", \"pass_rate\": 0.1", ", \"pass_rate\": null"].map(row).concat()).unwrap();
        let dataset = read(&rows);
        let settings = CurriculumSettings::default();
        let open = |dataset: &Dataset, checkpoint| Curriculum::open(&settings, 7, dataset, checkpoint);
        let mut curriculum = open(&dataset, Some(folder.path())).unwrap();
        assert_eq!(curriculum.pass_rates, [None, Some(0.1), None]);
        curriculum.note(2, 1.0 / 3.0);
        curriculum.write_to(folder.path()).unwrap();
        assert_eq!(open(&dataset, Some(folder.path())).unwrap(), curriculum);
        assert_eq!(open(&dataset, None).unwrap().pass_rates, [None, Some(0.1), None]);

        std::fs::write(&rows, row("")).unwrap();
        let other = read(&rows);
        let message = open(&other, Some(folder.path())).unwrap_err().to_string();
        assert!(message.contains("of 3 rows") && message.contains("has 1"), "{message}");
        std::fs::write(&rows, row(", \"pass_rate\": \"hard\"")).unwrap();
        let wrong = read(&rows);
        let message = open(&wrong, None).unwrap_err().to_string();
        assert!(message.contains("rows.jsonl:1: `pass_rate` is \"hard\": give a number"), "{message}");
    }
}
