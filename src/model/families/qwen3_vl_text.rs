//! The language model of Qwen3-VL (Bai et al. 2025) by itself: normalised query and key heads, no bias, interleaved rotary positions.

use super::{Family, FamilyKeys, Mrope, TextDefaults, TextFamily};
use crate::hub::keys::Effect::{Ignored, Only, Unused, Used};
use crate::hub::keys::Entry;

/// The family.
pub const FAMILY: Family = Family {
    model_type: "qwen3_vl_text",
    text: TextFamily {
        qkv_bias: false,
        qk_norm: Some(["self_attn.q_norm", "self_attn.k_norm"]),
        mrope: Mrope::Interleaved,
        defaults: TextDefaults {
            head_dim: Some(128),
            context_tokens: 128_000,
            norm_epsilon: 1e-6,
            rope_theta: 500_000.0,
            mrope_section: [24, 20, 20],
        },
    },
    vision: None,
    keys: FamilyKeys {
        text: &[
            Entry { names: &["head_dim"], effect: Used, note: "128 where it is absent" },
            Entry {
                names: &["max_position_embeddings"],
                effect: Used,
                note: "the longest sequence; 128000 where it is absent",
            },
            Entry {
                names: &["rms_norm_eps"],
                effect: Used,
                note: "1e-6 where it is absent; also of query and key heads",
            },
            Entry {
                names: &["rope_theta"],
                effect: Used,
                note: "where `rope_parameters` has none; 5e5 where it is absent",
            },
            Entry {
                names: &["attention_bias"],
                effect: Only(&["false"]),
                note: "no projection has a bias; use a checkpoint that was trained so",
            },
            Entry { names: &["qkv_bias", "mlp_bias"], effect: Unused, note: "no projection has a bias" },
            Entry { names: &["vision_config"], effect: Ignored(&[]), note: "there is no tower" },
        ],
        rope: &[
            Entry {
                names: &["mrope_section"],
                effect: Used,
                note: "three numbers that sum to half the head size; 24, 20, 20 where it is absent",
            },
            Entry {
                names: &["mrope_interleaved"],
                effect: Only(&["true"]),
                note: "the angles of time, height and width take turns in this model",
            },
        ],
        vision: &[],
    },
};
