//! Harder tasks of the same kind, which want other tools: each is a question about pictures, and what a model would write that finds the answer, turn
//! by turn, in the form of calls of one environment.

mod chart;
mod frames;
mod plates;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::mixture::Kind;
use super::scene::Split;
use crate::tasks::draws::Draws;
use crate::tasks::{Example, Message, Role, Solution};

/// A variant of the task, made for one environment's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Ten to twelve plates with digits of 21 pixels: for `zoom_in`.
    Small,
    /// The larger of the digits on two plates, to be seen by two crops: for `zoom_in_bank`.
    Compare,
    /// Plates with a digit of 28 pixels in one of four corners, to be seen by a crop of a crop: for `zoom_in_bank`.
    Nested,
    /// The value of a bar, to be read where a drawn line meets the scale: for `tool_planner`.
    Chart,
    /// Six frames, of which one has the plate: for `pixel_reasoner`.
    Frames,
    /// A picture that must be brightened before it can be read: for `vision_tools`.
    Dark,
}

/// Crops of a lesson in reading.
const READ: usize = 6;

/// What is learned from.
#[derive(Clone, Debug, PartialEq)]
pub enum Lesson {
    /// A demonstration.
    Told(Example),
    /// A task, and the turns of a model, which become a demonstration when an environment answers them.
    Script {
        /// Pictures and question, with the solution: one message of the user.
        task: Example,
        /// What the model writes; the last turn has the answer.
        turns: Vec<String>,
    },
}

impl Variant {
    /// All variants.
    pub const ALL: [Variant; 6] =
        [Variant::Small, Variant::Compare, Variant::Nested, Variant::Chart, Variant::Frames, Variant::Dark];

    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Small => "small",
            Variant::Compare => "compare",
            Variant::Nested => "nested",
            Variant::Chart => "chart",
            Variant::Frames => "frames",
            Variant::Dark => "dark",
        }
    }

    /// Task `index` of `seed`.
    pub fn task(self, split: Split, seed: u64, index: u64) -> Example {
        self.drawn(split, seed, index, &mut Draws::new(seed, index, 2)).task()
    }

    /// Whether a demonstration can make its last call twice.
    pub fn can_look_twice(self) -> bool {
        !matches!(self, Variant::Chart | Variant::Dark)
    }

    /// Lesson `index` of `seed`, of one kind: to look, once or twice, to guess, or else to read digits.
    pub fn lesson(self, kind: Kind, split: Split, seed: u64, index: u64) -> Lesson {
        let draws = &mut Draws::new(seed, index, 2);
        let drawn = self.drawn(split, seed, index, draws);
        match kind {
            Kind::Look | Kind::LookTwice => {
                let last = self.answer(&drawn.sight.text, drawn.sight.digit);
                let mut turns = drawn.calls.clone();
                turns.extend(turns.last().filter(|_| kind == Kind::LookTwice).and_then(|call| again(call)));
                turns.push(last);
                Lesson::Script { task: drawn.task(), turns }
            }
            Kind::Guess => {
                let digit = self.guessed(draws);
                let turn = self.answer(&format!("I can tell at a glance: it is {digit}."), digit);
                Lesson::Script { task: drawn.task(), turns: vec![turn] }
            }
            Kind::Task | Kind::Caption | Kind::Read => Lesson::Told(self.read(drawn.crops)),
        }
    }

    fn drawn(self, split: Split, seed: u64, index: u64, draws: &mut Draws) -> Drawn {
        match self {
            Variant::Small => plates::small(split, seed, index, draws),
            Variant::Compare => plates::compare(split, seed, index, draws),
            Variant::Nested => plates::nested(split, seed, index, draws),
            Variant::Chart => chart::chart(split, seed, index, draws),
            Variant::Frames => frames::frames(split, seed, index, draws),
            Variant::Dark => plates::dark(split, seed, index, draws),
        }
    }

    /// What a model says that does not look: any digit, or the larger of any two.
    fn guessed(self, draws: &mut Draws) -> u8 {
        let mut digit = || draws.below(10) as u8;
        match self {
            Variant::Compare => digit().max(digit()),
            _ => digit(),
        }
    }

    /// The last turn of a model.
    fn answer(self, thought: &str, digit: u8) -> String {
        match self {
            Variant::Chart => planned(thought, "Terminate", &json!({"ans": digit.to_string()})),
            _ => format!("<think>{thought}</think>\n<answer>{digit}</answer>"),
        }
    }

    /// What stands before and behind a picture that a tool made.
    fn around_picture(self) -> [&'static str; 2] {
        match self {
            Variant::Small | Variant::Compare | Variant::Nested => ["<tool_response>\n", "\n</tool_response>"],
            Variant::Chart => [
                "OBSERVATION:\nCrop model outputs: Image cropped successfully.\nPlease summarize the model outputs and answer my first question.",
                "",
            ],
            Variant::Frames => ["\nHere is the cropped image (Image Size: 56x56):", ""],
            Variant::Dark => ["<result>Image processed successfully.", "</result>"],
        }
    }

    /// Crops, each as if a tool had just made it, and what is seen in them.
    fn read(self, crops: Vec<(Vec<RgbImage>, Sight)>) -> Example {
        let (mut messages, mut images) = (Vec::new(), Vec::new());
        let [before, behind] = self.around_picture();
        for (pictures, sight) in crops.into_iter().take(READ) {
            let seen = vec![format!("{before}<image>{behind}"); pictures.len()];
            messages.push(Message::new(Role::User, seen.join("\n")));
            messages.push(Message::new(Role::Assistant, self.answer(&sight.text, sight.digit)));
            images.extend(pictures);
        }
        Example { messages, images, solution: None, question: None, tools: None }
    }
}

