// Softmax attention over packed or paged keys, forward; formulas in src/ops/attention.rs, backward in attention_backward.cu. What a block works
// on is in common/attention.cuh, how in common/attention_forward.cuh.
#include "common/attention_forward.cuh"

// qkv bf16 [T, (heads + 2 kv_heads) dim]; bounds i32 [segments + 1]; tiles i32 [blocks, 2]; o bf16 [T, heads dim], lse f32 [T, heads]. Packed:
// prefixes i32 [segments] or null. Paged: pages, page_tables i32 [segments, pages_max] and lengths i32 [segments]; parts f32 or null, and then
// its rows of a tile. Blocks: a tile each, then kv_heads, then splits where there are parts.
#define PACKED_PARAMETERS \
    const bf16 *qkv, const int *bounds, const int *prefixes, const int *tiles, bf16 *o, float *lse, AttentionShape shape
#define PACKED_ARGUMENTS {qkv, bounds, prefixes, tiles}, {o, lse}, shape
#define PAGED_PARAMETERS                                                                                                                  \
    const bf16 *qkv, const int *bounds, const int *tiles, const bf16 *pages, const int *page_tables, const int *lengths, bf16 *o, float *lse, \
        float *parts, int part_rows, AttentionShape shape
#define PAGED_ARGUMENTS {qkv, bounds, nullptr, tiles, pages, page_tables, lengths}, {o, lse, parts, part_rows}, shape

// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_16(PACKED_PARAMETERS) { forward<16, false>(PACKED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_32(PACKED_PARAMETERS) { forward<32, false>(PACKED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_48(PACKED_PARAMETERS) { forward<48, false>(PACKED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_64(PACKED_PARAMETERS) { forward<64, false>(PACKED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_forward_80(PACKED_PARAMETERS) { forward<80, false>(PACKED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_96(PACKED_PARAMETERS) { forward<96, false>(PACKED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_112(PACKED_PARAMETERS) { forward<112, false>(PACKED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_128(PACKED_PARAMETERS) { forward<128, false>(PACKED_ARGUMENTS); }

// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_16(PAGED_PARAMETERS) { forward<16, true>(PAGED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_32(PAGED_PARAMETERS) { forward<32, true>(PAGED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_48(PAGED_PARAMETERS) { forward<48, true>(PAGED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_64(PAGED_PARAMETERS) { forward<64, true>(PAGED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_80(PAGED_PARAMETERS) { forward<80, true>(PAGED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_96(PAGED_PARAMETERS) { forward<96, true>(PAGED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_112(PAGED_PARAMETERS) { forward<112, true>(PAGED_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward_paged_128(PAGED_PARAMETERS) { forward<128, true>(PAGED_ARGUMENTS); }

// The splits of a row, joined left to right exactly as `attend` joins them; a warp has a row of o. parts [splits, tiles, kv_heads, part_rows,
// dim + 2]; tiles i32 [tiles, 2]. Splits behind a row's keys are not read. Blocks: a tile each, then kv_heads, then as many as rows want.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_join(const float* parts, const int* bounds, const int* tiles, const int* lengths, bf16* o, float* lse, int part_rows, int dim,
                   AttentionShape shape) {
    int row = blockIdx.z * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Tile tile = tile_at(tiles, blockIdx.x);
    const Segment segment = paged_segment(bounds, lengths, tile.segment);
    const Rows rows = rows_of(segment, tile.first, shape);
    if (row >= rows.count) return;
    int count = (rows.limit(row, segment, shape) + SPLIT_KEYS - 1) / SPLIT_KEYS;
    size_t tiles_before = size_t(blockIdx.x) * gridDim.y + blockIdx.y, stride = size_t(gridDim.x) * gridDim.y * part_rows * (dim + 2);
    const float* part = parts + (tiles_before * part_rows + row) * (dim + 2);
    float top = part[dim], sum = part[dim + 1], exponent = shape.scale * LOG2_E;
    for (int split = 1; split < count; ++split) {
        const float* next = part + split * stride;
        Joint joint(top, next[dim], exponent);
        sum = __fmaf_rn(sum, joint.before, next[dim + 1] * joint.after);
        top = joint.top;
    }
    size_t at = rows.at(row, shape);
    for (int column = lane; column < dim; column += WARP) {
        float value = part[column], top_before = part[dim];
        for (int split = 1; split < count; ++split) {
            const float* next = part + split * stride;
            Joint joint(top_before, next[dim], exponent);
            value = __fmaf_rn(value, joint.before, next[column] * joint.after);
            top_before = joint.top;
        }
        o[at * dim + column] = to_bf16(value / sum);
    }
    if (lane == 0) lse[at] = log_sum_exp(top, sum, shape.scale);
}
