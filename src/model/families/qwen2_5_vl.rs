//! Qwen2.5-VL (Bai et al. 2025): RMSNorm and SwiGLU in the vision tower, windowed attention.

use super::{Family, FamilyKeys, HiddenKey, Mrope, SizeKey, TextDefaults, TextFamily, VisionFamily, WindowKeys};
use crate::hub::keys::Effect::{Unused, Used};
use crate::hub::keys::Entry;

/// The family.
pub const FAMILY: Family = Family {
    model_type: "qwen2_5_vl",
    text: TextFamily {
        qkv_bias: true,
        qk_norm: None,
        mrope: Mrope::Contiguous,
        defaults: TextDefaults {
            head_dim: None,
            context_tokens: 32_768,
            norm_epsilon: 1e-5,
            rope_theta: 1_000_000.0,
            mrope_section: [16, 24, 24],
        },
    },
    vision: Some(VisionFamily {
        layer_norm: false,
        mlp_up: &["gate_proj", "up_proj"],
        mlp_down: "down_proj",
        activations: &[("silu", None), ("swish", None)],
        activations_expected: "\"silu\", others are not supported",
        dim: SizeKey("hidden_size", 3584),
        hidden: HiddenKey::Size(SizeKey("intermediate_size", 3420)),
        out: SizeKey("out_hidden_size", 3584),
        windows: Some(WindowKeys {
            side: SizeKey("window_size", 112),
            full_blocks: "fullatt_block_indexes",
            full_blocks_default: &[7, 15, 23, 31],
        }),
    }),
    keys: FamilyKeys {
        text: &[],
        rope: &[],
        vision: &[
            Entry { names: &["hidden_size"], effect: Used, note: "width of the tower" },
            Entry { names: &["intermediate_size"], effect: Used, note: "width of its MLP; 3420 where it is absent" },
            Entry { names: &["out_hidden_size"], effect: Used, note: "width of the language model" },
            Entry {
                names: &["window_size", "fullatt_block_indexes"],
                effect: Used,
                note: "a window's side in pixels, 112 by default; the blocks without windows, 7, 15, 23 and 31 by default",
            },
            Entry {
                names: &["hidden_act"],
                effect: Used,
                note: "`silu` (or `swish`), also where it is absent; others are refused",
            },
            Entry { names: &["embed_dim", "mlp_ratio"], effect: Unused, note: "of Qwen2-VL" },
        ],
    },
};
