//! What a request may ask of its answers' tokens, as clients see it: forms, bans, biases, penalties, forced calls.

use serde_json::{Value, json};

use crate::support::server::{Server, joined_calls, says};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A request with more fields.
fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A completion of random weights at temperature 1.
fn plain(more: Value) -> Value {
    with(json!({"prompt": "red plate", "max_tokens": 100, "temperature": 1, "return_token_ids": true}), more)
}

fn ids(choice: &Value) -> Vec<u64> {
    choice["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

fn streamed(server: &Server, path: &str, body: Value) -> (String, Vec<Value>, Value) {
    let chunks = server.stream(path, body);
    let choices: Vec<&Value> = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).collect();
    let text = |choice: &&Value| choice["text"].as_str().or(choice["delta"]["content"].as_str()).map(str::to_owned);
    let pieces = choices.iter().filter_map(|choice| choice["delta"]["tool_calls"].as_array()).flatten();
    (choices.iter().filter_map(text).collect(), joined_calls(pieces), choices.last().unwrap()["finish_reason"].clone())
}

// ---- forms ----

/// A plate: all its values are bounded, so that random weights come to an end.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "digit": {"type": "integer", "minimum": 0, "maximum": 9},
            "colour": {"enum": ["red", "light \"blue\"", "größer"]},
            "sure": {"type": "boolean"},
            "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "minItems": 1, "maxItems": 3}
        },
        "required": ["digit", "colour", "sure", "places"],
        "additionalProperties": false,
        "$defs": {"place": {"type": "integer", "minimum": 10, "maximum": 99}}
    })
}

#[track_caller]
fn expect_a_plate(text: &str) -> Value {
    let plate: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(plate.as_object().unwrap().len(), 4, "{plate}");
    assert!((0..=9).contains(&plate["digit"].as_i64().unwrap()), "{plate}");
    assert!(["red", "light \"blue\"", "größer"].contains(&plate["colour"].as_str().unwrap()), "{plate}");
    assert!(plate["sure"].is_boolean(), "{plate}");
    let places = plate["places"].as_array().unwrap();
    assert!((1..=3).contains(&places.len()), "{plate}");
    assert!(places.iter().all(|place| (10..=99).contains(&place.as_i64().unwrap())), "{plate}");
    plate
}

#[test]
fn json_fits_its_schema_whatever_the_weights_say() {
    let server = Server::start(&["--max-num-seqs", "4"]);
    let outputs = json!({"json": schema(), "disable_any_whitespace": true});
    let mut plates = Vec::new();
    for seed in 0..6 {
        let body = plain(json!({"structured_outputs": outputs, "seed": seed, "n": 2}));
        for choice in server.complete(body)["choices"].as_array().unwrap() {
            assert_eq!(choice["finish_reason"], "stop", "{choice}");
            let plate = expect_a_plate(choice["text"].as_str().unwrap());
            assert!(!plates.contains(&plate), "{plate} twice");
            plates.push(plate);
        }
    }
    let dense = with(schema(), json!({"x-guidance": {"whitespace_flexible": false}}));
    for more in [
        json!({"structured_outputs": {"json": dense.to_string()}}),
        json!({"guided_json": dense}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "plate", "schema": dense}}}),
    ] {
        let body = with(plain(json!({"messages": says("Which plate?"), "seed": 3})), more);
        let choice = server.chat(body.clone())["choices"][0].clone();
        expect_a_plate(choice["message"]["content"].as_str().unwrap());
        let (text, _, finish) = streamed(&server, CHAT, body);
        assert_eq!((&json!(text), finish), (&choice["message"]["content"], json!("stop")));
    }
    let object =
        json!({"response_format": {"type": "json_object"}, "max_tokens": 30, "messages": says("a"), "seed": 1});
    assert!(server.chat(object)["choices"][0]["message"]["content"].as_str().unwrap().trim_start().starts_with('{'));
}

