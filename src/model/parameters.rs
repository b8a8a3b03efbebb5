//! Every parameter once. A [`Layout`] names them and knows their shapes; [`Parameters`] holds one value for each: tensors
//! ([`Weights`]), gradients ([`Gradients`]), optimizer moments.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::{Index, IndexMut};

use super::config::{Config, Family};
use crate::ops::Tensor;

/// One value for each parameter of a [`Layout`].
#[derive(Debug)]
pub struct Parameters<T> {
    values: Vec<T>,
}

/// The number of a parameter in its [`Layout`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Id(usize);

/// A model's weights. Generation borrows them; only an update changes them.
#[derive(Debug)]
pub struct Weights {
    /// A Bf16 tensor for each parameter.
    pub values: Parameters<Tensor>,
    /// Tells these weights from those of other models in the process.
    pub model: u64,
    /// Moves with every update, from 0.
    pub version: u64,
}

/// Which weights something was computed with. What was cached under another id is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WeightsId {
    /// [`Weights::model`].
    pub model: u64,
    /// [`Weights::version`].
    pub version: u64,
}

impl Weights {
    /// The weights of a model that is not in the process yet.
    pub fn new(values: Parameters<Tensor>) -> Weights {
        // A number that no other has, but by a chance that can be forgotten; nothing that is computed depends on it.
        Weights { values, model: RandomState::new().build_hasher().finish(), version: 0 }
    }

    /// Which weights they are now.
    pub fn id(&self) -> WeightsId {
        WeightsId { model: self.model, version: self.version }
    }
}

/// F32 gradients of the parameters that are trained.
pub type Gradients = Parameters<Option<Tensor>>;

/// What a parameter is.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// Shape: `[out, in]` or `[n]`.
    pub shape: Vec<usize>,
    /// The checkpoint tensors that it is made of, stacked by rows, with the rows of each; released names.
    pub sources: Vec<(String, usize)>,
    /// The part of the model that it belongs to, for freezing.
    pub part: Part,
    /// What it does, for decay and initialisation.
    pub role: Role,
}

/// Parts that can be frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Embedding, decoder, head.
    Language,
    /// Patch embedding and blocks of the vision tower.
    Vision,
    /// The patch merger.
    Merger,
}

/// What a parameter does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A matrix: drawn at random, decayed.
    Matrix,
    /// A norm's scale: ones, not decayed.
    Scale,
    /// An offset: zeros, not decayed.
    Bias,
}

impl Spec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name for messages: the first source's.
    pub fn name(&self) -> &str {
        &self.sources[0].0
    }
}

impl<T> Parameters<T> {
    /// One value per parameter, in layout order, stopping at the first error.
    pub fn try_from_layout<E>(layout: &Layout, f: impl FnMut(&Spec) -> Result<T, E>) -> Result<Parameters<T>, E> {
        Ok(Parameters { values: layout.specs.iter().map(f).collect::<Result<_, E>>()? })
    }

    /// One value per parameter, in layout order.
    pub fn from_layout(layout: &Layout, f: impl FnMut(&Spec) -> T) -> Parameters<T> {
        Parameters { values: layout.specs.iter().map(f).collect() }
    }

    /// Values in layout order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.values.iter()
    }

    /// Values in layout order, to change.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.values.iter_mut()
    }
}

impl<T> Parameters<Option<T>> {
    /// A weight's and its bias's value, both to change.
    pub fn affine_mut(&mut self, ids: Affine) -> (Option<&mut T>, Option<&mut T>) {
        match ids.bias {
            None => (self[ids.weight].as_mut(), None),
            Some(bias) => {
                assert!(ids.weight < bias, "a bias stands behind its weight");
                let (low, high) = self.values.split_at_mut(bias.0);
                (low[ids.weight.0].as_mut(), high[0].as_mut())
            }
        }
    }
}

impl<T> Index<Id> for Parameters<T> {
    type Output = T;
    fn index(&self, id: Id) -> &T {
        &self.values[id.0]
    }
}

impl<T> IndexMut<Id> for Parameters<T> {
    fn index_mut(&mut self, id: Id) -> &mut T {
        &mut self.values[id.0]
    }
}

/// Ids of a weight and its optional bias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affine {
    /// The matrix, or a norm's scale.
    pub weight: Id,
    /// The offset `[n]`; `None` where the weight stands alone.
    pub bias: Option<Id>,
}

/// Ids of one transformer block: decoder layer and vision block alike.
#[derive(Clone, PartialEq, Debug)]
pub struct BlockIds {
    /// Norm before attention.
    pub norm1: Affine,
    /// Queries, keys, values, stacked.
    pub qkv: Affine,
    /// Attention's output projection.
    pub output: Affine,
    /// Norm before the MLP.
    pub norm2: Affine,
    /// Into the MLP: gate and up stacked, or the one matrix of a GELU MLP.
    pub up: Affine,
    /// Out of the MLP.
    pub down: Affine,
}

/// Names and shapes of all parameters of a [`Config`].
#[derive(Clone, PartialEq, Debug)]
pub struct Layout {
    /// In order of [`Id`].
    pub specs: Vec<Spec>,
    /// Token embedding `[vocab, dim]`.
    pub embed: Id,
    /// One for each decoder layer, in order.
    pub layers: Vec<BlockIds>,
    /// The final norm.
    pub norm: Affine,
    /// The head `[vocab, dim]`: the embedding where tied.
    pub head: Id,
    /// Vision tower: patch embedding, blocks, merger.
    pub patch_embed: Id,
    /// One for each block of the vision tower, in order.
    pub blocks: Vec<BlockIds>,
    /// The merger's norm, first and second matrix.
    pub merger: [Affine; 3],
}

