// Random cases for the compiled kernel under sanitizers: every buffer is on the heap and exactly as long as the kernel may
// use it, gaps between strided rows and unwritten results contain NaN, and results are compared with the formula of
// attention in double, including dropout. If the build supports bfloat16, every other case uses it. Built and run by
// test_sanitizers.py:
//
//     check_kernel FIRST COUNT [BUFFER]     the cases FIRST ... FIRST + COUNT - 1
//
// With BUFFER (q, indices, dk, ...) that buffer is one element too short, or, if it is `leak`, memory is not freed: the
// sanitizer must detect either, else it does not check the kernel.

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

// bfloat16 is the upper half of a float.
float widen(uint16_t x) {
    const uint32_t bits = uint32_t(x) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}
template <class T> T widen(T x) { return x; }
template <class T, class Wide>
T narrow(Wide x) {
    if constexpr (sizeof(T) == sizeof(Wide)) return x;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits >> 16;
}

// The kernel's copy of an array: a heap buffer of exactly its length. In `source` bfloat16 is float.
template <class T>
struct Exact {
    typedef decltype(widen(T())) Wide;
    std::vector<Wide> source;
    std::unique_ptr<T[]> buffer;
    size_t length = 0, lead = 0;  // elements before the first one

    void expose(const std::string& name) {
        length = source.size() - (planted == name);
        buffer.reset(new T[lead + length]);
        std::fill_n(buffer.get(), lead, narrow<T>(Wide(NAN)));
        std::transform(source.begin(), source.begin() + length, data(), narrow<T, Wide>);
    }
    T* data() const { return buffer.get() + lead; }
    bool untouched() const {
        return std::equal(data(), data() + length, source.begin(), [](T x, Wide y) {
            const T before = narrow<T>(y);
            return std::memcmp(&x, &before, sizeof(T)) == 0;
        });
    }
    void read_back() { std::transform(data(), data() + length, source.begin(), [](T x) { return widen(x); }); }
};

// A tensor (batch, heads, tokens, head_dim) with any strides, even ones for bfloat16.
template <class T>
struct Strided : Exact<T> {
    using Exact<T>::source;
    int64_t stride[3];

    void make(int64_t batch, int64_t heads, int64_t tokens, int64_t d, float size) {
        int64_t *b = &stride[0], *h = &stride[1], *t = &stride[2];
        const int64_t gap = 4 / sizeof(T);
        this->lead = chance(0.2);  // any alignment
        switch (integer(0, 5)) {
            case 0: *t = heads * d, *h = d, *b = tokens * *t; break;                                   // tokens before heads
            case 1: *t = 3 * heads * d, *h = d, *b = tokens * *t; break;                               // one of q, k, v packed
            case 2: *t = d + gap * integer(1, 9), *h = tokens * *t + gap * integer(0, 3), *b = heads * *h; break;  // gaps
            case 3: *t = d, *h = tokens * d, *b = 0; break;                                            // expanded
            default: *t = d, *h = tokens * d, *b = heads * *h;
        }
        if (chance(0.05)) *t = 0;
        source.assign((batch - 1) * *b + (heads - 1) * *h + (tokens - 1) * *t + d, NAN);
        for (int64_t x = 0; x < batch; ++x)
            for (int64_t y = 0; y < heads; ++y)
                for (int64_t z = 0; z < tokens; ++z) {
                    float* row = &source[x * *b + y * *h + z * *t];
                    for (int64_t i = 0; i < d; ++i) row[i] = widen(narrow<T>(size * normal()));
                }
    }
    const float* row(int64_t b, int64_t h, int64_t t) const {
        return &source[b * stride[0] + h * stride[1] + t * stride[2]];
    }
};

// Element T: float, or uint16_t for bfloat16.
template <class T>
struct Case {
    int64_t batch, heads, kv_heads, tokens, head_dim, block, n;
    bool causal, with_ids, with_dlse;
    float scale;
    uint64_t seed;
    double dropout;
    Strided<T> q, k, v, dout;
    Exact<T> out, dq, dk, dv;
    Exact<float> dlse, lse;
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
        const bool large = number % 16 == 15;  // rows and columns that are split into parts
        block = large ? one_of<int64_t>({1, 2, 8, 16, 31}) : one_of<int64_t>({1, 3, 7, 8, 15, 16, 17, 32, 33, 64, 65, 100, 128});
        if (!large && chance(0.3)) block = integer(1, 128);
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
        dropout = one_of({0.0, 0.0, 0.1, 0.5, 0.9});
        seed = generator();
        q.make(batch, heads, tokens, head_dim, chance(0.1) ? 30 : 1);
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

