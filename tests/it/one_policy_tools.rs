//! Promise 2 through tools: the environment `zoom_in_bank` with crops of crops and several calls a turn, on the engine's real tokens. The tiny model
//! writes what it likes; the calls of each turn are dictated, so that every trajectory has them.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::EngineLimits;
use thyme_engine::engine::speculation::Speculation;
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::branching::{BranchAt, Branching, Members, Shared};
use thyme_engine::rollout::engine_generator::EngineGenerator;
use thyme_engine::rollout::generator::Sampling;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::trajectory::Trajectory;
use thyme_engine::rollout::{RolloutSettings, run};

use crate::support::dictated::Dictated;
use crate::support::small_policy::{Compared, Random, Record, SmallPolicy, compare_with_training};

/// What the model is taken to have said, turn by turn: one zoom, two of different images, one into the newest crop, one that fails.
const TURNS: [&str; 4] = [
    "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [100, 100, 700, 800], \"label\": \"a\", \"img_idx\": 0}}\
     </tool_call>",
    "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 500, 500, 1000], \"label\": \"b\", \"img_idx\": 1}}\
     </tool_call><tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [250, 0, 1000, 500], \"label\": \"c\", \
     \"img_idx\": 2}}</tool_call>",
    "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [200, 200, 900, 900], \"label\": \"d\", \"img_idx\": 4}}\
     </tool_call>",
    "<tool_call>{\"name\": \"image_zoom_in_tool\", \"arguments\": {\"bbox_2d\": [0, 0, 10, 10], \"label\": \"e\", \"img_idx\": 40}}\
     </tool_call>",
];

fn environment() -> Dictated {
    let keys = "stop_at_call = true\ncalls_run = \"all\"\nmax_turns = 9\nmax_image_pixels = 12544\nmax_turn_tokens = 120\n\
                max_total_tokens = 1200\nsystem_prompt = \"Look.\"";
    let table = toml::from_str(keys).unwrap();
    Dictated::new(Registry::default().environment(("zoom_in_bank".to_owned(), table), &[]).unwrap(), &TURNS)
}

/// Two pictures of random size and levels, and a question.
fn task(random: &mut Random) -> Task {
    let picture = |random: &mut Random| {
        let (width, height, tint) = (84 + random.below(120) as u32, 84 + random.below(120) as u32, random.next());
        let level = |x: u32, y: u32, c: u32| (x * 3 + y * 5 + (x ^ y) * c + tint as u32) as u8;
        let pixels = RgbImage::from_fn(width, height, |x, y| Rgb([level(x, y, 1), level(x, y, 2), level(x, y, 3)]));
        ImageSource::Memory(Arc::new(pixels))
    };
    let images = (0..1 + random.below(2)).map(|_| picture(random)).collect();
    Task { question: "What digit is on the red plate?".into(), images, ..Task::default() }
}

