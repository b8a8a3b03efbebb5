// Matrix products: one tile routine over mma.sync m16n8k16. An element of the result adds up groups of 16 terms in ascending order, one
// instruction shape for every size, so that its bits do not depend on how many rows share the call.
#pragma once

#include "common/tile.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32;  // of the result and of the terms, a block
constexpr int WARP_M = 32, WARP_N = 32;               // a warp's share of the result
constexpr int THREADS = TILE_M / WARP_M * (TILE_N / WARP_N) * WARP;
constexpr int STAGES = 3;  // tiles on their way through shared memory

// How a factor of the product lies in memory: its terms side by side, [rows, K], or its rows, [K, rows].
enum class Terms { inner, outer };

// A factor in memory: rows × terms elements, `pitch` elements from one line to the next. `is_vector`: lines begin at multiples of 16
// bytes. A factor that is made on the way has the same members but for how it lies, and loads its elements in a way of its own.
struct Factor {
    const bf16* values;
    int rows, terms, pitch;
    bool is_vector;

    // Starts VECTOR elements of a line on their way to shared memory, from `at` on; zeros stand for what lies outside.
    __device__ void load(bf16* to, int line, int at, int lines, int length) const {
        bool is_inside = line < lines && at < length;
        const bf16* from = is_inside ? values + size_t(line) * pitch + at : values;
        if (is_vector) {
            cp_async_16(to, from, is_inside ? 16 : 0);
        } else {
            Vector<bf16, VECTOR> elements{};
            for (int j = 0; j < VECTOR; ++j) {
                if (is_inside && at + j < length) elements.at[j] = from[j];
            }
            store<VECTOR>(to, elements);
        }
    }
};

// ROWS rows of a factor and TILE_K of its terms, in shared memory as the factor lies.
template <Terms LAYOUT, int ROWS>
struct FactorTile;

template <int ROWS>
struct FactorTile<Terms::inner, ROWS> {
    SharedTile<ROWS, TILE_K> tile;

    template <class F>
    __device__ void load(const F& factor, int row, int term) {
        tile.template for_vectors<THREADS>(
            [&](bf16* to, int i, int k) { factor.load(to, row + i, term + k, factor.rows, factor.terms); });
    }
    __device__ FragmentA a(int row, int term) const { return load_a(tile, row, term); }
    template <int N>
    __device__ FragmentB<N> b(int row, int term) const {
        return load_b<N>(tile, row, term);
    }
};

template <int ROWS>
struct FactorTile<Terms::outer, ROWS> {
    SharedTile<TILE_K, ROWS> tile;

    template <class F>
    __device__ void load(const F& factor, int row, int term) {
        tile.template for_vectors<THREADS>(
            [&](bf16* to, int k, int i) { factor.load(to, term + k, row + i, factor.terms, factor.rows); });
    }
    __device__ FragmentA a(int row, int term) const { return load_a_transposed(tile, row, term); }
    template <int N>
    __device__ FragmentB<N> b(int row, int term) const {
        return load_b_transposed<N>(tile, row, term);
    }
};

// Which tile of the result a block has. Blocks start in the order of their numbers, x first, so that B blocks run together whose numbers
// are neighbours. They go down GROUP_TILES tiles of rows before they go on to the next column, and read GROUP_TILES panels of the left
// factor and B / GROUP_TILES of the right, each once from memory; along a row of the result it would be 1 and B. The sum is least at the
// square root of B, and B is 500 to 900 on A100 and H100. Half of that root is nearly as good, and the left panels, 7 MB at 3584 terms,
// stay in L2 while the columns go by.
struct BlockTile {
    int row, column;
};

constexpr int GROUP_TILES = 16;

__device__ inline BlockTile block_tile() {
    int number = blockIdx.y * gridDim.x + blockIdx.x;
    int group_blocks = GROUP_TILES * gridDim.x, first = number / group_blocks * GROUP_TILES;
    int height = min(GROUP_TILES, int(gridDim.y) - first), inside = number % group_blocks;
    return {first + inside % height, inside / height};
}

// Each pair of neighbouring elements of left · rightᵀ, [left.rows, right.rows], is given to `put(row, column, first, second)`.
template <Terms LEFT, Terms RIGHT, class Left, class Right, class Put>
__device__ inline void multiply(const Left& left, const Right& right, Put put) {
    __shared__ FactorTile<LEFT, TILE_M> left_tiles[STAGES];
    __shared__ FactorTile<RIGHT, TILE_N> right_tiles[STAGES];
    BlockTile block = block_tile();
    int block_row = block.row * TILE_M, block_column = block.column * TILE_N;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int warp_row = warp / (TILE_N / WARP_N) * WARP_M, warp_column = warp % (TILE_N / WARP_N) * WARP_N;
    int steps = (left.terms + TILE_K - 1) / TILE_K;

    auto start = [&](int step) {
        if (step < steps) {
            left_tiles[step % STAGES].load(left, block_row, step * TILE_K);
            right_tiles[step % STAGES].load(right, block_column, step * TILE_K);
        }
        cp_async_commit();
    };
    Accumulator<WARP_N> sums[WARP_M / 16];
    for (int step = 0; step < STAGES - 1; ++step) start(step);
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        // Its stage is the one that every warp has left behind at the barrier.
        start(step + STAGES - 1);
        const auto& left_tile = left_tiles[step % STAGES];
        const auto& right_tile = right_tiles[step % STAGES];
        if (block_column + warp_column >= right.rows) continue;
#pragma unroll
        for (int term = 0; term < TILE_K; term += 16) {
            FragmentB<WARP_N> b = right_tile.template b<WARP_N>(warp_column, term);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                if (block_row + warp_row + i * 16 >= left.rows) continue;
                mma(sums[i], left_tile.a(warp_row + i * 16, term), b);
            }
        }
    }

#pragma unroll
    for (int i = 0; i < WARP_M / 16; ++i) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j) {
            int row = block_row + warp_row + i * 16 + lane / 4, column = block_column + warp_column + sums[i].column(j, 0);
            if (column >= right.rows) continue;
            const float(&pairs)[4] = sums[i].at[j];
            if (row < left.rows) put(row, column, pairs[0], pairs[1]);
            if (row + 8 < left.rows) put(row + 8, column, pairs[2], pairs[3]);
        }
    }
}

// Writes bf16 [.., columns]; two at once where they are aligned.
__device__ inline void put_bf16(bf16* to, int columns, int row, int column, float first, float second) {
    bf16* at = to + size_t(row) * columns + column;
    if (columns % 2 == 0) {
        *reinterpret_cast<uint32_t*>(at) = pack(first, second);
    } else {
        at[0] = to_bf16(first);
        if (column + 1 < columns) at[1] = to_bf16(second);
    }
}
