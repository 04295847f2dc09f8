// Random cases through the compiled kernel, for the sanitizers: every buffer is on the heap and exactly as long as the
// kernel may use it, gaps between strided rows and unwritten results hold NaN, and results are compared with the formula
// of attention in double. Built and run by test_sanitizers.py:
//
//     check_kernel FIRST COUNT [BUFFER]     the cases FIRST ... FIRST + COUNT - 1
//
// With BUFFER (q, indices, dk, ...) that buffer is one element too short, or, if it is `leak`, memory is not given back:
// the sanitizer must see either, else it would see nothing in the kernel.

#include "block_sparse.cpp"

#include <cstdio>
#include <map>
#include <random>
#include <string>

namespace check {

std::mt19937_64 generator;
std::string planted;

int64_t integer(int64_t low, int64_t high) { return low + int64_t(generator() % uint64_t(high - low + 1)); }
bool chance(double p) { return generator() % 1000000 < uint64_t(p * 1000000); }
float normal() { return std::normal_distribution<float>()(generator); }
template <class T>
T one_of(std::initializer_list<T> choices) { return choices.begin()[integer(0, choices.size() - 1)]; }

// What the kernel gets of an array: a heap buffer of exactly its length.
template <class T>
struct Exact {
    std::vector<T> source;
    std::unique_ptr<T[]> buffer;
    size_t length = 0;

    void expose(const std::string& name) {
        length = source.size() - (planted == name);
        buffer.reset(new T[length]);
        std::copy_n(source.begin(), length, buffer.get());
    }
    bool untouched() const { return std::memcmp(buffer.get(), source.data(), sizeof(T) * length) == 0; }
    void read_back() { std::copy_n(buffer.get(), length, source.begin()); }
};

// A tensor (batch, heads, tokens, head_dim) with any strides.
struct Strided : Exact<float> {
    int64_t stride[3];

    void make(int64_t batch, int64_t heads, int64_t tokens, int64_t d, float size) {
        int64_t *b = &stride[0], *h = &stride[1], *t = &stride[2];
        switch (integer(0, 5)) {
            case 0: *t = heads * d, *h = d, *b = tokens * *t; break;                                   // tokens before heads
            case 1: *t = 3 * heads * d, *h = d, *b = tokens * *t; break;                               // one of q, k, v packed
            case 2: *t = d + integer(1, 9), *h = tokens * *t + integer(0, 3), *b = heads * *h; break;  // odd gaps
            case 3: *t = d, *h = tokens * d, *b = 0; break;                                            // expanded
            default: *t = d, *h = tokens * d, *b = heads * *h;
        }
        if (chance(0.05)) *t = 0;
        source.assign((batch - 1) * *b + (heads - 1) * *h + (tokens - 1) * *t + d, NAN);
        for (int64_t x = 0; x < batch; ++x)
            for (int64_t y = 0; y < heads; ++y)
                for (int64_t z = 0; z < tokens; ++z) {
                    float* row = &source[x * *b + y * *h + z * *t];
                    for (int64_t i = 0; i < d; ++i) row[i] = size * normal();
                }
    }
    const float* row(int64_t b, int64_t h, int64_t t) const {
        return &source[b * stride[0] + h * stride[1] + t * stride[2]];
    }
};

struct Case {
    int64_t batch, heads, kv_heads, tokens, head_dim, block, n;
    bool causal, with_ids, with_dlse;
    float scale, size;  // `size` of the queries
    Strided q, k, v, dout;
    Exact<float> dlse, out, lse, dq, dk, dv;
    Exact<int32_t> indptr, indices, query_ids, key_ids;

    void rows(int kind) {
        const double density = one_of({0.02, 0.1, 0.3, 0.8});
        indptr.source = {0};
        for (int32_t i = 0; i < n; ++i) {
            for (int32_t j = 0; j < n; ++j) {
                if (causal && j > i) continue;
                const bool global = i == 0 || j == 0, near = std::abs(i - j) <= 1;
                const bool attended = kind == 0 ? chance(density) : kind == 1 ? true : kind == 2 ? global : global || near;
                if (i == j || (kind < 4 && attended)) indices.source.push_back(j);
            }
            indptr.source.push_back(indices.source.size());
        }
    }

    explicit Case(uint64_t number) {
        generator.seed(number);
        const bool large = number % 16 == 15;  // rows and columns that are cut in parts
        block = large ? one_of<int64_t>({1, 2, 8, 16, 31}) : one_of<int64_t>({1, 3, 7, 8, 15, 16, 17, 32, 33, 64, 65, 100, 128});
        const int64_t whole = large ? integer(2050, 2400) : one_of<int64_t>({1, 8, 40, 130, 300});
        tokens = large ? whole : std::max<int64_t>(1, whole / block * block + integer(-1, 1));
        n = (tokens + block - 1) / block;
        batch = integer(1, large ? 1 : 3);
        kv_heads = integer(1, large ? 1 : 2);
        heads = kv_heads * integer(1, large ? 2 : 3);
        head_dim = 16 * (large ? integer(1, 2) : one_of<int64_t>({1, 1, 2, 2, 3, 4, 5, 8, 16}));
        causal = chance(0.3);
        with_ids = chance(0.5);
        with_dlse = chance(0.5);
        scale = one_of({0.0f, -0.3f, 0.2f, 1.0f / std::sqrt(float(head_dim))});
        rows(large ? integer(2, 3) : integer(0, 4));
        size = chance(0.1) ? 30.0f : 1.0f;
        q.make(batch, heads, tokens, head_dim, size);
        k.make(batch, kv_heads, tokens, head_dim, 1);
        v.make(batch, kv_heads, tokens, head_dim, 1);
        dout.make(batch, heads, tokens, head_dim, chance(0.1) ? 0.0f : 1.0f / std::sqrt(float(head_dim)));  // dout v: 1
        for (int64_t x = 0; x < batch * heads * tokens; ++x) dlse.source.push_back(normal());
        const int64_t documents = integer(1, 4), padding = integer(0, 3);
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t real = integer(0, tokens);
            for (int64_t t = 0; t < tokens; ++t) {
                const int32_t id = padding == 3 ? integer(0, documents - 1) : t * documents / tokens;
                query_ids.source.push_back(id);
                key_ids.source.push_back((padding == 1 && t >= real) || (padding == 2 && chance(0.5)) ? -1 : id);
            }
        }
        out.source.assign(batch * heads * tokens * head_dim, NAN);
        dq.source = out.source;
        lse.source.assign(batch * heads * tokens, NAN);
        dk.source.assign(batch * kv_heads * tokens * head_dim, NAN);
        dv.source = dk.source;
    }

    template <class Visit>
    void each(const Visit& visit) {
        visit("q", q), visit("k", k), visit("v", v), visit("dout", dout), visit("dlse", dlse);
        visit("indptr", indptr), visit("indices", indices), visit("query_ids", query_ids), visit("key_ids", key_ids);
        visit("out", out), visit("lse", lse), visit("dq", dq), visit("dk", dk), visit("dv", dv);
    }

    // Both passes with so many threads; the results in a row, for a comparison of bits.
    std::vector<float> run(int64_t threads) {
        each([](const char* name, auto& x) { x.expose(name); });
        NipAttention problem{};  // fields that a case does not name stay zero
        problem.batch = batch, problem.heads = heads, problem.kv_heads = kv_heads, problem.tokens = tokens;
        problem.head_dim = head_dim, problem.block = block, problem.n = n, problem.threads = threads;
        std::copy_n(q.stride, 3, problem.q_stride), std::copy_n(k.stride, 3, problem.k_stride);
        std::copy_n(v.stride, 3, problem.v_stride), std::copy_n(dout.stride, 3, problem.dout_stride);
        problem.q = q.buffer.get(), problem.k = k.buffer.get(), problem.v = v.buffer.get();
        problem.out = out.buffer.get(), problem.lse = lse.buffer.get();
        problem.indptr = indptr.buffer.get(), problem.indices = indices.buffer.get();
        if (with_ids) problem.query_ids = query_ids.buffer.get(), problem.key_ids = key_ids.buffer.get();
        problem.scale = scale, problem.growth = 1, problem.causal = causal;
        if (nip_attention_forward(&problem)) fail("forward: no memory", 0);
        problem.dout = dout.buffer.get(), problem.dlse = with_dlse ? dlse.buffer.get() : nullptr;
        problem.dq = dq.buffer.get(), problem.dk = dk.buffer.get(), problem.dv = dv.buffer.get();
        if (nip_attention_backward(&problem)) fail("backward: no memory", 0);
        for (const Strided* x : {&q, &k, &v, &dout})
            if (!x->untouched()) fail("an input was written to", 0);
        std::vector<float> all;
        for (Exact<float>* x : {&out, &lse, &dq, &dk, &dv}) {
            x->read_back();
            all.insert(all.end(), x->source.begin(), x->source.end());
        }
        return all;
    }

    [[noreturn]] void fail(const char* what, double by) const {
        std::fprintf(stderr,
                     "%s (by %g): batch %ld heads %ld/%ld tokens %ld head_dim %ld block %ld entries %zu causal %d ids %d "
                     "dlse %d scale %g\n",
                     what, by, long(batch), long(heads), long(kv_heads), long(tokens), long(head_dim), long(block),
                     indices.source.size(), causal, with_ids, with_dlse, scale);
        std::exit(1);
    }

