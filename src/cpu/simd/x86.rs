//! AVX-512 and AVX2.
//!
//! Safety of every block here: `kernel!`(super::kernel) reaches these methods only from functions compiled with the features, which
//! run only where `Simd::available` found them; pointers are the caller's duty.

use std::arch::x86_64::*;

use half::bf16;

use super::lanes::{LANES, Lanes, unroll};

/// One zmm register.
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

impl Lanes for Avx512 {
    const TILE_ROWS: usize = 12;
    const TILE_VECTORS: usize = 2;
    #[inline(always)]
    fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Avx512(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load_pointer(from: *const f32) -> Self {
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store_pointer(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pointer(from: *const bf16) -> Self {
        Avx512(unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        })
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Avx512(unsafe { _mm512_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn select_less(self, bound: Self, yes: Self, no: Self) -> Self {
        Avx512(unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0), no.0, yes.0) })
    }
    #[inline(always)]
    fn add_exponent(self, n: Self) -> Self {
        Avx512(unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(n.0));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), n))
        })
    }
    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        // Pairs of rows, then fours, within 128-bit quarters: `fours[4 g + j]` holds, in quarter `l`, column `4 l + j` of rows
        // `4 g..4 g + 4`. Then the quarters change places.
        let mut pairs = rows;
        let mut fours = rows;
        let mut out = rows;
        unsafe {
            unroll!(i < 8 => {
                pairs[2 * i].0 = _mm512_unpacklo_ps(rows[2 * i].0, rows[2 * i + 1].0);
                pairs[2 * i + 1].0 = _mm512_unpackhi_ps(rows[2 * i].0, rows[2 * i + 1].0);
            });
            unroll!(i < 8 => {
                let (g, j) = (i / 2 * 4, i % 2);
                let (a, b) = (_mm512_castps_pd(pairs[g + j].0), _mm512_castps_pd(pairs[g + j + 2].0));
                fours[g + 2 * j].0 = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[g + 2 * j + 1].0 = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            });
            unroll!(j < 4 => {
                let (a, b, c, d) = (fours[j].0, fours[4 + j].0, fours[8 + j].0, fours[12 + j].0);
                let (even, even_after) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                let (odd, odd_after) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                out[j].0 = _mm512_shuffle_f32x4::<0x88>(even, even_after);
                out[4 + j].0 = _mm512_shuffle_f32x4::<0x88>(odd, odd_after);
                out[8 + j].0 = _mm512_shuffle_f32x4::<0xdd>(even, even_after);
                out[12 + j].0 = _mm512_shuffle_f32x4::<0xdd>(odd, odd_after);
            });
        }
        out
    }
    #[inline(always)]
    fn store_tail(self, to: &mut [f32]) {
        let mask = if to.len() >= LANES { 0xffff } else { (1u16 << to.len()) - 1 };
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, self.0) }
    }
    #[inline(always)]
    fn load_tail(from: &[f32], rest: f32) -> Self {
        let mask = if from.len() >= LANES { 0xffff } else { (1u16 << from.len()) - 1 };
        Avx512(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(rest), mask, from.as_ptr()) })
    }
}

/// An 8×8 transposition: pairs of rows, then fours, within 128-bit halves; then the halves change places.
#[inline(always)]
fn transpose_8(rows: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = rows;
    let mut fours = rows;
    let mut out = rows;
    unsafe {
        unroll!(i < 4 => {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        });
        unroll!(i < 4 => {
            let (g, j) = (i / 2 * 4, i % 2);
            fours[g + 2 * j] = _mm256_shuffle_ps::<0x44>(pairs[g + j], pairs[g + j + 2]);
            fours[g + 2 * j + 1] = _mm256_shuffle_ps::<0xee>(pairs[g + j], pairs[g + j + 2]);
        });
        unroll!(j < 4 => {
            out[j] = _mm256_permute2f128_ps::<0x20>(fours[j], fours[4 + j]);
            out[4 + j] = _mm256_permute2f128_ps::<0x31>(fours[j], fours[4 + j]);
        });
    }
    out
}

