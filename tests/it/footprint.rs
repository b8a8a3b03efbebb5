//! The footprint of a block against what it holds, counted on a device that has addresses only.

use std::sync::Arc;

use thyme_engine::cuda::{self, Cuda};
use thyme_engine::model::Model;
use thyme_engine::model::block::{Tower, block_backward, block_forward};
use thyme_engine::model::compute::{Compute, Residual};
use thyme_engine::model::config::Config;
use thyme_engine::model::footprint::BlockFootprint;
use thyme_engine::model::parameters::{BlockIds, Parameters};
use thyme_engine::ops::attention::{Heads, Keys, Packed};
use thyme_engine::ops::gelu::GeluForm;
use thyme_engine::ops::{Dtype, MemoryUse};

use crate::recipes::{QWEN_2_5_VL_7B, QWEN_2_VL_2B};
use crate::support::addresses::Addresses;

/// Heads that are normalised.
const QWEN_3_VL_TEXT: &str = r#"{"model_type": "qwen3_vl_text", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 1,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 1024}"#;
/// A multiple of 128, so that even a statistic's tensor is whole pieces of the arena.
const ROWS: usize = 256;

/// Bytes that a block of `model` keeps for backward, and that its backward holds at most besides. No weight is trained: the partial sums of
/// a weight's gradient are a row for every 64, and not counted.
fn measured(model: &Model, ids: &BlockIds, heads: Heads, gelu: Option<GeluForm>) -> [usize; 2] {
    let backend = &*model.backend;
    let used = || backend.memory().unwrap();
    let bytes_since = |before: MemoryUse, now: u64| (now - before.held) as usize;
    let weights = Parameters::from_layout(&model.layout, |spec| backend.zeros(&spec.shape, Dtype::Bf16));
    let compute = Compute { backend, weights: &weights };
    let dim = model.layout.spec(ids.norm1.weight).len();
    let row = || backend.zeros(&[ROWS, dim], Dtype::Activation);
    let cos_sin = backend.zeros(&[ROWS, heads.head_dim], Dtype::F32);
    let tower = Tower { heads, norm_epsilon: 1e-6, gelu, cos_sin: &cos_sin };
    let bounds = backend.attention_bounds(&[0, ROWS as i32], heads);
    let segments = Packed { bounds: &bounds, prefixes: None, causal: true };
    let input = Residual { h: Arc::new(row()), add: Some(Arc::new(row())) };

    let before = used();
    let (output, saved) = block_forward(compute, ids, tower, input.clone(), Keys::Packed(segments));
    drop(output);
    let kept = bytes_since(before, used().held);

    let (mut gradients, dresidual) = (model.gradients(|_| false), row());
    let before = used();
    let _dinput = block_backward(compute, &mut gradients, ids, tower, &saved, segments, dresidual);
    [kept, bytes_since(before, used().peak)]
}

#[test]
fn a_footprint_counts_all_that_a_block_keeps_and_that_its_backward_holds() {
    for (config, is_vision) in [
        (QWEN_2_5_VL_7B, false),
        (QWEN_2_5_VL_7B, true),
        (QWEN_2_VL_2B, false),
        (QWEN_2_VL_2B, true),
        (QWEN_3_VL_TEXT, false),
    ] {
        let config = Config::from_json(&serde_json::from_str(config).unwrap()).unwrap();
        let backend = Cuda::with_arena(Arc::new(Addresses::default()), 1 << 40).unwrap();
        let model = Model::new(config, Arc::new(backend));
        let (config, layout) = (&model.config, &model.layout);
        let (ids, heads, gelu, footprint) = match is_vision {
            false => (&layout.layers[0], config.heads, None, BlockFootprint::decoder(config, layout)),
            true => {
                let (vision, ids) = config.vision.as_ref().zip(layout.vision.as_ref()).unwrap();
                (&ids.blocks[0], vision.head_layout(), vision.gelu, BlockFootprint::vision(config, layout))
            }
        };
        let [kept, backward] = measured(&model, ids, heads, gelu);
        let bytes = |elements: u128| ROWS * cuda::FOOTPRINT.activation_bytes * elements as usize;
        // Statistics are F32, which takes two bf16 elements: attention's of each head, of each norm `rstd` and perhaps `mean`, and of each normalised head.
        let of_norm = if ids.norm1.bias.is_some() { 2 } else { 1 };
        let normed_heads = if ids.qk_norm.is_some() { heads.heads + heads.kv_heads } else { 0 };
        let statistics = (heads.heads + 2 * of_norm + normed_heads) as u128;
        assert_eq!(kept, bytes(footprint.saved + statistics), "kept: {footprint:?}, gelu {gelu:?}");
        assert_eq!(backward, bytes(footprint.backward), "held by backward: {footprint:?}, gelu {gelu:?}");
    }
}
