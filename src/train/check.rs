//! Checks every row of a recipe's data files before a run: whether it has the method's form, its pictures can be read, and it fits the model.

use std::path::Path;

use rayon::prelude::*;

use super::dataset::{Dataset, DatasetError, rows};
use super::dpo::pairs::pair;
use super::sft::Demonstrations;
use crate::prompt::{Processor, Prompt, PromptError};
use crate::recipe::Method;
use crate::recipe::plan::Plan;
use crate::rollout::task::TaskPrompt;
use crate::rollout::trajectory::End;
use crate::tasks::jsonl::Record;
use crate::telemetry::Progress;

/// Rows that are looked at in parallel before the progress is shown.
const ROWS_TOGETHER: usize = 256;

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Rows that were looked at.
    pub rows: usize,
    /// What is wrong with those that cannot be used, in the order of the files, each with its file and line.
    pub unusable: Vec<String>,
}

/// Looks at every row of the plan's data files, and of the files of its evaluation where the method has one.
///
/// # Errors
/// When the checkpoint's prompt side cannot be read.
pub fn check_data(plan: &Plan) -> Result<Checked, PromptError> {
    let (recipe, processor) = (&plan.recipe, plan.processor()?);
    let mut checked = Checked::default();
    for path in recipe.data.all_files() {
        check_file(&mut checked, plan, &processor, path, recipe.method);
    }
    if recipe.method == Method::Grpo {
        for path in &recipe.evaluation.files {
            check_file(&mut checked, plan, &processor, path, Method::Grpo);
        }
    }
    Ok(checked)
}

fn check_file(checked: &mut Checked, plan: &Plan, processor: &Processor, path: &Path, method: Method) {
    let rows = match rows(path, method) {
        Ok(rows) => rows,
        Err(error) => return checked.unusable.push(error.to_string()),
    };
    checked.rows += rows.len();
    let progress = Progress::new(&format!("check {}", path.display()), "rows", rows.len() as u64);
    let problem = |row: Result<Record, DatasetError>| match row {
        Err(error) => Some(error.to_string()),
        Ok(record) => {
            let dataset = Dataset::of_record(record);
            match method {
                Method::Sft => demonstration_problem(&dataset, processor, plan),
                Method::Grpo => task_problem(&dataset, processor, plan),
                Method::Dpo => {
                    let problem = pair(&dataset, processor, plan.checkpoint.config.context_tokens, 0).err();
                    problem.map(|problem| problem.to_string())
                }
            }
        }
    };
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let some: Vec<_> = rows.by_ref().take(ROWS_TOGETHER).collect();
        let count = some.len() as u64;
        checked.unusable.par_extend(some.into_par_iter().filter_map(problem));
        progress.advance(count);
    }
    progress.finish();
}

/// What is wrong with a demonstration, if it cannot be learned from.
fn demonstration_problem(dataset: &Dataset, processor: &Processor, plan: &Plan) -> Option<String> {
    match Demonstrations::new(dataset, processor, plan) {
        Ok(demonstrations) => demonstrations.sample(0).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// What is wrong with a task, if its prompt cannot be made or leaves the model no room.
fn task_problem(dataset: &Dataset, processor: &Processor, plan: &Plan) -> Option<String> {
    let prompt = dataset.task(0).and_then(|task| match &task.prompt {
        TaskPrompt::Conversation(messages) => Ok(processor.encode_messages(messages, &task.folder, true)?),
        // No row of a file is one of these.
        TaskPrompt::Question | TaskPrompt::Tokens(_) => Ok(Prompt::default()),
    });
    let problem = match prompt {
        Err(error) => error.to_string(),
        Ok(prompt) => {
            let (needed, limit) = (prompt.token_ids.len() + 1, plan.checkpoint.config.context_tokens);
            if needed <= limit {
                return None;
            }
            End::PromptTooLong { needed, limit }.fault()?
        }
    };
    Some(format!("{}: {problem}", dataset.name_of(0)))
}
