//! Prefix branching with scripts: a branch that parts from its trunk in any turn is what it would be if it had sampled all its tokens itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use thyme_engine::prompt::{ImageSource, PreparedImage};
use thyme_engine::rollout::branching::{BranchAt, Branching, Shared};
use thyme_engine::rollout::environment::Environment;
use thyme_engine::rollout::environments::think_with_code::{ThinkWithCode, ThinkWithCodeSettings};
use thyme_engine::rollout::generator::{GenerateRequest, Generator, GeneratorError, Scripted, TokenEvent};
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolFault, ToolOutput, ToolSession};
use thyme_engine::rollout::tools::python::{Python, PythonSettings};
use thyme_engine::rollout::trajectory::{Call, End, Trajectory};
use thyme_engine::rollout::{RolloutSettings, run};

use super::{IM_END, check, environment, ids, one_thread, piece, processor, task, tools};

/// The character that a model is said to be least sure of.
const SPLIT: char = '?';

const ENTROPY: Branching = Branching { at: BranchAt::Entropy, rollouts: 2 };
const FIRST_CALL: Branching = Branching { at: BranchAt::FirstCall, rollouts: 2 };

fn scripted(scripts: Vec<Vec<u32>>) -> Scripted {
    let generator = Scripted::new((0..).zip(scripts), IM_END, |id| processor().tokenizer().token_bytes(id).to_vec());
    generator.with_entropies(|id| if id == u32::from(SPLIT) { 2.0 } else { 1.0 })
}

/// A group of two.
fn pair(
    (environment, task): (&dyn Environment, &Task),
    branching: Option<Branching>,
    scripts: [&[u32]; 2],
    positions: usize,
) -> [Trajectory; 2] {
    let mut generator = scripted(scripts.map(<[u32]>::to_vec).into()).with_positions(positions);
    let settings = RolloutSettings { group_size: 2, branching, ..one_thread() };
    let mut groups = run(&mut generator, processor(), environment, std::slice::from_ref(task), &settings).unwrap();
    assert_eq!(generator.open_sequences(), 0);
    groups.remove(0).trajectories.try_into().unwrap()
}

/// Rolls out a trunk and a branch of these scripts, and the branch once more as a sequence that samples all of its tokens itself; the branch, after
/// a comparison of the two.
fn branch_of(
    at: (&dyn Environment, &Task),
    branching: Branching,
    (trunk, branch): (&str, &str),
    positions: usize,
) -> (Trajectory, Shared) {
    let (trunk, branch) = (ids(trunk), ids(branch));
    let [trunk_rollout, found] = pair(at, Some(branching), [&trunk, &branch], positions);
    let shared = branching.shared(&trunk_rollout);
    let tokens = shared.trajectory.own().map(|(_, token)| token).chain(&shared.begun);
    let itself: Vec<u32> = tokens.map(|token| token.id).chain(branch).collect();
    let [_, expected] = pair(at, None, [&trunk, &itself], positions);

    assert_eq!((&found.token_ids, &found.turns), (&expected.token_ids, &expected.turns));
    assert_eq!((&found.end, &found.answer), (&expected.end, &expected.answer));
    assert_eq!(found.turn_ends, expected.turn_ends);
    let timeless = |call: &Call| {
        let mut call = call.clone();
        call.output.seconds = 0.0;
        call
    };
    let calls = |trajectory: &Trajectory| trajectory.calls.iter().map(timeless).collect::<Vec<_>>();
    assert_eq!(calls(&found), calls(&expected));
    let digests = |trajectory: &Trajectory| trajectory.images.iter().map(|image| image.digest).collect::<Vec<_>>();
    assert_eq!(digests(&found), digests(&expected));
    let originals = |trajectory: &Trajectory| {
        let images = &trajectory.original_images;
        let image = |index| (images.get(index).unwrap(), images.seen_size(index));
        (0..images.len()).map(image).collect::<Vec<_>>()
    };
    assert_eq!(originals(&found), originals(&expected));
    // What is shared was sampled by the trunk, all else by the branch.
    let parts_at = shared.trajectory.token_ids.len() + shared.begun.len();
    assert_eq!(found.sampled[..parts_at], trunk_rollout.sampled[..parts_at]);
    assert_eq!(found.sampled[parts_at..], expected.sampled[parts_at..]);
    (found, shared)
}

