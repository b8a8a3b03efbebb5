// y = x wᵀ, rung 1: a tile of 64 × 64 × 32 through a ring of three. It taught that cp.async, ldmatrix and mma.sync alone do not make a
// product fast: most of its instructions look for addresses and edges.
#include "common/tile.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32, STAGES = 3;
constexpr int THREADS = 4 * WARP, SHARED_BYTES = 0;
constexpr int WARP_M = 32, WARP_N = 32;

namespace {  // rungs of one library have functions of the same names

// A factor with its terms side by side, [rows, terms]; `is_vector`: lines begin at multiples of 16 bytes.
struct Factor {
    const bf16* values;
    int rows, terms;
    bool is_vector;

    // Starts VECTOR elements of a line on their way to shared memory, from `at` on; zeros stand for what lies outside.
    __device__ void load(bf16* to, int line, int at) const {
        bool is_inside = line < rows && at < terms;
        const bf16* from = is_inside ? values + size_t(line) * terms + at : values;
        if (is_vector) {
            cp_async_16(to, from, is_inside ? 16 : 0);
        } else {
            Vector<bf16, VECTOR> elements{};
            for (int j = 0; j < VECTOR; ++j) {
                if (is_inside && at + j < terms) elements.at[j] = from[j];
            }
            store<VECTOR>(to, elements);
        }
    }
};

}  // namespace

// x bf16 [T, K]; w bf16 [N, K]; y bf16 [T, N].
extern "C" __global__ void __launch_bounds__(THREADS)
    ladder_gemm_1_small_tile(const bf16* x, const bf16* w, bf16* y, int rows, int columns, int inner) {
    __shared__ SharedTile<TILE_M, TILE_K> left_tiles[STAGES];
    __shared__ SharedTile<TILE_N, TILE_K> right_tiles[STAGES];
    const Factor left{x, rows, inner, inner % VECTOR == 0}, right{w, columns, inner, inner % VECTOR == 0};
    int block_row = blockIdx.y * TILE_M, block_column = blockIdx.x * TILE_N;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int warp_row = warp / (TILE_N / WARP_N) * WARP_M, warp_column = warp % (TILE_N / WARP_N) * WARP_N;
    int steps = (inner + TILE_K - 1) / TILE_K;

    auto start = [&](int step) {
        if (step < steps) {
            left_tiles[step % STAGES].for_vectors<THREADS>(
                [&](bf16* to, int i, int k) { left.load(to, block_row + i, step * TILE_K + k); });
            right_tiles[step % STAGES].for_vectors<THREADS>(
                [&](bf16* to, int i, int k) { right.load(to, block_column + i, step * TILE_K + k); });
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