#[test]
fn an_answer_matches_its_regular_expression_as_a_whole() {
    let server = Server::start(&[]);
    let pattern = "[a-z]{3,5}-[0-9]{2}(ä|é)";
    let mut texts = Vec::new();
    for more in [json!({"structured_outputs": {"regex": pattern}}), json!({"guided_regex": pattern})] {
        let body = plain(with(more, json!({"seed": 5, "n": 8})));
        let choices = server.complete(body.clone())["choices"].clone();
        for choice in choices.as_array().unwrap() {
            let text = choice["text"].as_str().unwrap();
            let (word, rest) = text.split_once('-').unwrap_or_else(|| panic!("{choice}"));
            assert!((3..=5).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase()), "{text}");
            let (digits, last) = rest.split_at(2);
            assert!(digits.bytes().all(|b| b.is_ascii_digit()) && ["ä", "é"].contains(&last), "{text}");
            assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &Value::Null));
            texts.push(text.to_owned());
        }
        let whole = server.complete(with(body.clone(), json!({"n": 1})))["choices"][0]["text"].clone();
        assert_eq!(json!(streamed(&server, TEXT, with(body, json!({"n": 1}))).0), whole);
    }
    assert_eq!(texts[..8], texts[8..]);
    texts.sort();
    texts.dedup();
    assert!(texts.len() >= 6, "members of a group go their own ways: {texts:?}");
}

#[test]
fn an_answer_is_one_of_the_choices_or_of_a_grammar() {
    let server = Server::start(&[]);
    let choices = ["red", "a \"b\"\n", "größe", "redder"];
    for more in [json!({"structured_outputs": {"choice": choices}}), json!({"guided_choice": choices})] {
        let reply = server.complete(plain(with(more, json!({"n": 30, "seed": 2, "ignore_eos": true}))));
        let texts: Vec<&str> =
            reply["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert!(texts.iter().all(|text| choices.contains(text)), "{texts:?}");
        assert!(choices.iter().filter(|choice| texts.contains(choice)).count() >= 3, "{texts:?}");
    }
    let grammar = "start: word{3} \"!\"\nword: \"ab\" | \"c\"";
    for seed in 0..5 {
        let body = plain(json!({"structured_outputs": {"grammar": grammar}, "seed": seed}));
        let text = server.complete(body)["choices"][0]["text"].as_str().unwrap().to_owned();
        let rest = text.strip_suffix('!').unwrap_or_else(|| panic!("{text}"));
        assert!(rest.replace("ab", "c").chars().eq("ccc".chars()), "{text}");
    }
    let likeliest = |more: Value| server.complete(plain(with(json!({"temperature": 0}), more)))["choices"][0].clone();
    let greedy = likeliest(json!({"structured_outputs": {"regex": "[0-9]{4}"}}));
    assert!(greedy["text"].as_str().unwrap().parse::<u32>().is_ok() && greedy["finish_reason"] == "stop", "{greedy}");
    let cut = likeliest(json!({"structured_outputs": {"regex": "[0-9]{4}"}, "max_tokens": 2}));
    assert_eq!(cut["finish_reason"], "length");
}

// ---- calls ----

fn tools() -> Value {
    let crop = json!({"type": "object", "properties": {"side": {"enum": ["left", "right"]}, "times": {"$ref": "#/$defs/few"}},
        "required": ["side", "times"], "additionalProperties": false, "x-guidance": {"whitespace_flexible": false},
        "$defs": {"few": {"type": "integer", "minimum": 1, "maximum": 3}}});
    let zoom = json!({"type": "object", "properties": {}, "additionalProperties": false, "x-guidance": {"whitespace_flexible": false}});
    json!([{"type": "function", "function": {"name": "crop", "parameters": crop}},
           {"type": "function", "function": {"name": "zoom", "parameters": zoom}}])
}

#[track_caller]
fn expect_a_call(call: &Value) -> String {
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    let name = call["function"]["name"].as_str().unwrap();
    match name {
        "crop" => {
            assert!(["left", "right"].map(Value::from).contains(&arguments["side"]), "{call}");
            assert!((1..=3).contains(&arguments["times"].as_i64().unwrap()), "{call}");
        }
        "zoom" => assert_eq!(arguments, json!({})),
        other => panic!("{other} is no tool"),
    }
    name.to_owned()
}

#[test]
fn calls_can_be_forced() {
    let server = Server::start_with_tools(&[]);
    let body = json!({"messages": says("Look"), "tools": tools(), "max_tokens": 200, "tool_choice": "required",
        "parallel_tool_calls": false, "n": 8, "seed": 3});
    let mut names = Vec::new();
    for choice in server.chat(body.clone())["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let calls = choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{choice}"));
        assert_eq!((calls.len(), &choice["message"]["content"]), (1, &Value::Null), "{choice}");
        names.push(expect_a_call(&calls[0]));
    }
    assert!(["crop", "zoom"].iter().all(|name| names.iter().any(|own| own == name)), "{names:?}");
    for (more, least) in
        [(json!({"tool_choice": {"type": "function", "function": {"name": "crop"}}}), 1), (json!({}), 1)]
    {
        let body = with(body.clone(), with(json!({"n": 1}), more.clone()));
        let whole = server.chat(body.clone())["choices"][0].clone();
        let (text, calls, finish) = streamed(&server, CHAT, body);
        assert_eq!((text.as_str(), calls.len(), finish), ("", least, json!("tool_calls")), "{whole}");
        let named = expect_a_call(&calls[0]);
        assert!(more == json!({}) || named == "crop");
        assert_eq!(calls[0]["function"], whole["message"]["tool_calls"][0]["function"]);
    }
    let several = with(body, json!({"parallel_tool_calls": true, "n": 12}));
    let reply = server.chat(several);
    let counts = reply["choices"].as_array().unwrap().iter().map(|choice| choice["message"]["tool_calls"].as_array());
    let counts: Vec<usize> = counts.map(|calls| calls.map_or(0, Vec::len)).collect();
    assert!(counts.iter().any(|count| *count > 1), "{counts:?}");
}