/// The same in `think_with_code`.
fn coding(settings: ThinkWithCodeSettings, branching: Branching, trunk: &str, branch: &str) -> (Trajectory, Shared) {
    let (found, shared) = branch_of((&environment(settings), &task("q")), branching, (trunk, branch), usize::MAX);
    check(&found);
    (found, shared)
}

#[test]
fn a_branch_parts_in_a_later_turn_with_the_calls_and_images_before_it() {
    let trunk = "one<code>count</code>two<code>image 60 40</code>three? four<code>count</code><answer>1</answer>";
    let branch = ", five<code>count</code><code>images 2</code><answer>2</answer>";
    let (found, shared) = coding(Default::default(), ENTROPY, trunk, branch);
    assert_eq!((shared.trajectory.calls.len(), shared.trajectory.images.len(), shared.begun.len()), (2, 1, 5));
    assert_eq!(found.end, End::Answered);
    assert_eq!(found.calls[2].output.text, "3", "the tool remembers the shared calls");
    assert_eq!((found.images.len(), found.own_turns()), (3, 5));
}

#[test]
fn the_first_call_may_stand_in_a_later_turn() {
    let branch = "<code>text 2</code><answer>2</answer>";
    for (trunk, begun) in [
        ("no tag</code>thought<code>count</code><answer>1</answer>", 7),
        ("no tag</code><code>count</code><answer>1</answer>", 0),
    ] {
        let (found, shared) = coding(Default::default(), FIRST_CALL, trunk, branch);
        assert_eq!((shared.trajectory.calls.len(), shared.begun.len()), (1, begun));
        assert_eq!((found.calls.len(), &found.end), (2, &End::Answered));
    }
    let (found, shared) = coding(Default::default(), FIRST_CALL, "nothing<answer>1</answer>", "<answer>2</answer>");
    assert_eq!((shared.trajectory.turns.len(), shared.begun.len()), (0, 0), "no call, so it begins with the prompt");
    assert_eq!(found.own_text(), "<answer>2</answer>");
}

#[test]
fn limits_count_what_is_shared() {
    let settings = ThinkWithCodeSettings { max_code_runs: 2, max_images: 2, ..Default::default() };
    let trunk = "<code>images 1</code>a?<answer>1</answer>";
    let branch = "<code>images 2</code><code>count</code><code>count</code>";
    let (found, _) = coding(settings, ENTROPY, trunk, branch);
    assert_eq!((found.end, found.images.len()), (End::CallLimit, 2));
    assert_eq!(found.calls[2].output.status, CallStatus::OverLimit);

    let trunk = "<code>count</code>0123?<answer>1</answer>";
    let of_turn = ThinkWithCodeSettings { max_turn_tokens: 25, ..Default::default() };
    let (found, shared) = coding(of_turn, ENTROPY, trunk, &"4 ".repeat(30));
    assert_eq!((&found.end, shared.begun.len()), (&End::TurnTokens, 4));
    assert_eq!(found.turns.last().unwrap().tokens.len(), 25);
    let of_all = ThinkWithCodeSettings { max_total_tokens: 80, ..Default::default() };
    let (found, _) = coding(of_all, ENTROPY, trunk, &"4 ".repeat(30));
    assert_eq!((found.end.clone(), found.completion_tokens()), (End::TotalTokens, 80));
    let (of_context, _) =
        branch_of((&environment(Default::default()), &task("q")), ENTROPY, (trunk, &"4 ".repeat(30)), 130);
    assert_eq!((of_context.end.clone(), of_context.token_ids.len()), (End::ContextFull, 130));
}

