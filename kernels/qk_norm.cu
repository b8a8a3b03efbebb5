// RMSNorm of each query and key head, in place; formulas in src/ops/qk_norm.rs. T tokens (blockIdx.x), D width of a head. A warp has a
// few heads of a token, all loaded at once: lane l takes vectors l, l + 32, ... of a head, so that its sum has one order, whatever the
// number of tokens.
#include "common/reduce.cuh"

constexpr int WARPS = 4;
constexpr int HEADS_OF_WARP = 4;
constexpr int HEADS_PER_BLOCK = WARPS * HEADS_OF_WARP;

// Where heads lie: those of qkv [T, (heads + 2 kv_heads) · D] and of x [T, (heads + kv_heads) · D].
struct Heads {
    int heads, kv_heads, dim;

    __device__ int normed() const { return heads + kv_heads; }
    __device__ size_t in_qkv(int head) const { return (size_t(blockIdx.x) * (normed() + kv_heads) + head) * dim; }
    __device__ size_t in_x(int head) const { return item(head) * dim; }
    __device__ size_t item(int head) const { return size_t(blockIdx.x) * normed() + head; }

    // The first head of this warp; it has those from there on, at most HEADS_OF_WARP.
    __device__ static int first_of_warp() { return blockIdx.y * HEADS_PER_BLOCK + int(threadIdx.x) / WARP * HEADS_OF_WARP; }
};

// Calls visit(i) for the vectors of V elements of a head that are this lane's. A head that IS_HELD is one vector a lane.
template <int V, bool IS_HELD, class Visit>
__device__ inline void for_vectors(int dim, Visit visit) {
    int i = threadIdx.x % WARP * V;
    if constexpr (IS_HELD) {
        if (i < dim) visit(i);
    } else {
#pragma unroll 1
        for (; i < dim; i += WARP * V) visit(i);
    }
}

// Calls visit(Width<V>{}, is_held) with how a warp goes over a head; is_held is a truth as a type.
template <class Visit>
__device__ inline void with_head_width(int dim, Visit visit) {
    if (dim % 4 != 0) {
        visit(Width<1>{}, Width<false>{});
    } else if (dim <= 4 * WARP) {
        visit(Width<4>{}, Width<true>{});
    } else {
        visit(Width<4>{}, Width<false>{});
    }
}

// One head: y bf16 [D] is x and becomes y; x is this lane's vector of it where IS_HELD; kept bf16 [D] (optional) gets x; w bf16 [D].
template <int V, bool IS_HELD>
__device__ inline void normalise_head(Packed<V> x, bf16* y, const bf16* w, bf16* kept, float* rstd, float epsilon, int dim) {
    float squares = 0.0f;
    for_vectors<V, IS_HELD>(dim, [&](int i) {
        if constexpr (!IS_HELD) x = Packed<V>::load(y + i);
        if (kept != nullptr) x.store(kept + i);
#pragma unroll
        for (int j = 0; j < V; ++j) squares = __fmaf_rn(x.number(j), x.number(j), squares);
    });
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + epsilon);
    if (rstd != nullptr && threadIdx.x % WARP == 0) *rstd = scale;
    for_vectors<V, IS_HELD>(dim, [&](int i) {
        if constexpr (!IS_HELD) x = Packed<V>::load(y + i);
        auto weight = Packed<V>::load(w + i);
        Packed<V>::made([&](int j) { return x.number(j) * scale * weight.number(j); }).store(y + i);
    });
}

// hot
// qkv bf16 [T, (heads + 2 kv_heads) · D]; wq, wk bf16 [D]; x bf16 [T, (heads + kv_heads) · D] and rstd f32 [T, heads + kv_heads]: null
// where nothing is kept.
extern "C" __global__ void __launch_bounds__(WARPS * WARP)
    qk_norm_forward(bf16* qkv, const bf16* wq, const bf16* wk, bf16* x, float* rstd, float epsilon, int heads, int kv_heads, int dim) {
    Heads of{heads, kv_heads, dim};
    int first = of.first_of_warp(), count = of.normed() - first;
    with_head_width(dim, [&](auto width, auto is_held) {
        constexpr int V = decltype(width)::value;
        constexpr bool IS_HELD = decltype(is_held)::value;
        Packed<V> held[HEADS_OF_WARP];
        if constexpr (IS_HELD) {
            int i = threadIdx.x % WARP * V;
#pragma unroll
            for (int k = 0; k < HEADS_OF_WARP; ++k) {
                if (k < count && i < dim) held[k] = Packed<V>::load(qkv + of.in_qkv(first + k) + i);
            }
        }
#pragma unroll(IS_HELD ? HEADS_OF_WARP : 1)
        for (int k = 0; k < HEADS_OF_WARP; ++k) {
            int head = first + k;
            if (k >= count) break;
            bf16* kept = x != nullptr ? x + of.in_x(head) : nullptr;
            float* scale = rstd != nullptr ? rstd + of.item(head) : nullptr;
            normalise_head<V, IS_HELD>(held[k], qkv + of.in_qkv(head), head < heads ? wq : wk, kept, scale, epsilon, dim);
        }
    });
}

