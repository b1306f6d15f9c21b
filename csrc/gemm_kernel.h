// Included once per instruction set by gemm.cpp, which defines Simd<T>, kRows and the target first.
// No standard templates in here: compiled for one instruction set, they could end up in another's code.

// c[i, j] for ROWS rows and the first NV vectors of a panel of b, over a depth of at most kDepth;
// rows lie PITCH apart, or `pitch` if that is 0.
template <typename T, int ROWS, int NV, int PANEL, int64_t PITCH>
static void micro(int64_t depth, const T* a, int64_t pitch, const T* b, T* c, int64_t stride,
                  bool fresh) {
    using S = Simd<T>;
    typename S::V sum[ROWS][NV];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
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
        for (int i = 0; i < ROWS; ++i) {
            const typename S::V left = S::broadcast(a + i * (PITCH ? PITCH : pitch) + p);
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) {
                sum[i][j] = S::fma(left, right[j], sum[i][j]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
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

// A block of rows, packed or read where they lie, [i] at left + i * pitch.
template <typename T>
struct Rows {
    const T* left;
    int64_t pitch;
};

// The corner of c that one call of the micro kernel makes: `high` of ROWS rows, `wide` columns.
template <typename T, int ROWS, int NV, int64_t PITCH>
static void corner(int64_t depth, Rows<T> a, const T* b, T* c, int64_t stride, int64_t high,
                   int64_t wide, bool fresh) {
    constexpr int64_t width = NV * Simd<T>::lanes;
    const bool half = wide <= Simd<T>::lanes;
    if (high == ROWS && (wide == width || wide == Simd<T>::lanes)) {
        half ? micro<T, ROWS, 1, NV, PITCH>(depth, a.left, a.pitch, b, c, stride, fresh)
             : micro<T, ROWS, NV, NV, PITCH>(depth, a.left, a.pitch, b, c, stride, fresh);
        return;
    }
    alignas(64) T edge[ROWS * width];
    half ? micro<T, ROWS, 1, NV, PITCH>(depth, a.left, a.pitch, b, edge, width, true)
         : micro<T, ROWS, NV, NV, PITCH>(depth, a.left, a.pitch, b, edge, width, true);
    for (int64_t r = 0; r < high; ++r) {
        for (int64_t q = 0; q < wide; ++q) {
            T& at = c[r * stride + q];
            at = (fresh ? T(0) : at) + edge[r * width + q];
        }
    }
}

template <typename T, int NV, int64_t PITCH>
static void multiply_block(const Product<T>& x, int64_t row, int64_t rows, int64_t column,
                           int64_t columns, int64_t depth, bool fresh, Rows<T> a, const T* b) {
    constexpr int64_t width = NV * Simd<T>::lanes;
    for (int64_t j = 0; j < columns; j += width) {
        const int64_t wide = columns - j < width ? columns - j : width;
        int64_t high = 0;
        for (int64_t i = 0; i < rows; i += high) {
            const int64_t rest = rows - i;
            const bool few = rest <= kFew || (rest > kRows && rest <= 2 * kFew);
            high = few ? kFew : kRows;
            high = rest < high ? rest : high;
            if (x.lower && column + j > row + i + high - 1 + x.diagonal) {
                continue;
            }
            T* c = x.c + (row + i) * x.stride + column + j;
            const Rows<T> left{a.left + i * a.pitch, a.pitch};
            const T* right = b + j * depth;
            few ? corner<T, kFew, NV, PITCH>(depth, left, right, c, x.stride, high, wide, fresh)
                : corner<T, kRows, NV, PITCH>(depth, left, right, c, x.stride, high, wide, fresh);
        }
    }
}

// Whole panels of rows that are dense along the depth are read where they lie, but where rows a
// multiple of 4 KiB apart would share one set of L1.
template <typename T>
static int64_t rows_in_place(const Product<T>& x) {
    const bool plain = x.a.depth == 1 && x.a.inner >= x.rows;
    const bool aliased = x.a.row * sizeof(T) % 4096 == 0;
    return plain && !aliased ? x.rows / kRows * kRows : 0;
}

template <typename T, int NV>
static void multiply(const Product<T>& x, T* left, T* right) {
    for (int64_t j = 0; j < x.columns; j += kColumnBlock) {
        const int64_t wide = x.columns - j < kColumnBlock ? x.columns - j : kColumnBlock;
        for (int64_t p = 0; p < x.depth; p += kDepth) {
            const int64_t deep = x.depth - p < kDepth ? x.depth - p : kDepth;
            const bool fresh = x.fresh && p == 0;
            pack_columns<T, NV>(x.b, j, wide, p, deep, right);
            int64_t i = rows_in_place(x);
            if (i > 0) {
                const Rows<T> rows{x.a.data + p, x.a.row};
                multiply_block<T, NV, 0>(x, 0, i, j, wide, deep, fresh, rows, right);
            }
            for (; i < x.rows; i += kRowBlock) {
                const int64_t high = x.rows - i < kRowBlock ? x.rows - i : kRowBlock;
                if (x.lower && j > i + high - 1 + x.diagonal) {
                    continue;
                }
                pack_rows<T>(x.a, i, high, p, deep, left);
                const Rows<T> rows{left, kPitch<T>};
                multiply_block<T, NV, kPitch<T>>(x, i, high, j, wide, deep, fresh, rows, right);
            }
        }
    }
}

// c[r, q] += sum_p a[r, p] b[q, p] for R rows and Q columns, both read where they lie.
template <typename T, int R, int Q>
static void dot_block(const Product<T>& x, int64_t row, int64_t column) {
    using S = Simd<T>;
    const T *a = x.a.data + row * x.a.row, *b = x.b.data + column * x.b.row;
    typename S::V sum[R][Q];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < Q; ++j) {
            sum[i][j] = S::zero();
        }
    }
    int64_t p = 0;
    for (; p + S::lanes <= x.depth; p += S::lanes) {
        typename S::V right[Q];
#pragma GCC unroll 8
        for (int j = 0; j < Q; ++j) {
            right[j] = S::load(b + j * x.b.row + p);
        }
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const typename S::V left = S::load(a + i * x.a.row + p);
#pragma GCC unroll 8
            for (int j = 0; j < Q; ++j) {
                sum[i][j] = S::fma(left, right[j], sum[i][j]);
            }
        }
    }
    for (int i = 0; i < R; ++i) {
        for (int j = 0; j < Q; ++j) {
            alignas(64) T lanes[S::lanes];
            S::store(lanes, sum[i][j]);
            T total = 0;
            for (int l = 0; l < S::lanes; ++l) {
                total += lanes[l];
            }
            for (int64_t rest = p; rest < x.depth; ++rest) {
                total += a[i * x.a.row + rest] * b[j * x.b.row + rest];
            }
            x.c[(row + i) * x.stride + column + j] += total;
        }
    }
}

// A block of at most R rows and Q columns.
template <typename T, int R, int Q>
static void dot_block_of(const Product<T>& x, int64_t row, int64_t high, int64_t column,
                         int64_t wide) {
    if constexpr (R > 1) {
        if (high < R) {
            return dot_block_of<T, R - 1, Q>(x, row, high, column, wide);
        }
    }
    if constexpr (Q > 1) {
        if (wide < Q) {
            return dot_block_of<T, R, Q - 1>(x, row, high, column, wide);
        }
    }
    dot_block<T, R, Q>(x, row, column);
}

// Blocks of equal size rather than a small last one.
template <typename T>
static void dots(const Product<T>& x) {
    const int64_t down = (x.rows + kDots - 1) / kDots, across = (x.columns + kDots - 1) / kDots;
    for (int64_t i = 0; i < down; ++i) {
        const int64_t row = i * x.rows / down, high = (i + 1) * x.rows / down - row;
        for (int64_t j = 0; j < across; ++j) {
            const int64_t column = j * x.columns / across;
            if (x.lower && column > row + high - 1 + x.diagonal) {
                break;
            }
            const int64_t wide = (j + 1) * x.columns / across - column;
            dot_block_of<T, kDots, kDots>(x, row, high, column, wide);
        }
    }
}
