// Kernels that touch what they must not, each with its sound twin.
#include "common/tile.cuh"


template <bool SOUND>
__device__ void bound_body(const float* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (SOUND ? i < count : i <= count) y[i] = x[i];
}
extern "C" __global__ void bound(const float* x, float* y, int count) { bound_body<false>(x, y, count); }
extern "C" __global__ void bound_sound(const float* x, float* y, int count) { bound_body<true>(x, y, count); }

template <bool SOUND>
__device__ void bound_static_body(const float* x, float* y) {
    __shared__ float row[32];
    int i = threadIdx.x;
    row[SOUND ? i : i + 1] = x[i];
    __syncthreads();
    y[i] = SOUND ? row[31 - i] : row[32 - i];
}
extern "C" __global__ void bound_static(const float* x, float* y) { bound_static_body<false>(x, y); }
extern "C" __global__ void bound_static_sound(const float* x, float* y) { bound_static_body<true>(x, y); }

template <bool SOUND>
__device__ void bound_dynamic_body(const float* x, float* y) {
    DYNAMIC_SHARED(float, row);
    int i = threadIdx.x;
    row[SOUND ? i : i + 1] = x[i];
    __syncthreads();
    y[i] = row[SOUND ? 31 - i : 32 - i];
}
extern "C" __global__ void bound_dynamic(const float* x, float* y) { bound_dynamic_body<false>(x, y); }
extern "C" __global__ void bound_dynamic_sound(const float* x, float* y) { bound_dynamic_body<true>(x, y); }

template <bool SOUND>
__device__ void unwritten_shared_body(float* y) {
    __shared__ float row[32];
    int i = threadIdx.x;
    if (SOUND || i != 5) row[i] = 1.0f;
    __syncthreads();
    y[i] = row[i];
}
extern "C" __global__ void unwritten_shared(float* y) { unwritten_shared_body<false>(y); }
extern "C" __global__ void unwritten_shared_sound(float* y) { unwritten_shared_body<true>(y); }

template <bool SOUND>
__device__ void misaligned_body(const float* x, float* y) {
    const float* from = x + (SOUND ? 4 : 1) * threadIdx.x;
    float4 four = *reinterpret_cast<const float4*>(from);
    y[threadIdx.x] = four.x + four.w;
}
extern "C" __global__ void misaligned(const float* x, float* y) { misaligned_body<false>(x, y); }
extern "C" __global__ void misaligned_sound(const float* x, float* y) { misaligned_body<true>(x, y); }

// Writes where it promised to read.
extern "C" __global__ void writes_const(const float* x) { const_cast<float*>(x)[threadIdx.x] = 0.0f; }

// Copies through a table of two addresses: from the first to the second, `count` elements.
template <bool SOUND>
__device__ void table_body(const uint64_t* table, int count) {
    const float* from = reinterpret_cast<const float*>(table[0]);
    float* to = reinterpret_cast<float*>(table[1]);
    int i = threadIdx.x;
    if (SOUND ? i < count : i <= count) to[i] = from[i];
}
extern "C" __global__ void through_table(const uint64_t* table, int count) { table_body<false>(table, count); }
extern "C" __global__ void through_table_sound(const uint64_t* table, int count) { table_body<true>(table, count); }

extern "C" __global__ void copies(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }

template <int PITCH>
__device__ void ldmatrix_rows(uint32_t* y) {
    __shared__ __align__(16) uint16_t tile[8 * 24];
    for (int i = threadIdx.x; i < 8 * 24; i += 32) tile[i] = uint16_t(i);
    __syncthreads();
    uint32_t fragment[1];
    ldmatrix_x1(fragment, tile + threadIdx.x % 8 * PITCH);
    y[threadIdx.x] = fragment[0];
}
extern "C" __global__ void ldmatrix_pitch(uint32_t* y) { ldmatrix_rows<10>(y); }
extern "C" __global__ void ldmatrix_pitch_sound(uint32_t* y) { ldmatrix_rows<24>(y); }

// d = a bᵀ, a [16, 16], b [8, 16]; the fault takes k for row in a's second half.
template <bool SOUND>
__device__ void fragment_body(const bf16* a, const bf16* b, float* d) {
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    auto word = [](const bf16* at) { return *reinterpret_cast<const uint32_t*>(at); };
    uint32_t left[4] = {word(a + g * 16 + 2 * t), word(a + (g + 8) * 16 + 2 * t), word(a + g * 16 + 2 * t + 8),
                        word(a + (g + 8) * 16 + 2 * t + 8)};
    if (!SOUND) {
        uint32_t second = left[1];
        left[1] = left[2];
        left[2] = second;
    }
    uint32_t right[1][2] = {{word(b + g * 16 + 2 * t), word(b + g * 16 + 2 * t + 8)}};
    float sum[1][4] = {};
    mma(sum, left, right);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[0][i];
}
extern "C" __global__ void fragment(const bf16* a, const bf16* b, float* d) { fragment_body<false>(a, b, d); }
extern "C" __global__ void fragment_sound(const bf16* a, const bf16* b, float* d) { fragment_body<true>(a, b, d); }
