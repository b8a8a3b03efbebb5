//! Every op at the shapes of a model, over any backend: what is called, and what it costs. In the order in which a kernel's writer wants to
//! know, for those who have little time on a GPU.

use std::sync::Arc;

use half::bf16;
use thyme_engine::ops::adamw::{AdamwParameter, AdamwStep, Moment};
use thyme_engine::ops::attention::{Heads, Keys, PAGE_TOKENS, Packed};
use thyme_engine::ops::gelu::GeluForm;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::ops::sample::{SamplingParams, philox_uniform};
use thyme_engine::ops::{Backend, Dtype, Host, Tensor};

use crate::rows::{Cost, bytes, flop};

/// A pixel row of the vision tower: 3 channels of 14 x 14, and what it is multiplied with, 2 frames of those.
const PIXELS: usize = 588;

/// A model, and how many rows of it.
pub struct Sizes {
    pub name: &'static str,
    pub dim: usize,
    pub hidden: usize,
    pub heads: Heads,
    pub vocab: usize,
    /// Which of qkv, o, gate_up, down.
    pub layers: &'static [&'static str],
    /// Rows of products, and of their backward.
    pub products: &'static [usize],
    pub products_backward: &'static [usize],
    /// Rows of what memory bounds.
    pub rows: &'static [usize],
    /// Tokens in all, and of each sequence.
    pub packed: &'static [(usize, usize)],
    /// Sequences that decode, the keys of each, its newest tokens.
    pub decode: &'static [(usize, usize, usize)],
    /// Rows whose log-probability is asked for.
    pub head: &'static [usize],
    /// Rows that are sampled.
    pub sampled: usize,
    /// Elements that the optimiser changes.
    pub parameters: usize,
    pub vision: Option<Vision>,
}

/// The vision tower.
pub struct Vision {
    pub patches: usize,
    pub dim: usize,
    pub hidden: usize,
    pub heads: Heads,
    /// Patches of a window.
    pub window: usize,
}

/// Who does something with the calls.
pub trait Runner {
    /// Where inputs are made.
    fn backend(&self) -> Arc<dyn Backend>;
    /// Whether one of these ops may be wanted.
    fn wants(&self, ops: &[&str]) -> bool;
    /// Takes one call, which may be repeated.
    fn run(&mut self, op: &str, case: &str, cost: Cost, work: &mut dyn FnMut(&dyn Backend));
}

/// Every op.
pub fn all(runner: &mut dyn Runner, sizes: &Sizes) {
    products(runner, sizes);
    for &(rows, sequence) in sizes.packed {
        attention(runner, sizes.name, rows, sequence, sizes.heads, true);
    }
    decode(runner, sizes);
    head(runner, sizes);
    sample(runner, sizes);
    optimizer(runner, sizes);
    for &rows in sizes.rows {
        norms(runner, sizes, rows);
        heads(runner, sizes, rows);
        elements(runner, sizes, rows);
        tables(runner, sizes, rows);
    }
    if let Some(tower) = &sizes.vision {
        vision(runner, sizes, tower);
    }
}

fn values(count: usize) -> impl Iterator<Item = f32> {
    let some: Vec<f32> = (0..65_521u64.min(count as u64)).map(|i| philox_uniform(0, 1, i) as f32 - 0.5).collect();
    some.into_iter().cycle().take(count)
}

/// Random activations. Where these are bf16 the device draws them.
fn activations(backend: &dyn Backend, shape: &[usize]) -> Tensor {
    if backend.activation_bytes() == size_of::<bf16>() {
        return backend.random_normal(shape, 1.0, 0, 1);
    }
    let values: Vec<f32> = values(shape.iter().product()).collect();
    backend.upload(Host::F32(&values), shape, Dtype::Activation)
}

fn parameters(backend: &dyn Backend, shape: &[usize]) -> Tensor {
    backend.random_normal(shape, 0.02, 0, 2)
}

fn ones(backend: &dyn Backend, shape: &[usize]) -> Tensor {
    backend.upload(Host::F32(&vec![1.0; shape.iter().product()]), shape, Dtype::F32)
}

fn both(flop: usize, bytes: usize) -> Cost {
    Cost { flop: flop as f64, bytes: bytes as f64 }
}

