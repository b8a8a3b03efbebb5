//! From a demonstration to a [`Sample`]: the conversation as token ids, and which of them are learned.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::sample::{Sample, SampleImage};
use crate::prompt::{ChatError, ImageSource, Message, PreparedImage, Processor, PromptError, place_images};
use crate::recipe::TrainTurns;
use crate::rollout::environment::{Observation, ObservationPart};
use crate::rollout::environments::think_with_code::{OUTPUT_CLOSE, OUTPUT_OPEN};
use crate::tasks::{Example, Role};

/// Where a picture stands in the text.
const IMAGE: &str = "<image>";

/// Tokenises a demonstration whose last message is the assistant's. Learned are the assistant's own words and the end of its turn;
/// not: what stands before, observations with their markers, and images. Text is tokenised piece by piece between those, and an observation
/// as [`Observation::new`] does it, in rollouts too.
pub fn sample(processor: &Processor, example: &Example, turns: TrainTurns) -> Result<Sample, PromptError> {
    let marks = example.messages.iter().map(|message| message.text.matches(IMAGE).count()).sum();
    if marks != example.images.len() {
        return Err(ChatError::ImageCount { marks, images: example.images.len() }.into());
    }
    let mut images = example.images.iter();
    let (last, before) = example.messages.split_last().expect("a demonstration has messages");
    assert_eq!(last.role, Role::Assistant, "a demonstration ends with the assistant's message");
    let mut sample = Sample::default();

    let pictures = before.iter().map(|m| m.text.matches(IMAGE).count()).sum();
    let sources = images.by_ref().take(pictures).map(|i| ImageSource::Memory(Arc::new(i.clone()))).collect();
    let mut messages: Vec<Message> = before.iter().map(|m| Message::text(m.role.as_str(), m.text.as_str())).collect();
    place_images(&mut messages, sources)?;
    let prompt = processor.encode_messages(&messages, Path::new(""), true)?;
    sample.trained = vec![false; prompt.token_ids.len()];
    sample.ids = prompt.token_ids;
    sample.images.extend(prompt.images.into_iter().map(|prepared| SampleImage { prepared, unmerged_features: None }));

    let observations = observations(&last.text);
    let first_learned = match turns {
        TrainTurns::All => 0,
        TrainTurns::Last => observations.last().map_or(0, |o| o.end),
        TrainTurns::LastTwo => observations.iter().rev().nth(1).map_or(0, |o| o.end),
    };
    let mut at = 0;
    for observation in observations {
        push_own(processor, &mut sample, &last.text[at..observation.start], at >= first_learned, &mut images)?;
        push_observation(processor, &mut sample, &last.text[observation.clone()], &mut images)?;
        at = observation.end;
    }
    push_own(processor, &mut sample, &last.text[at..], at >= first_learned, &mut images)?;
    sample.ids.push(processor.special_ids().im_end);
    sample.trained.push(true);
    // Text may hold a literal placeholder, for which there is no image.
    let prepared: Vec<Arc<PreparedImage>> = sample.images.iter().map(|image| image.prepared.clone()).collect();
    processor.check_expanded(&sample.ids, &prepared)?;
    Ok(sample)
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

/// Appends the assistant's own words, with the images that stand among them.
fn push_own<'a>(
    processor: &Processor,
    sample: &mut Sample,
    text: &str,
    trained: bool,
    images: &mut impl Iterator<Item = &'a image::RgbImage>,
) -> Result<(), PromptError> {
    for (i, piece) in text.split(IMAGE).enumerate() {
        if i > 0 {
            let mut picture = Observation::default();
            picture.push_image(processor, prepare_next(processor, images)?);
            push_unlearned(sample, picture);
        }
        let ids = processor.tokenizer().encode(piece)?;
        sample.trained.resize(sample.trained.len() + ids.len(), trained);
        sample.ids.extend(ids);
    }
    Ok(())
}

/// Appends an observation, given with its markers; the last may lack the closing one.
fn push_observation<'a>(
    processor: &Processor,
    sample: &mut Sample,
    text: &str,
    images: &mut impl Iterator<Item = &'a image::RgbImage>,
) -> Result<(), PromptError> {
    let inside = text.strip_prefix(OUTPUT_OPEN).unwrap_or(text);
    let (inside, close) = inside.strip_suffix(OUTPUT_CLOSE).map_or((inside, ""), |inside| (inside, OUTPUT_CLOSE));
    let mut parts = Vec::new();
    for (i, piece) in inside.split(IMAGE).enumerate() {
        if i > 0 {
            parts.push(ObservationPart::Image(prepare_next(processor, images)?));
        }
        parts.push(ObservationPart::Text(piece.to_owned()));
    }
    push_unlearned(sample, Observation::new(processor, (OUTPUT_OPEN, close), parts)?);
    Ok(())
}

/// The next picture of the example, as the model reads it.
fn prepare_next<'a>(
    processor: &Processor,
    images: &mut impl Iterator<Item = &'a image::RgbImage>,
) -> Result<Arc<PreparedImage>, PromptError> {
    let image = images.next().expect("a demonstration has a picture for each placeholder");
    Ok(Arc::new(processor.prepare(image)?))
}

/// Appends what the model reads and does not write.
fn push_unlearned(sample: &mut Sample, observation: Observation) {
    sample.ids.extend(observation.token_ids);
    sample.trained.resize(sample.ids.len(), false);
    sample
        .images
        .extend(observation.images.into_iter().map(|prepared| SampleImage { prepared, unmerged_features: None }));
}
