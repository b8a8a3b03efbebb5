//! An environment with two tools that work on each other's images, and a reward that looks at a group's images.

use std::sync::Arc;

use image::{Rgb, RgbImage, imageops};
use thyme_engine::eval::Report;
use thyme_engine::prompt::{ImageSource, Processor};
use thyme_engine::rollout::answer::AnswerRange;
use thyme_engine::rollout::environment::{
    Environment, EnvironmentError, Episode, Next, Observation, ObservationPart, ParsedTurn, PreparedTask, TokenLimits,
};
use thyme_engine::rollout::generator::Scripted;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::judge::Judge;
use thyme_engine::rollout::registry::{Registry, RegistryError, RewardEntry, settings};
use thyme_engine::rollout::reward::{Reward, Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings, Scores};
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::tool::{
    CallResult, CallStatus, Subject, Tool, ToolCall, ToolFault, ToolImage, ToolOutput, ToolSession,
};
use thyme_engine::rollout::tool_set::{ToolSessions, ToolSet};
use thyme_engine::rollout::trajectory::{End, Trajectory, TurnKind};
use thyme_engine::rollout::{Group, RolloutSettings, run};

use super::{processor, scripted};

/// The task's picture: 100x100, each pixel its own column and row.
fn picture() -> RgbImage {
    RgbImage::from_fn(100, 100, |x, y| Rgb([x as u8, y as u8, 0]))
}

fn image(pixels: RgbImage) -> ToolImage {
    ToolImage { name: "image-1.png".into(), label: "image".into(), pixels: Arc::new(pixels), widened: None }
}

/// `INDEX X Y W H`: cuts a part out of any image of the trajectory.
struct Crop;

/// `INDEX`: turns an image upside down.
struct Flip;

/// Reads numbers, and works on the image that the first of them names.
struct Work(fn(&RgbImage, &[u32]) -> RgbImage);

impl ToolSession for Work {
    fn run(&mut self, request: &str, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        let numbers: Vec<u32> = request.split(' ').map(|number| number.parse().unwrap()).collect();
        Ok(match images.get(numbers[0] as usize) {
            Ok(pixels) => {
                let made = image((self.0)(&pixels, &numbers[1..]));
                ToolOutput { images: vec![made], ..ToolOutput::text(CallStatus::Ok, "") }
            }
            Err(missing) => ToolOutput::text(CallStatus::Error, missing.to_string()),
        })
    }
}

fn sessions(work: fn(&RgbImage, &[u32]) -> RgbImage, count: usize) -> Vec<Box<dyn ToolSession>> {
    (0..count).map(|_| Box::new(Work(work)) as _).collect()
}

impl Tool for Crop {
    fn name(&self) -> &'static str {
        "crop"
    }

    fn open(&self, _: &Subject<'_>, count: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(sessions(|pixels, at| imageops::crop_imm(pixels, at[0], at[1], at[2], at[3]).to_image(), count))
    }
}

impl Tool for Flip {
    fn name(&self) -> &'static str {
        "flip"
    }

    fn open(&self, _: &Subject<'_>, count: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(sessions(|pixels, _| imageops::flip_vertical(pixels), count))
    }
}

/// The model writes `[TOOL REQUEST]`, or its answer between `=é=` and `=end`.
struct Desk(ToolSet);

struct AtDesk(ToolSessions);

impl Environment for Desk {
    fn name(&self) -> &'static str {
        "desk"
    }

    fn stop_strings(&self) -> Vec<String> {
        vec!["]".into(), "=end".into()]
    }

    fn limits(&self) -> TokenLimits {
        TokenLimits { turn: 1000, total: 10_000 }
    }

    fn code_tags(&self) -> Option<(String, String)> {
        None
    }

    fn open(&self, processor: &Processor, task: &Task, count: usize) -> Result<PreparedTask, EnvironmentError> {
        let TaskPrompt::Question = task.prompt else { panic!("these tasks are questions") };
        let prompt = processor.encode_messages(
            &[thyme_engine::prompt::Message::text("user", &*task.question)],
            &task.folder,
            true,
        )?;
        let subject = Subject { images: &task.images, folder: &task.folder, image_name: "image.png" };
        let episode = |sessions| -> Box<dyn Episode> { Box::new(AtDesk(sessions)) };
        let episodes = self.0.open(&subject, count)?.into_iter().map(episode).collect();
        let images = TrajectoryImages::of_task(task.images.clone(), task.folder.clone());
        Ok(PreparedTask { prompt, conversation: Arc::default(), images, episodes })
    }
}

