// Block-sparse attention on a CPU, float32: forward and backward, after FlashAttention (arXiv 2205.14135) with blocks left
// out. Each build of this file for one instruction set is a library of its own; nip.attention.native picks one and calls
// the two functions at the end. The design and its figures: docs/benchmarks/native-cpu.md.
//
// Axes as in nip.attention.layout. A tile has `T` lanes, one or two vectors: queries in the passes over rows (forward, and
// dq by itself), keys in the pass over columns (dk and dv, and dq if the same thread has the whole head). The other side
// goes through tile by tile in broadcasts, so sums and maxima of a row never cross lanes.
//
// No result depends on the number of threads: every output is one chain of sums in an order fixed by the layout. Rows and
// columns that are far longer than the others are cut in parts, also fixed by the layout, that are summed in order.

#include "vectors.h"

#include <algorithm>
#include <cmath>
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
// Same fields in the same order in nip/attention/native.py. Strides count floats: batch, head, token.
struct NipAttention {
    int64_t batch, heads, kv_heads, tokens, head_dim, block, n, threads;
    int64_t q_stride[3], k_stride[3], v_stride[3], dout_stride[3];
    const float *q, *k, *v, *dout, *dlse;     // dlse, contiguous, may be null
    float *out, *lse, *dq, *dk, *dv;        // contiguous
    const int32_t *indptr, *indices;          // attended blocks of each row, ascending
    const int32_t *query_ids, *key_ids;       // (batch, tokens) or null: only pairs of equal ids count; keys < 0 never do
    float scale;
    int32_t causal;
};
}

namespace {

constexpr int64_t SCORES = 4096;       // scores of a chunk in the forward pass: 16 KiB, half of a small L1 cache
constexpr int64_t SCORES_BACK = 1024;  // the backward pass keeps two such buffers, and its rows, there
constexpr int64_t CHUNK = 256;         // tokens of a chunk at most
constexpr int64_t PIECE = 64;          // tokens of a piece at most
constexpr int64_t PART = 2048;         // tokens that make a row long, and of each part of a long row
constexpr int AHEAD = 3;               // blocks from the one computed to the one fetched into the cache
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
    int32_t slot;  // where this part of a long row is kept; -1: the whole row
};

// Rows of the layout, or its columns.
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
                parts.push_back({i, begin, end, slots++});  // the longest tasks come first
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

// What a block of tokens has, to tell whether a pair of blocks counts.
struct Ids {
    int32_t low = 0, high = 0;
    bool any = true, all = true;
};

struct Call : NipAttention {
    Side rows, columns;
    std::vector<int32_t> entry;  // of the rows, by entry of the columns
    std::vector<Ids> query_blocks, key_blocks;
    std::vector<char> live;  // (batch, heads, n): a gradient reaches the block
    float factor, forbidden;
    int64_t group, scratch_floats;

