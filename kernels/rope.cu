// Rotary positions on the query and key heads in place, and the write of keys and values into pages; formulas in src/ops/rope.rs. A block
// has a token.
#include "common/pages.cuh"

constexpr int THREADS = 128;

constexpr int HEADS_AT_ONCE = 4;  // that a thread loads before it waits

// Rotates one token: qkv bf16 [(heads + 2 kv_heads) · dim] by cos_sin f32 [dim]; with pages its keys and values also go to `slot`. WIDTH
// threads share a head: a thread has the same places of each of its heads, so the same angles.
template <int V, int WIDTH>
__device__ void rotate_token(bf16* qkv, const float* cos_sin, float direction, bf16* pages, int slot, int heads, int kv_heads, int dim) {
    constexpr int STRIDE = THREADS / WIDTH;
    int half = dim / 2, rotated = heads + kv_heads, visited = pages != nullptr ? rotated + kv_heads : rotated;
    int own = threadIdx.x / WIDTH;
    if (own >= STRIDE) return;
    for (int at = threadIdx.x % WIDTH * V; at < half; at += WIDTH * V) {
        Vector<float, V> cosine = load<V>(cos_sin + at), sine = load<V>(cos_sin + half + at);
        for (int begin = own; begin < visited; begin += STRIDE * HEADS_AT_ONCE) {
            Packed<V> first[HEADS_AT_ONCE], second[HEADS_AT_ONCE];
#pragma unroll
            for (int i = 0; i < HEADS_AT_ONCE; ++i) {
                int head = begin + i * STRIDE;
                if (head < visited) {
                    first[i] = Packed<V>::load(qkv + head * dim + at);
                    second[i] = Packed<V>::load(qkv + head * dim + half + at);
                }
            }
#pragma unroll
            for (int i = 0; i < HEADS_AT_ONCE; ++i) {
                int head = begin + i * STRIDE;
                if (head >= visited) break;
                if (head < rotated) {
                    Packed<V> a = first[i], b = second[i];
                    first[i] = Packed<V>::made([&](int j) {
                        return a.number(j) * cosine.at[j] - b.number(j) * (direction * sine.at[j]);
                    });
                    second[i] = Packed<V>::made([&](int j) {
                        return b.number(j) * cosine.at[j] + a.number(j) * (direction * sine.at[j]);
                    });
                    first[i].store(qkv + head * dim + at);
                    second[i].store(qkv + head * dim + half + at);
                }
                if (pages != nullptr && head >= heads) {
                    int what = head < rotated ? 0 : 1, kv_head = head - heads - what * kv_heads;
                    bf16* to = page_slot(pages, slot, what, kv_head, kv_heads, dim) + at;
                    first[i].store(to);
                    second[i].store(to + half);
                }
            }
        }
    }
}

__device__ inline void rotate(bf16* qkv, const float* cos_sin, float direction, bf16* pages, const int* slots, int heads, int kv_heads,
                              int dim) {
    int token = blockIdx.x, slot = pages != nullptr ? slots[token] : 0;
    bf16* row = qkv + size_t(token) * (heads + 2 * kv_heads) * dim;
    const float* angles = cos_sin + size_t(token) * dim;
    // A thread a vector of half a head for the usual widths, a warp a head for others.
    if (dim == 128) {
        rotate_token<VECTOR, 8>(row, angles, direction, pages, slot, heads, kv_heads, dim);
    } else if (dim == 80) {
        rotate_token<VECTOR, 5>(row, angles, direction, pages, slot, heads, kv_heads, dim);
    } else if (dim == 64) {
        rotate_token<VECTOR, 4>(row, angles, direction, pages, slot, heads, kv_heads, dim);
    } else if (dim % (2 * VECTOR) == 0) {
        rotate_token<VECTOR, 32>(row, angles, direction, pages, slot, heads, kv_heads, dim);
    } else {
        rotate_token<1, 32>(row, angles, direction, pages, slot, heads, kv_heads, dim);
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
