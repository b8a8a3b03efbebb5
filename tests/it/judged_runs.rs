//! Whole runs whose answers a judge scores: one whose judge goes away stops and goes on, and one whose judge is slow judges beside its rollouts.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::command::{Workplace, assert_names, refuse, succeed, train};
use crate::support::fake_judge::{Act, FakeJudge};

/// A recipe of the tiny model that answers, each answer judged; further keys of the judge in `keys`.
fn recipe(place: &Workplace, judge: &FakeJudge, keys: &str) -> PathBuf {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft");
    place.write(
        "judged.toml",
        format!(
            "method = \"grpo\"\nname = \"run\"\noutput_dir = {:?}\nseed = 7\n[model]\npath = {model:?}\n[data.needle]\n\
             [optimizer]\nlearning_rate = 1e-4\n[training]\nmax_steps = 4\nsave_steps = 0\n\
             [grpo]\nprompts_per_step = 2\nnum_generations = 4\n[environment]\nname = \"direct\"\nmax_turn_tokens = 96\nmax_total_tokens = 96\n\
             [evaluation]\ntasks = 0\n[reward.settings.answer]\nask_judge = true\nby_rule = false\njudge_prompt = \"deepeyes_verl\"\n\
             [reward.judge]\nbase_url = {:?}\nmodel = \"m\"\n{keys}\n",
            place.path("runs"),
            judge.address
        ),
    )
}

fn metrics(place: &Workplace, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[name].clone()).collect()
}

#[test]
fn a_run_whose_judge_goes_away_saves_and_stops_and_goes_on_when_it_is_back() {
    let place = Workplace::new();
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let judge = FakeJudge::start(move |number, _| match up.load(Ordering::SeqCst) {
        true => Act::says(["CORRECT", "INCORRECT"][number % 2]),
        false => Act::Close,
    });
    let recipe = recipe(&place, &judge, "max_retries = 1\nretry_seconds = 0.01\nmax_failed_steps = 2");
    let said = refuse(train(&recipe, &[]));
    assert_names(
        &said,
        &["nothing in 2 steps in a row", "step 2", &judge.address, "--resume", "`reward.judge.max_failed_steps`"],
    );
    assert!(said.contains("the judge answered none of") && said.contains("of step 1"), "{said}");
    assert!(place.path("runs/run/checkpoint-1/model.safetensors").exists());
    let asked = |name| metrics(&place, name).iter().map(|value| value.as_f64().unwrap()).collect::<Vec<f64>>();
    assert_eq!(asked("judge/asked"), asked("judge/failed"));
    assert!(asked("judge/asked")[0] > 0.0);
    assert_eq!(asked("unscored"), asked("judge/failed"));

    is_up.store(true, Ordering::SeqCst);
    let said = succeed(train(&recipe, &["--resume"]));
    assert!(said.contains("resumed after step 1"), "{said}");
    let (asked, failed) = (asked("judge/asked"), asked("judge/failed"));
    assert_eq!((asked.len(), &failed[1..]), (4, &[0.0; 3][..]));
    assert!(asked[1..].iter().all(|asked| *asked > 0.0));
    assert!(metrics(&place, "judge/seconds")[1..].iter().all(|seconds| seconds.as_f64().unwrap() > 0.0));
}

/// When a span of a trace began and ended, in microseconds.
type Span = (f64, f64);

/// The spans of a name, in any order.
fn spans(events: &[Value], name: &str) -> Vec<Span> {
    let mut open = std::collections::BTreeMap::new();
    let mut spans = Vec::new();
    for event in events.iter().filter(|event| event["name"] == name) {
        let (thread, time) = (event["tid"].as_u64().unwrap(), event["ts"].as_f64().unwrap());
        match event["ph"].as_str().unwrap() {
            "B" => drop(open.insert(thread, time)),
            _ => spans.extend(open.remove(&thread).map(|began| (began, time))),
        }
    }
    spans
}

#[test]
fn a_slow_judge_is_asked_beside_the_rollout_and_its_questions_at_a_time() {
    let place = Workplace::new();
    const SLOW: Duration = Duration::from_millis(400);
    let judge =
        FakeJudge::start(|number, _| Act::Late(SLOW, Box::new(Act::says(["CORRECT", "INCORRECT"][number % 2]))));
    let recipe = recipe(&place, &judge, "");
    let path = place.path("trace.json");
    let wide = ["--set", "training.max_steps=1", "--set", "grpo.prompts_per_step=6", "--trace", path.to_str().unwrap()];
    succeed(train(&recipe, &wide));
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (judged, steps) = (spans(&events, "judge"), spans(&events, "step"));
    let rolled_out = spans(&events, "roll out")[0];
    assert!(judged.len() >= 4, "{} questions", judged.len());
    let last_step = steps.iter().map(|step| step.1).fold(0.0, f64::max);
    assert!(judged.iter().any(|span| span.0 < last_step), "a question began while sequences decoded");
    assert!(judged.iter().all(|span| rolled_out.0 <= span.0 && span.1 <= rolled_out.1));
    // One behind the other they would take as long as this; beside each other the rollout waits for the last of them.
    let in_a_row = judged.len() as f64 * SLOW.as_micros() as f64;
    let waited = rolled_out.1 - last_step;
    assert!(waited < 0.6 * in_a_row, "{waited} of {in_a_row} microseconds behind the last step");
}

#[test]
fn a_slow_judge_is_asked_beside_an_evaluation() {
    let place = Workplace::new();
    const SLOW: Duration = Duration::from_millis(400);
    let judge = FakeJudge::start(|_, _| Act::Late(SLOW, Box::new(Act::says("CORRECT"))));
    let recipe = recipe(&place, &judge, "");
    let (path, model) = (place.path("trace.json"), concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.args(["eval", "--model", model, "--limit", "8", "--max-num-seqs", "2", "--recipe"]).arg(recipe);
    let said = succeed({
        command.arg("--trace").arg(&path);
        command
    });
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (judged, steps) = (spans(&events, "judge"), spans(&events, "step"));
    assert!(said.contains(&format!("{} asked, 0 failed", judged.len())), "{said}");
    let last_step = steps.iter().map(|step| step.1).fold(0.0, f64::max);
    assert!(judged.iter().any(|span| span.0 < last_step), "a question began while sequences decoded");
}
