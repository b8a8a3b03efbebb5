// Token embedding with image rows spliced in; formulas in src/ops/embedding.rs. T tokens (blockIdx.x), D width. Its gradients are sums of
// rows where an index says: see kernels/rows.cu.
#include "common/elementwise.cuh"

// table bf16 [V, D]; ids i32 [T]; images bf16 [R, D] and image_index i32 [T], or both null; x bf16 [T, D].
extern "C" __global__ void __launch_bounds__(PIECE_THREADS)
    embedding_forward(const bf16* table, const int* ids, const bf16* images, const int* image_index, bf16* x, int dim) {
    int token = blockIdx.x, image = image_index != nullptr ? image_index[token] : -1;
    const bf16* from = image >= 0 ? images + size_t(image) * dim : table + size_t(ids[token]) * dim;
    bf16* to = x + size_t(token) * dim;
    for_piece(dim, [&](auto width, int i) {
        constexpr int V = decltype(width)::value;
        store<V>(to + i, load<V>(from + i));
    });
}
