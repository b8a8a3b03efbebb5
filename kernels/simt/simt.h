// CUDA's words for a host C++ compiler: included before a kernel's source (-include), it makes the .cu file plain C++ whose lanes are
// fibers. What an instruction does is in the .cpp files beside it, how it is counted in counts.h; inline PTX has its host twin in common/*.cuh.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define THYME_SIMT 1

#if defined(__SANITIZE_THREAD__)
#define SIMT_WATCHED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIMT_WATCHED 1
#endif
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 : uint3 {
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};

#define SIMT_VECTORS(T, name)                                 \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };        \
    struct name##3 { T x, y, z; };                            \
    struct alignas(4 * sizeof(T)) name##4 { T x, y, z, w; };  \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define SIMT_VECTORS_BUT_3(T, name)                           \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };        \
    struct alignas(4 * sizeof(T)) name##4 { T x, y, z, w; };  \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTORS(float, float)
SIMT_VECTORS(int, int)
SIMT_VECTORS_BUT_3(unsigned, uint)
SIMT_VECTORS(unsigned char, uchar)
#undef SIMT_VECTORS
#undef SIMT_VECTORS_BUT_3

namespace simt {

// An arena is aligned to its size: the block's state at its start, dynamic shared memory at SHARED_AT, a stack a lane from STACKS_AT.
constexpr unsigned LANES_MAX = 1024;
constexpr unsigned STACK_BITS = 16;
constexpr uintptr_t ARENA_BYTES = uintptr_t(1) << 27;
constexpr uintptr_t STACKS_AT = ARENA_BYTES / 2;
constexpr uintptr_t SHARED_AT = ARENA_BYTES / 4;

struct View {
    uint3 grid, block, block_index;
    uint3 threads[LANES_MAX];
};

// Not volatile: on one lane its high bits never change.
inline uintptr_t stack_pointer() {
    uintptr_t pointer;
#if defined(__x86_64__)
    asm("movq %%rsp, %0" : "=r"(pointer));
#elif defined(__aarch64__)
    asm("mov %0, sp" : "=r"(pointer));
#else
#error "the simt device knows x86-64 and aarch64"
#endif
    return pointer;
}
inline uintptr_t arena() { return stack_pointer() & ~(ARENA_BYTES - 1); }
inline const View& view() { return *reinterpret_cast<const View*>(arena()); }
inline const uint3& thread_index() { return view().threads[(stack_pointer() >> STACK_BITS) % LANES_MAX]; }
inline void* dynamic_shared() { return reinterpret_cast<void*>(arena() + SHARED_AT); }

// warp.cpp, memory.cpp: the instructions.
enum class Shuffle { index, up, down, exclusive_or };
enum class Vote { ballot, any, all };
enum class Reduce { add, min_signed, max_signed, min_unsigned, max_unsigned, bit_and, bit_or, bit_xor };
enum class Atomic { add, exchange, compare_exchange, min_signed, max_signed, min_unsigned, max_unsigned, bit_and, bit_or };
uint32_t shuffle(Shuffle form, unsigned mask, uint32_t value, unsigned operand, unsigned width);
uint32_t vote(Vote form, unsigned mask, bool value);
uint32_t reduce(Reduce form, unsigned mask, uint32_t value);
void sync_warp(unsigned mask);
void sync_block(int line);
void barrier(unsigned id, unsigned threads, bool waits);
uint32_t atomic_32(Atomic form, void* address, uint32_t value, uint32_t expected);
uint64_t atomic_64(Atomic form, void* address, uint64_t value, uint64_t expected);
void load_matrices(uint32_t* out, unsigned count, bool is_transposed, const void* row);
void multiply(float (*d)[4], const uint32_t* a, const uint32_t (*b)[2], unsigned count);
void copy_async(void* to, const void* from, unsigned bytes, unsigned taken);
void copy_commit();
void copy_wait(unsigned newest_pending);

// A kernel as the runtime calls it.
enum class Kind : uint8_t { read, write, i32, f32, i64, by_value };
struct Parameter {
    Kind kind;
    unsigned bytes;
};
struct Entry {
    const char* name;
    void (*call)(void* const* arguments);
    const Parameter* parameters;
    unsigned count;
};

template <class T>
constexpr Kind kind_of() {
    if constexpr (std::is_pointer_v<T>) {
        return std::is_const_v<std::remove_pointer_t<T>> ? Kind::read : Kind::write;
    } else if constexpr (std::is_same_v<T, float>) {
        return Kind::f32;
    } else if constexpr (std::is_class_v<T>) {
        static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8, "a struct by value is plain, and no wider aligned than 8 bytes");
        return Kind::by_value;
    } else {
        static_assert(std::is_integral_v<T> && sizeof(T) >= 4, "a kernel takes pointers, float, integers of 32 or 64 bits, and structs");
        return sizeof(T) == 4 ? Kind::i32 : Kind::i64;
    }
}

template <auto Kernel>
struct Thunk;
template <class... P, void (*Kernel)(P...)>
struct Thunk<Kernel> {
    static constexpr unsigned count = sizeof...(P);
    static constexpr Parameter parameters[] = {{kind_of<P>(), unsigned(sizeof(P))}..., {}};
    template <size_t... I>
    __attribute__((no_sanitize("thread"))) static void call_with(void* const* arguments, std::index_sequence<I...>) {
        Kernel(*static_cast<P*>(arguments[I])...);
    }
    __attribute__((no_sanitize("thread"))) static void call(void* const* arguments) {
        call_with(arguments, std::index_sequence_for<P...>());
    }
};

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}

