//! Qwen2-VL (Wang et al. 2024): LayerNorm and a GELU MLP in the vision tower, full attention.

use super::{Family, FamilyKeys, HiddenKey, Mrope, SizeKey, TextDefaults, TextFamily, VisionFamily};
use crate::hub::keys::Effect::{Unused, Used};
use crate::hub::keys::Entry;
use crate::ops::gelu::GeluForm;

/// The family.
pub const FAMILY: Family = Family {
    model_type: "qwen2_vl",
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
        layer_norm: true,
        mlp_up: &["fc1"],
        mlp_down: "fc2",
        activations: &[("quick_gelu", Some(GeluForm::Quick)), ("gelu", Some(GeluForm::Erf))],
        activations_expected: "\"quick_gelu\" or \"gelu\", others are not supported",
        dim: SizeKey("embed_dim", 1280),
        hidden: HiddenKey::Ratio("mlp_ratio", 4.0),
        out: SizeKey("hidden_size", 3584),
        windows: None,
    }),
    keys: FamilyKeys {
        text: &[],
        rope: &[],
        vision: &[
            Entry { names: &["embed_dim"], effect: Used, note: "width of the tower; 1280 where it is absent" },
            Entry { names: &["mlp_ratio"], effect: Used, note: "width of its MLP over that; 4 where it is absent" },
            Entry { names: &["hidden_size"], effect: Used, note: "width of the language model" },
            Entry {
                names: &["hidden_act"],
                effect: Used,
                note: "`quick_gelu`, also where it is absent, or `gelu`; others are refused",
            },
            Entry {
                names: &["intermediate_size", "out_hidden_size", "window_size", "fullatt_block_indexes"],
                effect: Unused,
                note: "of Qwen2.5-VL",
            },
        ],
    },
};
