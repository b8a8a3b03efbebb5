// The one log-sum-exp that `sample` and `token_logprob` share, so that what is sampled and what is learned agree to the bit. A row of logits
// lies in slices of SLICE columns. A block of SLICE_THREADS takes the statistics of a slice; a warp joins those of a row's slices in
// ascending order. Which thread adds what, and in which order, is decided by the vocabulary alone.
#pragma once

#include "common/math.cuh"
#include "common/reduce.cuh"

constexpr int SLICE = 4096, SLICE_THREADS = 128;
constexpr int SLICE_WARPS = SLICE_THREADS / WARP, SHARE = SLICE / SLICE_THREADS;

// The values of a slice that one of its threads has: vectors of four, SLICE_THREADS · 4 columns from one to the next; -infinity stands
// for what lies outside.
struct Share {
    float at[SHARE];

    // The column of value `i` in the slice.
    __device__ static int column(int i) { return i / 4 * (SLICE_THREADS * 4) + int(threadIdx.x) % SLICE_THREADS * 4 + i % 4; }
};

// Four values from `column` on of the slice z f32 [width], whose rows begin at multiples of `pitch`.
__device__ inline Vector<float, 4> load_four(const float* z, int column, int width, int pitch) {
    Vector<float, 4> values{{-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    if (pitch % 4 == 0) {
        if (column < width) values = load<4>(z + column);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (column + i < width) values.at[i] = z[column + i];
        }
    }
    return values;
}

// All of this thread's.
__device__ inline Share load_share(const float* z, int width, int pitch) {
    Share share;
#pragma unroll
    for (int i = 0; i < SHARE; i += 4) {
        Vector<float, 4> values = load_four(z, Share::column(i), width, pitch);
#pragma unroll
        for (int j = 0; j < 4; ++j) share.at[i + j] = values.at[j];
    }
    return share;
}

// What `join` makes of the values of a slice's threads, warp by warp in order, the same bits in every thread; `value` is its warp's already.
template <class T, class Join>
__device__ inline T slice_join(T value, Join join) {
    __shared__ T of_warp[SLICE_WARPS];
    // The values of the call before this one have been read.
    __syncthreads();
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = value;
    __syncthreads();
    value = of_warp[0];
    for (int warp = 1; warp < SLICE_WARPS; ++warp) value = join(value, of_warp[warp]);
    return value;
}

// Ids of tokens that are never sampled, and that the softmax at a temperature leaves out; -1 for none.
struct Excluded {
    int first, second;

    __device__ bool holds(int id) const { return id == first || id == second; }
    __device__ bool reaches(int begin, int end) const {
        return (begin <= first && first < end) || (begin <= second && second < end);
    }
};
static_assert(sizeof(Excluded) == 8);

// Of a slice of logits z, and of y = z · inverse without the excluded tokens: the largest, Σ exp(z − top), Σ exp(z − top) (z − top),
// and the same of y. A slice of nothing but -infinity sums up to 0.
struct SliceSoftmax {
    float top, sum, weighted, top_at_temperature, sum_at_temperature;
};
static_assert(sizeof(SliceSoftmax) == 20);

// e^x, within 2 ulp and what rounding x · log2(e) makes of it; 0 for -infinity.
__device__ inline float softmax_exponential(float x) { return exp2_approx(x * 1.44269504f); }

// What exponents are taken relative to.
__device__ inline float reference(float top) { return top == -INFINITY ? 0.0f : top; }

// A logit of -infinity has no share in the entropy: 0 · -infinity must not be formed.
__device__ inline float bounded(float below) { return fmaxf(below, -1e4f); }

// A visitor of `slice_softmax` that has no use for what it is given.
struct Unseen {
    __device__ void begin(float) {}
    __device__ void add(float, float) {}
};

// Σ exp(z − top), Σ exp(z − top) (z − top), Σ exp(y − top).
struct SliceSums {
    float z, weighted, y;
};

// This thread's part of the sums. IS_SAME: y is z; EXCLUDES: some of y is -infinity.
template <bool IS_SAME, bool EXCLUDES, class Visitor>
__device__ inline SliceSums share_sums(const Share& z, float inverse, Excluded excluded, int first, float top, float top_at_temperature,
                                       Visitor& visitor) {
    SliceSums sums{0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        float below = z.at[i] - top, e = softmax_exponential(below), y = z.at[i];
        sums.z += e;
        sums.weighted = __fmaf_rn(e, bounded(below), sums.weighted);
        if (!IS_SAME) {
            y = EXCLUDES && excluded.holds(first + Share::column(i)) ? -INFINITY : y * inverse;
            e = softmax_exponential(y - top_at_temperature);
            sums.y += e;
        }
        visitor.add(y, e);
    }
    if (IS_SAME) sums.y = sums.z;
    return sums;
}

// The slice's statistics. Its columns begin at the token `first`. Calls visitor.begin(top) with the largest y, then visitor.add(y, exp(y − top))
// for each y of this thread, -infinity for those that are excluded.
template <class Visitor>
__device__ inline SliceSoftmax slice_softmax(const Share& z, float inverse, Excluded excluded, int first, Visitor visitor) {
    struct Tops {
        float z, allowed;
    };
    bool excludes = excluded.reaches(first, first + SLICE);
    Tops tops{-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < SHARE; ++i) tops.z = fmaxf(tops.z, z.at[i]);
    tops.allowed = tops.z;
    if (excludes) {
        tops.allowed = -INFINITY;
#pragma unroll
        for (int i = 0; i < SHARE; ++i) {
            if (!excluded.holds(first + Share::column(i))) tops.allowed = fmaxf(tops.allowed, z.at[i]);
        }
    }
    tops = slice_join(Tops{warp_max(tops.z), warp_max(tops.allowed)},
                      [](Tops a, Tops b) { return Tops{fmaxf(a.z, b.z), fmaxf(a.allowed, b.allowed)}; });

    float top = reference(tops.z), top_y = tops.allowed * inverse, top_at_temperature = reference(top_y);
    visitor.begin(top_y);
    SliceSums sums;
    if (excludes) {
        sums = share_sums<false, true>(z, inverse, excluded, first, top, top_at_temperature, visitor);
    } else if (inverse == 1.0f) {
        sums = share_sums<true, false>(z, inverse, excluded, first, top, top_at_temperature, visitor);
    } else {
        sums = share_sums<false, false>(z, inverse, excluded, first, top, top_at_temperature, visitor);
    }
    sums = slice_join(SliceSums{warp_sum(sums.z), warp_sum(sums.weighted), warp_sum(sums.y)},
                      [](SliceSums a, SliceSums b) { return SliceSums{a.z + b.z, a.weighted + b.weighted, a.y + b.y}; });
    return {tops.z, sums.z, sums.weighted, top_y, sums.y};
}

// Of a row of logits z: ln Σ exp(z); ln Σ exp(z · inverse) without the excluded tokens, which has the same bits where inverse is 1 and none is
// excluded; the entropy of softmax(z) in nats.
struct RowSoftmax {
    float lse_raw, lse_at_temperature, entropy;
};

// Joins a row's slices [count]; a warp calls it together, and each of its lanes has the result.
__device__ inline RowSoftmax join_slices(const SliceSoftmax* slices, int count) {
    int lane = threadIdx.x % WARP;
    float top = -INFINITY, top_at_temperature = -INFINITY;
    for (int slice = lane; slice < count; slice += WARP) {
        top = fmaxf(top, slices[slice].top);
        top_at_temperature = fmaxf(top_at_temperature, slices[slice].top_at_temperature);
    }
    top = reference(warp_max(top));
    top_at_temperature = reference(warp_max(top_at_temperature));
    double sum = 0.0, weighted = 0.0, sum_at_temperature = 0.0;
    for (int first = 0; first < count; first += WARP) {
        SliceSoftmax own{-INFINITY, 0.0f, 0.0f, -INFINITY, 0.0f};
        if (first + lane < count) own = slices[first + lane];
        float below = own.top - top, factor = softmax_exponential(below);
        float factor_at_temperature = softmax_exponential(own.top_at_temperature - top_at_temperature);
        own.weighted = __fmaf_rn(own.sum, bounded(below), own.weighted);
#pragma unroll 4
        for (int from = 0; from < min(WARP, count - first); ++from) {
            double scale = __shfl_sync(~0u, factor, from), scale_at_temperature = __shfl_sync(~0u, factor_at_temperature, from);
            sum += scale * __shfl_sync(~0u, own.sum, from);
            weighted += scale * __shfl_sync(~0u, own.weighted, from);
            sum_at_temperature += scale_at_temperature * __shfl_sync(~0u, own.sum_at_temperature, from);
        }
    }
    double log_sum = log(sum);
    return {float(top + log_sum), float(top_at_temperature + log(sum_at_temperature)), float(log_sum - weighted / sum)};
}

// Log-probability of a token of logit z under softmax(z · inverse), whose log-sum-exp is `lse`.
__device__ inline float log_probability(float z, float inverse, float lse) { return z * inverse - lse; }
