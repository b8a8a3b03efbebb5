// Functions of one number: every operation rounds as it is written, so that all kernels and the host agree on the bits.
#pragma once

#include "common/types.cuh"

// e^x within 2 ulp; 0 where the result would be subnormal, infinity above f32's range, NaN for NaN. The operations are those of `exp` in
// src/cpu/simd/mod.rs: 2^n · p(r) with n = round(x / ln 2), r = x − n ln 2 in two steps, p the Taylor polynomial of degree 7.
__device__ inline float exponential(float x) {
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
    float value = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
    value = x < -87.33f ? 0.0f : value;
    value = x > 88.72283f ? __uint_as_float(0x7F800000) : value;
    return x == x ? value : x;
}

// 1 / (1 + e^−x).
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
