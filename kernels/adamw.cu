// AdamW in place over many parameters, their moments in f32 or in 8 bits; formulas in src/ops/adamw.rs. Every operation is an f32 one and
// rounds as it is written, so the bits are the CPU's.
#include "common/bounded.cuh"
#include "common/reduce.cuh"
#include "common/table.cuh"

constexpr int THREADS = 256;
constexpr int ELEMENTS = 8;                         // of a thread at a time
constexpr int MOMENT_BLOCK = WARP * ELEMENTS;       // elements that share a scale: a warp's
constexpr int TURNS = 8;                            // that a block takes one after another, as the code maps take their time to make
constexpr int TURN_ELEMENTS = THREADS * ELEMENTS;
constexpr int BLOCK_ELEMENTS = TURNS * TURN_ELEMENTS;

// The numbers of a step, its bias corrections worked out: rate = lr / (1 − β₁ᵗ), root = 1 / √(1 − β₂ᵗ).
struct AdamwStep {
    float beta1, beta2, rate, root, epsilon, gradient_scale;
};
static_assert(sizeof(AdamwStep) == 24);

// A parameter, as the addresses of w bf16, remainder i16, dw f32, each [count], and of m and v: f32 [count], or u8 [count] with scales
// f32 [ceil(count / 256)]. decay = lr · weight decay. BLOCK_ELEMENTS are a block's, the first of them that of `first_block`.
struct AdamwParameter {
    uint64_t w, remainder, m, m_scales, v, v_scales, dw;
    int64_t count;
    int first_block;
    float decay;
};
static_assert(sizeof(AdamwParameter) == 72);

// The numbers of a thread's elements.
using Values = Vector<float, ELEMENTS>;

// ELEMENTS of a parameter whose moments are stored as M: where they lie, and what a thread has of them.
template <class M>
struct Elements {
    bf16* w_at;
    int16_t* remainder_at;
    M *m_at, *v_at;
    const float* dw_at;
    Vector<bf16, ELEMENTS> w;
    Vector<int16_t, ELEMENTS> remainder;
    Vector<M, ELEMENTS> m, v;
    Values dw;

    __device__ explicit Elements(const AdamwParameter& of)
        : w_at(pointer_at<bf16>(of.w)),
          remainder_at(pointer_at<int16_t>(of.remainder)),
          m_at(pointer_at<M>(of.m)),
          v_at(pointer_at<M>(of.v)),
          dw_at(pointer_at<const float>(of.dw)) {}

