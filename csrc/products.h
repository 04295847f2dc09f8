// The matrix products of attention, for float32 and, with AVX512-BF16, bfloat16. Their operands are four-byte words: one
// float, or two bfloat16 that are multiplied pairwise with another word's and added in one instruction.
#pragma once

#include "vectors.h"

namespace {

struct Float {
    typedef float Element;
    static constexpr int PACK = 1;  // elements of a word
};

struct BFloat {
    typedef uint16_t Element;
    static constexpr int PACK = 2;
};

// sum + a * b, by word. Words are typed as float whatever they contain: only this function interprets them.
template <class E>
NIP_INLINE vf multiply_add(vf sum, vf a, vf b) {
#if defined(__AVX512BF16__)
    if constexpr (E::PACK == 2) return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return sum + a * b;
}

template <class E>
NIP_INLINE vf splat_word(const float* p) {
    if constexpr (E::PACK == 1) return splat(*p);
    int32_t bits;
    std::memcpy(&bits, p, 4);
    return (vf)splat_int(bits);
}

NIP_INLINE uint16_t rounded(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return uint16_t(bits >> 16) | 0x40;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// Load W elements as floats; store `count` floats as elements.
NIP_INLINE vf load_elements(const float* p) { return load(p); }
NIP_INLINE vf load_elements(const uint16_t* p) {
    typedef uint16_t halves __attribute__((vector_size(2 * W), aligned(2), may_alias));
    return (vf)(__builtin_convertvector(*reinterpret_cast<const halves*>(p), vu) << 16);
}
NIP_INLINE void store_elements(float* to, const float* from, int64_t count) { std::memcpy(to, from, 4 * count); }
NIP_INLINE void store_elements(uint16_t* to, const float* from, int64_t count) {
    int64_t x = 0;
#if defined(__AVX512BF16__)
    for (; x + W <= count; x += W) {
        const __m256bh half = _mm512_cvtneps_pbh((__m512)load(from + x));
        std::memcpy(to + x, &half, 32);
    }
#endif
    for (; x < count; ++x) to[x] = rounded(from[x]);
}

#if defined(__AVX512BF16__)
// Permutations that interleave two vectors of 16-bit halves.
alignas(64) constexpr uint16_t LOWER_HALVES[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                   8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
alignas(64) constexpr uint16_t UPPER_HALVES[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                   24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};

// Packs two vectors of floats into one of words: `low` as bfloat16 in the lower halves.
NIP_INLINE vf pair_up(vf low, vf high) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    const __m512i upper = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(both, 1));
    return (vf)_mm512_permutex2var_epi16(both, _mm512_load_si512(LOWER_HALVES), upper);
}

// Stores one vector of floats as contiguous bfloat16: W / 2 words.
NIP_INLINE void store_row(float* to, vf x) {
    const __m256bh half = _mm512_cvtneps_pbh((__m512)x);
    std::memcpy(to, &half, 32);
}

// Interleaves two rows of bfloat16 into words, column by column: C vectors of W each. A missing second row is zeros.
template <int C>
NIP_INLINE void pair_rows(const uint16_t* first, const uint16_t* second, vf* out) {
    if constexpr (C == 2) {
        const __m512i low = _mm512_loadu_si512(first), high = second ? _mm512_loadu_si512(second) : _mm512_setzero_si512();
        NIP_UNROLL for (int c = 0; c < 2; ++c)
            out[c] = (vf)_mm512_permutex2var_epi16(low, _mm512_load_si512(c ? UPPER_HALVES : LOWER_HALVES), high);
        return;
    }
    const auto words = [](const uint16_t* p) {
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    };
    *out = (vf)_mm512_or_si512(words(first), _mm512_slli_epi32(second ? words(second) : _mm512_setzero_si512(), 16));
}
#else
template <int C>
NIP_INLINE void pair_rows(const uint16_t*, const uint16_t*, vf*) {}
NIP_INLINE vf pair_up(vf low, vf) { return low; }
NIP_INLINE void store_row(float*, vf) {}
#endif

// A range of tokens: `count` of them, starting at `first`.
struct Piece {
    int64_t first;
    int32_t count;
    int32_t entry;  // the entry of the layout that it belongs to
    bool masked;    // some of its pairs may be forbidden
    bool triangle;  // it belongs to a diagonal block of causal attention
};

// Number of tokens of a piece in the buffers: rounded up to full words.
template <class E>
NIP_INLINE int64_t padded(const Piece& piece) {
    return (piece.count + E::PACK - 1) / E::PACK * E::PACK;
}

// out (rows, C vectors) = a (rows, words) times b (words, C vectors), all contiguous.
// Each element is one chain of sums over the words in ascending order, so its bits do not depend on the shape of the tile.
template <class E, int R, int C, int N>
NIP_INLINE void score_tile(const float* a, const float* b, int64_t words, float* out) {
    const int64_t n = N ? N : words;
    vf acc[R][C] = {};
    _Pragma("GCC unroll 2") for (int64_t x = 0; x < n; ++x) {
        vf right[C];
        NIP_UNROLL for (int c = 0; c < C; ++c) right[c] = load(b + (x * C + c) * W);
        NIP_UNROLL for (int r = 0; r < R; ++r) {
            const vf left = splat_word<E>(a + r * n + x);
            NIP_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = multiply_add<E>(acc[r][c], left, right[c]);
        }
    }
    NIP_UNROLL for (int r = 0; r < R; ++r) NIP_UNROLL for (int c = 0; c < C; ++c) store(out + (r * C + c) * W, acc[r][c]);
}

template <class E, int C, int N>
__attribute__((noinline)) void score_rows(const float* a, int64_t rows, const float* b, int64_t words, float* out) {
    constexpr int R = ROWS[C], T = C * W;
    const int64_t n = N ? N : words;
    int64_t row = 0;
    for (; row + R <= rows; row += R) score_tile<E, R, C, N>(a + row * n, b, n, out + row * T);
    for (; row + 4 <= rows; row += 4) score_tile<E, 4, C, N>(a + row * n, b, n, out + row * T);
    for (; row < rows; ++row) score_tile<E, 1, C, N>(a + row * n, b, n, out + row * T);
}

// Contiguous rows in words, as score_rows needs them: the rows themselves if they are contiguous, else a copy.
template <class E>
NIP_INLINE const float* packed(const typename E::Element* rows, int64_t stride, int64_t count, int64_t head_dim, float* copy) {
    if (stride == head_dim) return reinterpret_cast<const float*>(rows);
    const int64_t words = head_dim / E::PACK;
    for (int64_t r = 0; r < count; ++r) std::memcpy(copy + r * words, rows + r * stride, 4 * words);
    return copy;
}

// How a sum of products is stored: target = (target * before + sum) * after, by row; `fresh` ignores the old target.
struct Update {
    float* target;
    int64_t stride;
    bool fresh;
    const float* before;  // null: 1
    const float* after;   // null: 1
};

// target (rows, d) += left^T right over the tokens of the pieces. left[token / PACK][row], in words, has the strides
// (token_step, row_step).
template <class E, int R, int C>
NIP_INLINE void product_tile(const float* left, int64_t token_step, int64_t row_step, const Piece* pieces, int64_t n_pieces,
                             const typename E::Element* right, int64_t right_stride, const Update& to) {
    vf acc[R][C];
    NIP_UNROLL for (int r = 0; r < R; ++r) NIP_UNROLL for (int c = 0; c < C; ++c) {
        acc[r][c] = to.fresh ? vf{} : load(to.target + r * to.stride + c * W);
        if (!to.fresh && to.before) acc[r][c] *= to.before[r];
    }
    for (int64_t piece = 0; piece < n_pieces; ++piece) {
        const typename E::Element* source = right + pieces[piece].first * right_stride;
        const int32_t count = pieces[piece].count;
        for (int32_t token = 0; token < count; token += E::PACK) {
            vf b[C];
            if constexpr (E::PACK == 1) {
                NIP_UNROLL for (int c = 0; c < C; ++c) b[c] = load(source + c * W);
            } else {
                pair_rows<C>(source, token + 1 < count ? source + right_stride : nullptr, b);
            }
            NIP_UNROLL for (int r = 0; r < R; ++r) {
                const vf a = splat_word<E>(left + r * row_step);
                NIP_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = multiply_add<E>(acc[r][c], a, b[c]);
            }
            source += E::PACK * right_stride;
            left += token_step;
        }
    }
    NIP_UNROLL for (int r = 0; r < R; ++r) NIP_UNROLL for (int c = 0; c < C; ++c)
        store(to.target + r * to.stride + c * W, to.after ? acc[r][c] * to.after[r] : acc[r][c]);
}

template <class E, int TOKEN_STEP, int ROW_STEP>
__attribute__((noinline)) void product(const float* left, int64_t rows, const Piece* pieces, int64_t n_pieces,
                                       const typename E::Element* right, int64_t right_stride, int64_t head_dim,
                                       const Update& to) {
    constexpr int R = ROWS[2];
    const auto at = [&](int64_t row, int64_t column) {
        return Update{to.target + row * to.stride + column, to.stride, to.fresh, to.before ? to.before + row : nullptr,
                      to.after ? to.after + row : nullptr};
    };
    int64_t column = 0;
    for (; head_dim - column >= 2 * W; column += 2 * W) {
        int64_t row = 0;
        for (; rows - row >= R; row += R)
            product_tile<E, R, 2>(left + row * ROW_STEP, TOKEN_STEP, ROW_STEP, pieces, n_pieces, right + column,
                                  right_stride, at(row, column));
        for (; row < rows; ++row)
            product_tile<E, 1, 2>(left + row * ROW_STEP, TOKEN_STEP, ROW_STEP, pieces, n_pieces, right + column,
                                  right_stride, at(row, column));
    }
    for (; column < head_dim; column += W)
        for (int64_t row = 0; row < rows;) {
            if (rows - row >= R) {
                product_tile<E, R, 1>(left + row * ROW_STEP, TOKEN_STEP, ROW_STEP, pieces, n_pieces, right + column,
                                      right_stride, at(row, column));
                row += R;
            } else {
                product_tile<E, 1, 1>(left + row * ROW_STEP, TOKEN_STEP, ROW_STEP, pieces, n_pieces, right + column,
                                      right_stride, at(row, column));
                ++row;
            }
        }
}

// rows (count, head_dim) of any stride -> transposed (words, lanes); lanes past count are zero.
template <class E>
inline void transpose(const typename E::Element* rows, int64_t stride, int64_t count, int64_t head_dim, int64_t lanes,
                      float* out) {
    const int64_t words = head_dim / E::PACK;
    if (count < lanes) std::memset(out, 0, 4 * words * lanes);
    typedef float v4 __attribute__((vector_size(16)));
    typedef float v4_unaligned __attribute__((vector_size(16), aligned(2), may_alias));
    typedef int32_t i4 __attribute__((vector_size(16)));
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) {
        for (int64_t x = 0; x < words; x += 4) {
            const auto* p = rows + r * stride + x * E::PACK;
            v4 m[4];
            NIP_UNROLL for (int y = 0; y < 4; ++y) m[y] = *reinterpret_cast<const v4_unaligned*>(p + y * stride);
            const v4 a = __builtin_shuffle(m[0], m[1], i4{0, 4, 1, 5}), b = __builtin_shuffle(m[0], m[1], i4{2, 6, 3, 7});
            const v4 c = __builtin_shuffle(m[2], m[3], i4{0, 4, 1, 5}), d = __builtin_shuffle(m[2], m[3], i4{2, 6, 3, 7});
            const v4 t[4] = {__builtin_shuffle(a, c, i4{0, 1, 4, 5}), __builtin_shuffle(a, c, i4{2, 3, 6, 7}),
                             __builtin_shuffle(b, d, i4{0, 1, 4, 5}), __builtin_shuffle(b, d, i4{2, 3, 6, 7})};
            NIP_UNROLL for (int y = 0; y < 4; ++y) *reinterpret_cast<v4_unaligned*>(out + (x + y) * lanes + r) = t[y];
        }
    }
    for (; r < count; ++r)
        for (int64_t x = 0; x < words; ++x) std::memcpy(out + x * lanes + r, rows + r * stride + x * E::PACK, 4);
}

template <class Element>
NIP_INLINE void prefetch(const Element* rows, int64_t stride, int64_t count, int64_t head_dim) {
    constexpr int64_t line = 64 / sizeof(Element);
    for (int64_t r = 0; r < count; ++r)
        for (int64_t x = 0; x < head_dim; x += line) __builtin_prefetch(rows + r * stride + x);
}

}  // namespace
