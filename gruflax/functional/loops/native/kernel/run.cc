#include "run.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

namespace gruflax {

// Each is defined in its own object file by kernel.cc; the best comes first.
#if defined(__x86_64__)
#define GRUFLAX_SETS(use) use(avx512) use(avx2) use(baseline)
#else
#define GRUFLAX_SETS(use) use(baseline)
#endif
#define GRUFLAX_DECLARE(set)        \
  namespace set {                   \
  extern const InstructionSet kSet; \
  }
GRUFLAX_SETS(GRUFLAX_DECLARE)
#define GRUFLAX_ADDRESS(set) &set::kSet,
static const InstructionSet* const kSets[] = {GRUFLAX_SETS(GRUFLAX_ADDRESS)};

static const InstructionSet* find_set(const char* name) {
  for (const InstructionSet* set : kSets)
    if (set->runs_here() && (!name || !std::strcmp(name, set->name))) return set;
  return nullptr;
}

static std::atomic<const InstructionSet*> chosen_set{find_set(nullptr)};

template <class S>
static const Kernel<S>& kernel();
template <>
const Kernel<float>& kernel<float>() {
  return chosen_set.load()->single;
}
template <>
const Kernel<double>& kernel<double>() {
  return chosen_set.load()->twice;
}

static std::atomic<size_t> held_bytes{0}, peak_bytes{0};

// Aligned memory that is counted; null where there is none.
class Memory {
 public:
  explicit Memory(size_t size)
      : size_((size + 63) / 64 * 64), start_(std::aligned_alloc(64, size_ ? size_ : 64)) {
    const size_t now = held_bytes += size_;
    for (size_t peak = peak_bytes; now > peak && !peak_bytes.compare_exchange_weak(peak, now);) {
    }
  }
  Memory(const Memory&) = delete;
  ~Memory() {
    held_bytes -= size_;
    std::free(start_);
  }
  char* get() const { return static_cast<char*>(start_); }

 private:
  const size_t size_;
  void* const start_;
};

// What the threads of a call share. It outlives the call where a task comes too late to find a
// part.
class Parts {
 public:
  Parts(int64_t count, size_t scratch_size) : count_(count), scratch_size_(scratch_size) {}

  // Runs `prepare` here and then all parts, here and on other threads; false where there is no
  // memory. This thread takes parts too, and waits only for those that somebody works on: a pool
  // without a free thread delays nothing.
  static bool run(std::shared_ptr<Parts> parts, const Threads& threads,
                  const std::function<void()>& prepare,
                  std::function<void(int64_t part, void* scratch)> run) {
    const int64_t helpers = std::min(parts->count_, threads.count) - 1;
    parts->run_ = std::move(run);
    wake(parts, threads, helpers);
    prepare();
    parts->prepared_ = true;
    // A thread that was woken while all cores were busy waits for the one that woke it, and comes
    // when the work is done; one that is woken now may find a core idle.
    wake(parts, threads, helpers - parts->arrived_);
    parts->work();
    while (parts->done_.load(std::memory_order_acquire) < parts->count_) std::this_thread::yield();
    return !parts->failed_;
  }

 private:
  static void wake(const std::shared_ptr<Parts>& parts, const Threads& threads, int64_t helpers) {
    for (int64_t i = 0; i < helpers; ++i)
      threads.schedule([parts] {
        ++parts->arrived_;
        while (!parts->prepared_) std::this_thread::yield();
        parts->work();
      });
  }

  void work() {
    if (next_ >= count_) return;
    const Memory scratch(scratch_size_);
    if (!scratch.get()) failed_ = true;
    for (int64_t part; (part = next_.fetch_add(1)) < count_;
         done_.fetch_add(1, std::memory_order_release))
      if (!failed_) run_(part, scratch.get());
  }

  const int64_t count_;
  const size_t scratch_size_;
  std::function<void(int64_t, void*)> run_;
  std::atomic<int64_t> next_{0}, done_{0}, arrived_{0};
  std::atomic<bool> prepared_{false}, failed_{false};
};

static int64_t clamped(int64_t value, int64_t least, int64_t most) {
  return value > most ? most : value < least ? least : value;
}

// The most parts that are worth waking threads for.
template <class S>
static int64_t worthwhile_parts(const Problem<S>& p) {
  constexpr double part_products = 5e5;
  const double products = 3. * p.rows * p.time * p.units * (p.features + p.units);
  return clamped(static_cast<int64_t>(products / part_products), 1, p.rows);
}

template <class S>
bool run_forward(const Problem<S>& p, const Threads& threads) {
  const Kernel<S>& k = kernel<S>();
  const Memory packed(k.packed_size(p, false));
  if (!packed.get()) return false;
  // More parts than threads, where that leaves some tiles to each, make up for a busy thread.
  const int64_t wanted = p.rows >= 48 * threads.count ? 2 * threads.count : threads.count;
  const int64_t count = clamped(wanted, 1, worthwhile_parts(p));
  return Parts::run(
      std::make_shared<Parts>(count, k.scratch_size(p, false)), threads,
      [&] { k.pack(p, false, packed.get()); },
      [&, count](int64_t part, void* scratch) {
        k.forward(p, packed.get(), scratch, p.rows * part / count, p.rows * (part + 1) / count);
      });
}

// The parts of a backward pass hang on the call alone, not on the threads: sums of gradients are
// the same on every machine. They are few where the sums are large.
template <class S>
static int64_t backward_parts(const Problem<S>& p, size_t sums_size) {
  constexpr int64_t most_bytes = 32 << 20, most_parts = 64;
  const int64_t by_rows = p.rows <= 64 ? (p.rows + 3) / 4 : p.rows / 16;
  const int64_t by_memory = clamped(most_bytes / (sums_size + 1), 2, most_parts);
  return clamped(p.rows <= 64 ? clamped(by_rows, 1, 4) : by_rows, 1,
                 clamped(worthwhile_parts(p), 1, by_memory));
}

template <class S>
bool run_backward(const Problem<S>& p, const Gradients<S>& g, const Threads& threads) {
  const Kernel<S>& k = kernel<S>();
  const size_t sums_size = k.sums_size(p, g);
  const int64_t count = backward_parts(p, sums_size);
  const Memory packed(k.packed_size(p, true)), sums(count * sums_size);
  if (!packed.get() || !sums.get()) return false;
  const bool done = Parts::run(
      std::make_shared<Parts>(count, k.scratch_size(p, true)), threads,
      [&] { k.pack(p, true, packed.get()); },
      [&, count](int64_t part, void* scratch) {
        k.backward(p, g, packed.get(), scratch, sums.get() + part * sums_size,
                   p.rows * part / count, p.rows * (part + 1) / count);
      });
  if (done && g.weights()) k.add_up(p, g, sums.get(), count);
  return done;
}

template bool run_forward(const Problem<float>&, const Threads&);
template bool run_forward(const Problem<double>&, const Threads&);
template bool run_backward(const Problem<float>&, const Gradients<float>&, const Threads&);
template bool run_backward(const Problem<double>&, const Gradients<double>&, const Threads&);

}  // namespace gruflax

const char* gruflax_use(const char* name) {
  const gruflax::InstructionSet* set = gruflax::find_set(name);
  if (set) gruflax::chosen_set = set;
  return set ? set->name : nullptr;
}

int gruflax_interface() { return 1; }

size_t gruflax_peak_scratch() { return gruflax::peak_bytes.exchange(gruflax::held_bytes); }
