// Independent tasks over the threads that torch grants.
//
// The extension links no OpenMP, as a second runtime in one process is a known source of trouble, but it
// borrows the one that torch has loaded if there is one: torch's idle workers wait in busy loops
// for some milliseconds, and other threads would have to share their cores with them.
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

// libgomp's entry, or libomp's of the same name, and what tells a region its size; null: not there.
struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*size)() = nullptr;
};
inline OpenMP& openmp() {
    static OpenMP found;
    return found;
}

// body() on up to `threads` threads, this one among them; says how many there are before any begins.
template <typename Body>
void on_threads(int threads, std::atomic<int64_t>& count, const Body& body) {
    if (openmp().parallel != nullptr && threads > 1) {
        struct Region {
            const Body& body;
            std::atomic<int64_t>& count;
        } region{body, count};
        openmp().parallel(
            [](void* data) {
                Region& r = *static_cast<Region*>(data);
                r.count = openmp().size();  // the same on all of them
                r.body();
            },
            &region, static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> pool;
    std::mutex counted;
    {
        const std::lock_guard<std::mutex> lock(counted);
        try {
            for (int t = 1; t < threads; ++t) {
                pool.emplace_back([&] {
                    { const std::lock_guard<std::mutex> wait(counted); }
                    body();
                });
            }
        } catch (const std::system_error&) {
            // the machine grants no more threads: those there are do the work, with the same bits
        }
        count = static_cast<int64_t>(pool.size()) + 1;
    }
    body();
    for (auto& thread : pool) {
        thread.join();
    }
}

// work(task) for each task in [0, tasks).
template <typename Work>
void in_parallel(int64_t tasks, int threads, const Work& work) {
    std::atomic<int64_t> next{0}, count{1};
    std::exception_ptr failure;
    std::mutex guard;
    on_threads(static_cast<int>(std::min<int64_t>(threads, tasks)), count, [&] {
        try {
            for (int64_t task; (task = next.fetch_add(1)) < tasks;) {
                work(task);
            }
        } catch (...) {  // no memory: told to the caller, once all have stopped
            next = tasks;
            const std::lock_guard<std::mutex> lock(guard);
            failure = std::current_exception();
        }
    });
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
        on_threads(threads, team.size_, [&] { program(team); });
    }

  private:
    static constexpr int kSpins = 2000;  // some 10 us: about what falling asleep costs
    int64_t arrived_ = 0;
    std::atomic<int64_t> size_{1}, next_{0}, phase_{0};
    std::mutex mutex_;
    std::condition_variable all_here_;
};

}  // namespace entk
