//! What happened in one sequence: a growing token list, cut into turns. It alone says which tokens are the model's own and so may be
//! trained: those that carry a [`Sampled`].

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::answer::AnswerRange;
use super::generator::Sampled;
use super::images::TrajectoryImages;
use super::task::Conversation;
use super::tool::{ToolImage, ToolOutput};
use crate::prompt::{PreparedImage, Prompt};

/// One sequence from its prompt to its end.
#[derive(Clone, Debug)]
pub struct Trajectory {
    /// Index of the task in the list that [`super::run`] rolls out; elsewhere the number that [`super::agent_loop::Start`] gave it.
    pub task: usize,
    /// Which of the task's group, from 0.
    pub sample: usize,
    /// Number of the sequence in the generator; `(first_task + task) * group_size + sample` in [`super::run`]. It is the counter of its random
    /// numbers unless `Start::first_counter` is set.
    pub sequence: u64,
    /// Tokens of the prompt, at the front of `token_ids`.
    pub prompt_tokens: usize,
    /// What the prompt was made of.
    pub conversation: Arc<Conversation>,
    /// Prompt, own and observed tokens in order; images as runs of placeholders.
    pub token_ids: Vec<u32>,
    /// Beside each token: how it was sampled if the model sampled it, `None` in prompt and observations. `[token_ids.len()]`.
    pub sampled: Vec<Option<Sampled>>,
    /// The images in the order of their placeholders, the prompt's first.
    pub images: Vec<Arc<PreparedImage>>,
    /// The same in original pixels, by index.
    pub original_images: TrajectoryImages,
    /// What follows the prompt, without gaps or overlaps.
    pub turns: Vec<Turn>,
    /// How the model ended each turn that the environment read, in order: one for each observation, and one more where such a turn has none.
    pub turn_ends: Vec<TurnEnd>,
    /// The tool calls in order. The last may have no observation turn: an observation that would reach a limit ends the trajectory.
    pub calls: Vec<Call>,
    /// The answer in [`Trajectory::own_text`]; `None` where the environment found none.
    pub answer: Option<AnswerRange>,
    /// Why it ended.
    pub end: End,
}

/// A stretch of the token list after the prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Turn {
    /// What it is.
    pub kind: TurnKind,
    /// Its tokens in `Trajectory::token_ids`. A token that belongs to two turns counts as the second's.
    pub tokens: Range<usize>,
    /// Its text; an image in an observation is `<image>` in it, and an end-of-turn token is left out.
    pub text: String,
    /// Of an observation: the calls that it answers, in `Trajectory::calls`. Empty for other kinds.
    #[serde(skip)]
    pub calls: Range<usize>,
}

/// How the model ended a turn that the environment reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// With the stop string of this index in the environment's list.
    StopString(usize),
    /// By closing its message.
    Message,
}

/// The kinds of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnKind {
    /// The model thinks.
    Thought,
    /// The model calls a tool.
    Call,
    /// The environment replies; never trained.
    Observation,
    /// The model answers.
    Answer,
}

/// A tool call and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub tool: String,
    /// What was asked, for example the code.
    pub request: String,
    /// What came back.
    pub output: ToolOutput,
    /// Images of the output that the model was shown; the output keeps the first of them, as many as the trajectory has room for.
    pub images_shown: usize,
}

impl Call {
    /// Keeps of the output's images those that were shown, up to the first for which too few pixels are left.
    pub fn keep_images(&mut self, pixels_left: &mut usize) {
        let images = &mut self.output.images;
        images.truncate(self.images_shown);
        let has_room = |image: &ToolImage| {
            let (width, height) = image.pixels.dimensions();
            let left = pixels_left.checked_sub(width as usize * height as usize);
            *pixels_left = left.unwrap_or(*pixels_left);
            left.is_some()
        };
        let kept = images.iter().map(has_room).take_while(|has_room| *has_room).count();
        images.truncate(kept);
    }
}

