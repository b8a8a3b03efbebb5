//! Rollouts with a scripted generator: trajectories of all kinds, every way to end, interleaved tools, masks, rewards.

mod answers;
mod branching;
mod call_formats;
mod calls;
mod judge;
mod judge_faults;
mod judge_prompts;
mod names;
mod python_files;
mod retries;
mod rewards;
mod shared_pictures;
mod sources;
mod tool_sets;
mod transcripts;
mod vision_tools;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use image::RgbImage;
use proptest::prelude::*;
use thyme_engine::prompt::{ImageSource, Message, Part, Processor, Prompt};
use thyme_engine::rollout::environments::think_with_code::{ThinkWithCode, ThinkWithCodeSettings};
use thyme_engine::rollout::generator::{Scripted, ScriptedCall};
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::repetition::{Repetition, RepetitionSettings};
use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolFault, ToolImage, ToolOutput, ToolSession};
use thyme_engine::rollout::tool_set::ToolSet;
use thyme_engine::rollout::tools::python::{Python, PythonSettings};
use thyme_engine::rollout::trajectory::{End, Trajectory, TurnKind};
use thyme_engine::rollout::{Group, RolloutError, RolloutSettings, Update, run, run_timed, run_watched};

const SPECIAL: [&str; 7] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
];
const IM_END: u32 = 258;
const IMAGE_PAD: u32 = 261;

/// A prompt side whose tokens are bytes (ids 0 to 255), then the special tokens; an image of 28 px a side is one token.
fn processor() -> &'static Processor {
    static PROCESSOR: std::sync::OnceLock<Processor> = std::sync::OnceLock::new();
    PROCESSOR.get_or_init(|| {
        let mut vocab = BTreeMap::new();
        let mut other = 256u32;
        for byte in 0..=255u32 {
            let letter = match byte {
                0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte,
                _ => {
                    other += 1;
                    other - 1
                }
            };
            vocab.insert(char::from_u32(letter).unwrap().to_string(), byte);
        }
        let added: Vec<serde_json::Value> = SPECIAL
            .iter()
            .zip(256..)
            .map(|(content, id): (_, u32)| {
                serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true})
            })
            .collect();
        let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": false});
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
        });
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("tokenizer.json", tokenizer.to_string());
        write("preprocessor_config.json", r#"{"min_pixels": 784, "max_pixels": 12544}"#.to_owned());
        write(
            "chat_template.jinja",
            "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}\
             {% else %}{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
             {% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}\
             {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
                .to_owned(),
        );
        Processor::open(folder.path()).unwrap()
    })
}

/// Token ids of a script: bytes, with special tokens as themselves.
fn ids(text: &str) -> Vec<u32> {
    processor().tokenizer().encode(text).unwrap()
}

fn scripted(scripts: &[&str]) -> Scripted {
    let scripts = scripts.iter().zip(0..).map(|(script, sequence)| (sequence, ids(script)));
    Scripted::new(scripts, IM_END, |id| processor().tokenizer().token_bytes(id).to_vec())
}

/// Says what the request says: `text …`, `image W H`, `error …`, `fault`, `panic`, `wait N` (until N other calls are done), `sleep N`
/// milliseconds.
#[derive(Default)]
struct Fake {
    done: Arc<(Mutex<usize>, Condvar)>,
    opened: AtomicUsize,
}

struct FakeSession {
    calls: usize,
    done: Arc<(Mutex<usize>, Condvar)>,
}

impl Tool for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn open(&self, subject: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        for source in subject.images {
            source.load(subject.folder).map_err(|error| ToolFault { tool: "fake", reason: error.to_string() })?;
        }
        self.opened.fetch_add(sessions, Ordering::SeqCst);
        Ok((0..sessions)
            .map(|_| -> Box<dyn ToolSession> { Box::new(FakeSession { calls: 0, done: self.done.clone() }) })
            .collect())
    }
}

