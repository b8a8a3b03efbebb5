// Head and softmax; formulas in src/ops/token_logprob.rs. N rows of a chunk, V vocabulary, D width: the logits of a chunk go to memory in
// f32, then a block has a row of them. The gradient of the logits goes through linear's products.
#include "common/log_sum_exp.cuh"
#include "common/product.cuh"

template <class Tile>
__device__ inline void logits(const bf16* h, const bf16* w, float* z, int rows, int vocab, int dim) {
    using Factor = typename Tile::Factor;
    multiply<Tile, Terms::inner, Terms::inner>(Factor{h, rows, dim, dim}, Factor{w, vocab, dim, dim}, PutF32{z, rows, vocab});
}

// h bf16 [N, D]; w bf16 [V, D]; z f32 [N, V].
#define LOGITS_PARAMETERS const bf16 *h, const bf16 *w, float *z, int rows, int vocab, int dim
#define LOGITS_ARGUMENTS h, w, z, rows, vocab, dim

// hot
extern "C" __global__ void __launch_bounds__(LARGE_THREADS) token_logprob_logits_large(LOGITS_PARAMETERS) { logits<LargeTile>(LOGITS_ARGUMENTS); }
// hot
extern "C" __global__ void __launch_bounds__(WIDE_THREADS) token_logprob_logits_wide(LOGITS_PARAMETERS) { logits<WideTile>(LOGITS_ARGUMENTS); }
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
// z f32 [N, V]; targets i32, temperatures and the results f32 [N]. A block a row.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    token_logprob_forward(const float* z, const int* targets, const float* temperatures, float* logprob, float* logprob_at_temperature,
                          float* lse_raw, float* lse_at_temperature, float* entropy, Excluded excluded, int vocab) {
    int row = blockIdx.x;
    z += size_t(row) * vocab;
    float inverse = 1.0f / temperatures[row];
    RowSoftmax softmax = softmax_row(z, inverse, excluded, vocab);
    if (threadIdx.x != 0) return;
    float target = z[targets[row]];
    logprob[row] = log_probability(target, 1.0f, softmax.lse_raw);
    logprob_at_temperature[row] = excluded.holds(targets[row]) ? -INFINITY : log_probability(target, inverse, softmax.lse_at_temperature);
    lse_raw[row] = softmax.lse_raw;
    lse_at_temperature[row] = softmax.lse_at_temperature;
    entropy[row] = softmax.entropy;
}

// hot
// dz = dlogprob/τ · (onehot(target) − softmax(z/τ)), 0 where excluded: z f32, dz bf16 [N, V]; targets i32, the others f32 [N]. A
// block a row.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    token_logprob_backward(const float* z, const int* targets, const float* temperatures, const float* lse, const float* dlogprob, bf16* dz,
                           Excluded excluded, int vocab) {
    int row = blockIdx.x, target = targets[row];
    z += size_t(row) * vocab;
    dz += size_t(row) * vocab;
    float inverse = 1.0f / temperatures[row], scale = dlogprob[row] * inverse, own = lse[row];
    for_row(z, vocab, [&](int id, float z) {
        float probability = exponential(z * inverse - own);
        dz[id] = to_bf16(excluded.holds(id) ? 0.0f : scale * ((id == target ? 1.0f : 0.0f) - probability));
    });
}
