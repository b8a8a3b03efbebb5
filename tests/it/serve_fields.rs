//! What a body may hold: numbers in every spelling, pictures in every encoding, and for all that is wrong an answer in the client's words.

use serde_json::{Value, json};

use crate::support::server::{Server, picture, says, shows};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const TOKENS: &str = "/inference/v1/generate";

/// Words of Rust and of serde.
const FOREIGN_WORDS: [&str; 16] = [
    "invalid type",
    "invalid value",
    "invalid length",
    "a map",
    "sequence",
    "usize",
    "u32",
    "i64",
    "f32",
    "u64",
    "struct ",
    "variant",
    "enum ",
    "deserial",
    "unit",
    "untagged",
];

#[track_caller]
fn expect_json_words(text: &str) {
    assert!(!FOREIGN_WORDS.iter().any(|word| text.contains(word)), "{text}");
}

#[test]
fn whole_floats_are_whole_numbers() {
    let server = Server::start(&["--max-logprobs", "-1"]);
    let fields = json!({"n": 2, "max_tokens": 6, "min_tokens": 2, "seed": 4, "top_k": 9, "logprobs": 2, "best_of": 1,
        "prompt_logprobs": 1, "stop_token_ids": [5], "allowed_token_ids": [64, 65, 66, 5], "return_token_ids": true});
    let spelled = |spelling: &str| {
        // As text, since a JSON library would write 8e0 as 8.0.
        let mut text = fields.to_string();
        for (key, value) in fields.as_object().unwrap() {
            let number = |n: &Value| format!("{n}{spelling}");
            let written = match value {
                Value::Number(_) => number(value),
                Value::Array(list) => format!("[{}]", list.iter().map(number).collect::<Vec<_>>().join(",")),
                _ => continue,
            };
            text = text.replace(&format!("\"{key}\":{value}"), &format!("\"{key}\":{written}"));
        }
        text
    };
    let ask = |path: &str, start: &str, spelling: &str| {
        let body = format!("{{{start}, {}", &spelled(spelling)[1..]);
        let mut answer = server.post_text(path, body.as_bytes()).json();
        for key in ["id", "request_id", "created"] {
            answer.as_object_mut().unwrap().remove(key);
        }
        answer
    };
    for start in ["\"prompt\": [70, 71, 72]", "\"prompt\": [[70.0, 71e0, 7.2e1]]"] {
        let expected = ask(TEXT, "\"prompt\": [70, 71, 72]", "");
        for spelling in [".0", "e0", ".000e0"] {
            assert_eq!(ask(TEXT, start, spelling), expected, "{spelling}");
        }
    }
    let chat = ["", ".0"].map(|end| ask(CHAT, "\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]", end));
    assert_eq!(chat[0], chat[1]);
    let tokens = |end: &str| {
        let body = format!("{{\"token_ids\": [70{end}, 71{end}], \"sampling_params\": {}}}", spelled(end));
        server.post_text(TOKENS, body.as_bytes()).json()["choices"].clone()
    };
    assert_eq!(tokens(""), tokens(".0"));
    let detokenized = |tokens: &str| server.post_text("/detokenize", tokens.as_bytes()).json();
    assert_eq!(detokenized("{\"tokens\": [70.0, 7.1e1]}"), detokenized("{\"tokens\": [70, 71]}"));
    let limits = |number: &str| {
        let body = json!({"messages": shows(json!({"type": "image_url", "image_url": {"url": picture(60, 60)}})), "max_tokens": 1});
        let more = format!("{{\"mm_processor_kwargs\": {{\"max_pixels\": {number}}}, ");
        server.post_text("/tokenize", (more + &body.to_string()[1..]).as_bytes()).json()["count"].clone()
    };
    assert_eq!(limits("4000.0"), limits("4000"));
    for (field, value) in
        [("n", "1.5"), ("max_tokens", "1e30"), ("seed", "0.5"), ("top_k", "\"8\""), ("n", "-1.0"), ("n", "true")]
    {
        let (status, message, param) =
            server.post_text(TEXT, format!("{{\"prompt\": \"a\", \"{field}\": {value}}}").as_bytes()).error();
        assert_eq!((status, param), (400, json!(field)), "{message}");
        assert!(message.contains("whole number"), "{message}");
    }
}