impl ToolSession for FakeSession {
    fn run(&mut self, request: &str, _: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.calls += 1;
        let (verb, rest) = request.split_once(' ').unwrap_or((request, ""));
        let output = match verb {
            "image" => {
                let sides: Vec<u32> = rest.split(' ').map(|side| side.parse().unwrap()).collect();
                let pixels = Arc::new(RgbImage::new(sides[0], sides[1]));
                let image = ToolImage { name: "image-1.png".into(), label: "crop.png".into(), pixels, widened: None };
                ToolOutput { images: vec![image], ..ToolOutput::text(CallStatus::Ok, "") }
            }
            "images" => {
                let pixels = Arc::new(RgbImage::new(28, 28));
                let image = ToolImage { name: "image-1.png".into(), label: "crop.png".into(), pixels, widened: None };
                ToolOutput { images: vec![image; rest.parse().unwrap()], ..ToolOutput::text(CallStatus::Ok, "here") }
            }
            "narrow" => {
                let image = |width, height| ToolImage {
                    name: "image-1.png".into(),
                    label: "crop.png".into(),
                    pixels: Arc::new(RgbImage::new(width, height)),
                    widened: None,
                };
                ToolOutput { images: vec![image(1, 300), image(64, 56)], ..ToolOutput::text(CallStatus::Ok, "") }
            }
            "error" => ToolOutput::text(CallStatus::Error, rest),
            "fault" => return Err(ToolFault { tool: "fake", reason: "no python".into() }),
            "panic" => panic!("a fault in the tool"),
            "wait" => {
                let (count, changed) = &*self.done;
                let wanted: usize = rest.parse().unwrap();
                drop(changed.wait_while(count.lock().unwrap(), |count| *count < wanted).unwrap());
                ToolOutput::text(CallStatus::Ok, "waited")
            }
            "sleep" => {
                std::thread::sleep(Duration::from_millis(rest.parse().unwrap()));
                ToolOutput::text(CallStatus::Ok, "slept")
            }
            "count" => ToolOutput::text(CallStatus::Ok, self.calls.to_string()),
            _ => ToolOutput::text(CallStatus::Ok, rest),
        };
        *self.done.0.lock().unwrap() += 1;
        self.done.1.notify_all();
        Ok(output)
    }
}

fn tools(tool: impl Tool + 'static) -> ToolSet {
    ToolSet::new(vec![Arc::new(tool)])
}

fn environment(settings: ThinkWithCodeSettings) -> ThinkWithCode {
    ThinkWithCode::new(settings, tools(Fake::default()))
}

fn task(question: &str) -> Task {
    Task {
        prompt: TaskPrompt::Conversation(vec![Message::text("user", question)]),
        question: question.into(),
        solution: "7".into(),
        ..Task::default()
    }
}

fn one_thread() -> RolloutSettings {
    RolloutSettings { tool_threads: 1, ..RolloutSettings::default() }
}

#[test]
fn a_tool_that_everybody_waits_for_is_counted_as_such() {
    let mut generator = scripted(&["<code>sleep 80</code>", "short"]);
    let settings = RolloutSettings { group_size: 2, ..one_thread() };
    let rolled = run_timed(&mut generator, processor(), &environment(Default::default()), &[task("q")], &settings);
    let wait = rolled.unwrap().1;
    assert!(wait.open >= Duration::from_millis(60) && wait.hidden < wait.open, "{wait:?}");
}

/// Rolls one script out.
fn roll_with(script: &str, settings: ThinkWithCodeSettings) -> Trajectory {
    let mut generator = scripted(&[script]);
    let groups = run(&mut generator, processor(), &environment(settings), &[task("q")], &one_thread()).unwrap();
    assert_eq!(generator.open_sequences(), 0, "a finished sequence frees its pages");
    check(&groups[0].trajectories[0]);
    groups.into_iter().next().unwrap().trajectories.remove(0)
}

fn roll(script: &str) -> Trajectory {
    roll_with(script, ThinkWithCodeSettings::default())
}

