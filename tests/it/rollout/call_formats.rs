//! Tool calls in every form: as models write them, slips and all, and as chat templates do.

use std::ops::Range;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use thyme_engine::rollout::call_formats::{CallFormat, CallProblem, FoundCall, WrittenCall};

use CallFormat::{Actions, Hermes, Qwen3Coder, ToolTag};

const FORMATS: [CallFormat; 4] = [Hermes, Qwen3Coder, ToolTag, Actions];

fn schemas() -> Vec<Value> {
    let types = [
        ("text", json!({"type": "string"})),
        ("box", json!({"type": "array"})),
        ("count", json!({"type": "integer"})),
        ("factor", json!({"type": "number"})),
        ("exact", json!({"type": "boolean"})),
        ("options", json!({"type": "object"})),
        ("either", json!({"type": ["integer", "string"]})),
        ("nullable", json!({"anyOf": [{"type": "string"}, {"type": "null"}]})),
        ("untyped", json!({"description": "anything"})),
    ];
    let properties: Map<String, Value> = types.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect();
    vec![
        json!({"type": "function", "function": {"name": "other", "parameters": {"properties": {"count": {"type": "string"}}}}}),
        json!({"type": "function", "function": {"name": "crop", "parameters": {"type": "object", "properties": properties}}}),
    ]
}

fn find(format: CallFormat, text: &str) -> Vec<FoundCall> {
    format.find_calls(text, &schemas())
}

/// The one call of a text.
#[track_caller]
fn only(format: CallFormat, text: &str) -> WrittenCall {
    let mut found = find(format, text);
    assert_eq!(found.len(), 1, "{format:?} {text:?}: {found:?}");
    found.remove(0).unwrap_or_else(|malformed| panic!("{format:?} {text:?}: {malformed}"))
}

/// What is wrong with the one call of a text.
#[track_caller]
fn problem(format: CallFormat, text: &str) -> CallProblem {
    let mut found = find(format, text);
    assert_eq!(found.len(), 1, "{format:?} {text:?}: {found:?}");
    found.remove(0).expect_err(text).problem
}

/// Tools and arguments of the calls of a text.
fn calls(format: CallFormat, text: &str) -> Vec<(String, Value)> {
    let found = find(format, text).into_iter().map(|found| found.unwrap_or_else(|error| panic!("{text:?}: {error}")));
    found.map(|call| (call.tool, Value::Object(call.arguments))).collect()
}

/// One call of `crop`.
fn crop(arguments: Value) -> Vec<(String, Value)> {
    vec![("crop".to_owned(), arguments)]
}

fn spanned<'t>(text: &'t str, found: &FoundCall) -> &'t str {
    let span = match found {
        Ok(call) => call.span.clone(),
        Err(malformed) => malformed.span.clone(),
    };
    &text[span]
}

#[test]
fn each_form_is_read_where_it_stands() {
    let hermes = "<tool_call>\n{\"name\": \"crop\", \"arguments\": {\"box\": [1, 2], \"text\": \"é\"}}\n</tool_call>";
    let coder = "<tool_call>\n<function=crop>\n<parameter=box>\n[1, 2]\n</parameter>\n<parameter=text>\né\n</parameter>\n</function>\n</tool_call>";
    let tool = "<tool>{\"name\": \"crop\", \"args\": {\"box\": [1, 2], \"text\": \"é\"}}</tool>";
    let action = "{\"name\": \"crop\", \"arguments\": {\"box\": [1, 2], \"text\": \"é\"}}";
    let actions = format!("{{\"thought\": \"I [look] at {{it}}.\", \"actions\": [{action}]}}");
    for (format, call, span) in
        [(Hermes, hermes, hermes), (Qwen3Coder, coder, coder), (ToolTag, tool, tool), (Actions, &actions, action)]
    {
        for (before, behind) in [("", ""), ("<think>é \"so\"</think>\n", "\nDone."), ("}]\" [", "}] <tool")] {
            let text = format!("{before}{call}{behind}");
            let found = only(format, &text);
            assert_eq!(&text[found.span.clone()], span, "{text}");
            assert_eq!((found.tool.as_str(), found.repairs.as_slice()), ("crop", &[][..]), "{text}");
            assert_eq!(Value::Object(found.arguments), json!({"box": [1, 2], "text": "é"}), "{text}");
        }
        assert!(
            call.starts_with(format.open_tag().unwrap_or("{")) && call.ends_with(format.close_tag().unwrap_or("}"))
        );
        for other in FORMATS.into_iter().filter(|other| *other != format) {
            assert!(find(other, call).iter().all(Result::is_err), "{other:?} reads no {format:?}");
        }
    }
    for format in FORMATS {
        assert!(find(format, "").is_empty() && find(format, "I see no {\"name\": \"crop\"} here.").is_empty());
        let named = serde_json::to_value(format).unwrap();
        assert!(["hermes", "qwen3_coder", "tool_tag", "actions"].contains(&named.as_str().unwrap()), "{named}");
    }
}

