// Sum of squares of many tensors in f64; formula in src/ops/grad_norm.rs. A block sums a part of fixed length of one tensor, one block the
// parts, each in an order that only the counts decide.
#include "common/table.cuh"

constexpr int THREADS = 256;
constexpr int PART = 1 << 15;  // elements of a block

// A tensor x f32 [count], as its address. The first of its parts is that of `first_block`.
struct GradNormTensor {
    uint64_t x;
    int64_t count;
    int first_block, unused;
};
static_assert(sizeof(GradNormTensor) == 24);

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

// sum + x²; the square of an f32 is exact in f64.
__device__ inline double add_square(double sum, float x) { return __fma_rn(double(x), double(x), sum); }

// hot
// table [count]; partial f64 [parts], a part a block.
extern "C" __global__ void __launch_bounds__(THREADS) grad_norm_partial(const GradNormTensor* table, double* partial, int count) {
    const GradNormTensor& of = entry_of_block<THREADS>(table, count);
    int64_t first = int64_t(int(blockIdx.x) - of.first_block) * PART;
    const float* x = pointer_at<const float>(of.x) + first;
    int length = int(min(int64_t(PART), of.count - first)), vectors = length / 4;
    double sum = 0.0;
#pragma unroll 8
    for (int i = threadIdx.x; i < vectors; i += THREADS) {
        auto values = load<4>(x + i * 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum = add_square(sum, values.at[j]);
    }
    int rest = vectors * 4 + threadIdx.x;
    if (rest < length) sum = add_square(sum, x[rest]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// total[0] = Σ partial [parts]; one block.
extern "C" __global__ void __launch_bounds__(THREADS) grad_norm(const double* partial, double* total, int parts) {
    double sum = 0.0;
#pragma unroll 8
    for (int part = threadIdx.x; part < parts; part += THREADS) sum += partial[part];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}
