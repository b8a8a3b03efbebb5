//! Sixteen f32 lanes on AVX-512, AVX2 or plain arrays, with the same bits on each: all of them round once per operation, fuse only where
//! `mul_add` says so, and add lanes in one order.
//!
//! A kernel is written once with `kernel!`, generic over `Lanes`; its caller passes the [`Simd`] that [`super::Cpu`] detected.

use half::bf16;

/// Lanes in a vector, on every machine.
pub const LANES: usize = 16;

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

/// Sixteen f32. The implementations are instantiated by `kernel!` alone, inside functions compiled for the instruction set.
pub(super) trait Lanes: Copy {
    /// Rows of the matrix micro-kernel.
    const TILE_ROWS: usize;
    /// Vectors to a row of the matrix micro-kernel: its accumulators fill the registers.
    const TILE_VECTORS: usize;
    /// All lanes `x`.
    fn splat(x: f32) -> Self;
    /// Reads 16 values. Safety: `from` is readable for 16.
    unsafe fn load_pointer(from: *const f32) -> Self;
    /// Writes 16 values. Safety: `to` is writable for 16.
    unsafe fn store_pointer(self, to: *mut f32);
    /// Reads 16 bf16. Safety: `from` is readable for 16.
    unsafe fn load_bf16_pointer(from: *const bf16) -> Self;
    /// Asks for the cache line at `from`, which need not be readable.
    #[inline(always)]
    fn prefetch(_from: *const f32) {}
    /// `self · a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self − other`.
    fn sub(self, other: Self) -> Self;
    /// `self · other`.
    fn mul(self, other: Self) -> Self;
    /// `self / other`.
    fn div(self, other: Self) -> Self;
    /// The larger; `other` where either is NaN or both are zeros.
    fn max(self, other: Self) -> Self;
    /// Where `self < bound`, `yes`, else `no` (also for NaN).
    fn select_less(self, bound: Self, yes: Self, no: Self) -> Self;
    /// Adds the low 9 bits of `n`'s representation to the exponent field.
    fn add_exponent(self, n: Self) -> Self;

