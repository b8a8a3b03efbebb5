// Softmax attention over packed or paged keys, forward and backward; formulas in src/ops/attention.rs. A block has one key/value head and
// 64 rows, 16 a warp: a row is a query token with one of the query heads that share the head, so that the heads of one decoded token fill
// a tensor core's tile. Keys come in tiles at fixed positions from the sequence's start, packed and paged alike, and a row's sums depend
// on nothing but its own keys: those that it may not see add exact zeros.
#include "common/pages.cuh"
#include "common/tile.cuh"

constexpr int THREADS = 128;  // of a block; a 1 behind it in the bounds leaves ptxas the registers that it wants
constexpr int WARPS = THREADS / WARP;
constexpr int TILE_ROWS = WARPS * 16;
constexpr int TILE_KEYS = 64;
constexpr int SPLIT_KEYS = 1024;  // keys whose softmax is formed by itself before it joins that of the keys before them
constexpr int STEP = 32;          // keys, or rows, of a tile that a block goes through in backward
constexpr float LOG2_E = 1.4426950408889634f;

// Sizes and settings of a call.
struct AttentionShape {
    int heads, kv_heads, tokens, segments, pages_max, is_causal;
    float scale;

    __device__ int group() const { return heads / kv_heads; }
};
static_assert(sizeof(AttentionShape) == 28);

// ---- what a block works on ----

// The rows of a segment that a tile covers; absent where there are fewer tiles than blocks.
struct Tile {
    int segment, first;
};

// Which tile of which segment block `number` has, when a segment of n tokens has n * rows_per_token rows. The same in every lane.
__device__ Tile find_tile(const int* bounds, int segments, int rows_per_token, int number) {
    int lane = threadIdx.x % WARP;
    for (int first = 0; first < segments; first += WARP) {
        int segment = first + lane;
        int rows = segment < segments ? (bounds[segment + 1] - bounds[segment]) * rows_per_token : 0;
        int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
        int through = tiles;
        for (int distance = 1; distance < WARP; distance *= 2) {
            int before = __shfl_up_sync(~0u, through, distance);
            if (lane >= distance) through += before;
        }
        unsigned found = __ballot_sync(~0u, through > number);
        if (found != 0) {
            int at = __ffs(found) - 1;
            int before = __shfl_sync(~0u, through - tiles, at);
            return {first + at, (number - before) * TILE_ROWS};
        }
        number -= __shfl_sync(~0u, through, WARP - 1);
    }
    return {-1, 0};
}

// Tokens that a segment's queries see: `prefix_rows` rows from `prefix`, then those from `own`. Query i stands at position `start` + i.
struct Segment {
    int own, queries, prefix, prefix_rows, start, keys;

    // The row of qkv that holds the key at a position.
    __device__ int key_row(int position) const {
        return position < prefix_rows ? prefix + position : own + position - prefix_rows;
    }
};

__device__ Segment packed_segment(const int* bounds, const int* prefixes, int index) {
    Segment segment{bounds[index], bounds[index + 1] - bounds[index], 0, 0, 0, 0};
    int prefix = prefixes != nullptr ? prefixes[index] : -1;
    if (prefix >= 0) {
        segment.prefix = bounds[prefix];
        segment.prefix_rows = bounds[prefix + 1] - bounds[prefix];
    }
    segment.start = segment.prefix_rows;
    segment.keys = segment.prefix_rows + segment.queries;
    return segment;
}

// qkv or its gradient, bf16 [T, (heads + 2 kv_heads) DIM]: a token's heads of queries, then those of keys, then those of values.
template <int DIM, class T>
struct Qkv {
    T* values;
    int heads, kv_heads;

    __device__ T* row(int token) const { return values + token * (size_t(heads + 2 * kv_heads) * DIM); }
    __device__ T* query(int token, int head) const { return row(token) + size_t(head) * DIM; }
    __device__ T* key(int token, int kv_head) const { return row(token) + size_t(heads + kv_head) * DIM; }
    __device__ T* value(int token, int kv_head) const { return row(token) + size_t(heads + kv_heads + kv_head) * DIM; }
};

