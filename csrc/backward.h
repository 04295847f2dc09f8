// The backward pass. With P the probabilities, dP = dO V^T and delta = rowsum(dO * O) - dlse:
// dV = P^T dO, dS = P * (dP - delta) * scale, dK = dS^T Q, dQ = dS K. With dropout, P in dV and dP are zero for dropped
// pairs and scaled by 1 / (1 - p) for the others; P in dS is unchanged.
#pragma once

#include "forward.h"

namespace {

// Per query: the normalizer of its probabilities, -lse in base 2, and delta * scale.
struct Rows {
    Buffer shift, delta;
};

// Fills both, and finds the blocks with a nonzero gradient: padding has none if the model masks its result.
template <class E>
void prepare_rows(Call& call, const Rows& rows) {
    typedef typename E::Element Element;
    const int64_t all = call.batch * call.heads, d = call.head_dim;
    call.live.assign(all * call.n, 0);
#pragma omp parallel for num_threads(call.threads) schedule(static)
    for (int64_t task = 0; task < all * call.n; ++task) {
        const int64_t bh = task / call.n, i = task % call.n;
        bool live = false;
        vi reached{};
        for (int64_t t = i * call.block; t < call.end_of(i); ++t) {
            const int64_t token = bh * call.tokens + t;
            const Element* out = static_cast<const Element*>(call.out) + token * d;
            const Element* grad = call.grads<Element>(bh) + t * call.dout_stride[2];
            vf sum{};
            for (int64_t x = 0; x < d; x += W) {
                const vf g = load_elements(grad + x);
                sum += g * load_elements(out + x);
                reached |= g != 0;
            }
            float delta = total(sum);
            if (call.dlse) {
                delta -= call.dlse[token];
                live |= call.dlse[token] != 0;
            }
            *rows.delta.at(token) = delta * call.scale;
            *rows.shift.at(token) = call.lse[token] == -INFINITY ? -INFINITY : -call.lse[token] * LOG2E;
        }
        for (int x = 0; x < W; ++x) live |= reached[x] != 0;
        call.live[task] = live;
    }
}

// The lanes of a tile: keys, or queries with their shift, delta and dropout state.
template <int C>
struct Lanes {
    int64_t first, count;
    alignas(64) float shift[C * W] = {}, delta[C * W] = {};  // of queries
    Fate fates[C * W] = {};                                  // of queries
};

// Replaces scores and dP of a piece, (tokens, lanes), by P and dS in words, in place. A bfloat16 word packs two tokens;
// `across` also gets dS with two lanes per word.
template <class E, int C, bool KEYS_IN_LANES>
NIP_INLINE void probabilities(const Call& call, const Rows& rows, int64_t bh, const Piece& piece, const Lanes<C>& lanes,
                              const float* s, const float* g, float* to_p, float* to_ds, float* across) {
    constexpr int T = C * W;
    const vf factor = splat(call.factor), scale = splat(call.scale * call.growth), growth = splat(call.growth);
    const float *shift = rows.shift.at(bh * call.tokens), *delta = rows.delta.at(bh * call.tokens);
    const int64_t tokens = padded<E>(piece);
    for (int64_t row = 0; row < tokens; row += E::PACK)
        NIP_UNROLL for (int c = 0; c < C; ++c) {
            vf p[E::PACK], ds[E::PACK];
            NIP_UNROLL for (int h = 0; h < E::PACK; ++h) {
                const int64_t token = piece.first + row + h, place = (row + h) * T + c * W;
                if (E::PACK > 1 && row + h >= piece.count) {
                    p[h] = ds[h] = vf{};
                    continue;
                }
                const vf less = KEYS_IN_LANES ? splat(shift[token]) : load(lanes.shift + c * W);
                const vf minus = KEYS_IN_LANES ? splat(delta[token]) : load(lanes.delta + c * W);
                p[h] = power<E>(load(s + place) * factor + less);
                vf grad = load(g + place) * scale;
                const vf whole = p[h];
                if (call.dropped) {
                    vi stays;
                    if (KEYS_IN_LANES) {
                        const Fate x = fate(call.seed, bh * call.tokens + token);
                        stays = kept(splat_int(x.first), splat_int(x.second), ascending(lanes.first + c * W), call.dropped);
                    } else {
                        uint32_t first[W], second[W];
                        for (int x = 0; x < W; ++x)
                            first[x] = lanes.fates[c * W + x].first, second[x] = lanes.fates[c * W + x].second;
                        stays = kept(load_ints(first), load_ints(second), splat_int(token), call.dropped);
                    }
                    p[h] = stays ? p[h] * growth : vf{};
                    grad = stays ? grad : vf{};
                }
                ds[h] = whole * (grad - minus);
            }
            if constexpr (E::PACK == 1) {
                store(to_p + row * T + c * W, p[0]);
                store(to_ds + row * T + c * W, ds[0]);
            } else {
                if (KEYS_IN_LANES) {
                    const vi inside = ascending(c * W) < splat_int(lanes.count);
                    NIP_UNROLL for (int h = 0; h < 2; ++h)
                        store_row(across + (row + h) * (T / 2) + c * (W / 2), inside ? ds[h] : vf{});
                }
                store(to_p + row / 2 * T + c * W, pair_up(p[0], p[1]));
                store(to_ds + row / 2 * T + c * W, pair_up(ds[0], ds[1]));
            }
        }
}

// dk and dv of `count` keys, starting at token t0, from one part of a column, into (count, d) each. If `dq` is given, the
// contribution of these keys to the queries of head bh is added to dq(bh, entry of the layout, token).
template <class E, int C, int D, class Result, class Dq>
void column_tile(const Call& call, const Rows& rows, int64_t b, int64_t kv, const Part& part, int64_t t0, int64_t count,
                 Scratch& own, Result* dk, Result* dv, const Dq* dq) {
    typedef typename E::Element Element;
    constexpr int T = C * W;
    constexpr int STEP = T / E::PACK;  // words of a row of lanes
    constexpr int64_t LIMIT = std::max(SCORES_BACK / T, PIECE);
    const int64_t d = D ? D : call.head_dim, words = d / E::PACK, k_stride = call.k_stride[2];
    const int64_t q_stride = call.q_stride[2], g_stride = call.dout_stride[2];
    float *p = own.scores, *ds = p + LIMIT * T, *across = E::PACK == 1 ? ds : ds + LIMIT * T;
    float *keys = own.rows, *values = keys + T * d, *dk_sum = values + T * d, *dv_sum = dk_sum + T * d;
    float* copy = dv_sum + T * d;
    int32_t ids[T];
    if (call.key_ids) lanes_of_ids(call.key_ids + b * call.tokens + t0, count, T, ids);
    const int32_t* query_ids = call.query_ids ? call.query_ids + b * call.tokens : nullptr;
    const Element* natural = call.keys<Element>(b, kv) + t0 * k_stride;
    transpose<E>(natural, k_stride, count, d, T, keys);
    transpose<E>(call.values<Element>(b, kv) + t0 * call.v_stride[2], call.v_stride[2], count, d, T, values);
    const Piece lanes_piece{0, int32_t(count), 0, false, false};
    const Lanes<C> lanes{t0, count};
    std::vector<Piece>& pieces = own.pieces;
    bool fresh = true;
    for (int64_t bh = b * call.heads + kv * call.group; bh < b * call.heads + (kv + 1) * call.group; ++bh) {
        const Element *queries = call.queries<Element>(bh), *grads = call.grads<Element>(bh);
        pieces.clear();
        for (int32_t e = part.begin; e < part.end; ++e) {
            const int32_t i = call.columns.other[e];
            bool masked;
            if (call.live[bh * call.n + i] && call.counts(b, i, part.row, &masked))
                add_pieces(call, i, call.entry[e], masked, call.causal && i == part.row, pieces);
        }
        chunks<E>(pieces, LIMIT, [&](size_t begin, int64_t n_pieces, int64_t) {
            int64_t at = 0;
            for (int64_t x = 0; x < n_pieces; ++x) {
                const Piece& piece = pieces[begin + x];
                const bool more = begin + x + AHEAD < pieces.size();
                const Piece& next = pieces[more ? begin + x + AHEAD : begin + x];
                if (more) prefetch(queries + next.first * q_stride, q_stride, next.count, d);
                const float* left = packed<E>(queries + piece.first * q_stride, q_stride, piece.count, d, copy);
                score_rows<E, C, D / E::PACK>(left, piece.count, keys, words, p + at * T);
                if (piece.masked || piece.triangle) forbid<C, true>(call, piece, ids, query_ids, t0, p + at * T);
                if (more) prefetch(grads + next.first * g_stride, g_stride, next.count, d);
                left = packed<E>(grads + piece.first * g_stride, g_stride, piece.count, d, copy);
                score_rows<E, C, D / E::PACK>(left, piece.count, values, words, ds + at * T);
                if (dq) prefetch((*dq)(bh, piece.entry, piece.first), d, piece.count, d);
                at += padded<E>(piece);
            }
            at = 0;
            for (int64_t x = 0; x < n_pieces; ++x) {
                const Piece& piece = pieces[begin + x];
                const int64_t from = at * T, to = at / E::PACK * T;
                probabilities<E, C, true>(call, rows, bh, piece, lanes, p + from, ds + from, p + to, ds + to,
                                          across + at * STEP);
                at += padded<E>(piece);
            }
            const Piece* first = &pieces[begin];
            product<E, T, 1>(p, T, first, n_pieces, grads, g_stride, d, {dv_sum, d, fresh, nullptr, nullptr});
            product<E, T, 1>(ds, T, first, n_pieces, queries, q_stride, d, {dk_sum, d, fresh, nullptr, nullptr});
            at = 0;
            for (int64_t x = 0; dq && x < n_pieces; ++x) {
                const Piece& piece = first[x];
                float* to = (*dq)(bh, piece.entry, piece.first);
                product<E, 1, STEP>(across + at * STEP, piece.count, &lanes_piece, 1, natural, k_stride, d,
                                    {to, d, false, nullptr, nullptr});
                at += padded<E>(piece);
            }
            fresh = false;
        });
    }
    if (fresh) std::memset(dk_sum, 0, 4 * count * d), std::memset(dv_sum, 0, 4 * count * d);
    store_elements(dk, dk_sum, count * d);
    store_elements(dv, dv_sum, count * d);
}

// dq of `count` queries, starting at token t0, from one part of a row, into (count, d).
template <class E, int C, int D, class Result>
void row_tile(const Call& call, const Rows& rows, int64_t bh, const Part& part, int64_t t0, int64_t count, Scratch& own,
              Result* dq) {
    typedef typename E::Element Element;
    constexpr int T = C * W;
    constexpr int64_t LIMIT = std::max(SCORES_BACK / T, PIECE);
    const int64_t d = D ? D : call.head_dim, words = d / E::PACK, b = bh / call.heads, kv = bh % call.heads / call.group;
    const int64_t k_stride = call.k_stride[2], v_stride = call.v_stride[2];
    const Element *keys = call.keys<Element>(b, kv), *values = call.values<Element>(b, kv);
    float *p = own.scores, *ds = p + LIMIT * T;
    float *queries = own.rows, *grads = queries + T * d, *sum = grads + T * d, *copy = sum + T * d;
    Lanes<C> lanes{t0, count};
    std::copy_n(rows.shift.at(bh * call.tokens + t0), count, lanes.shift);
    std::copy_n(rows.delta.at(bh * call.tokens + t0), count, lanes.delta);
    for (int64_t x = 0; call.dropped && x < count; ++x) lanes.fates[x] = fate(call.seed, bh * call.tokens + t0 + x);
    int32_t ids[T];
    const int32_t* key_ids = call.key_ids ? call.key_ids + b * call.tokens : nullptr;
    if (key_ids) lanes_of_ids(call.query_ids + b * call.tokens + t0, count, T, ids);
    transpose<E>(call.queries<Element>(bh) + t0 * call.q_stride[2], call.q_stride[2], count, d, T, queries);
    transpose<E>(call.grads<Element>(bh) + t0 * call.dout_stride[2], call.dout_stride[2], count, d, T, grads);
    bool fresh = true;
    const std::vector<Piece>& pieces = own.pieces;
    chunks<E>(pieces, LIMIT, [&](size_t begin, int64_t n_pieces, int64_t) {
        int64_t at = 0;
        for (int64_t x = 0; x < n_pieces; ++x) {
            const Piece& piece = pieces[begin + x];
            const float* left = packed<E>(keys + piece.first * k_stride, k_stride, piece.count, d, copy);
            score_rows<E, C, D / E::PACK>(left, piece.count, queries, words, p);
            if (piece.masked || piece.triangle) forbid<C, false>(call, piece, ids, key_ids, t0, p);
            left = packed<E>(values + piece.first * v_stride, v_stride, piece.count, d, copy);
            score_rows<E, C, D / E::PACK>(left, piece.count, grads, words, ds + at * T);
            probabilities<E, C, false>(call, rows, bh, piece, lanes, p, ds + at * T, p, ds + at / E::PACK * T, nullptr);
            at += padded<E>(piece);
        }
        product<E, T, 1>(ds, T, &pieces[begin], n_pieces, keys, k_stride, d, {sum, d, fresh, nullptr, nullptr});
        fresh = false;
    });
    if (fresh) std::memset(sum, 0, 4 * count * d);
    store_elements(dq, sum, count * d);
}

// Sums the parts of a long row or column of a result.
template <class Result>
void join(const Call& call, const std::vector<int32_t>& row, const float* slots, int64_t slot_floats, Result* out) {
    const int64_t floats = (call.end_of(row[0]) - row[0] * call.block) * call.head_dim;
    std::vector<float> sum(slots + row[1] * slot_floats, slots + row[1] * slot_floats + floats);
    for (size_t s = 2; s < row.size(); ++s)
        for (int64_t x = 0; x < floats; ++x) sum[x] += slots[row[s] * slot_floats + x];
    store_elements(out + row[0] * call.block * call.head_dim, sum.data(), floats);
}

template <class E, int D>
void backward(Call& call) {
    typedef typename E::Element Element;
    const int64_t all = call.batch * call.heads, kv_all = call.batch * call.kv_heads, d = call.head_dim;
    const int64_t head = call.tokens * d, slot = call.block * d;
    const int64_t n_rows = call.rows.parts.size(), n_columns = call.columns.parts.size();
    const int64_t long_rows = call.rows.long_rows.size(), long_columns = call.columns.long_rows.size();
    const bool by_head = head_by_head(call);
    const Rows rows{Buffer(all * call.tokens), Buffer(all * call.tokens)};
    const Buffer scratch(call.threads * call.scratch_floats), dq_slots(all * call.rows.slots * slot),
        dk_slots(kv_all * call.columns.slots * slot), dv_slots(kv_all * call.columns.slots * slot),
        heads(by_head && E::PACK > 1 ? call.threads * call.group * head : 0);  // dq before it is rounded
    Element *dq = static_cast<Element*>(call.dq), *dk = static_cast<Element*>(call.dk), *dv = static_cast<Element*>(call.dv);
    large_pages(dq, all * head * sizeof(Element));
    large_pages(dk, kv_all * head * sizeof(Element));
    large_pages(dv, kv_all * head * sizeof(Element));
    prepare_rows<E>(call, rows);

    const auto dq_slots_of = [&](int64_t bh) { return dq_slots.at(bh * call.rows.slots * slot); };
    // `whole`: dq of the heads of a group, in float32
    const auto column = [&](int64_t kv_head, const Part& part, Scratch& own, float* whole) {
        const int64_t b = kv_head / call.kv_heads, kv = kv_head % call.kv_heads;
        const auto add_to_dq = [&](int64_t bh, int32_t entry, int64_t token) {
            const int32_t place = call.rows.slot[entry];
            if (place < 0) return whole + (bh - kv_head * call.group) * head + token * d;
            return dq_slots_of(bh) + place * slot + token % call.block * d;
        };
        tiles(call, part.row, [&](int64_t t, int64_t count, int64_t offset, bool wide) {
            const auto run = [&](auto* to_dk, auto* to_dv) {
                typedef std::remove_reference_t<decltype(*to_dk)> Result;
                const auto tile = wide ? column_tile<E, 2, D, Result, decltype(add_to_dq)>
                                       : column_tile<E, 1, D, Result, decltype(add_to_dq)>;
                tile(call, rows, b, kv, part, t, count, own, to_dk, to_dv, whole ? &add_to_dq : nullptr);
            };
            if (part.slot < 0) return run(dk + kv_head * head + t * d, dv + kv_head * head + t * d);
            const int64_t place = (kv_head * call.columns.slots + part.slot) * slot + offset * d;
            run(dk_slots.at(place), dv_slots.at(place));
        });
    };
    const auto join_columns = [&](int64_t kv_head, const std::vector<int32_t>& x) {
        const int64_t first = kv_head * call.columns.slots * slot;
        join(call, x, dk_slots.at(first), slot, dk + kv_head * head);
        join(call, x, dv_slots.at(first), slot, dv + kv_head * head);
    };

    if (by_head) {
        std::vector<const Part*> in_order;  // dq is summed over the keys in order
        for (const Part& part : call.columns.parts) in_order.push_back(&part);
        std::stable_sort(in_order.begin(), in_order.end(), [](auto x, auto y) { return x->row < y->row; });
#pragma omp parallel for num_threads(call.threads) schedule(dynamic, 1)
        for (int64_t kv_head = 0; kv_head < kv_all; ++kv_head) {
            Scratch own = call.scratch(scratch);
            const int64_t first = kv_head * call.group;  // batch * heads + head: heads of a group are contiguous
            float* whole = reinterpret_cast<float*>(dq + first * head);
            if (E::PACK > 1) whole = heads.at(thread_number() * call.group * head);
            std::memset(whole, 0, 4 * call.group * head);
            std::memset(dq_slots_of(first), 0, 4 * call.group * call.rows.slots * slot);
            for (const Part* part : in_order) column(kv_head, *part, own, whole);
            for (const auto& x : call.columns.long_rows) join_columns(kv_head, x);
            if (E::PACK > 1) store_elements(dq + first * head, whole, call.group * head);
            for (int64_t bh = first; bh < first + call.group; ++bh)
                for (const auto& x : call.rows.long_rows) join(call, x, dq_slots_of(bh), slot, dq + bh * head);
        }
        return;
    }
#pragma omp parallel num_threads(call.threads)
    {
        Scratch own = call.scratch(scratch);
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < kv_all * n_columns; ++task)
            column(task / n_columns, call.columns.parts[task % n_columns], own, nullptr);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < all * n_rows; ++task) {
            const int64_t bh = task / n_rows;
            const Part& part = call.rows.parts[task % n_rows];
            own.pieces.clear();
            if (call.live[bh * call.n + part.row]) keys_of(call, bh / call.heads, part, own.pieces);
            tiles(call, part.row, [&](int64_t t, int64_t count, int64_t offset, bool wide) {
                const auto run = [&](auto* to) {
                    typedef std::remove_reference_t<decltype(*to)> Result;
                    (wide ? row_tile<E, 2, D, Result> : row_tile<E, 1, D, Result>)(call, rows, bh, part, t, count, own, to);
                };
                if (part.slot < 0) run(dq + bh * head + t * d);
                else run(dq_slots_of(bh) + part.slot * slot + offset * d);
            });
        }
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < kv_all * long_columns; ++task)
            join_columns(task / long_columns, call.columns.long_rows[task % long_columns]);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < all * long_rows; ++task) {
            const int64_t bh = task / long_rows;
            join(call, call.rows.long_rows[task % long_rows], dq_slots_of(bh), slot, dq + bh * head);
        }
    }
}

}  // namespace
