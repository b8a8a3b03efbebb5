//! The server as its clients see it: answers, streams, pictures, weights; and what it says to those who ask for what cannot be.

use std::io::Read;

use serde_json::{Value, json};

use crate::support::command::Workplace;
use crate::support::server::{Server, TIMEOUT, draw, events, init, long, picture, read_all, says, shows, unchunk};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

// ---- answers ----

#[test]
fn it_says_that_it_lives_and_what_it_serves() {
    let server = Server::start(&["--max-model-len", "512"]);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/version").json(), json!({"version": env!("CARGO_PKG_VERSION")}));
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!("tiny"), &json!(512)));
    assert_eq!(server.get("/v1/models/tiny").json()["id"], "tiny");
    assert_eq!(server.get("/get_world_size").json()["world_size"], 1);
    assert!(!server.get("/server_info?config_format=json").json()["vllm_config"]["weight_transfer_config"].is_null());
}

#[test]
fn a_stream_brings_what_the_whole_answer_says() {
    let server = Server::start(&[]);
    let body = json!({"model": "tiny", "messages": says("Hello"), "max_tokens": 60, "seed": 4, "n": 2, "ignore_eos": true,
        "logprobs": true, "return_token_ids": true, "stream_options": {"include_usage": true}});
    let whole = server.chat(body.clone());
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["usage"]["completion_tokens"], 120);
    let prompt = whole["prompt_token_ids"].as_array().unwrap().len();
    assert_eq!(whole["usage"]["prompt_tokens"], prompt);
    let chunks = server.stream(CHAT, body);
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
    assert_eq!(chunks.last().unwrap()["choices"], json!([]));
    for number in 0..2 {
        let choice = &whole["choices"][number];
        let own = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).filter(|c| c["index"] == number);
        let own: Vec<&Value> = own.collect();
        let text: String = own.iter().map(|c| c["delta"]["content"].as_str().unwrap_or("")).collect();
        assert_eq!(choice["message"]["content"], text);
        for key in ["token_ids", "content"] {
            let of = |c: &Value| if key == "content" { c["logprobs"][key].clone() } else { c[key].clone() };
            let joined: Vec<Value> = own.iter().filter_map(|c| of(c).as_array().cloned()).flatten().collect();
            assert_eq!(of(choice), json!(joined));
            assert_eq!(joined.len(), 60);
        }
        assert_eq!(
            (&own.last().unwrap()["finish_reason"], &choice["finish_reason"]),
            (&json!("length"), &json!("length"))
        );
    }
    let [first, second] = [0, 1].map(|number| &whole["choices"][number]["token_ids"]);
    assert_ne!(first, second);
}

#[test]
fn completions_take_every_form_of_prompt() {
    let server = Server::start(&[]);
    let ids = server.post("/tokenize", &json!({"prompt": "red plate"})).json()["tokens"].clone();
    let ask = |prompt: Value| {
        let body = json!({"prompt": prompt, "max_tokens": 8, "temperature": 0, "n": 2, "return_token_ids": true, "logprobs": 0});
        server.complete(body)
    };
    let text = ask(json!("red plate"));
    let expected = &text["choices"][0];
    assert_eq!(expected["prompt_token_ids"], ids);
    for prompt in [json!(["red plate", "x"]), json!([ids, [1, 2]]), ids.clone()] {
        let many = ask(prompt.clone());
        let choices = many["choices"].as_array().unwrap();
        assert_eq!(choices.len(), if prompt == ids { 2 } else { 4 });
        for (number, choice) in choices.iter().enumerate() {
            assert_eq!(choice["index"], number);
        }
        for key in ["text", "token_ids", "logprobs", "prompt_token_ids"] {
            assert_eq!((&choices[0][key], &choices[1][key]), (&expected[key], &expected[key]), "{prompt} {key}");
        }
    }
}

