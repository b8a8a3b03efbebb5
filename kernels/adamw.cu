// AdamW in place, its moments in f32 or in 8 bits; formulas in src/ops/adamw.rs. Every operation is an f32 one and rounds as it is written,
// so the bits are the CPU's.
#include "common/reduce.cuh"
#include "common/types.cuh"

constexpr int THREADS = 256;
constexpr int ELEMENTS = 8;                         // of a thread at a time
constexpr int BLOCK_ELEMENTS = THREADS * ELEMENTS;  // that the threads of a block have at a time

// The numbers of a step, its bias corrections worked out: rate = lr / (1 − β₁ᵗ), root = 1 / √(1 − β₂ᵗ), decay = lr · weight decay.
struct AdamwStep {
    float beta1, beta2, rate, root, epsilon, decay, gradient_scale;
};
static_assert(sizeof(AdamwStep) == 28);

// One element; w and remainder are the halves of its fp32 master.
__device__ inline void update(bf16& w, int16_t& remainder, float& m, float& v, float dw, const AdamwStep& step) {
    float g = dw * step.gradient_scale;
    m = step.beta1 * m + (1.0f - step.beta1) * g;
    v = step.beta2 * v + (1.0f - step.beta2) * (g * g);
    float master = __uint_as_float((uint32_t(w.bits) << 16) + uint32_t(int32_t(remainder)));
    float change = step.rate * m / (sqrtf(v) * step.root + step.epsilon) + step.decay * master;
    uint32_t bits = __float_as_uint(master - change);
    w.bits = uint16_t((bits + 0x8000) >> 16);
    remainder = int16_t(bits - (uint32_t(w.bits) << 16));
}

// hot
// w bf16, remainder i16, m, v, dw f32, each [count].
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(bf16* w, int16_t* remainder, float* m, float* v, const float* dw, AdamwStep step, int64_t count) {
    int64_t first = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * ELEMENTS;
    if (first + ELEMENTS <= count) {
        auto weights = load<ELEMENTS>(w + first);
        auto remainders = load<ELEMENTS>(remainder + first);
        auto ms = load<ELEMENTS>(m + first), vs = load<ELEMENTS>(v + first);
        auto gradients = load<ELEMENTS>(dw + first);
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) update(weights.at[i], remainders.at[i], ms.at[i], vs.at[i], gradients.at[i], step);
        store<ELEMENTS>(w + first, weights);
        store<ELEMENTS>(remainder + first, remainders);
        store<ELEMENTS>(m + first, ms);
        store<ELEMENTS>(v + first, vs);
    } else {
        for (int64_t i = first; i < count; ++i) update(w[i], remainder[i], m[i], v[i], dw[i], step);
    }
}

constexpr int MOMENT_BLOCK = WARP * ELEMENTS;  // elements that share a scale: a warp's
constexpr int MOMENT_BLOCKS = 8;               // that a warp takes one after another, as the maps take their time to make
constexpr int BLOCK_ELEMENTS_8BIT = MOMENT_BLOCKS * BLOCK_ELEMENTS;
constexpr float FLOAT_MAX = 3.402823466e38f;

// The numbers of a warp's block, its lanes' in order.
using Values = Vector<float, ELEMENTS>;

// A code map of src/ops/adamw.rs, in shared memory. Its tree lies level by level, so that the lanes' first six steps down meet no bank twice.
template <bool IS_SIGNED>
struct CodeMap {
    static constexpr int LOWEST = IS_SIGNED ? 129 : 0;
    float values[256], nodes[256];
    static_assert(THREADS == 256, "a thread makes an entry");

