#include "run.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

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
  explicit Memory(size_t size) : size_((size + 63) / 64 * 64), start_(std::aligned_alloc(64, size_ ? size_ : 64)) {
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

// What the threads of a call share. It outlives the call where a task comes too late to find a part.
struct Parts {
  int64_t count;
  size_t scratch_size;
  std::function<void(int64_t part, void* scratch)> run;
  std::atomic<int64_t> next{0}, done{0};
  std::atomic<bool> failed{false};

  void work() {
    if (next >= count) return;
    const Memory scratch(scratch_size);
    if (!scratch.get()) failed = true;
    for (int64_t part; (part = next.fetch_add(1)) < count; done.fetch_add(1, std::memory_order_release))
      if (!failed) run(part, scratch.get());
  }
};

// Runs all parts, here and on other threads. This thread takes parts too, and waits only for those
// that somebody works on: a pool without a free thread delays nothing.
static bool run_parts(const std::shared_ptr<Parts>& parts, const Threads& threads) {
  for (int64_t i = 1; i < parts->count && i < threads.count; ++i)
    threads.schedule([parts] { parts->work(); });
  parts->work();
  while (parts->done.load(std::memory_order_acquire) < parts->count) std::this_thread::yield();
  return !parts->failed;
}

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
  k.pack(p, false, packed.get());
  auto parts = std::make_shared<Parts>();
  // More parts than threads, where that leaves some tiles to each, make up for a busy thread.
  const int64_t wanted = p.rows >= 48 * threads.count ? 2 * threads.count : threads.count;
  parts->count = clamped(wanted, 1, worthwhile_parts(p));
  parts->scratch_size = k.scratch_size(p, false);
  parts->run = [&p, &k, &packed, count = parts->count](int64_t part, void* scratch) {
    k.forward(p, packed.get(), scratch, p.rows * part / count, p.rows * (part + 1) / count);
  };
  return run_parts(parts, threads);
}

// The parts of a backward pass hang on the call alone, not on the threads: sums of gradients are the
// same on every machine. They are few where the sums are large.
template <class S>
static int64_t backward_parts(const Problem<S>& p, size_t sums_size) {
  constexpr int64_t most_bytes = 64 << 20, most_parts = 64;
  const int64_t by_rows = p.rows <= 64 ? (p.rows + 3) / 4 : p.rows / 16;
  const int64_t by_memory = clamped(most_bytes / (sums_size + 1), 2, most_parts);
  return clamped(p.rows <= 64 ? clamped(by_rows, 1, 4) : by_rows, 1,
                 clamped(worthwhile_parts(p), 1, by_memory));
}

template <class S>
bool run_backward(const Problem<S>& p, const Gradients<S>& g, const Threads& threads) {
  const Kernel<S>& k = kernel<S>();
  const size_t sums_size = k.sums_size(p, g);
  auto parts = std::make_shared<Parts>();
  parts->count = backward_parts(p, sums_size);
  const Memory packed(k.packed_size(p, true)), sums(parts->count * sums_size);
  if (!packed.get() || !sums.get()) return false;
  k.pack(p, true, packed.get());
  parts->scratch_size = k.scratch_size(p, true);
  parts->run = [&, sums_size, count = parts->count](int64_t part, void* scratch) {
    k.backward(p, g, packed.get(), scratch, sums.get() + part * sums_size, p.rows * part / count,
               p.rows * (part + 1) / count);
  };
  if (!run_parts(parts, threads)) return false;
  if (g.weights()) k.add_up(p, g, sums.get(), parts->count);
  return true;
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

size_t gruflax_peak_scratch() { return gruflax::peak_bytes.exchange(gruflax::held_bytes); }