#[test]
fn a_seed_says_all_and_without_one_answers_differ() {
    let server = Server::start(&[]);
    let ask = |seed: Value| {
        let body = json!({"prompt": ["red", "red"], "max_tokens": 20, "seed": seed, "ignore_eos": true});
        let reply = server.complete(body);
        [0, 1].map(|number| reply["choices"][number]["text"].clone())
    };
    assert_eq!(ask(json!(7)), ask(json!(7)));
    assert_ne!(ask(json!(7)), ask(json!(-8)));
    let [first, second] = ask(Value::Null);
    assert_ne!(first, second);
    let others: Vec<_> = (0..3).map(|_| server.open(TEXT, &long(500))).collect();
    let beside_others = ask(json!(7));
    others.into_iter().for_each(|other| drop(read_all(other)));
    assert_eq!(beside_others, ask(json!(7)));
}

#[test]
fn logprobs_are_those_of_the_prompt_that_the_answer_makes() {
    let server = Server::start(&[]);
    let body = json!({"prompt": "red plate", "max_tokens": 20, "seed": 1, "temperature": 0.7, "ignore_eos": true,
        "logprobs": 0, "return_token_ids": true, "return_tokens_as_token_ids": true});
    let choice = server.complete(body)["choices"][0].clone();
    let (prompt, sampled) = (choice["prompt_token_ids"].as_array().unwrap(), choice["token_ids"].as_array().unwrap());
    let names: Vec<Value> = sampled.iter().map(|id| json!(format!("token_id:{id}"))).collect();
    assert_eq!(choice["logprobs"]["tokens"], json!(names));
    let all: Vec<&Value> = prompt.iter().chain(sampled).collect();
    let scored = server.complete(json!({"prompt": all, "max_tokens": 1, "prompt_logprobs": 3}))["choices"][0].clone();
    let places = scored["prompt_logprobs"].as_array().unwrap();
    assert_eq!(places.len(), all.len());
    assert!(places[0].is_null());
    for (number, id) in sampled.iter().enumerate() {
        let place = &places[prompt.len() + number];
        let own = &place[id.to_string()];
        let (found, wanted) =
            (own["logprob"].as_f64().unwrap(), choice["logprobs"]["token_logprobs"][number].as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
        let ranks: Vec<u64> =
            place.as_object().unwrap().values().map(|entry| entry["rank"].as_u64().unwrap()).collect();
        assert!([1, 2, 3].iter().all(|rank| ranks.contains(rank)), "{place}");
    }
    let body = json!({"prompt": all[..prompt.len()], "max_tokens": 4, "seed": 1, "logprobs": 3, "ignore_eos": true});
    let choice = server.complete(body)["choices"][0].clone();
    for (top, own) in choice["logprobs"]["top_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .zip(choice["logprobs"]["token_logprobs"].as_array().unwrap())
    {
        let values: Vec<f64> = top.as_object().unwrap().values().map(|value| value.as_f64().unwrap()).collect();
        assert!((3..=4).contains(&values.len()) && values.contains(&own.as_f64().unwrap()), "{top} {own}");
    }
    let body = json!({"messages": says("a"), "max_tokens": 4, "temperature": 0, "logprobs": true, "top_logprobs": 2});
    for token in server.chat(body)["choices"][0]["logprobs"]["content"].as_array().unwrap() {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"], &top[0]["bytes"]), (2, &token["token"], &token["bytes"]));
        let [found, wanted] = [&top[0], token].map(|entry| entry["logprob"].as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-5 && top[1]["logprob"].as_f64().unwrap() <= found, "{token}");
    }
    let echoed = json!({"prompt": all, "max_tokens": 1, "echo": true, "logprobs": 0});
    let echoed = server.complete(echoed)["choices"][0]["logprobs"]["token_logprobs"].clone();
    assert!(echoed[0].is_null() && echoed[1].is_number());
    assert_eq!(echoed.as_array().unwrap().len(), all.len() + 1);
}

#[test]
fn processed_logprobs_are_those_of_the_distribution_sampled_from() {
    let server = Server::start(&["--logprobs-mode", "processed_logprobs"]);
    let body = json!({"prompt": "red", "max_tokens": 5, "top_k": 1, "logprobs": 0, "ignore_eos": true});
    let logprobs = server.complete(body)["choices"][0]["logprobs"]["token_logprobs"].clone();
    assert!(logprobs.as_array().unwrap().iter().all(|logprob| logprob.as_f64().unwrap().abs() < 1e-6), "{logprobs}");
}

#[test]
fn an_answer_ends_before_its_stop_string_in_a_stream_too() {
    let server = Server::start(&[]);
    let body = json!({"prompt": "red plate", "max_tokens": 60, "seed": 2, "ignore_eos": true});
    let text = server.complete(body.clone())["choices"][0]["text"].as_str().unwrap().to_owned();
    let characters: Vec<char> = text.chars().collect();
    let middle = (10..characters.len() - 4).find(|&at| characters[at..at + 4].iter().all(|c| c.is_ascii_graphic()));
    let stop: String = characters[middle.unwrap()..][..4].iter().collect();
    let expected = &text[..text.find(&stop).unwrap()];
    for includes in [false, true] {
        let mut body = body.clone();
        body["stop"] = json!(["never", stop]);
        body["include_stop_str_in_output"] = includes.into();
        let expected = if includes { format!("{expected}{stop}") } else { expected.to_owned() };
        let whole = server.complete(body.clone())["choices"][0].clone();
        assert_eq!(
            (&whole["text"], &whole["finish_reason"], &whole["stop_reason"]),
            (&json!(expected), &json!("stop"), &json!(stop))
        );
        let chunks = server.stream(TEXT, body);
        let streamed: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(streamed, expected);
    }
}

#[test]
fn the_end_of_a_turn_and_stop_tokens_end_an_answer() {
    let server = Server::start(&[]);
    let body =
        json!({"prompt": "red plate", "max_tokens": 30, "seed": 2, "ignore_eos": true, "return_token_ids": true});
    let whole = server.complete(body.clone())["choices"][0].clone();
    let stop = &whole["token_ids"][5];
    let mut stopping = body;
    stopping["stop_token_ids"] = json!([stop]);
    let stopped = server.complete(stopping)["choices"][0].clone();
    let ids = stopped["token_ids"].as_array().unwrap();
    assert_eq!((ids.last().unwrap(), &stopped["stop_reason"], &stopped["finish_reason"]), (stop, stop, &json!("stop")));
    assert!(whole["text"].as_str().unwrap().starts_with(stopped["text"].as_str().unwrap()));
}

#[test]
fn a_message_can_be_continued() {
    let server = Server::start(&[]);
    let messages = json!([{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is a"}]);
    let tokens = |more: Value| {
        let mut body = json!({"messages": messages});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let tokens = server.post("/tokenize", &body).json()["tokens"].clone();
        server.post("/detokenize", &json!({"tokens": tokens})).json()["prompt"].as_str().unwrap().to_owned()
    };
    let asked = "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nIt is a";
    assert_eq!(tokens(json!({"continue_final_message": true, "add_generation_prompt": false})), asked);
    assert_eq!(tokens(json!({"add_generation_prompt": false})), format!("{asked}<|im_end|>\n"));
    assert_eq!(tokens(json!({})), format!("{asked}<|im_end|>\n<|im_start|>assistant\n"));
}

#[test]
fn tools_and_calls_go_through_the_template() {
    let workplace = Workplace::new();
    let template = workplace.write(
        "chat.jinja",
        "{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}{% for message in messages %}{{ message.content }}\
         {% for call in message.tool_calls %}({{ call.function.arguments.x }}){% endfor %}{% endfor %}",
    );
    let server = Server::start_in(workplace, &["--chat-template", template.to_str().unwrap()]);
    let call = json!({"id": "1", "type": "function", "function": {"name": "crop", "arguments": "{\"x\": 12}"}});
    let body = json!({
        "tools": [{"type": "function", "function": {"name": "crop", "parameters": {}}}],
        "messages": [{"role": "user", "content": "Look"}, {"role": "assistant", "content": null, "tool_calls": [call]},
                     {"role": "tool", "tool_call_id": "1", "content": "seen"}],
        "max_tokens": 4, "ignore_eos": true
    });
    let tokens = server.post("/tokenize", &body).json()["tokens"].clone();
    assert_eq!(server.post("/detokenize", &json!({"tokens": tokens})).json()["prompt"], "[crop]Look(12)seen");
    assert_eq!(server.chat(body)["choices"][0]["finish_reason"], "length");
}

// ---- pictures ----

#[test]
fn pictures_come_in_every_form() {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("media")).unwrap();
    draw(&workplace.path("media/a.png"), 80, 60);
    draw(&workplace.path("secret.png"), 80, 60);
    let media = workplace.path("media");
    let server = Server::start_in(workplace, &["--allowed-local-media-path", media.to_str().unwrap()]);
    let url = picture(80, 60);
    let ask = |part: Value| {
        server
            .post(CHAT, &json!({"messages": shows(part), "max_tokens": 8, "temperature": 0, "return_token_ids": true}))
    };
    let expected = ask(json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})).json();
    let pads = |reply: &Value| reply["prompt_token_ids"].as_array().unwrap().iter().filter(|id| **id == 766).count();
    assert_eq!(pads(&expected), 6);
    for part in [
        json!({"type": "image_url", "image_url": url}),
        json!({"type": "image", "image": url}),
        json!({"type": "input_image", "image_url": url}),
        json!({"type": "image_url", "image_url": {"url": format!("file://{}", media.join("a.png").display())}}),
        json!({"type": "image_url", "image_url": {"url": "a.png"}}),
    ] {
        assert_eq!(ask(part).json()["choices"], expected["choices"]);
    }
    let outside = server.workplace.path("secret.png");
    for file in [
        format!("file://{}", outside.display()),
        "../secret.png".to_owned(),
        "nowhere.png".to_owned(),
        "/etc/passwd".to_owned(),
    ] {
        let (status, message, param) = ask(json!({"type": "image_url", "image_url": {"url": file}})).error();
        assert_eq!((status, param), (400, json!("messages[0].content[0]")));
        assert!(message.contains("no file below the folder"), "{message}");
    }
    let smaller = json!({"messages": shows(json!({"type": "image_url", "image_url": {"url": picture(200, 200)}})), "max_tokens": 1,
        "mm_processor_kwargs": {"min_pixels": 784, "max_pixels": 784}, "return_token_ids": true});
    assert_eq!(pads(&server.chat(smaller)), 1);
}

#[test]
fn the_network_is_closed_and_where_it_is_open_private_addresses_are_not() {
    let part = json!({"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}});
    let body = json!({"messages": shows(part), "max_tokens": 1});
    let (status, message, _) = Server::start(&[]).post(CHAT, &body).error();
    assert!(status == 400 && message.contains("--allow-remote-images"), "{message}");
    let open = Server::start(&["--allow-remote-images"]);
    for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1"] {
        let part = json!({"type": "image_url", "image_url": {"url": format!("http://{host}:{}/health", open.address.rsplit(':').next().unwrap())}});
        let (status, message, _) = open.post(CHAT, &json!({"messages": shows(part), "max_tokens": 1})).error();
        assert!(status == 400 && message.contains("no public address"), "{host}: {message}");
    }
}

// ---- refusals ----

#[test]
fn a_wrong_value_is_named_with_its_field() {
    let server = Server::start(&["--limit-mm-per-prompt", "1"]);
    let png = picture(30, 30);
    let part = || json!({"type": "image_url", "image_url": {"url": png}});
    let two = json!([{"role": "user", "content": [part(), part()]}]);
    for (path, body, field, says_so) in [
        (TEXT, json!({"prompt": "a", "temperature": -1}), json!("temperature"), "-1"),
        (TEXT, json!({"prompt": "a", "top_p": 0}), json!("top_p"), "above 0"),
        (TEXT, json!({"prompt": "a", "top_k": -2}), json!("top_k"), "-2"),
        (TEXT, json!({"prompt": "a", "min_p": 2}), json!("min_p"), "between 0 and 1"),
        (TEXT, json!({"prompt": "a", "repetition_penalty": 0}), json!("repetition_penalty"), "above 0"),
        (TEXT, json!({"prompt": "a", "n": 0}), json!("n"), "between 1"),
        (TEXT, json!({"prompt": "a", "n": 5000}), json!("n"), "5000"),
        (TEXT, json!({"prompt": "a", "max_tokens": 0}), json!("max_tokens"), "1 or more"),
        (TEXT, json!({"prompt": "a", "max_tokens": "many"}), json!("max_tokens"), "many"),
        (TEXT, json!({"prompt": "a", "stop": ""}), json!("stop"), "empty"),
        (TEXT, json!({"prompt": "a", "stop": 3}), json!("stop"), "list of strings"),
        (TEXT, json!({"prompt": "a", "stop_token_ids": [9999]}), json!("stop_token_ids"), "9999"),
        (TEXT, json!({"prompt": "a", "logprobs": -1}), json!("logprobs"), "-1"),
        (TEXT, json!({"prompt": "a", "best_of": 3}), json!("best_of"), "use n"),
        (TEXT, json!({"prompt": "a", "code_temperature": 0}), json!("code_temperature"), "--env"),
        (TEXT, json!({"prompt": ""}), json!("prompt"), "no tokens"),
        (TEXT, json!({"prompt": []}), json!("prompt"), "list"),
        (TEXT, json!({"prompt": [1, "a"]}), json!("prompt"), "list"),
        (TEXT, json!({"prompt": [-1]}), json!("prompt"), "-1"),
        (TEXT, json!({"prompt": [99999]}), json!("prompt"), "99999"),
        (TEXT, json!({"prompt": [766]}), json!("prompt"), "placeholder"),
        (TEXT, json!({"prompt": vec![5; 4096]}), json!("prompt"), "4096"),
        (TEXT, json!({}), json!("prompt"), "string"),
        (CHAT, json!({}), json!("messages"), "missing"),
        (CHAT, json!({"messages": [5]}), json!("messages[0]"), "object"),
        (CHAT, json!({"messages": [{"content": "a"}]}), json!("messages[0]"), "role"),
        (CHAT, json!({"messages": [{"role": "user", "content": 7}]}), json!("messages[0].content"), "list of parts"),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}),
            json!("messages[0].content[0]"),
            "video_url",
        ),
        (CHAT, json!({"messages": two}), json!("messages"), "2 images"),
        (CHAT, json!({"messages": says("a"), "tool_choice": "required"}), json!("tool_choice"), "no tools"),
        (
            CHAT,
            json!({"messages": says("a"), "continue_final_message": true, "add_generation_prompt": true}),
            json!("continue_final_message"),
            "exclude",
        ),
        (
            CHAT,
            json!({"messages": says("a"), "mm_processor_kwargs": {"max_pixels": 0}}),
            json!("mm_processor_kwargs.max_pixels"),
            "between 1",
        ),
        (CHAT, json!({"messages": says("a"), "chat_template": "x"}), json!("chat_template"), "--chat-template"),
    ] {
        let (status, message, param) = server.post(path, &body).error();
        assert_eq!((status, &param), (400, &field), "{body}: {message}");
        assert!(message.contains(says_so), "{body}: {message}");
    }
    let (status, message, _) = server.post(CHAT, &json!({"model": "other", "messages": says("a")})).error();
    assert!(status == 404 && message.contains("`other`") && message.contains("`tiny`"), "{message}");
    assert_eq!(server.get("/v1/nothing").error().0, 404);
    assert_eq!(server.get(CHAT).error().0, 405);
    assert_eq!(server.post_with(TEXT, &[("content-type", "text/plain")], &json!({"prompt": "a"})).error().0, 415);
    let ignored = json!({"messages": says("a"), "max_tokens": 1, "user": "me", "zork": {"deep": 1}, "n": null});
    assert_eq!(server.post(CHAT, &ignored).status, 200);
}

