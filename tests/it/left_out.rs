//! Examples that cannot be used, in the order in which examples are drawn: they are left out, named and counted, alike in both methods.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Instant;

use image::RgbImage;
use serde_json::{Value, json};
use thyme_engine::prompt::Tokenizer;
use thyme_engine::recipe::Method;
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::epoch_order::shuffled;

use crate::support::command::{Workplace, refuse, succeed, train};

/// More tokens than the model takes.
fn too_long() -> String {
    "many words ".repeat(4000)
}

/// Pictures, of which two cannot be used.
fn gallery() -> Workplace {
    let place = Workplace::new();
    RgbImage::new(56, 56).save(place.path("good.png")).unwrap();
    RgbImage::new(600, 2).save(place.path("narrow.png")).unwrap();
    let good = std::fs::read(place.path("good.png")).unwrap();
    place.write("cut.png", &good[..good.len() / 2]);
    place
}

fn demonstration(image: &str, response: &str) -> String {
    json!({"image": [image], "question": "<image>What is this?", "response": response}).to_string()
}

fn task(image: &str, question: &str) -> String {
    let messages = [json!({"role": "user", "content": format!("<image>{question}")})];
    json!({"messages": messages, "images": [image], "solution": "1", "question": question}).to_string()
}

const FILES: &str = "[data]\nfiles = [\"data.jsonl\"]\nshuffle = false\n";

fn metrics(place: &Workplace, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[name].clone()).collect()
}

fn weights(place: &Workplace, step: u64) -> Vec<u8> {
    std::fs::read(place.path(&format!("runs/run/checkpoint-{step}/model.safetensors"))).unwrap()
}

/// Bad demonstrations among good ones, in pairs of which the last has nothing to use.
fn mixed() -> String {
    let lines = [
        demonstration("good.png", "one"),
        demonstration("cut.png", "two"),
        demonstration("good.png", &too_long()),
        demonstration("good.png", "three"),
        demonstration("none.png", "four"),
        demonstration("narrow.png", "five"),
        demonstration("good.png", "six"),
        demonstration("good.png", "<|image_pad|>"),
    ];
    format!("\n{}\n", lines.join("\n"))
}

#[test]
fn a_demonstration_that_cannot_be_used_is_left_out_named_and_counted() {
    let place = gallery();
    place.write("data.jsonl", mixed());
    let said = succeed(train(&place.sft(FILES), &["--set", "training.max_steps=4"]));
    for (step, line, part) in [
        (1, 3, "cut.png"),
        (2, 4, "max_position_embeddings"),
        (3, 6, "none.png"),
        (3, 7, "aspect ratio"),
        (4, 9, "placeholder"),
    ] {
        let place = format!("data.jsonl:{line} ");
        let line = said.lines().find(|said| said.contains(&place)).unwrap_or(&said);
        assert!(line.starts_with(&format!("left out at step {step}: ")) && line.contains(part), "{line}");
    }
    assert_eq!(metrics(&place, "left_out"), [1.0, 2.0, 4.0, 5.0]);
    let losses: Vec<bool> = metrics(&place, "loss").iter().map(Value::is_number).collect();
    assert_eq!(losses, [true, true, false, true], "there is nothing to learn from at step 3");

    // The steps go on as if what was left out had never stood there.
    let clean = gallery();
    clean.write("data.jsonl", ["one", "three"].map(|said| demonstration("good.png", said)).join("\n"));
    let constant = ["--set", "optimizer.lr_scheduler_type=constant", "--set", "training.max_steps=2"];
    succeed(train(&clean.sft(FILES), &[&constant[..], &["--set", "training.batch_size=1"]].concat()));
    succeed(train(&place.sft(FILES), &[&constant[..], &["--overwrite"]].concat()));
    assert!(weights(&place, 2) == weights(&clean, 2));
}

#[test]
fn a_resumed_run_leaves_out_and_counts_what_an_undisturbed_one_does() {
    let (calm, resumed) = (gallery(), gallery());
    let settings = |steps: &'static str| ["--set", "optimizer.lr_scheduler_type=constant", "--set", steps];
    for place in [&calm, &resumed] {
        place.write("data.jsonl", mixed());
    }
    let recipes = [&calm, &resumed].map(|place| place.sft(&FILES.replace("shuffle = false\n", "")));
    succeed(train(&recipes[0], &settings("training.max_steps=8")));
    succeed(train(&recipes[1], &settings("training.max_steps=3")));
    succeed(train(&recipes[1], &[&settings("training.max_steps=8")[..], &["--resume"]].concat()));
    assert!(weights(&calm, 8) == weights(&resumed, 8));
    assert_eq!(metrics(&calm, "left_out"), metrics(&resumed, "left_out"));
    assert_eq!(metrics(&calm, "loss"), metrics(&resumed, "loss"));
    assert_eq!(metrics(&calm, "left_out").last(), Some(&json!(10.0)), "two epochs leave 5 of 8 out");
}

