// The forward pass: online softmax over chunks of keys, queries in the lanes.
#pragma once

#include "problem.h"

namespace {

// exp2 to the precision of the elements that it is multiplied with.
template <class E>
NIP_INLINE vf power(vf x) {
    if constexpr (E::PACK == 2) return exp2_rough(x);
    return exp2(x);
}

// Replaces the scores of a chunk by probabilities, in words, and adds them to `sum`.
template <class E, int C>
NIP_INLINE void exponentials(const Call& call, const Piece* pieces, int64_t n_pieces, const Fate* fates, const vf* shift,
                             vf* sum, float* scores) {
    constexpr int T = C * W;
    const vf factor = splat(call.factor);
    vi first[C], second[C];
    if (call.dropped)
        NIP_UNROLL for (int c = 0; c < C; ++c) {
            uint32_t x[W], y[W];
            for (int lane = 0; lane < W; ++lane) x[lane] = fates[c * W + lane].first, y[lane] = fates[c * W + lane].second;
            first[c] = load_ints(x), second[c] = load_ints(y);
        }
    float* to = scores;  // words take no more space than scores: nothing is overwritten before it is read
    for (const Piece* piece = pieces; piece < pieces + n_pieces; ++piece) {
        const int64_t rows = padded<E>(*piece);
        for (int64_t row = 0; row < rows; row += E::PACK, to += T)
            NIP_UNROLL for (int c = 0; c < C; ++c) {
                vf p[E::PACK];
                NIP_UNROLL for (int h = 0; h < E::PACK; ++h) {
                    p[h] = power<E>(load(scores + (row + h) * T + c * W) * factor - shift[c]);
                    sum[c] += p[h];
                    if (call.dropped) {
                        const vi key = splat_int(int32_t(piece->first + row + h));
                        p[h] = kept(first[c], second[c], key, call.dropped) ? p[h] : vf{};
                    }
                }
                store(to + c * W, E::PACK == 1 ? p[0] : pair_up(p[0], p[E::PACK - 1]));
            }
        scores += rows * T;
    }
}

// Attention of `count` queries, starting at token t0, over the pieces of one part of a row.
template <class E, int C, int D>
void forward_tile(const Call& call, int64_t bh, const Part& part, int64_t t0, int64_t count, Scratch& own, float* slot) {
    typedef typename E::Element Element;
    constexpr int T = C * W;
    constexpr int64_t LIMIT = std::min(SCORES / T, CHUNK);
    const int64_t d = D ? D : call.head_dim, words = d / E::PACK, b = bh / call.heads, kv = bh % call.heads / call.group;
    const Element *keys = call.keys<Element>(b, kv), *values = call.values<Element>(b, kv);
    const int64_t k_stride = call.k_stride[2], v_stride = call.v_stride[2];
    float *scores = own.scores, *queries = own.rows, *acc = queries + T * d, *copy = acc + T * d;
    alignas(64) float top[T], total[T], shrink[T], finish[T];
    int32_t ids[T];
    Fate fates[T] = {};
    const int32_t* key_ids = call.key_ids ? call.key_ids + b * call.tokens : nullptr;
    if (key_ids) lanes_of_ids(call.query_ids + b * call.tokens + t0, count, T, ids);
    for (int64_t x = 0; call.dropped && x < count; ++x) fates[x] = fate(call.seed, bh * call.tokens + t0 + x);
    transpose<E>(call.queries<Element>(bh) + t0 * call.q_stride[2], call.q_stride[2], count, d, T, queries);

    const int64_t first = t0 - part.row * call.block;
    Element* out = static_cast<Element*>(call.out) + (bh * call.tokens + t0) * d;
    float* sums = acc;
    if (count == T && (slot || E::PACK == 1)) sums = slot ? slot + first * d : reinterpret_cast<float*>(out);
    const vf factor = splat(call.factor);
    vf best[C], sum[C];
    NIP_UNROLL for (int c = 0; c < C; ++c) best[c] = splat(-INFINITY), sum[c] = vf{};
    bool fresh = true;
    const std::vector<Piece>& pieces = own.pieces;
    chunks<E>(pieces, LIMIT, [&](size_t begin, int64_t n_pieces, int64_t tokens) {
        vf before[C], shift[C];
        NIP_UNROLL for (int c = 0; c < C; ++c) before[c] = best[c];
        float* s = scores;
        for (int64_t x = 0; x < n_pieces; ++x) {
            const Piece& piece = pieces[begin + x];
            if (begin + x + AHEAD < pieces.size()) {
                const Piece& next = pieces[begin + x + AHEAD];
                prefetch(keys + next.first * k_stride, k_stride, next.count, d);
            }
            prefetch(values + piece.first * v_stride, v_stride, piece.count, d);
            const float* rows = packed<E>(keys + piece.first * k_stride, k_stride, piece.count, d, copy);
            score_rows<E, C, D / E::PACK>(rows, piece.count, queries, words, s);
            if (padded<E>(piece) > piece.count)
                NIP_UNROLL for (int c = 0; c < C; ++c) store(s + piece.count * T + c * W, splat(call.forbidden));
            if (piece.masked || piece.triangle) forbid<C, false>(call, piece, ids, key_ids, t0, s);
            s += padded<E>(piece) * T;
        }
        for (s = scores; s < scores + tokens * T; s += T)
            NIP_UNROLL for (int c = 0; c < C; ++c) best[c] = larger(load(s + c * W) * factor, best[c]);
        NIP_UNROLL for (int c = 0; c < C; ++c) {
            shift[c] = best[c] == -INFINITY ? vf{} : best[c];
            const vf less = exp2(before[c] - shift[c]);
            sum[c] *= less;
            store(shrink + c * W, less);
        }
        exponentials<E, C>(call, &pieces[begin], n_pieces, fates, shift, sum, scores);
        const bool last = begin + n_pieces == pieces.size() && !slot;
        const vf growth = splat(call.growth);
        NIP_UNROLL for (int c = 0; c < C; ++c) store(finish + c * W, sum[c] == 0 ? vf{} : growth / sum[c]);
        product<E, T, 1>(scores, T, &pieces[begin], n_pieces, values, v_stride, d,
                         {sums, d, fresh, shrink, last ? finish : nullptr});
        fresh = false;
    });
    NIP_UNROLL for (int c = 0; c < C; ++c) store(top + c * W, best[c]), store(total + c * W, sum[c]);
    if (fresh) std::memset(sums, 0, 4 * count * d);
    if (slot) {
        if (sums == acc) std::memcpy(slot + first * d, acc, 4 * count * d);
    } else if (sums == acc) {
        store_elements(out, acc, count * d);
    }
    for (int64_t x = 0; x < count; ++x) {
        if (slot) {
            slot[call.block * d + first + x] = top[x];
            slot[call.block * (d + 1) + first + x] = total[x];
        } else {
            call.lse[bh * call.tokens + t0 + x] = total[x] == 0 ? -INFINITY : (top[x] + std::log2(total[x])) * LN2;
        }
    }
}

// Combines the parts of a long row.
template <class E>
void join_forward(const Call& call, int64_t bh, const std::vector<int32_t>& row, const float* slots, int64_t slot_floats) {
    const int64_t d = call.head_dim, size = call.end_of(row[0]) - row[0] * call.block, tail = call.block * d;
    std::vector<float> sum(d);
    for (int64_t x = 0; x < size; ++x) {
        float top = -INFINITY, total = 0;
        for (size_t s = 1; s < row.size(); ++s) top = std::max(top, slots[row[s] * slot_floats + tail + x]);
        const int64_t token = bh * call.tokens + row[0] * call.block + x;
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (size_t s = 1; s < row.size(); ++s) {
            const float* slot = slots + row[s] * slot_floats;
            const float weight = top == -INFINITY ? 0.0f : std::exp2(slot[tail + x] - top);
            total += weight * slot[tail + call.block + x];
            for (int64_t y = 0; y < d; ++y) sum[y] += weight * slot[x * d + y];
        }
        for (int64_t y = 0; y < d; ++y) sum[y] = total == 0 ? 0.0f : sum[y] * call.growth / total;
        store_elements(static_cast<typename E::Element*>(call.out) + token * d, sum.data(), d);
        call.lse[token] = total == 0 ? -INFINITY : (top + std::log2(total)) * LN2;
    }
}

template <class E, int D>
void forward(const Call& call) {
    const int64_t all = call.batch * call.heads, d = call.head_dim, n_parts = call.rows.parts.size();
    const int64_t slot_floats = call.block * (d + 2), n_long = call.rows.long_rows.size();
    const Buffer scratch(call.threads * call.scratch_floats), slots(all * call.rows.slots * slot_floats);
    large_pages(call.out, all * call.tokens * d * sizeof(typename E::Element));
    const int64_t grain = std::max<int64_t>(1, std::min<int64_t>(8, all * n_parts / (16 * call.threads)));
#pragma omp parallel num_threads(call.threads)
    {
        Scratch own = call.scratch(scratch);
#pragma omp for schedule(dynamic, grain)
        for (int64_t task = 0; task < all * n_parts; ++task) {
            const int64_t bh = task / n_parts;
            const Part& part = call.rows.parts[task % n_parts];
            float* slot = part.slot < 0 ? nullptr : slots.at((bh * call.rows.slots + part.slot) * slot_floats);
            keys_of(call, bh / call.heads, part, own.pieces);
            tiles(call, part.row, [&](int64_t t, int64_t count, int64_t, bool wide) {
                (wide ? forward_tile<E, 2, D> : forward_tile<E, 1, D>)(call, bh, part, t, count, own, slot);
            });
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < all * n_long; ++task) {
            const int64_t bh = task / n_long;
            join_forward<E>(call, bh, call.rows.long_rows[task % n_long], slots.at(bh * call.rows.slots * slot_floats),
                            slot_floats);
        }
    }
}

}  // namespace
