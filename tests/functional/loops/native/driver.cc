// Runs the kernel without Python and XLA, against a plain GRU: for sanitizers and for emulators.
//
//   driver [seconds [instruction set]]
//
// draws calls of odd sizes until the time is over, with every instruction set that runs here, and
// with pools of threads that do all that a pool may do.

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "parts.h"
#include "plain.h"
#include "problem.h"
#include "run.h"

// The vectors of what the driver itself is compiled for, in a namespace of their own.
#define GRUFLAX_SET of_driver
#include "vectors.h"

namespace of_driver = gruflax::of_driver;
using gruflax::Doubles;
using gruflax::Gradients;
using gruflax::Problem;

static std::mt19937 random_bits(7);
static int64_t draw(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random_bits);
}
// Now and then there is nothing of a kind.
static int64_t draw_size(int64_t most) { return draw(0, 11) ? draw(1, most) : 0; }

static void require(bool fulfilled, const char* what) {
  if (!fulfilled) std::printf("FAILED: %s\n", what), std::exit(1);
}

// How many allocations succeed before one fails. If it is negative, none fails.
static std::atomic<int64_t> good_allocations{-1};
static void* unless_none(void* room) { return room ? room : throw std::bad_alloc(); }
// Inlined, GCC would take `malloc` and `free` for the wrong partners of `delete` and `new`.
#define GRUFLAX_NOT_INLINED __attribute__((noinline))
GRUFLAX_NOT_INLINED void* operator new(size_t size) {
  return unless_none(good_allocations-- ? std::malloc(size) : nullptr);
}
GRUFLAX_NOT_INLINED void* operator new(size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<size_t>(alignment);
  return unless_none(good_allocations-- ? std::aligned_alloc(unit, size) : nullptr);
}
GRUFLAX_NOT_INLINED void operator delete(void* room) noexcept { std::free(room); }
GRUFLAX_NOT_INLINED void operator delete(void* room, size_t) noexcept { std::free(room); }
GRUFLAX_NOT_INLINED void operator delete(void* room, std::align_val_t) noexcept { std::free(room); }
GRUFLAX_NOT_INLINED void operator delete(void* room, size_t, std::align_val_t) noexcept {
  std::free(room);
}

// A pool of threads in which every second task has one fate, and the others another.
class Pool {
 public:
  enum Fate { kAtOnce, kThread, kLate, kNever, kRefused };
  static constexpr int kFates = kRefused + 1, kKinds = kFates * kFates;

  explicit Pool(int kind) : fates_{kind / kFates, kind % kFates} {}
  // The call is over: what is late comes now.
  ~Pool() {
    for (std::thread& each : running_) each.join();
    std::thread([this] {
      for (const auto& task : late_) task();
    }).join();
  }
  gruflax::Threads threads() {
    return {3, [this](std::function<void()> task) { schedule(std::move(task)); }};
  }

 private:
  void schedule(std::function<void()> task) {
    switch (fates_[count_++ % 2]) {
      case kAtOnce: return task();
      case kThread: running_.emplace_back(std::move(task)); return;
      case kLate: return late_.push_back(std::move(task));
      case kRefused: throw std::runtime_error("refused");
      default: return;
    }
  }

  const int fates_[2];
  size_t count_ = 0;
  std::vector<std::thread> running_;
  std::vector<std::function<void()>> late_;
};

