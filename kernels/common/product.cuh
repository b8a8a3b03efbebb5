// Matrix products: one tile routine over mma.sync m16n8k16. An element of the result adds up groups of 16 terms in ascending order, one
// instruction shape for every size, so that its bits do not depend on how many rows share the call.
#pragma once

#include "common/reduce.cuh"
#include "common/tile.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32;  // of the result and of the terms, a block
constexpr int WARP_M = 32, WARP_N = 32;               // a warp's share of the result: 2 × 4 fragments
constexpr int THREADS = 128;
constexpr int STAGES = 3;  // tiles on their way through shared memory
constexpr int PADDING = 8;  // elements after each row of a tile, so that the 8 rows of an ldmatrix lie in different banks
constexpr int TILE_ELEMENTS = 64 * (TILE_K + PADDING);
static_assert(TILE_K * (64 + PADDING) <= TILE_ELEMENTS);

// How a factor of the product lies in memory: its terms side by side, [rows, K], or its rows, [K, rows].
enum class Terms { inner, outer };

// A factor in memory: rows × terms elements, `pitch` elements from one line to the next. `is_vector`: lines begin at multiples of 16
// bytes. A factor that is made on the way has the same members but for how it lies, and loads its elements in a way of its own.
struct Factor {
    const bf16* values;
    int rows, terms, pitch;
    bool is_vector;

    // Starts 8 elements of a line on their way to shared memory, from `at` on; zeros stand for what lies outside.
    __device__ void load(bf16* to, int line, int at, int lines, int length) const {
        bool is_inside = line < lines && at < length;
        const bf16* from = is_inside ? values + size_t(line) * pitch + at : values;
        if (is_vector) {
            cp_async_16(to, from, is_inside ? 16 : 0);
        } else {
            Vector<bf16, 8> elements{};
            for (int j = 0; j < 8; ++j) {
                if (is_inside && at + j < length) elements.at[j] = from[j];
            }
            store<8>(to, elements);
        }
    }
};

// Starts a tile of 64 rows × TILE_K terms on its way; zeros stand for what lies outside the matrix.
template <Terms LAYOUT, class F>
__device__ inline void load_tile(bf16* tile, const F& factor, int row, int term) {
    constexpr int LINES = LAYOUT == Terms::inner ? 64 : TILE_K, LENGTH = LAYOUT == Terms::inner ? TILE_K : 64;
    constexpr int VECTORS = LENGTH / 8;
    int first_line = LAYOUT == Terms::inner ? row : term, lines = LAYOUT == Terms::inner ? factor.rows : factor.terms;
    int first = LAYOUT == Terms::inner ? term : row, length = LAYOUT == Terms::inner ? factor.terms : factor.rows;
    for (int i = threadIdx.x; i < LINES * VECTORS; i += THREADS) {
        bf16* to = tile + i / VECTORS * (LENGTH + PADDING) + i % VECTORS * 8;
        factor.load(to, first_line + i / VECTORS, first + i % VECTORS * 8, lines, length);
    }
}

// Fragment of the left factor: 16 rows from `row`, 16 terms from `term` of a tile.
template <Terms LAYOUT>
__device__ inline void load_left(uint32_t (&fragment)[4], const bf16* tile, int row, int term) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
    if constexpr (LAYOUT == Terms::inner) {
        ldmatrix_x4(fragment, tile + (row + line + matrix % 2 * 8) * (TILE_K + PADDING) + term + matrix / 2 * 8);
    } else {
        ldmatrix_x4_trans(fragment, tile + (term + line + matrix / 2 * 8) * (TILE_M + PADDING) + row + matrix % 2 * 8);
    }
}

// Two fragments of the right factor: 16 rows (columns of the result) from `row`, 16 terms from `term` of a tile.
template <Terms LAYOUT>
__device__ inline void load_right(uint32_t (&first)[2], uint32_t (&second)[2], const bf16* tile, int row, int term) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
    uint32_t both[4];
    if constexpr (LAYOUT == Terms::inner) {
        ldmatrix_x4(both, tile + (row + line + matrix / 2 * 8) * (TILE_K + PADDING) + term + matrix % 2 * 8);
    } else {
        ldmatrix_x4_trans(both, tile + (term + line + matrix % 2 * 8) * (TILE_N + PADDING) + row + matrix / 2 * 8);
    }
    first[0] = both[0];
    first[1] = both[1];
    second[0] = both[2];
    second[1] = both[3];
}

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
    __shared__ __align__(16) bf16 left_tiles[STAGES][TILE_ELEMENTS];
    __shared__ __align__(16) bf16 right_tiles[STAGES][TILE_ELEMENTS];
    BlockTile block = block_tile();
    int block_row = block.row * TILE_M, block_column = block.column * TILE_N;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int warp_row = warp / 2 * WARP_M, warp_column = warp % 2 * WARP_N;
    int steps = (left.terms + TILE_K - 1) / TILE_K;

    auto start = [&](int step) {
        if (step < steps) {
            load_tile<LEFT>(left_tiles[step % STAGES], left, block_row, step * TILE_K);
            load_tile<RIGHT>(right_tiles[step % STAGES], right, block_column, step * TILE_K);
        }
        cp_async_commit();
    };
    float sums[WARP_M / 16][WARP_N / 8][4] = {};
    for (int step = 0; step < STAGES - 1; ++step) start(step);
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        // Its stage is the one that every warp has left behind at the barrier.
        start(step + STAGES - 1);
        const bf16 *left_tile = left_tiles[step % STAGES], *right_tile = right_tiles[step % STAGES];
        if (block_column + warp_column >= right.rows) continue;
#pragma unroll
        for (int term = 0; term < TILE_K; term += 16) {
            uint32_t b[WARP_N / 8][2];
#pragma unroll
            for (int j = 0; j < WARP_N / 8; j += 2) load_right<RIGHT>(b[j], b[j + 1], right_tile, warp_column + j * 8, term);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                if (block_row + warp_row + i * 16 >= left.rows) continue;
                uint32_t a[4];
                load_left<LEFT>(a, left_tile, warp_row + i * 16, term);
                mma(sums[i], a, b);
            }
        }
    }

#pragma unroll
    for (int i = 0; i < WARP_M / 16; ++i) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j) {
            int row = block_row + warp_row + i * 16 + lane / 4, column = block_column + warp_column + j * 8 + lane % 4 * 2;
            if (column >= right.rows) continue;
            if (row < left.rows) put(row, column, sums[i][j][0], sums[i][j][1]);
            if (row + 8 < left.rows) put(row + 8, column, sums[i][j][2], sums[i][j][3]);
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
