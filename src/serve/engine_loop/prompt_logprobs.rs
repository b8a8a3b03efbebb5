//! Log-probabilities of a prompt's own tokens, and of the likeliest ones in their places. A prompt is scored piece by piece, between the
//! steps of those that are answered: none of them waits longer than one piece takes.

use tokio::sync::oneshot;

use crate::engine::kv_cache::{KvCache, PageTable};
use crate::engine::sampling::top_logprobs::{log_sum_exp, top_logprobs};
use crate::model::Model;
use crate::model::batch::{Batch, BatchPages};
use crate::model::features::ImageFeatures;
use crate::model::parameters::{Weights, WeightsId};
use crate::model::vision::ImageBatch;
use crate::ops::Tensor;
use crate::ops::attention::PAGE_TOKENS;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::Prompt;
use crate::prompt::positions::{Grid, positions};

/// Tokens of a piece.
const PIECE_TOKENS: usize = 512;
/// Rows of logits that are on the host at once.
const ROWS: usize = 64;

/// The log-probabilities at a position of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The prompt's own token, then the likeliest in descending order.
    pub tokens: Vec<Ranked>,
}

/// A token with its rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The token's id in the vocabulary.
    pub id: u32,
    /// Natural logarithm of its probability at temperature 1.
    pub logprob: f32,
    /// 1 for the likeliest.
    pub rank: usize,
}

/// A prompt that is being scored: for every token but the first its own log-probability and those of the `top` likeliest. It has keys and
/// values of its own, so that it takes no pages from those that are answered.
pub struct Scoring {
    prompt: Prompt,
    top: usize,
    reply: oneshot::Sender<Vec<TokenLogprobs>>,
    /// Position of each token.
    positions: Vec<[u32; 3]>,
    /// Row of each token among the images', or -1; empty without images.
    image_index: Vec<i32>,
    /// The vision tower's unmerged features of the first images.
    unmerged_features: Vec<Tensor>,
    /// The features of all images for the language model.
    features: Option<ImageFeatures>,
    cache: KvCache,
    page_table: PageTable,
    /// Tokens that went through the model.
    computed: usize,
    places: Vec<TokenLogprobs>,
    /// The weights so far.
    weights: WeightsId,
}

impl Scoring {
    /// Nothing is computed yet. A prompt whose images do not fit its placeholders has no places.
    pub fn new(model: &Model, prompt: Prompt, top: usize, reply: oneshot::Sender<Vec<TokenLogprobs>>) -> Scoring {
        let (merge, pad) = (model.config.merge(), model.config.image_pad);
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        let positions = positions(&prompt.token_ids, &grids, merge, pad).map(|(positions, _)| positions);
        let mut row = -1;
        let mut next_row = |id: &u32| match *id == pad {
            true => {
                row += 1;
                row
            }
            false => -1,
        };
        let image_index = match grids.is_empty() {
            true => Vec::new(),
            false => prompt.token_ids.iter().map(&mut next_row).collect(),
        };
        Scoring {
            image_index,
            positions: positions.unwrap_or_default(),
            cache: KvCache::new(prompt.token_ids.len().div_ceil(PAGE_TOKENS)),
            page_table: PageTable::default(),
            prompt,
            top,
            reply,
            unmerged_features: Vec::new(),
            features: None,
            computed: 0,
            places: Vec::new(),
            weights: WeightsId::default(),
        }
    }

    /// Whether it holds keys and values.
    pub fn is_begun(&self) -> bool {
        self.computed > 0 || !self.unmerged_features.is_empty()
    }

    /// Whether one piece is all of it.
    pub fn is_short(&self) -> bool {
        self.prompt.images.is_empty() && self.positions.len() <= PIECE_TOKENS
    }

    /// Tokens of its next piece, of a picture's as of a whole one.
    pub fn next_tokens(&self) -> u64 {
        match self.unmerged_features.len() < self.prompt.images.len() {
            true => PIECE_TOKENS as u64,
            false => self.positions.len().saturating_sub(self.computed).min(PIECE_TOKENS) as u64,
        }
    }