// All that a call is made of, in double precision; copied to float where that is wanted.
struct Case {
  int64_t members = draw(0, 1) ? 1 : draw(0, 3);
  int64_t rows = draw_size(members > 1 ? 20 : 50), time = draw_size(5), f = draw_size(70),
          u = draw_size(70);
  bool time_major = draw(0, 1), backwards = draw(0, 1), after = draw(0, 1), zeros = draw(0, 1);
  bool has_bias = draw(0, 3), has_valid = draw(0, 1), has_reset = draw(0, 2) == 0;
  bool has_doutputs = draw(0, 3), keeps_gates = draw(0, 1), loses_gates = draw(0, 3) == 0;
  bool shares_all = draw(0, 3) == 0;
  int input_masks = static_cast<int>(draw(0, 3)), state_masks = static_cast<int>(draw(0, 3));
  int activation = static_cast<int>(draw(0, gruflax::kActivations - 1));
  // Gates in [0, 1]: with others states and their rounding grow without bounds.
  int gate = draw(0, 1)   ? gruflax::kSigmoid
             : draw(0, 1) ? gruflax::kHardSigmoid
                          : gruflax::kHardSigmoidV1;
  Doubles inputs, kernel, recurrent, bias, initial, fresh, masks_of_inputs, masks_of_states,
      doutputs, dlast;
  std::vector<char> valid, reset;
  gruflax::Strides strides{};
  int64_t doutputs_stride, dlast_stride;

  Case() {
    if (input_masks == 2) input_masks = 0;
    if (state_masks == 2) state_masks = 0;
    // All members share an array, or each has its own.
    const auto count = [&](int64_t& stride, int64_t size) {
      stride = !shares_all && draw(0, 2) ? size : 0;
      return stride ? members * size : size;
    };
    const auto fill = [&](Doubles& to, int64_t& stride, int64_t size, double scale) {
      to.resize(count(stride, size));
      // Rounded, so that both precisions compute the same.
      for (double& each : to)
        each = static_cast<float>(scale * std::normal_distribution<double>()(random_bits));
    };
    gruflax::Strides& s = strides;
    fill(inputs, s.inputs, rows * time * f, 1), fill(kernel, s.kernel, f * 3 * u, 0.5);
    fill(recurrent, s.recurrent, u * 3 * u, 0.3), fill(bias, s.bias, (after ? 6 : 3) * u, 0.5);
    fill(initial, s.initial_state, rows * u, 1), fill(fresh, s.reset_state, rows * u, 1);
    fill(masks_of_inputs, s.input_masks, input_masks * rows * f, 1);
    fill(masks_of_states, s.state_masks, state_masks * rows * u, 1);
    fill(doutputs, doutputs_stride, rows * time * u, 1), fill(dlast, dlast_stride, rows * u, 1);
    valid.resize(count(s.valid, rows * time)), reset.resize(count(s.reset, rows * time));
    for (char& each : reset) each = draw(0, 3) == 0;
    const int64_t kind = draw(0, 3);  // nothing valid, all, lengths, anything
    for (size_t first = 0; first < valid.size(); first += rows * time)
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t t = 0, length = draw(0, time); t < time; ++t)
          valid[first + at(row, t)] = kind == 0   ? 0
                                      : kind == 1 ? 1
                                      : kind == 2 ? t < length
                                                  : draw(0, 1);
    // What is masked may be anything; a step of shared inputs, where all share the mask.
    if (f && has_valid && (s.inputs || !s.valid))
      for (size_t i = 0; i * f < inputs.size(); ++i)
        if (!valid[s.valid ? i : i % (rows * time)]) inputs[i * f] = NAN;
  }

  // Whether derivatives are continuous: at kinks they depend on the rounding.
  bool is_smooth() const {
    const auto smooth = [](int each) {
      return each == gruflax::kSigmoid || each == gruflax::kTanh || each == gruflax::kLinear ||
             each == gruflax::kSoftsign;
    };
    return smooth(activation) && smooth(gate);
  }

  int64_t at(int64_t row, int64_t t) const { return time_major ? t * rows + row : row * time + t; }
};

constexpr const char* kNames[] = {"state without outputs",
                                  "outputs",
                                  "state",
                                  "gradient of inputs",
                                  "gradient of kernel",
                                  "gradient of recurrent",
                                  "gradient of bias",
                                  "gradient of initial_state",
                                  "gradient of reset_state"};
constexpr int kResults = 9, kForward = 3;