#[test]
fn nothing_that_is_sent_ends_it() {
    let server = Server::start(&[]);
    let deep = format!("{{\"messages\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for body in
        ["", "{", "[]", "null", "\"a\"", "{\"messages\": [}", "{\"n\": 1e999}", "{\"prompt\": \"\\ud800\"}", &deep]
    {
        for path in [CHAT, TEXT, "/tokenize", "/detokenize", "/update_weights", "/inference/v1/generate"] {
            assert_eq!(
                server.post_text(path, body.as_bytes()).error().0,
                400,
                "{path} {}",
                &body[..body.len().min(40)]
            );
        }
    }
    assert_eq!(server.post_text(CHAT, &[0xFF, 0xFE, 0]).error().0, 400);
    // The header of a picture of 60,000 times 60,000 pixels, without the pixels.
    let bomb = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA6mAAAOpgCAIAAAC1hZ1pAAAAAElFTkSuQmCC";
    let tall = picture(2, 1000);
    for url in [bomb, &tall, "data:image/png;base64,AAAA", "data:image/png;base64,!!", "data:", "data:text/plain,hello"]
    {
        let body = json!({"messages": shows(json!({"type": "image_url", "image_url": {"url": url}})), "max_tokens": 1});
        assert_eq!(server.post(CHAT, &body).error().0, 400, "{url}");
    }
    let large = format!("{{\"prompt\": \"{}\"}}", "a".repeat(65 << 20));
    assert_eq!(server.post_text(TEXT, large.as_bytes()).error().0, 413);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.complete(json!({"prompt": "a", "max_tokens": 1}))["usage"]["completion_tokens"], 1);
}

