//! A sequence under way, and how it began.

use super::branching::Members;
use super::environment::{Environment, Episode, TokenLimits};
use super::generator::{AdaptiveTemperature, GenerateRequest, HistoryPart, Sampled, Stops};
use super::repetition::Repetition;
use super::settings::RolloutSettings;
use super::trajectory::{OwnParts, Trajectory};
use crate::prompt::{Processor, StreamDecoder, Tokenizer};

/// How a task's sequences begin.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The task's number; [`Trajectory::task`].
    pub task: usize,
    /// Which of the group's sequences begin.
    pub members: Members,
    /// Number of the group's first sequence; the others count on from it.
    pub first_sequence: u64,
    /// Counter of the random numbers for the first sequence, where it is not the sequence's number.
    pub first_counter: Option<u64>,
    /// Tokens that each may take.
    pub limits: TokenLimits,
    /// Pixels of observed images that each trajectory keeps.
    pub pixels_kept: usize,
    /// The group size, sampling, and further stops.
    pub settings: &'a RolloutSettings,
}

impl Start<'_> {
    /// The request for its sequences, which begin with the prompt of `beginning` and a history.
    pub(super) fn request(
        &self,
        beginning: &Trajectory,
        history: Vec<HistoryPart>,
        environment: &dyn Environment,
        processor: &Processor,
    ) -> GenerateRequest {
        let (settings, ids) = (self.settings, processor.special_ids());
        let mut strings = environment.stop_strings();
        strings.extend(settings.stop.iter().cloned());
        let code = environment.code_tags().zip(settings.sampling.code_temperature);
        let first = self.first_sequence + self.members.first as u64;
        let eos = if settings.eos.is_empty() { vec![ids.im_end, ids.endoftext] } else { settings.eos.clone() };
        GenerateRequest {
            token_ids: beginning.token_ids[..beginning.prompt_tokens].to_vec(),
            images: beginning.images[..beginning.prompt_images()].to_vec(),
            history,
            sequences: (first..first + self.members.count as u64).collect(),
            first_counter: self.first_counter,
            top_logprobs: 0,
            top_logprobs_processed: false,
            constraints: Default::default(),
            seed: settings.seed,
            sampling: settings.sampling.clone(),
            adaptive: code.map(|((open, close), temperature)| AdaptiveTemperature { open, close, temperature }),
            stops: Stops { strings, token_ids: eos, turn_tokens: self.limits.turn, total_tokens: self.limits.total },
        }
    }
}

/// A sequence under way.
pub(super) struct Active {
    pub trajectory: Trajectory,
    /// Absent while a worker has it.
    pub episode: Option<Box<dyn Episode>>,
    /// Whether it waits for its next token.
    pub is_running: bool,
    /// Tokens after the prompt that it may have.
    pub total_tokens: usize,
    /// Pixels of images that its trajectory may still keep.
    pub pixels_left: usize,
    /// Tokens of the turn so far.
    pub tokens: Vec<Sampled>,
    /// For each of them, the bytes of text that it completed.
    pub pieces: Vec<usize>,
    /// The turn's text so far.
    pub text: String,
    /// Decodes tokens to text; holds the bytes of an incomplete character.
    pub decoder: StreamDecoder,
    /// Detects that the turn repeats itself.
    pub repetition: Repetition,
    /// Whether it does.
    pub repeats: bool,
}

impl Active {
    /// A sequence whose turn begins with these tokens.
    pub fn new(
        mut trajectory: Trajectory,
        begun: &[Sampled],
        episode: Box<dyn Episode>,
        start: &Start<'_>,
        tokenizer: &Tokenizer,
    ) -> Active {
        let mut pixels_left = start.pixels_kept;
        trajectory.calls.iter_mut().for_each(|call| call.keep_images(&mut pixels_left));
        let mut active = Active {
            trajectory,
            episode: Some(episode),
            is_running: true,
            total_tokens: start.limits.total,
            pixels_left,
            tokens: Vec::new(),
            pieces: Vec::new(),
            text: String::new(),
            decoder: StreamDecoder::default(),
            repetition: Repetition::new(start.settings.repetition),
            repeats: false,
        };
        for &token in begun {
            active.push(token, tokenizer);
        }
        active
    }

    /// Adds a sampled token to the turn; the text that it completes.
    pub fn push(&mut self, token: Sampled, tokenizer: &Tokenizer) -> String {
        let bytes = if tokenizer.is_special(token.id) { &[][..] } else { tokenizer.token_bytes(token.id) };
        let text = self.decoder.push(bytes);
        self.repeats = self.repetition.push(bytes);
        self.tokens.push(token);
        self.pieces.push(text.len());
        self.text.push_str(&text);
        text
    }

    /// Closes the turn: its tokens become the model's own part of the trajectory.
    pub fn end_turn(&mut self, parts: OwnParts) {
        let rest = self.decoder.finish();
        self.text.push_str(&rest);
        self.trajectory.push_own(&self.tokens, &self.pieces, &self.text, parts);
        self.tokens.clear();
        self.pieces.clear();
        self.text.clear();
        self.repetition.clear();
        self.repeats = false;
    }
}