#[test]
fn the_seed_of_minus_one_is_another_each_time() {
    let server = Server::start(&[]);
    let ask = |seed: Value| {
        let body = json!({"prompt": "red", "max_tokens": 30, "seed": seed, "temperature": 1, "ignore_eos": true});
        server.complete(body)["choices"][0]["text"].clone()
    };
    for seed in [json!(-1), json!(-1.0), Value::Null] {
        assert_ne!(ask(seed.clone()), ask(seed));
    }
    assert_eq!(ask(json!(-2)), ask(json!(-2)));
}

#[test]
fn a_picture_may_be_encoded_in_every_usual_way() {
    let server = Server::start(&[]);
    let plain = picture(50, 40);
    let data = plain.split_once(',').unwrap().1;
    let count = |url: String| {
        let body = json!({"messages": shows(json!({"type": "image_url", "image_url": {"url": url}})), "max_tokens": 1});
        server.post(CHAT, &body).json()["usage"]["prompt_tokens"].clone()
    };
    let expected = count(plain.clone());
    let lines: Vec<&str> = (0..data.len()).step_by(76).map(|at| &data[at..(at + 76).min(data.len())]).collect();
    for (head, data) in [
        ("data:image/png;base64", lines.join("\n")),
        ("data:image/png;base64", lines.join("\r\n") + "\r\n"),
        ("data:image/png;base64", format!(" {} ", lines.join(" \t"))),
        ("data:image/png;base64", data.replace('+', "-").replace('/', "_")),
        ("data:image/png;base64", data.replace('+', "-").replace('/', "_").replace('=', "")),
        ("data:image/png;base64", data.replace('=', "")),
        ("data:image/png;base64", data.replace('+', "%2B").replace('=', "%3D")),
        ("DATA:image/png;base64", data.to_owned()),
        ("Data:IMAGE/PNG;BASE64", data.to_owned()),
        ("data:image/png;charset=utf-8;base64", data.to_owned()),
        ("data:;Base64", data.to_owned()),
        (" data:image/png; base64", data.to_owned()),
    ] {
        assert_eq!(count(format!("{head},{data}")), expected, "{head}");
    }
    for data in ["AAA!", "A", "AA=A"] {
        let url = format!("data:image/png;base64,{data}");
        let body = json!({"messages": shows(json!({"type": "image_url", "image_url": {"url": url}}))});
        let (status, message, _) = server.post(CHAT, &body).error();
        assert!(status == 400 && message.contains("base64"), "{message}");
    }
}