/// Rolls out until so many tokens are compared.
fn play(tokens: usize) -> Compared {
    let policy = SmallPolicy::of_recipe(Arc::new(Cpu::new()));
    let environment = environment();
    let mut random = Random::new(3);
    let mut total = Compared::default();
    let (mut crops_of_crops, mut calls_together) = (0, 0);
    for seed in 0.. {
        if total.tokens >= tokens {
            break;
        }
        let limits = EngineLimits {
            pages: 90 + random.below(100),
            prefill_chunk_tokens: random.pick(&[7, 33, 500]),
            sequences: random.pick(&[4, 8]),
        };
        let speculation = if seed % 2 == 0 { Speculation::Off } else { Speculation::Always };
        let mut engine = policy.engine(limits).with_speculation(speculation);
        let tasks: Vec<Task> = (0..3).map(|_| task(&mut random)).collect();
        let temperature = random.pick(&[0.8, 1.0, 1.5]);
        let turn_temperatures = if seed % 2 == 0 { Vec::new() } else { vec![temperature, 0.7, 1.1] };
        let sampling = Sampling { temperature, turn_temperatures, ..Sampling::default() };
        let settings = RolloutSettings { group_size: 4, seed, sampling, ..RolloutSettings::default() };
        let mut generator = EngineGenerator { engine: &mut engine, weights: &policy.weights };
        let groups = run(&mut generator, &policy.processor, &environment, &tasks, &settings).unwrap();
        let trajectories: Vec<&Trajectory> = groups.iter().flat_map(|group| &group.trajectories).collect();
        for trajectory in &trajectories {
            assert_temperatures(trajectory, &settings.sampling);
            assert!(trajectory.end.fault().is_none(), "{:?}", trajectory.end);
            calls_together += trajectory.observations().filter(|(_, calls)| calls.len() > 1).count();
            let of_crop = |call: &&thyme_engine::rollout::trajectory::Call| {
                call.images_shown > 0 && !call.request.contains("\"img_idx\":0")
            };
            crops_of_crops += trajectory.calls.iter().filter(of_crop).count();
        }
        let records: Vec<Record> = trajectories.into_iter().map(Record::of).collect();
        let found = compare_with_training(&policy, &engine, &records, seed);
        total.tokens += found.tokens;
        total.differing += found.differing;
        total.preemptions += engine.statistics().preemptions;
        total.accepted_tokens += engine.statistics().accepted_tokens;
    }
    println!("{total:?}, {crops_of_crops} crops of crops, {calls_together} observations of several calls");
    assert!(crops_of_crops * 200 > total.tokens && calls_together * 400 > total.tokens);
    total
}

/// Each branch begins with what it shares with its trunk, token by token as that was sampled, and goes on in its own way; how many tokens and how many
/// images of observations are shared.
fn assert_branches(group: &[Trajectory], branching: Branching) -> (usize, usize) {
    let (mut tokens, mut images) = (0, 0);
    for trunk in 0..branching.trunks(group.len()).count {
        let Shared { trajectory: whole, begun } = branching.shared(&group[trunk]);
        let Members { first, count } = branching.branches(group.len(), trunk);
        for branch in &group[first..first + count] {
            let ids = whole.token_ids.iter().copied().chain(begun.iter().map(|token| token.id));
            assert!(branch.token_ids.iter().copied().take(whole.token_ids.len() + begun.len()).eq(ids));
            let sampled = whole.sampled.iter().copied().chain(begun.iter().copied().map(Some));
            let found = branch.sampled.iter().copied().take(whole.sampled.len() + begun.len());
            assert!(found.eq(sampled), "sample {}", branch.sample);
            assert_eq!(branch.turns[..whole.turns.len()], whole.turns);
            assert_eq!(branch.calls[..whole.calls.len()], whole.calls);
            tokens += whole.completion_tokens() + begun.len();
            images += whole.images.len() - whole.prompt_images();
        }
    }
    (tokens, images)
}

/// Each token was sampled at the temperature of its turn.
fn assert_temperatures(trajectory: &Trajectory, sampling: &Sampling) {
    let mut turn = 0;
    for place in trajectory.prompt_tokens..trajectory.token_ids.len() {
        let begins = place > trajectory.prompt_tokens && !trajectory.is_own(place - 1);
        turn += usize::from(trajectory.is_own(place) && begins);
        if let Some(token) = &trajectory.sampled[place] {
            assert_eq!(token.temperature, sampling.temperature_of(turn), "token {place}, turn {turn}");
        }
    }
}

#[test]
fn one_policy_zooms_into_crops_of_crops_with_several_calls_a_turn() {
    let compared = play(5_000);
    assert!(compared.tokens >= 5_000 && compared.differing == 0, "{compared:?}");
}

#[test]
#[ignore = "takes minutes without optimisation; run: cargo test --release --test it one_policy_tools_long -- --ignored --nocapture"]
fn one_policy_tools_long() {
    let compared = play(100_000);
    assert!(compared.tokens >= 100_000 && compared.differing == 0, "{compared:?}");
}

