//! A judge that is slow, gone, overloaded or confused: what is asked again, what is given up, and that no failure is a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use thyme_engine::prompt::PreparedImage;
use thyme_engine::rollout::RolloutSettings;
use thyme_engine::rollout::environments::direct::Direct;
use thyme_engine::rollout::generator::{GenerateRequest, Generator, GeneratorError, TokenEvent};
use thyme_engine::rollout::judge::JudgeCounts;
use thyme_engine::rollout::judges::servers::{Servers, Turn};
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::{Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};
use thyme_engine::rollout::scored::run_scored;
use thyme_engine::rollout::task::Task;

use super::{ids, processor, roll};
use crate::support::fake_judge::{Act, FakeJudge};

/// No rule compares it.
const PROSE: &str = "The man in the picture is holding a large red umbrella";
/// Waits between two tries that a test can afford.
const QUICK: &str = "retry_seconds = 0.001";

fn rewards(addresses: &[&str], keys: &str) -> RewardSet {
    let text = format!("settings.answer.ask_judge = true\n[judge]\nbase_url = {addresses:?}\nmodel = \"m\"\n{keys}");
    let settings: RewardSettings = toml::from_str(&text).unwrap();
    RewardSet::new(&settings, &Registry::default()).unwrap()
}

fn answer(rewards: &RewardSet, answer: &str) -> Score {
    let trajectory = roll(&format!("<think>x</think>\n<answer>{answer}</answer>"));
    let solution = PROSE.into();
    let view = View::new(&trajectory, "What does he hold?", &solution);
    rewards.score_group(&[view]).remove(0).part("answer").unwrap().clone()
}

#[track_caller]
fn unscored(score: Score, parts: &[&str]) {
    let Score::Unscored(reason) = score else { panic!("a failure became {score:?}") };
    assert!(parts.iter().all(|part| reason.contains(part)), "{parts:?} are not in {reason}");
}

/// Questions asked, failed, requests made again, questions answered from the cache.
fn counts(rewards: &RewardSet) -> [usize; 4] {
    let JudgeCounts { asked, failed, retried, cached, .. } = rewards.take_judge_counts().unwrap();
    [asked, failed, retried, cached]
}

/// What may pass, with a part of its reason.
fn passing() -> Vec<(Act, &'static str)> {
    vec![
        (Act::status(500), "500"),
        (Act::status(503), "503"),
        (Act::status(408), "408"),
        (Act::status(429), "429"),
        (Act::Close, "http://127.0.0.1"),
        (Act::Cut, "http://127.0.0.1"),
        (Act::body("<html>Bad gateway</html>"), "not JSON"),
        (Act::body("{\"choices\": []}"), "sent no message"),
        (Act::body(&format!("{{\"choices\": \"{}\"}}", "x".repeat(5 << 20))), "limit"),
        (Act::says("Perhaps"), "neither yes nor no"),
        (Act::says(""), "neither yes nor no"),
    ]
}

#[test]
fn what_may_pass_is_asked_again_and_then_scored() {
    for (act, _) in passing() {
        let judge = FakeJudge::scripted(&[act.clone(), Act::says("yes")]);
        let rewards = rewards(&[&judge.address], QUICK);
        assert_eq!(answer(&rewards, "An umbrella"), Score::Value(1.0), "{act:?}");
        assert_eq!(counts(&rewards), [1, 0, 1, 0], "{act:?}");
        assert_eq!(judge.requests().len(), 2);
    }
}

#[test]
fn what_does_not_pass_is_given_up_after_the_retries_and_is_no_number() {
    for (act, reason) in passing() {
        let judge = FakeJudge::scripted(&[act]);
        let rewards = rewards(&[&judge.address], &format!("{QUICK}\nmax_retries = 2"));
        unscored(answer(&rewards, "An umbrella"), &[reason]);
        assert_eq!(counts(&rewards), [1, 1, 2, 0], "{reason}");
        assert_eq!(judge.requests().len(), 3, "{reason}");
    }
}

#[test]
fn a_request_that_the_server_refuses_is_not_made_again_and_no_message_has_the_key() {
    let key = std::env::var("PATH").unwrap();
    let said = format!("no such model; your key is {key}");
    let judge = FakeJudge::scripted(&[Act::Reply(404, Vec::new(), said)]);
    let rewards = rewards(&[&judge.address], "api_key_env = \"PATH\"");
    let score = answer(&rewards, "An umbrella");
    assert!(matches!(&score, Score::Unscored(reason) if !reason.contains(&key)), "{score:?}");
    unscored(score, &["404", "no such model"]);
    assert_eq!((counts(&rewards), judge.requests().len()), ([1, 1, 0, 0], 1));
}

