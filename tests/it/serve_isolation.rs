//! Forms, templates and token ids that would end a process by its stack, its memory or its time: each is refused or used, and whoever is asked
//! next answers.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::support::command::Workplace;
use crate::support::server::{Server, init, says};

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
/// A request is answered within this time, whatever it asks.
const ANSWERED: Duration = Duration::from_secs(10);
/// Memory that a server may keep of hostile requests, in KiB.
const KEPT_KIB: u64 = 100 << 10;

/// A server that was used once, and its memory then.
struct Attacked {
    server: Server,
    before: u64,
}

impl Attacked {
    fn start(arguments: &[&str]) -> Attacked {
        let server = Server::start(arguments);
        let form = json!({"json": {"type": "integer"}});
        server.complete(json!({"prompt": "a", "max_tokens": 3, "structured_outputs": form}));
        let before = resident(&server);
        Attacked { server, before }
    }

    /// Status and message of a request.
    #[track_caller]
    fn ask(&self, path: &str, body: &Value) -> (u16, String) {
        let began = Instant::now();
        let reply = self.server.post(path, body);
        let sent: String = body.to_string().chars().take(120).collect();
        assert!(began.elapsed() < ANSWERED, "{sent}: {:?}", began.elapsed());
        match reply.status {
            200 => (200, String::new()),
            _ => (reply.status, reply.error().1),
        }
    }

    /// The server lives, and has given back what it took.
    #[track_caller]
    fn expect_as_before(&self) {
        let usage = &self.server.complete(json!({"prompt": "a", "max_tokens": 3, "ignore_eos": true}))["usage"];
        assert_eq!(usage["completion_tokens"], 3);
        let after = resident(&self.server);
        assert!(after < self.before + KEPT_KIB, "{} KiB before, {after} KiB after", self.before);
    }
}

fn resident(server: &Server) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// `inner` within so many values of the kind that `outer` makes.
fn nested(depth: usize, inner: Value, outer: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(inner, |value, _| outer(value))
}

/// A chain of definitions, each of which `link` makes of the address of the next.
fn chain(length: usize, link: impl Fn(Value) -> Value) -> Value {
    let next = |number: usize| link(json!({"$ref": format!("#/$defs/{}", number + 1)}));
    let mut definitions: Map<String, Value> = (0..length).map(|number| (number.to_string(), next(number))).collect();
    definitions.insert(length.to_string(), json!({"type": "integer"}));
    json!({"$ref": "#/$defs/0", "$defs": definitions})
}

/// A grammar of so many rules, each of which asks for the next.
fn rules(length: usize, name: char) -> String {
    let rules: String = (0..length).map(|number| format!("{name}{number}: {name}{}\n", number + 1)).collect();
    format!("start: {name}0\n{rules}{name}{length}: \"a\"\n")
}

/// Schemas that are deep, long, or both.
fn schemas() -> Vec<Value> {
    vec![
        chain(700, |next| json!({"allOf": [next]})),
        chain(500, |next| json!({"allOf": [next, {"type": "integer"}]})),
        chain(600, |next| json!({"type": "array", "items": next})),
        chain(300, |next| json!({"type": "object", "properties": {"a": next}})),
        chain(30, |next| json!({"allOf": [next.clone(), next]})),
        chain(30, |next| json!({"anyOf": [next.clone(), next]})),
        nested(55, json!({"type": "integer"}), |inner| json!({"allOf": [inner]})),
        nested(90, json!({"type": "integer"}), |inner| json!({"items": inner})),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$dynamicRef": "#a", "$defs": {"a": {"$dynamicAnchor": "a"}}}),
        json!({"type": "string", "minLength": 1_000_000_000}),
        json!({"type": "array", "maxItems": 1_000_000_000}),
        json!({"type": "number", "multipleOf": 1e-300}),
        json!({"type": "number", "minimum": -1e300, "maximum": 1e-300}),
        json!({"type": "object", "properties": {"a\0b": true}, "required": ["a\0b"]}),
        json!({"enum": (0..5000).collect::<Vec<u32>>()}),
        json!({"type": "string", "pattern": "^((a|b|ab)*)*c{1000}$"}),
    ]
}

