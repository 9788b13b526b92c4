// The equations of a GRU and of its gradients without any art, in double precision: what the
// kernels must compute, and what their tests compare them with.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "problem.h"

namespace gruflax {

typedef std::vector<double> Doubles;

inline double apply(int function, double x) {
  switch (function) {
    case kSigmoid: return 1 / (1 + std::exp(-x));
    case kTanh: return std::tanh(x);
    case kHardSigmoid: return std::fmin(std::fmax(x + 3, 0), 6) / 6;
    case kHardSigmoidV1: return std::fmin(std::fmax(0.2 * x + 0.5, 0), 1);
    case kRelu: return std::fmax(x, 0);
    case kRelu6: return std::fmin(std::fmax(x, 0), 6);
    case kLeakyRelu: return x < 0 ? 0.2 * x : x;
    case kHardTanh: return std::fmin(std::fmax(x, -1), 1);
    case kSoftsign: return x / (1 + std::fabs(x));
    default: return x;
  }
}

inline double slope(int function, double y) {
  switch (function) {
    case kSigmoid: return y * (1 - y);
    case kTanh: return 1 - y * y;
    case kHardSigmoid: return y > 0 && y < 1 ? 1. / 6 : 0;
    case kHardSigmoidV1: return y > 0 && y < 1 ? 0.2 : 0;
    case kRelu: return y > 0;
    case kRelu6: return y > 0 && y < 6;
    case kLeakyRelu: return y < 0 ? 0.2 : 1;
    case kHardTanh: return y > -1 && y < 1;
    case kSoftsign: return (1 - std::fabs(y)) * (1 - std::fabs(y));
    default: return 1;
  }
}

// One row, step by step forward and then backward, with every number kept. All results and the last
// state's cotangent must be there. Gradients are added to what is in their arrays.
class PlainRow {
 public:
  PlainRow(const Problem<double>& p, const Gradients<double>& g, int64_t row)
      : p(p), g(g), row(row), f(p.features), u(p.units), width(3 * u), steps(p.time) {}

  void run() {
    Doubles h(p.initial_state + row * u, p.initial_state + (row + 1) * u);
    for (int64_t i = 0; i < p.time; ++i) {
      const int64_t t = p.step(i);
      if (p.is_reset(row, t)) h.assign(p.reset_state + row * u, p.reset_state + (row + 1) * u);
      if (p.is_valid(row, t)) h = forward(steps[i], h, p.at(row, t));
      const bool counts = p.is_valid(row, t) || !p.zero_output_for_mask;
      for (int64_t j = 0; j < u; ++j) p.outputs[p.at(row, i) * u + j] = counts ? h[j] : 0;
    }
    std::copy(h.begin(), h.end(), p.last_state + row * u);

    Doubles dh(g.last_state + row * u, g.last_state + (row + 1) * u);
    for (int64_t i = p.time - 1; i >= 0; --i) {
      const int64_t t = p.step(i);
      const bool counts = p.is_valid(row, t) || !p.zero_output_for_mask;
      for (int64_t j = 0; j < u && g.outputs && counts; ++j)
        dh[j] += g.outputs[p.at(row, i) * u + j];
      if (p.is_valid(row, t)) dh = backward(steps[i], dh, p.at(row, t));
      for (int64_t j = 0; j < u && p.is_reset(row, t); ++j)
        g.reset_state[row * u + j] += dh[j], dh[j] = 0;
    }
    std::copy(dh.begin(), dh.end(), g.initial_state + row * u);
  }

 private:
  struct Step {
    Doubles h, z, r, n, h_n;
  };

  double input_mask(int gate, int64_t k) const {
    const int mask = p.input_mask_count == 3 ? gate : 0;
    return p.input_mask_count ? p.input_masks[(mask * p.rows + row) * f + k] : 1;
  }
  double state_mask(int gate, int64_t k) const {
    const int mask = p.state_mask_count == 3 ? gate : 0;
    return p.state_mask_count ? p.state_masks[(mask * p.rows + row) * u + k] : 1;
  }
  double weight(int64_t k, int gate, int64_t j) const {
    return p.recurrent[k * width + gate * u + j];
  }

