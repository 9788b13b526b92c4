// The two calls that XLA makes, gruflax_forward and gruflax_backward: operands are read, checked
// and handed on. ../ffi.py makes these calls, and says what the operands are.

#include "xla/ffi/api/ffi.h"

#include <new>
#include <string>
#include <vector>

#include "run.h"

namespace gruflax {
namespace {

namespace ffi = xla::ffi;
using ffi::Error;

template <class S>
constexpr ffi::DataType kType = std::is_same_v<S, float> ? ffi::F32 : ffi::F64;

// How an array is there: not at all, one for all members, or one for each, with an axis in front.
enum Presence : int32_t { kAbsent, kShared, kEach };
typedef ffi::Span<const int32_t> Presences;

// Takes operands or results one after the other; after the first mistake it gives null.
template <class Buffers>
class Reader {
 public:
  Reader(Buffers buffers, Presences presences, int64_t members, std::string kind)
      : buffers_(buffers), presences_(presences), members_(members), kind_(std::move(kind)) {}

  // Gives the next buffer if it is there and of a type.
  std::optional<ffi::AnyBuffer> next(const char* name, ffi::DataType type) {
    presence_ = place_ < presences_.size() ? presences_[place_++] : kAbsent;
    if (!error_.empty() || presence_ == kAbsent) return std::nullopt;
    if (index_ == buffers_.size()) return fail(name, "is missing");
    const auto buffer = get(index_++);
    if (!buffer) return fail(name, "is no array");
    if (buffer->element_type() != type) return fail(name, "is of another dtype");
    return buffer;
  }

  // Gives the data of the next buffer, of `size` elements for each member, and their distance.
  template <class T>
  T* take(const char* name, ffi::DataType type, int64_t size, int64_t& stride) {
    const auto buffer = next(name, type);
    return buffer ? data<T>(name, *buffer, size, stride) : nullptr;
  }

  template <class T>
  T* data(const char* name, const ffi::AnyBuffer& buffer, int64_t size, int64_t& stride) {
    stride = presence_ == kEach ? size : 0;
    const int64_t count = presence_ == kEach ? members_ * size : size;
    if (static_cast<int64_t>(buffer.element_count()) == count)
      return static_cast<T*>(buffer.untyped_data());
    fail(name, "must have " + std::to_string(count) + " elements, has " +
                   std::to_string(buffer.element_count()));
    return nullptr;
  }

  // The sizes of the last buffer's axes for one member.
  std::vector<int64_t> sizes(const std::optional<ffi::AnyBuffer>& buffer) const {
    if (!buffer) return {};
    const auto sizes = buffer->dimensions();
    return {sizes.begin() + (presence_ == kEach && sizes.size()), sizes.end()};
  }

  std::nullopt_t fail(const std::string& name, const std::string& what) {
    if (error_.empty()) error_ = kind_ + " " + name + " " + what;
    return std::nullopt;
  }

