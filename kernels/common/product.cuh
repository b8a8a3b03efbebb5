// Matrix products: one tile routine over mma.sync m16n8k16. An element of the result adds up groups of 16 terms in ascending order, one
// instruction shape for every size and every shape of tile, so that its bits do not depend on how many rows share the call.
#pragma once

#include "common/tile.cuh"

constexpr int TILE_K = 64;  // terms a step: 128 bytes of a line whose terms lie side by side, which is all banks of shared memory

// How a factor of the product lies in memory: its terms side by side, [rows, K], or its rows, [K, rows].
enum class Terms { inner, outer };

// ROWS rows of a factor and TILE_K of its terms, in shared memory as the factor lies. Lines follow each other without a gap, and vector v
// of line l lies in the place of vector v ^ l % 8. So the 8 lines that an ldmatrix reads at a time, 16 bytes of each, are in different
// banks, and so are the 8 vectors of a line, which 8 neighbouring threads write.
template <Terms LAYOUT, int ROWS>
struct FactorTile {
    static constexpr int ELEMENTS = ROWS * TILE_K;
    static constexpr int LINE = LAYOUT == Terms::inner ? TILE_K : ROWS, VECTORS = LINE / VECTOR;
    static_assert(VECTORS % 8 == 0, "8 vectors of a line change places");

    // The element that begins vector `vector` of a line.
    __device__ static int at(int line, int vector) { return line * LINE + (vector ^ line % 8) * VECTOR; }

    // Where the lane's own line of four matrices begins: 16 rows from `row` on and the first 16 terms. Matrix 1 has the 8 rows behind those of
    // matrix 0 in a left factor and the 8 terms behind in a right one, matrix 2 the other of the two, and matrix 3 both.
    __device__ static int lane_of_left(int row) { return lane(row, threadIdx.x / 8 % 2, threadIdx.x / 16 % 2); }
    __device__ static int lane_of_right(int row) { return lane(row, threadIdx.x / 16 % 2, threadIdx.x / 8 % 2); }

    // The matrices of a lane that are `rows` and `terms` further, multiples of 16; `rows` within a warp's share, which is a power of two, so
    // that a vector changes its place by an exclusive or.
    __device__ static void read(uint32_t (&fragment)[4], const bf16* tile, int lane, int rows, int terms) {
        if constexpr (LAYOUT == Terms::inner) {
            ldmatrix_x4(fragment, tile + (lane ^ terms) + rows * LINE);
        } else {
            ldmatrix_x4_trans(fragment, tile + (lane ^ rows) + terms * LINE);
        }
    }

private:
    __device__ static int lane(int row, int next_rows, int next_terms) {
        int line = threadIdx.x % 8;
        return LAYOUT == Terms::inner ? at(row + next_rows * 8 + line, next_terms) : at(next_terms * 8 + line, row / 8 + next_rows);
    }
};

// A factor in memory: rows × terms elements, `pitch` elements from one line to the next, lines at multiples of 16 bytes.
struct Factor {
    const bf16* values;
    int rows, terms, pitch;

    // Brings tile after tile of a block's rows to shared memory; behind the last there are zeros. Rows beyond the factor's are copies of its
    // last ones: what they give is stored nowhere.
    template <Terms LAYOUT, int ROWS, int THREADS>
    struct Loader {
        using Tile = FactorTile<LAYOUT, ROWS>;
        // A thread has one vector of every LINES-th line.
        static constexpr int LINES = THREADS / Tile::VECTORS, COUNT = Tile::ELEMENTS / (THREADS * VECTOR);

        const bf16* from;  // at the block's first row and the tile's first term
        int advance;       // to the next tile
        int terms;         // from the thread's first on
        int to;
        int offsets[COUNT];

        __device__ Loader(const Factor& factor, int first_row) {
            int line = threadIdx.x / Tile::VECTORS, column = threadIdx.x % Tile::VECTORS * VECTOR;
            int rows = factor.rows - first_row;
            to = Tile::at(line, column / VECTOR);
            if constexpr (LAYOUT == Terms::inner) {
                from = factor.values + size_t(first_row) * factor.pitch;
                advance = TILE_K;
                terms = factor.terms - column;
#pragma unroll
                for (int i = 0; i < COUNT; ++i) offsets[i] = min(line + i * LINES, rows - 1) * factor.pitch + column;
            } else {
                from = factor.values + first_row;
                advance = TILE_K * factor.pitch;
                terms = factor.terms - line;
#pragma unroll
                for (int i = 0; i < COUNT; ++i) offsets[i] = (line + i * LINES) * factor.pitch + min(column, rows - VECTOR);
            }
        }

