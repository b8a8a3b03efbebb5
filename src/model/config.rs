//! A checkpoint's `config.json`, both families, flat (as released) or nested under `text_config` (as transformers 5 writes it). Which key
//! means what: `src/hub/README.md`.

use std::path::Path;

use serde_json::Value;

pub use super::keys::ConfigError;
use super::keys::{Keys, WIDTH_MAX};
use super::rope::{Rope, rope_warnings};
use crate::files::open::{self as files, SETTINGS_BYTES_MAX};
use crate::hub::is_lfs_pointer;
use crate::hub::keys::{ANY_LEVEL, Effect, TEXT, TOP, VISION, VISION_ROPE, accept, shown, warnings};
use crate::ops::attention::Heads;
use crate::ops::gelu::GeluForm;

/// Most layers, and most vision blocks.
const LAYERS_MAX: usize = 1 << 10;
/// Most pixels, frames or units along a side of a patch.
const PATCH_MAX: usize = 32;
/// `rms_norm_eps` where a config has none.
const NORM_EPSILON: f64 = 1e-5;
/// Base of the vision tower's angles where a config has none.
const VISION_THETA: f64 = 10_000.0;

/// Everything that fixes the shape of the computation.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Which published architecture it is.
    pub family: Family,
    /// Width of the language model.
    pub dim: usize,
    /// Width of its MLP.
    pub hidden: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Head layout of the decoder.
    pub heads: Heads,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Epsilon of the decoder's norms.
    pub norm_epsilon: f32,
    /// Rotary positions of the decoder.
    pub rope: Rope,
    /// Longest sequence the checkpoint was made for, in tokens.
    pub context_tokens: usize,
    /// Standard deviation of random initial matrices.
    pub init_std: f32,
    /// The vision tower.
    pub vision: VisionConfig,
    /// Placeholder token of an image's rows.
    pub image_pad: u32,
    /// Placeholder token of a video's rows.
    pub video_pad: u32,
}

/// The vision tower's part of [`Config`].
#[derive(Clone, PartialEq, Debug)]
pub struct VisionConfig {
    /// Width of the tower's residual stream.
    pub dim: usize,
    /// Width of its MLP.
    pub hidden: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Heads; keys and values have as many.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Patches along each side of a merged token.
    pub merge: usize,
    /// Frames in a patch; a still image is repeated.
    pub frames: usize,
    /// Window side in pixels and the blocks that ignore windows; `None` where every block sees the whole image.
    pub windows: Option<(usize, Vec<usize>)>,
    /// The MLP's activation: GELU, or SwiGLU where absent.
    pub gelu: Option<GeluForm>,
    /// Base of the rotary angles.
    pub rope_theta: f64,
}

/// The published architectures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// LayerNorm and a GELU MLP in the vision tower, full attention.
    Qwen2Vl,
    /// RMSNorm and SwiGLU in the vision tower, windowed attention.
    Qwen25Vl,
}

/// The objects of a `config.json`.
#[derive(Clone, Copy)]
struct Sections<'a> {
    root: Keys<'a>,
    /// The language model; the root where nothing is nested.
    text: Keys<'a>,
    is_nested: bool,
    vision: Keys<'a>,
}