// Rows of a segment from `first` on, `count` of them; of each its token and its head.
struct Rows {
    int first, count, own, group, kv_head, heads;

    __device__ int query(int row) const { return (first + row) / group; }
    __device__ int token(int row) const { return own + query(row); }
    __device__ int head(int row) const { return kv_head * group + (first + row) % group; }
    // Which of the rows [T, heads] of o, lse and delta it is.
    __device__ size_t at(int row) const { return size_t(token(row)) * heads + head(row); }
    // How many keys it sees.
    __device__ int limit(int row, const Segment& segment, bool is_causal) const {
        return is_causal ? segment.start + query(row) + 1 : segment.keys;
    }
};

// Those of a tile.
__device__ inline Rows rows_of(const Segment& segment, int first, const AttentionShape& shape) {
    int group = shape.group();
    return {first, min(TILE_ROWS, segment.queries * group - first), segment.own, group, int(blockIdx.y), shape.heads};
}

// The row of the block that elements 2 half and 2 half + 1 of this lane's accumulators belong to.
__device__ inline int lane_row(int half) { return int(threadIdx.x) / WARP * 16 + Accumulator<8>::row(2 * half); }

// Writes this lane's part of row `half` of an accumulator, rounded, to a row in memory.
template <int DIM, class Finish>
__device__ inline void store_row(bf16* to, const Accumulator<DIM>& values, int half, Finish finish) {
#pragma unroll
    for (int n = 0; n < DIM / 8; ++n) {
        uint32_t pair = pack(finish(values.at[n][2 * half]), finish(values.at[n][2 * half + 1]));
        *reinterpret_cast<uint32_t*>(to + values.column(n, 0)) = pair;
    }
}

// ---- forward ----

// How much two softmaxes of one row shrink when both are measured from the larger top. Where nothing was seen, nothing shrinks: the
// factor is exactly 1, so that unseen keys leave no trace.
struct Joint {
    float top, before, after;
    __device__ Joint(float top_before, float top_after, float scale) {
        top = fmaxf(top_before, top_after);
        before = top == -INFINITY ? 1.0f : exp2f((top_before - top) * scale);
        after = top == -INFINITY ? 1.0f : exp2f((top_after - top) * scale);
    }
};

// The softmax of some keys, for a lane's two rows.
template <int DIM>
struct Softmax {
    float top[2] = {-INFINITY, -INFINITY};  // the largest score
    float sum[2] = {};                      // of exp(score - top), over this lane's keys until `finish`
    Accumulator<DIM> o;                     // of exp(score - top) v

    // Takes a tile's scores, of which those of unseen keys are -infinity, and makes weights of them: exp(score - top). What came before is
    // measured from the new top. `scale` makes scores exponents of 2.
    __device__ void add(Accumulator<TILE_KEYS>& scores, float scale) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = -INFINITY;
#pragma unroll
            for (auto& pair : scores.at) most = fmaxf(most, fmaxf(pair[2 * half], pair[2 * half + 1]));
            Joint joint(top[half], row_max(most), scale);
            top[half] = joint.top;
            float origin = joint.top == -INFINITY ? 0.0f : joint.top * scale;
            float added = 0.0f;
#pragma unroll
            for (auto& pair : scores.at) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    pair[i] = exp2f(__fmaf_rn(pair[i], scale, -origin));
                    added += pair[i];
                }
            }
            sum[half] = __fmaf_rn(sum[half], joint.before, added);
#pragma unroll
            for (auto& pair : o.at) {
                pair[2 * half] *= joint.before;
                pair[2 * half + 1] *= joint.before;
            }
        }
    }

    // Brings the sums of a row's lanes together.
    __device__ void finish() {
#pragma unroll
        for (int half = 0; half < 2; ++half) sum[half] = row_sum(sum[half]);
    }
};

