// y = x wᵀ, rung 2: rung 1 for lines whose length is a multiple of 8, with an unrolled loader. It taught that a loop and a branch around
// cp.async cost more than the copy: without them it has half the instructions.
#include "common/tile.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32, STAGES = 3;
constexpr int THREADS = 4 * WARP, SHARED_BYTES = 0;
constexpr int WARP_M = 32, WARP_N = 32;

namespace {  // rungs of one library have functions of the same names

// A factor with its terms side by side, [rows, terms].
struct Factor {
    const bf16* values;
    int rows, terms;

    // Starts VECTOR elements of a line on their way to shared memory, from `at` on; zeros stand for what lies outside.
    __device__ void load(bf16* to, int line, int at) const {
        bool is_inside = line < rows && at < terms;
        cp_async_16(to, is_inside ? values + size_t(line) * terms + at : values, is_inside ? 16 : 0);
    }
};

}  // namespace

// x bf16 [T, K]; w bf16 [N, K]; y bf16 [T, N].
extern "C" __global__ void __launch_bounds__(THREADS)
    ladder_gemm_2_vectors(const bf16* x, const bf16* w, bf16* y, int rows, int columns, int inner) {
    __shared__ SharedTile<TILE_M, TILE_K> left_tiles[STAGES];
    __shared__ SharedTile<TILE_N, TILE_K> right_tiles[STAGES];
    const Factor left{x, rows, inner}, right{w, columns, inner};
    int block_row = blockIdx.y * TILE_M, block_column = blockIdx.x * TILE_N;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int warp_row = warp / (TILE_N / WARP_N) * WARP_M, warp_column = warp % (TILE_N / WARP_N) * WARP_N;
    int steps = (inner + TILE_K - 1) / TILE_K;

    auto start = [&](int step) {
        if (step < steps) {
#pragma unroll
            for (int i = 0; i < TILE_M; i += THREADS / (TILE_K / VECTOR)) {
                int line = threadIdx.x / (TILE_K / VECTOR) + i, k = threadIdx.x % (TILE_K / VECTOR) * VECTOR;
                left.load(left_tiles[step % STAGES].at(line, k), block_row + line, step * TILE_K + k);
                right.load(right_tiles[step % STAGES].at(line, k), block_column + line, step * TILE_K + k);
            }
        }
        cp_async_commit();
    };
    Accumulator<WARP_N> sums[WARP_M / 16];
    for (int step = 0; step < STAGES - 1; ++step) start(step);
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        start(step + STAGES - 1);
        if (block_column + warp_column >= columns) continue;
#pragma unroll
        for (int term = 0; term < TILE_K; term += 16) {
            FragmentB<WARP_N> b = load_b<WARP_N>(right_tiles[step % STAGES], warp_column, term);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                if (block_row + warp_row + i * 16 >= rows) continue;
                mma(sums[i], load_a(left_tiles[step % STAGES], warp_row + i * 16, term), b);
            }
        }
    }

#pragma unroll
    for (int i = 0; i < WARP_M / 16; ++i) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int row = block_row + warp_row + i * 16 + half * 8 + lane / 4;
                int column = block_column + warp_column + sums[i].column(j, 0);
                if (row >= rows) continue;
                if (column < columns) y[size_t(row) * columns + column] = to_bf16(sums[i].at[j][half * 2]);
                if (column + 1 < columns) y[size_t(row) * columns + column + 1] = to_bf16(sums[i].at[j][half * 2 + 1]);
            }
        }
    }
}
