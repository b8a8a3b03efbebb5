//! Schemas as pydantic makes them hold answers, and no answer of JSON is an endless run of white space.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use crate::support::server::{Server, says};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
/// Written by `tools/golden/pydantic_schemas.py`.
const SCHEMAS: &str = include_str!("../golden/schemas/pydantic.jsonl");
/// White space between two tokens of JSON at most.
const RUN_MAX: usize = 40;

/// The longest run of white space outside of strings.
fn longest_run(json: &str) -> usize {
    let (mut longest, mut run, mut in_string, mut is_escaped) = (0, 0, false, false);
    for c in json.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        run = if !in_string && c.is_ascii_whitespace() { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// Whether a value has all that its schema requires, and only constants and members of enumerations where it says so.
fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    if let Some(target) = schema["$ref"].as_str() {
        return fits(value, root.pointer(&target[1..]).unwrap(), root);
    }
    if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        return choices.iter().any(|choice| fits(value, choice, root));
    }
    let is_of = |kind: &Value| match kind.as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|float| float.fract() == 0.0),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(other) => panic!("{other}"),
    };
    let names = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let no_fields = serde_json::Map::new();
    let fields = value.as_object().unwrap_or(&no_fields);
    let allowed = schema.get("propertyNames").map(|names| match names["$ref"].as_str() {
        Some(target) => root.pointer(&target[1..]).unwrap(),
        None => names,
    });
    is_of(&schema["type"])
        && (schema.get("const").is_none_or(|only| only == value))
        && (schema["enum"].as_array().is_none_or(|members| members.contains(value)))
        && names.iter().all(|name| fields.contains_key(name.as_str().unwrap()))
        && fields.iter().all(|(name, field)| {
            let named =
                allowed.and_then(|names| names["enum"].as_array()).is_none_or(|names| names.contains(&json!(name)));
            named && schema["properties"].get(name).is_none_or(|schema| fits(field, schema, root))
        })
        && value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| schema.get("items").is_none_or(|own| fits(item, own, root))))
}

#[test]
fn every_schema_of_pydantic_holds_an_answer() {
    let server = Server::start(&["--max-num-seqs", "16"]);
    let mut ended = BTreeMap::<String, usize>::new();
    let mut answers = Vec::new();
    let lines: Vec<Value> = SCHEMAS.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 60, "{}", lines.len());
    for line in &lines {
        let (name, schema) = (line["name"].as_str().unwrap(), &line["schema"]);
        let format = json!({"type": "json_schema", "json_schema": {"name": name, "schema": schema}});
        let body = json!({"messages": says("a"), "response_format": format, "max_tokens": 250, "n": 4, "seed": 5, "temperature": 1});
        let reply = server.post(CHAT, &body);
        assert_eq!(reply.status, 200, "{name}: {} {schema}", reply.text);
        for choice in reply.json()["choices"].as_array().unwrap() {
            let text = choice["message"]["content"].as_str().unwrap();
            assert!(longest_run(text) <= RUN_MAX, "{name}: {text:?}");
            if choice["finish_reason"] == "stop" {
                let value: Value = match serde_json::from_str(text) {
                    Ok(value) => value,
                    // JSON knows no largest number.
                    Err(error) if error.to_string().starts_with("number out of range") => continue,
                    Err(error) => panic!("{name}: {error}: {text:?}"),
                };
                assert!(fits(&value, schema, schema), "{name}: {text}");
                *ended.entry(name.to_owned()).or_default() += 1;
                answers.push(json!({"name": name, "text": text}));
            }
        }
    }
    // Random weights may write a string for ever; most answers come to their end.
    assert!(ended.len() * 10 >= lines.len() * 8, "only {} of {} ended: {ended:?}", ended.len(), lines.len());
    if let Some(path) = std::env::var_os("THYME_ANSWERS") {
        let mut file = std::fs::File::create(path).unwrap();
        answers.iter().for_each(|answer| writeln!(file, "{answer}").unwrap());
    }
}

/// Random weights that like nothing but white space: an answer goes on in spite of them.
#[test]
fn white_space_comes_to_an_end() {
    let server = Server::start_with_tools(&[]);
    let blank = server.post("/tokenize", &json!({"prompt": " "})).json()["tokens"][0].clone();
    let line = server.post("/tokenize", &json!({"prompt": "\n"})).json()["tokens"][0].clone();
    let likes = json!({blank.to_string(): 100, line.to_string(): 100});
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false});
    let function = json!({"name": "f", "parameters": schema});
    for more in [
        json!({"response_format": {"type": "json_object"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"structured_outputs": {"json": schema.to_string()}}),
        json!({"structured_outputs": {"json_object": true}}),
        json!({"structured_outputs": {"json": true}}),
        json!({"guided_json": schema}),
        json!({"tools": [{"type": "function", "function": function}], "tool_choice": "required", "parallel_tool_calls": false}),
    ] {
        let mut body = json!({"messages": says("a"), "logit_bias": likes, "max_tokens": 400, "seed": 2});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let choice = server.chat(body)["choices"][0].clone();
        let call = choice["message"]["tool_calls"][0]["function"]["arguments"].as_str();
        let text = call.or(choice["message"]["content"].as_str()).unwrap();
        assert!(longest_run(text) <= RUN_MAX, "{more}: {text:?}");
        assert!(text.trim().len() > 1, "{more}: {text:?}");
        if more.to_string().contains("boolean") {
            assert!(serde_json::from_str::<Value>(text).unwrap()["a"].is_boolean(), "{more}: {text:?}");
        }
    }
}

#[test]
fn what_a_schema_cannot_be_held_to_is_refused_with_a_remedy() {
    let server = Server::start(&[]);
    for (schema, says_so) in [
        (json!({"type": "string", "pattern": "^(a)\\1$"}), "write it without"),
        (json!({"type": "string", "pattern": "a(?=b)"}), "write it without"),
        (json!({"type": "object", "properties": {"a": {"items": {"pattern": "(?<!a)b"}}}}), "(?<!a)b"),
        (json!({"type": "object", "propertyNames": {"not": {"const": "a"}}}), "propertyNames"),
        (json!({"x-guidance": {"whitespace_flexible": "no"}}), "true or false"),
        (json!({"x-guidance": {"zork": 1}}), "zork"),
        (json!({"type": "object", "if": {}, "then": {}}), "cannot be used"),
    ] {
        for (more, field) in [
            (json!({"guided_json": schema}), "guided_json"),
            (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}), "response_format"),
        ] {
            let mut body = json!({"prompt": "a", "max_tokens": 5});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let (status, message, param) = server.post(TEXT, &body).error();
            assert_eq!((status, &param), (400, &json!(field)), "{message}");
            assert!(message.contains(says_so), "{schema}: {message}");
        }
    }
    let known = json!({"type": "object", "title": "T", "$comment": "c", "properties": {"discriminator": {"type": "integer", "format": "int64",
        "minimum": 1.0, "maximum": 9}, "format": {"const": "x"}, "uniqueItems": {"type": "array", "items": {"enum": ["a"]},
        "uniqueItems": true, "maxItems": 1.0}}, "required": ["discriminator", "format", "uniqueItems"], "additionalProperties": false});
    let answer = server.complete(json!({"prompt": "a", "guided_json": known, "max_tokens": 300, "seed": 3}))["choices"]
        [0]
    .clone();
    let value: Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
    assert!(fits(&value, &known, &known), "fields may be named as keywords are: {answer}");
}