/// What holds of every trajectory.
fn check(trajectory: &Trajectory) {
    assert_eq!(trajectory.token_ids.len(), trajectory.sampled.len());
    assert_ne!(trajectory.end, End::Running);
    let mut at = trajectory.prompt_tokens;
    for turn in &trajectory.turns {
        assert_eq!(turn.tokens.start, at, "turns follow each other");
        at = turn.tokens.end;
        for index in turn.tokens.clone() {
            assert_eq!(
                trajectory.is_own(index),
                turn.kind != TurnKind::Observation,
                "only observations are not trained"
            );
        }
        if turn.kind == TurnKind::Observation {
            assert!(turn.text.starts_with("<sandbox_output>") && turn.text.ends_with("</sandbox_output>"));
        }
    }
    assert_eq!(at, trajectory.token_ids.len(), "turns cover everything after the prompt");
    assert!((0..trajectory.prompt_tokens).all(|index| !trajectory.is_own(index)), "the prompt is not trained");
    for (index, sampled) in trajectory.own() {
        assert_eq!(sampled.id, trajectory.token_ids[index], "what was sampled is what is trained");
    }
    let pads = trajectory.token_ids.iter().filter(|&&id| id == IMAGE_PAD).count();
    let needed: usize = trajectory.images.iter().map(|image| processor().image_tokens(image)).sum();
    assert_eq!(pads, needed, "each image has its placeholders");
    let observations = trajectory.turns.iter().filter(|turn| turn.kind == TurnKind::Observation).count();
    assert!(observations <= trajectory.calls.len() && trajectory.calls.len() <= observations + 1);
}

fn kinds(trajectory: &Trajectory) -> Vec<TurnKind> {
    trajectory.turns.iter().map(|turn| turn.kind).collect()
}

use TurnKind::{Answer, Call, Observation, Thought};

#[test]
fn a_direct_answer_is_a_thought_and_an_answer() {
    let trajectory = roll("<think>easy</think>\n<answer>7</answer>");
    assert_eq!(trajectory.end, End::Answered);
    assert_eq!(kinds(&trajectory), [Thought, Answer]);
    assert_eq!(trajectory.turns[1].text, "<answer>7</answer>");
    assert_eq!(trajectory.turns[1].tokens.len(), 18);
    assert!(trajectory.calls.is_empty());
}

#[test]
fn code_is_run_and_its_text_comes_back_in_the_same_message() {
    let trajectory = roll("<think>look<code>\n```python\ntext 42\n```\n</code> so</think>\n<answer>7</answer>");
    assert_eq!(kinds(&trajectory), [Thought, Call, Observation, Thought, Answer]);
    assert_eq!(trajectory.calls[0].request, "text 42");
    assert_eq!(trajectory.turns[2].text, "<sandbox_output>42</sandbox_output>");
    let observed = &trajectory.token_ids[trajectory.turns[2].tokens.clone()];
    assert_eq!(observed, ids("<sandbox_output>42</sandbox_output>"));
    assert_eq!(
        trajectory.text(),
        "<think>look<code>\n```python\ntext 42\n```\n</code><sandbox_output>42</sandbox_output> so</think>\n<answer>7</answer>"
    );
}

#[test]
fn a_crop_comes_back_as_an_image_of_its_own_size() {
    let trajectory = roll("<code>image 56 84</code><answer>7</answer>");
    assert_eq!(trajectory.images.len(), 1);
    assert_eq!(trajectory.images[0].original_width, 56);
    assert_eq!(trajectory.calls[0].images_shown, 1);
    assert_eq!(trajectory.turns[1].text, "<sandbox_output><image></sandbox_output>");
    let expected = format!(
        "<sandbox_output><|vision_start|>{}<|vision_end|></sandbox_output>",
        "<|image_pad|>".repeat(processor().image_tokens(&trajectory.images[0]))
    );
    assert_eq!(&trajectory.token_ids[trajectory.turns[1].tokens.clone()], ids(&expected));
    assert_eq!(processor().image_tokens(&trajectory.images[0]), 6);
}