    /// Lane `i` of vector `j` to lane `j` of vector `i`.
    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let rows = rows.map(Self::to_array);
        std::array::from_fn(|i| Self::load(&std::array::from_fn::<f32, LANES, _>(|j| rows[j][i])))
    }

    /// Element `i` of row `j` to element `j` of row `i`, for 16 rows; rows are a stride apart. Safety: 16 rows of 16 are readable, and
    /// writable.
    #[inline(always)]
    unsafe fn transpose_bf16(from: *const bf16, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut rows = [Self::splat(0.0); LANES];
            unroll!(i < LANES => { rows[i] = Self::load_bf16_pointer(from.wrapping_add(i * from_stride)); });
            let rows = Self::transpose(rows);
            unroll!(i < LANES => { rows[i].store_pointer(to.wrapping_add(i * to_stride)); });
        }
    }

    /// The first 16 of `from`.
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        assert!(from.len() >= LANES);
        // SAFETY: just checked.
        unsafe { Self::load_pointer(from.as_ptr()) }
    }

    /// The first 16 of `from`.
    #[inline(always)]
    fn load_bf16(from: &[bf16]) -> Self {
        assert!(from.len() >= LANES);
        // SAFETY: just checked.
        unsafe { Self::load_bf16_pointer(from.as_ptr()) }
    }

    /// Into the first 16 of `to`.
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        assert!(to.len() >= LANES);
        // SAFETY: just checked.
        unsafe { self.store_pointer(to.as_mut_ptr()) }
    }

    /// At most 16 values; the other lanes are `rest`.
    #[inline(always)]
    fn load_tail(from: &[f32], rest: f32) -> Self {
        let mut values = [rest; LANES];
        let count = from.len().min(LANES);
        values[..count].copy_from_slice(&from[..count]);
        Self::load(&values)
    }

    /// At most 16 bf16; the other lanes are 0.
    #[inline(always)]
    fn load_bf16_tail(from: &[bf16]) -> Self {
        let mut values = [bf16::ZERO; LANES];
        let count = from.len().min(LANES);
        values[..count].copy_from_slice(&from[..count]);
        Self::load_bf16(&values)
    }

    /// Into the at most 16 values of `to`.
    #[inline(always)]
    fn store_tail(self, to: &mut [f32]) {
        let values = self.to_array();
        let count = to.len().min(LANES);
        to[..count].copy_from_slice(&values[..count]);
    }

    /// The lanes in order.
    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        self.store(&mut values);
        values
    }

    /// Sum of the lanes: lane `i` and `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut v = self.to_array();
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }

    /// The largest lane.
    #[inline(always)]
    fn max_lane(self) -> f32 {
        let mut v = self.to_array();
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = if v[i] > v[i + half] { v[i] } else { v[i + half] };
            }
        }
        v[0]
    }

    /// `e^self` within 2 ulp; 0 where the result would be subnormal, infinity above f32's range, NaN for NaN.
    ///
    /// `2^n · p(r)` with `n = round(x / ln 2)`, `r = x − n ln 2` in two steps, `p` the Taylor polynomial of degree 7 (its remainder at
    /// `|r| ≤ ln 2 / 2` is below 2^-27).
    #[inline(always)]
    fn exp(self) -> Self {
        // Adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits.
        let magic = Self::splat(12_582_912.0);
        let shifted = self.mul_add(Self::splat(std::f32::consts::LOG2_E), magic);
        let n = shifted.sub(magic);
        let r = n.mul_add(Self::splat(-0.693_359_4), self);
        let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
        let p = Self::splat(1.0 / 5040.0);
        let p = p.mul_add(r, Self::splat(1.0 / 720.0));
        let p = p.mul_add(r, Self::splat(1.0 / 120.0));
        let p = p.mul_add(r, Self::splat(1.0 / 24.0));
        let p = p.mul_add(r, Self::splat(1.0 / 6.0));
        let p = p.mul_add(r, Self::splat(0.5));
        let p = p.mul_add(r, Self::splat(1.0));
        let p = p.mul_add(r, Self::splat(1.0));
        let value = p.add_exponent(shifted);
        let value = self.select_less(Self::splat(-87.33), Self::splat(0.0), value);
        let value = Self::splat(88.722_83).select_less(self, Self::splat(f32::INFINITY), value);
        // A NaN may have lost itself in the exponent arithmetic: x − x is 0 or NaN, except at the infinities, already answered above.
        let finite = Self::splat(f32::NEG_INFINITY).select_less(self, Self::splat(1.0), Self::splat(0.0));
        let below = self.select_less(Self::splat(f32::INFINITY), Self::splat(1.0), finite);
        Self::splat(0.5).select_less(below, value, self)
    }
}

/// Runs the body for `i` = 0 to 15 as far as below the constant bound, written out: arrays of lanes stay in registers only if their
/// indices are literals before the optimiser's loops.
macro_rules! unroll {
    ($i:ident < $bound:expr => $body:block) => {
        $crate::cpu::simd::unroll!(@each $i, $bound, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@each $i:ident, $bound:expr, $body:block, $($value:literal)*) => {
        $({
            let $i: usize = $value;
            if $i < $bound $body
        })*
    };
}
pub(super) use unroll;

/// The portable lanes.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Portable([x; LANES])
    }
    #[inline(always)]
    unsafe fn load_pointer(from: *const f32) -> Self {
        // SAFETY: the caller's; an array of f32 is aligned as f32.
        Portable(unsafe { *from.cast() })
    }
    #[inline(always)]
    unsafe fn store_pointer(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { *to.cast() = self.0 }
    }
    #[inline(always)]
    unsafe fn load_bf16_pointer(from: *const bf16) -> Self {
        // SAFETY: the caller's.
        let values: [bf16; LANES] = unsafe { *from.cast() };
        Portable(values.map(bf16::to_f32))
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(a.0[i], b.0[i])))
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, bound: Self, yes: Self, no: Self) -> Self {
        Portable(std::array::from_fn(|i| if self.0[i] < bound.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn add_exponent(self, n: Self) -> Self {
        self.zip(n, |a, n| f32::from_bits(a.to_bits().wrapping_add(n.to_bits() << 23)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86;

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
