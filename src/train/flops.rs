//! What a forward and a backward compute, for the share of a device's peak that they reach.

use crate::model::Model;
use crate::model::batch::Batch;
use crate::model::parameters::Part;

/// Floating-point operations of the language model's forward and backward over a batch with packed keys. A product with a weight takes
/// `6·N` for each token, `N` being its elements (Kaplan et al. 2020, appendix B); the head is computed for the wanted rows only. Attention takes `12·H·D` for each
/// layer, each token and each key that it sees, its own half. A prefix that sequences share counts once, as it is computed. What
/// recomputing activations adds does not count (as in Chowdhery et al. 2022, appendix B), nor do the vision tower and the merger.
pub fn training_flops(model: &Model, batch: &Batch) -> f64 {
    let (config, layout) = (&model.config, &model.layout);
    let head = layout.spec(layout.head).len() as f64;
    let of_language = layout.matmul_weights().filter(|spec| spec.part == Part::Language);
    let in_layers = of_language.map(|spec| spec.len() as f64).sum::<f64>() - head;
    let wanted = batch.rows.as_ref().map_or(batch.tokens(), Vec::len) as f64;
    let length = |sequence: usize| (batch.bounds[sequence + 1] - batch.bounds[sequence]) as f64;
    let pairs = (0..batch.bounds.len().saturating_sub(1)).map(|sequence| {
        let prefix = batch.prefixes.get(sequence).copied().flatten().map_or(0.0, length);
        length(sequence) * (prefix + length(sequence) / 2.0)
    });
    let attention = 12.0 * (config.layers * config.heads.heads * config.heads.head_dim) as f64;
    6.0 * (batch.tokens() as f64 * in_layers + wanted * head) + attention * pairs.sum::<f64>()
}
