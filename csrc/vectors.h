// Vectors of floats as wide as the instruction set that this file is compiled for, and the two small matrix products
// that attention consists of. Plain GCC vector extensions: what is no AVX-512 or AVX2 becomes vectors of four (SSE, NEON).
#pragma once

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
constexpr int ROWS[3] = {0, 16, 8};  // rows of a product that is so many vectors wide: what the registers hold
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int ROWS[3] = {0, 8, 4};
#else
constexpr int W = 4;
constexpr int ROWS[3] = {0, 8, 4};
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef float vf_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

NIP_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
NIP_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
NIP_INLINE vi load_ints(const int32_t* p) { return *reinterpret_cast<const vi_unaligned*>(p); }
NIP_INLINE vf splat(float x) { return x - vf{}; }
NIP_INLINE vi splat_int(int32_t x) { return x - vi{}; }
// y if either is NaN, as the instruction has it, which GCC does not find by itself.
NIP_INLINE vf larger(vf x, vf y) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_max_ps(0xffff, (__m512)x, (__m512)y);  // the plain one warns in GCC 12
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)x, (__m256)y);
#else
    return x > y ? x : y;
#endif
}

// 2^x to a unit in the last place for x in [-126, 127]; 0 below, and NaN stays NaN. Coefficients: Cephes, exp2f.
NIP_INLINE vf exp2(vf x) {
    const vf least = splat(-126.0f), magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vf clamped = larger(least, x);
    const vf shifted = clamped + magic;
    const vf f = clamped - (shifted - magic);
    vf p = splat(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    const vf scaled = (vf)((vi)p + ((vi)shifted << 23));
    return x < least ? vf{} : scaled;
}

// A stretch of tokens: `count` of them from `first`.
struct Piece {
    int64_t first;
    int32_t count;
    int32_t entry;  // of the layout, that it belongs to
    bool masked;    // some of its pairs are forbidden
    bool triangle;  // it lies in a diagonal block of causal attention
};

// a (rows, d) times b (d, C vectors): every row of the result goes to done(row, vectors) while in registers.
// Each element is one chain over d in ascending order, whatever the shape of the tile: the bits do not depend on it.
template <int R, int C, int D, class Done>
NIP_INLINE void score_tile(const float* a, const float* b, int64_t head_dim, int64_t row, const Done& done) {
    const int64_t d = D ? D : head_dim;
    vf acc[R][C] = {};
    a += row * d;
    _Pragma("GCC unroll 2") for (int64_t x = 0; x < d; ++x) {
        vf right[C];
        NIP_UNROLL for (int c = 0; c < C; ++c) right[c] = load(b + (x * C + c) * W);
        NIP_UNROLL for (int r = 0; r < R; ++r) {
            const vf left = splat(a[r * d + x]);
            NIP_UNROLL for (int c = 0; c < C; ++c) acc[r][c] += left * right[c];
        }
    }
    NIP_UNROLL for (int r = 0; r < R; ++r) done(row + r, acc[r]);
}

template <int C, int D, class Done>
NIP_INLINE void score_rows(const float* a, int64_t rows, const float* b, int64_t head_dim, const Done& done) {
    int64_t row = 0;
    for (; row + ROWS[C] <= rows; row += ROWS[C]) score_tile<ROWS[C], C, D>(a, b, head_dim, row, done);
    for (; row + 4 <= rows; row += 4) score_tile<4, C, D>(a, b, head_dim, row, done);
    for (; row < rows; ++row) score_tile<1, C, D>(a, b, head_dim, row, done);
}

// What becomes of a sum of products: target = (target * before + sum) * after, by row; `fresh` leaves the target out.
struct Update {
    float* target;
    int64_t stride;
    bool fresh;
    const float* before;  // null: 1
    const float* after;   // null: 1
};

template <int R, int C>
struct Shape {
    static constexpr int rows = R, vectors = C;
};

// target (rows, d) += left^T right over the tokens of the pieces. left[token][row] has strides (token_step, row_step).
template <int R, int C>
NIP_INLINE void product_tile(const float* left, int64_t token_step, int64_t row_step, const Piece* pieces, int n_pieces,
                             const float* right, int64_t right_stride, const Update& to, int64_t row, int64_t column) {
    vf acc[R][C];
    float* target = to.target + row * to.stride + column;
    NIP_UNROLL for (int r = 0; r < R; ++r) NIP_UNROLL for (int c = 0; c < C; ++c) {
        acc[r][c] = to.fresh ? vf{} : load(target + r * to.stride + c * W);
        if (!to.fresh && to.before) acc[r][c] *= to.before[row + r];
    }
    left += row * row_step;
    for (int piece = 0; piece < n_pieces; ++piece) {
        const float* source = right + pieces[piece].first * right_stride + column;
        for (int32_t token = 0; token < pieces[piece].count; ++token) {
            vf b[C];
            NIP_UNROLL for (int c = 0; c < C; ++c) b[c] = load(source + c * W);
            NIP_UNROLL for (int r = 0; r < R; ++r) {
                const vf a = splat(left[r * row_step]);
                NIP_UNROLL for (int c = 0; c < C; ++c) acc[r][c] += a * b[c];
            }
            source += right_stride;
            left += token_step;
        }
    }
    NIP_UNROLL for (int r = 0; r < R; ++r) NIP_UNROLL for (int c = 0; c < C; ++c) {
        store(target + r * to.stride + c * W, to.after ? acc[r][c] * to.after[row + r] : acc[r][c]);
    }
}

template <int TOKEN_STEP, int ROW_STEP>
__attribute__((noinline)) void product(const float* left, int64_t rows, const Piece* pieces, int n_pieces,
                                       const float* right, int64_t right_stride, int64_t head_dim, const Update& to) {
    constexpr int R = ROWS[2];
    const auto tile = [&](auto shape, int64_t row, int64_t column) {
        product_tile<decltype(shape)::rows, decltype(shape)::vectors>(left, TOKEN_STEP, ROW_STEP, pieces, n_pieces, right,
                                                                      right_stride, to, row, column);
    };
    int64_t column = 0;
    for (; head_dim - column >= 2 * W; column += 2 * W) {
        int64_t row = 0;
        for (; rows - row >= R; row += R) tile(Shape<R, 2>{}, row, column);
        for (; row < rows; ++row) tile(Shape<1, 2>{}, row, column);
    }
    for (; column < head_dim; column += W) {
        int64_t row = 0;
        for (; rows - row >= R; row += R) tile(Shape<R, 1>{}, row, column);
        for (; row < rows; ++row) tile(Shape<1, 1>{}, row, column);
    }
}

// rows (count, d) with any stride -> transposed (d, lanes); lanes past count are zeros.
NIP_INLINE void transpose(const float* rows, int64_t stride, int64_t count, int64_t head_dim, int64_t lanes, float* out) {
    if (count < lanes) std::memset(out, 0, sizeof(float) * head_dim * lanes);
    typedef float v4 __attribute__((vector_size(16)));
    typedef float v4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
    typedef int32_t i4 __attribute__((vector_size(16)));
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) {
        for (int64_t x = 0; x < head_dim; x += 4) {
            const float* p = rows + r * stride + x;
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
        for (int64_t x = 0; x < head_dim; ++x) out[x * lanes + r] = rows[r * stride + x];
}

// Rows one after another, as the products want their left side: where they lie, if they already do, or a copy.
NIP_INLINE const float* packed(const float* rows, int64_t stride, int64_t count, int64_t head_dim, float* copy) {
    if (stride == head_dim) return rows;
    for (int64_t r = 0; r < count; ++r) std::memcpy(copy + r * head_dim, rows + r * stride, sizeof(float) * head_dim);
    return copy;
}

NIP_INLINE void prefetch(const float* rows, int64_t stride, int64_t count, int64_t head_dim) {
    for (int64_t r = 0; r < count; ++r)
        for (int64_t x = 0; x < head_dim; x += 16) __builtin_prefetch(rows + r * stride + x);
}

}  // namespace
