// The backward pass; part of block_sparse.cpp. With P the probabilities, dP = dO V^T and delta = rowsum(dO * O) - dlse:
// dV = P^T dO, dS = P * (dP - delta) * scale, dK = dS^T Q, dQ = dS K.
#pragma once

// By query: what its probabilities are normalised with, -lse in powers of two, and delta * scale.
struct Rows {
    Buffer shift, delta;
};

// Fills both, and finds the blocks that a gradient reaches: none reaches the padding where a model masks its result.
void prepare_rows(Call& call, const Rows& rows) {
    const int64_t all = call.batch * call.heads, d = call.head_dim;
    call.live.assign(all * call.n, 0);
#pragma omp parallel for num_threads(call.threads) schedule(static)
    for (int64_t task = 0; task < all * call.n; ++task) {
        const int64_t bh = task / call.n, i = task % call.n;
        bool live = false;
        for (int64_t t = i * call.block; t < call.end_of(i); ++t) {
            const int64_t token = bh * call.tokens + t;
            const float *out = call.out + token * d, *grad = call.grads(bh) + t * call.dout_stride[2];
            vf sum{};
            vi reached{};
            for (int64_t x = 0; x < d; x += W) {
                const vf g = load(grad + x);
                sum += g * load(out + x);
                reached |= g != 0;
            }
            float delta = 0;
            for (int x = 0; x < W; ++x) delta += sum[x], live |= reached[x] != 0;
            if (call.dlse) {
                delta -= call.dlse[token];
                live |= call.dlse[token] != 0;
            }
            *rows.delta.at(token) = delta * call.scale;
            *rows.shift.at(token) = call.lse[token] == -INFINITY ? -INFINITY : -call.lse[token] * LOG2E;
        }
        call.live[task] = live;
    }
}