/// Why a sequence ended. Every end is named and logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It has not ended; no finished trajectory says so.
    Running,
    /// The model gave its answer.
    Answered,
    /// The model closed its message; in `think_with_code` without the tags of an answer.
    EndOfTurn,
    /// A stop string of the request that means nothing to the environment.
    StopString,
    /// The model called a tool again after an observation said that the limit is reached.
    CallLimit,
    /// The model has used its last turn and given no answer.
    TurnLimit,
    /// A turn reached its limit of tokens.
    TurnTokens,
    /// The sequence reached its limit of tokens after the prompt.
    TotalTokens,
    /// The engine has no more positions for the sequence.
    ContextFull,
    /// The prompt alone does not fit the engine: tokens needed and tokens possible.
    PromptTooLong {
        /// Tokens that the prompt and one more need.
        needed: usize,
        /// Tokens that a sequence can have.
        limit: usize,
    },
    /// The model repeated itself over more than [`super::repetition::RepetitionSettings::share`] of a turn.
    Repetition,
    /// The tool itself could not work (not the model's code): why.
    ToolFailed(String),
    /// The task could not be opened, for example for a damaged picture: why.
    TaskFailed(String),
}

impl End {
    /// The name for logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            End::Running => "running",
            End::Answered => "answered",
            End::EndOfTurn => "end_of_turn",
            End::StopString => "stop_string",
            End::CallLimit => "call_limit",
            End::TurnLimit => "turn_limit",
            End::TurnTokens => "turn_tokens",
            End::TotalTokens => "total_tokens",
            End::ContextFull => "context_full",
            End::PromptTooLong { .. } => "prompt_too_long",
            End::Repetition => "repetition",
            End::ToolFailed(_) => "tool_failed",
            End::TaskFailed(_) => "task_failed",
        }
    }

    /// Whether the model was cut off by a limit rather than finished.
    pub fn is_truncated(&self) -> bool {
        matches!(self, End::TurnTokens | End::TotalTokens | End::ContextFull)
    }

    /// Whether the model ran out of turns or calls before it answered.
    pub fn is_over_turn(&self) -> bool {
        matches!(self, End::CallLimit | End::TurnLimit)
    }

    /// Whether the end says nothing about the model: the task or the tool failed.
    pub fn is_fault(&self) -> bool {
        self.fault().is_some()
    }

    /// Why the end says nothing about the model, where it does not.
    pub fn fault(&self) -> Option<String> {
        match self {
            End::ToolFailed(reason) | End::TaskFailed(reason) => Some(reason.clone()),
            End::PromptTooLong { needed, limit } => Some(format!(
                "the prompt needs {needed} tokens, {limit} fit; lower model.max_pixels or shorten the text"
            )),
            _ => None,
        }
    }
}

impl Trajectory {
    /// One that holds only its prompt.
    pub fn of_prompt(prompt: &Prompt, task: usize, sample: usize, sequence: u64, end: End) -> Trajectory {
        Trajectory {
            task,
            sample,
            sequence,
            prompt_tokens: prompt.token_ids.len(),
            conversation: Arc::default(),
            token_ids: prompt.token_ids.clone(),
            sampled: vec![None; prompt.token_ids.len()],
            images: prompt.images.clone(),
            original_images: TrajectoryImages::default(),
            turns: Vec::new(),
            turn_ends: Vec::new(),
            calls: Vec::new(),
            answer: None,
            end,
        }
    }

    /// Whether the token at `index` is the model's own.
    pub fn is_own(&self, index: usize) -> bool {
        self.sampled.get(index).is_some_and(Option::is_some)
    }

    /// The model's own tokens: index in `token_ids`, and how each was sampled.
    pub fn own(&self) -> impl Iterator<Item = (usize, &Sampled)> {
        self.sampled.iter().enumerate().filter_map(|(index, sampled)| Some((index, sampled.as_ref()?)))
    }

    /// How many tokens are the model's own.
    pub fn own_tokens(&self) -> usize {
        self.own().count()
    }

    /// The model's turns: stretches of its own tokens with no other between them.
    pub fn own_turns(&self) -> usize {
        let begins = |i: usize| self.is_own(i) && (i == 0 || !self.is_own(i - 1));
        (0..self.token_ids.len()).filter(|&i| begins(i)).count()
    }

    /// The observations, each with the calls that it answers.
    pub fn observations(&self) -> impl Iterator<Item = (&Turn, &[Call])> {
        let observations = self.turns.iter().filter(|turn| turn.kind == TurnKind::Observation);
        observations.map(|turn| (turn, &self.calls[turn.calls.clone()]))
    }

    /// Images of the prompt: those that no observation shows.
    pub fn prompt_images(&self) -> usize {
        let observed = self.observations().flat_map(|(_, calls)| calls);
        self.images.len() - observed.map(|call| call.images_shown).sum::<usize>()
    }

