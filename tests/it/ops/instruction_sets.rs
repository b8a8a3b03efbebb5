//! The CPU gives the same bits with every instruction set it can use.

use thyme_engine::cpu::Cpu;
use thyme_engine::cpu::simd::Simd;
use thyme_engine::ops::{Backend, Tensor};

use super::{Case, Gradient, Random, all_cases, bits, upload_like};

/// The bits of a case's outputs and gradients.
pub fn case_bits(backend: &dyn Backend, case: &Case) -> Vec<Vec<u32>> {
    let mut random = Random::new(26);
    let inputs: Vec<Tensor> = case.inputs.iter().map(|input| input.upload(backend)).collect();
    let outputs = (case.forward)(backend, &inputs);
    let directions: Vec<Vec<f64>> =
        outputs[..case.differentiable].iter().map(|output| random.normals(output.len())).collect();
    let gradients = (case.backward)(backend, &inputs, &upload_like(backend, &directions, &outputs));
    let gradients = gradients.iter().flatten().map(|(Gradient::New(tensor) | Gradient::Added(tensor))| tensor);
    outputs.iter().chain(gradients).map(|tensor| bits(backend, tensor)).collect()
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let portable = Cpu::with_simd(Simd::portable());
    for case in all_cases().into_iter().chain(super::attention::cases()) {
        let expected = case_bits(&portable, &case);
        for simd in Simd::available() {
            assert_eq!(case_bits(&Cpu::with_simd(simd), &case), expected, "{} with {simd:?}", case.name);
        }
    }
}