#[test]
fn no_form_ends_the_server_or_keeps_its_memory() {
    let attacked = Attacked::start(&[]);
    let text = |outputs: Value| json!({"prompt": "a", "max_tokens": 8, "seed": 1, "structured_outputs": outputs});
    for schema in schemas() {
        let as_text = text(json!({"json": schema.to_string()}));
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
        for (path, body) in [
            (TEXT, as_text),
            (CHAT, json!({"messages": says("a"), "max_tokens": 8, "response_format": format})),
            (CHAT, json!({"messages": says("a"), "max_tokens": 8, "tools": [tool], "tool_choice": "required"})),
        ] {
            let (status, message) = attacked.ask(path, &body);
            let sent: String = body.to_string().chars().take(120).collect();
            assert!([200, 400].contains(&status), "{sent}: {status} {message}");
        }
    }
    for outputs in [
        json!({"grammar": rules(1500, 'a')}),
        json!({"grammar": rules(1500, 'A')}),
        json!({"grammar": "start: A\nA: B\nB: A"}),
        json!({"grammar": "start: start start start | \"a\" | \"\""}),
        json!({"grammar": format!("start: {}\"a\"{}", "(".repeat(10_000), ")".repeat(10_000))}),
        json!({"grammar": "start: (\"a\" \"b\")~1..1000000"}),
        json!({"grammar": format!("start: %json {}{{}}{}", "{\"items\":".repeat(2000), "}".repeat(2000))}),
        json!({"regex": "((a{1,1000}){1,1000}){1,1000}"}),
        json!({"regex": "(".repeat(10_000) + "a" + &")".repeat(10_000)}),
        json!({"regex": "[\\u{0}-\\u{10FFFF}]{3000}"}),
    ] {
        let (status, message) = attacked.ask(TEXT, &text(outputs.clone()));
        let sent: String = outputs.to_string().chars().take(120).collect();
        assert!([200, 400].contains(&status), "{sent}: {status} {message}");
    }
    attacked.expect_as_before();
}

#[test]
fn a_form_that_is_too_deep_is_refused_with_its_limit_and_a_remedy() {
    let attacked = Attacked::start(&[]);
    let many: String = (0..2500).map(|number| format!("a{number}: \"a\"\n")).collect();
    for (outputs, limit) in [
        (json!({"json": nested(104, json!(true), |inner| json!({"not": inner}))}), "deeper than 100 values"),
        (json!({"regex": "(".repeat(240) + "a" + &")".repeat(240)}), "240 groups within each other"),
        (json!({"grammar": format!("start: a0\n{many}")}), "2501 rules; at most 2000"),
        // Compiling it takes more than a child may take.
        (
            json!({"json": {"allOf": (0..300).map(|n| json!({"type": "string", "pattern": format!("a{{{n}}}")})).collect::<Vec<_>>()}}),
            "make it smaller",
        ),
    ] {
        let (status, message) =
            attacked.ask(TEXT, &json!({"prompt": "a", "max_tokens": 3, "structured_outputs": outputs}));
        assert_eq!(status, 400, "{message}");
        assert!(message.starts_with("`structured_outputs` cannot be used") && message.contains(limit), "{message}");
    }
    // Another child compiles what comes next.
    let outputs = json!({"choice": ["red", "blue"]});
    let reply = attacked.server.complete(json!({"prompt": "a", "max_tokens": 8, "structured_outputs": outputs}));
    assert!(["red", "blue"].contains(&reply["choices"][0]["text"].as_str().unwrap()));
    attacked.expect_as_before();
}

/// What a loop of 40 rounds writes that doubles a text.
fn doubling(expression: &str) -> String {
    format!(
        "{{% set n = namespace(s='xx') %}}{{% for i in range(40) %}}{{% set n.s = {expression} %}}{{% endfor %}}{{{{ n.s }}}}"
    )
}

/// Templates, and what their refusal says.
fn templates() -> Vec<(String, &'static str)> {
    let grown = "more memory or a deeper stack";
    vec![
        (format!("{{{{ {} }}}}", vec!["1"; 60_000].join("+\n")), ""),
        (format!("{{{{ {}1 }}}}", "not\n".repeat(50_000)), ""),
        (format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000)), "recursion"),
        (format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}\n".repeat(15_000)), ""),
        ("{% for x in [1] %}\n".repeat(3000) + &"{% endfor %}".repeat(3000), "recursion"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(), "recursion"),
        ("{{ messages | tojson(indent=10**10) }}".to_owned(), "indent is 10000000000; at most 16"),
        ("{{ 'a\nb' | indent(10**9) }}".to_owned(), grown),
        ("{{ '%1000000000d' | format(1) }}".to_owned(), grown),
        ("{{ ([1] * 10**9) | list }}".to_owned(), grown),
        ("{{ 'x' * 10**9 }}".to_owned(), "too large"),
        (doubling("n.s + n.s"), grown),
        (doubling("n.s ~ n.s"), grown),
        (doubling("n.s | replace('x', n.s)"), grown),
        (doubling("n.s.join([n.s, n.s])"), grown),
        ("{% set n = namespace() %}{% set n.a = n %}{{ n }}".to_owned(), grown),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_owned(), "instructions"),
        (format!("{{% for i in range(99999) %}}{}{{% endfor %}}", "x".repeat(1000)), "writes more than"),
        ("x".repeat(300_000), "bytes; at most"),
        ("x".repeat(100_000), "a line of 100000 bytes"),
        // Each list has the one before twice: what it is made of is small, what it writes is endless.
        (doubling("[n.s, n.s]"), "make it smaller"),
    ]
}