#[test]
fn slips_in_json_are_repaired_and_named() {
    for (inside, arguments, repairs) in [
        ("```json\n{\"name\": \"crop\", \"arguments\": {\"x\": 1}}\n```", json!({"x": 1}), &["fence"][..]),
        ("``` {\"name\": \"crop\", \"arguments\": {\"x\": 1}}", json!({"x": 1}), &["fence"]),
        ("{\"name\": \"crop\", \"parameters\": {\"x\": 1}}", json!({"x": 1}), &["arguments_key"]),
        ("{\"args\": {\"x\": 1}, \"name\": \"crop\"}", json!({"x": 1}), &["arguments_key"]),
        ("{\"name\": \"crop\", \"args\": {\"x\": 2}, \"arguments\": {\"x\": 1}}", json!({"x": 1}), &[]),
        ("{\"name\": \"crop\", \"arguments\": \" {\\\"x\\\": 1}\"}", json!({"x": 1}), &["arguments_in_string"]),
        (
            "{\"name\": \"crop\", \"arguments\": \"{'x': 1}\"}",
            json!({"x": 1}),
            &["arguments_in_string", "single_quotes"],
        ),
        ("{\"name\": \"crop\"}", json!({}), &["arguments_missing"]),
        ("{\"name\": \"crop\", \"arguments\": null}", json!({}), &["arguments_missing"]),
        ("{\"name\": \"crop\", \"arguments\": \"\"}", json!({}), &["arguments_missing"]),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": 1}}} }\n", json!({"x": 1}), &["extra_braces"]),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": 1}", json!({"x": 1}), &["missing_braces"]),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": 1\n", json!({"x": 1}), &["missing_braces"]),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": [1, 2,], },\n}", json!({"x": [1, 2]}), &["trailing_comma"]),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": 1, ", json!({"x": 1}), &["trailing_comma", "missing_braces"]),
        (
            "{\"name\": \"crop\", \"arguments\": {\"x\": \"a\n\tb\r\u{1}\"}}",
            json!({"x": "a\n\tb\r\u{1}"}),
            &["unescaped_control"],
        ),
        (
            "{'name': 'crop', 'arguments': {'x': 'say \"a\" or \\'b\\' \\n é'}}",
            json!({"x": "say \"a\" or 'b' \n é"}),
            &["single_quotes"],
        ),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": \"it\\'s\"}}", json!({"x": "it's"}), &["single_quotes"]),
        (
            "{\"name\": \"crop\", \"arguments\": {\"x\": [True, False, None, true]}}",
            json!({"x": [true, false, null, true]}),
            &["python_constants"],
        ),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": 1}} I hope", json!({"x": 1}), &["stray_text"]),
        ("{\"id\": 7, \"na\\u006de\": \"cr\\u006fp\", \"arguments\": {\"x\": 1e3}}", json!({"x": 1e3}), &[]),
    ] {
        let text = format!("so <tool_call>{inside}</tool_call> then");
        let found = only(Hermes, &text);
        assert_eq!(found.span, 3..text.len() - 5, "{text}");
        assert_eq!((found.tool.as_str(), Value::Object(found.arguments)), ("crop", arguments.clone()), "{text}");
        assert_eq!(found.repairs, repairs, "{text}");
        // The other form differs in its tags and in the key.
        let text = format!("<tool>{}</tool>", inside.replace("\"arguments\"", "\"args\""));
        assert_eq!(calls(ToolTag, &text), crop(arguments), "{text}");
    }
    assert_eq!(only(ToolTag, "<tool>{\"name\": \"crop\", \"arguments\": {}}</tool>").repairs, ["arguments_key"]);
}

