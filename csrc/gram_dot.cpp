// Replaces three float64 reductions in PyTorch, (a.double() * b.double()).sum() and so on, which
// write float64 copies and products to memory. One pass reads each float32 once.
// Measured by `python -m benchmarks.run gram_dot`, results in benchmarks/results/gram_dot.csv.
//
// The bits depend on the shape alone: chunks are of fixed size and their sums are added in order,
// whatever the number of threads.
#include "gram_dot.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define ENTK_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define ENTK_CLONES
#endif

namespace entk {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kChunk = 1 << 16;  // elements: 512 KiB of float32 pairs, some 10 us of work
using Sums = std::array<double, 3>;

// A row of each matrix, unit stride. Lanes are independent sums, so the compiler vectorises them
// without reordering anything.
#define ENTK_UNIT_STRIDE(name, scalar)                                                    \
    ENTK_CLONES void name(const scalar* a, const scalar* b, int64_t n, double* sums) {    \
        double ab[kLanes] = {}, aa[kLanes] = {}, bb[kLanes] = {};                         \
        int64_t i = 0;                                                                    \
        for (; i + kLanes <= n; i += kLanes) {                                            \
            for (int64_t l = 0; l < kLanes; ++l) {                                        \
                const double p = a[i + l], q = b[i + l];                                  \
                ab[l] += p * q;                                                           \
                aa[l] += p * p;                                                           \
                bb[l] += q * q;                                                           \
            }                                                                             \
        }                                                                                 \
        for (int64_t l = 0; i < n; ++i, ++l) {                                            \
            const double p = a[i], q = b[i];                                              \
            ab[l] += p * q;                                                               \
            aa[l] += p * p;                                                               \
            bb[l] += q * q;                                                               \
        }                                                                                 \
        for (int64_t l = 0; l < kLanes; ++l) {                                            \
            sums[0] += ab[l];                                                             \
            sums[1] += aa[l];                                                             \
            sums[2] += bb[l];                                                             \
        }                                                                                 \
    }

ENTK_UNIT_STRIDE(unit_stride_float, float)
ENTK_UNIT_STRIDE(unit_stride_double, double)

inline void unit_stride(const float* a, const float* b, int64_t n, double* sums) {
    unit_stride_float(a, b, n, sums);
}
inline void unit_stride(const double* a, const double* b, int64_t n, double* sums) {
    unit_stride_double(a, b, n, sums);
}

template <typename T>
void any_stride(const T* a, int64_t sa, const T* b, int64_t sb, int64_t n, double* sums) {
    for (int64_t i = 0; i < n; ++i) {
        const double p = a[i * sa], q = b[i * sb];
        sums[0] += p * q;
        sums[1] += p * p;
        sums[2] += q * q;
    }
}

template <typename T>
void run(Matrix a, Matrix b, int64_t rows, int64_t columns, int threads, double out[3]) {
    const int64_t wide = std::min(columns, kChunk);          // columns of a chunk
    const int64_t high = std::max<int64_t>(1, kChunk / wide);  // rows of a chunk
    const int64_t across = (columns + wide - 1) / wide, down = (rows + high - 1) / high;
    std::vector<Sums> sums(static_cast<size_t>(across * down), Sums{0, 0, 0});
    std::atomic<int64_t> next{0};

    auto work = [&] {
        for (int64_t chunk; (chunk = next.fetch_add(1)) < across * down;) {
            const int64_t c0 = chunk % across * wide, c1 = std::min(columns, c0 + wide);
            const int64_t r0 = chunk / across * high, r1 = std::min(rows, r0 + high);
            double* s = sums[static_cast<size_t>(chunk)].data();
            for (int64_t r = r0; r < r1; ++r) {
                const T* p = static_cast<const T*>(a.data) + r * a.row_stride + c0 * a.column_stride;
                const T* q = static_cast<const T*>(b.data) + r * b.row_stride + c0 * b.column_stride;
                if (a.column_stride == 1 && b.column_stride == 1) {
                    unit_stride(p, q, c1 - c0, s);
                } else {
                    any_stride(p, a.column_stride, q, b.column_stride, c1 - c0, s);
                }
            }
        }
    };

    const int64_t useful = std::min<int64_t>(threads, across * down);
    std::vector<std::thread> pool;
    for (int64_t t = 1; t < useful; ++t) {
        pool.emplace_back(work);
    }
    work();
    for (auto& thread : pool) {
        thread.join();
    }
    out[0] = out[1] = out[2] = 0;
    for (const auto& s : sums) {
        for (int i = 0; i < 3; ++i) {
            out[i] += s[i];
        }
    }
}

}  // namespace

void gram_dot(Matrix a, Matrix b, int64_t rows, int64_t columns, bool is_double, int threads,
              double out[3]) {
    if (rows == 0 || columns == 0) {
        out[0] = out[1] = out[2] = 0;
        return;
    }
    const bool transpose = a.row_stride == 1 && b.row_stride == 1 && a.column_stride != 1;
    if (transpose) {  // walk along memory
        std::swap(a.row_stride, a.column_stride);
        std::swap(b.row_stride, b.column_stride);
        std::swap(rows, columns);
    }
    is_double ? run<double>(a, b, rows, columns, threads, out)
              : run<float>(a, b, rows, columns, threads, out);
}

}  // namespace entk