impl Episode for AtDesk {
    fn read(&mut self, text: &str, stop: usize) -> ParsedTurn {
        if stop == 1 {
            // Marked otherwise than with tags.
            let split_at = text.find("=é=").unwrap();
            let inside = split_at + "=é=".len()..text.len() - "=end".len();
            let answer = Some(AnswerRange { inside, with_tags: split_at..text.len() });
            return ParsedTurn { split_at, kind: TurnKind::Answer, answer, next: Next::End(End::Answered) };
        }
        let split_at = text.find('[').unwrap();
        let (tool, request) = text[split_at + 1..text.len() - 1].split_once(' ').unwrap();
        let call = ToolCall { tool: tool.into(), request: request.into() };
        ParsedTurn { split_at, kind: TurnKind::Call, answer: None, next: Next::run(call) }
    }

    fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.0.run(call, images)
    }

    fn observe(&mut self, processor: &Processor, results: &mut [CallResult]) -> Result<Observation, EnvironmentError> {
        let output = &results[0].output;
        let shown = output.images.iter().map(|image| Arc::new(processor.prepare(&image.pixels).unwrap()));
        let parts =
            std::iter::once(ObservationPart::Text(output.text.clone())).chain(shown.map(ObservationPart::Image));
        Ok(Observation::new(processor, ("(", ")"), parts)?)
    }
}

fn task() -> Task {
    let images = vec![ImageSource::Memory(Arc::new(picture()))];
    Task { question: "Where?".into(), solution: "7".into(), images, ..Task::default() }
}

fn group(scripts: &[&str]) -> Group {
    let environment = Desk(ToolSet::new(vec![Arc::new(Crop), Arc::new(Flip)]));
    let settings = RolloutSettings { group_size: scripts.len(), ..RolloutSettings::default() };
    let mut generator: Scripted = scripted(scripts);
    run(&mut generator, processor(), &environment, &[task()], &settings).unwrap().remove(0)
}

#[test]
fn a_tool_works_on_an_image_that_another_made() {
    let group = group(&["turn it [flip 0] and look closer [crop 1 10 20 30 40] =é=7=end"]);
    let trajectory = &group.trajectories[0];
    let called: Vec<(&str, &str)> = trajectory.calls.iter().map(|call| (&*call.tool, &*call.request)).collect();
    assert_eq!(called, [("flip", "0"), ("crop", "1 10 20 30 40")]);
    let images = &trajectory.original_images;
    assert_eq!((images.len(), images.task_images()), (3, 1));
    assert_eq!(*images.get(0).unwrap(), picture());
    let flipped = imageops::flip_vertical(&picture());
    assert_eq!(*images.get(1).unwrap(), flipped);
    assert_eq!(*images.get(2).unwrap(), imageops::crop_imm(&flipped, 10, 20, 30, 40).to_image());
    let solution = "7".into();
    let view = View::new(trajectory, "", &solution);
    assert_eq!((view.answer.as_deref(), &*view.thought), (Some("7"), "turn it \n and look closer \n "));
}

#[test]
fn an_image_or_a_tool_that_is_not_there_is_named() {
    let group = group(&["[crop 1 0 0 9 9] [turn 0] =é=7=end"]);
    let calls = &group.trajectories[0].calls;
    assert_eq!(calls[0].output.text, "there is no image 1: the trajectory has 1, counted from 0");
    assert_eq!(calls[1].output.status, CallStatus::Denied);
    assert_eq!(calls[1].output.text, "There is no tool \"turn\"; the tools are: crop, flip.");
}

#[test]
fn a_report_tells_the_tools_apart_and_counts_names_that_no_tool_has_as_one() {
    let group = group(&["[crop 0 1 1 9 9][flip 1][crop 7 1 1 9 9][turn 0][tilt 0]=é=7=end", "=é=7=end"]);
    let scores = RewardSet::new(&RewardSettings::default(), &Registry::default())
        .unwrap()
        .score_groups(std::slice::from_ref(&group), &[task()])
        .remove(0);
    let report = Report::new(group.trajectories.iter().zip(&scores));
    let tools: Vec<_> = report.tools.iter().map(|tool| (&*tool.tool, tool.calls, tool.statuses["ok"])).collect();
    assert_eq!(tools, [("crop", 2, 1), ("flip", 1, 1), ("none", 2, 0)]);
    assert_eq!((report.tools[0].statuses["error"], report.tools[2].statuses["denied"]), (1, 2));
    assert_eq!((report.calls.min, report.calls.mean, report.calls.max), (0.0, 2.5, 5.0));
    assert_eq!((report.images.min, report.images.mean, report.images.max), (0.0, 1.0, 2.0));
}