// A case in one precision, and its results in the order of kNames.
template <class S>
struct Call {
  typedef std::vector<S> Array;
  const Case& c;
  const Array inputs = as(c.inputs), kernel = as(c.kernel), recurrent = as(c.recurrent),
              bias = as(c.bias), initial = as(c.initial), fresh = as(c.fresh),
              masks_of_inputs = as(c.masks_of_inputs), masks_of_states = as(c.masks_of_states),
              doutputs = as(c.doutputs), dlast = as(c.dlast);
  Array results[kResults], gates;

  // The results are all `first` before something is computed.
  Call(const Case& c, S first) : c(c) {
    const int64_t states = c.rows * c.u, steps = c.rows * c.time, u = c.u;
    const int64_t biases = c.has_bias ? (c.after ? 6 : 3) * u : 0;
    const int64_t sizes[] = {states,    steps * u, states, steps * c.f, c.f * 3 * u,
                             u * 3 * u, biases,    states, states};
    for (int i = 0; i < kResults; ++i) results[i].assign(c.members * sizes[i], first);
    gates.assign(c.keeps_gates ? c.members * steps * gruflax::kSlots * u : 0, first);
  }

  void run(const gruflax::Threads& threads) {
    Problem<S> p = problem();
    p.outputs = p.gates = nullptr, p.strides.outputs = p.strides.gates = 0;
    p.last_state = results[0].data();
    gruflax::run_forward(p, threads);
    gruflax::run_forward(problem(), threads);
    // As where the forward pass ran without the kernel: the least number stands for none.
    if (c.loses_gates) gates.assign(gates.size(), std::numeric_limits<S>::lowest());
    gruflax::run_backward(problem(), gradients(), threads);
  }

  void run_plain() {
    for (int64_t m = 0; m < c.members; ++m) {
      const Problem<S> p = problem().member(m);
      const Gradients<S> g = gradients().member(p, m);
      for (int64_t row = 0; row < c.rows; ++row) gruflax::PlainRow(p, g, row).run();
    }
    results[0] = results[2];
  }

  void require_near(const Call<double>& wanted, double tolerance) const {
    const bool has_slopes = sizeof(S) == sizeof(double) || c.is_smooth();
    for (int i = 0; i < (has_slopes ? kResults : kForward); ++i)
      require_near(kNames[i], wanted.results[i], results[i], tolerance);
  }

  void require_same(const Call& other) const {
    for (int i = 0; i < kResults; ++i)
      for (size_t k = 0; k < results[i].size(); ++k)
        require(!std::memcmp(&results[i][k], &other.results[i][k], sizeof(S)), kNames[i]);
  }

 private:
  static Array as(const Doubles& from) { return Array(from.begin(), from.end()); }

  Problem<S> problem() {
    Problem<S> p{};
    p.members = c.members, p.rows = c.rows, p.time = c.time, p.features = c.f, p.units = c.u;
    p.time_major = c.time_major, p.go_backwards = c.backwards, p.reset_after = c.after,
    p.zero_output_for_mask = c.zeros;
    p.activation = static_cast<gruflax::Activation>(c.activation);
    p.recurrent_activation = static_cast<gruflax::Activation>(c.gate);
    p.inputs = inputs.data(), p.kernel = kernel.data(), p.recurrent = recurrent.data();
    p.bias = c.has_bias ? bias.data() : nullptr;
    p.initial_state = initial.data(), p.reset_state = fresh.data();
    p.valid = c.has_valid ? reinterpret_cast<const bool*>(c.valid.data()) : nullptr;
    p.reset = c.has_reset ? reinterpret_cast<const bool*>(c.reset.data()) : nullptr;
    p.input_masks = masks_of_inputs.data(), p.input_mask_count = c.input_masks;
    p.state_masks = masks_of_states.data(), p.state_mask_count = c.state_masks;
    p.outputs = results[1].data(), p.last_state = results[2].data();
    p.gates = gates.empty() ? nullptr : gates.data();
    p.strides = c.strides;
    if (!p.bias) p.strides.bias = 0;
    if (!p.valid) p.strides.valid = 0;
    if (!p.reset) p.strides.reset = 0;
    p.strides.outputs = c.rows * c.time * c.u;
    p.strides.gates = p.gates ? c.rows * c.time * gruflax::kSlots * c.u : 0;
    return p;
  }