/// What branches share was computed once, for the rollout that sampled it, and what they go on with has the log-probabilities that training computes.
#[test]
fn rollouts_that_part_from_others_of_their_group_are_one_policy() {
    let policy = SmallPolicy::of_recipe(Arc::new(Cpu::new()));
    let limits = "max_turn_tokens = 60\nmax_total_tokens = 60\n".parse::<toml::Table>().unwrap();
    let environment = Registry::default().environment(("direct".to_owned(), limits), &[]).unwrap();
    let tasks: Vec<Task> = (0..6).map(|n| Task { question: format!("{n}?"), ..Task::default() }).collect();
    for (seed, at) in [BranchAt::Entropy, BranchAt::FirstCall].into_iter().enumerate() {
        let branching = Branching { at, rollouts: 3 };
        let settings = RolloutSettings {
            group_size: 6,
            branching: Some(branching),
            seed: seed as u64,
            ..RolloutSettings::default()
        };
        let limits = EngineLimits { pages: 200, prefill_chunk_tokens: 33, sequences: 7 };
        let mut engine = policy.engine(limits);
        let mut generator = EngineGenerator { engine: &mut engine, weights: &policy.weights };
        let groups = run(&mut generator, &policy.processor, &*environment, &tasks, &settings).unwrap();
        let shared: usize = groups.iter().map(|group| assert_branches(&group.trajectories, branching).0).sum();
        // Nothing is called here, so all branches begin with the prompt.
        assert_eq!(shared > 100, at == BranchAt::Entropy, "{shared} tokens are shared");
        let records: Vec<Record> = groups.iter().flat_map(|group| &group.trajectories).map(Record::of).collect();
        let compared = compare_with_training(&policy, &engine, &records, seed as u64);
        assert!(compared.tokens > 500 && compared.differing == 0, "{compared:?}");
    }
}

/// The same with branches that share whole turns, images of observations included, in engines with few pages, with drafts and without.
#[test]
fn rollouts_that_part_from_others_in_a_later_turn_are_one_policy() {
    let policy = SmallPolicy::of_recipe(Arc::new(Cpu::new()));
    let environment = environment();
    let mut random = Random::new(8);
    let branching = Branching { at: BranchAt::Entropy, rollouts: 3 };
    let (mut shared, mut total, mut cached) = ((0, 0), 0, 0);
    for seed in 0..8 {
        let limits =
            EngineLimits { pages: 90 + random.below(60), prefill_chunk_tokens: random.pick(&[33, 500]), sequences: 5 };
        let speculation = if seed % 2 == 0 { Speculation::Off } else { Speculation::Always };
        let mut engine = policy.engine(limits).with_speculation(speculation);
        let tasks: Vec<Task> = (0..3).map(|_| task(&mut random)).collect();
        let sampling = Sampling { turn_temperatures: vec![1.0, 0.7, 1.1], ..Sampling::default() };
        let settings =
            RolloutSettings { group_size: 6, branching: Some(branching), seed, sampling, ..RolloutSettings::default() };
        let mut generator = EngineGenerator { engine: &mut engine, weights: &policy.weights };
        let groups = run(&mut generator, &policy.processor, &environment, &tasks, &settings).unwrap();
        for group in &groups {
            let (tokens, images) = assert_branches(&group.trajectories, branching);
            shared = (shared.0 + tokens, shared.1 + images);
            group.trajectories.iter().for_each(|trajectory| assert_temperatures(trajectory, &settings.sampling));
        }
        let records: Vec<Record> = groups.iter().flat_map(|group| &group.trajectories).map(Record::of).collect();
        let compared = compare_with_training(&policy, &engine, &records, seed);
        assert_eq!(compared.differing, 0, "{compared:?}");
        total += compared.tokens;
        cached += engine.statistics().cached_tokens;
    }
    println!("{total} tokens; {shared:?} tokens and images are shared, {cached} were found in pages");
    assert!(total > 1000 && shared.0 > 1000 && shared.1 > 20 && cached as usize > shared.0 / 2);
}
