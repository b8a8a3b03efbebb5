// Attention over packed keys, heads of 128, rung 1: a block searches its tile among the segments, divides by the group, and works out every
// vector's place by itself. It taught that a loader can cost as much as the products that it feeds.
#include "common/attention_forward.cuh"

constexpr int DIM = 128;

namespace {  // rungs of one library have functions of the same names

// Which tile of which segment block `number` has, when a segment of n tokens has n * group rows. The same in every lane.
__device__ inline Tile find_tile(const int* bounds, int segments, int group, int number) {
    int lane = threadIdx.x % WARP;
    for (int first = 0; first < segments; first += WARP) {
        int segment = first + lane;
        int rows = segment < segments ? (bounds[segment + 1] - bounds[segment]) * group : 0;
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

__device__ inline void add(Softmax<DIM>& split, Accumulator<TILE_KEYS>& scores, float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float most = -INFINITY;
#pragma unroll
        for (auto& pair : scores.at) most = fmaxf(most, fmaxf(pair[2 * half], pair[2 * half + 1]));
        float top = fmaxf(split.top[half], row_max(most));
        float before = top == -INFINITY ? 1.0f : exp2f((split.top[half] - top) * scale);
        float origin = top == -INFINITY ? 0.0f : top * scale, added = 0.0f;
        split.top[half] = top;
#pragma unroll
        for (auto& pair : scores.at) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                pair[i] = exp2f(__fmaf_rn(pair[i], scale, -origin));
                added += pair[i];
            }
        }
        split.sum[half] = __fmaf_rn(split.sum[half], before, added);
#pragma unroll
        for (auto& pair : split.o.at) {
            pair[2 * half] *= before;
            pair[2 * half + 1] *= before;
        }
    }
}

}  // namespace

// As attention_forward_128 has them; the tiles are not read.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    ladder_attention_1_search(const bf16* values, const int* bounds, const int* prefixes, const int* tiles, bf16* o, float* lse,
                              AttentionShape shape) {
    DYNAMIC_SHARED(ForwardShared<DIM>, shared);
    int group = shape.heads / shape.kv_heads, kv_head = blockIdx.y;
    Tile tile = find_tile(bounds, shape.segments, group, blockIdx.x);
    if (tile.segment < 0) return;
    const Qkv<DIM, const bf16> qkv{values, shape.heads, shape.kv_heads};
    const Segment segment = packed_segment(bounds, prefixes, tile.segment);
    int count = min(TILE_ROWS, segment.queries * group - tile.first);
    auto query = [&](int row) { return (tile.first + row) / group; };
    auto head = [&](int row) { return kv_head * group + (tile.first + row) % group; };
    auto limit = [&](int row) { return row >= count ? 0 : shape.is_causal ? segment.start + query(row) + 1 : segment.keys; };
    int seen = limit(count - 1);

    auto load = [&](int key, int stage) {
        if (key < seen) {
            auto row = [&](int i) { return key + i < seen ? segment.key_row(key + i) : -1; };
            shared->keys[stage].load<THREADS>(values, [&](int i) { return row(i) < 0 ? nullptr : qkv.key(row(i), kv_head); });
            shared->values[stage].load<THREADS>(values, [&](int i) { return row(i) < 0 ? nullptr : qkv.value(row(i), kv_head); });
        }
        cp_async_commit();
    };
    bool is_active = int(threadIdx.x) / WARP * 16 < count;
    FragmentA q[DIM / 16];
#pragma unroll
    for (int k = 0; k < DIM / 16; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int row = lane_row(i % 2), column = k * 16 + i / 2 * 8 + threadIdx.x % 4 * 2;
            const bf16* from = qkv.query(segment.own + query(row), head(row)) + column;
            q[k].at[i] = row < count ? *reinterpret_cast<const uint32_t*>(from) : 0;
        }
    }
    const Limits limits{{limit(lane_row(0)), limit(lane_row(1))}, 0};
    float exponent = shape.scale * LOG2_E;
    Softmax<DIM> split;
    Joined<DIM> joined{shared};
    load(0, 0);
    for (int key = 0, stage = 0; key < seen; key += TILE_KEYS, stage ^= 1) {
        load(key + TILE_KEYS, stage ^ 1);
        cp_async_wait<1>();
        __syncthreads();
        if (is_active) {
            Accumulator<TILE_KEYS> scores;
            mma_ABt(scores, q, shared->keys[stage]);
            mask(scores, key, limits);
            add(split, scores, exponent);
            mma_AB(split.o, scores, shared->values[stage]);
            bool is_last = key + TILE_KEYS >= seen;
            if (is_last || (key + TILE_KEYS) % SPLIT_KEYS == 0) {
                split.finish();
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
    const Rows rows{tile.first, count, segment.own, kv_head};
    store_forward(split, rows, {o, lse}, shape);
}
