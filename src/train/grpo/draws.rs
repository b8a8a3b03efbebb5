//! Which tasks a step rolls out.

use super::Trainer;
use crate::eval::group_report::pass_rate;
use crate::rollout::scored::Rollouts;
use crate::rollout::task::Task;
use crate::train::TrainError;

impl Trainer<'_> {
    /// The next tasks with their numbers: those that come next, or of these the ones that the curriculum takes.
    pub(super) fn draw(&mut self) -> Result<(Vec<u64>, Vec<Task>), TrainError> {
        let (first, count) = (self.tasks_drawn, self.recipe.grpo.tasks_per_batch());
        let row_of = |number| self.dataset.row_of(number).unwrap_or_default();
        let numbers = match &mut self.curriculum {
            Some(curriculum) => curriculum.draw(first, count, row_of),
            None => (first..first + count as u64).collect(),
        };
        let tasks = numbers.iter().map(|&number| self.dataset.task(number)).collect::<Result<_, _>>()?;
        Ok((numbers, tasks))
    }

    /// Tells the curriculum how many of the answers to each task were right.
    pub(super) fn note_pass_rates(&mut self, numbers: &[u64], rollouts: &Rollouts) {
        let Some(curriculum) = &mut self.curriculum else { return };
        for (group, scores) in rollouts.groups.iter().zip(&rollouts.scores) {
            if let Some(row) = self.dataset.row_of(numbers[group.task]) {
                curriculum.note(row, pass_rate(scores));
            }
        }
    }
}