/// Eight bf16 as f32.
#[inline(always)]
unsafe fn widen(from: *const bf16) -> __m256 {
    unsafe {
        let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
    }
}

/// All bits set in the first `count` of 16 lanes.
#[inline(always)]
fn tail_masks(count: usize) -> (__m256i, __m256i) {
    unsafe {
        let count = _mm256_set1_epi32(count as i32);
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let later = _mm256_add_epi32(lanes, _mm256_set1_epi32(8));
        (_mm256_cmpgt_epi32(count, lanes), _mm256_cmpgt_epi32(count, later))
    }
}

/// Two ymm registers.
#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

impl Lanes for Avx2 {
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 1;
    #[inline(always)]
    fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        let v = unsafe { _mm256_set1_ps(x) };
        Avx2(v, v)
    }
    #[inline(always)]
    unsafe fn load_pointer(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store_pointer(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pointer(from: *const bf16) -> Self {
        unsafe { Avx2(widen(from), widen(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn transpose_bf16(from: *const bf16, from_stride: usize, to: *mut f32, to_stride: usize) {
        // By quarters: the whole would not fit the registers.
        for (row, col) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            let (from, to) = (from.wrapping_add(row * from_stride + col), to.wrapping_add(col * to_stride + row));
            unsafe {
                let mut rows = [_mm256_setzero_ps(); 8];
                unroll!(i < 8 => { rows[i] = widen(from.wrapping_add(i * from_stride)); });
                let rows = transpose_8(rows);
                unroll!(i < 8 => { _mm256_storeu_ps(to.wrapping_add(i * to_stride), rows[i]); });
            }
        }
    }
    #[inline(always)]
    fn store_tail(self, to: &mut [f32]) {
        if to.len() >= LANES {
            return self.store(to);
        }
        let (low, high) = tail_masks(to.len());
        unsafe {
            _mm256_maskstore_ps(to.as_mut_ptr(), low, self.0);
            _mm256_maskstore_ps(to.as_mut_ptr().wrapping_add(8), high, self.1);
        }
    }
    #[inline(always)]
    fn load_tail(from: &[f32], rest: f32) -> Self {
        if from.len() >= LANES {
            return Self::load(from);
        }
        let (low, high) = tail_masks(from.len());
        unsafe {
            let rest = _mm256_set1_ps(rest);
            let first = _mm256_maskload_ps(from.as_ptr(), low);
            let second = _mm256_maskload_ps(from.as_ptr().wrapping_add(8), high);
            Avx2(
                _mm256_blendv_ps(rest, first, _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(rest, second, _mm256_castsi256_ps(high)),
            )
        }
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { Avx2(_mm256_fmadd_ps(self.0, a.0, b.0), _mm256_fmadd_ps(self.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn select_less(self, bound: Self, yes: Self, no: Self) -> Self {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, bound.1);
            Avx2(_mm256_blendv_ps(no.0, yes.0, low), _mm256_blendv_ps(no.1, yes.1, high))
        }
    }
    #[inline(always)]
    fn add_exponent(self, n: Self) -> Self {
        unsafe {
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(n.0));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(n.1));
            Avx2(
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), low)),
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.1), high)),
            )
        }
    }
    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        let quarter = |first: usize, part: fn(Avx2) -> __m256| std::array::from_fn(|i| part(rows[first + i]));
        let (low, high) = (|v: Avx2| v.0, |v: Avx2| v.1);
        let (upper_left, lower_left) = (transpose_8(quarter(0, low)), transpose_8(quarter(8, low)));
        let (upper_right, lower_right) = (transpose_8(quarter(0, high)), transpose_8(quarter(8, high)));
        let mut out = rows;
        unroll!(i < 8 => {
            out[i] = Avx2(upper_left[i], lower_left[i]);
            out[8 + i] = Avx2(upper_right[i], lower_right[i]);
        });
        out
    }
}