#[test]
fn a_session_remembers_between_calls_and_belongs_to_one_sequence() {
    let mut generator = scripted(&["<code>count</code><code>count</code><answer>", "<code>count</code><answer>"]);
    let settings = RolloutSettings { group_size: 2, ..one_thread() };
    let groups = run(&mut generator, processor(), &environment(Default::default()), &[task("q")], &settings).unwrap();
    let texts = |sample: usize| -> Vec<String> {
        groups[0].trajectories[sample].calls.iter().map(|call| call.output.text.clone()).collect()
    };
    assert_eq!(texts(0), ["1", "2"]);
    assert_eq!(texts(1), ["1"]);
}

#[test]
fn a_tools_error_is_told_to_the_model() {
    let trajectory = roll("<code>error NameError: x</code><answer>7</answer>");
    assert_eq!(trajectory.end, End::Answered);
    assert_eq!(trajectory.calls[0].output.status, CallStatus::Error);
    assert_eq!(trajectory.turns[1].text, "<sandbox_output>NameError: x</sandbox_output>");
}

#[test]
fn a_tools_own_failure_ends_the_sequence_by_name() {
    let trajectory = roll("<think><code>fault</code><answer>7</answer>");
    assert!(matches!(&trajectory.end, End::ToolFailed(reason) if reason.contains("no python")));
    assert_eq!(kinds(&trajectory), [Thought, Call]);
    let scores = rewards::scores_of(&trajectory, &Default::default(), "q", "7");
    assert!(matches!(scores.total, Score::Unscored(_)), "a broken tool says nothing about the model");
}

#[test]
fn a_panic_in_a_tool_is_an_error_and_frees_the_generator() {
    let mut generator = scripted(&["<code>panic</code>"]);
    let result = run(&mut generator, processor(), &environment(Default::default()), &[task("q")], &one_thread());
    assert!(matches!(result, Err(RolloutError::Worker(message)) if message.contains("a fault in the tool")));
    assert_eq!(generator.open_sequences(), 0);
}

#[test]
fn the_end_of_a_turn_ends_the_sequence() {
    let trajectory = roll("no tags<|im_end|>");
    assert_eq!(trajectory.end, End::EndOfTurn);
    assert_eq!(trajectory.text(), "no tags");
    assert_eq!(trajectory.token_ids.last(), Some(&IM_END));
    assert!(trajectory.is_own(trajectory.token_ids.len() - 1), "the end of turn was sampled, so it is trained");
}

#[test]
fn a_stop_string_of_the_request_ends_the_sequence() {
    let settings = RolloutSettings { stop: vec!["STOP".into()], ..one_thread() };
    let mut generator = scripted(&["abc STOP more"]);
    let groups = run(&mut generator, processor(), &environment(Default::default()), &[task("q")], &settings).unwrap();
    assert_eq!(groups[0].trajectories[0].end, End::StopString);
    assert_eq!(groups[0].trajectories[0].text(), "abc STOP");
}

#[test]
fn the_limit_of_code_runs_is_told_once_and_the_model_may_still_answer() {
    let settings = ThinkWithCodeSettings { max_code_runs: 1, ..Default::default() };
    let answered = roll_with("<code>text 1</code><code>text 2</code><answer>7</answer>", settings.clone());
    assert_eq!(answered.end, End::Answered);
    assert_eq!(answered.calls[1].output.status, CallStatus::OverLimit);
    assert!(answered.turns[3].text.contains("limit of 1 code runs is reached"));
    let stubborn = roll_with("<code>text 1</code><code>text 2</code><code>text 3</code><answer>7</answer>", settings);
    assert_eq!(stubborn.end, End::CallLimit);
    assert_eq!(stubborn.calls.len(), 2);
}

#[test]
fn a_close_tag_without_code_is_told_and_counted() {
    let trajectory = roll("oops</code><code>\n```python\n```</code><answer>7</answer>");
    assert_eq!(trajectory.end, End::Answered);
    assert_eq!(trajectory.calls.len(), 2);
    assert!(trajectory.calls.iter().all(|call| call.output.status == CallStatus::Malformed));
    assert!(trajectory.turns[1].text.contains("no code to run"));
}

#[test]
fn an_image_that_cannot_be_shown_has_no_index() {
    let trajectory = roll("<think><code>narrow</code></think>\n<answer>7</answer>");
    check(&trajectory);
    let call = &trajectory.calls[0];
    assert_eq!((call.images_shown, call.output.images.len(), trajectory.images.len()), (1, 1, 1));
    assert_eq!(call.output.images[0].pixels.dimensions(), (64, 56));
    assert_eq!(trajectory.original_images.len(), 1);
    assert_eq!(trajectory.original_images.get(0).unwrap().dimensions(), (64, 56));
    assert!(trajectory.turns[2].text.contains("crop.png cannot be shown"), "{}", trajectory.turns[2].text);
}

#[test]
fn images_over_the_limit_become_words() {
    let settings = ThinkWithCodeSettings { max_images: 3, ..Default::default() };
    let trajectory =
        roll_with("<code>images 2</code><code>images 2</code><code>images 2</code><answer>7</answer>", settings);
    assert_eq!(trajectory.images.len(), 3);
    assert_eq!(trajectory.turns[1].text, "<sandbox_output>here<image><image></sandbox_output>");
    assert!(
        trajectory.turns[3].text.contains("limit of 3 is reached")
            && trajectory.turns[3].text.ends_with("<image></sandbox_output>")
    );
    assert_eq!(trajectory.calls[2].images_shown, 0);
}

#[test]
fn an_image_of_impossible_shape_becomes_words() {
    let trajectory = roll("<code>image 2 900</code><answer>7</answer>");
    assert!(trajectory.images.is_empty());
    assert!(trajectory.turns[1].text.contains("crop.png cannot be shown"), "{}", trajectory.turns[1].text);
}

#[test]
fn silence_is_named_and_long_output_is_cut() {
    let settings = ThinkWithCodeSettings { max_observation_characters: 5, ..Default::default() };
    let trajectory = roll_with("<code>text</code><code>text äöüäöüäöü</code><answer>7</answer>", settings);
    assert!(trajectory.turns[1].text.contains("No output captured"));
    assert!(trajectory.turns[3].text.contains("äöüäö\n(… 4 more characters)"), "{}", trajectory.turns[3].text);
}

#[test]
fn a_turn_and_a_sequence_have_limits_of_tokens() {
    let turn = roll_with("0123456789", ThinkWithCodeSettings { max_turn_tokens: 6, ..Default::default() });
    assert_eq!((turn.end.clone(), turn.own_tokens()), (End::TurnTokens, 6));
    assert!(turn.end.is_truncated());
    let total = ThinkWithCodeSettings { max_total_tokens: 70, ..Default::default() };
    let sequence = roll_with("<code>text 1</code>012345678901234567890123456789", total.clone());
    assert_eq!((sequence.end.clone(), sequence.completion_tokens()), (End::TotalTokens, 70));
    let observation = roll_with("<code>text 0123456789012345678901234567890123456789</code>1", total);
    assert_eq!(observation.end, End::TotalTokens);
    assert_eq!(kinds(&observation), [Call], "an observation that does not fit is left out");
    assert_eq!(observation.calls.len(), 1);
}

#[test]
fn an_empty_prompt_fails_its_task_only() {
    let empty = Task { prompt: TaskPrompt::Tokens(Prompt::default()), ..task("a") };
    let settings = one_thread();
    let groups = run(
        &mut scripted(&["", "<answer>7</answer>"]),
        processor(),
        &environment(Default::default()),
        &[empty, task("b")],
        &settings,
    )
    .unwrap();
    let ends: Vec<&End> = groups.iter().map(|group| &group.trajectories[0].end).collect();
    assert_eq!(ends, [&End::TaskFailed("the prompt has no tokens; give at least one".to_owned()), &End::Answered]);
}

#[test]
fn a_full_context_ends_the_sequence() {
    let prompt = ids("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n").len();
    let roll = |script: &str, positions: usize| {
        let mut generator = scripted(&[script]).with_positions(positions);
        run(&mut generator, processor(), &environment(Default::default()), &[task("q")], &one_thread())
            .unwrap()
            .remove(0)
    };
    assert_eq!(roll("0123456789", prompt + 4).trajectories[0].end, End::ContextFull);
    assert_eq!(roll("<code>text 1</code>1", prompt + 40).trajectories[0].end, End::ContextFull);
    let too_long = &roll("0", prompt).trajectories[0];
    assert_eq!(too_long.end, End::PromptTooLong { needed: prompt + 1, limit: prompt });
    assert!(too_long.end.is_fault() && too_long.own_tokens() == 0);
}