// Elements of o that a thread keeps in shared memory while it joins splits. Of heads of 128 two of its 64 stay in registers: the block then
// needs 99 KiB, which every GPU gives.
constexpr int joined_elements(int dim) { return dim == 128 ? dim / 2 - 2 : dim / 2; }

// Shared memory of a forward block: two stages of keys and values and, where it joins the softmaxes of several splits, those before.
constexpr int forward_bytes(int dim, bool joins) {
    return 4 * tile_bytes(TILE_KEYS, dim) + (joins ? joined_elements(dim) * THREADS * sizeof(float) : 0);
}

template <int DIM>
struct ForwardShared {
    SharedTile<TILE_KEYS, DIM> keys[2], values[2];
    float joined[joined_elements(DIM)][THREADS];  // a bank a lane
};
static_assert(sizeof(ForwardShared<16>) == forward_bytes(16, true) && sizeof(ForwardShared<128>) == forward_bytes(128, true));

// The softmax of the splits so far.
template <int DIM>
struct Joined {
    static constexpr int IN_SHARED = joined_elements(DIM);
    ForwardShared<DIM>* shared;
    bool is_empty = true;
    float top[2], sum[2], in_registers[2];

    __device__ float& o(int n, int i) {
        int element = n * 4 + i;
        return element < IN_SHARED ? shared->joined[element][threadIdx.x] : in_registers[element - IN_SHARED];
    }
    __device__ void join(const Softmax<DIM>& split, float scale) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Joint joint(is_empty ? split.top[half] : top[half], split.top[half], scale);
            sum[half] = is_empty ? split.sum[half] : __fmaf_rn(sum[half], joint.before, split.sum[half] * joint.after);
            top[half] = joint.top;
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    float& own = o(n, i);
                    own = is_empty ? split.o.at[n][i] : __fmaf_rn(own, joint.before, split.o.at[n][i] * joint.after);
                }
            }
        }
        is_empty = false;
    }
    __device__ void copy_to(Softmax<DIM>& all) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            all.top[half] = top[half];
            all.sum[half] = sum[half];
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) all.o.at[n][i] = o(n, i);
        }
    }
};

// Keys in pages; `pages` is null where keys are packed.
struct Paged {
    const bf16* pages;
    const int *page_tables, *lengths;
};

// The keys and values of a block's segment and head.
template <int DIM>
struct Keys {
    Qkv<DIM, const bf16> qkv;
    Segment segment;
    const bf16* pages;
    const int* page_table;  // null where they are packed
    int kv_head;

    // The key (`what` 0) or value (1) at a position.
    __device__ const bf16* at(int position, int what) const {
        if (page_table != nullptr) {
            int slot = page_table[position / PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS;
            return page_slot(pages, slot, what, kv_head, qkv.kv_heads, DIM);
        }
        int row = segment.key_row(position);
        return what == 0 ? qkv.key(row, kv_head) : qkv.value(row, kv_head);
    }
};

template <int DIM>
__device__ Keys<DIM> keys_of(const Qkv<DIM, const bf16>& qkv, const int* bounds, const int* prefixes, const Paged& paged, int index,
                             const AttentionShape& shape) {
    Keys<DIM> keys{qkv, packed_segment(bounds, prefixes, index), paged.pages, nullptr, int(blockIdx.y)};
    if (paged.pages != nullptr) {
        keys.page_table = paged.page_tables + size_t(index) * shape.pages_max;
        keys.segment.keys = paged.lengths[index];
        keys.segment.start = keys.segment.keys - keys.segment.queries;
    }
    return keys;
}

// Where results go. Without `parts` a block goes through all splits and writes o and lse; with it, block z has split z and leaves the
// joining to attention_join.
struct Output {
    bf16* o;
    float* lse;
    float* parts;  // [splits, T, heads, DIM + 2]: o not yet divided, top, sum
};

// Of a row's scores, natural; `scale` is that of the scores.
__device__ inline float log_sum_exp(float top, float sum, float scale) { return top * scale + logf(sum); }

// The queries of a warp's 16 rows; zeros where there is no row.
template <int DIM>
__device__ inline void load_queries(FragmentA (&q)[DIM / 16], const Qkv<DIM, const bf16>& qkv, const Rows& rows) {
#pragma unroll
    for (int k = 0; k < DIM / 16; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int row = lane_row(i % 2), column = k * 16 + i / 2 * 8 + threadIdx.x % 4 * 2;
            bool is_inside = row < rows.count;
            const bf16* from = qkv.query(rows.token(row), rows.head(row)) + column;
            q[k].at[i] = is_inside ? *reinterpret_cast<const uint32_t*>(from) : 0;
        }
    }
}

