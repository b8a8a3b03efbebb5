//! AdamW on a master in two halves.

use half::bf16;
use proptest::prelude::*;
use thyme_engine::ops::adamw::{AdamwStep, join_master, split_master};
use thyme_engine::ops::{Backend, Dtype, Host, HostMut};

use super::{Random, all_backends};

proptest! {
    #[test]
    fn two_halves_give_back_any_float(bits: u32) {
        let (weight, remainder) = split_master(f32::from_bits(bits));
        prop_assert_eq!(join_master(weight, remainder).to_bits(), bits);
    }

    #[test]
    fn the_weight_is_a_nearest_bf16(master: f32) {
        let weight = bf16::from_bits(split_master(master).0).to_f64();
        let nearest = bf16::from_f32(master).to_f64();
        prop_assert_eq!((weight - f64::from(master)).abs(), (nearest - f64::from(master)).abs());
    }
}

#[test]
fn two_halves_give_back_the_edges() {
    let edges = [
        0.0,
        -0.0,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        f32::from_bits(0x8000),
        f32::from_bits(0x0000_ffff),
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::from_bits(0x7fc0_0001),
        f32::from_bits(u32::MAX),
    ];
    for master in edges {
        let (weight, remainder) = split_master(master);
        assert_eq!(join_master(weight, remainder).to_bits(), master.to_bits(), "{master}");
    }
}

const COUNT: usize = 101;

fn step(number: u64) -> AdamwStep {
    AdamwStep {
        learning_rate: 1e-3 / (1.0 + number as f32 / 100.0),
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: number,
        gradient_scale: 0.5,
    }
}

/// Masters after `steps` steps with the gradients of `seed`, from bf16 weights.
fn trained(backend: &dyn Backend, steps: u64) -> Vec<f32> {
    let mut random = Random::new(20);
    let weights: Vec<bf16> = random.normals(COUNT).into_iter().map(bf16::from_f64).collect();
    let mut w = backend.upload(Host::Bf16(&weights), &[COUNT], Dtype::Bf16);
    let mut remainder = backend.zeros(&[COUNT], Dtype::I16);
    let mut m = backend.zeros(&[COUNT], Dtype::F32);
    let mut v = backend.zeros(&[COUNT], Dtype::F32);
    for number in 1..=steps {
        let gradient: Vec<f32> = random.normals(COUNT).iter().map(|g| *g as f32).collect();
        let dw = backend.upload(Host::F32(&gradient), &[COUNT], Dtype::F32);
        backend.adamw(&mut w, &mut remainder, &mut m, &mut v, &dw, &step(number));
    }
    let (mut high, mut low) = (vec![bf16::ZERO; COUNT], vec![0i16; COUNT]);
    backend.download(&w, HostMut::Bf16(&mut high));
    backend.download(&remainder, HostMut::I16(&mut low));
    high.iter().zip(low).map(|(high, low)| join_master(high.to_bits(), low)).collect()
}

/// The same with an undivided master in f64.
fn trained_plainly(steps: u64) -> Vec<f64> {
    let mut random = Random::new(20);
    let mut w: Vec<f64> = random.normals(COUNT).into_iter().map(|x| bf16::from_f64(x).to_f64()).collect();
    let (mut m, mut v) = ([0.0; COUNT], [0.0; COUNT]);
    for number in 1..=steps {
        let step = step(number);
        let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
        for (i, dw) in random.normals(COUNT).into_iter().enumerate() {
            let g = dw * f64::from(step.gradient_scale);
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let m_hat = m[i] / (1.0 - beta1.powi(number as i32));
            let v_hat = v[i] / (1.0 - beta2.powi(number as i32));
            let decay = f64::from(step.weight_decay) * w[i];
            w[i] -= f64::from(step.learning_rate) * (m_hat / (v_hat.sqrt() + f64::from(step.epsilon)) + decay);
        }
    }
    w
}

/// Each step rounds the master once (half an ulp, 2⁻²⁴ of it) and the update a few times (of at most `learning_rate`); the signs are
/// random, so the errors of `steps` steps add up to about the root of their number. Without the remainder a step of 1e-3 on a weight
/// of 1 would mostly vanish: bf16's half ulp there is 4e-3.
#[test]
fn the_remainder_keeps_a_full_precision_master() {
    for backend in all_backends() {
        for steps in [1, 1000] {
            let plain = trained_plainly(steps);
            for (found, expected) in trained(&*backend, steps).iter().zip(&plain) {
                let allowed = 4.0 * (steps as f64).sqrt() * 2f64.powi(-24) * expected.abs().max(1.0);
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= allowed, "{} after {steps}: {found}, not {expected}", backend.name());
            }
        }
    }
}

#[test]
fn a_step_that_bf16_cannot_hold_is_not_lost() {
    for backend in all_backends() {
        let mut w = backend.upload(Host::Bf16(&[bf16::ONE]), &[1], Dtype::Bf16);
        let mut remainder = backend.zeros(&[1], Dtype::I16);
        let (mut m, mut v) = (backend.zeros(&[1], Dtype::F32), backend.zeros(&[1], Dtype::F32));
        let dw = backend.upload(Host::F32(&[1.0]), &[1], Dtype::F32);
        for number in 1..=10 {
            let step = AdamwStep { learning_rate: 1e-3, weight_decay: 0.0, ..step(number) };
            backend.adamw(&mut w, &mut remainder, &mut m, &mut v, &dw, &step);
            assert!(number > 1 || backend.to_f32(&w) == [1.0], "{}: one step is below bf16's half ulp", backend.name());
        }
        assert_eq!(backend.to_f32(&w), [0.988_281_25], "{}: ten steps are 0.99 in bf16", backend.name());
    }
}
