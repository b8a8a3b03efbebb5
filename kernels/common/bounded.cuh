// Exact division and roots without their slow ways, for numbers that are known to be neither tiny nor huge: no branch stands between the elements of a
// vector, so that they are computed beside one another.
#pragma once

#include "common/math.cuh"

// A divisor d from 2^-100 to 2^120, with its reciprocal.
struct Divisor {
    float value, reciprocal;

    // The operations of nvcc's own division where nothing can overflow or vanish, so that the bits are those of 1 / d.
    __device__ explicit Divisor(float d) : value(d) {
#ifdef THYME_SIMT
        reciprocal = 1.0f / d;
#else
        float near;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(d));
        reciprocal = __fmaf_rn(near, __fmaf_rn(-d, near, 1.0f), near);
#endif
    }

    // x / d to the bit, where the quotient is at least 2^-110 and |x| at least 2^-100 and at most 2^100.
    __device__ float divide(float x) const {
#ifdef THYME_SIMT
        return x / value;
#else
        float near = x * reciprocal;
        return __fmaf_rn(reciprocal, __fmaf_rn(-value, near, x), near);
#endif
    }
};

// √x to the bit, for x from 2^-100 to 2^120: nvcc's own operations, as above.
__device__ inline float bounded_root(float x) {
#ifdef THYME_SIMT
    return sqrtf(x);
#else
    float inverse;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    float near = x * inverse;
    return __fmaf_rn(__fmaf_rn(-near, near, x), inverse * 0.5f, near);
#endif
}

// Whether each |x| is at most `limit` and not tiny either.
template <int V>
__device__ inline bool are_bounded(const Packed<V>& x, float limit) {
    float least = fabsf(x.number(0)), most = least;
#pragma unroll
    for (int j = 1; j < V; ++j) {
        least = fminf(least, fabsf(x.number(j)));
        most = fmaxf(most, fabsf(x.number(j)));
    }
    return least >= 0x1p-60f && most <= limit;
}

// 1 + e^−x where |x| <= 80.
__device__ inline Divisor logistic_divisor(float x) { return Divisor(1.0f + exponential_within(-x)); }
