// The rows strategy on CPU: forming Jacobians, and their products. See entk/ops/gram.py.
#pragma once
#include <cstdint>

namespace entk {

// out[r, q] += sum_p j[r, p] k[q, p]; row strides in elements, all dense along the last axis.
// `lower`: j is k and entries with q > r may keep any value.
struct Gram {
    const void *j, *k;
    int64_t j_row, k_row;
    void* out;
    int64_t out_row;
    int64_t rows, columns, depth;
    bool lower;
};
void gram(const Gram& gram, bool is_double, int threads);

// c[r, q] = sum_p a[r, p] b[q, p] (+ bias[q], unless it is null); c dense, strides in elements, one of
// each operand's being 1.
struct Multiply {
    const void *a, *b, *bias;
    int64_t a_row, a_depth, b_row, b_depth;
    void* c;
    int64_t rows, columns, depth;
};
void multiply(const Multiply& multiply, bool is_double, int threads);

// j[n, o, G, c, k] = sum_t g[n, o, G, c, t] a[n, G, k, t]; j dense, and each operand in its own strides.
struct Rows {
    const void *g, *a;
    void* j;
    int64_t samples, outputs, groups, channels, patch, positions;
    int64_t g_strides[5], a_strides[4];  // in elements; along c or t, and along k or t, one is 1
};
void rows(const Rows& rows, bool is_double, int threads);

}  // namespace entk
