// Attention of decoded tokens over pages, heads of 128, a block a split, rung 2: the tile comes from a table, and a block without keys ends. It
// taught that tables padded to a power of two cost as much as they have columns: the loop is as it was.
#include "common/attention_forward.cuh"

constexpr int DIM = 128;

// As attention_forward_paged_128 has them with parts.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    ladder_decode_2_return(const bf16* values, const int* bounds, const int* tiles, const bf16* pages, const int* page_tables,
                             const int* lengths, float* parts, int part_rows, AttentionShape shape) {
    DYNAMIC_SHARED(ForwardShared<DIM>, shared);
    int kv_head = blockIdx.y;
    Tile tile = tile_at(tiles, blockIdx.x);
    const Segment segment = paged_segment(bounds, lengths, tile.segment);
    const Rows rows = rows_of(segment, tile.first, shape);
    int seen = rows.limit(rows.count - 1, segment, shape);
    int first_key = blockIdx.z * SPLIT_KEYS, end_key = min(first_key + SPLIT_KEYS, seen);
    if (first_key >= seen) return;
    const int* page_table = page_tables + size_t(tile.segment) * shape.pages_max;
    auto at = [&](int position, int what) {
        int slot = page_table[position / PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS;
        return page_slot(pages, slot, what, kv_head, shape.kv_heads, DIM);
    };
    auto load = [&](int key, int stage) {
        if (key < end_key) {
            auto row = [&](int i, int what) { return key + i < seen ? at(key + i, what) : nullptr; };
            shared->keys[stage].load<THREADS>(values, [&](int i) { return row(i, 0); });
            shared->values[stage].load<THREADS>(values, [&](int i) { return row(i, 1); });
        }
        cp_async_commit();
    };
    bool is_active = int(threadIdx.x) / WARP * 16 < rows.count;
    FragmentA q[DIM / 16];
    load_queries<DIM>(q, Qkv<DIM, const bf16>{values, shape.heads, shape.kv_heads}, rows, shape);
    const Limits limits = limits_of(rows, segment, shape);
    Softmax<DIM> split;
    load(first_key, 0);
    for (int key = first_key, stage = 0; key < end_key; key += TILE_KEYS, stage ^= 1) {
        load(key + TILE_KEYS, stage ^ 1);
        cp_async_wait<1>();
        __syncthreads();
        if (is_active) {
            Accumulator<TILE_KEYS> scores;
            mma_ABt(scores, q, shared->keys[stage]);
            if (key + TILE_KEYS > limits.least) mask(scores, key, limits);
            split.add(scores, shape.scale * LOG2_E);
            mma_AB(split.o, scores, shared->values[stage]);
        }
        __syncthreads();
    }
    if (!is_active) return;
    split.finish();
    store_forward(split, rows, {nullptr, nullptr, parts, part_rows}, shape);
}
