//! A megabyte of anything that a model may write is read in time that is linear in it.

use std::time::{Duration, Instant};

use thyme_engine::engine::sampling::stop::StopMatcher;
use thyme_engine::rollout::call::find_call;
use thyme_engine::rollout::repetition::{Repetition, RepetitionSettings};
use thyme_engine::rollout::reward::{RewardSet, RewardSettings, View};
use thyme_engine::rollout::transcript::End;

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

fn timed<T>(what: &str, piece: &str, seconds: u64, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = run();
    assert!(started.elapsed() < Duration::from_secs(seconds), "{what} of {piece:?}: {:?}", started.elapsed());
    result
}

#[test]
fn calls_are_found_in_a_megabyte_of_anything() {
    for piece in PIECES {
        let text = long(piece);
        for whole in [
            format!("{text}<code>x</code>"),
            format!("<code>{text}</code>"),
            format!("<code>```python\n{text}\n```</code>"),
            format!("<code>{text}```\nx\n```{text}</code>"),
            format!("<code>```\n'''{text}\n```\n{text}</code>"),
        ] {
            timed("find_call", piece, 2, || find_call(&whole).map(|call| call.code.len()));
        }
    }
}

#[test]
fn a_megabyte_of_anything_is_scored_in_time() {
    let rewards = RewardSet::new(&RewardSettings::default()).unwrap();
    for piece in PIECES {
        let text = long(piece);
        for (question, solution, thought, answer) in [
            ("What is it?", "7", "It is 7.", &*text),
            ("Which? A. a dog B. a cat", "B", &*text, "B"),
            ("What is it?", "red fox", &*text, &*text),
            (&*text, "7", "It is 7.", "7"),
        ] {
            let view = View {
                text: format!("<think>{thought}</think>\n<answer>{answer}</answer>"),
                answer: Some(answer.to_owned()),
                calls: &[],
                end: &End::Answered,
                question,
                solution: &solution.into(),
            };
            timed("scoring", piece, 5, || rewards.score_view(&view));
        }
    }
}

#[test]
fn stops_and_repetition_are_watched_in_a_megabyte_of_anything() {
    let strings = ["</code>".to_owned(), "</answer>".to_owned()];
    for piece in PIECES {
        let (mut stop, mut repetition) = (StopMatcher::default(), Repetition::new(RepetitionSettings::default()));
        let text = long(piece);
        timed("stop and repetition", piece, 2, || {
            for bytes in text.as_bytes().chunks(4) {
                stop.read(bytes, &strings);
                repetition.push(bytes);
            }
        });
    }
}
