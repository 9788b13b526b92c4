// Shares the parts of a call out among threads, and counts the memory that they hold.

#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "run.h"

namespace gruflax {

// Aligned memory that is counted; throws std::bad_alloc where there is none.
class Memory {
 public:
  explicit Memory(size_t size)
      : size_((size + kUnit - 1) / kUnit * kUnit), start_(::operator new(size_, kAlignment)) {
    const size_t now = held_bytes += size_;
    for (size_t peak = peak_bytes; now > peak && !peak_bytes.compare_exchange_weak(peak, now);) {
    }
  }
  Memory(const Memory&) = delete;
  ~Memory() {
    held_bytes -= size_;
    ::operator delete(start_, kAlignment);
  }
  char* get() const { return static_cast<char*>(start_); }

  // Of all that are there at a time, now and at most.
  static inline std::atomic<size_t> held_bytes{0}, peak_bytes{0};

 private:
  static constexpr size_t kUnit = 64;
  static constexpr std::align_val_t kAlignment{kUnit};

  const size_t size_;
  void* const start_;
};

// The work of a call: groups of so many parts each. What the parts of a group need is prepared
// before the first of them, once for all groups if that is shared, and their results are put
// together after the last.
struct Work {
  int64_t groups, parts;
  size_t scratch_size;  // bytes that each thread has for itself
  bool shared;
  std::function<void(int64_t group)> prepare = {}, finish = [](int64_t) {};
  std::function<void(int64_t group, int64_t part, void* scratch)> run = {};
};

// What the threads of a call share. It outlives the call where a task comes too late to find a
// part.
class Parts {
 public:
  explicit Parts(Work work)
      : work_(std::move(work)),
        count_(work_.groups * work_.parts),
        groups_(std::make_unique<Group[]>(work_.groups)) {}

  // Does all the work, here and on at most so many threads in all, and throws what one of these
  // threw. This thread takes its share, and waits only for what another one works on: a pool
  // without a free thread delays nothing, nor does one that runs a task in the thread that
  // schedules it.
  static void run(Work work, const Threads& threads, int64_t most_threads) {
    const auto parts = std::make_shared<Parts>(std::move(work));
    if (!parts->count_) return;
    const int64_t helpers = std::min({parts->count_, threads.count, most_threads}) - 1;
    wake(parts, threads, helpers);
    parts->prepare(0);
    // A thread that was woken while all cores were busy waits for the one that woke it, and comes
    // when the work is done; one that is woken now may find a core idle.
    wake(parts, threads, helpers - parts->arrived_);
    parts->work();
    while (parts->done_.load(std::memory_order_acquire) < parts->count_) std::this_thread::yield();
    if (parts->failed_) std::rethrow_exception(std::move(parts->failure_));
  }

 private:
  static void wake(const std::shared_ptr<Parts>& parts, const Threads& threads, int64_t helpers) {
    try {
      for (int64_t i = 0; i < helpers; ++i)
        threads.schedule([parts] {
          ++parts->arrived_;
          parts->work();
        });
    } catch (...) {
      // The call goes on with the helpers that it has; it could do without any.
    }
  }

  struct Group {
    std::atomic<bool> claimed{false}, prepared{false};
    std::atomic<int64_t> done{0};
  };

  // Whoever comes first prepares, and the others wait until that is done.
  void prepare(int64_t group) {
    Group& own = groups_[work_.shared ? 0 : group];
    if (!own.claimed.exchange(true)) {
      attempt([&] { work_.prepare(group); });
      own.prepared = true;
    }
    while (!own.prepared) std::this_thread::yield();
  }

  // A task that comes after the call finds no part, and touches nothing of what the call owned.
  void work() {
    std::optional<Memory> scratch;
    for (int64_t part; (part = next_.fetch_add(1)) < count_;
         done_.fetch_add(1, std::memory_order_release))
      run_part(part / work_.parts, part % work_.parts, scratch);
  }

  // After a failure the parts that are left are only counted.
  void run_part(int64_t group, int64_t part, std::optional<Memory>& scratch) {
    if (!failed_) prepare(group);
    if (!failed_)
      attempt([&] {
        if (!scratch) scratch.emplace(work_.scratch_size);
        work_.run(group, part, scratch->get());
      });
    if (++groups_[group].done == work_.parts && !failed_) attempt([&] { work_.finish(group); });
  }

  // Keeps the first exception for the thread of the call: another thread would not survive it. That
  // thread reads it when all parts are counted, and so nothing else may be attempted.
  template <class Function>
  void attempt(const Function& function) {
    try {
      function();
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
  }

  const Work work_;
  const int64_t count_;
  const std::unique_ptr<Group[]> groups_;
  std::atomic<int64_t> next_{0}, done_{0}, arrived_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
};

}  // namespace gruflax
