//! Chat templates that a request brings: those of the corpus changed, and new ones that loop, recurse and write much.

use serde_json::json;

use super::mutate::{self, BYTES_MAX, Corpus, shortened};
use super::wire::{Request, post};
use crate::support::small_policy::Random;

const WORDS: [&str; 40] = [
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "{%-",
    "-%}",
    " for ",
    " in ",
    " if ",
    " else ",
    " endif ",
    " endfor ",
    " set ",
    " macro f(x) ",
    " endmacro ",
    "messages",
    "message",
    "['role']",
    ".content",
    "loop.index",
    "namespace(n=1)",
    "range(10)",
    "range(10**9)",
    " | length",
    " | tojson",
    " | tojson(indent=10**10)",
    " | trim",
    " | join",
    "[::-1]",
    "[0]",
    " ~ ",
    " * 1000000",
    " is defined",
    "none",
    "tools",
    "raise_exception('x')",
    "strftime_now('%Y')",
    "<|im_start|>",
];

/// A request with a template.
pub fn make(random: &mut Random, corpus: &Corpus) -> Request {
    let template = match random.below(4) {
        0 => corpus.text(random, ".jinja"),
        1 => heavy(random),
        _ => frame(random),
    };
    let template = if random.one_in(2) {
        shortened(template, BYTES_MAX)
    } else {
        let other = corpus.text(random, ".jinja");
        mutate::text(random, &template, &other, &WORDS, 3)
    };
    let mut messages = vec![json!({"role": "user", "content": mutate::words(random) + "a"})];
    for _ in 0..random.below(4) {
        messages.push(json!({"role": random.pick(&["system", "assistant", "user", "tool", "x"]), "content": mutate::words(random)}));
    }
    let mut body = json!({"messages": messages, "chat_template": template, "max_tokens": 1 + random.below(3)});
    if random.one_in(3) {
        body["chat_template_kwargs"] =
            json!({"x": mutate::scalar(random), "enable_thinking": false, "n": random.below(100)});
    }
    if random.one_in(4) {
        body["tools"] = json!([{"type": "function", "function": {"name": "crop", "parameters": {"type": "object"}}}]);
    }
    if random.one_in(8) {
        body["continue_final_message"] = true.into();
        body["add_generation_prompt"] = false.into();
    }
    post(
        random.pick(&["/v1/chat/completions", "/v1/chat/completions", "/tokenize", "/v1/chat/completions/render"]),
        body.to_string().as_bytes(),
    )
}

/// A template that writes each message, with something besides.
fn frame(random: &mut Random) -> String {
    let (before, within) = (statement(random, 3), statement(random, 3));
    format!(
        "{before}{{% for message in messages %}}<|im_start|>{{{{ message.role }}}}\n{within}{{{{ message.content }}}}<|im_end|>\n{{% endfor %}}a"
    )
}

fn statement(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return "b".to_owned();
    }
    let (value, inner) = (expression(random, depth), statement(random, depth - 1));
    match random.below(8) {
        0 => format!("{{% if {value} %}}{inner}{{% else %}}c{{% endif %}}"),
        1 => format!("{{% for i in range({}) %}}{inner}{{% endfor %}}", random.below(6)),
        2 => format!("{{% set x = {value} %}}{inner}"),
        3 => format!(
            "{{% set ns = namespace(n=0) %}}{{% for i in range(5) %}}{{% set ns.n = ns.n + i %}}{{% endfor %}}{{{{ ns.n }}}}{inner}"
        ),
        4 => format!("{{% macro f{depth}(a) %}}{{{{ a }}}}{inner}{{% endmacro %}}{{{{ f{depth}({value}) }}}}"),
        5 => format!("{{% filter upper %}}{inner}{{% endfilter %}}"),
        _ => format!("{{{{ {value} }}}}{inner}"),
    }
}

fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return random
            .pick(&["1", "'a'", "messages", "x", "none", "true", "[1, 2]", "{'a': 1}", "tools", "messages[0].role"])
            .to_owned();
    }
    let (a, b) = (expression(random, depth - 1), expression(random, depth - 1));
    match random.below(8) {
        0 => format!("({a} ~ {b})"),
        1 => format!("({a} == {b})"),
        2 => format!("({a} if {b} else 'c')"),
        3 => format!("({a} | string)"),
        4 => format!("({a} | tojson)"),
        5 => format!("[{a}, {b}] | length"),
        6 => format!("({a} is defined and {b} is string)"),
        _ => a,
    }
}

/// What takes long, or much memory, or many frames, in one way.
fn heavy(random: &mut Random) -> String {
    let count = random.pick(&[3, 30, 300, 3000]);
    let ways = [
        format!("{{{{ {}1{} }}}}", "(".repeat(count), ")".repeat(count)),
        format!("{{{{ {}1{} }}}}", "[".repeat(count), "]".repeat(count)),
        format!("{{{{ {}1 }}}}", "1 + ".repeat(count)),
        format!("{{{{ {}1 }}}}", "not ".repeat(count)),
        format!("{{{{ {}1 }}}}", "-".repeat(count)),
        format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(count)),
        format!("{{{{ 'a'{} }}}}", " | upper".repeat(count)),
        format!("{{{{ messages{} }}}}", "[0]".repeat(count)),
        format!("{}a{}", "{% if 1 %}".repeat(count), "{% endif %}".repeat(count)),
        format!("{}a{}", "{% for i in [1] %}".repeat(count), "{% endfor %}".repeat(count)),
        format!("{}a{}", "{% for i in range(9) %}".repeat(count.min(12)), "{% endfor %}".repeat(count.min(12))),
        format!("{{% set x = 'ab' %}}{}{{{{ x | length }}}}", "{% set x = x ~ x %}".repeat(count.min(60))),
        format!("{{% set x = [1] %}}{}{{{{ x | length }}}}", "{% set x = x + x %}".repeat(count.min(60))),
        format!("{{% set x = [] %}}{}a", "{% set x = [x, x] %}".repeat(count)),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        format!("{{% macro f(n) %}}{{% if n %}}{{{{ f(n - 1) }}}}{{% endif %}}{{% endmacro %}}{{{{ f({count}) }}}}a"),
        format!(
            "{{% macro f(n) %}}{{% if n %}}{{{{ f(n - 1) ~ f(n - 1) }}}}{{% endif %}}a{{% endmacro %}}{{{{ f({}) }}}}",
            count.min(64)
        ),
        format!("{{% for i in range({}) %}}{{% endfor %}}a", count * count),
        "{% for i in range(10**9) %}{% endfor %}a".to_owned(),
        format!("{{{{ 'a' * {} }}}}", random.pick(&mutate::NUMBERS)),
        format!("{{{{ messages | tojson(indent={}) }}}}", random.pick(&mutate::NUMBERS)),
        format!("{{{{ 'a'.center({0}) }}}}{{{{ '%{0}s' | format(1) }}}}", random.pick(&mutate::NUMBERS)),
        format!("{{{{ 'a'.replace('', 'b' * {count}) }}}}"),
        format!("{{{{ ('ab' * {count}).split('a') | join('x' * {count}) }}}}"),
        format!("{{{{ range({}) | list | length }}}}", count * 300),
        format!("{{{{ range({count}) | list | sort | reverse | batch(3) | list }}}}"),
        format!("{{{{ 2 ** {count} }}}}{{{{ 10 ** 18 * 100 }}}}{{{{ 1 // 0 }}}}"),
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}a".to_owned(),
        "{% include 'x' %}{% import 'x' as y %}{% extends 'z' %}".to_owned(),
    ];
    random.pick(&ways)
}
