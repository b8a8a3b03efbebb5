// Lanes as fibers: an arena for each system thread, the context switch, and who runs next. A lane runs until it has to wait; then the
// next lane of its warp runs, or of the next warp that has one.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "counts.h"

// void simt_switch(void** save, void* to): goes on with another stack. Only what a callee must preserve is kept.
#if defined(__x86_64__)
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmpq *%rcx          # a ret would mispredict: this is not where the last call came from
.size simt_switch, .-simt_switch
)");
constexpr size_t FRAME_WORDS = 8;    // six registers, where to go on, and one that makes the stack look as after a call
constexpr size_t FRAME_RETURN = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch, %function
simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size simt_switch, .-simt_switch
)");
constexpr size_t FRAME_WORDS = 20;
constexpr size_t FRAME_RETURN = 11;
#endif
extern "C" void simt_switch(void** save, void* to);

namespace simt {

constexpr size_t STACK_BYTES = size_t(1) << STACK_BITS;
constexpr size_t GUARD_BYTES = 4096;

template <class T>
T* reserve(size_t count) {
    void* memory = mmap(nullptr, count * sizeof(T) + 1, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        std::perror("simt: mmap");
        std::abort();
    }
    return static_cast<T*>(memory);
}
template Cell* reserve<Cell>(size_t);
template uint8_t* reserve<uint8_t>(size_t);

void release(void* memory, size_t bytes) { munmap(memory, bytes + 1); }

namespace {

struct Arena {
    uint8_t* memory = nullptr;
    Block* block = nullptr;
    unsigned guarded = 0;

    ~Arena() {
        if (memory != nullptr) munmap(memory, 2 * ARENA_BYTES);
    }
};
thread_local Arena own_arena;

void open(Arena& arena) {
    void* memory =
        mmap(nullptr, 2 * ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        std::perror("simt: mmap");
        std::abort();
    }
    arena.memory = static_cast<uint8_t*>(memory);
    uintptr_t aligned = (reinterpret_cast<uintptr_t>(memory) + ARENA_BYTES - 1) & ~(ARENA_BYTES - 1);
    arena.block = reinterpret_cast<Block*>(aligned);
    map_shared(*arena.block);
}

// A lane whose stack overflows must not write on its neighbour's.
void guard_stacks(Arena& arena, unsigned threads) {
    uintptr_t stacks = reinterpret_cast<uintptr_t>(arena.block) + STACKS_AT;
    for (; arena.guarded < threads; ++arena.guarded) {
        mprotect(reinterpret_cast<void*>(stacks + arena.guarded * STACK_BYTES), GUARD_BYTES, PROT_NONE);
    }
}

unsigned next(const Block& block, unsigned near_warp) {
    unsigned above = block.ready & (~0u << near_warp);
    unsigned warp = __builtin_ctz(above != 0 ? above : block.ready);
    return warp * WARP + __builtin_ctz(block.warps[warp].runnable);
}

void leave(Block& block, unsigned lane) {
    Warp& warp = block.warps[lane / WARP];
    warp.runnable &= ~(1u << lane % WARP);
    if (warp.runnable == 0) block.ready &= ~(1u << lane / WARP);
    void* to = block.ready == 0 ? block.host_stack_pointer : block.lanes[next(block, lane / WARP)].stack_pointer;
    simt_switch(&block.lanes[lane].stack_pointer, to);
}

extern "C" void simt_lane_main() {
    Block& block = here();
    unsigned lane = lane_here();
    block.launch->entry->call(block.launch->arguments);
    block.warps[lane / WARP].alive &= ~(1u << lane % WARP);
    block.live -= 1;
    leave(block, lane);
    __builtin_unreachable();
}

void prepare_lane(Block& block, unsigned lane) {
    uintptr_t stack = reinterpret_cast<uintptr_t>(&block) + STACKS_AT + (lane + 1) * STACK_BYTES;
    // Tops at the same distance from a power of two would share a few lines of every cache.
    stack -= (lane * 320) % 8192;
    void** frame = reinterpret_cast<void**>(stack) - FRAME_WORDS;
    frame[FRAME_RETURN] = reinterpret_cast<void*>(&simt_lane_main);
    Lane& own = block.lanes[lane];
    own.stack_pointer = frame;
    own.copies = own.group = 0;
    own.what = nullptr;
}

}  // namespace

Block& block_of_this_thread() {
    if (own_arena.block == nullptr) open(own_arena);
    return *own_arena.block;
}

void run_block(Block& block, Launch& launch, uint3 index) {
    unsigned threads = launch.block.x * launch.block.y * launch.block.z;
    if (block.launch != &launch) {
        guard_stacks(own_arena, threads);
        block.launch = &launch;
        block.view.grid = launch.grid;
        block.view.block = launch.block;
        block.threads = threads;
        block.warps_count = threads / WARP;
        block.shared.end = block.shared.begin + launch.shared_bytes;
        for (unsigned i = 0; i < threads; ++i) {
            block.view.threads[i] = {i % launch.block.x, i / launch.block.x % launch.block.y,
                                     i / (launch.block.x * launch.block.y)};
        }
    }
    block.view.block_index = index;
    block.live = threads;
    block.ready = unsigned((uint64_t(1) << block.warps_count) - 1);
    block.is_aborted = false;
    for (unsigned i = 0; i < threads; ++i) prepare_lane(block, i);
    for (unsigned w = 0; w < block.warps_count; ++w) {
        Warp& warp = block.warps[w];
        warp.runnable = warp.alive = ~0u;
        warp.meetings = 0;
        for (unsigned v = 0; v < block.warps_count; ++v) warp.clock[v] = block.first_clock - 1;
        warp.clock[w] = block.first_clock;
    }
    for (Barrier& barrier : block.barriers) {
        if (barrier.arrived != 0) barrier = Barrier{};
    }
    simt_switch(&block.host_stack_pointer, block.lanes[0].stack_pointer);
    if (!block.is_aborted && block.live != 0) report_stuck(block);
    if (Counter* counting = counter(block)) {
        counting->now->blocks += 1;
        counting->now->warps += block.warps_count;
        for (unsigned w = 0; w < block.warps_count; ++w) counting->meet(w);
    }
}

void suspend(Block& block, unsigned lane) { leave(block, lane); }

void wake(Block& block, unsigned warp, unsigned lanes) {
    block.warps[warp].runnable |= lanes;
    block.ready |= 1u << warp;
}

void abort_block(Block& block) {
    block.is_aborted = true;
    block.launch->is_stopped = true;
    void* left;
    simt_switch(&left, block.host_stack_pointer);
    __builtin_unreachable();
}

}  // namespace simt
