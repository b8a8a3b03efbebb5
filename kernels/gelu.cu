// y = x Φ(x) and its gradient, in two forms; formulas in src/ops/gelu.rs. Rows of D elements (blockIdx.x).
#include "common/bounded.cuh"
#include "common/elementwise.cuh"

// c[0] + c[1] x + …
template <int N>
__device__ inline float polynomial(const float (&c)[N], float x) {
    float sum = c[N - 1];
#pragma unroll
    for (int i = N - 2; i >= 0; --i) sum = __fmaf_rn(sum, x, c[i]);
    return sum;
}

// The normal distribution: Φ(x) within 1e-7, and exp(−x² / 2).
struct Normal {
    float phi, density;
};

// The largest |x| that is bounded, for exp(−x² / 2) and for exp(−1.702 x).
constexpr float ERF_BOUND = 13.0f, QUICK_BOUND = 47.0f;

// The series and the fit of `normal` in src/cpu/gelu.rs, which says where they come from: erf(z) with z = |x| / √2 up to z = 1, and
// beyond it exp(−z²) P(1 / (1 + z/2)) for erfc(z).
template <bool IS_BOUNDED>
__device__ inline Normal normal(float x) {
    constexpr float SERIES[] = {1.12837917f,   -0.3761264f,    0.11283792f,   -0.02686617f,  0.005223978f,
                                -0.0008548327f, 0.00012055333f, -1.4925651e-5f, 1.6462114e-6f, -1.6365845e-7f};
    constexpr float FIT[] = {0.00034487314f, 0.27693513f, 0.3135367f, 0.14880937f, 0.33126155f, 0.0010594332f, -0.07289935f};
    float square = x * x * 0.5f, z = fabsf(x) * 0.707106781f, divisor = __fmaf_rn(z, 0.5f, 1.0f);
    float density = IS_BOUNDED ? exponential_within(-square) : exponential(-square);
    float near = polynomial(SERIES, square) * z;
    float far = polynomial(FIT, IS_BOUNDED ? Divisor(divisor).reciprocal : 1.0f / divisor) * density;
    // Half of erfc(z), the smaller side of Φ.
    float tail = (z < 1.0f ? 1.0f - near : far) * 0.5f;
    return {x < 0.0f ? tail : 1.0f - tail, density};
}

constexpr float QUICK = 1.702f;

template <bool IS_ERF, bool IS_BOUNDED>
__device__ inline float gelu(float x) {
    if constexpr (IS_ERF) return x * normal<IS_BOUNDED>(x).phi;
    if constexpr (IS_BOUNDED) return logistic_divisor(QUICK * x).divide(x);
    return x / (1.0f + exponential(-QUICK * x));
}

template <bool IS_ERF, bool IS_BOUNDED>
__device__ inline float gelu_slope(float x) {
    if constexpr (IS_ERF) {
        Normal at = normal<IS_BOUNDED>(x);
        return __fmaf_rn(x * at.density, 0.398942280f, at.phi);  // 1 / √(2π)
    }
    float sigma = IS_BOUNDED ? logistic_divisor(QUICK * x).reciprocal : sigmoid(QUICK * x);
    return __fmaf_rn(QUICK * x * sigma, 1.0f - sigma, sigma);
}

// Calls visit(Width<is_erf>{}, Width<is_bounded>{}), truths as types.
template <int V, class Visit>
__device__ inline void with_form(const Packed<V>& x, bool is_erf, Visit visit) {
    bool is_bounded = are_bounded(x, is_erf ? ERF_BOUND : QUICK_BOUND);
    if (is_erf) {
        is_bounded ? visit(Width<true>{}, Width<true>{}) : visit(Width<true>{}, Width<false>{});
    } else {
        is_bounded ? visit(Width<false>{}, Width<true>{}) : visit(Width<false>{}, Width<false>{});
    }
}

// hot
// x, y bf16 [T, D]; is_erf: the form.
extern "C" __global__ void __launch_bounds__(PIECE_THREADS) gelu_forward(const bf16* x, bf16* y, int is_erf, int dim) {
    size_t row = size_t(blockIdx.x) * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        auto values = Packed<V>::load(x + row + i);
        with_form(values, is_erf, [&](auto erf, auto bounded) {
            Packed<V>::made([&](int j) {
                return gelu<decltype(erf)::value, decltype(bounded)::value>(values.number(j));
            }).store(y + row + i);
        });
    });
}

// hot
// dy, x, dx bf16 [T, D]; is_erf: the form.
extern "C" __global__ void __launch_bounds__(PIECE_THREADS)
    gelu_backward(const bf16* dy, const bf16* x, bf16* dx, int is_erf, int dim) {
    size_t row = size_t(blockIdx.x) * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        auto d = Packed<V>::load(dy + row + i), values = Packed<V>::load(x + row + i);
        with_form(values, is_erf, [&](auto erf, auto bounded) {
            Packed<V>::made([&](int j) {
                return d.number(j) * gelu_slope<decltype(erf)::value, decltype(bounded)::value>(values.number(j));
            }).store(dx + row + i);
        });
    });
}
