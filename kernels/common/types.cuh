// Element types, vector accesses and dynamic shared memory: the same words on a GPU and on the host.
#pragma once

#include <stdint.h>

// Brain float: the upper half of an f32.
struct bf16 {
    uint16_t bits;
};

__device__ inline float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

// To nearest, ties to even; NaN becomes 0x7FFF.
__device__ inline bf16 to_bf16(float x) {
#ifdef THYME_SIMT
    uint32_t bits = __float_as_uint(x);
    if (x != x) return {0x7FFF};
    return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
#else
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

// Two neighbours in memory as one register, the first in the low half.
__device__ inline uint32_t pack(float first, float second) {
#ifdef THYME_SIMT
    return to_bf16(first).bits | uint32_t(to_bf16(second).bits) << 16;
#else
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#endif
}

constexpr int VECTOR = 8;  // bf16 elements of 16 bytes, the widest access

// A number, such as how many elements are taken at once, as a type.
template <int V>
struct Width {
    static constexpr int value = V;
};

// N elements that are read or written at once; their address is a multiple of their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
    T at[N];
};

template <int N, class T>
__device__ inline Vector<T, N> load(const T* from) {
    Vector<T, N> values = *reinterpret_cast<const Vector<T, N>*>(from);
#ifdef THYME_SIMT
    simt::keep_whole(values);
#endif
    return values;
}

template <int N, class T>
__device__ inline void store(T* to, const Vector<T, N>& values) {
    *reinterpret_cast<Vector<T, N>*>(to) = values;
}

// V elements in whole registers, two in a word: an array of bf16 takes a register an element. V is even, or 1.
template <int V>
struct Packed {
    Vector<uint32_t, V / 2> words;

    __device__ static Packed load(const bf16* from) { return {::load<V / 2>(reinterpret_cast<const uint32_t*>(from))}; }
    __device__ void store(bf16* to) const { ::store<V / 2>(reinterpret_cast<uint32_t*>(to), words); }
    __device__ float number(int j) const {
        uint32_t word = words.at[j / 2];
        return __uint_as_float(j % 2 == 0 ? word << 16 : word & 0xFFFF0000u);
    }
    // The elements make(j), rounded.
    template <class Make>
    __device__ static Packed made(Make make) {
        Packed packed;
#pragma unroll
        for (int j = 0; j < V; j += 2) {
            float first = make(j), second = make(j + 1);
            packed.words.at[j / 2] = pack(first, second);
        }
        return packed;
    }
};
template <>
struct Packed<1> {
    bf16 element;

    __device__ static Packed load(const bf16* from) { return {*from}; }
    __device__ void store(bf16* to) const { *to = element; }
    __device__ float number(int) const { return to_float(element); }
    template <class Make>
    __device__ static Packed made(Make make) {
        return {to_bf16(make(0))};
    }
};

// The shared memory that the launch asked for, as T* name. It begins at a multiple of 1024 bytes.
#ifdef THYME_SIMT
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(simt::dynamic_shared())
#else
#define DYNAMIC_SHARED(T, name)                                                \
    extern __shared__ __align__(1024) unsigned char thyme_dynamic_shared[];    \
    T* name = reinterpret_cast<T*>(thyme_dynamic_shared)
#endif