#[test]
fn a_server_that_asks_for_time_gets_it_and_another_is_asked_meanwhile() {
    let busy = || Act::Reply(429, vec![("Retry-After", "1".to_owned())], String::new());
    let judge = FakeJudge::scripted(&[busy(), Act::says("yes")]);
    let alone = rewards(&[&judge.address], QUICK);
    let began = Instant::now();
    assert_eq!(answer(&alone, "An umbrella"), Score::Value(1.0));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    let (first, second) = (FakeJudge::scripted(&[busy()]), FakeJudge::scripted(&[Act::says("no")]));
    let both = rewards(&[&first.address, &second.address], "cache = \"never\"\nretry_seconds = 30.0");
    let began = Instant::now();
    let scores: Vec<Score> = (0..3).map(|_| answer(&both, "An umbrella")).collect();
    assert!(scores.iter().all(|score| *score == Score::Value(0.0)) && began.elapsed() < Duration::from_secs(1));
    assert_eq!((first.requests().len(), second.requests().len()), (1, 3));
}

#[test]
fn several_servers_are_asked_in_turn_and_one_that_is_gone_is_left_out() {
    let (first, second) = (FakeJudge::scripted(&[Act::says("yes")]), FakeJudge::scripted(&[Act::says("yes")]));
    let both = rewards(&[&first.address, &second.address], "cache = \"never\"");
    assert!((0..4).all(|_| answer(&both, "An umbrella") == Score::Value(1.0)));
    assert_eq!((first.requests().len(), second.requests().len()), (2, 2));

    // Nobody listens on the first port: a retry that the recipe does not grant goes to the other.
    let with_gone =
        rewards(&["http://127.0.0.1:9/v1", &first.address], "cache = \"never\"\nmax_retries = 0\nretry_seconds = 30.0");
    let began = Instant::now();
    assert!((0..4).all(|_| answer(&with_gone, "An umbrella") == Score::Value(1.0)));
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waited for the one that is gone");
    assert_eq!(counts(&with_gone), [4, 0, 1, 0]);
}

#[test]
fn a_judge_that_never_answers_costs_its_timeouts_once_and_is_found_when_it_is_back() {
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let judge = FakeJudge::start(move |_, _| if up.load(Ordering::SeqCst) { Act::says("yes") } else { Act::Silence });
    let keys = "timeout_seconds = 0.3\nmax_retries = 1\nretry_seconds = 1.0\ncache = \"never\"";
    let rewards = rewards(&[&judge.address], keys);
    let began = Instant::now();
    unscored(answer(&rewards, "An umbrella"), &["timeout"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let began = Instant::now();
    for _ in 0..20 {
        unscored(answer(&rewards, "An umbrella"), &["it is down and not asked again yet", "timeout"]);
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!((judge.requests().len(), counts(&rewards)), (2, [21, 21, 1, 0]));

    is_up.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(answer(&rewards, "An umbrella"), Score::Value(1.0));
    assert_eq!(counts(&rewards), [1, 0, 0, 0]);
}

#[test]
fn while_one_tries_a_judge_that_was_down_the_others_wait_for_what_comes_of_it() {
    let servers = Servers::new(1, Duration::ZERO);
    assert_eq!(servers.turn(false), Turn::Ask { server: 0, is_trial: false });
    assert!(servers.note_failure(0, Duration::ZERO));
    servers.note_down("gone", 0);
    assert_eq!(servers.turn(false), Turn::Ask { server: 0, is_trial: true });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| servers.turn(false));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        servers.note_answer(0);
        assert_eq!(waiting.join().unwrap(), Turn::Ask { server: 0, is_trial: false });
    });
}

#[test]
fn waits_double_up_to_a_minute_and_servers_that_rest_are_waited_for() {
    let servers = Servers::new(2, Duration::from_secs(3));
    let waits: Vec<u64> = (0..6).map(|retry| servers.backoff(retry).as_secs()).collect();
    assert_eq!(waits, [3, 6, 12, 24, 48, 60]);
    assert_eq!(servers.backoff(u32::MAX), Duration::from_secs(60));
    servers.note_failure(0, Duration::from_secs(50));
    assert_eq!(servers.turn(false), Turn::Ask { server: 1, is_trial: false });
    servers.note_busy(1, Duration::from_secs(40));
    let Turn::Wait(wait) = servers.turn(false) else { panic!("both rest") };
    assert!(wait > Duration::from_secs(39) && wait <= Duration::from_secs(40), "{wait:?}");
    assert_eq!(servers.turn(true), Turn::Ask { server: 1, is_trial: false });
}