  Gradients<S> gradients() {
    Gradients<S> g{};
    g.outputs = c.has_doutputs ? doutputs.data() : nullptr, g.last_state = dlast.data();
    g.inputs = results[3].data(), g.kernel = results[4].data(), g.recurrent = results[5].data(),
    g.bias = c.has_bias ? results[6].data() : nullptr;
    g.initial_state = results[7].data(), g.reset_state = results[8].data();
    g.outputs_stride = c.doutputs_stride, g.last_state_stride = c.dlast_stride;
    return g;
  }

  void require_near(const char* name, const Doubles& wanted, const Array& found,
                    double tolerance) const {
    double largest = 1;
    for (const double each : wanted) largest = std::fmax(largest, std::fabs(each));
    for (size_t i = 0; i < wanted.size(); ++i)
      if (!(std::fabs(found[i] - wanted[i]) <= tolerance * largest)) {
        std::printf(
            "FAILED: %s[%zu] is %.9g, not %.9g; members %ld rows %ld time %ld f %ld u %ld, %s, "
            "activations %d "
            "%d, masks %d %d\n",
            name, i, double(found[i]), wanted[i], long(c.members), long(c.rows), long(c.time),
            long(c.f), long(c.u), c.after ? "after" : "before", c.activation, c.gate, c.input_masks,
            c.state_masks);
        std::exit(1);
      }
  }
};

// The results are those of a plain GRU, and bit by bit the same whatever becomes of the tasks.
template <class S>
static void check(const Case& c, const Call<double>& wanted, int kind, double tolerance) {
  Call<S> alone(c, NAN), shared(c, NAN);
  alone.run({1, nullptr});
  alone.require_near(wanted, tolerance);
  Pool pool(kind);
  shared.run(pool.threads());
  shared.require_same(alone);
}

