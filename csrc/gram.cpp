#include "gram.h"

#include <cmath>
#include <memory>

#include "gemm.h"
#include "parallel.h"

namespace entk {
namespace {

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
    gemm(tile);
}

template <typename T>
void run(const Gram& x, int threads) {
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

constexpr int64_t kStrip = 1 << 21;  // entries of J at once, a side: 8 MiB in float32
constexpr int64_t kPatch = 192;

template <typename T>
class Fused {
  public:
    explicit Fused(const FusedGram& x) : x_(x) {
        const int64_t outputs = x.layer.outputs;
        const int64_t high = std::max(x.x.samples, x.z.samples) * outputs;
        patch_ = std::min(x.layer.patch, kPatch);
        const int64_t some = std::max<int64_t>(4, kStrip / high / patch_ / 4 * 4);
        channels_ = std::min(x.layer.channels, some);
        const auto size = static_cast<size_t>(outputs * channels_ * patch_);
        left_.reset(new T[static_cast<size_t>(x.x.samples) * size]);
        right_.reset(new T[x.lower ? 0 : static_cast<size_t>(x.z.samples) * size]);
    }

    void run(int threads) {
        Team::run(threads, [&](Team& team) {
            const Layer& layer = x_.layer;
            for (int64_t group = 0; group < layer.groups; ++group) {
                for (int64_t k = 0; k < layer.patch; k += patch_) {
                    const int64_t ks = std::min(patch_, layer.patch - k);
                    for (int64_t c = 0; c < layer.channels; c += channels_) {
                        const int64_t cs = std::min(channels_, layer.channels - c);
                        strip(team, threads, group, c, cs, k, ks);
                    }
                }
            }
        });
    }

  private:
    void strip(Team& team, int threads, int64_t group, int64_t c, int64_t cs, int64_t k,
               int64_t ks) {
        const int64_t outputs = x_.layer.outputs, deep = cs * ks, n = x_.x.samples;
        const bool turned = outputs == 1 && cs < ks;  // of several, each needs rows of its own
        team.share(n + (x_.lower ? 0 : x_.z.samples), [&](int64_t task) {
            const bool left = task < n;
            const int64_t sample = left ? task : task - n;
            T* to = (left ? left_ : right_).get() + sample * outputs * deep;
            form(left ? x_.x : x_.z, sample, 0, outputs, group, c, cs, k, ks, to, turned);
        });
        const T* right = x_.lower ? left_.get() : right_.get();
        const int64_t m = x_.lower ? n : x_.z.samples;
        const int64_t row = outputs * deep;
        if (x_.mode == Outputs::all) {
            const Gram all{left_.get(), right, deep, deep, x_.out, x_.out_row,
                           n * outputs, m * outputs, deep, x_.lower};
            share_gram(team, threads, 1, [&](int64_t) { return all; });
        } else if (x_.mode == Outputs::trace) {
            const Gram sum{left_.get(), right, row, row, x_.out, x_.out_row, n, m, row, x_.lower};
            share_gram(team, threads, 1, [&](int64_t) { return sum; });
        } else {
            share_gram(team, threads, outputs, [&](int64_t o) {
                T* out = static_cast<T*>(x_.out) + o * x_.out_output;
                const T *j = left_.get() + o * deep, *l = right + o * deep;
                return Gram{j, l, row, row, out, x_.out_row, n, m, deep, x_.lower};
            });
        }
    }

    template <typename Part>
    static void share_gram(Team& team, int threads, int64_t parts, const Part& part) {
        const Tiles tiles(part(0), threads);
        team.share(parts * tiles.count, [&](int64_t task) {
            run_tile<T>(part(task / tiles.count), tiles, task % tiles.count);
        });
    }

    const FusedGram& x_;
    int64_t patch_, channels_;
    std::unique_ptr<T[]> left_, right_;
};

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

void fused_gram(const FusedGram& x, bool is_double, int threads) {
    is_double ? Fused<double>(x).run(threads) : Fused<float>(x).run(threads);
}

}  // namespace entk
