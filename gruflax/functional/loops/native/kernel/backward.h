// The backward pass over some rows of a call, and the sum of the gradients that several of these
// parts give.

#pragma once

#include "cell.h"
#include "gather.h"
#include "products.h"

namespace gruflax::GRUFLAX_SET {

// The most samples of a chunk of the backward pass, and the most memory of their records. A chunk
// has to be large enough that the gradients of the weights are products of matrices, which read
// each weight once for many samples, and small enough that the records stay in the caches until
// then.
constexpr int64_t kChunkSamples = 192, kChunkBytes = 4 << 20;

template <class S>
static int64_t chunk_samples(const Problem<S>& p, int64_t width) {
  const int64_t record_bytes = kSlots * larger(width, 1) * sizeof(S);
  const int64_t most = smaller(kChunkSamples, kChunkBytes / record_bytes);
  // A chunk is at least a step of all rows side by side.
  return larger(smaller(most, p.rows * p.time), smaller(p.rows, kGroup));
}

// What a part of the rows adds to the gradients of the weights. Their gates are in the order of
// `Slot`, so that one product adds several slots of D at once: the kernel's [f, 3 (from kZ),
// width], the recurrent kernel's [u, 3 (from kStateN), width], and the biases' [4, width].
template <class S>
struct Sums {
  Arena arena;
  S *kernel, *recurrent, *bias;

  Sums(const Problem<S>& p, int64_t width, void* memory)
      : arena{static_cast<char*>(memory)},
        kernel(arena.take<S>(p.features * kGates * width)),
        recurrent(arena.take<S>(p.units * kGates * width)),
        bias(arena.take<S>(kSlots * width)) {}
};

// Goes through time backwards, in chunks of steps. In each chunk it computes the gates once more,
// if they were not kept, then goes back step by step, and in the end computes the gradients of the
// weights and the inputs as products of matrices over all samples of the chunk. The derivation is
// that of tangent.py, transposed.
//
// D below is the cotangent of what the activations get: of each gate's product with the inputs, and
// of the candidate's product with the state. When a step is done, D has taken the place of the
// gates in the records of its samples. If the reset comes before the product, h_n stays there: it
// is r * h, by which the gradient of the candidate's kernel is computed, and D of it is D of n.
template <class S>
struct Backward {
  using V = Vector<S>;
  static constexpr int64_t W = kLanes<S>;
  const Problem<S>& problem;
  const Gradients<S>& gradients;
  const Panels<S> panels;
  const int64_t width, capacity;
  Arena arena;
  Gatherer<S> gatherer;
  int64_t* row_of;    // the row of each sample, counted from the first row of the group
  int64_t* first_of;  // the first sample of each step of the chunk
  const S** row;      // pointers to the left factor of an outer product
  S* carry;           // the state's cotangent, [rows, width]
  S* kept;  // the cotangent of r * h, [rows, width], if the reset comes before the product
  Sums<S> sums;
  bool gates_kept;  // whether the forward pass kept the gates of the whole chunk

  Backward(const Problem<S>& p, const Gradients<S>& g, const void* packed, void* scratch,
           void* memory)
      : problem(p),
        gradients(g),
        panels(p, true, const_cast<void*>(packed)),
        width(panels.width),
        capacity(chunk_samples(p, width)),
        arena{static_cast<char*>(scratch)},
        gatherer(p, arena, capacity, capacity, width),
        row_of(arena.take<int64_t>(capacity)),
        first_of(arena.take<int64_t>(capacity + 1)),
        row(arena.take<const S*>(capacity)),
        carry(arena.take<S>(kGroup * width)),
        kept(arena.take<S>(kGroup * width)),
        sums(p, width, memory) {}

  void run(int64_t first, int64_t end) {
    if (gradients.weights()) clear(sums.arena.start, sums.arena.used);
    in_groups(first, end, [this](int64_t first, int64_t rows) { run_group(first, rows); });
  }