    /// Tokens after the prompt, own and observed.
    pub fn completion_tokens(&self) -> usize {
        self.token_ids.len() - self.prompt_tokens
    }

    /// The text that the model wrote, without observations.
    pub fn own_text(&self) -> String {
        self.own_texts().collect()
    }

    fn own_texts(&self) -> impl Iterator<Item = &str> {
        self.turns.iter().filter(|turn| turn.kind != TurnKind::Observation).map(|turn| turn.text.as_str())
    }

    /// Notes an answer, as bytes of the text that the model adds next.
    pub(super) fn set_answer(&mut self, answer: Option<AnswerRange>) {
        let before = self.own_texts().map(str::len).sum();
        self.answer = answer.map(|answer| answer.behind(before)).or(self.answer.take());
    }

    /// The whole text after the prompt, observations included.
    pub fn text(&self) -> String {
        self.turns.iter().map(|turn| turn.text.as_str()).collect()
    }

    /// Adds tokens that the model sampled, as one or two turns: split at a byte of `text` as `parts` says.
    pub(super) fn push_own(&mut self, tokens: &[Sampled], pieces: &[usize], text: &str, parts: OwnParts) {
        let start = self.token_ids.len();
        self.token_ids.extend(tokens.iter().map(|token| token.id));
        self.sampled.extend(tokens.iter().copied().map(Some));
        let end = self.token_ids.len();
        let (split_at, kind) = match parts {
            OwnParts::Thought => (text.len(), TurnKind::Thought),
            OwnParts::Then { split_at, kind } => (split_at, kind),
        };
        // The first token whose bytes reach past the split.
        let mut bytes = 0;
        let before = pieces.iter().take_while(|length| {
            bytes += **length;
            bytes <= split_at
        });
        let split_token = if split_at >= text.len() { end } else { start + before.count() };
        self.push_turn(TurnKind::Thought, start..split_token, &text[..split_at]);
        self.push_turn(kind, split_token..end, &text[split_at..]);
    }

    /// Adds an observation's tokens, and the images of the calls from number `first` on, which it shows.
    pub(super) fn push_observation(
        &mut self,
        token_ids: &[u32],
        images: &[Arc<PreparedImage>],
        text: &str,
        first: usize,
    ) {
        let start = self.token_ids.len();
        self.token_ids.extend_from_slice(token_ids);
        self.sampled.resize(self.token_ids.len(), None);
        let mut sizes = images.iter().map(|image| image.resized());
        for call in &self.calls[first..] {
            for number in 0..call.images_shown {
                let pixels = call.output.images.get(number).map(|image| image.pixels.clone());
                self.original_images.push(pixels, sizes.next());
            }
        }
        self.images.extend(images.iter().cloned());
        let (tokens, calls) = (start..self.token_ids.len(), first..self.calls.len());
        self.turns.push(Turn { kind: TurnKind::Observation, tokens, text: text.to_owned(), calls });
    }

    /// Adds a turn unless it has neither tokens nor text.
    fn push_turn(&mut self, kind: TurnKind, tokens: Range<usize>, text: &str) {
        if !tokens.is_empty() || !text.is_empty() {
            self.turns.push(Turn { kind, tokens, text: text.to_owned(), calls: 0..0 });
        }
    }
}

/// How the model's own text of one generation divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnParts {
    /// All of it is thought.
    Thought,
    /// Thought up to a byte, then something else.
    Then {
        /// Where the second turn starts, in bytes of the text.
        split_at: usize,
        /// What it is.
        kind: TurnKind,
    },
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::rollout::tool::CallStatus;

    #[test]
    fn a_call_keeps_the_images_that_were_shown_and_have_room() {
        let image = |side: u32| ToolImage {
            name: String::new(),
            label: String::new(),
            pixels: Arc::new(RgbImage::new(side, side)),
            widened: None,
        };
        let mut left = 350;
        for (sides, shown, kept) in
            [(vec![10, 10], 1, 1), (vec![10, 20, 1], 3, 1), (vec![12, 12], 2, 1), (vec![3], 0, 0)]
        {
            let images = sides.into_iter().map(image).collect();
            let output = ToolOutput { images, ..ToolOutput::text(CallStatus::Ok, "") };
            let mut call = Call { tool: String::new(), request: String::new(), output, images_shown: shown };
            call.keep_images(&mut left);
            assert_eq!(call.output.images.len(), kept);
        }
        assert_eq!(left, 350 - 100 - 100 - 144);
    }
}
