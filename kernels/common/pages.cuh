// Pages of keys and values: bf16 [pages, 2 (keys, values), kv_heads, PAGE_TOKENS, dim].
#pragma once

#include "common/types.cuh"

constexpr int PAGE_TOKENS = 16;

// The elements of one kv head's key (`what` 0) or value (1) in slot `slot` = page · PAGE_TOKENS + offset.
template <class T>
__device__ inline T* page_slot(T* pages, int slot, int what, int kv_head, int kv_heads, int dim) {
    size_t page = size_t(slot / PAGE_TOKENS) * 2 + what;
    return pages + ((page * kv_heads + kv_head) * PAGE_TOKENS + slot % PAGE_TOKENS) * dim;
}