    // The elements from `first` on, of which `count` are there; what is not is zero.
    __device__ void load(int64_t first, int64_t count) {
        if (count >= ELEMENTS) {
            w = ::load<ELEMENTS>(w_at + first);
            remainder = ::load<ELEMENTS>(remainder_at + first);
            dw = ::load<ELEMENTS>(dw_at + first);
            m = ::load<ELEMENTS>(m_at + first);
            v = ::load<ELEMENTS>(v_at + first);
            return;
        }
        w = {}, remainder = {}, dw = {}, m = {}, v = {};
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) {
            if (i >= count) break;
            w.at[i] = w_at[first + i];
            remainder.at[i] = remainder_at[first + i];
            dw.at[i] = dw_at[first + i];
            m.at[i] = m_at[first + i];
            v.at[i] = v_at[first + i];
        }
    }
    __device__ void store(int64_t first, int64_t count) const {
        if (count >= ELEMENTS) {
            ::store<ELEMENTS>(w_at + first, w);
            ::store<ELEMENTS>(remainder_at + first, remainder);
            ::store<ELEMENTS>(m_at + first, m);
            ::store<ELEMENTS>(v_at + first, v);
            return;
        }
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) {
            if (i >= count) break;
            w_at[first + i] = w.at[i];
            remainder_at[first + i] = remainder.at[i];
            m_at[first + i] = m.at[i];
            v_at[first + i] = v.at[i];
        }
    }

    // Moves the weights by the moments, which are those of after the step; roots gets those of `second`.
    template <bool IS_BOUNDED>
    __device__ void move(const Values& first, const Values& second, Values& roots, const AdamwStep& step, float decay) {
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) {
            float master = __uint_as_float((uint32_t(w.at[i].bits) << 16) + uint32_t(int32_t(remainder.at[i])));
            roots.at[i] = IS_BOUNDED ? bounded_root(second.at[i]) : sqrtf(second.at[i]);
            float over = step.rate * first.at[i], under = roots.at[i] * step.root + step.epsilon;
            float change = (IS_BOUNDED ? Divisor(under).divide(over) : over / under) + decay * master;
            uint32_t bits = __float_as_uint(master - change);
            w.at[i].bits = uint16_t((bits + 0x8000) >> 16);
            remainder.at[i] = int16_t(bits - (uint32_t(w.at[i].bits) << 16));
        }
    }
    // One step. first and second are the moments, roots gets those of `second`.
    __device__ void update(Values& first, Values& second, Values& roots, const AdamwStep& step, float decay) {
        float least = 1.0f, least_second = 1.0f, most = 1.0f;
#pragma unroll
        for (int i = 0; i < ELEMENTS; ++i) {
            float g = dw.at[i] * step.gradient_scale;
            first.at[i] = step.beta1 * first.at[i] + (1.0f - step.beta1) * g;
            second.at[i] = step.beta2 * second.at[i] + (1.0f - step.beta2) * (g * g);
            float over = fabsf(step.rate * first.at[i]);
            least = fminf(least, over);
            least_second = fminf(least_second, second.at[i]);
            most = fmaxf(most, fmaxf(over, second.at[i]));
        }
        // Roots are from 2^-50 to 2^30 then, and divisors to 2^41.
        bool is_usual_step = step.root >= 1.0f && step.root <= 1024.0f && step.epsilon >= 0.0f && step.epsilon <= 1.0f;
        if (is_usual_step && least >= 0x1p-60f && least_second >= 0x1p-100f && most <= 0x1p60f) {
            move<true>(first, second, roots, step, decay);
        } else {
            move<false>(first, second, roots, step, decay);
        }
    }
};

// hot
// table [count]: parameters with moments in f32.
extern "C" __global__ void __launch_bounds__(THREADS) adamw(const AdamwParameter* table, AdamwStep step, int count) {
    const AdamwParameter& of = entry_of_block<THREADS>(table, count);
    Elements<float> own(of);
    int64_t all = of.count, begin = int64_t(int(blockIdx.x) - of.first_block) * BLOCK_ELEMENTS;
    int64_t end = min(begin + BLOCK_ELEMENTS, all);
    float decay = of.decay;
    for (int64_t first = begin + threadIdx.x * ELEMENTS; first < end; first += TURN_ELEMENTS) {
        own.load(first, all - first);
        Values roots;
        own.update(own.m, own.v, roots, step, decay);
        own.store(first, all - first);
    }
}

constexpr float FLOAT_MAX = 3.402823466e38f;

// A code map of src/ops/adamw.rs, in shared memory.
template <bool IS_SIGNED>
struct CodeMap {
    // Magnitudes are counted by places from 1 up to 2^TOP, which is that of 1. There are 2^l of decade l, the last before TOP ends at 1.
    static constexpr int TOP = IS_SIGNED ? 7 : 8;
    // bounds[i] parts i and i + 1: places if the map is signed, else codes.
    float values[256], bounds[IS_SIGNED ? 128 : 256];
    static_assert(THREADS == 256, "a thread makes an entry");

    // `magnitude` of src/ops/adamw.rs.
    __device__ static float magnitude(int place) {
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
        int i = threadIdx.x;
        values[i] = value(i);
        if (i < (IS_SIGNED ? 128 : 255)) bounds[i] = !IS_SIGNED && i == 0 ? 0.0f : (value(i) + value(i + 1)) * 0.5f;
    }

