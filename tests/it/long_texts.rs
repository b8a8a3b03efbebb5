//! A megabyte of anything that a model may write is read in time that is linear in it.

use std::time::{Duration, Instant};

use thyme_engine::engine::sampling::stop::StopMatcher;
use thyme_engine::rollout::call::find_call;
use thyme_engine::rollout::call_formats::CallFormat;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::repetition::{Repetition, RepetitionSettings};
use thyme_engine::rollout::reward::View;
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};
use thyme_engine::rollout::trajectory::End;

const BYTES: usize = 1 << 20;
const PIECES: &[&str] = &[
    "x",
    "7",
    " ",
    "\n",
    "[",
    "(",
    "{",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    ".",
    ".png ",
    "`",
    "```",
    "``` ",
    "```\n",
    "```x\n",
    "```python\n",
    "```\nx\n```\n",
    "~~~\n",
    "~~~ ```",
    "<code>",
    "<code>```",
    "<code>```\nx\n```\n",
    "<code>\"",
    "<code>#\n",
    "<CODE>'x' ",
    "</code>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "é",
    "\u{7ff}",
    "\0",
    "1,",
    "1, ",
    "1+",
    "-",
    "^",
    "\\frac{",
    "\\frac{1}{2}",
    "$",
    "A. x\n",
    "(A) ",
    "A or ",
    "is ",
    "not ",
    "答案是",
    "= ",
    "x = ",
    "1/",
    "1.",
    "%",
    "1e",
    "and ",
    "ten ",
    "hundred ",
    "1 m ",
    "1 km/h ",
    "|",
    "||",
    "\\text{",
    "<",
    "*",
    "**",
    ", ",
    "; ",
    ": ",
];

fn long(piece: &str) -> String {
    piece.repeat(BYTES / piece.len())
}

/// What took longer than it may.
#[derive(Default)]
struct Slow(Vec<String>);

impl Slow {
    fn time<T>(&mut self, what: &str, piece: &str, most: Duration, run: impl FnOnce() -> T) {
        let started = Instant::now();
        std::hint::black_box(run());
        let taken = started.elapsed();
        if taken > most {
            self.0.push(format!("{what} of {piece:?}: {taken:?}"));
        }
    }

    fn assert_none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

#[test]
fn calls_are_found_in_a_megabyte_of_anything() {
    let mut slow = Slow::default();
    for piece in PIECES {
        let text = long(piece);
        for whole in [
            format!("{text}<code>x</code>"),
            format!("<code>{text}</code>"),
            format!("<code>```python\n{text}\n```</code>"),
            format!("<code>{text}```\nx\n```{text}</code>"),
            format!("<code>```\n'''{text}\n```\n{text}</code>"),
        ] {
            slow.time("find_call", piece, Duration::from_secs(2), || find_call(&whole).map(|call| call.code.len()));
        }
    }
    slow.assert_none();
}

#[test]
fn calls_of_every_form_are_found_in_a_megabyte_of_anything() {
    const CALLS: [&str; 34] = [
        "<tool_call>",
        "<tool_call>{",
        "<tool_call>{\"",
        "<tool_call>{'",
        "<tool_call>{'\"",
        "<tool_call>{'\"'\"",
        "<tool_call>{\"\\\"",
        "<tool_call>{\"name\": \"a\"}",
        "<tool_call>{\"a\":[",
        "<tool_call>```json\n",
        "</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool>",
        "<tool>{\"a\":\"",
        "</tool>",
        "<function=",
        "<function=a>",
        "<function=a><parameter=b>",
        "<tool_call><function=a>",
        "<tool_call><function=a><parameter=b>",
        "<tool_call><function=a><parameter=b></parameter>",
        "<tool_call><function=a><parameter=b><tool_call></parameter>",
        "<parameter=b>",
        "<parameter=b>[",
        "</parameter>",
        "</function>",
        "\"actions\":[",
        "\"actions\" ",
        "{\"actions\":[",
        "{\"actions\":[]},",
        "[{\"name\":\"a\",\"arguments\":{}},",
        "}",
        "],",
        "\\",
    ];
    let mut slow = Slow::default();
    for piece in CALLS.iter().chain(PIECES) {
        let text = long(piece);
        let open = "<tool_call><function=a>\n<parameter=b>\n";
        for whole in [
            text.clone(),
            format!("{text}</tool_call></tool>"),
            format!("<tool_call>{{\"name\": \"a\", \"arguments\": {{\"b\": {text}}}}}</tool_call>"),
            format!("<tool>{{\"name\": \"a\", \"args\": {{\"b\": \"{text}\"}}}}</tool>"),
            format!("{open}{text}\n</parameter>\n</function>\n</tool_call>"),
            format!("{{\"thought\": \"{text}\", \"actions\": [{{\"name\": \"a\", \"arguments\": {text}}}]}}"),
        ] {
            for format in [CallFormat::Hermes, CallFormat::Qwen3Coder, CallFormat::ToolTag, CallFormat::Actions] {
                slow.time(&format!("{format:?}"), piece, Duration::from_secs(1), || {
                    format.find_calls(&whole, &[]).len()
                });
            }
        }
    }
    slow.assert_none();
}

#[test]
fn a_megabyte_of_anything_is_scored_in_time() {
    let mut slow = Slow::default();
    let rewards = RewardSet::new(&RewardSettings::default(), &Registry::default()).unwrap();
    for piece in PIECES {
        let text = long(piece);
        for (what, question, solution, thought, answer) in [
            ("an answer", "What is it?", "7", "It is 7.", &*text),
            ("a thought", "Which? A. a dog B. a cat", "B", &*text, "B"),
            ("both", "What is it?", "red fox", &*text, &*text),
            ("a question", &*text, "7", "It is 7.", "7"),
        ] {
            let view = View {
                text: format!("<think>{thought}</think>\n<answer>{answer}</answer>"),
                thought: format!("<think>{thought}</think>\n"),
                answer: Some(answer.to_owned()),
                turns: &[],
                calls: &[],
                own_tokens: 0,
                images: &TrajectoryImages::default(),
                end: &End::Answered,
                question,
                solution: &solution.into(),
                columns: None,
            };
            slow.time(what, piece, Duration::from_secs(2), || rewards.score_group(std::slice::from_ref(&view)));
        }
    }
    slow.assert_none();
}

#[test]
fn stops_and_repetition_are_watched_in_a_megabyte_of_anything() {
    let mut slow = Slow::default();
    let strings = ["</code>".to_owned(), "</answer>".to_owned()];
    for piece in PIECES {
        let (mut stop, mut repetition) = (StopMatcher::default(), Repetition::new(RepetitionSettings::default()));
        let text = long(piece);
        slow.time("stop and repetition", piece, Duration::from_secs(2), || {
            for bytes in text.as_bytes().chunks(4) {
                stop.read(bytes, &strings);
                repetition.push(bytes);
            }
        });
    }
    slow.assert_none();
}
