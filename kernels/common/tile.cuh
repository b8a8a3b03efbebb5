// Tiles of matrices on their way to the tensor cores: cp.async, ldmatrix, mma.sync, named barriers. Inline PTX stands in this folder
// only, each instruction beside its twin for the host.
#pragma once

#include "common/types.cuh"

#ifndef THYME_SIMT
__device__ inline uint32_t shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }
#endif

// Starts to copy 16 bytes to shared memory, the first `taken` (0 or 16) from `from` and zeros for the rest. Both addresses are multiples
// of 16. The bytes are there for this thread after cp_async_wait, and for others after a barrier behind it.
__device__ inline void cp_async_16(void* to, const void* from, int taken) {
#ifdef THYME_SIMT
    simt::copy_async(to, from, 16, taken);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(taken) : "memory");
#endif
}

// Ends a group of copies.
__device__ inline void cp_async_commit() {
#ifdef THYME_SIMT
    simt::copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING of this thread's newest groups are under way.
template <int PENDING>
__device__ inline void cp_async_wait() {
#ifdef THYME_SIMT
    simt::copy_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Four 8 × 8 matrices: lane 8q + j gives the address of row j of matrix q, 16 bytes, and register q of lane l holds elements 2(l % 4) and
// 2(l % 4) + 1 of row l / 4.
__device__ inline void ldmatrix_x4(uint32_t (&fragment)[4], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 4, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row)) : "memory");
#endif
}

// The same, each matrix transposed: register q of lane l holds rows 2(l % 4) and 2(l % 4) + 1 of column l / 4.
__device__ inline void ldmatrix_x4_trans(uint32_t (&fragment)[4], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 4, true, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row)) : "memory");
#endif
}

// Two matrices, at the addresses that lanes 0-15 give.
__device__ inline void ldmatrix_x2(uint32_t (&fragment)[2], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 2, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(shared_address(row)) : "memory");
#endif
}

// Two matrices, each transposed.
__device__ inline void ldmatrix_x2_trans(uint32_t (&fragment)[2], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 2, true, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(shared_address(row)) : "memory");
#endif
}

// One matrix, at the addresses that lanes 0-7 give.
__device__ inline void ldmatrix_x1(uint32_t (&fragment)[1], const void* row) {
#ifdef THYME_SIMT
    simt::load_matrices(fragment, 1, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0]) : "r"(shared_address(row)) : "memory");
#endif
}

// d[i] += a · b[i] for N tiles side by side: a 16 × 16, b[i] 16 × 8, d[i] 16 × 8 in f32. With g = lane / 4 and t = lane % 4:
// a holds (row, k) at rows g, g + 8 and k 2t, 2t + 1, then the same at k + 8; b holds (k, column) at k 2t, 2t + 1, then k + 8, column g;
// d holds rows g, then g + 8, at columns 2t, 2t + 1.
template <int N>
__device__ inline void mma(float (&d)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N][2]) {
#ifdef THYME_SIMT
    simt::multiply(d, a, b, N);
#else
#pragma unroll
    for (int i = 0; i < N; ++i) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i][0]), "r"(b[i][1]));
    }
#endif
}

// Waits at barrier `id` (1 to 15; 0 is __syncthreads) until `threads` of the block, whole warps, have come.
__device__ inline void named_barrier_sync(int id, int threads) {
#ifdef THYME_SIMT
    simt::barrier(id, threads, true);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Comes to barrier `id` and does not wait.
__device__ inline void named_barrier_arrive(int id, int threads) {
#ifdef THYME_SIMT
    simt::barrier(id, threads, false);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}
