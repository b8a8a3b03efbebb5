//! How the rewards of a recipe work together: gates, weights by source, which of them are scored, and what the judge is asked.

use std::thread::JoinHandle;

use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::reward_set::{RewardSet, Scores};
use thyme_engine::rollout::trajectory::End;

use crate::support::chat_endpoint::{Request, endpoint, says};
use crate::support::rollouts::{Rollout, rewards, scores};

const WELL_FORMED: &str = "<think>It is 7.</think>\n<answer>7</answer>";
const PROSE: &str = "The man in the picture is holding a large red umbrella";

fn value(scores: &Scores, name: &str) -> f64 {
    scores.part(name).and_then(Score::value).unwrap_or_else(|| panic!("{name} has no score: {scores:?}"))
}

fn reason<'a>(scores: &'a Scores, name: &str) -> &'a str {
    match scores.part(name) {
        Some(Score::Unscored(reason)) => reason,
        other => panic!("{name} is {other:?}"),
    }
}

fn refused(settings: &str) -> String {
    rewards(settings).err().unwrap_or_else(|| panic!("{settings} is accepted"))
}

fn names(settings: &str) -> Vec<&'static str> {
    rewards(settings).unwrap().weights().map(|(name, _)| name).collect()
}

/// The scores of one rollout.
fn of(settings: &str, rollout: Rollout) -> Scores {
    scores(&rewards(settings).unwrap(), &[rollout], "7").remove(0)
}

#[test]
fn a_recipe_gives_any_reward_a_gate() {
    let right = || Rollout::new(WELL_FORMED, "7");
    let wrong = || Rollout::new(WELL_FORMED, "8");
    let gated = "settings.format.gate = \"answer\"";
    assert_eq!((value(&of("", wrong()), "format"), value(&of(gated, wrong()), "format")), (1.0, 0.0));
    assert_eq!((value(&of(gated, right()), "format"), value(&of(gated, right()), "consistency")), (1.0, 1.0));
    let unscored = scores(&rewards(gated).unwrap(), &[right()], PROSE).remove(0);
    assert!(reason(&unscored, "format").starts_with("depends on answer: "), "{unscored:?}");
    // A reward's own gate goes with an empty name.
    let thought = || Rollout::new("<think>It is 8.</think>\n<answer>8</answer>", "8");
    assert_eq!(value(&of("", thought()), "consistency"), 0.0);
    assert_eq!(value(&of("settings.consistency.gate = \"\"", thought()), "consistency"), 1.0);
}

#[test]
fn a_closed_gate_closes_those_behind_it() {
    let failed = || Rollout::new(WELL_FORMED, "7").with_calls("oe");
    let gated = of("settings.answer.gate = \"validity\"", failed());
    assert_eq!((value(&gated, "validity"), value(&gated, "answer"), value(&gated, "consistency")), (0.0, 0.0, 0.0));
    assert_eq!(gated.total, Score::Value(0.5), "the format alone");
    let mended = of("settings.answer.gate = \"validity\"", Rollout::new(WELL_FORMED, "7").with_calls("eo"));
    assert_eq!(mended.total, Score::Value(2.0));
    assert_eq!(of("", failed()).total, Score::Value(2.0));
}