#[test]
fn too_many_examples_left_out_end_the_run() {
    let place = gallery();
    let lines = [vec![demonstration("good.png", "one")], vec![demonstration("cut.png", "two"); 39]].concat();
    place.write("data.jsonl", lines.join("\n"));
    let recipe = place.sft(FILES);
    let message = refuse(train(&recipe, &["--set", "training.save_steps=0"]));
    for part in ["21 of the 22 examples", "`data.max_left_out = 0.1`", "data.jsonl:22 ", "cut.png", "--check-data"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    // What was learned before is kept, and the run goes on where more are allowed.
    assert!(place.path("runs/run/checkpoint-10").exists());
    let more = ["--set", "training.save_steps=0", "--set", "data.max_left_out=1.0"];
    assert!(succeed(train(&recipe, &[&more[..], &["--resume"]].concat())).contains("resumed after step 10"));
    assert_eq!(metrics(&place, "left_out").last(), Some(&json!(23.0)));
    let message = refuse(train(&recipe, &["--overwrite", "--set", "data.max_left_out=0.0"]));
    assert!(message.contains("1 of the 2 examples up to step 1"), "{message}");
    let message = refuse(train(&recipe, &["--set", "data.max_left_out=1.5"]));
    assert!(message.contains("`data.max_left_out` is 1.5") && message.contains("0 to 1"), "{message}");

    place.write("data.jsonl", vec![task("cut.png", "What?"); 40].join("\n"));
    let message = refuse(train(&place.grpo(FILES), &["--overwrite", "--set", "training.max_steps=20"]));
    assert!(message.contains("22 of the 22 examples up to step 11") && message.contains("data.jsonl:22 "), "{message}");
}

#[test]
fn a_run_ends_where_every_row_was_drawn_and_none_can_be_used() {
    let place = gallery();
    place.write("data.jsonl", vec![demonstration("cut.png", "two"); 3].join("\n"));
    let message = refuse(train(&place.sft(FILES), &[]));
    assert!(
        message.contains("none of the 4 examples up to step 2 can be used") && message.contains("damaged"),
        "{message}"
    );
}

#[test]
fn a_task_that_cannot_be_used_is_left_out_as_a_demonstration_is() {
    let place = gallery();
    // The model takes it, but the pages of so small a run do not.
    let tokenizer = Tokenizer::open(&place.path("model")).unwrap();
    let mut wide = "many words ".to_owned();
    while tokenizer.encode(&wide).unwrap().len() < 1800 {
        wide = wide.repeat(2);
    }
    assert!(tokenizer.encode(&wide).unwrap().len() < 3800);
    let tasks = [
        task("good.png", "one"),
        task("cut.png", "two"),
        task("none.png", "three"),
        task("good.png", &too_long()),
        task("good.png", &wide),
        task("good.png", "six"),
    ];
    place.write("data.jsonl", tasks.join("\n"));
    let settings = ["--set", "training.max_steps=3", "--set", "engine.kv_cache_bytes=400000"];
    let said = succeed(train(&place.grpo(FILES), &settings));
    for (step, line, part) in [(1, 2, "damaged"), (2, 3, "none.png"), (2, 4, "tokens"), (3, 5, "kv_cache_bytes")] {
        let line = said.lines().find(|said| said.contains(&format!("data.jsonl:{line} "))).unwrap_or(&said);
        assert!(line.starts_with(&format!("left out at step {step}: ")) && line.contains(part), "{line}");
    }
    assert_eq!(metrics(&place, "left_out"), [1.0, 3.0, 4.0]);
}

#[test]
fn a_dry_run_looks_at_every_row_where_it_is_asked_to() {
    let place = gallery();
    place.write("data.jsonl", format!("{}\n{{\n{}\n", mixed(), task("good.png", "What?")));
    let recipe = place.sft(FILES);
    assert!(!succeed(train(&recipe, &["--dry-run"])).contains("cut.png"));
    let message = refuse(train(&recipe, &["--dry-run", "--check-data"]));
    for (line, part) in [
        (3, "cut.png"),
        (4, "max_position_embeddings"),
        (6, "none.png"),
        (7, "aspect ratio"),
        (9, "placeholder"),
        (11, "not a JSON object"),
        (12, "demonstration"),
    ] {
        let bad = message.lines().find(|said| said.contains(&format!("data.jsonl:{line}"))).unwrap_or("");
        assert!(bad.contains(part), "line {line}: {message}");
    }
    assert!(message.contains("7 of 10 rows") && !message.contains("data.jsonl:2 "), "{message}");

    place.write("data.jsonl", [task("good.png", "one"), task("cut.png", "two")].join("\n"));
    place.write("held_out.jsonl", [task("good.png", &too_long()), demonstration("good.png", "x")].join("\n"));
    let recipe = place.grpo(&format!("{FILES}[evaluation]\nfiles = [\"held_out.jsonl\"]\n"));
    let message = refuse(train(&recipe, &["--dry-run", "--check-data"]));
    for part in
        ["data.jsonl:2 ", "damaged", "held_out.jsonl:1 ", "tokens", "held_out.jsonl:2", "`solution`", "3 of 4 rows"]
    {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    place.write("data.jsonl", task("good.png", "one"));
    place.write("held_out.jsonl", task("good.png", "two"));
    assert!(succeed(train(&recipe, &["--dry-run", "--check-data"])).contains("2 rows, all of which can be used"));
    assert!(!Path::exists(&place.path("runs")), "nothing is trained");
    let alone = train(&recipe, &["--check-data"]).output().unwrap();
    assert!(!alone.status.success() && String::from_utf8_lossy(&alone.stderr).contains("--dry-run"));
}

#[test]
fn each_epoch_is_a_permutation_of_its_own_found_in_little_time() {
    const LINES: usize = 330_000;
    let began = Instant::now();
    let mut orders = Vec::new();
    for epoch in 0..3 {
        let order: Vec<usize> = (0..LINES).map(|place| shuffled(place, LINES, 7, epoch)).collect();
        let mut seen = vec![false; LINES];
        assert!(order.iter().all(|&line| !std::mem::replace(&mut seen[line], true)), "a line comes twice");
        orders.push(order);
    }
    // A busy machine may take its time; sorting for each example takes hours.
    assert!(began.elapsed().as_secs_f64() < 5.0, "{:?}", began.elapsed());
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        let same = orders[one].iter().zip(&orders[other]).filter(|(a, b)| a == b).count();
        assert!(same < 12, "{same} lines of two epochs are in the same place; of random orders one is");
    }
    let in_place = orders[0].iter().enumerate().filter(|&(place, &line)| place == line).count();
    assert!(in_place < 12, "{in_place} lines stay where they were");
    let neighbours = orders[0].windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
    assert!(neighbours < 20, "{neighbours} lines have their neighbour beside them; of random orders two have");
}

#[test]
fn orders_of_few_lines_are_all_about_equally_likely() {
    for count in 1..70 {
        let lines: HashSet<usize> = (0..count).map(|place| shuffled(place, count, 3, 5)).collect();
        assert!(lines.len() == count && lines.iter().all(|&line| line < count), "{count}");
    }
    for count in [2, 3, 4] {
        let mut orders: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let epochs = 6000;
        for epoch in 0..epochs {
            *orders.entry((0..count).map(|place| shuffled(place, count, 11, epoch)).collect()).or_default() += 1;
        }
        let all: usize = (1..=count).product();
        assert_eq!(orders.len(), all, "{count} lines");
        // Expected epochs / all; seven standard deviations of that.
        let expected = epochs as f64 / all as f64;
        for (order, times) in &orders {
            assert!(
                (*times as f64 - expected).abs() < 7.0 * expected.sqrt(),
                "{order:?} came {times} times of {expected}"
            );
        }
    }
}

#[test]
fn a_data_set_gives_every_line_once_an_epoch_and_the_same_when_it_is_opened_again() {
    let place = Workplace::new();
    let lines: Vec<String> =
        (0..50).map(|number| json!({"question": number.to_string(), "response": "x"}).to_string()).collect();
    let file = place.write("data.jsonl", lines.join("\n"));
    let open = || Dataset::from_files(std::slice::from_ref(&file), Method::Sft, Some(9)).unwrap();
    let question = |dataset: &Dataset, number| dataset.example(number).unwrap().question.unwrap();
    let (one, other) = (open(), open());
    let epoch =
        |epoch: u64| (50 * epoch..50 * epoch + 50).map(|number| question(&one, number)).collect::<Vec<String>>();
    let epochs: Vec<Vec<String>> = (0..4).map(epoch).collect();
    for order in &epochs {
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), 50);
    }
    assert!(epochs.windows(2).all(|pair| pair[0] != pair[1]));
    // As a resumed run does, from the middle on.
    assert!((73..200).all(|number| question(&other, number) == epochs[number as usize / 50][number as usize % 50]));
}
