//! Log-probabilities of a prompt's own tokens, and of the likeliest ones in their places: one forward over the whole prompt.

use crate::engine::sampling::likeliest::{likeliest, log_sum_exp};
use crate::model::batch::Batch;
use crate::model::parameters::Weights;
use crate::model::vision::ImageBatch;
use crate::model::{Keep, Model};
use crate::ops::Tensor;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::Prompt;
use crate::prompt::positions::{Grid, positions};

/// Rows of logits that are on the host at once.
const ROWS: usize = 64;

/// A place of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The prompt's own token, then the likeliest in descending order.
    pub tokens: Vec<Ranked>,
}

/// A token with its rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability at temperature 1.
    pub logprob: f32,
    /// 1 for the likeliest.
    pub rank: usize,
}

/// For every token of the prompt but the first: its own log-probability and those of the `top` likeliest.
pub fn prompt_logprobs(
    model: &Model,
    weights: &Weights,
    scale: PixelScale,
    prompt: &Prompt,
    top: usize,
) -> Vec<TokenLogprobs> {
    let ids = &prompt.token_ids;
    if ids.len() < 2 {
        return Vec::new();
    }
    let (merge, pad) = (model.config.vision.merge, model.config.image_pad);
    let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
    let Ok((positions, _)) = positions(ids, &grids, merge, pad) else { return Vec::new() };
    let mut row = -1;
    let mut next_row = |id: &u32| match *id == pad {
        true => {
            row += 1;
            row
        }
        false => -1,
    };
    let batch = Batch {
        image_index: if grids.is_empty() { Vec::new() } else { ids.iter().map(&mut next_row).collect() },
        ids: ids.clone(),
        positions,
        bounds: vec![0, ids.len()],
        rows: Some((0..ids.len() - 1).collect()),
        ..Batch::default()
    };
    let images = (!grids.is_empty()).then(|| {
        let images = prompt.images.iter().map(|image| (image.patches.as_slice(), image.grid)).collect();
        let (units, _) = model.tower_forward(weights, &ImageBatch { images, scale }, false);
        model.merger_forward(weights, &units).0
    });
    let (h, _) = model.forward(weights, &batch, images.as_ref(), Keep::Nothing);
    let starts = (0..ids.len() - 1).step_by(ROWS);
    starts.flat_map(|start| places(model, weights, &h, start, &ids[start + 1..], top)).collect()
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
    let drawn = Ranked { id: target, logprob: (f64::from(own) - log_sum_exp(z)) as f32, rank };
    let top = likeliest(z, top).into_iter().enumerate();
    let top = top.map(|(place, (id, logprob))| Ranked { id, logprob, rank: place + 1 });
    TokenLogprobs { tokens: std::iter::once(drawn).chain(top).collect() }
}