#[test]
fn what_cannot_be_read_says_what_to_write() {
    for (inside, words) in [
        ("soon", "is not valid JSON: expected value at line 1 column 1"),
        ("", "is empty"),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": oops}}", "is not valid JSON"),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": [1, 2}}", "expected `,` or `]`"),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": \"un}}", "EOF while parsing a string"),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": {\"y\": {\"z\": 1", "EOF while parsing an object"),
        ("{\"name\": \"crop\"}, \"arguments\": {}}", "goes on behind the brace that ends its object"),
        ("{'q': 'it's'}", "is not valid JSON"),
        ("{\"name\": \"crop\", \"arguments\": {\"x\": NaN}}", "is not valid JSON"),
        ("[{\"name\": \"crop\"}]", "is JSON but no object; write <tool_call>\n{\"name\": NAME, \"arguments\""),
        ("\"crop\"", "is JSON but no object"),
        ("{\"arguments\": {}}", "names no tool; write <tool_call>"),
        ("{\"name\": \"\", \"arguments\": {}}", "names no tool"),
        ("{\"name\": 7, \"arguments\": {}}", "names no tool"),
        ("{\"name\": \"crop\", \"arguments\": [1]}", "the arguments are a list, not an object"),
        ("{\"name\": \"crop\", \"arguments\": 5}", "the arguments are a number, not an object"),
        ("{\"name\": \"crop\", \"arguments\": \"x\"}", "the arguments are a string, not an object"),
        ("{\"name\": \"crop\"}\n{\"name\": \"zoom\"}", "more than one call stands between the tags"),
        ("{\"name\": \"crop\"}, {\"name\": \"zoom\"}", "more than one call stands between the tags"),
        ("<function=crop>\n</function>", "another form than the one that is read; write <tool_call>\n{\"name\""),
    ] {
        let text = format!("<tool_call>\n{inside}\n</tool_call>");
        let said = find(Hermes, &text).remove(0).expect_err(inside).to_string();
        assert!(said.contains(words), "{inside:?}: {said}");
    }
    for (inside, words) in [
        (
            "{\"name\": \"crop\", \"arguments\": {}}",
            "another form than the one that is read; write <tool_call>\n<function=",
        ),
        ("```json\n{\"name\": \"crop\"}\n```", "another form"),
        ("crop", "another form"),
        ("<function=crop>\n{\"x\": 1}\n</function>", "another form"),
        ("<function=crop\n<parameter=x>1</parameter></function>", "names no tool"),
        ("<function=>\n</function>", "names no tool"),
        ("<function=a></function><function=b></function>", "more than one call"),
        ("<function=a><function=b></function>", "more than one call"),
    ] {
        let text = format!("<tool_call>\n{inside}\n</tool_call>");
        let said = find(Qwen3Coder, &text).remove(0).expect_err(inside).to_string();
        assert!(said.contains(words), "{inside:?}: {said}");
    }
    let tool = problem(ToolTag, "<tool>{\"args\": {}}</tool>").to_string();
    assert!(tool.ends_with("write <tool>{\"name\": NAME, \"args\": {KEY: VALUE, ...}}</tool>"), "{tool}");
}

#[test]
fn which_tag_opens_a_call_and_which_closes_it() {
    let name = |text: &str| -> Vec<String> { calls(Hermes, text).into_iter().map(|(tool, _)| tool).collect() };
    let call = |tool: &str| format!("<tool_call>{{\"name\": \"{tool}\", \"arguments\": {{}}}}</tool_call>");
    let (a, b) = (call("a"), call("b"));
    for (text, expected) in [
        (format!("{a}\n{b}"), &["a", "b"][..]),
        (format!("I will write <tool_call> now. {a}"), &["a"]),
        (format!("<tool_call><tool_call>{a}</tool_call>{b}</tool_call>"), &["a", "b"]),
        (format!("<tool_call>{{\"name\": \"c\"}} {a}"), &["a"]),
        (format!("</tool_call>{a}</tool_call>"), &["a"]),
        ("<tool_call>\n{\"name\": \"a\"}".to_owned(), &["a"]),
        ("<tool_call>{\"name\": \"a\"}} and then".to_owned(), &["a"]),
        (format!("{a} and <tool_call> is how I call."), &["a"]),
        ("<tool_call>soon".to_owned(), &[]),
        ("<tool_call>".to_owned(), &[]),
    ] {
        assert_eq!(name(&text), expected, "{text}");
    }
    // Tags in the strings of a call that can be read are text, whatever stands before and behind.
    let held =
        "<tool_call>{\"name\": \"crop\", \"arguments\": {\"text\": \"a</tool_call>}\\\" <tool_call>{\"}}</tool_call>";
    let text = format!("<tool_call> {held}{a}");
    let found = find(Hermes, &text);
    assert_eq!(found.iter().map(|found| spanned(&text, found)).collect::<Vec<_>>(), [held, a.as_str()]);
    assert_eq!(found[0].as_ref().unwrap().arguments["text"], "a</tool_call>}\" <tool_call>{");
    // In those of one that cannot, they are tags.
    let text = format!("<tool_call>{{\"name\": \"a\", \"arguments\": {{\"x\": \"un</tool_call>{b}");
    let found = find(Hermes, &text);
    assert!(found.len() == 2 && found[0].is_err() && found[1].as_ref().unwrap().tool == "b", "{found:?}");
}

