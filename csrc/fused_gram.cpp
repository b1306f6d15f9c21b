#include <memory>
#include <vector>

#include "gram.h"
#include "gram_tiles.h"
#include "parallel.h"

namespace entk {
namespace {

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
        const Gram largest = product(0, channels_ * patch_);
        size_ = largest.rows * largest.columns;
        copies_ = is_thin(largest) ? slices(largest) : 1;
        sums_.resize(static_cast<size_t>(copies_ * parts() * size_));
    }

    void run(int threads) {
        Team::run(threads, [&](Team& team) {
            const Layer& layer = x_.layer;
            int64_t depth = 0;
            for (int64_t group = 0; group < layer.groups; ++group) {
                for (int64_t k = 0; k < layer.patch; k += patch_) {
                    const int64_t ks = std::min(patch_, layer.patch - k);
                    for (int64_t c = 0; c < layer.channels; c += channels_) {
                        const int64_t cs = std::min(channels_, layer.channels - c);
                        strip(team, threads, group, c, cs, k, ks);
                        depth += product(0, cs * ks).depth / copies_;
                        if (depth >= kPart) {
                            take(team);
                            depth = 0;
                        }
                    }
                }
            }
            take(team);
        });
    }

  private:
    // Products of a strip: one, or one for each output.
    int64_t parts() const { return x_.mode == Outputs::diagonal ? x_.layer.outputs : 1; }

    // The product `part` of a strip with `deep` entries of each output; its sums are dense.
    Gram product(int64_t part, int64_t deep) const {
        const int64_t outputs = x_.layer.outputs, row = outputs * deep, n = x_.x.samples;
        const int64_t m = x_.lower ? n : x_.z.samples;
        const T *j = left_.get() + part * deep, *k = (x_.lower ? left_ : right_).get() + part * deep;
        void* out = const_cast<T*>(sums_.data()) + part * n * m;
        switch (x_.mode) {
            case Outputs::all:
                return {j, k, deep, deep, out, m * outputs, n * outputs, m * outputs, deep, x_.lower};
            case Outputs::trace:
                return {j, k, row, row, out, m, n, m, row, x_.lower};
            default:
                return {j, k, row, row, out, m, n, m, deep, x_.lower};
        }
    }

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
        const Gram first = product(0, deep);
        if (copies_ > 1) {
            const int64_t count = slices(first), copy = parts() * size_;
            team.share(parts() * count, [&](int64_t task) {
                const Gram x = product(task / count, deep);
                run_slice(x, task % count, static_cast<T*>(x.out) + task % count * copy);
            });
            return;
        }
        const Tiles tiles(first, threads);
        team.share(parts() * tiles.count, [&](int64_t task) {
            run_tile<T>(product(task / tiles.count, deep), tiles, task % tiles.count);
        });
    }

    // The sums so far go to the output.
    void take(Team& team) {
        const Gram x = product(0, 1);
        team.share(parts() * x.rows, [&](int64_t task) {
            const int64_t part = task / x.rows, r = task % x.rows;
            T* out = static_cast<T*>(x_.out) + part * x_.out_output + r * x_.out_row;
            take_row(sums_.data() + part * size_, copies_, parts() * size_, r, x.columns, out);
        });
    }

    const FusedGram& x_;
    int64_t patch_, channels_;
    int64_t size_, copies_;  // entries of a product; how many sums of it there are
    std::unique_ptr<T[]> left_, right_;
    std::vector<T> sums_;  // [copies, parts, rows, columns]
};

}  // namespace

void fused_gram(const FusedGram& x, bool is_double, int threads) {
    is_double ? Fused<double>(x).run(threads) : Fused<float>(x).run(threads);
}

}  // namespace entk
