// The arithmetic of mma.sync m16n8k16, bf16 in and f32 accumulated, to the bit as the published model has it: terms are cut at a fixed
// distance below the largest exponent, added exactly, and the sum is rounded toward zero. sm_80 adds two groups of eight, sm_90 one of
// sixteen with one more bit.
#include "machine.h"

namespace simt {
namespace {

typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint16_t Shorts8 __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef int32_t Ints4 __attribute__((vector_size(16)));
typedef int64_t Longs4 __attribute__((vector_size(32)));
typedef double Doubles4 __attribute__((vector_size(32)));
typedef float Floats4 __attribute__((vector_size(16)));

Ints larger(Ints x, Ints y) { return x > y ? x : y; }

constexpr int SPECIAL = 255;  // the exponent field of infinities and NaN

// bf16 as whole numbers: value = ±significand · 2^(exponent - 7), the sign as 0 or -1. Subnormals are exact; zero has the least exponent.
struct Parts {
    Ints significand, exponent, sign;
};

Parts parts(const uint16_t* bits) {
    Shorts8 narrow;
    std::memcpy(&narrow, bits, sizeof narrow);
    Ints wide = __builtin_convertvector(narrow, Ints);
    Ints field = wide >> 7 & 255;
    return {(wide & 127) | (field == 0 ? Ints{} : Ints{} + 128), larger(field, Ints{} + 1) - 127, -(wide >> 15)};
}

float value_of(uint16_t bits) { return bits_as<float>(uint32_t(bits) << 16); }

// An f32 sum that is smaller than the smallest normal number keeps the bits down to 2^-149.
float subnormal(double value) { return float(std::ldexp(std::trunc(std::ldexp(value, 149)), -149)); }

// Four results: (sum + addend) · 2^power toward zero.
inline __attribute__((always_inline)) Floats4 round_to_zero(Ints4 sum, Ints4 addend, Ints4 power) {
    Doubles4 exact = __builtin_convertvector(sum, Doubles4) + __builtin_convertvector(addend, Doubles4);
    Longs4 scale = (__builtin_convertvector(power, Longs4) + 1023) << 52;
    exact *= bits_as<Doubles4>(scale);
    Longs4 cut = bits_as<Longs4>(exact) & ~((int64_t(1) << 29) - 1);
    Floats4 rounded = __builtin_convertvector(bits_as<Doubles4>(cut), Floats4);
    Longs4 tiny = (exact < 0x1p-126) & (exact > -0x1p-126) & (exact != 0);
    if (__builtin_expect((tiny[0] | tiny[1] | tiny[2] | tiny[3]) != 0, 0)) {
        for (int i = 0; i < 4; ++i) rounded[i] = tiny[i] != 0 ? subnormal(exact[i]) : rounded[i];
    }
    return rounded;
}

// Both factors, decoded: a by rows, as numbers; b by rows of eight columns.
struct Factors {
    int32_t significand[16][16], exponent[16][16], sign[16][16];
    Parts b[16];
};

// c += a · b over terms FIRST .. FIRST + COUNT, with F bits kept below the largest exponent.
template <int FIRST, int COUNT, int F>
void dot_add(const Factors& of, float c[16][8]) {
    for (int m = 0; m < 16; ++m) {
        Ints bits;
        std::memcpy(&bits, c[m], 32);
        Ints field = bits >> 23 & 255;
        Ints c_exponent = larger(field, Ints{} + 1) - 127;
        Ints c_significand = (bits & 0x7FFFFF) | (field == 0 ? Ints{} : Ints{} + 0x800000);

        Ints top = c_exponent, exponents[COUNT];
#pragma GCC unroll 16
        for (int k = 0; k < COUNT; ++k) {
            exponents[k] = of.b[FIRST + k].exponent + of.exponent[m][FIRST + k];
            top = larger(top, exponents[k]);
        }
        Ints sum{}, lowest = top - 31;  // nothing is left of a term that is shifted so far
#pragma GCC unroll 16
        for (int k = 0; k < COUNT; ++k) {
            // 14 fraction bits of the product become F.
            Words magnitude = Words(of.b[FIRST + k].significand * (of.significand[m][FIRST + k] << (F - 14)));
            Ints cut = Ints(magnitude >> Words(top - larger(exponents[k], lowest)));
            Ints negative = of.b[FIRST + k].sign ^ of.sign[m][FIRST + k];
            sum += (cut ^ negative) - negative;
        }
        Ints c_cut = (c_significand << (F - 23)) >> (top - larger(c_exponent, lowest));
        Ints c_negative = bits >> 31;
        c_cut = (c_cut ^ c_negative) - c_negative;

        Ints power = top - F, result;
        for (int half = 0; half < 8; half += 4) {
            Ints4 s, addend, p;
            std::memcpy(&s, reinterpret_cast<int32_t*>(&sum) + half, 16);
            std::memcpy(&addend, reinterpret_cast<int32_t*>(&c_cut) + half, 16);
            std::memcpy(&p, reinterpret_cast<int32_t*>(&power) + half, 16);
            Floats4 rounded = round_to_zero(s, addend, p);
            std::memcpy(reinterpret_cast<int32_t*>(&result) + half, &rounded, 16);
        }
        result = field == SPECIAL ? bits : result;  // what overflowed stays infinite
        std::memcpy(c[m], &result, 32);
    }
}

void multiply_finite(const Factors& of, float c[16][8], int architecture) {
    if (architecture >= 90) return dot_add<0, 16, 25>(of, c);
    dot_add<0, 8, 24>(of, c);
    dot_add<8, 8, 24>(of, c);
}

// What infinities and NaN make of the results; finite ones are left alone.
void mark_special(const uint16_t a[16][16], const uint16_t b[16][8], const float before[16][8], float after[16][8]) {
    for (int m = 0; m < 16; ++m) {
        for (int n = 0; n < 8; ++n) {
            double sum = before[m][n];
            for (int k = 0; k < 16; ++k) sum += double(value_of(a[m][k])) * value_of(b[k][n]);
            if (std::isnan(sum)) after[m][n] = bits_as<float>(0x7FFFFFFFu);
            if (std::isinf(sum)) after[m][n] = float(sum);
        }
    }
}

bool is_any(Ints flags) {
    int any = 0;
    for (int i = 0; i < 8; ++i) any |= flags[i];
    return any != 0;
}

Ints is_special(const float row[8]) {
    Ints bits;
    std::memcpy(&bits, row, 32);
    return (bits >> 23 & 255) == SPECIAL;
}

}  // namespace

void multiply_16x8x16(const uint16_t a[16][16], const uint16_t b[16][8], float c[16][8], int architecture) {
    Factors of;
    Ints special{};
    for (int k = 0; k < 16; ++k) {
        of.b[k] = parts(b[k]);
        special |= of.b[k].exponent == SPECIAL - 127;
        for (int half = 0; half < 16; half += 8) {
            Parts row = parts(a[k] + half);
            std::memcpy(of.significand[k] + half, &row.significand, 32);
            std::memcpy(of.exponent[k] + half, &row.exponent, 32);
            std::memcpy(of.sign[k] + half, &row.sign, 32);
            special |= row.exponent == SPECIAL - 127;
        }
        special |= is_special(c[k]);
    }
    if (is_any(special)) {
        float before[16][8];
        std::memcpy(before, c, sizeof before);
        multiply_finite(of, c, architecture);
        mark_special(a, b, before, c);
    } else {
        multiply_finite(of, c, architecture);
    }
}

}  // namespace simt
