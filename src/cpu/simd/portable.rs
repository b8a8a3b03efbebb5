//! Sixteen f32 in an array.

use half::bf16;

use super::lanes::{LANES, Lanes};

/// The portable lanes.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

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
