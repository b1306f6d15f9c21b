// The CUDA twin of gram_dot.cpp: one pass, float64 sums, no atomics and a fixed grid, so the
// bits depend on shape and strides alone. PyTorch's way reads each kernel three times and writes
// float64 copies. Not measured on a GPU yet: `make gpu` writes benchmarks/results/gpu-gram_dot.csv.
#include "gram_dot.h"

#include <cuda_runtime.h>

namespace entk {
namespace {

constexpr int kBlocks = 1024;
constexpr int kThreads = 256;

__device__ void reduce(double (&sums)[3], double* out) {
    __shared__ double shared[3][kThreads];
    for (int i = 0; i < 3; ++i) {
        shared[i][threadIdx.x] = sums[i];
    }
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            for (int i = 0; i < 3; ++i) {
                shared[i][threadIdx.x] += shared[i][threadIdx.x + half];
            }
        }
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3; ++i) {
            out[i] = shared[i][0];
        }
    }
}

template <typename T>
__global__ void partial(Pair pair, double* scratch) {
    const auto [a, b, rows, columns] = pair;
    double sums[3] = {0, 0, 0};
    const int64_t step = static_cast<int64_t>(kBlocks) * kThreads;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    for (int64_t i = first; i < rows * columns; i += step) {
        const int64_t r = rows == 1 ? 0 : i / columns;  // dense matrices come as one row
        const int64_t c = i - r * columns;
        const double p = static_cast<const T*>(a.data)[r * a.row_stride + c * a.column_stride];
        const double q = static_cast<const T*>(b.data)[r * b.row_stride + c * b.column_stride];
        sums[0] += p * q;
        sums[1] += p * p;
        sums[2] += q * q;
    }
    reduce(sums, scratch + 3 * static_cast<int64_t>(blockIdx.x));
}

__global__ void total(const double* scratch, double* out) {
    double sums[3] = {0, 0, 0};
    for (int block = threadIdx.x; block < kBlocks; block += kThreads) {
        for (int i = 0; i < 3; ++i) {
            sums[i] += scratch[3 * block + i];
        }
    }
    reduce(sums, out);
}

}  // namespace

int64_t gram_dot_cuda_scratch() { return 3 * kBlocks; }

const char* gram_dot_cuda(Pair pair, bool is_double, double* scratch, double* out, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    pair = along_memory(pair);
    if (is_double) {
        partial<double><<<kBlocks, kThreads, 0, queue>>>(pair, scratch);
    } else {
        partial<float><<<kBlocks, kThreads, 0, queue>>>(pair, scratch);
    }
    cudaError_t status = cudaGetLastError();
    if (status == cudaSuccess) {
        total<<<1, kThreads, 0, queue>>>(scratch, out);
        status = cudaGetLastError();
    }
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace entk