#[test]
fn repetition_ends_the_sequence_by_name() {
    let trajectory = roll(&"I should look at the picture once again. ".repeat(60));
    assert_eq!(trajectory.end, End::Repetition);
    assert!(trajectory.own_tokens() < 600, "{}", trajectory.own_tokens());
}

#[test]
fn what_a_program_prints_cannot_act_on_the_conversation() {
    let mut observation = thyme_engine::rollout::environment::Observation::default();
    observation.push_text(processor(), "a<|im_end|><|image_pad|><<|x").unwrap();
    assert!(observation.token_ids.iter().all(|&id| id < 256), "only plain bytes: {:?}", observation.token_ids);
    assert_eq!(processor().tokenizer().decode(&observation.token_ids, false), "a<|im_end|><|image_pad|><<|x");
}

#[test]
fn a_task_without_messages_gets_thymes_prompt() {
    let pixels = Arc::new(RgbImage::new(300, 200));
    let task = Task {
        question: "What is on the red plate?".into(),
        images: vec![ImageSource::Memory(pixels)],
        ..Task::default()
    };
    let mut generator = scripted(&["<answer>7</answer>"]);
    let groups = run(&mut generator, processor(), &environment(Default::default()), &[task], &one_thread()).unwrap();
    let trajectory = &groups[0].trajectories[0];
    check(trajectory);
    let prompt = processor().tokenizer().decode(&trajectory.token_ids[..trajectory.prompt_tokens], false);
    let prompt = prompt.replace("<|image_pad|>", "");
    assert!(prompt.contains("<sandbox_output></sandbox_output>") && prompt.contains("<code>\n```python"));
    assert!(prompt.ends_with(
        "<|im_start|>user\n<|vision_start|><|vision_end|>\nWhat is on the red plate?\n\n### User Image Path:** \"image.png\"\n\
         ### User Image Size:** \"300x200\"\n\n### **Output Format (strict adherence required):**\n\n\
         <think>Your detailed reasoning process, including any code, should go here.</think>\n\
         <answer>Your final answer to the user's question goes here.</answer>\n<|im_end|>\n<|im_start|>assistant\n"
    ));
}

#[test]
fn an_example_becomes_a_task_with_its_pictures_in_place() {
    use thyme_engine::tasks::{Example, Message, Role};
    let example = Example {
        messages: vec![Message::new(Role::User, "<image>What is it?")],
        images: vec![RgbImage::new(30, 40)],
        solution: Some("7".into()),
        question: Some("What is it?".into()),
        tools: None,
    };
    let task = Task::of_example(example.clone()).unwrap();
    let TaskPrompt::Conversation(messages) = &task.prompt else { panic!("an example is a conversation") };
    assert!(matches!(&messages[0].content[..], [Part::Image(_), Part::Text(text)] if text == "What is it?"));
    assert_eq!((task.images.len(), task.solution, &*task.question), (1, "7".into(), "What is it?"));
    assert!(Task::of_example(Example { images: vec![], ..example }).is_err(), "a mark without a picture");
}

#[test]
fn a_damaged_picture_fails_its_task_and_no_other() {
    let damaged = Task {
        prompt: TaskPrompt::Conversation(vec![Message::new(
            "user",
            vec![Part::Image(ImageSource::Path("/nowhere.png".into()))],
        )]),
        ..task("q")
    };
    let mut generator = scripted(&["unused", "<answer>7</answer>"]);
    let groups =
        run(&mut generator, processor(), &environment(Default::default()), &[damaged, task("q")], &one_thread())
            .unwrap();
    assert!(matches!(&groups[0].trajectories[0].end, End::TaskFailed(reason) if reason.contains("/nowhere.png")));
    assert_eq!(groups[1].trajectories[0].end, End::Answered);
}

