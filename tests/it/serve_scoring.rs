//! Log-probabilities on the wire: prompts scored without an answer, where each token stands in the text, and how much may be asked for.

use serde_json::{Value, json};

use crate::support::server::{Server, says};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn list<'a>(logprobs: &'a Value, key: &str) -> &'a [Value] {
    logprobs[key].as_array().unwrap_or_else(|| panic!("no {key} in {logprobs}"))
}

#[test]
fn a_prompt_is_scored_without_a_token_sampled() {
    let server = Server::start(&[]);
    let body = |tokens: usize| json!({"prompt": ["red plate", "blue"], "max_tokens": tokens, "echo": true, "logprobs": 1, "temperature": 0, "n": 2});
    let scored = server.complete(body(0));
    let answered = server.complete(body(1));
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    let choices = scored["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (choice, with_token) in choices.iter().zip(answered["choices"].as_array().unwrap()) {
        assert_eq!(choice["finish_reason"], "length");
        assert_eq!(choice["text"], ["red plate", "blue"][choice["index"].as_u64().unwrap() as usize / 2]);
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let (own, more) = (list(&choice["logprobs"], key), list(&with_token["logprobs"], key));
            assert_eq!((own, own.len() + 1), (&more[..own.len()], more.len()), "{key}");
        }
        assert!(choice["logprobs"]["token_logprobs"][0].is_null());
        assert!(list(&choice["logprobs"], "token_logprobs")[1..].iter().all(|value| value.as_f64().unwrap() <= 0.0));
    }
    let alone = server.complete(json!({"prompt": "red plate", "max_tokens": 0, "prompt_logprobs": 2}));
    assert_eq!((&alone["choices"][0]["text"], &alone["choices"][0]["finish_reason"]), (&json!(""), &json!("length")));
    assert!(alone["choices"][0]["prompt_logprobs"].as_array().unwrap().len() > 1);
    let echoed = server.complete(json!({"prompt": "red plate", "max_tokens": 0, "echo": true}))["choices"][0].clone();
    assert_eq!((&echoed["text"], &echoed["logprobs"]), (&json!("red plate"), &Value::Null));
    for (path, body) in
        [(TEXT, json!({"prompt": "a", "max_tokens": 0})), (CHAT, json!({"messages": says("a"), "max_tokens": 0}))]
    {
        let (status, message, param) = server.post(path, &body).error();
        assert!(status == 400 && param == "max_tokens" && message.contains("1 or more"), "{message}");
    }
    let (status, message, param) = server.post(CHAT, &json!({"messages": says("a"), "echo": true})).error();
    assert!(status == 400 && param == "echo" && message.contains(TEXT), "{message}");
}

#[test]
fn an_echoed_stream_brings_the_prompts_log_probabilities_too() {
    let server = Server::start(&[]);
    for tokens in [0, 5] {
        let body = json!({"prompt": "größe", "max_tokens": tokens, "echo": true, "logprobs": 2, "seed": 1, "ignore_eos": true});
        let whole = server.complete(body.clone())["choices"][0].clone();
        let chunks = server.stream(TEXT, body);
        let choices: Vec<&Value> = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).collect();
        let text: String = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(json!(text), whole["text"]);
        assert_eq!(choices.last().unwrap()["finish_reason"], "length");
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let joined: Vec<&Value> = choices.iter().flat_map(|choice| list(&choice["logprobs"], key)).collect();
            assert_eq!(json!(joined), whole["logprobs"][key], "{key}");
        }
    }
}

/// A character of several tokens begins where its first token does; all of them are at it.
#[test]
fn offsets_are_places_in_the_text_as_returned() {
    let server = Server::start(&[]);
    let said = "a größe 象🙂 z";
    for echo in [false, true] {
        let body = json!({"prompt": "é象b", "guided_choice": [said], "max_tokens": 60, "logprobs": 0, "echo": echo,
            "return_token_ids": true, "ignore_eos": true});
        let choice = server.complete(body)["choices"][0].clone();
        let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
        let logprobs = &choice["logprobs"];
        let offsets: Vec<usize> =
            list(logprobs, "text_offset").iter().map(|at| at.as_u64().unwrap() as usize).collect();
        let tokens: Vec<&str> = list(logprobs, "tokens").iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(offsets.len(), tokens.len());
        assert!(
            tokens.iter().filter(|token| token.contains('\u{FFFD}')).count() >= 4,
            "tokens of half a character: {tokens:?}"
        );
        assert!(offsets.is_sorted() && offsets[0] == 0, "{offsets:?}");
        for (token, &at) in tokens.iter().zip(&offsets) {
            if token.starts_with("<|") {
                assert_eq!(at, text.len(), "the end of a turn is no text");
            } else if !token.contains('\u{FFFD}') {
                let there: String = text[at..].iter().take(token.chars().count()).collect();
                assert_eq!(there, **token, "{at} {text:?}");
            } else {
                assert!(!text[at].is_ascii(), "{token} {at} {text:?}");
            }
        }
    }
}

