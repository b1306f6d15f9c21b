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

// Threads that go through phases together: share() returns on all of them once every task is done.
class Team {
  public:
    template <typename Work>
    void share(int64_t tasks, const Work& work) {
        for (int64_t task; (task = next_.fetch_add(1)) < tasks;) {
            work(task);
        }
        const int64_t phase = phase_.load();
        if (arrived_.fetch_add(1) + 1 == size_) {
            arrived_ = 0;
            next_ = 0;
            phase_ = phase + 1;
        }
        while (phase_.load() == phase) {
            std::this_thread::yield();
        }
    }

    // program(team) on up to `threads` threads, this one among them.
    template <typename Program>
    static void run(int threads, const Program& program) {
        Team team;
        std::atomic<bool> start{false};
        std::vector<std::thread> pool;
        try {
            for (int t = 1; t < threads; ++t) {
                pool.emplace_back([&] {
                    while (!start.load()) {
                        std::this_thread::yield();
                    }
                    program(team);
                });
            }
        } catch (const std::system_error&) {
            // as in in_parallel
        }
        team.size_ = static_cast<int64_t>(pool.size()) + 1;
        start = true;
        program(team);
        for (auto& thread : pool) {
            thread.join();
        }
    }

  private:
    int64_t size_ = 1;
    std::atomic<int64_t> next_{0}, arrived_{0}, phase_{0};
};

}  // namespace entk