// This lane's two rows, the second 8 below the first: which of [T, heads] each is, and how many keys it sees, none outside the block's rows.
struct LaneRows {
    int at[2], limit[2];
};

__device__ inline LaneRows lane_rows(const Rows& rows, const Segment& segment, bool is_causal) {
    LaneRows lane;
    for (int half = 0; half < 2; ++half) {
        int row = lane_row(half);
        lane.at[half] = int(rows.at(row));
        lane.limit[half] = row < rows.count ? rows.limit(row, segment, is_causal) : 0;
    }
    return lane;
}

// Of the scores of a tile from `key` on, those of keys that a row does not see become -infinity.
__device__ inline void mask(Accumulator<TILE_KEYS>& scores, int key, const int (&limit)[2]) {
#pragma unroll
    for (int j = 0; j < TILE_KEYS / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (key + scores.column(j, i) >= limit[i / 2]) scores.at[j][i] = -INFINITY;
        }
    }
}

template <int DIM>
__device__ inline void store_forward(const Softmax<DIM>& all, const Rows& rows, const LaneRows& lane, const Output& out,
                                     const AttentionShape& shape) {
    bool is_first_lane = threadIdx.x % 4 == 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (lane_row(half) >= rows.count) continue;
        size_t at = lane.at[half];
        float top = all.top[half], sum = all.sum[half];
        if (out.parts != nullptr) {
            float* part = out.parts + (size_t(blockIdx.z) * shape.tokens * shape.heads + at) * (DIM + 2);
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
                for (int i = 0; i < 2; ++i) part[all.o.column(n, i)] = all.o.at[n][2 * half + i];
            }
            if (is_first_lane) {
                part[DIM] = top;
                part[DIM + 1] = sum;
            }
        } else {
            store_row(out.o + at * DIM, all.o, half, [&](float o) { return o / sum; });
            if (is_first_lane) out.lse[at] = log_sum_exp(top, sum, shape.scale);
        }
    }
}

template <int DIM>
__device__ void forward(const bf16* values, const int* bounds, const int* prefixes, const Paged& paged, const Output& out,
                        const AttentionShape& shape) {
    DYNAMIC_SHARED(ForwardShared<DIM>, shared);
    Tile tile = find_tile(bounds, shape.segments, shape.group(), blockIdx.x);
    if (tile.segment < 0) return;
    const Qkv<DIM, const bf16> qkv{values, shape.heads, shape.kv_heads};
    const Keys<DIM> keys = keys_of(qkv, bounds, prefixes, paged, tile.segment, shape);
    const Rows rows = rows_of(keys.segment, tile.first, shape);
    int seen = rows.limit(rows.count - 1, keys.segment, shape.is_causal);
    int first_key = out.parts != nullptr ? blockIdx.z * SPLIT_KEYS : 0;
    int end_key = out.parts != nullptr ? min(first_key + SPLIT_KEYS, seen) : seen;

    auto load = [&](int key, int stage) {
        if (key < end_key) {
            auto row = [&](int i, int what) { return key + i < seen ? keys.at(key + i, what) : nullptr; };
            shared->keys[stage].template load<THREADS>(values, [&](int i) { return row(i, 0); });
            shared->values[stage].template load<THREADS>(values, [&](int i) { return row(i, 1); });
        }
        cp_async_commit();
    };
    bool is_active = int(threadIdx.x) / WARP * 16 < rows.count;
    const LaneRows lane = lane_rows(rows, keys.segment, shape.is_causal);
    FragmentA q[DIM / 16];
    load_queries<DIM>(q, qkv, rows);
    float exponent = shape.scale * LOG2_E;
    Softmax<DIM> split;
    Joined<DIM> joined{shared};

    load(first_key, 0);
    for (int key = first_key, stage = 0; key < end_key; key += TILE_KEYS, stage ^= 1) {
        load(key + TILE_KEYS, stage ^ 1);
        cp_async_wait<1>();
        __syncthreads();
        if (is_active) {
            Accumulator<TILE_KEYS> scores;
            mma_ABt(scores, q, shared->keys[stage]);
            mask(scores, key, lane.limit);
            split.add(scores, exponent);
            mma_AB(split.o, scores, shared->values[stage]);
            bool is_last = key + TILE_KEYS >= end_key;
            if (is_last || (key + TILE_KEYS) % SPLIT_KEYS == 0) {
                split.finish();
                // One split is all: it stays in registers.
                if (!is_last || !joined.is_empty) {
                    joined.join(split, exponent);
                    split = Softmax<DIM>();
                }
            }
        }
        __syncthreads();
    }
    if (!is_active) return;
    if (!joined.is_empty) joined.copy_to(split);
    store_forward(split, rows, lane, out, shape);
}

