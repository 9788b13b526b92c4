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

// The most parts of a member's rows, and threads for a call, that are worth their own overhead.
template <class S>
static double worthwhile(const Problem<S>& p) {
  constexpr double part_products = 5e5;
  return 3. * p.rows * p.time * p.units * (p.features + p.units) / part_products;
}
template <class S>
static int64_t worthwhile_parts(const Problem<S>& p) {
  return clamped(static_cast<int64_t>(worthwhile(p)), 1, std::max<int64_t>(1, p.rows));
}
template <class S>
static int64_t worthwhile_threads(const Problem<S>& p) {
  return std::max<int64_t>(1, static_cast<int64_t>(p.members * worthwhile(p)));
}

// The panels of a call's weights, one set of them where all members share their weights.
template <class S>
class Packed {
 public:
  Packed(const Problem<S>& p, bool backward)
      : p_(p),
        backward_(backward),
        size_(kernel<S>().packed_size(p, backward)),
        memory_((p.shares_weights() ? 1 : p.members) * size_) {}

  char* of(int64_t m) const { return memory_.get() + (p_.shares_weights() ? 0 : m * size_); }
  void pack(int64_t m) const { kernel<S>().pack(p_.member(m), backward_, of(m)); }

 private:
  const Problem<S>& p_;
  const bool backward_;
  const size_t size_;
  const Memory memory_;
};

template <class S>
void run_forward(const Problem<S>& p, const Threads& threads) {
  const Kernel<S>& k = kernel<S>();
  const Packed<S> packed(p, false);
  // More parts than threads, where that leaves some tiles to each, make up for a busy thread.
  const int64_t wanted = p.rows >= 48 * threads.count ? 2 * threads.count : threads.count;
  const int64_t each = wanted / std::max<int64_t>(1, p.members);
  const int64_t parts = clamped(each, 1, worthwhile_parts(p));
  Work work{p.members, parts, k.scratch_size(p, false), p.shares_weights()};
  work.prepare = [&](int64_t m) { packed.pack(m); };
  work.run = [&](int64_t m, int64_t part, void* scratch) {
    k.forward(p.member(m), packed.of(m), scratch, p.rows * part / parts,
              p.rows * (part + 1) / parts);
  };
  Parts::run(std::move(work), threads, worthwhile_threads(p));
}

// The parts of a member's backward pass depend on the call alone and not on the threads, so that
// the sums of gradients are the same on every machine. There are few parts where the sums are
// large, and where there are other members to keep the threads busy.
template <class S>
static int64_t backward_parts(const Problem<S>& p, size_t sums_size) {
  constexpr int64_t most_bytes = 32 << 20, most_parts = 64, most_of_members = 32;
  const int64_t by_rows = p.rows <= 64 ? clamped((p.rows + 3) / 4, 1, 4) : p.rows / 16;
  const int64_t by_members = p.members > 1 ? most_of_members / p.members : most_parts;
  const int64_t by_memory = clamped(most_bytes / (sums_size + 1), 2, most_parts);
  const int64_t most = std::min({by_rows, by_members, by_memory, worthwhile_parts(p)});
  return std::max<int64_t>(1, most);
}

template <class S>
void run_backward(const Problem<S>& p, const Gradients<S>& g, const Threads& threads) {
  const Kernel<S>& k = kernel<S>();
  const size_t sums_size = k.sums_size(p, g);
  const int64_t parts = backward_parts(p, sums_size);
  const Packed<S> packed(p, true);
  const Memory sums(p.members * parts * sums_size);
  const auto sums_of = [&](int64_t m, int64_t part) {
    return sums.get() + (m * parts + part) * sums_size;
  };
  Work work{p.members, parts, k.scratch_size(p, true), p.shares_weights()};
  work.prepare = [&](int64_t m) { packed.pack(m); };
  work.run = [&](int64_t m, int64_t part, void* scratch) {
    k.backward(p.member(m), g.member(p, m), packed.of(m), scratch, sums_of(m, part),
               p.rows * part / parts, p.rows * (part + 1) / parts);
  };
  work.finish = [&](int64_t m) {
    if (g.weights()) k.add_up(p, g.member(p, m), sums_of(m, 0), parts);
  };
  Parts::run(std::move(work), threads, worthwhile_threads(p));
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

int gruflax_interface() { return 2; }

size_t gruflax_peak_scratch() {
  return gruflax::Memory::peak_bytes.exchange(gruflax::Memory::held_bytes);
}