impl Config {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// When a key is missing, wrong, or means what is not built.
    pub fn from_json(root: &Value) -> Result<Config, ConfigError> {
        let family = match root["model_type"].as_str().unwrap_or("missing") {
            "qwen2_vl" => Family::Qwen2Vl,
            "qwen2_5_vl" => Family::Qwen25Vl,
            other => return Err(ConfigError::Family(other.to_owned())),
        };
        let sections = Sections::of(root)?;
        sections.accept()?;
        let Sections { root, text, vision, .. } = sections;
        let (dim, heads) = (text.size("hidden_size")?, text.size("num_attention_heads")?);
        let kv_heads = match text.object.get("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => text.size("num_key_value_heads")?,
        };
        let context_tokens = text.size_or("max_position_embeddings", 32_768)?;
        let image_pad = root.size_or("image_token_id", 151_655)?;
        let config = Config {
            family,
            dim,
            hidden: text.size("intermediate_size")?,
            layers: text.size("num_hidden_layers")?,
            heads: Heads { heads, kv_heads, head_dim: text.size_or("head_dim", dim / heads)? },
            vocab: text.size("vocab_size")?,
            tied: root.flag_or("tie_word_embeddings", false)? || text.flag_or("tie_word_embeddings", false)?,
            norm_epsilon: text.epsilon_or("rms_norm_eps", NORM_EPSILON)?,
            rope: Rope::from_keys(text, context_tokens)?,
            context_tokens,
            init_std: text.deviation_or("initializer_range", 0.02)?,
            vision: VisionConfig::from_keys(family, vision)?,
            image_pad: image_pad as u32,
            video_pad: root.size_or("video_token_id", image_pad + 1)? as u32,
        };
        config.check(vision, text.find("head_dim").is_some())
    }

    /// Tokens that stand for images and videos, as far as the vocabulary has them. They are read and never sampled: a sampled one would stand for
    /// a picture that does not exist.
    pub fn placeholders(&self) -> Vec<u32> {
        let mut ids = vec![self.image_pad, self.video_pad];
        ids.dedup();
        ids.retain(|&id| (id as usize) < self.vocab);
        ids
    }

    /// A warning for each key of a parsed `config.json` that has no effect; none for a config that cannot be used.
    pub fn warnings(root: &Value) -> Vec<String> {
        Sections::of(root).map_or(Vec::new(), Sections::warnings)
    }

    fn check(self, vision: Keys<'_>, has_head_dim: bool) -> Result<Config, ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        let Heads { heads, kv_heads, head_dim } = self.heads;
        if heads.max(kv_heads) * head_dim > WIDTH_MAX || self.layers.max(self.vision.depth) > LAYERS_MAX {
            return contradiction(format!(
                "{heads} heads of {head_dim} and {} layers with {} vision blocks; at most {WIDTH_MAX} wide and {LAYERS_MAX} deep is \
                 possible",
                self.layers, self.vision.depth
            ));
        }
        if [self.vision.patch, self.vision.merge, self.vision.frames].into_iter().max() > Some(PATCH_MAX)
            || self.vision.hidden > WIDTH_MAX
        {
            return contradiction(format!(
                "patches of {} px and {} frames merged {} by {}, a vision MLP of {}; at most {PATCH_MAX} and {WIDTH_MAX} are possible",
                self.vision.patch, self.vision.frames, self.vision.merge, self.vision.merge, self.vision.hidden
            ));
        }
        if head_dim * heads != self.dim && !has_head_dim {
            return contradiction(format!("hidden_size {} is not a multiple of {heads} attention heads", self.dim));
        }
        if head_dim == 0 {
            return contradiction(format!("{heads} attention heads are more than the hidden_size of {}", self.dim));
        }
        if heads % kv_heads != 0 {
            return contradiction(format!("{heads} heads are not a multiple of {kv_heads} key-value heads"));
        }
        if head_dim % 2 != 0 || self.rope.mrope_section.iter().map(|&n| n as u128).sum::<u128>() != head_dim as u128 / 2
        {
            return contradiction(format!(
                "the mrope_section of rope_scaling, {:?}, does not sum to half the head size {head_dim}",
                self.rope.mrope_section
            ));
        }
        let VisionConfig { dim, heads, .. } = self.vision;
        if dim % heads != 0 || dim / heads % 4 != 0 {
            return contradiction(format!("vision width {dim} over {heads} heads is not a multiple of 4"));
        }
        let out = match self.family {
            Family::Qwen2Vl => vision.size_or("hidden_size", 3584)?,
            Family::Qwen25Vl => vision.size_or("out_hidden_size", 3584)?,
        };
        if out != self.dim {
            return contradiction(format!("vision_config gives width {out}, the language model has {}", self.dim));
        }
        Ok(self)
    }
}