        // Starts the next tile on its way.
        __device__ void load(bf16* tile) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                bool is_inside = (LAYOUT == Terms::inner ? 0 : i * LINES) < terms;
                cp_async_16(tile + to + i * LINES * Tile::LINE, from + offsets[i], is_inside ? 16 : 0);
            }
            from += advance;
            terms -= TILE_K;
        }
    };
};

// The same where lines begin anywhere: element by element.
struct UnalignedFactor {
    const bf16* values;
    int rows, terms, pitch;

    template <Terms LAYOUT, int ROWS, int THREADS>
    struct Loader {
        using Tile = FactorTile<LAYOUT, ROWS>;
        static constexpr int LINES = THREADS / Tile::VECTORS, COUNT = Tile::ELEMENTS / (THREADS * VECTOR);

        const bf16* values;
        int pitch, lines, length;
        int line, column;  // of the factor, as it lies

        __device__ Loader(const UnalignedFactor& factor, int first_row) : values(factor.values), pitch(factor.pitch) {
            constexpr bool IS_INNER = LAYOUT == Terms::inner;
            lines = IS_INNER ? factor.rows : factor.terms;
            length = IS_INNER ? factor.terms : factor.rows;
            line = threadIdx.x / Tile::VECTORS + (IS_INNER ? first_row : 0);
            column = threadIdx.x % Tile::VECTORS * VECTOR + (IS_INNER ? 0 : first_row);
        }

        __device__ void load(bf16* tile) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                const bf16* from = values + size_t(line + i * LINES) * pitch + column;
                Vector<bf16, VECTOR> elements{};
#pragma unroll
                for (int j = 0; j < VECTOR; ++j) {
                    if (line + i * LINES < lines && column + j < length) elements.at[j] = from[j];
                }
                store<VECTOR>(tile + Tile::at(threadIdx.x / Tile::VECTORS + i * LINES, threadIdx.x % Tile::VECTORS), elements);
            }
            (LAYOUT == Terms::inner ? column : line) += TILE_K;
        }
    };
};

// A block's share of the result, in shares of WARP_M × WARP_N for its warps; the factors' tiles pass through a ring of STAGES.
template <class OF, int ROWS, int COLUMNS, int WARP_ROWS, int WARP_COLUMNS, int RING_STAGES>
struct ProductTile {
    using Factor = OF;
    static constexpr int M = ROWS, N = COLUMNS, WARP_M = WARP_ROWS, WARP_N = WARP_COLUMNS, STAGES = RING_STAGES;
    static constexpr int WARPS_N = N / WARP_N, THREADS = M / WARP_M * WARPS_N * WARP;
    static_assert((M + N) * STAGES * TILE_K * sizeof(bf16) <= 99 << 10, "what every GPU from 8.6 on gives a block");
};

constexpr int product_bytes(int rows, int columns, int stages) { return (rows + columns) * stages * TILE_K * sizeof(bf16); }

// The tiles. But for the last, each fills nearly all of the shared memory that a block has.
//
// Many rows: a warp has 64 × 32, for which it needs 128 registers. So an H100 holds two such blocks on a multiprocessor, four warps for each of
// its schedulers: while some wait for fragments, others multiply. Other GPUs have the shared memory for one.
constexpr int LARGE_M = 128, LARGE_N = 128, LARGE_STAGES = 3, LARGE_THREADS = 8 * WARP;
using LargeTile = ProductTile<Factor, LARGE_M, LARGE_N, 64, 32, LARGE_STAGES>;

// Up to 64 rows of many columns: each block reads the rows again, from L2, so that its columns should not be few.
constexpr int WIDE_M = 64, WIDE_N = 128, WIDE_STAGES = 4, WIDE_THREADS = 8 * WARP;
using WideTile = ProductTile<Factor, WIDE_M, WIDE_N, 32, 32, WIDE_STAGES>;