    /// Whether nobody waits for it any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Computes one image or one piece. Under other weights it begins anew.
    pub fn advance(&mut self, model: &Model, weights: &Weights, scale: PixelScale) {
        if self.weights != weights.id() {
            self.weights = weights.id();
            self.unmerged_features.clear();
            self.places.clear();
            (self.features, self.computed) = (None, 0);
        }
        match self.prompt.images.get(self.unmerged_features.len()) {
            Some(image) => {
                let images = ImageBatch { images: vec![(image.patches.as_slice(), image.grid)], scale };
                self.unmerged_features.push(model.tower_forward(weights, &images, false).0);
            }
            None => self.advance_text(model, weights),
        }
    }

    /// Whether all places are there. The last token predicts none of them.
    pub fn is_done(&self) -> bool {
        self.computed + 1 >= self.positions.len()
    }

    /// Gives the places to who waits for them.
    pub fn finish(self) {
        let _ = self.reply.send(self.places);
    }

    fn advance_text(&mut self, model: &Model, weights: &Weights) {
        if self.features.is_none() && !self.unmerged_features.is_empty() {
            let unmerged_features: Vec<&Tensor> = self.unmerged_features.iter().collect();
            self.features = Some(model.merger_forward(weights, &model.backend.concat_rows(&unmerged_features)).0);
        }
        let tokens = self.computed..(self.computed + PIECE_TOKENS).min(self.positions.len() - 1);
        self.cache.make_writable(&mut self.page_table, tokens.start, tokens.end);
        let batch = Batch {
            ids: self.prompt.token_ids[tokens.clone()].to_vec(),
            positions: self.positions[tokens.clone()].to_vec(),
            bounds: vec![0, tokens.len()],
            image_index: self.image_index.get(tokens.clone()).unwrap_or_default().to_vec(),
            pages: Some(BatchPages {
                slots: tokens.clone().map(|position| self.page_table.slot(position)).collect(),
                page_tables: vec![self.page_table.pages().to_vec()],
                lengths: vec![tokens.end],
                ..BatchPages::default()
            }),
            ..Batch::default()
        };
        let h = model.forward_paged(weights, &batch, self.features.as_ref(), self.cache.layers_mut(model));
        let targets = &self.prompt.token_ids[tokens.start + 1..=tokens.end];
        for start in (0..targets.len()).step_by(ROWS) {
            self.places.extend(places(model, weights, &h, start, &targets[start..], self.top));
        }
        self.computed = tokens.end;
    }
}

/// The next [`ROWS`] places, whose tokens are `targets`.
fn places(
    model: &Model,
    weights: &Weights,
    h: &Tensor,
    start: usize,
    targets: &[u32],
    top: usize,
) -> Vec<TokenLogprobs> {
    let targets = &targets[..targets.len().min(ROWS)];
    let rows: Vec<i32> = (start..start + targets.len()).map(|row| row as i32).collect();
    let rows = model.backend.gather_rows(h, &model.backend.indices(&rows));
    let logits = model.logits(weights, &rows);
    let values = model.backend.to_f32(&logits);
    values.chunks_exact(logits.cols()).zip(targets).map(|(z, &target)| place(z, target, top)).collect()
}

fn place(z: &[f32], target: u32, top: usize) -> TokenLogprobs {
    let own = z[target as usize];
    let rank = 1 + z.iter().filter(|z| **z > own).count();
    let actual = Ranked { id: target, logprob: (f64::from(own) - log_sum_exp(z)) as f32, rank };
    let top = top_logprobs(z, top).into_iter().enumerate();
    let top = top.map(|(place, (id, logprob))| Ranked { id, logprob, rank: place + 1 });
    TokenLogprobs { tokens: std::iter::once(actual).chain(top).collect() }
}
