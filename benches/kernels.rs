//! CUDA's kernels on a GPU, at the shapes of Qwen2.5-VL-7B and Qwen2-VL-2B, with a cold L2. Times are the device's own. Throughput:
//! bytes that must move at least where memory bounds an op, else multiplications and additions. `limits` is what the machine does at best:
//! a copy within its memory; `tools/gpu_check.sh` measures cuBLAS beside it. Without a GPU it says so and ends.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use half::bf16;
use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::gpu::Gpu;
use thyme_engine::cuda::device::{Device, Memory};
use thyme_engine::ops::adamw::{AdamwParameter, AdamwStep, Moment};
use thyme_engine::ops::attention::{Heads, Keys, PAGE_TOKENS, Packed};
use thyme_engine::ops::gelu::GeluForm;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::ops::sample::{SamplingParams, philox_uniform};
use thyme_engine::ops::{Backend, Dtype, Host, Tensor};

/// More than any L2 holds.
const FLUSH_BYTES: usize = 256 << 20;
/// Rows of a decoding step, and of a micro-batch.
const DECODE: usize = 64;
const TRAIN: usize = 4096;
/// Tokens of a sequence.
const SEQUENCE: usize = 2048;

/// Sizes of one language model.
struct Shape {
    name: &'static str,
    dim: usize,
    hidden: usize,
    heads: Heads,
    vocab: usize,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "7b",
        dim: 3584,
        hidden: 18944,
        heads: Heads { heads: 28, kv_heads: 4, head_dim: 128 },
        vocab: 152_064,
    },
    Shape {
        name: "2b",
        dim: 1536,
        hidden: 8960,
        heads: Heads { heads: 12, kv_heads: 2, head_dim: 128 },
        vocab: 151_936,
    },
];

/// The vision tower of both families: patches of an image, its width, its MLP's and its heads.
const PATCHES: usize = 4096;
const VISION_DIM: usize = 1280;
const VISION_HIDDEN: usize = 3420;
const VISION_HEADS: Heads = Heads { heads: 16, kv_heads: 16, head_dim: 80 };

/// What is measured, and where.
struct Bench {
    criterion: Criterion,
    device: Arc<dyn Device>,
    cuda: Cuda,
    flush: Memory,
}

impl Bench {
    fn run(&mut self, op: &str, case: String, throughput: Throughput, mut work: impl FnMut(&dyn Backend)) {
        let (device, cuda, flush) = (&self.device, &self.cuda, &self.flush);
        let mut group = self.criterion.benchmark_group(op);
        group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
        group.throughput(throughput);
        group.bench_function(case, |b| {
            b.iter_custom(|count| {
                let once = |_| {
                    device.zero(flush.span()).expect("the GPU clears memory");
                    device.time(&mut || work(cuda)).expect("the GPU keeps time")
                };
                Duration::from_secs_f64((0..count).map(once).sum())
            });
        });
        group.finish();
    }

    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.cuda.clone())
    }
}

fn values(count: usize) -> Vec<f32> {
    let some: Vec<f32> = (0..65_521u64).map(|i| philox_uniform(0, 1, i) as f32 - 0.5).collect();
    some.into_iter().cycle().take(count).collect()
}

fn of(backend: &dyn Backend, shape: &[usize], dtype: Dtype) -> Tensor {
    let values = values(shape.iter().product());
    if dtype == Dtype::F32 {
        return backend.upload(Host::F32(&values), shape, dtype);
    }
    let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
    backend.upload(Host::Bf16(&values), shape, dtype)
}