// ---- bans and biases ----

#[test]
fn a_bias_forces_a_token_or_keeps_it_away() {
    let server = Server::start(&["--logprobs-mode", "processed_logprobs"]);
    let forced = plain(json!({"logit_bias": {"64": 100}, "max_tokens": 6, "logprobs": 0}));
    let choice = server.complete(forced.clone())["choices"][0].clone();
    assert_eq!(ids(&choice), [64; 6]);
    for logprob in choice["logprobs"]["token_logprobs"].as_array().unwrap() {
        assert!(logprob.as_f64().unwrap().abs() < 1e-6, "{choice}");
    }
    assert_eq!(json!(streamed(&server, TEXT, forced).0), choice["text"]);
    let clamped = plain(json!({"logit_bias": {"64": 100, "65": 1e9}, "max_tokens": 40, "seed": 1}));
    let both = ids(&server.complete(clamped)["choices"][0]);
    assert!(both.contains(&64) && both.contains(&65), "{both:?}");

    let greedy = plain(json!({"temperature": 0, "max_tokens": 5, "ignore_eos": true}));
    let first = ids(&server.complete(greedy.clone())["choices"][0])[0];
    let without = with(greedy, json!({"logit_bias": {first.to_string(): -100}}));
    assert!(!ids(&server.complete(without)["choices"][0]).contains(&first));
}

#[test]
fn only_allowed_tokens_are_sampled() {
    let server = Server::start(&[]);
    let body = plain(json!({"allowed_token_ids": [5, 40, 600, 700], "max_tokens": 60, "seed": 3}));
    let sampled = ids(&server.complete(body)["choices"][0]);
    assert!(
        sampled.iter().all(|id| [5, 40, 600, 700].contains(id)) && sampled.contains(&5) && sampled.contains(&40),
        "{sampled:?}"
    );
}

#[test]
fn a_bad_word_of_several_tokens_is_not_completed() {
    let server = Server::start(&[]);
    let letters: Vec<u32> = (64..90).collect();
    let plain = plain(json!({"allowed_token_ids": letters, "max_tokens": 30, "seed": 6}));
    let tokens = |text: &str| server.post("/tokenize", &json!({"prompt": text})).json()["tokens"].clone();
    let text =
        |ids: &[u64]| server.post("/detokenize", &json!({"tokens": ids})).json()["prompt"].as_str().unwrap().to_owned();
    let expected = ids(&server.complete(plain.clone())["choices"][0]);
    let is_word = |at: &usize| {
        let run = &expected[*at..at + 3];
        let text = text(run);
        text.trim_start().len() == text.len() && tokens(&text) == json!(run)
    };
    let at =
        (1..27).find(is_word).unwrap_or_else(|| panic!("{expected:?} has no run of tokens that its text gives again"));
    let word = text(&expected[at..at + 3]);
    let found = ids(&server.complete(with(plain, json!({"bad_words": [word]})))["choices"][0]);
    let first = (0..28).find(|from| expected[*from..from + 3] == expected[at..at + 3]).unwrap();
    assert_eq!(found[..first + 2], expected[..first + 2], "the word's beginning may be sampled");
    assert_ne!(found[first + 2], expected[first + 2]);
    assert!(!found.windows(3).any(|run| run == &expected[at..at + 3]), "{found:?}");
}

