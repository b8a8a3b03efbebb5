//! From a demonstration to a [`Sample`]: the conversation as token ids, and which of them are learned. And from a trajectory to a demonstration.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;

use super::loss_mask::LossMask;
use super::sample::{Sample, SampleImage};
use crate::prompt::{
    ChatError, ImageSettings, ImageSource, Message, Part, PreparedImage, Processor, PromptError, RenderOptions,
    place_images,
};
use crate::recipe::TrainTokens;
use crate::rollout::environment::{Observation, ObservationPart};
use crate::rollout::environments::think_with_code::{OUTPUT_CLOSE, OUTPUT_OPEN};
use crate::rollout::environments::tool_calling::presets::{CLOSE_USER, OPEN_USER, RESULT_MARKERS};
use crate::rollout::trajectory::{Trajectory, TurnKind};
use crate::tasks::{self, Example, Role};

/// Where a picture stands in the text.
const IMAGE: &str = "<image>";

/// What the chat template puts in front of the assistant's message.
const HEADER: &str = "<|im_start|>assistant\n";

/// Tokenises a demonstration whose last message is the assistant's. What stands before the first message of the assistant is its prompt. The
/// mask says which tokens are learned; unless it takes all, these are the assistant's own words and the ends of its messages, not messages of
/// others, observations with their markers, and images. Text is tokenised piece by piece between those, as in rollouts, so that a model is
/// trained on the tokens that it meets.
///
/// # Errors
/// Where the pictures are not as many as their marks, or one cannot be prepared, or a text cannot be tokenised.
pub fn sample(processor: &Processor, example: &Example, mask: impl Into<LossMask>) -> Result<Sample, PromptError> {
    let mask = mask.into();
    let marks = example.messages.iter().map(|message| message.text.matches(IMAGE).count()).sum();
    if marks != example.images.len() {
        return Err(ChatError::ImageCount { marks, images: example.images.len() }.into());
    }
    let last = example.messages.last().expect("a demonstration has messages");
    assert_eq!(last.role, Role::Assistant, "a demonstration ends with the assistant's message");
    let is_own = |message: &tasks::Message| message.role == Role::Assistant;
    let first = example.messages.iter().position(is_own).unwrap_or(example.messages.len() - 1);
    let (before, dialogue) = example.messages.split_at(first);
    let mut images = example.images.iter();

    let pictures = before.iter().map(|m| m.text.matches(IMAGE).count()).sum();
    let sources = images.by_ref().take(pictures).map(|i| ImageSource::Memory(Arc::new(i.clone()))).collect();
    let mut messages: Vec<Message> = before.iter().map(|m| Message::text(m.role.as_str(), m.text.as_str())).collect();
    place_images(&mut messages, sources)?;
    let options =
        RenderOptions { add_generation_prompt: true, tools: example.tools.clone(), ..RenderOptions::default() };
    let prompt = processor.encode_rendered(&messages, Path::new(""), &options, processor.image_settings())?;
    let mut sample =
        Sample { trained: vec![false; prompt.token_ids.len()], ids: prompt.token_ids, ..Sample::default() };
    sample.images.extend(prompt.images.into_iter().map(|prepared| SampleImage { prepared, unmerged_features: None }));

    let pieces = pieces(dialogue);
    let turns_before = |message: usize| own_turns(&self::pieces(&dialogue[..message.saturating_sub(first)]));
    let first_learned = mask.first_turn(own_turns(&pieces), turns_before);
    let header = match mask.tokens {
        TrainTokens::AssistantAndHeader => processor.tokenizer().encode(HEADER)?,
        TrainTokens::Assistant | TrainTokens::All => Vec::new(),
    };
    let mut written = Written { processor, sample, images, trained: false };
    let mut number = 0;
    for piece in pieces {
        match piece {
            Piece::Own(text) => {
                written.trained = number >= first_learned;
                number += 1;
                written.learn_header(&header);
                written.push_own(text)?;
            }
            Piece::End => written.push_end(),
            Piece::Observation(text) => written.push_observation(text)?,
            Piece::Others(messages) => written.push_messages(messages)?,
        }
    }
    let mut sample = written.sample;
    if mask.tokens == TrainTokens::All {
        let image_pad = processor.special_ids().image_pad;
        sample.trained = sample.ids.iter().map(|&id| id != image_pad).collect();
    }
    // Text may hold a literal placeholder, for which there is no image.
    let prepared: Vec<Arc<PreparedImage>> = sample.images.iter().map(|image| image.prepared.clone()).collect();
    processor.check_expanded(&sample.ids, &prepared)?;
    Ok(sample)
}

