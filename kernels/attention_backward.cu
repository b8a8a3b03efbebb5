// The gradient of packed attention; formulas in src/ops/attention.rs, forward in attention.cu, what a block works on in common/attention.cuh.
// One kernel has queries and goes through keys, the other has keys and goes through queries, STEP of them at a time.
#include "common/attention.cuh"

constexpr int STEP = 32;  // keys, or rows, that a block takes at a time

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

// What both kernels read.
struct Backward {
    const bf16 *d_o, *qkv;
    const float *lse, *delta;
    const int *bounds, *prefixes, *tiles;
};

// Two kinds of rows of STEP, in two stages: half of the warps copy those of the first kind, 16 each, the others those of the second.
template <int DIM>
struct Steps {
    SharedTile<STEP, DIM> first[2], second[2];

    // Copies this warp's 16 rows of a step; `at(row)` is the place of a row of its kind, column 0.
    template <class At>
    __device__ void load(int stage, At at) {
        using Lane = WarpRows<DIM>;
        SharedTile<STEP, DIM>& to = is_first() ? first[stage] : second[stage];
        int warp_row = int(threadIdx.x) / WARP % 2 * Lane::ROWS;
#pragma unroll
        for (int i = 0; i < Lane::EACH; ++i) {
            int row = warp_row + Lane::row(i), column = Lane::column(i);
            cp_async_16(to.at(row, column), at(row) + column, 16);
        }
    }
    __device__ static bool is_first() { return threadIdx.x < THREADS / 2; }
};
static_assert(THREADS / 2 / WARP * WarpRows<16>::ROWS == STEP);

// Copies the block's own rows of a kind, 16 a warp; `at(row)` is the place of a row.
template <int DIM, class At>
__device__ inline void load_own(SharedTile<TILE_ROWS, DIM>& to, At at) {
    using Lane = WarpRows<DIM>;
#pragma unroll
    for (int i = 0; i < Lane::EACH; ++i) {
        int row = int(threadIdx.x) / WARP * Lane::ROWS + Lane::row(i), column = Lane::column(i);
        cp_async_16(to.at(row, column), at(row) + column, 16);
    }
}

// Makes weights of scores, p, and the gradients of scores of those of weights, ds. `lse`, as an exponent of 2, and `delta` are those of
// the row that element [j][i] belongs to.
template <class Lse, class Delta>
__device__ inline void weigh(Accumulator<STEP>& p, Accumulator<STEP>& ds, float exponent, Lse lse, Delta delta) {
#pragma unroll
    for (int j = 0; j < STEP / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            p.at[j][i] = exp2_approx(__fmaf_rn(p.at[j][i], exponent, -lse(j, i)));
            ds.at[j][i] = p.at[j][i] * (ds.at[j][i] - delta(j, i));
        }
    }
}

// ---- queries ----

constexpr int backward_queries_bytes(int dim) { return 2 * tile_bytes(TILE_ROWS, dim) + 4 * tile_bytes(STEP, dim); }

template <int DIM>
struct QueriesShared {
    SharedTile<TILE_ROWS, DIM> queries, d_o;
    Steps<DIM> keys_values;
};
static_assert(sizeof(QueriesShared<16>) == backward_queries_bytes(16) && sizeof(QueriesShared<128>) == backward_queries_bytes(128));

