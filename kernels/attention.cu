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

// Elements of o that a thread keeps in shared memory while it joins splits. Of heads of 128 two of its 64 stay in registers: the block then
// needs 99 KiB, which every GPU gives.
constexpr int joined_elements(int dim) { return dim == 128 ? dim / 2 - 2 : dim / 2; }

// Shared memory of a forward block: two stages of keys and values and, where it joins the softmaxes of several splits, those before.
constexpr int forward_bytes(int dim, bool joins) {
    return 4 * tile_bytes(TILE_KEYS, dim) + (joins ? joined_elements(dim) * THREADS * sizeof(float) : 0);
}

// Shared memory of a backward block: its own tiles, and two stages of those that it goes through.
constexpr int backward_bytes(int dim) { return 2 * tile_bytes(TILE_ROWS, dim) + 4 * tile_bytes(STEP, dim); }

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

// Sizes of a call.
struct Shape {
    int heads, kv_heads, dim;
    __device__ int group() const { return heads / kv_heads; }
    // Elements of a row of qkv.
    __device__ size_t pitch() const { return size_t(heads + 2 * kv_heads) * dim; }
    // Where a head's queries, keys or values stand in a row.
    __device__ size_t query(int head) const { return size_t(head) * dim; }
    __device__ size_t key(int kv_head) const { return size_t(heads + kv_head) * dim; }
    __device__ size_t value(int kv_head) const { return size_t(heads + kv_heads + kv_head) * dim; }
};

// The row of qkv that holds the key at a position.
__device__ inline int key_row(const Segment& segment, int position) {
    return position < segment.prefix_rows ? segment.prefix + position : segment.own + position - segment.prefix_rows;
}

// ---- tiles ----

// Starts `count` rows of DIM elements on their way to a tile; `row(i)` is the address of row i, or null for zeros.
template <int DIM, class Row>
__device__ void start_rows(bf16* tile, int count, const bf16* anywhere, Row row) {
    constexpr int VECTORS = DIM / 8;
    for (int i = threadIdx.x; i < count * VECTORS; i += THREADS) {
        const bf16* from = row(i / VECTORS);
        bf16* to = tile + i / VECTORS * (DIM + TILE_PADDING) + i % VECTORS * 8;
        cp_async_16(to, from != nullptr ? from + i % VECTORS * 8 : anywhere, from != nullptr ? 16 : 0);
    }
}

// 16 rows from `row` and 16 columns from `column` of a tile, as the left factor.
template <int DIM>
__device__ void left_fragment(uint32_t (&fragment)[4], const bf16* tile, int row, int column) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
    ldmatrix_x4(fragment, tile + (row + line + matrix % 2 * 8) * (DIM + TILE_PADDING) + column + matrix / 2 * 8);
}

// N * 8 rows from `row`, as the columns of a right factor whose terms are the tile's columns from `column`.
template <int DIM, int N>
__device__ void right_fragments(uint32_t (&fragments)[N][2], const bf16* tile, int row, int column) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < N; i += 2) {
        uint32_t both[4];
        ldmatrix_x4(both, tile + (row + i * 8 + line + matrix / 2 * 8) * (DIM + TILE_PADDING) + column + matrix % 2 * 8);
        fragments[i][0] = both[0];
        fragments[i][1] = both[1];
        fragments[i + 1][0] = both[2];
        fragments[i + 1][1] = both[3];
    }
}

// All columns of a tile, as those of a right factor whose terms are the 16 rows from `row`.
template <int DIM>
__device__ void transposed_fragments(uint32_t (&fragments)[DIM / 8][2], const bf16* tile, int row) {
    int matrix = threadIdx.x % WARP / 8, line = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < DIM / 8; i += 2) {
        uint32_t both[4];
        ldmatrix_x4_trans(both, tile + (row + line + matrix % 2 * 8) * (DIM + TILE_PADDING) + i * 8 + matrix / 2 * 8);
        fragments[i][0] = both[0];
        fragments[i][1] = both[1];
        fragments[i + 1][0] = both[2];
        fragments[i + 1][1] = both[3];
    }
}

