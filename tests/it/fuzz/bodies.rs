//! Bodies of every route, and HTTP around them: odd types, odd JSON, odd heads, pieces and lengths.

use serde_json::{Map, Value, json};

use super::mutate::{self, Corpus, NUMBERS, scalar};
use super::wire::{Request, post};
use crate::support::small_policy::Random;

/// Routes that take JSON, with a body of each in the corpus.
const ROUTES: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/completions",
    "/tokenize",
    "/detokenize",
    "/v1/chat/completions/render",
    "/inference/v1/generate",
    "/update_weights",
];
/// Tokens that all answers of a request have together at most: what is asked for is short, so that it can be answered at once.
const ANSWER_TOKENS: u64 = 32;

/// A request of any route.
pub fn make(random: &mut Random, corpus: &Corpus) -> Request {
    if random.one_in(6) {
        return raw(random, corpus);
    }
    let (path, mut body) = proper(random, corpus);
    match random.below(6) {
        0..3 => {}
        3 | 4 => {
            let other = corpus.json(random, ".json");
            mutate::json(random, &mut body, &other["body"], 2);
        }
        _ => {
            let other = corpus.text(random, ".json");
            let text =
                mutate::text(random, &body.to_string(), &other, &["null", ",", ":", "[", "{", "}", "1e999", "\\u"], 3);
            return post(path, short(text.as_bytes()).as_slice());
        }
    }
    post(path, short(body.to_string().as_bytes()).as_slice())
}

/// A route and a body for it.
fn proper(random: &mut Random, corpus: &Corpus) -> (&'static str, Value) {
    let path = random.pick(&ROUTES);
    let fitting: Vec<Value> = corpus
        .entries
        .iter()
        .filter(|(name, _)| name.ends_with(".json"))
        .map(|(_, text)| serde_json::from_slice(text).unwrap())
        .collect();
    let fitting: Vec<&Value> = fitting.iter().filter(|entry| entry["path"] == path).collect();
    let mut body = random.pick(&fitting)["body"].clone();
    if let ("/v1/chat/completions" | "/v1/completions", Value::Object(fields)) = (path, &mut body) {
        for _ in 0..random.below(5) {
            let (key, value) = field(random);
            fields.insert(key.to_owned(), value);
        }
    }
    (path, body)
}

/// A field of a generating request, mostly as it should be.
fn field(random: &mut Random) -> (&'static str, Value) {
    let share = random.below(100) as f64 / 100.0;
    let id = random.below(768);
    let fields = [
        ("temperature", json!(share)),
        ("top_p", json!(share + 0.01)),
        ("top_k", json!(random.below(50) as i64 - 1)),
        ("min_p", json!(share)),
        ("repetition_penalty", json!(share + 0.5)),
        ("presence_penalty", json!(share)),
        ("frequency_penalty", json!(-share)),
        ("seed", json!(random.next() as i64)),
        ("n", json!(1 + random.below(4))),
        ("stop", random.pick(&[json!("a"), json!(["a", "bc"]), json!([]), Value::Null])),
        ("stop_token_ids", json!([id])),
        ("logit_bias", json!({id.to_string(): 5})),
        ("allowed_token_ids", json!([id, 5, 6])),
        ("bad_words", json!(["red", "ä"])),
        ("min_tokens", json!(random.below(3))),
        ("ignore_eos", json!(true)),
        ("skip_special_tokens", json!(random.one_in(2))),
        ("include_stop_str_in_output", json!(true)),
        ("logprobs", random.pick(&[json!(true), json!(1), json!(5)])),
        ("top_logprobs", json!(random.below(6))),
        ("prompt_logprobs", json!(random.below(4))),
        ("echo", json!(random.one_in(2))),
        ("return_token_ids", json!(true)),
        ("return_tokens_as_token_ids", json!(true)),
        ("stream", json!(true)),
        ("stream_options", json!({"include_usage": true})),
        ("user", json!(mutate::words(random))),
        ("max_tokens", json!(random.below(5))),
    ];
    let (key, value) = random.pick(&fields);
    (key, if random.one_in(12) { scalar(random) } else { value })
}

