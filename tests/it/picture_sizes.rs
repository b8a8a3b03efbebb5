//! How large the model sees a picture: what a request or its messages ask for, in the server and in files. The model's own limits give a large
//! picture 16 cells.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::command::{Workplace, refuse, succeed};
use crate::support::server::{Server, draw, init, picture, shows};

const CHAT: &str = "/v1/chat/completions";

/// The cells of pictures: their placeholders in a prompt.
fn pads(ids: &Value) -> usize {
    ids.as_array().unwrap().iter().filter(|id| **id == 766).count()
}

/// A picture's part with more keys.
fn part(picture: &str, keys: Value) -> Value {
    let mut part = json!({"type": "image", "image": picture});
    part.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    part
}

#[test]
fn the_server_shows_pictures_at_the_size_that_is_asked_for() {
    let server = Server::start(&[]);
    let url = picture(280, 280);
    let chat = |part: Value, kwargs: Value| json!({"messages": shows(part), "max_tokens": 1, "return_token_ids": true, "mm_processor_kwargs": kwargs});
    let plain = || json!({"type": "image_url", "image_url": {"url": url}});
    let beside = |keys: Value| part(&url, keys);
    for (shown, kwargs, cells) in [
        (plain(), Value::Null, 16),
        (beside(json!({"max_pixels": 3136})), Value::Null, 4),
        (beside(json!({"max_pixels": 50176})), Value::Null, 64),
        (beside(json!({"min_pixels": 78400, "max_pixels": 78400})), Value::Null, 100),
        (beside(json!({"resized_height": 84, "resized_width": 140})), Value::Null, 15),
        (json!({"type": "image_url", "image_url": {"url": url, "detail": "high", "max_pixels": 3136}}), Value::Null, 4),
        (json!({"type": "image_url", "image_url": {"url": url}, "max_pixels": 3136}), Value::Null, 4),
        (plain(), json!({"size": {"longest_edge": 50176}}), 64),
        (plain(), json!({"size": {"shortest_edge": 784, "longest_edge": 784}}), 1),
        (plain(), json!({"size": {"shortest_edge": 784, "longest_edge": 784}, "max_pixels": 3136}), 4),
        (beside(json!({"max_pixels": 3136})), json!({"max_pixels": 50176}), 4),
    ] {
        let body = chat(shown, kwargs);
        let whole = server.chat(body.clone());
        assert_eq!(pads(&whole["prompt_token_ids"]), cells, "{body}");
        let rendered = server.post("/v1/chat/completions/render", &body).json();
        assert_eq!(rendered["token_ids"], whole["prompt_token_ids"]);
        let handed_back = json!({"token_ids": rendered["token_ids"], "features": rendered["features"], "sampling_params": {"max_tokens": 1}});
        assert_eq!(server.post("/inference/v1/generate", &handed_back).status, 200, "{body}");
    }
    for (shown, kwargs, field, says_so) in [
        (beside(json!({"max_pixels": "a"})), Value::Null, "messages[0].content[0].max_pixels", "whole number"),
        (beside(json!({"max_pixel": 3136})), Value::Null, "messages[0].content[0].max_pixel", "leave it out"),
        (beside(json!({"resized_width": 28})), Value::Null, "messages[0].content[0].resized_width", "give both"),
        (
            json!({"type": "image_url", "image_url": {"url": url, "fps": 3}}),
            Value::Null,
            "messages[0].content[0].image_url.fps",
            "not known",
        ),
        (plain(), json!({"do_resize": false}), "mm_processor_kwargs", "`do_resize`, which is not known"),
        (plain(), json!({"size": {"height": 28}}), "mm_processor_kwargs", "`height`, which is not known"),
        (plain(), json!({"size": {"longest_edge": 0}}), "mm_processor_kwargs.size.longest_edge", "between 1"),
        (plain(), json!({"size": {"longest_edge": 784}}), "mm_processor_kwargs.size", "in order"),
    ] {
        let (status, message, param) = server.post(CHAT, &chat(shown, kwargs)).error();
        assert_eq!((status, param), (400, json!(field)), "{message}");
        assert!(message.contains(says_so), "{message}");
    }
    let (status, message, _) = server.post(CHAT, &chat(beside(json!({"min_pixels": 50176})), Value::Null)).error();
    assert!(status == 400 && message.contains("50176 pixels or more and 12544 or fewer"), "{message}");
}