// 16 columns from 2 * pair * 8 of a product, rounded, as a left factor.
template <int N>
__device__ void repack(uint32_t (&fragment)[4], const float (&product)[N][4], int pair) {
    fragment[0] = pack(product[2 * pair][0], product[2 * pair][1]);
    fragment[1] = pack(product[2 * pair][2], product[2 * pair][3]);
    fragment[2] = pack(product[2 * pair + 1][0], product[2 * pair + 1][1]);
    fragment[3] = pack(product[2 * pair + 1][2], product[2 * pair + 1][3]);
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

// The softmax of some keys, for rows lane / 4 and lane / 4 + 8 of the warp's 16.
template <int DIM>
struct Softmax {
    float top[2] = {-INFINITY, -INFINITY};  // the largest score
    float sum[2] = {};                      // of exp(score - top), over this lane's keys until `finish`
    float o[DIM / 8][4] = {};               // of exp(score - top) v

    // Takes a tile: its scores, of which those of unseen keys are -infinity, and its values. `scale` makes scores exponents of 2.
    __device__ void add(float (&scores)[TILE_KEYS / 8][4], const bf16* values, float scale) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = -INFINITY;
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; ++j) most = fmaxf(most, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
            Joint joint(top[half], most, scale);
            top[half] = joint.top;
            float origin = joint.top == -INFINITY ? 0.0f : joint.top * scale;
            float added = 0.0f;
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; ++j) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    scores[j][i] = exp2f(__fmaf_rn(scores[j][i], scale, -origin));
                    added += scores[j][i];
                }
            }
            sum[half] = __fmaf_rn(sum[half], joint.before, added);
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
                o[n][2 * half] *= joint.before;
                o[n][2 * half + 1] *= joint.before;
            }
        }
#pragma unroll
        for (int pair = 0; pair < TILE_KEYS / 16; ++pair) {
            uint32_t p[4], v[DIM / 8][2];
            repack(p, scores, pair);
            transposed_fragments<DIM>(v, values, pair * 16);
            mma(o, p, v);
        }
    }

    // Brings the sums of a row's lanes together.
    __device__ void finish() {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
            sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
        }
    }
};

// Keys in pages; `pages` is null where keys are packed.
struct Paged {
    const bf16* pages;
    const int *page_tables, *lengths;
    int pages_max;
};

// Where results go. Without `parts` a block goes through all splits and writes o and lse; with it, block z has split z and leaves the
// joining to attention_join.
struct Output {
    bf16* o;
    float* lse;
    float* parts;  // [splits, T, heads, DIM + 2]: o not yet divided, top, sum
};

// Of a row's scores, natural; `scale` is that of the scores.
__device__ inline float log_sum_exp(float top, float sum, float scale) { return top * scale + logf(sum); }