 private:
  Samples<S>& samples() { return gatherer.samples; }
  S* record(int64_t i, int slot) { return samples().records + (i * kSlots + slot) * width; }
  // The values of a slot for a sample: what the forward pass kept, or what `recompute` wrote into
  // the record, where they can be read until the cotangent replaces them.
  const S* gate(int64_t i, int slot) {
    return gates_kept ? samples().gates[i] + slot * problem.units : record(i, slot);
  }
  GRUFLAX_INLINE_METHOD V gate(int64_t i, int slot, int64_t c) {
    return load(gate(i, slot) + c, gates_kept ? problem.units - c : W);
  }

  void run_group(int64_t first, int64_t rows) {
    const int64_t u = problem.units;
    clear(carry, rows * width);
    for (int64_t g = 0; g < rows; ++g) {
      if (gradients.last_state) copy(carry + g * width, gradients.last_state + (first + g) * u, u);
      if (gradients.reset_state) clear(gradients.reset_state + (first + g) * u, u);
    }
    const int64_t steps = capacity / rows;
    for (int64_t end = problem.time; end > 0; end -= steps) {
      const int64_t begin = larger(end - steps, 0);
      gather(first, rows, begin, end);
      gates_kept = were_kept();
      if (!gates_kept) recompute();
      for (int64_t i = end - 1; i >= begin; --i) step_back(first, rows, i, i - begin);
      if (gradients.inputs) input_gradients(first);
      if (gradients.weights()) weight_gradients();
    }
    for (int64_t g = 0; g < rows && gradients.initial_state; ++g)
      copy(gradients.initial_state + (first + g) * u, carry + g * width, u);
  }

  void gather(int64_t first, int64_t rows, int64_t begin, int64_t end) {
    samples().count = 0;
    for (int64_t i = begin; i < end; ++i) {
      first_of[i - begin] = samples().count;
      for (int64_t g = 0; g < rows; ++g) {
        const int64_t t = problem.step(i);
        // The gatherer's `next` is where a sample's result goes: here the gradient of its input.
        S* input = gradients.inputs;
        if (input) input += problem.at(first + g, t) * problem.features;
        if (problem.is_valid(first + g, t)) {
          row_of[samples().count] = g;
          gatherer.add(first + g, t, i, state_before(first + g, i), input);
        } else if (input) {
          clear(input, problem.features);
        }
      }
    }
    first_of[end - begin] = samples().count;
  }

  // Finds the state that step i begins with. It goes back to the latest step that was valid, whose
  // output is its state, or reset. The outputs of masked steps cannot be used: with
  // zero_output_for_mask they are zeros.
  const S* state_before(int64_t row, int64_t i) const {
    const int64_t u = problem.units;
    if (problem.is_reset(row, problem.step(i))) return problem.reset_state + row * u;
    while (--i >= 0) {
      const int64_t t = problem.step(i);
      if (problem.is_valid(row, t)) return problem.outputs + problem.at(row, i) * u;
      if (problem.is_reset(row, t)) return problem.reset_state + row * u;
    }
    return problem.initial_state + row * u;
  }

  // Returns whether the gates of all samples of the chunk were kept. Where they were not, for the
  // forward pass ran without the kernel, the array is filled with the least finite number. One
  // element of each sample tells: a gate that has this value by chance is only computed again.
  bool were_kept() {
    constexpr S none = sizeof(S) == sizeof(float) ? S(-__FLT_MAX__) : S(-__DBL_MAX__);
    if (!problem.gates) return false;
    for (int64_t i = 0; i < samples().count; ++i)
      if (samples().gates[i][kZ * problem.units] == none) return false;
    return true;
  }

  void recompute() {
    const Cell<S> cell{problem, panels};
    if (problem.reset_after)
      cell.gates_after(samples(), [&](int64_t i, int64_t column, const V(&gates)[kSlots]) {
        GRUFLAX_EACH(slot, kSlots) store(record(i, slot) + column, gates[slot]);
      });
    else
      cell.gates_before(samples(),
                        [&](int64_t i, int64_t column, V n) { store(record(i, kN) + column, n); });
  }