fn products(runner: &mut dyn Runner, sizes: &Sizes) {
    if !runner.wants(&["linear_forward", "linear_backward_input", "linear_backward_weight"]) {
        return;
    }
    let backend = &*runner.backend();
    let a = backend.activation_bytes();
    let layers = [
        ("gate_up", sizes.dim, 2 * sizes.hidden),
        ("down", sizes.hidden, sizes.dim),
        ("qkv", sizes.dim, sizes.heads.qkv()),
        ("o", sizes.heads.heads * sizes.heads.head_dim, sizes.dim),
    ];
    for (layer, inner, columns) in layers.into_iter().filter(|(layer, ..)| sizes.layers.contains(layer)) {
        let w = parameters(backend, &[columns, inner]);
        for &rows in sizes.products {
            let x = activations(backend, &[rows, inner]);
            let cost = both(2 * rows * inner * columns, 2 * columns * inner + a * rows * (inner + columns));
            runner.run("linear_forward", &format!("{} {layer} {rows}", sizes.name), cost, &mut |b| {
                drop(b.linear_forward(&x, &w, None));
            });
        }
        for &rows in sizes.products_backward {
            let case = format!("{} {layer} {rows}", sizes.name);
            let (x, dy) = (activations(backend, &[rows, inner]), activations(backend, &[rows, columns]));
            let mut dw = backend.zeros(&[columns, inner], Dtype::F32);
            let moved = a * rows * (inner + columns);
            let cost = |weights| both(2 * rows * inner * columns, weights * columns * inner + moved);
            runner.run("linear_backward_input", &case, cost(2), &mut |b| drop(b.linear_backward_input(&dy, &w)));
            runner.run("linear_backward_weight", &case, cost(8), &mut |b| {
                b.linear_backward_weight(&dy, &x, &mut dw, None);
            });
        }
    }
}

/// Forward and backward over packed sequences.
fn attention(runner: &mut dyn Runner, name: &str, rows: usize, sequence: usize, heads: Heads, causal: bool) {
    if !runner.wants(&["attention_forward", "attention_backward"]) {
        return;
    }
    let backend = &*runner.backend();
    let a = backend.activation_bytes();
    let qkv = activations(backend, &[rows, heads.qkv()]);
    let bounds: Vec<i32> = (0..=rows / sequence).map(|i| (i * sequence) as i32).collect();
    let bounds = backend.attention_bounds(&bounds, heads);
    let segments = Packed { bounds: &bounds, prefixes: None, causal };
    // A causal row sees half the keys; backward makes five products where forward makes two.
    let pairs = rows * sequence / if causal { 2 } else { 1 };
    let multiplied = 4 * pairs * heads.heads * heads.head_dim;
    let (read, written) = (a * rows * heads.qkv(), a * rows * heads.heads * heads.head_dim);
    let form = if causal { "causal" } else { "full" };
    let case = format!("{name} D{} {}x{sequence} {form}", heads.head_dim, rows / sequence);
    runner.run("attention_forward", &case, both(multiplied, read + written), &mut |b| {
        drop(b.attention_forward(&qkv, heads, Keys::Packed(segments)));
    });
    let (o, lse) = backend.attention_forward(&qkv, heads, Keys::Packed(segments));
    let d_o = activations(backend, o.shape());
    let cost = both(multiplied * 5 / 2, 2 * read + 2 * written);
    runner.run("attention_backward", &case, cost, &mut |b| {
        drop(b.attention_backward(&d_o, &qkv, &o, &lse, heads, segments));
    });
}

/// The newest tokens of each sequence over its pages.
fn decode(runner: &mut dyn Runner, sizes: &Sizes) {
    if !runner.wants(&["attention_forward", "decode"]) {
        return;
    }
    let backend = &*runner.backend();
    let heads = sizes.heads;
    for &(sequences, keys, queries) in sizes.decode {
        let pages_max = keys.div_ceil(PAGE_TOKENS);
        let pages = backend.attention_pages(sequences * pages_max, heads);
        let page_tables: Vec<i32> =
            (0..sequences * pages_max).map(|i| (i * 31 % (sequences * pages_max)) as i32).collect();
        let page_tables = backend.indices(&page_tables).reshape(&[sequences, pages_max]);
        let bounds = Vec::from_iter((0..=sequences).map(|i| (i * queries) as i32));
        let bounds = backend.attention_bounds(&bounds, heads);
        let lengths = backend.indices(&vec![keys as i32; sequences]);
        let qkv = activations(backend, &[sequences * queries, heads.qkv()]);
        let keyed = Keys::Paged { pages: &pages, bounds: &bounds, page_tables: &page_tables, lengths: &lengths };
        let multiplied = 4 * sequences * queries * keys * heads.heads * heads.head_dim;
        let moved = sequences * keys * 2 * heads.kv_heads * heads.head_dim * backend.activation_bytes();
        let case = format!("{} decode {sequences} of {keys}, {queries} new", sizes.name);
        runner.run("attention_forward", &case, both(multiplied, moved), &mut |b| {
            drop(b.attention_forward(&qkv, heads, keyed));
        });
    }
}

