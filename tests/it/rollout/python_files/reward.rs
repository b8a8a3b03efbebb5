//! A reward in a user's own Python file: what it is given, and that whatever goes wrong is unscored, with file and line.

use std::fs;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde_json::json;
use tempfile::TempDir;
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings, Scores};
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::{Group, RolloutSettings, run};
use thyme_engine::tasks::jsonl;

use super::tool::folder;
use crate::rollout::{processor, scripted};

/// The rewards of a recipe with the reward `mine` of these lines, or why there are none.
fn rewards(folder: &TempDir, source: &str, keys: &str) -> Result<RewardSet, String> {
    let file = folder.path().join("mine.py");
    fs::write(&file, source).unwrap();
    let settings: RewardSettings = toml::from_str(&format!("settings.mine.file = {file:?}\n{keys}")).unwrap();
    let set = RewardSet::new(&settings, &Registry::default()).map_err(|error| error.to_string())?;
    set.start().map_err(|error| error.to_string()).map(|()| set)
}

/// The task's picture.
fn picture() -> RgbImage {
    RgbImage::from_fn(60, 40, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]))
}

/// The task of a row with columns of its own.
fn task(folder: &TempDir) -> Task {
    picture().save(folder.path().join("picture.png")).unwrap();
    let row = json!({
        "messages": [{"role": "user", "content": "<image>Where?"}], "images": ["picture.png"], "solution": ["7", "seven"],
        "question": "Where?", "difficulty": 3, "boxes": [[1, 2, 3, 4]],
    });
    fs::write(folder.path().join("rows.jsonl"), row.to_string()).unwrap();
    let record = jsonl::read(&folder.path().join("rows.jsonl")).unwrap().remove(0);
    Task { prompt: TaskPrompt::Question, ..Task::of_record(record).unwrap() }
}

/// A group of rollouts of the task, by scripts.
fn group(task: &Task, scripts: &[&str]) -> Group {
    let environment = Registry::default().environment(("vision_tools".to_owned(), toml::Table::new()), &[]).unwrap();
    let settings = RolloutSettings { group_size: scripts.len(), ..RolloutSettings::default() };
    run(&mut scripted(scripts), processor(), &*environment, std::slice::from_ref(task), &settings).unwrap().remove(0)
}

fn scored(rewards: &RewardSet, task: Task, scripts: &[&str]) -> Vec<Scores> {
    let group = group(&task, scripts);
    rewards.score_groups(&[group], &[task]).remove(0)
}

fn part(scores: &Scores) -> &Score {
    scores.part("mine").expect("it is among the parts")
}

const CROP: &str = r#"<tool>{"name": "crop_image", "args": {"x": 10, "y": 20, "width": 8, "height": 6}}</tool>"#;

#[test]
fn a_reward_is_given_the_images_the_texts_and_the_columns_of_the_row() {
    let folder = folder();
    let source = r#"
def reward(*, images, processed_images, question, reasoning, answer, solution, columns, **_):
    assert question == "Where?" and solution == ["7", "seven"], (question, solution)
    assert columns == {"difficulty": 3, "boxes": [[1, 2, 3, 4]]}, columns
    assert [image.size for image in images] == [(60, 40)] and images[0].mode == "RGB"
    assert images[0].getpixel((13, 21)) == (13, 21, 13 * 21 % 256)
    if answer is None:
        return 0
    assert reasoning == "<think>so</think>\n" and answer == "7", (reasoning, answer)
    (crop,) = processed_images
    assert crop.tobytes() == images[0].crop((10, 20, 18, 26)).tobytes()
    return sum(crop.getpixel((0, 0)))
"#;
    let rewards = rewards(&folder, source, "weights.mine = 0.5\nweights.answer = 2.0\nweights.format = 0.0").unwrap();
    let right = format!("<think>so</think>{CROP}<answer>7</answer>");
    let scores = scored(&rewards, task(&folder), &[&right, "<think>no"]);
    let of_pixel = f64::from(10 + 20 + 10 * 20);
    assert_eq!((part(&scores[0]), part(&scores[1])), (&Score::Value(of_pixel), &Score::Value(0.0)));
    assert_eq!(scores[0].part("answer"), Some(&Score::Value(1.0)));
    assert_eq!(scores[1].total, Score::Value(0.0), "{scores:?}");
    let Score::Value(total) = scores[0].total else { panic!("{scores:?}") };
    let consistency = scores[0].part("consistency").and_then(Score::value).unwrap();
    assert_eq!(total, 2.0 + 0.5 * consistency + 0.5 * of_pixel);
    assert_eq!(rewards.weights().last(), Some(("mine", 0.5)));
}

#[test]
fn a_reward_takes_what_it_names_and_returns_any_number() {
    let folder = folder();
    for (source, value) in [
        ("def reward(answer): return answer == '7'", 1.0),
        ("def reward(*, answer, other=3): return other", 3.0),
        ("import numpy\ndef reward(solution, *rest): return numpy.float32(0.25)", 0.25),
        ("import numpy\ndef reward(answer): return numpy.asarray([1, 2]).sum() > 2", 1.0),
        ("from fractions import Fraction\ndef reward(**given): return Fraction(len(given), 2)", 3.5),
        ("import random\ndef reward(): return random.random()", 0.844_421_851_525_048_1),
    ] {
        let rewards = rewards(&folder, source, "").unwrap();
        assert_eq!(rewards.weights().last(), Some(("mine", 1.0)));
        let scores = scored(&rewards, task(&folder), &["<answer>7</answer>", "<answer>7</answer>"]);
        assert_eq!([part(&scores[0]), part(&scores[1])], [&Score::Value(value); 2], "{source}");
    }
}

