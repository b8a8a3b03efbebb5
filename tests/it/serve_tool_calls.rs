//! Calls as clients see them: in streams as they grow, and never their marks as text. A form makes the model say what a test needs.

use serde_json::{Value, json};

use crate::support::command::Workplace;
use crate::support::server::{Server, joined_calls, says};

const CHAT: &str = "/v1/chat/completions";

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "crop", "parameters": {"type": "object"}}}])
}

/// A chat in which the model says exactly this.
fn saying(text: &str, more: Value) -> Value {
    let mut body =
        json!({"messages": says("Look"), "tools": tools(), "guided_choice": [text], "max_tokens": 1500, "seed": 1});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What a client puts together from a stream: text, calls, the end, and how many pieces of arguments there were.
fn streamed(server: &Server, body: Value, number: usize) -> (String, Vec<Value>, Value, usize) {
    let chunks = server.stream(CHAT, body);
    let choices: Vec<&Value> =
        chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).filter(|c| c["index"] == number).collect();
    let text = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    let pieces: Vec<&Value> =
        choices.iter().filter_map(|choice| choice["delta"]["tool_calls"].as_array()).flatten().collect();
    (text, joined_calls(pieces.iter().copied()), choices.last().unwrap()["finish_reason"].clone(), pieces.len())
}

fn functions(calls: &Value) -> Vec<Value> {
    calls.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|call| call["function"].clone()).collect()
}

const CALL: &str = "<tool_call>\n{\"name\": \"crop\", \"arguments\": {\"box\": [10, 20], \"why\": \"größer than </tool_call> is\"}}\n</tool_call>";
const ARGUMENTS: &str = "{\"box\": [10, 20], \"why\": \"größer than </tool_call> is\"}";

#[test]
fn a_call_is_streamed_as_it_grows() {
    let server = Server::start_with_tools(&["--speculation", "off"]);
    let arguments = format!("{{\"box\": [10, 20], \"why\": \"{}</tool_call>\"}}", "größer ".repeat(40));
    let call = format!("<tool_call>\n{{\"name\": \"crop\", \"arguments\": {arguments}}}\n</tool_call>");
    for more in [
        json!({}),
        json!({"logprobs": true, "top_logprobs": 2}),
        json!({"n": 3}),
        json!({"stop": ["never said"], "return_token_ids": true}),
    ] {
        let n = more["n"].as_u64().unwrap_or(1) as usize;
        let body = saying(&format!("I look. {call}\n{call}"), more);
        let whole = server.chat(body.clone());
        for number in 0..n {
            let choice = &whole["choices"][number];
            let expected = json!({"name": "crop", "arguments": arguments});
            assert_eq!(functions(&choice["message"]["tool_calls"]), [expected.clone(), expected.clone()], "{choice}");
            assert_eq!(choice["message"]["content"], "I look. ");
            assert_eq!(choice["finish_reason"], "tool_calls");
            let (text, calls, finish, pieces) = streamed(&server, body.clone(), number);
            assert_eq!((text.as_str(), finish), ("I look. ", json!("tool_calls")));
            assert_eq!(
                calls.iter().map(|call| call["function"].clone()).collect::<Vec<_>>(),
                [expected.clone(), expected]
            );
            assert_ne!(calls[0]["id"], calls[1]["id"]);
            assert!(pieces > 4, "{pieces} pieces");
        }
    }
}

