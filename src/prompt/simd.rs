//! The two SIMD operations of `resize.rs` that compilers do not find by themselves: for x86-64, and in plain code.

pub use implementation::{interleave, multiply_add};

/// 16-bit samples that one multiplication takes; taps are padded with zeros to a multiple of this.
pub const LANES: usize = 8;
/// Interleaved columns that the vertical pass sums at once.
pub const COLUMNS: usize = 16;

#[cfg(target_arch = "x86_64")]
mod implementation {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_madd_epi16, _mm_setzero_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
    };

    use bytemuck::cast;

    use crate::prompt::simd::{COLUMNS, LANES};

    /// `sums[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1]`, wrapping.
    #[inline(always)]
    pub fn multiply_add(sums: [i32; 4], a: [i16; LANES], b: [i16; LANES]) -> [i32; 4] {
        // SAFETY: needs SSE2 only, which is part of every x86-64.
        unsafe { cast(_mm_add_epi32(cast(sums), _mm_madd_epi16(cast(a), cast(b)))) }
    }

    /// `a[0], b[0], a[1], b[1], ...` widened to 16 bits.
    #[inline(always)]
    pub fn interleave(a: [u8; COLUMNS], b: [u8; COLUMNS]) -> [[i16; LANES]; COLUMNS / 4] {
        let (a, b): (__m128i, __m128i) = (cast(a), cast(b));
        // SAFETY: needs SSE2 only, which is part of every x86-64.
        let quarters = unsafe {
            let (low, high, zero) = (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b), _mm_setzero_si128());
            [
                _mm_unpacklo_epi8(low, zero),
                _mm_unpackhi_epi8(low, zero),
                _mm_unpacklo_epi8(high, zero),
                _mm_unpackhi_epi8(high, zero),
            ]
        };
        cast(quarters)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod implementation {
    use crate::prompt::simd::{COLUMNS, LANES};

    /// `sums[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1]`, wrapping.
    pub fn multiply_add(sums: [i32; 4], a: [i16; LANES], b: [i16; LANES]) -> [i32; 4] {
        let product = |lane: usize| i32::from(a[lane]) * i32::from(b[lane]);
        std::array::from_fn(|lane| sums[lane].wrapping_add(product(2 * lane)).wrapping_add(product(2 * lane + 1)))
    }

    /// `a[0], b[0], a[1], b[1], ...` widened to 16 bits.
    pub fn interleave(a: [u8; COLUMNS], b: [u8; COLUMNS]) -> [[i16; LANES]; COLUMNS / 4] {
        std::array::from_fn(|block| {
            std::array::from_fn(|lane| i16::from(if lane % 2 == 0 { a } else { b }[block * 4 + lane / 2]))
        })
    }
}
