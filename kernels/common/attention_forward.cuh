// Softmax attention over packed or paged keys, forward: load, scores, mask, softmax, join, store. A warp has 16 rows. Keys that a row may not
// see add exact zeros.
#pragma once

#include "common/attention.cuh"

constexpr int TILE_KEYS = 64;
constexpr int SPLIT_KEYS = 512;  // keys whose softmax is formed by itself before it joins that of the keys before them

// ---- the softmax of some keys, and how two of them join ----

// How much two softmaxes of one row shrink when both are measured from the larger top. Where nothing was seen, nothing shrinks: the
// factor is exactly 1, so that unseen keys leave no trace.
struct Joint {
    float top, before, after;
    __device__ Joint(float top_before, float top_after, float scale) {
        top = fmaxf(top_before, top_after);
        before = top == -INFINITY ? 1.0f : exp2_approx((top_before - top) * scale);
        after = top == -INFINITY ? 1.0f : exp2_approx((top_after - top) * scale);
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
        float before[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = -INFINITY;
#pragma unroll
            for (auto& pair : scores.at) most = fmaxf(most, fmaxf(pair[2 * half], pair[2 * half + 1]));
            Joint joint(top[half], row_max(most), scale);
            top[half] = joint.top;
            before[half] = joint.before;
            float origin = joint.top == -INFINITY ? 0.0f : joint.top * scale;
            float added = 0.0f;
#pragma unroll
            for (auto& pair : scores.at) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    pair[i] = exp2_approx(__fmaf_rn(pair[i], scale, -origin));
                    added += pair[i];
                }
            }
            sum[half] = __fmaf_rn(sum[half], joint.before, added);
        }
        // Most tiles raise no top, and a factor of 1 changes nothing.
        if (__any_sync(~0u, before[0] != 1.0f || before[1] != 1.0f)) {
#pragma unroll
            for (auto& pair : o.at) {
#pragma unroll
                for (int i = 0; i < 4; ++i) pair[i] *= before[i / 2];
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

// ---- keys and values: each warp copies 16 of a tile's rows of both ----

// Packed, of a segment and a head, from row 0 of qkv. Positions that no row sees repeat the last that one does.
template <int DIM>
struct PackedKeys {
    const bf16 *keys, *values;
    size_t stride;
    Segment segment;
    int seen;

    __device__ void look_up(int) {}
    __device__ void load(SharedTile<TILE_KEYS, DIM>& to_keys, SharedTile<TILE_KEYS, DIM>& to_values, int key) {
        using Lane = WarpRows<DIM>;
        int first = threadIdx.x / WARP * Lane::ROWS;
#pragma unroll
        for (int i = 0; i < Lane::EACH; ++i) {
            int row = first + Lane::row(i), column = Lane::column(i);
            size_t from = segment.key_row(min(key + row, seen - 1)) * stride + column;
            cp_async_16(to_keys.at(row, column), keys + from, 16);
            cp_async_16(to_values.at(row, column), values + from, 16);
        }
    }
};

// In pages, of a sequence and a head: a warp copies a page's rows, which lie side by side. Rows that are not seen are zeros.
template <int DIM>
struct PagedKeys {
    static_assert(WarpRows<DIM>::ROWS == PAGE_TOKENS);
    const bf16 *keys, *values;  // this lane's first vector of page 0
    size_t page_elements;
    const int* page_table;
    int seen;
    int page = 0;  // of the next tile, looked up a tile ahead

    __device__ void look_up(int key) {
        int position = min(key + int(threadIdx.x) / WARP * PAGE_TOKENS, seen - 1);
        page = page_table[position / PAGE_TOKENS];
    }
    __device__ void load(SharedTile<TILE_KEYS, DIM>& to_keys, SharedTile<TILE_KEYS, DIM>& to_values, int key) {
        using Lane = WarpRows<DIM>;
        int first = threadIdx.x / WARP * Lane::ROWS, left = seen - key - first;
        size_t from = page * page_elements;
#pragma unroll
        for (int i = 0; i < Lane::EACH; ++i) {
            int row = Lane::row(i), column = Lane::column(i), taken = row < left ? 16 : 0;
            cp_async_16(to_keys.at(first + row, column), keys + from + i * WARP * VECTOR, taken);
            cp_async_16(to_values.at(first + row, column), values + from + i * WARP * VECTOR, taken);
        }
        look_up(key + TILE_KEYS);
    }
};

// ---- forward ----

// What a call works on. `tiles` are those of this launch; keys are in pages where `pages` is not null.
struct Forward {
    const bf16* qkv;
    const int *bounds, *prefixes, *tiles;
    const bf16* pages;
    const int *page_tables, *lengths;
};

// Where results go. Without `parts` a block goes through all splits and writes o and lse; with it, block z has split z and leaves the
// joining to attention_join.
struct Output {
    bf16* o;
    float* lse;
    float* parts;  // [splits, tiles, kv_heads, part_rows, DIM + 2]: o not yet divided, top, sum
    int part_rows;

    // Of a row of this block's tile, in split z.
    __device__ float* part(int row, int dim) const {
        size_t tile = (size_t(blockIdx.z) * gridDim.x + blockIdx.x) * gridDim.y + blockIdx.y;
        return parts + (tile * part_rows + row) * (dim + 2);
    }
};

// Of a row's scores, natural; `scale` is that of the scores.
__device__ inline float log_sum_exp(float top, float sum, float scale) { return top * scale + logf(sum); }

// The queries of a warp's 16 rows; zeros where there is no row.
template <int DIM>
__device__ inline void load_queries(FragmentA (&q)[DIM / 16], const Qkv<DIM, const bf16>& qkv, const Rows& rows,
                                    const AttentionShape& shape) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = lane_row(half);
        bool is_inside = row < rows.count;
        const bf16* from = qkv.query(rows.token(row, shape), rows.head(row, shape)) + threadIdx.x % 4 * 2;
#pragma unroll
        for (int k = 0; k < DIM / 16; ++k) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                q[k].at[half + 2 * i] = is_inside ? *reinterpret_cast<const uint32_t*>(from + k * 16 + i * 8) : 0;
            }
        }
    }
}

