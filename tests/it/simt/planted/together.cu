// Kernels whose threads do not come together, each with its sound twin.
#include "common/tile.cuh"

template <bool SOUND>
__device__ void early_exit_body(float* y, int count) {
    int i = threadIdx.x;
    if (!SOUND && i >= count) return;
    __shared__ float row[128];
    row[i] = float(i);
    __syncthreads();
    if (i < count) y[i] = row[count - 1 - i];
}
extern "C" __global__ void early_exit(float* y, int count) { early_exit_body<false>(y, count); }
extern "C" __global__ void early_exit_sound(float* y, int count) { early_exit_body<true>(y, count); }

// Each half of the block has a barrier of its own.
extern "C" __global__ void two_barriers(float* y) {
    if (threadIdx.x < 64) {
        y[threadIdx.x] = 0.0f;
        __syncthreads();
    } else {
        __syncthreads();
        y[threadIdx.x] = 1.0f;
    }
}

// A sum over the warp, of which half has left.
template <bool SOUND>
__device__ void left_lanes_body(const float* x, float* y, int count) {
    int i = threadIdx.x;
    if (!SOUND && i >= count) return;
    float sum = i < count ? x[i] : 0.0f;
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
    if (i == 0) y[0] = sum;
}
extern "C" __global__ void left_lanes(const float* x, float* y, int count) { left_lanes_body<false>(x, y, count); }
extern "C" __global__ void left_lanes_sound(const float* x, float* y, int count) { left_lanes_body<true>(x, y, count); }

// Lanes of the upper half ask one that the mask leaves out.
template <bool SOUND>
__device__ void unnamed_lane_body(float* y) {
    if (threadIdx.x < 16) return;
    y[threadIdx.x] = __shfl_sync(0xFFFF0000u, float(threadIdx.x), SOUND ? 20 : 4);
}
extern "C" __global__ void unnamed_lane(float* y) { unnamed_lane_body<false>(y); }
extern "C" __global__ void unnamed_lane_sound(float* y) { unnamed_lane_body<true>(y); }

// Warps 1 and 2 wait for warp 0's row. THREADS is what they count on: 96 take part.
template <int COUNTED, int SIGNALLED>
__device__ void producer_body(float* y) {
    __shared__ float row[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp == 0) {
        row[lane] = float(lane);
        named_barrier_arrive(1, SIGNALLED);
    } else if (warp < 3) {
        named_barrier_sync(1, COUNTED);
        y[threadIdx.x] = row[lane];
    }
}
extern "C" __global__ void producer_miscounts(float* y) { producer_body<96, 64>(y); }
extern "C" __global__ void producer_waits_for_more(float* y) { producer_body<128, 128>(y); }
extern "C" __global__ void producer_sound(float* y) { producer_body<96, 96>(y); }