fn head(runner: &mut dyn Runner, sizes: &Sizes) {
    if !runner.wants(&["token_logprob_forward", "token_logprob_backward", "logits"]) {
        return;
    }
    let backend = &*runner.backend();
    let a = backend.activation_bytes();
    let Sizes { name, dim, vocab, sampled, .. } = *sizes;
    let w = parameters(backend, &[vocab, dim]);
    for &rows in sizes.head {
        let h = activations(backend, &[rows, dim]);
        let targets = backend.indices(&Vec::from_iter((0..rows).map(|row| (row * 31 % vocab) as i32)));
        let ones = ones(backend, &[rows]);
        let (multiplied, read) = (2 * rows * dim * vocab, 2 * vocab * dim + a * rows * dim);
        let case = format!("{name} {rows} of {vocab}");
        runner.run("token_logprob_forward", &case, both(multiplied, read), &mut |b| {
            drop(b.token_logprob_forward(&h, &w, &targets, &ones, &[]));
        });
        let lse = backend.token_logprob_forward(&h, &w, &targets, &ones, &[]).lse_raw;
        let mut dw = backend.zeros(&[vocab, dim], Dtype::F32);
        let cost = both(3 * multiplied, 2 * read + 8 * vocab * dim);
        runner.run("token_logprob_backward", &case, cost, &mut |b| {
            drop(b.token_logprob_backward(&ones, &h, &w, &targets, &ones, &lse, &[], None, Some(&mut dw)));
        });
    }
    let h = activations(backend, &[sampled, dim]);
    let cost = both(2 * sampled * dim * vocab, 2 * vocab * dim + 4 * sampled * vocab + a * sampled * dim);
    runner.run("logits", &format!("{name} {sampled} of {vocab}"), cost, &mut |b| drop(b.logits(&h, &w)));
}

fn sample(runner: &mut dyn Runner, sizes: &Sizes) {
    if !runner.wants(&["sample"]) {
        return;
    }
    let backend = &*runner.backend();
    let Sizes { name, dim, vocab, sampled, .. } = *sizes;
    let logits = backend.logits(&activations(backend, &[sampled, dim]), &parameters(backend, &[vocab, dim]));
    let plain = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seen: &[],
        bias: &[],
        allowed: None,
        seed: 1,
        sequence: 2,
        position: 3,
    };
    let cut = SamplingParams { top_k: 50, top_p: 0.95, ..plain };
    for (how, params) in [("at temperature 1", plain), ("top-k, top-p", cut)] {
        let params = vec![params; sampled];
        runner.run("sample", &format!("{name} {sampled} {how}"), bytes(4 * sampled * vocab), &mut |b| {
            drop(b.sample(&logits, &params, &[]));
        });
    }
}

fn optimizer(runner: &mut dyn Runner, sizes: &Sizes) {
    if !runner.wants(&["adamw", "sum_of_squares", "random_normal"]) {
        return;
    }
    let backend = &*runner.backend();
    let count = sizes.parameters;
    let [mut w, mut remainder] = [Dtype::Bf16, Dtype::I16].map(|dtype| backend.zeros(&[count], dtype));
    let dw = ones(backend, &[count]);
    let step = AdamwStep { learning_rate: 1e-6, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step: 1, gradient_scale: 1.0 };
    // Weight, remainder and moments are read and written, the gradient is read.
    let [mut m, mut v] = [Moment::zeros(backend, &[count]), Moment::zeros(backend, &[count])];
    runner.run("adamw", &format!("{count}"), bytes(28 * count), &mut |b| {
        let (w, remainder, m, v) = (&mut w, &mut remainder, &mut m, &mut v);
        b.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &dw, weight_decay: 0.01 }], &step);
    });
    let [mut m, mut v] = [Moment::zeros_8bit(backend, &[count]), Moment::zeros_8bit(backend, &[count])];
    runner.run("adamw", &format!("8-bit {count}"), bytes(16 * count), &mut |b| {
        let (w, remainder, m, v) = (&mut w, &mut remainder, &mut m, &mut v);
        b.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &dw, weight_decay: 0.01 }], &step);
    });
    runner.run("sum_of_squares", &format!("{count}"), bytes(4 * count), &mut |b| {
        b.sum_of_squares(&[&dw]);
    });
    runner.run("random_normal", &format!("{count}"), bytes(2 * count), &mut |b| {
        drop(b.random_normal(&[count], 1.0, 1, 2));
    });
}

