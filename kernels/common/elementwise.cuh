// Rows whose elements have nothing to do with each other: blockIdx.x is the row, blockIdx.y a piece of it, and a thread has a vector of
// the piece, or as many single elements where the rows' length does not keep vectors aligned. src/cuda/elementwise.rs launches these.
#pragma once

#include "common/types.cuh"

constexpr int PIECE_THREADS = 128;
constexpr int PIECE = PIECE_THREADS * VECTOR;  // elements of a row that a block has

// Calls visit(Width<V>{}, i) for the vectors of V elements from i on that are this thread's.
template <class Visit>
__device__ inline void for_piece(int dim, Visit visit) {
    int first = blockIdx.y * PIECE;
    if (dim % VECTOR == 0) {
        int i = first + threadIdx.x * VECTOR;
        if (i < dim) visit(Width<VECTOR>{}, i);
    } else {
        int end = min(first + PIECE, dim);
        for (int i = first + threadIdx.x; i < end; i += PIECE_THREADS) visit(Width<1>{}, i);
    }
}