template <int DIM>
__device__ void forward(const bf16* qkv, const int* bounds, const int* prefixes, const Paged& paged, const Output& out, int heads,
                        int kv_heads, int tokens, int segments, int is_causal, float scale) {
    constexpr int TILE = TILE_KEYS * (DIM + TILE_PADDING);
    DYNAMIC_SHARED(bf16, shared);
    bf16 *key_tiles = shared, *value_tiles = shared + 2 * TILE;
    float* joined = reinterpret_cast<float*>(shared + 4 * TILE);  // [IN_SHARED][THREADS], o of the splits so far

    Shape shape{heads, kv_heads, DIM};
    int group = shape.group(), kv_head = blockIdx.y;
    Tile tile = find_tile(bounds, segments, group, blockIdx.x);
    if (tile.segment < 0) return;
    Segment segment = packed_segment(bounds, prefixes, tile.segment);
    const int* page_table = nullptr;
    if (paged.pages != nullptr) {
        page_table = paged.page_tables + size_t(tile.segment) * paged.pages_max;
        segment.keys = paged.lengths[tile.segment];
        segment.start = segment.keys - segment.queries;
    }
    size_t pitch = shape.pitch();
    int rows = min(TILE_ROWS, segment.queries * group - tile.first);
    int keys = is_causal ? segment.start + (tile.first + rows - 1) / group + 1 : segment.keys;
    int first_key = out.parts != nullptr ? blockIdx.z * SPLIT_KEYS : 0;
    int end_key = out.parts != nullptr ? min(first_key + SPLIT_KEYS, keys) : keys;

    auto start = [&](int key, int stage) {
        auto address = [&](int position, int what) -> const bf16* {
            if (position >= keys) return nullptr;
            if (page_table != nullptr) {
                int slot = page_table[position / PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS;
                return page_slot(paged.pages, slot, what, kv_head, kv_heads, DIM);
            }
            return qkv + key_row(segment, position) * pitch + (what == 0 ? shape.key(kv_head) : shape.value(kv_head));
        };
        if (key < end_key) {
            start_rows<DIM>(key_tiles + stage * TILE, TILE_KEYS, qkv, [&](int i) { return address(key + i, 0); });
            start_rows<DIM>(value_tiles + stage * TILE, TILE_KEYS, qkv, [&](int i) { return address(key + i, 1); });
        }
        cp_async_commit();
    };

    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    bool is_active = warp * 16 < rows;
    int token[2], head[2], limit[2];  // of each of the lane's rows; `limit` is how many keys it sees
    bool is_inside[2];
    for (int half = 0; half < 2; ++half) {
        int row = warp * 16 + half * 8 + lane / 4;
        is_inside[half] = row < rows;
        token[half] = (tile.first + row) / group;
        head[half] = kv_head * group + (tile.first + row) % group;
        limit[half] = !is_inside[half] ? 0 : is_causal ? segment.start + token[half] + 1 : segment.keys;
    }
    uint32_t q[DIM / 16][4];
#pragma unroll
    for (int k = 0; k < DIM / 16; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const bf16* row = qkv + (segment.own + token[i % 2]) * pitch + shape.query(head[i % 2]);
            q[k][i] = is_inside[i % 2] ? *reinterpret_cast<const uint32_t*>(row + k * 16 + i / 2 * 8 + lane % 4 * 2) : 0;
        }
    }

    float exponent = scale * LOG2_E;
    Softmax<DIM> split;
    float top[2], sum[2];  // of the splits in `joined`
    bool has_joined = false;
    // A thread's own elements of `joined`, a bank a lane. Of heads of 128 two stay in registers: the block then needs 99 KiB, which every
    // GPU gives.
    constexpr int IN_SHARED = DIM == 128 ? DIM / 2 - 2 : DIM / 2;
    float in_registers[2];
    auto place = [&](int n, int i) -> float& {
        int element = n * 4 + i;
        return element < IN_SHARED ? joined[element * THREADS + threadIdx.x] : in_registers[element - IN_SHARED];
    };
    auto join = [&] {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Joint joint(has_joined ? top[half] : split.top[half], split.top[half], exponent);
            sum[half] = has_joined ? __fmaf_rn(sum[half], joint.before, split.sum[half] * joint.after) : split.sum[half];
            top[half] = joint.top;
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    float& o = place(n, i);
                    o = has_joined ? __fmaf_rn(o, joint.before, split.o[n][i] * joint.after) : split.o[n][i];
                }
            }
        }
        has_joined = true;
    };
    start(first_key, 0);
    for (int key = first_key, stage = 0; key < end_key; key += TILE_KEYS, stage ^= 1) {
        start(key + TILE_KEYS, stage ^ 1);
        cp_async_wait<1>();
        __syncthreads();
        if (is_active) {
            float scores[TILE_KEYS / 8][4] = {};
#pragma unroll
            for (int k = 0; k < DIM / 16; ++k) {
                uint32_t b[TILE_KEYS / 8][2];
                right_fragments<DIM>(b, key_tiles + stage * TILE, 0, k * 16);
                mma(scores, q[k], b);
            }
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    if (key + j * 8 + lane % 4 * 2 + i % 2 >= limit[i / 2]) scores[j][i] = -INFINITY;
                }
            }
            split.add(scores, value_tiles + stage * TILE, exponent);
            bool is_last = key + TILE_KEYS >= end_key;
            if (is_last || (key + TILE_KEYS) % SPLIT_KEYS == 0) {
                split.finish();
                // One split is all: it stays in registers.
                if (!is_last || has_joined) {
                    join();
                    split = Softmax<DIM>();
                }
            }
        }
        __syncthreads();
    }
    if (!is_active) return;
    if (has_joined) {
#pragma unroll
        for (int n = 0; n < DIM / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) split.o[n][i] = place(n, i);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (!is_inside[half]) continue;
        if (has_joined) {
            split.top[half] = top[half];
            split.sum[half] = sum[half];
        }
        size_t at = size_t(segment.own + token[half]) * heads + head[half];
        if (out.parts != nullptr) {
            float* part = out.parts + (size_t(blockIdx.z) * tokens * heads + at) * (DIM + 2);
            for (int n = 0; n < DIM / 8; ++n) {
                for (int i = 0; i < 2; ++i) part[n * 8 + lane % 4 * 2 + i] = split.o[n][2 * half + i];
            }
            if (lane % 4 == 0) {
                part[DIM] = split.top[half];
                part[DIM + 1] = split.sum[half];
            }
        } else {
            for (int n = 0; n < DIM / 8; ++n) {
                float first = split.o[n][2 * half] / split.sum[half], second = split.o[n][2 * half + 1] / split.sum[half];
                *reinterpret_cast<uint32_t*>(out.o + at * DIM + n * 8 + lane % 4 * 2) = pack(first, second);
            }
            if (lane % 4 == 0) out.lse[at] = log_sum_exp(split.top[half], split.sum[half], scale);
        }
    }
}

