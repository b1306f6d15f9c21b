// Replaces three float64 reductions in PyTorch, (a.double() * b.double()).sum() and so on, which
// write float64 copies and products to memory. One pass reads each matrix once.
// RATIOS
//
// The bits depend on shape and strides alone: chunks are of fixed size, lanes of fixed number, and
// their sums are added in order, whatever the threads and the processor (setup.py passes
// -ffp-contract=off, so no fused multiply-add comes and goes with the instruction set).
#include "gram_dot.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

// One object file for every x86-64: the loader picks the clone that this processor can run.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define ENTK_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ENTK_CLONES
#endif
#if defined(__GNUC__)
#define ENTK_INLINE inline __attribute__((always_inline))
#else
#define ENTK_INLINE inline
#endif

namespace entk {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kChunk = 1 << 16;  // entries of a chunk: some 10 us of work
constexpr int64_t kTile = 1 << 8;    // its side where some column is strided: 256 lines fit in L1

// Independent sums, so that the compiler vectorises without reordering anything.
struct Lanes {
    double ab[kLanes] = {}, aa[kLanes] = {}, bb[kLanes] = {};
};

template <typename T>
ENTK_INLINE void add_row(const T* a, int64_t sa, const T* b, int64_t sb, int64_t n, Lanes& lanes) {
    Lanes sums = lanes;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (int64_t l = 0; l < kLanes; ++l) {
            const double p = a[(i + l) * sa], q = b[(i + l) * sb];
            sums.ab[l] += p * q;
            sums.aa[l] += p * p;
            sums.bb[l] += q * q;
        }
    }
    for (int64_t l = 0; i + l < n; ++l) {
        const double p = a[(i + l) * sa], q = b[(i + l) * sb];
        sums.ab[l] += p * q;
        sums.aa[l] += p * p;
        sums.bb[l] += q * q;
    }
    lanes = sums;
}

ENTK_CLONES void add_dense(const float* a, const float* b, int64_t n, Lanes& lanes) {
    add_row(a, 1, b, 1, n, lanes);
}
ENTK_CLONES void add_dense(const double* a, const double* b, int64_t n, Lanes& lanes) {
    add_row(a, 1, b, 1, n, lanes);
}

struct Chunks {
    int64_t wide, high, across, count;

    explicit Chunks(const Pair& p) {
        const bool dense = p.a.column_stride == 1 && p.b.column_stride == 1;
        wide = std::min(p.columns, dense ? kChunk : kTile);
        high = std::max<int64_t>(1, kChunk / wide);
        across = (p.columns + wide - 1) / wide;
        count = across * ((p.rows + high - 1) / high);
    }
};

template <typename T>
Lanes sum_chunk(const Pair& p, const Chunks& chunks, int64_t chunk) {
    const int64_t c = chunk % chunks.across * chunks.wide;
    const int64_t r = chunk / chunks.across * chunks.high;
    const int64_t n = std::min(p.columns - c, chunks.wide);
    const int64_t sa = p.a.column_stride, sb = p.b.column_stride;
    Lanes lanes;
    for (int64_t row = r; row < std::min(p.rows, r + chunks.high); ++row) {
        const T* a = static_cast<const T*>(p.a.data) + row * p.a.row_stride + c * sa;
        const T* b = static_cast<const T*>(p.b.data) + row * p.b.row_stride + c * sb;
        if (sa == 1 && sb == 1) {
            add_dense(a, b, n, lanes);
        } else {
            add_row(a, sa, b, sb, n, lanes);
        }
    }
    return lanes;
}

template <typename T>
void run(const Pair& pair, int threads, double out[3]) {
    const Chunks chunks(pair);
    std::vector<std::array<double, 3>> sums(static_cast<size_t>(chunks.count));
    std::atomic<int64_t> next{0};
    auto work = [&] {
        for (int64_t chunk; (chunk = next.fetch_add(1)) < chunks.count;) {
            const Lanes lanes = sum_chunk<T>(pair, chunks, chunk);
            std::array<double, 3> s{};
            for (int64_t l = 0; l < kLanes; ++l) {
                s[0] += lanes.ab[l];
                s[1] += lanes.aa[l];
                s[2] += lanes.bb[l];
            }
            sums[static_cast<size_t>(chunk)] = s;
        }
    };

    std::vector<std::thread> pool;
    try {
        for (int64_t t = 1; t < std::min<int64_t>(threads, chunks.count); ++t) {
            pool.emplace_back(work);
        }
    } catch (const std::system_error&) {
        // the machine grants no more threads: those there are do the work, with the same bits
    }
    work();
    for (auto& thread : pool) {
        thread.join();
    }
    for (const auto& s : sums) {
        for (int i = 0; i < 3; ++i) {
            out[i] += s[static_cast<size_t>(i)];
        }
    }
}

}  // namespace

void gram_dot(Pair pair, bool is_double, int threads, double out[3]) {
    out[0] = out[1] = out[2] = 0;
    if (pair.rows == 0 || pair.columns == 0) {
        return;
    }
    pair = along_memory(pair);
    is_double ? run<double>(pair, threads, out) : run<float>(pair, threads, out);
}

}  // namespace entk