#[test]
fn messages_that_the_model_closed_are_read_again() {
    let call = |side: u32, words: &str| {
        format!(
            "{words}<tool>{{\"name\": \"crop_image\", \"args\": {{\"x\": 0, \"y\": 0, \"width\": {side}, \"height\": 40}}}}</tool>\
             <|im_end|>"
        )
    };
    let table = toml::from_str("stop_at_call = false\nmax_turns = 4").unwrap();
    let environment = Registry::default().environment(("vision_tools".to_owned(), table), &[]).unwrap();
    let pixels = RgbImage::from_fn(84, 56, |x, y| Rgb([x as u8 * 3, y as u8 * 4, 90]));
    let images = vec![ImageSource::Memory(Arc::new(pixels))];
    let task = Task { prompt: TaskPrompt::Question, question: "What is it".into(), images, ..Task::default() };
    let trunk = format!("{}{}<answer>7</answer>", call(70, ""), call(60, "so?"));
    let branch = format!("{}{}{}", call(50, " "), call(40, ""), call(35, ""));
    let (found, shared) = branch_of((&*environment, &task), ENTROPY, (&trunk, &branch), usize::MAX);
    assert_eq!((shared.trajectory.calls.len(), shared.begun.len()), (1, 2));
    assert_eq!((found.end, found.images.len(), found.calls.len()), (End::TurnLimit, 4, 3));
}

#[test]
fn variables_of_a_session_are_those_that_the_trunk_had() {
    let tool = Python::start(&PythonSettings::default()).unwrap();
    let environment = ThinkWithCode::new(ThinkWithCodeSettings::default(), tools(tool));
    let trunk = "<code>import random\nx = random.random()\nprint(x)</code>now?<code>x = 1</code><answer>1</answer>";
    let branch = "<code>print(x)</code><answer>2</answer>";
    let (found, _) = branch_of((&environment, &task("q")), ENTROPY, (trunk, branch), usize::MAX);
    assert_eq!(found.calls[0].output.text, found.calls[1].output.text);
    assert!(found.calls[1].output.text.starts_with("0."), "{}", found.calls[1].output.text);
}

/// A tool of which the session of a number cannot be opened, or never runs.
struct Fickle {
    opened: Arc<AtomicUsize>,
    unopened: Option<usize>,
    broken: usize,
}

struct FickleSession {
    is_broken: bool,
}

impl Tool for Fickle {
    fn name(&self) -> &'static str {
        "fickle"
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        let first = self.opened.fetch_add(sessions, Ordering::SeqCst);
        if (first..first + sessions).any(|number| Some(number) == self.unopened) {
            return Err(ToolFault { tool: "fickle", reason: "there is no more room".into() });
        }
        let session = |number| -> Box<dyn ToolSession> { Box::new(FickleSession { is_broken: number == self.broken }) };
        Ok((first..first + sessions).map(session).collect())
    }
}

impl ToolSession for FickleSession {
    fn run(&mut self, _: &str, _: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        let fault = ToolFault { tool: "fickle", reason: "it went away".into() };
        if self.is_broken { Err(fault) } else { Ok(ToolOutput::text(CallStatus::Ok, "seen")) }
    }
}

#[test]
fn a_branch_whose_shared_calls_cannot_be_made_again_begins_with_the_prompt() {
    let [trunk, branch] = [ids("<code>look</code>so?<answer>1</answer>"), ids("<code>look</code><answer>2</answer>")];
    for unopened in [None, Some(2)] {
        let opened = Arc::new(AtomicUsize::new(0));
        let tool = Fickle { opened: opened.clone(), unopened, broken: 1 };
        let environment = ThinkWithCode::new(ThinkWithCodeSettings::default(), tools(tool));
        let [first, second] = pair((&environment, &task("q")), Some(ENTROPY), [&trunk, &branch], usize::MAX);
        assert_eq!((first.end, opened.load(Ordering::SeqCst)), (End::Answered, 3));
        check(&second);
        assert_eq!((second.sample, second.sequence), (1, 1));
        if unopened.is_some() {
            assert!(
                matches!(&second.end, End::TaskFailed(reason) if reason.contains("no more room")),
                "{:?}",
                second.end
            );
            assert_eq!(second.token_ids.len(), second.prompt_tokens);
        } else {
            assert_eq!((second.end, second.calls.len()), (End::Answered, 1));
            let own: Vec<u32> =
                second.token_ids.iter().zip(&second.sampled).filter_map(|(id, own)| own.map(|_| *id)).collect();
            assert_eq!(own, branch);
        }
    }
}

