//! A checkpoint's `config.json`, of any family, flat (as released) or nested under `text_config` (as transformers 5 writes it). Which key
//! means what: `src/hub/README.md`.

use std::path::Path;

use serde_json::Value;

use super::families::{self, Family, HiddenKey, SizeKey, VisionFamily, WindowKeys};
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
/// Base of the vision tower's angles where a config has none.
const VISION_THETA: f64 = 10_000.0;

/// Everything that fixes the shape of the computation.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// What is its family's own.
    pub family: &'static Family,
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
    /// The vision tower; `None` where the family has none.
    pub vision: Option<VisionConfig>,
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

/// The objects of a `config.json`.
#[derive(Clone, Copy)]
struct Sections<'a> {
    family: &'static Family,
    root: Keys<'a>,
    /// The language model; the root where nothing is nested.
    text: Keys<'a>,
    is_nested: bool,
    /// The vision tower, where the family has one, and the family's.
    vision: Option<(Keys<'a>, &'static VisionFamily)>,
}

impl Config {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// When a key is missing, wrong, or means what is not built.
    pub fn from_json(root: &Value) -> Result<Config, ConfigError> {
        let sections = Sections::of(root)?;
        sections.accept()?;
        let Sections { family, root, text, vision, .. } = sections;
        let defaults = &family.text.defaults;
        let (dim, heads) = (text.size("hidden_size")?, text.size("num_attention_heads")?);
        let kv_heads = match text.object.get("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => text.size("num_key_value_heads")?,
        };
        let context_tokens = text.size_or("max_position_embeddings", defaults.context_tokens)?;
        let head_dim = text.size_or("head_dim", defaults.head_dim.unwrap_or(dim / heads))?;
        let image_pad = root.size_or("image_token_id", 151_655)?;
        let config = Config {
            family,
            dim,
            hidden: text.size("intermediate_size")?,
            layers: text.size("num_hidden_layers")?,
            heads: Heads { heads, kv_heads, head_dim },
            vocab: text.size("vocab_size")?,
            tied: root.flag_or("tie_word_embeddings", false)? || text.flag_or("tie_word_embeddings", false)?,
            norm_epsilon: text.epsilon_or("rms_norm_eps", defaults.norm_epsilon)?,
            rope: Rope::from_keys(text, family, context_tokens)?,
            context_tokens,
            init_std: text.deviation_or("initializer_range", 0.02)?,
            vision: vision.map(|(keys, family)| VisionConfig::from_keys(family, keys)).transpose()?,
            image_pad: image_pad as u32,
            video_pad: root.size_or("video_token_id", image_pad + 1)? as u32,
        };
        config.check_text(text.find("head_dim").is_some() || defaults.head_dim.is_some())?;
        if let (Some(tower), Some((keys, family))) = (&config.vision, vision) {
            tower.check(size(keys, family.out)?, config.dim)?;
        }
        Ok(config)
    }

