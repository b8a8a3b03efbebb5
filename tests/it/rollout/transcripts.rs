//! Transcripts of scripted models in every environment: each success, each error, each limit, with every observation, mask and end. They are
//! compared with `tests/golden/transcripts/ENVIRONMENT.txt`; after a change that is meant,
//!
//!     THYME_WRITE_TRANSCRIPTS=1 cargo test --test it transcripts
//!
//! writes them anew, to be read before they are committed.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use thyme_engine::prompt::ImageSource;
use thyme_engine::recipe::TrainTurns;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::trajectory::{Trajectory, TurnKind};
use thyme_engine::rollout::{RolloutSettings, run};
use thyme_engine::tasks::Example;
use thyme_engine::train::demonstration::{Demonstration, sample};

use super::{IM_END, IMAGE_PAD, processor, scripted};

/// A scripted model: its name, keys of the environment and `[[tool]]`s, and what it writes; `<|im_end|>` closes a message.
type Scene = (&'static str, &'static str, &'static str);

/// Pictures of a task: a wide one with a gradient, a small one, and one with four panels.
fn pictures() -> Vec<ImageSource> {
    let gradient = RgbImage::from_fn(168, 112, |x, y| Rgb([x as u8, 2 * y as u8, 90]));
    let small = RgbImage::from_fn(56, 56, |x, _| Rgb([x as u8 * 4, 200, 10]));
    [gradient, small].into_iter().map(|pixels| ImageSource::Memory(Arc::new(pixels))).collect()
}

fn play(environment: &str, keys: &str, script: &str) -> Trajectory {
    let mut table: toml::Table = toml::from_str(keys).unwrap_or_else(|error| panic!("{keys}: {error}"));
    let tools = table.remove("tool").map(|tools| tools.try_into::<Vec<toml::Table>>().unwrap()).unwrap_or_default();
    let named = |mut tool: toml::Table| (tool.remove("name").unwrap().as_str().unwrap().to_owned(), tool);
    let tools: Vec<_> = tools.into_iter().map(named).collect();
    let environment = Registry::default().environment((environment.to_owned(), table), &tools).unwrap();
    let task = Task { question: "What is it?".into(), images: pictures(), ..Task::default() };
    let mut generator = scripted(&[script]);
    let groups = run(&mut generator, processor(), &*environment, &[task], &RolloutSettings::default()).unwrap();
    groups.into_iter().next().unwrap().trajectories.remove(0)
}

/// What a trajectory is, in lines.
fn transcript(trajectory: &Trajectory) -> String {
    let mut text = String::new();
    for turn in &trajectory.turns {
        let own = turn.tokens.clone().filter(|&at| trajectory.is_own(at)).count();
        let is_own = turn.kind != TurnKind::Observation;
        assert_eq!(own, if is_own { turn.tokens.len() } else { 0 }, "only observations are not trained");
        let ends = turn.tokens.clone().filter(|&at| trajectory.token_ids[at] == IM_END).count();
        let pads = turn.tokens.clone().filter(|&at| trajectory.token_ids[at] == IMAGE_PAD).count();
        let kind = format!("{:?}", turn.kind).to_lowercase();
        let _ = writeln!(text, "{kind}, {} tokens, of these {pads} of images and {ends} ends:", turn.tokens.len());
        for line in turn.text.split('\n') {
            let _ = writeln!(text, "  |{line}");
        }
        for call in &trajectory.calls[turn.calls.clone()] {
            let sizes: Vec<_> = call.output.images.iter().map(|image| image.pixels.dimensions()).collect();
            let (status, repairs) = (call.output.status, &call.output.repairs);
            let _ = writeln!(
                text,
                "  call {:?} {}: {status:?}, images {sizes:?}, repairs {repairs:?}",
                call.tool, call.request
            );
        }
    }
    let said = trajectory.own_text();
    let answer = trajectory.answer.as_ref().map(|answer| &said[answer.inside.clone()]);
    let _ = writeln!(text, "end {:?}, answer {answer:?}", trajectory.end);
    text
}

/// The tokens of a trajectory are those of the demonstration that it is written as.
fn check_demonstration(name: &str, trajectory: &Trajectory) {
    let Some(demonstration) = Demonstration::of(trajectory, processor().image_settings()) else { return };
    let images = demonstration.images.iter().map(|image| RgbImage::clone(&image.load(Path::new("")).unwrap()));
    let (messages, images, tools) = (demonstration.messages, images.collect(), demonstration.tools);
    let example = Example { messages, images, solution: None, question: None, tools };
    let learned = sample(processor(), &example, TrainTurns::All).unwrap();
    let ids = learned.ids.strip_suffix(&[IM_END]).unwrap();
    let played = trajectory.token_ids.strip_suffix(&[IM_END]).unwrap_or(&trajectory.token_ids);
    assert_eq!(processor().tokenizer().decode(ids, false), processor().tokenizer().decode(played, false), "{name}");
    assert_eq!(ids, played, "{name}");
}

fn check(environment: &str, scenes: &[Scene]) {
    let mut text = String::new();
    for (name, keys, script) in scenes {
        let trajectory = play(environment, keys, script);
        let _ = write!(text, "# {name}\n{keys}\n{}\n", transcript(&trajectory));
        check_demonstration(name, &trajectory);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/transcripts/{environment}.txt"));
    if std::env::var_os("THYME_WRITE_TRANSCRIPTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (number, (found, wanted)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, wanted, "line {} of {}", number + 1, path.display());
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "{}", path.display());
}

#[test]
fn transcripts_of_zoom_in() {
    check(
        "zoom_in",
        &[
            (
                "a zoom, a rotation, an answer",
                "",
                "<think>closer</think>\n<tool_call>\n{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [10, 10, 90, 80], \
             \"label\": \"sign\"}}\n</tool_call><tool_call>{\"name\": \"image_rotate_tool\", \"arguments\": {\"angle\": 90}}\
             </tool_call><answer>7</answer>",
            ),
            ("the answer at once", "", "<think>easy</think>\n<answer>7</answer>"),
            ("neither a call nor an answer", "", "it is a sign<|im_end|>"),
            (
                "a box that is missing",
                "",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {}}</tool_call><answer>7</answer>",
            ),
            (
                "a box of no size",
                "",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [50, 50, 50, 60]}}</tool_call><answer>7</answer>",
            ),
            ("no JSON", "", "<tool_call>crop it</tool_call><answer>7</answer>"),
            ("no name", "", "<tool_call>{\"arguments\": {}}</tool_call><answer>7</answer>"),
            ("an unknown tool", "", "<tool_call>{\"name\": \"zoom\", \"arguments\": {}}</tool_call><answer>7</answer>"),
            (
                "the last turn's call is not run",
                "max_turns = 1",
                "<tool_call>{\"name\": \"image_rotate_tool\", \"arguments\": {\"angle\": 90}}</tool_call>",
            ),
            (
                "the limit of images",
                "max_images = 1",
                "<tool_call>{\"name\": \"image_rotate_tool\", \"arguments\": {\"angle\": 90}}</tool_call>\
             <tool_call>{\"name\": \"image_rotate_tool\", \"arguments\": {\"angle\": 180}}</tool_call><answer>7</answer>",
            ),
            (
                "text is cut in the middle",
                "max_observation_characters = 24",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [10, 10, 90, 80]}}</tool_call><answer>7</answer>",
            ),
            (
                "the limit of tokens",
                "max_total_tokens = 120",
                "<tool_call>{\"name\": \"image_rotate_tool\", \"arguments\": {\"angle\": 90}}</tool_call><answer>7</answer>",
            ),
            (
                "the last call of a message, as the original has it",
                "stop_at_call = false\ncalls_run = \"last\"",
                "<tool_call>{\"name\": \"image_rotate_tool\", \"arguments\": {\"angle\": 90}}</tool_call>\n<tool_call>{\"name\": \
             \"image_rotate_tool\", \"arguments\": {\"angle\": 180}}</tool_call><|im_end|><answer>7</answer>",
            ),
            (
                "an image that is withheld",
                "withhold_images_of = [\"*\"]",
                "<tool_call>{\"name\": \"image_rotate_tool\", \"arguments\": {\"angle\": 90}}</tool_call><answer>7</answer>",
            ),
            (
                "XML calls",
                "call_format = \"qwen3_coder\"",
                "<tool_call>\n<function=image_zoom_in_tool>\n<parameter=bbox_2d>\n[10, 10, 90, 80]\n</parameter>\n</function>\n</tool_call>\
             <answer>7</answer>",
            ),
        ],
    );
}

