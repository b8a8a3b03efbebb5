//! A server that runs chats to their end: its environment's tool runs, and the reply brings the trajectory.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use thyme_engine::tasks::needle::SYSTEM_PROMPT;

use crate::support::command::{Workplace, succeed};
use crate::support::server::{Server, read_all, says};

const CHAT: &str = "/v1/chat/completions";
const QUESTION: &str = "\nWhat digit is on the red plate?";

const ANSWERS: usize = 12;

/// The shipped checkpoint, which sometimes looks at a crop before it answers.
fn looker() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny-sft"))
}

/// A server with the environment, beside pictures of plates.
fn start(arguments: &[&str]) -> Server {
    let workplace = Workplace::new();
    let mut data = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    data.args(["data", "needle", "--count", "1", "--seed", "5", "--out"]).arg(workplace.path("needle"));
    succeed(data);
    let arguments = [&["--env", "think_with_code"], arguments].concat();
    Server::start_on(workplace, looker(), &arguments)
}

fn data_url(server: &Server) -> String {
    let bytes = std::fs::read(server.workplace.path("needle/images/00000000_00.png")).unwrap();
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
}

/// Answers to a question about a picture, of which some four in ten look at a crop.
fn question(server: &Server) -> Value {
    let content =
        json!([{"type": "image_url", "image_url": {"url": data_url(server)}}, {"type": "text", "text": QUESTION}]);
    let messages = json!([{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": content}]);
    json!({"messages": messages, "n": ANSWERS, "seed": 1, "return_token_ids": true, "logprobs": true})
}

fn turns(choice: &Value) -> &[Value] {
    choice["trajectory"].as_array().unwrap()
}

#[test]
fn tools_run_on_the_server_and_the_trajectory_comes_with_the_answer() {
    let server = start(&[]);
    let answer = server.chat(question(&server));
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), ANSWERS);
    let (mut looked, mut own_tokens) = (0, 0);
    for (number, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], number);
        let turns = turns(choice);
        let after = turns.iter().rposition(|turn| turn["kind"] == "observation").map_or(0, |last| last + 1);
        let said: String = turns[after..].iter().map(|turn| turn["text"].as_str().unwrap()).collect();
        assert_eq!(choice["message"]["content"], said);
        let ids: Vec<Value> = turns.iter().flat_map(|turn| turn["token_ids"].as_array().unwrap().clone()).collect();
        assert_eq!(choice["token_ids"], json!(ids));
        for turn in turns {
            let logprobs = turn["logprobs"].as_array().unwrap();
            assert_eq!(logprobs.len(), turn["token_ids"].as_array().unwrap().len());
            let is_observation = turn["kind"] == "observation";
            assert!(logprobs.iter().all(|logprob| logprob.is_null() == is_observation));
            own_tokens += if is_observation { 0 } else { logprobs.len() };
            for image in turn["images"].as_array().into_iter().flatten() {
                let bytes = image.as_str().unwrap().split_once(";base64,").unwrap().1;
                image::load_from_memory(&BASE64_STANDARD.decode(bytes).unwrap()).unwrap();
                looked += 1;
            }
        }
    }
    assert!(looked > 0, "none of the answers looked at a crop; choose another seed: {answer:#}");
    assert_eq!(answer["usage"]["completion_tokens"], own_tokens);
    assert_eq!(
        answer["usage"]["total_tokens"].as_u64(),
        Some(own_tokens as u64 + answer["usage"]["prompt_tokens"].as_u64().unwrap())
    );
    server.wait_for("num_requests_running", 0.0);
    server.wait_for("kv_cache_usage_perc", 0.0);
    let text = server.get("/metrics").text;
    assert!(text.contains("tool_wait_seconds_total{model_name=\"tiny\",hidden=\"true\"}"), "{text}");
}

