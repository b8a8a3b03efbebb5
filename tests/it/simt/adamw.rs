//! AdamW on simt: the CPU's bits, so that all that is said of the CPU's is said of it.

use thyme_engine::cpu::Cpu;
use thyme_engine::ops::adamw::{Adamw, AdamwStep};
use thyme_engine::ops::{Buffers, Dtype, Host, HostMut};

use super::{Random, checked};

/// Bits of weights, remainders and both moments after five steps.
fn trained<B: Buffers + Adamw>(backend: &B, count: usize) -> [Vec<u32>; 4] {
    let mut random = Random::new(50);
    let upload = |values: &[f64], dtype| {
        let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
        backend.upload(Host::F32(&values), &[count], dtype)
    };
    let mut w = upload(&random.normals(count), Dtype::Bf16);
    let mut remainder = backend.zeros(&[count], Dtype::I16);
    let mut m = backend.zeros(&[count], Dtype::F32);
    let mut v = backend.zeros(&[count], Dtype::F32);
    for step in 1..=5 {
        let dw = upload(&random.normals(count), Dtype::F32);
        let step = AdamwStep {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step,
            gradient_scale: 0.7,
        };
        backend.adamw(&mut w, &mut remainder, &mut m, &mut v, &dw, &step);
    }
    let floats = |tensor| {
        let mut values = vec![0f32; count];
        backend.download(tensor, HostMut::F32(&mut values));
        values.into_iter().map(f32::to_bits).collect()
    };
    let mut remainders = vec![0i16; count];
    backend.download(&remainder, HostMut::I16(&mut remainders));
    [floats(&w), remainders.into_iter().map(|x| x as u32).collect(), floats(&m), floats(&v)]
}

#[test]
fn adamw_has_the_bits_of_the_cpu() {
    let cuda = checked();
    for count in [0, 1, 101, 2056] {
        assert_eq!(trained(&cuda, count), trained(&Cpu::new(), count), "{count} elements");
    }
}