// dk and dv of `count` keys from token t0 by one part of a column, into (count, d) each; and where `dq` is given, what the
// queries of head bh get from these keys is added to dq(bh, entry of the layout, token).
template <int C, int D, class Dq>
void column_tile(const Call& call, const Rows& rows, int64_t b, int64_t kv, const Part& part, int64_t t0, int64_t count,
                 float* scratch, float* dk, float* dv, const Dq* dq) {
    constexpr int T = C * W;
    constexpr int64_t LIMIT = std::max(SCORES_BACK / T, PIECE);
    const int64_t d = D ? D : call.head_dim, k_stride = call.k_stride[2];
    const int64_t q_stride = call.q_stride[2], g_stride = call.dout_stride[2];
    float *p = scratch, *ds = p + LIMIT * T, *keys = ds + LIMIT * T, *values = keys + T * d;
    float *dk_sum = values + T * d, *dv_sum = dk_sum + T * d, *copy = dv_sum + T * d;
    int32_t ids[T] = {};
    if (call.key_ids) lanes_of_ids(call.key_ids + b * call.tokens + t0, count, T, ids);
    const float* natural = call.keys(b, kv) + t0 * k_stride;
    transpose(natural, k_stride, count, d, T, keys);
    transpose(call.values(b, kv) + t0 * call.v_stride[2], call.v_stride[2], count, d, T, values);
    const Piece own{0, int32_t(count), 0, false, false};
    const vf factor = splat(call.factor), scale = splat(call.scale);
    bool fresh = true;
    Chunk chunk;
    for (int64_t bh = b * call.heads + kv * call.group; bh < b * call.heads + (kv + 1) * call.group; ++bh) {
        const float *queries = call.queries(bh), *grads = call.grads(bh);
        const float *shift = rows.shift.at(bh * call.tokens), *delta = rows.delta.at(bh * call.tokens);
        const int32_t* query_ids = call.query_ids ? call.query_ids + b * call.tokens : nullptr;
        const auto flush = [&](bool) {
            int64_t at = 0;
            for (int x = 0; x < chunk.n; ++x) {
                const Piece& piece = chunk.pieces[x];
                const auto keep = [&](int64_t row, vf* tile) {
                    const vf less = splat(shift[piece.first + row]);
                    NIP_UNROLL for (int c = 0; c < C; ++c)
                        store(p + (at + row) * T + c * W, exp2(tile[c] * factor + less));
                };
                const float* left = packed(queries + piece.first * q_stride, q_stride, piece.count, d, copy);
                if (piece.masked || piece.triangle)
                    score_rows<C, D>(left, piece.count, keys, d, [&](int64_t row, vf* tile) {
                        const int64_t query = piece.first + row;
                        forbid<C, true>(tile, call, piece, ids, query_ids ? query_ids[query] : 0, t0, query);
                        keep(row, tile);
                    });
                else
                    score_rows<C, D>(left, piece.count, keys, d, keep);
                left = packed(grads + piece.first * g_stride, g_stride, piece.count, d, copy);
                score_rows<C, D>(left, piece.count, values, d, [&](int64_t row, vf* tile) {
                    const vf less = splat(delta[piece.first + row]);
                    NIP_UNROLL for (int c = 0; c < C; ++c) {
                        const int64_t place = (at + row) * T + c * W;
                        store(ds + place, load(p + place) * (tile[c] * scale - less));
                    }
                });
                at += piece.count;
            }
            product<T, 1>(p, T, chunk.pieces, chunk.n, grads, g_stride, d, {dv_sum, d, fresh, nullptr, nullptr});
            product<T, 1>(ds, T, chunk.pieces, chunk.n, queries, q_stride, d, {dk_sum, d, fresh, nullptr, nullptr});
            at = 0;
            for (int x = 0; dq && x < chunk.n; ++x) {
                const Piece& piece = chunk.pieces[x];
                float* to = (*dq)(bh, piece.entry, piece.first);
                product<1, T>(ds + at * T, piece.count, &own, 1, natural, k_stride, d, {to, d, false, nullptr, nullptr});
                at += piece.count;
            }
            fresh = false;
            chunk.clear();
        };
        for (int32_t e = part.begin; e < part.end; ++e) {
            if (e + AHEAD < part.end) {
                const int64_t next = call.columns.other[e + AHEAD], first = next * call.block;
                const int64_t tokens = std::min(call.end_of(next) - first, PIECE);
                prefetch(queries + first * q_stride, q_stride, tokens, d);
                prefetch(grads + first * g_stride, g_stride, tokens, d);
                if (dq) prefetch((*dq)(bh, call.entry[e + AHEAD], first), d, tokens, d);
            }
            const int32_t i = call.columns.other[e];
            bool masked;
            if (!call.live[bh * call.n + i] || !call.counts(b, i, part.row, &masked)) continue;
            collect(call, chunk, i, call.entry[e], masked, call.causal && i == part.row, LIMIT, flush);
        }
        if (chunk.n) flush(true);
    }
    if (fresh) {
        std::memset(dk, 0, sizeof(float) * count * d);
        std::memset(dv, 0, sizeof(float) * count * d);
    } else {
        std::memcpy(dk, dk_sum, sizeof(float) * count * d);
        std::memcpy(dv, dv_sum, sizeof(float) * count * d);
    }
}

