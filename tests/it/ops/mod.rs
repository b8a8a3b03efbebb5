//! Every op: its gradient against finite differences of the reference, and every backend against the reference. An op's file says
//! its cases once; the bodies here run them.

mod adamw;
pub mod attention;
mod copy_pages;
mod embedding;
mod gelu;
mod grad_norm;
pub mod instruction_sets;
mod layer_norm;
mod linear;
mod patch_embed;
mod qk_norm;
mod random_normal;
mod rms_norm;
mod rope;
mod row_invariance;
mod rows;
pub mod sample;
mod swiglu;
mod token_logprob;

use std::sync::{Arc, LazyLock};

use half::bf16;
use thyme_engine::cpu::Cpu;
use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::DeviceError;
use thyme_engine::cuda::device::gpu::Gpu;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
pub use thyme_engine::device_check::tolerance::tolerance;
use thyme_engine::ops::attention::Heads;
use thyme_engine::ops::{Backend, Dtype, Host, HostMut, Tensor};
use thyme_engine::reference::Reference;

/// Numbers of rows to try: none, one, a pair, and two that no vector width divides.
const ROWS: [usize; 5] = [0, 1, 2, 7, 33];

/// The cases of every op with a gradient, but for attention, whose widths not every backend takes.
pub fn all_cases() -> Vec<Case> {
    let cases = [
        linear::cases(),
        rms_norm::cases(),
        layer_norm::cases(),
        swiglu::cases(),
        gelu::cases(),
        patch_embed::cases(),
        rows::cases(),
        embedding::cases(),
        qk_norm::cases(),
        rope::cases(),
        token_logprob::cases(),
    ];
    cases.into_iter().flatten().collect()
}

/// What gradients that are added to start from.
const START: f64 = 0.25;

/// The backends held against the reference: the CPU, CUDA's kernels on the host with every access watched, and a GPU where there is one;
/// only the last with `THYME_TEST_DEVICE=gpu`, as compute-sanitizer wants it.
fn backends() -> Vec<Box<dyn Backend>> {
    thread_local! {
        static SIMT: Cuda = Cuda::new(Arc::new(Simt::new(SimtOptions::checked()).unwrap()));
    }
    if gpu_only() {
        return vec![Box::new(gpu().expect("a GPU"))];
    }
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(Cpu::new()), Box::new(SIMT.with(Cuda::clone))];
    if let Some(gpu) = gpu() {
        backends.push(Box::new(gpu));
    }
    backends
}

/// Whether the host's part is done elsewhere.
pub fn gpu_only() -> bool {
    std::env::var_os("THYME_TEST_DEVICE").is_some_and(|device| device == "gpu")
}

/// The first GPU, where there is one that can be used.
pub fn gpu() -> Option<Cuda> {
    static GPU: LazyLock<Option<Cuda>> = LazyLock::new(|| match Gpu::new(0) {
        Ok(gpu) => Some(Cuda::new(Arc::new(gpu))),
        Err(DeviceError::Missing(_)) if !gpu_only() => None,
        Err(error) => panic!("the GPU cannot be used: {error}"),
    });
    GPU.clone()
}

/// The reference and the backends held against it, for what each must do by itself.
fn all_backends() -> Vec<Box<dyn Backend>> {
    let mut all = backends();
    all.push(Box::new(Reference));
    all
}

/// One use of an op, as a function of the inputs that it differentiates.
pub struct Case {
    name: String,
    inputs: Vec<Input>,
    /// Length of the longest sum, for [`tolerance`].
    chain: usize,
    /// How many of the outputs, from the first, have a gradient; the others are only compared.
    differentiable: usize,
    forward: Forward,
    backward: Backward,
}

/// Outputs from inputs.
type Forward = Box<dyn Fn(&dyn Backend, &[Tensor]) -> Vec<Tensor>>;

/// A gradient for each input, from the inputs and the gradients of the differentiable outputs; `None` where it is not asked for.
type Backward = Box<dyn Fn(&dyn Backend, &[Tensor], &[Tensor]) -> Vec<Option<Gradient>>>;

/// A gradient as an op gave it.
enum Gradient {
    /// Returned as a new tensor.
    New(Tensor),
    /// Added to what [`start`] made.
    Added(Tensor),
}

/// Values that every backend can hold exactly.
struct Input {
    shape: Vec<usize>,
    dtype: Dtype,
    values: Vec<f64>,
}

impl Input {
    /// Values that every backend holds exactly, if with bf16 it can.
    fn activation(random: &mut Random, shape: &[usize]) -> Input {
        let values = exact_in_bf16(random.normals(shape.iter().product()));
        Input { shape: shape.to_vec(), dtype: Dtype::Activation, values }
    }

    fn parameter(random: &mut Random, shape: &[usize]) -> Input {
        Input { dtype: Dtype::Bf16, ..Input::activation(random, shape) }
    }

    fn upload(&self, backend: &dyn Backend) -> Tensor {
        upload(backend, &self.values, &self.shape, self.dtype)
    }
}

fn exact_in_bf16(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|x| bf16::from_f64(x).to_f64()).collect()
}

/// Central differences of a random projection of the outputs give the gradient that backward gives.
fn check_gradient(case: &Case) {
    let backend: &dyn Backend = &Reference;
    let mut random = Random::new(case.name.len() as u64);
    let inputs: Vec<Tensor> = case.inputs.iter().map(|input| input.upload(backend)).collect();
    let outputs = (case.forward)(backend, &inputs);
    let directions: Vec<Vec<f64>> =
        outputs[..case.differentiable].iter().map(|output| random.normals(output.len())).collect();
    let dy = upload_like(backend, &directions, &outputs);
    let gradients = (case.backward)(backend, &inputs, &dy);

    for (number, gradient) in gradients.iter().enumerate() {
        let (gradient, start) = match gradient {
            Some(Gradient::New(tensor)) => (values(backend, tensor), 0.0),
            Some(Gradient::Added(tensor)) => (values(backend, tensor), START),
            None => continue,
        };
        let scale = largest(&gradient);
        for element in random.some(gradient.len(), 24) {
            let projected = |step: f64| {
                let moved = case.inputs.iter().enumerate().map(|(i, input)| {
                    let mut values = input.values.clone();
                    if i == number {
                        values[element] += step;
                    }
                    upload(backend, &values, &input.shape, input.dtype)
                });
                let outputs = (case.forward)(backend, &moved.collect::<Vec<_>>());
                directions.iter().zip(&outputs).map(|(d, y)| dot(d, &values(backend, y))).sum::<f64>()
            };
            // Five points: the error is of the order of step⁴ times the fifth derivative.
            let step = 1e-3;
            let slope = 8.0 * (projected(step) - projected(-step)) - (projected(2.0 * step) - projected(-2.0 * step));
            let expected = start + slope / (12.0 * step);
            let error = (gradient[element] - expected).abs() / scale;
            let found = gradient[element];
            assert!(error < 1e-7, "{}: d input {number}[{element}] = {found}, by differences {expected}", case.name);
        }
    }
}

/// Whether a backend takes heads of this width: CUDA's tensor cores want multiples of 16.
fn takes(backend: &dyn Backend, heads: Heads) -> bool {
    !matches!(backend.name(), "simt" | "gpu") || heads.head_dim.is_multiple_of(16)
}

/// Every backend's outputs and gradients are the reference's, within [`tolerance`].
fn check_backends(case: &Case) {
    check_some_backends(case, |_| true);
}

