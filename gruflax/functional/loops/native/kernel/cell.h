// The equations of a GRU, those of step.py, for many samples at a time. A sample is one row of the
// batch at one step.
//
// The gates of a sample are in its record, [4 (`Slot`), width]. The width is the number of units,
// rounded up to whole vectors: loops over a record need no special case for the last vector.

#pragma once

#include "problem.h"
#include "products.h"

namespace gruflax::GRUFLAX_SET {

// Rows of a tile with N vectors of columns each. The sums of a tile stay in registers, and those
// that are left hold a row of the panel and an element of the left factor.
template <int N>
constexpr int kTile = (kRegisters == 32 ? 24 : 12) / N;
// Vectors of columns in the panels of products that are not those of three gates.
constexpr int kPair = 2;

// The index of a gate's dropout mask where there are `count` masks: its own, or 0 if all gates
// share one, or -1 if there is none.
constexpr int mask_of(int gate, int count) { return count == kGates ? gate : count - 1; }

// Takes pieces off a block of memory. Without a block it only counts how large one has to be.
struct Arena {
  char* start;
  size_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* piece = start ? reinterpret_cast<T*>(start + used) : nullptr;
    used += round_up(count * sizeof(T), 64);
    return piece;
  }
};

// The weights of a call as panels: copies that the products read from front to back. Columns are
// padded with zeros to whole vectors, or to pairs of them.
template <class S>
struct Panels {
  static constexpr int64_t W = kLanes<S>;
  int64_t features, units, width, blocks, pairs, feature_pairs;
  bool after;
  Arena arena;
  // [blocks, depth, 3 (`Gate`), W]: all gates of a block of units side by side. If the reset comes
  // before the product, the recurrent panels have two gates, z and r.
  S *kernel, *recurrent;
  // The candidate's own panels in that case, for its product comes later: [pairs, u, 2, W].
  S* candidate;
  S* bias;  // [blocks, 4 (`Slot`), W]; those of z and r are added up
  // Transposed, for the backward pass: [3 (the slots of the product), pairs, u, 2, W].
  S *recurrent_back, *kernel_back;

  Panels(const Problem<S>& p, bool backward, void* memory)
      : features(p.features),
        units(p.units),
        width(round_up(p.units, W)),
        blocks(width / W),
        pairs((blocks + 1) / kPair),
        feature_pairs(round_up(p.features, kPair * W) / (kPair * W)),
        after(p.reset_after),
        arena{static_cast<char*>(memory)} {
    kernel = arena.take<S>(features * kGates * width);
    recurrent = arena.take<S>(units * state_gates() * width);
    candidate = arena.take<S>(after ? 0 : units * pairs * kPair * W);
    bias = arena.take<S>(kSlots * width);
    recurrent_back = arena.take<S>(backward ? kGates * units * pairs * kPair * W : 0);
    kernel_back = arena.take<S>(backward ? kGates * units * feature_pairs * kPair * W : 0);
  }

  void fill(const Problem<S>& p, bool backward) {
    const int64_t u = units, row = kGates * u;
    pack_columns(p.kernel, kernel, features, kGates);
    pack_columns(p.recurrent, recurrent, u, state_gates());
    if (!after) pack(candidate, p.recurrent + kCandidateGate * u, u, row, u, 1, kPair * W, 1, 0);
    fill_bias(p);
    if (!backward) return;
    S *to = recurrent_back, *inputs_to = kernel_back;
    for (const Gate gate : kStateGate)
      to = pack(to, p.recurrent + gate * u, u, 1, u, row, kPair * W, 1, 0);
    for (int gate = 0; gate < kGates; ++gate)
      inputs_to = pack(inputs_to, p.kernel + gate * u, u, 1, features, row, kPair * W, 1, 0);
  }

 private:
  // The gates whose products with the state are computed together.
  int state_gates() const { return after ? kGates : kCandidateGate; }

  void pack_columns(const S* from, S* to, int64_t depth, int64_t gates) {
    pack(to, from, depth, kGates * units, units, 1, W, gates, units);
  }