// qkv bf16 [T, (heads + 2 kv_heads) dim]; bounds i32 [segments + 1]; prefixes i32 [segments] or null; pages, page_tables i32 [segments,
// pages_max] and lengths i32 [segments], or null; o bf16 [T, heads dim], lse f32 [T, heads]; parts f32 or null. Blocks: at least as many
// as there are tiles, then kv_heads, then splits where there are parts.
#define FORWARD_PARAMETERS                                                                                                             \
    const bf16 *qkv, const int *bounds, const int *prefixes, const bf16 *pages, const int *page_tables, const int *lengths, bf16 *o,        \
        float *lse, float *parts, int pages_max, int heads, int kv_heads, int tokens, int segments, int is_causal, float scale
#define FORWARD_ARGUMENTS \
    qkv, bounds, prefixes, {pages, page_tables, lengths, pages_max}, {o, lse, parts}, heads, kv_heads, tokens, segments, is_causal, scale

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
    attention_join(const float* parts, const int* bounds, const int* lengths, bf16* o, float* lse, int splits, int heads, int tokens,
                   int segments, int dim, float scale) {
    int number = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (number >= tokens * heads) return;
    int token = number / heads, segment = 0;
    while (segment + 1 < segments && bounds[segment + 1] <= token) ++segment;
    int seen = lengths[segment] - (bounds[segment + 1] - token) + 1;
    int count = min(splits, (seen + SPLIT_KEYS - 1) / SPLIT_KEYS);
    size_t stride = size_t(tokens) * heads * (dim + 2);
    const float* part = parts + size_t(number) * (dim + 2);
    float top = part[dim], sum = part[dim + 1], exponent = scale * LOG2_E;
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
    if (lane == 0) lse[number] = log_sum_exp(top, sum, scale);
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

// The gradient of the queries: a block has rows, and goes through the keys that they see.
template <int DIM>
__device__ void backward_queries(const bf16* d_o, const bf16* qkv, const float* lse, const float* delta, const int* bounds,
                                 const int* prefixes, bf16* dqkv, int heads, int kv_heads, int segments, int is_causal, float scale) {
    constexpr int PITCH = DIM + TILE_PADDING;
    DYNAMIC_SHARED(bf16, shared);
    bf16 *query_tile = shared, *output_tile = query_tile + TILE_ROWS * PITCH;
    bf16 *key_tiles = output_tile + TILE_ROWS * PITCH, *value_tiles = key_tiles + 2 * STEP * PITCH;

    Shape shape{heads, kv_heads, DIM};
    int group = shape.group(), kv_head = blockIdx.y;
    Tile tile = find_tile(bounds, segments, group, blockIdx.x);
    if (tile.segment < 0) return;
    Segment segment = packed_segment(bounds, prefixes, tile.segment);
    size_t pitch = shape.pitch();
    int rows = min(TILE_ROWS, segment.queries * group - tile.first);
    int keys = is_causal ? segment.start + (tile.first + rows - 1) / group + 1 : segment.keys;

    auto token_of = [&](int row) { return segment.own + (tile.first + row) / group; };
    auto head_of = [&](int row) { return kv_head * group + (tile.first + row) % group; };
    start_rows<DIM>(query_tile, TILE_ROWS, qkv,
                    [&](int i) { return i < rows ? qkv + token_of(i) * pitch + shape.query(head_of(i)) : nullptr; });
    start_rows<DIM>(output_tile, TILE_ROWS, d_o,
                    [&](int i) { return i < rows ? d_o + (size_t(token_of(i)) * heads + head_of(i)) * DIM : nullptr; });
    auto start = [&](int key, int stage) {
        auto row = [&](int i) { return qkv + key_row(segment, key + i) * pitch; };
        if (key < keys) {
            start_rows<DIM>(key_tiles + stage * STEP * PITCH, STEP, qkv,
                            [&](int i) { return key + i < keys ? row(i) + shape.key(kv_head) : nullptr; });
            start_rows<DIM>(value_tiles + stage * STEP * PITCH, STEP, qkv,
                            [&](int i) { return key + i < keys ? row(i) + shape.value(kv_head) : nullptr; });
        }
        cp_async_commit();
    };

    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    bool is_active = warp * 16 < rows;
    int limit[2];
    float row_lse[2], row_delta[2];
    for (int half = 0; half < 2; ++half) {
        int row = warp * 16 + half * 8 + lane / 4;
        bool is_inside = row < rows;
        size_t at = size_t(token_of(row)) * heads + head_of(row);
        limit[half] = !is_inside ? 0 : is_causal ? segment.start + (tile.first + row) / group + 1 : segment.keys;
        row_lse[half] = is_inside ? lse[at] * LOG2_E : 0.0f;
        row_delta[half] = is_inside ? delta[at] : 0.0f;
    }
    float dq[DIM / 8][4] = {};
    start(0, 0);
    for (int key = 0, stage = 0; key < keys; key += STEP, stage ^= 1) {
        start(key + STEP, stage ^ 1);
        cp_async_wait<1>();
        __syncthreads();
        if (is_active) {
            const bf16 *key_tile = key_tiles + stage * STEP * PITCH, *value_tile = value_tiles + stage * STEP * PITCH;
            float scores[STEP / 8][4] = {}, dp[STEP / 8][4] = {};
#pragma unroll
            for (int k = 0; k < DIM; k += 16) {
                uint32_t a[4], b[STEP / 8][2];
                left_fragment<DIM>(a, query_tile, warp * 16, k);
                right_fragments<DIM>(b, key_tile, 0, k);
                mma(scores, a, b);
                left_fragment<DIM>(a, output_tile, warp * 16, k);
                right_fragments<DIM>(b, value_tile, 0, k);
                mma(dp, a, b);
            }
#pragma unroll
            for (int j = 0; j < STEP / 8; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    bool is_seen = key + j * 8 + lane % 4 * 2 + i % 2 < limit[i / 2];
                    float p = is_seen ? exp2f(__fmaf_rn(scores[j][i], scale * LOG2_E, -row_lse[i / 2])) : 0.0f;
                    dp[j][i] = p * (dp[j][i] - row_delta[i / 2]);
                }
            }
#pragma unroll
            for (int pair = 0; pair < STEP / 16; ++pair) {
                uint32_t a[4], b[DIM / 8][2];
                repack(a, dp, pair);
                transposed_fragments<DIM>(b, key_tile, pair * 16);
                mma(dq, a, b);
            }
        }
        __syncthreads();
    }
    if (!is_active) return;
    for (int half = 0; half < 2; ++half) {
        int row = warp * 16 + half * 8 + lane / 4;
        if (row >= rows) continue;
        bf16* to = dqkv + token_of(row) * pitch + shape.query(head_of(row));
        for (int n = 0; n < DIM / 8; ++n) {
            *reinterpret_cast<uint32_t*>(to + n * 8 + lane % 4 * 2) = pack(dq[n][2 * half] * scale, dq[n][2 * half + 1] * scale);
        }
    }
}

