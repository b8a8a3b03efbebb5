//! Normal random numbers, and the weights that are drawn with them.

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::checkpoint::init::random_weights;
use thyme_engine::cpu::Cpu;
use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::model::Model;
use thyme_engine::ops::random_normal::standard_normal;
use thyme_engine::ops::{Backend, Dtype, HostMut, Tensor};

use super::{all_backends, gpu};

fn bits(backend: &dyn Backend, tensor: &Tensor) -> Vec<u16> {
    let mut values = vec![bf16::ZERO; tensor.len()];
    backend.download(tensor, HostMut::Bf16(&mut values));
    values.into_iter().map(bf16::to_bits).collect()
}

/// The FNV-1a hash.
fn digest(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[test]
fn every_backend_draws_the_same_bits() {
    for (shape, std, seed, stream) in
        [(vec![0], 1.0, 1, 2), (vec![1], 0.02, 0, u64::MAX), (vec![7, 331], 0.3, 0x0123_4567_89AB_CDEF, 1 << 40)]
    {
        let count: usize = shape.iter().product();
        let expected: Vec<u16> =
            (0..count as u64).map(|i| bf16::from_f32(std * standard_normal(seed, stream, i)).to_bits()).collect();
        for backend in all_backends() {
            let drawn = backend.random_normal(&shape, std, seed, stream);
            assert_eq!((drawn.shape(), drawn.dtype()), (&shape[..], Dtype::Bf16), "{}", backend.name());
            assert_eq!(bits(&*backend, &drawn), expected, "{} {shape:?}", backend.name());
        }
    }
}

/// The k-th moment of n numbers is off by about the square root of (the 2k-th moment less the k-th's square) over n.
#[test]
fn the_numbers_have_the_moments_of_a_normal_distribution() {
    let count = 200_000u64;
    let numbers: Vec<f64> = (0..count).map(|i| f64::from(standard_normal(5, 6, i))).collect();
    for (power, moment, spread) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
        let mean = numbers.iter().map(|x| x.powi(power)).sum::<f64>() / count as f64;
        let allowed = 4.0 * (spread / count as f64).sqrt();
        assert!((mean - moment).abs() < allowed, "moment {power}: {mean}, not {moment}");
    }
}

/// Results that hang on a seed (the tiny models of `recipes/`) hang on these bits: the number of the weights of `recipes/tiny`, the first
/// three and the digest of all, drawn on the CPU.
#[test]
fn the_weights_of_a_seed_stay_as_they_are() {
    let config = Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny")).unwrap().config;
    let simt = Cuda::new(Arc::new(Simt::new(SimtOptions::fast()).unwrap()));
    let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::new(Cpu::new()), Arc::new(simt)];
    backends.extend(gpu().map(|gpu| Arc::new(gpu) as Arc<dyn Backend>));
    for backend in backends {
        for (seed, first, all) in [
            (0, [15561, 15803, 15784], 0x08C2_08D1_4214_227D),
            (0xFFFF_0000_1234_5678, [15624, 15365, 15935], 0x53E6_12AE_25AD_A88F),
        ] {
            let model = Model::new(config.clone(), backend.clone());
            let weights = random_weights(&model, seed);
            let bits: Vec<u16> = weights.values.iter().flat_map(|tensor| bits(&*backend, tensor)).collect();
            assert_eq!(bits.len(), 1_696_384);
            assert_eq!(bits[..3], first, "{}, seed {seed}", backend.name());
            assert_eq!(digest(bits.iter().flat_map(|bits| bits.to_le_bytes())), all, "{}, seed {seed}", backend.name());
        }
    }
}
