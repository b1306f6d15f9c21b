// Independent tasks over the threads that torch grants; no OpenMP, whose second runtime in one process
// is a known source of trouble.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace entk {

// work(task) for each task in [0, tasks), on up to `threads` threads, this one among them.
template <typename Work>
void in_parallel(int64_t tasks, int threads, const Work& work) {
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::mutex guard;
    auto loop = [&] {
        try {
            for (int64_t task; (task = next.fetch_add(1)) < tasks;) {
                work(task);
            }
        } catch (...) {  // no memory: told to the caller, once all have stopped
            next = tasks;
            const std::lock_guard<std::mutex> lock(guard);
            failure = std::current_exception();
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
    if (failure) {
        std::rethrow_exception(failure);
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
        std::unique_lock<std::mutex> lock(mutex_);
        if (++arrived_ == size_) {
            arrived_ = 0;
            next_ = 0;
            phase_ = phase + 1;
            lock.unlock();
            all_here_.notify_all();
            return;
        }
        lock.unlock();
        for (int spin = 0; spin < kSpins && phase_.load() == phase; ++spin) {
        }
        lock.lock();  // asleep, as the others may need this very core
        all_here_.wait(lock, [&] { return phase_.load() != phase; });
    }

    // program(team) on up to `threads` threads, this one among them.
    template <typename Program>
    static void run(int threads, const Program& program) {
        Team team;
        std::vector<std::thread> pool;
        std::unique_lock<std::mutex> lock(team.mutex_);  // none begins before all are counted
        try {
            for (int t = 1; t < threads; ++t) {
                pool.emplace_back([&] {
                    { const std::lock_guard<std::mutex> counted(team.mutex_); }
                    program(team);
                });
            }
        } catch (const std::system_error&) {
            // as in in_parallel
        }
        team.size_ = static_cast<int64_t>(pool.size()) + 1;
        lock.unlock();
        program(team);
        for (auto& thread : pool) {
            thread.join();
        }
    }

  private:
    static constexpr int kSpins = 2000;  // some 10 us: about what falling asleep costs
    int64_t size_ = 1, arrived_ = 0;
    std::atomic<int64_t> next_{0}, phase_{0};
    std::mutex mutex_;
    std::condition_variable all_here_;
};

}  // namespace entk
