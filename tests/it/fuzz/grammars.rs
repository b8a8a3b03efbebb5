//! Grammars in Lark's notation and regular expressions: those of the corpus changed, and new ones that nest, chain and repeat.

use serde_json::{Value, json};

use super::mutate::{self, BYTES_MAX, Corpus, shortened};
use super::wire::{Request, post};
use crate::support::small_policy::Random;

const LARK_WORDS: [&str; 30] = [
    "start",
    ":",
    "|",
    "\n",
    " ",
    "(",
    ")",
    "[",
    "]",
    "*",
    "+",
    "?",
    "{2,5}",
    "{0,4000000000}",
    "~3",
    "\"a\"",
    "\"\"",
    "\"é\"i",
    "/[a-z]+/",
    "/./",
    "/(a*)*b/",
    "..",
    "%ignore",
    "%json",
    "{\"type\": \"integer\"}",
    "%regex",
    "%import common.INT",
    "%llguidance {}",
    "<|im_end|>",
    "[stop=\"x\"]",
];
const REGEX_WORDS: [&str; 24] = [
    "a",
    "[a-z]",
    "[^\\n]",
    "\\d",
    "\\w",
    "\\p{L}",
    "\\PZ",
    "(",
    ")",
    "(?:",
    "(?i)",
    "(?=a)",
    "(?<!b)",
    "|",
    "*",
    "+?",
    "?",
    "{3}",
    "{2,9}",
    "{1000}",
    "{0,100000}",
    "^",
    "$",
    "\\b",
];

/// A request with a grammar, a regular expression or choices.
pub fn make(random: &mut Random, corpus: &Corpus) -> Request {
    let (kind, form): (&str, Value) = match random.below(10) {
        0..6 => ("grammar", lark(random, corpus).into()),
        6..9 => ("regex", regex(random, corpus).into()),
        _ => ("choice", (0..random.below(40)).map(|_| mutate::words(random)).collect::<Vec<_>>().into()),
    };
    let mut body = json!({"max_tokens": 1 + random.below(4), "seed": random.below(100)});
    if random.one_in(3) {
        body[format!("guided_{kind}")] = form;
    } else {
        body["structured_outputs"] = json!({kind: form});
    }
    if random.one_in(2) {
        body["messages"] = crate::support::server::says("Which plate?");
        return post("/v1/chat/completions", body.to_string().as_bytes());
    }
    body["prompt"] = "Which plate?".into();
    post("/v1/completions", body.to_string().as_bytes())
}

fn lark(random: &mut Random, corpus: &Corpus) -> String {
    let text = match random.below(5) {
        0 => corpus.text(random, ".lark"),
        1 => long(random),
        _ => rules(random),
    };
    if random.one_in(2) {
        return shortened(text, BYTES_MAX);
    }
    let other = corpus.text(random, ".lark");
    mutate::text(random, &text, &other, &LARK_WORDS, 4)
}

/// A grammar of a few rules that use each other.
fn rules(random: &mut Random) -> String {
    let (rules, terminals) = (1 + random.below(6), 1 + random.below(3));
    let mut text = format!("start: {}\n", choice(random, rules, terminals, 3));
    for number in 0..rules {
        text += &format!("rule_{number}: {}\n", choice(random, rules, terminals, 3));
    }
    for number in 0..terminals {
        text += &format!("TERM_{number}: {}\n", terminal(random));
    }
    if random.one_in(6) {
        text += "%ignore / +/\n";
    }
    text
}

fn choice(random: &mut Random, rules: usize, terminals: usize, depth: usize) -> String {
    let sequence = |random: &mut Random| {
        let items: Vec<String> = (0..1 + random.below(3)).map(|_| item(random, rules, terminals, depth)).collect();
        items.join(" ")
    };
    // The first way ends: a grammar that only goes round fits no text.
    let mut ways = vec![terminal(random)];
    ways.extend((0..random.below(3)).map(|_| sequence(random)));
    ways.join(" | ")
}