#[test]
fn the_others_go_on_while_a_tool_runs_and_results_keep_the_order_of_tasks() {
    // The first call returns only after the other three sequences have made theirs: a rollout that waited for it would never end.
    let mut generator = scripted(&[
        "<code>wait 3</code><answer>0</answer>",
        "12345678901234567890<code>text 1</code><answer>1</answer>",
        "<code>text 2</code><answer>2</answer>",
        "123<code>text 3</code><answer>3</answer>",
    ]);
    let settings = RolloutSettings { group_size: 2, tool_threads: 2, ..RolloutSettings::default() };
    let tasks = [task("a"), task("b")];
    let groups = run(&mut generator, processor(), &environment(Default::default()), &tasks, &settings).unwrap();
    for (index, trajectory) in groups.iter().flat_map(|group| &group.trajectories).enumerate() {
        check(trajectory);
        assert_eq!((trajectory.task, trajectory.sample, trajectory.sequence), (index / 2, index % 2, index as u64));
        assert!(trajectory.text().ends_with(&format!("<answer>{index}</answer>")));
    }
}

#[test]
fn groups_wait_for_room_and_too_little_room_is_an_error() {
    let scripts: Vec<String> =
        (0..6).map(|index| format!("{}<answer>{index}</answer>", "x".repeat(6 - index))).collect();
    let scripts: Vec<&str> = scripts.iter().map(String::as_str).collect();
    let settings = RolloutSettings { group_size: 2, ..one_thread() };
    let tasks = [task("a"), task("b"), task("c")];
    let mut generator = scripted(&scripts).with_room(3);
    let groups = run(&mut generator, processor(), &environment(Default::default()), &tasks, &settings).unwrap();
    assert!(groups.iter().flat_map(|group| &group.trajectories).all(|trajectory| trajectory.end == End::Answered));
    let opened: Vec<&ScriptedCall> =
        generator.log.iter().filter(|call| matches!(call, ScriptedCall::Open(_))).collect();
    assert_eq!(
        opened,
        [&ScriptedCall::Open(vec![0, 1]), &ScriptedCall::Open(vec![2, 3]), &ScriptedCall::Open(vec![4, 5])]
    );
    let mut generator = scripted(&scripts).with_room(1);
    let result = run(&mut generator, processor(), &environment(Default::default()), &tasks, &settings);
    assert!(matches!(result, Err(RolloutError::NoRoom { group_size: 2, .. })));
}

#[test]
fn text_streams_without_half_characters() {
    let mut generator = scripted(&["<code>text x</code>ä €<answer>7</answer>"]);
    let mut shown = String::new();
    let mut whole = String::new();
    let mut watch = |update: Update<'_>| {
        match update {
            Update::Text { text, .. } | Update::Observed { text, .. } => shown.push_str(text),
            Update::Finished(trajectory) => whole = trajectory.text(),
        }
        ControlFlow::Continue(())
    };
    let tasks = &[task("q")][..];
    run_watched(&mut generator, processor(), &environment(Default::default()), &tasks, &one_thread(), &mut watch)
        .unwrap();
    assert_eq!(shown, whole);
    assert!(shown.contains("ä €") && shown.contains("<sandbox_output>x</sandbox_output>"));
}

#[test]
fn the_repetition_detector_judges_long_texts_by_share() {
    let settings = RepetitionSettings { substring_bytes: 8, share: 0.5, text_bytes_min: 40 };
    let repeats = |text: &str| {
        let mut detector = Repetition::new(settings);
        text.bytes().any(|byte| detector.push(&[byte]))
    };
    assert!(repeats(&"abcdefghijk".repeat(20)));
    assert!(repeats(&"a".repeat(60)));
    assert!(!repeats(&"a".repeat(30)), "short texts are not judged");
    let counting: String = (100..300).map(|number| number.to_string()).collect();
    assert!(!repeats(&counting));
    assert!(repeats(&counting.repeat(3)), "long periods are noticed too");
}

