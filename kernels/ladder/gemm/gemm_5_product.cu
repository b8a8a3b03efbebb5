// y = x wᵀ, the last rung: the product in use. It taught that an exclusive or in the place of padding makes room for a third stage, and 64 × 32 a
// warp for four warps on each scheduler in the place of two, which is worth more than fewer instructions.
#include "common/product.cuh"

constexpr int TILE_M = LARGE_M, TILE_N = LARGE_N, SHARED_BYTES = product_bytes(LARGE_M, LARGE_N, LARGE_STAGES);

// x bf16 [T, K]; w bf16 [N, K]; y bf16 [T, N].
extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 2)
    ladder_gemm_5_product(const bf16* x, const bf16* w, bf16* y, int rows, int columns, int inner) {
    multiply<LargeTile, Terms::inner, Terms::inner>(Factor{x, rows, inner, inner}, Factor{w, columns, inner, inner},
                                                    PutBf16{y, rows, columns, nullptr});
}
