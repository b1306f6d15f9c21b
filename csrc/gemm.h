// The matrix product under `gram`, `rows` and `pairs_gram` on CPU.
//
//     c[r, q] (+)= sum_p a[r, p] b[q, p]
//
// one thread; the sum over p runs in fixed order, so an entry's bits depend on nothing but its operands.
#pragma once
#include <cstdint>

namespace entk {

// Entry (r, p) lies at data + r / inner * outer + r % inner * row + p * depth.
template <typename T>
struct Operand {
    const T* data;
    int64_t row, depth;  // strides in elements; one of them has to be 1
    int64_t inner = INT64_MAX, outer = 0;

    const T* at(int64_t r) const { return data + r / inner * outer + r % inner * row; }
};

template <typename T>
struct Product {
    int64_t rows, columns, depth;
    Operand<T> a, b;
    T* c;
    int64_t stride;           // of the rows of c; its columns are dense
    bool fresh = false;       // c is overwritten, not added to
    bool lower = false;       // only entries with q <= r + diagonal are needed
    int64_t diagonal = 0;
};

// Whether this processor has the instructions (AVX2 with FMA, or AVX-512); if not, do not call gemm.
const char* gemm_instructions();  // "avx512", "avx2" or nullptr

void gemm(const Product<float>& product);
void gemm(const Product<double>& product);

// The same, always added to c, for few rows and columns of great depth, dense along it: nothing is
// packed.
void dots(const Product<float>& product);
void dots(const Product<double>& product);

}  // namespace entk