// qkv bf16 [T, (heads + 2 kv_heads) dim]; bounds i32 [segments + 1]; prefixes i32 [segments] or null; pages, page_tables i32 [segments,
// pages_max] and lengths i32 [segments], or null; o bf16 [T, heads dim], lse f32 [T, heads]; parts f32 or null. Blocks: at least as many
// as there are tiles, then kv_heads, then splits where there are parts.
#define FORWARD_PARAMETERS                                                                                                          \
    const bf16 *qkv, const int *bounds, const int *prefixes, const bf16 *pages, const int *page_tables, const int *lengths, bf16 *o, \
        float *lse, float *parts, AttentionShape shape
#define FORWARD_ARGUMENTS qkv, bounds, prefixes, {pages, page_tables, lengths}, {o, lse, parts}, shape

// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_16(FORWARD_PARAMETERS) { forward<16>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_32(FORWARD_PARAMETERS) { forward<32>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_48(FORWARD_PARAMETERS) { forward<48>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_64(FORWARD_PARAMETERS) { forward<64>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_80(FORWARD_PARAMETERS) { forward<80>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_96(FORWARD_PARAMETERS) { forward<96>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_112(FORWARD_PARAMETERS) { forward<112>(FORWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_128(FORWARD_PARAMETERS) { forward<128>(FORWARD_ARGUMENTS); }

// The splits of a row, joined left to right exactly as `forward` joins them; a warp has a row of o. parts [splits, T, heads, dim + 2];
// positions past a row's keys have a top of -infinity.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_join(const float* parts, const int* bounds, const int* lengths, bf16* o, float* lse, int splits, int dim,
                   AttentionShape shape) {
    int number = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (number >= shape.tokens * shape.heads) return;
    int token = number / shape.heads, segment = 0;
    while (segment + 1 < shape.segments && bounds[segment + 1] <= token) ++segment;
    int seen = lengths[segment] - (bounds[segment + 1] - token) + 1;
    int count = min(splits, (seen + SPLIT_KEYS - 1) / SPLIT_KEYS);
    size_t stride = size_t(shape.tokens) * shape.heads * (dim + 2);
    const float* part = parts + size_t(number) * (dim + 2);
    float top = part[dim], sum = part[dim + 1], exponent = shape.scale * LOG2_E;
    for (int split = 1; split < count; ++split) {
        const float* next = part + split * stride;
        Joint joint(top, next[dim], exponent);
        sum = __fmaf_rn(sum, joint.before, next[dim + 1] * joint.after);
        top = joint.top;
    }
    for (int column = lane; column < dim; column += WARP) {
        float value = part[column], top_before = part[dim];
        for (int split = 1; split < count; ++split) {
            const float* next = part + split * stride;
            Joint joint(top_before, next[dim], exponent);
            value = __fmaf_rn(value, joint.before, next[column] * joint.after);
            top_before = joint.top;
        }
        o[size_t(number) * dim + column] = to_bf16(value / sum);
    }
    if (lane == 0) lse[number] = log_sum_exp(top, sum, shape.scale);
}

