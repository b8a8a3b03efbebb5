// Attention of decoded tokens over pages, heads of 128, a block a split, rung 1: a block searches its sequence, looks a page up for every
// vector, and works through its split whether it has keys or not. It taught that with one warp of four at
// work all four pay for the loader.
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

}  // namespace

// As attention_forward_paged_128 has them with parts; the tiles are not read.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    ladder_decode_1_search(const bf16* values, const int* bounds, const int* tiles, const bf16* pages, const int* page_tables,
                             const int* lengths, float* parts, int part_rows, AttentionShape shape) {
    DYNAMIC_SHARED(ForwardShared<DIM>, shared);
    int kv_head = blockIdx.y;
    Tile tile = find_tile(bounds, shape.segments, shape.heads / shape.kv_heads, blockIdx.x);
    if (tile.segment < 0) return;
    const Segment segment = paged_segment(bounds, lengths, tile.segment);
    const Rows rows = rows_of(segment, tile.first, shape);
    int seen = rows.limit(rows.count - 1, segment, shape);
    int first_key = blockIdx.z * SPLIT_KEYS, end_key = min(first_key + SPLIT_KEYS, seen);
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