fn norms(runner: &mut dyn Runner, sizes: &Sizes, rows: usize) {
    if !runner.wants(&["rms_norm_forward", "rms_norm_backward"]) {
        return;
    }
    let backend = &*runner.backend();
    let dim = sizes.dim;
    let case = format!("{} {rows}x{dim}", sizes.name);
    let [x, y, dy] = [(); 3].map(|()| activations(backend, &[rows, dim]));
    let w = parameters(backend, &[dim]);
    let cost = bytes(4 * backend.activation_bytes() * rows * dim);
    runner.run("rms_norm_forward", &case, cost, &mut |b| drop(b.rms_norm_forward(&x, Some(&y), &w, 1e-6)));
    let rstd = backend.rms_norm_forward(&x, None, &w, 1e-6).rstd;
    let mut dw = backend.zeros(&[dim], Dtype::F32);
    runner.run("rms_norm_backward", &case, cost, &mut |b| {
        drop(b.rms_norm_backward(&dy, Some(&y), &x, &w, &rstd, Some(&mut dw)));
    });
}

/// What happens to the heads of q and k.
fn heads(runner: &mut dyn Runner, sizes: &Sizes, rows: usize) {
    if !runner.wants(&["rope_forward", "rope_backward", "qk_norm_forward", "qk_norm_backward"]) {
        return;
    }
    let backend = &*runner.backend();
    let (a, heads) = (backend.activation_bytes(), sizes.heads);
    let case = format!("{} {rows}, {} heads of {}", sizes.name, heads.heads + heads.kv_heads, heads.head_dim);
    let rotated = rows * (heads.heads + heads.kv_heads) * heads.head_dim;
    let mut qkv = activations(backend, &[rows, heads.qkv()]);
    let cos_sin = ones(backend, &[rows, heads.head_dim]);
    let cost = bytes(2 * a * rotated + 4 * rows * heads.head_dim);
    runner.run("rope_forward", &case, cost, &mut |b| b.rope_forward(&mut qkv, heads, &cos_sin, None));
    runner.run("rope_backward", &case, cost, &mut |b| b.rope_backward(&mut qkv, heads, &cos_sin));
    let [wq, wk] = [(); 2].map(|()| parameters(backend, &[heads.head_dim]));
    let [mut dwq, mut dwk] = [(); 2].map(|()| backend.zeros(&[heads.head_dim], Dtype::F32));
    runner.run("qk_norm_forward", &case, bytes(2 * a * rotated), &mut |b| {
        b.qk_norm_forward(&mut qkv, heads, &wq, &wk, 1e-6, false);
    });
    let saved = backend.qk_norm_forward(&mut qkv, heads, &wq, &wk, 1e-6, true).expect("what is kept");
    runner.run("qk_norm_backward", &case, bytes(3 * a * rotated), &mut |b| {
        b.qk_norm_backward(&mut qkv, heads, &wq, &wk, &saved, Some((&mut dwq, &mut dwk)));
    });
}

fn elements(runner: &mut dyn Runner, sizes: &Sizes, rows: usize) {
    if !runner.wants(&["swiglu_forward", "swiglu_backward"]) {
        return;
    }
    let backend = &*runner.backend();
    let hidden = sizes.hidden;
    let case = format!("{} {rows}x{hidden}", sizes.name);
    let moved = backend.activation_bytes() * rows * hidden;
    let (gate_up, dy) = (activations(backend, &[rows, 2 * hidden]), activations(backend, &[rows, hidden]));
    runner.run("swiglu_forward", &case, bytes(3 * moved), &mut |b| drop(b.swiglu_forward(&gate_up)));
    runner.run("swiglu_backward", &case, bytes(5 * moved), &mut |b| drop(b.swiglu_backward(&dy, &gate_up)));
}

