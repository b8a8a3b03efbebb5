// y = silu(gate) · up and its gradients; formulas in src/ops/swiglu.rs. T tokens (blockIdx.x), F width of y.
#include "common/bounded.cuh"
#include "common/elementwise.cuh"

constexpr float BOUND = 80.0f;

template <bool IS_BOUNDED>
__device__ inline float silu(float x) {
    if constexpr (IS_BOUNDED) return logistic_divisor(x).divide(x);
    return x / (1.0f + exponential(-x));
}

template <bool IS_BOUNDED>
__device__ inline float logistic(float x) {
    if constexpr (IS_BOUNDED) return logistic_divisor(x).reciprocal;
    return sigmoid(x);
}

// gate and up are V elements each; what silu(gate) · up is goes to `out`.
template <bool IS_BOUNDED, int V>
__device__ inline void activate(const Packed<V>& gate, const Packed<V>& up, bf16* out) {
    Packed<V>::made([&](int j) { return silu<IS_BOUNDED>(gate.number(j)) * up.number(j); }).store(out);
}

// hot
// gate_up bf16 [T, 2 F]; y bf16 [T, F].
extern "C" __global__ void __launch_bounds__(PIECE_THREADS) swiglu_forward(const bf16* gate_up, bf16* y, int dim) {
    const bf16* gates = gate_up + size_t(blockIdx.x) * 2 * dim;
    bf16* out = y + size_t(blockIdx.x) * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        auto gate = Packed<V>::load(gates + i), up = Packed<V>::load(gates + dim + i);
        if (are_bounded(gate, BOUND)) {
            activate<true>(gate, up, out + i);
        } else {
            activate<false>(gate, up, out + i);
        }
    });
}

// The gradients of V elements: of gate to dgate, of up to dup.
template <bool IS_BOUNDED, int V>
__device__ inline void gradients(const Packed<V>& dy, const Packed<V>& gate, const Packed<V>& up, bf16* dgate, bf16* dup) {
    float sigmas[V];
#pragma unroll
    for (int j = 0; j < V; ++j) sigmas[j] = logistic<IS_BOUNDED>(gate.number(j));
    Packed<V>::made([&](int j) {
        float slope = sigmas[j] * __fmaf_rn(gate.number(j), 1.0f - sigmas[j], 1.0f);
        return dy.number(j) * up.number(j) * slope;
    }).store(dgate);
    Packed<V>::made([&](int j) { return dy.number(j) * (gate.number(j) * sigmas[j]); }).store(dup);
}

// hot
// dy bf16 [T, F]; gate_up, dgate_up bf16 [T, 2 F].
extern "C" __global__ void __launch_bounds__(PIECE_THREADS)
    swiglu_backward(const bf16* dy, const bf16* gate_up, bf16* dgate_up, int dim) {
    const bf16 *dout = dy + size_t(blockIdx.x) * dim, *gates = gate_up + size_t(blockIdx.x) * 2 * dim;
    bf16* to = dgate_up + size_t(blockIdx.x) * 2 * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        auto d = Packed<V>::load(dout + i), gate = Packed<V>::load(gates + i), up = Packed<V>::load(gates + dim + i);
        if (are_bounded(gate, BOUND)) {
            gradients<true>(d, gate, up, to + i, to + dim + i);
        } else {
            gradients<false>(d, gate, up, to + i, to + dim + i);
        }
    });
}