// One head: dx bf16 [D] is dy and becomes dx; g and own are this lane's vectors of dy and x where IS_HELD; x, w bf16 [D].
template <int V, bool IS_HELD>
__device__ inline void gradient_head(Packed<V> g, Packed<V> own, bf16* dx, const bf16* x, const bf16* w, float rstd, int dim) {
    auto load = [&](int i) {
        if constexpr (!IS_HELD) {
            g = Packed<V>::load(dx + i);
            own = Packed<V>::load(x + i);
        }
        return Packed<V>::load(w + i);
    };
    float products = 0.0f;
    for_vectors<V, IS_HELD>(dim, [&](int i) {
        auto weight = load(i);
#pragma unroll
        for (int j = 0; j < V; ++j) products = __fmaf_rn(g.number(j) * weight.number(j), own.number(j), products);
    });
    float mean = warp_sum(products) / dim * rstd * rstd;
    for_vectors<V, IS_HELD>(dim, [&](int i) {
        auto weight = load(i);
        Packed<V>::made([&](int j) {
            float inner = g.number(j) * weight.number(j) - own.number(j) * mean;
            return rstd * inner;
        }).store(dx + i);
    });
}

// hot
// dqkv, x, wq, wk and rstd as above.
extern "C" __global__ void __launch_bounds__(WARPS * WARP)
    qk_norm_backward(bf16* dqkv, const bf16* x, const bf16* wq, const bf16* wk, const float* rstd, int heads, int kv_heads, int dim) {
    Heads of{heads, kv_heads, dim};
    int first = of.first_of_warp(), count = of.normed() - first;
    with_head_width(dim, [&](auto width, auto is_held) {
        constexpr int V = decltype(width)::value;
        constexpr bool IS_HELD = decltype(is_held)::value;
        Packed<V> g[HEADS_OF_WARP], own[HEADS_OF_WARP];
        if constexpr (IS_HELD) {
            int i = threadIdx.x % WARP * V;
#pragma unroll
            for (int k = 0; k < HEADS_OF_WARP; ++k) {
                if (k < count && i < dim) {
                    g[k] = Packed<V>::load(dqkv + of.in_qkv(first + k) + i);
                    own[k] = Packed<V>::load(x + of.in_x(first + k) + i);
                }
            }
        }
#pragma unroll(IS_HELD ? HEADS_OF_WARP : 1)
        for (int k = 0; k < HEADS_OF_WARP; ++k) {
            int head = first + k;
            if (k >= count) break;
            const bf16* w = head < heads ? wq : wk;
            gradient_head<V, IS_HELD>(g[k], own[k], dqkv + of.in_qkv(head), x + of.in_x(head), w, rstd[of.item(head)], dim);
        }
    });
}

// hot
// partial[part, c] = Σ dy · x · rstd over the part's PARTIAL_ROWS tokens, c a column of the q and k heads, blockIdx.y the part.
// dqkv bf16 [T, width]; x bf16 [T, columns]; rstd f32 [T, columns / dim]; partial f32 [parts, columns].
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    qk_norm_backward_heads_partial(const bf16* dqkv, const bf16* x, const float* rstd, int width, int dim, float* partial, int tokens,
                                   int columns) {
    sum_part(partial, tokens, columns, width, [&](auto vector, int token, int column, float* sums) {
        constexpr int V = decltype(vector)::value;
        Vector<bf16, V> dy = load<V>(dqkv + size_t(token) * width + column), own = load<V>(x + size_t(token) * columns + column);
        const float* scales = rstd + size_t(token) * (columns / dim);
        float scale = scales[column / dim];
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (j > 0 && dim % V != 0) scale = scales[(column + j) / dim];
            sums[j] = __fmaf_rn(to_float(dy.at[j]) * to_float(own.at[j]), scale, sums[j]);
        }
    });
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
