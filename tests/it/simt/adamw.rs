//! AdamW on simt: the CPU's bits, so that all that is said of the CPU's is said of it.

use thyme_engine::cpu::Cpu;
use thyme_engine::ops::adamw::{Adamw, AdamwParameter, AdamwStep, Moment};
use thyme_engine::ops::{Buffers, Dtype, Host, HostMut, Tensor};

use super::{Random, checked};

/// Bits of weights, remainders and both moments after five steps, the gradients of some elements far larger than those of others.
fn trained<B: Buffers + Adamw>(backend: &B, count: usize, zeros: fn(&B, &[usize]) -> Moment) -> Vec<Vec<u32>> {
    let mut random = Random::new(50);
    let upload = |values: &[f64], dtype| {
        let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
        backend.upload(Host::F32(&values), &[count], dtype)
    };
    let mut w = upload(&random.normals(count), Dtype::Bf16);
    let mut remainder = backend.zeros(&[count], Dtype::I16);
    let (mut m, mut v) = (zeros(backend, &[count]), zeros(backend, &[count]));
    for step in 1..=5 {
        let mut gradient = random.normals(count);
        gradient.iter_mut().skip(300).step_by(97).for_each(|g| *g *= 1e4);
        gradient.iter_mut().skip(512).take(256).for_each(|g| *g = 0.0);
        gradient.iter_mut().skip(800).take(90).for_each(|g| *g *= 1e-12);
        let dw = upload(&gradient, Dtype::F32);
        let step = AdamwStep { learning_rate: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, step, gradient_scale: 0.7 };
        let (w, remainder, m, v) = (&mut w, &mut remainder, &mut m, &mut v);
        backend.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &dw, weight_decay: 0.1 }], &step);
    }
    let tensors = [&w, &remainder, &m.values, &v.values].into_iter().chain(&m.scales).chain(&v.scales);
    tensors.map(|tensor| bits(backend, tensor)).collect()
}

fn bits(backend: &impl Buffers, tensor: &Tensor) -> Vec<u32> {
    let (mut floats, mut remainders, mut codes) =
        (vec![0f32; tensor.len()], vec![0i16; tensor.len()], vec![0u8; tensor.len()]);
    match tensor.dtype() {
        Dtype::I16 => {
            backend.download(tensor, HostMut::I16(&mut remainders));
            remainders.into_iter().map(|x| x as u32).collect()
        }
        Dtype::U8 => {
            backend.download(tensor, HostMut::U8(&mut codes));
            codes.into_iter().map(u32::from).collect()
        }
        _ => {
            backend.download(tensor, HostMut::F32(&mut floats));
            floats.into_iter().map(f32::to_bits).collect()
        }
    }
}

#[test]
fn adamw_has_the_bits_of_the_cpu() {
    let cuda = checked();
    for count in [0, 1, 101, 255, 256, 257, 2056, 16_384 + 300] {
        let (found, expected) = (trained(&cuda, count, Moment::zeros), trained(&Cpu::new(), count, Moment::zeros));
        assert_eq!(found, expected, "{count} elements");
        let (found, expected) =
            (trained(&cuda, count, Moment::zeros_8bit), trained(&Cpu::new(), count, Moment::zeros_8bit));
        assert_eq!(found, expected, "{count} elements in 8 bits");
    }
}