#[test]
fn nothing_ends_an_answer_before_it_has_so_many_tokens() {
    let server = Server::start(&[]);
    let ending = json!({"logit_bias": {"756": 100}, "seed": 1});
    let short = server.complete(plain(ending.clone()))["choices"][0].clone();
    assert_eq!((ids(&short).len(), &short["finish_reason"]), (1, &json!("stop")));
    let long = server.complete(plain(with(ending, json!({"min_tokens": 7}))))["choices"][0].clone();
    let sampled = ids(&long);
    assert_eq!((sampled.len(), sampled[7], &long["finish_reason"]), (8, 756, &json!("stop")), "{long}");
    assert!(!sampled[..7].contains(&756) && !sampled[..7].contains(&767), "{sampled:?}");

    let letters = json!({"allowed_token_ids": [64], "stop": "aa", "max_tokens": 20});
    let short = server.complete(plain(letters.clone()))["choices"][0].clone();
    assert_eq!((ids(&short).len(), &short["text"]), (2, &json!("")));
    let body = plain(with(letters, json!({"min_tokens": 5})));
    let long = server.complete(body.clone())["choices"][0].clone();
    assert_eq!((ids(&long).len(), &long["text"]), (6, &json!("aaaa")), "{long}");
    assert_eq!(json!(streamed(&server, TEXT, body).0), long["text"]);
}

#[test]
fn an_answer_ends_where_nothing_is_allowed() {
    let server = Server::start(&[]);
    let body = plain(json!({"allowed_token_ids": [756], "min_tokens": 3, "logprobs": 2}));
    let choice = server.complete(body.clone())["choices"][0].clone();
    assert_eq!((&choice["text"], &choice["token_ids"]), (&json!(""), &json!([])));
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!("nothing_allowed")));
    assert_eq!(streamed(&server, TEXT, body).2, "stop");
    let late = plain(json!({"structured_outputs": {"choice": ["red"]}, "min_tokens": 50, "n": 3}));
    for choice in server.complete(late)["choices"].as_array().unwrap() {
        assert_eq!((&choice["text"], &choice["stop_reason"]), (&json!("red"), &json!("nothing_allowed")));
    }
    server.wait_for("num_requests_running", 0.0);
}

#[test]
fn a_placeholder_of_pictures_cannot_be_asked_for() {
    let [image, video] = ["766", "767"];
    let server = Server::start(&[]);
    for (path, prompt) in [(TEXT, json!({"prompt": "a"})), (CHAT, json!({"messages": says("a")}))] {
        for (field, value) in [
            ("logit_bias", json!({image: 100})),
            ("logit_bias", json!({"64": 1, video: 0.5})),
            ("allowed_token_ids", json!([766])),
            ("allowed_token_ids", json!([64, 767])),
        ] {
            let (status, message, param) = server.post(path, &with(prompt.clone(), json!({field: value}))).error();
            assert_eq!((status, param), (400, json!(field)), "{message}");
            assert!(message.contains("never sampled; leave it out"), "{message}");
        }
    }
    let sampled = |more: Value| {
        let body = plain(with(json!({"max_tokens": 30, "ignore_eos": true, "seed": 2, "logprobs": 5}), more));
        let choice = server.complete(body)["choices"][0].clone();
        (ids(&choice), choice["logprobs"].clone())
    };
    assert_eq!(sampled(json!({"logit_bias": {image: -100}})), sampled(json!({})), "a ban of what is never sampled");
}

// ---- penalties ----

