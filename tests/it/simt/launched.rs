//! No kernel is left out: each is launched by the cases that hold its op against the reference, or by the calls below. And a launch's
//! arguments are held against parameters that are the compiler's too.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::sync::Arc;

use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::recorder::Recorder;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch, StructBytes};
use thyme_engine::cuda::kernels::{self, Parameter};
use thyme_engine::ops::adamw::{AdamwParameter, AdamwStep, Moment};
use thyme_engine::ops::attention::{Heads, Keys, PAGE_TOKENS};
use thyme_engine::ops::sample::SamplingParams;
use thyme_engine::ops::{Backend, Dtype, Host};

use crate::ops::instruction_sets::case_bits;
use crate::ops::{all_cases, attention};

#[test]
fn every_kernel_is_launched() {
    let device = Arc::new(Recorder::new(Arc::new(Simt::new(SimtOptions::fast()).unwrap())).unwrap());
    let cuda = Cuda::new(device.clone());
    for case in all_cases().into_iter().chain(attention::wide_cases()) {
        case_bits(&cuda, &case);
    }
    forward_only(&cuda);
    let launched: BTreeSet<String> = device.take().into_iter().map(|noted| noted.kernel).collect();
    let names = kernels::units().flat_map(|(_, text)| kernels::names(text));
    let left_out: Vec<&str> = names.filter(|name| !launched.contains(*name)).collect();
    assert!(left_out.is_empty(), "kernels that no test launches: {left_out:?}");
}

/// The parameters that are read from a source are those that the compiler gives the simt device: in the place of each it refuses every
/// other, and takes this one to complain of the next. Nothing runs.
#[test]
fn the_parameters_of_every_kernel_are_those_that_its_compiler_sees() {
    let device = Simt::new(SimtOptions::fast()).unwrap();
    let bytes = Argument::Struct(StructBytes::new(&[0; 7]));
    let every = [Argument::Null, Argument::I32(0), Argument::F32(0.0), Argument::I64(0), bytes];
    let argument = |parameter: &Parameter| match parameter {
        Parameter::Pointer => every[0],
        Parameter::I32 => every[1],
        Parameter::F32 => every[2],
        Parameter::I64 => every[3],
        Parameter::Struct(bytes) => Argument::Struct(StructBytes::new(&vec![0; *bytes])),
    };
    let kernels = kernels::units().flat_map(|(_, text)| kernels::names(text).into_iter().map(move |name| (name, text)));
    for (kernel, text) in kernels {
        let refusal = |arguments: &[Argument<'_>]| {
            let launch = Launch { kernel, grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, arguments };
            device.launch(&launch).expect_err(kernel).to_string()
        };
        let sound: Vec<Argument<'_>> = kernels::parameters(text, kernel).iter().map(argument).collect();
        let more = [&sound[..], &every[..1]].concat();
        assert_eq!(refusal(&more), format!("{kernel} takes {} arguments, not {}", sound.len(), more.len()));
        for place in 0..sound.len() {
            // A struct of another size is another one.
            let is_other = |other: &&Argument<'_>| match other {
                Argument::Struct(_) => true,
                _ => discriminant(*other) != discriminant(&sound[place]),
            };
            for other in every.iter().filter(is_other) {
                let mut arguments = sound.clone();
                arguments[place] = *other;
                assert!(
                    refusal(&arguments).starts_with(&format!("{kernel}: argument {place} ")),
                    "{}",
                    refusal(&arguments)
                );
            }
        }
    }
}

/// The gradient through the head, of lines of whole vectors.
fn head_of_whole_vectors(backend: &dyn Backend) {
    let (h, w) = (backend.zeros(&[3, 16], Dtype::Activation), backend.zeros(&[24, 16], Dtype::Bf16));
    let (targets, ones) = (backend.indices(&[1, 2, 3]), backend.upload(Host::F32(&[1.0; 3]), &[3], Dtype::F32));
    let lse = backend.token_logprob_forward(&h, &w, &targets, &ones, &[]).lse_raw;
    backend.token_logprob_backward(&ones, &h, &w, &targets, &ones, &lse, &[], None, None);
}

/// Ops without a gradient, decoding over more keys than one split has, and products of as many rows and columns as each tile is for.
fn forward_only(cuda: &Cuda) {
    let backend: &dyn Backend = cuda;
    for (rows, columns) in [(16, 8), (32, 8), (64, 8), (64, 12_288), (65, 12_288)] {
        let (x, w) = (backend.zeros(&[rows, 8], Dtype::Activation), backend.zeros(&[columns, 8], Dtype::Bf16));
        backend.linear_forward(&x, &w, None);
        backend.logits(&x, &w);
    }
    head_of_whole_vectors(backend);
    (16..=128).step_by(16).for_each(|head_dim| decode(backend, head_dim));
    let mut pages = backend.attention_pages(2, Heads { heads: 1, kv_heads: 1, head_dim: 16 });
    backend.copy_pages(&mut pages, &[(0, 1)]);

    let qkv = backend.zeros(&[1, 48], Dtype::Activation);
    let logits = backend.logits(&qkv, &backend.zeros(&[5, 48], Dtype::Bf16));
    let params = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seen: &[],
        bias: &[],
        allowed: None,
        seed: 0,
        sequence: 0,
        position: 0,
    };
    backend.sample(&logits, &[params], &[1]);

    let [mut w, mut remainder] = [Dtype::Bf16, Dtype::I16].map(|dtype| backend.zeros(&[3], dtype));
    let step = AdamwStep { learning_rate: 1.0, beta1: 0.9, beta2: 0.9, epsilon: 1.0, step: 1, gradient_scale: 1.0 };
    let gradient = backend.zeros(&[3], Dtype::F32);
    for zeros in [Moment::zeros, Moment::zeros_8bit] {
        let [mut m, mut v] = [zeros(backend, &[3]), zeros(backend, &[3])];
        let (w, remainder, m, v) = (&mut w, &mut remainder, &mut m, &mut v);
        backend.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &gradient, weight_decay: 0.0 }], &step);
    }
    backend.sum_of_squares(&[&gradient]);
    let mut sum = backend.zeros(&[1, 3], Dtype::Activation);
    backend.add(&mut sum, &backend.zeros(&[1, 3], Dtype::Activation));
    backend.random_normal(&[3], 1.0, 0, 0);
}

/// A token over more keys than one split has.
fn decode(backend: &dyn Backend, head_dim: usize) {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim };
    let pages_count = 600usize.div_ceil(PAGE_TOKENS);
    let pages = backend.attention_pages(pages_count, heads);
    let page_tables = backend.indices(&Vec::from_iter(0..pages_count as i32)).reshape(&[1, pages_count]);
    let (bounds, lengths) = (backend.attention_bounds(&[0, 1], heads), backend.indices(&[600]));
    let qkv = backend.zeros(&[1, heads.qkv()], Dtype::Activation);
    let keys = Keys::Paged { pages: &pages, bounds: &bounds, page_tables: &page_tables, lengths: &lengths };
    backend.attention_forward(&qkv, heads, keys);
}
