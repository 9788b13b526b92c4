// Runs the kernel without Python and XLA, against a plain GRU: for sanitizers and for emulators.
//
//   driver [seconds [instruction set]]
//
// draws calls of odd sizes until the time is over, with every instruction set that runs here.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "problem.h"
#include "run.h"

namespace of_driver {
using namespace gruflax;
#include "vectors.h"
}  // namespace of_driver

using gruflax::Gradients;
using gruflax::Problem;
typedef std::vector<double> Doubles;

static std::mt19937 random_bits(7);
static int64_t draw(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random_bits);
}

// All that a call is made of, in double precision; copied to float where that is wanted.
struct Case {
  int64_t rows = draw(1, 50), time = draw(0, 5), f = draw(1, 70), u = draw(1, 70);
  bool time_major = draw(0, 1), backwards = draw(0, 1), after = draw(0, 1), zeros = draw(0, 1);
  bool has_bias = draw(0, 3), has_valid = draw(0, 1), has_reset = draw(0, 2) == 0;
  bool has_doutputs = draw(0, 3);
  int input_masks = static_cast<int>(draw(0, 3)), state_masks = static_cast<int>(draw(0, 3));
  int activation = static_cast<int>(draw(0, gruflax::kActivations - 1));
  // Gates in [0, 1]: with others states and their rounding grow without bounds.
  int gate = draw(0, 1)   ? gruflax::kSigmoid
             : draw(0, 1) ? gruflax::kHardSigmoid
                          : gruflax::kHardSigmoidV1;
  Doubles inputs, kernel, recurrent, bias, initial, fresh, masks_of_inputs, masks_of_states,
      doutputs, dlast;
  std::vector<char> valid, reset;

  Case() {
    if (input_masks == 2) input_masks = 0;
    if (state_masks == 2) state_masks = 0;
    const auto fill = [](Doubles& to, int64_t count, double scale) {
      to.resize(count);
      // Rounded, so that both precisions compute the same.
      for (double& each : to)
        each = static_cast<float>(scale * std::normal_distribution<double>()(random_bits));
    };
    fill(inputs, rows * time * f, 1), fill(kernel, f * 3 * u, 0.5), fill(recurrent, u * 3 * u, 0.3);
    fill(bias, (after ? 6 : 3) * u, 0.5), fill(initial, rows * u, 1), fill(fresh, rows * u, 1);
    fill(masks_of_inputs, input_masks * rows * f, 1),
        fill(masks_of_states, state_masks * rows * u, 1);
    fill(doutputs, rows * time * u, 1), fill(dlast, rows * u, 1);
    valid.resize(rows * time), reset.resize(rows * time);
    const int64_t kind = draw(0, 3);  // nothing valid, all, lengths, anything
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t t = 0, length = draw(0, time); t < time; ++t) {
        valid[at(row, t)] = kind == 0 ? 0 : kind == 1 ? 1 : kind == 2 ? t < length : draw(0, 1);
        reset[at(row, t)] = draw(0, 3) == 0;
        // What is masked may be anything.
        if (has_valid && !valid[at(row, t)]) inputs[at(row, t) * f] = NAN;
      }
  }

  // Whether derivatives are continuous: at kinks they hang on the rounding.
  bool is_smooth() const {
    const auto smooth = [](int each) {
      return each == gruflax::kSigmoid || each == gruflax::kTanh || each == gruflax::kLinear ||
             each == gruflax::kSoftsign;
    };
    return smooth(activation) && smooth(gate);
  }

  int64_t at(int64_t row, int64_t t) const { return time_major ? t * rows + row : row * time + t; }
};

static double apply(int function, double x) {
  switch (function) {
    case gruflax::kSigmoid: return 1 / (1 + std::exp(-x));
    case gruflax::kTanh: return std::tanh(x);
    case gruflax::kHardSigmoid: return std::fmin(std::fmax(x + 3, 0), 6) / 6;
    case gruflax::kHardSigmoidV1: return std::fmin(std::fmax(0.2 * x + 0.5, 0), 1);
    case gruflax::kRelu: return std::fmax(x, 0);
    case gruflax::kRelu6: return std::fmin(std::fmax(x, 0), 6);
    case gruflax::kLeakyRelu: return x < 0 ? 0.2 * x : x;
    case gruflax::kHardTanh: return std::fmin(std::fmax(x, -1), 1);
    case gruflax::kSoftsign: return x / (1 + std::fabs(x));
    default: return x;
  }
}

