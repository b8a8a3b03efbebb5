//! A task played by a script: what a model would write, turn by turn, answered by an environment.

use std::collections::BTreeMap;

use super::environment::{Environment, EnvironmentError};
use super::generator::Scripted;
use super::task::Task;
use super::trajectory::Trajectory;
use super::{RolloutError, RolloutSettings, run};
use crate::prompt::Processor;

/// Rolls out one sequence of a task, whose turns are those of `script`. A turn that does not end with one of the environment's stop strings
/// closes its message.
///
/// # Errors
/// As [`run`], and when a turn cannot be tokenised.
pub fn play(
    processor: &Processor,
    environment: &dyn Environment,
    task: &Task,
    script: &[String],
) -> Result<Trajectory, RolloutError> {
    let (tokenizer, im_end) = (processor.tokenizer(), processor.special_ids().im_end);
    let stops = environment.stop_strings();
    let mut written = Vec::new();
    for turn in script {
        written.extend(tokenizer.encode(turn).map_err(EnvironmentError::from)?);
        if !stops.iter().any(|stop| turn.ends_with(stop)) {
            written.push(im_end);
        }
    }
    let ids = written.iter().copied().chain([im_end]);
    let bytes: BTreeMap<u32, Vec<u8>> = ids.map(|id| (id, tokenizer.token_bytes(id).to_vec())).collect();
    let mut generator = Scripted::new([(0, written)], im_end, move |id| bytes[&id].clone());
    let settings = RolloutSettings { tool_threads: 1, ..RolloutSettings::default() };
    let mut groups = run(&mut generator, processor, environment, std::slice::from_ref(task), &settings)?;
    Ok(groups.remove(0).trajectories.remove(0))
}
