//! What cannot be among the keys of `[data.curriculum]`.

use super::error::{PlanError, value};
use crate::recipe::{Method, Recipe};

/// A curriculum is of rows that come again, in runs that measure them.
pub(super) fn check_curriculum(recipe: &Recipe) -> Result<(), PlanError> {
    let Some(curriculum) = &recipe.data.curriculum else { return Ok(()) };
    let given = |remedy: &str| value("data.curriculum", "given", remedy);
    if recipe.method != Method::Grpo {
        return given("only `method = \"grpo\"` measures pass rates; remove it");
    }
    if recipe.data.needle.is_some() {
        return given("the built-in task never draws a task again; give `data.files`, or remove it");
    }
    if !recipe.data.sources.is_empty() {
        return given(
            "sources are drawn as often as their weights say; give `data.files` in their place, or remove it",
        );
    }
    let [low, high] = curriculum.pass_rate;
    if !(low < high && low < 1.0 && high > 0.0) {
        let remedy = "give two numbers of which the first is smaller, such as [0.0, 1.0]: pass rates lie from 0 to 1";
        return value("data.curriculum.pass_rate", format!("[{low}, {high}]"), remedy);
    }
    let share = curriculum.outside_share;
    match (0.0..=1.0).contains(&share) {
        true => Ok(()),
        false => value("data.curriculum.outside_share", share.to_string(), "give a number from 0 to 1"),
    }
}
