#include "gram.h"

#include <cmath>

#include "gemm.h"
#include "parallel.h"

namespace entk {
namespace {

// Tiles of the output: enough of them that no thread is left waiting, large enough that packing,
// which each repeats for its own rows and columns, stays small.
int64_t side(const Gram& x, int threads) {
    const double area = static_cast<double>(x.rows) * static_cast<double>(x.columns);
    const double wanted = std::sqrt(area / (threads == 1 ? 1 : 4 * threads));
    const int64_t least = threads == 1 ? std::max(x.rows, x.columns) : 112;
    return std::max<int64_t>(least, static_cast<int64_t>(wanted + 13) / 14 * 14);
}

template <typename T>
void run(const Gram& x, int threads) {
    const int64_t s = side(x, threads);
    const int64_t across = (x.columns + s - 1) / s, down = (x.rows + s - 1) / s;
    in_parallel(across * down, threads, [&](int64_t task) {
        const int64_t i = (down - 1 - task / across) * s, j = task % across * s;
        const int64_t high = std::min(s, x.rows - i), wide = std::min(s, x.columns - j);
        if (x.lower && j > i + high - 1) {
            return;
        }
        Product<T> tile{high, wide, x.depth,
                        {static_cast<const T*>(x.j) + i * x.j_row, x.j_row, 1},
                        {static_cast<const T*>(x.k) + j * x.k_row, x.k_row, 1},
                        static_cast<T*>(x.out) + i * x.out_row + j, x.out_row};
        tile.lower = x.lower;
        tile.diagonal = i - j;
        gemm(tile);
    });
}

template <typename T>
void run(const Multiply& x, int threads) {
    // parts of the longer side: each packs all of the shorter one again
    const bool tall = x.rows >= x.columns;
    const int64_t length = tall ? x.rows : x.columns;
    const int64_t part = std::max<int64_t>(112, (length / threads + 111) / 112 * 112);
    in_parallel((length + part - 1) / part, threads, [&](int64_t task) {
        const int64_t i = tall ? task * part : 0, j = tall ? 0 : task * part;
        const int64_t high = tall ? std::min(part, x.rows - i) : x.rows;
        const int64_t wide = tall ? x.columns : std::min(part, x.columns - j);
        T* c = static_cast<T*>(x.c) + i * x.columns + j;
        Product<T> piece{high, wide, x.depth,
                         {static_cast<const T*>(x.a) + i * x.a_row, x.a_row, x.a_depth},
                         {static_cast<const T*>(x.b) + j * x.b_row, x.b_row, x.b_depth},
                         c, x.columns};
        const T* bias = static_cast<const T*>(x.bias);
        for (int64_t r = 0; bias != nullptr && r < high; ++r) {
            std::copy(bias + j, bias + j + wide, c + r * x.columns);
        }
        piece.fresh = bias == nullptr;
        gemm(piece);
    });
}

template <typename T>
void form(const Rows& x, int threads) {
    // without groups all outputs of a sample are one product
    const int64_t merged = x.groups == 1 ? x.outputs : 1;
    const int64_t pieces = x.groups == 1 ? 1 : x.outputs * x.groups;
    const int64_t high = merged * x.channels;
    in_parallel(x.samples * pieces, threads, [&](int64_t task) {
        const int64_t sample = task / pieces, group = task % x.groups;
        const int64_t output = task % pieces / x.groups;
        const int64_t *gs = x.g_strides, *as = x.a_strides;
        const T* g = static_cast<const T*>(x.g) + sample * gs[0] + output * gs[1] + group * gs[2];
        const T* a = static_cast<const T*>(x.a) + sample * as[0] + group * as[1];
        Product<T> piece{high, x.patch, x.positions,
                         {g, gs[3], gs[4], x.channels, gs[1]},
                         {a, as[2], as[3]},
                         static_cast<T*>(x.j) + task * high * x.patch, x.patch};
        piece.fresh = true;
        gemm(piece);
    });
}

}  // namespace

void gram(const Gram& x, bool is_double, int threads) {
    is_double ? run<double>(x, threads) : run<float>(x, threads);
}

void multiply(const Multiply& x, bool is_double, int threads) {
    is_double ? run<double>(x, threads) : run<float>(x, threads);
}

void rows(const Rows& x, bool is_double, int threads) {
    is_double ? form<double>(x, threads) : form<float>(x, threads);
}

}  // namespace entk