#[test]
fn marks_of_calls_are_never_content() {
    let server = Server::start_with_tools(&[]);
    for (said, content, calls) in [
        ("<tool_call>not JSON</tool_call> so", json!("not JSON so"), vec![]),
        ("<tool_call>{\"name\": 5}</tool_call>", json!("{\"name\": 5}"), vec![]),
        ("a</tool_call>b", json!("ab"), vec![]),
        (
            "<tool_call>{\"name\": \"crop\", \"arguments\": {\"x\": }}</tool_call>",
            Value::Null,
            vec![("crop", "{\"x\": }")],
        ),
        (
            "<tool_call>{\"name\": \"crop\", \"arguments\": {\"x\": \"open",
            Value::Null,
            vec![("crop", "{\"x\": \"open")],
        ),
        ("<tool_call>{\"name\": \"crop\", \"arguments\": \"{}\"}", Value::Null, vec![("crop", "{}")]),
        (
            "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"crop\"}</tool_call> behind",
            json!(" behind"),
            vec![("crop", "{\"x\": 1}")],
        ),
        ("1 < 2 <b>", json!("1 < 2 <b>"), vec![]),
    ] {
        let whole = server.chat(saying(said, json!({})))["choices"][0].clone();
        assert_eq!(whole["message"]["content"], content, "{said}");
        let calls: Vec<Value> = calls.iter().map(|(name, text)| json!({"name": name, "arguments": text})).collect();
        assert_eq!(functions(&whole["message"]["tool_calls"]), calls, "{said}");
        assert_eq!(whole["finish_reason"], if calls.is_empty() { "stop" } else { "tool_calls" }, "{said}");
        let (text, pieces, finish, _) = streamed(&server, saying(said, json!({})), 0);
        assert_eq!((text.as_str(), finish), (content.as_str().unwrap_or(""), whole["finish_reason"].clone()), "{said}");
        assert_eq!(pieces.iter().map(|call| call["function"].clone()).collect::<Vec<_>>(), calls, "{said}");
    }
}

#[test]
fn a_call_that_is_cut_is_a_call_so_far() {
    let server = Server::start_with_tools(&[]);
    let said = format!("Now {CALL}");
    let (mut with_call, mut without) = (0, 0);
    for tokens in 1..60 {
        let body = saying(&said, json!({"max_tokens": tokens}));
        let choice = server.chat(body.clone())["choices"][0].clone();
        let content = choice["message"]["content"].as_str().unwrap_or("");
        assert!("Now ".starts_with(content) || content == "Now <", "{tokens}: {choice}");
        let calls = functions(&choice["message"]["tool_calls"]);
        with_call += calls.len();
        without += usize::from(calls.is_empty());
        for call in &calls {
            assert!(call["name"] == "crop" && ARGUMENTS.starts_with(call["arguments"].as_str().unwrap()), "{call}");
        }
        if tokens % 7 == 0 {
            let (text, pieces, finish, _) = streamed(&server, body, 0);
            assert_eq!((text.as_str(), &finish), (content, &choice["finish_reason"]), "{tokens}");
            assert_eq!(pieces.iter().map(|call| call["function"].clone()).collect::<Vec<_>>(), calls, "{tokens}");
        }
    }
    assert!(with_call > 10 && without > 3, "{with_call} {without}");
    let stopped = server.chat(saying(&said, json!({"stop": ["20]"]})))["choices"][0].clone();
    assert_eq!(functions(&stopped["message"]["tool_calls"]), [json!({"name": "crop", "arguments": "{\"box\": [10, "})]);
    assert_eq!(stopped["message"]["content"], "Now ");
}

#[test]
fn where_no_tool_may_be_called_marks_are_left_out() {
    let server = Server::start_with_tools(&[]);
    let body = saying("a <tool_call>{\"name\": \"crop\"}</tool_call>", json!({"tool_choice": "none"}));
    let choice = server.chat(body.clone())["choices"][0].clone();
    assert_eq!(choice["message"], json!({"role": "assistant", "content": "a {\"name\": \"crop\"}"}));
    assert_eq!(streamed(&server, body, 0).0, "a {\"name\": \"crop\"}");
    let mut without = saying("a <tool_call>b", json!({}));
    without.as_object_mut().unwrap().remove("tools");
    assert_eq!(server.chat(without)["choices"][0]["message"]["content"], "a <tool_call>b", "there is no tool to call");
}

#[test]
fn tools_that_the_template_does_not_show_are_refused() {
    let workplace = Workplace::new();
    let template = workplace.write("chat.jinja", "{% for message in messages %}{{ message.content }}{% endfor %}");
    let server = Server::start_in(workplace, &["--chat-template", template.to_str().unwrap()]);
    for (path, choice) in [(CHAT, "auto"), (CHAT, "required"), (CHAT, "none"), ("/tokenize", "auto")] {
        let body = json!({"messages": says("a"), "tools": tools(), "tool_choice": choice, "max_tokens": 2});
        let (status, message, param) = server.post(path, &body).error();
        assert!(status == 400 && param == "tools" && message.contains("--chat-template"), "{path} {choice}: {message}");
    }
    let empty = json!({"messages": says("a"), "tools": [], "max_tokens": 2});
    assert_eq!(server.post(CHAT, &empty).status, 200);
}
