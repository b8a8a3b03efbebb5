//! Sixteen f32 lanes on AVX-512, AVX2 or plain arrays, with the same bits on each: all of them round once per operation, fuse only where
//! `mul_add` says so, and add lanes in one order.
//!
//! A kernel is written once with `kernel!`, generic over `Lanes`; its caller passes the [`Simd`] that [`super::Cpu`] detected.

pub(super) mod lanes;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use lanes::LANES;
pub(super) use lanes::{Lanes, unroll};
pub(super) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

/// The instruction set to use; only ever one that this machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Simd(pub(super) Level);

/// What [`Simd`] holds. Only [`Simd::detect`] makes the vector ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// Arrays and `f32::mul_add`: slow, the same bits.
    pub fn portable() -> Simd {
        Simd(Level::Portable)
    }

    /// The widest that this machine has.
    pub fn detect() -> Simd {
        Simd::available()[0]
    }

    /// All that this machine has, widest first.
    pub fn available() -> Vec<Simd> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                found.push(Simd(Level::Avx512));
            }
            if avx2 {
                found.push(Simd(Level::Avx2));
            }
        }
        found.push(Simd::portable());
        found
    }
}

/// Defines `fn name(simd: Simd, arguments…)` from a body generic over lanes `L`, compiled once for every instruction set.
///
/// Call `Lanes` methods in the body or in `#[inline(always)]` functions, never in a closure that another thread or a non-inlined
/// function runs: those are compiled without the features. To work in parallel, call the kernel from each task.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$lanes:ident>($($argument:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)] // kernels take their operands one by one
        $vis fn $name(simd: $crate::cpu::simd::Simd, $($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)] // the same
            fn generic<$lanes: $crate::cpu::simd::Lanes>($($argument: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)] // the same
            fn avx512($($argument: $type),*) $(-> $out)? {
                generic::<$crate::cpu::simd::Avx512>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)] // the same
            fn avx2($($argument: $type),*) $(-> $out)? {
                generic::<$crate::cpu::simd::Avx2>($($argument),*)
            }

            match simd.0 {
                $crate::cpu::simd::Level::Portable => generic::<$crate::cpu::simd::Portable>($($argument),*),
                // SAFETY: a `Simd` of this level exists only where the features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: the same.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
pub(super) use kernel;

#[cfg(test)]
mod tests {
    use super::*;

    kernel! {
        /// `values = exp(values)`.
        pub(super) fn exp_in_place<L>(values: &mut [f32]) {
            let mut chunks = values.chunks_exact_mut(LANES);
            for chunk in &mut chunks {
                L::load(chunk).exp().store(chunk);
            }
            let tail = chunks.into_remainder();
            L::load_tail(tail, 0.0).exp().store_tail(tail);
        }
    }

    fn exp(simd: Simd, x: f32) -> f32 {
        let mut v = [x];
        exp_in_place(simd, &mut v);
        v[0]
    }

    #[test]
    fn exp_is_within_two_ulp_and_the_same_on_every_instruction_set() {
        let inputs: Vec<f32> = (0..200_000).map(|i| -87.3 + 176.0 * (i as f32 / 200_000.0)).collect();
        let mut expected: Option<Vec<f32>> = None;
        for simd in Simd::available() {
            let mut values = inputs.clone();
            exp_in_place(simd, &mut values);
            for (&x, &y) in inputs.iter().zip(&values) {
                let exact = f64::from(x).exp();
                let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
                assert!((f64::from(y) - exact).abs() <= 2.0 * ulp, "{simd:?}: exp({x}) = {y}, not {exact}");
            }
            assert_eq!(expected.get_or_insert_with(|| values.clone()), &values, "{simd:?}");
        }
    }

    #[test]
    fn exp_answers_at_the_edges() {
        for simd in Simd::available() {
            assert_eq!(exp(simd, 0.0), 1.0);
            assert_eq!(exp(simd, f32::NEG_INFINITY), 0.0);
            assert_eq!(exp(simd, -1e30), 0.0);
            assert_eq!(exp(simd, -100.0), 0.0);
            assert_eq!(exp(simd, f32::INFINITY), f32::INFINITY);
            assert_eq!(exp(simd, 89.0), f32::INFINITY);
            assert!(exp(simd, f32::NAN).is_nan());
        }
    }

    kernel! {
        fn sum_and_max<L>(values: &[f32]) -> (f32, f32) {
            (L::load(values).sum(), L::load(values).max_lane())
        }
    }

    kernel! {
        fn transposed<L>(values: &[f32]) -> Vec<f32> {
            L::transpose(std::array::from_fn(|i| L::load(&values[16 * i..]))).into_iter().flat_map(L::to_array).collect()
        }
    }

    #[test]
    fn transposition_moves_every_lane_to_its_place() {
        let values: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let expected: Vec<f32> = (0..256).map(|i| (i % 16 * 16 + i / 16) as f32).collect();
        for simd in Simd::available() {
            assert_eq!(transposed(simd, &values), expected, "{simd:?}");
        }
    }

    #[test]
    fn lanes_are_summed_in_one_order_everywhere() {
        let values: Vec<f32> = (0..16).map(|i| ((i * 37 % 16) as f32).exp() * 0.1).collect();
        let portable = sum_and_max(Simd::portable(), &values);
        for simd in Simd::available() {
            assert_eq!(sum_and_max(simd, &values), portable, "{simd:?}");
        }
        assert_eq!(portable.1, values.iter().copied().fold(0.0, f32::max));
    }
}