    // The index of the bound next below `x`, or of the one below that. Within a decade of n numbers that ends at D, the place is a linear
    // function of x: n (8/9 + x / (0.9 D)). Of these lines the least holds, as each is less steep than the one before. Half a place
    // is taken off for what is rounded here and for the bounds between decades, which lie 0.2 above their line. The four lines of the
    // upper decades serve the lower ones too: 10^4 times the number has 2^4 times the place.
    __device__ static int bound_below(float x) {
        constexpr float MAGIC = 12582912.0f;  // adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits
        constexpr float FIRST = IS_SIGNED ? 1.0f : 2.0f;
        bool is_low = x < 1e-4f;
        float scaled = is_low ? x * 1e4f : x, place = 0.0f, slope = float(1 << (TOP - 1)) / 0.9f;
#pragma unroll
        for (int level = TOP - 1; level >= TOP - 4; --level, slope *= 5.0f) {
            float line = __fmaf_rn(scaled, slope, float(1 << level) * (8.0f / 9.0f));
            place = level == TOP - 1 ? line : fminf(place, line);
        }
        place = is_low ? place * 0.0625f : place;
        // What is not a number goes where the comparisons of a search would take it: all say no.
        constexpr float LEAST = FIRST - 0.4f, MOST = FIRST + (IS_SIGNED ? 127.0f : 254.0f);
        place = IS_SIGNED ? fmaxf(fminf(place, MOST), LEAST) : fminf(fmaxf(place, LEAST), MOST);
        return int(__float_as_uint(place + (MAGIC - FIRST)) & 0xFF);
    }
    // The code of the number nearest to `x`; midway, of the lower one.
    __device__ uint8_t code(float x) const {
        if constexpr (IS_SIGNED) {
            float size = fabsf(x);
            int place = bound_below(size);
            bool is_above = x >= 0.0f ? size > bounds[place] : !(size < bounds[place]);
            place += is_above ? 1 : 0;
            return uint8_t(x >= 0.0f ? place : -min(place, 127));
        }
        int code = bound_below(x);
        return uint8_t(code + (x > bounds[code] ? 1 : 0));
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
        // The quotient of what is too small to be divided without care is nearest to 0 in the signed map. A root is none such: the root
        // of the least f32 above zero is 2^-74.5.
        if (divisor >= 0x1p-70f && divisor <= 0x1p50f) {
            Divisor by(divisor);
#pragma unroll
            for (int i = 0; i < ELEMENTS; ++i) codes.at[i] = code(by.divide(exact.at[i]));
        } else {
#pragma unroll
            for (int i = 0; i < ELEMENTS; ++i) codes.at[i] = code(exact.at[i] / divisor);
        }
        return codes;
    }
};

// hot
// table [count]: parameters with moments in 8 bits. A warp has a block of moments at a time.
extern "C" __global__ void __launch_bounds__(THREADS) adamw_8bit(const AdamwParameter* table, AdamwStep step, int count) {
    __shared__ CodeMap<true> signed_map;
    __shared__ CodeMap<false> unsigned_map;
    signed_map.make();
    unsigned_map.make();
    const AdamwParameter& of = entry_of_block<THREADS>(table, count);
    Elements<uint8_t> own(of);
    float *m_scales = pointer_at<float>(of.m_scales), *v_scales = pointer_at<float>(of.v_scales), decay = of.decay;
    int64_t all = of.count, block = int64_t(int(blockIdx.x) - of.first_block) * TURNS * (THREADS / WARP) + threadIdx.x / WARP;
    for (int turn = 0; turn < TURNS && block * MOMENT_BLOCK < all; ++turn, block += THREADS / WARP) {
        int64_t first = block * MOMENT_BLOCK + threadIdx.x % WARP * ELEMENTS;
        own.load(first, all - first);
        Values ms = signed_map.read(own.m, m_scales[block]), seconds = unsigned_map.read(own.v, v_scales[block]), roots;
#pragma unroll
        for (float& second : seconds.at) second = second * second;
        own.update(ms, seconds, roots, step, decay);
        float m_scale, v_scale;
        own.m = signed_map.round(ms, m_scale);
        own.v = unsigned_map.round(roots, v_scale);
        own.store(first, all - first);
        __syncwarp();  // all lanes have read the scales
        if (threadIdx.x % WARP == 0) {
            m_scales[block] = m_scale;
            v_scales[block] = v_scale;
        }
    }
}
