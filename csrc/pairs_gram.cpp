// Replaces some N M calls of torch.matmul and torch.bmm per layer. A task takes a few samples of x and
// of z, forms their A[t,s] = sum_k a b in one product, and contracts it with the gradients; A and
// what comes between stay in the caches of one core, some kScratch entries each.
// Same machine as in gemm.cpp, one core, O = 10, 16 samples: 80 GMAC/s for a layer of 256 channels at
// 8 x 8, 46 for 512 at 4 x 4; see benchmarks/results/pairs_gram.csv for the ratios to PyTorch.
#include "pairs_gram.h"

#include <memory>

#include "gemm.h"
#include "parallel.h"

namespace entk {
namespace {

constexpr int64_t kScratch = 1 << 17;  // entries of an intermediate: 512 KiB in float32
constexpr int64_t kLanes = 8;
constexpr int64_t kFew = 8;  // positions

// With few positions all products of g and h are formed: more work than the other order, but in
// one large product in place of many small ones.
bool few_positions(const PairsGram& x) {
    return x.mode == Outputs::all && x.t <= kFew && x.s <= kFew;
}

template <typename T>
class Task {
  public:
    Task(const PairsGram& x, int64_t n0, int64_t n1, int64_t m0, int64_t m1)
        : x_(x), n0_(n0), n1_(n1), m0_(m0), m1_(m1), width_((m1 - m0) * x.s) {}

    void run() {
        // a single sample with very many positions goes through in parts of them
        const int64_t part = n1_ - n0_ > 1 ? x_.t : std::max<int64_t>(1, kScratch / width_);
        for (int64_t t0 = 0; t0 < x_.t; t0 += part) {
            t0_ = t0;
            t1_ = std::min(x_.t, t0 + part);
            for (int64_t group = 0; group < x_.groups; ++group) {
                group_ = group;
                form_inputs();
                if (x_.mode != Outputs::all) {
                    contract_same_outputs();
                } else if (few_positions(x_)) {
                    contract_few_positions();
                } else {
                    contract_all_outputs();
                }
            }
        }
    }

  private:
    int64_t deep() const { return t1_ - t0_; }
    int64_t wide_gradient() const { return x_.groups * x_.channels; }
    const T* g(int64_t n, int64_t o) const {
        const int64_t channel = (n * x_.outputs + o) * wide_gradient() + group_ * x_.channels;
        return static_cast<const T*>(x_.g) + channel * x_.t + t0_;
    }
    const T* h(int64_t m, int64_t o) const {
        const int64_t channel = (m * x_.outputs + o) * wide_gradient() + group_ * x_.channels;
        return static_cast<const T*>(x_.h) + channel * x_.s;
    }
    T* out(int64_t n, int64_t o, int64_t m) const {
        return static_cast<T*>(x_.out) + n * x_.out_n + o * x_.out_o + m * x_.out_m;
    }
    bool wanted(int64_t n, int64_t m) const { return !x_.lower || n >= m; }
    static T* grown(std::unique_ptr<T[]>& buffer, int64_t& size, int64_t wanted) {
        if (wanted > size) {
            buffer.reset(new T[static_cast<size_t>(wanted)]);
            size = wanted;
        }
        return buffer.get();
    }

    // inputs_[(n,t), (m,s)] = sum_k a[n,k,t] b[m,k,s]; for tokens, whether they are the same one.
    void form_inputs() {
        const int64_t high = (n1_ - n0_) * deep();
        T* to = grown(inputs_, inputs_size_, high * width_);
        if (x_.tokens) {
            const int64_t* a = static_cast<const int64_t*>(x_.a) + n0_ * x_.t + t0_;
            const int64_t* b = static_cast<const int64_t*>(x_.b) + m0_ * x_.s;
            for (int64_t r = 0; r < high; ++r) {
                const int64_t token = a[r / deep() * x_.t + r % deep()];
                for (int64_t q = 0; q < width_; ++q) {
                    *to++ = token >= 0 && token == b[q] ? T(1) : T(0);
                }
            }
            return;
        }
        const int64_t one = x_.patch * x_.t, two = x_.patch * x_.s;
        const T* a = static_cast<const T*>(x_.a) + (n0_ * x_.groups + group_) * one + t0_;
        const T* b = static_cast<const T*>(x_.b) + (m0_ * x_.groups + group_) * two;
        Product<T> p{high, width_, x_.patch,
                     {a, 1, x_.t, deep(), one * x_.groups},
                     {b, 1, x_.s, x_.s, two * x_.groups},
                     to, width_};
        p.fresh = true;
        gemm(p);
    }

    // A applied to g, then one product with h.
    void contract_all_outputs() {
        const int64_t size = x_.channels * x_.s;
        const int64_t some = std::max<int64_t>(1, std::min(x_.outputs, kScratch / size));
        T* moved = grown(moved_, moved_size_, some * size);
        for (int64_t m = m0_; m < m1_; ++m) {
            for (int64_t n = n0_; n < n1_; ++n) {
                for (int64_t o = 0; wanted(n, m) && o < x_.outputs; o += some) {
                    const int64_t count = std::min(some, x_.outputs - o);
                    const T* inputs = inputs_.get() + (n - n0_) * deep() * width_;
                    Product<T> move{count * x_.channels, x_.s, deep(),
                                    {g(n, o), x_.t, 1, x_.channels, wide_gradient() * x_.t},
                                    {inputs + (m - m0_) * x_.s, 1, width_},
                                    moved, x_.s};
                    move.fresh = true;
                    gemm(move);
                    dots(Product<T>{count, x_.outputs, size,
                                    {moved, size, 1},
                                    {h(m, 0), wide_gradient() * x_.s, 1},
                                    out(n, o, m), x_.out_o});
                }
            }
        }
    }