// The gradient of the queries: a block has rows, and goes through the keys that they see.
template <int DIM>
__device__ void backward_queries(const Backward& in, bf16* dqkv, const AttentionShape& shape) {
    DYNAMIC_SHARED(QueriesShared<DIM>, shared);
    int kv_head = blockIdx.y, warp_row = int(threadIdx.x) / WARP * 16;
    Tile tile = tile_at(in.tiles, blockIdx.x);
    const Qkv<DIM, const bf16> qkv{in.qkv, shape.heads, shape.kv_heads};
    const Segment segment = packed_segment(in.bounds, in.prefixes, tile.segment);
    const Rows rows = rows_of(segment, tile.first, shape);
    const Limits limits = limits_of(rows, segment, shape);
    int seen = rows.limit(rows.count - 1, segment, shape);

    // Rows behind the last repeat it, as do keys behind the last that is seen.
    auto own = [&](int row) { return min(row, rows.count - 1); };
    load_own(shared->queries, [&](int row) { return qkv.query(rows.token(own(row), shape), rows.head(own(row), shape)); });
    load_own(shared->d_o, [&](int row) { return in.d_o + rows.at(own(row), shape) * DIM; });
    Steps<DIM>& steps = shared->keys_values;
    const bf16* from = Steps<DIM>::is_first() ? qkv.key(0, kv_head) : qkv.value(0, kv_head);
    size_t stride = qkv.stride();
    auto load = [&](int key, int stage) {
        steps.load(stage, [&](int row) { return from + segment.key_row(min(key + row, seen - 1)) * stride; });
    };
    float lse[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        size_t at = rows.at(own(lane_row(half)), shape);
        lse[half] = in.lse[at] * LOG2_E;
        delta[half] = in.delta[at];
    }
    bool is_active = warp_row < rows.count;
    float exponent = shape.scale * LOG2_E;
    Accumulator<DIM> dq;
    load(0, 0);
    cp_async_commit();
    for (int key = 0, stage = 0; key < seen; key += STEP, stage ^= 1) {
        cp_async_wait<0>();
        // Behind it the step is there, and nobody reads the one before, whose place the next takes.
        __syncthreads();
        if (key + STEP < seen) load(key + STEP, stage ^ 1);
        cp_async_commit();
        if (!is_active) continue;
        Accumulator<STEP> p, ds;
        mma_ABt(p, shared->queries, warp_row, steps.first[stage]);
        mma_ABt(ds, shared->d_o, warp_row, steps.second[stage]);
        if (key + STEP > limits.least) mask(p, key, limits);
        weigh(p, ds, exponent, [&](int, int i) { return lse[i / 2]; }, [&](int, int i) { return delta[i / 2]; });
        mma_AB(dq, ds, steps.first[stage]);
    }
    const Qkv<DIM, bf16> to{dqkv, shape.heads, shape.kv_heads};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = lane_row(half);
        if (row >= rows.count) continue;
        store_row(to.query(rows.token(row, shape), rows.head(row, shape)), dq, half, [&](float x) { return x * shape.scale; });
    }
}

// ---- keys and values ----

constexpr int backward_keys_bytes(int dim) { return backward_queries_bytes(dim) + 4 * STEP * sizeof(float); }

template <int DIM>
struct KeysShared {
    SharedTile<TILE_ROWS, DIM> keys, values;
    Steps<DIM> queries_d_o;
    float lse[2][STEP], delta[2][STEP];  // of a step's rows
};
static_assert(sizeof(KeysShared<16>) == backward_keys_bytes(16) && sizeof(KeysShared<128>) == backward_keys_bytes(128));

// A segment's rows as a block goes through them that has some keys from `first_key` on: those that see one of them are from `begin` on.
struct Seeing {
    int own, count, begin;
    bool is_causal;

    __device__ Seeing(const int* bounds, int segment, int first_key, bool is_causal, const AttentionShape& shape)
        : own(bounds[segment]), count((bounds[segment + 1] - own) * shape.group), begin(is_causal ? first_key * shape.group : 0),
          is_causal(is_causal) {}

    // Of the scores of a warp's 16 keys from `key` on with rows from `row` on, those of unseen pairs become -infinity: a key is seen from its
    // own token's rows on.
    __device__ void mask(Accumulator<STEP>& scores, int row, int key, const AttentionShape& shape) const {
        if (row + STEP <= count && (!is_causal || row >= (key + 15) * shape.group)) return;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int least = is_causal ? (key + scores.row(i)) * shape.group : 0;
#pragma unroll
            for (int j = 0; j < STEP / 8; ++j) {
                int at = row + scores.column(j, i);
                if (at < least || at >= count) scores.at[j][i] = -INFINITY;
            }
        }
    }
};

// Starts rows from `row` on on their way: queries and d_o, lse and delta. Rows behind the last repeat it.
template <int DIM>
__device__ inline void load_rows(KeysShared<DIM>& shared, int stage, const Backward& in, const Seeing& seeing, int row,
                                 const AttentionShape& shape) {
    int kv_head = blockIdx.y;
    bool is_query = Steps<DIM>::is_first();
    const bf16* from = (is_query ? in.qkv : in.d_o) + kv_head * shape.group * DIM;
    size_t stride = size_t(shape.heads + (is_query ? 2 * shape.kv_heads : 0)) * DIM;
    shared.queries_d_o.load(stage, [&](int i) {
        Query query = query_of(min(row + i, seeing.count - 1), shape);
        return from + (seeing.own + query.query) * stride + query.head * DIM;
    });
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    if (warp < 2) {
        Query query = query_of(min(row + lane, seeing.count - 1), shape);
        size_t at = size_t(seeing.own + query.query) * shape.heads + kv_head * shape.group + query.head;
        cp_async_4(warp == 0 ? &shared.lse[stage][lane] : &shared.delta[stage][lane], (warp == 0 ? in.lse : in.delta) + at);
    }
}

