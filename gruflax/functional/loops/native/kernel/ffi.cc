// The two calls that XLA makes, gruflax_forward and gruflax_backward: operands are read, checked
// and handed on. What they are is said in ../calls.py, the one place that makes such calls.

#include "xla/ffi/api/ffi.h"

#include <new>
#include <string>

#include "run.h"

namespace gruflax {
namespace {

namespace ffi = xla::ffi;
using ffi::Error;

template <class S>
constexpr ffi::DataType kType = std::is_same_v<S, float> ? ffi::F32 : ffi::F64;

// Takes operands or results one after the other; after the first mistake it gives null.
template <class Buffers>
class Reader {
 public:
  Reader(Buffers buffers, std::string kind) : buffers_(buffers), kind_(std::move(kind)) {}

  // Gives the next buffer if it is of a type, and of `size` elements unless that is negative.
  std::optional<ffi::AnyBuffer> next(const char* name, ffi::DataType type, int64_t size = -1) {
    if (!error_.empty()) return std::nullopt;
    if (index_ == buffers_.size()) return fail(name, "is missing");
    const auto buffer = get(index_++);
    if (!buffer) return fail(name, "is no array");
    if (buffer->element_type() != type) return fail(name, "is of another dtype");
    const auto count = static_cast<int64_t>(buffer->element_count());
    if (size >= 0 && count != size)
      return fail(name,
                  "must have " + std::to_string(size) + " elements, has " + std::to_string(count));
    return buffer;
  }

  template <class T>
  T* take(const char* name, ffi::DataType type, int64_t size) {
    const auto buffer = next(name, type, size);
    return buffer ? static_cast<T*>(buffer->untyped_data()) : nullptr;
  }

  std::nullopt_t fail(const std::string& name, const std::string& what) {
    if (error_.empty()) error_ = kind_ + " " + name + " " + what;
    return std::nullopt;
  }

  bool finish() {
    if (error_.empty() && index_ != buffers_.size()) error_ = "there are too many of: " + kind_;
    return error_.empty();
  }
  Error error() const { return Error(ffi::ErrorCode::kInvalidArgument, "gruflax: " + error_); }

 private:
  std::optional<ffi::AnyBuffer> get(size_t index) {
    if constexpr (std::is_same_v<Buffers, ffi::RemainingArgs>) {
      const auto buffer = buffers_.template get<ffi::AnyBuffer>(index);
      if (buffer.has_value()) return buffer.value();
    } else {
      auto buffer = buffers_.template get<ffi::AnyBuffer>(index);
      if (buffer.has_value()) return *buffer.value();
    }
    return std::nullopt;
  }

