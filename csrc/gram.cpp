#include "gram.h"

#include <vector>

#include "gram_tiles.h"
#include "parallel.h"

namespace entk {
namespace {

template <typename T>
void run_thin(const Gram& x, int threads) {
    const int64_t count = slices(x), size = x.rows * x.columns;
    std::vector<T> sums(static_cast<size_t>(count * size));
    in_parallel(count, threads,
                [&](int64_t slice) { run_slice(x, slice, sums.data() + slice * size); });
    for (int64_t r = 0; r < x.rows; ++r) {
        T* out = static_cast<T*>(x.out) + r * x.out_row;
        take_row(sums.data(), count, size, r, x.columns, out);
    }
}

template <typename T>
void run(const Gram& x, int threads) {
    if (is_thin(x)) {
        run_thin<T>(x, threads);
        return;
    }
    const Tiles tiles(x, threads);
    in_parallel(tiles.count, threads, [&](int64_t task) { run_tile<T>(x, tiles, task); });
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
void form_all(const Side& x, const Layer& layer, T* j, int threads) {
    // without groups all outputs of a sample are one product
    const bool whole = layer.groups == 1;
    const int64_t pieces = whole ? 1 : layer.outputs * layer.groups;
    const int64_t size = (whole ? layer.outputs : 1) * layer.channels * layer.patch;
    in_parallel(x.samples * pieces, threads, [&](int64_t task) {
        const int64_t o = task % pieces / layer.groups, group = task % layer.groups;
        form(x, task / pieces, o, whole ? layer.outputs : 1, group, 0, layer.channels, 0,
             layer.patch, j + task * size);
    });
}

}  // namespace

void gram(const Gram& x, bool is_double, int threads) {
    is_double ? run<double>(x, threads) : run<float>(x, threads);
}

void multiply(const Multiply& x, bool is_double, int threads) {
    is_double ? run<double>(x, threads) : run<float>(x, threads);
}

void rows(const Side& x, const Layer& layer, void* j, bool is_double, int threads) {
    is_double ? form_all(x, layer, static_cast<double*>(j), threads)
              : form_all(x, layer, static_cast<float*>(j), threads);
}

}  // namespace entk
