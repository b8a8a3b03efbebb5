//! Token sequences to learn from, and packs of them that one forward takes.

use std::sync::Arc;

use crate::model::batch::Batch;
use crate::ops::Tensor;
use crate::prompt::Processor;
use crate::prompt::image::PreparedImage;
use crate::prompt::positions::{Grid, positions};

/// One sequence and which of its tokens are learned.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Token ids, images' placeholders included.
    pub ids: Vec<u32>,
    /// Whether each token is learned (predicted from those before it).
    pub trained: Vec<bool>,
    /// Images in order.
    pub images: Vec<SampleImage>,
}

/// An image of a sample.
#[derive(Clone, Debug)]
pub struct SampleImage {
    /// Its patches.
    pub prepared: Arc<PreparedImage>,
    /// The frozen vision tower's output for it, where it is known already.
    pub units: Option<Arc<Tensor>>,
}

impl Layout {
    /// As a checkpoint's processor has it.
    pub fn of(processor: &Processor) -> Layout {
        Layout { merge: processor.image_settings().merge_size, image_pad: processor.special_ids().image_pad }
    }
}

impl Sample {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Positions of the learned tokens; the first token of a sequence has nothing to be predicted from.
    pub fn targets(&self) -> impl Iterator<Item = usize> {
        (1..self.ids.len()).filter(|&i| self.trained[i])
    }
}

/// What is fixed about a model's token sequences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Patches along each side of an image token.
    pub merge: usize,
    /// The placeholder of an image token.
    pub image_pad: u32,
}

/// Samples one behind the other in one batch.
#[derive(Debug)]
pub struct Pack {
    /// Forward's input; its wanted rows are those that predict learned tokens.
    pub batch: Batch,
    /// The learned tokens, in the order of the wanted rows.
    pub targets: Vec<u32>,
    /// For each learned token: the sample's index in the pack, and the token's position in it.
    pub places: Vec<(usize, usize)>,
    /// All images, in order.
    pub images: Vec<SampleImage>,
}

impl Pack {
    /// Lays samples one behind the other. Their image counts agree with their placeholders, as the processor made them.
    pub fn new(samples: &[&Sample], layout: Layout) -> Pack {
        let mut pack = Pack { batch: Batch::default(), targets: Vec::new(), places: Vec::new(), images: Vec::new() };
        let (batch, mut rows, mut image_rows) = (&mut pack.batch, Vec::new(), 0);
        batch.bounds.push(0);
        for (number, sample) in samples.iter().enumerate() {
            let start = batch.ids.len();
            let grids: Vec<Grid> = sample.images.iter().map(|i| i.prepared.grid).collect();
            let (placed, _) = positions(&sample.ids, &grids, layout.merge, layout.image_pad)
                .expect("a sample's images agree with its placeholders");
            batch.positions.extend(placed);
            batch.ids.extend(&sample.ids);
            batch.image_index.extend(sample.ids.iter().map(|&id| {
                let is_image = id == layout.image_pad;
                image_rows += i32::from(is_image);
                if is_image { image_rows - 1 } else { -1 }
            }));
            batch.bounds.push(batch.ids.len());
            for i in sample.targets() {
                rows.push(start + i - 1);
                pack.targets.push(sample.ids[i]);
                pack.places.push((number, i));
            }
            pack.images.extend(sample.images.iter().cloned());
        }
        if image_rows == 0 {
            batch.image_index.clear();
        }
        batch.rows = Some(rows);
        pack
    }
}

/// Cuts samples into runs of at most `budget` tokens each, keeping their order; a longer sample stands alone.
pub fn runs_by_tokens(tokens: &[usize], budget: usize) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (i, &count) in tokens.iter().enumerate() {
        if i > start && sum + count > budget {
            runs.push(start..i);
            (start, sum) = (i, 0);
        }
        sum += count;
    }
    if start < tokens.len() {
        runs.push(start..tokens.len());
    }
    runs
}
