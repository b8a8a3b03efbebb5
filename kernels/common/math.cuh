// Functions of one number: every operation rounds as it is written, so that all kernels and the host agree on the bits.
#pragma once

#include "common/types.cuh"

// e^x within 2 ulp, for x from -87 to 88. The operations are those of `exp` in src/cpu/simd/mod.rs: 2^n · p(r) with n = round(x / ln 2),
// r = x − n ln 2 in two steps, p the Taylor polynomial of degree 7.
__device__ inline float exponential_within(float x) {
    // Adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits.
    constexpr float MAGIC = 12582912.0f;
    float shifted = __fmaf_rn(x, 1.44269504f, MAGIC);
    float n = shifted - MAGIC;
    float r = __fmaf_rn(n, -0.6933594f, x);
    r = __fmaf_rn(n, 2.1219444e-4f, r);
    float p = 1.0f / 5040.0f;
    p = __fmaf_rn(p, r, 1.0f / 720.0f);
    p = __fmaf_rn(p, r, 1.0f / 120.0f);
    p = __fmaf_rn(p, r, 1.0f / 24.0f);
    p = __fmaf_rn(p, r, 1.0f / 6.0f);
    p = __fmaf_rn(p, r, 0.5f);
    p = __fmaf_rn(p, r, 1.0f);
    p = __fmaf_rn(p, r, 1.0f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

// e^x of any x with the same bits; 0 where the result would be subnormal, infinity above f32's range, NaN for NaN.
__device__ inline float exponential(float x) {
    float value = exponential_within(x);
    value = x < -87.33f ? 0.0f : value;
    value = x > 88.72283f ? __uint_as_float(0x7F800000) : value;
    return x == x ? value : x;
}

// 2^x within 2 ulp, by the special function unit: subnormal arguments and results are zeros. Its bits are the unit's own.
__device__ inline float exp2_approx(float x) {
#ifdef THYME_SIMT
    float value = std::exp2(x);
    return value < 0x1p-126f ? 0.0f : value;
#else
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
#endif
}

// 1 / (1 + e^−x).
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// cos x for 0 <= x <= 2 pi, within 2 ulp: x less the nearest multiple of pi / 2, then Taylor's polynomial of degree 18 or 19. The library's
// cos takes x of any size, and a stack frame for it.
__device__ inline double cosine(double x) {
    constexpr double HALF_PI = 0x1.921fb54442d18p+0, REST = 0x1.1a62633145c07p-54;
    double n = rint(x / HALF_PI);
    double r = __fma_rn(n, -REST, __fma_rn(n, -HALF_PI, x));
    bool is_odd = int(n) & 1;
    double p = 1.0;
    // 1 - r^2 / (k (k - 1)) (1 - ...), innermost first: even k give the cosine, odd k the sine over r.
#pragma unroll
    for (int k = 18; k > 0; k -= 2) p = __fma_rn(r * r * (is_odd ? -1.0 / (k * (k + 1)) : -1.0 / (k * (k - 1))), p, 1.0);
    double value = is_odd ? r * p : p;
    return (int(n) + 1) & 2 ? -value : value;
}