#[test]
fn a_missing_closing_tag_is_added_but_a_cut_argument_is_not_completed() {
    let text = "<tool_call>\n{\"name\": \"crop\", \"arguments\": {\"x\": 1}}\n";
    let whole = only(Hermes, text);
    assert_eq!((whole.span, whole.repairs.as_slice()), (0..text.len() - 1, &["missing_closing_tag"][..]));
    let text = "<tool_call>```\n{\"name\": \"crop\", \"arguments\": {}}}\n``` I wait.";
    let fenced = only(Hermes, text);
    assert_eq!(fenced.repairs, ["fence", "extra_braces", "missing_closing_tag"]);
    assert_eq!(&text[fenced.span.end..], " I wait.");
    for (format, cut) in [
        (Hermes, "<tool_call>\n{\"name\": \"crop\", \"arguments\": {\"x\": 1"),
        (Hermes, "<tool_call>\n{\"name\": \"crop\", \"arguments\": {\"x\": 1}"),
        (Hermes, "<tool_call>\n{\"name\": \"crop\", \"arguments\": {\"x\": \"a"),
        (Hermes, "<tool_call>{"),
        (Qwen3Coder, "<tool_call>\n<function=cr"),
        (Qwen3Coder, "<tool_call>\n<function=crop>\n<param"),
        (Qwen3Coder, "<tool_call>\n<function=crop>\n<parameter=text"),
        (Qwen3Coder, "<tool_call>\n<function=crop>\n<parameter=text>\nsome te"),
        (Actions, "{\"thought\": \"a\", \"actions\": [{\"name\": \"crop\", \"arguments\": {\"x\": 1"),
        (Actions, "{\"actions\": [{\"name\": \"crop\", \"arguments\": {}}"),
    ] {
        assert_eq!(problem(format, cut), CallProblem::Cut, "{cut}");
    }
    let closed = only(Qwen3Coder, "<tool_call>\n<function=crop>\n<parameter=count>\n3\n</parameter>\n");
    assert_eq!(closed.arguments["count"], 3);
    assert_eq!(closed.repairs, ["missing_function_end", "missing_closing_tag"]);
}

