//! From a demonstration to a [`Sample`]: the conversation as token ids, and which of them are learned.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::sample::{Sample, SampleImage};
use crate::prompt::{ImageSource, Message, PreparedImage, Processor, PromptError, place_images};
use crate::recipe::TrainTurns;
use crate::tasks::{Example, Role};

const OPEN: &str = "<sandbox_output>";
const CLOSE: &str = "</sandbox_output>";
const IMAGE: &str = "<image>";

/// Tokenises a demonstration whose last message is the assistant's. Learned are the assistant's own words and the end of its turn;
/// not: what stands before, observations with their markers, and images. Text is tokenised piece by piece between those, as a
/// rollout tokenises it.
pub fn sample(processor: &Processor, example: &Example, turns: TrainTurns) -> Result<Sample, PromptError> {
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
    sample.images.extend(prompt.images.into_iter().map(|prepared| SampleImage { prepared, units: None }));

    let observations = observations(&last.text);
    let first_learned = match turns {
        TrainTurns::All => 0,
        TrainTurns::Last => observations.last().map_or(0, |o| o.end),
        TrainTurns::LastTwo => observations.iter().rev().nth(1).map_or(0, |o| o.end),
    };
    let mut at = 0;
    for observation in observations {
        push_text(processor, &mut sample, &last.text[at..observation.start], at >= first_learned, &mut images)?;
        push_text(processor, &mut sample, &last.text[observation.clone()], false, &mut images)?;
        at = observation.end;
    }
    push_text(processor, &mut sample, &last.text[at..], at >= first_learned, &mut images)?;
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
    while let Some(open) = text[from..].find(OPEN).map(|i| from + i) {
        let end = text[open..].find(CLOSE).map_or(text.len(), |i| open + i + CLOSE.len());
        found.push(open..end);
        from = end;
    }
    found
}

/// Appends a piece of text with its images.
fn push_text<'a>(
    processor: &Processor,
    sample: &mut Sample,
    text: &str,
    trained: bool,
    images: &mut impl Iterator<Item = &'a image::RgbImage>,
) -> Result<(), PromptError> {
    for (i, piece) in text.split(IMAGE).enumerate() {
        if i > 0 {
            let image = images.next().ok_or(PromptError::ImageCount { pads: i, images: i - 1 })?;
            let prepared = Arc::new(processor.prepare(image)?);
            let special = processor.special_ids();
            let start = sample.ids.len();
            sample.ids.push(special.vision_start);
            sample.ids.extend(std::iter::repeat_n(special.image_pad, processor.image_tokens(&prepared)));
            sample.ids.push(special.vision_end);
            sample.trained.resize(sample.trained.len() + sample.ids.len() - start, false);
            sample.images.push(SampleImage { prepared, units: None });
        }
        let ids = processor.tokenizer().encode(piece)?;
        sample.trained.resize(sample.trained.len() + ids.len(), trained);
        sample.ids.extend(ids);
    }
    Ok(())
}