#[test]
fn errors_speak_of_json_with_the_path_of_the_field() {
    let server = Server::start(&[]);
    for (path, body, field, says_so) in [
        (CHAT, json!({"messages": {}}), "messages", "must be a list, not an object"),
        (CHAT, json!({"messages": "hello"}), "messages", "must be a list, not the string \"hello\""),
        (CHAT, json!({"messages": says("a"), "stream": "yes"}), "stream", "must be true or false, not the string"),
        (CHAT, json!({"messages": says("a"), "stream_options": []}), "stream_options", "a JSON object, not a list"),
        (
            CHAT,
            json!({"messages": says("a"), "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "true or false",
        ),
        (CHAT, json!({"messages": says("a"), "temperature": "hot"}), "temperature", "must be a number"),
        (CHAT, json!({"messages": says("a"), "logprobs": "yes"}), "logprobs", "true, false or a whole number"),
        (CHAT, json!({"messages": says("a"), "logit_bias": [1]}), "logit_bias", "must be an object, not a list"),
        (CHAT, json!({"messages": says("a"), "bad_words": [1]}), "bad_words[0]", "must be a string, not the number 1"),
        (CHAT, json!({"messages": says("a"), "stop_token_ids": ["a"]}), "stop_token_ids[0]", "must be a whole number"),
        (
            CHAT,
            json!({"messages": says("a"), "stop_token_ids": 5}),
            "stop_token_ids",
            "must be a list, not the number 5",
        ),
        (CHAT, json!({"messages": says("a"), "tools": {"a": 1}}), "tools", "must be a list, not an object"),
        (CHAT, json!({"messages": says("a"), "tools": ["crop"]}), "tools[0]", "function.name"),
        (
            CHAT,
            json!({"messages": says("a"), "mm_processor_kwargs": {"max_pixels": "x"}}),
            "mm_processor_kwargs",
            "a whole number",
        ),
        (CHAT, json!({"messages": says("a"), "mm_processor_kwargs": {"zoom": 1}}), "mm_processor_kwargs", "not known"),
        (CHAT, json!({"messages": says("a"), "model": 5}), "model", "must be a string, not the number 5"),
        (TEXT, json!({"prompt": "a", "max_tokens": {}}), "max_tokens", "must be a whole number, not an object"),
        (TEXT, json!({"prompt": "a", "stop": {"a": 1}}), "stop", "a string or a list of strings"),
        ("/detokenize", json!({"tokens": "a"}), "tokens", "must be a list"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens[0]", "from 0"),
        (TOKENS, json!({"token_ids": [1], "sampling_params": []}), "sampling_params", "a JSON object, not a list"),
        (TOKENS, json!({"token_ids": [1], "sampling_params": {"n": "x"}}), "sampling_params.n", "a whole number"),
        (TOKENS, json!({"token_ids": [1], "features": {"images": 5}}), "features.images", "must be a list"),
        (TOKENS, json!({"token_ids": [1], "request_id": "x".repeat(300)}), "request_id", "at most 256"),
        ("/update_weights", json!({"weight_dir": 5}), "weight_dir", "must be a string"),
    ] {
        let (status, message, param) = server.post(path, &body).error();
        assert_eq!((status, &param), (400, &json!(field)), "{body}: {message}");
        assert!(message.contains(says_so), "{body}: {message}");
        expect_json_words(&message);
    }
    for (path, text, says_so) in [
        (CHAT, "[]", "must be a JSON object, not a list"),
        (CHAT, "5", "not the number 5"),
        (CHAT, "null", "not null"),
        (CHAT, "", "not valid JSON"),
        (CHAT, "{\"n\": NaN}", "not valid JSON"),
        (CHAT, "{\"n\": 1e400}", "`n` is a number that is too large"),
        (TEXT, "{\"prompt\": \"a\", \"temperature\": 3.5e38}", "`temperature` is a number that is too large"),
        (CHAT, "{\"messages\": [], \"messages\": []}", "twice"),
        ("/detokenize", "{}", "lacks the field `tokens`"),
    ] {
        let (status, message, _) = server.post_text(path, text.as_bytes()).error();
        assert!(status == 400 && message.contains(says_so), "{text}: {message}");
        expect_json_words(&message);
    }
}

#[test]
fn errors_of_templates_and_forms_name_no_types_and_settings_of_libraries() {
    let server = Server::start(&["--trust-request-chat-template"]);
    let template = |template: &str| (CHAT, json!({"messages": says("a"), "max_tokens": 1, "chat_template": template}));
    let schema =
        |schema: Value| (TEXT, json!({"prompt": "a", "max_tokens": 1, "structured_outputs": {"json": schema}}));
    for ((path, body), says_so) in [
        (template("{{ 'a'|indent(-1) }}"), "a whole number from 0 on"),
        (template("{{ range('x') }}"), "a whole number"),
        (template("{{ 'x'|tojson(indent='b') }}"), "a whole number from 0 on"),
        (schema(json!({"type": "integer", "minimum": 1e30})), "leave it out and check the answer"),
        (schema(json!({"type": "integer", "exclusiveMaximum": -1e30})), "leave it out and check the answer"),
        (schema(json!({"type": "number", "minimum": 1e300})), "leave it out and check the answer"),
        (schema(json!({"type": "number", "maximum": "x"})), "Expected a number"),
        (schema(json!({"oneOf": [{"type": "string"}, {"minLength": 3}]})), "use anyOf"),
        (schema(json!({"$ref": "http://example.com/a"})), "must name a part of the schema itself"),
        (schema(json!({"not": {"type": "string"}})), "leave them out and check the answer"),
    ] {
        let (status, message, _) = server.post(path, &body).error();
        assert!(status == 400 && message.contains(says_so), "{body}: {message}");
        for word in ["size", "f64", "Some(", "None", "coerce_one_of", "'referencing'", "panic"] {
            assert!(!message.contains(word), "{body}: {message}");
        }
    }
}

/// Every field of every route with every odd value: an answer or a refusal in JSON's words, and the server goes on.
#[test]
fn no_value_of_any_field_is_an_error_of_the_server() {
    let server = Server::start(&[]);
    let deep = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(200), close.repeat(200));
    let odd = [
        "null".to_owned(),
        "true".to_owned(),
        "\"\"".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "1e400".to_owned(),
        "-0.0".to_owned(),
        "3".to_owned(),
        "-7".to_owned(),
        "0.5".to_owned(),
        "18446744073709551616".to_owned(),
        "1e308".to_owned(),
        "-9223372036854775809".to_owned(),
        "NaN".to_owned(),
        "\"\\ud800\"".to_owned(),
        "\"\\u0000\"".to_owned(),
        "\"x\"".to_owned(),
        "[null]".to_owned(),
        "[[]]".to_owned(),
        "[{}]".to_owned(),
        "[1, \"a\", null]".to_owned(),
        "{\"a\": {\"b\": []}}".to_owned(),
        "{\"type\": \"function\"}".to_owned(),
        "{\"type\": 3}".to_owned(),
        deep("[", "", "]"),
        deep("{\"a\":", "1", "}"),
        format!("\"{}\"", "y".repeat(100_000)),
        "[4294967295, 4294967296]".to_owned(),
    ];
    let shared = [
        "model",
        "stream",
        "stream_options",
        "n",
        "seed",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "bad_words",
        "allowed_token_ids",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "skip_special_tokens",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "echo",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "best_of",
        "suffix",
        "unknown",
        "parallel_tool_calls",
        "return_token_strs",
    ];
    let chat = [
        "tools",
        "tool_choice",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "chat_template_kwargs",
        "mm_processor_kwargs",
        "messages",
        "code_temperature",
    ];
    let text = ["prompt"];
    let tokens = ["token_ids", "features", "request_id", "sampling_params", "model"];
    let message = ["role", "content", "tool_calls", "name"];
    let part = ["type", "text", "image_url", "max_pixels"];
    let fields = shared.iter().map(|field| (TEXT, "{\"prompt\": \"a\", \"max_tokens\": 2", *field, "}"));
    let own = chat.iter().map(|field| {
        (CHAT, "{\"max_tokens\": 2, \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]", *field, "}")
    });
    let prompts = text.iter().map(|field| (TEXT, "{\"max_tokens\": 2", *field, "}"));
    let ids = tokens
        .iter()
        .map(|field| (TOKENS, "{\"token_ids\": [70], \"sampling_params\": {\"max_tokens\": 2}", *field, "}"));
    let messages = message.iter().map(|field| (CHAT, "{\"max_tokens\": 2, \"messages\": [{\"x\": 1", *field, "}]}"));
    let parts = part.iter().map(|field| {
        (CHAT, "{\"max_tokens\": 2, \"messages\": [{\"role\": \"user\", \"content\": [{\"x\": 1", *field, "}]}]}")
    });
    let others = [("/tokenize", "{\"x\": 1", "prompt", "}"), ("/detokenize", "{\"x\": 1", "tokens", "}")];
    for (path, start, field, end) in
        fields.chain(own).chain(prompts).chain(ids).chain(messages).chain(parts).chain(others)
    {
        for value in &odd {
            let reply = server.post_text(path, format!("{start}, \"{field}\": {value}{end}").as_bytes());
            let shown: String = value.chars().take(40).collect();
            assert!([200, 400, 404].contains(&reply.status), "{path} {field} {shown}: {} {}", reply.status, reply.text);
            if reply.status != 200 {
                let message = reply.error().1;
                assert!(message.chars().count() <= 2003, "{path} {field} {shown}");
                expect_json_words(&message);
            }
        }
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn every_list_and_string_has_a_bound() {
    let server = Server::start(&["--trust-request-chat-template"]);
    let many = |entry: Value, count: usize| Value::Array(vec![entry; count]);
    let message = json!({"role": "user", "content": "a"});
    let tool = json!({"type": "function", "function": {"name": "crop"}});
    for (path, body, field, says_so) in [
        (TEXT, json!({"prompt": many(json!("a"), 5000)}), "prompt", "at most 4096"),
        (TEXT, json!({"prompt": many(json!([5]), 5000)}), "prompt", "at most 4096"),
        (TEXT, json!({"prompt": many(json!("a"), 100), "n": 100}), "prompt", "at most 4096"),
        (TEXT, json!({"prompt": many(json!(5), 100_000)}), "prompt", "100000"),
        (TEXT, json!({"prompt": "a", "stop": many(json!("a"), 100)}), "stop", "at most 64"),
        (TEXT, json!({"prompt": "a", "stop": "a".repeat(2000)}), "stop", "longer than 1024"),
        (TEXT, json!({"prompt": "a", "stop_token_ids": many(json!(5), 65)}), "stop_token_ids", "at most 64"),
        (TEXT, json!({"prompt": "a", "bad_words": many(json!("a"), 2000)}), "bad_words", "at most 1024"),
        (TEXT, json!({"prompt": "a", "allowed_token_ids": many(json!(5), 2000)}), "allowed_token_ids", "at most 768"),
        (TEXT, json!({"prompt": "a", "min_tokens": 1_000_000}), "min_tokens", "the context"),
        (TEXT, json!({"prompt": "a", "best_of": 1_000_000}), "best_of", "use n"),
        (CHAT, json!({"messages": many(message.clone(), 20_000)}), "messages", "at most 16384"),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": many(json!("a"), 20_000)}]}),
            "messages",
            "at most 16384",
        ),
        (CHAT, json!({"messages": [message], "tools": many(tool, 2000)}), "tools", "at most 1024"),
        (
            CHAT,
            json!({"messages": says("a"), "chat_template_kwargs": {"x": "y".repeat(2 << 20)}}),
            "chat_template_kwargs",
            "at most",
        ),
        (
            CHAT,
            json!({"messages": says("a"), "tools": [{"type": "function", "function": {"name": "x".repeat(1000)}}]}),
            "tools[0].function.name",
            "between 1 and 256",
        ),
        ("/detokenize", json!({"tokens": many(json!(5), 200_000)}), "tokens", "at most 65536"),
        ("/detokenize", json!({"tokens": [4_294_967_295_u32]}), "tokens", "below 768"),
    ] {
        let (status, message, param) = server.post(path, &body).error();
        assert_eq!((status, &param), (400, &json!(field)), "{message}");
        assert!(message.contains(says_so), "{message}");
    }
    let (_, message, _) = server.post(TEXT, &json!({"prompt": "a", "model": "m".repeat(100_000)})).error();
    assert!(message.len() < 300, "{}", message.len());
}
