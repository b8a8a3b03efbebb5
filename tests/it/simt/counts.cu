// Kernels of which every count is known: a warp each, or two.
#include "common/tile.cuh"

// Each lane stores a float at a distance of PITCH floats, and reads its neighbour's.
template <int PITCH>
__device__ void strided_body(float* y) {
    __shared__ float column[32 * PITCH];
    int lane = threadIdx.x;
    column[lane * PITCH] = float(lane);
    __syncwarp();
    y[lane] = column[(lane ^ 1) * PITCH];
}
extern "C" __global__ void strided(float* y) { strided_body<32>(y); }
extern "C" __global__ void strided_padded(float* y) { strided_body<33>(y); }

// All lanes read one word; then each a vector of 16 bytes, one behind the other.
extern "C" __global__ void broadcast_and_vectors(const float* x, float* y) {
    __shared__ __align__(16) float row[128];
    int lane = threadIdx.x;
    store<4>(row + 4 * lane, load<4>(x + 4 * lane));
    __syncwarp();
    float one = row[5];
    Vector<float, 4> four = load<4>(row + 4 * lane);
    y[lane] = one + four.at[0] + four.at[3];
}

// Four matrices of 8 rows, PITCH bf16 elements from row to row, brought by cp.async.
template <int PITCH>
__device__ void matrices_body(const bf16* x, uint32_t* y) {
    __shared__ __align__(16) bf16 tile[32 * PITCH];
    int lane = threadIdx.x;
    cp_async_16(tile + lane * PITCH, x + lane * 8, 16);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    uint32_t fragment[4];
    ldmatrix_x4(fragment, tile + lane * PITCH);
    y[lane] = fragment[0] ^ fragment[1] ^ fragment[2] ^ fragment[3];
}
extern "C" __global__ void matrices(const bf16* x, uint32_t* y) { matrices_body<32>(x, y); }
extern "C" __global__ void matrices_padded(const bf16* x, uint32_t* y) { matrices_body<40>(x, y); }

// What lanes do together, and atomics: all on one word, then each on its own.
extern "C" __global__ void together(int* y) {
    __shared__ int counters[33];
    int thread = threadIdx.x, lane = thread % 32;
    for (int i = thread; i < 33; i += 64) counters[i] = 0;
    __syncthreads();
    int sum = __shfl_xor_sync(~0u, lane, 1) + __shfl_xor_sync(~0u, lane, 2);
    sum += __reduce_add_sync(~0u, lane) + __any_sync(~0u, lane == 3);
    if (thread < 32) {
        atomicAdd(counters + 32, 1);
        atomicAdd(counters + lane, 1);
    }
    named_barrier_sync(1, 64);
    float d[2][4] = {};
    uint32_t a[4] = {}, b[2][2] = {};
    mma(d, a, b);
    atomicAdd(y + thread, sum + counters[lane] + int(d[0][0] + d[1][3]));
}

// A lane's loop turns as often as its number says, and half the lanes take another branch.
extern "C" __global__ void uneven(const float* x, float* y) {
    int lane = threadIdx.x;
    float sum = 0.0f;
#pragma GCC unroll 1
    for (int i = 0; i <= lane / 8; ++i) sum += x[32 * i + lane];
    if (lane % 2 == 0) sum += x[4 * lane];
    y[lane] = sum;
}
