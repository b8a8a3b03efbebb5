// y = x wᵀ, rung 3: the loader's addresses are found once, before the loop, and advanced in it, and a row beyond the edge is a copy of the
// last one. It taught that most of what is left of a small tile are addresses and edges.
#include "common/tile.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32, STAGES = 3;
constexpr int THREADS = 4 * WARP, SHARED_BYTES = 0;
constexpr int WARP_M = 32, WARP_N = 32;

namespace {  // rungs of one library have functions of the same names

// Brings the tiles of 64 rows of a factor [rows, terms] to shared memory, one after the other: a thread has a vector of every 32nd line.
struct Loader {
    static constexpr int VECTORS = TILE_K / VECTOR, LINES = THREADS / VECTORS, COUNT = TILE_M / LINES;
    const bf16* from;
    int terms, line, column;
    int offsets[COUNT];

    __device__ Loader(const bf16* values, int rows, int terms, int first_row)
        : from(values + size_t(first_row) * terms), line(threadIdx.x / VECTORS), column(threadIdx.x % VECTORS * VECTOR) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) offsets[i] = min(line + i * LINES, rows - first_row - 1) * terms + column;
        this->terms = terms - column;
    }
    __device__ void load(SharedTile<TILE_M, TILE_K>& tile) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) cp_async_16(tile.at(line + i * LINES, column), from + offsets[i], terms > 0 ? 16 : 0);
        from += TILE_K;
        terms -= TILE_K;
    }
};

}  // namespace

// x bf16 [T, K]; w bf16 [N, K]; y bf16 [T, N].
extern "C" __global__ void __launch_bounds__(THREADS)
    ladder_gemm_3_pointers(const bf16* x, const bf16* w, bf16* y, int rows, int columns, int inner) {
    __shared__ SharedTile<TILE_M, TILE_K> left_tiles[STAGES];
    __shared__ SharedTile<TILE_N, TILE_K> right_tiles[STAGES];
    int block_row = blockIdx.y * TILE_M, block_column = blockIdx.x * TILE_N;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int warp_row = warp / (TILE_N / WARP_N) * WARP_M, warp_column = warp % (TILE_N / WARP_N) * WARP_N;
    int steps = (inner + TILE_K - 1) / TILE_K;
    Loader left(x, rows, inner, block_row), right(w, columns, inner, block_column);

    Accumulator<WARP_N> sums[WARP_M / 16];
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        left.load(left_tiles[stage]);
        right.load(right_tiles[stage]);
        cp_async_commit();
    }
    int stage = 0, free = STAGES - 1;
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        left.load(left_tiles[free]);
        right.load(right_tiles[free]);
        cp_async_commit();
#pragma unroll
        for (int term = 0; term < TILE_K; term += 16) {
            FragmentB<WARP_N> b = load_b<WARP_N>(right_tiles[stage], warp_column, term);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) mma(sums[i], load_a(left_tiles[stage], warp_row + i * 16, term), b);
        }
        free = stage;
        stage = stage + 1 == STAGES ? 0 : stage + 1;
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
