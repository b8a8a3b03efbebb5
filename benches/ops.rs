//! The ops that cost most, on the shapes of the shipped tiny model and of 12 layers of 1,024. Throughput: multiplications and additions
//! where a product dominates, else elements.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use thyme_engine::cpu::Cpu;
use thyme_engine::ops::attention::{Heads, Keys, Packed};
use thyme_engine::ops::sample::philox_uniform;
use thyme_engine::ops::{Backend, Dtype, Host, Tensor};

/// Sizes of one model.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    dim: usize,
    hidden: usize,
    heads: Heads,
    vocab: usize,
}

const TINY: Shape =
    Shape { name: "tiny", dim: 128, hidden: 384, heads: Heads { heads: 4, kv_heads: 2, head_dim: 32 }, vocab: 768 };
const LARGE: Shape = Shape {
    name: "1024",
    dim: 1024,
    hidden: 2816,
    heads: Heads { heads: 16, kv_heads: 4, head_dim: 64 },
    vocab: 32_768,
};
/// Rows of a decoding step, and of a micro-batch.
const ROWS: [usize; 2] = [96, 1024];
/// Tokens of a sequence in a micro-batch.
const SEQUENCE: usize = 256;

fn values(count: usize, stream: u64) -> Vec<f32> {
    (0..count as u64).map(|i| philox_uniform(0, stream, i) as f32 - 0.5).collect()
}

fn activations(backend: &dyn Backend, shape: &[usize], stream: u64) -> Tensor {
    backend.upload(Host::F32(&values(shape.iter().product(), stream)), shape, Dtype::Activation)
}

fn weights(backend: &dyn Backend, shape: &[usize], stream: u64) -> Tensor {
    let values: Vec<bf16> =
        values(shape.iter().product(), stream).into_iter().map(|v| bf16::from_f32(0.1 * v)).collect();
    backend.upload(Host::Bf16(&values), shape, Dtype::Bf16)
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group
}

fn id(shape: Shape, rows: usize) -> BenchmarkId {
    BenchmarkId::new(shape.name, rows)
}

fn linear(criterion: &mut Criterion) {
    let backend: &dyn Backend = &Cpu::new();
    for shape in [TINY, LARGE] {
        let (dim, out) = (shape.dim, 2 * shape.hidden);
        let w = weights(backend, &[out, dim], 1);
        for rows in ROWS {
            let (x, dy) = (activations(backend, &[rows, dim], 2), activations(backend, &[rows, out], 3));
            let mut dw = backend.zeros(&[out, dim], Dtype::F32);
            let cost = Throughput::Elements(2 * (rows * dim * out) as u64);
            let mut forward = group(criterion, "linear_forward");
            forward.throughput(cost.clone());
            forward.bench_function(id(shape, rows), |b| b.iter(|| black_box(backend.linear_forward(&x, &w, None))));
            forward.finish();
            let mut backward = group(criterion, "linear_backward_input");
            backward.throughput(cost.clone());
            backward.bench_function(id(shape, rows), |b| b.iter(|| black_box(backend.linear_backward_input(&dy, &w))));
            backward.finish();
            let mut backward = group(criterion, "linear_backward_weight");
            backward.throughput(cost);
            backward
                .bench_function(id(shape, rows), |b| b.iter(|| backend.linear_backward_weight(&dy, &x, &mut dw, None)));
            backward.finish();
        }
    }
}

fn attention(criterion: &mut Criterion) {
    let backend: &dyn Backend = &Cpu::new();
    let rows = ROWS[1];
    for Shape { heads, name, .. } in [TINY, LARGE] {
        let qkv = activations(backend, &[rows, heads.qkv()], 1);
        let bounds: Vec<i32> = (0..=rows / SEQUENCE).map(|i| (i * SEQUENCE) as i32).collect();
        let bounds = backend.attention_bounds(&bounds, heads);
        let segments = Packed { bounds: &bounds, prefixes: None, causal: true };
        let keys = Keys::Packed(segments);
        let (o, lse) = backend.attention_forward(&qkv, heads, keys);
        // Scores and sums over half the pairs; backward makes five such products.
        let forward_cost = (2 * rows * SEQUENCE * heads.heads * heads.head_dim) as u64;
        let mut forward = group(criterion, "attention_forward");
        forward.throughput(Throughput::Elements(forward_cost));
        forward.bench_function(BenchmarkId::new(name, rows), |b| {
            b.iter(|| black_box(backend.attention_forward(&qkv, heads, keys)))
        });
        forward.finish();
        let mut backward = group(criterion, "attention_backward");
        backward.throughput(Throughput::Elements(forward_cost * 5 / 2));
        backward.bench_function(BenchmarkId::new(name, rows), |b| {
            b.iter(|| black_box(backend.attention_backward(&o, &qkv, &o, &lse, heads, segments)));
        });
        backward.finish();
    }
}

fn rms_norm(criterion: &mut Criterion) {
    let backend: &dyn Backend = &Cpu::new();
    for shape in [TINY, LARGE] {
        let w = weights(backend, &[shape.dim], 1);
        for rows in ROWS {
            let x = activations(backend, &[rows, shape.dim], 2);
            let mut forward = group(criterion, "rms_norm_forward");
            forward.throughput(Throughput::Elements((rows * shape.dim) as u64));
            forward.bench_function(id(shape, rows), |b| {
                b.iter(|| black_box(backend.rms_norm_forward(&x, Some(&x), &w, 1e-6)))
            });
            forward.finish();
        }
    }
}

fn token_logprob(criterion: &mut Criterion) {
    let backend: &dyn Backend = &Cpu::new();
    let rows = ROWS[1];
    for shape in [TINY, LARGE] {
        let w = weights(backend, &[shape.vocab, shape.dim], 1);
        let h = activations(backend, &[rows, shape.dim], 2);
        let targets: Vec<i32> = (0..rows).map(|row| (row * 31 % shape.vocab) as i32).collect();
        let targets = backend.indices(&targets);
        let ones = backend.upload(Host::F32(&vec![1.0; rows]), &[rows], Dtype::F32);
        let lse = backend.token_logprob_forward(&h, &w, &targets, &ones, &[]).lse_raw;
        let mut dw = backend.zeros(&[shape.vocab, shape.dim], Dtype::F32);
        let cost = 2 * (rows * shape.dim * shape.vocab) as u64;
        let mut forward = group(criterion, "token_logprob_forward");
        forward.throughput(Throughput::Elements(cost));
        forward.bench_function(id(shape, rows), |b| {
            b.iter(|| black_box(backend.token_logprob_forward(&h, &w, &targets, &ones, &[])));
        });
        forward.finish();
        let mut backward = group(criterion, "token_logprob_backward");
        backward.throughput(Throughput::Elements(3 * cost));
        backward.bench_function(id(shape, rows), |b| {
            b.iter(|| {
                black_box(backend.token_logprob_backward(&ones, &h, &w, &targets, &ones, &lse, &[], Some(&mut dw)))
            });
        });
        backward.finish();
    }
}

criterion_group!(benches, linear, attention, rms_norm, token_logprob);
criterion_main!(benches);
