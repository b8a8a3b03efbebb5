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

// Sums over all rows, a thread a column: src/cuda/columns.rs launches them. A block adds up PARTIAL_ROWS, fixed so that the sum's order
// does not depend on the launch.
constexpr int PARTIAL_ROWS = 64;
constexpr int COLUMN_THREADS = 128;

// total[column] += Σ partial[part, column] in ascending order; partial f32 [parts, columns], one thread a column.
__device__ inline void add_partial_rows(const float* partial, float* total, int parts, int columns) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
    for (int part = 0; part < parts; ++part) sum += partial[size_t(part) * columns + column];
    total[column] += sum;
}