/// Log-probabilities told in `processed_logprobs` mode against the formula on the raw ones of the same places.
#[test]
fn penalties_and_biases_follow_their_formula() {
    const ALLOWED: [u64; 4] = [64, 65, 66, 67];
    let (presence, frequency, temperature) = (0.7, 0.3, 0.8);
    let server = Server::start(&["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]);
    let body = plain(
        json!({"allowed_token_ids": ALLOWED, "presence_penalty": presence, "frequency_penalty": frequency,
        "logit_bias": {"66": 1.5}, "temperature": temperature, "logprobs": 9, "max_tokens": 25, "seed": 4, "return_tokens_as_token_ids": true}),
    );
    let choice = server.complete(body)["choices"][0].clone();
    let (sampled, prompt) = (ids(&choice), choice["prompt_token_ids"].as_array().unwrap().clone());
    let all: Vec<Value> = prompt.iter().cloned().chain(sampled.iter().map(|id| json!(id))).collect();
    let scored = server.complete(json!({"prompt": all, "max_tokens": 1, "prompt_logprobs": 768}))["choices"][0].clone();
    let mut counts = [0.0; 4];
    for (place, id) in sampled.iter().enumerate() {
        let raw = &scored["prompt_logprobs"][prompt.len() + place];
        let z: Vec<f64> = (0..4)
            .map(|i| {
                let bias = if ALLOWED[i] == 66 { 1.5 } else { 0.0 };
                let present = if counts[i] > 0.0 { presence } else { 0.0 };
                let raw = raw[ALLOWED[i].to_string()]["logprob"].as_f64().unwrap();
                (raw + bias - frequency * counts[i] - present) / temperature
            })
            .collect();
        let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        let top = choice["logprobs"]["top_logprobs"][place].as_object().unwrap();
        assert_eq!(top.len(), 4, "{top:?}");
        for (i, z) in z.iter().enumerate() {
            let found = top[&format!("token_id:{}", ALLOWED[i])].as_f64().unwrap();
            assert!((found - (z - lse)).abs() < 1e-4, "{place}: {found}, not {}", z - lse);
        }
        let own = ALLOWED.iter().position(|allowed| allowed == id).unwrap();
        let found = choice["logprobs"]["token_logprobs"][place].as_f64().unwrap();
        assert!((found - (z[own] - lse)).abs() < 1e-4, "{place}: {found}, not {}", z[own] - lse);
        counts[own] += 1.0;
    }
    assert!(counts.iter().all(|count| *count > 0.0), "{counts:?}");
}

#[test]
fn the_likeliest_tokens_can_be_those_of_the_distribution_sampled_from() {
    let server = Server::start(&["--logprobs-mode", "processed_logprobs"]);
    let body = json!({"messages": says("a"), "max_tokens": 8, "top_k": 3, "temperature": 0.7, "seed": 2, "logprobs": true,
        "top_logprobs": 5, "ignore_eos": true});
    for token in server.chat(body)["choices"][0]["logprobs"]["content"].as_array().unwrap() {
        let top = token["top_logprobs"].as_array().unwrap();
        let mass: f64 = top.iter().map(|entry| entry["logprob"].as_f64().unwrap().exp()).sum();
        assert!(top.len() == 3 && (mass - 1.0).abs() < 1e-5, "{token}");
        let own = top.iter().find(|entry| entry["bytes"] == token["bytes"]).unwrap_or_else(|| panic!("{token}"));
        let [found, wanted] = [own, token].map(|entry| entry["logprob"].as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-5, "{token}");
    }
}

// ---- refusals ----

#[test]
fn what_cannot_be_asked_is_named_with_its_field() {
    let server = Server::start_with_tools(&[]);
    let tool = json!([{"type": "function", "function": {"name": "crop"}}]);
    for (more, field, says_so) in [
        (json!({"logit_bias": {"x": 1}}), "logit_bias", "\"x\""),
        (json!({"logit_bias": {"768": 1}}), "logit_bias", "768"),
        (json!({"logit_bias": {"5": "much"}}), "logit_bias", "give a number"),
        (json!({"presence_penalty": 2.5}), "presence_penalty", "between -2 and 2"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "between -2 and 2"),
        (json!({"min_tokens": 11, "max_tokens": 10}), "min_tokens", "at most 10"),
        (json!({"allowed_token_ids": []}), "allowed_token_ids", "at least one"),
        (json!({"allowed_token_ids": [1, 800]}), "allowed_token_ids", "800"),
        (json!({"bad_words": [" "]}), "bad_words", "empty"),
        (json!({"response_format": {"type": "xml"}}), "response_format", "json_schema"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format", "json_schema.schema"),
        (json!({"structured_outputs": {"regex": "(a"}}), "structured_outputs", "cannot be used"),
        (json!({"structured_outputs": {"json": {"type": "nothing"}}}), "structured_outputs", "cannot be used"),
        (json!({"structured_outputs": {"json": {"$ref": "#"}}}), "structured_outputs", "no text fits"),
        (json!({"structured_outputs": {"json": "{"}}), "structured_outputs", "not valid JSON"),
        (json!({"structured_outputs": {"grammar": "start: missing"}}), "structured_outputs", "cannot be used"),
        (json!({"structured_outputs": {"choice": []}}), "structured_outputs", "list of 1"),
        (json!({"structured_outputs": {"choice": ["a"], "regex": "a"}}), "structured_outputs", "send one"),
        (json!({"structured_outputs": {}}), "structured_outputs", "has none"),
        (json!({"structured_outputs": {"structural_tag": "{}"}}), "structured_outputs", "structural_tag"),
        (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice", "`guided_regex`"),
        (json!({"guided_regex": "a".repeat(40_000)}), "guided_regex", "at most 32768"),
        (json!({"tool_choice": "required"}), "tool_choice", "no tools"),
        (json!({"tool_choice": "perhaps", "tools": tool}), "tool_choice", "perhaps"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "zoom"}}, "tools": tool}),
            "tool_choice",
            "zoom",
        ),
        (json!({"tool_choice": "required", "tools": tool, "guided_regex": "a"}), "tool_choice", "`guided_regex`"),
    ] {
        let body = with(json!({"messages": says("a"), "max_tokens": 50}), more.clone());
        let (status, message, param) = server.post(CHAT, &body).error();
        assert_eq!((status, &param), (400, &json!(field)), "{more}: {message}");
        assert!(message.contains(says_so), "{more}: {message}");
    }
}

