// LayerNorm with the residual addition before it; formulas in src/ops/layer_norm.rs. T tokens, D width. A block has a row (blockIdx.x).
#include "common/row.cuh"

constexpr int forward_bytes(int dim, bool adds) { return row_bytes(dim) * (adds ? 4 : 3); }
constexpr int backward_bytes(int dim, bool has_residual) { return row_bytes(dim) * (has_residual ? 4 : 3); }

// x, add (with ADDS), sum, y bf16 [D] of one row; w, b bf16 [D].
template <int V, bool ADDS>
__device__ inline void normalise_row(const bf16* x, const bf16* add, const bf16* w, const bf16* b, bf16* sum, bf16* y, float* mean,
                                     float* rstd, float epsilon, int dim) {
    bf16 *h = shared_row(0, dim), *weight = shared_row(1, dim), *bias = shared_row(2, dim), *other = shared_row(3, dim);
    fetch_row<V>(h, x, dim);
    if constexpr (ADDS) fetch_row<V>(other, add, dim);
    fetch_row<V>(weight, w, dim);
    fetch_row<V>(bias, b, dim);
    wait_for_rows();
    if constexpr (ADDS) add_rows<V>(h, other, sum, dim);
    __syncthreads();

    float total = 0.0f, squares = 0.0f;
    for_lane_vectors<V>(dim, [&](int i) {
        auto own = Packed<V>::load(h + i);
#pragma unroll
        for (int j = 0; j < V; ++j) total += own.number(j);
    });
    float centre = warp_sum(total) / dim;
    for_lane_vectors<V>(dim, [&](int i) {
        auto own = Packed<V>::load(h + i);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            float n = own.number(j) - centre;
            squares = __fmaf_rn(n, n, squares);
        }
    });
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + epsilon);
    if (threadIdx.x == 0) {
        *mean = centre;
        *rstd = scale;
    }

    for_own_vectors<V>(dim, [&](int i) {
        auto own = Packed<V>::load(h + i), factor = Packed<V>::load(weight + i), term = Packed<V>::load(bias + i);
        Packed<V>::made([&](int j) {
            return __fmaf_rn((own.number(j) - centre) * scale, factor.number(j), term.number(j));
        }).store(y + i);
    });
}

// hot
// x, add (optional), sum, y bf16 [T, D]; w, b bf16 [D]; mean, rstd f32 [T]. Without `add`, `sum` is null and h is x.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    layer_norm_forward(const bf16* x, const bf16* add, const bf16* w, const bf16* b, bf16* sum, bf16* y, float* mean, float* rstd,
                       float epsilon, int dim) {
    size_t row = blockIdx.x, at = row * dim;
    with_row_width(dim, [&](auto width) {
        constexpr int V = decltype(width)::value;
        if (add != nullptr) {
            normalise_row<V, true>(x + at, add + at, w, b, sum + at, y + at, mean + row, rstd + row, epsilon, dim);
        } else {
            normalise_row<V, false>(x + at, nullptr, w, b, nullptr, y + at, mean + row, rstd + row, epsilon, dim);
        }
    });
}

// dy, h, dresidual (with HAS_RESIDUAL), dh bf16 [D] of one row.
template <int V, bool HAS_RESIDUAL>
__device__ inline void gradient_row(const bf16* dy, const bf16* dresidual, const bf16* h, const bf16* w, float mean, float rstd, bf16* dh,
                                    int dim) {
    bf16 *gradients = shared_row(0, dim), *values = shared_row(1, dim), *weight = shared_row(2, dim), *residual = shared_row(3, dim);
    fetch_row<V>(gradients, dy, dim);
    fetch_row<V>(values, h, dim);
    if constexpr (HAS_RESIDUAL) fetch_row<V>(residual, dresidual, dim);
    fetch_row<V>(weight, w, dim);
    wait_for_rows();
    __syncthreads();

    float total = 0.0f, products = 0.0f;
    for_lane_vectors<V>(dim, [&](int i) {
        auto d = Packed<V>::load(gradients + i), own = Packed<V>::load(values + i), factor = Packed<V>::load(weight + i);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            float g = d.number(j) * factor.number(j);
            total += g;
            products = __fmaf_rn(g, (own.number(j) - mean) * rstd, products);
        }
    });
    float mean_g = warp_sum(total) / dim, mean_gn = warp_sum(products) / dim;

    for_own_vectors<V>(dim, [&](int i) {
        auto d = Packed<V>::load(gradients + i), own = Packed<V>::load(values + i), factor = Packed<V>::load(weight + i);
        Packed<V> before{};
        if constexpr (HAS_RESIDUAL) before = Packed<V>::load(residual + i);
        Packed<V>::made([&](int j) {
            float g = d.number(j) * factor.number(j), n = (own.number(j) - mean) * rstd;
            return __fmaf_rn(rstd, g - mean_g - n * mean_gn, before.number(j));
        }).store(dh + i);
    });
}

// hot
// dy, h, dresidual (optional), dh bf16 [T, D]; w bf16 [D]; mean, rstd f32 [T].
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    layer_norm_backward(const bf16* dy, const bf16* dresidual, const bf16* h, const bf16* w, const float* mean, const float* rstd, bf16* dh,
                        int dim) {
    size_t row = blockIdx.x, at = row * dim;
    with_row_width(dim, [&](auto width) {
        constexpr int V = decltype(width)::value;
        if (dresidual != nullptr) {
            gradient_row<V, true>(dy + at, dresidual + at, h + at, w, mean[row], rstd[row], dh + at, dim);
        } else {
            gradient_row<V, false>(dy + at, nullptr, h + at, w, mean[row], rstd[row], dh + at, dim);
        }
    });
}

// hot
// partial[part, d] = Σ dy · (h − mean) · rstd over the part's PARTIAL_ROWS rows, blockIdx.y the part. db is a sum of
// dy's columns like that of linear, which has the kernels for it.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    layer_norm_backward_weight_partial(const bf16* dy, const bf16* h, const float* mean, const float* rstd, float* partial, int rows, int dim) {
    sum_part(partial, rows, dim, dim, [&](auto width, int row, int column, float* sums) {
        constexpr int V = decltype(width)::value;
        size_t at = size_t(row) * dim + column;
        Vector<bf16, V> g = load<V>(dy + at), own = load<V>(h + at);
        float centre = mean[row], scale = rstd[row];
#pragma unroll
        for (int j = 0; j < V; ++j) sums[j] = __fmaf_rn(to_float(g.at[j]), (to_float(own.at[j]) - centre) * scale, sums[j]);
    });
}

// dw[d] += Σ partial[part, d].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    layer_norm_backward_weight(const float* partial, float* dw, int parts, int dim) {
    add_partial_rows(partial, dw, parts, dim);
}