/// Runs `score` or `batch` on requests.
fn run(place: &Workplace, command: &str, requests: &[Value], flags: &[&str]) -> Command {
    place.write("in.jsonl", requests.iter().map(|request| format!("{request}\n")).collect::<String>());
    let mut thyme = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    thyme.arg(command).arg("--model").arg(place.path("tiny")).arg("--input").arg(place.path("in.jsonl"));
    thyme.arg("--output").arg(place.path("out.jsonl")).args(flags);
    thyme
}

fn replies(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn files_of_requests_show_pictures_at_the_size_that_is_asked_for() {
    let place = Workplace::new();
    init(&place, "tiny", 0);
    draw(&place.path("large.png"), 280, 280);
    let shown = |keys: Value| {
        let content = [part("large.png", keys), json!({"type": "text", "text": "a"})];
        json!({"id": 1, "messages": [{"role": "user", "content": content}]})
    };
    let with = |mut request: Value, kwargs: Value| {
        request["mm_processor_kwargs"] = kwargs;
        request
    };
    let listed = |image: Value| json!({"id": 1, "prompt": "<|image_pad|>a", "images": [image]});
    let requests = [
        shown(json!({})),
        shown(json!({"max_pixels": 3136})),
        shown(json!({"resized_height": 84, "resized_width": 140})),
        with(shown(json!({})), json!({"size": {"shortest_edge": 784, "longest_edge": 50176}})),
        with(shown(json!({"max_pixels": 3136})), json!({"max_pixels": 50176})),
        with(listed(json!("large.png")), json!({"max_pixels": 50176})),
        listed(json!({"image": "large.png", "max_pixels": 3136})),
    ];
    let cells = [16, 4, 15, 64, 4, 64, 4];
    let counted = |command: &str, requests: &[Value], key: &str, flags: &[&str]| -> Vec<usize> {
        succeed(run(&place, command, requests, flags));
        replies(&place.path("out.jsonl")).iter().map(|reply| pads(&reply[key])).collect()
    };
    let short = ["--overwrite", "--max-tokens", "2"];
    assert_eq!(counted("score", &requests, "token_ids", &[]), cells);
    assert_eq!(counted("batch", &requests, "prompt_token_ids", &short), cells);
    let tooled = [&short[..], &["--env", "think_with_code"]].concat();
    assert_eq!(counted("batch", &requests[..3], "prompt_token_ids", &tooled), cells[..3]);
    let message = refuse(run(&place, "batch", &requests[3..4], &tooled));
    assert!(message.contains("mm_processor_kwargs has no effect with --env"), "{message}");

    let body = json!({"messages": requests[1]["messages"], "max_tokens": 1, "return_token_ids": true});
    let call = json!({"custom_id": "a", "method": "POST", "url": CHAT, "body": body});
    succeed(run(&place, "batch", &[call], &["--overwrite"]));
    let reply = &replies(&place.path("out.jsonl"))[0];
    assert_eq!(pads(&reply["response"]["body"]["prompt_token_ids"]), 4, "{reply}");
}

#[test]
fn the_terminal_shows_pictures_at_the_size_that_is_asked_for() {
    let place = Workplace::new();
    init(&place, "tiny", 0);
    draw(&place.path("large.png"), 1960, 1960);
    let generate = |flags: &[&str]| {
        let mut thyme = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        thyme.arg("generate").arg("--model").arg(place.path("tiny")).arg("--image").arg(place.path("large.png"));
        thyme.args(["--env", "none", "--max-tokens", "2", "What is it?"]).args(flags);
        thyme
    };
    succeed(generate(&["--max-pixels", "3136"]));
    // 4,900 cells in a context of 4,096.
    let message = refuse(generate(&["--max-pixels", "3841600"]));
    assert!(message.contains("4096"), "{message}");
    let message = refuse(generate(&["--min-pixels", "50176"]));
    assert!(message.contains("50176 pixels or more and 12544 or fewer"), "{message}");
}