/// The same of those backends that take the case.
fn check_some_backends(case: &Case, takes: impl Fn(&dyn Backend) -> bool) {
    let mut random = Random::new(case.name.len() as u64);
    let reference: &dyn Backend = &Reference;
    let inputs: Vec<Tensor> = case.inputs.iter().map(|input| input.upload(reference)).collect();
    let outputs = (case.forward)(reference, &inputs);
    let directions: Vec<Vec<f64>> =
        outputs[..case.differentiable].iter().map(|output| exact_in_bf16(random.normals(output.len()))).collect();
    let gradients = (case.backward)(reference, &inputs, &upload_like(reference, &directions, &outputs));

    for backend in backends().into_iter().filter(|backend| takes(&**backend)) {
        let backend = &*backend;
        let inputs: Vec<Tensor> = case.inputs.iter().map(|input| input.upload(backend)).collect();
        let found = (case.forward)(backend, &inputs);
        let dy = upload_like(backend, &directions, &found);
        let found_gradients = (case.backward)(backend, &inputs, &dy);
        for (i, (found, expected)) in found.iter().zip(&outputs).enumerate() {
            expect_close(&format!("{} output {i}", case.name), backend, found, expected, case.chain);
        }
        for (i, pair) in found_gradients.iter().zip(&gradients).enumerate() {
            if let (
                Some(Gradient::New(found) | Gradient::Added(found)),
                Some(Gradient::New(expected) | Gradient::Added(expected)),
            ) = pair
            {
                expect_close(&format!("{} d input {i}", case.name), backend, found, expected, case.chain);
            }
        }
    }
}

/// Asserts that a backend's tensor is the reference's within [`tolerance`].
fn expect_close(what: &str, backend: &dyn Backend, found: &Tensor, expected: &Tensor, chain: usize) {
    assert_eq!(found.shape(), expected.shape(), "{what}: shape on {}", backend.name());
    assert_eq!(found.dtype(), expected.dtype(), "{what}: dtype on {}", backend.name());
    let allowed = tolerance(backend.name(), found.dtype(), chain);
    let expected = values(&Reference, expected);
    let scale = largest(&expected);
    for (i, (found, expected)) in values(backend, found).iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(
            error <= allowed,
            "{what}[{i}] on {}: {found}, not {expected}; {error:e} > {allowed:e}",
            backend.name()
        );
    }
}

/// The largest magnitude, at least 1.
fn largest(values: &[f64]) -> f64 {
    values.iter().fold(1.0, |largest, x| x.abs().max(largest))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn upload(backend: &dyn Backend, values: &[f64], shape: &[usize], dtype: Dtype) -> Tensor {
    if backend.name() == "reference" {
        return backend.upload(Host::F64(values), shape, dtype);
    }
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    backend.upload(Host::F32(&values), shape, dtype)
}

fn upload_like(backend: &dyn Backend, values: &[Vec<f64>], like: &[Tensor]) -> Vec<Tensor> {
    values.iter().zip(like).map(|(values, like)| upload(backend, values, like.shape(), like.dtype())).collect()
}

/// A parameter's gradient with something in it already: [`START`] everywhere.
fn start(backend: &dyn Backend, shape: &[usize], dtype: Dtype) -> Tensor {
    upload(backend, &vec![START; shape.iter().product()], shape, dtype)
}

fn values(backend: &dyn Backend, tensor: &Tensor) -> Vec<f64> {
    if backend.name() == "reference" {
        let mut values = vec![0.0; tensor.len()];
        backend.download(tensor, HostMut::F64(&mut values));
        return values;
    }
    backend.to_f32(tensor).into_iter().map(f64::from).collect()
}

/// The bits of a tensor as f32.
fn bits(backend: &dyn Backend, tensor: &Tensor) -> Vec<u32> {
    backend.to_f32(tensor).into_iter().map(f32::to_bits).collect()
}

/// Numbers that are the same on every run (Vigna's SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// Of mean 0 and variance 1, exact in f32 (Box & Muller).
    pub fn normals(&mut self, count: usize) -> Vec<f64> {
        let normal = |_| {
            let (radius, angle) = (1.0 - self.uniform(), self.uniform() * std::f64::consts::TAU);
            f64::from(((-2.0 * radius.ln()).sqrt() * angle.cos()) as f32)
        };
        (0..count).map(normal).collect()
    }

    fn indices(&mut self, count: usize, limit: usize) -> Vec<i32> {
        (0..count).map(|_| self.below(limit) as i32).collect()
    }

    /// The numbers below `count` in random order.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// At most `most` of the numbers below `count`.
    pub fn some(&mut self, count: usize, most: usize) -> Vec<usize> {
        let mut order = self.permutation(count);
        order.truncate(most);
        order
    }
}
