//! SwiGLU on simt against the reference.

use thyme_engine::ops::swiglu::Swiglu;
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, pair, values};

#[test]
fn swiglu_agrees_with_the_reference_in_both_directions() {
    let cuda = checked();
    let mut random = Random::new(50);
    for (rows, dim) in [(0, 8), (1, 1), (3, 13), (2, 64), (2, 1100), (1, 1032)] {
        let what = format!("swiglu [{rows}, {dim}]");
        let (gate_up, rgate_up) = {
            let values = exact_in_bf16(&mut random, rows * 2 * dim);
            pair(&cuda, &values, &[rows, 2 * dim], Dtype::Activation)
        };
        let (dy, rdy) = pair(&cuda, &exact_in_bf16(&mut random, rows * dim), &[rows, dim], Dtype::Activation);
        let (y, ry) = (cuda.swiglu_forward(&gate_up), Reference.swiglu_forward(&rgate_up));
        expect_close(&format!("{what}: y"), &cuda, &y, &ry, 1);
        let (d, rd) = (cuda.swiglu_backward(&dy, &gate_up), Reference.swiglu_backward(&rdy, &rgate_up));
        expect_close(&format!("{what}: dgate_up"), &cuda, &d, &rd, 1);
    }
}

#[test]
fn far_gates_shut_and_open_without_overflow() {
    let cuda = checked();
    let gate_up = cuda.upload(Host::F32(&[-1000.0, 1000.0, 2.0, 2.0]), &[1, 4], Dtype::Activation);
    assert_eq!(values(&cuda, &cuda.swiglu_forward(&gate_up)), [0.0, 2000.0]);
    let dy = cuda.upload(Host::F32(&[1.0, 1.0]), &[1, 2], Dtype::Activation);
    assert_eq!(values(&cuda, &cuda.swiglu_backward(&dy, &gate_up)), [0.0, 2.0, 0.0, 1000.0]);
}
