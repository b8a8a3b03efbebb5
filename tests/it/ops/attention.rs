//! Attention over packed keys.

use thyme_engine::ops::Backend;
use thyme_engine::ops::attention::{Heads, Keys, Packed};

use super::{Case, Gradient, Input, Random, check_backends, check_gradient, check_some_backends, takes};

fn case(random: &mut Random, heads: Heads, segments: Segments) -> Case {
    let tokens = segments.bounds[segments.bounds.len() - 1] as usize;
    let segments_back = segments.clone();
    Case {
        name: format!("attention {heads:?}, {segments:?}"),
        inputs: vec![Input::activation(random, &[tokens, heads.qkv()])],
        // A score's rounding enters its probability as a factor, like one more term of the chain.
        chain: segments.longest() + heads.head_dim,
        differentiable: 1,
        forward: Box::new(move |backend, x| {
            segments.with(backend, heads, |packed| {
                let (o, lse) = backend.attention_forward(&x[0], heads, Keys::Packed(packed));
                vec![o, lse]
            })
        }),
        backward: Box::new(move |backend, x, dy| {
            segments_back.with(backend, heads, |packed| {
                let (o, lse) = backend.attention_forward(&x[0], heads, Keys::Packed(packed));
                vec![Some(Gradient::New(backend.attention_backward(&dy[0], &x[0], &o, &lse, heads, packed)))]
            })
        }),
    }
}

#[derive(Clone, Debug)]
struct Segments {
    bounds: Vec<i32>,
    prefixes: Vec<i32>,
    causal: bool,
}

impl Segments {
    fn with<T>(&self, backend: &dyn Backend, heads: Heads, work: impl FnOnce(Packed<'_>) -> T) -> T {
        let bounds = backend.attention_bounds(&self.bounds, heads);
        let prefixes = (!self.prefixes.is_empty()).then(|| backend.indices(&self.prefixes));
        work(Packed { bounds: &bounds, prefixes: prefixes.as_ref(), causal: self.causal })
    }

    /// Most keys that a query sees, and most terms of a key's gradient.
    fn longest(&self) -> usize {
        let longest = self.bounds.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(1);
        (if self.prefixes.is_empty() { longest } else { self.bounds[self.bounds.len() - 1] }) as usize
    }
}

/// No token, one, one segment, several (as images and their windows are), an empty one, shared prefixes; grouped heads and one head a
/// group.
fn calls() -> Vec<(Heads, Segments)> {
    let plain = [&[0, 0][..], &[0, 1], &[0, 2], &[0, 33], &[0, 5, 5, 9], &[0, 1, 8, 10, 33], &[0, 16, 32, 39]];
    // Prefixes of no token, of less than a tile, of a tile and of more; segments without one between them, and an empty one.
    let shared: [(&[i32], &[i32]); 5] = [
        (&[0, 5, 9, 10, 30], &[-1, 0, 0, 0]),
        (&[0, 16, 20, 24], &[-1, 0, 0]),
        (&[0, 37, 40, 57, 60, 60], &[-1, 0, -1, 0, 0]),
        (&[0, 0, 3, 21, 26, 29], &[-1, 0, -1, 2, 2]),
        (&[0, 3, 7], &[-1, -1]),
    ];
    let mut calls = vec![];
    for (heads, kv_heads, head_dim) in [(4, 2, 2), (3, 1, 6), (2, 2, 32), (7, 1, 20), (4, 2, 16)] {
        let segments = plain.iter().map(|bounds| (*bounds, &[][..])).chain(shared);
        for ((bounds, prefixes), causal) in segments.flat_map(|segments| [(segments, true), (segments, false)]) {
            let segments = Segments { bounds: bounds.to_vec(), prefixes: prefixes.to_vec(), causal };
            calls.push((Heads { heads, kv_heads, head_dim }, segments));
        }
    }
    calls
}

pub fn cases() -> Vec<Case> {
    let mut random = Random::new(11);
    calls().into_iter().map(|(heads, segments)| case(&mut random, heads, segments)).collect()
}

fn check(seed: u64, heads: Heads, segments: Segments) {
    check_some_backends(&case(&mut Random::new(seed), heads, segments), |backend| takes(backend, heads));
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    calls().into_iter().for_each(|(heads, segments)| check(11, heads, segments));
}

#[test]
fn every_backend_agrees_with_the_reference_on_long_sequences() {
    for (head_dim, causal) in [(4, true), (4, false), (16, true), (16, false)] {
        let segments = Segments { bounds: vec![0, 1100, 1400], prefixes: vec![], causal };
        check(12, Heads { heads: 2, kv_heads: 1, head_dim }, segments);
    }
    // The widest heads, which keep a part of what they join in registers.
    let segments = Segments { bounds: vec![0, 550], prefixes: vec![], causal: false };
    check(12, Heads { heads: 1, kv_heads: 1, head_dim: 128 }, segments);
}

/// Every width that tensor cores take, over more than one tile of rows and of keys.
pub fn wide_cases() -> Vec<Case> {
    let mut random = Random::new(13);
    let mut cases = vec![];
    for (i, head_dim) in (16..=128).step_by(16).enumerate() {
        for (bounds, prefixes) in [(vec![0, 70, 131], vec![]), (vec![0, 66, 70, 75], vec![-1, 0, 0])] {
            let segments = Segments { bounds, prefixes, causal: i % 2 == 0 };
            cases.push(case(&mut random, Heads { heads: 3, kv_heads: 1, head_dim }, segments));
        }
    }
    cases
}

#[test]
fn every_backend_agrees_with_the_reference_on_wide_heads() {
    wide_cases().iter().for_each(check_backends);
}
