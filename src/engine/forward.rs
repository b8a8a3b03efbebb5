//! From the chunks of a step to the model's input.

use std::sync::Arc;

use super::images::EncodedImages;
use super::scheduler::Chunk;
use super::sequence::Sequences;
use crate::model::Model;
use crate::model::batch::{Batch, BatchPages};
use crate::model::features::ImageFeatures;
use crate::model::parameters::Weights;
use crate::ops::Tensor;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::Processor;

/// Where an image's rows stand in the step's rows.
#[derive(Debug)]
pub struct ImagePlace {
    sequence: u64,
    start: usize,
    tokens: usize,
    row: usize,
}

/// The features of the images that the chunks touch, and where each image's rows stand.
pub fn image_features(
    model: &Model,
    weights: &Weights,
    processor: &Processor,
    (sequences, chunks): (&Sequences, &[Chunk]),
    encoded: &mut EncodedImages,
) -> Option<(ImageFeatures, Vec<ImagePlace>)> {
    let (mut images, mut places, mut row) = (Vec::new(), Vec::new(), 0);
    for chunk in chunks {
        for placed in &sequences[&chunk.sequence].images {
            if placed.start < chunk.tokens.end && placed.start + placed.tokens > chunk.tokens.start {
                images.push(placed.image.clone());
                places.push(ImagePlace { sequence: chunk.sequence, start: placed.start, tokens: placed.tokens, row });
                row += placed.tokens;
            }
        }
    }
    if images.is_empty() {
        return None;
    }
    let settings = processor.image_settings();
    let scale = PixelScale { mean: settings.mean, std: settings.std };
    encoded.encode(model, weights, &images, scale);
    let features: Vec<Arc<Tensor>> = images.iter().filter_map(|image| encoded.unmerged_features(image)).collect();
    let features: Vec<&Tensor> = features.iter().map(|features| &**features).collect();
    let features = model.backend.concat_rows(&features);
    Some((model.merger_forward(weights, &features).0, places))
}

/// What the model is given: the tokens of the chunks with their drafts, one sequence behind the other. The id of a token that is not read
/// yet is 0.
pub fn batch(sequences: &Sequences, chunks: &[Chunk], images: Option<&[ImagePlace]>) -> Batch {
    let mut batch = Batch { bounds: vec![0], rows: Some(Vec::new()), ..Batch::default() };
    let mut pages = BatchPages::default();
    for chunk in chunks {
        let sequence = &sequences[&chunk.sequence];
        let end = chunk.tokens.end + chunk.draft.len();
        if chunk.tokens.start == sequence.ids.len() {
            batch.ids.push(0);
            batch.positions.push(sequence.next_position());
        } else {
            batch.ids.extend(sequence.ids[chunk.tokens.clone()].iter().chain(&chunk.draft));
            batch.positions.extend(&sequence.positions[chunk.tokens.clone()]);
            batch.positions.extend(sequence.positions_ahead(&chunk.draft));
        }
        batch.bounds.push(batch.ids.len());
        pages.slots.extend((chunk.tokens.start..end).map(|position| sequence.page_table.slot(position)));
        pages.page_tables.push(sequence.page_table.pages().to_vec());
        pages.lengths.push(end);
        if let Some(images) = images {
            let own = images.iter().filter(|place| place.sequence == chunk.sequence);
            batch.image_index.extend(image_index(chunk, own));
        }
        batch.rows.get_or_insert_default().extend(batch.ids.len() - chunk.sampled()..batch.ids.len());
    }
    batch.pages = Some(pages);
    batch
}

/// For each token of a chunk its image row, or -1.
fn image_index<'a>(chunk: &Chunk, images: impl Iterator<Item = &'a ImagePlace>) -> Vec<i32> {
    let mut index = vec![-1; chunk.computed()];
    for place in images {
        let from = place.start.max(chunk.tokens.start);
        let to = (place.start + place.tokens).min(chunk.tokens.end);
        for token in from..to {
            index[token - chunk.tokens.start] = (place.row + token - place.start) as i32;
        }
    }
    index
}