/// Scores how many pixels the last image has less than the largest of the group's last images; fails where nothing was made.
struct Closest(ClosestSettings);

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClosestSettings {
    scale: f64,
}

impl Reward for Closest {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let area = |view: &&View<'_>| {
            let last = (view.images.len() > view.images.task_images()).then(|| view.images.len() - 1);
            last.map(|last| view.images.get(last).unwrap().pixels().len() as f64)
        };
        let areas: Vec<Option<f64>> = group.iter().map(area).collect();
        let largest = areas.iter().flatten().copied().fold(0.0, f64::max);
        let score = |area: Option<f64>| match area {
            Some(area) => Score::Value(self.0.scale * (largest - area)),
            None => Score::Unscored("no image was made".into()),
        };
        areas.into_iter().map(score).collect()
    }
}

fn closest(table: toml::Table, _: Option<Arc<dyn Judge>>) -> Result<Box<dyn Reward>, RegistryError> {
    Ok(Box::new(Closest(settings("reward", "closest", table)?)))
}

fn scored(group: Group) -> Vec<Scores> {
    let registry = Registry::default().with_reward(RewardEntry {
        name: "closest",
        default_weight: 1.0,
        scored_without_weight: false,
        build: closest,
    });
    let settings: RewardSettings = toml::from_str("settings.closest.scale = 0.5").unwrap();
    RewardSet::new(&settings, &registry).unwrap().score_groups(&[group], &[task()]).remove(0)
}

#[test]
fn a_reward_sees_a_groups_images_and_fails_for_one_member() {
    let scores = scored(group(&["[crop 0 0 0 20 10]=é=7=end", "=é=7=end", "[crop 0 0 0 10 10]=é=7=end"]));
    let parts: Vec<_> = scores.iter().map(|scores| scores.part("closest").unwrap().clone()).collect();
    let unscored = Score::Unscored("no image was made".into());
    assert_eq!(parts, [Score::Value(0.0), unscored, Score::Value(50.0)]);
    assert_eq!(scores.iter().map(|scores| scores.total.value().is_some()).collect::<Vec<_>>(), [true, false, true]);
}

/// What a reward that breaks its contract does.
struct Broken;

impl Reward for Broken {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        assert!(group.len() > 1, "alone");
        if group.len() > 2 { vec![Score::Value(f64::NAN); group.len()] } else { Vec::new() }
    }
}

/// Depends on a reward that does not exist.
struct Dangling;

impl Reward for Dangling {
    fn gate(&self) -> Option<&'static str> {
        Some("answr")
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        vec![Score::Value(1.0); group.len()]
    }
}

#[test]
fn a_gate_that_is_no_reward_is_refused_by_name() {
    let entry = RewardEntry {
        name: "dangling",
        default_weight: 1.0,
        scored_without_weight: false,
        build: |_, _| Ok(Box::new(Dangling)),
    };
    let message = RewardSet::new(&RewardSettings::default(), &Registry::default().with_reward(entry)).err().unwrap();
    assert!(message.to_string().contains("\"answr\"") && message.to_string().contains("answer"), "{message}");
}

#[test]
fn a_reward_that_panics_or_miscounts_scores_nobody() {
    let entry = RewardEntry {
        name: "broken",
        default_weight: 1.0,
        scored_without_weight: false,
        build: |_, _| Ok(Box::new(Broken)),
    };
    let rewards = RewardSet::new(&RewardSettings::default(), &Registry::default().with_reward(entry)).unwrap();
    let reason = |scripts: &[&str]| match rewards.score_groups(&[group(scripts)], &[task()])[0][0].part("broken") {
        Some(Score::Unscored(reason)) => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(&["=é=7=end"]), "the reward panicked: alone");
    assert_eq!(reason(&["=é=7=end"; 2]), "the reward gave 0 scores for 2 trajectories");
    assert_eq!(reason(&["=é=7=end"; 3]), "the reward gave NaN");
}

#[test]
fn a_trajectory_that_a_tool_failed_is_not_in_the_group() {
    let mut group = group(&["[crop 0 0 0 20 10]=é=7=end", "[crop 0 0 0 10 10]=é=7=end"]);
    let failed: &mut Trajectory = &mut group.trajectories[0];
    failed.end = End::ToolFailed("it broke".into());
    let scores = scored(group);
    assert_eq!(scores[0].part("closest"), Some(&Score::Unscored("it broke".into())));
    assert_eq!(scores[1].part("closest"), Some(&Score::Value(0.0)), "its image is the largest of the others");
}
