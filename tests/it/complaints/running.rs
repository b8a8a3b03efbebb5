//! What a run does beside its numbers: memory, and who waits for whom.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use thyme_engine::engine::images::{EncodedImages, IDLE_TOKENS_MAX};
use thyme_engine::engine::request::GenerateRequest;
use thyme_engine::prompt::{Grid, PreparedImage, Processor};
use thyme_engine::rollout::environment::{
    Environment, EnvironmentError, Episode, Observation, ParsedTurn, PreparedTask, TokenLimits,
};
use thyme_engine::rollout::generator::{Generator, GeneratorError, Scripted, TokenEvent};
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::registry::{Registry, RewardEntry};
use thyme_engine::rollout::reward::{Reward, Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};
use thyme_engine::rollout::scored::run_scored;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::tool::{CallResult, ToolCall, ToolFault, ToolOutput};
use thyme_engine::rollout::trajectory::End;
use thyme_engine::rollout::{RolloutSettings, run};

use super::{LIMITS, environment, policy, roll_out, scripted, task, tool, trajectories};
use crate::support::command::{Workplace, train};
use crate::support::small_policy::{Random, SmallPolicy, learner_settings};

// ---- 6 ----

/// Rollouts on one engine under the same weights, each with new pictures: nobody keeps an image of a rollout that is over.
#[test]
fn host_memory_does_not_grow_with_rollouts() {
    const TURNS: [&str; 2] = [
        tool!("crop_image", "{\"x\": 10, \"y\": 6, \"width\": 90, \"height\": 70}"),
        tool!("rotate_image", "{\"angle\": 30}"),
    ];
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    let mut images: Vec<Weak<PreparedImage>> = Vec::new();
    for round in 0..6 {
        let groups = roll_out(&policy, &mut engine, &TURNS, &[task(&[(168, 112), (90, 60)], round)], u64::from(round));
        images.extend(trajectories(&groups).flat_map(|trajectory| trajectory.images.iter().map(Arc::downgrade)));
        drop(groups);
        let held = images.iter().filter(|image| image.strong_count() > 0).count();
        assert_eq!((held, engine.pages().0), (0, LIMITS.pages), "after {} rollouts", round + 1);
    }
    assert!(images.len() > 60, "{} images", images.len());
}

/// An engine whose weights stay keeps few of the images that nobody holds, however many it is shown.
#[test]
fn encoded_images_that_nobody_holds_are_forgotten() {
    let SmallPolicy { model, weights, processor, .. } =
        SmallPolicy::open("qwen2_vl_tied_flat", Arc::new(thyme_engine::cpu::Cpu::new()));
    let (grid, patch) = (Grid { t: 1, h: 16, w: 16 }, processor.image_settings().patch_size);
    let (tokens, scale) = (grid.tokens(model.config.merge()), learner_settings(&processor, true).pixel_scale);
    let image = |number: usize| {
        Arc::new(PreparedImage {
            patches: vec![number as u8; grid.patches() * 3 * patch * patch],
            grid,
            original_width: 224,
            original_height: 224,
            resized_width: 224,
            resized_height: 224,
            digest: number as u128,
        })
    };
    let most = IDLE_TOKENS_MAX / tokens;
    let mut encoded = EncodedImages::default();
    let held = image(0);
    encoded.encode(&model, &weights, std::slice::from_ref(&held), scale);
    for number in 1..2 * most {
        encoded.encode(&model, &weights, &[image(number)], scale);
    }
    let kept: Vec<usize> =
        (0..2 * most).filter(|&number| encoded.unmerged_features(&image(number)).is_some()).collect();
    // The one that is held, the idle ones that may stay, and the last, which was not idle when it was encoded.
    assert_eq!(kept, [&[0], &((most - 1)..2 * most).collect::<Vec<_>>()[..]].concat());
}

/// A run of many steps has the memory of its first ones.
#[test]
fn the_memory_of_a_run_stays_that_of_its_first_steps() {
    const STEPS: usize = 60;
    let place = Workplace::new();
    let recipe = place.grpo("[data.needle]\n[evaluation]\ntasks = 0\n");
    let steps = format!("training.max_steps={STEPS}");
    let mut child = train(&recipe, &["--set", &steps, "--set", "training.save_steps=1000"]).spawn().unwrap();
    let mut readings: Vec<(usize, u64)> = Vec::new();
    while child.try_wait().unwrap().is_none() {
        let done = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap_or_default().lines().count();
        readings.extend(resident_bytes(&child).map(|bytes| (done, bytes)));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(child.wait().unwrap().success());
    let most = |steps: std::ops::Range<usize>| {
        readings.iter().filter(|(done, _)| steps.contains(done)).map(|(_, bytes)| *bytes).max().unwrap()
    };
    let (first, last) = (most(10..25), most(STEPS - 15..STEPS));
    assert!(last < first + (4 << 20), "{first} bytes in steps 10 to 25, {last} in the last 15");
}

fn resident_bytes(child: &Child) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

// ---- 14 ----

/// Longest that anybody waits for the generator.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keys of an environment whose turns may be long.
const ROOM: &str = "max_turn_tokens = 9999\nmax_total_tokens = 9999";

/// Steps that a generator has made, for those who wait for more.
struct Steps {
    count: Mutex<usize>,
    changed: Condvar,
    /// Who has waited, and whether the steps came.
    waited: Mutex<BTreeMap<&'static str, bool>>,
}

impl Steps {
    const fn new() -> Steps {
        Steps { count: Mutex::new(0), changed: Condvar::new(), waited: Mutex::new(BTreeMap::new()) }
    }

    /// Waits until the generator has gone on by some steps.
    fn wait(&self, who: &'static str) -> bool {
        let count = self.count.lock().unwrap();
        let wanted = *count + 20;
        let waited = self.changed.wait_timeout_while(count, PATIENCE, |count| *count < wanted).unwrap();
        self.waited.lock().unwrap().insert(who, *waited.0 >= wanted);
        *waited.0 >= wanted
    }
}

/// A generator that counts its steps, and takes its time for each until so many have waited.
struct Counted<'a> {
    inner: Scripted,
    steps: &'a Steps,
    waiting: usize,
}