/// Whatever grammar a client sends, the server answers in time and goes on.
#[test]
fn no_grammar_stalls_the_server() {
    let server = Server::start(&[]);
    let deep = |open: &str, close: &str, depth: usize| format!("{}a{}", open.repeat(depth), close.repeat(depth));
    let alternatives: Vec<String> = (0..1500).map(|i| format!("[a-z]{{{i}}}x{i}")).collect();
    let many: serde_json::Map<String, Value> =
        (0..1000).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
    for outputs in [
        json!({"regex": "((a{1,1000}){1,1000}){1,1000}"}),
        json!({"regex": "(a*)*(b*)*(.*)*x{5000}"}),
        json!({"regex": alternatives.join("|")}),
        json!({"regex": deep("(", ")", 10_000)}),
        json!({"regex": "[ab]*a[ab]{60}"}),
        json!({"grammar": format!("start: {}", deep("(", ")", 10).replace('a', "\"a\""))}),
        json!({"grammar": format!("start: {}", deep("(", ")", 10_000).replace('a', "\"a\""))}),
        json!({"grammar": "start: start start start | \"a\" | \"\""}),
        json!({"grammar": "start: /(.|\\n)*a(.|\\n){40}/"}),
        json!({"json": format!("{}{{\"type\": \"integer\"}}{}", "{\"items\": ".repeat(5_000), "}".repeat(5_000))}),
        json!({"json": {"type": "object", "properties": many}}),
        json!({"json": {"$ref": "#"}}),
        json!({"json": {"$ref": "http://127.0.0.1:9/schema"}}),
        json!({"json": {"type": "string", "minLength": 100_000_000}}),
        json!({"json": {"type": "array", "minItems": 4_000_000_000u64}}),
        json!({"json": {"type": "string", "pattern": "^(a|b|ab)*c{1000}$", "format": "email"}}),
    ] {
        let reply = server.post(TEXT, &plain(json!({"structured_outputs": outputs, "max_tokens": 6, "seed": 1})));
        let sent: String = outputs.to_string().chars().take(60).collect();
        assert!([200, 400].contains(&reply.status), "{sent}: {} {}", reply.status, reply.text);
    }
    assert_eq!(server.complete(plain(json!({"max_tokens": 3, "ignore_eos": true})))["usage"]["completion_tokens"], 3);
}
