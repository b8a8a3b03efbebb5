//! What this machine's CPUs do at best, all cores together: fused multiply-adds in registers, and the moving of memory.

use std::hint::black_box;
use std::time::{Duration, Instant};

use thyme_engine::cpu::simd::Simd;

use crate::clock::timed;

/// Sums in registers that do not wait for one another.
const SUMS: usize = 12;
/// Multiply-adds of a lane of each sum, for one measurement.
const TURNS: usize = 1 << 21;
/// Bytes that are moved at a time: powers of two, from what any cache holds to what none does.
const SIZES: std::ops::RangeInclusive<u32> = 16..=29;
/// Bytes that one measurement moves.
const MOVED: usize = 1 << 28;
/// Time for one kind of movement of so many bytes, and for multiply-adds.
const BUDGET: Duration = Duration::from_millis(40);
const FLOP_BUDGET: Duration = Duration::from_millis(500);

/// Per second.
pub struct Peaks {
    /// The instruction set that the CPU backend uses.
    pub instructions: String,
    /// Multiplications and additions of f32.
    pub flop: f64,
    /// For each of [`SIZES`].
    bytes: Vec<f64>,
}

impl Peaks {
    /// Takes a few seconds.
    pub fn measure() -> Peaks {
        let instructions = Instructions::detect();
        let multiply = || timed(|| rayon::broadcast(|_| instructions.multiply_add(TURNS)));
        let seconds = fastest_seconds(FLOP_BUDGET, multiply);
        let flop = (2 * SUMS * LANES * TURNS * rayon::current_num_threads()) as f64 / seconds;
        let bytes = SIZES.map(|power| moved_per_second(instructions, 1 << power)).collect();
        Peaks { instructions: format!("{instructions:?}"), flop, bytes }
    }

    /// Bytes a second of work that moves so many bytes, again and again the same: they may lie in a cache.
    pub fn bytes(&self, moved: f64) -> f64 {
        let place = (moved.max(1.0).log2() as usize).saturating_sub(*SIZES.start() as usize);
        self.bytes[place.min(self.bytes.len() - 1)]
    }
}

/// Of the fastest of the runs that fit the budget: others may use the machine meanwhile.
fn fastest_seconds(budget: Duration, mut once: impl FnMut() -> f64) -> f64 {
    let began = Instant::now();
    let mut fastest = once();
    while began.elapsed() < budget {
        fastest = fastest.min(once());
    }
    fastest
}

/// Moves `bytes` again and again, on all cores: the best of reading them, copying half as many, and changing half as many in place.
fn moved_per_second(instructions: Instructions, bytes: usize) -> f64 {
    let threads = rayon::current_num_threads();
    let words = bytes / threads / 8;
    let repeats = (MOVED / bytes).max(1);
    let mut memory: Vec<Vec<u64>> = (0..threads).map(|thread| vec![thread as u64; words]).collect();
    let mut rate = |work: &(dyn Fn(&mut [u64]) + Sync)| {
        let repeat = |part: &mut Vec<u64>| (0..repeats).for_each(|_| work(black_box(part)));
        let once = || timed(|| rayon::scope(|scope| memory.iter_mut().for_each(|part| scope.spawn(|_| repeat(part)))));
        (repeats * bytes) as f64 / fastest_seconds(BUDGET, once)
    };
    let read = rate(&|part| {
        black_box(instructions.read(part));
    });
    let copied = rate(&|part| {
        let (to, from) = part.split_at_mut(part.len() / 2);
        to.copy_from_slice(&from[..to.len()]);
    });
    let changed = rate(&|part| instructions.change(&mut part[..words / 2]));
    read.max(copied).max(changed)
}

/// Lanes of a sum.
const LANES: usize = 16;

/// What the CPU backend computes with.
#[derive(Clone, Copy, Debug)]
enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// A body compiled for each of them.
macro_rules! for_each_set {
    ($(#[$meta:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        fn $name(self, $($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($argument: $type),*) $(-> $out)? {
                body($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $out)? {
                body($($argument),*)
            }
            match self {
                // SAFETY: the backend found that this machine has them.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: the same.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => unsafe { avx2($($argument),*) },
                Instructions::Portable => body($($argument),*),
            }
        }
    };
}

impl Instructions {
    fn detect() -> Instructions {
        match format!("{:?}", Simd::detect()).as_str() {
            #[cfg(target_arch = "x86_64")]
            set if set.contains("Avx512") => Instructions::Avx512,
            #[cfg(target_arch = "x86_64")]
            set if set.contains("Avx2") => Instructions::Avx2,
            _ => Instructions::Portable,
        }
    }

    /// So many fused multiply-adds of each lane of [`SUMS`] sums in registers.
    fn multiply_add(self, turns: usize) -> f32 {
        match self {
            // SAFETY: the backend found that this machine has them.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { x86::avx512(turns) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { x86::avx2(turns) },
            Instructions::Portable => {
                let mut sums = [[1f32; LANES]; SUMS];
                let (factor, term) = black_box((0.999f32, 0.001f32));
                for _ in 0..turns {
                    sums.iter_mut().flatten().for_each(|sum| *sum = sum.mul_add(factor, term));
                }
                sums.iter().flatten().sum()
            }
        }
    }

    for_each_set! {
        /// Four streams hide more of the memory's latency than one.
        read(words: &[u64]) -> u64 {
            let [a, b, c, d] = std::array::from_fn(|i| &words[i * (words.len() / 4)..][..words.len() / 4]);
            (0..a.len()).fold(0, |sum: u64, i| {
                sum.wrapping_add(a[i]).wrapping_add(b[i]).wrapping_add(c[i]).wrapping_add(d[i])
            })
        }
    }

    for_each_set! {
        /// The same.
        change(words: &mut [u64]) {
            let quarter = words.len() / 4;
            let (a, rest) = words.split_at_mut(quarter);
            let (b, rest) = rest.split_at_mut(quarter);
            let (c, d) = rest.split_at_mut(quarter);
            for i in 0..quarter {
                a[i] = a[i].wrapping_add(1);
                b[i] = b[i].wrapping_add(1);
                c[i] = c[i].wrapping_add(1);
                d[i] = d[i].wrapping_add(1);
            }
        }
    }
}

/// What the compiler does not make of lanes by itself.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{LANES, SUMS};

    #[target_feature(enable = "avx512f")]
    pub fn avx512(turns: usize) -> f32 {
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        let (factor, term) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(turns: usize) -> f32 {
        let mut sums = [_mm256_set1_ps(1.0); SUMS];
        let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        for _ in 0..turns * LANES / 8 {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        sums.into_iter().map(|sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
    }
}