impl Generator for Counted<'_> {
    fn open(&mut self, request: GenerateRequest) -> Result<(), GeneratorError> {
        self.inner.open(request)
    }

    fn step(&mut self) -> Result<Vec<TokenEvent>, GeneratorError> {
        if self.steps.waited.lock().unwrap().len() < self.waiting {
            std::thread::sleep(Duration::from_millis(1));
        }
        *self.steps.count.lock().unwrap() += 1;
        self.steps.changed.notify_all();
        self.inner.step()
    }

    fn append(&mut self, sequence: u64, ids: &[u32], images: &[Arc<PreparedImage>]) -> Result<(), GeneratorError> {
        self.inner.append(sequence, ids, images)
    }

    fn close(&mut self, sequence: u64) {
        self.inner.close(sequence);
    }
}

/// An environment in which the preparation of a second task and its observation take until the generator has gone on.
struct Slow<'a> {
    inner: Arc<dyn Environment>,
    steps: &'a Arc<Steps>,
}

struct SlowEpisode {
    inner: Box<dyn Episode>,
    steps: Arc<Steps>,
}

impl Environment for Slow<'_> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn stop_strings(&self) -> Vec<String> {
        self.inner.stop_strings()
    }

    fn limits(&self) -> TokenLimits {
        self.inner.limits()
    }

    fn code_tags(&self) -> Option<(String, String)> {
        self.inner.code_tags()
    }

    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError> {
        if task.images.len() == 2 {
            self.steps.wait("preparation");
        }
        let mut prepared = self.inner.open(processor, task, group_size)?;
        let slow = |inner| -> Box<dyn Episode> { Box::new(SlowEpisode { inner, steps: self.steps.clone() }) };
        prepared.episodes = prepared.episodes.into_iter().map(slow).collect();
        Ok(prepared)
    }
}

impl Episode for SlowEpisode {
    fn read(&mut self, text: &str, stop: usize) -> ParsedTurn {
        self.inner.read(text, stop)
    }

    fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.inner.run(call, images)
    }

    fn observe(&mut self, processor: &Processor, results: &mut [CallResult]) -> Result<Observation, EnvironmentError> {
        self.steps.wait("observation");
        self.inner.observe(processor, results)
    }
}

/// Text of that many numbers, which does not repeat itself.
fn long_text(numbers: usize) -> String {
    let mut random = Random::new(2);
    (0..numbers).map(|_| format!("{} ", random.below(1000))).collect()
}

#[test]
fn preparing_images_does_not_block_decoding() {
    let (processor, steps) = (policy().processor, Arc::new(Steps::new()));
    let inner = environment("vision_tools", ROOM).unwrap();
    let environment = Slow { inner, steps: &steps };
    let call = tool!("rotate_image", "{\"angle\": 90}");
    let inner = scripted(&processor, &[&long_text(600), &format!("{call}<answer>7</answer>")]);
    let mut generator = Counted { inner, steps: &steps, waiting: 2 };
    let tasks = [task(&[(84, 84)], 1), task(&[(84, 84), (56, 56)], 2)];
    let groups = run(&mut generator, &processor, &environment, &tasks, &RolloutSettings::default()).unwrap();
    assert_eq!(groups[1].trajectories[0].end, End::Answered);
    assert_eq!(*steps.waited.lock().unwrap(), BTreeMap::from([("observation", true), ("preparation", true)]));
}

/// A reward that waits, as one that asks a judge does.
struct Patient;

static JUDGED: Steps = Steps::new();

impl Reward for Patient {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let score = |view: &&View<'_>| Score::of(view.answer.is_some() && JUDGED.wait("judge"));
        group.iter().map(score).collect()
    }
}

#[test]
fn judging_does_not_block_decoding() {
    let processor = policy().processor;
    let environment = environment("direct", ROOM).unwrap();
    let patient = RewardEntry {
        name: "patient",
        default_weight: 1.0,
        scored_without_weight: false,
        build: |_, _| Ok(Box::new(Patient)),
    };
    let rewards = RewardSet::new(&RewardSettings::default(), &Registry::default().with_reward(patient)).unwrap();
    let inner = scripted(&processor, &[&long_text(600), "<think>so</think>\n<answer>7</answer><|im_end|>"]);
    let mut generator = Counted { inner, steps: &JUDGED, waiting: 1 };
    let tasks = [1, 2].map(|tint| Task { solution: "7".into(), ..task(&[(84, 84)], tint) });
    let settings = RolloutSettings::default();
    let rollouts = run_scored(&mut generator, &processor, &*environment, &tasks, &settings, &rewards).unwrap();
    assert_eq!(*JUDGED.waited.lock().unwrap(), BTreeMap::from([("judge", true)]));
    let part =
        |name: &str| rollouts.scores.iter().map(|scores| scores[0].part(name).cloned().unwrap()).collect::<Vec<_>>();
    assert_eq!(part("patient"), [Score::Value(0.0), Score::Value(1.0)]);
    assert_eq!(part("answer"), [Score::Value(0.0), Score::Value(1.0)]);
    let tasks: Vec<usize> = rollouts.groups.iter().map(|group| group.task).collect();
    assert_eq!(tasks, [0, 1]);
}