  bool finish() {
    if (error_.empty() && (index_ != buffers_.size() || place_ != presences_.size()))
      error_ = "there are too many of: " + kind_;
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
  const Presences presences_;
  const int64_t members_;
  const std::string kind_;
  std::string error_;
  size_t index_ = 0, place_ = 0;
  int32_t presence_ = kAbsent;
};
using Operands = Reader<ffi::RemainingArgs>;
using Results = Reader<ffi::RemainingRets>;

struct Attributes {
  int64_t members;
  Presences operands, results;  // in the order in which they are read
  bool time_major, go_backwards, reset_after, zero_output_for_mask;
  int32_t activation, recurrent_activation;
};

// Reads the weights, the states and the inputs, and the sizes off them.
template <class S>
void read_arrays(Problem<S>& p, Operands& operands) {
  const auto kernel = operands.next("kernel", kType<S>);
  const auto k = operands.sizes(kernel);
  if (k.size() != 2 || k[1] % kGates) {
    operands.fail("kernel", "is no matrix of three gates");
    return;
  }
  p.features = k[0], p.units = k[1] / kGates;
  const int64_t f = p.features, u = p.units;
  p.kernel = operands.data<S>("kernel", *kernel, f * kGates * u, p.strides.kernel);
  p.recurrent = operands.take<S>("recurrent_kernel", kType<S>, u * kGates * u, p.strides.recurrent);
  p.bias = operands.take<S>("bias", kType<S>, p.bias_size(), p.strides.bias);
  const auto inputs = operands.next("inputs", kType<S>);
  const auto x = operands.sizes(inputs);
  if (x.size() < 2 || x.back() != f) {
    operands.fail("inputs", "do not fit the kernel");
    return;
  }
  const size_t axis = p.time_major ? 0 : x.size() - 2;
  p.time = x[axis], p.rows = 1;
  for (size_t i = 0; i + 1 < x.size(); ++i) p.rows *= i == axis ? 1 : x[i];
  p.inputs = operands.data<S>("inputs", *inputs, p.rows * p.time * f, p.strides.inputs);
}

template <class S>
const S* read_masks(Operands& operands, const char* name, int64_t size, int& count,
                    int64_t& stride) {
  const auto buffer = operands.next(name, kType<S>);
  if (!buffer) return nullptr;
  const auto sizes = operands.sizes(buffer);
  count = sizes.size() ? static_cast<int>(sizes[0]) : 0;
  if (count != 1 && count != kGates) operands.fail(name, "are neither one nor three");
  return operands.data<S>(name, *buffer, count * size, stride);
}

template <class S>
Problem<S> read_problem(const Attributes& a, Operands& operands) {
  Problem<S> p{};
  p.members = a.members;
  p.time_major = a.time_major, p.go_backwards = a.go_backwards, p.reset_after = a.reset_after;
  p.zero_output_for_mask = a.zero_output_for_mask;
  p.activation = static_cast<Activation>(a.activation);
  p.recurrent_activation = static_cast<Activation>(a.recurrent_activation);
  for (const int32_t function : {a.activation, a.recurrent_activation})
    if (function < 0 || function >= kActivations) operands.fail("activation", "is unknown");
  read_arrays(p, operands);
  const int64_t states = p.rows * p.units, steps = p.rows * p.time;
  Strides& s = p.strides;
  p.initial_state = operands.take<S>("initial_state", kType<S>, states, s.initial_state);
  p.reset_state = operands.take<S>("reset_state", kType<S>, states, s.reset_state);
  p.valid = operands.take<bool>("valid", ffi::PRED, steps, s.valid);
  p.reset = operands.take<bool>("reset", ffi::PRED, steps, s.reset);
  p.input_masks = read_masks<S>(operands, "input_masks", p.rows * p.features, p.input_mask_count,
                                s.input_masks);
  p.state_masks = read_masks<S>(operands, "state_masks", states, p.state_mask_count, s.state_masks);
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
  const int64_t states = p.rows * p.units;
  int64_t stride;
  p.last_state = results.take<S>("state", kType<S>, states, stride);
  p.outputs = results.take<S>("outputs", kType<S>, states * p.time, p.strides.outputs);
  p.gates = results.take<S>("gates", kType<S>, states * p.time * kSlots, p.strides.gates);
  if (!results.finish()) return results.error();
  run_forward(p, threads_of(pool));
  return Error::Success();
}

template <class S>
Error backward(ffi::ThreadPool& pool, Operands& operands, Results& results, const Attributes& a) {
  Problem<S> p = read_problem<S>(a, operands);
  Gradients<S> g{};
  const int64_t f = p.features, u = p.units, states = p.rows * u, steps = p.rows * p.time;
  p.outputs = operands.take<S>("outputs", kType<S>, steps * u, p.strides.outputs);
  p.gates = operands.take<S>("gates", kType<S>, steps * u * kSlots, p.strides.gates);
  g.outputs = operands.take<S>("doutputs", kType<S>, steps * u, g.outputs_stride);
  g.last_state = operands.take<S>("dstate", kType<S>, states, g.last_state_stride);
  if (!operands.finish()) return operands.error();
  int64_t stride;
  g.kernel = results.take<S>("kernel", kType<S>, f * kGates * u, stride);
  g.recurrent = results.take<S>("recurrent_kernel", kType<S>, u * kGates * u, stride);
  g.bias = results.take<S>("bias", kType<S>, p.bias_size(), stride);
  g.inputs = results.take<S>("inputs", kType<S>, steps * f, stride);
  g.initial_state = results.take<S>("initial_state", kType<S>, states, stride);
  g.reset_state = results.take<S>("reset_state", kType<S>, states, stride);
  if (!results.finish()) return results.error();
  run_backward(p, g, threads_of(pool));
  return Error::Success();
}

// Calls one of the two in the dtype of the kernel, the first operand.
template <bool is_backward>
Error call(ffi::ThreadPool& pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
           const Attributes& a) {
  Operands operands(args, a.operands, a.members, "operand");
  Results results(rets, a.results, a.members, "result");
  const auto first = args.get<ffi::AnyBuffer>(0);
  const bool twice = first.has_value() && first.value().element_type() == ffi::F64;
  if constexpr (is_backward)
    return twice ? backward<double>(pool, operands, results, a)
                 : backward<float>(pool, operands, results, a);
  else
    return twice ? forward<double>(pool, operands, results, a)
                 : forward<float>(pool, operands, results, a);
}

// No exception may reach XLA, which does not catch any. The texts are short enough for
// a string to hold them without allocating memory, which there may be none of.
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
                                      xla::ffi::StructMember<int64_t>("members"),
                                      xla::ffi::StructMember<gruflax::Presences>("operands"),
                                      xla::ffi::StructMember<gruflax::Presences>("results"),
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