/// What a variant draws.
struct Drawn {
    images: Vec<RgbImage>,
    question: String,
    /// The turns that call tools.
    calls: Vec<String>,
    /// What is seen in the end.
    sight: Sight,
    /// Crops of the pictures, and what is seen in them.
    crops: Vec<(Vec<RgbImage>, Sight)>,
}

/// What is seen, and the answer that it gives.
#[derive(Clone, Debug)]
struct Sight {
    text: String,
    digit: u8,
}

impl Drawn {
    fn task(&self) -> Example {
        let marks: String = match self.images.len() {
            1 => "<image>\n".to_owned(),
            several => (1..=several).map(|number| format!("Frame {number}: <image>\n")).collect(),
        };
        Example {
            messages: vec![Message::new(Role::User, format!("{marks}{}", self.question))],
            images: self.images.clone(),
            solution: Some(Solution::text(self.sight.digit.to_string())),
            question: Some(self.question.clone()),
            tools: None,
        }
    }
}

/// A thought and calls as Hermes writes them, each of a tool with its arguments.
fn hermes<const N: usize>(thought: &str, calls: [(&str, String); N]) -> String {
    let call = |(tool, arguments)| {
        format!("\n<tool_call>\n{{\"name\": \"{tool}\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    format!("<think>{thought}</think>{}", calls.map(call).concat())
}

/// The turn of a call, made once more with another thought.
fn again(turn: &str) -> Option<String> {
    turn.split_once("</think>").map(|(_, call)| format!("<think>Let me look again.</think>{call}"))
}

/// A thought and a call as verifiers' vision environment writes it.
fn tool_tag(thought: &str, tool: &str, arguments: &str) -> String {
    format!("<think>{thought}</think>\n<tool>{{\"name\": \"{tool}\", \"args\": {arguments}}}</tool>")
}

/// A thought and an action as OpenThinkIMG writes it.
fn planned(thought: &str, tool: &str, arguments: &Value) -> String {
    let thought = Value::from(thought);
    format!("{{\"thought\": {thought}, \"actions\": [{{\"name\": \"{tool}\", \"arguments\": {arguments}}}]}}")
}