#[test]
fn branches_wait_for_room() {
    let tasks = [task("a"), task("b"), task("c")];
    let branching = Some(Branching { at: BranchAt::Entropy, rollouts: 4 });
    let scripts: Vec<Vec<u32>> = (0..12)
        .map(|number| match number % 4 {
            0 => ids(&format!("{}<code>count</code>so?<answer>0</answer>", "x".repeat(number))),
            sample => ids(&format!("{}<code>count</code><answer>{sample}</answer>", "y".repeat(7 * sample))),
        })
        .collect();
    let roll = |room: usize| {
        let mut generator = scripted(scripts.clone()).with_room(room);
        let settings = RolloutSettings { group_size: 4, branching, tool_threads: 2, ..RolloutSettings::default() };
        let groups = run(&mut generator, processor(), &environment(Default::default()), &tasks, &settings).unwrap();
        groups.into_iter().flat_map(|group| group.trajectories).collect::<Vec<_>>()
    };
    let unlimited = roll(usize::MAX);
    for room in 1..5 {
        let found = roll(room);
        assert_eq!(found.len(), 12);
        for (found, expected) in found.iter().zip(&unlimited) {
            check(found);
            assert_eq!((&found.token_ids, &found.sampled), (&expected.token_ids, &expected.sampled));
            assert_eq!((&found.end, found.calls.len()), (&End::Answered, if found.sample == 0 { 1 } else { 2 }));
        }
    }
}

/// A generator that has no room for what stands behind a prompt.
struct Narrow(Scripted);

impl Generator for Narrow {
    fn open(&mut self, request: GenerateRequest) -> Result<(), GeneratorError> {
        match request.history.is_empty() {
            true => self.0.open(request),
            false => Err(GeneratorError::TooLong { needed: request.tokens() + 1, limit: request.tokens() }),
        }
    }

    fn step(&mut self) -> Result<Vec<TokenEvent>, GeneratorError> {
        self.0.step()
    }

    fn append(&mut self, sequence: u64, ids: &[u32], images: &[Arc<PreparedImage>]) -> Result<(), GeneratorError> {
        self.0.append(sequence, ids, images)
    }

    fn close(&mut self, sequence: u64) {
        self.0.close(sequence);
    }
}

#[test]
fn a_branch_that_no_longer_fits_ends_as_one_whose_context_is_full() {
    let trunk = "<code>count</code>so, it?<answer>1</answer>";
    let mut generator = Narrow(scripted(vec![ids(trunk), Vec::new()]));
    let settings = RolloutSettings { group_size: 2, branching: Some(ENTROPY), ..one_thread() };
    let groups = run(&mut generator, processor(), &environment(Default::default()), &[task("q")], &settings).unwrap();
    let [_, branch] = groups[0].trajectories.as_slice() else { panic!("a group of two") };
    check(branch);
    assert_eq!((&branch.end, branch.own_text()), (&End::ContextFull, "<code>count</code>so, it".to_owned()));
    assert_eq!(branch.calls.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_branch_is_what_it_would_be_if_it_had_sampled_all_itself(
        trunk in prop::collection::vec(piece(), 0..9),
        split in 0usize..9,
        branch in prop::collection::vec(piece(), 0..9),
        total in 20usize..400,
        at_first_call in any::<bool>(),
    ) {
        let mut trunk = trunk;
        trunk.insert(split.min(trunk.len()), SPLIT.to_string());
        let limits = ThinkWithCodeSettings {
            max_total_tokens: total,
            max_turn_tokens: 60,
            max_code_runs: 3,
            max_images: 4,
            ..Default::default()
        };
        coding(limits, if at_first_call { FIRST_CALL } else { ENTROPY }, &trunk.concat(), &branch.concat());
    }
}