// A value that was loaded at once stays so where accesses are watched: the compiler may not take it apart into its elements.
template <class T>
inline void keep_whole(T& value) {
#ifdef SIMT_WATCHED
    asm("" : "+m"(value));
#else
    (void)value;
#endif
}

}  // namespace simt

// Makes a kernel findable by name; the builder writes one for each `extern "C" __global__ void` of a source.
#define SIMT_KERNEL(kernel)                                                                               \
    extern "C" __attribute__((visibility("default"))) const simt::Entry simt_entry_##kernel;              \
    const simt::Entry simt_entry_##kernel = {#kernel, simt::Thunk<&kernel>::call, \
                                             simt::Thunk<&kernel>::parameters, simt::Thunk<&kernel>::count};

#define threadIdx (simt::thread_index())
#define blockIdx (simt::view().block_index)
#define blockDim (simt::view().block)
#define gridDim (simt::view().grid)

// The line tells barriers apart; the compiler may have made two calls of one.
inline void __syncthreads(int line = __builtin_LINE()) { simt::sync_block(line); }
inline void __syncwarp(unsigned mask = ~0u) { simt::sync_warp(mask); }

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return simt::bits_as<T>(simt::shuffle(simt::Shuffle::index, mask, simt::bits_as<uint32_t>(value), lane, width));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return simt::bits_as<T>(simt::shuffle(simt::Shuffle::up, mask, simt::bits_as<uint32_t>(value), delta, width));
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return simt::bits_as<T>(simt::shuffle(simt::Shuffle::down, mask, simt::bits_as<uint32_t>(value), delta, width));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    return simt::bits_as<T>(
        simt::shuffle(simt::Shuffle::exclusive_or, mask, simt::bits_as<uint32_t>(value), lanes, width));
}

inline unsigned __ballot_sync(unsigned mask, int value) {
    return simt::vote(simt::Vote::ballot, mask, value != 0);
}
inline int __any_sync(unsigned mask, int value) {
    return simt::vote(simt::Vote::any, mask, value != 0);
}
inline int __all_sync(unsigned mask, int value) {
    return simt::vote(simt::Vote::all, mask, value != 0);
}

#define SIMT_REDUCE(name, T, form)                                                           \
    inline T name(unsigned mask, T value) {                      \
        return simt::bits_as<T>(simt::reduce(simt::Reduce::form, mask, uint32_t(value))); \
    }
SIMT_REDUCE(__reduce_add_sync, unsigned, add)
SIMT_REDUCE(__reduce_add_sync, int, add)
SIMT_REDUCE(__reduce_min_sync, unsigned, min_unsigned)
SIMT_REDUCE(__reduce_min_sync, int, min_signed)
SIMT_REDUCE(__reduce_max_sync, unsigned, max_unsigned)
SIMT_REDUCE(__reduce_max_sync, int, max_signed)
SIMT_REDUCE(__reduce_and_sync, unsigned, bit_and)
SIMT_REDUCE(__reduce_or_sync, unsigned, bit_or)
SIMT_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef SIMT_REDUCE

// Whole numbers only: the order of float atomics would show in the bits.
#define SIMT_ATOMIC(name, T, form, width)                                                              \
    inline T name(T* address, T value) {                                   \
        return static_cast<T>(simt::atomic_##width(simt::Atomic::form, address, uint##width##_t(value), 0)); \
    }
SIMT_ATOMIC(atomicAdd, int, add, 32)
SIMT_ATOMIC(atomicAdd, unsigned, add, 32)
SIMT_ATOMIC(atomicAdd, unsigned long long, add, 64)
SIMT_ATOMIC(atomicExch, int, exchange, 32)
SIMT_ATOMIC(atomicExch, unsigned, exchange, 32)
SIMT_ATOMIC(atomicMin, int, min_signed, 32)
SIMT_ATOMIC(atomicMin, unsigned, min_unsigned, 32)
SIMT_ATOMIC(atomicMax, int, max_signed, 32)
SIMT_ATOMIC(atomicMax, unsigned, max_unsigned, 32)
SIMT_ATOMIC(atomicMax, unsigned long long, max_unsigned, 64)
SIMT_ATOMIC(atomicAnd, unsigned, bit_and, 32)
SIMT_ATOMIC(atomicOr, unsigned, bit_or, 32)
#undef SIMT_ATOMIC
inline int atomicCAS(int* address, int expected, int value) {
    return int(simt::atomic_32(simt::Atomic::compare_exchange, address, uint32_t(value), uint32_t(expected)));
}
inline unsigned atomicCAS(unsigned* address, unsigned expected, unsigned value) {
    return simt::atomic_32(simt::Atomic::compare_exchange, address, value, expected);
}

// Numbers. Those with a rounding in their name, sqrtf and division are the card's to the bit; __expf, exp2f, __fdividef, rsqrtf and
// their like are approximate there, and close to it here.
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

inline uint32_t __float_as_uint(float x) { return simt::bits_as<uint32_t>(x); }
inline int __float_as_int(float x) { return simt::bits_as<int>(x); }
inline float __uint_as_float(uint32_t x) { return simt::bits_as<float>(x); }
inline float __int_as_float(int x) { return simt::bits_as<float>(x); }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((uint64_t(x) * y) >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
inline T __ldg(const T* address) {
    return *address;
}

template <class T>
constexpr T min(T x, T y) {
    return y < x ? y : x;
}
template <class T>
constexpr T max(T x, T y) {
    return x < y ? y : x;
}