#[test]
fn a_batch_in_the_environment_samples_the_same_tokens() {
    let server = start(&[]);
    let answer = server.chat(question(&server));
    let workplace = &server.workplace;
    let content =
        json!([{"type": "image", "image": "needle/images/00000000_00.png"}, {"type": "text", "text": QUESTION}]);
    let messages = json!([{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": content}]);
    let line = json!({"id": 1, "messages": messages});
    let input = workplace.write("in.jsonl", format!("{line}\n"));
    let mut batch = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    batch
        .arg("batch")
        .arg("--model")
        .arg(looker())
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(workplace.path("out.jsonl"));
    batch.args(["--env", "think_with_code", "--n", &ANSWERS.to_string(), "--seed", "1"]);
    succeed(batch);
    let replies = std::fs::read_to_string(workplace.path("out.jsonl")).unwrap();
    let mut observed = 0;
    for (line, choice) in replies.lines().zip(answer["choices"].as_array().unwrap()) {
        let reply: Value = serde_json::from_str(line).unwrap();
        assert_eq!(reply["finish_reason"], choice["end"]);
        assert_eq!(reply["token_ids"], choice["token_ids"]);
        observed += usize::from(reply["text"].as_str().unwrap().contains("<sandbox_output>"));
    }
    assert!(observed > 0);
}

#[test]
fn a_single_question_is_put_in_the_environments_words() {
    let server = start(&[]);
    let prompt_tokens = |messages: Value| {
        let plain = server.post("/tokenize", &json!({"messages": messages})).json()["count"].as_u64().unwrap();
        let answer = server.chat(json!({"messages": messages, "max_tokens": 1}));
        (plain, answer["usage"]["prompt_tokens"].as_u64().unwrap())
    };
    let (plain, asked) = prompt_tokens(says("Hello"));
    assert!(asked > plain + 100, "{asked} tokens, {plain} without the environment's words");
    let (plain, asked) =
        prompt_tokens(json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]));
    assert_eq!(asked, plain, "another conversation is taken as it is");
}

#[test]
fn a_stream_brings_text_and_observations_as_they_come() {
    let server = start(&[]);
    let mut body = question(&server);
    let whole = server.chat(body.clone());
    body["stream_options"] = json!({"include_usage": true});
    let chunks = server.stream(CHAT, body);
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
    for number in 0..ANSWERS {
        let pieces: Vec<&Value> = chunks
            .iter()
            .flat_map(|chunk| chunk["choices"].as_array().unwrap())
            .filter(|c| c["index"] == number)
            .collect();
        assert_eq!(pieces[0]["delta"], json!({"role": "assistant", "content": ""}));
        let choice = &whole["choices"][number];
        let mut text = String::new();
        for piece in &pieces {
            text.push_str(piece["delta"]["content"].as_str().unwrap());
            for turn in piece["trajectory"].as_array().into_iter().flatten() {
                assert_eq!(turn["kind"], "observation");
                text.push_str(turn["text"].as_str().unwrap());
            }
        }
        let expected: String = turns(choice).iter().map(|turn| turn["text"].as_str().unwrap()).collect();
        assert_eq!(text, expected);
        let last = pieces.last().unwrap();
        assert_eq!((&last["finish_reason"], &last["end"]), (&choice["finish_reason"], &choice["end"]));
    }
}

#[test]
fn a_client_that_leaves_holds_no_pages() {
    let server = start(&[]);
    let mut body = question(&server);
    body["stream"] = true.into();
    body["n"] = 32.into();
    drop(server.open(CHAT, &body));
    let answered = server.chat(json!({"messages": says("Hello"), "max_tokens": 4}));
    assert!(answered["usage"]["completion_tokens"].as_u64().unwrap() <= 4);
    server.wait_for("num_requests_running", 0.0);
    server.wait_for("kv_cache_usage_perc", 0.0);
}

#[test]
fn what_only_a_client_could_do_is_refused() {
    let server = start(&[]);
    for (field, value) in [
        ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("stop_token_ids", json!([1])),
        ("top_logprobs", json!(3)),
        ("chat_template", json!("{{ messages }}")),
        ("mm_processor_kwargs", json!({"max_pixels": 50000})),
        ("min_tokens", json!(3)),
        ("guided_regex", json!("a+")),
    ] {
        let mut body = json!({"messages": says("Hello"), "logprobs": true});
        body[field] = value;
        let (status, message, param) = server.post(CHAT, &body).error();
        assert_eq!((status, param), (400, json!(field)));
        assert!(message.contains("without --env"), "{message}");
    }
    let broken = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]);
    let (status, message, _) = server.post(CHAT, &json!({"messages": broken})).error();
    assert!(status == 400 && message.contains("cannot be used"), "{status} {message}");
    let plain = server.complete(json!({"prompt": "Hello", "max_tokens": 3, "temperature": 0}));
    assert_eq!(plain["usage"]["completion_tokens"], 3, "completions are answered as they are");
}

#[test]
fn answers_under_way_are_finished_before_it_ends() {
    let mut server = start(&[]);
    let stream = server.open(CHAT, &question(&server));
    while server.metric("num_requests_running") == 0.0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.terminate();
    let text = read_all(stream);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"trajectory\""), "{text}");
    assert!(server.ended().success());
}
