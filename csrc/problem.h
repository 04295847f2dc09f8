// The arguments of a call, and their division into tasks.
#pragma once

#include "products.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

extern "C" {
// Same fields in the same order in nip/attention/native.py. Strides count elements: batch, head, token.
struct NipAttention {
    int64_t batch, heads, kv_heads, tokens, head_dim, block, n, threads;
    int64_t q_stride[3], k_stride[3], v_stride[3], dout_stride[3];
    const void *q, *k, *v, *dout;       // float32, or bfloat16 if `bf16`
    const float* dlse;                  // contiguous, may be null
    void* out;                          // of q's type, contiguous
    float* lse;                         // contiguous
    void *dq, *dk, *dv;                 // of q's type, contiguous
    const int32_t *indptr, *indices;    // attended blocks of each row, ascending
    const int32_t *query_ids, *key_ids;  // (batch, tokens) or null: a pair is allowed if its ids are equal and key id >= 0
    uint64_t seed;                      // of dropout
    float scale, growth;                // growth: factor of the probabilities that dropout keeps
    uint32_t dropped;                   // dropout probability * 2^32
    int32_t causal, bf16;
};
}

namespace {

constexpr int64_t SCORES = 4096;       // scores of a chunk in the forward pass: 16 KiB, half of a small L1 cache
constexpr int64_t SCORES_BACK = 1024;  // the same in the backward pass, which also keeps a second buffer and its rows in L1
constexpr int64_t CHUNK = 256;         // maximum number of tokens in a chunk
constexpr int64_t PIECE = 64;          // maximum number of tokens in a piece; even
constexpr int64_t PART = 2048;         // a row of more tokens is split into parts of this size
constexpr int64_t WORK = 6144;         // floats of all score buffers of a pass together
constexpr size_t AHEAD = 2;           // prefetch distance in pieces
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

struct Part {
    int32_t row, begin, end;
    int32_t slot;  // where the partial result of a long row is stored; -1: the part is a full row
};

// The rows of the layout, or its columns.
struct Side {
    std::vector<int32_t> start, other, slot;  // `slot` by entry
    std::vector<Part> parts;
    std::vector<std::vector<int32_t>> long_rows;  // row, then its slots
    int32_t slots = 0;

    void cut(int64_t block) {
        const int64_t n = start.size() - 1, entries = other.size(), step = std::max<int64_t>(1, PART / block);
        slot.assign(entries, -1);
        std::vector<Part> whole;
        for (int32_t i = 0; i < n; ++i) {
            const int64_t length = start[i + 1] - start[i];
            if (length <= step || length * n <= 4 * entries) {
                whole.push_back({i, start[i], start[i + 1], -1});
                continue;
            }
            long_rows.push_back({i});
            for (int32_t begin = start[i]; begin < start[i + 1]; begin += step) {
                const int32_t end = std::min<int64_t>(begin + step, start[i + 1]);
                std::fill(slot.begin() + begin, slot.begin() + end, slots);
                long_rows.back().push_back(slots);
                parts.push_back({i, begin, end, slots++});  // the longest tasks are scheduled first
            }
        }
        parts.insert(parts.end(), whole.begin(), whole.end());
    }
};

struct Buffer {
    std::unique_ptr<float, void (*)(void*)> memory{nullptr, std::free};
    explicit Buffer(int64_t floats) {
        void* p = nullptr;
        if (posix_memalign(&p, 64, sizeof(float) * std::max<int64_t>(floats, 16))) throw std::bad_alloc();
        memory.reset(static_cast<float*>(p));
    }
    float* at(int64_t offset) const { return memory.get() + offset; }
};

// The working memory of a thread: scores, then, from `rows`, the rows of tiles.
struct Scratch {
    float *scores, *rows;
    std::vector<Piece> pieces;
};

// Range of the ids in a block of tokens: whether any token is real and whether all are.
struct Ids {
    int32_t low = 0, high = 0;
    bool any = true, all = true;
};

struct Call : NipAttention {
    Side rows, columns;
    std::vector<int32_t> entry;  // of the rows, by entry of the columns
    std::vector<Ids> query_blocks, key_blocks;
    std::vector<char> live;  // (batch, heads, n): the block has a nonzero gradient
    float factor, forbidden;
    int64_t group, scratch_floats;

    explicit Call(const NipAttention& problem) : NipAttention(problem) {
        group = heads / kv_heads;
        factor = scale * LOG2E;
        if (factor == 0) factor = 1e-37f;  // scores become equal, but forbidden pairs stay at -inf
        forbidden = factor > 0 ? -INFINITY : INFINITY;
        scratch_floats = WORK + (8 * W + PIECE) * head_dim + 64;
        rows.start.assign(indptr, indptr + n + 1);
        rows.other.assign(indices, indices + indptr[n]);
        rows.cut(block);
        if (query_ids) {
            query_blocks = blocks_of(query_ids);
            key_blocks = blocks_of(key_ids);
        }
    }

    void transpose_rows() {
        columns.start.assign(n + 1, 0);
        for (int32_t j : rows.other) ++columns.start[j + 1];
        for (int64_t j = 0; j < n; ++j) columns.start[j + 1] += columns.start[j];
        columns.other.resize(rows.other.size());
        entry.resize(rows.other.size());
        std::vector<int32_t> next(columns.start.begin(), columns.start.end() - 1);
        for (int32_t i = 0; i < n; ++i)
            for (int32_t e = rows.start[i]; e < rows.start[i + 1]; ++e) {
                entry[next[rows.other[e]]] = e;
                columns.other[next[rows.other[e]]++] = i;
            }
        columns.cut(block);
    }

