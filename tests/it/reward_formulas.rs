//! The rewards of all systems against their formulas, computed in Python, and against TRL (`tests/golden/rewards/README.md`).

use serde_json::Value;
use thyme_engine::rollout::reward_set::Scores;
use thyme_engine::rollout::trajectory::TurnKind;

use crate::support::rollouts::{Rollout, call, rewards, scores, turn};

/// Answers alone have a weight.
const NO_OTHERS: &str = "weights.format = 0.0\nweights.consistency = 0.0\n";

fn cases(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/golden/rewards/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap().clone();
    assert!(cases.len() >= 60, "{name} has few cases");
    cases
}

#[track_caller]
fn same(found: &Scores, name: &str, wanted: &Value, case: &Value) {
    let found = if name == "total" { Some(&found.total) } else { found.part(name) };
    let found = found.and_then(|score| score.value()).unwrap_or_else(|| panic!("{name} has no score: {found:?}"));
    let wanted = wanted.as_f64().unwrap();
    assert!((found - wanted).abs() < 1e-12, "{name}: {found} for {wanted}, {case}");
}

fn answer(case: &Value) -> &'static str {
    if case["right"] == 1 { "7" } else { "8" }
}

#[test]
fn soft_overlong_is_that_of_trl() {
    for case in cases("overlong") {
        let settings = format!(
            "settings.soft_overlong = {{ max_completion_length = {}, cache = {} }}",
            case["max_completion_length"], case["cache"]
        );
        let mut rollout = Rollout::new("", "7");
        rollout.own_tokens = case["tokens"].as_u64().unwrap() as usize;
        let found = scores(&rewards(&settings).unwrap(), &[rollout], "7").remove(0);
        same(&found, "soft_overlong", &case["score"], &case);
    }
}

#[test]
fn curiosity_penalty_and_validity_are_those_of_pixel_reasoner() {
    let weights = format!("{NO_OTHERS}weights.curiosity = 1.0\nweights.call_penalty = 1.0\n");
    let code = rewards(&format!("{weights}settings.answer.gate = \"validity\"")).unwrap();
    let paper = rewards(&format!("{weights}settings.curiosity.form = \"paper\"")).unwrap();
    for case in cases("pixel_reasoner") {
        let members = case["group"].as_array().unwrap();
        let rollout = |member: &Value| {
            let rollout = Rollout::new("", answer(member)).with_calls(member["calls"].as_str().unwrap());
            rollout.with_column("is_video", case["is_video"].clone())
        };
        let group: Vec<Rollout> = members.iter().map(rollout).collect();
        let found = scores(&code, &group, "7");
        for ((found, paper), member) in found.iter().zip(scores(&paper, &group, "7")).zip(members) {
            same(found, "curiosity", &member["code"], member);
            same(found, "call_penalty", &member["penalty"], member);
            same(found, "validity", &member["validity"], member);
            same(found, "total", &member["total"], member);
            same(&paper, "curiosity", &member["paper"], member);
        }
    }
}

#[test]
fn the_rewards_of_each_source_are_those_of_deepeyes() {
    let rewards = rewards(
        "[weights]\nformat = 0.0\nconsistency = 0.0\nanswer = 0.8\ndeepeyes_format = 0.2\ntool_use_if_correct = 1.2\n\
         [weights_by_source.thinklite_eureka]\nformat = 0.0\nconsistency = 0.0\nanswer = 1.2\ndeepeyes_format = 0.4",
    );
    let rewards = rewards.unwrap();
    for case in cases("deepeyes") {
        let rollout = Rollout::new(case["text"].as_str().unwrap(), answer(&case));
        let rollout =
            rollout.with_calls(case["calls"].as_str().unwrap()).with_column("data_source", case["source"].clone());
        let found = scores(&rewards, &[rollout], "7").remove(0);
        same(&found, "deepeyes_format", &case["format"], &case);
        same(&found, "total", &case["total"], &case);
    }
}

#[test]
fn format_and_tool_rewards_are_those_of_verifiers() {
    let rewards =
        rewards("weights = { verifiers_format = 0.2, verifiers_tool = 0.3, verifiers_answer = 0.3 }").unwrap();
    for case in cases("verifiers") {
        let rollout = || Rollout::new(case["text"].as_str().unwrap(), "8").with_calls(case["calls"].as_str().unwrap());
        let silent = Rollout { answer: None, ..rollout() };
        let found = scores(&rewards, &[rollout(), silent], "7");
        same(&found[0], "verifiers_format", &case["format"], &case);
        same(&found[0], "verifiers_tool", &case["tool"], &case);
        same(&found[0], "verifiers_answer", &1.into(), &case);
        same(&found[1], "verifiers_answer", &0.into(), &case);
    }
}

#[test]
fn the_format_of_messages_is_that_of_openthinkimg() {
    for keys in ["any", "all"] {
        let rewards = rewards(&format!("settings.openthinkimg_format.keys = \"{keys}\"")).unwrap();
        for case in cases("openthinkimg") {
            let mut rollout = Rollout::new("", "7");
            for message in case["messages"].as_array().unwrap() {
                // A call splits a message in two turns.
                let message = message.as_str().unwrap();
                let half = message.char_indices().nth(message.chars().count() / 2).map_or(0, |(at, _)| at);
                rollout.turns.push(turn(TurnKind::Thought, &message[..half], 0..0));
                rollout.turns.push(turn(TurnKind::Call, &message[half..], 0..0));
                rollout.turns.push(turn(TurnKind::Observation, "{\"thought\": 1}", 0..0));
            }
            let found = scores(&rewards, &[rollout], "7").remove(0);
            same(&found, "openthinkimg_format", &case[keys], &case);
        }
    }
}

#[test]
fn rewards_that_count_calls_are_those_of_their_systems() {
    let names = ["cumulative_tool", "tool_economy", "tool_success", "crop_validity", "tool_use_if_correct"];
    let weights: String = names.map(|name| format!("weights.{name} = 1.0\n")).concat();
    let plain = rewards(&weights).unwrap();
    let strict =
        rewards("settings.cumulative_tool.only_successful = true\nsettings.tool_use_if_correct.needs_image = true");
    let strict = strict.unwrap();
    for case in cases("calls") {
        let mut rollout = Rollout::new("", answer(&case));
        let turns = case["turns"].as_array().unwrap();
        for (number, calls) in turns.iter().enumerate() {
            let first = rollout.calls.len();
            for made in calls.as_array().unwrap() {
                let (tool, request) =
                    made[0].as_str().unwrap().split_once(' ').unwrap_or((made[0].as_str().unwrap(), "{}"));
                let went = made[1].as_str().unwrap().chars().next().unwrap();
                rollout.calls.push(call(tool, request, went, made[2].as_u64().unwrap() as usize));
            }
            rollout.turns.push(turn(TurnKind::Call, "", 0..0));
            if number + 1 < turns.len() || case["answered"] == true {
                rollout.turns.push(turn(TurnKind::Observation, "", first..rollout.calls.len()));
            }
        }
        let group = [rollout];
        let found = scores(&plain, &group, "7").remove(0);
        let strict = scores(&strict, &group, "7").remove(0);
        // All but the figure count where the answer is right.
        let gated = |key: &str| if case["right"] == 1 { case[key].clone() } else { 0.into() };
        for name in names {
            let wanted = if name == "tool_success" { case[name].clone() } else { gated(name) };
            same(&found, name, &wanted, &case);
        }
        same(&strict, "cumulative_tool", &gated("only_successful"), &case);
        same(&strict, "tool_use_if_correct", &gated("needs_image"), &case);
    }
}