#[test]
fn without_the_key_nothing_but_health_is_told() {
    let server = Server::start(&["--api-key", "sk-right"]);
    assert_eq!(server.get("/health").status, 200);
    for path in ["/v1/models", "/metrics", "/server_info", "/nothing"] {
        assert_eq!(server.get(path).error().0, 401, "{path}");
    }
    let body = json!({"prompt": "a", "max_tokens": 1});
    let ask = |key: &str| server.post_with(TEXT, &[("authorization", key)], &body);
    assert_eq!(ask("Bearer sk-wrong").error().0, 401);
    assert_eq!(ask("sk-right").error().0, 401);
    assert_eq!(ask("Bearer sk-right").status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queued-requests", "1"]);
    let long = long(4000);
    let _running = server.open(TEXT, &long);
    server.wait_for("num_requests_running", 1.0);
    let _waiting = server.open(TEXT, &long);
    server.wait_for("num_requests_waiting", 1.0);
    let refused = server.post(TEXT, &long);
    assert_eq!((refused.error().0, refused.header("retry-after")), (429, Some("1")));
}

// ---- coming and going ----

#[test]
fn who_leaves_makes_room() {
    let server = Server::start(&["--max-num-seqs", "1"]);
    let long = long(4000);
    for stream in [true, false] {
        let mut body = long.clone();
        body["stream"] = stream.into();
        let mut leaving = server.open(TEXT, &body);
        if stream {
            leaving.read_exact(&mut [0; 1]).unwrap();
        }
        server.wait_for("num_requests_running", 1.0);
        let waiting = server.open(TEXT, &body);
        server.wait_for("num_requests_waiting", 1.0);
        drop(waiting);
        server.wait_for("num_requests_waiting", 0.0);
        drop(leaving);
        server.wait_for("num_requests_running", 0.0);
        server.wait_for("kv_cache_usage_perc", 0.0);
    }
    assert_eq!(
        server.complete(json!({"prompt": "a", "max_tokens": 3, "ignore_eos": true}))["usage"]["completion_tokens"],
        3
    );
}

#[test]
fn at_the_end_those_inside_are_answered_and_nobody_is_let_in() {
    let mut server = Server::start(&[]);
    let mut long = long(3000);
    long["stream"] = true.into();
    long["stream_options"] = json!({"include_usage": true});
    let inside = server.open(TEXT, &long);
    server.wait_for("num_requests_running", 1.0);
    server.terminate();
    let began = std::time::Instant::now();
    while server.get("/health").status == 200 {
        assert!(began.elapsed() < TIMEOUT);
    }
    let refused = server.post(TEXT, &long);
    assert_eq!((refused.error().0, refused.header("retry-after").is_some()), (503, true));
    let answer = read_all(inside);
    assert!(answer.contains("\"completion_tokens\":3000") && answer.contains("data: [DONE]"));
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn the_numbers_count_what_happened() {
    let server = Server::start(&[]);
    server.complete(json!({"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 4, "ignore_eos": true, "n": 2}));
    for (name, wanted) in [
        ("num_requests_running", 0.0),
        ("num_requests_waiting", 0.0),
        ("prompt_tokens_total", 5.0),
        ("generation_tokens_total", 16.0),
        ("time_to_first_token_seconds_count", 4.0),
        ("inter_token_latency_seconds_count", 12.0),
        ("time_per_output_token_seconds_count", 4.0),
        ("e2e_request_latency_seconds_count", 4.0),
    ] {
        server.wait_for(name, wanted);
    }
}

#[test]
fn a_beginning_that_was_answered_before_is_found_until_it_is_forgotten() {
    let server = Server::start(&[]);
    let ask = || server.complete(json!({"prompt": [vec![7; 50]], "max_tokens": 2, "ignore_eos": true, "seed": 1}));
    let first = ask();
    server.wait_for("prefix_cache_hits_total", 0.0);
    assert_eq!(ask()["choices"], first["choices"]);
    server.wait_for("prefix_cache_hits_total", 48.0);
    assert_eq!(server.post("/reset_prefix_cache", &json!({})).status, 200);
    ask();
    server.wait_for("prefix_cache_queries_total", 150.0);
    server.wait_for("prefix_cache_hits_total", 48.0);
}

// ---- training frameworks ----

#[test]
fn weights_are_taken_over_from_a_folder_while_it_runs() {
    let server = Server::start(&[]);
    init(&server.workplace, "other", 1);
    let body = json!({"prompt": "red plate", "max_tokens": 12, "temperature": 0, "ignore_eos": true});
    let ask = || server.complete(body.clone());
    let before = ask();
    assert_eq!(before["weights_version"], 0);
    let mut long = long(3000);
    long["stream"] = true.into();
    let sampled = server.metric("generation_tokens_total");
    let running = server.open(TEXT, &long);
    // The first token is sampled under the weights that are replaced.
    server.wait_past("generation_tokens_total", sampled);
    let update = |key: &str, path: &str| server.post("/update_weights", &json!({key: server.workplace.path(path)}));
    assert_eq!(update("weight_dir", "other").json()["weights_version"], 1);
    let after = ask();
    assert_eq!(after["weights_version"], 1);
    assert_ne!(after["choices"], before["choices"]);
    let answer = read_all(running);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let chunks = events(&unchunk(body));
    // Tokens of both may come in one chunk.
    let first = &chunks[0];
    let began = first["choices"][0]["weights_versions"].get(0).unwrap_or(&first["weights_version"]);
    assert_eq!((began, &chunks.last().unwrap()["weights_version"]), (&json!(0), &json!(1)));
    assert!(chunks.last().unwrap()["choices"][0]["finish_reason"].is_string());
    let (status, message, param) = update("weight_dir", "nowhere").error();
    assert_eq!((status, param), (400, json!("weight_dir")), "{message}");
    std::fs::write(server.workplace.path("other/model.safetensors"), b"not weights").unwrap();
    assert_eq!(update("model_path", "other").error().0, 400);
    assert_eq!(ask()["choices"], after["choices"]);
    let back = server.post("/update_weights_from_disk", &json!({"model_path": server.workplace.path("tiny")})).json();
    assert_eq!(back["weights_version"], 2);
    assert_eq!(ask()["choices"], before["choices"]);
    for (path, body) in
        [("/update_weights", json!({"update_info": {"names": []}})), ("/init_weight_transfer_engine", json!({}))]
    {
        let (status, message, _) = server.post(path, &body).error();
        assert!(status == 501 && message.contains("weight_dir"), "{message}");
    }
    assert_eq!(server.post("/reset_prefix_cache", &json!({})).status, 200);
}

#[test]
fn what_runs_when_weights_change_goes_on_or_starts_over_as_asked() {
    let server = Server::start(&[]);
    init(&server.workplace, "other", 1);
    let mut body = long(1500);
    body["return_token_ids"] = true.into();
    body["n"] = 2.into();
    let during = |folder: &str, running: &str| {
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| server.complete(body.clone()));
            server.wait_for("num_requests_running", 2.0);
            let update = json!({"weight_dir": server.workplace.path(folder), "running": running});
            server.post("/update_weights", &update).json();
            answer.join().unwrap()
        })
    };
    let went_on = during("other", "continue");
    let versions: Vec<u64> = serde_json::from_value(went_on["choices"][0]["weights_versions"].clone()).unwrap();
    assert_eq!((versions[0], versions.last(), versions.len()), (0, Some(&1), 1500));
    assert!(versions.is_sorted());
    let began_anew = during("tiny", "restart");
    assert_eq!(began_anew["weights_version"], 2);
    assert!(began_anew["choices"][0].get("weights_versions").is_none(), "all is of one version");
    assert_eq!(began_anew["choices"], server.complete(body.clone())["choices"]);
    let (status, _, param) = server.post("/update_weights", &json!({"weight_dir": "x", "running": "stop"})).error();
    assert_eq!((status, param), (400, json!("running")));
}

#[test]
fn a_rendered_chat_is_answered_from_its_tokens() {
    let server = Server::start(&[]);
    let messages = shows(json!({"type": "image_url", "image_url": {"url": picture(90, 60)}}));
    let chat = json!({"messages": messages, "max_tokens": 10, "seed": 3, "n": 2, "logprobs": true, "return_token_ids": true,
        "return_tokens_as_token_ids": true, "mm_processor_kwargs": {"min_pixels": 3136, "max_pixels": 3136}});
    let whole = server.chat(chat.clone());
    let rendered = server.post("/v1/chat/completions/render", &chat).json();
    assert_eq!(rendered["token_ids"], whole["prompt_token_ids"]);
    let placeholders = rendered["features"]["mm_placeholders"]["image"].as_array().unwrap();
    let (offset, length) = (placeholders[0]["offset"].as_u64().unwrap(), placeholders[0]["length"].as_u64().unwrap());
    let ids = rendered["token_ids"].as_array().unwrap();
    let pad = &ids[offset as usize];
    let run: Vec<usize> = (0..ids.len()).filter(|&place| ids[place] == *pad).collect();
    assert_eq!((placeholders.len(), run), (1, (offset as usize..(offset + length) as usize).collect()));
    let sampling = json!({"max_tokens": 10, "seed": 3, "n": 2, "logprobs": 0, "output_kind": 2});
    let body = json!({"request_id": "r1", "model": "tiny", "token_ids": rendered["token_ids"], "features": rendered["features"],
        "sampling_params": sampling});
    let generated = server.post("/inference/v1/generate", &body).json();
    assert_eq!(generated["request_id"], "r1");
    for number in 0..2 {
        let (own, chat) = (&generated["choices"][number], &whole["choices"][number]);
        assert_eq!((&own["token_ids"], &own["logprobs"]), (&chat["token_ids"], &chat["logprobs"]));
    }
}
