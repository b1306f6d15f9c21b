// What `gram` and `fused_gram` share: tiles of a product for the threads, sums in parts, rows of a sample.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gemm.h"
#include "gram.h"

namespace entk {

// Tiles of the output. Each packs its own rows and columns, so they should be large: a band of rows for
// each of a few threads, narrower where the triangle is wide; squares for many threads.
struct Tiles {
    struct Tile {
        int64_t i, high, j, wide;
    };
    int64_t rows, columns, side, across, count;
    bool lower, bands;

    Tiles(const Gram& x, int threads)
        : rows(x.rows), columns(x.columns), lower(x.lower), bands(threads <= kBands) {
        const double area = static_cast<double>(x.rows) * static_cast<double>(x.columns);
        const auto wanted = static_cast<int64_t>(std::sqrt(area / (4 * threads)) + 13) / 14 * 14;
        side = std::max<int64_t>(112, wanted);
        across = (x.columns + side - 1) / side;
        count = bands ? threads : across * ((x.rows + side - 1) / side);
    }

    Tile operator()(int64_t task) const {
        task = count - 1 - task;  // the last rows, full ones, go first
        if (bands) {
            const int64_t i = edge(task), end = edge(task + 1);
            return {i, end - i, 0, lower ? std::min(columns, end) : columns};
        }
        const int64_t i = task / across * side, j = task % across * side;
        return {i, std::min(side, rows - i), j, std::min(side, columns - j)};
    }

    // Where band b begins: all have the same area.
    int64_t edge(int64_t b) const {
        const double share = static_cast<double>(b) / static_cast<double>(count);
        const double at = static_cast<double>(rows) * (lower ? std::sqrt(share) : share);
        return b == count ? rows : static_cast<int64_t>(at) / 14 * 14;
    }

    static constexpr int kBands = 8;
};

// Products that are added to a sum one after another: what is added to a sum that has grown large loses
// its last digits (1.5e8 products make an entry of VGG-16's trace kernel), so parts begin at zero.
constexpr int64_t kPart = 1 << 16;

template <typename T>
void in_parts(const Product<T>& whole) {
    std::vector<T> sums(static_cast<size_t>(whole.rows * whole.columns));
    for (int64_t start = 0; start < whole.depth; start += kPart) {
        std::fill(sums.begin(), sums.end(), T(0));
        Product<T> part = whole;
        part.depth = std::min(kPart, whole.depth - start);
        part.a.data += start;
        part.b.data += start;
        part.c = sums.data();
        part.stride = whole.columns;
        gemm(part);
        for (int64_t r = 0; r < whole.rows; ++r) {
            for (int64_t q = 0; q < whole.columns; ++q) {
                whole.c[r * whole.stride + q] += sums[static_cast<size_t>(r * whole.columns + q)];
            }
        }
    }
}

template <typename T>
void run_tile(const Gram& x, const Tiles& tiles, int64_t task) {
    const auto [i, high, j, wide] = tiles(task);
    if (high == 0 || (x.lower && j > i + high - 1)) {
        return;
    }
    Product<T> tile{high, wide, x.depth,
                    {static_cast<const T*>(x.j) + i * x.j_row, x.j_row, 1},
                    {static_cast<const T*>(x.k) + j * x.k_row, x.k_row, 1},
                    static_cast<T*>(x.out) + i * x.out_row + j, x.out_row};
    tile.lower = x.lower;
    tile.diagonal = i - j;
    x.depth > kPart ? in_parts(tile) : gemm(tile);
}

// Few rows of great depth: threads share the depth, and their sums are added in one order.
constexpr int64_t kSlice = 4096;  // some tens of rows of it stay in L2
constexpr int64_t kThin = 64;     // rows and columns

inline int64_t slices(const Gram& x) { return (x.depth + kSlice - 1) / kSlice; }

inline bool is_thin(const Gram& x) {
    return x.rows <= kThin && x.columns <= kThin && x.depth >= 2 * kSlice;
}

// Added to `sums`, [rows, columns].
template <typename T>
void run_slice(const Gram& x, int64_t slice, T* sums) {
    const int64_t start = slice * kSlice;
    Product<T> part{x.rows, x.columns, std::min(kSlice, x.depth - start),
                    {static_cast<const T*>(x.j) + start, x.j_row, 1},
                    {static_cast<const T*>(x.k) + start, x.k_row, 1},
                    sums, x.columns};
    part.lower = x.lower;
    dots(part);
}

// Adds row r of several sums [count][rows, columns], each zero thereafter, to a row of the output.
template <typename T>
void take_row(T* sums, int64_t count, int64_t size, int64_t r, int64_t columns, T* out) {
    for (int64_t q = r * columns; q < (r + 1) * columns; ++q) {
        double total = 0;
        for (int64_t i = 0; i < count; ++i) {
            total += static_cast<double>(sums[i * size + q]);
            sums[i * size + q] = 0;
        }
        out[q - r * columns] += static_cast<T>(total);
    }
}

// The rows of one sample: channels [c, c + cs) and patch entries [k, k + ks) of a group, for `outputs`
// outputs from o on; to[(o, c, k)] dense, or to[(k, o, c)] if `turned`: columns are dearer to pack than
// rows, so they should be the few.
template <typename T>
void form(const Side& x, int64_t n, int64_t o, int64_t outputs, int64_t group, int64_t c,
          int64_t cs, int64_t k, int64_t ks, T* to, bool turned = false) {
    const int64_t *gs = x.g_strides, *as = x.a_strides;
    const T* g = static_cast<const T*>(x.g) + n * gs[0] + o * gs[1] + group * gs[2] + c * gs[3];
    const T* a = static_cast<const T*>(x.a) + n * as[0] + group * as[1] + k * as[2];
    const Operand<T> left{g, gs[3], gs[4], cs, gs[1]}, right{a, as[2], as[3]};
    Product<T> piece =
        turned ? Product<T>{ks, outputs * cs, x.positions, right, left, to, outputs * cs}
               : Product<T>{outputs * cs, ks, x.positions, left, right, to, ks};
    piece.fresh = true;
    gemm(piece);
}

}  // namespace entk
