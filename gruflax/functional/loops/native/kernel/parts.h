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

// What the threads of a call share. It outlives the call where a task comes too late to find a
// part.
class Parts {
 public:
  // `prepare` is run before all parts, which get `scratch_size` bytes that are their thread's.
  Parts(int64_t count, size_t scratch_size, std::function<void()> prepare,
        std::function<void(int64_t part, void* scratch)> run)
      : count_(count),
        scratch_size_(scratch_size),
        prepare_(std::move(prepare)),
        run_(std::move(run)) {}

  // Prepares and runs all parts, here and on other threads, and throws what one of these threw.
  // This thread takes its share, and waits only for what another one works on: a pool without a
  // free thread delays nothing, nor does one that runs a task in the thread that schedules it.
  static void run(const std::shared_ptr<Parts>& parts, const Threads& threads) {
    const int64_t helpers = std::min(parts->count_, threads.count) - 1;
    wake(parts, threads, helpers);
    parts->prepare();
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
          parts->prepare();
          parts->work();
        });
    } catch (...) {
      // The call goes on with the helpers that it has; it could do without any.
    }
  }

  // Whoever comes first prepares, and the others wait until that is done. A task that comes after
  // the call touches nothing of it: the preparation is done, and no part is left.
  void prepare() {
    if (!claimed_.exchange(true)) {
      attempt(prepare_);
      prepared_ = true;
    }
    while (!prepared_) std::this_thread::yield();
  }

  // After a failure the parts that are left are only counted.
  void work() {
    std::optional<Memory> scratch;
    for (int64_t part; (part = next_.fetch_add(1)) < count_;
         done_.fetch_add(1, std::memory_order_release))
      if (!failed_)
        attempt([&] {
          if (!scratch) scratch.emplace(scratch_size_);
          run_(part, scratch->get());
        });
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

  const int64_t count_;
  const size_t scratch_size_;
  const std::function<void()> prepare_;
  const std::function<void(int64_t, void*)> run_;
  std::atomic<int64_t> next_{0}, done_{0}, arrived_{0};
  std::atomic<bool> claimed_{false}, prepared_{false}, failed_{false};
  std::exception_ptr failure_;
};

}  // namespace gruflax
