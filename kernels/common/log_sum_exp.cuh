// The one log-sum-exp that `sample` and `token_logprob` share, so that what is sampled and what is learned agree to the bit. A block of
// ROW_THREADS has a row of logits; which thread adds what, and in which order, is decided by the vocabulary alone.
#pragma once

#include "common/math.cuh"
#include "common/reduce.cuh"

constexpr int ROW_THREADS = 512;

// Calls visit(id, z) for this thread's share of the row z f32 [vocab].
template <class Visit>
__device__ inline void for_row(const float* z, int vocab, Visit visit) {
    if (vocab % 4 == 0) {
#pragma unroll 2
        for (int id = threadIdx.x * 4; id < vocab; id += ROW_THREADS * 4) {
            Vector<float, 4> values = load<4>(z + id);
#pragma unroll
            for (int i = 0; i < 4; ++i) visit(id + i, values.at[i]);
        }
    } else {
        for (int id = threadIdx.x; id < vocab; id += ROW_THREADS) visit(id, z[id]);
    }
}

// What `join` makes of all threads' values, warp by warp in order, the same bits in every thread; `value` is its warp's already.
template <class T, class Join>
__device__ inline T block_join(T value, Join join) {
    __shared__ T of_warp[ROW_THREADS / WARP];
    // The values of the call before this one have been read.
    __syncthreads();
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = value;
    __syncthreads();
    value = of_warp[0];
    for (int warp = 1; warp < ROW_THREADS / WARP; ++warp) value = join(value, of_warp[warp]);
    return value;
}

__device__ inline float block_sum(float x) {
    return block_join(warp_sum(x), [](float a, float b) { return a + b; });
}
__device__ inline float block_max(float x) {
    return block_join(warp_max(x), [](float a, float b) { return fmaxf(a, b); });
}
__device__ inline unsigned block_min(unsigned x) {
    return block_join(__reduce_min_sync(~0u, x), [](unsigned a, unsigned b) { return min(a, b); });
}

// Ids of tokens that are never sampled, and that the softmax at a temperature leaves out; -1 for none.
struct Excluded {
    int first, second;

    __device__ bool holds(int id) const { return id == first || id == second; }
};
static_assert(sizeof(Excluded) == 8);

// Of a row of logits z: the largest that is not excluded; ln Σ exp(z); ln Σ exp(z · inverse) without the excluded tokens, which has the same
// bits where inverse is 1 and none is excluded; the entropy of softmax(z) in nats.
struct RowSoftmax {
    float top, lse_raw, lse_at_temperature, entropy;
};

__device__ inline RowSoftmax softmax_row(const float* z, float inverse, Excluded excluded, int vocab) {
    float top = -INFINITY, top_allowed = -INFINITY;
    for_row(z, vocab, [&](int id, float z) {
        top = fmaxf(top, z);
        if (!excluded.holds(id)) top_allowed = fmaxf(top_allowed, z);
    });
    top = block_max(top);
    top_allowed = block_max(top_allowed);
    float top_at_temperature = top_allowed * inverse;
    float sum = 0.0f, weighted = 0.0f, sum_at_temperature = 0.0f;
    for_row(z, vocab, [&](int id, float z) {
        float below = z - top, e = exponential(below);
        sum += e;
        // A logit of -infinity has no share in the entropy: 0 · -infinity must not be formed.
        weighted = __fmaf_rn(e, fmaxf(below, -1e4f), weighted);
        sum_at_temperature += excluded.holds(id) ? 0.0f : exponential(z * inverse - top_at_temperature);
    });
    sum = block_sum(sum);
    weighted = block_sum(weighted);
    sum_at_temperature = block_sum(sum_at_temperature);
    double log_sum = log(double(sum));
    return {top_allowed, float(top + log_sum), float(top_at_temperature + log(double(sum_at_temperature))), float(log_sum - double(weighted) / sum)};
}

// Log-probability of a token of logit z under softmax(z · inverse), whose log-sum-exp is `lse`.
__device__ inline float log_probability(float z, float inverse, float lse) { return z * inverse - lse; }