    /// Patches along each side of an image's token; 1 where there is no tower, and so no image.
    pub fn merge(&self) -> usize {
        self.vision.as_ref().map_or(1, |vision| vision.merge)
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

    fn check_text(&self, has_head_dim: bool) -> Result<(), ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let depth = self.vision.as_ref().map_or(0, |vision| vision.depth);
        if heads.max(kv_heads) * head_dim > WIDTH_MAX || self.layers.max(depth) > LAYERS_MAX {
            return contradiction(format!(
                "{heads} heads of {head_dim} and {} layers with {depth} vision blocks; at most {WIDTH_MAX} wide and {LAYERS_MAX} deep is \
                 possible",
                self.layers
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
        Ok(())
    }
}

impl VisionConfig {
    /// Where a key is absent it has transformers' default: released files leave some out.
    fn from_keys(family: &VisionFamily, keys: Keys<'_>) -> Result<VisionConfig, ConfigError> {
        let (patch, merge) = (keys.size_or("patch_size", 14)?, keys.size_or("spatial_merge_size", 2)?);
        let windows = family.windows.as_ref().map(|windows| window_sizes(windows, keys, patch * merge)).transpose()?;
        let dim = size(keys, family.dim)?;
        Ok(VisionConfig {
            dim,
            hidden: match family.hidden {
                HiddenKey::Size(key) => size(keys, key)?,
                HiddenKey::Ratio(key, ratio) => (dim as f64 * keys.at_least_one_or(key, ratio)?) as usize,
            },
            depth: keys.size_or("depth", 32)?,
            heads: keys.size_or("num_heads", 16)?,
            patch,
            merge,
            frames: keys.size_or("temporal_patch_size", 2)?,
            windows,
            gelu: activation(family, keys)?,
            rope_theta: match keys.object_of("rope_parameters")? {
                Some(rope) => rope.base_or("rope_theta", VISION_THETA)?,
                None => keys.base_or("rope_theta", VISION_THETA)?,
            },
        })
    }

    /// `out` is the width that its rows have, `text_dim` that of the language model.
    fn check(&self, out: usize, text_dim: usize) -> Result<(), ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        let &VisionConfig { dim, hidden, heads, patch, merge, frames, .. } = self;
        if [patch, merge, frames].into_iter().max() > Some(PATCH_MAX) || hidden > WIDTH_MAX {
            return contradiction(format!(
                "patches of {patch} px and {frames} frames merged {merge} by {merge}, a vision MLP of {hidden}; at most {PATCH_MAX} and \
                 {WIDTH_MAX} are possible"
            ));
        }
        if dim % heads != 0 || dim / heads % 4 != 0 {
            return contradiction(format!("vision width {dim} over {heads} heads is not a multiple of 4"));
        }
        if out != text_dim {
            return contradiction(format!("vision_config gives width {out}, the language model has {text_dim}"));
        }
        Ok(())
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

fn size(keys: Keys<'_>, SizeKey(key, default): SizeKey) -> Result<usize, ConfigError> {
    keys.size_or(key, default)
}

/// A window's side, at least `side_min` pixels, and the blocks that ignore windows.
fn window_sizes(family: &WindowKeys, vision: Keys<'_>, side_min: usize) -> Result<(usize, Vec<usize>), ConfigError> {
    let side = size(vision, family.side)?;
    if side < side_min {
        return Err(vision.wrong(family.side.0, "at least patch_size * spatial_merge_size"));
    }
    let key = family.full_blocks;
    let Some(value) = vision.find(key) else { return Ok((side, family.full_blocks_default.to_vec())) };
    let indices: Option<Vec<usize>> =
        value.as_array().and_then(|list| list.iter().map(|index| index.as_u64().map(|index| index as usize)).collect());
    Ok((side, indices.ok_or_else(|| vision.wrong(key, "a list of whole numbers"))?))
}

/// The form of GELU in the vision blocks, where they use one.
fn activation(family: &VisionFamily, vision: Keys<'_>) -> Result<Option<GeluForm>, ConfigError> {
    let name = vision.find("hidden_act").map_or(Some(""), Value::as_str);
    let known = family.activations.iter().enumerate();
    let mut named = known.filter(|(i, (known, _))| name == Some(known) || (*i == 0 && name == Some("")));
    let found = named.next().map(|(_, (_, form))| *form);
    found.ok_or_else(|| vision.wrong("hidden_act", family.activations_expected))
}

impl<'a> Sections<'a> {
    fn of(root: &'a Value) -> Result<Sections<'a>, ConfigError> {
        let model_type = root["model_type"].as_str().unwrap_or("missing");
        let unknown = || ConfigError::Family(model_type.to_owned());
        let (family, object) = families::find(model_type).zip(root.as_object()).ok_or_else(unknown)?;
        let root = Keys { object, place: "" };
        let text = match root.find("text_config") {
            Some(value) => Some(value.as_object().ok_or_else(|| root.wrong("text_config", "an object"))?),
            None => None,
        };
        let tower = |family| {
            let object = root.find("vision_config").and_then(Value::as_object);
            let object = object.ok_or_else(|| root.wrong("vision_config", "an object"))?;
            Ok((Keys { object, place: "vision_config." }, family))
        };
        Ok(Sections {
            family,
            root,
            text: text.map_or(root, |object| Keys { object, place: "text_config." }),
            is_nested: text.is_some(),
            vision: family.vision.as_ref().map(tower).transpose()?,
        })
    }

    /// Refuses what is not built.
    fn accept(self) -> Result<(), ConfigError> {
        let Sections { family, root, text, is_nested, vision } = self;
        let refused = ConfigError::Refused;
        accept(&[TOP, ANY_LEVEL], root.object, root.place).map_err(refused)?;
        let text_tables: &[_] =
            if is_nested { &[TOP, ANY_LEVEL, TEXT, family.keys.text] } else { &[TEXT, family.keys.text] };
        accept(text_tables, text.object, text.place).map_err(refused)?;
        if let Some((vision, _)) = vision {
            accept(&[TOP, ANY_LEVEL, VISION, family.keys.vision], vision.object, vision.place).map_err(refused)?;
            if let Some(rope) = vision.object_of("rope_parameters")? {
                accept(&[VISION_ROPE], rope.object, "vision_config.rope_parameters.").map_err(refused)?;
            }
        }
        let kinds = text.find("layer_types").map(|value| value.as_array().ok_or(value));
        match kinds {
            None => Ok(()),
            Some(Ok(kinds)) if kinds.iter().all(|kind| kind == "full_attention") => Ok(()),
            Some(_) => Err(text.wrong("layer_types", "full_attention in every layer, others are not supported")),
        }
    }

    fn warnings(self) -> Vec<String> {
        let Sections { family, root, text, is_nested, vision } = self;
        let mut found = match is_nested {
            false => warnings(&[TOP, ANY_LEVEL, TEXT, family.keys.text], root.object, root.place),
            true => {
                let is_of_text = |key: &str| TEXT.iter().any(|entry| entry.names.contains(&key));
                let own = root.object.iter().filter(|(key, _)| !is_of_text(key));
                let own = own.map(|(key, value)| (key.clone(), value.clone())).collect();
                let mut found = warnings(&[TOP, ANY_LEVEL], &own, root.place);
                found.extend(self.overridden());
                found.extend(warnings(&[TEXT, ANY_LEVEL, family.keys.text], text.object, text.place));
                found
            }
        };
        found.extend(rope_warnings(text, family.keys.rope));
        if let Some((vision, _)) = vision {
            found.extend(warnings(&[VISION, ANY_LEVEL, family.keys.vision], vision.object, vision.place));
            if let Ok(Some(rope)) = vision.object_of("rope_parameters") {
                found.extend(warnings(&[VISION_ROPE], rope.object, "vision_config.rope_parameters."));
            }
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