// The gradient of keys and values: a block has some of a segment's own keys, and goes through the rows that see them: the segment's, then
// those of the segments that have it for their prefix, each in ascending order.
template <int DIM>
__device__ void backward_keys(const bf16* d_o, const bf16* qkv, const float* lse, const float* delta, const int* bounds,
                              const int* prefixes, bf16* dqkv, int heads, int kv_heads, int segments, int is_causal, float scale) {
    constexpr int PITCH = DIM + TILE_PADDING;
    DYNAMIC_SHARED(bf16, shared);
    bf16 *key_tile = shared, *value_tile = key_tile + TILE_ROWS * PITCH;
    bf16 *query_tiles = value_tile + TILE_ROWS * PITCH, *output_tiles = query_tiles + 2 * STEP * PITCH;

    Shape shape{heads, kv_heads, DIM};
    int group = shape.group(), kv_head = blockIdx.y;
    Tile tile = find_tile(bounds, segments, 1, blockIdx.x);
    if (tile.segment < 0) return;
    size_t pitch = shape.pitch();
    int first = bounds[tile.segment] + tile.first, keys = min(TILE_ROWS, bounds[tile.segment + 1] - first);
    start_rows<DIM>(key_tile, TILE_ROWS, qkv,
                    [&](int i) { return i < keys ? qkv + (first + i) * pitch + shape.key(kv_head) : nullptr; });
    start_rows<DIM>(value_tile, TILE_ROWS, qkv,
                    [&](int i) { return i < keys ? qkv + (first + i) * pitch + shape.value(kv_head) : nullptr; });

    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    bool is_active = warp * 16 < keys;
    float dk[DIM / 8][4] = {}, dv[DIM / 8][4] = {};
    for (int other = tile.segment; other < segments; ++other) {
        bool is_own = other == tile.segment;
        if (!is_own && (prefixes == nullptr || prefixes[other] != tile.segment)) continue;
        int own = bounds[other], rows = (bounds[other + 1] - own) * group;
        int begin = is_own && is_causal ? tile.first * group : 0;
        auto token_of = [&](int row) { return own + row / group; };
        auto head_of = [&](int row) { return kv_head * group + row % group; };
        auto start = [&](int row, int stage) {
            if (row < rows) {
                start_rows<DIM>(query_tiles + stage * STEP * PITCH, STEP, qkv, [&](int i) {
                    return row + i < rows ? qkv + token_of(row + i) * pitch + shape.query(head_of(row + i)) : nullptr;
                });
                start_rows<DIM>(output_tiles + stage * STEP * PITCH, STEP, d_o, [&](int i) {
                    return row + i < rows ? d_o + (size_t(token_of(row + i)) * heads + head_of(row + i)) * DIM : nullptr;
                });
            }
            cp_async_commit();
        };
        start(begin, 0);
        for (int row = begin, stage = 0; row < rows; row += STEP, stage ^= 1) {
            start(row + STEP, stage ^ 1);
            cp_async_wait<1>();
            __syncthreads();
            if (is_active) {
                const bf16 *query_tile = query_tiles + stage * STEP * PITCH, *output_tile = output_tiles + stage * STEP * PITCH;
                float p[STEP / 8][4] = {}, ds[STEP / 8][4] = {};
#pragma unroll
                for (int k = 0; k < DIM; k += 16) {
                    uint32_t a[4], b[STEP / 8][2];
                    left_fragment<DIM>(a, key_tile, warp * 16, k);
                    right_fragments<DIM>(b, query_tile, 0, k);
                    mma(p, a, b);
                    left_fragment<DIM>(a, value_tile, warp * 16, k);
                    right_fragments<DIM>(b, output_tile, 0, k);
                    mma(ds, a, b);
                }
#pragma unroll
                for (int j = 0; j < STEP / 8; ++j) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        int at = row + j * 8 + lane % 4 * 2 + i % 2;
                        int key = tile.first + warp * 16 + i / 2 * 8 + lane / 4;
                        bool is_seen = at < rows && !(is_own && is_causal && key > at / group);
                        // Loaded by every lane: a load behind a branch of its own could not overlap with the others.
                        int row_inside = min(at, rows - 1);
                        size_t from = size_t(token_of(row_inside)) * heads + head_of(row_inside);
                        float row_lse = lse[from], row_delta = delta[from];
                        float weight = exp2f(__fmaf_rn(p[j][i], scale * LOG2_E, -row_lse * LOG2_E));
                        p[j][i] = is_seen ? weight : 0.0f;
                        ds[j][i] = is_seen ? weight * (ds[j][i] - row_delta) : 0.0f;
                    }
                }
#pragma unroll
                for (int pair = 0; pair < STEP / 16; ++pair) {
                    uint32_t a[4], b[DIM / 8][2];
                    repack(a, p, pair);
                    transposed_fragments<DIM>(b, output_tile, pair * 16);
                    mma(dv, a, b);
                    repack(a, ds, pair);
                    transposed_fragments<DIM>(b, query_tile, pair * 16);
                    mma(dk, a, b);
                }
            }
            __syncthreads();
        }
    }
    if (!is_active) return;
    for (int half = 0; half < 2; ++half) {
        int key = warp * 16 + half * 8 + lane / 4;
        if (key >= keys) continue;
        bf16* to = dqkv + (first + key) * pitch + lane % 4 * 2;
        for (int n = 0; n < DIM / 8; ++n) {
            uint32_t key_pair = pack(dk[n][2 * half] * scale, dk[n][2 * half + 1] * scale);
            *reinterpret_cast<uint32_t*>(to + shape.key(kv_head) + n * 8) = key_pair;
            *reinterpret_cast<uint32_t*>(to + shape.value(kv_head) + n * 8) = pack(dv[n][2 * half], dv[n][2 * half + 1]);
        }
    }
}

// d_o bf16 [T, heads dim]; qkv and bounds and prefixes as forward has them; lse, delta f32 [T, heads]; dqkv bf16 as qkv: one kernel writes
// its queries, the other its keys and values. Blocks: at least as many as there are tiles, then kv_heads.
#define BACKWARD_PARAMETERS                                                                                                            \
    const bf16 *d_o, const bf16 *qkv, const float *lse, const float *delta, const int *bounds, const int *prefixes, bf16 *dqkv,        \
        int heads, int kv_heads, int segments, int is_causal, float scale
#define BACKWARD_ARGUMENTS d_o, qkv, lse, delta, bounds, prefixes, dqkv, heads, kv_heads, segments, is_causal, scale

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