    // Both passes with this number of threads; the results concatenated, for a bitwise comparison.
    std::vector<float> run(int64_t threads) {
        each([](const char* name, auto& x) { x.expose(name); });
        NipAttention problem{};  // fields that a case does not name stay zero
        problem.batch = batch, problem.heads = heads, problem.kv_heads = kv_heads, problem.tokens = tokens;
        problem.head_dim = head_dim, problem.block = block, problem.n = n, problem.threads = threads;
        std::copy_n(q.stride, 3, problem.q_stride), std::copy_n(k.stride, 3, problem.k_stride);
        std::copy_n(v.stride, 3, problem.v_stride), std::copy_n(dout.stride, 3, problem.dout_stride);
        problem.q = q.data(), problem.k = k.data(), problem.v = v.data(), problem.out = out.data(), problem.lse = lse.data();
        problem.indptr = indptr.data(), problem.indices = indices.data();
        if (with_ids) problem.query_ids = query_ids.data(), problem.key_ids = key_ids.data();
        problem.scale = scale, problem.causal = causal, problem.bf16 = sizeof(T) == 2;
        problem.seed = seed, problem.growth = growth(), problem.dropped = dropped();
        if (int code = nip_attention_forward(&problem)) fail("forward: code", code);
        problem.dout = dout.data(), problem.dlse = with_dlse ? dlse.data() : nullptr;
        problem.dq = dq.data(), problem.dk = dk.data(), problem.dv = dv.data();
        if (int code = nip_attention_backward(&problem)) fail("backward: code", code);
        for (const Strided<T>* x : {&q, &k, &v, &dout})
            if (!x->untouched()) fail("an input was written to", 0);
        std::vector<float> all;
        const auto add = [&](auto& x) {
            x.read_back();
            all.insert(all.end(), x.source.begin(), x.source.end());
        };
        add(out), add(lse), add(dq), add(dk), add(dv);
        return all;
    }

    [[noreturn]] void fail(const char* what, double by) const {
        std::fprintf(stderr,
                     "%s (%g): %zu bytes, batch %ld heads %ld/%ld tokens %ld head_dim %ld block %ld entries %zu causal %d "
                     "ids %d dlse %d scale %g dropout %g\n",
                     what, by, sizeof(T), long(batch), long(heads), long(kv_heads), long(tokens), long(head_dim),
                     long(block), indices.source.size(), causal, with_ids, with_dlse, scale, dropout);
        std::exit(1);
    }

    // `sizes`: the sum of the absolute terms of each result.
    void agree(const char* what, const std::vector<float>& found, const std::vector<double>& right,
               const std::vector<double>& sizes, double tolerance) const {
        for (size_t x = 0; x < right.size(); ++x) {
            const double error = found[x] == right[x] ? 0 : std::abs(found[x] - right[x]);  // of infinities, too
            const double allowed = tolerance * sizes[x] + 1e-25;  // less than 2^-126 is zero in the kernel
            if (!(error <= allowed)) fail(what, error / allowed);
        }
    }

    bool allowed(int64_t b, int64_t i, int64_t j) const {
        if (causal && j > i) return false;
        return !with_ids || query_ids.source[b * tokens + i] == key_ids.source[b * tokens + j];
    }

    float growth() const { return 1 / (1 - dropout); }
    uint32_t dropped() const { return dropout * 4294967296.0; }

    // The dropout factor of a probability: the kernel's counter-based dropout, reimplemented from its description. The key
    // of a row is a number of the SplitMix64 series, and two rounds of multiply and shift mix it with the column.
    double kept(int64_t row, int64_t column) const {
        uint64_t z = seed;
        z += uint64_t(row) * 0x9e3779b97f4a7c15;
        z += 0x9e3779b97f4a7c15;
        for (const auto& [shift, factor] : {std::pair<int, uint64_t>{30, 0xbf58476d1ce4e5b9}, {27, 0x94d049bb133111eb}})
            z = (z ^ z >> shift) * factor;
        z ^= z >> 31;
        const uint64_t word = 1ull << 32, low = z % word, high = z / word;
        uint64_t x = (uint64_t(column) * 0x9e3779b1 + low) % word;
        x = ((x ^ x / (1 << 16)) * 0x21f0aaad + high) % word;
        x = (x ^ x / (1 << 15)) * 0x735a2d97 % word;
        return (x ^ x / (1 << 15)) < dropped() ? 0.0 : growth();
    }

