// x from 8-bit pixels; formulas in src/ops/patch_embed.rs. N patches of 3 channels, F frames and P pixels; K = 3 F P. Its product with w and
// the gradient of w are linear's: x lies in memory in between, so that a pixel is looked up once, and not for each tile of the result.
#include "common/types.cuh"

constexpr int PATCHES_PER_BLOCK = 16;
constexpr int EXPAND_THREADS = 256;

// Of each channel.
struct PixelScale {
    float mean[3], std[3];
};
static_assert(sizeof(PixelScale) == 24);

// V neighbours a thread, looked up once and written to every frame.
template <int V>
__device__ inline void expand(const uint8_t* pixels, bf16* x, const bf16* table, int patches, int frames, int area) {
    int pieces = area / V;
    for (int item = threadIdx.x; item < patches * 3 * pieces; item += EXPAND_THREADS) {
        int plane = item / pieces, pixel = item % pieces * V;
        Vector<uint8_t, V> from = load<V>(pixels + size_t(plane) * area + pixel);
        Vector<bf16, V> values;
#pragma unroll
        for (int i = 0; i < V; ++i) values.at[i] = table[plane % 3 * 256 + from.at[i]];
        bf16* to = x + size_t(plane) * frames * area + pixel;
        for (int frame = 0; frame < frames; ++frame) store<V>(to + frame * area, values);
    }
}

// hot
// pixels u8 [N, 3 P]; x bf16 [N, K]. A pixel's value is normalised in f32, and as an activation rounded to bf16.
extern "C" __global__ void __launch_bounds__(EXPAND_THREADS)
    patch_embed_expand(const uint8_t* pixels, bf16* x, PixelScale scale, int rows, int frames, int area) {
    __shared__ bf16 table[3 * 256];
#pragma unroll
    for (int channel = 0; channel < 3; ++channel) {
        int pixel = threadIdx.x;
        table[channel * 256 + pixel] = to_bf16((pixel * (1.0f / 255.0f) - scale.mean[channel]) / scale.std[channel]);
    }
    __syncthreads();
    int first = blockIdx.x * PATCHES_PER_BLOCK, patches = min(PATCHES_PER_BLOCK, rows - first);
    pixels += size_t(first) * 3 * area;
    x += size_t(first) * 3 * frames * area;
    if (area % 4 == 0) {
        expand<4>(pixels, x, table, patches, frames, area);
    } else {
        expand<1>(pixels, x, table, patches, frames, area);
    }
}
