// Included once per instruction set by gemm.cpp, which defines Simd<T>, kRows and the target first.
// No standard templates in here: compiled for one instruction set, they could end up in another's code.

// c[i, j] for kRows rows and the first NV vectors of a panel of b, over a depth of at most kDepth.
template <typename T, int NV, int PANEL>
static void micro(int64_t depth, const T* a, const T* b, T* c, int64_t stride, bool fresh) {
    using S = Simd<T>;
    typename S::V sum[kRows][NV];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            sum[i][j] = S::zero();
        }
    }
    for (int64_t p = 0; p < depth; ++p, b += PANEL * S::lanes) {
        typename S::V right[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            right[j] = S::load(b + j * S::lanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
            const typename S::V left = S::broadcast(a + i * kPitch<T> + p);
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) {
                sum[i][j] = S::fma(left, right[j], sum[i][j]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            T* at = c + i * stride + j * S::lanes;
            S::store(at, fresh ? sum[i][j] : S::add(S::load(at), sum[i][j]));
        }
    }
}

// Rows [p], each kPitch apart; up to the next multiple of kRows with zeros.
template <typename T>
static void pack_rows(const Operand<T>& a, int64_t row, int64_t rows, int64_t start, int64_t depth,
                      T* to) {
    constexpr int64_t pitch = kPitch<T>, square = Simd<T>::square;
    int64_t r = 0;
    while (r < rows) {
        const T* from = a.at(row + r) + start * a.depth;
        if (a.depth == 1) {
            __builtin_memcpy(to + r * pitch, from, sizeof(T) * depth);
            ++r;
            continue;
        }
        const int64_t left = a.inner - (row + r) % a.inner;  // rows until the next jump
        const int64_t run = left < rows - r ? left : rows - r;
        const bool squares = run >= square && a.row == 1;
        const int64_t high = squares ? square : 1;
        int64_t p = 0;
        for (; squares && p + square <= depth; p += square) {
            Simd<T>::transpose(from + p * a.depth, a.depth, to + r * pitch + p, pitch);
        }
        for (; p < depth; ++p) {
            for (int64_t i = 0; i < high; ++i) {
                to[(r + i) * pitch + p] = from[i * a.row + p * a.depth];
            }
        }
        r += high;
    }
    for (; r % kRows != 0; ++r) {
        __builtin_memset(to + r * pitch, 0, sizeof(T) * depth);
    }
}

// Columns (rows of b) as panels [p][width], up to the next multiple of the width with zeros.
template <typename T, int NV>
static void pack_columns(const Operand<T>& b, int64_t column, int64_t columns, int64_t start,
                         int64_t depth, T* to) {
    constexpr int64_t width = NV * Simd<T>::lanes, square = Simd<T>::square;
    for (int64_t q = 0; q < columns; q += width, to += width * depth) {
        const int64_t some = columns - q < width ? columns - q : width;
        int64_t w = 0;
        while (w < some) {
            const int64_t r = column + q + w;
            const int64_t left = b.inner - r % b.inner;  // columns until the next jump
            const int64_t run = left < some - w ? left : some - w;
            const T* from = b.at(r) + start * b.depth;
            if (b.depth != 1) {
                for (int64_t p = 0; p < depth; ++p) {
                    for (int64_t i = 0; i < run; ++i) {
                        to[p * width + w + i] = from[i * b.row + p * b.depth];
                    }
                }
                w += run;
            } else if (run >= square) {
                int64_t p = 0;
                for (; p + square <= depth; p += square) {
                    Simd<T>::transpose(from + p, b.row, to + p * width + w, width);
                }
                for (; p < depth; ++p) {
                    for (int64_t i = 0; i < square; ++i) {
                        to[p * width + w + i] = from[i * b.row + p];
                    }
                }
                w += square;
            } else {
                for (int64_t p = 0; p < depth; ++p) {
                    to[p * width + w] = from[p];
                }
                ++w;
            }
        }
        for (int64_t p = 0; w < width && p < depth; ++p) {
            __builtin_memset(to + p * width + w, 0, sizeof(T) * (width - w));
        }
    }
}

template <typename T, int NV>
static void multiply_block(const Product<T>& x, int64_t row, int64_t rows, int64_t column,
                           int64_t columns, int64_t depth, bool fresh, const T* a, const T* b) {
    constexpr int64_t width = NV * Simd<T>::lanes;
    for (int64_t j = 0; j < columns; j += width) {
        for (int64_t i = 0; i < rows; i += kRows) {
            const int64_t high = rows - i < kRows ? rows - i : kRows;
            const int64_t wide = columns - j < width ? columns - j : width;
            if (x.lower && column + j > row + i + high - 1 + x.diagonal) {
                continue;
            }
            T* c = x.c + (row + i) * x.stride + column + j;
            const T *left = a + i * kPitch<T>, *right = b + j * depth;
            if (high == kRows && wide == width) {
                micro<T, NV, NV>(depth, left, right, c, x.stride, fresh);
                continue;
            }
            if (high == kRows && wide == Simd<T>::lanes) {
                micro<T, 1, NV>(depth, left, right, c, x.stride, fresh);
                continue;
            }
            alignas(64) T edge[kRows * width];
            wide <= Simd<T>::lanes ? micro<T, 1, NV>(depth, left, right, edge, width, true)
                                   : micro<T, NV, NV>(depth, left, right, edge, width, true);
            for (int64_t r = 0; r < high; ++r) {
                for (int64_t q = 0; q < wide; ++q) {
                    T& at = c[r * x.stride + q];
                    at = (fresh ? T(0) : at) + edge[r * width + q];
                }
            }
        }
    }
}

template <typename T, int NV>
static void multiply(const Product<T>& x, T* left, T* right) {
    for (int64_t j = 0; j < x.columns; j += kColumnBlock) {
        const int64_t wide = x.columns - j < kColumnBlock ? x.columns - j : kColumnBlock;
        for (int64_t p = 0; p < x.depth; p += kDepth) {
            const int64_t deep = x.depth - p < kDepth ? x.depth - p : kDepth;
            pack_columns<T, NV>(x.b, j, wide, p, deep, right);
            for (int64_t i = 0; i < x.rows; i += kRowBlock) {
                const int64_t high = x.rows - i < kRowBlock ? x.rows - i : kRowBlock;
                if (x.lower && j > i + high - 1 + x.diagonal) {
                    continue;
                }
                pack_rows<T>(x.a, i, high, p, deep, left);
                const bool fresh = x.fresh && p == 0;
                multiply_block<T, NV>(x, i, high, j, wide, deep, fresh, left, right);
            }
        }
    }
}
