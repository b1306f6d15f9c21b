// The pybind11 face of the extension: pointers, shapes and strides in, numbers out; no torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __linux__
#include <dlfcn.h>
#endif

#include "gemm.h"
#include "gram.h"
#include "gram_dot.h"
#include "pairs_gram.h"
#include "parallel.h"

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

// Pointers and sizes are checked where they are taken from tensors, in entk/ops/native.py.
void gram(uintptr_t j, int64_t j_row, uintptr_t k, int64_t k_row, uintptr_t out, int64_t out_row,
          int64_t rows, int64_t columns, int64_t depth, bool lower, bool is_double, int threads) {
    const entk::Gram x{reinterpret_cast<const void*>(j), reinterpret_cast<const void*>(k), j_row,
                       k_row, reinterpret_cast<void*>(out), out_row, rows, columns, depth, lower};
    py::gil_scoped_release release;
    entk::gram(x, is_double, threads);
}

void multiply(uintptr_t a, int64_t a_row, int64_t a_depth, uintptr_t b, int64_t b_row,
              int64_t b_depth, uintptr_t bias, uintptr_t c, int64_t rows, int64_t columns,
              int64_t depth, bool is_double, int threads) {
    const entk::Multiply x{reinterpret_cast<const void*>(a), reinterpret_cast<const void*>(b),
                           reinterpret_cast<const void*>(bias), a_row, a_depth, b_row, b_depth,
                           reinterpret_cast<void*>(c), rows, columns, depth};
    py::gil_scoped_release release;
    entk::multiply(x, is_double, threads);
}

using Numbers = std::vector<int64_t>;

entk::Side side(uintptr_t g, const Numbers& g_shape, const Numbers& g_strides, uintptr_t a,
                const Numbers& a_strides) {
    entk::Side found{reinterpret_cast<const void*>(g), reinterpret_cast<const void*>(a),
                     g_shape.at(0), g_shape.at(4), {}, {}};
    std::copy_n(g_strides.begin(), 5, found.g_strides);
    std::copy_n(a_strides.begin(), 4, found.a_strides);
    return found;
}

void rows(uintptr_t g, const Numbers& g_shape, const Numbers& g_strides, uintptr_t a,
          const Numbers& a_shape, const Numbers& a_strides, uintptr_t j, bool is_double,
          int threads) {
    const entk::Layer layer{g_shape.at(1), g_shape.at(2), g_shape.at(3), a_shape.at(2)};
    const entk::Side x = side(g, g_shape, g_strides, a, a_strides);
    py::gil_scoped_release release;
    entk::rows(x, layer, reinterpret_cast<void*>(j), is_double, threads);
}

void fused_gram(uintptr_t g, const Numbers& g_shape, const Numbers& g_strides, uintptr_t a,
                const Numbers& a_shape, const Numbers& a_strides, uintptr_t h,
                const Numbers& h_shape, const Numbers& h_strides, uintptr_t b,
                const Numbers& b_strides, uintptr_t out, int64_t out_row, int64_t out_output,
                int mode, bool lower, bool is_double, int threads) {
    const entk::Layer layer{g_shape.at(1), g_shape.at(2), g_shape.at(3), a_shape.at(2)};
    const entk::FusedGram x{side(g, g_shape, g_strides, a, a_strides),
                            side(h, h_shape, h_strides, b, b_strides), layer,
                            reinterpret_cast<void*>(out), out_row, out_output,
                            static_cast<entk::Outputs>(mode), lower};
    py::gil_scoped_release release;
    entk::fused_gram(x, is_double, threads);
}

void pairs_gram(uintptr_t a, uintptr_t g, uintptr_t b, uintptr_t h, bool tokens,
                const std::vector<int64_t>& g_shape, int64_t m, int64_t patch, int64_t s,
                uintptr_t out, int64_t out_n, int64_t out_o, int64_t out_m, int mode, bool lower,
                bool is_double, int threads) {
    const entk::PairsGram x{reinterpret_cast<const void*>(a), reinterpret_cast<const void*>(g),
                            reinterpret_cast<const void*>(b), reinterpret_cast<const void*>(h),
                            tokens, g_shape.at(0), m, g_shape.at(1), g_shape.at(2), g_shape.at(3),
                            patch, g_shape.at(4), s, reinterpret_cast<void*>(out), out_n, out_o,
                            out_m, static_cast<entk::Outputs>(mode), lower};
    py::gil_scoped_release release;
    entk::pairs_gram(x, is_double, threads);
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

// Borrow the OpenMP runtime that is loaded from `path`, or none if it is not; whether there is one.
bool borrow_openmp(const std::string& path) {
    entk::openmp() = {};
#ifdef __linux__
    void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (path.empty() || library == nullptr) {
        return false;
    }
    entk::OpenMP found;
    found.parallel = reinterpret_cast<decltype(found.parallel)>(dlsym(library, "GOMP_parallel"));
    found.size = reinterpret_cast<decltype(found.size)>(dlsym(library, "omp_get_num_threads"));
    if (found.parallel == nullptr || found.size == nullptr) {
        return false;
    }
    entk::openmp() = found;
    return true;
#else
    (void)path;
    return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "Native kernels of entk; see entk/ops/native.py.";
    module.def("gram_dot", &gram_dot);
    module.def("borrow_openmp", &borrow_openmp);
    module.def("borrowed", [] { return entk::openmp().parallel != nullptr; });
    module.def("gram", &gram);
    module.def("multiply", &multiply);
    module.def("rows", &rows);
    module.def("fused_gram", &fused_gram);
    module.def("pairs_gram", &pairs_gram);
    const char* instructions = entk::gemm_instructions();
    module.attr("instructions") = instructions == nullptr ? py::object(py::none())
                                                          : py::object(py::str(instructions));
#ifdef ENTK_WITH_CUDA
    module.attr("cuda") = true;
    module.def("gram_dot_cuda", &gram_dot_cuda);
    module.def("gram_dot_cuda_scratch", &entk::gram_dot_cuda_scratch);
#else
    module.attr("cuda") = false;
#endif
}