impl VisionConfig {
    /// Where a key is absent it has transformers' default: released files leave some out.
    fn from_keys(family: Family, keys: Keys<'_>) -> Result<VisionConfig, ConfigError> {
        let (patch, merge) = (keys.size_or("patch_size", 14)?, keys.size_or("spatial_merge_size", 2)?);
        let (dim, hidden, windows) = match family {
            Family::Qwen2Vl => {
                let dim = keys.size_or("embed_dim", 1280)?;
                (dim, (dim as f64 * keys.at_least_one_or("mlp_ratio", 4.0)?) as usize, None)
            }
            Family::Qwen25Vl => {
                let side = keys.size_or("window_size", 112)?;
                if side < patch * merge {
                    return Err(keys.wrong("window_size", "at least patch_size * spatial_merge_size"));
                }
                let (dim, hidden) = (keys.size_or("hidden_size", 3584)?, keys.size_or("intermediate_size", 3420)?);
                (dim, hidden, Some((side, full_blocks(keys)?)))
            }
        };
        Ok(VisionConfig {
            dim,
            hidden,
            depth: keys.size_or("depth", 32)?,
            heads: keys.size_or("num_heads", 16)?,
            patch,
            merge,
            frames: keys.size_or("temporal_patch_size", 2)?,
            windows,
            gelu: vision_gelu(family, keys)?,
            rope_theta: match keys.object_of("rope_parameters")? {
                Some(rope) => rope.base_or("rope_theta", VISION_THETA)?,
                None => keys.base_or("rope_theta", VISION_THETA)?,
            },
        })
    }

    /// Head layout of its blocks.
    pub fn head_layout(&self) -> Heads {
        Heads { heads: self.heads, kv_heads: self.heads, head_dim: self.dim / self.heads }
    }

    /// Values of one patch and frame: three channels of pixels.
    pub fn patch_values(&self) -> usize {
        3 * self.patch * self.patch
    }
}

/// The blocks that ignore windows.
fn full_blocks(vision: Keys<'_>) -> Result<Vec<usize>, ConfigError> {
    let key = "fullatt_block_indexes";
    let Some(value) = vision.find(key) else { return Ok(vec![7, 15, 23, 31]) };
    let indices: Option<Vec<usize>> =
        value.as_array().and_then(|list| list.iter().map(|index| index.as_u64().map(|index| index as usize)).collect());
    indices.ok_or_else(|| vision.wrong(key, "a list of whole numbers"))
}

/// The form of GELU in the vision blocks, where they use one.
fn vision_gelu(family: Family, vision: Keys<'_>) -> Result<Option<GeluForm>, ConfigError> {
    let name = vision.find("hidden_act");
    match (family, name.map_or(Some(""), Value::as_str)) {
        (Family::Qwen2Vl, Some("" | "quick_gelu")) => Ok(Some(GeluForm::Quick)),
        (Family::Qwen2Vl, Some("gelu")) => Ok(Some(GeluForm::Erf)),
        (Family::Qwen2Vl, _) => Err(vision.wrong("hidden_act", "\"quick_gelu\" or \"gelu\", others are not supported")),
        (Family::Qwen25Vl, Some("" | "silu" | "swish")) => Ok(None),
        (Family::Qwen25Vl, _) => Err(vision.wrong("hidden_act", "\"silu\", others are not supported")),
    }
}

