// Kernels whose threads do things in no order, each with its sound twin.
#include "common/tile.cuh"

template <bool SOUND>
__device__ void missing_barrier_body(const float* x, float* y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    if (SOUND) __syncthreads();
    y[threadIdx.x] = tile[127 - threadIdx.x];
}
extern "C" __global__ void missing_barrier(const float* x, float* y) { missing_barrier_body<false>(x, y); }
extern "C" __global__ void missing_barrier_sound(const float* x, float* y) { missing_barrier_body<true>(x, y); }

// Overwrites a tile that others may still read.
template <bool SOUND>
__device__ void reused_tile_body(const float* x, float* y) {
    __shared__ float tile[64];
    for (int round = 0; round < 2; ++round) {
        tile[threadIdx.x] = x[round * 64 + threadIdx.x];
        __syncthreads();
        y[round * 64 + threadIdx.x] = tile[63 - threadIdx.x];
        if (SOUND) __syncthreads();
    }
}
extern "C" __global__ void reused_tile(const float* x, float* y) { reused_tile_body<false>(x, y); }
extern "C" __global__ void reused_tile_sound(const float* x, float* y) { reused_tile_body<true>(x, y); }

// Two threads of different warps count in the same place.
template <bool SOUND>
__device__ void counters_body(int* y) {
    __shared__ int counts[32];
    int i = threadIdx.x;
    if (i < 32) counts[i] = 0;
    __syncthreads();
    if (SOUND) {
        atomicAdd(&counts[i % 32], 1);
    } else {
        counts[i % 32] = i;
    }
    __syncthreads();
    if (i < 32) y[i] = counts[i];
}
extern "C" __global__ void counters(int* y) { counters_body<false>(y); }
extern "C" __global__ void counters_sound(int* y) { counters_body<true>(y); }

template <bool SOUND>
__device__ void within_warp_body(float* y) {
    __shared__ float row[32];
    row[threadIdx.x] = float(threadIdx.x);
    if (SOUND) __syncwarp();
    y[threadIdx.x] = row[threadIdx.x ^ 1];
}
extern "C" __global__ void within_warp(float* y) { within_warp_body<false>(y); }
extern "C" __global__ void within_warp_sound(float* y) { within_warp_body<true>(y); }

// Every block writes the first block's elements.
template <bool SOUND>
__device__ void between_blocks_body(float* y) {
    y[threadIdx.x + (SOUND ? blockIdx.x * blockDim.x : 0)] = float(blockIdx.x);
}
extern "C" __global__ void between_blocks(float* y) { between_blocks_body<false>(y); }
extern "C" __global__ void between_blocks_sound(float* y) { between_blocks_body<true>(y); }

// A warp reads what another wrote to global memory.
template <bool SOUND>
__device__ void within_block_body(float* y) {
    y[threadIdx.x] = float(threadIdx.x);
    if (SOUND) __syncthreads();
    float other = y[(threadIdx.x + 32) % 64];
    __syncthreads();
    y[threadIdx.x] = other;
}
extern "C" __global__ void within_block(float* y) { within_block_body<false>(y); }
extern "C" __global__ void within_block_sound(float* y) { within_block_body<true>(y); }

// STEPS: 0 waits for nothing, 1 for its own copies, 2 for everybody's.
template <int STEPS>
__device__ void copy_body(const float* x, float* y) {
    __shared__ __align__(16) float tile[128];
    cp_async_16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    if (STEPS > 0) cp_async_wait<0>();
    if (STEPS > 1) __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void copy_unwaited(const float* x, float* y) { copy_body<0>(x, y); }
extern "C" __global__ void copy_without_barrier(const float* x, float* y) { copy_body<1>(x, y); }
extern "C" __global__ void copy_sound(const float* x, float* y) { copy_body<2>(x, y); }

// Waits for the older of two groups and reads the newer.
extern "C" __global__ void copy_wrong_group(const float* x, float* y) {
    __shared__ __align__(16) float tile[256];
    for (int group = 0; group < 2; ++group) {
        cp_async_16(tile + 128 * group + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
        cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
    y[threadIdx.x] += tile[128 + threadIdx.x];
}
