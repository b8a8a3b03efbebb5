// Attention of decoded tokens over pages, heads of 128, a block a split, the last rung: the kernel in use. It taught that
// a page is looked up once by the warp that copies it, a tile ahead.
#include "common/attention_forward.cuh"

// As attention_forward_paged_128 has them with parts.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    ladder_decode_3_forward(const bf16* qkv, const int* bounds, const int* tiles, const bf16* pages, const int* page_tables, const int* lengths,
                            float* parts, int part_rows, AttentionShape shape) {
    forward<128, true>({qkv, bounds, nullptr, tiles, pages, page_tables, lengths}, {nullptr, nullptr, parts, part_rows}, shape);
}