// ---- backward ----

// delta[t, h] = do · o, a warp a row; d_o, o bf16 [T, heads, dim].
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_backward_delta(const bf16* d_o, const bf16* o, float* delta, int rows, int dim) {
    int row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    float sum = 0.0f;
    for (int i = lane; i < dim; i += WARP) {
        size_t at = size_t(row) * dim + i;
        sum = __fmaf_rn(to_float(d_o[at]), to_float(o[at]), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) delta[row] = sum;
}

// Shared memory of a backward block: its own tiles, and two stages of those that it goes through.
constexpr int backward_bytes(int dim) { return 2 * tile_bytes(TILE_ROWS, dim) + 4 * tile_bytes(STEP, dim); }

// What both kernels read.
struct Backward {
    const bf16 *d_o, *qkv;
    const float *lse, *delta;
    const int *bounds, *prefixes;
};

template <int DIM>
struct QueriesShared {
    SharedTile<TILE_ROWS, DIM> queries, d_o;
    SharedTile<STEP, DIM> keys[2], values[2];
};
static_assert(sizeof(QueriesShared<16>) == backward_bytes(16) && sizeof(QueriesShared<128>) == backward_bytes(128));

// Makes gradients of the scores of keys from `key` on, ds, of those of their weights: of each row's keys `limit` are seen; lse is an
// exponent of 2.
__device__ inline void weigh(Accumulator<STEP>& ds, const Accumulator<STEP>& scores, int key, const int (&limit)[2], const float (&lse)[2],
                             const float (&delta)[2], float exponent) {
#pragma unroll
    for (int j = 0; j < STEP / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            bool is_seen = key + scores.column(j, i) < limit[i / 2];
            float p = is_seen ? exp2f(__fmaf_rn(scores.at[j][i], exponent, -lse[i / 2])) : 0.0f;
            ds.at[j][i] = p * (ds.at[j][i] - delta[i / 2]);
        }
    }
}

// The gradient of the queries: a block has rows, and goes through the keys that they see.
template <int DIM>
__device__ void backward_queries(const Backward& in, bf16* dqkv, const AttentionShape& shape) {
    DYNAMIC_SHARED(QueriesShared<DIM>, shared);
    int kv_head = blockIdx.y, warp_row = int(threadIdx.x) / WARP * 16;
    Tile tile = find_tile(in.bounds, shape.segments, shape.group(), blockIdx.x);
    if (tile.segment < 0) return;
    const Qkv<DIM, const bf16> qkv{in.qkv, shape.heads, shape.kv_heads};
    const Segment segment = packed_segment(in.bounds, in.prefixes, tile.segment);
    const Rows rows = rows_of(segment, tile.first, shape);
    int seen = rows.limit(rows.count - 1, segment, shape.is_causal);

    shared->queries.template load<THREADS>(
        in.qkv, [&](int i) { return i < rows.count ? qkv.query(rows.token(i), rows.head(i)) : nullptr; });
    shared->d_o.template load<THREADS>(in.qkv, [&](int i) { return i < rows.count ? in.d_o + rows.at(i) * DIM : nullptr; });
    auto load = [&](int key, int stage) {
        if (key < seen) {
            shared->keys[stage].template load<THREADS>(
                in.qkv, [&](int i) { return key + i < seen ? qkv.key(segment.key_row(key + i), kv_head) : nullptr; });
            shared->values[stage].template load<THREADS>(
                in.qkv, [&](int i) { return key + i < seen ? qkv.value(segment.key_row(key + i), kv_head) : nullptr; });
        }
        cp_async_commit();
    };
    bool is_active = warp_row < rows.count;
    int limit[2];
    float lse[2], delta[2];
    for (int half = 0; half < 2; ++half) {
        int row = lane_row(half);
        bool is_inside = row < rows.count;
        limit[half] = is_inside ? rows.limit(row, segment, shape.is_causal) : 0;
        lse[half] = is_inside ? in.lse[rows.at(row)] * LOG2_E : 0.0f;
        delta[half] = is_inside ? in.delta[rows.at(row)] : 0.0f;
    }
    float exponent = shape.scale * LOG2_E;
    Accumulator<DIM> dq;

    load(0, 0);
    for (int key = 0, stage = 0; key < seen; key += STEP, stage ^= 1) {
        load(key + STEP, stage ^ 1);
        cp_async_wait<1>();
        __syncthreads();
        if (is_active) {
            Accumulator<STEP> scores, ds;
            mma_ABt(scores, shared->queries, warp_row, shared->keys[stage]);
            mma_ABt(ds, shared->d_o, warp_row, shared->values[stage]);
            weigh(ds, scores, key, limit, lse, delta, exponent);
            mma_AB(dq, ds, shared->keys[stage]);
        }
        __syncthreads();
    }
    const Qkv<DIM, bf16> to{dqkv, shape.heads, shape.kv_heads};
    for (int half = 0; half < 2; ++half) {
        int row = lane_row(half);
        if (row >= rows.count) continue;
        store_row(to.query(rows.token(row), rows.head(row)), dq, half, [&](float x) { return x * shape.scale; });
    }
}

