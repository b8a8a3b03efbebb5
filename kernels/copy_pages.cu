// Copies of whole pages; src/ops/copy_pages.rs. A thread has the same 16 bytes of every page and goes through the pairs in order, so that
// a page that was written may be read by a later pair without any barrier.
#include "common/types.cuh"

constexpr int THREADS = 128;

// pages bf16 [.., VECTOR · vectors]; pairs i32 [count, 2], from and to.
extern "C" __global__ void __launch_bounds__(THREADS) copy_pages(bf16* pages, const int* pairs, int count, int vectors) {
    int vector = blockIdx.x * THREADS + threadIdx.x;
    if (vector >= vectors) return;
    for (int pair = 0; pair < count; ++pair) {
        int from = pairs[2 * pair], to = pairs[2 * pair + 1];
        auto values = load<VECTOR>(pages + (size_t(from) * vectors + vector) * VECTOR);
        store<VECTOR>(pages + (size_t(to) * vectors + vector) * VECTOR, values);
    }
}