/// Rows that go from one place to another.
fn tables(runner: &mut dyn Runner, sizes: &Sizes, rows: usize) {
    let ops = ["embedding_forward", "embedding_backward", "gather_rows", "gather_rows_backward", "concat_rows", "add"];
    if !runner.wants(&ops) {
        return;
    }
    let backend = &*runner.backend();
    let Sizes { name, dim, vocab, .. } = *sizes;
    let case = format!("{name} {rows}x{dim}");
    let moved = backend.activation_bytes() * rows * dim;
    let table = parameters(backend, &[vocab, dim]);
    let ids = backend.indices(&Vec::from_iter((0..rows).map(|i| (i * 7919 % vocab) as i32)));
    let mut x = activations(backend, &[rows, dim]);
    let y = activations(backend, &[rows, dim]);
    runner.run("embedding_forward", &case, bytes(2 * rows * dim + moved), &mut |b| {
        drop(b.embedding_forward(&table, &ids, None));
    });
    let mut dtable = backend.zeros(&[vocab, dim], Dtype::F32);
    runner.run("embedding_backward", &case, bytes(8 * rows * dim + moved), &mut |b| {
        b.embedding_backward(&x, &ids, None, Some(&mut dtable), None);
    });
    let backwards = backend.indices(&Vec::from_iter((0..rows as i32).rev()));
    runner.run("gather_rows", &case, bytes(2 * moved), &mut |b| drop(b.gather_rows(&x, &backwards)));
    runner.run("gather_rows_backward", &case, bytes(2 * moved), &mut |b| {
        drop(b.gather_rows_backward(&x, &backwards, rows));
    });
    runner.run("concat_rows", &case, bytes(4 * moved), &mut |b| drop(b.concat_rows(&[&x, &y])));
    runner.run("add", &case, bytes(3 * moved), &mut |b| b.add(&mut x, &y));
}

fn vision(runner: &mut dyn Runner, sizes: &Sizes, tower: &Vision) {
    let Vision { patches, dim, hidden, heads, window } = *tower;
    attention(runner, "vision", patches, patches, heads, false);
    attention(runner, "vision", patches, window, heads, false);
    let ops = [
        "layer_norm_forward",
        "layer_norm_backward",
        "patch_embed_forward",
        "patch_embed_backward",
        "gelu_forward",
        "gelu_backward",
        "copy_pages",
    ];
    if !runner.wants(&ops) {
        return;
    }
    let backend = &*runner.backend();
    let a = backend.activation_bytes();
    let [x, y, dy] = [(); 3].map(|()| activations(backend, &[patches, dim]));
    let w = parameters(backend, &[dim]);
    let [mut dw, mut db] = [(); 2].map(|()| backend.zeros(&[dim], Dtype::F32));
    let case = format!("vision {patches}x{dim}");
    let cost = bytes(2 * a * patches * dim);
    runner.run("layer_norm_forward", &case, cost, &mut |b| drop(b.layer_norm_forward(&x, None, &w, &w, 1e-6)));
    let normed = backend.layer_norm_forward(&x, None, &w, &w, 1e-6);
    let cost = bytes(4 * a * patches * dim);
    runner.run("layer_norm_backward", &case, cost, &mut |b| {
        let of_parameters = Some((&mut dw, &mut db));
        drop(b.layer_norm_backward(&dy, Some(&y), &x, &w, &normed.mean, &normed.rstd, of_parameters));
    });
    let pixels = backend.upload(Host::U8(&vec![100; patches * PIXELS]), &[patches, PIXELS], Dtype::U8);
    let scale = PixelScale { mean: [0.5; 3], std: [0.25; 3] };
    let w = parameters(backend, &[dim, 2 * PIXELS]);
    let mut dw = backend.zeros(&[dim, 2 * PIXELS], Dtype::F32);
    let cost = flop(2 * patches * 2 * PIXELS * dim);
    runner.run("patch_embed_forward", &case, cost, &mut |b| drop(b.patch_embed_forward(&pixels, &scale, &w)));
    runner.run("patch_embed_backward", &case, cost, &mut |b| b.patch_embed_backward(&x, &pixels, &scale, &mut dw));
    let [x, dy] = [(); 2].map(|()| activations(backend, &[patches, hidden]));
    let case = format!("vision {patches}x{hidden}");
    let moved = a * patches * hidden;
    runner.run("gelu_forward", &case, bytes(2 * moved), &mut |b| drop(b.gelu_forward(&x, GeluForm::Quick)));
    runner.run("gelu_backward", &case, bytes(3 * moved), &mut |b| drop(b.gelu_backward(&dy, &x, GeluForm::Quick)));
    let copied = (sizes.rows[0] / 2) as u32;
    let mut pages = backend.attention_pages(2 * copied as usize, sizes.heads);
    let pairs: Vec<(u32, u32)> = (0..copied).map(|i| (i, copied + i)).collect();
    let page = 2 * sizes.heads.kv_heads * PAGE_TOKENS * sizes.heads.head_dim * a;
    runner.run("copy_pages", &format!("{} {copied} pages", sizes.name), bytes(2 * copied as usize * page), &mut |b| {
        b.copy_pages(&mut pages, &pairs);
    });
}
