// RMSNorm with the residual addition before it; formulas in src/ops/rms_norm.rs. T tokens, D width. A block has a row (blockIdx.x).
#include "common/row.cuh"

constexpr int forward_bytes(int dim, bool adds) { return row_bytes(dim) * (adds ? 3 : 2); }
constexpr int backward_bytes(int dim, bool has_residual) { return row_bytes(dim) * (has_residual ? 4 : 3); }

// One row: x, add (with ADDS), sum, y, w bf16 [D].
template <int V, bool ADDS>
__device__ inline void normalise_row(const bf16* x, const bf16* add, const bf16* w, bf16* sum, bf16* y, float* rstd, float epsilon,
                                     int dim) {
    bf16 *h = shared_row(0, dim), *weight = shared_row(1, dim), *other = shared_row(2, dim);
    fetch_row<V>(h, x, dim);
    if constexpr (ADDS) fetch_row<V>(other, add, dim);
    fetch_row<V>(weight, w, dim);
    wait_for_rows();
    if constexpr (ADDS) add_rows<V>(h, other, sum, dim);
    __syncthreads();

    float squares = 0.0f;
    for_lane_vectors<V>(dim, [&](int i) {
        auto own = Packed<V>::load(h + i);
#pragma unroll
        for (int j = 0; j < V; ++j) squares = __fmaf_rn(own.number(j), own.number(j), squares);
    });
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + epsilon);
    if (threadIdx.x == 0) *rstd = scale;

    for_own_vectors<V>(dim, [&](int i) {
        auto own = Packed<V>::load(h + i), factor = Packed<V>::load(weight + i);
        Packed<V>::made([&](int j) { return own.number(j) * scale * factor.number(j); }).store(y + i);
    });
}

// hot
// x, add (optional), sum, y bf16 [T, D]; w bf16 [D]; rstd f32 [T]. Without `add`, `sum` is null and h is x.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    rms_norm_forward(const bf16* x, const bf16* add, const bf16* w, bf16* sum, bf16* y, float* rstd, float epsilon, int dim) {
    size_t row = blockIdx.x, at = row * dim;
    with_row_width(dim, [&](auto width) {
        constexpr int V = decltype(width)::value;
        if (add != nullptr) {
            normalise_row<V, true>(x + at, add + at, w, sum + at, y + at, rstd + row, epsilon, dim);
        } else {
            normalise_row<V, false>(x + at, nullptr, w, nullptr, y + at, rstd + row, epsilon, dim);
        }
    });
}

// dy, h, dresidual (with HAS_RESIDUAL), dh bf16 [D] of one row.
template <int V, bool HAS_RESIDUAL>
__device__ inline void gradient_row(const bf16* dy, const bf16* dresidual, const bf16* h, const bf16* w, float rstd, bf16* dh, int dim) {
    bf16 *gradients = shared_row(0, dim), *values = shared_row(1, dim), *weight = shared_row(2, dim), *residual = shared_row(3, dim);
    fetch_row<V>(gradients, dy, dim);
    fetch_row<V>(values, h, dim);
    if constexpr (HAS_RESIDUAL) fetch_row<V>(residual, dresidual, dim);
    fetch_row<V>(weight, w, dim);
    wait_for_rows();
    __syncthreads();

    float products = 0.0f;
    for_lane_vectors<V>(dim, [&](int i) {
        auto g = Packed<V>::load(gradients + i), own = Packed<V>::load(values + i), factor = Packed<V>::load(weight + i);
#pragma unroll
        for (int j = 0; j < V; ++j) products = __fmaf_rn(g.number(j) * factor.number(j), own.number(j), products);
    });
    float mean = warp_sum(products) / dim * rstd * rstd;

    for_own_vectors<V>(dim, [&](int i) {
        auto g = Packed<V>::load(gradients + i), own = Packed<V>::load(values + i), factor = Packed<V>::load(weight + i);
        Packed<V> before{};
        if constexpr (HAS_RESIDUAL) before = Packed<V>::load(residual + i);
        Packed<V>::made([&](int j) {
            float inner = g.number(j) * factor.number(j) - own.number(j) * mean;
            return __fmaf_rn(rstd, inner, before.number(j));
        }).store(dh + i);
    });
}

// hot
// dy, h, dresidual (optional), dh bf16 [T, D]; w bf16 [D]; rstd f32 [T].
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    rms_norm_backward(const bf16* dy, const bf16* dresidual, const bf16* h, const bf16* w, const float* rstd, bf16* dh, int dim) {
    size_t row = blockIdx.x, at = row * dim;
    with_row_width(dim, [&](auto width) {
        constexpr int V = decltype(width)::value;
        if (dresidual != nullptr) {
            gradient_row<V, true>(dy + at, dresidual + at, h + at, w, rstd[row], dh + at, dim);
        } else {
            gradient_row<V, false>(dy + at, nullptr, h + at, w, rstd[row], dh + at, dim);
        }
    });
}

// hot
// partial[part, d] = Σ dy · h · rstd over the part's PARTIAL_ROWS rows, blockIdx.y the part.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    rms_norm_backward_weight_partial(const bf16* dy, const bf16* h, const float* rstd, float* partial, int rows, int dim) {
    sum_part(partial, rows, dim, dim, [&](auto width, int row, int column, float* sums) {
        constexpr int V = decltype(width)::value;
        size_t at = size_t(row) * dim + column;
        Vector<bf16, V> g = load<V>(dy + at), own = load<V>(h + at);
        float scale = rstd[row];
#pragma unroll
        for (int j = 0; j < V; ++j) sums[j] = __fmaf_rn(to_float(g.at[j]) * to_float(own.at[j]), scale, sums[j]);
    });
}

// dw[d] += Σ partial[part, d].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    rms_norm_backward_weight(const float* partial, float* dw, int parts, int dim) {
    add_partial_rows(partial, dw, parts, dim);
}
