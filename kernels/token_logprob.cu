// Head and softmax; formulas in src/ops/token_logprob.rs. N rows of a chunk, V vocabulary, D width, W columns of a slice of the vocabulary
// (common/log_sum_exp.cuh). Logits exist for one slice at a time, in f32: the head's weights are read once whatever the number of rows.
#include "common/log_sum_exp.cuh"
#include "common/product.cuh"

constexpr int ROWS_PER_BLOCK = 4;

template <class Tile>
__device__ inline void logits(const bf16* h, const bf16* w, float* z, int rows, int columns, int dim) {
    using Factor = typename Tile::Factor;
    multiply<Tile, Terms::inner, Terms::inner>(Factor{h, rows, dim, dim}, Factor{w, columns, dim, dim}, PutF32{z, rows, columns});
}

// h bf16 [N, D]; w bf16 [W, D], of a slice or of all the vocabulary; z f32 [N, W].
#define LOGITS_PARAMETERS const bf16 *h, const bf16 *w, float *z, int rows, int columns, int dim
#define LOGITS_ARGUMENTS h, w, z, rows, columns, dim

// hot
extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 2) token_logprob_logits_large(LOGITS_PARAMETERS) { logits<LargeTile>(LOGITS_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(WIDE_THREADS, 2) token_logprob_logits_wide(LOGITS_PARAMETERS) { logits<WideTile>(LOGITS_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(FEW_64_THREADS) token_logprob_logits_few_64(LOGITS_PARAMETERS) { logits<Few64Tile>(LOGITS_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(FEW_32_THREADS) token_logprob_logits_few_32(LOGITS_PARAMETERS) { logits<Few32Tile>(LOGITS_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(FEW_16_THREADS) token_logprob_logits_few_16(LOGITS_PARAMETERS) { logits<Few16Tile>(LOGITS_ARGUMENTS); }
extern "C" __global__ void __launch_bounds__(UNALIGNED_THREADS) token_logprob_logits_unaligned(LOGITS_PARAMETERS) {
    logits<UnalignedTile>(LOGITS_ARGUMENTS);
}

// hot
// The statistics of one of `slices` slices, that from the token `first` on, and the target's logit where it is in it: z f32 [N, W];
// targets i32, temperatures and target_logits f32 [N]; softmax [N, slices]. A block a row.
extern "C" __global__ void __launch_bounds__(SLICE_THREADS)
    token_logprob_slice(const float* z, const int* targets, const float* temperatures, float* target_logits, SliceSoftmax* softmax,
                        Excluded excluded, int first, int columns, int slices) {
    int row = blockIdx.x;
    z += size_t(row) * columns;
    SliceSoftmax found = slice_softmax(load_share(z, columns, columns), 1.0f / temperatures[row], excluded, first, Unseen{});
    if (threadIdx.x != 0) return;
    softmax[size_t(row) * slices + first / SLICE] = found;
    int target = targets[row] - first;
    if (0 <= target && target < columns) target_logits[row] = z[target];
}

// softmax [N, slices]; targets i32, the others f32 [N]. A warp a row.
extern "C" __global__ void __launch_bounds__(ROWS_PER_BLOCK * WARP)
    token_logprob_forward(const SliceSoftmax* softmax, const int* targets, const float* target_logits, const float* temperatures,
                          float* logprob, float* logprob_at_temperature, float* lse_raw, float* lse_at_temperature, float* entropy,
                          Excluded excluded, int rows, int slices) {
    int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP;
    if (row >= rows) return;
    RowSoftmax found = join_slices(softmax + size_t(row) * slices, slices);
    if (threadIdx.x % WARP != 0) return;
    float target = target_logits[row];
    logprob[row] = log_probability(target, 1.0f, found.lse_raw);
    logprob_at_temperature[row] =
        excluded.holds(targets[row]) ? -INFINITY : log_probability(target, 1.0f / temperatures[row], found.lse_at_temperature);
    lse_raw[row] = found.lse_raw;
    lse_at_temperature[row] = found.lse_at_temperature;
    entropy[row] = found.entropy;
}

// The gradient of a row's entropy by its logits, −dentropy · p · (ln p + entropy) with p = softmax(z).
struct EntropyGradient {
    float dentropy, entropy, lse_raw;

    __device__ float added_to(float of_logit, float z) const {
        float log_probability = z - lse_raw;
        return of_logit - dentropy * softmax_exponential(log_probability) * (log_probability + entropy);
    }
};

struct NoEntropyGradient {
    __device__ float added_to(float of_logit, float) const { return of_logit; }
};

template <class Entropy>
__device__ inline void backward_slice(const float* z, const int* targets, const float* temperatures, const float* lse, const float* dlogprob,
                                      bf16* dz, Excluded excluded, int first, int columns, Entropy entropy) {
    int row = blockIdx.x, target = targets[row] - first;
    Share share = load_share(z + size_t(row) * columns, columns, columns);
    float inverse = 1.0f / temperatures[row], scale = dlogprob[row] * inverse, own = lse[row];
    dz += size_t(row) * columns;
#pragma unroll
    for (int i = 0; i < SHARE; i += 4) {
        int column = Share::column(i);
        Vector<bf16, 4> found;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float probability = softmax_exponential(share.at[i + j] * inverse - own);
            float of_logit = scale * ((column + j == target ? 1.0f : 0.0f) - probability);
            found.at[j] = to_bf16(entropy.added_to(excluded.holds(first + column + j) ? 0.0f : of_logit, share.at[i + j]));
        }
        if (columns % 4 == 0) {
            if (column < columns) store<4>(dz + column, found);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (column + j < columns) dz[column + j] = found.at[j];
            }
        }
    }
}

// hot
// dz = dlogprob/τ · (onehot(target) − softmax(z/τ)), 0 where excluded, of the slice from the token `first` on: z f32, dz bf16 [N, W];
// targets i32, the others f32 [N]. A block a row.
extern "C" __global__ void __launch_bounds__(SLICE_THREADS)
    token_logprob_backward(const float* z, const int* targets, const float* temperatures, const float* lse, const float* dlogprob, bf16* dz,
                           Excluded excluded, int first, int columns) {
    backward_slice(z, targets, temperatures, lse, dlogprob, dz, excluded, first, columns, NoEntropyGradient{});
}

// hot
// The same with the gradient of the entropies: dentropy, entropy and lse_raw f32 [N].
extern "C" __global__ void __launch_bounds__(SLICE_THREADS)
    token_logprob_entropy_backward(const float* z, const int* targets, const float* temperatures, const float* lse, const float* dlogprob,
                                   const float* dentropy, const float* entropy, const float* lse_raw, bf16* dz, Excluded excluded, int first,
                                   int columns) {
    int row = blockIdx.x;
    backward_slice(z, targets, temperatures, lse, dlogprob, dz, excluded, first, columns,
                   EntropyGradient{dentropy[row], entropy[row], lse_raw[row]});
}

// The products of slices, added up in f32 from the first slice on; the last one rounds what comes of it.
struct AddSlice {
    float* sum;
    bf16* to;
    int rows, columns;
    bool is_first, is_last;

    template <int COUNT>
    __device__ void operator()(int row, int column, const float (&strip)[COUNT][2]) const {
        if (column >= columns) return;
        float total[COUNT][2];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const float* before = sum + size_t(row + i * 8) * columns + column;
            bool adds = !is_first && row + i * 8 < rows;
            total[i][0] = adds ? before[0] + strip[i][0] : strip[i][0];
            total[i][1] = adds && column + 1 < columns ? before[1] + strip[i][1] : strip[i][1];
        }
        if (is_last) {
            PutBf16{to, rows, columns, nullptr}(row, column, total);
        } else {
            PutF32{sum, rows, columns}(row, column, total);
        }
    }
};

template <class Tile>
__device__ inline void backward_input(const bf16* dz, const bf16* w, float* sum, bf16* dh, int rows, int columns, int dim, int slice, int slices) {
    using Factor = typename Tile::Factor;
    multiply<Tile, Terms::inner, Terms::outer>(Factor{dz, rows, columns, columns}, Factor{w, dim, columns, dim},
                                               AddSlice{sum, dh, rows, dim, slice == 0, slice + 1 == slices});
}

// dh = Σ dz w over the slices in ascending order: dz bf16 [N, W]; w bf16 [W, D]; sum f32 [N, D] between the first slice and the last,
// null if there is one slice; dh bf16 [N, D], which the last slice writes.
#define BACKWARD_INPUT_PARAMETERS \
    const bf16 *dz, const bf16 *w, float *sum, bf16 *dh, int rows, int columns, int dim, int slice, int slices
#define BACKWARD_INPUT_ARGUMENTS dz, w, sum, dh, rows, columns, dim, slice, slices

// hot
extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 2) token_logprob_backward_input_large(BACKWARD_INPUT_PARAMETERS) {
    backward_input<LargeTile>(BACKWARD_INPUT_ARGUMENTS);
}
extern "C" __global__ void __launch_bounds__(UNALIGNED_THREADS) token_logprob_backward_input_unaligned(BACKWARD_INPUT_PARAMETERS) {
    backward_input<UnalignedTile>(BACKWARD_INPUT_ARGUMENTS);
}
