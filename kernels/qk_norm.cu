// RMSNorm of each query and key head, in place; formulas in src/ops/qk_norm.rs. T tokens, D width of a head. A warp has a head: lane l
// takes vectors l, l + 32, ... of it, so that a head's sum has one order, whatever the number of tokens.
#include "common/reduce.cuh"

constexpr int HEADS_PER_BLOCK = 4;

// Where a warp's head lies: the first element in qkv [T, (heads + 2 kv_heads) · D] and in x [T, (heads + kv_heads) · D].
struct HeadPlace {
    size_t in_qkv, in_x;
    bool is_query;
};

// `item` = token · (heads + kv_heads) + head.
__device__ inline HeadPlace place_of(int item, int heads, int kv_heads, int dim) {
    int normed = heads + kv_heads, token = item / normed, head = item % normed;
    return {(size_t(token) * (normed + kv_heads) + head) * dim, size_t(item) * dim, head < heads};
}

// One head: y bf16 [D] is x and becomes y; kept bf16 [D] (optional) gets x; w bf16 [D].
template <int V>
__device__ void normalise_head(bf16* y, const bf16* w, bf16* kept, float* rstd, float epsilon, int dim) {
    int lane = threadIdx.x % WARP;
    float squares = 0.0f;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> x = load<V>(y + i);
        if (kept != nullptr) store<V>(kept + i, x);
        for (int j = 0; j < V; ++j) squares = __fmaf_rn(to_float(x.at[j]), to_float(x.at[j]), squares);
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + epsilon);
    if (rstd != nullptr && lane == 0) *rstd = scale;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> out = load<V>(y + i), weight = load<V>(w + i);
        for (int j = 0; j < V; ++j) out.at[j] = to_bf16(to_float(out.at[j]) * scale * to_float(weight.at[j]));
        store<V>(y + i, out);
    }
}

// hot
// qkv bf16 [T, (heads + 2 kv_heads) · D]; wq, wk bf16 [D]; x bf16 [T, (heads + kv_heads) · D] and rstd f32 [T, heads + kv_heads]: null
// where nothing is kept. `items` = T · (heads + kv_heads).
extern "C" __global__ void __launch_bounds__(HEADS_PER_BLOCK * WARP)
    qk_norm_forward(bf16* qkv, const bf16* wq, const bf16* wk, bf16* x, float* rstd, float epsilon, int items, int heads, int kv_heads,
                    int dim) {
    int item = blockIdx.x * HEADS_PER_BLOCK + threadIdx.x / WARP;
    if (item >= items) return;
    HeadPlace place = place_of(item, heads, kv_heads, dim);
    const bf16* w = place.is_query ? wq : wk;
    bf16* kept = x != nullptr ? x + place.in_x : nullptr;
    float* scale = rstd != nullptr ? rstd + item : nullptr;
    if (dim % 4 == 0) {
        normalise_head<4>(qkv + place.in_qkv, w, kept, scale, epsilon, dim);
    } else {
        normalise_head<1>(qkv + place.in_qkv, w, kept, scale, epsilon, dim);
    }
}

// One head: dx bf16 [D] is dy and becomes dx; x, w bf16 [D].
template <int V>
__device__ void gradient_head(bf16* dx, const bf16* x, const bf16* w, float rstd, int dim) {
    int lane = threadIdx.x % WARP;
    float products = 0.0f;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> g = load<V>(dx + i), own = load<V>(x + i), weight = load<V>(w + i);
        for (int j = 0; j < V; ++j) {
            products = __fmaf_rn(to_float(g.at[j]) * to_float(weight.at[j]), to_float(own.at[j]), products);
        }
    }
    float mean = warp_sum(products) / dim * rstd * rstd;
    for (int i = lane * V; i < dim; i += WARP * V) {
        Vector<bf16, V> g = load<V>(dx + i), own = load<V>(x + i), weight = load<V>(w + i);
        for (int j = 0; j < V; ++j) {
            float inner = to_float(g.at[j]) * to_float(weight.at[j]) - to_float(own.at[j]) * mean;
            g.at[j] = to_bf16(rstd * inner);
        }
        store<V>(dx + i, g);
    }
}

// hot
// dqkv, x, wq, wk, rstd and `items` as above.
extern "C" __global__ void __launch_bounds__(HEADS_PER_BLOCK * WARP)
    qk_norm_backward(bf16* dqkv, const bf16* x, const bf16* wq, const bf16* wk, const float* rstd, int items, int heads, int kv_heads,
                     int dim) {
    int item = blockIdx.x * HEADS_PER_BLOCK + threadIdx.x / WARP;
    if (item >= items) return;
    HeadPlace place = place_of(item, heads, kv_heads, dim);
    const bf16* w = place.is_query ? wq : wk;
    if (dim % 4 == 0) {
        gradient_head<4>(dqkv + place.in_qkv, x + place.in_x, w, rstd[item], dim);
    } else {
        gradient_head<1>(dqkv + place.in_qkv, x + place.in_x, w, rstd[item], dim);
    }
}

// partial[part, c] = Σ dy · x · rstd over the part's PARTIAL_ROWS tokens; a thread a column c of the q and k heads, blockIdx.y the part.
// dqkv bf16 [T, width]; x bf16 [T, columns]; rstd f32 [T, columns / dim]; partial f32 [parts, columns].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    qk_norm_backward_heads_partial(const bf16* dqkv, const bf16* x, const float* rstd, int width, int dim, float* partial, int tokens,
                                   int columns) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column >= columns) return;
    int first = blockIdx.y * PARTIAL_ROWS, end = min(first + PARTIAL_ROWS, tokens);
    float sum = 0.0f;
    for (int token = first; token < end; ++token) {
        float dy = to_float(dqkv[size_t(token) * width + column]), own = to_float(x[size_t(token) * columns + column]);
        sum = __fmaf_rn(dy * own, rstd[size_t(token) * (columns / dim) + column / dim], sum);
    }
    partial[size_t(blockIdx.y) * columns + column] = sum;
}

// of_heads[c] += Σ partial[part, c].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    qk_norm_backward_heads(const float* partial, float* of_heads, int parts, int columns) {
    add_partial_rows(partial, of_heads, parts, columns);
}

// dwq[d] += Σ of_heads[head, d] over the query heads, dwk[d] over the key heads behind them; a thread a column d.
// of_heads f32 [heads + kv_heads, dim]; dwq, dwk f32 [dim].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    qk_norm_backward_weight(const float* of_heads, float* dwq, float* dwk, int heads, int kv_heads, int dim) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column >= dim) return;
    float query = 0.0f, key = 0.0f;
    for (int head = 0; head < heads; ++head) query += of_heads[size_t(head) * dim + column];
    for (int head = heads; head < heads + kv_heads; ++head) key += of_heads[size_t(head) * dim + column];
    dwq[column] += query;
    dwk[column] += key;
}
