// Tiles of matrices on their way to the tensor cores. Above, the instructions: cp.async, ldmatrix, mma.sync, named barriers; inline PTX
// stands in this folder only, each instruction beside its twin for the host. Below, the types that kernels are written in: a tile in shared
// memory, the fragments that a warp holds of its factors and of their product, products of them, sums over a product's rows.
#pragma once

#include "common/reduce.cuh"

#ifndef THYME_SIMT
__device__ inline uint32_t shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }
#endif

// Starts to copy 16 bytes to shared memory, the first `taken` (0 or 16) from `from` and zeros for the rest. Both addresses are multiples
// of 16. The bytes are there for this thread after cp_async_wait, and for others after a barrier behind it.
__device__ inline void cp_async_16(void* to, const void* from, int taken) {
#ifdef THYME_SIMT
    simt::copy_async(to, from, 16, taken);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(taken) : "memory");
#endif
}

// The same of 4 bytes.
__device__ inline void cp_async_4(void* to, const void* from) {
#ifdef THYME_SIMT
    simt::copy_async(to, from, 4, 4);
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
#endif
}

// Ends a group of copies.
__device__ inline void cp_async_commit() {
#ifdef THYME_SIMT
    simt::copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING of this thread's newest groups are under way.
template <int PENDING>
__device__ inline void cp_async_wait() {
#ifdef THYME_SIMT
    simt::copy_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Four 8 × 8 matrices: lane 8q + j gives the address of row j of matrix q, 16 bytes, and register q of lane l holds elements 2(l % 4) and
// 2(l % 4) + 1 of row l / 4.
__device__ inline void ldmatrix_x4(uint32_t (&fragment)[4], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 4, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row)) : "memory");
#endif
}

// The same, each matrix transposed: register q of lane l holds rows 2(l % 4) and 2(l % 4) + 1 of column l / 4.
__device__ inline void ldmatrix_x4_trans(uint32_t (&fragment)[4], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 4, true, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row)) : "memory");
#endif
}

// Two matrices, at the addresses that lanes 0-15 give.
__device__ inline void ldmatrix_x2(uint32_t (&fragment)[2], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 2, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(shared_address(row)) : "memory");
#endif
}

// Two matrices, each transposed.
__device__ inline void ldmatrix_x2_trans(uint32_t (&fragment)[2], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 2, true, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(shared_address(row)) : "memory");
#endif
}

// One matrix, at the addresses that lanes 0-7 give.
__device__ inline void ldmatrix_x1(uint32_t (&fragment)[1], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 1, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0]) : "r"(shared_address(row)) : "memory");
#endif
}

// d[i] += a · b[i] for N tiles side by side: a 16 × 16, b[i] 16 × 8, d[i] 16 × 8 in f32. With g = lane / 4 and t = lane % 4:
// a holds (row, k) at rows g, g + 8 and k 2t, 2t + 1, then the same at k + 8; b holds (k, column) at k 2t, 2t + 1, then k + 8, column g;
// d holds rows g, then g + 8, at columns 2t, 2t + 1.
template <int N>
__device__ inline void mma(float (&d)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N][2]) {
#ifdef THYME_SIMT
    simt::multiply(d, a, b, N);
#else
#pragma unroll
    for (int i = 0; i < N; ++i) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i][0]), "r"(b[i][1]));
    }
#endif
}

