// Divides the work of a call among threads, and counts the memory that they hold.

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

// A block of aligned memory. It counts in what the whole process holds. The constructor throws
// std::bad_alloc if there is no memory.
class Memory {
 public:
  explicit Memory(size_t size)
      : size_((size + kUnit - 1) / kUnit * kUnit), start_(::operator new(size_, kAlignment)) {
    // Another thread may raise the peak at the same time: try again until it is at least `now`.
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

  // The bytes of all blocks: those that exist now, and the most that existed at a time.
  static inline std::atomic<size_t> held_bytes{0}, peak_bytes{0};

 private:
  static constexpr size_t kUnit = 64;
  static constexpr std::align_val_t kAlignment{kUnit};

  const size_t size_;
  void* const start_;
};

// The work of a call. A group is a member of the call, and each group has `parts` parts, which are
// some of its rows. `prepare` runs before the first part of a group, or once for all groups if
// `shared`: it packs the weights. `finish` runs after the last part of a group: it adds up the
// gradients of the parts.
struct Work {
  int64_t groups, parts;
  size_t scratch_size;  // bytes that each thread has for itself
  bool shared;
  std::function<void(int64_t group)> prepare = {}, finish = [](int64_t) {};
  std::function<void(int64_t group, int64_t part, void* scratch)> run = {};
};

// What the threads of a call share. Each thread takes the next part until there is none left.
//
// The thread pool is XLA's, which promises little: a task may run at once in the thread that
// schedules it, long after the call has returned, or never. So the call never waits for a task to
// begin. It waits only until all parts are done, and would do them all itself. A task that begins
// after that finds no part left, but it does look: that is why this object is owned by the tasks
// together, and not by the call.
class Parts {
 public:
  explicit Parts(Work work)
      : work_(std::move(work)),
        count_(work_.groups * work_.parts),
        groups_(std::make_unique<Group[]>(work_.groups)) {}

  // Does all the work in this thread and others, at most `most_threads` together, and throws what
  // one of them threw.
  static void run(Work work, const Threads& threads, int64_t most_threads) {
    const auto parts = std::make_shared<Parts>(std::move(work));
    if (!parts->count_) return;
    const int64_t helpers = std::min({parts->count_, threads.count, most_threads}) - 1;
    wake(parts, threads, helpers);
    parts->prepare(0);
    // Helpers that have not begun by now may be queued behind this thread on its own core, and
    // would come when all is done. As many are scheduled again: these may find an idle core.
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
      // What could not be scheduled is not needed: the work is done with the helpers there are.
    }
  }

  struct Group {
    std::atomic<bool> claimed{false}, prepared{false};
    std::atomic<int64_t> done{0};
  };

  // The first thread that comes prepares the group, and the others wait until it is done: they
  // need what it makes, and cannot go on before.
  void prepare(int64_t group) {
    Group& own = groups_[work_.shared ? 0 : group];
    if (!own.claimed.exchange(true)) {
      attempt([&] { work_.prepare(group); });
      own.prepared = true;
    }
    while (!own.prepared) std::this_thread::yield();
  }

  // Does parts until there is none left. What `work_` points to is gone when the call has returned,
  // so it must not be touched by a thread without a part. The scratch memory belongs to this thread
  // and is allocated for its first part. `done_` is released after each part, for the thread of the
  // call to see all that was written.
  void work() {
    std::optional<Memory> scratch;
    for (int64_t part; (part = next_.fetch_add(1)) < count_;
         done_.fetch_add(1, std::memory_order_release))
      run_part(part / work_.parts, part % work_.parts, scratch);
  }

  // Runs one part. After a failure the parts that are left are only counted, so that the call ends.
  void run_part(int64_t group, int64_t part, std::optional<Memory>& scratch) {
    if (!failed_) prepare(group);
    if (!failed_)
      attempt([&] {
        if (!scratch) scratch.emplace(work_.scratch_size);
        work_.run(group, part, scratch->get());
      });
    if (++groups_[group].done == work_.parts && !failed_) attempt([&] { work_.finish(group); });
  }

  // Calls a function and keeps the first exception for the thread of the call, as an exception that
  // leaves any other thread would end the process. Must be called before the part is counted in
  // `done_`: after the last one the thread of the call may read `failure_` and return.
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
