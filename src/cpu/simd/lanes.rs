//! What sixteen f32 can do, whatever holds them.

use half::bf16;

/// Lanes in a vector, on every machine.
pub const LANES: usize = 16;

/// Runs the body for `i` = 0 to 15 as far as below the constant bound, written out: arrays of lanes stay in registers only if their
/// indices are literals before the optimiser's loops.
macro_rules! unroll {
    ($i:ident < $bound:expr => $body:block) => {
        $crate::cpu::simd::lanes::unroll!(@each $i, $bound, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@each $i:ident, $bound:expr, $body:block, $($value:literal)*) => {
        $({
            let $i: usize = $value;
            if $i < $bound $body
        })*
    };
}
pub(crate) use unroll;

/// Sixteen f32. The implementations are instantiated by `kernel!` alone, inside functions compiled for the instruction set.
pub trait Lanes: Copy {
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