static double slope(int function, double y) {
  switch (function) {
    case gruflax::kSigmoid: return y * (1 - y);
    case gruflax::kTanh: return 1 - y * y;
    case gruflax::kHardSigmoid: return y > 0 && y < 1 ? 1. / 6 : 0;
    case gruflax::kHardSigmoidV1: return y > 0 && y < 1 ? 0.2 : 0;
    case gruflax::kRelu: return y > 0;
    case gruflax::kRelu6: return y > 0 && y < 6;
    case gruflax::kLeakyRelu: return y < 0 ? 0.2 : 1;
    case gruflax::kHardTanh: return y > -1 && y < 1;
    case gruflax::kSoftsign: return (1 - std::fabs(y)) * (1 - std::fabs(y));
    default: return 1;
  }
}

// The results of a pass in double precision.
struct Results {
  Doubles outputs, last, inputs, kernel, recurrent, bias, initial, fresh;

  explicit Results(const Case& c)
      : outputs(c.rows * c.time * c.u),
        last(c.rows * c.u),
        inputs(c.inputs.size()),
        kernel(c.kernel.size()),
        recurrent(c.recurrent.size()),
        bias(c.bias.size()),
        initial(c.rows * c.u),
        fresh(c.rows * c.u) {}
};

// One row, step by step forward and then backward, with every number kept.
static void plain_row(const Case& c, int64_t row, Results& to) {
  const int64_t u = c.u, f = c.f, width = 3 * u;
  const auto input_mask = [&](int gate, int64_t k) {
    return c.input_masks
               ? c.masks_of_inputs[((c.input_masks == 3 ? gate : 0) * c.rows + row) * f + k]
               : 1.;
  };
  const auto state_mask = [&](int gate, int64_t k) {
    return c.state_masks
               ? c.masks_of_states[((c.state_masks == 3 ? gate : 0) * c.rows + row) * u + k]
               : 1.;
  };
  struct Step {
    Doubles h, z, r, n, h_n;
  };
  std::vector<Step> steps(c.time);
  Doubles h(c.initial.begin() + row * u, c.initial.begin() + (row + 1) * u);
  for (int64_t i = 0; i < c.time; ++i) {
    const int64_t t = c.backwards ? c.time - 1 - i : i, place = c.at(row, t);
    if (c.has_reset && c.reset[place])
      h.assign(c.fresh.begin() + row * u, c.fresh.begin() + (row + 1) * u);
    const bool counts = !c.has_valid || c.valid[place];
    if (counts) {
      Step& s = steps[i];
      s.h = h, s.z.resize(u), s.r.resize(u), s.n.resize(u), s.h_n.resize(u);
      const double* x = c.inputs.data() + place * f;
      const auto project = [&](int gate, int64_t j, bool both) {
        double sum = c.has_bias ? c.bias[gate * u + j] : 0;
        for (int64_t k = 0; k < f; ++k)
          sum += x[k] * input_mask(gate, k) * c.kernel[k * width + gate * u + j];
        if (!both) return sum;
        if (c.has_bias && c.after) sum += c.bias[width + gate * u + j];
        for (int64_t k = 0; k < u; ++k)
          sum += h[k] * state_mask(gate, k) * c.recurrent[k * width + gate * u + j];
        return sum;
      };
      for (int64_t j = 0; j < u; ++j)
        s.z[j] = apply(c.gate, project(0, j, true)), s.r[j] = apply(c.gate, project(1, j, true));
      Doubles next(u);
      for (int64_t j = 0; j < u; ++j) {
        double sum = c.after && c.has_bias ? c.bias[width + 2 * u + j] : 0;
        for (int64_t k = 0; k < u; ++k)
          sum +=
              (c.after ? 1 : s.r[k]) * h[k] * state_mask(2, k) * c.recurrent[k * width + 2 * u + j];
        s.h_n[j] = sum;
        s.n[j] = apply(c.activation, project(2, j, false) + (c.after ? s.r[j] : 1) * sum);
        next[j] = s.z[j] * h[j] + (1 - s.z[j]) * s.n[j];
      }
      h = next;
    }
    for (int64_t j = 0; j < u; ++j)
      to.outputs[c.at(row, i) * u + j] = counts || !c.zeros ? h[j] : 0;
  }
  std::copy(h.begin(), h.end(), to.last.begin() + row * u);

  Doubles dh(c.dlast.begin() + row * u, c.dlast.begin() + (row + 1) * u);
  for (int64_t i = c.time - 1; i >= 0; --i) {
    const int64_t t = c.backwards ? c.time - 1 - i : i, place = c.at(row, t);
    const bool counts = !c.has_valid || c.valid[place];
    for (int64_t j = 0; j < u && c.has_doutputs; ++j)
      if (counts || !c.zeros) dh[j] += c.doutputs[c.at(row, i) * u + j];
    if (counts) {
      const Step& s = steps[i];
      Doubles d[4], before(u);  // of the arguments of z, r and n, and of h R_n + c_n
      for (Doubles& each : d) each.resize(u);
      for (int64_t j = 0; j < u; ++j) {
        d[0][j] = dh[j] * (s.h[j] - s.n[j]) * slope(c.gate, s.z[j]);
        d[2][j] = dh[j] * (1 - s.z[j]) * slope(c.activation, s.n[j]);
        d[3][j] = d[2][j] * (c.after ? s.r[j] : 1);
        before[j] = dh[j] * s.z[j];
      }
      for (int64_t k = 0; k < u; ++k) {
        double dk = 0;
        for (int64_t j = 0; j < u; ++j) {
          dk += d[3][j] * c.recurrent[k * width + 2 * u + j] * state_mask(2, k);
          to.recurrent[k * width + 2 * u + j] +=
              d[3][j] * (c.after ? 1 : s.r[k]) * s.h[k] * state_mask(2, k);
        }
        before[k] += dk * (c.after ? 1 : s.r[k]);
        d[1][k] = (c.after ? d[2][k] * s.h_n[k] : dk * s.h[k]) * slope(c.gate, s.r[k]);
      }
      for (int gate = 0; gate < 2; ++gate)
        for (int64_t k = 0; k < u; ++k)
          for (int64_t j = 0; j < u; ++j) {
            before[k] += d[gate][j] * c.recurrent[k * width + gate * u + j] * state_mask(gate, k);
            to.recurrent[k * width + gate * u + j] += d[gate][j] * s.h[k] * state_mask(gate, k);
          }
      for (int gate = 0; gate < 3; ++gate)
        for (int64_t j = 0; j < u; ++j) {
          to.bias[gate * u + j] += d[gate][j];
          if (c.after) to.bias[width + gate * u + j] += d[gate == 2 ? 3 : gate][j];
          for (int64_t k = 0; k < f; ++k) {
            to.inputs[place * f + k] +=
                d[gate][j] * c.kernel[k * width + gate * u + j] * input_mask(gate, k);
            to.kernel[k * width + gate * u + j] +=
                d[gate][j] * c.inputs[place * f + k] * input_mask(gate, k);
          }
        }
      dh = before;
    }
    if (c.has_reset && c.reset[place])
      for (int64_t j = 0; j < u; ++j) to.fresh[row * u + j] += dh[j], dh[j] = 0;
  }
  std::copy(dh.begin(), dh.end(), to.initial.begin() + row * u);
}