  double of_inputs(int gate, int64_t j, int64_t place) const {
    double sum = p.bias ? p.bias[gate * u + j] : 0;
    for (int64_t k = 0; k < f; ++k)
      sum += p.inputs[place * f + k] * input_mask(gate, k) * p.kernel[k * width + gate * u + j];
    return sum;
  }
  double of_state(int gate, int64_t j, const Doubles& h) const {
    double sum = p.bias && p.reset_after ? p.bias[width + gate * u + j] : 0;
    for (int64_t k = 0; k < u; ++k) sum += h[k] * state_mask(gate, k) * weight(k, gate, j);
    return sum;
  }

  // Returns the next state; `place` is that of the inputs.
  Doubles forward(Step& s, const Doubles& h, int64_t place) const {
    s = {h, Doubles(u), Doubles(u), Doubles(u), Doubles(u)};
    Doubles next(u), kept(h);
    for (int64_t j = 0; j < u; ++j) {
      s.z[j] = apply(p.recurrent_activation, of_inputs(0, j, place) + of_state(0, j, h));
      s.r[j] = apply(p.recurrent_activation, of_inputs(1, j, place) + of_state(1, j, h));
      if (!p.reset_after) kept[j] *= s.r[j];
    }
    for (int64_t j = 0; j < u; ++j) {
      s.h_n[j] = of_state(2, j, kept);
      const double reset = p.reset_after ? s.r[j] : 1;
      s.n[j] = apply(p.activation, of_inputs(2, j, place) + reset * s.h_n[j]);
      next[j] = s.z[j] * h[j] + (1 - s.z[j]) * s.n[j];
    }
    return next;
  }

  // Returns the cotangent of the state before, from that of the next one.
  Doubles backward(const Step& s, const Doubles& dh, int64_t place) const {
    Doubles d[4], before(u);  // of the arguments of z, r and n, and of h R_n + c_n
    for (Doubles& each : d) each.resize(u);
    for (int64_t j = 0; j < u; ++j) {
      d[0][j] = dh[j] * (s.h[j] - s.n[j]) * slope(p.recurrent_activation, s.z[j]);
      d[2][j] = dh[j] * (1 - s.z[j]) * slope(p.activation, s.n[j]);
      d[3][j] = d[2][j] * (p.reset_after ? s.r[j] : 1);
      before[j] = dh[j] * s.z[j];
    }
    for (int64_t k = 0; k < u; ++k) {
      const double reset = p.reset_after ? 1 : s.r[k];
      const double dk = to_state(2, k, reset * s.h[k], d[3]);
      before[k] += dk * reset;
      d[1][k] = (p.reset_after ? d[2][k] * s.h_n[k] : dk * s.h[k]) *
                slope(p.recurrent_activation, s.r[k]);
    }
    for (int gate = 0; gate < 2; ++gate)
      for (int64_t k = 0; k < u; ++k) before[k] += to_state(gate, k, s.h[k], d[gate]);
    for (int gate = 0; gate < 3; ++gate) to_inputs(gate, place, d[gate], d[gate == 2 ? 3 : gate]);
    return before;
  }

  // Returns the cotangent of element k that a gate multiplies, and adds to its weights' gradients.
  double to_state(int gate, int64_t k, double h, const Doubles& d) const {
    double sum = 0;
    for (int64_t j = 0; j < u; ++j) {
      sum += d[j] * weight(k, gate, j) * state_mask(gate, k);
      g.recurrent[k * width + gate * u + j] += d[j] * h * state_mask(gate, k);
    }
    return sum;
  }

  // Adds to the gradients of a gate's biases and kernel and of the inputs.
  void to_inputs(int gate, int64_t place, const Doubles& d, const Doubles& state_d) const {
    for (int64_t j = 0; j < u; ++j) {
      if (g.bias) g.bias[gate * u + j] += d[j];
      if (g.bias && p.reset_after) g.bias[width + gate * u + j] += state_d[j];
      for (int64_t k = 0; k < f; ++k) {
        const int64_t to = k * width + gate * u + j;
        g.inputs[place * f + k] += d[j] * p.kernel[to] * input_mask(gate, k);
        g.kernel[to] += d[j] * p.inputs[place * f + k] * input_mask(gate, k);
      }
    }
  }

  const Problem<double>& p;
  const Gradients<double>& g;
  const int64_t row, f, u, width;
  std::vector<Step> steps;
};

}  // namespace gruflax
