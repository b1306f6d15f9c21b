// The pairs strategy on CPU: factors in, no Jacobian formed. See entk/ops/pairs_gram.py.
#pragma once
#include <cstdint>

#include "gram.h"

namespace entk {

// Layer inputs a [N, G, K, T] (or tokens [N, T], int64, -1: none) and output gradients g
// [N, O, G, C, T] of x; b and h of z with M samples and S positions; all dense.
// out[n, o, m, q] += sum_{G,c,k,t,s} g[n,o,G,c,t] a[n,G,k,t] h[m,q,G,c,s] b[m,G,k,s], in an output mode:
// element strides of out are those of n, o, m, q (o, q unused where the mode lacks them; q dense).
// `lower`: z is x, and entries of samples m > n may keep any value.
struct PairsGram {
    const void *a, *g, *b, *h;
    bool tokens;
    int64_t n, m, outputs, groups, channels, patch, t, s;
    void* out;
    int64_t out_n, out_o, out_m;
    Outputs mode;
    bool lower;
};
void pairs_gram(const PairsGram& pairs, bool is_double, int threads);

}  // namespace entk