// Whatever becomes of the tasks, each group is prepared once, before its parts, these are run once,
// and it is finished once, after them; and what one of them throws comes out where all were called,
// when no thread is at work any more.
static void check_parts(int kind, bool shared) {
  enum Fault { kNowhere, kInPreparation, kInPart, kInFinish, kFaults };
  for (int fault = 0; fault < kFaults; ++fault) {
    constexpr int groups = 3, parts = 5;
    std::atomic<int> prepared[groups]{}, runs[groups]{}, finished[groups]{};
    const auto fail = [fault](int here, int64_t group) {
      if (fault == here && group == 1) throw std::runtime_error("as it was asked to");
    };
    gruflax::Work work{groups, parts, 64, shared};
    work.prepare = [&](int64_t group) {
      ++prepared[group];
      fail(kInPreparation, shared ? 1 : group);
    };
    work.run = [&](int64_t group, int64_t part, void*) {
      const auto& mine = prepared[group];
      require(shared ? prepared[0] + prepared[1] + prepared[2] == 1 : mine == 1, "prepared first");
      if (part == 3) fail(kInPart, group);
      ++runs[group];
    };
    work.finish = [&](int64_t group) {
      require(runs[group] == parts, "finished last");
      fail(kInFinish, group);
      ++finished[group];
    };
    bool thrown = false;
    Pool pool(kind);
    try {
      gruflax::Parts::run(work, pool.threads(), 99);
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    require(thrown == (fault != kNowhere), "what is thrown comes out");
    for (int group = 0; group < groups && !thrown; ++group) {
      require(runs[group] == parts && finished[group] == 1, "each part runs once");
      require(shared || prepared[group] == 1, "each group is prepared once");
    }
  }
}

// Whichever allocation fails, the call throws that or does without, and ends.
static void check_failures(int kind) {
  Case c;
  while (c.members * c.rows * c.time * c.u * (c.f + c.u) < 500000) c = Case();
  Call<float> alone(c, NAN);
  alone.run({1, nullptr});
  bool reached = true;
  for (int64_t good = 0; reached; ++good) {
    Call<float> call(c, NAN);
    Pool pool(kind);
    bool thrown = false;
    good_allocations = good;
    try {
      call.run(pool.threads());
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    reached = good_allocations.exchange(-1) < 0;
    require(reached || !thrown, "what fails is memory");
    if (!thrown) call.require_same(alone);
  }
}

// A function is exact to some units in the last place.
template <class S, class Function, class Right, class Draw>
static void check_function(const char* name, double most, Function function, Right right,
                           Draw draw) {
  constexpr int lanes = of_driver::kLanes<S>;
  double largest = 0;
  for (int i = 0; i < 500000; i += lanes) {
    of_driver::Vector<S> x;
    for (int lane = 0; lane < lanes; ++lane) x[lane] = static_cast<S>(draw());
    const of_driver::Vector<S> found = function(x);
    for (int lane = 0; lane < lanes; ++lane) {
      const long double wanted = right(static_cast<long double>(x[lane]));
      const S size = std::fabs(static_cast<S>(wanted)), next = std::nextafter(size, S(INFINITY));
      const auto units = static_cast<double>(std::fabs(found[lane] - wanted) / (next - size));
      largest = std::isnan(units) ? INFINITY : std::fmax(largest, units);
    }
  }
  std::printf("%s in %zu bytes: at most %.2f units in the last place\n", name, sizeof(S), largest);
  require(largest <= most, name);
}

// So for numbers of every size, and zeros keep their signs.
template <class S>
static void check_hyperbolic_tangent(double most) {
  const auto function = [](of_driver::Vector<S> x) { return of_driver::hyperbolic_tangent(x); };
  const double least = std::log(std::numeric_limits<S>::denorm_min());
  check_function<S>(
      "tanh", most, function, [](long double x) { return std::tanh(x); },
      [=] {
        const double size = std::exp(std::uniform_real_distribution<double>(least, 7)(random_bits));
        return draw(0, 1) ? size : -size;
      });
  const auto of = [&](double x) { return function(of_driver::all(static_cast<S>(x)))[0]; };
  require(of(INFINITY) == 1 && of(-INFINITY) == -1 && std::isnan(of(NAN)), "tanh at the ends");
  require(of(0) == 0 && !std::signbit(of(0)) && std::signbit(of(-0.)), "tanh of zeros");
}

// The exponential is exact to two units in the last place.
template <class S>
static void check_exponential(double least, double most) {
  check_function<S>(
      "exp", 2, [](of_driver::Vector<S> x) { return of_driver::exponential(x); },
      [](long double x) { return std::exp(x); },
      [=] { return std::uniform_real_distribution<double>(least, most)(random_bits); });
}

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  alarm(static_cast<unsigned>(seconds) + 600);  // A call that hangs ends, too.
  check_exponential<float>(-87, 88), check_exponential<double>(-700, 700);
  check_hyperbolic_tangent<float>(5), check_hyperbolic_tangent<double>(3);
  for (int kind = 0; kind < Pool::kKinds; ++kind) check_parts(kind, false), check_parts(kind, true);
  // All tasks at once, every second one, and all in threads.
  for (const int kind : {0, Pool::kFates, Pool::kFates + 1}) check_failures(kind);
  const auto start = std::chrono::steady_clock::now();
  int cases = 0;
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds;
       ++cases) {
    const Case c;
    Call<double> wanted(c, 0);
    wanted.run_plain();
    for (const char* name : {"avx512", "avx2", "baseline"}) {
      if ((argc > 2 && std::strcmp(argv[2], name)) || !gruflax_use(name)) continue;
      check<float>(c, wanted, cases % Pool::kKinds, 3e-4);
      check<double>(c, wanted, cases % Pool::kKinds, 1e-9);
    }
  }
  std::printf("%d calls, each as in a plain GRU; at most %zu bytes of scratch\n", cases,
              gruflax_peak_scratch());
}
