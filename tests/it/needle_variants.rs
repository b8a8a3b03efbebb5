//! The harder variants of the built-in task, and their recipes in `recipes/needle_variants/`: each is drawn alike every time, its script finds the answer
//! in the environment of its recipe, and its splits share no scene.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use image::RgbImage;
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::layers::load;
use thyme_engine::recipe::{Method, Recipe};
use thyme_engine::rollout::environment::Environment;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::{Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};
use thyme_engine::rollout::script::play;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::tool::CallStatus;
use thyme_engine::tasks::needle::variants::Lesson;
use thyme_engine::tasks::needle::{Kind, Split, Variant};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::demonstration::Demonstration;

use crate::support::command::{Workplace, assert_names, refuse, succeed, train};

fn recipe(variant: Variant, settings: &[String]) -> Recipe {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/needle_variants");
    load(&folder.join(variant.name()).with_extension("toml"), settings).unwrap_or_else(|error| panic!("{error}"))
}

fn environment(recipe: &Recipe) -> std::sync::Arc<dyn Environment> {
    let (named, tools) = recipe.environment_and_tools();
    Registry::default().environment(named, &tools).unwrap()
}

fn processor(recipe: &Recipe) -> Processor {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny-sft");
    recipe.model.configured(Processor::open(&tiny).unwrap())
}

fn script(variant: Variant, kind: Kind, split: Split, index: u64) -> (Task, Vec<String>, String) {
    let Lesson::Script { task, turns } = variant.lesson(kind, split, 4, index) else { panic!("{kind:?} is a script") };
    let solution = task.solution.clone().unwrap().to_string();
    (Task::of_example(task).unwrap(), turns, solution)
}

#[test]
fn a_look_finds_the_answer_in_the_environment_of_its_recipe() {
    let rewards = RewardSet::new(&RewardSettings::default(), &Registry::default()).unwrap();
    // A second look takes more tokens than the recipes have.
    let kinds = [(Kind::Look, vec![]), (Kind::LookTwice, vec!["environment.max_total_tokens=1024".to_owned()])];
    for (variant, (kind, settings)) in
        Variant::ALL.into_iter().flat_map(|variant| kinds.iter().map(move |kind| (variant, kind)))
    {
        if *kind == Kind::LookTwice && !variant.can_look_twice() {
            continue;
        }
        let recipe = recipe(variant, settings);
        let (environment, processor) = (environment(&recipe), processor(&recipe));
        for (split, index) in
            [Split::Train, Split::HeldOut].into_iter().flat_map(|split| (0..6).map(move |i| (split, i)))
        {
            let (task, turns, solution) = script(variant, *kind, split, index);
            let trajectory = play(&processor, &*environment, &task, &turns).unwrap();
            let name = format!("{} {kind:?} {split:?} {index}: {:?}", variant.name(), trajectory.end);
            for call in &trajectory.calls {
                assert_eq!(call.output.status, CallStatus::Ok, "{name}: {}", call.output.text);
            }
            let said = trajectory.own_text();
            let answer = trajectory.answer.as_ref().unwrap_or_else(|| panic!("{name}: no answer in {said:?}"));
            assert_eq!(said[answer.inside.clone()], solution, "{name}");
            assert!(trajectory.calls.len() + 1 >= turns.len(), "{name}");
            // A planner thinks in JSON, not between tags.
            let is_tagged = variant != Variant::Chart;
            let scores = rewards.score_group(&[View::new(&trajectory, "", &solution.as_str().into())]).remove(0);
            assert_eq!(scores.part("format"), Some(&Score::of(is_tagged)), "{name}");
            assert!(Demonstration::of(&trajectory, processor.image_settings()).is_some(), "{name}");
        }
    }
}

#[test]
fn samples_are_the_same_every_time_and_the_splits_share_no_scene() {
    for variant in Variant::ALL {
        assert_eq!(variant.task(Split::Train, 3, 5), variant.task(Split::Train, 3, 5));
        let pictures = |split| -> BTreeSet<Vec<u8>> {
            (0..40)
                .map(|index| variant.task(split, 1, index).images.into_iter().flat_map(RgbImage::into_raw).collect())
                .collect()
        };
        let (train, held_out) = (pictures(Split::Train), pictures(Split::HeldOut));
        assert_eq!((train.len(), held_out.len()), (40, 40), "{}", variant.name());
        assert!(train.is_disjoint(&held_out), "{}", variant.name());
    }
}

#[test]
fn a_guess_is_right_as_often_as_chance() {
    for variant in Variant::ALL {
        let is_right = |index: &u64| {
            let (_, turns, solution) = script(variant, Kind::Guess, Split::Train, *index);
            turns[0].contains(&format!("it is {solution}."))
        };
        let right = (0..300).filter(is_right).count();
        assert!((15..=60).contains(&right), "{}: {right} of 300", variant.name());
    }
}

#[test]
fn a_script_is_learned_as_its_environment_answers_it() {
    let place = Workplace::new();
    let recipe = place.sft("logging_steps = 1\n[data.needle]\nvariant = \"nested\"\nmixture = { look = 1.0 }\n");
    let said = succeed(train(&recipe, &["--set", "training.max_steps=1"]));
    assert_names(&said, &["needle (nested) example", "think_with_code", "script", "[environment]"]);
    let settings =
        ["environment.name=zoom_in_bank", "environment.system_prompt=Zoom.", "environment.user_prompt={question}"];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    succeed(train(&recipe, &[&["--overwrite", "--set", "training.max_steps=1"][..], &settings].concat()));
    let metrics = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert_eq!(line["left_out"], 0.0);
    assert!(line["trained_tokens"].as_f64().unwrap() > 300.0, "two looks of three turns: {line}");
}

fn thyme(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments);
    command
}

#[test]
fn the_commands_write_and_evaluate_a_variant() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("frames").display().to_string();
    let data = ["data", "needle", "--count", "2", "--seed", "6", "--split", "held_out", "--out", &out];
    succeed(thyme(&[&data[..], &["--variant", "frames"]].concat()));
    let written = Dataset::from_files(&[place.path().join("frames/data.jsonl")], Method::Grpo, None).unwrap();
    for number in 0..2 {
        assert_eq!(written.example(number).unwrap(), Variant::Frames.task(Split::HeldOut, 6, number));
    }
    let unknown = thyme(&[&data[..], &["--variant", "rain"]].concat()).output().unwrap();
    assert_names(&String::from_utf8_lossy(&unknown.stderr), &["rain", "small, compare"]);
    assert_names(&refuse(thyme(&[&data[..], &["--variant", "dark", "--kind", "look"]].concat())), &["dark", "sft"]);
    let eval = ["eval", "--model", "recipes/tiny-sft", "--limit", "2", "--data"];
    let recipe = ["--recipe", "recipes/needle_variants/dark.toml"];
    assert_names(&succeed(thyme(&[&eval[..], &["needle:dark"], &recipe].concat())), &["tasks", "tool use"]);
    assert_names(&refuse(thyme(&[&eval[..], &["needle:rain"], &recipe].concat())), &["rain", "frames"]);
}
