//! `eval --predictions`: answers that exist are scored without a model, and what cannot be scored ends with its line's number.

use std::process::Command;

use serde_json::Value;

use crate::support::command::{Workplace, refuse, succeed};

fn eval(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.arg("eval").args(arguments);
    command
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn answers_that_exist_are_scored_without_a_model() {
    let place = Workplace::new();
    let lines = "{\"answer\":\"B cat\",\"solution\":\"B\",\"question\":\"Which?\\nA. dog\\nB. cat\",\"run\":7.10}\n\
                 {\"text\":\"<think>x</think>\\n<answer>6-8</answer>\",\"solution\":[\"5-7\",\"4-6\"]}\n\
                 {\"answer\":\"a boat\"}\n";
    let (input, output) = (place.write("A.jsonl", lines), place.path("B.jsonl"));
    let table = succeed(eval(&["--predictions", text(&input), "--output", text(&output)]));
    let row: Vec<&str> = table.lines().find(|line| line.starts_with("answer")).unwrap().split_whitespace().collect();
    assert_eq!(row, ["answer", "0.500", "2", "1", "0.333"], "{table}");
    let written = std::fs::read_to_string(&output).unwrap();
    let rows: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scores: Vec<&Value> = rows.iter().map(|row| &row["scores"]["answer"]).collect();
    assert_eq!(scores, [&Value::from(1.0), &Value::from(0.0), &Value::Null]);
    assert_eq!(rows[2]["unscored"]["answer"], "the task has no reference answer");
    assert!(
        written.starts_with(lines.lines().next().unwrap().trim_end_matches('}')),
        "columns pass through: {written}"
    );
    // A recipe scores by all its rewards.
    let recipe = place.write("R.toml", "method = \"grpo\"\n[reward.weights]\nformat = 1.0\n");
    succeed(eval(&["--predictions", text(&input), "--output", text(&output), "--recipe", text(&recipe)]));
    let written = std::fs::read_to_string(&output).unwrap();
    assert!(
        written.lines().nth(1).unwrap().contains("\"scores\":{\"format\":1.0,\"answer\":0.0,\"consistency\":0.0"),
        "{written}"
    );
}

#[test]
fn a_prediction_that_cannot_be_read_ends_with_its_number_and_nothing_is_written() {
    let place = Workplace::new();
    let output = place.path("B.jsonl");
    for (line, problem) in [
        ("{\"solution\":\"7\"}", "neither `answer` nor `text`"),
        ("{\"answer\":\"7\",\"solution\":{\"regex\":\"(\"}}", "regular expression"),
        ("{\"answer\":\"7\"", "not a JSON object"),
        ("[\"7\"]", "not a JSON object"),
    ] {
        let input = place.write("A.jsonl", format!("{{\"answer\":\"7\",\"solution\":\"7\"}}\n{line}\n"));
        let message = refuse(eval(&["--predictions", text(&input), "--output", text(&output)]));
        assert!(message.contains("A.jsonl:2: ") && message.contains(problem), "{message}");
        assert!(!output.exists(), "nothing is written");
    }
    let input = place.write("A.jsonl", "{\"answer\":\"7\",\"solution\":\"7\"}\n");
    let message = refuse(eval(&["--predictions", text(&input), "--output", text(&input)]));
    assert!(message.contains("is the input file"), "{message}");
    for other in [["--model", "recipes/tiny-sft"], ["--data", "needle"], ["--limit", "3"]] {
        let mut command = eval(&["--predictions", text(&input), "--output", text(&output)]);
        command.args(other);
        let outcome = command.output().unwrap();
        assert!(!outcome.status.success() && String::from_utf8_lossy(&outcome.stderr).contains("cannot be used with"));
    }
}