/// The body with a short answer asked for, where it is a request that could ask for a long one.
fn short(body: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else { return body.to_vec() };
    let is_short = shorten(&mut fields);
    let inner = fields.get_mut("sampling_params").and_then(Value::as_object_mut).is_none_or(shorten);
    if is_short && inner { body.to_vec() } else { Value::Object(fields).to_string().into_bytes() }
}

/// Whether nothing had to be changed.
fn shorten(fields: &mut Map<String, Value>) -> bool {
    let number = |fields: &Map<String, Value>, key: &str| fields.get(key).map(|value| value.as_f64().unwrap_or(1.0));
    let tokens = number(fields, "max_completion_tokens").or(number(fields, "max_tokens")).unwrap_or(512.0);
    let answers = number(fields, "n").unwrap_or(1.0);
    // So many answers are refused, and so many tokens are as many as fit: a few such answers are short enough.
    let is_short = tokens * answers <= ANSWER_TOKENS as f64 || answers > 1e6 || (tokens > 1e6 && answers <= 2.0);
    if !is_short {
        fields.remove("max_completion_tokens");
        fields.insert("max_tokens".to_owned(), json!(4));
        if answers > 8.0 {
            fields.insert("n".to_owned(), json!(8));
        }
    }
    is_short
}

/// A request that may be no proper HTTP.
fn raw(random: &mut Random, corpus: &Corpus) -> Request {
    let (path, body) = proper(random, corpus);
    let body = short(body.to_string().as_bytes());
    let bytes = match random.below(6) {
        0 => {
            let head = corpus.pick(random, ".http").to_vec();
            let other = corpus.pick(random, ".http");
            mutate::bytes(random, head, other, 0, 3)
        }
        1 => {
            let (head, other) = (corpus.text(random, ".http"), corpus.text(random, ".http"));
            mutate::text(random, &head, &other, &["\r\n", " ", ":", "HTTP/1.1", "chunked", "Content-Length: 5\r\n"], 3)
                .into_bytes()
        }
        2 => chunked(random, path, &body),
        3 => {
            let length = random.pick(&NUMBERS);
            format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            )
            .into_bytes()
            .into_iter()
            .chain(body)
            .collect()
        }
        4 => {
            let method = random.pick(&["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "POST"]);
            let path = random.pick(&[
                path,
                "/",
                "/health",
                "/metrics",
                "/version",
                "/v1/models",
                "/v1/models/tiny",
                "/v1/models/..%2f..%00",
                "/server_info",
                "//",
                "*",
                "/?a=%ff",
                "http://y/health",
            ]);
            format!("{method} {path} HTTP/1.{}\r\nHost: localhost\r\nConnection: close\r\n\r\n", random.below(3))
                .into_bytes()
        }
        _ => {
            let kind = random.pick(&[
                "application/json",
                "APPLICATION/JSON; charset=utf-8",
                "application/json; charset=utf-16",
                "text/plain",
                "multipart/form-data; boundary=x",
                "",
                "é",
            ]);
            let more = random.pick(&[
                "",
                "Expect: 100-continue\r\n",
                "Origin: http://evil.example\r\n",
                "Authorization: Bearer x\r\n",
                "Content-Encoding: gzip\r\n",
                "X: y\r\n",
            ]);
            let more = more.repeat(random.pick(&[1, 1, 1, 50, 500]));
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{more}Content-Length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), &body].concat()
        }
    };
    Request { bytes, is_proper: false }
}

/// A body in chunks, some of them odd.
fn chunked(random: &mut Random, path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at((1 + random.below(40)).min(rest.len()));
        let size = if random.one_in(100) { random.pick(&NUMBERS).to_owned() } else { format!("{:x}", chunk.len()) };
        let note = if random.one_in(20) { ";name=\"value\"" } else { "" };
        bytes.extend([size.as_bytes(), note.as_bytes(), b"\r\n", chunk, b"\r\n"].concat());
        rest = behind;
    }
    bytes.extend(random.pick(&[
        &b"0\r\n\r\n"[..],
        b"0\r\n\r\n",
        b"0\r\n\r\n",
        b"0\r\nA: b\r\n\r\n",
        b"",
        b"0\r\n",
        b"g\r\n",
    ]));
    bytes
}
