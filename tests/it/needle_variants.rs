//! The harder variants of the built-in task, and their recipes in `recipes/needle_variants/`: each is drawn alike every time, its script finds the answer
//! in the environment of its recipe, and its splits share no scene. All recipes are run, for three seeds, by
//!
//!     cargo test --release --test it needle_variants -- --ignored --nocapture

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use image::RgbImage;
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::Recipe;
use thyme_engine::recipe::layers::load;
use thyme_engine::rollout::environment::Environment;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::{Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};
use thyme_engine::rollout::script::play;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::tool::CallStatus;
use thyme_engine::tasks::needle::variants::Lesson;
use thyme_engine::tasks::needle::{Kind, Split, Variant};
use thyme_engine::train::demonstration::Demonstration;

fn recipe(variant: Variant, of: &str) -> (PathBuf, Recipe) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/needle_variants");
    let path = folder.join(format!("{}{of}.toml", variant.name()));
    let recipe = load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
    (path, recipe)
}

fn environment(recipe: &Recipe) -> std::sync::Arc<dyn Environment> {
    let (named, tools) = recipe.environment_and_tools();
    Registry::default().environment(named, &tools).unwrap()
}

fn processor(recipe: &Recipe) -> Processor {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny-sft");
    let processor = Processor::open(&tiny).unwrap();
    match recipe.model.max_pixels {
        Some(pixels) => processor.with_max_pixels(pixels),
        None => processor,
    }
}

fn script(variant: Variant, kind: Kind, split: Split, index: u64) -> (Task, Vec<String>, String) {
    let Lesson::Script { task, turns } = variant.lesson(kind, split, 4, index) else { panic!("{kind:?} is a script") };
    let solution = task.solution.clone().unwrap().to_string();
    (Task::of_example(task).unwrap(), turns, solution)
}

#[test]
fn a_look_finds_the_answer_in_the_environment_of_its_recipe() {
    let rewards = RewardSet::new(&RewardSettings::default(), &Registry::default()).unwrap();
    for variant in Variant::ALL {
        let (_, recipe) = recipe(variant, "");
        let (environment, processor) = (environment(&recipe), processor(&recipe));
        for (split, index) in [Split::Train, Split::HeldOut].into_iter().flat_map(|split| (0..6).map(move |i| (split, i))) {
            let (task, turns, solution) = script(variant, Kind::Look, split, index);
            let trajectory = play(&processor, &*environment, &task, &turns).unwrap();
            let name = format!("{} {split:?} {index}: {:?}", variant.name(), trajectory.end);
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
            if Demonstration::of(&trajectory, processor.image_settings()).is_none() { for i in &trajectory.images { println!("{:?} {:?}", (i.original_width, i.original_height), i.resized()); } for c in &trajectory.calls { println!("{} {:?}", c.tool, c.output.images.iter().map(|i| i.pixels.dimensions()).collect::<Vec<_>>()); } println!("{:?}", processor.image_settings()); println!("{:?}", trajectory.turns.iter().map(|t| &t.text).collect::<Vec<_>>()); }
            assert!(Demonstration::of(&trajectory, processor.image_settings()).is_some(), "{name}");
        }
    }
}

#[test]
fn samples_are_the_same_every_time_and_the_splits_share_no_scene() {
    for variant in Variant::ALL {
        assert_eq!(variant.task(Split::Train, 3, 5), variant.task(Split::Train, 3, 5));
        let pictures = |split| -> BTreeSet<Vec<u8>> {
            (0..40).map(|index| variant.task(split, 1, index).images.into_iter().flat_map(RgbImage::into_raw).collect()).collect()
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
        assert!((15..=48).contains(&right), "{}: {right} of 300", variant.name());
    }
}