#[test]
fn no_template_of_a_request_ends_the_server_or_keeps_its_memory() {
    let attacked = Attacked::start(&["--trust-request-chat-template"]);
    for (template, says_so) in templates() {
        let begins: String = template.chars().take(80).collect();
        let body = json!({"messages": says("a"), "max_tokens": 2, "chat_template": template});
        let (status, message) = attacked.ask(CHAT, &body);
        match says_so {
            "" => assert!([200, 400].contains(&status), "{begins}: {status} {message}"),
            _ => assert!(status == 400 && message.contains(says_so), "{begins}: {status} {message}"),
        }
    }
    attacked.server.chat(json!({"messages": says("a"), "max_tokens": 2}));
    attacked.expect_as_before();
}

#[test]
fn no_template_of_the_start_ends_the_server() {
    let place = Workplace::new();
    let template = place.write("grows.jinja", doubling("n.s + n.s"));
    let server = Server::start_in(place, &["--chat-template", template.to_str().unwrap()]);
    let (status, message, _) = server.post(CHAT, &json!({"messages": says("a"), "max_tokens": 2})).error();
    assert!(status == 400 && message.contains("more memory or a deeper stack"), "{status} {message}");
    assert_eq!(
        server.complete(json!({"prompt": "a", "max_tokens": 2, "ignore_eos": true}))["usage"]["completion_tokens"],
        2
    );
}

#[test]
fn a_batch_goes_on_behind_hostile_lines_and_again_when_it_is_resumed() {
    let place = Workplace::new();
    init(&place, "tiny", 0);
    let call =
        |id: usize, body: Value| json!({"custom_id": id.to_string(), "method": "POST", "url": TEXT, "body": body});
    let hostile = |schema: Value| json!({"prompt": "a", "max_tokens": 3, "structured_outputs": {"json": schema}});
    let bodies = [
        hostile(chain(700, |next| json!({"allOf": [next]}))),
        hostile(nested(104, json!(true), |inner| json!({"not": inner}))),
        json!({"prompt": "a", "max_tokens": 3, "structured_outputs": {"grammar": rules(1500, 'a')}}),
        json!({"prompt": [4_294_967_295u32], "max_tokens": 3}),
        json!({"prompt": "a", "max_tokens": 3}),
    ];
    let calls: Vec<String> = bodies.into_iter().enumerate().map(|(id, body)| format!("{}\n", call(id, body))).collect();
    place.write("in.jsonl", calls.concat());
    let run = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command.arg("batch").arg("--model").arg(place.path("tiny")).arg("--input").arg(place.path("in.jsonl"));
        let Output { status, stderr, .. } =
            command.arg("--output").arg(place.path("out.jsonl")).args(flags).output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let text = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
        let codes = text.lines().map(|line| {
            let reply: Value = serde_json::from_str(line).unwrap();
            reply["response"]["status_code"].as_u64().unwrap()
        });
        codes.collect::<Vec<u64>>()
    };
    let codes = run(&[]);
    assert_eq!((codes[1], codes[3], codes[4], codes.len()), (400, 400, 200, 5));
    let text = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
    place.write("out.jsonl", text.split_inclusive('\n').next().unwrap());
    assert_eq!(run(&["--resume"]), codes);
}

#[test]
fn token_ids_that_no_token_has_take_no_memory() {
    let attacked = Attacked::start(&[]);
    let huge = 4_294_967_295u32;
    for (path, body) in [
        (TEXT, json!({"prompt": [huge], "max_tokens": 2})),
        (TEXT, json!({"prompt": "a", "max_tokens": 2, "allowed_token_ids": [huge]})),
        (TEXT, json!({"prompt": "a", "max_tokens": 2, "logit_bias": {huge.to_string(): 5}})),
        (TEXT, json!({"prompt": "a", "max_tokens": 2, "stop_token_ids": [huge]})),
        ("/detokenize", json!({"tokens": [huge, 1]})),
        ("/tokenize", json!({"prompt": [huge]})),
    ] {
        let (status, message) = attacked.ask(path, &body);
        assert!([200, 400].contains(&status), "{path} {body}: {status} {message}");
    }
    attacked.expect_as_before();
}

#[test]
fn a_panic_in_a_grammar_ends_its_answer_and_reads_no_debug_information() {
    let workplace = Workplace::new();
    init(&workplace, "tiny", 0);
    let (model, log) = (workplace.path("tiny"), workplace.path("log.txt"));
    let server = Server::start_with_log(workplace, &model, &[], &log);
    let ask = |grammar: &str| {
        let forced = json!({"64": 60, "220": 100});
        let body =
            json!({"prompt": "a", "max_tokens": 3, "structured_outputs": {"grammar": grammar}, "logit_bias": forced});
        server.complete(body)["choices"][0]["stop_reason"].clone()
    };
    let mapped = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    };
    ask("start: \"a\"");
    let before = mapped();
    // Between two objects and before a rest that is one again, llguidance loses its place.
    let stop = ask("start: \"a\" r\nr: \"x\" | %json {\"type\": \"object\"}+ \" \" r\n%ignore / +/\n");
    assert_eq!(stop, "nothing_allowed");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("it meets a fault of the grammar compiler (") && !log.contains("backtrace"), "{log}");
    assert!(mapped() < before + (8 << 20), "{before} {}", mapped());
}