template <class S>
static std::vector<S> as(const Doubles& from) {
  return std::vector<S>(from.begin(), from.end());
}

static void compare(const char* name, const Case& c, const Doubles& wanted,
                    const std::function<double(size_t)>& found, double tolerance) {
  double largest = 1;
  for (const double each : wanted) largest = std::fmax(largest, std::fabs(each));
  for (size_t i = 0; i < wanted.size(); ++i)
    if (!(std::fabs(found(i) - wanted[i]) <= tolerance * largest)) {
      std::printf(
          "FAILED: %s[%zu] is %.9g, not %.9g; rows %ld time %ld f %ld u %ld, %s, activations %d "
          "%d, masks %d %d\n",
          name, i, found(i), wanted[i], long(c.rows), long(c.time), long(c.f), long(c.u),
          c.after ? "after" : "before", c.activation, c.gate, c.input_masks, c.state_masks);
      std::exit(1);
    }
}

template <class S>
static void check(const Case& c, const Results& wanted, const gruflax::Threads& threads,
                  double tolerance) {
  const auto inputs = as<S>(c.inputs), kernel = as<S>(c.kernel), recurrent = as<S>(c.recurrent),
             bias = as<S>(c.bias);
  const auto initial = as<S>(c.initial), fresh = as<S>(c.fresh), doutputs = as<S>(c.doutputs),
             dlast = as<S>(c.dlast);
  const auto masks_x = as<S>(c.masks_of_inputs), masks_h = as<S>(c.masks_of_states);
  std::vector<S> outputs(wanted.outputs.size(), S(NAN)), last(initial.size(), S(NAN));
  Problem<S> p{};
  p.rows = c.rows, p.time = c.time, p.features = c.f, p.units = c.u;
  p.time_major = c.time_major, p.go_backwards = c.backwards, p.reset_after = c.after,
  p.zero_output_for_mask = c.zeros;
  p.activation = static_cast<gruflax::Activation>(c.activation);
  p.recurrent_activation = static_cast<gruflax::Activation>(c.gate);
  p.inputs = inputs.data(), p.kernel = kernel.data(), p.recurrent = recurrent.data();
  p.bias = c.has_bias ? bias.data() : nullptr;
  p.initial_state = initial.data(), p.reset_state = fresh.data();
  p.valid = c.has_valid ? reinterpret_cast<const bool*>(c.valid.data()) : nullptr;
  p.reset = c.has_reset ? reinterpret_cast<const bool*>(c.reset.data()) : nullptr;
  p.input_masks = masks_x.data(), p.input_mask_count = c.input_masks;
  p.state_masks = masks_h.data(), p.state_mask_count = c.state_masks;
  p.last_state = last.data();
  const auto same = [&](const char* name, const std::vector<S>& found, const Doubles& right) {
    compare(name, c, right, [&](size_t i) { return found[i]; }, tolerance);
  };
  if (!gruflax::run_forward(p, threads)) std::exit(2);
  same("state without outputs", last, wanted.last);
  p.outputs = outputs.data();
  std::fill(last.begin(), last.end(), S(NAN));
  if (!gruflax::run_forward(p, threads)) std::exit(2);
  same("outputs", outputs, wanted.outputs), same("state", last, wanted.last);

  const bool exact = sizeof(S) == sizeof(double);
  Gradients<S> g{};
  std::vector<S> dx(inputs.size(), S(NAN)), dk(kernel.size(), S(NAN)), dr(recurrent.size(), S(NAN));
  std::vector<S> db(bias.size(), S(NAN)), dh(initial.size(), S(NAN)), df(initial.size(), S(NAN));
  g.outputs = c.has_doutputs ? doutputs.data() : nullptr, g.last_state = dlast.data();
  g.inputs = dx.data(), g.kernel = dk.data(), g.recurrent = dr.data(),
  g.bias = c.has_bias ? db.data() : nullptr;
  g.initial_state = dh.data(), g.reset_state = df.data();
  if (!gruflax::run_backward(p, g, threads)) std::exit(2);
  if (!exact && !c.is_smooth()) return;
  same("gradient of inputs", dx, wanted.inputs), same("gradient of kernel", dk, wanted.kernel);
  same("gradient of recurrent", dr, wanted.recurrent),
      same("gradient of initial_state", dh, wanted.initial);
  same("gradient of reset_state", df, wanted.fresh);
  if (c.has_bias) same("gradient of bias", db, wanted.bias);
}

