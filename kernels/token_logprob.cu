// Head and softmax; formulas in src/ops/token_logprob.rs. N rows of a chunk, V vocabulary, D width: the logits of a chunk go to memory in
// f32, then a block has a row of them. The gradient of the logits goes through linear's products.
#include "common/log_sum_exp.cuh"
#include "common/product.cuh"

// hot
// h bf16 [N, D]; w bf16 [V, D]; z f32 [N, V].
extern "C" __global__ void __launch_bounds__(THREADS)
    token_logprob_logits(const bf16* h, const bf16* w, float* z, int rows, int vocab, int dim) {
    bool is_vector = dim % VECTOR == 0;
    multiply<Terms::inner, Terms::inner>(
        Factor{h, rows, dim, dim, is_vector}, Factor{w, vocab, dim, dim, is_vector},
        [&](int row, int column, float first, float second) {
            float* at = z + size_t(row) * vocab + column;
            if (vocab % 2 == 0) {
                store<2>(at, Vector<float, 2>{{first, second}});
            } else {
                at[0] = first;
                if (column + 1 < vocab) at[1] = second;
            }
        });
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
