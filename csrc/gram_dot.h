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

void gram_dot(Matrix a, Matrix b, int64_t rows, int64_t columns, bool is_double, int threads,
              double out[3]);

// On the GPU: queues the work on `stream` and returns nullptr, or says what went wrong.
// `scratch` holds gram_dot_cuda_scratch() doubles, `out` three, both on the device.
int64_t gram_dot_cuda_scratch();
const char* gram_dot_cuda(Matrix a, Matrix b, int64_t rows, int64_t columns, bool is_double,
                          double* scratch, double* out, void* stream);

}  // namespace entk
