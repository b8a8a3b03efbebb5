// y = x wᵀ with x made from 8-bit pixels on their way to shared memory, and the gradient of w; formulas in src/ops/patch_embed.rs. N
// patches of 3 channels, F frames and P pixels; D width; K = 3 F P.
#include "common/product.cuh"

// x as a factor of a product; its lines are patches. A pixel's normalised value is looked up; frames repeat the same pixels.
struct Pixels {
    const uint8_t* values;  // [N, 3, P]
    const bf16* table;      // [3, 256] in shared memory
    int rows, terms, frames, area;

    __device__ void load(bf16* to, int line, int at, int lines, int length) const {
        Vector<bf16, VECTOR> elements{};
        if (line < lines) {
            const uint8_t* patch = values + size_t(line) * 3 * area;
            int plane = at / area, pixel = at % area, channel = plane / frames;
            for (int j = 0; j < VECTOR; ++j) {
                if (at + j >= length) break;
                elements.at[j] = table[channel * 256 + patch[channel * area + pixel]];
                if (++pixel == area) {
                    pixel = 0;
                    channel = ++plane / frames;
                }
            }
        }
        store<VECTOR>(to, elements);
    }
};

// Of each channel.
struct PixelScale {
    float mean[3], std[3];
};
static_assert(sizeof(PixelScale) == 24);

// Fills the table, [3, 256], with the value of each pixel: normalised in f32, as x is a bf16 activation rounded to bf16.
__device__ void normalise_pixels(bf16* table, const PixelScale& scale) {
#pragma unroll
    for (int channel = 0; channel < 3; ++channel) {
        for (int pixel = threadIdx.x; pixel < 256; pixel += THREADS) {
            table[channel * 256 + pixel] = to_bf16((pixel * (1.0f / 255.0f) - scale.mean[channel]) / scale.std[channel]);
        }
    }
    __syncthreads();
}

// hot
// pixels u8 [N, 3 P]; w bf16 [D, K]; y bf16 [N, D].
extern "C" __global__ void __launch_bounds__(THREADS)
    patch_embed_forward(const uint8_t* pixels, const bf16* w, bf16* y, PixelScale scale, int rows, int columns, int frames, int area) {
    __shared__ bf16 table[3 * 256];
    normalise_pixels(table, scale);
    int inner = 3 * frames * area;
    multiply<Terms::inner, Terms::inner>(
        Pixels{pixels, table, rows, inner, frames, area}, Factor{w, columns, inner, inner, inner % VECTOR == 0},
        [&](int row, int column, float first, float second) { put_bf16(y, columns, row, column, first, second); });
}

// hot
// dy bf16 [N, D]; pixels u8 [N, 3 P]; dw f32 [D, K], added to.
extern "C" __global__ void __launch_bounds__(THREADS)
    patch_embed_backward(const bf16* dy, const uint8_t* pixels, float* dw, PixelScale scale, int rows, int columns, int frames, int area) {
    __shared__ bf16 table[3 * 256];
    normalise_pixels(table, scale);
    int inner = 3 * frames * area;
    multiply<Terms::outer, Terms::outer>(
        Factor{dy, columns, rows, columns, columns % VECTOR == 0}, Pixels{pixels, table, inner, rows, frames, area},
        [&](int row, int column, float first, float second) {
            float* at = dw + size_t(row) * inner + column;
            at[0] += first;
            if (column + 1 < inner) at[1] += second;
        });
}
