// y = silu(gate) · up and its gradients; formulas in src/ops/swiglu.rs. T tokens (blockIdx.x), F width of y.
#include "common/elementwise.cuh"
#include "common/math.cuh"

// hot
// gate_up bf16 [T, 2 F]; y bf16 [T, F].
extern "C" __global__ void __launch_bounds__(PIECE_THREADS) swiglu_forward(const bf16* gate_up, bf16* y, int dim) {
    const bf16* gate = gate_up + size_t(blockIdx.x) * 2 * dim;
    bf16* out = y + size_t(blockIdx.x) * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        Vector<bf16, V> g = load<V>(gate + i), u = load<V>(gate + dim + i);
        for (int j = 0; j < V; ++j) {
            float x = to_float(g.at[j]);
            g.at[j] = to_bf16(x / (1.0f + exponential(-x)) * to_float(u.at[j]));
        }
        store<V>(out + i, g);
    });
}

// hot
// dy bf16 [T, F]; gate_up, dgate_up bf16 [T, 2 F].
extern "C" __global__ void __launch_bounds__(PIECE_THREADS)
    swiglu_backward(const bf16* dy, const bf16* gate_up, bf16* dgate_up, int dim) {
    const bf16* dout = dy + size_t(blockIdx.x) * dim;
    const bf16* gate = gate_up + size_t(blockIdx.x) * 2 * dim;
    bf16* dgate = dgate_up + size_t(blockIdx.x) * 2 * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        Vector<bf16, V> d = load<V>(dout + i), g = load<V>(gate + i), u = load<V>(gate + dim + i);
        for (int j = 0; j < V; ++j) {
            float dy = to_float(d.at[j]), x = to_float(g.at[j]), sigma = sigmoid(x);
            float slope = sigma * __fmaf_rn(x, 1.0f - sigma, 1.0f);
            g.at[j] = to_bf16(dy * to_float(u.at[j]) * slope);
            u.at[j] = to_bf16(dy * (x * sigma));
        }
        store<V>(dgate + i, g);
        store<V>(dgate + dim + i, u);
    });
}