template <int DIM>
__device__ inline void store_forward(const Softmax<DIM>& all, const Rows& rows, const Output& out, const AttentionShape& shape) {
    bool is_first_lane = threadIdx.x % 4 == 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = lane_row(half);
        if (row >= rows.count) continue;
        float top = all.top[half], sum = all.sum[half];
        if (out.parts != nullptr) {
            float* part = out.part(row, DIM);
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
                store<2>(part + all.o.column(n, 0), Vector<float, 2>{all.o.at[n][2 * half], all.o.at[n][2 * half + 1]});
            }
            if (is_first_lane) store<2>(part + DIM, Vector<float, 2>{top, sum});
        } else {
            size_t at = rows.at(row, shape);
            store_row(out.o + at * DIM, all.o, half, [&](float o) { return o / sum; });
            if (is_first_lane) out.lse[at] = log_sum_exp(top, sum, shape.scale);
        }
    }
}

// Goes through the keys of a tile's rows from `first_key` on, split by split.
template <int DIM, class Keys>
__device__ inline void attend(Keys keys, const FragmentA (&q)[DIM / 16], const Rows& rows, const Limits& limits, int first_key, int end_key,
                              const Output& out, const AttentionShape& shape) {
    DYNAMIC_SHARED(ForwardShared<DIM>, shared);
    bool is_active = int(threadIdx.x) / WARP * 16 < rows.count;
    float exponent = shape.scale * LOG2_E;
    Softmax<DIM> split;
    Joined<DIM> joined{shared};
    keys.look_up(first_key);
    keys.load(shared->keys[0], shared->values[0], first_key);
    cp_async_commit();
    for (int key = first_key, stage = 0; key < end_key;) {
        int end_split = min(key / SPLIT_KEYS * SPLIT_KEYS + SPLIT_KEYS, end_key);
        for (; key < end_split; key += TILE_KEYS, stage ^= 1) {
            cp_async_wait<0>();
            // Behind it the tile is there, and nobody reads the one before, whose place the next takes.
            __syncthreads();
            if (key + TILE_KEYS < end_key) keys.load(shared->keys[stage ^ 1], shared->values[stage ^ 1], key + TILE_KEYS);
            cp_async_commit();
            if (!is_active) continue;
            Accumulator<TILE_KEYS> scores;
            mma_ABt(scores, q, shared->keys[stage]);
            if (key + TILE_KEYS > limits.least) mask(scores, key, limits);
            split.add(scores, exponent);
            mma_AB(split.o, scores, shared->values[stage]);
        }
        split.finish();
        // One split is all: it stays in registers.
        if (key < end_key || !joined.is_empty) {
            joined.join(split, exponent);
            split = Softmax<DIM>();
        }
    }
    if (!is_active) return;
    if (!joined.is_empty) joined.copy_to(split);
    store_forward(split, rows, out, shape);
}

template <int DIM, bool IS_PAGED>
__device__ void forward(const Forward& in, const Output& out, const AttentionShape& shape) {
    Tile tile = tile_at(in.tiles, blockIdx.x);
    const Segment segment = IS_PAGED ? paged_segment(in.bounds, in.lengths, tile.segment)
                                     : packed_segment(in.bounds, in.prefixes, tile.segment);
    const Rows rows = rows_of(segment, tile.first, shape);
    int seen = rows.limit(rows.count - 1, segment, shape), first_key = 0, end_key = seen;
    if (out.parts != nullptr) {
        first_key = blockIdx.z * SPLIT_KEYS;
        end_key = min(first_key + SPLIT_KEYS, seen);
        if (first_key >= seen) return;
    }
    const Qkv<DIM, const bf16> qkv{in.qkv, shape.heads, shape.kv_heads};
    FragmentA q[DIM / 16];
    load_queries<DIM>(q, qkv, rows, shape);
    const Limits limits = limits_of(rows, segment, shape);
    int kv_head = blockIdx.y;
    if constexpr (IS_PAGED) {
        const bf16* keys = page_slot(in.pages, 0, 0, kv_head, shape.kv_heads, DIM) + threadIdx.x % WARP * VECTOR;
        size_t half = size_t(shape.kv_heads) * PAGE_TOKENS * DIM;
        PagedKeys<DIM> paged{keys, keys + half, 2 * half, in.page_tables + size_t(tile.segment) * shape.pages_max, seen};
        attend<DIM>(paged, q, rows, limits, first_key, end_key, out, shape);
    } else {
        PackedKeys<DIM> packed{qkv.key(0, kv_head), qkv.value(0, kv_head), qkv.stride(), segment, seen};
        attend<DIM>(packed, q, rows, limits, first_key, end_key, out, shape);
    }
}