#[test]
fn transcripts_of_zoom_in_bank() {
    check(
        "zoom_in_bank",
        &[
            (
                "two calls in a message, then a crop of a crop",
                "",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 500, 500], \"label\": \"a\", \"img_idx\": 0}}\
             </tool_call>\n<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 1000, 500], \"label\": \"b\", \
             \"img_idx\": 1}}</tool_call><|im_end|><tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [500, 500, 900, \
             900], \"label\": \"c\", \"img_idx\": 2}}</tool_call><|im_end|><think>now</think><answer>7</answer>",
            ),
            (
                "an image that is not there",
                "",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 500, 500], \"label\": \"a\", \"img_idx\": 9}}\
             </tool_call><|im_end|><answer>7</answer>",
            ),
            (
                "one call runs and one is malformed",
                "",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 500, 500], \"label\": \"a\", \"img_idx\": 0}}\
             </tool_call><tool_call>[]</tool_call><|im_end|><answer>7</answer>",
            ),
            (
                "more calls than a turn may have",
                "max_calls_per_turn = 1",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 500, 500], \"label\": \"a\", \"img_idx\": 0}}\
             </tool_call><tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 900, 500], \"label\": \"b\", \
             \"img_idx\": 0}}</tool_call><|im_end|><answer>7</answer>",
            ),
            (
                "out of calls, told once, and then ended",
                "max_calls = 1",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 500, 500], \"label\": \"a\", \"img_idx\": 0}}\
             </tool_call><|im_end|><tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {}}</tool_call><|im_end|><tool_call>{\"name\": \
             \"image_zoom_in_tool\", \"arguments\": {}}</tool_call><|im_end|>",
            ),
            (
                "out of turns",
                "max_turns = 2",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 500, 500], \"label\": \"a\", \"img_idx\": 0}}\
             </tool_call><|im_end|><tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {}}</tool_call><|im_end|>",
            ),
            (
                "a budget of pixels for an image",
                "max_image_pixels = 1568",
                "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 1000, 1000], \"label\": \"a\", \"img_idx\": 0}}\
             </tool_call><|im_end|><answer>7</answer>",
            ),
        ],
    );
}

