//! A judge beside the policy, in the same process: it says what its checkpoint says greedily, whoever asks at the same time, and a run counts its memory.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::Engine;
use thyme_engine::engine::request::{GenerateRequest, Sampling, Stops};
use thyme_engine::engine::sizing::{EngineSize, PageDemand};
use thyme_engine::prompt::Message;
use thyme_engine::rollout::judge::{Judge, Question};
use thyme_engine::rollout::judges::settings::JudgeSettings;
use thyme_engine::train::local_judge::LocalJudge;

use crate::support::command::{Workplace, assert_names, refuse, succeed, train};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft");
const TOKENS: usize = 24;

/// What the checkpoint says to a system and a user message, greedily and alone.
fn alone(checkpoint: &Checkpoint, system: &str, user: &str) -> String {
    let model = checkpoint.model(Arc::new(Cpu::new()));
    let weights = checkpoint.weights(&model).unwrap();
    let processor = Arc::new(checkpoint.processor(None).unwrap());
    let messages = [Message::text("system", system), Message::text("user", user)];
    let prompt = processor.encode_messages(&messages, Path::new(""), true).unwrap();
    let demand = PageDemand::of_sequences(1, prompt.token_ids.len() + TOKENS);
    let mut engine = Engine::new(model, processor.clone(), EngineSize::new(1, demand).limits());
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let token_ids = vec![processor.special_ids().im_end];
    let stops = Stops { token_ids, turn_tokens: TOKENS, total_tokens: TOKENS, ..Stops::default() };
    let request = GenerateRequest {
        token_ids: prompt.token_ids,
        sequences: vec![0],
        sampling,
        stops,
        ..GenerateRequest::default()
    };
    engine.open(&request).unwrap();
    let (mut said, mut has_stopped) = (Vec::new(), false);
    while !has_stopped {
        for event in engine.step(&weights).unwrap() {
            said.extend(event.token.map(|token| token.id));
            has_stopped |= event.stopped.is_some();
        }
    }
    processor.tokenizer().decode(&said, true)
}

#[test]
fn it_says_what_its_checkpoint_says_alone_to_all_who_ask_at_a_time() {
    let checkpoint = Checkpoint::open(MODEL).unwrap();
    let processor = Arc::new(checkpoint.processor(None).unwrap());
    // Fewer places than questions.
    let settings = JudgeSettings {
        model_path: Some(MODEL.into()),
        max_tokens: TOKENS as u64,
        parallel_requests: 2,
        ..Default::default()
    };
    let judge = LocalJudge::start(&checkpoint, processor, Arc::new(Cpu::new()), &settings).unwrap();
    let users =
        ["What digit is on the red plate?", "How many plates are there?", "Which plate is blue?", "Say a number."];
    let asked = &judge;
    let replies: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> =
            users.iter().map(|user| scope.spawn(move || asked.ask("Answer.", user).unwrap())).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (user, reply) in users.iter().zip(&replies) {
        assert_eq!(*reply, alone(&checkpoint, "Answer.", user), "{user}");
    }
    assert!(replies.iter().any(|reply| !reply.is_empty()), "{replies:?}");
    assert_eq!(judge.ask("Answer.", users[0]).unwrap(), replies[0]);
    let refused =
        judge.answer(&Question { form: &|_| Err("of another form".to_owned()), ..Question::new("Other.", "x") });
    assert_names(&refused.unwrap_err().to_string(), &["of another form", MODEL]);
    let counts = judge.take_counts();
    assert_eq!((counts.asked, counts.failed, counts.cached), (5, 1, 1));
}

