// One kernel an instruction: what each lane holds goes out as it is.
#include "common/math.cuh"
#include "common/tile.cuh"

extern "C" __global__ void mma_registers(const uint32_t* a, const uint32_t* b, float* d) {
    int lane = threadIdx.x;
    uint32_t left[4], right[1][2] = {{b[lane * 2], b[lane * 2 + 1]}};
    float sum[1][4];
    for (int i = 0; i < 4; ++i) {
        left[i] = a[lane * 4 + i];
        sum[0][i] = d[lane * 4 + i];
    }
    mma(sum, left, right);
    for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sum[0][i];
}

// rows u16 [8 · COUNT, 8]; out [32, COUNT].
template <int COUNT, class Load>
__device__ void load_registers(const uint16_t* rows, uint32_t* out, Load load) {
    __shared__ __align__(16) uint16_t tile[32 * 8];
    for (int i = threadIdx.x; i < 32 * 8; i += 32) tile[i] = rows[i];
    __syncthreads();
    uint32_t fragment[COUNT];
    load(fragment, tile + threadIdx.x % (8 * COUNT) * 8);
    for (int i = 0; i < COUNT; ++i) out[threadIdx.x * COUNT + i] = fragment[i];
}
extern "C" __global__ void load_x1(const uint16_t* rows, uint32_t* out) {
    load_registers<1>(rows, out, [](auto& fragment, const void* row) { ldmatrix_x1(fragment, row); });
}
extern "C" __global__ void load_x2(const uint16_t* rows, uint32_t* out) {
    load_registers<2>(rows, out, [](auto& fragment, const void* row) { ldmatrix_x2(fragment, row); });
}
extern "C" __global__ void load_x2_trans(const uint16_t* rows, uint32_t* out) {
    load_registers<2>(rows, out, [](auto& fragment, const void* row) { ldmatrix_x2_trans(fragment, row); });
}
extern "C" __global__ void load_x4(const uint16_t* rows, uint32_t* out) {
    load_registers<4>(rows, out, [](auto& fragment, const void* row) { ldmatrix_x4(fragment, row); });
}
extern "C" __global__ void load_x4_trans(const uint16_t* rows, uint32_t* out) {
    load_registers<4>(rows, out, [](auto& fragment, const void* row) { ldmatrix_x4_trans(fragment, row); });
}

// x, y f32 [32]
extern "C" __global__ void exponentials(const float* x, float* y) { y[threadIdx.x] = exp2_approx(x[threadIdx.x]); }

// x, y f32 [32]; reversed on the way through shared memory.
extern "C" __global__ void copied_by_fours(const float* x, float* y) {
    __shared__ float tile[32];
    cp_async_4(&tile[threadIdx.x], x + threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = tile[31 - threadIdx.x];
}

// out [12, 32]
extern "C" __global__ void together(int* out) {
    int lane = threadIdx.x, value = 100 + lane;
    out[0 * 32 + lane] = __shfl_sync(~0u, value, 5);
    out[1 * 32 + lane] = __shfl_sync(~0u, value, 9, 8);
    out[2 * 32 + lane] = __shfl_up_sync(~0u, value, 3);
    out[3 * 32 + lane] = __shfl_up_sync(~0u, value, 3, 8);
    out[4 * 32 + lane] = __shfl_down_sync(~0u, value, 3);
    out[5 * 32 + lane] = __shfl_down_sync(~0u, value, 3, 8);
    out[6 * 32 + lane] = __shfl_xor_sync(~0u, value, 6);
    out[7 * 32 + lane] = int(__ballot_sync(~0u, lane % 3 == 0));
    out[8 * 32 + lane] = __any_sync(~0u, lane == 31) * 2 + __all_sync(~0u, lane < 31);
    out[9 * 32 + lane] = __reduce_add_sync(~0u, value);
    out[10 * 32 + lane] = __reduce_min_sync(~0u, lane - 16);
    // Two halves of the warp, each for itself.
    unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    out[11 * 32 + lane] = lane < 16 ? __reduce_max_sync(half, lane) : __reduce_max_sync(half, -lane);
}

struct Record {
    uint64_t count;
    float x[3];
    int id;
};

// out f32 [32, 5]: what every lane got.
extern "C" __global__ void struct_by_value(Record record, int first, float* out) {
    float values[5] = {float(record.count), record.x[0], record.x[1], record.x[2], float(record.id + first)};
    for (int i = 0; i < 5; ++i) out[threadIdx.x * 5 + i] = values[i];
}