// Up to 64, 32 or 16 rows of few columns, decoding: memory bounds it, so there are many blocks (112 for 3584 columns), each with many
// bytes of weights on their way: 28, 44 or 60 KiB.
constexpr int FEW_N = 32;
constexpr int FEW_64_M = 64, FEW_64_STAGES = 8, FEW_64_THREADS = 4 * WARP;
constexpr int FEW_32_M = 32, FEW_32_STAGES = 12, FEW_32_THREADS = 2 * WARP;
constexpr int FEW_16_M = 16, FEW_16_STAGES = 16, FEW_16_THREADS = 2 * WARP;
using Few64Tile = ProductTile<Factor, FEW_64_M, FEW_N, 32, 16, FEW_64_STAGES>;
using Few32Tile = ProductTile<Factor, FEW_32_M, FEW_N, 32, 16, FEW_32_STAGES>;
using Few16Tile = ProductTile<Factor, FEW_16_M, FEW_N, 16, 16, FEW_16_STAGES>;

// Lines that begin anywhere.
constexpr int UNALIGNED_M = 64, UNALIGNED_N = 64, UNALIGNED_STAGES = 2, UNALIGNED_THREADS = 4 * WARP;
using UnalignedTile = ProductTile<UnalignedFactor, UNALIGNED_M, UNALIGNED_N, 32, 32, UNALIGNED_STAGES>;

static_assert(LargeTile::THREADS == LARGE_THREADS && WideTile::THREADS == WIDE_THREADS && UnalignedTile::THREADS == UNALIGNED_THREADS);
static_assert(Few64Tile::THREADS == FEW_64_THREADS && Few32Tile::THREADS == FEW_32_THREADS && Few16Tile::THREADS == FEW_16_THREADS);

// Which tile of the result a block has. Blocks start in the order of their numbers, x first, so that B blocks run together whose numbers
// are neighbours. They go down GROUP_TILES tiles of rows before they go on to the next column, and read GROUP_TILES panels of the left
// factor and B / GROUP_TILES of the right, each once from memory; along a row of the result it would be 1 and B. The sum is least at the
// square root of B, and B is 108 to 264 on A100 and H100. Half of that root is nearly as good, and the left panels, 7 MB at 3584 terms,
// stay in L2 while the columns go by.
struct BlockTile {
    int row, column;
};

constexpr int GROUP_TILES = 8;

__device__ inline BlockTile block_tile() {
    int number = blockIdx.y * gridDim.x + blockIdx.x;
    int group_blocks = GROUP_TILES * gridDim.x, first = number / group_blocks * GROUP_TILES;
    int height = min(GROUP_TILES, int(gridDim.y) - first), inside = number % group_blocks;
    return {first + inside % height, inside / height};
}

// left · rightᵀ, [left.rows, right.rows]: `put(row, column, strip)` is given pairs of neighbouring columns, strip[i] of the row `row + 8 i`;
// some may lie outside.
template <class Tile, Terms LEFT, Terms RIGHT, class Left, class Right, class Put>
__device__ inline void multiply(const Left& left, const Right& right, const Put& put) {
    using LeftTile = FactorTile<LEFT, Tile::M>;
    using RightTile = FactorTile<RIGHT, Tile::N>;
    constexpr int WARP_M = Tile::WARP_M, WARP_N = Tile::WARP_N;
    constexpr int STAGE = LeftTile::ELEMENTS + RightTile::ELEMENTS, RING = Tile::STAGES * STAGE;
    DYNAMIC_SHARED(bf16, ring);
    BlockTile block = block_tile();
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int row = warp / Tile::WARPS_N * WARP_M, column = warp % Tile::WARPS_N * WARP_N;

    typename Left::template Loader<LEFT, Tile::M, Tile::THREADS> left_loader(left, block.row * Tile::M);
    typename Right::template Loader<RIGHT, Tile::N, Tile::THREADS> right_loader(right, block.column * Tile::N);
    int steps = (left.terms + TILE_K - 1) / TILE_K;
    auto next = [](int stage) { return stage + STAGE == RING ? 0 : stage + STAGE; };
#pragma unroll
    for (int stage = 0; stage < RING - STAGE; stage += STAGE) {
        left_loader.load(ring + stage);
        right_loader.load(ring + stage + LeftTile::ELEMENTS);
        cp_async_commit();
    }

    Accumulator<WARP_N> sums[WARP_M / 16];
    FragmentB<WARP_N> b;
    int left_lane = LeftTile::lane_of_left(row), right_lane = LeftTile::ELEMENTS + RightTile::lane_of_right(column);
    auto read_b = [&](int stage, int terms) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; j += 2) {
            uint32_t both[4];
            RightTile::read(both, ring + stage, right_lane, j * 8, terms);
            b.at[j][0] = both[0];
            b.at[j][1] = both[1];
            b.at[j + 1][0] = both[2];
            b.at[j + 1][1] = both[3];
        }
    };
    cp_async_wait<Tile::STAGES - 2>();
    __syncthreads();
    int stage = 0, free = RING - STAGE;
    for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int k = 0; k < TILE_K / 16; ++k) {
            read_b(stage, k * 16);
            if (k == 0) left_loader.load(ring + free);
            if (k == 1) {
                right_loader.load(ring + free + LeftTile::ELEMENTS);
                cp_async_commit();
            }
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                FragmentA a;
                LeftTile::read(a.at, ring + stage, left_lane, i * 16, k * 16);
                mma(sums[i], a, b);
            }
        }
        free = next(free);
        stage = next(stage);
        cp_async_wait<Tile::STAGES - 2>();
        __syncthreads();
    }

