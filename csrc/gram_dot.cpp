// Replaces three float64 reductions in PyTorch, (a.double() * b.double()).sum() and so on, which
// write float64 copies and products to memory. One pass reads each matrix once.
// One core of an Intel Xeon with AVX-512, torch 2.13.0, medians of 15 by `make bench`: float32
// 2000 x 2000 in 1.6 ms, 51 times as fast as that and 31 times as fast as three BLAS dots of float64
// copies; 5000 x 5000 18 and 12 times; float64 2000 x 2000 4.4 and 1.3 times. Loses below some
// 100 x 100, where the call costs more than the sums (64 x 64: 33 us against 22 us).
// Results: benchmarks/results/gram_dot.csv.
//
// The bits depend on shape and strides alone: chunks are of fixed size, lanes of fixed number, and
// their sums are added in order, whatever the threads and the processor (setup.py passes
// -ffp-contract=off, so no fused multiply-add comes and goes with the instruction set).
#include "gram_dot.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "parallel.h"

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

constexpr int64_t kLanes = 8;
constexpr int64_t kUnroll = 2;       // two independent sums of each kind hide the latency of an add
constexpr int64_t kChunk = 1 << 16;  // entries of a chunk: some 10 us of work
constexpr int64_t kTile = 1 << 8;    // its side where some column is strided: 256 lines fit in L1

using Vector = double __attribute__((vector_size(kLanes * sizeof(double))));

struct Lanes {
    Vector ab[kUnroll] = {}, aa[kUnroll] = {}, bb[kUnroll] = {};

    ENTK_INLINE void add(int64_t u, const Vector& p, const Vector& q) {
        ab[u] += p * q;
        aa[u] += p * p;
        bb[u] += q * q;
    }
};

// Written with vectors, as GCC 12 scalarises the same loop over an array of lanes.
template <typename T>
ENTK_INLINE Vector load(const T* data) {
    T __attribute__((vector_size(kLanes * sizeof(T)))) raw;
    std::memcpy(&raw, data, sizeof raw);
    return __builtin_convertvector(raw, Vector);
}

// The first kLanes of the last n entries; missing ones are zeros and add nothing.
template <typename T>
ENTK_INLINE Vector load_some(const T* data, int64_t n) {
    T padded[kLanes] = {};
    std::copy(data, data + std::min(n, kLanes), padded);
    return load(padded);
}

template <typename T>
ENTK_INLINE void add_row(const T* a, const T* b, int64_t n, Lanes& lanes) {
    Lanes sums = lanes;
    int64_t i = 0;
    for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) {
        for (int64_t u = 0; u < kUnroll; ++u) {
            sums.add(u, load(a + i + u * kLanes), load(b + i + u * kLanes));
        }
    }
    for (int64_t u = 0; i < n; i += kLanes, ++u) {
        sums.add(u, load_some(a + i, n - i), load_some(b + i, n - i));
    }
    lanes = sums;
}

ENTK_CLONES void add_dense(const float* a, const float* b, int64_t n, Lanes& lanes) {
    add_row(a, b, n, lanes);
}
ENTK_CLONES void add_dense(const double* a, const double* b, int64_t n, Lanes& lanes) {
    add_row(a, b, n, lanes);
}

// A strided row is copied to the buffer: plain loads, then the same vector code.
template <typename T>
const T* dense_row(const T* row, int64_t stride, int64_t n, T* buffer) {
    if (stride == 1) {
        return row;
    }
    for (int64_t i = 0; i < n; ++i) {
        buffer[i] = row[i * stride];
    }
    return buffer;
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
    T a_buffer[kTile], b_buffer[kTile];
    Lanes lanes;
    for (int64_t row = r; row < std::min(p.rows, r + chunks.high); ++row) {
        const T* a = static_cast<const T*>(p.a.data) + row * p.a.row_stride + c * sa;
        const T* b = static_cast<const T*>(p.b.data) + row * p.b.row_stride + c * sb;
        add_dense(dense_row(a, sa, n, a_buffer), dense_row(b, sb, n, b_buffer), n, lanes);
    }
    return lanes;
}

template <typename T>
void run(const Pair& pair, int threads, double out[3]) {
    const Chunks chunks(pair);
    std::vector<std::array<double, 3>> sums(static_cast<size_t>(chunks.count));
    in_parallel(chunks.count, threads, [&](int64_t chunk) {
        const Lanes lanes = sum_chunk<T>(pair, chunks, chunk);
        std::array<double, 3> s{};
        for (int64_t l = 0; l < kUnroll * kLanes; ++l) {
            s[0] += lanes.ab[l / kLanes][l % kLanes];
            s[1] += lanes.aa[l / kLanes][l % kLanes];
            s[2] += lanes.bb[l / kLanes][l % kLanes];
        }
        sums[static_cast<size_t>(chunk)] = s;
    });
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
