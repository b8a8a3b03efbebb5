// y = x wᵀ + b and its gradients; formulas in src/ops/linear.rs. T rows, N columns, K inner.
#include "common/product.cuh"

// hot
// x bf16 [T, K]; w bf16 [N, K]; b bf16 [N] or null; y bf16 [T, N].
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_forward(const bf16* x, const bf16* w, const bf16* b, bf16* y, int rows, int columns, int inner) {
    bool is_vector = inner % VECTOR == 0;
    multiply<Terms::inner, Terms::inner>(
        Factor{x, rows, inner, inner, is_vector}, Factor{w, columns, inner, inner, is_vector},
        [&](int row, int column, float first, float second) {
            if (b != nullptr) {
                first += to_float(b[column]);
                if (column + 1 < columns) second += to_float(b[column + 1]);
            }
            put_bf16(y, columns, row, column, first, second);
        });
}

// hot
// dy bf16 [T, N]; w bf16 [N, K]; dx bf16 [T, K].
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_backward_input(const bf16* dy, const bf16* w, bf16* dx, int rows, int columns, int inner) {
    multiply<Terms::inner, Terms::outer>(
        Factor{dy, rows, columns, columns, columns % VECTOR == 0}, Factor{w, inner, columns, inner, inner % VECTOR == 0},
        [&](int row, int column, float first, float second) { put_bf16(dx, inner, row, column, first, second); });
}

// hot
// dy bf16 [T, N]; x bf16 [T, K]; dw f32 [N, K], added to.
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_backward_weight(const bf16* dy, const bf16* x, float* dw, int rows, int columns, int inner) {
    multiply<Terms::outer, Terms::outer>(
        Factor{dy, columns, rows, columns, columns % VECTOR == 0}, Factor{x, inner, rows, inner, inner % VECTOR == 0},
        [&](int row, int column, float first, float second) {
            float* at = dw + size_t(row) * inner + column;
            at[0] += first;
            if (column + 1 < inner) at[1] += second;
        });
}

// partial[part, n] = Σ dy[t, n] over the part's PARTIAL_ROWS rows; a thread a column, blockIdx.y the part.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    linear_backward_bias_partial(const bf16* dy, float* partial, int rows, int columns) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column >= columns) return;
    int first = blockIdx.y * PARTIAL_ROWS, end = min(first + PARTIAL_ROWS, rows);
    float sum = 0.0f;
    for (int row = first; row < end; ++row) sum += to_float(dy[size_t(row) * columns + column]);
    partial[size_t(blockIdx.y) * columns + column] = sum;
}

// db[n] += Σ partial[part, n].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    linear_backward_bias(const float* partial, float* db, int parts, int columns) {
    add_partial_rows(partial, db, parts, columns);
}
