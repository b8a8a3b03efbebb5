//! Rows of files by their measured difficulty: which a run draws, what it measures, and how `eval` measures before it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use thyme_engine::tasks::jsonl::{NeedleFile, write_needle};
use thyme_engine::tasks::needle::Split;

use crate::support::command::{Workplace, assert_names, refuse, succeed, train};

/// Tasks `tasks/data.jsonl`, each a source of its own, with these pass rates.
fn tasks(place: &Workplace, pass_rates: [Option<f64>; 4]) -> PathBuf {
    write_needle(&place.path("tasks"), NeedleFile::Tasks(None), 4, Split::Train, 7).unwrap();
    let text = std::fs::read_to_string(place.path("tasks/data.jsonl")).unwrap();
    let lines = text.lines().zip(["a", "b", "c", "d"]).zip(pass_rates).map(|((line, source), rate)| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["data_source"] = source.into();
        if let Some(rate) = rate {
            row["pass_rate"] = rate.into();
        }
        format!("{row}\n")
    });
    place.write("tasks/data.jsonl", lines.collect::<String>())
}

fn recipe(place: &Workplace, curriculum: &str) -> PathBuf {
    place.grpo(&format!(
        "[evaluation]\ntasks = 0\n[data]\nfiles = [\"tasks/data.jsonl\"]\nshuffle = false\n[data.curriculum]\n{curriculum}\n"
    ))
}

/// The lines of a run's metrics.
fn lines(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The sources that a step drew.
fn drawn(line: &Value) -> String {
    ["a", "b", "c", "d"].into_iter().filter(|source| line.get(format!("reward/{source}")).is_some()).collect()
}

#[test]
fn a_run_passes_over_rows_outside_the_band_and_measures_the_others() {
    let place = Workplace::new();
    tasks(&place, [Some(1.0), Some(0.5), None, Some(0.0)]);
    succeed(train(&recipe(&place, "outside_share = 0.0"), &["--set", "training.max_steps=2"]));
    let lines = lines(&place.path("runs/run"));
    assert_eq!(drawn(&lines[0]), "bc");
    let value = |name: &str| lines[0][name].as_f64().unwrap();
    assert_eq!(value("curriculum/skipped"), 1.0 / 3.0);
    // Random weights answer nothing.
    assert_eq!(value("accuracy"), 0.0);
    let [measured, pass_rate, in_band] =
        ["measured", "pass_rate", "in_band"].map(|name| value(&format!("curriculum/{name}")));
    assert_eq!((measured, pass_rate, in_band), (1.0, 0.25, 0.0));
    assert_eq!(drawn(&lines[1]), "ad", "no row is left, so the next ones are drawn");
    let saved = std::fs::read_to_string(place.path("runs/run/checkpoint-1/pass_rates.json")).unwrap();
    assert_eq!(saved, "[1.0,0.0,0.0,0.0]");
}

#[test]
fn the_first_epoch_goes_from_easy_to_hard() {
    let place = Workplace::new();
    tasks(&place, [Some(0.25), Some(0.75), Some(0.5), Some(0.9)]);
    let recipe = recipe(&place, "easy_first = true");
    succeed(train(&recipe, &["--set", "training.max_steps=2"]));
    let order: Vec<String> = lines(&place.path("runs/run")).iter().map(drawn).collect();
    assert_eq!(order, ["bd", "ac"]);

    let file = tasks(&place, [Some(0.25), Some(0.75), None, Some(0.9)]);
    let line = format!("{}:3: ", file.display());
    assert_names(
        &refuse(train(&recipe, &["--overwrite"])),
        &[&line, "`data.curriculum.easy_first`", "`pass_rate`", "--write-pass-rates"],
    );
}

#[test]
fn a_curriculum_that_cannot_be_is_refused() {
    let place = Workplace::new();
    tasks(&place, [None; 4]);
    for (keys, parts) in [
        ("pass_rate = [1.0, 0.0]", ["`data.curriculum.pass_rate` is [1, 0]", "such as [0.0, 1.0]"]),
        ("pass_rate = [1.0, 2.0]", ["`data.curriculum.pass_rate`", "from 0 to 1"]),
        ("outside_share = 2.0", ["`data.curriculum.outside_share` is 2", "from 0 to 1"]),
        ("pass_rates = [0.0, 1.0]", ["pass_rates", "pass_rate"]),
    ] {
        assert_names(&refuse(train(&recipe(&place, keys), &["--dry-run"])), &parts);
    }
    let needle = place.grpo("[data.needle]\n[data.curriculum]\n");
    assert_names(
        &refuse(train(&needle, &["--dry-run"])),
        &["`data.curriculum` is given", "never draws a task again", "`data.files`"],
    );
    let sft = place.sft("[data]\nfiles = [\"tasks/data.jsonl\"]\n[data.curriculum]\n");
    assert_names(&refuse(train(&sft, &["--dry-run"])), &["`data.curriculum` is given", "\"grpo\""]);
}

fn eval(place: &Workplace, rated: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.args(["eval", "--model", concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft"), "--data"]);
    command.arg(place.path("tasks/data.jsonl")).arg("--write-pass-rates").arg(place.path(rated));
    command
        .args(["--samples-per-task", "4", "--temperature", "1", "--seed", "5", "--max-total-tokens", "256"])
        .args(more);
    command
}

#[test]
fn eval_writes_the_rows_with_the_share_of_right_answers_to_each() {
    let place = Workplace::new();
    let file = tasks(&place, [None, Some(0.5), None, Some(0.125)]);
    let report = place.path("report");
    let said = succeed(eval(&place, "tasks/rated.jsonl", &["--limit", "3", "--output", report.to_str().unwrap()]));
    assert!(said.contains("3 of 4 rows have a pass rate"), "{said}");
    let read = |path: &Path| -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (rows, rated) = (read(&file), read(&place.path("tasks/rated.jsonl")));
    let scores: Vec<f64> =
        read(&report.join("samples.jsonl")).iter().map(|line| line["scores"]["answer"].as_f64().unwrap()).collect();
    let shares: Vec<f64> = scores.chunks_exact(4).map(|scores| scores.iter().sum::<f64>() / 4.0).collect();
    let found: Vec<f64> = rated.iter().map(|row| row["pass_rate"].as_f64().unwrap()).collect();
    assert_eq!((shares.len(), &found[..3], found[3]), (3, &shares[..], 0.125), "the last was not answered");
    for (mut row, mut rated) in rows.into_iter().zip(rated) {
        for row in [&mut row, &mut rated] {
            row.as_object_mut().unwrap().remove("pass_rate");
        }
        assert_eq!(row, rated);
    }
    let recipe = recipe(&place, "easy_first = true");
    let rated = format!("data.files=[{:?}]", place.path("tasks/rated.jsonl"));
    succeed(train(&recipe, &["--set", "training.max_steps=1", "--set", &rated]));

    assert_names(&refuse(eval(&place, "rated.jsonl", &[])), &["--write-pass-rates", "paths of pictures", "tasks"]);
    assert_names(&refuse(eval(&place, "tasks/data.jsonl", &[])), &["is the input file"]);
}
