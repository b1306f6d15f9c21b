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

// One side's factors: g [N, O, G, C, T] and a [N, G, K, T], each in its own strides in elements; of those
// along c and t, and of those along k and t, one is 1.
struct Side {
    const void *g, *a;
    int64_t samples, positions;
    int64_t g_strides[5], a_strides[4];
};
struct Layer {
    int64_t outputs, groups, channels, patch;
};

// j[n, o, G, c, k] = sum_t g[n, o, G, c, t] a[n, G, k, t], dense.
void rows(const Side& x, const Layer& layer, void* j, bool is_double, int threads);

// `rows` of both sides and `gram` of those in turn, a part of the parameters at a time, so that no
// Jacobian is ever in memory. out[(n, o), (m, q)] with the row stride out_row; `lower`: z is x.
// diagonal: out of output o begins at out + o * out_output.
enum class Outputs : int { all, diagonal, trace };
struct FusedGram {
    Side x, z;
    Layer layer;
    void* out;
    int64_t out_row, out_output;
    Outputs mode;
    bool lower;
};
void fused_gram(const FusedGram& fused, bool is_double, int threads);

}  // namespace entk