    explicit Call(const NipAttention& problem) : NipAttention(problem) {
        group = heads / kv_heads;
        factor = scale * LOG2E;
        if (factor == 0) factor = 1e-37f;  // all scores alike, and forbidden ones still forbidden
        forbidden = factor > 0 ? -INFINITY : INFINITY;
        scratch_floats = (8 * W + PIECE) * head_dim + SCORES + 64;
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

    int64_t end_of(int64_t i) const { return std::min(tokens, (i + 1) * block); }

    // Does any pair of these blocks count, and must each be looked at? Ranges of ids that meet may still share none.
    bool counts(int64_t b, int64_t i, int64_t j, bool* masked) const {
        *masked = false;
        if (!query_ids) return true;
        const Ids &x = query_blocks[b * n + i], &y = key_blocks[b * n + j];
        *masked = !y.all || x.low != x.high || y.low != y.high;
        return y.any && x.low <= y.high && x.high >= y.low;
    }

    const float* queries(int64_t bh) const { return q + bh / heads * q_stride[0] + bh % heads * q_stride[1]; }
    const float* grads(int64_t bh) const { return dout + bh / heads * dout_stride[0] + bh % heads * dout_stride[1]; }
    const float* keys(int64_t b, int64_t h) const { return k + b * k_stride[0] + h * k_stride[1]; }
    const float* values(int64_t b, int64_t h) const { return v + b * v_stride[0] + h * v_stride[1]; }
};

// Forbidden pairs of one row of a tile: ids that differ, and in a causal diagonal block what comes later.
template <int C, bool KEYS_IN_LANES>
NIP_INLINE void forbid(vf* acc, const Call& call, const Piece& piece, const int32_t* lane_ids, int32_t id,
                       int64_t first_lane, int64_t row) {
    int32_t positions[W];
    for (int x = 0; x < W; ++x) positions[x] = x;
    const vf never = splat(call.forbidden);
    NIP_UNROLL for (int c = 0; c < C; ++c) {
        if (piece.masked) acc[c] = load_ints(lane_ids + c * W) == splat_int(id) ? acc[c] : never;
        if (piece.triangle) {
            const vi lane = load_ints(positions) + splat_int(int32_t(first_lane + c * W - row));
            acc[c] = (KEYS_IN_LANES ? lane <= 0 : lane >= 0) ? acc[c] : never;
        }
    }
}

// Pieces of `ids` of one side's tokens, collected until a chunk is full.
struct Chunk {
    Piece pieces[CHUNK];
    int n = 0;
    int64_t tokens = 0;
    void clear() { n = 0, tokens = 0; }
};

template <class Flush>
NIP_INLINE void collect(const Call& call, Chunk& chunk, int64_t block, int32_t entry, bool masked, bool triangle,
                        int64_t limit, const Flush& flush) {
    const int64_t end = call.end_of(block);
    for (int64_t t = block * call.block; t < end; t += PIECE) {
        const int32_t count = std::min(PIECE, end - t);
        if (chunk.tokens + count > limit) flush(false);
        chunk.pieces[chunk.n++] = {t, count, entry, masked, triangle};
        chunk.tokens += count;
    }
}

void lanes_of_ids(const int32_t* ids, int64_t count, int64_t lanes, int32_t* out) {
    for (int64_t x = 0; x < lanes; ++x) out[x] = x < count ? ids[x] : -2;
}

// Attention of `count` queries from token t0, over one part of a row.
template <int C, int D>
void forward_tile(const Call& call, int64_t bh, const Part& part, int64_t t0, int64_t count, float* scratch,
                  float* slot) {
    constexpr int T = C * W;
    constexpr int64_t LIMIT = std::min(SCORES / T, CHUNK);
    const int64_t d = D ? D : call.head_dim, b = bh / call.heads, kv = bh % call.heads / call.group;
    const float *keys = call.keys(b, kv), *values = call.values(b, kv);
    const int64_t k_stride = call.k_stride[2], v_stride = call.v_stride[2];
    float *scores = scratch, *queries = scores + SCORES, *acc = queries + T * d, *copy = acc + T * d;
    alignas(64) float top[T], total[T], shrink[T], finish[T];
    int32_t ids[T] = {};
    const int32_t* key_ids = call.key_ids ? call.key_ids + b * call.tokens : nullptr;
    if (key_ids) lanes_of_ids(call.query_ids + b * call.tokens + t0, count, T, ids);
    transpose(call.queries(bh) + t0 * call.q_stride[2], call.q_stride[2], count, d, T, queries);

    const int64_t first = t0 - part.row * call.block;
    float* target = slot ? slot + first * d : call.out + (bh * call.tokens + t0) * d;
    float* sums = count == T ? target : acc;
    const vf factor = splat(call.factor);
    vf best[C], sum[C];
    NIP_UNROLL for (int c = 0; c < C; ++c) best[c] = splat(-INFINITY), sum[c] = vf{};
    bool fresh = true;
    Chunk chunk;
    const auto flush = [&](bool last) {
        vf before[C], shift[C];
        NIP_UNROLL for (int c = 0; c < C; ++c) before[c] = best[c];
        float* s = scores;
        for (int x = 0; x < chunk.n; ++x) {
            const Piece& piece = chunk.pieces[x];
            const float* rows = packed(keys + piece.first * k_stride, k_stride, piece.count, d, copy);
            const auto keep = [&](int64_t row, vf* tile) {
                NIP_UNROLL for (int c = 0; c < C; ++c) {
                    store(s + row * T + c * W, tile[c]);
                    best[c] = larger(tile[c] * factor, best[c]);
                }
            };
            if (piece.masked || piece.triangle)
                score_rows<C, D>(rows, piece.count, queries, d, [&](int64_t row, vf* tile) {
                    const int64_t key = piece.first + row;
                    forbid<C, false>(tile, call, piece, ids, key_ids ? key_ids[key] : 0, t0, key);
                    keep(row, tile);
                });
            else
                score_rows<C, D>(rows, piece.count, queries, d, keep);
            s += piece.count * T;
        }
        NIP_UNROLL for (int c = 0; c < C; ++c) {
            shift[c] = best[c] == -INFINITY ? vf{} : best[c];
            const vf less = exp2(before[c] - shift[c]);
            sum[c] *= less;
            store(shrink + c * W, less);
        }
        for (s = scores; s < scores + chunk.tokens * T; s += T)
            NIP_UNROLL for (int c = 0; c < C; ++c) {
                const vf p = exp2(load(s + c * W) * factor - shift[c]);
                sum[c] += p;
                store(s + c * W, p);
            }
        NIP_UNROLL for (int c = 0; c < C; ++c) store(finish + c * W, sum[c] == 0 ? vf{} : 1.0f / sum[c]);
        product<T, 1>(scores, T, chunk.pieces, chunk.n, values, v_stride, d,
                {sums, d, fresh, shrink, last && !slot ? finish : nullptr});
        fresh = false;
        chunk.clear();
    };
    for (int32_t e = part.begin; e < part.end; ++e) {
        if (e + AHEAD < part.end) {
            const int64_t next = call.rows.other[e + AHEAD], tokens = call.end_of(next) - next * call.block;
            prefetch(keys + next * call.block * k_stride, k_stride, tokens, d);
            prefetch(values + next * call.block * v_stride, v_stride, tokens, d);
        }
        const int32_t j = call.rows.other[e];
        bool masked;
        if (call.counts(b, part.row, j, &masked))
            collect(call, chunk, j, e, masked, call.causal && j == part.row, LIMIT, flush);
    }
    if (chunk.n) flush(true);
    NIP_UNROLL for (int c = 0; c < C; ++c) store(top + c * W, best[c]), store(total + c * W, sum[c]);
    if (fresh) std::memset(target, 0, sizeof(float) * count * d);
    else if (sums != target) std::memcpy(target, sums, sizeof(float) * count * d);
    for (int64_t x = 0; x < count; ++x) {
        if (slot) {
            slot[call.block * d + first + x] = top[x];
            slot[call.block * (d + 1) + first + x] = total[x];
        } else {
            call.lse[bh * call.tokens + t0 + x] = total[x] == 0 ? -INFINITY : (top[x] + std::log2(total[x])) * LN2;
        }
    }
}

// Puts the parts of a long row together.
void join_forward(const Call& call, int64_t bh, const std::vector<int32_t>& row, const float* slots, int64_t slot_floats) {
    const int64_t d = call.head_dim, size = call.end_of(row[0]) - row[0] * call.block, tail = call.block * d;
    for (int64_t x = 0; x < size; ++x) {
        float top = -INFINITY, total = 0;
        for (size_t s = 1; s < row.size(); ++s) top = std::max(top, slots[row[s] * slot_floats + tail + x]);
        const int64_t token = bh * call.tokens + row[0] * call.block + x;
        float* out = call.out + token * d;
        std::fill(out, out + d, 0.0f);
        for (size_t s = 1; s < row.size(); ++s) {
            const float* slot = slots + row[s] * slot_floats;
            const float weight = top == -INFINITY ? 0.0f : std::exp2(slot[tail + x] - top);
            total += weight * slot[tail + call.block + x];
            for (int64_t y = 0; y < d; ++y) out[y] += weight * slot[x * d + y];
        }
        for (int64_t y = 0; y < d; ++y) out[y] = total == 0 ? 0.0f : out[y] / total;
        call.lse[token] = total == 0 ? -INFINITY : (top + std::log2(total)) * LN2;
    }
}

// A thread has a whole head, or rows and columns are shared out and the scores computed twice: whichever takes less time.
// Both give the same bits.
bool head_by_head(const Call& call) {
    const int64_t units = call.batch * call.kv_heads, rounds = (units + call.threads - 1) / call.threads;
    return rounds * call.threads * 5 <= units * 7;
}

// Large results are fresh memory: fewer, larger pages take less time to get.
void large_pages(const float* p, int64_t floats) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t page = 1 << 21;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + page - 1) & ~(page - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + sizeof(float) * floats) & ~(page - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
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

#include "backward.h"

template <int D>
void forward(const Call& call) {
    const int64_t all = call.batch * call.heads, d = call.head_dim, n_parts = call.rows.parts.size();
    const int64_t slot_floats = call.block * (d + 2), n_long = call.rows.long_rows.size();
    const Buffer scratch(call.threads * call.scratch_floats), slots(all * call.rows.slots * slot_floats);
    large_pages(call.out, all * call.tokens * d);
    const int64_t grain = std::max<int64_t>(1, std::min<int64_t>(8, all * n_parts / (16 * call.threads)));
#pragma omp parallel num_threads(call.threads)
    {
        float* own = scratch.at(thread_number() * call.scratch_floats);
#pragma omp for schedule(dynamic, grain)
        for (int64_t task = 0; task < all * n_parts; ++task) {
            const int64_t bh = task / n_parts;
            const Part& part = call.rows.parts[task % n_parts];
            float* slot = part.slot < 0 ? nullptr : slots.at((bh * call.rows.slots + part.slot) * slot_floats);
            tiles(call, part.row, [&](int64_t t, int64_t count, int64_t, bool wide) {
                (wide ? forward_tile<2, D> : forward_tile<1, D>)(call, bh, part, t, count, own, slot);
            });
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < all * n_long; ++task) {
            const int64_t bh = task / n_long;
            join_forward(call, bh, call.rows.long_rows[task % n_long], slots.at(bh * call.rows.slots * slot_floats),
                         slot_floats);
        }
    }
}

template <template <int> class Pass>
void by_head_dim(Call& call) {
    switch (call.head_dim) {
        case 16: return Pass<16>::run(call);
        case 32: return Pass<32>::run(call);
        case 64: return Pass<64>::run(call);
        case 128: return Pass<128>::run(call);
        default: return Pass<0>::run(call);
    }
}

template <int D>
struct Forward {
    static void run(Call& call) { forward<D>(call); }
};
template <int D>
struct Backward {
    static void run(Call& call) { backward<D>(call); }
};

}  // namespace

extern "C" {

// 0, or 1 if there is not enough memory. head_dim must be a multiple of 16.
__attribute__((visibility("default"))) int nip_attention_forward(const NipAttention* problem) try {
    Call call(*problem);
    by_head_dim<Forward>(call);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

__attribute__((visibility("default"))) int nip_attention_backward(const NipAttention* problem) try {
    Call call(*problem);
    call.transpose_rows();
    by_head_dim<Backward>(call);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
}