#[test]
fn values_of_parameters_are_of_the_types_in_the_schema() {
    for (key, text, value) in [
        ("text", "12", json!("12")),
        ("text", "null", json!("null")),
        ("text", "{\"a\": 1}", json!("{\"a\": 1}")),
        ("text", "  two\n\nlines ", json!("  two\n\nlines ")),
        ("text", "a < b <c> </x> <tool_call> <function", json!("a < b <c> </x> <tool_call> <function")),
        ("text", "", json!("")),
        ("box", "[1, 2.5]", json!([1, 2.5])),
        ("box", "['a', True,]", json!(["a", true])),
        ("box", "1, 2", json!("1, 2")),
        ("count", " 3 ", json!(3)),
        ("count", "three", json!("three")),
        ("factor", "1.5", json!(1.5)),
        ("factor", "-2", json!(-2)),
        ("exact", "True", json!(true)),
        ("exact", "false", json!(false)),
        ("exact", "perhaps", json!("perhaps")),
        ("exact", "None", json!(null)),
        ("options", "{\"a\": [{}]}", json!({"a": [{}]})),
        ("options", "{'a': None}", json!({"a": null})),
        ("options", "{\"a\": 1} and", json!("{\"a\": 1} and")),
        ("either", "7", json!(7)),
        ("either", "7.5", json!("7.5")),
        ("either", "true", json!("true")),
        ("nullable", "null", json!(null)),
        ("nullable", "7", json!("7")),
        ("untyped", "[1]", json!([1])),
        ("unknown", "7", json!(7)),
        ("unknown", "[1]", json!([1])),
        ("unknown", "{\"a\": 1}", json!({"a": 1})),
        ("unknown", "true", json!("true")),
        ("unknown", "\"a\"", json!("\"a\"")),
    ] {
        let text =
            format!("<tool_call>\n<function=crop>\n<parameter={key}>\n{text}\n</parameter>\n</function>\n</tool_call>");
        assert_eq!(calls(Qwen3Coder, &text), crop(json!({ key: value })), "{text}");
    }
    // Without line breaks around a value, and of a tool that no schema has, or another.
    let plain =
        |tool: &str| format!("<tool_call><function={tool}><parameter=count>3</parameter></function></tool_call>");
    for (tool, value) in [("crop", json!(3)), ("nobody", json!(3)), ("other", json!("3"))] {
        assert_eq!(calls(Qwen3Coder, &plain(tool)), [(tool.to_owned(), json!({"count": value}))]);
    }
    let bare_schema = [schemas().remove(0)["function"].take()];
    assert_eq!(Qwen3Coder.find_calls(&plain("other"), &bare_schema)[0].as_ref().unwrap().arguments["count"], "3");
}

#[test]
fn slips_in_functions_are_repaired_and_named() {
    for (inside, arguments, repairs) in [
        (
            "<function=crop>\n<parameter=text>\na\n<parameter=count>\n2\n</function>",
            json!({"text": "a", "count": 2}),
            &["missing_parameter_end"][..],
        ),
        ("<function=crop>\n<parameter=text>\na\n</parameter>\n", json!({"text": "a"}), &["missing_function_end"]),
        ("<function=crop>", json!({}), &["missing_function_end"]),
        (
            "<function=crop>\n<parameter=text>\na",
            json!({"text": "a"}),
            &["missing_parameter_end", "missing_function_end"],
        ),
        ("I crop.\n<function=crop>\n</function>", json!({}), &["stray_text"]),
        ("<function=crop>\nas <parameter=text>a</parameter> is\n</function> so", json!({"text": "a"}), &["stray_text"]),
        ("<function= crop >\n</parameter></function>", json!({}), &[]),
        ("<function=crop><parameter=box>[1,]</parameter></function>", json!({"box": [1]}), &["trailing_comma"]),
    ] {
        let text = format!("<tool_call>\n{inside}\n</tool_call>");
        let found = only(Qwen3Coder, &text);
        assert_eq!((found.tool.as_str(), Value::Object(found.arguments)), ("crop", arguments), "{text}");
        assert_eq!((found.repairs.as_slice(), found.span), (repairs, 0..text.len()), "{text}");
    }
    // Qwen3-Coder leaves the opening tag out at times; vLLM reads that too.
    let text = "So:\n<function=crop>\n<parameter=count>\n2\n</parameter>\n</function>\n</tool_call>";
    let found = only(Qwen3Coder, text);
    assert_eq!((found.arguments["count"].clone(), found.repairs.as_slice()), (json!(2), &["missing_opening_tag"][..]));
    assert_eq!(&text[found.span], "<function=crop>\n<parameter=count>\n2\n</parameter>\n</function>");
    assert!(find(Qwen3Coder, "A call begins with <function=crop> there.").is_empty());
}

#[test]
fn the_last_list_of_actions_counts_and_each_entry_is_a_call() {
    let names = |text: &str| -> Vec<String> { calls(Actions, text).into_iter().map(|(tool, _)| tool).collect() };
    let object =
        |tool: &str| format!("{{\"thought\": \"t\", \"actions\": [{{\"name\": \"{tool}\", \"arguments\": {{}}}}]}}");
    let (a, b) = (object("a"), object("b"));
    for (text, expected) in [
        (a.clone(), &["a"][..]),
        (format!("First {a}, then {b}."), &["b"]),
        (format!("```json\n{a}\n```"), &["a"]),
        (format!("The 5\" sign says \"STOP\": {a}"), &["a"]),
        (format!("It says \"so\n and [so on {{ {a}"), &["a"]),
        (a.replace("\"t\"", "\"two\nlines, [one\""), &["a"]),
        (a.replace("\"t\"", "\"he says \"no\" and \\\"actions\\\": [\""), &["a"]),
        (a.replace("\"t\"", "\"a \" too many\""), &["a"]),
        (a.replace("\"actions\": ", "\"actions\"\n : "), &["a"]),
        (
            "{\"actions\": [{\"name\": \"a\", \"arguments\": {}}, {\"name\": \"b\", \"arguments\": {}}]".to_owned(),
            &["a", "b"],
        ),
        (
            "{\"actions\": [{\"name\": \"a\", \"arguments\": {\"actions\": [{\"name\": \"b\", \"arguments\": {}}]}}]}"
                .to_owned(),
            &["a"],
        ),
        ("{\"thought\": \"no tool\", \"actions\": []}".to_owned(), &[]),
        ("{\"actions\": {\"name\": \"a\"}} and \"actions\" [".to_owned(), &[]),
    ] {
        assert_eq!(names(&text), expected, "{text}");
    }
    let action = |entry: &str| format!("{{\"thought\": \"t\", \"actions\": [{entry}]}}");
    for (text, words) in [
        (action("{\"name\": \"a\"}"), "has no \"arguments\"; write {\"thought\": TEXT, \"actions\": [{"),
        (action("{\"name\": \"a\", \"arguments\": \"{}\"}"), "the arguments are a string, not an object"),
        (action("{\"name\": \"a\", \"arguments\": null}"), "the arguments are null, not an object"),
        (action("{\"arguments\": {}}"), "names no tool"),
        (action("\"a\""), "is JSON but no object"),
        (action("{\"name\": \"a\", \"arguments\": {},}"), "is not valid JSON"),
        (action("{\"name\": \"a\", \"arguments\": {\"x\": \"two\nlines\"}}"), "is not valid JSON: control character"),
        (format!("{a} and again {{\"actions\": [{{\"name\": ]"), "is not valid JSON"),
    ] {
        let said = find(Actions, &text).remove(0).expect_err(&text).to_string();
        assert!(said.contains(words), "{text:?}: {said}");
    }
    // One entry that cannot be read leaves the others.
    let text = action("{\"name\": \"a\", \"arguments\": {}}, 7, {\"name\": \"b\", \"arguments\": {}}");
    let found = find(Actions, &text);
    assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(spanned(&text, &found[1]), "7");
}

#[test]
fn deep_nesting_is_an_error() {
    for (format, before, behind) in [
        (Hermes, "<tool_call>{\"name\": \"crop\", \"arguments\": {\"x\": ", "}}</tool_call>"),
        (ToolTag, "<tool>{\"name\": \"crop\", \"args\": {\"x\": ", "}}</tool>"),
        (Actions, "{\"actions\": [{\"name\": \"crop\", \"arguments\": {\"x\": ", "}}]}"),
    ] {
        let nested = |depth: usize| format!("{before}{}{}{behind}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(only(format, &nested(100)).tool, "crop");
        let said = problem(format, &nested(100_000)).to_string();
        assert!(said.contains("is nested too deeply"), "{format:?}: {said}");
    }
    let deep =
        format!("<tool_call><function=crop><parameter=box>{}</parameter></function></tool_call>", "[".repeat(100_000));
    assert_eq!(only(Qwen3Coder, &deep).arguments["box"].as_str().unwrap().len(), 100_000);
}

#[test]
fn calls_that_chat_templates_render_are_read_back() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tool_calls/rendered.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    for case in cases {
        let format: CallFormat = serde_json::from_value(case["format"].clone()).unwrap();
        let (text, wanted) = (case["text"].as_str().unwrap(), case["calls"].as_array().unwrap());
        let found = format.find_calls(text, golden["schemas"].as_array().unwrap());
        let read: Vec<Value> = found
            .iter()
            .map(|found| {
                let call = found.as_ref().unwrap();
                assert!(call.repairs.is_empty(), "{text:?}: {:?}", call.repairs);
                json!([call.tool, call.arguments])
            })
            .collect();
        assert_eq!(&read, wanted, "{text}");
        // What is written is what the newest template of the form writes; numbers with an exponent are spelled in two ways.
        let is_older = case["template"] == "qwen3_5_think";
        for (found, call) in found.iter().zip(wanted).filter(|_| !is_older && !text.contains("1e")) {
            let written = format.write(call[0].as_str().unwrap(), call[1].as_object().unwrap());
            assert_eq!(written, spanned(text, found), "{}", case["template"]);
        }
    }
}

/// A piece of a hostile text.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<tool>",
        "</tool>",
        "<function=",
        "</function>",
        "<parameter=",
        "</parameter>",
        "<function=crop>",
        "<parameter=count>",
        "{\"name\": \"crop\", \"arguments\": {",
        "\"actions\": [",
        "\"actions\"",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "\\",
        ":",
        ",",
        "\n",
        "\t",
        " ",
        "```",
        "```json\n",
        "x",
        "é",
        "𝄞",
        "\u{a0}",
        "7",
        "1e9",
        "True",
        "null",
        "<",
        ">",
        "\"name\": \"crop\"",
        "\"args\": ",
        "\"x\": 1",
        "\0",
        "</",
    ])
}

/// JSON of any kind.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        3 => ".{0,12}".prop_map(String::from),
        1 => "(<tool_call>|</tool_call>|<tool>|</tool>|\"actions\": \\[|\"|\\\\|\n|'|\\{|\\}|é){0,6}".prop_map(String::from),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_a_panic_and_spans_are_in_order(pieces in prop::collection::vec(piece(), 0..40)) {
        let text = pieces.concat();
        for format in FORMATS {
            let mut end = 0;
            for found in find(format, &text) {
                let span: Range<usize> = match &found {
                    Ok(call) => call.span.clone(),
                    Err(malformed) => malformed.span.clone(),
                };
                prop_assert!(end <= span.start && span.start < span.end, "{:?}: {:?} behind {}", format, span, end);
                let whole = text.get(span.clone());
                prop_assert!(whole.is_some(), "{:?}: {:?} cuts a character of {:?}", format, span, text);
                end = span.end;
                let Ok(call) = found else { continue };
                let reread = find(format, &text[..end]).pop();
                prop_assert!(format == Actions || reread == Some(Ok(call.clone())), "{:?}: {:?} is {:?}", format, call, reread);
                prop_assert!(!call.tool.is_empty());
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back(
        tool in "[a-zA-Z_][a-zA-Z_0-9.-]{0,8}",
        arguments in prop::collection::vec((".{0,8}", any_json()), 0..5),
        before in "[a-z <>.]{0,8}",
    ) {
        let arguments: Map<String, Value> = arguments.into_iter().collect();
        for format in [Hermes, ToolTag, Actions] {
            let written = format.write(&tool, &arguments);
            let text = format!("{before}{written}\nSo.");
            let found = format.find_calls(&text, &[]);
            prop_assert_eq!(found.len(), 1, "{}", text);
            let call = found[0].as_ref().unwrap();
            prop_assert_eq!((&call.tool, &call.arguments, call.repairs.len()), (&tool, &arguments, 0));
            if let (Some(open), Some(close)) = (format.open_tag(), format.close_tag()) {
                prop_assert_eq!(spanned(&text, &found[0]), &*written);
                prop_assert_eq!((written.matches(open).count(), written.matches(close).count()), (1, 1), "tags in strings are escaped");
            }
        }
    }

    #[test]
    fn functions_that_are_written_are_read_back_with_their_schema(
        values in prop::collection::vec(any_json(), 0..5),
        has_brackets in any::<bool>(),
    ) {
        let marks = ["</parameter>", "<parameter=", "</function>", "</tool_call>"];
        let values = values.into_iter().filter(|value| !marks.iter().any(|mark| value.to_string().contains(mark)));
        let arguments: Map<String, Value> = values.enumerate().map(|(i, value)| (format!("key{i}"), value)).collect();
        let type_of = |value: &Value| match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let properties: Map<String, Value> =
            arguments.iter().map(|(key, value)| (key.clone(), json!({"type": type_of(value)}))).collect();
        let schema = json!({"type": "function", "function": {"name": "crop", "parameters": {"properties": properties}}});
        let before = if has_brackets { "a <tool_call> {" } else { "" };
        let text = format!("{before}{}", Qwen3Coder.write("crop", &arguments));
        let found = Qwen3Coder.find_calls(&text, &[schema]);
        prop_assert_eq!(found.len(), 1, "{}", text);
        let call = found[0].as_ref().unwrap();
        prop_assert_eq!((&call.arguments, call.span.clone(), call.repairs.len()), (&arguments, before.len()..text.len(), 0));
    }
}
