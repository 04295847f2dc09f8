// Float vectors of the width of the instruction set that this file is compiled for, and the vector functions of attention.
// Plain GCC vector extensions: without AVX-512 and AVX2 vectors have four floats (SSE, NEON).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define NIP_INLINE inline __attribute__((always_inline))
#define NIP_UNROLL _Pragma("GCC unroll 16")

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;              // floats in a vector
constexpr int ROWS[3] = {0, 16, 8};  // rows of a product tile of 1 and of 2 vectors: limited by the registers
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int ROWS[3] = {0, 8, 4};
#else
constexpr int W = 4;
constexpr int ROWS[3] = {0, 8, 4};
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef float vf_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

NIP_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
NIP_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
NIP_INLINE vi load_ints(const void* p) { return *static_cast<const vi_unaligned*>(p); }
NIP_INLINE void store_ints(void* p, vi x) { *static_cast<vi_unaligned*>(p) = x; }
NIP_INLINE vf splat(float x) { return x - vf{}; }
NIP_INLINE vi splat_int(int32_t x) { return x - vi{}; }
NIP_INLINE vi ascending(int32_t first) {
    int32_t x[W];
    for (int i = 0; i < W; ++i) x[i] = i;
    return load_ints(x) + splat_int(first);
}
// y if either is NaN, the semantics of the max instruction, which GCC does not select by itself.
NIP_INLINE vf larger(vf x, vf y) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_max_ps(0xffff, (__m512)x, (__m512)y);  // the plain one warns in GCC 12
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)x, (__m256)y);
#else
    return x > y ? x : y;
#endif
}

NIP_INLINE float total(vf x) {
    float parts[W];
    store(parts, x);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    return *parts;
}

// 2^x for x in [-126, 127], by polynomial(f) for 2^f with f in [-1/2, 1/2]; 0 below, and NaN stays NaN.
template <class Polynomial>
NIP_INLINE vf power_of_two(vf x, const Polynomial& polynomial) {
    const vf least = splat(-126.0f), magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vf clamped = larger(least, x);
    const vf shifted = clamped + magic;
    const vf p = polynomial(clamped - (shifted - magic));
    const vf scaled = (vf)((vu)p + ((vu)shifted << 23));
    return x < least ? vf{} : scaled;
}

// Accurate to one unit in the last place. Coefficients: Cephes, exp2f.
NIP_INLINE vf exp2(vf x) {
    return power_of_two(x, [](vf f) __attribute__((always_inline)) {
        vf p = splat(1.535336188319500e-4f);
        p = p * f + 1.339887440266574e-3f;
        p = p * f + 9.618437357674640e-3f;
        p = p * f + 5.550332471162809e-2f;
        p = p * f + 2.402264791363012e-1f;
        p = p * f + 6.931472028550421e-1f;
        return p * f + 1.0f;
    });
}

// Relative error 8e-5, a twenty-fifth of the rounding error of bfloat16. Minimax coefficients.
NIP_INLINE vf exp2_rough(vf x) {
    return power_of_two(x, [](vf f) __attribute__((always_inline)) {
        vf p = splat(5.517167e-2f);
        p = p * f + 2.4261112e-1f;
        p = p * f + 6.9326099e-1f;
        return p * f + 9.9992807e-1f;
    });
}

// Counter-based dropout: whether a pair of tokens is dropped is a hash of the call's seed, the query and the key, so forward
// and backward agree for any assignment to threads. Rows by SplitMix64, keys by lowbias32 (C. Wellons' hash prospector)
// with the second half of the row's hash added between its rounds.
struct Fate {
    uint32_t first, second;  // of one query
};

inline Fate fate(uint64_t seed, uint64_t query) {
    uint64_t z = seed + (query + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return {uint32_t(z), uint32_t(z >> 32)};
}

// All bits set where the probability is kept. `limit` is the dropout probability * 2^32.
NIP_INLINE vi kept(vi first, vi second, vi key, uint32_t limit) {
    vu x = (vu)key * 0x9e3779b1u + (vu)first;
    x ^= x >> 16;
    x = x * 0x21f0aaadu + (vu)second;
    x ^= x >> 15;
    x *= 0x735a2d97u;
    x ^= x >> 15;
    return x >= limit - vu{};
}

}  // namespace