  Buffers buffers_;
  const std::string kind_;
  std::string error_;
  size_t index_ = 0;
};
using Operands = Reader<ffi::RemainingArgs>;
using Results = Reader<ffi::RemainingRets>;

struct Attributes {
  int64_t present;  // which of the operands that may be absent are there: bits in their order
  int64_t wanted;   // which results are
  bool time_major, go_backwards, reset_after, zero_output_for_mask;
  int32_t activation, recurrent_activation;
};

enum Optional {
  kBias = 1,
  kValid = 2,
  kReset = 4,
  kInputMasks = 8,
  kStateMasks = 16,
  kDOutputs = 32,
  kDLast = 64
};
enum Wanted { kOutputs = 1, kInputs = 1, kWeights = 2, kInitialState = 4, kResetState = 8 };

// Reads sizes off the kernels, the state and the inputs.
template <class S>
void read_arrays(Problem<S>& p, Operands& operands) {
  const auto kernel = operands.next("kernel", kType<S>),
             recurrent = operands.next("recurrent_kernel", kType<S>);
  const auto state = operands.next("initial_state", kType<S>),
             inputs = operands.next("inputs", kType<S>);
  if (!inputs) return;
  const auto k = kernel->dimensions(), r = recurrent->dimensions(), s = state->dimensions(),
             x = inputs->dimensions();
  if (k.size() != 2 || r.size() != 2 || k[1] != r[1] || r[1] != 3 * r[0]) {
    operands.fail("recurrent_kernel", "does not fit the kernel");
    return;
  }
  p.features = k[0], p.units = r[0];
  if (!s.size() || s[s.size() - 1] != p.units || x.size() != s.size() + 1 ||
      x[x.size() - 1] != p.features) {
    operands.fail("inputs", "do not fit the kernels and the state");
    return;
  }
  const size_t axis = p.time_major ? 0 : x.size() - 2;
  p.time = x[axis], p.rows = 1;
  for (size_t i = 0; i + 1 < s.size(); ++i) {
    if (s[i] != x[i < axis ? i : i + 1]) operands.fail("initial_state", "does not fit the inputs");
    p.rows *= s[i];
  }
  const auto data = [](const auto& buffer) {
    return static_cast<const S*>(buffer->untyped_data());
  };
  p.kernel = data(kernel), p.recurrent = data(recurrent);
  p.initial_state = data(state), p.inputs = data(inputs);
}

template <class S>
const S* read_masks(Operands& operands, const char* name, int64_t size, int& count) {
  const auto buffer = operands.next(name, kType<S>);
  if (!buffer) return nullptr;
  const auto dimensions = buffer->dimensions();
  count = dimensions.size() ? static_cast<int>(dimensions[0]) : 0;
  if ((count != 1 && count != 3) || static_cast<int64_t>(buffer->element_count()) != count * size) {
    operands.fail(name, "does not fit");
    return nullptr;
  }
  return static_cast<const S*>(buffer->untyped_data());
}

template <class S>
Problem<S> read_problem(const Attributes& a, Operands& operands) {
  Problem<S> p{};
  p.time_major = a.time_major, p.go_backwards = a.go_backwards, p.reset_after = a.reset_after;
  p.zero_output_for_mask = a.zero_output_for_mask;
  p.activation = static_cast<Activation>(a.activation);
  p.recurrent_activation = static_cast<Activation>(a.recurrent_activation);
  for (const int32_t function : {a.activation, a.recurrent_activation})
    if (function < 0 || function >= kActivations) operands.fail("activation", "is unknown");
  read_arrays(p, operands);
  const int64_t steps = p.rows * p.time, u = p.units;
  p.reset_state = operands.take<S>("reset_state", kType<S>, p.rows * u);
  if (a.present & kBias) p.bias = operands.take<S>("bias", kType<S>, (p.reset_after ? 6 : 3) * u);
  if (a.present & kValid) p.valid = operands.take<bool>("valid", ffi::PRED, steps);
  if (a.present & kReset) p.reset = operands.take<bool>("reset", ffi::PRED, steps);
  if (a.present & kInputMasks)
    p.input_masks = read_masks<S>(operands, "input masks", p.rows * p.features, p.input_mask_count);
  if (a.present & kStateMasks)
    p.state_masks = read_masks<S>(operands, "recurrent masks", p.rows * u, p.state_mask_count);
  return p;
}

Threads threads_of(ffi::ThreadPool& pool) {
  return {pool.num_threads(),
          [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); }};
}

template <class S>
Error forward(ffi::ThreadPool& pool, Operands& operands, Results& results, const Attributes& a) {
  Problem<S> p = read_problem<S>(a, operands);
  if (!operands.finish()) return operands.error();
  p.last_state = results.take<S>("state", kType<S>, p.rows * p.units);
  if (a.wanted & kOutputs)
    p.outputs = results.take<S>("outputs", kType<S>, p.rows * p.time * p.units);
  if (!results.finish()) return results.error();
  run_forward(p, threads_of(pool));
  return Error::Success();
}

template <class S>
Error backward(ffi::ThreadPool& pool, Operands& operands, Results& results, const Attributes& a) {
  Problem<S> p = read_problem<S>(a, operands);
  Gradients<S> g{};
  const int64_t rows = p.rows, steps = rows * p.time, u = p.units;
  p.outputs = operands.take<S>("outputs", kType<S>, steps * u);
  if (a.present & kDOutputs)
    g.outputs = operands.take<S>("cotangent of outputs", kType<S>, steps * u);
  if (a.present & kDLast) g.last_state = operands.take<S>("cotangent of state", kType<S>, rows * u);
  if (!operands.finish()) return operands.error();
  if (a.wanted & kInputs) g.inputs = results.take<S>("inputs", kType<S>, steps * p.features);
  if (a.wanted & kWeights) {
    g.kernel = results.take<S>("kernel", kType<S>, p.features * 3 * u);
    g.recurrent = results.take<S>("recurrent_kernel", kType<S>, u * 3 * u);
    if (a.present & kBias) g.bias = results.take<S>("bias", kType<S>, (p.reset_after ? 6 : 3) * u);
  }
  if (a.wanted & kInitialState)
    g.initial_state = results.take<S>("initial_state", kType<S>, rows * u);
  if (a.wanted & kResetState) g.reset_state = results.take<S>("reset_state", kType<S>, rows * u);
  if (!results.finish()) return results.error();
  run_backward(p, g, threads_of(pool));
  return Error::Success();
}

// Calls one of the two in the dtype of the kernel, the first operand.
template <bool is_backward>
Error call(ffi::ThreadPool& pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
           const Attributes& a) {
  Operands operands(args, "operand");
  Results results(rets, "result");
  const auto first = args.get<ffi::AnyBuffer>(0);
  const bool twice = first.has_value() && first.value().element_type() == ffi::F64;
  if constexpr (is_backward)
    return twice ? backward<double>(pool, operands, results, a)
                 : backward<float>(pool, operands, results, a);
  else
    return twice ? forward<double>(pool, operands, results, a)
                 : forward<float>(pool, operands, results, a);
}

// No exception may reach XLA, which has no place for any. The texts are so short that a string
// holds them without memory of its own.
template <bool is_backward>
Error dispatch(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
               Attributes a) {
  try {
    return call<is_backward>(pool, args, rets, a);
  } catch (const std::bad_alloc&) {
    return Error(ffi::ErrorCode::kResourceExhausted, "gruflax: memory");
  } catch (...) {
    return Error(ffi::ErrorCode::kInternal, "gruflax failed");
  }
}

}  // namespace
}  // namespace gruflax

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(gruflax::Attributes,
                                      xla::ffi::StructMember<int64_t>("present"),
                                      xla::ffi::StructMember<int64_t>("wanted"),
                                      xla::ffi::StructMember<bool>("time_major"),
                                      xla::ffi::StructMember<bool>("go_backwards"),
                                      xla::ffi::StructMember<bool>("reset_after"),
                                      xla::ffi::StructMember<bool>("zero_output_for_mask"),
                                      xla::ffi::StructMember<int32_t>("activation"),
                                      xla::ffi::StructMember<int32_t>("recurrent_activation"));

#define GRUFLAX_HANDLER(name, is_backward)                            \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, gruflax::dispatch<is_backward>, \
                                xla::ffi::Ffi::Bind()                 \
                                    .Ctx<xla::ffi::ThreadPool>()      \
                                    .RemainingArgs()                  \
                                    .RemainingRets()                  \
                                    .Attrs<gruflax::Attributes>())
#pragma GCC visibility push(default)
GRUFLAX_HANDLER(gruflax_forward, false);
GRUFLAX_HANDLER(gruflax_backward, true);
#pragma GCC visibility pop
