// The backward pass over some rows of a call, and the sum of what such parts give. Included like
// vectors.h.

// The most samples of a chunk of the backward pass: enough to make products of matrices of it,
// while their records stay near.
constexpr int64_t kChunkSamples = 192, kChunkBytes = 4 << 20;

template <class S>
static int64_t chunk_samples(const Problem<S>& p, int64_t width) {
  const int64_t record_bytes = kSlots * larger(width, 1) * sizeof(S);
  const int64_t most = smaller(kChunkSamples, kChunkBytes / record_bytes);
  // A chunk is at least a step of all rows side by side.
  return larger(smaller(most, p.rows * p.time), smaller(p.rows, kGroup));
}

// What a part of the rows adds to the gradients of the weights: [f, 3 (z, r, n), width],
// [u, 3 (n, z, r), width] and, of the biases, [4 (h_n, z, r, n), width].
template <class S>
struct Sums {
  Arena arena;
  S *kernel, *recurrent, *bias;

  Sums(const Problem<S>& p, int64_t width, void* memory)
      : arena{static_cast<char*>(memory)},
        kernel(arena.take<S>(p.features * 3 * width)),
        recurrent(arena.take<S>(p.units * 3 * width)),
        bias(arena.take<S>(kSlots * width)) {}
};

// Chunk by chunk from the end: the gates of the chunk once more, the recurrence backwards, and then
// the gradients of the weights and the inputs as products of matrices. The derivation is that of
// tangent.py, transposed; D below is the cotangent of the projections, in the slots of the records.
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
  int64_t* row_of;    // of each sample, in its group
  int64_t* first_of;  // the first sample of each step of the chunk
  const S** row;      // pointers to the left factor of an outer product
  S* carry;           // the state's cotangent, [rows, width]
  S* kept;            // that of r * h, [rows, width]
  Sums<S> sums;
  bool gates_kept;  // those of the chunk, by the forward pass

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
  // A gate of a sample: what the forward pass kept, or else in its record, where the cotangent will
  // replace it.
  const S* gate(int64_t i, int slot) {
    return gates_kept ? samples().gates[i] + slot * problem.units : record(i, slot);
  }
  INLINE_METHOD V gate(int64_t i, int slot, int64_t c) {
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
        // In the backward pass what comes next of a sample is the gradient of its input.
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

  // Finds the state that step i begins with: the output of the latest valid step, the state of a
  // later reset, or the initial one. At masked steps the outputs may be zeros.
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

  // Tells whether the gates of all samples of the chunk were kept; the others are the least number.
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
      cell.gates_after(samples(), [&](int64_t i, int64_t column, V z, V r, V n, V h_n) {
        S* to = record(i, 0) + column;
        store(to + kStateN * width, h_n);
        store(to + kZ * width, z);
        store(to + kR * width, r);
        store(to + kN * width, n);
      });
    else
      cell.gates_before(samples(),
                        [&](int64_t i, int64_t column, V n) { store(record(i, kN) + column, n); });
  }

  // Takes the cotangent from after step i, in the order of processing, to before it.
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
    // A mask is that of a gate, in their order z r n.
    if (problem.state_mask_count == 3) {
      const int gate_of[] = {2, 0, 1};
      for (int slot = 0; slot < 3; ++slot)
        to_carry(first, begin, count, slot, 1, slot, gate_of[slot]);
    } else {
      to_carry(first, begin, count, kStateN, 3, 0, 0);
    }
  }

  void back_before(int64_t first, int64_t begin, int64_t count) {
    each_vector(begin, count, [&](int64_t i, int64_t c, S* dh, V h) {
      back_blend(i, c, dh, h, gate(i, kZ, c), gate(i, kN, c));
    });
    const int last_mask = problem.state_mask_count - 1;
    back_product(begin, count, kN, 1, panels.recurrent_back, panels.blocks,
                 [&](int64_t i, int64_t c, V value) {
                   store(kept + row_of[i] * width + c, dropped(problem.state_masks, last_mask,
                                                               problem.units, first, i, c, value));
                 });
    each_vector(begin, count, [&](int64_t i, int64_t c, S* dh, V h) {
      const V r = gate(i, kR, c), dk = load(kept + row_of[i] * width + c);
      store(record(i, kR) + c, dk * h * gate_slope(r));
      store(dh, load(dh) + dk * r);
    });
    if (problem.state_mask_count == 3) {
      for (int gate = 0; gate < 2; ++gate)
        to_carry(first, begin, count, kZ + gate, 1, 1 + gate, gate);
    } else {
      to_carry(first, begin, count, kZ, 2, 1, 0);
    }
  }

  // Calls `use(sample, column, the carry there, h)` for each vector of units of each sample.
  template <class Use>
  INLINE_METHOD void each_vector(int64_t begin, int64_t count, Use use) {
    for (int64_t i = begin; i < begin + count; ++i) {
      S* dh = carry + row_of[i] * width;
      const S* h = samples().state[i];
      for (int64_t c = 0; c < width; c += W) use(i, c, dh + c, load(h + c, problem.units - c));
    }
  }

  // Of h' = z h + (1 - z) n: stores the cotangents of the arguments of z and n, leaves that of h.
  INLINE_METHOD V back_blend(int64_t i, int64_t c, S* carried, V h, V z, V n) {
    const V dh = load(carried), dn = dh * (S(1) - z) * derivative<S>(problem.activation, n);
    store(record(i, kZ) + c, dh * (h - n) * gate_slope(z));
    store(record(i, kN) + c, dn);
    store(carried, dh * z);
    return dn;
  }

  INLINE_METHOD V gate_slope(V y) const { return derivative<S>(problem.recurrent_activation, y); }

  void to_carry(int64_t first, int64_t begin, int64_t count, int slot, int slots, int panel,
                int mask) {
    const S* from = panels.recurrent_back + panel * panels.pairs * problem.units * kPair * W;
    back_product(
        begin, count, slot, slots, from, panels.blocks, [&](int64_t i, int64_t c, V value) {
          S* to = carry + row_of[i] * width + c;
          store(to, load(to) + dropped(problem.state_masks, problem.state_mask_count ? mask : -1,
                                       problem.units, first, i, c, value));
        });
  }

  // Multiplies by the dropout mask of the sample's row, one of `[n, rows, size]`; -1 is none.
  INLINE_METHOD V dropped(const S* masks, int mask, int64_t size, int64_t first, int64_t i,
                          int64_t c, V value) const {
    if (mask < 0) return value;
    return value * load(masks + (mask * problem.rows + first + row_of[i]) * size + c, size - c);
  }

  // Multiplies D, `slots` slots of it, by transposed kernels of so many vectors of columns:
  // `finish(sample, column, vector)`.
  template <class Finish>
  INLINE_METHOD void back_product(int64_t begin, int64_t count, int slot, int slots,
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
          EACH(m, M) EACH(q, N) total[q][m] = sum[q][m];
          for (int m = 0; m < M; ++m)
            for (int q = 0; q < N; ++q)
              finish(begin + first + m, (pair * kPair + q) * W, total[q][m]);
        });
      });
  }

  void input_gradients(int64_t first) {
    const int64_t f = problem.features, size = panels.feature_pairs * problem.units * kPair * W;
    const int calls = problem.input_mask_count == 3 ? 3 : 1;
    for (int gate = 0; gate < calls; ++gate)
      back_product(0, samples().count, kZ + gate, 3 / calls, panels.kernel_back + gate * size,
                   (f + W - 1) / W, [&](int64_t i, int64_t c, V value) {
                     S* to = samples().next[i] + c;
                     value = dropped(problem.input_masks, problem.input_mask_count ? gate : -1, f,
                                     first, i, c, value);
                     store(to, gate ? load(to, f - c) + value : value, f - c);
                   });
  }

  void weight_gradients() {
    const int64_t count = samples().count, f = problem.features, u = problem.units;
    const Samples<S>& s = samples();
    if (problem.input_mask_count == 3)
      for (int gate = 0; gate < 3; ++gate)
        outer(s.x[gate], f, kZ + gate, 1, sums.kernel + gate * width);
    else outer(s.x[0], f, kZ, 3, sums.kernel);
    const bool by_gate = problem.state_mask_count == 3;
    if (by_gate)
      for (int gate = 0; gate < 2; ++gate)
        outer(s.h[gate], u, kZ + gate, 1, sums.recurrent + (1 + gate) * width);
    if (problem.reset_after && by_gate) outer(s.h[2], u, kStateN, 1, sums.recurrent);
    if (problem.reset_after && !by_gate) outer(s.h[0], u, kStateN, 3, sums.recurrent);
    if (!problem.reset_after) {
      if (!by_gate) outer(s.h[0], u, kZ, 2, sums.recurrent + width);
      for (int64_t i = 0; i < count; ++i) row[i] = gate(i, kStateN);
      outer(row, u, kN, 1, sums.recurrent);
    }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = problem.reset_after ? 0 : kZ * width; c < kSlots * width; c += W)
        store(sums.bias + c, load(sums.bias + c) + load(record(i, 0) + c));
  }

  // to [depth, 3 width] += left [samples, depth] transposed times `slots` slots of D.
  void outer(const S* const* left, int64_t depth, int slot, int slots, S* to) {
    const int64_t vectors = slots * width / W, stride = 3 * width;
    for (int64_t begin = 0; begin < vectors; begin += 3)
      with_count<3>(smaller(3, vectors - begin), [&](auto columns) {
        constexpr int N = decltype(columns)::value;
        tiles<kTile<3>>(depth, [&](int64_t first, auto constant) {
          constexpr int M = decltype(constant)::value;
          V sum[N][M];
          S* target = to + first * stride + begin * W;
          EACH(m, M) EACH(q, N) sum[q][m] = load(target + m * stride + q * W);
          multiply(sum, Columns<S>{left, first}, record(0, slot) + begin * W, kSlots * width,
                   samples().count);
          EACH(m, M) EACH(q, N) store(target + m * stride + q * W, sum[q][m]);
        });
      });
  }

  static void add(S* to, const S* from, int64_t count) {
    for (int64_t k = 0; k < count; ++k) to[k] += from[k];
  }
};

// Adds up what the parts have, always in the same order, and takes the padding away.
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
  const int state_slot[] = {kZ, kR, kStateN};
  for (int gate = 0; gate < 3; ++gate) {
    for (int64_t k = 0; k < p.features; ++k)
      total(g.kernel + (k * 3 + gate) * u, sums.kernel + (k * 3 + gate) * width);
    for (int64_t k = 0; k < u; ++k)
      total(g.recurrent + (k * 3 + gate) * u, sums.recurrent + (k * 3 + state_slot[gate]) * width);
    if (!g.bias) continue;
    total(g.bias + gate * u, sums.bias + (kZ + gate) * width);
    if (p.reset_after) total(g.bias + (3 + gate) * u, sums.bias + state_slot[gate] * width);
  }
}
