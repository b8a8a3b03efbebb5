// One launch over many tensors: a table in device memory has a row for each, with the addresses of what belongs to it and the number of
// its first block. src/cuda/table.rs makes it.
#pragma once

#include "common/types.cuh"

// Memory of the device at an address of a table. That it is the device's own lets the compiler use the plain instructions for it.
template <class T>
__device__ inline T* pointer_at(uint64_t address) {
#ifdef THYME_SIMT
    return reinterpret_cast<T*>(address);
#else
    return static_cast<T*>(__cvta_global_to_generic(address));
#endif
}

// The row that blockIdx.x works on: the last whose `first_block` is not behind it. All THREADS of the block look for it, and meet at a barrier.
template <int THREADS, class Entry>
__device__ inline const Entry& entry_of_block(const Entry* table, int count) {
    __shared__ int found;
    int block = blockIdx.x;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        bool is_last = i + 1 == count || table[i + 1].first_block > block;
        if (table[i].first_block <= block && is_last) found = i;
    }
    __syncthreads();
    return table[found];
}
