// The gates of some samples, a sample being a row at a step: the equations of step.py, with one
// record per sample, [4 (`Slot`), width].
//
// In the order of `Slot` the three gates that multiply the state lie side by side, and the three
// that multiply the input. Included like vectors.h.

// Rows of a tile with N vectors of columns each: as many as there are registers for.
template <int N>
constexpr int kTile = (kRegisters == 32 ? 24 : 12) / N;
constexpr int kPair = 2;

// Takes pieces off a block of memory; without one it only counts.
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

// The weights of a call as panels.
template <class S>
struct Panels {
  static constexpr int64_t W = kLanes<S>;
  int64_t features, units, width, blocks, pairs, feature_pairs;
  bool after;
  Arena arena;
  // z r n side by side, per block of units: of the inputs, and of the state if the reset is after.
  S *kernel, *recurrent;
  // Else z r side by side, and the candidate's by pairs of blocks.
  S* candidate;
  S* bias;  // [blocks, 4 (z, r, n, h_n), W]
  // For the backward pass, by slots and pairs: transposed.
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
    kernel = arena.take<S>(features * 3 * width);
    recurrent = arena.take<S>(units * (after ? 3 : 2) * width);
    candidate = arena.take<S>(after ? 0 : units * pairs * kPair * W);
    bias = arena.take<S>(4 * width);
    recurrent_back = arena.take<S>(backward ? 3 * units * pairs * kPair * W : 0);
    kernel_back = arena.take<S>(backward ? 3 * units * feature_pairs * kPair * W : 0);
  }

  void fill(const Problem<S>& p, bool backward) {
    const int64_t u = units, row = 3 * u;
    pack_columns(p.kernel, kernel, features, 3);
    pack_columns(p.recurrent, recurrent, u, after ? 3 : 2);
    if (!after) pack(candidate, p.recurrent + 2 * u, u, row, u, 1, kPair * W, 1, 0);
    fill_bias(p);
    if (!backward) return;
    S *to = recurrent_back, *inputs_to = kernel_back;
    for (int slot = 0; slot < 3; ++slot) {
      // h_n, the candidate's, z and r of the state; z, r and n of the inputs.
      const int64_t gate = (slot + 2) % 3;
      to = pack(to, p.recurrent + gate * u, u, 1, u, row, kPair * W, 1, 0);
      inputs_to = pack(inputs_to, p.kernel + slot * u, u, 1, features, row, kPair * W, 1, 0);
    }
  }

 private:
  void pack_columns(const S* from, S* to, int64_t depth, int64_t gates) {
    pack(to, from, depth, 3 * units, units, 1, W, gates, units);
  }

  void fill_bias(const Problem<S>& p) {
    for (int64_t c = 0; c < width; ++c) {
      S* to = bias + c / W * 4 * W + c % W;
      for (int gate = 0; gate < 4; ++gate) to[gate * W] = 0;
      if (!p.bias || c >= units) continue;
      const S* b = p.bias + c;
      for (int gate = 0; gate < 3; ++gate) to[gate * W] = b[gate * units];
      if (!after) continue;
      for (int gate = 0; gate < 2; ++gate) to[gate * W] += b[(3 + gate) * units];
      to[3 * W] = b[5 * units];
    }
  }
};

// What is multiplied and what comes of it, sample by sample. `x` and `h` are the rows that the
// kernels multiply: with a dropout mask for each gate, one of z, r and n each, else the first
// alone.
template <class S>
struct Samples {
  int64_t count;
  const S** x[3];
  const S** h[3];
  const S** state;  // [units], the h of the last equation
  S** next;         // [units], h', in the forward pass
  S** gates;        // [4, units], those that are kept for the backward pass, or null
  S* records;       // [count, 4, width], where the pass has need of them
};

template <class S>
struct Cell {
  using V = Vector<S>;
  static constexpr int64_t W = kLanes<S>;
  const Problem<S>& problem;
  const Panels<S>& panels;