    // The formulas of attention and its gradients, pair by pair in double, each with the sizes of its terms.
    void compare() const {
        const int64_t d = head_dim;
        std::vector<double> o(out.source.size()), l(lse.source.size()), gq(dq.source.size()), gk(dk.source.size()), gv(gk);
        std::vector<double> o_size(o), gq_size(gq), gk_size(gk), gv_size(gv), p, keep;
        std::vector<int64_t> attended;
        double greatest = 0;
        for (int64_t bh = 0; bh < batch * heads; ++bh)
            for (int64_t i = 0; i < tokens; ++i) {
                const int64_t b = bh / heads, h = bh % heads, kv = h / (heads / kv_heads), row = bh * tokens + i;
                const float *query = q.row(b, h, i), *grad = dout.row(b, h, i);
                double *result = &o[row * d], *result_size = &o_size[row * d], top = -INFINITY, total = 0;
                double delta = with_dlse ? -dlse.source[row] : 0, delta_size = std::abs(delta);
                p.clear(), keep.clear(), attended.clear();
                for (int32_t e = indptr.source[i / block]; e < indptr.source[i / block + 1]; ++e) {
                    const int64_t first = indices.source[e] * block, last = std::min(tokens, first + block);
                    for (int64_t j = first; j < last; ++j) {
                        if (!allowed(b, i, j)) continue;
                        const float* key = k.row(b, kv, j);
                        double score = 0;
                        for (int64_t x = 0; x < d; ++x) score += double(query[x]) * key[x];
                        attended.push_back(j), p.push_back(score * scale), keep.push_back(dropout > 0 ? kept(row, j) : 1);
                        top = std::max(top, p.back()), greatest = std::max(greatest, std::abs(p.back()));
                    }
                }
                for (double& x : p) total += x = std::exp(x - top);
                l[row] = p.empty() ? -INFINITY : top + std::log(total);
                for (size_t y = 0; y < p.size(); ++y) {
                    const float* value = v.row(b, kv, attended[y]);
                    p[y] /= total;
                    for (int64_t x = 0; x < d; ++x) {
                        result[x] += p[y] * keep[y] * value[x];
                        result_size[x] += p[y] * keep[y] * std::abs(value[x]);
                    }
                }
                for (int64_t x = 0; x < d; ++x) {
                    delta += grad[x] * result[x];
                    delta_size += std::abs(grad[x]) * result_size[x];
                }
                for (size_t y = 0; y < p.size(); ++y) {
                    const int64_t j = attended[y], at = ((b * kv_heads + kv) * tokens + j) * d;
                    const float *key = k.row(b, kv, j), *value = v.row(b, kv, j);
                    double slope = 0, slope_size = 0;
                    for (int64_t x = 0; x < d; ++x) {
                        slope += double(grad[x]) * value[x];
                        slope_size += std::abs(double(grad[x]) * value[x]);
                    }
                    slope = p[y] * (slope * keep[y] - delta) * scale;
                    slope_size = p[y] * (slope_size * keep[y] + delta_size) * std::abs(scale);
                    for (int64_t x = 0; x < d; ++x) {
                        gv[at + x] += p[y] * keep[y] * grad[x], gv_size[at + x] += p[y] * keep[y] * std::abs(grad[x]);
                        gk[at + x] += slope * query[x], gk_size[at + x] += slope_size * std::abs(query[x]);
                        gq[row * d + x] += slope * key[x], gq_size[row * d + x] += slope_size * std::abs(key[x]);
                    }
                }
            }
        // Sums of equal terms (all tokens may be equal) round in one direction.
        const double exact = (32 + 0.5 * tokens * heads / kv_heads) * 6e-8 * (1 + greatest);
        // bfloat16 rounds by 1/512: probabilities and the result; for a gradient the result twice (in delta), dS and itself.
        const double tolerance = exact + (sizeof(T) == 2 ? 5.0 / 512 : 0);
        agree("lse", lse.source, l, std::vector<double>(l.size(), 1), exact + (sizeof(T) == 2 ? 1e-4 : 0));
        agree("out", out.source, o, o_size, tolerance), agree("dv", dv.source, gv, gv_size, tolerance);
        agree("dq", dq.source, gq, gq_size, tolerance), agree("dk", dk.source, gk, gk_size, tolerance);
    }
};

template <class T>
void one_case(uint64_t number) {
    Case<T> one(number);
    const std::vector<float> bits = one.run(1);
    one.compare();
    for (int64_t threads : {2, 3}) {
        const std::vector<float> others = one.run(threads);
        if (std::memcmp(bits.data(), others.data(), sizeof(float) * bits.size())) one.fail("threads change the bits", threads);
    }
}

}  // namespace check

int main(int arguments, char** given) {
    const uint64_t first = std::strtoull(given[1], nullptr, 10), count = std::strtoull(given[2], nullptr, 10);
    if (arguments > 3) check::planted = given[3];
    for (uint64_t number = first; number < first + count; ++number) {
        check::generator.seed(number);
        const bool half = check::chance(0.5);
#ifdef __AVX512BF16__
        half ? check::one_case<uint16_t>(number) : check::one_case<float>(number);
#else
        (void)half;
        check::one_case<float>(number);
#endif
        if (check::planted == "leak" && !new int[number + 1]) return 1;
    }
    std::printf("%llu cases\n", static_cast<unsigned long long>(count));
}