/// A piece of a random script.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z .]{0,12}",
        1 => Just("ä€𝄞".to_owned()),
        2 => Just("<code>text hello</code>".to_owned()),
        2 => Just("<code>```python\nimage 60 40\n```</code>".to_owned()),
        1 => Just("<code>images 3</code>".to_owned()),
        1 => Just("<code>image 2 900</code>".to_owned()),
        1 => Just("<code>error broken</code>".to_owned()),
        1 => Just("<code>".to_owned()),
        1 => Just("</code>".to_owned()),
        1 => Just("<answer>".to_owned()),
        1 => Just("<answer>7</answer>".to_owned()),
        1 => Just("<|im_end|>".to_owned()),
        1 => Just("<|vision_start|>".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_random_script_gives_sound_trajectories_whatever_the_threads(
        scripts in prop::collection::vec(prop::collection::vec(piece(), 0..10).prop_map(|pieces| pieces.concat()), 6),
        total in 20usize..400,
        room in 2usize..7,
    ) {
        let scripts: Vec<&str> = scripts.iter().map(String::as_str).collect();
        let limits = ThinkWithCodeSettings { max_total_tokens: total, max_turn_tokens: 60, max_code_runs: 2, max_images: 3, ..Default::default() };
        let roll = |tool_threads: usize, room: usize| -> Vec<Group> {
            let settings = RolloutSettings { group_size: 2, tool_threads, ..RolloutSettings::default() };
            let tasks = [task("a"), task("bb"), task("ccc")];
            let mut generator = scripted(&scripts).with_room(room);
            let groups = run(&mut generator, processor(), &environment(limits.clone()), &tasks, &settings).unwrap();
            assert_eq!(generator.open_sequences(), 0);
            groups
        };
        let (one, many) = (roll(1, room), roll(3, usize::MAX));
        for (a, b) in one.iter().flat_map(|group| &group.trajectories).zip(many.iter().flat_map(|group| &group.trajectories)) {
            check(a);
            prop_assert!(a.completion_tokens() <= total);
            prop_assert_eq!(&a.token_ids, &b.token_ids);
            prop_assert_eq!(&a.turns, &b.turns);
            prop_assert_eq!(&a.end, &b.end);
            prop_assert_eq!(&a.sampled, &b.sampled);
        }
    }

    #[test]
    fn rewards_take_any_text(text in ".{0,80}", solution in ".{0,40}", question in ".{0,40}") {
        let script = format!("<think>{text}</think>\n<answer>{text}</answer>");
        let scores = rewards::scores(&script, &question, &solution);
        if let Score::Value(total) = scores.total {
            prop_assert!((0.0..=2.0).contains(&total));
        }
    }
}

#[test]
fn real_python_crops_the_original_picture() {
    let tool = Python::start(&PythonSettings::default()).unwrap();
    let environment = ThinkWithCode::new(ThinkWithCodeSettings::default(), tools(tool));
    let task = Task { images: vec![ImageSource::Memory(Arc::new(RgbImage::new(300, 200)))], ..task("q") };
    let mut generator = scripted(&[
        "<think><code>\n```python\nfrom PIL import Image\nimage = Image.open(image_path)\nsize = image.size\n\
         processed_path = temp_output_dir + '/crop.png'\nimage.crop((10, 20, 110, 120)).save(processed_path)\n\
         print(processed_path)\n```\n</code>then<code>print(size)</code>and<code>print(1 / 0)</code></think>\n<answer>7</answer>",
    ]);
    let groups = run(&mut generator, processor(), &environment, &[task], &one_thread()).unwrap();
    let trajectory = &groups[0].trajectories[0];
    check(trajectory);
    assert_eq!(trajectory.end, End::Answered);
    assert_eq!((trajectory.images[0].original_width, trajectory.images[0].original_height), (100, 100));
    assert_eq!(trajectory.calls[1].output.text.trim(), "(300, 200)", "variables persist");
    assert_eq!(trajectory.calls[2].output.status, CallStatus::Error);
    assert!(trajectory.calls[2].output.text.contains("division by zero"));
}