template <int DIM>
struct KeysShared {
    SharedTile<TILE_ROWS, DIM> keys, values;
    SharedTile<STEP, DIM> queries[2], d_o[2];
};
static_assert(sizeof(KeysShared<16>) == backward_bytes(16) && sizeof(KeysShared<128>) == backward_bytes(128));

// The same transposed: a lane's rows are keys, from `first_key` on, its columns rows from `row` on. p comes as scores, and becomes weights.
__device__ inline void weigh_transposed(Accumulator<STEP>& p, Accumulator<STEP>& ds, const Backward& in, const Rows& rows, int row,
                                        int first_key, bool is_causal, float scale) {
#pragma unroll
    for (int j = 0; j < STEP / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int at = row + p.column(j, i), key = first_key + p.row(i);
            bool is_seen = at < rows.count && !(is_causal && key > rows.query(at));
            // Loaded by every lane: a load behind a branch of its own could not overlap with the others.
            size_t from = rows.at(min(at, rows.count - 1));
            float lse = in.lse[from], delta = in.delta[from];
            float weight = exp2f(__fmaf_rn(p.at[j][i], scale * LOG2_E, -lse * LOG2_E));
            p.at[j][i] = is_seen ? weight : 0.0f;
            ds.at[j][i] = is_seen ? weight * (ds.at[j][i] - delta) : 0.0f;
        }
    }
}

