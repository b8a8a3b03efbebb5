//! `thyme-engine batch`: files of OpenAI's form, and runs that were killed and go on.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::command::{Workplace, succeed};
use crate::support::server::{Server, draw, init, says};

/// Longer than this nothing takes.
const TIMEOUT: Duration = Duration::from_secs(60);

struct BatchFolder(Workplace);

impl BatchFolder {
    fn new() -> BatchFolder {
        let batch = BatchFolder(Workplace::new());
        init(&batch.0, "tiny", 0);
        batch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn write(&self, lines: &[Value]) {
        self.0.write("in.jsonl", lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command.arg("batch").arg("--model").arg(self.path("tiny")).arg("--input").arg(self.path("in.jsonl"));
        command.arg("--output").arg(self.path("out.jsonl")).args(flags);
        command
    }

    fn run(&self, flags: &[&str]) -> Vec<Value> {
        succeed(self.command(flags));
        self.replies()
    }

    fn refused(&self, flags: &[&str]) -> String {
        let Output { status, stderr, .. } = self.command(flags).output().unwrap();
        assert_eq!(status.code(), Some(1));
        String::from_utf8(stderr).unwrap()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path("out.jsonl")).unwrap()
    }

    fn replies(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn call(id: &str, url: &str, body: Value) -> Value {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body})
}

#[test]
fn calls_are_answered_as_a_server_answers_them() {
    let batch = BatchFolder::new();
    draw(&batch.path("red.png"), 56, 56);
    let chat = json!({"messages": says("Hello"), "seed": 3, "max_tokens": 12, "logprobs": true});
    let text = json!({"prompt": ["One", "two"], "temperature": 0, "max_tokens": 5});
    let image = json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "red.png"}}, {"type": "text", "text": "?"}]}], "max_tokens": 4});
    batch.write(&[
        call("chat", "/v1/chat/completions", chat.clone()),
        call("wrong", "/v1/chat/completions", json!({"messages": says("Hello"), "temperature": -1})),
        call("text", "/v1/completions", text.clone()),
        call("image", "/v1/chat/completions", image),
        call("nowhere", "/v1/nothing", json!({})),
    ]);
    let replies = batch.run(&["--seed", "7"]);
    let ids: Vec<&str> = replies.iter().map(|reply| reply["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["chat", "wrong", "text", "image", "nowhere"]);
    let statuses: Vec<&Value> = replies.iter().map(|reply| &reply["response"]["status_code"]).collect();
    assert_eq!(statuses, [200, 400, 200, 200, 404]);
    assert_eq!(replies[1]["response"]["body"]["error"]["param"], "temperature");
    assert!(replies[3]["response"]["body"]["usage"]["prompt_tokens"].as_u64().unwrap() > 10, "the picture was read");
    let server = Server::start(&[]);
    for (number, asked) in [(0, server.chat(chat)), (2, server.complete(text))] {
        assert_eq!(replies[number]["response"]["body"]["choices"], asked["choices"]);
    }
}

#[test]
fn flags_stand_for_what_a_body_lacks() {
    let batch = BatchFolder::new();
    let chat = |tokens: Option<usize>| {
        let mut body = json!({"messages": says("Hello"), "ignore_eos": true});
        body["max_tokens"] = json!(tokens);
        if tokens.is_none() {
            body.as_object_mut().unwrap().remove("max_tokens");
        }
        call(&format!("{tokens:?}"), "/v1/chat/completions", body)
    };
    let mut again = chat(None);
    again["custom_id"] = json!("again");
    batch.write(&[chat(None), chat(Some(3)), again]);
    let replies = batch.run(&["--max-tokens", "9", "--n", "2"]);
    let said = |number: usize| &replies[number]["response"]["body"]["choices"];
    assert_ne!(said(0), said(2), "equal calls sample by different numbers");
    for (reply, tokens) in replies.iter().zip([9, 3, 9]) {
        let body = &reply["response"]["body"];
        assert_eq!(body["choices"].as_array().unwrap().len(), 2);
        assert_eq!(body["usage"]["completion_tokens"], 2 * tokens);
    }
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let batch = BatchFolder::new();
    let lines: Vec<Value> = (0..60).map(|id| json!({"id": id, "prompt": "One two ".repeat(id % 5 + 1)})).collect();
    batch.write(&lines);
    // Few at a time, so that lines come one after another.
    let flags = ["--max-tokens", "60", "--n", "2", "--max-num-seqs", "4"];
    batch.run(&flags);
    let whole = batch.text();
    assert_eq!(whole.lines().count(), 120);
    let said = batch.refused(&flags);
    assert!(said.contains("--resume goes on behind them"), "{said}");

    std::fs::remove_file(batch.path("out.jsonl")).unwrap();
    let mut child = batch.command(&flags).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while std::fs::metadata(batch.path("out.jsonl")).map_or(0, |metadata| metadata.len()) < whole.len() as u64 / 4 {
        assert!(began.elapsed() < TIMEOUT && child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // In the middle of a line, and of a group.
    let left = batch.text();
    let lines = left.lines().count();
    assert!(left.len() < whole.len());
    let group_is_cut = left.lines().take(lines / 2 * 2 - 1).map(|line| format!("{line}\n")).collect::<String>();
    std::fs::write(batch.path("out.jsonl"), group_is_cut + "{\"id\": 5").unwrap();
    let resumed = [&flags[..], &["--resume"]].concat();
    batch.run(&resumed);
    assert_eq!(batch.text(), whole);
    batch.run(&resumed);
    assert_eq!(batch.text(), whole, "nothing is answered twice");
}

#[test]
fn calls_go_on_behind_the_last_whole_line() {
    let batch = BatchFolder::new();
    let calls: Vec<Value> = (0..30)
        .map(|id| call(&format!("c{id}"), "/v1/completions", json!({"prompt": "One", "max_tokens": 4, "seed": id})))
        .collect();
    batch.write(&calls);
    let texts = |replies: &[Value]| -> Vec<Value> {
        replies.iter().map(|reply| json!([reply["custom_id"], reply["response"]["body"]["choices"]])).collect()
    };
    let whole = texts(&batch.run(&[]));
    let kept: String = batch.text().lines().take(11).map(|line| format!("{line}\n")).collect();
    std::fs::write(batch.path("out.jsonl"), format!("{kept}{{\"custom")).unwrap();
    assert_eq!(texts(&batch.run(&["--resume"])), whole);
    assert!(batch.text().starts_with(&kept));
}

#[test]
fn replies_to_other_requests_are_not_gone_on_with() {
    let batch = BatchFolder::new();
    batch.write(&[json!({"id": 1, "prompt": "One"}), json!({"id": 2, "prompt": "two"})]);
    for (there, line) in [("{\"id\": 2}\n", 1), ("{\"id\": 1}\n{\"id\": 3}\n", 2), ("no json\n", 1)] {
        std::fs::write(batch.path("out.jsonl"), there).unwrap();
        let said = batch.refused(&["--resume"]);
        assert!(said.contains(&format!("line {line} of ")) && said.contains("choose another --output"), "{said}");
        assert_eq!(batch.text(), there, "what is there stays");
    }
}

#[test]
fn a_call_names_no_route_but_those_that_generate() {
    let batch = BatchFolder::new();
    let urls = [
        "/update_weights",
        "/update_weights_from_disk",
        "/reset_prefix_cache",
        "/v1/completions/",
        "//v1/completions",
        "/v1/completions?x=1",
        "/v1/%63ompletions",
        "/tokenize",
        "/health",
        "/v1/completions",
    ];
    let body = json!({"weight_dir": batch.path("tiny"), "prompt": "One", "max_tokens": 2});
    batch.write(&urls.map(|url| call(url, url, body.clone())));
    let replies = batch.run(&[]);
    for (url, reply) in urls.iter().zip(&replies) {
        let response = &reply["response"];
        if *url == "/v1/completions" {
            assert_eq!(response["status_code"], 200, "{reply}");
            continue;
        }
        assert_eq!(response["status_code"], 404, "{reply}");
        let message = response["body"]["error"]["message"].as_str().unwrap();
        assert!(message.contains("it calls /v1/chat/completions and /v1/completions"), "{message}");
    }
}

#[test]
fn a_bad_call_is_named_with_its_line() {
    let batch = BatchFolder::new();
    let good = call("a", "/v1/completions", json!({"prompt": "One"}));
    for (bad, remedy) in [
        (json!({"custom_id": "b", "url": "/v1/completions"}), "lacks the field `body`"),
        (json!({"custom_id": "b", "method": "GET", "url": "/v1/models", "body": {}}), "only POST is known"),
        (json!({"custom_id": "b", "url": "v1/completions", "body": {}}), "give a route such as"),
        (good.clone(), "give each line its own"),
        (json!({"id": 1, "prompt": "One"}), "custom_id"),
    ] {
        batch.write(&[good.clone(), bad]);
        let said = batch.refused(&[]);
        assert!(said.contains("in.jsonl:2") && said.contains(remedy), "{said}");
    }
}

/// The engine's own form tells the log-probabilities that are asked for, those of the routes.
#[test]
fn processed_logprobs_are_those_of_the_distribution_sampled_from() {
    let batch = BatchFolder::new();
    batch.write(&[json!({"id": 1, "prompt": "red plate"})]);
    let sampling = ["--temperature", "0.5", "--top-k", "3", "--seed", "4", "--max-tokens", "12", "--overwrite"];
    let told = |mode: &str| batch.run(&[&sampling[..], &["--logprobs-mode", mode]].concat())[0].clone();
    let (raw, processed) = (told("raw_logprobs"), told("processed_logprobs"));
    assert_eq!(raw["token_ids"], processed["token_ids"]);
    assert_eq!(raw["logprobs"], batch.run(&sampling)[0]["logprobs"], "raw ones without the flag");
    let ids: Vec<&Value> =
        [&raw["prompt_token_ids"], &raw["token_ids"]].iter().flat_map(|ids| ids.as_array().unwrap()).collect();
    let body = json!({"prompt": ids, "max_tokens": 1, "prompt_logprobs": 3});
    batch.write(&[call("all", "/v1/completions", body)]);
    let scored = batch.run(&["--overwrite"])[0]["response"]["body"]["choices"][0]["prompt_logprobs"].clone();
    let prompt = raw["prompt_token_ids"].as_array().unwrap().len();
    for (place, id) in raw["token_ids"].as_array().unwrap().iter().enumerate() {
        let entries: Vec<&Value> = scored[prompt + place].as_object().unwrap().values().collect();
        let raw_of = |entry: &Value| entry["logprob"].as_f64().unwrap();
        let mass: f64 = entries.iter().map(|entry| (raw_of(entry) / 0.5).exp()).sum();
        let own = raw_of(&scored[prompt + place][id.to_string()]);
        assert!((raw["logprobs"][place].as_f64().unwrap() - own).abs() < 1e-4, "{place}");
        let expected = own / 0.5 - mass.ln();
        assert!((processed["logprobs"][place].as_f64().unwrap() - expected).abs() < 1e-3, "{place}: {expected}");
    }
}
