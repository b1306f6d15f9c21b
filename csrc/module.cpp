// The pybind11 face of the extension: pointers, shapes and strides in, numbers out; no torch.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "gram_dot.h"

namespace py = pybind11;

namespace {

entk::Pair pair(uintptr_t a, int64_t a_row, int64_t a_column, uintptr_t b, int64_t b_row,
                int64_t b_column, int64_t rows, int64_t columns) {
    const bool empty = rows == 0 || columns == 0;
    if (rows < 0 || columns < 0 || (!empty && (a == 0 || b == 0))) {
        throw std::invalid_argument("gram_dot got " + std::to_string(rows) + " rows and " +
                                    std::to_string(columns) +
                                    " columns, expected sizes >= 0 and data unless one is 0");
    }
    return {{reinterpret_cast<const void*>(a), a_row, a_column},
            {reinterpret_cast<const void*>(b), b_row, b_column},
            rows,
            columns};
}

py::tuple gram_dot(uintptr_t a, int64_t a_row, int64_t a_column, uintptr_t b, int64_t b_row,
                   int64_t b_column, int64_t rows, int64_t columns, bool is_double, int threads) {
    const auto matrices = pair(a, a_row, a_column, b, b_row, b_column, rows, columns);
    double out[3];
    {
        py::gil_scoped_release release;
        entk::gram_dot(matrices, is_double, threads, out);
    }
    return py::make_tuple(out[0], out[1], out[2]);
}

#ifdef ENTK_WITH_CUDA
void gram_dot_cuda(uintptr_t a, int64_t a_row, int64_t a_column, uintptr_t b, int64_t b_row,
                   int64_t b_column, int64_t rows, int64_t columns, bool is_double,
                   uintptr_t scratch, uintptr_t out, uintptr_t stream) {
    const auto matrices = pair(a, a_row, a_column, b, b_row, b_column, rows, columns);
    const char* error;
    {
        py::gil_scoped_release release;
        error = entk::gram_dot_cuda(matrices, is_double, reinterpret_cast<double*>(scratch),
                                    reinterpret_cast<double*>(out),
                                    reinterpret_cast<void*>(stream));
    }
    if (error != nullptr) {
        throw std::runtime_error(std::string("gram_dot on CUDA: ") + error);
    }
}
#endif

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "Native kernels of entk; see entk/ops/native.py.";
    module.def("gram_dot", &gram_dot);
#ifdef ENTK_WITH_CUDA
    module.attr("cuda") = true;
    module.def("gram_dot_cuda", &gram_dot_cuda);
    module.def("gram_dot_cuda_scratch", &entk::gram_dot_cuda_scratch);
#else
    module.attr("cuda") = false;
#endif
}
