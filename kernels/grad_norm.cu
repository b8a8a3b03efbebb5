// Sum of squares in f64; formula in src/ops/grad_norm.rs. A block sums a part of fixed length, one block the parts, each in an order that
// only the count decides.
#include "common/types.cuh"

constexpr int THREADS = 256;
constexpr int PART = 1 << 15;  // elements of a block

// The sum of all threads' values, in thread 0.
__device__ inline double block_sum(double value) {
    __shared__ double sums[THREADS];
    sums[threadIdx.x] = value;
    for (int distance = THREADS / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (threadIdx.x < distance) sums[threadIdx.x] += sums[threadIdx.x + distance];
    }
    return sums[threadIdx.x];
}

// hot
// x f32 [count]; partial f64 [parts].
extern "C" __global__ void __launch_bounds__(THREADS) grad_norm_partial(const float* x, double* partial, int64_t count) {
    int64_t first = int64_t(blockIdx.x) * PART;
    int length = int(min(int64_t(PART), count - first)), vectors = length / 4;
    double sum = 0.0;
    for (int i = threadIdx.x; i < vectors; i += THREADS) {
        auto values = load<4>(x + first + i * 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum += double(values.at[j]) * double(values.at[j]);
    }
    int rest = vectors * 4 + threadIdx.x;
    if (rest < length) sum += double(x[first + rest]) * double(x[first + rest]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// total[0] = Σ partial [parts]; one block.
extern "C" __global__ void __launch_bounds__(THREADS) grad_norm(const double* partial, double* total, int parts) {
    double sum = 0.0;
    for (int part = threadIdx.x; part < parts; part += THREADS) sum += partial[part];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}
