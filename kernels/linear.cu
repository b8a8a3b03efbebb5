// y = x wᵀ + b and its gradients; formulas in src/ops/linear.rs. T rows, N columns, K inner. There is an entry for each tile that a launch
// chooses from; but for `unaligned`, they take lines whose length is a multiple of 8.
#include "common/product.cuh"

template <class Tile>
__device__ inline void forward(const bf16* x, const bf16* w, const bf16* b, bf16* y, int rows, int columns, int inner) {
    using Factor = typename Tile::Factor;
    multiply<Tile, Terms::inner, Terms::inner>(Factor{x, rows, inner, inner}, Factor{w, columns, inner, inner},
                                               PutBf16{y, rows, columns, b});
}

template <class Tile>
__device__ inline void backward_input(const bf16* dy, const bf16* w, bf16* dx, int rows, int columns, int inner) {
    using Factor = typename Tile::Factor;
    multiply<Tile, Terms::inner, Terms::outer>(Factor{dy, rows, columns, columns}, Factor{w, inner, columns, inner},
                                               PutBf16{dx, rows, inner, nullptr});
}

template <class Tile>
__device__ inline void backward_weight(const bf16* dy, const bf16* x, float* dw, int rows, int columns, int inner) {
    using Factor = typename Tile::Factor;
    multiply<Tile, Terms::outer, Terms::outer>(Factor{dy, columns, rows, columns}, Factor{x, inner, rows, inner},
                                               AddF32{dw, columns, inner});
}

// x bf16 [T, K]; w bf16 [N, K]; b bf16 [N] or null; y bf16 [T, N].
#define FORWARD_PARAMETERS const bf16 *x, const bf16 *w, const bf16 *b, bf16 *y, int rows, int columns, int inner
#define FORWARD_ARGUMENTS x, w, b, y, rows, columns, inner

// hot
extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 2) linear_forward_large(FORWARD_PARAMETERS) { forward<LargeTile>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(WIDE_THREADS, 2) linear_forward_wide(FORWARD_PARAMETERS) { forward<WideTile>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(FEW_64_THREADS) linear_forward_few_64(FORWARD_PARAMETERS) { forward<Few64Tile>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(FEW_32_THREADS) linear_forward_few_32(FORWARD_PARAMETERS) { forward<Few32Tile>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(FEW_16_THREADS) linear_forward_few_16(FORWARD_PARAMETERS) { forward<Few16Tile>(FORWARD_ARGUMENTS); }
extern "C" __global__ void __launch_bounds__(UNALIGNED_THREADS) linear_forward_unaligned(FORWARD_PARAMETERS) {
    forward<UnalignedTile>(FORWARD_ARGUMENTS);
}

// hot
// dy bf16 [T, N]; w bf16 [N, K]; dx bf16 [T, K].
extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 2)
    linear_backward_input_large(const bf16* dy, const bf16* w, bf16* dx, int rows, int columns, int inner) {
    backward_input<LargeTile>(dy, w, dx, rows, columns, inner);
}
extern "C" __global__ void __launch_bounds__(UNALIGNED_THREADS)
    linear_backward_input_unaligned(const bf16* dy, const bf16* w, bf16* dx, int rows, int columns, int inner) {
    backward_input<UnalignedTile>(dy, w, dx, rows, columns, inner);
}

// hot
// dy bf16 [T, N]; x bf16 [T, K]; dw f32 [N, K], added to.
extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 2)
    linear_backward_weight_large(const bf16* dy, const bf16* x, float* dw, int rows, int columns, int inner) {
    backward_weight<LargeTile>(dy, x, dw, rows, columns, inner);
}
extern "C" __global__ void __launch_bounds__(UNALIGNED_THREADS)
    linear_backward_weight_unaligned(const bf16* dy, const bf16* x, float* dw, int rows, int columns, int inner) {
    backward_weight<UnalignedTile>(dy, x, dw, rows, columns, inner);
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
