// Divides the rows of a batch into groups, and collects the samples of a group that are computed
// together: those of one step in the forward pass, those of a chunk of steps in the backward pass.

#pragma once

#include "cell.h"

namespace gruflax::GRUFLAX_SET {

// The most rows of a group. A panel that was read into the cache should serve several tiles of
// rows, so there should be many. But each row reads and writes in another place of the arrays, so
// there should be so few that all of it stays in the first cache, and the pages in the translation
// buffer.
constexpr int64_t kGroup = 24;

// Calls `use(first, rows)` for groups of the rows from first to end. Their sizes differ by one row
// at most: a small last group would cost nearly as much time for each step as a whole one.
template <class Use>
static void in_groups(int64_t first, int64_t end, Use use) {
  for (int64_t left = (end - first + kGroup - 1) / kGroup; left; --left) {
    const int64_t rows = (end - first + left - 1) / left;
    use(first, rows);
    first += rows;
  }
}

// Collects samples. What the kernels multiply are pointers into the arrays of the call, so that
// masked steps can be left out and nothing is copied, but for dropout: the rows that a mask
// multiplies are copies, as many for each sample as there are masks.
template <class S>
struct Gatherer {
  const Problem<S>& problem;
  Samples<S> samples;
  S *dropped_inputs, *dropped_states;

  Gatherer(const Problem<S>& p, Arena& arena, int64_t capacity, int64_t records, int64_t width)
      : problem(p) {
    samples.count = 0;
    for (auto& x : samples.x) x = arena.take<const S*>(capacity);
    for (auto& h : samples.h) h = arena.take<const S*>(capacity);
    samples.state = arena.take<const S*>(capacity);
    samples.next = arena.take<S*>(capacity);
    samples.gates = arena.take<S*>(capacity);
    samples.records = arena.take<S>(records * kSlots * width);
    dropped_inputs = arena.take<S>(capacity * p.input_mask_count * p.features);
    dropped_states = arena.take<S>(capacity * p.state_mask_count * p.units);
  }

  // Adds the sample of a row at its step t, where `step` counts in the order of processing. Inputs
  // are at t, and the kept gates at `step`, as the outputs are.
  void add(int64_t row, int64_t t, int64_t step, const S* state, S* next) {
    const int64_t f = problem.features, u = problem.units, i = samples.count++;
    samples.gates[i] = problem.gates ? problem.gates + problem.at(row, step) * kSlots * u : nullptr;
    samples.state[i] = state;
    samples.next[i] = next;
    drop(samples.x, i, problem.inputs + problem.at(row, t) * f, problem.input_masks, row,
         problem.input_mask_count, f, dropped_inputs);
    drop(samples.h, i, state, problem.state_masks, row, problem.state_mask_count, u,
         dropped_states);
  }

 private:
  void drop(const S** const* rows, int64_t i, const S* from, const S* masks, int64_t row, int count,
            int64_t size, S* room) {
    rows[0][i] = from;
    for (int q = 0; q < count; ++q) {
      const S* mask = masks + (q * problem.rows + row) * size;
      S* to = room + (i * count + q) * size;
      for (int64_t k = 0; k < size; ++k) to[k] = from[k] * mask[k];
      rows[q][i] = to;
    }
  }
};

// An empty array may have no address, and then memcpy and memset must not be called.
template <class S>
static void copy(S* to, const S* from, int64_t count) {
  if (count) __builtin_memcpy(to, from, count * sizeof(S));
}
template <class S>
static void clear(S* to, int64_t count) {
  if (count) __builtin_memset(to, 0, count * sizeof(S));
}

}  // namespace gruflax::GRUFLAX_SET