#[test]
fn transcripts_of_pixel_reasoner() {
    check(
        "pixel_reasoner",
        &[
            (
                "a crop, a crop of the crop, frames, an answer in a box",
                "",
                "Look.\n<tool_call>\n{\"name\": \"crop_image_normalized\", \"arguments\": {\"bbox_2d\": [0.2, 0.2, 0.6, 0.6], \"target_image\": 1}}\n\
             </tool_call><|im_end|>\n<tool_call>{\"name\": \"crop_image_normalized\", \"arguments\": {\"bbox_2d\": [0.1, 0.1, 0.9, 0.9], \
             \"target_image\": 3}}</tool_call><|im_end|><tool_call>{\"name\": \"select_frames\", \"arguments\": {\"target_frames\": [1, 2]}}\
             </tool_call><|im_end|>It is \\boxed{7}<|im_end|>",
            ),
            (
                "of several calls the last, if the message ends with it",
                "",
                "<tool_call>{\"name\": \"select_frames\", \"arguments\": {\"target_frames\": [1]}}</tool_call><tool_call>{\"name\": \
             \"crop_image_normalized\", \"arguments\": {\"bbox_2d\": [0.2, 0.2, 0.6, 0.6], \"target_image\": 1}}</tool_call><|im_end|>\
             \\boxed{7}<|im_end|>",
            ),
            (
                "a call that is not at the end is none",
                "",
                "<tool_call>{\"name\": \"select_frames\", \"arguments\": {\"target_frames\": [1]}}</tool_call> so \\boxed{7}<|im_end|>",
            ),
            (
                "a wrong image and too many frames",
                "",
                "<tool_call>{\"name\": \"crop_image_normalized\", \"arguments\": {\"bbox_2d\": [0.2, 0.2, 0.6, 0.6], \"target_image\": 9}}\
             </tool_call><|im_end|><tool_call>{\"name\": \"select_frames\", \"arguments\": {\"target_frames\": [1, 2, 3, 4, 5, 6, 7, 8, 9]}}\
             </tool_call><|im_end|><tool_call>{\"name\": \"select_frames\", \"arguments\": {\"target_frames\": [7]}}</tool_call><|im_end|>\
             \\boxed{7}<|im_end|>",
            ),
            (
                "a crop that is too small",
                "",
                "<tool_call>{\"name\": \"crop_image_normalized\", \"arguments\": {\"bbox_2d\": [0.5, 0.5, 0.5, 0.5], \"target_image\": 2}}\
             </tool_call><|im_end|>\\boxed{7}<|im_end|>",
            ),
            ("no JSON", "", "<tool_call>crop</tool_call><|im_end|>\\boxed{7}<|im_end|>"),
            (
                "an unknown tool",
                "",
                "<tool_call>{\"name\": \"zoom\", \"arguments\": {}}</tool_call><|im_end|>\\boxed{7}<|im_end|>",
            ),
            ("no answer", "", "I do not know<|im_end|>"),
        ],
    );
}