  void fill_bias(const Problem<S>& p) {
    for (int64_t c = 0; c < width; ++c) {
      S* to = bias + c / W * kSlots * W + c % W;
      for (int slot = 0; slot < kSlots; ++slot) to[slot * W] = 0;
      if (!p.bias || c >= units) continue;
      const S* b = p.bias + c;
      for (int gate = 0; gate < kGates; ++gate) to[kInputSlot[gate] * W] = b[gate * units];
      if (!after) continue;
      b += kGates * units;
      to[kStateN * W] = b[kCandidateGate * units];
      for (int gate = 0; gate < kCandidateGate; ++gate) to[kStateSlot[gate] * W] += b[gate * units];
    }
  }
};

// What is multiplied and what comes of it, sample by sample. `x` and `h` are the rows that the
// kernels multiply: where each gate has a dropout mask of its own, a row for each, in the order of
// `Gate`, else only the first.
template <class S>
struct Samples {
  int64_t count;
  const S** x[kGates];
  const S** h[kGates];
  const S** state;  // [units], the state h before the step
  S** next;         // [units], the state after it; in the backward pass the gradient of the inputs
  S** gates;        // [4 (`Slot`), units], kept for the backward pass, or null
  S* records;       // [count, 4 (`Slot`), width], if the pass needs them
};

template <class S>
struct Cell {
  using V = Vector<S>;
  static constexpr int64_t W = kLanes<S>;
  const Problem<S>& problem;
  const Panels<S>& panels;

  // Computes the gates of all samples, and calls `finish(sample, column, V gates[kSlots])` for each
  // vector of units.
  template <class Finish>
  GRUFLAX_INLINE_METHOD void gates_after(const Samples<S>& samples, Finish finish) const {
    for (int64_t block = 0; block < panels.blocks; ++block)
      tiles<kTile<kGates>>(samples.count, [&](int64_t first, auto rows) {
        constexpr int M = decltype(rows)::value;
        const S* bias = panels.bias + block * kSlots * W;
        V sum[kGates][M], x_n[M], kept[kSlots][M];
        begin(sum, bias);
        project_inputs(sum, samples, first, block);
        // z and r are the sums of both products. The candidate needs each of its two.
        GRUFLAX_EACH(m, M) x_n[m] = sum[kCandidateGate][m];
        GRUFLAX_EACH(m, M) sum[kCandidateGate][m] = load(bias + kStateN * W);
        project_states(sum, samples, first, block);
        // The activations are too long to be unrolled, and a loop that is not unrolled indexes its
        // arrays, which puts them into memory. This copy is for it: the sums stay in registers.
        GRUFLAX_EACH(m, M) kept[kN][m] = x_n[m];
        GRUFLAX_EACH(m, M)
          GRUFLAX_EACH(q, kGates) kept[kStateSlot[q]][m] = sum[q][m];
        for (int m = 0; m < M; ++m) {
          V gates[kSlots];
          gates[kStateN] = kept[kStateN][m];
          gates[kZ] = gate(kept[kZ][m]);
          gates[kR] = gate(kept[kR][m]);
          gates[kN] = candidate(kept[kN][m] + gates[kR] * gates[kStateN]);
          finish(first + m, block * W, gates);
        }
      });
  }

