// Attention over packed keys, heads of 128, the last rung: the kernel in use. It taught that an exponential
// which gives up subnormal numbers is one instruction and not four.
#include "common/attention_forward.cuh"

// As attention_forward_128 has them.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    ladder_attention_4_forward(const bf16* qkv, const int* bounds, const int* prefixes, const int* tiles, bf16* o, float* lse,
                               AttentionShape shape) {
    forward<128, false>({qkv, bounds, prefixes, tiles}, {o, lse}, shape);
}
