// Rotary positions on the query and key heads in place, and the write of keys and values into pages; formulas in src/ops/rope.rs. A block
// has a token.
#include "common/pages.cuh"

constexpr int THREADS = 128;

// Rotates one token: qkv bf16 [(heads + 2 kv_heads) · dim] by cos_sin f32 [dim]; with pages its keys and values also go to `slot`.
template <int V>
__device__ void rotate_token(bf16* qkv, const float* cos_sin, float direction, bf16* pages, int slot, int heads, int kv_heads, int dim) {
    int half = dim / 2, vectors = half / V;
    int visited = pages != nullptr ? heads + 2 * kv_heads : heads + kv_heads;
    for (int item = threadIdx.x; item < visited * vectors; item += THREADS) {
        int head = item / vectors, at = item % vectors * V;
        bf16* from = qkv + head * dim + at;
        Vector<bf16, V> first = load<V>(from), second = load<V>(from + half);
        if (head < heads + kv_heads) {
            Vector<float, V> cosine = load<V>(cos_sin + at), sine = load<V>(cos_sin + half + at);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                float a = to_float(first.at[i]), b = to_float(second.at[i]), s = direction * sine.at[i];
                first.at[i] = to_bf16(a * cosine.at[i] - b * s);
                second.at[i] = to_bf16(b * cosine.at[i] + a * s);
            }
            store<V>(from, first);
            store<V>(from + half, second);
        }
        if (pages != nullptr && head >= heads) {
            int kv_head = (head - heads) % kv_heads, what = (head - heads) / kv_heads;
            bf16* to = page_slot(pages, slot, what, kv_head, kv_heads, dim) + at;
            store<V>(to, first);
            store<V>(to + half, second);
        }
    }
}

__device__ inline void rotate(bf16* qkv, const float* cos_sin, float direction, bf16* pages, const int* slots, int heads, int kv_heads,
                              int dim) {
    int token = blockIdx.x, slot = pages != nullptr ? slots[token] : 0;
    bf16* row = qkv + size_t(token) * (heads + 2 * kv_heads) * dim;
    const float* angles = cos_sin + size_t(token) * dim;
    if (dim % (2 * VECTOR) == 0) {
        rotate_token<VECTOR>(row, angles, direction, pages, slot, heads, kv_heads, dim);
    } else {
        rotate_token<1>(row, angles, direction, pages, slot, heads, kv_heads, dim);
    }
}

// hot
// qkv bf16 [T, (heads + 2 kv_heads) · dim]; cos_sin f32 [T, dim], cosines and then sines; slots i32 [T]; without a write, pages and slots
// are null.
extern "C" __global__ void __launch_bounds__(THREADS)
    rope_forward(bf16* qkv, const float* cos_sin, bf16* pages, const int* slots, int heads, int kv_heads, int dim) {
    rotate(qkv, cos_sin, 1.0f, pages, slots, heads, kv_heads, dim);
}

// hot
// dqkv and cos_sin as above.
extern "C" __global__ void __launch_bounds__(THREADS) rope_backward(bf16* dqkv, const float* cos_sin, int heads, int kv_heads, int dim) {
    rotate(dqkv, cos_sin, -1.0f, nullptr, nullptr, heads, kv_heads, dim);
}
