// Attention over packed keys, heads of 128, rung 2: the tile comes from a table, a warp copies 16 rows by an unrolled loop whose places are
// sums of few numbers, and one barrier a tile is enough. It taught that a copy whose row is found once costs four instructions
// and not twenty.
#include "common/attention_forward.cuh"

constexpr int DIM = 128;

namespace {  // rungs of one library have functions of the same names

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

// As attention_forward_128 has them.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    ladder_attention_2_rows(const bf16* values, const int* bounds, const int* prefixes, const int* tiles, bf16* o, float* lse,
                              AttentionShape shape) {
    DYNAMIC_SHARED(ForwardShared<DIM>, shared);
    int kv_head = blockIdx.y;
    Tile tile = tile_at(tiles, blockIdx.x);
    const Segment segment = packed_segment(bounds, prefixes, tile.segment);
    const Rows rows = rows_of(segment, tile.first, shape);
    const Qkv<DIM, const bf16> qkv{values, shape.heads, shape.kv_heads};
    FragmentA q[DIM / 16];
    load_queries<DIM>(q, qkv, rows, shape);
    const Limits limits = limits_of(rows, segment, shape);
    int seen = rows.limit(rows.count - 1, segment, shape);
    PackedKeys<DIM> keys{qkv.key(0, kv_head), qkv.value(0, kv_head), qkv.stride(), segment, seen};
    bool is_active = int(threadIdx.x) / WARP * 16 < rows.count;
    float exponent = shape.scale * LOG2_E;
    Softmax<DIM> split;
    Joined<DIM> joined{shared};
    keys.load(shared->keys[0], shared->values[0], 0);
    cp_async_commit();
    for (int key = 0, stage = 0; key < seen; key += TILE_KEYS, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (key + TILE_KEYS < seen) keys.load(shared->keys[stage ^ 1], shared->values[stage ^ 1], key + TILE_KEYS);
        cp_async_commit();
        if (!is_active) continue;
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
    if (!is_active) return;
    if (!joined.is_empty) joined.copy_to(split);
    store_forward(split, rows, {o, lse}, shape);
}