    // A times the products of g and h of all pairs of outputs, summed over positions.
    void contract_few_positions() {
        const int64_t o = x_.outputs, t = x_.t, s = x_.s, wide = (m1_ - m0_) * o * s;
        const int64_t high = (n1_ - n0_) * o * t, channels = wide_gradient();
        T* grads = grown(moved_, moved_size_, high * wide);
        Product<T> p{high, wide, x_.channels,
                     {g(n0_, 0), 1, t, t, channels * t},
                     {h(m0_, 0), 1, s, s, channels * s},
                     grads, wide};
        p.fresh = true;
        gemm(p);
        for (int64_t n = n0_; n < n1_; ++n) {
            for (int64_t i = 0; i < o; ++i, grads += t * wide) {
                for (int64_t m = m0_; m < m1_ && wanted(n, m); ++m) {
                    const T* inputs = &inputs_[(n - n0_) * t * width_ + (m - m0_) * s];
                    add_positions(inputs, grads + (m - m0_) * o * s, wide, out(n, i, m));
                }
            }
        }
    }

    void add_positions(const T* inputs, const T* grads, int64_t wide, T* to) const {
        for (int64_t q = 0; x_.t == 1 && x_.s == 1 && q < x_.outputs; ++q) {
            to[q] += inputs[0] * grads[q];
        }
        for (int64_t q = 0; x_.t * x_.s > 1 && q < x_.outputs; ++q) {
            T sum = 0;
            for (int64_t t = 0; t < x_.t; ++t) {
                for (int64_t s = 0; s < x_.s; ++s) {
                    sum += inputs[t * width_ + s] * grads[t * wide + q * x_.s + s];
                }
            }
            to[q] += sum;
        }
    }

    // A times the products of g and h of the same output, summed over positions.
    void contract_same_outputs() {
        const bool trace = x_.mode == Outputs::trace;
        const int64_t high = (n1_ - n0_) * deep();
        const int64_t merged = trace && x_.groups == 1 ? x_.outputs : 1;  // outputs in one product
        T* grads = grown(moved_, moved_size_, high * width_);
        for (int64_t o = 0; o < x_.outputs; o += merged) {
            const int64_t one = x_.outputs * wide_gradient() * x_.t;
            const int64_t two = x_.outputs * wide_gradient() * x_.s;
            Product<T> p{high, width_, merged * x_.channels,
                         {g(n0_, o), 1, x_.t, deep(), one},
                         {h(m0_, o), 1, x_.s, x_.s, two},
                         grads, width_};
            p.fresh = !trace || o == 0;
            gemm(p);
            if (!trace || o + merged == x_.outputs) {
                add_products(grads, o);
            }
        }
    }

    void add_products(const T* grads, int64_t o) {
        for (int64_t n = n0_; n < n1_; ++n) {
            for (int64_t m = m0_; m < m1_ && wanted(n, m); ++m) {
                const int64_t at = (n - n0_) * deep() * width_ + (m - m0_) * x_.s;
                double sum = 0;  // of up to T S terms; each row of A in its own lanes
                for (int64_t t = 0; t < deep(); ++t) {
                    const T *u = inputs_.get() + at + t * width_, *v = grads + at + t * width_;
                    T sums[kLanes] = {};
                    int64_t s = 0;
                    for (; s + kLanes <= x_.s; s += kLanes) {
                        for (int64_t l = 0; l < kLanes; ++l) {
                            sums[l] += u[s + l] * v[s + l];
                        }
                    }
                    for (; s < x_.s; ++s) {
                        sums[s % kLanes] += u[s] * v[s];
                    }
                    for (T part : sums) {
                        sum += part;
                    }
                }
                *out(n, x_.mode == Outputs::diagonal ? o : 0, m) += static_cast<T>(sum);
            }
        }
    }

    const PairsGram& x_;
    const int64_t n0_, n1_, m0_, m1_, width_;
    int64_t t0_ = 0, t1_ = 0, group_ = 0;
    static thread_local std::unique_ptr<T[]> inputs_, moved_;
    static thread_local int64_t inputs_size_, moved_size_;
};
template <typename T>
thread_local std::unique_ptr<T[]> Task<T>::inputs_;
template <typename T>
thread_local std::unique_ptr<T[]> Task<T>::moved_;
template <typename T>
thread_local int64_t Task<T>::inputs_size_ = 0;
template <typename T>
thread_local int64_t Task<T>::moved_size_ = 0;

template <typename T>
void run(const PairsGram& x, int threads) {
    // samples a side of a task: some 256 rows and columns of A, fewer where outputs multiply
    const int64_t each = few_positions(x) ? x.outputs : 1;
    const auto count = [&](int64_t samples, int64_t positions) {
        return std::max<int64_t>(1, std::min(samples, 256 / (positions * each)));
    };
    const int64_t high = count(x.n, x.t), wide = count(x.m, x.s);
    const int64_t down = (x.n + high - 1) / high, across = (x.m + wide - 1) / wide;
    in_parallel(down * across, threads, [&](int64_t task) {
        const int64_t n = task / across * high, m = task % across * wide;
        const int64_t n1 = std::min(x.n, n + high), m1 = std::min(x.m, m + wide);
        if (!x.lower || m <= n1 - 1) {
            Task<T>(x, n, n1, m, m1).run();
        }
    });
}

}  // namespace

void pairs_gram(const PairsGram& x, bool is_double, int threads) {
    is_double ? run<double>(x, threads) : run<float>(x, threads);
}

}  // namespace entk