// dq of `count` queries from token t0 by one part of a row, into (count, d).
template <int C, int D>
void row_tile(const Call& call, const Rows& rows, int64_t bh, const Part& part, int64_t t0, int64_t count, float* scratch,
              float* dq) {
    constexpr int T = C * W;
    constexpr int64_t LIMIT = std::max(SCORES_BACK / T, PIECE);
    const int64_t d = D ? D : call.head_dim, b = bh / call.heads, kv = bh % call.heads / call.group;
    const int64_t k_stride = call.k_stride[2], v_stride = call.v_stride[2];
    const float *keys = call.keys(b, kv), *values = call.values(b, kv);
    float *p = scratch, *ds = p + LIMIT * T, *queries = ds + LIMIT * T, *grads = queries + T * d;
    float *sum = grads + T * d, *copy = sum + T * d;
    alignas(64) float shift[T] = {}, delta[T] = {};
    std::copy_n(rows.shift.at(bh * call.tokens + t0), count, shift);
    std::copy_n(rows.delta.at(bh * call.tokens + t0), count, delta);
    int32_t ids[T] = {};
    const int32_t* key_ids = call.key_ids ? call.key_ids + b * call.tokens : nullptr;
    if (key_ids) lanes_of_ids(call.query_ids + b * call.tokens + t0, count, T, ids);
    transpose(call.queries(bh) + t0 * call.q_stride[2], call.q_stride[2], count, d, T, queries);
    transpose(call.grads(bh) + t0 * call.dout_stride[2], call.dout_stride[2], count, d, T, grads);
    const vf factor = splat(call.factor), scale = splat(call.scale);
    bool fresh = true;
    Chunk chunk;
    const auto flush = [&](bool) {
        int64_t at = 0;
        for (int x = 0; x < chunk.n; ++x) {
            const Piece& piece = chunk.pieces[x];
            const float* left = packed(keys + piece.first * k_stride, k_stride, piece.count, d, copy);
            score_rows<C, D>(left, piece.count, queries, d, [&](int64_t row, vf* tile) {
                const int64_t key = piece.first + row;
                if (piece.masked || piece.triangle)
                    forbid<C, false>(tile, call, piece, ids, key_ids ? key_ids[key] : 0, t0, key);
                NIP_UNROLL for (int c = 0; c < C; ++c)
                    store(p + (at + row) * T + c * W, exp2(tile[c] * factor + load(shift + c * W)));
            });
            left = packed(values + piece.first * v_stride, v_stride, piece.count, d, copy);
            score_rows<C, D>(left, piece.count, grads, d, [&](int64_t row, vf* tile) {
                NIP_UNROLL for (int c = 0; c < C; ++c) {
                    const int64_t place = (at + row) * T + c * W;
                    store(ds + place, load(p + place) * (tile[c] * scale - load(delta + c * W)));
                }
            });
            at += piece.count;
        }
        product<T, 1>(ds, T, chunk.pieces, chunk.n, keys, k_stride, d, {sum, d, fresh, nullptr, nullptr});
        fresh = false;
        chunk.clear();
    };
    for (int32_t e = part.begin; call.live[bh * call.n + part.row] && e < part.end; ++e) {
        const int32_t j = call.rows.other[e];
        bool masked;
        if (call.counts(b, part.row, j, &masked))
            collect(call, chunk, j, e, masked, call.causal && j == part.row, LIMIT, flush);
    }
    if (chunk.n) flush(true);
    if (fresh) std::memset(dq, 0, sizeof(float) * count * d);
    else std::memcpy(dq, sum, sizeof(float) * count * d);
}

// A long row or column of a result is the sum of its parts.
void join(const Call& call, const std::vector<int32_t>& row, const float* slots, int64_t slot_floats, float* out) {
    const int64_t floats = (call.end_of(row[0]) - row[0] * call.block) * call.head_dim;
    float* target = out + row[0] * call.block * call.head_dim;
    std::copy_n(slots + row[1] * slot_floats, floats, target);
    for (size_t s = 2; s < row.size(); ++s)
        for (int64_t x = 0; x < floats; ++x) target[x] += slots[row[s] * slot_floats + x];
}