// The exponential is exact to two units in the last place.
template <class S>
static void check_exponential(double least, double most) {
  constexpr int lanes = of_driver::kLanes<S>;
  double largest = 0;
  for (int i = 0; i < 500000; i += lanes) {
    of_driver::Vector<S> x;
    for (int lane = 0; lane < lanes; ++lane)
      x[lane] = static_cast<S>(std::uniform_real_distribution<double>(least, most)(random_bits));
    const of_driver::Vector<S> found = of_driver::exponential(x);
    for (int lane = 0; lane < lanes; ++lane) {
      const long double right = std::exp(static_cast<long double>(x[lane]));
      const S rounded = static_cast<S>(right),
              unit = std::nextafter(rounded, S(INFINITY)) - rounded;
      largest = std::fmax(largest, static_cast<double>(std::fabs(found[lane] - right) / unit));
    }
  }
  if (!(largest <= 2)) std::printf("FAILED: exp is %g units off\n", largest), std::exit(1);
  std::printf("exp in %zu bytes: at most %.2f units in the last place\n", sizeof(S), largest);
}

int main(int argc, char** argv) {
  check_exponential<float>(-87, 88), check_exponential<double>(-700, 700);
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  std::vector<std::thread> running;
  const gruflax::Threads threads{
      3, [&](std::function<void()> task) { running.emplace_back(std::move(task)); }};
  const auto start = std::chrono::steady_clock::now();
  int cases = 0;
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds;
       ++cases) {
    const Case c;
    Results wanted(c);
    for (int64_t row = 0; row < c.rows; ++row) plain_row(c, row, wanted);
    for (const char* name : {"avx512", "avx2", "baseline"}) {
      if ((argc > 2 && std::strcmp(argv[2], name)) || !gruflax_use(name)) continue;
      check<float>(c, wanted, threads, 3e-4);
      check<double>(c, wanted, threads, 1e-9);
    }
    for (std::thread& each : running) each.join();
    running.clear();
  }
  std::printf("%d calls, each as in a plain GRU; at most %zu bytes of scratch\n", cases,
              gruflax_peak_scratch());
}