  // Takes the carry from the state after the i-th step, in the order of processing, to the state
  // before it.
  void step_back(int64_t first, int64_t rows, int64_t i, int64_t in_chunk) {
    const int64_t u = problem.units, t = problem.step(i);
    for (int64_t g = 0; g < rows && gradients.outputs; ++g)
      if (!problem.zero_output_for_mask || problem.is_valid(first + g, t))
        add(carry + g * width, gradients.outputs + problem.at(first + g, i) * u, u);
    const int64_t begin = first_of[in_chunk], count = first_of[in_chunk + 1] - begin;
    if (count && problem.reset_after) back_after(first, begin, count);
    if (count && !problem.reset_after) back_before(first, begin, count);
    if (!problem.reset) return;
    for (int64_t g = 0; g < rows; ++g) {
      if (!problem.is_reset(first + g, t)) continue;
      if (gradients.reset_state) add(gradients.reset_state + (first + g) * u, carry + g * width, u);
      clear(carry + g * width, u);
    }
  }

  void back_after(int64_t first, int64_t begin, int64_t count) {
    each_vector(begin, count, [&](int64_t i, int64_t c, S* dh, V h) {
      const V z = gate(i, kZ, c), r = gate(i, kR, c), n = gate(i, kN, c);
      const V h_n = gate(i, kStateN, c), dn = back_blend(i, c, dh, h, z, n);
      store(record(i, kStateN) + c, dn * r);
      store(record(i, kR) + c, dn * h_n * gate_slope(r));
    });
    to_carry(first, begin, count, kStateN);
  }

  void back_before(int64_t first, int64_t begin, int64_t count) {
    each_vector(begin, count, [&](int64_t i, int64_t c, S* dh, V h) {
      back_blend(i, c, dh, h, gate(i, kZ, c), gate(i, kN, c));
    });
    // The candidate multiplied r * h: its cotangent divides among r and h before it goes on.
    back_product(begin, count, kN, 1, recurrent_back(kStateN), panels.blocks,
                 [&](int64_t i, int64_t c, V value) {
                   store(kept + row_of[i] * width + c,
                         state_dropped(kCandidateGate, first, i, c, value));
                 });
    each_vector(begin, count, [&](int64_t i, int64_t c, S* dh, V h) {
      const V r = gate(i, kR, c), dk = load(kept + row_of[i] * width + c);
      store(record(i, kR) + c, dk * h * gate_slope(r));
      store(dh, load(dh) + dk * r);
    });
    to_carry(first, begin, count, kZ);
  }

  // Calls `use(sample, column, the address of the carry, h)` for each vector of units of each
  // sample.
  template <class Use>
  GRUFLAX_INLINE_METHOD void each_vector(int64_t begin, int64_t count, Use use) {
    for (int64_t i = begin; i < begin + count; ++i) {
      S* dh = carry + row_of[i] * width;
      const S* h = samples().state[i];
      for (int64_t c = 0; c < width; c += W) use(i, c, dh + c, load(h + c, problem.units - c));
    }
  }

  // Goes back through h' = z h + (1 - z) n: stores D of z and n, and leaves in the carry what h
  // gets from z h. Returns D of n. `carried` is the address of the carry.
  GRUFLAX_INLINE_METHOD V back_blend(int64_t i, int64_t c, S* carried, V h, V z, V n) {
    const V dh = load(carried), dn = dh * (S(1) - z) * derivative<S>(problem.activation, n);
    store(record(i, kZ) + c, dh * (h - n) * gate_slope(z));
    store(record(i, kN) + c, dn);
    store(carried, dh * z);
    return dn;
  }

  GRUFLAX_INLINE_METHOD V gate_slope(V y) const {
    return derivative<S>(problem.recurrent_activation, y);
  }

