//! `recipes/own_python/`: its tool and its reward on a scripted model, a training step from the command line, and what is refused there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use image::{Rgb, RgbImage, imageops};
use serde_json::Value;
use thyme_engine::image_ops;
use thyme_engine::prompt::ImageSource;
use thyme_engine::recipe::layers::load;
use thyme_engine::recipe::plan::Plan;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::reward_set::RewardSet;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::tool::CallStatus;
use thyme_engine::rollout::{RolloutSettings, run};

use crate::rollout::{processor, scripted};
use crate::support::command::{Workplace, refuse, succeed, train};

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/own_python/recipe.toml")
}

#[test]
fn the_shipped_tool_and_reward_work_in_a_rollout() {
    // Each byte is a token here.
    let limits = ["environment.max_turn_tokens=1000", "environment.max_total_tokens=4000"].map(str::to_owned);
    let plan = Plan::new(load(&recipe(), &limits).unwrap(), &Arc::new(Registry::default())).unwrap();
    let (environment, tools) = plan.recipe.environment_and_tools();
    let environment = plan.registry.environment(environment, &tools).unwrap();
    let rewards = RewardSet::new(&plan.recipe.reward, &plan.registry).unwrap();
    let picture = RgbImage::from_fn(400, 200, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
    let task = Task {
        prompt: TaskPrompt::Question,
        question: "What is it?".into(),
        solution: "7".into(),
        images: vec![ImageSource::Memory(Arc::new(picture.clone()))],
        ..Task::default()
    };
    let zoom = |arguments: &str| format!("<tool>{{\"name\": \"zoom\", \"args\": {arguments}}}</tool>");
    let looks = format!(
        "{}{}<answer>7</answer>",
        zoom(r#"{"box": [10, 20, 66, 48]}"#),
        zoom(r#"{"box": [0, 0, 224, 224], "image": 1}"#)
    );
    let misses = format!("{}<answer>7</answer>", zoom(r#"{"box": [500, 20, 600, 48]}"#));
    let scripts = [&*looks, &*misses, "<answer>8</answer>"];
    let settings = RolloutSettings { group_size: scripts.len(), ..RolloutSettings::default() };
    let tasks = [task];
    let groups = run(&mut scripted(&scripts), processor(), &*environment, &tasks, &settings).unwrap();
    let calls = &groups[0].trajectories[0].calls;
    let statuses: Vec<_> = calls.iter().map(|call| (call.output.status, call.output.text.as_str())).collect();
    let ok = |text| (CallStatus::Ok, text);
    assert_eq!(statuses, [ok("The part is enlarged 8 times."), ok("The part is enlarged 1 times.")]);
    let part = Arc::new(imageops::crop_imm(&picture, 10, 20, 56, 28).to_image());
    let enlarged = image_ops::resize(&part, 448, 224, image_ops::Filter::Lanczos).unwrap();
    assert_eq!(calls[0].output.images[0].pixels, enlarged, "Pillow in the jail and the same filter here");
    assert_eq!(*calls[1].output.images[0].pixels, imageops::crop_imm(&*enlarged, 0, 0, 224, 224).to_image());
    let missed = &groups[0].trajectories[1].calls[0].output;
    assert_eq!(missed.status, CallStatus::Error);
    assert_eq!(missed.text, "Error: ValueError: the box [500, 20, 600, 48] has no pixel of the image of 400x200");
    let scores = rewards.score_groups(&groups, &tasks).remove(0);
    let focus: Vec<_> = scores.iter().map(|scores| scores.part("focus").and_then(Score::value)).collect();
    assert_eq!(focus, [Some(1.0 - 224.0 * 224.0 / 80_000.0), Some(0.0), Some(0.0)], "{scores:?}");
}

#[test]
fn a_step_of_training_runs_with_the_shipped_files() {
    let place = Workplace::new();
    let output = format!("output_dir={}", place.path("runs").display());
    let settings = ["training.max_steps=1", "evaluation.tasks=1", "training.save_strategy=no", &output];
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let said = succeed(train(&recipe(), &arguments));
    assert!(said.contains("zoom (file)") && said.contains("focus (file)"), "{said}");
    let samples = place.path("runs/own_python/samples");
    let pages = std::fs::read_dir(&samples).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()));
    assert!(pages.into_iter().any(|page| page.is_ok_and(|page| page.contains("focus"))), "{samples:?}");
}

#[test]
fn a_tool_and_a_reward_of_a_recipe_are_tried_from_the_command_line() {
    let place = Workplace::new();
    let image = place.path("picture.png");
    RgbImage::from_pixel(300, 100, Rgb([1, 2, 3])).save(&image).unwrap();
    let tried = |name: &str, arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command
            .args(["tools", "try", name, "--arguments", arguments, "--recipe"])
            .arg(recipe())
            .arg("--image")
            .arg(&image);
        command.arg("--out").arg(place.path("out")).output().unwrap()
    };
    let output = tried("zoom", r#"{"box": [0, 0, 28, 56]}"#);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["status"], &said["text"]), (&"ok".into(), &"The part is enlarged 8 times.".into()));
    let made = image::open(said["images"][0].as_str().unwrap()).unwrap().to_rgb8();
    assert_eq!(made, RgbImage::from_pixel(224, 448, Rgb([1, 2, 3])));
    let output = tried("zoom", r#"{"box": [0, 0]}"#);
    let (said, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(said.contains(r#""status":"error""#) && said.contains("Error: ValueError: not enough values"), "{said}");
    assert!(log.contains("zoom.py:26: ValueError: not enough values"), "{log}");
    let output = tried("python", "{}");
    assert_eq!(output.status.code(), Some(2));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.contains("there is no tool \"python\" in ") && log.contains("its tools are: zoom, convert_grayscale"),
        "{log}"
    );

    place.write("mine.py", "def reward(answer, columns): return columns['points'][answer]");
    let own = "method = \"grpo\"\n[reward.settings.mine]\nfile = \"mine.py\"\n";
    let own = place.write("own.toml", own);
    let line = |answer| format!("{{\"answer\": \"{answer}\", \"solution\": \"7\", \"points\": {{\"7\": 0.25}}}}\n");
    let (lines, scores) = (place.write("A.jsonl", line("7") + &line("8")), place.path("B.jsonl"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.args(["eval", "--predictions"]).arg(lines).arg("--output").arg(&scores).arg("--recipe").arg(own);
    succeed(command);
    let text = std::fs::read_to_string(scores).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["scores"]["mine"], 0.25);
    let (score, reason) = (&rows[1]["scores"]["mine"], rows[1]["unscored"]["mine"].as_str().unwrap());
    assert!(score.is_null() && reason.contains("mine.py:1: KeyError: '8' (def reward("), "{reason}");
}

#[test]
fn files_are_relative_to_the_recipe_and_refused_before_the_run() {
    let place = Workplace::new();
    place.write("lib/helper.py", "");
    place.write("mine.py", "SCHEMA = {}\ndef call(arguments, images): return ''\n");
    place.write("reward.py", "\ndef reward(*, answer: return 0\n");
    let recipe = place.grpo(
        "[evaluation]\ntasks = 0\n[data.needle]\n[tool]\nname = \"mine\"\nfile = \"mine.py\"\nread = [\"lib\"]\n[reward.settings.own]\nfile = \"reward.py\"\n",
    );
    let read = load(&recipe, &[]).unwrap();
    let path = |name: &str| toml::Value::from(place.path(name).to_string_lossy().into_owned());
    let (_, tools) = read.environment_and_tools();
    assert_eq!(
        (&tools[0].0, &tools[0].1["file"], &tools[0].1["read"][0]),
        (&"mine".into(), &path("mine.py"), &path("lib"))
    );
    assert_eq!(read.reward.settings["own"]["file"], path("reward.py"));
    let said = succeed(train(&recipe, &["--dry-run"]));
    assert!(said.contains("reward.py"), "{said}");
    let said = refuse(train(&recipe, &[]));
    assert!(
        said.contains("the reward \"own\" cannot be used: ") && said.contains("reward.py:2: SyntaxError"),
        "{said}"
    );
    place.write("reward.py", "def reward(*, answer): return 0\n");
    let said = refuse(train(&recipe, &[]));
    assert!(said.contains("the tool mine failed: ") && said.contains("mine.py:1: SCHEMA has no text"), "{said}");
    let said = refuse(train(&recipe, &["--dry-run", "--set", "reward.settings.own.file=gone.py"]));
    assert!(said.contains("cannot read gone.py") && said.contains("relative to the recipe"), "{said}");
}
