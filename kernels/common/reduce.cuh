// Sums of many numbers in an order that only their count decides. There are no float atomics: what several blocks add up goes through
// a row of partial sums a block, which a second kernel adds in order.
#pragma once

#include "common/types.cuh"

constexpr int WARP = 32;

// The sum over the warp's lanes, with the same bits in every lane.
__device__ inline float warp_sum(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

// The largest over the warp's lanes.
__device__ inline float warp_max(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
}

// Sums over all rows, a column each: src/cuda/columns.rs launches them. A block adds up PARTIAL_ROWS, fixed so that the sum's order
// does not depend on the launch. A thread has a column, or COLUMN_VECTOR of them where the kernel reads vectors.
constexpr int PARTIAL_ROWS = 64;
constexpr int COLUMN_THREADS = 128;
constexpr int COLUMN_VECTOR = 4;
constexpr int COLUMN_SPAN = COLUMN_THREADS * COLUMN_VECTOR;

// partial[blockIdx.y, column] = Σ term(row, column) over the block's PARTIAL_ROWS rows in ascending order, for its COLUMN_SPAN columns.
// add(Width<V>{}, row, column, sums) adds the terms of V columns to V sums; V is COLUMN_VECTOR where `columns` is a multiple of that, and
// so is `pitch`, the elements from one row that is read to the next.
template <class Add>
__device__ inline void sum_part(float* partial, int rows, int columns, int pitch, Add add) {
    int first = blockIdx.y * PARTIAL_ROWS, end = min(first + PARTIAL_ROWS, rows);
    float* to = partial + size_t(blockIdx.y) * columns;
    if (columns % COLUMN_VECTOR == 0 && pitch % COLUMN_VECTOR == 0) {
        int column = blockIdx.x * COLUMN_SPAN + threadIdx.x * COLUMN_VECTOR;
        if (column >= columns) return;
        Vector<float, COLUMN_VECTOR> sums{};
#pragma unroll 8
        for (int row = first; row < end; ++row) add(Width<COLUMN_VECTOR>{}, row, column, sums.at);
        store<COLUMN_VECTOR>(to + column, sums);
    } else {
        int last = min(int(blockIdx.x + 1) * COLUMN_SPAN, columns);
        for (int column = blockIdx.x * COLUMN_SPAN + threadIdx.x; column < last; column += COLUMN_THREADS) {
            Vector<float, 1> sum{};
#pragma unroll 8
            for (int row = first; row < end; ++row) add(Width<1>{}, row, column, sum.at);
            store<1>(to + column, sum);
        }
    }
}

// total[column] += Σ partial[part, column] in ascending order; partial f32 [parts, columns], one thread a column.
__device__ inline void add_partial_rows(const float* partial, float* total, int parts, int columns) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int part = 0; part < parts; ++part) sum += partial[size_t(part) * columns + column];
    total[column] += sum;
}
