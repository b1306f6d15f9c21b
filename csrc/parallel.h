// Independent tasks over the threads that torch grants; no OpenMP, whose second runtime in one process
// is a known source of trouble.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace entk {

// work(task) for each task in [0, tasks), on up to `threads` threads, this one among them.
template <typename Work>
void in_parallel(int64_t tasks, int threads, const Work& work) {
    std::atomic<int64_t> next{0};
    auto loop = [&] {
        for (int64_t task; (task = next.fetch_add(1)) < tasks;) {
            work(task);
        }
    };
    std::vector<std::thread> pool;
    try {
        for (int64_t t = 1; t < std::min<int64_t>(threads, tasks); ++t) {
            pool.emplace_back(loop);
        }
    } catch (const std::system_error&) {
        // the machine grants no more threads: those there are do the work, with the same bits
    }
    loop();
    for (auto& thread : pool) {
        thread.join();
    }
}

}  // namespace entk