// Waits at barrier `id` (1 to 15; 0 is __syncthreads) until `threads` of the block, whole warps, have come.
__device__ inline void named_barrier_sync(int id, int threads) {
#ifdef THYME_SIMT
    simt::barrier(id, threads, true);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Comes to barrier `id` and does not wait.
__device__ inline void named_barrier_arrive(int id, int threads) {
#ifdef THYME_SIMT
    simt::barrier(id, threads, false);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// ---- a tile in shared memory ----

constexpr int TILE_PADDING = 8;  // elements after each row, so that the 8 rows of an ldmatrix lie in different banks

constexpr int tile_bytes(int rows, int columns) { return rows * (columns + TILE_PADDING) * sizeof(bf16); }

template <int ROWS, int COLUMNS>
struct alignas(16) SharedTile {
    static constexpr int PITCH = COLUMNS + TILE_PADDING;
    bf16 elements[ROWS * PITCH];

    __device__ bf16* at(int row, int column) { return elements + row * PITCH + column; }
    __device__ const bf16* at(int row, int column) const { return elements + row * PITCH + column; }

    // Calls visit(to, row, column) for each vector of the tile, shared among THREADS threads.
    template <int THREADS, class Visit>
    __device__ void for_vectors(Visit visit) {
        constexpr int VECTORS = COLUMNS / VECTOR;
        for (int i = threadIdx.x; i < ROWS * VECTORS; i += THREADS) {
            int row = i / VECTORS, column = i % VECTORS * VECTOR;
            visit(at(row, column), row, column);
        }
    }

    // Starts all rows on their way; `row(i)` is the address of row i, or null for zeros. `anywhere` is an address that may be read.
    template <int THREADS, class Row>
    __device__ void load(const bf16* anywhere, Row row) {
        for_vectors<THREADS>([&](bf16* to, int i, int column) {
            const bf16* from = row(i);
            cp_async_16(to, from != nullptr ? from + column : anywhere, from != nullptr ? 16 : 0);
        });
    }
};

// ---- fragments: what a warp holds, as mma has it ----

struct FragmentA {
    uint32_t at[4];  // 16 rows, 16 terms
};

template <int COLUMNS>
struct FragmentB {
    uint32_t at[COLUMNS / 8][2];  // of 16 terms each
};

// 16 × COLUMNS of a product in f32. Element [n][i] is at the row `row(i)` and the column `column(n, i)` of the lane.
template <int COLUMNS>
struct Accumulator {
    float at[COLUMNS / 8][4] = {};

    __device__ static int row(int i) { return i / 2 * 8 + threadIdx.x % WARP / 4; }
    __device__ static int column(int n, int i) { return n * 8 + threadIdx.x % 4 * 2 + i % 2; }

    // 16 columns from `column`, rounded, as the left factor of another product.
    __device__ FragmentA rounded(int column) const {
        const float(&first)[4] = at[column / 8], (&second)[4] = at[column / 8 + 1];
        return {{pack(first[0], first[1]), pack(first[2], first[3]), pack(second[0], second[1]), pack(second[2], second[3])}};
    }
};

// 16 rows from `row` and 16 terms from `term` of a tile.
template <int ROWS, int COLUMNS>
__device__ inline FragmentA load_a(const SharedTile<ROWS, COLUMNS>& tile, int row, int term) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
    FragmentA a;
    ldmatrix_x4(a.at, tile.at(row + line + matrix % 2 * 8, term + matrix / 2 * 8));
    return a;
}

// The same of a tile whose rows are the terms.
template <int ROWS, int COLUMNS>
__device__ inline FragmentA load_a_transposed(const SharedTile<ROWS, COLUMNS>& tile, int row, int term) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
    FragmentA a;
    ldmatrix_x4_trans(a.at, tile.at(term + line + matrix / 2 * 8, row + matrix % 2 * 8));
    return a;
}

// N rows from `row`, which are columns of the product, and 16 terms from `term` of a tile.
template <int N, int ROWS, int COLUMNS>
__device__ inline FragmentB<N> load_b(const SharedTile<ROWS, COLUMNS>& tile, int row, int term) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
    FragmentB<N> b;
#pragma unroll
    for (int i = 0; i < N / 8; i += 2) {
        uint32_t both[4];
        ldmatrix_x4(both, tile.at(row + i * 8 + line + matrix / 2 * 8, term + matrix % 2 * 8));
        b.at[i][0] = both[0];
        b.at[i][1] = both[1];
        b.at[i + 1][0] = both[2];
        b.at[i + 1][1] = both[3];
    }
    return b;
}

// The same of a tile whose rows are the terms.
template <int N, int ROWS, int COLUMNS>
__device__ inline FragmentB<N> load_b_transposed(const SharedTile<ROWS, COLUMNS>& tile, int row, int term) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
    FragmentB<N> b;
#pragma unroll
    for (int i = 0; i < N / 8; i += 2) {
        uint32_t both[4];
        ldmatrix_x4_trans(both, tile.at(term + line + matrix % 2 * 8, row + i * 8 + matrix / 2 * 8));
        b.at[i][0] = both[0];
        b.at[i][1] = both[1];
        b.at[i + 1][0] = both[2];
        b.at[i + 1][1] = both[3];
    }
    return b;
}

// ---- products: terms in groups of 16, ascending ----

template <int COLUMNS>
__device__ inline void mma(Accumulator<COLUMNS>& d, const FragmentA& a, const FragmentB<COLUMNS>& b) {
    mma(d.at, a.at, b.at);
}

// d += a · bᵀ, a in fragments.
template <int ROWS, int COLUMNS>
__device__ inline void mma_ABt(Accumulator<ROWS>& d, const FragmentA (&a)[COLUMNS / 16], const SharedTile<ROWS, COLUMNS>& b) {
#pragma unroll
    for (int k = 0; k < COLUMNS / 16; ++k) mma(d, a[k], load_b<ROWS>(b, 0, k * 16));
}

// d += a · bᵀ, 16 rows of a from `row`.
template <int A_ROWS, int ROWS, int COLUMNS>
__device__ inline void mma_ABt(Accumulator<ROWS>& d, const SharedTile<A_ROWS, COLUMNS>& a, int row, const SharedTile<ROWS, COLUMNS>& b) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k += 16) mma(d, load_a(a, row, k), load_b<ROWS>(b, 0, k));
}

// d += a · b, a a product, rounded.
template <int ROWS, int COLUMNS>
__device__ inline void mma_AB(Accumulator<COLUMNS>& d, const Accumulator<ROWS>& a, const SharedTile<ROWS, COLUMNS>& b) {
#pragma unroll
    for (int k = 0; k < ROWS; k += 16) mma(d, a.rounded(k), load_b_transposed<COLUMNS>(b, 0, k));
}

// ---- over the four lanes that hold a row of a product; the same bits in each of them ----

__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
