// Normal random numbers; the formula is in src/ops/random_normal.rs. A thread has an element.
#include "common/math.cuh"
#include "common/philox.cuh"

constexpr int THREADS = 256;
constexpr double TAU = 0x1.921fb54442d18p+2;

// y bf16 [count].
extern "C" __global__ void __launch_bounds__(THREADS) random_normal(bf16* y, float std, uint64_t seed, uint64_t stream, size_t count) {
    size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= count) return;
    double radius = sqrt(-2.0 * log(1.0 - philox_uniform(seed, stream, 2 * i)));
    double angle = TAU * philox_uniform(seed, stream, 2 * i + 1);
    y[i] = to_bf16(std * float(radius * cosine(angle)));
}