#pragma unroll
    for (int j = 0; j < WARP_N / 8; ++j) {
        float strip[WARP_M / 8][2];
#pragma unroll
        for (int i = 0; i < WARP_M / 8; ++i) {
            strip[i][0] = sums[i / 2].at[j][i % 2 * 2];
            strip[i][1] = sums[i / 2].at[j][i % 2 * 2 + 1];
        }
        put(block.row * Tile::M + row + lane / 4, block.column * Tile::N + column + sums[0].column(j, 0), strip);
    }
}

// What is done with a result [rows, columns]. Two elements go together where pairs are aligned.

// Rounded to bf16, after a bias for each column is added, if there is one.
struct PutBf16 {
    bf16* to;
    int rows, columns;
    const bf16* bias;

    template <int COUNT>
    __device__ void operator()(int row, int column, const float (&strip)[COUNT][2]) const {
        if (column >= columns) return;
        bool has_second = column + 1 < columns;
        float first = bias == nullptr ? 0.0f : to_float(bias[column]), second = 0.0f;
        if (bias != nullptr && has_second) second = to_float(bias[column + 1]);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (row + i * 8 >= rows) continue;
            bf16* at = to + size_t(row + i * 8) * columns + column;
            float x = strip[i][0], y = strip[i][1];
            if (bias != nullptr) {
                x += first;
                y += second;
            }
            if (columns % 2 == 0) {
                *reinterpret_cast<uint32_t*>(at) = pack(x, y);
            } else {
                at[0] = to_bf16(x);
                if (has_second) at[1] = to_bf16(y);
            }
        }
    }
};

// As f32; `ADDS`: to what is there, which is read for a whole strip before any of it is written.
template <bool ADDS>
struct F32Result {
    float* to;
    int rows, columns;

    template <int COUNT>
    __device__ void operator()(int row, int column, const float (&strip)[COUNT][2]) const {
        if (column >= columns) return;
        bool are_pairs = columns % 2 == 0, has_second = column + 1 < columns;
        Vector<float, 2> sums[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            sums[i] = {};
            if (!ADDS || row + i * 8 >= rows) continue;
            const float* at = to + size_t(row + i * 8) * columns + column;
            if (are_pairs) {
                sums[i] = load<2>(at);
            } else {
                sums[i].at[0] = at[0];
                if (has_second) sums[i].at[1] = at[1];
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (row + i * 8 >= rows) continue;
            float* at = to + size_t(row + i * 8) * columns + column;
            for (int j = 0; j < 2; ++j) sums[i].at[j] = ADDS ? sums[i].at[j] + strip[i][j] : strip[i][j];
            if (are_pairs) {
                store<2>(at, sums[i]);
            } else {
                at[0] = sums[i].at[0];
                if (has_second) at[1] = sums[i].at[1];
            }
        }
    }
};

using PutF32 = F32Result<false>;
using AddF32 = F32Result<true>;