fn item(random: &mut Random, rules: usize, terminals: usize, depth: usize) -> String {
    let one = match random.below(6) {
        0 | 1 => format!("rule_{}", random.below(rules)),
        2 => format!("TERM_{}", random.below(terminals)),
        3 if depth > 0 => format!("({})", choice(random, rules, terminals, depth - 1)),
        4 if random.one_in(3) => {
            "%json {\"type\": \"object\", \"properties\": {\"a\": {\"enum\": [1, \"b\", null]}}}".to_owned()
        }
        _ => terminal(random),
    };
    match random.below(10) {
        0 => format!("{one}*"),
        1 => format!("{one}+"),
        2 => format!("{one}?"),
        3 => format!("{one}{{{},{}}}", random.below(4), 4 + random.pick(&[0, 5, 100, 10_000])),
        _ => one,
    }
}

fn terminal(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("/{}/", pattern(random, 2)),
        1 => random.pick(&["\"a\"", "\"b\"i", "\"größe\"", "\"\\n\"", "\"<\"", "\" \""]).to_owned(),
        _ => format!("\"{}\"", random.pick(&["red", "blue", "plate", "1", "{", "}", ","])),
    }
}

/// What is long or deep in one way.
fn long(random: &mut Random) -> String {
    let count = random.pick(&[3, 30, 300, 1000, 3000]);
    match random.below(8) {
        // Rules in a row.
        0 => {
            (0..count).map(|i| format!("r{i}: r{}\n", i + 1)).fold("start: r0\n".to_owned(), |text, line| text + &line)
                + &format!("r{count}: \"a\"\n")
        }
        // Left and right recursion through many rules.
        1 => (0..count)
            .map(|i| format!("r{i}: \"a\" r{0} \"b\" | r{0} | \"c\"\n", (i + 1) % count))
            .fold("start: r0\n".to_owned(), |text, line| text + &line),
        2 => format!("start: {}\"a\"{}\n", "(".repeat(count), ")".repeat(count)),
        3 => format!("start: {}\n", vec!["\"ab\""; count].join(" | ")),
        4 => format!("start: {}\n", vec!["/[a-z]{1,9}/"; count].join(" ")),
        // Each rule twice the one before.
        5 => {
            (0..count.min(60))
                .map(|i| format!("r{i}: r{0} r{0}\n", i + 1))
                .fold("start: r0\n".to_owned(), |text, line| text + &line)
                + &format!("r{}: \"a\"\n", count.min(60))
        }
        6 => format!("start: \"a\"{}\n", "{2}".repeat(count.min(30))),
        _ => format!(
            "start: T0\n{}T{count}: \"a\"\n",
            (0..count).map(|i| format!("T{i}: \"x\" T{}\n", i + 1)).collect::<String>()
        ),
    }
}

fn regex(random: &mut Random, corpus: &Corpus) -> String {
    let text = match random.below(5) {
        0 => corpus.text(random, ".regex").trim_end().to_owned(),
        1 => {
            let count = random.pick(&[3, 30, 300, 3000]);
            match random.below(5) {
                0 => format!("{}a{}", "(".repeat(count), ")".repeat(count)),
                1 => format!("{}a{}", "(".repeat(count.min(60)), ")*".repeat(count.min(60))),
                2 => format!("(a|b|ab){{{count}}}"),
                3 => vec!["[a-z]+"; count].join("|"),
                _ => format!("(.*a){{{}}}", count.min(40)),
            }
        }
        _ => pattern(random, 4),
    };
    if random.one_in(2) {
        return shortened(text, BYTES_MAX);
    }
    let other = corpus.text(random, ".regex");
    mutate::text(random, &text, &other, &REGEX_WORDS, 3)
}

/// A regular expression.
fn pattern(random: &mut Random, depth: usize) -> String {
    let mut text = String::new();
    for _ in 0..1 + random.below(3) {
        text += &match random.below(8) {
            0 if depth > 0 => format!("({}|{})", pattern(random, depth - 1), pattern(random, depth - 1)),
            1 if depth > 0 => format!("({})", pattern(random, depth - 1)),
            2 => random.pick(&["[a-z]", "[0-9]", "[^a]", "[^\\n]", "\\d", "\\w", "\\s", "."]).to_owned(),
            3 => random.pick(&["ä", "é", "😀", "\\.", "\\-", "[α-ω]", "\\p{Lu}"]).to_owned(),
            _ => random.pick(&["a", "b", "ab", "red", "0"]).to_owned(),
        };
        text += random.pick(&["", "", "", "", "*", "+", "?", "{2}", "{0,3}", "{1,40}"]);
    }
    text
}