// The gradient of keys and values: a block has some of a segment's own keys, and goes through the rows that see them: the segment's, then
// those of the segments that have it for their prefix, each in ascending order.
template <int DIM>
__device__ void backward_keys(const Backward& in, bf16* dqkv, const AttentionShape& shape) {
    DYNAMIC_SHARED(KeysShared<DIM>, shared);
    int kv_head = blockIdx.y, warp_row = int(threadIdx.x) / WARP * 16;
    Tile tile = find_tile(in.bounds, shape.segments, 1, blockIdx.x);
    if (tile.segment < 0) return;
    const Qkv<DIM, const bf16> qkv{in.qkv, shape.heads, shape.kv_heads};
    int first = in.bounds[tile.segment] + tile.first, keys = min(TILE_ROWS, in.bounds[tile.segment + 1] - first);

    shared->keys.template load<THREADS>(in.qkv, [&](int i) { return i < keys ? qkv.key(first + i, kv_head) : nullptr; });
    shared->values.template load<THREADS>(in.qkv, [&](int i) { return i < keys ? qkv.value(first + i, kv_head) : nullptr; });
    bool is_active = warp_row < keys;
    Accumulator<DIM> dk, dv;
    for (int other = tile.segment; other < shape.segments; ++other) {
        bool is_own = other == tile.segment, is_causal = is_own && shape.is_causal;
        if (!is_own && (in.prefixes == nullptr || in.prefixes[other] != tile.segment)) continue;
        int own = in.bounds[other], group = shape.group();
        const Rows rows{0, (in.bounds[other + 1] - own) * group, own, group, kv_head, shape.heads};
        auto load = [&](int row, int stage) {
            if (row < rows.count) {
                shared->queries[stage].template load<THREADS>(in.qkv, [&](int i) {
                    return row + i < rows.count ? qkv.query(rows.token(row + i), rows.head(row + i)) : nullptr;
                });
                shared->d_o[stage].template load<THREADS>(
                    in.qkv, [&](int i) { return row + i < rows.count ? in.d_o + rows.at(row + i) * DIM : nullptr; });
            }
            cp_async_commit();
        };
        int begin = is_causal ? tile.first * group : 0;
        load(begin, 0);
        for (int row = begin, stage = 0; row < rows.count; row += STEP, stage ^= 1) {
            load(row + STEP, stage ^ 1);
            cp_async_wait<1>();
            __syncthreads();
            if (is_active) {
                Accumulator<STEP> p, ds;
                mma_ABt(p, shared->keys, warp_row, shared->queries[stage]);
                mma_ABt(ds, shared->values, warp_row, shared->d_o[stage]);
                weigh_transposed(p, ds, in, rows, row, tile.first + warp_row, is_causal, shape.scale);
                mma_AB(dv, p, shared->d_o[stage]);
                mma_AB(dk, ds, shared->queries[stage]);
            }
            __syncthreads();
        }
    }
    const Qkv<DIM, bf16> to{dqkv, shape.heads, shape.kv_heads};
    for (int half = 0; half < 2; ++half) {
        int key = lane_row(half);
        if (key >= keys) continue;
        store_row(to.key(first + key, kv_head), dk, half, [&](float x) { return x * shape.scale; });
        store_row(to.value(first + key, kv_head), dv, half, [&](float x) { return x; });
    }
}

// d_o bf16 [T, heads dim]; qkv and bounds and prefixes as forward has them; lse, delta f32 [T, heads]; dqkv bf16 as qkv: one kernel writes
// its queries, the other its keys and values. Blocks: at least as many as there are tiles, then kv_heads.
#define BACKWARD_PARAMETERS                                                                                                     \
    const bf16 *d_o, const bf16 *qkv, const float *lse, const float *delta, const int *bounds, const int *prefixes, bf16 *dqkv, \
        AttentionShape shape
#define BACKWARD_ARGUMENTS {d_o, qkv, lse, delta, bounds, prefixes}, dqkv, shape

// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_16(BACKWARD_PARAMETERS) { backward_queries<16>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_32(BACKWARD_PARAMETERS) { backward_queries<32>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_48(BACKWARD_PARAMETERS) { backward_queries<48>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_64(BACKWARD_PARAMETERS) { backward_queries<64>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_80(BACKWARD_PARAMETERS) { backward_queries<80>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_96(BACKWARD_PARAMETERS) { backward_queries<96>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_112(BACKWARD_PARAMETERS) { backward_queries<112>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_128(BACKWARD_PARAMETERS) { backward_queries<128>(BACKWARD_ARGUMENTS); }

// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_16(BACKWARD_PARAMETERS) { backward_keys<16>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_32(BACKWARD_PARAMETERS) { backward_keys<32>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_48(BACKWARD_PARAMETERS) { backward_keys<48>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_64(BACKWARD_PARAMETERS) { backward_keys<64>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_80(BACKWARD_PARAMETERS) { backward_keys<80>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_96(BACKWARD_PARAMETERS) { backward_keys<96>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_112(BACKWARD_PARAMETERS) { backward_keys<112>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_128(BACKWARD_PARAMETERS) { backward_keys<128>(BACKWARD_ARGUMENTS); }
