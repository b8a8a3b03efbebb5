// What a block of attention works on. It has one key/value head and TILE_ROWS rows of a segment: a row is a query token with one of the query
// heads that share the head, so that the heads of one decoded token fill a tensor core's tile. Keys lie in tiles at fixed positions from the
// sequence's start, packed and paged alike, and a row's sums depend on nothing but its own keys.
#pragma once

#include "common/math.cuh"
#include "common/pages.cuh"
#include "common/tile.cuh"

// Threads of a block. A 1 behind it in the bounds leaves ptxas the registers that it wants; a 3 stands where it would want a few too many for three
// blocks on a multiprocessor.
constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;
constexpr int TILE_ROWS = WARPS * 16;
constexpr float LOG2_E = 1.4426950408889634f;

// Sizes and settings of a call. Rows of a segment are its queries times the group, the query heads of a key/value head; `group_inverse` is 2^32
// over the group, rounded up, and 0 for a group of one.
struct AttentionShape {
    int heads, kv_heads, group;
    unsigned group_inverse;
    int segments, pages_max, is_causal;
    float scale;
};
static_assert(sizeof(AttentionShape) == 32);

// Some rows of a segment from row `first` on, or keys: an entry of the tables that src/cuda/attention/plan.rs makes once a step.
struct Tile {
    int segment, first;
};

__device__ inline Tile tile_at(const int* tiles, int number) {
    Vector<int, 2> tile = load<2>(tiles + 2 * number);
    return {tile.at[0], tile.at[1]};
}

// Tokens that a segment's queries see: `prefix_rows` rows from `prefix`, then those from `own`. Query i stands at position `start` + i.
struct Segment {
    int own, queries, prefix, prefix_rows, start, keys;

    // The row of qkv that holds the key at a position.
    __device__ int key_row(int position) const { return position + (position < prefix_rows ? prefix : own - prefix_rows); }
};

__device__ inline Segment packed_segment(const int* bounds, const int* prefixes, int index) {
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

// Its keys are in pages, `length` of them.
__device__ inline Segment paged_segment(const int* bounds, const int* lengths, int index) {
    int queries = bounds[index + 1] - bounds[index], length = lengths[index];
    return {bounds[index], queries, 0, 0, length - queries, length};
}

// qkv or its gradient, bf16 [T, (heads + 2 kv_heads) DIM]: a token's heads of queries, then those of keys, then those of values.
template <int DIM, class T>
struct Qkv {
    T* values;
    int heads, kv_heads;

    __device__ size_t stride() const { return size_t(heads + 2 * kv_heads) * DIM; }
    __device__ T* row(int token) const { return values + token * stride(); }
    __device__ T* query(int token, int head) const { return row(token) + size_t(head) * DIM; }
    __device__ T* key(int token, int kv_head) const { return row(token) + size_t(heads + kv_head) * DIM; }
    __device__ T* value(int token, int kv_head) const { return row(token) + size_t(heads + kv_heads + kv_head) * DIM; }
};

// Which query and which head of its group row `row` of a segment is.
struct Query {
    int query, head;
};

__device__ inline Query query_of(int row, const AttentionShape& shape) {
    int query = shape.group_inverse == 0 ? row : int(__umulhi(unsigned(row), shape.group_inverse));
    return {query, row - query * shape.group};
}

// Rows of a segment from `first` on, `count` of them; of each its token and its head.
struct Rows {
    int first, count, own, kv_head;

    __device__ int query(int row, const AttentionShape& shape) const { return query_of(first + row, shape).query; }
    __device__ int token(int row, const AttentionShape& shape) const { return own + query(row, shape); }
    __device__ int head(int row, const AttentionShape& shape) const {
        return kv_head * shape.group + query_of(first + row, shape).head;
    }
    // Which of the rows [T, heads] of o, lse and delta it is.
    __device__ size_t at(int row, const AttentionShape& shape) const {
        return size_t(token(row, shape)) * shape.heads + head(row, shape);
    }
    // How many keys it sees.
    __device__ int limit(int row, const Segment& segment, const AttentionShape& shape) const {
        return shape.is_causal ? segment.start + query(row, shape) + 1 : segment.keys;
    }
};

// Those of a tile.
__device__ inline Rows rows_of(const Segment& segment, int first, const AttentionShape& shape) {
    return {first, min(TILE_ROWS, segment.queries * shape.group - first), segment.own, int(blockIdx.y)};
}

// The row of the block that elements 2 half and 2 half + 1 of this lane's accumulators belong to.
__device__ inline int lane_row(int half) { return int(threadIdx.x) / WARP * 16 + Accumulator<8>::row(2 * half); }

// How many keys this lane's two rows see, the second 8 below the first. Rows behind the last see what it sees, so that they narrow nothing.
struct Limits {
    int of[2];
    int least;  // of the warp's rows: tiles of keys below it need no mask
};

__device__ inline Limits limits_of(const Rows& rows, const Segment& segment, const AttentionShape& shape) {
    auto limit = [&](int row) { return rows.limit(min(row, rows.count - 1), segment, shape); };
    return {{limit(lane_row(0)), limit(lane_row(1))}, limit(int(threadIdx.x) / WARP * 16)};
}

// Of the scores of keys from `key` on, those of keys that a row does not see become -infinity.
template <int KEYS>
__device__ inline void mask(Accumulator<KEYS>& scores, int key, const Limits& limits) {
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (key + scores.column(j, i) >= limits.of[i / 2]) scores.at[j][i] = -INFINITY;
        }
    }
}

// Writes this lane's part of row `half` of an accumulator, rounded, to a row in memory.
template <int DIM, class Finish>
__device__ inline void store_row(bf16* to, const Accumulator<DIM>& values, int half, Finish finish) {
#pragma unroll
    for (int n = 0; n < DIM / 8; ++n) {
        uint32_t pair = pack(finish(values.at[n][2 * half]), finish(values.at[n][2 * half + 1]));
        *reinterpret_cast<uint32_t*>(to + values.column(n, 0)) = pair;
    }
}

// ---- copies to shared memory ----

// A warp copies 16 rows of DIM elements. Its lanes take their vectors in order, so that one instruction reads 512 bytes side by side where
// rows lie side by side.
template <int DIM>
struct WarpRows {
    static constexpr int ROWS = 16, VECTORS = DIM / VECTOR, EACH = ROWS * VECTORS / WARP;

    // The row and the first column of this lane's vector `i`.
    __device__ static int row(int i) {
        int lane = threadIdx.x % WARP;
        return WARP % VECTORS == 0 ? lane / VECTORS + i * (WARP / VECTORS) : (lane + i * WARP) / VECTORS;
    }
    __device__ static int column(int i) {
        int lane = threadIdx.x % WARP;
        // A difference, not a remainder: rows are all that a lane has to keep.
        return WARP % VECTORS == 0 ? lane % VECTORS * VECTOR : (lane + i * WARP) * VECTOR - row(i) * DIM;
    }
};