#[test]
fn more_of_the_likeliest_than_the_server_allows_are_refused() {
    let server = Server::start(&["--max-logprobs", "3"]);
    for (path, body, field) in [
        (TEXT, json!({"prompt": "a", "logprobs": 4}), "logprobs"),
        (TEXT, json!({"prompt": "a", "logprobs": -1}), "logprobs"),
        (TEXT, json!({"prompt": "a", "prompt_logprobs": 4}), "prompt_logprobs"),
        (TEXT, json!({"prompt": "a", "prompt_logprobs": -1}), "prompt_logprobs"),
        (TEXT, json!({"prompt": "a", "logprobs": 9, "echo": true, "max_tokens": 0}), "logprobs"),
        (CHAT, json!({"messages": says("a"), "logprobs": true, "top_logprobs": 4}), "top_logprobs"),
        (CHAT, json!({"messages": says("a"), "prompt_logprobs": 4}), "prompt_logprobs"),
        ("/inference/v1/generate", json!({"token_ids": [70], "sampling_params": {"logprobs": 4}}), "logprobs"),
    ] {
        let (status, message, param) = server.post(path, &body).error();
        assert_eq!((status, &param), (400, &json!(field)), "{message}");
        assert!(message.contains("greater than max allowed: 3") && message.contains("--max-logprobs"), "{message}");
    }
    let least = json!({"prompt": "a", "logprobs": -2});
    assert!(server.post(TEXT, &least).error().1.contains("0 or more, or -1"));
    assert_eq!(server.post(TEXT, &json!({"prompt": "a", "logprobs": 3, "max_tokens": 1})).status, 200);
    let by_default = Server::start(&[]);
    assert_eq!(by_default.post(TEXT, &json!({"prompt": "a", "logprobs": 20, "max_tokens": 1})).status, 200);
    assert_eq!(by_default.post(TEXT, &json!({"prompt": "a", "logprobs": 21, "max_tokens": 1})).error().0, 400);
    let open = Server::start(&["--max-logprobs", "-1"]);
    let all = open.complete(json!({"prompt": "red plate", "logprobs": -1, "prompt_logprobs": -1, "max_tokens": 1, "return_tokens_as_token_ids": true}));
    assert_eq!(all["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap().len(), 768);
    assert_eq!(all["choices"][0]["prompt_logprobs"][1].as_object().unwrap().len(), 768);
}

/// What a request may cost is known before it starts, and is not far from what it does.
#[test]
fn an_answer_that_would_be_too_large_is_refused_before_it_starts() {
    let server = Server::start(&["--max-logprobs", "-1"]);
    let rows = |prompt: Value, n: usize| json!({"prompt": prompt, "n": n, "ignore_eos": true});
    for (more, field) in [
        (json!({"max_tokens": 3000, "n": 4096, "logprobs": 5}), "max_tokens"),
        (json!({"max_tokens": 3000, "n": 64, "logprobs": -1}), "max_tokens"),
        (json!({"max_tokens": 3000, "n": 4000, "logprobs": 0, "return_token_ids": true, "stream": true}), "max_tokens"),
        (
            json!({"prompt": vec!["red plate blue"; 2000], "max_tokens": 1, "prompt_logprobs": -1, "n": 2}),
            "prompt_logprobs",
        ),
        (json!({"prompt": vec![vec![70; 4000]; 8], "max_tokens": 0, "echo": true, "logprobs": -1}), "prompt_logprobs"),
    ] {
        let mut body = rows(json!("a"), 1);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, message, param) = server.post(TEXT, &body).error();
        assert_eq!((status, &param), (400, &json!(field)), "{message}");
        assert!(message.contains("256 MiB") && message.contains("MiB of JSON"), "{message}");
    }
    let chat = json!({"messages": says("a"), "n": 4000, "max_tokens": 3000, "logprobs": true, "top_logprobs": 20});
    assert_eq!(server.post(CHAT, &chat).error().0, 400);
    assert_eq!(server.metric("generation_tokens_total"), 0.0, "nothing was sampled for what was refused");
}

/// The size that a refusal names is that of the answer, were it given.
#[test]
fn the_cost_that_is_told_is_near_the_real_one() {
    let server = Server::start(&["--max-logprobs", "-1"]);
    for (path, body) in [
        (TEXT, json!({"prompt": "a", "logprobs": 5})),
        (TEXT, json!({"prompt": "a", "logprobs": -1})),
        (TEXT, json!({"prompt": "a", "logprobs": 0, "return_token_ids": true, "return_tokens_as_token_ids": true})),
        (CHAT, json!({"messages": says("a"), "logprobs": true, "top_logprobs": 5})),
        (CHAT, json!({"messages": says("a"), "logprobs": true, "return_token_ids": true})),
    ] {
        let ask = |n: usize, tokens: usize| {
            let mut body = body.clone();
            let more = json!({"n": n, "max_tokens": tokens, "min_tokens": tokens, "ignore_eos": true, "temperature": 1, "seed": 1});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server.post(path, &body)
        };
        let real = ask(4, 60).text.len() as f64 / 240.0;
        let (status, message, _) = ask(4096, 3000).error();
        assert_eq!(status, 400);
        let told = message.split(" make ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let told = told.parse::<f64>().unwrap() * f64::from(1 << 20) / (4096.0 * 3000.0);
        assert!((0.75..1.8).contains(&(told / real)), "{body}: {told} bytes a token are told, {real} are real");
    }
}
