// One call of a GRU as the kernels see it: sizes, layout, arrays. Nothing here knows of XLA.

#pragma once

#include <cstddef>
#include <cstdint>

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

// S is float or double. Arrays of steps are [rows, time, k], or [time, rows, k] if time_major;
// outputs are in the order of processing. An array that is absent is null.
template <class S>
struct Problem {
  int64_t rows, time, features, units;
  bool time_major, go_backwards, reset_after, zero_output_for_mask;
  Activation activation, recurrent_activation;

  const S* inputs;
  const S* kernel;         // [f, 3u], columns z | r | n
  const S* recurrent;      // [u, 3u]
  const S* bias;           // [2, 3u] if reset_after, else [3u]
  const S* initial_state;  // [rows, u]
  const S* reset_state;    // [rows, u]
  const bool* valid;       // [rows, time]
  const bool* reset;       // [rows, time]
  const S* input_masks;    // [input_mask_count, rows, f]; counts are 0, 1 or 3
  const S* state_masks;    // [state_mask_count, rows, u]
  int input_mask_count, state_mask_count;

  // Results of the forward pass; the first is what the backward pass reads the states from.
  S* outputs;     // [rows, time, u]
  S* last_state;  // [rows, u]

  // Where step t of a row lies among the steps, and which step is the i-th to be processed.
  int64_t at(int64_t row, int64_t t) const { return time_major ? t * rows + row : row * time + t; }
  int64_t step(int64_t i) const { return go_backwards ? time - 1 - i : i; }
  bool is_valid(int64_t row, int64_t t) const { return !valid || valid[at(row, t)]; }
  bool is_reset(int64_t row, int64_t t) const { return reset && reset[at(row, t)]; }
};

// Cotangents of the forward pass' results, and the gradients that are wanted; the others are null.
template <class S>
struct Gradients {
  const S* outputs;     // [rows, time, u]
  const S* last_state;  // [rows, u]

  S* inputs;
  S* kernel;
  S* recurrent;
  S* bias;
  S* initial_state;
  S* reset_state;

  // The recurrent kernel's stands for all: without features the kernel's has no address.
  bool weights() const { return recurrent != nullptr; }
};

// The functions of one instruction set. Sizes are in bytes. `packed`, `scratch` and `sums` are
// aligned to 64 bytes; scratch belongs to a thread, sums to a part of the rows.
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