#[test]
fn transcripts_of_tool_planner() {
    check(
        "tool_planner",
        &[
            (
                "a crop, two lines, an end",
                "",
                "{\"thought\": \"t\", \"actions\": [{\"name\": \"Crop\", \"arguments\": {\"image\": \"img_1\", \"param\": \"[4, 4, 50, 40]\"}}]}\
             <|im_end|>{\"thought\": \"t\", \"actions\": [{\"name\": \"DrawHorizontalLineByY\", \"arguments\": {\"image\": \"img_1\", \
             \"param\": \"y=28.5\"}}]}<|im_end|>{\"thought\": \"t\", \"actions\": [{\"name\": \"DrawVerticalLineByX\", \"arguments\": {\"image\": \
             \"img_1\", \"param\": \"x=21.5\"}}]}<|im_end|>{\"thought\": \"so\", \"actions\": [{\"name\": \"Terminate\", \"arguments\": \
             {\"ans\": \"a \\\"7\\\"\"}}]}<|im_end|>",
            ),
            (
                "no action",
                "",
                "What now?<|im_end|>{\"thought\": \"t\", \"actions\": [{\"name\": \"Terminate\", \"arguments\": {\"ans\": 7}}]}<|im_end|>",
            ),
            (
                "a tool that is not there, and a wrong parameter",
                "",
                "{\"thought\": \"t\", \"actions\": [{\"name\": \"OCR\", \"arguments\": {\"image\": \"img_1\"}}]}<|im_end|>{\"thought\": \"t\", \
             \"actions\": [{\"name\": \"Crop\", \"arguments\": {\"image\": \"img_1\", \"param\": \"left\"}}]}<|im_end|>{\"thought\": \"t\", \
             \"actions\": [{\"name\": \"DrawHorizontalLineByY\", \"arguments\": {\"image\": \"img_1\", \"param\": \"high\"}}]}<|im_end|>",
            ),
            (
                "six rounds are over",
                "max_turns = 1",
                "{\"thought\": \"t\", \"actions\": [{\"name\": \"Crop\", \"arguments\": {\"image\": \"img_1\", \"param\": \"[4, 4, 50, 40]\"}}]}<|im_end|>",
            ),
            (
                "images are withheld",
                "withhold_images_of = [\"Crop\"]",
                "{\"thought\": \"t\", \"actions\": [{\"name\": \"Crop\", \"arguments\": {\"image\": \"img_1\", \"param\": \"[4, 4, 50, 40]\"}}]}\
             <|im_end|>{\"thought\": \"t\", \"actions\": [{\"name\": \"Terminate\", \"arguments\": {\"ans\": \"7\"}}]}<|im_end|>",
            ),
        ],
    );
}

#[test]
fn transcripts_of_vision_tools() {
    check(
        "vision_tools",
        &[
            (
                "edits add up",
                "",
                "<think>so</think>\n<tool>{\"name\": \"crop_image\", \"args\": {\"x\": 0, \"y\": 0, \"width\": 56, \"height\": 28}}</tool>\
             <tool>{\"name\": \"rotate_image\", \"args\": {\"angle\": 90}}</tool><tool>{\"name\": \"get_image_info\"}</tool><answer>7</answer>",
            ),
            ("an unknown tool", "", "<tool>{\"name\": \"zoom\"}</tool><answer>7</answer>"),
            ("the last turn", "max_turns = 1", "<tool>{\"name\": \"convert_grayscale\"}</tool>"),
        ],
    );
}
