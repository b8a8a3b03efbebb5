//! Every parameter once. A [`Layout`] names them and knows their shapes; [`Parameters`] holds one value for each: tensors
//! ([`Weights`]), gradients ([`Gradients`]), optimizer moments.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::{Index, IndexMut, Range};

use super::config::{Config, VisionConfig};
use super::families::VisionFamily;
use crate::ops::Tensor;

pub use super::spec::{Part, Role, Source, Spec};

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
            Some(bias) => self.two_mut(ids.weight, bias),
        }
    }

    /// The values of two parameters, the second behind the first in the layout, both to change.
    pub fn two_mut(&mut self, first: Id, second: Id) -> (Option<&mut T>, Option<&mut T>) {
        assert!(first < second, "{second:?} stands behind {first:?}");
        let (low, high) = self.values.split_at_mut(second.0);
        (low[first.0].as_mut(), high[0].as_mut())
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
    /// Scales of the norm of each query and each key head `[head_dim]`; `None` where heads are not normalised.
    pub qk_norm: Option<QkNormIds>,
    /// Attention's output projection.
    pub output: Affine,
    /// Norm before the MLP.
    pub norm2: Affine,
    /// Into the MLP: gate and up stacked, or the one matrix of a GELU MLP.
    pub up: Affine,
    /// Out of the MLP.
    pub down: Affine,
}

/// Ids of the scales of the norm of query and key heads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QkNormIds {
    /// Of query heads.
    pub q: Id,
    /// Of key heads.
    pub k: Id,
}

/// Ids of the vision tower.
#[derive(Clone, PartialEq, Debug)]
pub struct VisionIds {
    /// `[dim, frames · 3 · patch²]`.
    pub patch_embed: Id,
    /// One for each block, in order.
    pub blocks: Vec<BlockIds>,
    /// The merger's norm, first and second matrix.
    pub merger: [Affine; 3],
}

/// A linear map of the checkpoint, as an adapter addresses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Projection<'a> {
    /// The name of its module, such as `model.layers.0.self_attn.q_proj`.
    pub module: &'a str,
    /// The parameter that it stands in, perhaps stacked with others of the same input.
    pub weight: Id,
    /// Its rows there, and so its columns in the parameter's output.
    pub rows: Range<usize>,
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
    /// The vision tower; `None` where there is none.
    pub vision: Option<VisionIds>,
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
        let vision = config.vision.as_ref().zip(config.family.vision.as_ref());
        let vision = vision.map(|(vision, family)| specs.vision(vision, family, dim));
        Layout { specs: specs.0, embed, layers, norm, head, vision }
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

    /// The linear maps of all blocks and of the merger, those apart that are stacked in one parameter.
    pub fn projections(&self) -> impl Iterator<Item = Projection<'_>> {
        let tower = self.vision.as_ref();
        let blocks = self.layers.iter().chain(tower.into_iter().flat_map(|tower| &tower.blocks));
        let of_blocks = blocks.flat_map(|ids| [ids.qkv, ids.output, ids.up, ids.down]);
        let of_merger = tower.into_iter().flat_map(|tower| tower.merger[1..].iter().copied());
        of_blocks.chain(of_merger).flat_map(|Affine { weight, .. }| {
            self.spec(weight).sources.iter().map(move |Source { name, rows }| {
                let module = name.strip_suffix(".weight").unwrap_or(name);
                Projection { module, weight, rows: rows.clone() }
            })
        })
    }

    /// Number of parameters' elements, padding among them.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(Spec::len).sum()
    }
}

/// A number of rows or columns: as a checkpoint has it, and as it is held.
#[derive(Clone, Copy)]
struct Width {
    stored: usize,
    held: usize,
}

impl Width {
    /// Held as a multiple of what a device reads at once, so that every row begins at one. The sums of a forward gain zeros at their end,
    /// and no bit of them changes; on CUDA the gradient of what goes into gate and up adds them up in other groups of 16.
    fn padded(stored: usize) -> Width {
        Width { stored, held: stored.next_multiple_of(WIDTH_MULTIPLE) }
    }
}

impl From<usize> for Width {
    fn from(width: usize) -> Width {
        Width { stored: width, held: width }
    }
}

/// Elements of bf16 that CUDA's kernels read at once.
const WIDTH_MULTIPLE: usize = 8;

/// Appends specs and hands out their ids.
struct Builder(Vec<Spec>);

impl Builder {
    fn push(&mut self, shape: Vec<usize>, sources: Vec<Source>, source_cols: usize, part: Part, role: Role) -> Id {
        self.0.push(Spec { shape, sources, source_cols, part, role });
        Id(self.0.len() - 1)
    }

