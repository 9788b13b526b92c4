// One call of a GRU as the kernels see it: sizes, layout, arrays. Nothing here knows of XLA.

#pragma once

#include <cstddef>
#include <cstdint>

#include "orders.h"

namespace gruflax {

enum Activation : int32_t {
  kSigmoid,
  kTanh,
  kHardSigmoid,    // relu6(x + 3) / 6
  kHardSigmoidV1,  // clip(0.2 x + 0.5, 0, 1)
  kLinear,
  kRelu,
  kRelu6,
  kLeakyRelu,  // 0.2 x below zero
  kHardTanh,
  kSoftsign,
  kActivations,
};

// How far the arrays of a member lie from those of the one before, in elements: 0 where all members
// share one array.
struct Strides {
  int64_t inputs, kernel, recurrent, bias, initial_state, reset_state, valid, reset, input_masks,
      state_masks, outputs, gates;
};

// S is float or double. Arrays of steps are [rows, time, k], or [time, rows, k] if time_major;
// outputs and gates are in the order of processing. An array that is absent is null. A call has
// `members` of one form, which differ in some of the arrays: these have one more axis in front.
template <class S>
struct Problem {
  int64_t members, rows, time, features, units;
  bool time_major, go_backwards, reset_after, zero_output_for_mask;
  Activation activation, recurrent_activation;

  const S* inputs;
  const S* kernel;         // [f, 3u], columns in the order of `Gate`
  const S* recurrent;      // [u, 3u]
  const S* bias;           // [2, 3u] if reset_after, else [3u]
  const S* initial_state;  // [rows, u]
  const S* reset_state;    // [rows, u]
  const bool* valid;       // [rows, time]
  const bool* reset;       // [rows, time]
  const S* input_masks;    // [input_mask_count, rows, f]; counts are 0, 1 or kGates
  const S* state_masks;    // [state_mask_count, rows, u]
  int input_mask_count, state_mask_count;

  // Results of the forward pass. The backward pass reads the states from the first, and the gates
  // from the second if they were kept.
  S* outputs;     // [rows, time, u]
  S* gates;       // [rows, time, 4 (`Slot`), u]
  S* last_state;  // [rows, u]

  Strides strides;

  // Where step t of a row lies among the steps, and which step is the i-th to be processed.
  int64_t at(int64_t row, int64_t t) const { return time_major ? t * rows + row : row * time + t; }
  int64_t step(int64_t i) const { return go_backwards ? time - 1 - i : i; }
  bool is_valid(int64_t row, int64_t t) const { return !valid || valid[at(row, t)]; }
  bool is_reset(int64_t row, int64_t t) const { return reset && reset[at(row, t)]; }

  int64_t bias_size() const { return (reset_after ? 2 : 1) * kGates * units; }
  bool shares_weights() const { return !strides.kernel && !strides.recurrent && !strides.bias; }
  // The problem of one member, alone.
  Problem member(int64_t m) const {
    Problem one = *this;
    one.members = 1;
    one.inputs += m * strides.inputs, one.kernel += m * strides.kernel;
    one.recurrent += m * strides.recurrent, one.bias += m * strides.bias;
    one.initial_state += m * strides.initial_state, one.reset_state += m * strides.reset_state;
    one.valid += m * strides.valid, one.reset += m * strides.reset;
    one.input_masks += m * strides.input_masks, one.state_masks += m * strides.state_masks;
    one.outputs += m * strides.outputs, one.gates += m * strides.gates;
    if (last_state) one.last_state += m * rows * units;
    return one;
  }
};

// Cotangents of the forward pass' results, and the gradients that are wanted; the others are null.
// Every member has gradients of its own.
template <class S>
struct Gradients {
  const S* outputs;                           // [rows, time, u]
  const S* last_state;                        // [rows, u]
  int64_t outputs_stride, last_state_stride;  // as in `Strides`

  S* inputs;
  S* kernel;
  S* recurrent;
  S* bias;
  S* initial_state;
  S* reset_state;

  // The recurrent kernel's stands for all: without features the kernel's has no address.
  bool weights() const { return recurrent != nullptr; }

  // The gradients of one member of a problem.
  Gradients member(const Problem<S>& p, int64_t m) const {
    Gradients one = *this;
    const auto move = [m](auto& array, int64_t stride) {
      if (array) array += m * stride;
    };
    move(one.outputs, outputs_stride), move(one.last_state, last_state_stride);
    move(one.inputs, p.rows * p.time * p.features);
    move(one.kernel, p.features * kGates * p.units);
    move(one.recurrent, p.units * kGates * p.units);
    move(one.bias, p.bias_size());
    move(one.initial_state, p.rows * p.units), move(one.reset_state, p.rows * p.units);
    return one;
  }
};

// The functions of one instruction set, for one member. Sizes are in bytes. `packed`, `scratch` and
// `sums` are aligned to 64 bytes; scratch belongs to a thread, sums to a part of the rows.
template <class S>
struct Kernel {
  size_t (*packed_size)(const Problem<S>&, bool backward);
  void (*pack)(const Problem<S>&, bool backward, void* packed);
  size_t (*scratch_size)(const Problem<S>&, bool backward);
  void (*forward)(const Problem<S>&, const void* packed, void* scratch, int64_t first, int64_t end);
  size_t (*sums_size)(const Problem<S>&, const Gradients<S>&);
  void (*backward)(const Problem<S>&, const Gradients<S>&, const void* packed, void* scratch,
                   void* sums, int64_t first, int64_t end);
  void (*add_up)(const Problem<S>&, const Gradients<S>&, const void* sums, int64_t parts);
};

struct InstructionSet {
  const char* name;
  bool (*runs_here)();
  Kernel<float> single;
  Kernel<double> twice;
};

}  // namespace gruflax