// The gradient of keys and values: a block has some of a segment's own keys, and goes through the rows that see them: the segment's, then
// those of the segments that have it for their prefix, each in ascending order.
template <int DIM>
__device__ void backward_keys(const Backward& in, bf16* dqkv, const AttentionShape& shape) {
    DYNAMIC_SHARED(KeysShared<DIM>, shared);
    int kv_head = blockIdx.y, warp_row = int(threadIdx.x) / WARP * 16;
    Tile tile = tile_at(in.tiles, blockIdx.x);
    const Qkv<DIM, const bf16> qkv{in.qkv, shape.heads, shape.kv_heads};
    int first = in.bounds[tile.segment] + tile.first, keys = min(TILE_ROWS, in.bounds[tile.segment + 1] - first);
    load_own(shared->keys, [&](int row) { return qkv.key(first + min(row, keys - 1), kv_head); });
    load_own(shared->values, [&](int row) { return qkv.value(first + min(row, keys - 1), kv_head); });
    const Steps<DIM>& steps = shared->queries_d_o;
    bool is_active = warp_row < keys;
    float exponent = shape.scale * LOG2_E;
    Accumulator<DIM> dk, dv;
    int end = in.prefixes != nullptr ? shape.segments : tile.segment + 1;
    for (int other = tile.segment; other < end; ++other) {
        bool is_own = other == tile.segment;
        if (!is_own && in.prefixes[other] != tile.segment) continue;
        const Seeing seeing(in.bounds, other, tile.first, is_own && shape.is_causal, shape);
        if (!is_own) __syncthreads();
        if (seeing.begin < seeing.count) load_rows(*shared, 0, in, seeing, seeing.begin, shape);
        cp_async_commit();
        for (int row = seeing.begin, stage = 0; row < seeing.count; row += STEP, stage ^= 1) {
            cp_async_wait<0>();
            // Behind it the step is there, and nobody reads the one before, whose place the next takes.
            __syncthreads();
            if (row + STEP < seeing.count) load_rows(*shared, stage ^ 1, in, seeing, row + STEP, shape);
            cp_async_commit();
            if (!is_active) continue;
            Accumulator<STEP> p, ds;
            mma_ABt(p, shared->keys, warp_row, steps.first[stage]);
            mma_ABt(ds, shared->values, warp_row, steps.second[stage]);
            seeing.mask(p, row, tile.first + warp_row, shape);
            auto lse = [&](int j, int i) { return shared->lse[stage][p.column(j, i)] * LOG2_E; };
            auto delta = [&](int j, int i) { return shared->delta[stage][p.column(j, i)]; };
            weigh(p, ds, exponent, lse, delta);
            mma_AB(dv, p, steps.second[stage]);
            mma_AB(dk, ds, steps.first[stage]);
        }
    }
    const Qkv<DIM, bf16> to{dqkv, shape.heads, shape.kv_heads};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int key = lane_row(half);
        if (key >= keys) continue;
        store_row(to.key(first + key, kv_head), dk, half, [&](float x) { return x * shape.scale; });
        store_row(to.value(first + key, kv_head), dv, half, [&](float x) { return x; });
    }
}

// d_o bf16 [T, heads dim]; qkv and bounds and prefixes as forward has them; tiles i32 [blocks, 2], of rows or of keys; lse, delta f32 [T, heads];
// dqkv bf16 as qkv: one kernel writes its queries, the other its keys and values. Blocks: a tile each, then kv_heads.
#define BACKWARD_PARAMETERS                                                                                                  \
    const bf16 *d_o, const bf16 *qkv, const float *lse, const float *delta, const int *bounds, const int *prefixes, const int *tiles, \
        bf16 *dqkv, AttentionShape shape
#define BACKWARD_ARGUMENTS {d_o, qkv, lse, delta, bounds, prefixes, tiles}, dqkv, shape

// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_16(BACKWARD_PARAMETERS) { backward_queries<16>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_32(BACKWARD_PARAMETERS) { backward_queries<32>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_48(BACKWARD_PARAMETERS) { backward_queries<48>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_64(BACKWARD_PARAMETERS) { backward_queries<64>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_backward_queries_80(BACKWARD_PARAMETERS) { backward_queries<80>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_backward_queries_96(BACKWARD_PARAMETERS) { backward_queries<96>(BACKWARD_ARGUMENTS); }
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
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_backward_keys_64(BACKWARD_PARAMETERS) { backward_keys<64>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_80(BACKWARD_PARAMETERS) { backward_keys<80>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_96(BACKWARD_PARAMETERS) { backward_keys<96>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_112(BACKWARD_PARAMETERS) { backward_keys<112>(BACKWARD_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_128(BACKWARD_PARAMETERS) { backward_keys<128>(BACKWARD_ARGUMENTS); }