    /// A parameter that is one tensor of the checkpoint.
    fn tensor(&mut self, name: String, shape: Vec<usize>, part: Part, role: Role) -> Id {
        let source = Source { name, rows: 0..shape[0] };
        let source_cols = shape[1..].iter().product();
        self.push(shape, vec![source], source_cols, part, role)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize, part: Part) -> Id {
        self.tensor(name.to_owned(), vec![rows, cols], part, Role::Matrix)
    }

    fn norm(&mut self, name: &str, dim: usize, part: Part, bias: bool) -> Affine {
        let weight = self.tensor(format!("{name}.weight"), vec![dim], part, Role::Scale);
        let bias = bias.then(|| self.tensor(format!("{name}.bias"), vec![dim], part, Role::Bias));
        Affine { weight, bias }
    }

    /// A matrix of stacked sources `(name, rows)`, with stacked biases.
    fn affine<W: Into<Width> + Copy>(
        &mut self,
        sources: &[(&str, W)],
        cols: impl Into<Width>,
        part: Part,
        bias: bool,
    ) -> Affine {
        let named = |suffix: &str| {
            let mut end = 0;
            let source = |&(name, rows): &(&str, W)| {
                let (first, rows) = (end, rows.into());
                end += rows.held;
                Source { name: format!("{name}.{suffix}"), rows: first..first + rows.stored }
            };
            sources.iter().map(source).collect()
        };
        let rows = sources.iter().map(|&(_, rows)| rows.into().held).sum();
        let cols = cols.into();
        let weight = self.push(vec![rows, cols.held], named("weight"), cols.stored, part, Role::Matrix);
        let bias = bias.then(|| self.push(vec![rows], named("bias"), 1, part, Role::Bias));
        Affine { weight, bias }
    }

    fn decoder_layer(&mut self, config: &Config, i: usize, dim: usize, hidden: usize) -> BlockIds {
        let (part, family) = (Part::Language, &config.family.text);
        let name = |suffix: &str| format!("model.layers.{i}.{suffix}");
        let head_dim = config.heads.head_dim;
        let (q, kv) = (config.heads.heads * head_dim, config.heads.kv_heads * head_dim);
        let (query, key, value) = (name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj"));
        BlockIds {
            norm1: self.norm(&name("input_layernorm"), dim, part, false),
            qkv: self.affine(&[(&query, q), (&key, kv), (&value, kv)], dim, part, family.qkv_bias),
            qk_norm: family.qk_norm.map(|names| {
                let [q, k] = names.map(|norm| self.norm(&name(norm), head_dim, part, false).weight);
                QkNormIds { q, k }
            }),
            output: self.affine(&[(&name("self_attn.o_proj"), dim)], q, part, false),
            norm2: self.norm(&name("post_attention_layernorm"), dim, part, false),
            up: self.affine(&[(&name("mlp.gate_proj"), hidden), (&name("mlp.up_proj"), hidden)], dim, part, false),
            down: self.affine(&[(&name("mlp.down_proj"), dim)], hidden, part, false),
        }
    }

    /// The tower, whose merger gives rows of `out` values.
    fn vision(&mut self, vision: &VisionConfig, family: &VisionFamily, out: usize) -> VisionIds {
        let patch_values = vision.patch_values() * vision.frames;
        let patch_embed = self.matrix("visual.patch_embed.proj.weight", vision.dim, patch_values, Part::Vision);
        let blocks = (0..vision.depth).map(|i| self.vision_block(vision, family, i)).collect();
        let merged = vision.dim * vision.merge * vision.merge;
        let merger = [
            self.norm("visual.merger.ln_q", vision.dim, Part::Merger, family.layer_norm),
            self.affine(&[("visual.merger.mlp.0", merged)], merged, Part::Merger, true),
            self.affine(&[("visual.merger.mlp.2", out)], merged, Part::Merger, true),
        ];
        VisionIds { patch_embed, blocks, merger }
    }

    fn vision_block(&mut self, vision: &VisionConfig, family: &VisionFamily, i: usize) -> BlockIds {
        let part = Part::Vision;
        let (dim, hidden) = (vision.dim, Width::padded(vision.hidden));
        let name = |suffix: &str| format!("visual.blocks.{i}.{suffix}");
        let mlp = |matrix: &str| name(&format!("mlp.{matrix}"));
        let up: Vec<String> = family.mlp_up.iter().map(|matrix| mlp(matrix)).collect();
        let up: Vec<(&str, Width)> = up.iter().map(|name| (name.as_str(), hidden)).collect();
        BlockIds {
            norm1: self.norm(&name("norm1"), dim, part, family.layer_norm),
            qkv: self.affine(&[(&name("attn.qkv"), 3 * dim)], dim, part, true),
            qk_norm: None,
            output: self.affine(&[(&name("attn.proj"), dim)], dim, part, true),
            norm2: self.norm(&name("norm2"), dim, part, family.layer_norm),
            up: self.affine(&up, dim, part, true),
            down: self.affine(&[(&mlp(family.mlp_down), dim)], hidden, part, true),
        }
    }
}
