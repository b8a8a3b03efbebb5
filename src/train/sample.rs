//! Token sequences to learn from, and packs of them that one forward takes.

use std::ops::Range;
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
    /// The resized picture, cut into patches.
    pub prepared: Arc<PreparedImage>,
    /// The frozen vision tower's output for it, where it is known already.
    pub unmerged_features: Option<Arc<Tensor>>,
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

    /// How far this sample and another begin alike, and with nothing there that is predicted from it.
    fn common_prefix(&self, other: &Sample, layout: Layout) -> CommonPrefix {
        let first_target = |sample: &Sample| sample.targets().next().unwrap_or(sample.ids.len());
        let end = first_target(self).min(first_target(other)).saturating_sub(1);
        let mut common = CommonPrefix::default();
        while common.tokens < end && self.ids[common.tokens] == other.ids[common.tokens] {
            if self.ids[common.tokens] == layout.image_pad {
                // Images may stand one behind the other, so that their placeholders do not tell where one ends.
                let pads = match (self.images.get(common.images), other.images.get(common.images)) {
                    (Some(a), Some(b)) if Arc::ptr_eq(&a.prepared, &b.prepared) => a.prepared.grid.tokens(layout.merge),
                    _ => break,
                };
                if common.tokens + pads >= end {
                    break;
                }
                common.images += 1;
                common.tokens += pads;
            } else {
                common.tokens += 1;
            }
        }
        common
    }

    /// Positions of the learned tokens; the first token of a sequence has nothing to be predicted from.
    pub fn targets(&self) -> impl Iterator<Item = usize> {
        (1..self.ids.len()).filter(|&i| self.trained[i])
    }
}

/// The first tokens of a sample and the images that lie whole in them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct CommonPrefix {
    tokens: usize,
    images: usize,
}

/// What is fixed about a model's token sequences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Patches along each side of an image token.
    pub merge: usize,
    /// The placeholder of an image token.
    pub image_pad: u32,
}

/// Samples one behind the other in one batch. What neighbours begin with alike, as the members of a group do with their prompt, stands
/// there once.
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

/// Tokens from which on a common beginning is worth sharing.
const PREFIX_MIN: usize = 16;

impl Pack {
    /// Lays samples one behind the other. Their image counts agree with their placeholders, as the processor made them.
    pub fn new(samples: &[&Sample], layout: Layout) -> Pack {
        let mut pack = Pack { batch: Batch::default(), targets: Vec::new(), places: Vec::new(), images: Vec::new() };
        pack.batch.bounds.push(0);
        pack.batch.rows = Some(Vec::new());
        let mut first = 0;
        while first < samples.len() {
            let common = |other: &&Sample| samples[first].common_prefix(other, layout);
            let shared = samples.get(first + 1).map(common).filter(|shared| shared.tokens >= PREFIX_MIN);
            let Some(shared) = shared else {
                pack.push(samples[first], first, CommonPrefix::default(), None, layout);
                first += 1;
                continue;
            };
            let members = 1 + samples[first + 1..].iter().take_while(|other| common(other) == shared).count();
            let prefix = pack.batch.bounds.len() - 1;
            pack.push_tokens(samples[first], 0..shared.tokens, 0..shared.images, None, layout);
            for (i, sample) in samples.iter().enumerate().skip(first).take(members) {
                pack.push(sample, i, shared, Some(prefix), layout);
            }
            first += members;
        }
        if pack.images.is_empty() {
            pack.batch.image_index.clear();
        }
        if pack.batch.prefixes.iter().all(Option::is_none) {
            pack.batch.prefixes.clear();
        }
        pack
    }

    /// A sample from behind what it shares, with its targets.
    fn push(&mut self, sample: &Sample, number: usize, shared: CommonPrefix, prefix: Option<usize>, layout: Layout) {
        let start = self.batch.ids.len();
        self.push_tokens(sample, shared.tokens..sample.ids.len(), shared.images..sample.images.len(), prefix, layout);
        let rows = self.batch.rows.get_or_insert_default();
        for i in sample.targets() {
            rows.push(start + i - 1 - shared.tokens);
            self.targets.push(sample.ids[i]);
            self.places.push((number, i));
        }
    }

    /// Some tokens of a sample and the images among them, as a sequence of the batch.
    fn push_tokens(
        &mut self,
        sample: &Sample,
        tokens: Range<usize>,
        images: Range<usize>,
        prefix: Option<usize>,
        layout: Layout,
    ) {
        let grids: Vec<Grid> = sample.images.iter().map(|i| i.prepared.grid).collect();
        let (placed, _) = positions(&sample.ids, &grids, layout.merge, layout.image_pad)
            .expect("a sample's images agree with its placeholders");
        let batch = &mut self.batch;
        batch.positions.extend(&placed[tokens.clone()]);
        let mut image_rows = batch.image_index.iter().copied().max().unwrap_or(-1);
        for &id in &sample.ids[tokens] {
            let is_image = id == layout.image_pad;
            image_rows += i32::from(is_image);
            batch.ids.push(id);
            batch.image_index.push(if is_image { image_rows } else { -1 });
        }
        batch.bounds.push(batch.ids.len());
        batch.prefixes.push(prefix);
        self.images.extend_from_slice(&sample.images[images]);
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
