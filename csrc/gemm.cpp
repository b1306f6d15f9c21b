// Replaces torch.mm and torch.bmm where PyTorch's BLAS is slow: MKL keeps to AVX2 on AMD processors.
// Blocks, panels and register tiles as in Goto and van de Geijn 2008; its two operands are read
// along their depth ("NT"), the lower triangle alone if that is all that is needed, and nothing is
// spawned: gram.cpp and pairs_gram.cpp decide what runs at once.
// One core of an AMD EPYC (Zen 5), torch 2.13, float32, 640 rows of 36864: 117 GMAC/s where torch.mm has
// 53 (MKL), oneDNN 114, OpenBLAS 113; the lower triangle 206 in terms of the square. It loses
// to them in very thin products (under some 32 rows a side), where packing costs as much as it saves.
#include "gemm.h"

#include <cstdlib>
#include <new>

#if defined(__x86_64__) && defined(__GNUC__)
#define ENTK_GEMM 1
#include <immintrin.h>
#endif

namespace entk {

#ifdef ENTK_GEMM
namespace {

constexpr int64_t kDepth = 256;         // a panel of b, 32 KiB, stays in L1
constexpr int64_t kRowBlock = 336;      // rows of a, 365 KiB, stay in L2
constexpr int64_t kColumnBlock = 1024;  // columns of b, 1 MiB, stay in L2 or L3
template <typename T>
constexpr int64_t kPitch = kDepth + 64 / sizeof(T);  // rows of a must not share a set of L1
constexpr int64_t kLeft = (kRowBlock + 16) * (kDepth + 16);
constexpr int64_t kRight = (kColumnBlock + 32) * kDepth;

// 4 x 4 and 2 x 2 squares are enough: packing is a few percent of the work.
inline void transpose_square(const float* from, int64_t row, float* to, int64_t width) {
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + row);
    __m128 c = _mm_loadu_ps(from + 2 * row), d = _mm_loadu_ps(from + 3 * row);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + width, b);
    _mm_storeu_ps(to + 2 * width, c);
    _mm_storeu_ps(to + 3 * width, d);
}
inline void transpose_square(const double* from, int64_t row, double* to, int64_t width) {
    const __m128d a = _mm_loadu_pd(from), b = _mm_loadu_pd(from + row);
    _mm_storeu_pd(to, _mm_unpacklo_pd(a, b));
    _mm_storeu_pd(to + width, _mm_unpackhi_pd(a, b));
}

#define ENTK_SIMD(SCALAR, VECTOR, LANES, SQUARE, PREFIX, SUFFIX)                                   \
    template <>                                                                                    \
    struct Simd<SCALAR> {                                                                          \
        using V = VECTOR;                                                                          \
        static constexpr int lanes = LANES, square = SQUARE;                                       \
        static inline V zero() { return PREFIX##_setzero_##SUFFIX(); }                             \
        static inline V load(const SCALAR* at) { return PREFIX##_loadu_##SUFFIX(at); }             \
        static inline void store(SCALAR* at, V v) { PREFIX##_storeu_##SUFFIX(at, v); }             \
        static inline V broadcast(const SCALAR* at) { return PREFIX##_set1_##SUFFIX(*at); }        \
        static inline V add(V a, V b) { return PREFIX##_add_##SUFFIX(a, b); }                      \
        static inline V fma(V a, V b, V c) { return PREFIX##_fmadd_##SUFFIX(a, b, c); }            \
        static inline void transpose(const SCALAR* from, int64_t row, SCALAR* to, int64_t width) { \
            transpose_square(from, row, to, width);                                                \
        }                                                                                          \
    };

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#endif
namespace avx512 {
template <typename T>
struct Simd;
ENTK_SIMD(float, __m512, 16, 4, _mm512, ps)
ENTK_SIMD(double, __m512d, 8, 2, _mm512, pd)
constexpr int kRows = 14;  // 28 of 32 registers hold sums
constexpr int kFew = 8;    // the last rows, where they are fewer
constexpr int kDots = 5;   // 25 of them
#include "gemm_kernel.h"
}  // namespace avx512
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
template <typename T>
struct Simd;
ENTK_SIMD(float, __m256, 8, 4, _mm256, ps)
ENTK_SIMD(double, __m256d, 4, 2, _mm256, pd)
constexpr int kRows = 6;  // 12 of 16 registers hold sums
constexpr int kFew = 4;   // the last rows, where they are fewer
constexpr int kDots = 3;  // 9 of them
#include "gemm_kernel.h"
}  // namespace avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

struct Workspace {
    void* left = std::aligned_alloc(64, kLeft * sizeof(double));
    void* right = std::aligned_alloc(64, kRight * sizeof(double));
    Workspace() {
        if (left == nullptr || right == nullptr) {
            throw std::bad_alloc();
        }
    }
    ~Workspace() {
        std::free(left);
        std::free(right);
    }
};

bool wide() {
    static const bool found = __builtin_cpu_supports("avx512f");
    return found;
}

template <typename T>
void dispatch_dots(const Product<T>& x) {
    wide() ? avx512::dots(x) : avx2::dots(x);
}

template <typename T>
void dispatch(const Product<T>& x) {
    static thread_local Workspace workspace;
    T* left = static_cast<T*>(workspace.left);
    T* right = static_cast<T*>(workspace.right);
    if (wide()) {
        x.columns <= avx512::Simd<T>::lanes ? avx512::multiply<T, 1>(x, left, right)
                                            : avx512::multiply<T, 2>(x, left, right);
    } else {
        x.columns <= avx2::Simd<T>::lanes ? avx2::multiply<T, 1>(x, left, right)
                                          : avx2::multiply<T, 2>(x, left, right);
    }
}

}  // namespace

const char* gemm_instructions() {
    if (__builtin_cpu_supports("avx512f")) {
        return "avx512";
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "avx2" : nullptr;
}
void gemm(const Product<float>& product) { dispatch(product); }
void gemm(const Product<double>& product) { dispatch(product); }
void dots(const Product<float>& product) { dispatch_dots(product); }
void dots(const Product<double>& product) { dispatch_dots(product); }

#else

const char* gemm_instructions() { return nullptr; }
void gemm(const Product<float>&) {}
void gemm(const Product<double>&) {}
void dots(const Product<float>&) {}
void dots(const Product<double>&) {}

#endif

}  // namespace entk
