// <a,b>, <a,a>, <b,b> of two matrices in one pass, summed in float64.
//
// Matrices are [rows, columns] with strides in elements; `is_double` chooses float64 over float32.
#pragma once
#include <cstdint>

namespace entk {

struct Matrix {
    const void* data;
    int64_t row_stride, column_stride;
};

struct Pair {
    Matrix a, b;
    int64_t rows, columns;
};

// The same pair with its axes swapped where that walks along memory, and as one long row where
// both matrices are dense: the sums are over all entries, so either changes only their order.
inline Pair along_memory(Pair p) {
    if (p.a.row_stride == 1 && p.b.row_stride == 1 && p.columns > 1) {
        p = {{p.a.data, p.a.column_stride, 1}, {p.b.data, p.b.column_stride, 1}, p.columns, p.rows};
    }
    const bool unit = p.a.column_stride == 1 && p.b.column_stride == 1;
    if (unit && p.a.row_stride == p.columns && p.b.row_stride == p.columns) {
        p.columns *= p.rows;
        p.rows = 1;
    }
    return p;
}

void gram_dot(Pair pair, bool is_double, int threads, double out[3]);

// On the GPU: queues the work on `stream` and returns nullptr, or says what went wrong.
// `scratch` holds gram_dot_cuda_scratch() doubles, `out` three, both on the device.
int64_t gram_dot_cuda_scratch();
const char* gram_dot_cuda(Pair pair, bool is_double, double* scratch, double* out, void* stream);

}  // namespace entk