impl Layout {
    /// The layout of a config, under the released names.
    pub fn new(config: &Config) -> Layout {
        let mut specs = Builder(Vec::new());
        let Config { dim, hidden, vocab, .. } = *config;
        let embed = specs.matrix("model.embed_tokens.weight", vocab, dim, Part::Language);
        let layers = (0..config.layers).map(|i| specs.decoder_layer(config, i, dim, hidden)).collect();
        let norm = specs.norm("model.norm", dim, Part::Language, false);
        let head = if config.tied { embed } else { specs.matrix("lm_head.weight", vocab, dim, Part::Language) };
        let vision = &config.vision;
        let patch_values = vision.patch_values() * vision.frames;
        let patch_embed = specs.matrix("visual.patch_embed.proj.weight", vision.dim, patch_values, Part::Vision);
        let blocks = (0..vision.depth).map(|i| specs.vision_block(config, i)).collect();
        let merged = vision.dim * vision.merge * vision.merge;
        let merger = [
            specs.norm("visual.merger.ln_q", vision.dim, Part::Merger, config.family == Family::Qwen2Vl),
            specs.affine(&[("visual.merger.mlp.0", merged)], merged, Part::Merger, true),
            specs.affine(&[("visual.merger.mlp.2", dim)], merged, Part::Merger, true),
        ];
        Layout { specs: specs.0, embed, layers, norm, head, patch_embed, blocks, merger }
    }

    /// The spec of a parameter.
    pub fn spec(&self, id: Id) -> &Spec {
        &self.specs[id.0]
    }

    /// Weights of matrix products: all but an embedding that is no head.
    pub fn matmul_weights(&self) -> impl Iterator<Item = &Spec> {
        let is_embedding = |id: usize| Id(id) == self.embed && self.embed != self.head;
        let matrices = self.specs.iter().enumerate().filter(|(_, spec)| spec.role == Role::Matrix);
        matrices.filter(move |(id, _)| !is_embedding(*id)).map(|(_, spec)| spec)
    }

    /// Number of parameters' elements.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(Spec::len).sum()
    }
}

/// Appends specs and hands out their ids.
struct Builder(Vec<Spec>);

impl Builder {
    fn push(&mut self, shape: Vec<usize>, sources: Vec<(String, usize)>, part: Part, role: Role) -> Id {
        self.0.push(Spec { shape, sources, part, role });
        Id(self.0.len() - 1)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize, part: Part) -> Id {
        self.push(vec![rows, cols], vec![(name.to_owned(), rows)], part, Role::Matrix)
    }

    fn norm(&mut self, name: &str, dim: usize, part: Part, bias: bool) -> Affine {
        let weight = self.push(vec![dim], vec![(format!("{name}.weight"), dim)], part, Role::Scale);
        let bias = bias.then(|| self.push(vec![dim], vec![(format!("{name}.bias"), dim)], part, Role::Bias));
        Affine { weight, bias }
    }

    /// A matrix of stacked sources `(name, rows)`, with stacked biases.
    fn affine(&mut self, sources: &[(&str, usize)], cols: usize, part: Part, bias: bool) -> Affine {
        let rows = sources.iter().map(|s| s.1).sum();
        let named = |suffix: &str| sources.iter().map(|(n, r)| (format!("{n}.{suffix}"), *r)).collect();
        let weight = self.push(vec![rows, cols], named("weight"), part, Role::Matrix);
        let bias = bias.then(|| self.push(vec![rows], named("bias"), part, Role::Bias));
        Affine { weight, bias }
    }

    fn decoder_layer(&mut self, config: &Config, i: usize, dim: usize, hidden: usize) -> BlockIds {
        let part = Part::Language;
        let name = |suffix: &str| format!("model.layers.{i}.{suffix}");
        let (q, kv) = (config.heads.heads * config.heads.head_dim, config.heads.kv_heads * config.heads.head_dim);
        let (query, key, value) = (name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj"));
        BlockIds {
            norm1: self.norm(&name("input_layernorm"), dim, part, false),
            qkv: self.affine(&[(&query, q), (&key, kv), (&value, kv)], dim, part, true),
            output: self.affine(&[(&name("self_attn.o_proj"), dim)], q, part, false),
            norm2: self.norm(&name("post_attention_layernorm"), dim, part, false),
            up: self.affine(&[(&name("mlp.gate_proj"), hidden), (&name("mlp.up_proj"), hidden)], dim, part, false),
            down: self.affine(&[(&name("mlp.down_proj"), dim)], hidden, part, false),
        }
    }

    fn vision_block(&mut self, config: &Config, i: usize) -> BlockIds {
        let part = Part::Vision;
        let (dim, hidden) = (config.vision.dim, config.vision.hidden);
        let name = |suffix: &str| format!("visual.blocks.{i}.{suffix}");
        let layer_norm = config.family == Family::Qwen2Vl;
        let norm1 = self.norm(&name("norm1"), dim, part, layer_norm);
        let qkv = self.affine(&[(&name("attn.qkv"), 3 * dim)], dim, part, true);
        let output = self.affine(&[(&name("attn.proj"), dim)], dim, part, true);
        let norm2 = self.norm(&name("norm2"), dim, part, layer_norm);
        let (up, down) = match config.family {
            Family::Qwen2Vl => (vec![(name("mlp.fc1"), hidden)], name("mlp.fc2")),
            Family::Qwen25Vl => {
                (vec![(name("mlp.gate_proj"), hidden), (name("mlp.up_proj"), hidden)], name("mlp.down_proj"))
            }
        };
        let up: Vec<(&str, usize)> = up.iter().map(|(n, r)| (n.as_str(), *r)).collect();
        let up = self.affine(&up, dim, part, true);
        let down = self.affine(&[(&down, dim)], hidden, part, true);
        BlockIds { norm1, qkv, output, norm2, up, down }
    }
}
