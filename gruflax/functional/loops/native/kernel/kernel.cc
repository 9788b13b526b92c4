// The kernels for one instruction set, GRUFLAX_SET, whose flags the compiler gets with this file.
//
// No header of the standard library with code in it may be used here, for its functions lie in no
// namespace of ours: see vectors.h.

#include "backward.h"
#include "forward.h"
#include "problem.h"

namespace gruflax::GRUFLAX_SET {

template <class S>
static size_t packed_size(const Problem<S>& p, bool backward) {
  return Panels<S>(p, backward, nullptr).arena.used;
}

template <class S>
static void pack_all(const Problem<S>& p, bool backward, void* packed) {
  Panels<S>(p, backward, packed).fill(p, backward);
}

template <class S>
static size_t scratch_size(const Problem<S>& p, bool backward) {
  return backward ? Backward<S>(p, {}, nullptr, nullptr, nullptr).arena.used
                  : Forward<S>(p, nullptr, nullptr).arena.used;
}

template <class S>
static void forward(const Problem<S>& p, const void* packed, void* scratch, int64_t first,
                    int64_t end) {
  Forward<S>(p, packed, scratch).run(first, end);
}

template <class S>
static size_t sums_size(const Problem<S>& p, const Gradients<S>& g) {
  return g.weights() ? Sums<S>(p, round_up(p.units, kLanes<S>), nullptr).arena.used : 0;
}

template <class S>
static void backward(const Problem<S>& p, const Gradients<S>& g, const void* packed, void* scratch,
                     void* sums, int64_t first, int64_t end) {
  Backward<S>(p, g, packed, scratch, sums).run(first, end);
}

template <class S>
constexpr Kernel<S> kKernel{packed_size<S>, pack_all<S>, scratch_size<S>, forward<S>,
                            sums_size<S>,   backward<S>, add_up<S>};

static bool runs_here() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

#define GRUFLAX_TEXT_OF(name) #name
#define GRUFLAX_TEXT(name) GRUFLAX_TEXT_OF(name)
extern const InstructionSet kSet;
const InstructionSet kSet{GRUFLAX_TEXT(GRUFLAX_SET), runs_here, kKernel<float>, kKernel<double>};

}  // namespace gruflax::GRUFLAX_SET
