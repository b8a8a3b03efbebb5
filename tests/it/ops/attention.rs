//! Attention over packed keys.

use thyme_engine::ops::attention::{Heads, Keys, Packed};

use thyme_engine::ops::Backend;

use super::{Case, Gradient, Input, Random, check_backends, check_gradient};

fn case(random: &mut Random, heads: Heads, bounds: &[i32], prefixes: &[i32], causal: bool) -> Case {
    let tokens = bounds[bounds.len() - 1] as usize;
    let segments = Segments { bounds: bounds.to_vec(), prefixes: prefixes.to_vec(), causal };
    let segments_back = segments.clone();
    Case {
        name: format!("attention {heads:?}, {segments:?}"),
        inputs: vec![Input::activation(random, &[tokens, heads.qkv()])],
        // A score's rounding enters its probability as a factor, like one more term of the chain.
        chain: segments.longest() + heads.head_dim,
        differentiable: 1,
        forward: Box::new(move |backend, x| {
            segments.with(backend, |packed| {
                let (o, lse) = backend.attention_forward(&x[0], heads, Keys::Packed(packed));
                vec![o, lse]
            })
        }),
        backward: Box::new(move |backend, x, dy| {
            segments_back.with(backend, |packed| {
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
    fn with<T>(&self, backend: &dyn Backend, work: impl FnOnce(Packed<'_>) -> T) -> T {
        let bounds = backend.indices(&self.bounds);
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
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(11);
    let mut cases = vec![];
    for (heads, kv_heads, head_dim) in [(4, 2, 2), (3, 1, 6), (2, 2, 32), (7, 1, 20)] {
        for bounds in [&[0, 0][..], &[0, 1], &[0, 2], &[0, 33], &[0, 5, 5, 9], &[0, 1, 8, 10, 33], &[0, 16, 32, 39]] {
            for causal in [true, false] {
                cases.push(case(&mut random, Heads { heads, kv_heads, head_dim }, bounds, &[], causal));
            }
        }
        // Prefixes of no token, of less than a tile, of a tile and of more; segments without one between them, and an empty one.
        let shared: [(&[i32], &[i32]); 5] = [
            (&[0, 5, 9, 10, 30], &[-1, 0, 0, 0]),
            (&[0, 16, 20, 24], &[-1, 0, 0]),
            (&[0, 37, 40, 57, 60, 60], &[-1, 0, -1, 0, 0]),
            (&[0, 0, 3, 21, 26, 29], &[-1, 0, -1, 2, 2]),
            (&[0, 3, 7], &[-1, -1]),
        ];
        for (bounds, prefixes) in shared {
            for causal in [true, false] {
                cases.push(case(&mut random, Heads { heads, kv_heads, head_dim }, bounds, prefixes, causal));
            }
        }
    }
    cases
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    cases().iter().for_each(check_backends);
}

#[test]
fn every_backend_agrees_with_the_reference_on_long_sequences() {
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 4 };
    for causal in [true, false] {
        check_backends(&case(&mut Random::new(12), heads, &[0, 1100, 1400], &[], causal));
    }
}
