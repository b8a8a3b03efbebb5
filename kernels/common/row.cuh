// A block has a row of a matrix, in shared memory between the passes: all that it reads of device memory is on its way at once, whatever the
// row's length. A row's sum has one order, whatever the number of rows: lane l of a warp takes vectors l, l + 32, ...; each warp of the block
// adds up the whole row, so that none waits for another.
#pragma once

#include "common/tile.cuh"

constexpr int ROW_WARPS = 4;
constexpr int ROW_THREADS = ROW_WARPS * WARP;

// Shared bytes of a row of `dim` elements: whole vectors.
constexpr int row_bytes(int dim) { return (dim + VECTOR - 1) / VECTOR * VECTOR * sizeof(bf16); }

// Row `number` of those in the shared memory of the launch.
__device__ inline bf16* shared_row(int number, int dim) {
    DYNAMIC_SHARED(bf16, rows);
    return rows + number * ((dim + VECTOR - 1) / VECTOR * VECTOR);
}

// Calls visit(i) for the vectors of V elements that are this thread's, each beginning with element i.
template <int V, class Visit>
__device__ inline void for_own_vectors(int dim, Visit visit) {
#pragma unroll(V == 1 ? 1 : 2)
    for (int i = threadIdx.x * V; i < dim; i += ROW_THREADS * V) visit(i);
}

// Calls visit(i) for the vectors that are this lane's, in the order of the sums.
template <int V, class Visit>
__device__ inline void for_lane_vectors(int dim, Visit visit) {
#pragma unroll(V == 1 ? 1 : 4)
    for (int i = threadIdx.x % WARP * V; i < dim; i += WARP * V) visit(i);
}

// Starts a row on its way to shared memory. A thread may read its own vectors after wait_for_rows, those of others after a barrier behind it.
template <int V>
__device__ inline void fetch_row(bf16* to, const bf16* from, int dim) {
    for_own_vectors<V>(dim, [&](int i) {
        if constexpr (V == VECTOR) {
            cp_async_16(to + i, from + i, sizeof(bf16) * V);
        } else {
            store<V>(to + i, load<V>(from + i));
        }
    });
}

__device__ inline void wait_for_rows() {
    cp_async_commit();
    cp_async_wait<0>();
}

// h += other in shared memory, each element rounded, and to `sum` too; a thread its own vectors.
template <int V>
__device__ inline void add_rows(bf16* h, const bf16* other, bf16* sum, int dim) {
    for_own_vectors<V>(dim, [&](int i) {
        auto a = Packed<V>::load(h + i), b = Packed<V>::load(other + i);
        auto total = Packed<V>::made([&](int j) { return a.number(j) + b.number(j); });
        total.store(h + i);
        total.store(sum + i);
    });
}

// Calls visit(Width<V>{}) with the vectors that keep rows of `dim` elements aligned.
template <class Visit>
__device__ inline void with_row_width(int dim, Visit visit) {
    if (dim % VECTOR == 0) {
        visit(Width<VECTOR>{});
    } else {
        visit(Width<1>{});
    }
}
