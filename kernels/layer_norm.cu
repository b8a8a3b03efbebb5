// LayerNorm with the residual addition before it; formulas in src/ops/layer_norm.rs. T tokens, D width. A warp has a row: lane l takes
// vectors l, l + 32, ... of it, so that a row's sums have one order, whatever the number of rows.
#include "common/reduce.cuh"

constexpr int ROWS_PER_BLOCK = 4;

// x, add, sum, y bf16 [D] of one row; w, b bf16 [D].
template <int V>
__device__ void normalise_row(const bf16* x, const bf16* add, const bf16* w, const bf16* b, bf16* sum, bf16* y, float* mean, float* rstd,
                              float epsilon, int dim) {
    int lane = threadIdx.x % WARP;
    float total = 0.0f;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> h = load<V>(x + i);
        if (add != nullptr) {
            Vector<bf16, V> other = load<V>(add + i);
            for (int j = 0; j < V; ++j) h.at[j] = to_bf16(to_float(h.at[j]) + to_float(other.at[j]));
            store<V>(sum + i, h);
        }
        for (int j = 0; j < V; ++j) total += to_float(h.at[j]);
    }
    float centre = warp_sum(total) / dim;

    // What this lane wrote it may read without a barrier.
    const bf16* h = add != nullptr ? sum : x;
    float squares = 0.0f;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> own = load<V>(h + i);
        for (int j = 0; j < V; ++j) {
            float n = to_float(own.at[j]) - centre;
            squares = __fmaf_rn(n, n, squares);
        }
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + epsilon);
    if (lane == 0) {
        *mean = centre;
        *rstd = scale;
    }

    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> out = load<V>(h + i), weight = load<V>(w + i), bias = load<V>(b + i);
        for (int j = 0; j < V; ++j) {
            float n = (to_float(out.at[j]) - centre) * scale;
            out.at[j] = to_bf16(__fmaf_rn(n, to_float(weight.at[j]), to_float(bias.at[j])));
        }
        store<V>(y + i, out);
    }
}

// hot
// x, add (optional), sum, y bf16 [T, D]; w, b bf16 [D]; mean, rstd f32 [T]. Without `add`, `sum` is null and h is x.
extern "C" __global__ void __launch_bounds__(ROWS_PER_BLOCK * WARP)
    layer_norm_forward(const bf16* x, const bf16* add, const bf16* w, const bf16* b, bf16* sum, bf16* y, float* mean, float* rstd,
                       float epsilon, int rows, int dim) {
    int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP;
    if (row >= rows) return;
    size_t at = size_t(row) * dim;
    const bf16* addend = add != nullptr ? add + at : nullptr;
    bf16* total = add != nullptr ? sum + at : nullptr;
    if (dim % VECTOR == 0) {
        normalise_row<VECTOR>(x + at, addend, w, b, total, y + at, mean + row, rstd + row, epsilon, dim);
    } else {
        normalise_row<1>(x + at, addend, w, b, total, y + at, mean + row, rstd + row, epsilon, dim);
    }
}

// dy, h, dresidual, dh bf16 [D] of one row.
template <int V>
__device__ void gradient_row(const bf16* dy, const bf16* dresidual, const bf16* h, const bf16* w, float mean, float rstd, bf16* dh,
                             int dim) {
    int lane = threadIdx.x % WARP;
    float total = 0.0f, products = 0.0f;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> d = load<V>(dy + i), own = load<V>(h + i), weight = load<V>(w + i);
        for (int j = 0; j < V; ++j) {
            float g = to_float(d.at[j]) * to_float(weight.at[j]);
            total += g;
            products = __fmaf_rn(g, (to_float(own.at[j]) - mean) * rstd, products);
        }
    }
    float mean_g = warp_sum(total) / dim, mean_gn = warp_sum(products) / dim;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> d = load<V>(dy + i), own = load<V>(h + i), weight = load<V>(w + i), residual{};
        if (dresidual != nullptr) residual = load<V>(dresidual + i);
        for (int j = 0; j < V; ++j) {
            float g = to_float(d.at[j]) * to_float(weight.at[j]), n = (to_float(own.at[j]) - mean) * rstd;
            own.at[j] = to_bf16(__fmaf_rn(rstd, g - mean_g - n * mean_gn, to_float(residual.at[j])));
        }
        store<V>(dh + i, own);
    }
}

// hot
// dy, h, dresidual (optional), dh bf16 [T, D]; w bf16 [D]; mean, rstd f32 [T].
extern "C" __global__ void __launch_bounds__(ROWS_PER_BLOCK * WARP)
    layer_norm_backward(const bf16* dy, const bf16* dresidual, const bf16* h, const bf16* w, const float* mean, const float* rstd, bf16* dh,
                        int rows, int dim) {
    int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP;
    if (row >= rows) return;
    size_t at = size_t(row) * dim;
    const bf16* residual = dresidual != nullptr ? dresidual + at : nullptr;
    if (dim % VECTOR == 0) {
        gradient_row<VECTOR>(dy + at, residual, h + at, w, mean[row], rstd[row], dh + at, dim);
    } else {
        gradient_row<1>(dy + at, residual, h + at, w, mean[row], rstd[row], dh + at, dim);
    }
}

// partial[part, d] = Σ dy · (h − mean) · rstd over the part's PARTIAL_ROWS rows; a thread a column, blockIdx.y the part. db is a sum of
// dy's columns like that of linear, which has the kernels for it.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    layer_norm_backward_weight_partial(const bf16* dy, const bf16* h, const float* mean, const float* rstd, float* partial, int rows, int dim) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column >= dim) return;
    int first = blockIdx.y * PARTIAL_ROWS, end = min(first + PARTIAL_ROWS, rows);
    float sum = 0.0f;
    for (int row = first; row < end; ++row) {
        size_t at = size_t(row) * dim + column;
        sum = __fmaf_rn(to_float(dy[at]), (to_float(h[at]) - mean[row]) * rstd[row], sum);
    }
    partial[size_t(blockIdx.y) * dim + column] = sum;
}

// dw[d] += Σ partial[part, d].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    layer_norm_backward_weight(const float* partial, float* dw, int parts, int dim) {
    add_partial_rows(partial, dw, parts, dim);
}
