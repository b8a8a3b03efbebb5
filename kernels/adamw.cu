// AdamW in place; formulas in src/ops/adamw.rs. Every operation is an f32 one and rounds as it is written, so the bits are the CPU's.
#include "common/types.cuh"

constexpr int ELEMENTS = 8;  // of a thread

// The numbers of a step, its bias corrections worked out: rate = lr / (1 − β₁ᵗ), root = 1 / √(1 − β₂ᵗ), decay = lr · weight decay.
struct Step {
    float beta1, beta2, rate, root, epsilon, decay, gradient_scale;
};

// One element; w and remainder are the halves of its fp32 master.
__device__ inline void update(bf16& w, int16_t& remainder, float& m, float& v, float dw, const Step& step) {
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
extern "C" __global__ void adamw(bf16* w, int16_t* remainder, float* m, float* v, const float* dw, float beta1, float beta2, float rate,
                                 float root, float epsilon, float decay, float gradient_scale, int64_t count) {
    Step step{beta1, beta2, rate, root, epsilon, decay, gradient_scale};
    int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * ELEMENTS;
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