    std::vector<Ids> blocks_of(const int32_t* ids) const {
        std::vector<Ids> blocks(batch * n);
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t i = 0; i < n; ++i) {
                Ids x{INT32_MAX, INT32_MIN, false, true};
                for (int64_t t = i * block; t < end_of(i); ++t) {
                    const int32_t id = ids[b * tokens + t];
                    if (id < 0) { x.all = false; continue; }
                    x = {std::min(x.low, id), std::max(x.high, id), true, x.all};
                }
                blocks[b * n + i] = x;
            }
        return blocks;
    }

    Scratch scratch(const Buffer& buffer) const {
        float* own = buffer.at(thread_number() * scratch_floats);
        return {own, own + WORK, {}};
    }

    int64_t end_of(int64_t i) const { return std::min(tokens, (i + 1) * block); }

    // Whether any pair of these blocks may be allowed; `masked`: each pair must be tested. Overlapping ranges of ids may
    // still have no id in common.
    bool counts(int64_t b, int64_t i, int64_t j, bool* masked) const {
        *masked = false;
        if (!query_ids) return true;
        const Ids &x = query_blocks[b * n + i], &y = key_blocks[b * n + j];
        *masked = !y.all || x.low != x.high || y.low != y.high;
        return y.any && x.low <= y.high && x.high >= y.low;
    }

    template <class T> const T* queries(int64_t bh) const {
        return static_cast<const T*>(q) + bh / heads * q_stride[0] + bh % heads * q_stride[1];
    }
    template <class T> const T* grads(int64_t bh) const {
        return static_cast<const T*>(dout) + bh / heads * dout_stride[0] + bh % heads * dout_stride[1];
    }
    template <class T> const T* keys(int64_t b, int64_t h) const {
        return static_cast<const T*>(k) + b * k_stride[0] + h * k_stride[1];
    }
    template <class T> const T* values(int64_t b, int64_t h) const {
        return static_cast<const T*>(v) + b * v_stride[0] + h * v_stride[1];
    }
};

// Appends block `block` of the other side to the pieces.
inline void add_pieces(const Call& call, int64_t block, int32_t entry, bool masked, bool triangle, std::vector<Piece>& pieces) {
    const int64_t end = call.end_of(block);
    for (int64_t t = block * call.block; t < end; t += PIECE)
        pieces.push_back({t, int32_t(std::min(PIECE, end - t)), entry, masked, triangle});
}

// Blocks of keys that one part of a row attends to.
inline void keys_of(const Call& call, int64_t b, const Part& part, std::vector<Piece>& pieces) {
    pieces.clear();
    for (int32_t e = part.begin; e < part.end; ++e) {
        const int32_t j = call.rows.other[e];
        bool masked;
        if (call.counts(b, part.row, j, &masked)) add_pieces(call, j, e, masked, call.causal && j == part.row, pieces);
    }
}

// Calls chunk(first piece, pieces, tokens) for runs of pieces of at most `limit` tokens.
template <class E, class Chunk>
NIP_INLINE void chunks(const std::vector<Piece>& pieces, int64_t limit, const Chunk& chunk) {
    for (size_t x = 0; x < pieces.size();) {
        size_t end = x;
        int64_t tokens = 0;
        while (end < pieces.size() && tokens + padded<E>(pieces[end]) <= limit) tokens += padded<E>(pieces[end++]);
        chunk(x, end - x, tokens);
        x = end;
    }
}

// Calls tile(first token, count, offset in the block, two vectors wide?) for the tiles of a block.
template <class Tile>
NIP_INLINE void tiles(const Call& call, int64_t block, const Tile& tile) {
    const int64_t begin = block * call.block, end = call.end_of(block);
    for (int64_t t = begin; t < end;) {
        const bool wide = end - t > W;
        const int64_t count = std::min<int64_t>(end - t, wide ? 2 * W : W);
        tile(t, count, t - begin, wide);
        t += count;
    }
}

// Ids of a tile's lanes; -2, which never matches, past its end.
inline void lanes_of_ids(const int32_t* ids, int64_t count, int64_t lanes, int32_t* out) {
    for (int64_t x = 0; x < lanes; ++x) out[x] = x < count ? ids[x] : -2;
}

// Masks forbidden pairs in the scores of a piece: different ids, and later keys in a causal diagonal block.
// `ids` are those of the piece's tokens, or null.
template <int C, bool KEYS_IN_LANES>
__attribute__((noinline)) void forbid(const Call& call, const Piece& piece, const int32_t* lane_ids, const int32_t* ids,
                                      int64_t first_lane, float* scores) {
    const vf never = splat(call.forbidden);
    for (int64_t row = 0; row < piece.count; ++row, scores += C * W)
        NIP_UNROLL for (int c = 0; c < C; ++c) {
            vf x = load(scores + c * W);
            if (piece.masked) x = load_ints(lane_ids + c * W) == splat_int(ids[piece.first + row]) ? x : never;
            if (piece.triangle) {
                const vi lane = ascending(int32_t(first_lane + c * W - piece.first - row));
                x = (KEYS_IN_LANES ? lane <= 0 : lane >= 0) ? x : never;
            }
            store(scores + c * W, x);
        }
}

// Either each thread computes full heads, or rows and columns are distributed and the scores are computed twice: whichever
// takes less time. Both give bit-identical results.
inline bool head_by_head(const Call& call) {
    const int64_t units = call.batch * call.kv_heads, rounds = (units + call.threads - 1) / call.threads;
    return rounds * call.threads * 5 <= units * 7;
}

// Large results are newly mapped memory: huge pages cause fewer page faults.
inline void large_pages(const void* p, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t page = 1 << 21;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + page - 1) & ~(page - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) & ~(page - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace
