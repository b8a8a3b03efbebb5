//! thyme-engine with the tool `zoom` and the reward `brevity`.

mod brevity;
mod zoom;

use std::process::ExitCode;

use thyme_engine::rollout::registry::Registry;

/// The plug-ins that ship, and ours.
fn registry() -> Registry {
    Registry::default().with_tool(zoom::ENTRY).with_reward(brevity::ENTRY)
}

fn main() -> ExitCode {
    thyme_engine::cli::main(registry())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use thyme_engine::recipe::layers;
    use thyme_engine::recipe::plan::Plan;

    use super::registry;

    #[test]
    fn the_recipe_can_be_run() {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipe.toml");
        let recipe = layers::load(&recipe, &[]).expect("every key is known");
        let plan = Plan::new(recipe, &Arc::new(registry())).expect("the registry has its plug-ins");
        let (environment, tools) = plan.recipe.environment_and_tools();
        let environment = plan.registry.environment(environment, &tools).expect("the tool starts");
        assert_eq!(environment.versions().get("zoom").map(String::as_str), Some("1"));
    }
}