  // Computes the same if the reset comes before the product. The candidate's product needs all
  // units of r * h, and so there are two passes. The first one writes h_n = r * h, z, r, and for n
  // what the inputs add to it into the records. The second one calls `finish(sample, column, n)`.
  template <class Finish>
  GRUFLAX_INLINE_METHOD void gates_before(const Samples<S>& samples, Finish finish) const {
    const int64_t width = panels.width;
    for (int64_t block = 0; block < panels.blocks; ++block)
      tiles<kTile<kGates>>(samples.count, [&](int64_t first, auto rows) {
        constexpr int M = decltype(rows)::value;
        const S* bias = panels.bias + block * kSlots * W;
        V sum[kGates][M], kept[kGates][M];
        begin(sum, bias);
        project_inputs(sum, samples, first, block);
        V(&z_and_r)[kCandidateGate][M] = reinterpret_cast<V(&)[kCandidateGate][M]>(sum);
        project_states(z_and_r, samples, first, block);
        GRUFLAX_EACH(m, M)
          GRUFLAX_EACH(q, kGates) kept[q][m] = sum[q][m];
        const int64_t lanes = problem.units - block * W;
        for (int m = 0; m < M; ++m) {
          S* record = samples.records + (first + m) * kSlots * width + block * W;
          const V r = gate(kept[kResetGate][m]);
          // The row that the candidate's kernel multiplies: the state times its dropout mask.
          const int of_candidate = problem.state_mask_count == kGates ? kCandidateGate : 0;
          const S* h = samples.h[of_candidate][first + m] + block * W;
          store(record + kStateN * width, r * load(h, lanes));
          store(record + kZ * width, gate(kept[kUpdateGate][m]));
          store(record + kR * width, r);
          store(record + kN * width, kept[kCandidateGate][m]);
        }
      });
    for (int64_t pair = 0; pair < panels.pairs; ++pair)
      tiles<kTile<kPair>>(samples.count, [&](int64_t first, auto rows) {
        constexpr int M = decltype(rows)::value;
        V sum[kPair][M] = {}, kept[kPair][M];
        const Strided<S> left{samples.records + first * kSlots * width, kSlots * width};
        multiply(sum, left, panels.candidate + pair * problem.units * kPair * W, kPair * W,
                 problem.units);
        GRUFLAX_EACH(m, M)
          GRUFLAX_EACH(q, kPair) kept[q][m] = sum[q][m];
        for (int64_t q = 0; q < smaller(kPair, panels.blocks - pair * kPair); ++q)
          for (int m = 0; m < M; ++m) {
            const int64_t column = (pair * kPair + q) * W;
            const S* record = samples.records + (first + m) * kSlots * width + column;
            finish(first + m, column, candidate(load(record + kN * width) + kept[q][m]));
          }
      });
  }

  GRUFLAX_INLINE_METHOD V gate(V x) const { return activate<S>(problem.recurrent_activation, x); }
  GRUFLAX_INLINE_METHOD V candidate(V x) const { return activate<S>(problem.activation, x); }

 private:
  // Begins the sums of a block of units with its biases.
  template <int M>
  GRUFLAX_INLINE_METHOD static void begin(V (&sum)[kGates][M], const S* bias) {
    GRUFLAX_EACH(m, M)
      GRUFLAX_EACH(q, kGates) sum[q][m] = load(bias + kInputSlot[q] * W);
  }

  template <int N, int M>
  GRUFLAX_INLINE_METHOD void project_inputs(V (&sum)[N][M], const Samples<S>& s, int64_t first,
                                            int64_t block) const {
    const int64_t f = problem.features;
    project(sum, s.x, problem.input_mask_count, first, panels.kernel + block * f * kGates * W, f);
  }

  template <int N, int M>
  GRUFLAX_INLINE_METHOD void project_states(V (&sum)[N][M], const Samples<S>& s, int64_t first,
                                            int64_t block) const {
    const int64_t u = problem.units;
    project(sum, s.h, problem.state_mask_count, first, panels.recurrent + block * u * N * W, u);
  }

  template <int N, int M>
  GRUFLAX_INLINE_METHOD void project(V (&sum)[N][M], const S** const* rows, int masks,
                                     int64_t first, const S* panel, int64_t depth) const {
    const bool single = problem.rows == 1;
    if (masks == kGates) {
      const GateRows<S> left{{rows[0] + first, rows[1] + first, rows[2] + first}};
      return multiply(sum, left, panel, N * W, depth, single);
    }
    multiply(sum, Rows<S>{rows[0] + first}, panel, N * W, depth, single);
  }
};

}  // namespace gruflax::GRUFLAX_SET