  // Adds what D gives to the state, from a slot to the last one of the state's, to the carry: in
  // one product, but gate by gate where each has a dropout mask of its own.
  void to_carry(int64_t first, int64_t begin, int64_t count, int first_slot) {
    const int slots = problem.state_mask_count == kGates ? 1 : kGates - first_slot;
    for (int slot = first_slot; slot < kGates; slot += slots)
      back_product(begin, count, slot, slots, recurrent_back(slot), panels.blocks,
                   [&](int64_t i, int64_t c, V value) {
                     S* to = carry + row_of[i] * width + c;
                     store(to, load(to) + state_dropped(kStateGate[slot], first, i, c, value));
                   });
  }

  // The transposed panels of one of the state's slots.
  const S* recurrent_back(int slot) const {
    return panels.recurrent_back + slot * panels.pairs * problem.units * kPair * W;
  }

  // Multiplies by a gate's dropout mask of the state or of the inputs, for the sample's row.
  GRUFLAX_INLINE_METHOD V state_dropped(int gate, int64_t first, int64_t i, int64_t c,
                                        V value) const {
    const int mask = mask_of(gate, problem.state_mask_count);
    return dropped(problem.state_masks, mask, problem.units, first, i, c, value);
  }
  GRUFLAX_INLINE_METHOD V input_dropped(int gate, int64_t first, int64_t i, int64_t c,
                                        V value) const {
    const int mask = mask_of(gate, problem.input_mask_count);
    return dropped(problem.input_masks, mask, problem.features, first, i, c, value);
  }
  GRUFLAX_INLINE_METHOD V dropped(const S* masks, int mask, int64_t size, int64_t first, int64_t i,
                                  int64_t c, V value) const {
    if (mask < 0) return value;
    return value * load(masks + (mask * problem.rows + first + row_of[i]) * size + c, size - c);
  }

  // Multiplies some slots of D by transposed panels with `vectors` vectors of columns, and adds up
  // the slots: calls `finish(sample, column, vector)`.
  template <class Finish>
  GRUFLAX_INLINE_METHOD void back_product(int64_t begin, int64_t count, int slot, int slots,
                                          const S* kernels, int64_t vectors, Finish finish) {
    const int64_t pairs = (vectors + 1) / kPair;
    const int64_t depth = problem.units, stride = kPair * W;
    for (int64_t pair = 0; pair < pairs; ++pair)
      with_count<kPair>(smaller(kPair, vectors - pair * kPair), [&](auto columns) {
        constexpr int N = decltype(columns)::value;
        tiles<kTile<kPair>>(count, [&](int64_t first, auto constant) {
          constexpr int M = decltype(constant)::value;
          V sum[N][M] = {}, total[N][M];
          for (int s = 0; s < slots; ++s) {
            const Strided<S> left{record(begin + first, slot + s), kSlots * width};
            const S* panel = kernels + (s * pairs + pair) * depth * stride;
            multiply(sum, left, panel, stride, depth, problem.rows == 1);
          }
          GRUFLAX_EACH(m, M)
            GRUFLAX_EACH(q, N) total[q][m] = sum[q][m];
          for (int m = 0; m < M; ++m)
            for (int q = 0; q < N; ++q)
              finish(begin + first + m, (pair * kPair + q) * W, total[q][m]);
        });
      });
  }

  void input_gradients(int64_t first) {
    const int64_t f = problem.features, size = panels.feature_pairs * problem.units * kPair * W;
    const int slots = problem.input_mask_count == kGates ? 1 : kGates;
    for (int gate = 0; gate < kGates; gate += slots)
      back_product(0, samples().count, kInputSlot[gate], slots, panels.kernel_back + gate * size,
                   (f + W - 1) / W, [&](int64_t i, int64_t c, V value) {
                     S* to = samples().next[i] + c;
                     value = input_dropped(gate, first, i, c, value);
                     store(to, gate ? load(to, f - c) + value : value, f - c);
                   });
  }

