//! A checkpoint's `config.json`, both families, flat (as released) or nested under `text_config` (as transformers 5 writes it).

use std::path::Path;

use serde_json::Value;

use crate::ops::attention::Heads;
use crate::ops::gelu::GeluForm;

/// Largest width of anything: no product of sizes overflows below it.
const WIDTH_MAX: usize = 1 << 20;
/// Most layers, and most vision blocks.
const LAYERS_MAX: usize = 1 << 10;
/// Most pixels, frames or units along a side of a patch.
const PATCH_MAX: usize = 32;

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
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// How many angles follow the temporal, height and width position; they sum to head_dim / 2.
    pub mrope_section: [usize; 3],
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
    /// Width.
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
}

/// The published architectures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// LayerNorm and QuickGELU in the vision tower, full attention.
    Qwen2Vl,
    /// RMSNorm and SwiGLU in the vision tower, windowed attention.
    Qwen25Vl,
}

impl Family {
    /// The form of GELU in the vision blocks, where they use one.
    pub fn vision_gelu(self) -> Option<GeluForm> {
        match self {
            Family::Qwen2Vl => Some(GeluForm::Quick),
            Family::Qwen25Vl => None,
        }
    }
}

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; a checkpoint folder needs a config.json")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not JSON.
    #[error("{path} is not valid JSON: {source}")]
    Json {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// An architecture that is not implemented.
    #[error("model_type `{0}` is not supported; supported are `qwen2_vl` and `qwen2_5_vl`")]
    Family(String),
    /// A key is missing or has a wrong type.
    #[error("config key `{key}` is missing or not {expected}")]
    Key {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Numbers that contradict each other.
    #[error("config is contradictory: {0}")]
    Contradiction(String),
}

impl Config {
    /// Reads `dir/config.json`.
    pub fn open(dir: &Path) -> Result<Config, ConfigError> {
        let path = dir.join("config.json");
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        let value = serde_json::from_str(&text).map_err(|source| ConfigError::Json { path: name, source })?;
        Config::from_json(&value)
    }

    /// Reads a parsed `config.json`.
    pub fn from_json(root: &Value) -> Result<Config, ConfigError> {
        let family = match root["model_type"].as_str().unwrap_or("missing") {
            "qwen2_vl" => Family::Qwen2Vl,
            "qwen2_5_vl" => Family::Qwen25Vl,
            other => return Err(ConfigError::Family(other.to_owned())),
        };
        let text = Keys { nested: root.get("text_config"), root };
        let vision = Keys { nested: None, root: &root["vision_config"] };
        let dim = text.size("hidden_size")?;
        let heads = text.size("num_attention_heads")?;
        let head_dim = text.size_or("head_dim", dim / heads)?;
        let rope = text.find("rope_parameters").or_else(|| text.find("rope_scaling")).unwrap_or(&Value::Null);
        let rope_theta = match rope.get("rope_theta").or_else(|| text.find("rope_theta")) {
            Some(value) => value.as_f64().ok_or_else(|| missing("rope_theta", "a number"))?,
            None => 1_000_000.0,
        };
        let image_pad = text.size_or("image_token_id", 151_655)? as u32;
        let config = Config {
            family,
            dim,
            hidden: text.size("intermediate_size")?,
            layers: text.size("num_hidden_layers")?,
            heads: Heads { heads, kv_heads: text.size_or("num_key_value_heads", heads)?, head_dim },
            vocab: text.size("vocab_size")?,
            tied: root
                .get("tie_word_embeddings")
                .or_else(|| text.find("tie_word_embeddings"))
                .and_then(Value::as_bool)
                .unwrap_or(false),
            norm_epsilon: text.find("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6) as f32,
            rope_theta,
            mrope_section: section(&rope["mrope_section"])?,
            context_tokens: text.size_or("max_position_embeddings", 32_768)?,
            init_std: text.find("initializer_range").and_then(Value::as_f64).unwrap_or(0.02) as f32,
            vision: VisionConfig::from_keys(family, &vision)?,
            image_pad,
            video_pad: text.size_or("video_token_id", image_pad as usize + 1)? as u32,
        };
        config.check(&vision)
    }

    /// Tokens that stand for images and videos, as far as the vocabulary has them. The model reads them and never draws them: what stood for
    /// a picture that nobody gave would have no rows.
    pub fn placeholders(&self) -> Vec<u32> {
        let mut ids = vec![self.image_pad, self.video_pad];
        ids.dedup();
        ids.retain(|&id| (id as usize) < self.vocab);
        ids
    }

    fn check(self, vision: &Keys<'_>) -> Result<Config, ConfigError> {
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
        if heads % kv_heads != 0 {
            return contradiction(format!("{heads} heads are not a multiple of {kv_heads} key-value heads"));
        }
        if head_dim % 2 != 0 || self.mrope_section.iter().map(|&n| n as u128).sum::<u128>() != head_dim as u128 / 2 {
            return contradiction(format!(
                "mrope_section {:?} does not sum to half the head size {head_dim}",
                self.mrope_section
            ));
        }
        let VisionConfig { dim, heads, .. } = self.vision;
        if dim % heads != 0 || dim / heads % 4 != 0 {
            return contradiction(format!("vision width {dim} over {heads} heads is not a multiple of 4"));
        }
        let out = match self.family {
            Family::Qwen2Vl => vision.size("hidden_size")?,
            Family::Qwen25Vl => vision.size("out_hidden_size")?,
        };
        if out != self.dim {
            return contradiction(format!("the vision tower gives width {out}, the language model has {}", self.dim));
        }
        Ok(self)
    }
}

impl VisionConfig {
    fn from_keys(family: Family, keys: &Keys<'_>) -> Result<VisionConfig, ConfigError> {
        let (dim, hidden, windows) = match family {
            Family::Qwen2Vl => {
                let dim = keys.size("embed_dim")?;
                let ratio = keys.find("mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0);
                (dim, (dim as f64 * ratio) as usize, None)
            }
            Family::Qwen25Vl => {
                let full = keys.find("fullatt_block_indexes").and_then(Value::as_array);
                let full = full.ok_or_else(|| missing("vision_config.fullatt_block_indexes", "a list"))?;
                let full = full.iter().filter_map(Value::as_u64).map(|i| i as usize).collect();
                (
                    keys.size("hidden_size")?,
                    keys.size("intermediate_size")?,
                    Some((keys.size_or("window_size", 112)?, full)),
                )
            }
        };
        Ok(VisionConfig {
            dim,
            hidden,
            depth: keys.size("depth")?,
            heads: keys.size("num_heads")?,
            patch: keys.size_or("patch_size", 14)?,
            merge: keys.size_or("spatial_merge_size", 2)?,
            frames: keys.size_or("temporal_patch_size", 2)?,
            windows,
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

/// Looks a key up in the nested section first, then at the root.
struct Keys<'a> {
    nested: Option<&'a Value>,
    root: &'a Value,
}

impl<'a> Keys<'a> {
    fn find(&self, key: &str) -> Option<&'a Value> {
        self.nested.and_then(|n| n.get(key)).or_else(|| self.root.get(key)).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        let value = self.find(key).and_then(Value::as_u64).filter(|&v| v > 0 && v <= WIDTH_MAX as u64);
        value.map(|v| v as usize).ok_or_else(|| missing(key, "a whole number from 1 to 1048576"))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        if self.find(key).is_some() { self.size(key) } else { Ok(default) }
    }
}

fn missing(key: &str, expected: &'static str) -> ConfigError {
    ConfigError::Key { key: key.to_owned(), expected }
}

fn section(value: &Value) -> Result<[usize; 3], ConfigError> {
    let numbers: Vec<usize> =
        value.as_array().into_iter().flatten().filter_map(Value::as_u64).map(|v| v as usize).collect();
    numbers.try_into().map_err(|_| missing("rope_scaling.mrope_section", "a list of three integers"))
}