#[test]
fn equal_questions_of_temperature_0_are_asked_once_even_at_a_time() {
    let slow = || Act::Late(Duration::from_millis(150), Box::new(Act::says("yes")));
    let judge = FakeJudge::scripted(&[slow()]);
    let rewards = rewards(&[&judge.address], "");
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..6).map(|_| scope.spawn(|| answer(&rewards, "An umbrella"))).collect();
        assert!(asking.into_iter().all(|thread| thread.join().unwrap() == Score::Value(1.0)));
    });
    assert_eq!((judge.requests().len(), counts(&rewards)), (1, [1, 0, 0, 5]));
    assert_eq!(answer(&rewards, "An umbrella"), Score::Value(1.0));
    assert_eq!(answer(&rewards, "A parasol"), Score::Value(1.0));
    assert_eq!((judge.requests().len(), counts(&rewards)), (2, [1, 0, 0, 1]));
}

#[test]
fn what_is_kept_depends_on_the_temperature_and_the_key_and_a_failure_is_not_kept() {
    for (keys, requests) in [
        ("temperature = 0.5", 2),
        ("temperature = 0.5\ncache = \"always\"", 1),
        ("temperature = 0.0", 1),
        ("cache = \"never\"", 2),
    ] {
        let judge = FakeJudge::scripted(&[Act::says("yes")]);
        let rewards = rewards(&[&judge.address], keys);
        assert!((0..2).all(|_| answer(&rewards, "An umbrella") == Score::Value(1.0)));
        assert_eq!(judge.requests().len(), requests, "{keys}");
    }
    let judge = FakeJudge::scripted(&[Act::status(400), Act::says("yes")]);
    let rewards = rewards(&[&judge.address], "");
    unscored(answer(&rewards, "An umbrella"), &["400"]);
    assert_eq!(answer(&rewards, "An umbrella"), Score::Value(1.0));
}

/// Stands still from a step on until something has happened, and notes if it did.
struct Held<'a> {
    inner: super::Scripted,
    steps: usize,
    has_happened: &'a AtomicUsize,
}

impl Generator for Held<'_> {
    fn open(&mut self, request: GenerateRequest) -> Result<(), GeneratorError> {
        self.inner.open(request)
    }

    fn step(&mut self) -> Result<Vec<TokenEvent>, GeneratorError> {
        self.steps += 1;
        let began = Instant::now();
        while self.steps > 100 && self.has_happened.load(Ordering::SeqCst) == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody asked the judge while a sequence decodes");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.inner.step()
    }

    fn append(&mut self, sequence: u64, ids: &[u32], images: &[Arc<PreparedImage>]) -> Result<(), GeneratorError> {
        self.inner.append(sequence, ids, images)
    }

    fn close(&mut self, sequence: u64) {
        self.inner.close(sequence);
    }
}

#[test]
fn the_judge_is_asked_when_a_trajectory_ends_while_its_group_decodes() {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let judge = FakeJudge::start(move |_, body: &Value| {
        seen.fetch_add(1, Ordering::SeqCst);
        let is_umbrella = body["messages"][1]["content"].as_str().unwrap().contains("Given answer: An umbrella");
        Act::says(if is_umbrella { "yes" } else { "no" })
    });
    let rewards = rewards(&[&judge.address], "");
    let long: String = (0..400).map(|number| format!("{number} ")).collect();
    let texts =
        [format!("{long}</think>\n<answer>A sword</answer>"), "</think>\n<answer>An umbrella</answer>".to_owned()];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert!(ids(texts[0]).len() > 500);
    let mut generator = Held { inner: super::scripted(&texts), steps: 0, has_happened: &asked };
    let environment = Direct::default();
    let task = Task { question: "What does he hold?".into(), solution: PROSE.into(), ..Task::default() };
    let settings = RolloutSettings { group_size: 2, ..RolloutSettings::default() };
    let rollouts =
        run_scored(&mut generator, processor(), &environment, std::slice::from_ref(&task), &settings, &rewards)
            .unwrap();
    let parts: Vec<&Score> = rollouts.scores[0].iter().map(|scores| scores.part("answer").unwrap()).collect();
    assert_eq!(parts, [&Score::Value(0.0), &Score::Value(1.0)]);
    let judged = rollouts.judge.unwrap();
    assert_eq!((judged.asked, judged.failed, judged.cached), (2, 0, 0), "each answer is asked about once");
    let afterwards = rewards.score_groups(&rollouts.groups, &[task]);
    assert_eq!(afterwards, rollouts.scores, "scored early or late, it is the same");
}
