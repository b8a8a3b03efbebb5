//! Attention over packed keys.

use thyme_engine::ops::attention::{Heads, Keys};

use super::{Case, Gradient, Input, Random, check_backends, check_gradient};

fn case(random: &mut Random, heads: Heads, bounds: &[i32], causal: bool) -> Case {
    let (bounds, bounds_back) = (bounds.to_vec(), bounds.to_vec());
    let tokens = bounds[bounds.len() - 1] as usize;
    let longest = bounds.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(1);
    Case {
        name: format!("attention {heads:?}, bounds {bounds:?}, causal {causal}"),
        inputs: vec![Input::activation(random, &[tokens, heads.qkv()])],
        // A score's rounding enters its probability as a factor, like one more term of the chain.
        chain: longest as usize + heads.head_dim,
        differentiable: 1,
        forward: Box::new(move |backend, x| {
            let bounds = backend.indices(&bounds);
            let (o, lse) = backend.attention_forward(&x[0], heads, Keys::Packed { bounds: &bounds, causal });
            vec![o, lse]
        }),
        backward: Box::new(move |backend, x, dy| {
            let bounds = backend.indices(&bounds_back);
            let (o, lse) = backend.attention_forward(&x[0], heads, Keys::Packed { bounds: &bounds, causal });
            vec![Some(Gradient::New(backend.attention_backward(&dy[0], &x[0], &o, &lse, heads, &bounds, causal)))]
        }),
    }
}

/// No token, one, one segment, several (as images and their windows are), an empty one, grouped heads and one head a group.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(11);
    let mut cases = vec![];
    for (heads, kv_heads, head_dim) in [(4, 2, 2), (3, 1, 6), (2, 2, 32), (7, 1, 20)] {
        for bounds in [&[0, 0][..], &[0, 1], &[0, 2], &[0, 33], &[0, 5, 5, 9], &[0, 1, 8, 10, 33], &[0, 16, 32, 39]] {
            for causal in [true, false] {
                cases.push(case(&mut random, Heads { heads, kv_heads, head_dim }, bounds, causal));
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
        check_backends(&case(&mut Random::new(12), heads, &[0, 1100, 1400], causal));
    }
}