  // Computes the gates of all samples; `finish(sample, column, z, r, n, h_n)` gets each vector.
  template <class Finish>
  INLINE_METHOD void gates_after(const Samples<S>& samples, Finish finish) const {
    for (int64_t block = 0; block < panels.blocks; ++block)
      tiles<kTile<3>>(samples.count, [&](int64_t first, auto rows) {
        constexpr int M = decltype(rows)::value;
        const S* bias = panels.bias + block * 4 * W;
        V sum[3][M], x_n[M], kept[4][M];
        EACH(m, M) EACH(q, 3) sum[q][m] = load(bias + q * W);
        project_inputs(sum, samples, first, block);
        EACH(m, M) x_n[m] = sum[2][m], sum[2][m] = load(bias + 3 * W);
        project_states(sum, samples, first, block);
        // A loop that is not unrolled indexes memory, where the sums themselves must not be.
        EACH(m, M) kept[3][m] = x_n[m];
        EACH(m, M) EACH(q, 3) kept[q][m] = sum[q][m];
        for (int m = 0; m < M; ++m) {
          const V z = gate(kept[0][m]), r = gate(kept[1][m]);
          const V n = candidate(kept[3][m] + r * kept[2][m]);
          finish(first + m, block * W, z, r, n, kept[2][m]);
        }
      });
  }

  // Computes the same with the reset before the product, in two passes over the records: r * h, z,
  // r and what the input adds to the candidate; then `finish(sample, column, n)`.
  template <class Finish>
  INLINE_METHOD void gates_before(const Samples<S>& samples, Finish finish) const {
    const int64_t width = panels.width;
    for (int64_t block = 0; block < panels.blocks; ++block)
      tiles<kTile<3>>(samples.count, [&](int64_t first, auto rows) {
        constexpr int M = decltype(rows)::value;
        const S* bias = panels.bias + block * 4 * W;
        V sum[3][M], kept[3][M];
        EACH(m, M) EACH(q, 3) sum[q][m] = load(bias + q * W);
        project_inputs(sum, samples, first, block);
        V(&gates)[2][M] = reinterpret_cast<V(&)[2][M]>(sum);
        project_states(gates, samples, first, block);
        EACH(m, M) EACH(q, 3) kept[q][m] = sum[q][m];
        const int64_t lanes = problem.units - block * W;
        for (int m = 0; m < M; ++m) {
          S* record = samples.records + (first + m) * kSlots * width + block * W;
          const V r = gate(kept[1][m]);
          // The candidate's row of h is its dropout mask times the state.
          const S* h = samples.h[problem.state_mask_count == 3 ? 2 : 0][first + m] + block * W;
          store(record + kStateN * width, r * load(h, lanes));
          store(record + kZ * width, gate(kept[0][m]));
          store(record + kR * width, r);
          store(record + kN * width, kept[2][m]);
        }
      });
    for (int64_t pair = 0; pair < panels.pairs; ++pair)
      tiles<kTile<kPair>>(samples.count, [&](int64_t first, auto rows) {
        constexpr int M = decltype(rows)::value;
        V sum[kPair][M] = {}, kept[kPair][M];
        const Strided<S> left{samples.records + first * kSlots * width, kSlots * width};
        multiply(sum, left, panels.candidate + pair * problem.units * kPair * W, kPair * W,
                 problem.units);
        EACH(m, M) EACH(q, kPair) kept[q][m] = sum[q][m];
        for (int64_t q = 0; q < smaller(kPair, panels.blocks - pair * kPair); ++q)
          for (int m = 0; m < M; ++m) {
            const int64_t column = (pair * kPair + q) * W;
            const S* record = samples.records + (first + m) * kSlots * width + column;
            finish(first + m, column, candidate(load(record + kN * width) + kept[q][m]));
          }
      });
  }

  INLINE_METHOD V gate(V x) const { return activate<S>(problem.recurrent_activation, x); }
  INLINE_METHOD V candidate(V x) const { return activate<S>(problem.activation, x); }

 private:
  template <int N, int M>
  INLINE_METHOD void project_inputs(V (&sum)[N][M], const Samples<S>& s, int64_t first,
                                    int64_t block) const {
    const int64_t f = problem.features;
    project(sum, s.x, problem.input_mask_count, first, panels.kernel + block * f * 3 * W, f);
  }

  template <int N, int M>
  INLINE_METHOD void project_states(V (&sum)[N][M], const Samples<S>& s, int64_t first,
                                    int64_t block) const {
    const int64_t u = problem.units;
    project(sum, s.h, problem.state_mask_count, first, panels.recurrent + block * u * N * W, u);
  }

  template <int N, int M>
  INLINE_METHOD void project(V (&sum)[N][M], const S** const* rows, int masks, int64_t first,
                             const S* panel, int64_t depth) const {
    const bool single = problem.rows == 1;
    if (masks == 3) {
      const GateRows<S> left{{rows[0] + first, rows[1] + first, rows[2] + first}};
      return multiply(sum, left, panel, N * W, depth, single);
    }
    multiply(sum, Rows<S>{rows[0] + first}, panel, N * W, depth, single);
  }
};