fn flop(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

fn bytes(count: usize) -> Throughput {
    Throughput::Bytes(count as u64)
}

fn main() {
    let gpu = match Gpu::new(0) {
        Ok(gpu) => gpu,
        Err(error) => return println!("kernels are measured on a GPU: {error}"),
    };
    println!("{}", gpu.description());
    let device: Arc<dyn Device> = Arc::new(gpu);
    let flush = Memory::new(&device, FLUSH_BYTES).expect("memory to flush L2 with");
    let cuda = Cuda::new(device.clone());
    let mut bench = Bench { criterion: Criterion::default().configure_from_args(), device, cuda, flush };
    limits(&mut bench);
    for shape in &SHAPES {
        products(&mut bench, shape);
        rows(&mut bench, shape);
        attention(&mut bench, shape.name, TRAIN, SEQUENCE, shape.heads, true);
        decode(&mut bench, shape);
        head(&mut bench, shape);
    }
    vision(&mut bench);
    optimizer(&mut bench);
    bench.criterion.final_summary();
}

fn limits(bench: &mut Bench) {
    let backend = &*bench.backend();
    let from = backend.zeros(&[1 << 28], Dtype::F32);
    bench.run("limits", "copy".to_owned(), bytes(2 << 30), |backend| drop(backend.duplicate(&from)));
}

fn products(bench: &mut Bench, shape: &Shape) {
    let backend = &*bench.backend();
    let layers = [
        ("qkv", shape.dim, shape.heads.qkv()),
        ("o", shape.dim, shape.dim),
        ("gate_up", shape.dim, 2 * shape.hidden),
        ("down", shape.hidden, shape.dim),
    ];
    for (layer, inner, columns) in layers {
        let w = of(backend, &[columns, inner], Dtype::Bf16);
        let mut dw = backend.zeros(&[columns, inner], Dtype::F32);
        for rows in [DECODE, TRAIN] {
            let name = format!("{} {layer} {rows}", shape.name);
            let x = of(backend, &[rows, inner], Dtype::Activation);
            let dy = of(backend, &[rows, columns], Dtype::Activation);
            let cost = || flop(2 * rows * inner * columns);
            bench.run("linear_forward", name.clone(), cost(), |b| drop(b.linear_forward(&x, &w, None)));
            if rows == TRAIN {
                bench.run("linear_backward_input", name.clone(), cost(), |b| drop(b.linear_backward_input(&dy, &w)));
                bench.run("linear_backward_weight", name, cost(), |b| b.linear_backward_weight(&dy, &x, &mut dw, None));
            }
        }
    }
}

/// Ops that memory bounds.
fn rows(bench: &mut Bench, shape: &Shape) {
    let backend = &*bench.backend();
    let Shape { name, dim, hidden, heads, vocab } = *shape;
    for rows in [DECODE, TRAIN] {
        let name = format!("{name} {rows}");
        let (x, add) = (of(backend, &[rows, dim], Dtype::Activation), of(backend, &[rows, dim], Dtype::Activation));
        let (w, rstd) = (of(backend, &[dim], Dtype::Bf16), of(backend, &[rows], Dtype::F32));
        bench.run("rms_norm_forward", name.clone(), bytes(8 * rows * dim), |b| {
            drop(b.rms_norm_forward(&x, Some(&add), &w, 1e-6));
        });
        let mut dw = backend.zeros(&[dim], Dtype::F32);
        bench.run("rms_norm_backward", name.clone(), bytes(8 * rows * dim), |b| {
            drop(b.rms_norm_backward(&x, Some(&add), &x, &w, &rstd, Some(&mut dw)));
        });
        let gate_up = of(backend, &[rows, 2 * hidden], Dtype::Activation);
        let dy = of(backend, &[rows, hidden], Dtype::Activation);
        bench.run("swiglu_forward", name.clone(), bytes(6 * rows * hidden), |b| drop(b.swiglu_forward(&gate_up)));
        bench.run("swiglu_backward", name.clone(), bytes(10 * rows * hidden), |b| {
            drop(b.swiglu_backward(&dy, &gate_up));
        });
        let mut qkv = of(backend, &[rows, heads.qkv()], Dtype::Activation);
        let cos_sin = of(backend, &[rows, heads.head_dim], Dtype::F32);
        let rotated = (heads.heads + heads.kv_heads) * heads.head_dim;
        let moved = bytes(rows * (4 * rotated + 4 * heads.head_dim));
        bench.run("rope_forward", name.clone(), moved, |b| b.rope_forward(&mut qkv, heads, &cos_sin, None));
        let [wq, wk] = [(); 2].map(|()| of(backend, &[heads.head_dim], Dtype::Bf16));
        let (mut dwq, mut dwk) =
            (backend.zeros(&[heads.head_dim], Dtype::F32), backend.zeros(&[heads.head_dim], Dtype::F32));
        bench.run("qk_norm_forward", name.clone(), bytes(4 * rows * rotated), |b| {
            b.qk_norm_forward(&mut qkv, heads, &wq, &wk, 1e-6, false);
        });
        let saved = backend.qk_norm_forward(&mut qkv, heads, &wq, &wk, 1e-6, true).expect("what is kept");
        bench.run("qk_norm_backward", name.clone(), bytes(6 * rows * rotated), |b| {
            b.qk_norm_backward(&mut qkv, heads, &wq, &wk, &saved, Some((&mut dwq, &mut dwk)));
        });
        let table = of(backend, &[vocab, dim], Dtype::Bf16);
        let ids: Vec<i32> = (0..rows).map(|i| (i * 7919 % vocab) as i32).collect();
        let ids = backend.indices(&ids);
        let moved = bytes(4 * rows * dim);
        bench.run("embedding_forward", name, moved, |b| drop(b.embedding_forward(&table, &ids, None)));
    }
}

/// Forward and backward over packed sequences.
fn attention(bench: &mut Bench, name: &str, rows: usize, sequence: usize, heads: Heads, causal: bool) {
    let backend = &*bench.backend();
    let qkv = of(backend, &[rows, heads.qkv()], Dtype::Activation);
    let bounds: Vec<i32> = (0..=rows / sequence).map(|i| (i * sequence) as i32).collect();
    let bounds = backend.attention_bounds(&bounds, heads);
    let segments = Packed { bounds: &bounds, prefixes: None, causal };
    let pairs = rows * sequence / if causal { 2 } else { 1 };
    let cost = 4 * pairs * heads.heads * heads.head_dim;
    bench.run("attention_forward", name.to_owned(), flop(cost), |b| {
        drop(b.attention_forward(&qkv, heads, Keys::Packed(segments)));
    });
    let (o, lse) = backend.attention_forward(&qkv, heads, Keys::Packed(segments));
    bench.run("attention_backward", name.to_owned(), flop(cost * 5 / 2), |b| {
        drop(b.attention_backward(&o, &qkv, &o, &lse, heads, segments));
    });
}

/// One token of each sequence over its pages.
fn decode(bench: &mut Bench, shape: &Shape) {
    let backend = &*bench.backend();
    let heads = shape.heads;
    let pages_max = SEQUENCE / PAGE_TOKENS;
    let pages = backend.attention_pages(DECODE * pages_max, heads);
    let page_tables: Vec<i32> = (0..DECODE * pages_max).map(|i| (i * 31 % (DECODE * pages_max)) as i32).collect();
    let page_tables = backend.indices(&page_tables).reshape(&[DECODE, pages_max]);
    let bounds = backend.attention_bounds(&Vec::from_iter(0..=DECODE as i32), heads);
    let lengths = backend.indices(&[SEQUENCE as i32; DECODE]);
    let qkv = of(backend, &[DECODE, heads.qkv()], Dtype::Activation);
    let keys = Keys::Paged { pages: &pages, bounds: &bounds, page_tables: &page_tables, lengths: &lengths };
    let moved = bytes(DECODE * SEQUENCE * 2 * heads.kv_heads * heads.head_dim * 2);
    bench.run("attention_forward", format!("{} decode {DECODE} of {SEQUENCE}", shape.name), moved, |b| {
        drop(b.attention_forward(&qkv, heads, keys));
    });
}

fn head(bench: &mut Bench, shape: &Shape) {
    let backend = &*bench.backend();
    let Shape { name, dim, vocab, .. } = *shape;
    let w = of(backend, &[vocab, dim], Dtype::Bf16);
    let rows = 1024;
    let h = of(backend, &[rows, dim], Dtype::Activation);
    let targets = backend.indices(&Vec::from_iter(0..rows as i32));
    let ones = backend.upload(Host::F32(&vec![1.0; rows]), &[rows], Dtype::F32);
    let cost = 2 * rows * dim * vocab;
    bench.run("token_logprob_forward", format!("{name} {rows}"), flop(cost), |b| {
        drop(b.token_logprob_forward(&h, &w, &targets, &ones, &[]));
    });
    let found = backend.token_logprob_forward(&h, &w, &targets, &ones, &[]);
    let mut dw = backend.zeros(&[vocab, dim], Dtype::F32);
    bench.run("token_logprob_backward", format!("{name} {rows}"), flop(3 * cost), |b| {
        drop(b.token_logprob_backward(&ones, &h, &w, &targets, &ones, &found.lse_raw, &[], Some(&mut dw)));
    });
    let logits = of(backend, &[DECODE, vocab], Dtype::F32);
    let params = SamplingParams {
        temperature: 1.0,
        top_k: 50,
        top_p: 0.95,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seen: &[],
        bias: &[],
        allowed: None,
        seed: 1,
        sequence: 2,
        position: 3,
    };
    bench.run("sample", format!("{name} {DECODE}"), bytes(4 * DECODE * vocab), |b| {
        drop(b.sample(&logits, &[params; DECODE], &[]))
    });
}

fn vision(bench: &mut Bench) {
    let backend = &*bench.backend();
    let pixels = backend.upload(Host::U8(&vec![100; PATCHES * 588]), &[PATCHES, 588], Dtype::U8);
    let scale = PixelScale { mean: [0.5; 3], std: [0.25; 3] };
    let w = of(backend, &[VISION_DIM, 1176], Dtype::Bf16);
    bench.run("patch_embed_forward", format!("vision {PATCHES}"), flop(2 * PATCHES * 1176 * VISION_DIM), |b| {
        drop(b.patch_embed_forward(&pixels, &scale, &w));
    });
    attention(bench, "vision full", PATCHES, PATCHES, VISION_HEADS, false);
    attention(bench, "vision windows of 64", PATCHES, 64, VISION_HEADS, false);
    let x = of(backend, &[PATCHES, VISION_DIM], Dtype::Activation);
    let w = of(backend, &[VISION_DIM], Dtype::Bf16);
    bench.run("layer_norm_forward", format!("vision {PATCHES}"), bytes(4 * PATCHES * VISION_DIM), |b| {
        drop(b.layer_norm_forward(&x, None, &w, &w, 1e-6));
    });
    let x = of(backend, &[PATCHES, VISION_HIDDEN], Dtype::Activation);
    bench.run("gelu_forward", format!("vision {PATCHES}"), bytes(4 * PATCHES * VISION_HIDDEN), |b| {
        drop(b.gelu_forward(&x, GeluForm::Quick));
    });
}

fn optimizer(bench: &mut Bench) {
    const COUNT: usize = 1 << 26;
    let backend = &*bench.backend();
    let [mut w, mut remainder] = [Dtype::Bf16, Dtype::I16].map(|dtype| backend.zeros(&[COUNT], dtype));
    let dw = of(backend, &[COUNT], Dtype::F32);
    let step = AdamwStep { learning_rate: 1e-6, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step: 1, gradient_scale: 1.0 };
    // Weight, remainder and moments are read and written, the gradient is read.
    let [mut m, mut v] = [Moment::zeros(backend, &[COUNT]), Moment::zeros(backend, &[COUNT])];
    bench.run("adamw", format!("{COUNT}"), bytes(28 * COUNT), |b| {
        let (w, remainder, m, v) = (&mut w, &mut remainder, &mut m, &mut v);
        b.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &dw, weight_decay: 0.01 }], &step);
    });
    let [mut m, mut v] = [Moment::zeros_8bit(backend, &[COUNT]), Moment::zeros_8bit(backend, &[COUNT])];
    bench.run("adamw", format!("8-bit {COUNT}"), bytes(16 * COUNT), |b| {
        let (w, remainder, m, v) = (&mut w, &mut remainder, &mut m, &mut v);
        b.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &dw, weight_decay: 0.01 }], &step);
    });
    bench.run("grad_norm", format!("{COUNT}"), bytes(4 * COUNT), |b| {
        b.sum_of_squares(&[&dw]);
    });
    let heads = SHAPES[0].heads;
    let mut pages = backend.attention_pages(512, heads);
    let pairs: Vec<(u32, u32)> = (0..256).map(|i| (i, 256 + i)).collect();
    let moved = bytes(2 * 256 * 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim * 2);
    bench.run("copy_pages", "7b 256".to_owned(), moved, |b| b.copy_pages(&mut pages, &pairs));
}