/// A trajectory as a demonstration: the conversation, its pictures in the order of their placeholders, and the tools that the chat template described.
#[derive(Clone, Debug)]
pub struct Demonstration {
    /// The conversation; the last message is the assistant's.
    pub messages: Vec<tasks::Message>,
    /// The pictures.
    pub images: Vec<ImageSource>,
    /// The tools' schemas.
    pub tools: Option<serde_json::Value>,
}

impl Demonstration {
    /// The demonstration that [`sample`] gives the trajectory's tokens under these settings; `None` of a prompt that came as tokens, where the
    /// pixels of a picture were not kept, or where the literal text `<image>` stands in it.
    pub fn of(trajectory: &Trajectory, settings: &ImageSettings) -> Option<Demonstration> {
        let conversation = &trajectory.conversation;
        let mut messages = Vec::new();
        for message in &conversation.messages {
            let part = |part: &Part| match part {
                Part::Text(text) => text.clone(),
                Part::Image(_) => IMAGE.to_owned(),
            };
            messages.push(tasks::Message::new(
                Role::of(&message.role)?,
                message.content.iter().map(part).collect::<String>(),
            ));
        }
        let mut said = String::new();
        for turn in &trajectory.turns {
            let of_user = turn.text.strip_prefix("<|im_end|>").unwrap_or(&turn.text).strip_prefix(OPEN_USER);
            match of_user.and_then(|text| text.strip_suffix(CLOSE_USER)) {
                Some(text) if turn.kind == TurnKind::Observation => {
                    messages.push(tasks::Message::new(Role::Assistant, std::mem::take(&mut said)));
                    messages.push(tasks::Message::new(Role::User, text));
                }
                _ => said.push_str(&turn.text),
            }
        }
        messages.push(tasks::Message::new(Role::Assistant, said));
        let given = conversation.messages.iter().flat_map(Message::images).cloned();
        let made = trajectory.calls.iter().flat_map(|call| &call.output.images);
        let sources: Vec<ImageSource> =
            given.chain(made.map(|image| ImageSource::Memory(image.pixels.clone()))).collect();
        let marks: usize = messages.iter().map(|message| message.text.matches(IMAGE).count()).sum();
        let is_whole = sources.len() == trajectory.images.len() && marks == sources.len();
        if !is_whole || conversation.messages.is_empty() {
            return None;
        }
        let seen = |(source, shown): (ImageSource, &Arc<PreparedImage>)| seen_alike(source, shown, settings);
        let images = sources.into_iter().zip(&trajectory.images).map(seen).collect::<Option<_>>()?;
        Some(Demonstration { messages, images, tools: conversation.tools.clone() })
    }
}

/// A picture that becomes the one shown under these settings: the source, or where it was shown at a size that they do not give it, the picture
/// at that size. `None` where no picture does.
fn seen_alike(source: ImageSource, shown: &PreparedImage, settings: &ImageSettings) -> Option<ImageSource> {
    let resized = |width, height| settings.resized((height, width), None).ok();
    let seen = (shown.resized_height, shown.resized_width);
    if resized(shown.original_width, shown.original_height) == Some(seen) {
        return Some(source.original().clone());
    }
    let (width, height) = shown.resized();
    (resized(width, height) == Some(seen)).then(|| ImageSource::Memory(Arc::new(shown.pixels(settings))))
}

