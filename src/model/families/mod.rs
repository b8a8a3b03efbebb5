//! The model families as data: a file each says what is a family's own. Config, layout and blocks read these values; nothing asks which
//! family it is.

mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3_vl_text;

use crate::hub::keys::Entry;
use crate::ops::gelu::GeluForm;

/// All families, as messages and pages list them.
pub const FAMILIES: [&Family; 3] = [&qwen2_vl::FAMILY, &qwen2_5_vl::FAMILY, &qwen3_vl_text::FAMILY];

/// What is a family's own.
#[derive(Debug)]
pub struct Family {
    /// The `model_type` of its config.json.
    pub model_type: &'static str,
    /// The language model.
    pub text: TextFamily,
    /// The vision tower; `None` where there is none.
    pub vision: Option<VisionFamily>,
    /// Keys of config.json that do something else than in other families.
    pub keys: FamilyKeys,
}

/// A family's language model: pre-norm decoder layers with RMSNorm, grouped-query attention and a SwiGLU MLP.
#[derive(Debug)]
pub struct TextFamily {
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// The scales of the RMSNorm of each query and each key head, by their names in a layer; `None` where heads are not normalised.
    pub qk_norm: Option<[&'static str; 2]>,
    /// How the three positions share the angles of a head.
    pub mrope: Mrope,
    /// What holds where a key is absent.
    pub defaults: TextDefaults,
}

/// What holds of a language model where config.json has no key for it, as in transformers.
#[derive(Debug)]
pub struct TextDefaults {
    /// Width of a head; `None` for `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Longest sequence in tokens.
    pub context_tokens: usize,
    /// Epsilon of the norms.
    pub norm_epsilon: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Angles of time, height and width.
    pub mrope_section: [usize; 3],
}

/// How the temporal, height and width positions share the angles of a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mrope {
    /// One behind the other (Qwen2-VL, Wang et al. 2024, section 2.1).
    Contiguous,
    /// In turn, time, height, width; what height and width leave is the temporal position's (Qwen3-VL, Bai et al. 2025).
    Interleaved,
}

/// A family's vision tower: patch embedding, pre-norm blocks over all patches of an image or of a window, merger.
#[derive(Debug)]
pub struct VisionFamily {
    /// Whether its norms are LayerNorm, with a bias; RMSNorm otherwise.
    pub layer_norm: bool,
    /// The matrices into the MLP: gate and up, or the one of a GELU MLP.
    pub mlp_up: &'static [&'static str],
    /// The matrix out of the MLP.
    pub mlp_down: &'static str,
    /// Values of `hidden_act`, the default first, with the form of GELU that each means; SwiGLU where `None`.
    pub activations: &'static [(&'static str, Option<GeluForm>)],
    /// Those values in words, for messages.
    pub activations_expected: &'static str,
    /// Width of the residual stream.
    pub dim: SizeKey,
    /// Width of the MLP.
    pub hidden: HiddenKey,
    /// Width of what leaves the merger.
    pub out: SizeKey,
    /// Windows of attention; `None` where every block sees the whole image.
    pub windows: Option<WindowKeys>,
}

/// A key of a size, and the size where it is absent.
#[derive(Clone, Copy, Debug)]
pub struct SizeKey(pub &'static str, pub usize);

/// Where the width of the tower's MLP stands.
#[derive(Debug)]
pub enum HiddenKey {
    /// In a key of its own.
    Size(SizeKey),
    /// In a key of its ratio to the tower's width; and the ratio where it is absent.
    Ratio(&'static str, f64),
}

/// The keys of the tower's windows.
#[derive(Debug)]
pub struct WindowKeys {
    /// The side of a window in pixels.
    pub side: SizeKey,
    /// The list of blocks that ignore windows.
    pub full_blocks: &'static str,
    /// Those blocks where it is absent.
    pub full_blocks_default: &'static [usize],
}

/// Entries that count in place of those of the common tables of keys.
#[derive(Debug)]
pub struct FamilyKeys {
    /// Of the language model.
    pub text: &'static [Entry],
    /// Of its rotary positions.
    pub rope: &'static [Entry],
    /// Of the vision tower.
    pub vision: &'static [Entry],
}

impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.model_type == other.model_type
    }
}

/// The family of a `model_type`.
pub fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| family.model_type == model_type)
}

/// All values of `model_type`, in words.
pub fn listed() -> String {
    let [others @ .., last] = FAMILIES.map(|family| format!("`{}`", family.model_type));
    format!("{} and {last}", others.join(", "))
}

/// Each family's own entries of the tables of keys, under headings for the page that shows all.
pub fn key_sections() -> Vec<(String, &'static [Entry])> {
    let of = |family: &&'static Family| {
        let FamilyKeys { text, rope, vision } = &family.keys;
        let places = [("language model", *text), ("rotary positions", *rope), ("`vision_config`", *vision)];
        let places = places.into_iter().filter(|(_, entries)| !entries.is_empty());
        places.map(|(place, entries)| (format!("config.json of `{}`, {place}", family.model_type), entries))
    };
    FAMILIES.iter().flat_map(of).collect()
}