/// A folder with a judge that has learned to say `yes`, and a recipe whose answers it judges.
fn judged_place() -> (Workplace, std::path::PathBuf) {
    let place = Workplace::new();
    let line = |number: usize| {
        json!({"question": format!("Question: {number}\nReference answer: {number}\nGiven answer: {number}"), "image": [], "response": "yes"})
            .to_string()
    };
    place.write("data.jsonl", (0..8).map(line).collect::<Vec<_>>().join("\n"));
    let recipe = place.sft("[data]\nfiles = [\"data.jsonl\"]\n");
    succeed(train(
        &recipe,
        &["--set", "training.max_steps=60", "--set", "training.save_steps=0", "--set", "optimizer.learning_rate=1e-2"],
    ));
    std::fs::rename(place.path("runs/run/checkpoint-60"), place.path("judge")).unwrap();
    std::fs::remove_dir_all(place.path("runs")).unwrap();
    let text = format!(
        "method = \"grpo\"\nname = \"run\"\noutput_dir = {:?}\nseed = 7\n[model]\npath = {MODEL:?}\n[data.needle]\n\
         [training]\nmax_steps = 2\nsave_steps = 0\n[grpo]\nprompts_per_step = 2\nnum_generations = 4\n\
         [environment]\nname = \"direct\"\nmax_turn_tokens = 96\nmax_total_tokens = 96\n[evaluation]\ntasks = 0\n\
         [reward.settings.answer]\nask_judge = true\nby_rule = false\n\
         [reward.judge]\nmodel_path = \"judge\"\nmax_tokens = 8\nparallel_requests = 4\n",
        place.path("runs")
    );
    let recipe = place.write("judged.toml", text);
    (place, recipe)
}

#[test]
fn a_run_is_judged_by_a_checkpoint_beside_its_policy_and_counts_its_memory() {
    let (place, recipe) = judged_place();
    succeed(train(&recipe, &[]));
    let text = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sum = |name: &str| lines.iter().map(|line| line[name].as_f64().unwrap()).sum::<f64>();
    assert!(sum("judge/asked") > 0.0 && sum("judge/failed") == 0.0, "{text}");
    assert_eq!((sum("scored"), sum("unscored")), (16.0, 0.0));
    assert!(sum("accuracy") > 0.0, "it says yes to every answer");

    let planned = succeed(train(&recipe, &["--dry-run"]));
    assert_names(&planned, &["judge: weights (bf16)", "judge: keys and values", "judge: activations of a step"]);
}

#[test]
fn evaluations_ask_the_checkpoint_and_say_what_they_asked() {
    let (place, recipe) = judged_place();
    succeed(train(&recipe, &["--set", "training.max_steps=1", "--set", "evaluation.tasks=4"]));
    let text = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let logged = |name: &str| first[format!("held_out/judge/{name}")].as_f64();
    assert!(logged("asked") > Some(0.0) && logged("seconds") > Some(0.0), "{text}");
    assert_eq!([logged("failed"), logged("retried")], [Some(0.0); 2]);

    let eval = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command.arg("eval").arg("--recipe").arg(&recipe).args(arguments);
        succeed(command)
    };
    let report = place.path("report");
    let said = eval(&["--model", MODEL, "--limit", "4", "--output", report.to_str().unwrap()]);
    assert!(said.contains("\njudge ") && said.contains(" asked, 0 failed, 0 retried, "), "{said}");
    let results = std::fs::read(report.join("results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    assert_eq!(results["judge"]["asked"].as_f64(), logged("asked"), "the same answers to the same tasks: {results}");
    assert!(results["judge"]["seconds"].as_f64() <= results["judge"]["seconds_max"].as_f64());
    assert_eq!(results["accuracy"], first["held_out/accuracy"]);
    assert!(results["accuracy"].as_f64() > Some(0.0), "it says yes to every answer");

    let answers =
        place.write("answers.jsonl", "{\"answer\": \"7\", \"solution\": \"5\", \"question\": \"Which digit?\"}\n");
    let scored = place.path("scored.jsonl");
    eval(&["--predictions", answers.to_str().unwrap(), "--output", scored.to_str().unwrap()]);
    let scored: Value = serde_json::from_slice(&std::fs::read(scored).unwrap()).unwrap();
    assert_eq!(scored["scores"]["answer"], 1.0, "{scored}");
}

#[test]
fn what_means_nothing_to_a_judge_in_the_process_is_refused() {
    let place = Workplace::new();
    for (keys, parts) in [
        (
            "model_path = \"model\"\nbase_url = \"http://localhost:1/v1\"",
            ["base_url is given beside model_path", "remove"],
        ),
        ("model_path = \"model\"\ntemperature = 0.5", ["temperature is given beside model_path", "greedily"]),
        ("model_path = \"nowhere\"", ["nowhere", "give a folder with config.json"]),
    ] {
        let recipe = place.grpo(&format!("[data.needle]\n[reward.judge]\n{keys}\n"));
        assert_names(&refuse(train(&recipe, &["--dry-run"])), &parts);
    }
}