    void agree(const char* what, const std::vector<float>& found, const std::vector<double>& right, double tolerance) const {
        double largest = 1;
        for (double x : right) largest = std::isfinite(x) ? std::max(largest, std::abs(x)) : largest;
        for (size_t x = 0; x < right.size(); ++x) {
            const double error = found[x] == right[x] ? 0 : std::abs(found[x] - right[x]);  // of infinities, too
            if (!(error <= tolerance * largest)) fail(what, error);
        }
    }

    bool allowed(int64_t b, int64_t i, int64_t j) const {
        if (causal && j > i) return false;
        return !with_ids || query_ids.source[b * tokens + i] == key_ids.source[b * tokens + j];
    }

    // The formula of attention and of its gradients, pair by pair in double.
    void compare() const {
        const int64_t d = head_dim;
        std::vector<double> o(out.source.size()), l(lse.source.size()), gq(dq.source.size()), gk(dk.source.size()), gv(gk);
        std::vector<double> p;
        std::vector<int64_t> attended;
        double greatest = 0;
        for (int64_t bh = 0; bh < batch * heads; ++bh)
            for (int64_t i = 0; i < tokens; ++i) {
                const int64_t b = bh / heads, h = bh % heads, kv = h / (heads / kv_heads), row = bh * tokens + i;
                const float *query = q.row(b, h, i), *grad = dout.row(b, h, i);
                double *result = &o[row * d], top = -INFINITY, total = 0, delta = with_dlse ? -dlse.source[row] : 0;
                p.clear(), attended.clear();
                for (int32_t e = indptr.source[i / block]; e < indptr.source[i / block + 1]; ++e) {
                    const int64_t first = indices.source[e] * block, last = std::min(tokens, first + block);
                    for (int64_t j = first; j < last; ++j) {
                        if (!allowed(b, i, j)) continue;
                        const float* key = k.row(b, kv, j);
                        double score = 0;
                        for (int64_t x = 0; x < d; ++x) score += double(query[x]) * key[x];
                        attended.push_back(j), p.push_back(score * scale);
                        top = std::max(top, p.back()), greatest = std::max(greatest, std::abs(p.back()));
                    }
                }
                for (double& x : p) total += x = std::exp(x - top);
                l[row] = p.empty() ? -INFINITY : top + std::log(total);
                for (size_t y = 0; y < p.size(); ++y) {
                    const float* value = v.row(b, kv, attended[y]);
                    p[y] /= total;
                    for (int64_t x = 0; x < d; ++x) result[x] += p[y] * value[x];
                }
                for (int64_t x = 0; x < d; ++x) delta += grad[x] * result[x];
                for (size_t y = 0; y < p.size(); ++y) {
                    const int64_t j = attended[y], at = ((b * kv_heads + kv) * tokens + j) * d;
                    const float *key = k.row(b, kv, j), *value = v.row(b, kv, j);
                    double slope = 0;
                    for (int64_t x = 0; x < d; ++x) slope += double(grad[x]) * value[x];
                    slope = p[y] * (slope - delta) * scale;
                    for (int64_t x = 0; x < d; ++x) {
                        gv[at + x] += p[y] * grad[x];
                        gk[at + x] += slope * query[x];
                        gq[row * d + x] += slope * key[x];
                    }
                }
            }
        // Sums of equal terms (all tokens may be one) round in one direction.
        const double tolerance = (32 + 0.5 * tokens) * 6e-8 * (1 + greatest);
        agree("out", out.source, o, tolerance), agree("lse", lse.source, l, tolerance);
        agree("dq", dq.source, gq, tolerance), agree("dk", dk.source, gk, tolerance * size), agree("dv", dv.source, gv, tolerance);
    }
};

}  // namespace check

int main(int arguments, char** given) {
    const uint64_t first = std::strtoull(given[1], nullptr, 10), count = std::strtoull(given[2], nullptr, 10);
    if (arguments > 3) check::planted = given[3];
    for (uint64_t number = first; number < first + count; ++number) {
        check::Case one(number);
        const std::vector<float> bits = one.run(1);
        one.compare();
        const std::vector<float> others = one.run(2 + number % 3);
        if (std::memcmp(bits.data(), others.data(), sizeof(float) * bits.size())) one.fail("threads change the bits", 0);
        if (check::planted == "leak" && !new int[number + 1]) return 1;
    }
    std::printf("%llu cases\n", static_cast<unsigned long long>(count));
}
