// The forward pass over some rows of a call.

#pragma once

#include "cell.h"
#include "gather.h"

namespace gruflax::GRUFLAX_SET {

template <class S>
struct Forward {
  const Problem<S>& problem;
  const Panels<S> panels;
  Arena arena;
  Gatherer<S> gatherer;
  const S** state;  // of each row of the group
  S* rooms;         // two states for each row, in turn, where no outputs are wanted

  Forward(const Problem<S>& p, const void* packed, void* scratch)
      : problem(p),
        panels(p, false, const_cast<void*>(packed)),
        arena{static_cast<char*>(scratch)},
        gatherer(p, arena, kGroup, p.reset_after ? 0 : kGroup, panels.width),
        state(arena.take<const S*>(kGroup)),
        rooms(arena.take<S>(p.outputs ? 0 : 2 * kGroup * p.units)) {}

  void run(int64_t first, int64_t end) {
    in_groups(first, end, [this](int64_t first, int64_t rows) { run_group(first, rows); });
  }

 private:
  void run_group(int64_t first, int64_t rows) {
    const int64_t u = problem.units;
    for (int64_t g = 0; g < rows; ++g) state[g] = problem.initial_state + (first + g) * u;
    for (int64_t i = 0; i < problem.time; ++i) {
      gatherer.samples.count = 0;
      for (int64_t g = 0; g < rows; ++g) begin_step(first + g, g, i);
      compute(gatherer.samples);
    }
    for (int64_t g = 0; g < rows; ++g) copy(problem.last_state + (first + g) * u, state[g], u);
  }

  // Adds a row's step to the samples. Where it is masked there is nothing to compute: the state is
  // held, as a pointer to where it already is.
  void begin_step(int64_t row, int64_t g, int64_t i) {
    const int64_t u = problem.units, t = problem.step(i);
    const S* h = problem.is_reset(row, t) ? problem.reset_state + row * u : state[g];
    S* next = problem.outputs ? problem.outputs + problem.at(row, i) * u : free_room(g);
    if (problem.is_valid(row, t)) {
      gatherer.add(row, t, i, h, next);
      state[g] = next;
      return;
    }
    state[g] = h;
    if (problem.gates) clear(problem.gates + problem.at(row, i) * kSlots * u, kSlots * u);
    if (problem.outputs && problem.zero_output_for_mask) clear(next, u);
    if (problem.outputs && !problem.zero_output_for_mask) copy(next, h, u);
  }

  S* free_room(int64_t g) const {
    S* room = rooms + 2 * g * problem.units;
    return state[g] == room ? room + problem.units : room;
  }

  void compute(const Samples<S>& samples) const {
    const Cell<S> cell{problem, panels};
    const auto blend = [&](int64_t i, int64_t column, Vector<S> z, Vector<S> n) {
      const int64_t lanes = problem.units - column;
      const Vector<S> h = load(samples.state[i] + column, lanes);
      store(samples.next[i] + column, z * h + (S(1) - z) * n, lanes);
    };
    const auto keep = [&](int64_t i, int64_t column, int slot, Vector<S> gate) {
      S* to = samples.gates[i] + slot * problem.units + column;
      store(to, gate, problem.units - column);
    };
    if (problem.reset_after)
      cell.gates_after(samples, [&](int64_t i, int64_t column, const Vector<S>(&gates)[kSlots]) {
        blend(i, column, gates[kZ], gates[kN]);
        if (!problem.gates) return;
        GRUFLAX_EACH(slot, kSlots) keep(i, column, slot, gates[slot]);
      });
    else
      cell.gates_before(samples, [&](int64_t i, int64_t column, Vector<S> n) {
        const S* record = samples.records + i * kSlots * panels.width + column;
        blend(i, column, load(record + kZ * panels.width), n);
        if (!problem.gates) return;
        GRUFLAX_EACH(slot, kN) keep(i, column, slot, load(record + slot * panels.width));
        keep(i, column, kN, n);
      });
  }
};

}  // namespace gruflax::GRUFLAX_SET
