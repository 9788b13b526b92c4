#include "run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "parts.h"

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
void run_forward(const Problem<S>& p, const Threads& threads) {
  const Kernel<S>& k = kernel<S>();
  const Memory packed(k.packed_size(p, false));
  // More parts than threads, where that leaves some tiles to each, make up for a busy thread.
  const int64_t wanted = p.rows >= 48 * threads.count ? 2 * threads.count : threads.count;
  const int64_t count = clamped(wanted, 1, worthwhile_parts(p));
  const auto parts = std::make_shared<Parts>(
      count, k.scratch_size(p, false), [&] { k.pack(p, false, packed.get()); },
      [&, count](int64_t part, void* scratch) {
        k.forward(p, packed.get(), scratch, p.rows * part / count, p.rows * (part + 1) / count);
      });
  Parts::run(parts, threads);
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
void run_backward(const Problem<S>& p, const Gradients<S>& g, const Threads& threads) {
  const Kernel<S>& k = kernel<S>();
  const size_t sums_size = k.sums_size(p, g);
  const int64_t count = backward_parts(p, sums_size);
  const Memory packed(k.packed_size(p, true)), sums(count * sums_size);
  const auto parts = std::make_shared<Parts>(
      count, k.scratch_size(p, true), [&] { k.pack(p, true, packed.get()); },
      [&, count](int64_t part, void* scratch) {
        k.backward(p, g, packed.get(), scratch, sums.get() + part * sums_size,
                   p.rows * part / count, p.rows * (part + 1) / count);
      });
  Parts::run(parts, threads);
  if (g.weights()) k.add_up(p, g, sums.get(), count);
}

template void run_forward(const Problem<float>&, const Threads&);
template void run_forward(const Problem<double>&, const Threads&);
template void run_backward(const Problem<float>&, const Gradients<float>&, const Threads&);
template void run_backward(const Problem<double>&, const Gradients<double>&, const Threads&);

}  // namespace gruflax

const char* gruflax_use(const char* name) {
  const gruflax::InstructionSet* set = gruflax::find_set(name);
  if (set) gruflax::chosen_set = set;
  return set ? set->name : nullptr;
}

int gruflax_interface() { return 1; }

size_t gruflax_peak_scratch() {
  return gruflax::Memory::peak_bytes.exchange(gruflax::Memory::held_bytes);
}