template <int D>
void backward(Call& call) {
    const int64_t all = call.batch * call.heads, kv_all = call.batch * call.kv_heads, d = call.head_dim;
    const int64_t head = call.tokens * d, slot = call.block * d;
    const int64_t n_rows = call.rows.parts.size(), n_columns = call.columns.parts.size();
    const int64_t long_rows = call.rows.long_rows.size(), long_columns = call.columns.long_rows.size();
    const Rows rows{Buffer(all * call.tokens), Buffer(all * call.tokens)};
    const Buffer scratch(call.threads * call.scratch_floats), dq_slots(all * call.rows.slots * slot),
        dk_slots(kv_all * call.columns.slots * slot), dv_slots(kv_all * call.columns.slots * slot);
    large_pages(call.dq, all * head);
    large_pages(call.dk, kv_all * head);
    large_pages(call.dv, kv_all * head);
    prepare_rows(call, rows);

    const auto dq_slots_of = [&](int64_t bh) { return dq_slots.at(bh * call.rows.slots * slot); };
    const auto add_to_dq = [&](int64_t bh, int32_t entry, int64_t token) {
        const int32_t place = call.rows.slot[entry];
        if (place < 0) return call.dq + bh * head + token * d;
        return dq_slots_of(bh) + place * slot + token % call.block * d;
    };
    const auto column = [&](int64_t kv_head, const Part& part, float* own, bool with_dq) {
        const int64_t b = kv_head / call.kv_heads, kv = kv_head % call.kv_heads;
        tiles(call, part.row, [&](int64_t t, int64_t count, int64_t offset, bool wide) {
            const int64_t place = (kv_head * call.columns.slots + part.slot) * slot + offset * d;
            float* dk = part.slot < 0 ? call.dk + kv_head * head + t * d : dk_slots.at(place);
            float* dv = part.slot < 0 ? call.dv + kv_head * head + t * d : dv_slots.at(place);
            const auto run = wide ? column_tile<2, D, decltype(add_to_dq)> : column_tile<1, D, decltype(add_to_dq)>;
            run(call, rows, b, kv, part, t, count, own, dk, dv, with_dq ? &add_to_dq : nullptr);
        });
    };
    const auto join_columns = [&](int64_t kv_head, const std::vector<int32_t>& x) {
        const int64_t first = kv_head * call.columns.slots * slot;
        join(call, x, dk_slots.at(first), slot, call.dk + kv_head * head);
        join(call, x, dv_slots.at(first), slot, call.dv + kv_head * head);
    };

    if (head_by_head(call)) {
        std::vector<const Part*> ascending;  // the sums of dq want the keys in order
        for (const Part& part : call.columns.parts) ascending.push_back(&part);
        std::stable_sort(ascending.begin(), ascending.end(), [](auto x, auto y) { return x->row < y->row; });
#pragma omp parallel for num_threads(call.threads) schedule(dynamic, 1)
        for (int64_t kv_head = 0; kv_head < kv_all; ++kv_head) {
            float* own = scratch.at(thread_number() * call.scratch_floats);
            const int64_t first = kv_head * call.group;  // batch * heads + head: heads of a group are neighbours
            std::memset(call.dq + first * head, 0, sizeof(float) * call.group * head);
            std::memset(dq_slots_of(first), 0, sizeof(float) * call.group * call.rows.slots * slot);
            for (const Part* part : ascending) column(kv_head, *part, own, true);
            for (const auto& x : call.columns.long_rows) join_columns(kv_head, x);
            for (int64_t bh = first; bh < first + call.group; ++bh)
                for (const auto& x : call.rows.long_rows) join(call, x, dq_slots_of(bh), slot, call.dq + bh * head);
        }
        return;
    }
#pragma omp parallel num_threads(call.threads)
    {
        float* own = scratch.at(thread_number() * call.scratch_floats);
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < kv_all * n_columns; ++task)
            column(task / n_columns, call.columns.parts[task % n_columns], own, false);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < all * n_rows; ++task) {
            const int64_t bh = task / n_rows;
            const Part& part = call.rows.parts[task % n_rows];
            tiles(call, part.row, [&](int64_t t, int64_t count, int64_t offset, bool wide) {
                float* dq = part.slot < 0 ? call.dq + bh * head + t * d : dq_slots_of(bh) + part.slot * slot + offset * d;
                (wide ? row_tile<2, D> : row_tile<1, D>)(call, rows, bh, part, t, count, own, dq);
            });
        }
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < kv_all * long_columns; ++task)
            join_columns(task / long_columns, call.columns.long_rows[task % long_columns]);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < all * long_rows; ++task) {
            const int64_t bh = task / long_rows;
            join(call, call.rows.long_rows[task % long_rows], dq_slots_of(bh), slot, call.dq + bh * head);
        }
    }
}