    // `magnitude` of src/ops/adamw.rs.
    __device__ static float magnitude(int place) {
        constexpr int TOP = IS_SIGNED ? 7 : 8;
        int level = 31 - __clz(place), n = 1 << level, denominator = 20 * n;
        if (level == TOP) return 1.0f;
        for (int decade = level + 1; decade < TOP; ++decade) denominator *= 10;
        return float(2 * n + 9 * (2 * (place - n) + 1)) / float(denominator);
    }
    __device__ static float value(int code) {
        if (code == 0) return 0.0f;
        if (!IS_SIGNED) return magnitude(code + 1);
        return code <= 128 ? magnitude(code) : -magnitude(256 - code);
    }
    // All threads of the block; a barrier stands between this and the first use.
    __device__ void make() {
        int node = threadIdx.x;
        values[node] = value(node);
        if (node == 0) return;
        int level = 31 - __clz(node), rank = ((2 * (node - (1 << level)) + 1) << (7 - level)) - 1;
        float below = value((rank + LOWEST) % 256), above = value((rank + 1 + LOWEST) % 256);
        nodes[node] = !IS_SIGNED && rank == 0 ? 0.0f : (below + above) * 0.5f;
    }
    __device__ uint8_t code(float x) const {
        int node = 1;
#pragma unroll
        for (int step = 0; step < 8; ++step) node = 2 * node + (x > nodes[node] ? 1 : 0);
        return uint8_t(node + LOWEST);
    }

    __device__ Values read(const Vector<uint8_t, ELEMENTS>& codes, float scale) const {
        Values read;
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) read.at[i] = values[codes.at[i]] * scale;
        return read;
    }
    // The codes of a warp's block; all lanes get its scale.
    __device__ Vector<uint8_t, ELEMENTS> round(const Values& exact, float& scale) const {
        float largest = 0.0f;
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) largest = fmaxf(largest, fabsf(exact.at[i]));
        scale = fminf(warp_max(largest), FLOAT_MAX);
        float divisor = scale > 0.0f ? scale : 1.0f;
        Vector<uint8_t, ELEMENTS> codes;
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) codes.at[i] = code(exact.at[i] / divisor);
        return codes;
    }
};

// The first `count` of N elements; what is not there is zero.
template <int N, class T>
__device__ inline Vector<T, N> load_first(const T* from, int count) {
    if (count >= N) return load<N>(from);
    Vector<T, N> values{};
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (i < count) values.at[i] = from[i];
    }
    return values;
}

template <int N, class T>
__device__ inline void store_first(T* to, const Vector<T, N>& values, int count) {
    if (count >= N) return store<N>(to, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (i < count) to[i] = values.at[i];
    }
}

// hot
// w bf16, remainder i16, m, v u8, dw f32, each [count]; m_scales, v_scales f32 [ceil(count / 256)]. A warp has a block at a time.
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_8bit(bf16* w, int16_t* remainder, uint8_t* m, float* m_scales, uint8_t* v, float* v_scales, const float* dw, AdamwStep step,
               int64_t count) {
    __shared__ CodeMap<true> signed_map;
    __shared__ CodeMap<false> unsigned_map;
    signed_map.make();
    unsigned_map.make();
    __syncthreads();
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t block = int64_t(blockIdx.x) * MOMENT_BLOCKS * (THREADS / WARP) + warp;
    for (int turn = 0; turn < MOMENT_BLOCKS && block * MOMENT_BLOCK < count; ++turn, block += THREADS / WARP) {
        int64_t first = block * MOMENT_BLOCK + lane * ELEMENTS;
        int length = int(max(int64_t(0), min(int64_t(ELEMENTS), count - first)));
        auto weights = load_first<ELEMENTS>(w + first, length);
        auto remainders = load_first<ELEMENTS>(remainder + first, length);
        auto gradients = load_first<ELEMENTS>(dw + first, length);
        Values ms = signed_map.read(load_first<ELEMENTS>(m + first, length), m_scales[block]);
        Values roots = unsigned_map.read(load_first<ELEMENTS>(v + first, length), v_scales[block]);
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) {
            float second = roots.at[i] * roots.at[i];
            update(weights.at[i], remainders.at[i], ms.at[i], second, gradients.at[i], step);
            roots.at[i] = sqrtf(second);
        }
        store_first<ELEMENTS>(w + first, weights, length);
        store_first<ELEMENTS>(remainder + first, remainders, length);
        float m_scale, v_scale;
        store_first<ELEMENTS>(m + first, signed_map.round(ms, m_scale), length);
        store_first<ELEMENTS>(v + first, unsigned_map.round(roots, v_scale), length);
        __syncwarp();  // all lanes have read the scales
        if (lane == 0) {
            m_scales[block] = m_scale;
            v_scales[block] = v_scale;
        }
    }
}