#[test]
fn gates_that_cannot_be_are_refused() {
    for (settings, parts) in [
        ("settings.format.gate = \"answr\"", ["\"answr\"", "answer, consistency"]),
        ("settings.format.gate = 1", ["\"format\"", "its gate is 1; give a reward's name"]),
        ("settings.format.gate = \"format\"", ["\"format\"", "depends on itself"]),
        ("settings.answer.gate = \"consistency\"", ["\"answer\"", "depends on itself"]),
        (
            "settings.answer.gate = \"consistency\"\nsettings.consistency.gate = \"answer\"",
            ["\"answer\"", "name another"],
        ),
    ] {
        let message = refused(settings);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    assert_eq!(names("settings.answer.gate = \"consistency\"\nsettings.consistency.gate = \"\"").len(), 4);
}

#[test]
fn rows_of_a_source_have_its_weights() {
    let settings = "weights = { format = 0.25, answer = 3.0 }\nweights_by_source.vstar = { answer = 10.0, consistency = 0.0 }\n\
                    weights_by_source.none = { answer = 0.0, format = 0.0, consistency = 0.0 }";
    let total = |source: serde_json::Value| {
        of(settings, Rollout::new(WELL_FORMED, "7").with_column("data_source", source)).total.value().unwrap()
    };
    // A name left out has its default, not the weight of the other table.
    assert_eq!(total("vstar".into()), 10.0 + 0.5);
    assert_eq!(total("none".into()), 0.0);
    for other in ["chart".into(), 7.into(), serde_json::Value::Null] {
        assert_eq!(total(other), 3.0 + 0.25 + 0.5);
    }
    assert_eq!(of(settings, Rollout::new(WELL_FORMED, "7")).total.value(), Some(3.75));
    // What has no weight in a row's table may be unscored.
    let unscored = Rollout::new(WELL_FORMED, "An umbrella").with_column("data_source", "none");
    let rewards = rewards(settings).unwrap();
    assert_eq!(scores(&rewards, &[unscored], PROSE)[0].total, Score::Value(0.0));
}

#[test]
fn weights_of_a_source_are_checked_like_the_others() {
    let message = refused("weights_by_source.vstar.answr = 1.0");
    assert!(message.contains("\"answr\"") && message.contains("format, answer"), "{message}");
    let message = refused("weights_by_source.vstar.answer = nan");
    assert!(message.contains("\"answer\"") && message.contains("NaN"), "{message}");
}

#[test]
fn a_reward_without_a_weight_is_scored_where_the_recipe_names_it() {
    let figures = ["format", "answer", "consistency", "tool_success"];
    assert_eq!(names(""), figures);
    assert_eq!(names("weights = { format = 0.0, answer = 0.0, consistency = 0.0 }"), figures);
    for settings in [
        "weights.tool_economy = 0.0",
        "weights.tool_economy = 1.0",
        "weights_by_source.vstar.tool_economy = 1.0",
        "weights_by_source.vstar.tool_economy = 0.0",
        "settings.tool_economy = {}",
        "settings.format.gate = \"tool_economy\"",
    ] {
        assert_eq!(names(settings), [&figures[..], &["tool_economy"]].concat(), "{settings}");
    }
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    for (settings, parts) in [
        ("settings.curiosity.target_rate = 2.0", ["\"curiosity\"", "target_rate is 2; give a share"]),
        ("settings.curiosity.alpha = inf", ["\"curiosity\"", "alpha is inf"]),
        ("settings.curiosity.video_divisor = 0.0", ["\"curiosity\"", "video_divisor is 0"]),
        ("settings.curiosity.form = \"papers\"", ["\"curiosity\"", "`code` or `paper`"]),
        ("settings.call_penalty.per_call = -0.1", ["\"call_penalty\"", "per_call is -0.1"]),
        ("settings.cumulative_tool.per_turn = nan", ["\"cumulative_tool\"", "per_turn is NaN"]),
        (
            "settings.soft_overlong.cache = 30000",
            ["\"soft_overlong\"", "at most max_completion_length, which is 20480"],
        ),
        ("settings.consistency.by = \"judges\"", ["\"consistency\"", "`rule` or `judge`"]),
        ("settings.consistency.by = \"judge\"", ["reward.judge", "\"consistency\" asks it"]),
        ("weights.process = 1.0", ["reward.judge", "\"process\" asks it"]),
        ("settings.code_quality = {}", ["reward.judge", "\"code_quality\" asks it"]),
        ("weights_by_source.a.code_quality = 1.0", ["reward.judge", "\"code_quality\" asks it"]),
        ("settings.tool_economy.per_turn = 1", ["\"tool_economy\"", "per_turn"]),
    ] {
        let message = refused(settings);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn an_answer_that_is_too_long_is_wrong() {
    let long = || Rollout::new(WELL_FORMED, "7 apples");
    assert_eq!(value(&of("", long()), "answer"), 1.0);
    assert_eq!(value(&of("settings.answer.max_answer_characters = 8", long()), "answer"), 1.0);
    assert_eq!(value(&of("settings.answer.max_answer_characters = 7", long()), "answer"), 0.0);
}

#[test]
fn a_rollout_without_a_score_is_no_member_of_the_group_that_is_compared() {
    let rewards = rewards("weights.curiosity = 1.0").unwrap();
    let rollout = |answer: &str, calls: &str| Rollout::new("", answer).with_calls(calls);
    let mut group: Vec<Rollout> = (0..4).map(|_| rollout(PROSE, "")).collect();
    group.push(rollout(PROSE, "o"));
    let alone = scores(&rewards, &group, PROSE);
    assert_eq!(value(&alone[4], "curiosity"), (0.3 - 0.2) / 2.0 / 0.2 * 0.25);
    // No rule can judge this answer, and a tool failed that one.
    group.push(rollout("An umbrella", "oo"));
    group.push(Rollout { end: End::ToolFailed("it broke".to_owned()), ..rollout(PROSE, "oo") });
    let with_others = scores(&rewards, &group, PROSE);
    assert_eq!(value(&with_others[4], "curiosity"), value(&alone[4], "curiosity"));
    assert!(reason(&with_others[5], "curiosity").starts_with("it is not compared with its group: answer: "));
    assert_eq!(reason(&with_others[6], "curiosity"), "it broke");
    assert!(matches!(with_others[5].total, Score::Unscored(_)));
}

/// Rewards with a judge who says these things, and what it was asked.
fn judged(settings: &str, replies: &[&str]) -> (RewardSet, JoinHandle<Vec<Request>>) {
    let (address, requests) = endpoint(replies.iter().map(|reply| says(reply)).collect());
    (rewards(&format!("{settings}\n[judge]\nbase_url = \"{address}\"\nmodel = \"m\"")).unwrap(), requests)
}

/// What the judge was told and asked.
fn asked(requests: JoinHandle<Vec<Request>>) -> Vec<[String; 2]> {
    let text =
        |request: &Request, message: usize| request.1["messages"][message]["content"].as_str().unwrap().to_owned();
    requests.join().unwrap().iter().map(|request| [text(request, 0), text(request, 1)]).collect()
}

#[test]
fn the_judge_is_not_asked_without_a_weight_or_keys() {
    let (rewards, requests) = judged("weights = { code_quality = 0.0, process = 0.0 }", &[]);
    let found = scores(&rewards, &[Rollout::new(WELL_FORMED, "7").with_calls("o")], "7").remove(0);
    assert_eq!((found.part("code_quality"), found.part("process")), (None, None));
    assert!(requests.join().unwrap().is_empty());
    // Where rows of one source alone give it a weight, those of others are not asked about.
    let (rewards, requests) = judged("weights_by_source.a.code_quality = 2.0", &["{\"Correctness\": 1}"]);
    let rollout = |source: &str| Rollout::new(WELL_FORMED, "7").with_calls("o").with_column("data_source", source);
    let [other, own] = ["b", "a"].map(|source| scores(&rewards, &[rollout(source)], "7").remove(0));
    assert!(reason(&other, "code_quality").contains("no weight for this row"));
    assert_eq!((own.total, other.total), (Score::Value(4.0), Score::Value(2.0)));
    assert_eq!(requests.join().unwrap().len(), 1);
    // Keys of its own ask for it, without a weight too.
    let (rewards, requests) = judged("settings.code_quality = {}", &["{\"Correctness\": 0}"]);
    assert_eq!(value(&scores(&rewards, &[rollout("b")], "7")[0], "code_quality"), 0.0);
    assert_eq!(requests.join().unwrap().len(), 1);
}

#[test]
fn the_judge_is_not_asked_behind_a_closed_gate() {
    let (rewards, requests) = judged("weights.process = 1.0", &["{\"Process Correctness\": 9, \"Text Quality\": 6}"]);
    let group = ["8", "7"].map(|answer| Rollout::new(WELL_FORMED, answer));
    let found = scores(&rewards, &group, "7");
    assert_eq!((value(&found[0], "process"), value(&found[1], "process")), (0.0, 0.75));
    let unscored = scores(&rewards, &[Rollout::new(WELL_FORMED, "An umbrella")], PROSE).remove(0);
    assert!(reason(&unscored, "process").starts_with("depends on answer: "), "{unscored:?}");
    let asked = asked(requests);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0][1], "Question: Which number?\nReference answer: 7\nReasoning:\nIt is 7.");
    assert!(asked[0][0].contains("Process Correctness") && asked[0][0].contains("Text Quality"));
}

#[test]
fn the_judge_says_whether_code_is_code() {
    let quality = |calls: &str, answer: Option<&str>, replies: &[&str]| {
        let (rewards, requests) = judged("weights.code_quality = 1.0", replies);
        let mut rollout = Rollout::new(WELL_FORMED, "7").with_calls(calls);
        rollout.answer = answer.map(str::to_owned);
        // Each call has code of its own: the judge is asked once about the same code.
        for (call, code) in rollout.calls.iter_mut().zip(["crop(0)", "crop(1)"]) {
            call.request = code.to_owned();
        }
        let found = scores(&rewards, &[rollout], "7").remove(0).part("code_quality").unwrap().clone();
        let asked: Vec<String> = asked(requests).into_iter().map(|[_, user]| user).collect();
        assert_eq!(asked, ["Code:\ncrop(0)", "Code:\ncrop(1)"][..replies.len()]);
        found
    };
    let (good, bad) = ("```json\n{\"Correctness\": 1}\n```", "It is bad: {\"Correctness\": \"0\"}.");
    assert_eq!(quality("oo", Some("7"), &[good, good]), Score::Value(1.0));
    assert_eq!(quality("oo", Some("7"), &[good, bad]), Score::Value(0.0));
    assert_eq!(quality("oo", Some("7"), &[bad]), Score::Value(0.0), "one is enough");
    assert_eq!(quality("ol", Some("7"), &[good]), Score::Value(1.0), "it did not run");
    // Neither failed calls nor their absence is asked about.
    for (calls, answer) in [("oe", Some("7")), ("", Some("7")), ("o", None), ("o", Some("8"))] {
        assert_eq!(quality(calls, answer, &[]), Score::Value(0.0), "{calls} {answer:?}");
    }
    for reply in
        ["yes", "{\"Correctness\": 2}", "{\"Correctness\": 0.5}", "{\"Correctness\": true}", "{\"Correctness\"", "{}"]
    {
        match quality("o", Some("7"), &[reply]) {
            Score::Unscored(reason) => assert!(reason.contains("from 0 to 1 under \"Correctness\""), "{reason}"),
            Score::Value(value) => panic!("{value} for {reply}"),
        }
    }
}

#[test]
fn consistency_may_be_the_judges() {
    let thought = format!("{}It is 8.", "é".repeat(600));
    let text = format!("<think>{thought}</think>\n<answer>7</answer>");
    let (rewards, requests) =
        judged("settings.consistency.by = \"judge\"", &["{\"Consistency\": 1}", "{\"Consistency\": 0}"]);
    let group = [Rollout::new(&text, "7"), Rollout::new(WELL_FORMED, "7"), Rollout::new(WELL_FORMED, "8")];
    let found = scores(&rewards, &group, "7");
    let values: Vec<f64> = found.iter().map(|scores| value(scores, "consistency")).collect();
    assert_eq!(values, [1.0, 0.0, 0.0]);
    let asked = asked(requests);
    assert_eq!(asked.len(), 2, "not about the wrong answer");
    let last: String = thought.chars().skip(thought.chars().count() - 500).collect();
    assert_eq!(asked[0][1], format!("Reasoning:\n{last}\n\nFinal answer: 7"));
    assert!(asked[0][0].contains("{\"Consistency\": 1}"));
}