impl<'a> Sections<'a> {
    fn of(root: &'a Value) -> Result<Sections<'a>, ConfigError> {
        let object = root.as_object().ok_or_else(|| ConfigError::Family("missing".to_owned()))?;
        let root = Keys { object, place: "" };
        let text = match root.find("text_config") {
            Some(value) => Some(value.as_object().ok_or_else(|| root.wrong("text_config", "an object"))?),
            None => None,
        };
        let vision = root.find("vision_config").and_then(Value::as_object);
        let vision = vision.ok_or_else(|| root.wrong("vision_config", "an object"))?;
        Ok(Sections {
            root,
            text: text.map_or(root, |object| Keys { object, place: "text_config." }),
            is_nested: text.is_some(),
            vision: Keys { object: vision, place: "vision_config." },
        })
    }

    /// Refuses what is not built.
    fn accept(self) -> Result<(), ConfigError> {
        let Sections { root, text, is_nested, vision } = self;
        let refused = ConfigError::Refused;
        accept(&[TOP, ANY_LEVEL], root.object, root.place).map_err(refused)?;
        let text_tables: &[_] = if is_nested { &[TOP, ANY_LEVEL, TEXT] } else { &[TEXT] };
        accept(text_tables, text.object, text.place).map_err(refused)?;
        accept(&[TOP, ANY_LEVEL, VISION], vision.object, vision.place).map_err(refused)?;
        if let Some(rope) = vision.object_of("rope_parameters")? {
            accept(&[VISION_ROPE], rope.object, "vision_config.rope_parameters.").map_err(refused)?;
        }
        let kinds = text.find("layer_types").map(|value| value.as_array().ok_or(value));
        match kinds {
            None => Ok(()),
            Some(Ok(kinds)) if kinds.iter().all(|kind| kind == "full_attention") => Ok(()),
            Some(_) => Err(text.wrong("layer_types", "full_attention in every layer, others are not supported")),
        }
    }

    fn warnings(self) -> Vec<String> {
        let Sections { root, text, is_nested, vision } = self;
        let mut found = match is_nested {
            false => warnings(&[TOP, ANY_LEVEL, TEXT], root.object, root.place),
            true => {
                let is_of_text = |key: &str| TEXT.iter().any(|entry| entry.names.contains(&key));
                let own = root.object.iter().filter(|(key, _)| !is_of_text(key));
                let own = own.map(|(key, value)| (key.clone(), value.clone())).collect();
                let mut found = warnings(&[TOP, ANY_LEVEL], &own, root.place);
                found.extend(self.overridden());
                found.extend(warnings(&[TEXT, ANY_LEVEL], text.object, text.place));
                found
            }
        };
        found.extend(rope_warnings(text));
        found.extend(warnings(&[VISION, ANY_LEVEL], vision.object, vision.place));
        if let Ok(Some(rope)) = vision.object_of("rope_parameters") {
            found.extend(warnings(&[VISION_ROPE], rope.object, "vision_config.rope_parameters."));
        }
        found
    }

    /// Warnings of keys of the language model at the top level that differ from `text_config`, which alone is read.
    fn overridden(self) -> Vec<String> {
        let names = TEXT.iter().filter(|entry| !matches!(entry.effect, Effect::Unused)).flat_map(|entry| entry.names);
        let names = names.filter(|name| !["tie_word_embeddings", "eos_token_id"].contains(name));
        let differing = names.filter_map(|name| {
            let (outer, inner) = (self.root.find(name)?, self.text.find(name));
            (inner != Some(outer)).then(|| {
                let inner = inner.map_or("nothing".to_owned(), shown);
                format!("`{name}` is {} and has no effect beside text_config, which says {inner}", shown(outer))
            })
        });
        differing.collect()
    }
}

/// `dir/config.json`, parsed.
///
/// # Errors
/// When it cannot be read, or is not JSON.
pub fn read(dir: &Path) -> Result<Value, ConfigError> {
    let path = dir.join("config.json");
    let name = path.display().to_string();
    let bytes =
        files::read(&path, SETTINGS_BYTES_MAX).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    if is_lfs_pointer(&bytes) {
        return Err(ConfigError::Pointer(name));
    }
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Json { path: name, source })
}