  void weight_gradients() {
    const int64_t count = samples().count, f = problem.features, u = problem.units;
    const Samples<S>& s = samples();
    const int input_slots = problem.input_mask_count == kGates ? 1 : kGates;
    for (int gate = 0; gate < kGates; gate += input_slots)
      outer(s.x[gate], f, kInputSlot[gate], input_slots, sums.kernel + gate * width);
    const bool by_gate = problem.state_mask_count == kGates;
    const int first_slot = problem.reset_after ? kStateN : kZ;
    const int slots = by_gate ? 1 : kGates - first_slot;
    for (int slot = first_slot; slot < kGates; slot += slots)
      outer(s.h[by_gate ? kStateGate[slot] : 0], u, slot, slots, sums.recurrent + slot * width);
    if (!problem.reset_after) {
      // The candidate's kernel multiplied r * h, and D of its product is D of n.
      for (int64_t i = 0; i < count; ++i) row[i] = gate(i, kStateN);
      outer(row, u, kN, 1, sums.recurrent + kStateN * width);
    }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = problem.reset_after ? 0 : kZ * width; c < kSlots * width; c += W)
        store(sums.bias + c, load(sums.bias + c) + load(record(i, 0) + c));
  }

  // Adds a product over the samples: to [depth, 3, width], from its first gate on, gets left
  // [samples, depth], transposed, times `slots` slots of D.
  void outer(const S* const* left, int64_t depth, int slot, int slots, S* to) {
    const int64_t vectors = slots * width / W, stride = kGates * width;
    constexpr int most = 3;
    for (int64_t begin = 0; begin < vectors; begin += most)
      with_count<most>(smaller(most, vectors - begin), [&](auto columns) {
        constexpr int N = decltype(columns)::value;
        tiles<kTile<most>>(depth, [&](int64_t first, auto constant) {
          constexpr int M = decltype(constant)::value;
          V sum[N][M];
          S* target = to + first * stride + begin * W;
          GRUFLAX_EACH(m, M)
            GRUFLAX_EACH(q, N) sum[q][m] = load(target + m * stride + q * W);
          multiply(sum, Columns<S>{left, first}, record(0, slot) + begin * W, kSlots * width,
                   samples().count);
          GRUFLAX_EACH(m, M)
            GRUFLAX_EACH(q, N) store(target + m * stride + q * W, sum[q][m]);
        });
      });
  }

  static void add(S* to, const S* from, int64_t count) {
    for (int64_t k = 0; k < count; ++k) to[k] += from[k];
  }
};

// Adds up the sums of all parts in the order of the parts, whichever ended first, so that the
// result is always the same. Takes the padding away, and puts the gates into Keras' order.
template <class S>
static void add_up(const Problem<S>& p, const Gradients<S>& g, const void* memory, int64_t parts) {
  const int64_t u = p.units, width = round_up(u, kLanes<S>);
  const Sums<S> sums(p, width, const_cast<void*>(memory));
  const int64_t distance = sums.arena.used / sizeof(S);
  const auto total = [&](S* to, const S* from) {
    for (int64_t c = 0; c < u; ++c) to[c] = from[c];
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t c = 0; c < u; ++c) to[c] += from[part * distance + c];
  };
  for (int gate = 0; gate < kGates; ++gate) {
    const int input_slot = kInputSlot[gate], state_slot = kStateSlot[gate];
    for (int64_t k = 0; k < p.features; ++k)
      total(g.kernel + (k * kGates + gate) * u, sums.kernel + (k * kGates + gate) * width);
    for (int64_t k = 0; k < u; ++k)
      total(g.recurrent + (k * kGates + gate) * u,
            sums.recurrent + (k * kGates + state_slot) * width);
    if (!g.bias) continue;
    total(g.bias + gate * u, sums.bias + input_slot * width);
    if (p.reset_after) total(g.bias + (kGates + gate) * u, sums.bias + state_slot * width);
  }
}

}  // namespace gruflax::GRUFLAX_SET
