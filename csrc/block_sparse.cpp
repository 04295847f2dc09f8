// Block-sparse attention on a CPU: forward and backward, after FlashAttention (arXiv 2205.14135) with blocks skipped. Each
// build of this file for one instruction set is a separate library; nip.attention.native selects one and calls the two
// functions at the end. Design and measurements: docs/performance.md.
//
// Axes as in nip.attention.layout. A tile has `T` lanes, one or two vectors: queries in the passes over rows (forward, and
// dq alone), keys in the pass over columns (dk and dv, and dq if one thread computes the full head). The other side is
// broadcast piece by piece, so sums and maxima of a row never cross lanes.
//
// No result depends on the number of threads: every output is one chain of sums in an order fixed by the layout. Rows and
// columns that are far longer than the others are split into parts, also fixed by the layout, that are summed in order.

#include "backward.h"

namespace {

template <template <class, int> class Pass, class E>
void by_head_dim(Call& call) {
    switch (call.head_dim) {
        case 16: return Pass<E, 16>::run(call);
        case 32: return Pass<E, 32>::run(call);
        case 64: return Pass<E, 64>::run(call);
        case 128: return Pass<E, 128>::run(call);
        default: return Pass<E, 0>::run(call);
    }
}

template <class E, int D>
struct Forward {
    static void run(Call& call) { forward<E, D>(call); }
};
template <class E, int D>
struct Backward {
    static void run(Call& call) {
        call.transpose_rows();
        backward<E, D>(call);
    }
};

template <template <class, int> class Pass>
int run(const NipAttention* problem) try {
    Call call(*problem);
#if defined(__AVX512BF16__)
    if (call.bf16) {
        by_head_dim<Pass, BFloat>(call);
        return 0;
    }
#endif
    if (call.bf16) return 2;
    by_head_dim<Pass, Float>(call);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

}  // namespace

extern "C" {

// Returns 0; 1 if memory is exhausted; 2 if this build has no bfloat16. head_dim must be a multiple of 16; for bfloat16 the
// strides must be even.
__attribute__((visibility("default"))) int nip_attention_forward(const NipAttention* problem) { return run<Forward>(problem); }

__attribute__((visibility("default"))) int nip_attention_backward(const NipAttention* problem) {
    return run<Backward>(problem);
}
}