/// A stretch of what follows the prompt.
enum Piece<'a> {
    /// The assistant's own words: a turn.
    Own(&'a str),
    /// The end of its message.
    End,
    /// An observation within its message, with markers.
    Observation(&'a str),
    /// Messages of others, which are one message of the user to the model.
    Others(&'a [tasks::Message]),
}

fn pieces(mut dialogue: &[tasks::Message]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while let Some((message, _)) = dialogue.split_first() {
        if message.role != Role::Assistant {
            let others = dialogue.iter().take_while(|message| message.role != Role::Assistant).count();
            pieces.push(Piece::Others(&dialogue[..others]));
            dialogue = &dialogue[others..];
            continue;
        }
        let mut at = 0;
        for observation in observations(&message.text) {
            pieces.push(Piece::Own(&message.text[at..observation.start]));
            pieces.push(Piece::Observation(&message.text[observation.clone()]));
            at = observation.end;
        }
        pieces.extend([Piece::Own(&message.text[at..]), Piece::End]);
        dialogue = &dialogue[1..];
    }
    pieces
}

/// Turns of the assistant among pieces.
fn own_turns(pieces: &[Piece<'_>]) -> usize {
    pieces.iter().filter(|piece| matches!(piece, Piece::Own(_))).count()
}

/// The observations in a text, markers included.
fn observations(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = text[from..].find(OUTPUT_OPEN).map(|i| from + i) {
        let end = text[open..].find(OUTPUT_CLOSE).map_or(text.len(), |i| open + i + OUTPUT_CLOSE.len());
        found.push(open..end);
        from = end;
    }
    found
}

/// A sample that is being written.
struct Written<'a> {
    processor: &'a Processor,
    sample: Sample,
    /// The pictures that have no place yet.
    images: std::slice::Iter<'a, RgbImage>,
    /// Whether the assistant's turn is learned.
    trained: bool,
}

impl Written<'_> {
    /// Learns the header of a message that is about to begin, where its turn is learned.
    fn learn_header(&mut self, header: &[u32]) {
        if self.trained && self.sample.ids.ends_with(header) {
            let first = self.sample.ids.len() - header.len();
            self.sample.trained[first..].fill(true);
        }
    }

    /// Appends the assistant's own words, with the images that stand among them.
    fn push_own(&mut self, text: &str) -> Result<(), PromptError> {
        for (i, piece) in text.split(IMAGE).enumerate() {
            if i > 0 {
                let mut picture = Observation::default();
                picture.push_image(self.processor, self.next_image()?);
                self.push_unlearned(picture);
            }
            let ids = self.processor.tokenizer().encode(piece)?;
            self.sample.trained.resize(self.sample.trained.len() + ids.len(), self.trained);
            self.sample.ids.extend(ids);
        }
        Ok(())
    }

    fn push_end(&mut self) {
        self.sample.ids.push(self.processor.special_ids().im_end);
        self.sample.trained.push(self.trained);
    }

    /// Appends an observation, given with its markers; the last may lack the closing one.
    fn push_observation(&mut self, text: &str) -> Result<(), PromptError> {
        let inside = text.strip_prefix(OUTPUT_OPEN).unwrap_or(text);
        let (inside, close) = inside.strip_suffix(OUTPUT_CLOSE).map_or((inside, ""), |inside| (inside, OUTPUT_CLOSE));
        let mut parts = Vec::new();
        for (i, piece) in inside.split(IMAGE).enumerate() {
            if i > 0 {
                parts.push(ObservationPart::Image(self.next_image()?));
            }
            parts.push(ObservationPart::Text(piece.to_owned()));
        }
        self.push_unlearned(Observation::new(self.processor, (OUTPUT_OPEN, close), parts)?);
        Ok(())
    }

    /// Appends what others say between two messages of the assistant.
    fn push_messages(&mut self, messages: &[tasks::Message]) -> Result<(), PromptError> {
        let mut said = Observation::default();
        said.push_marker(self.processor, OPEN_USER)?;
        for (number, message) in messages.iter().enumerate() {
            let line = if number > 0 { "\n" } else { "" };
            let text = match message.role {
                Role::Tool => format!("{line}<tool_response>\n{}\n</tool_response>", message.text),
                _ => format!("{line}{}", message.text),
            };
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (at, mark) = next_mark(rest);
                said.push_text(self.processor, &rest[..at])?;
                match mark {
                    IMAGE => said.push_image(self.processor, self.next_image()?),
                    marker => said.push_marker(self.processor, marker)?,
                }
                rest = &rest[at + mark.len()..];
            }
        }
        said.push_marker(self.processor, CLOSE_USER)?;
        self.push_unlearned(said);
        Ok(())
    }

    /// The next picture of the example, as the model reads it.
    fn next_image(&mut self) -> Result<Arc<PreparedImage>, PromptError> {
        let image = self.images.next().expect("a demonstration has a picture for each placeholder");
        Ok(Arc::new(self.processor.prepare(image)?))
    }

    /// Appends what the model reads and does not write.
    fn push_unlearned(&mut self, observation: Observation) {
        self.sample.ids.extend(observation.token_ids);
        self.sample.trained.resize(self.sample.ids.len(), false);
        let images = observation.images.into_iter();
        self.sample.images.extend(images.map(|prepared| SampleImage { prepared, unmerged_features: None }));
    }
}

/// Where the first picture's mark or marker of a result stands, and which it is; the end and nothing where there is none.
fn next_mark(text: &str) -> (usize, &'static str) {
    let marks = RESULT_MARKERS.into_iter().chain([IMAGE]);
    let found = marks.filter_map(|mark| Some((text.find(mark)?, std::cmp::Reverse(mark.len()), mark)));
    found.min().map_or((text.len(), ""), |(at, _, mark)| (at, mark))
}