/// What the answer asks for, and why there is no score, behind the file's name.
const FAULTS: [(&str, &str); 10] = [
    ("raise", ":5: KeyError: 'raise' (if answer == \"raise\": return {}[answer])"),
    ("nan", ":3: `reward` returned nan; return a finite number, or None for no score"),
    ("inf", ":3: `reward` returned -inf; return a finite number, or None for no score"),
    ("text", ":3: `reward` returned a value of type str; return a number, or None for no score"),
    ("array", ":3: `reward` returned a value of type ndarray; return a number, or None for no score"),
    ("none", ": `reward` returned None"),
    ("memory", ":11: MemoryError (if answer == \"memory\": return len(bytearray(1 << 30)))"),
    ("exit", ": its process ended"),
    ("abort", ": its process ended"),
    ("endless", ": it took more than 2 seconds and was stopped"),
];

const FAULTY: &str = r#"import os
import numpy
def reward(*, answer):
    if answer == "well": return 0.5
    if answer == "raise": return {}[answer]
    if answer == "nan": return numpy.nan
    if answer == "inf": return -float("inf")
    if answer == "text": return "1.0"
    if answer == "array": return numpy.zeros(1)
    if answer == "none": return None
    if answer == "memory": return len(bytearray(1 << 30))
    if answer == "exit": os._exit(0)
    if answer == "abort": os.abort()
    while answer == "endless": print(answer)
"#;

#[test]
fn what_goes_wrong_is_unscored_with_file_and_line_and_no_number() {
    let folder = folder();
    let keys = "settings.mine.memory_mib = 64\nsettings.mine.timeout_seconds = 2\nsettings.mine.num_workers = 1";
    let rewards = rewards(&folder, FAULTY, keys).unwrap();
    let task = task(&folder);
    let scripts: Vec<String> = FAULTS
        .iter()
        .flat_map(|(what, _)| [format!("<answer>{what}</answer>"), "<answer>well</answer>".to_owned()])
        .collect();
    let scripts: Vec<&str> = scripts.iter().map(String::as_str).collect();
    let scores = scored(&rewards, task, &scripts);
    let file = folder.path().join("mine.py").display().to_string();
    for ((what, reason), pair) in FAULTS.iter().zip(scores.chunks(2)) {
        let reason = format!("{file}{reason}");
        assert_eq!(part(&pair[0]), &Score::Unscored(reason.clone()), "{what}");
        assert_eq!(pair[0].total, Score::Unscored(format!("mine: {reason}")));
        assert_eq!(part(&pair[1]), &Score::Value(0.5), "after {what}");
    }
}

#[test]
fn a_reward_that_cannot_score_is_refused_at_the_start() {
    let folder = folder();
    let file = folder.path().join("mine.py").display().to_string();
    for (source, keys, error) in [
        ("def reward(:", "", format!("the reward \"mine\" cannot be used: {file}:1: SyntaxError: ")),
        ("\n1 / 0", "", format!("the reward \"mine\" cannot be used: {file}:2: ZeroDivisionError: division by zero")),
        ("", "", format!("the reward \"mine\" cannot be used: {file}: there is no function `reward`; write")),
        (
            "\ndef reward(*, answer, picture): return 0",
            "",
            format!("{file}:2: `reward` takes `picture`, and is given by name: images, processed_images, question"),
        ),
        ("def reward(answer, /): return 0", "", format!("{file}:1: `reward` takes `answer`, and is given by name")),
        ("", "settings.mine.timeout = 3", "unknown field `timeout`".to_owned()),
        ("", "settings.mine.disk_mib = 0", "disk_mib is 0: give a whole number from 1".to_owned()),
        ("", "weights.mine = nan", "the weight of reward \"mine\" is NaN".to_owned()),
        ("", "weights.others = 1.0", "there is no reward \"others\"; the known ones are: format".to_owned()),
        ("", "settings.others.read = [\"x\"]", "there is no reward \"others\"".to_owned()),
        (
            "",
            "settings.others.file = \"/nowhere.py\"",
            "the reward \"others\" cannot be used: cannot read /nowhere.py".to_owned(),
        ),
    ] {
        let found = rewards(&folder, source, keys).err().expect(source);
        assert!(found.contains(&error), "{error}\n{found}");
    }
}

#[test]
fn an_image_that_cannot_be_had_is_no_score_for_a_reward_that_looks_at_it() {
    let folder = folder();
    let keys = "settings.blind.file = ";
    let blind = folder.path().join("blind.py");
    fs::write(&blind, "def reward(*, processed_images): return len(processed_images)").unwrap();
    let rewards = rewards(&folder, "def reward(*, images): return 1", &format!("{keys}{blind:?}")).unwrap();
    let mut task = task(&folder);
    let rolled = group(&task, &["<answer>7</answer>"]);
    // The rollout has decoded its picture by itself; the rewards decode it when they look.
    fs::remove_file(folder.path().join("picture.png")).unwrap();
    let scores = rewards.score_groups(&[rolled], std::slice::from_ref(&task)).remove(0);
    let Score::Unscored(reason) = part(&scores[0]) else { panic!("{scores:?}") };
    assert!(reason.contains("image 0 cannot be read"), "{reason}");
    assert_eq!(scores[0].part("blind"), Some(&Score::Value(0.0)));
    task.images = vec![ImageSource::Memory(Arc::new(picture()))];
    let scores = scored(&rewards, task, &["<answer>7</answer>"]);
    assert_eq!(part(&scores[0]), &Score::Value(1.0));
}
