// Vectors of one instruction set, and the pointwise functions of a GRU on them.
//
// kernel.cc is compiled once for each instruction set, and all of these object files become one
// library, which chooses one of them when it runs. Of functions with the same name the linker keeps
// one copy. If the sets shared a name, a machine might run code with instructions that it lacks. So
// everything that is compiled for a set, here and in the headers that include this one, lies in a
// namespace with the name of the set, GRUFLAX_SET.

#pragma once

#include <cstdint>

#include "problem.h"

// A header that is read alone, as editors do, belongs to no set.
#ifndef GRUFLAX_SET
#define GRUFLAX_SET no_set
#endif

#define GRUFLAX_INLINE static inline __attribute__((always_inline))
#define GRUFLAX_INLINE_METHOD inline __attribute__((always_inline))
#if defined(__clang__)
#define GRUFLAX_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GRUFLAX_UNROLL _Pragma("GCC unroll 16")
#endif

namespace gruflax::GRUFLAX_SET {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif

template <class S>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(kBytes)));
  typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4), may_alias));
  typedef int32_t Integers __attribute__((vector_size(kBytes)));
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(kBytes)));
  typedef double Unaligned __attribute__((vector_size(kBytes), aligned(8), may_alias));
  typedef int64_t Integers __attribute__((vector_size(kBytes)));
};
template <class S>
using Vector = typename Lanes<S>::Vector;
template <class S>
constexpr int kLanes = kBytes / sizeof(S);

template <class S>
GRUFLAX_INLINE Vector<S> load(const S* from) {
  return *reinterpret_cast<const typename Lanes<S>::Unaligned*>(from);
}
template <class S>
GRUFLAX_INLINE void store(S* to, Vector<S> value) {
  *reinterpret_cast<typename Lanes<S>::Unaligned*>(to) = value;
}
// All lanes, or the first `lanes` of them and zeros.
template <class S>
GRUFLAX_INLINE Vector<S> load(const S* from, int64_t lanes) {
  if (lanes >= kLanes<S>) return load(from);
  Vector<S> value = {};
  for (int64_t i = 0; i < lanes; ++i) value[i] = from[i];
  return value;
}
template <class S>
GRUFLAX_INLINE void store(S* to, Vector<S> value, int64_t lanes) {
  if (lanes >= kLanes<S>) return store(to, value);
  for (int64_t i = 0; i < lanes; ++i) to[i] = value[i];
}
// A form that every compiler turns into one broadcast; a loop over lanes it does not.
template <class S>
GRUFLAX_INLINE Vector<S> all(S value) {
  return value - Vector<S>{};
}

// Comparisons with NaN are false, and so these hand NaN on.
template <class V, class S>
GRUFLAX_INLINE V at_least(V x, S bound) {
  const V least = bound - V{};
  return x < least ? least : x;
}
template <class V, class S>
GRUFLAX_INLINE V at_most(V x, S bound) {
  const V most = bound - V{};
  return x > most ? most : x;
}

// exp(x) = 2^n exp(f): n is x / log 2 to the nearest integer, read from the low bits of n plus a
// large number, and f = x - n log 2 with log 2 in two parts. Below the range the result is the
// least normal number, above it infinity. The power multiplies, so that NaN stays NaN.
GRUFLAX_INLINE Vector<float> exponential(Vector<float> x) {
  using Integers = Lanes<float>::Integers;
  x = at_most(at_least(x, -87.33f), 89.f);
  const Vector<float> shifted = x * 1.44269504f + 12582912.f, n = shifted - 12582912.f;
  const Vector<float> f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float> p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.f;
  const Integers power = (reinterpret_cast<Integers>(shifted) + 127) << 23;
  return p * reinterpret_cast<Vector<float>>(power);
}

// The same with the Taylor series, whose remainder at log(2) / 2 is below the rounding, of an x
// within the range: exp(x) = power * (1 + rest), without the digits that a small rest loses to the
// one.
struct Exponential {
  Vector<double> power, rest;
};
GRUFLAX_INLINE Exponential split_exponential(Vector<double> x) {
  using Integers = Lanes<double>::Integers;
  const double magic = 6755399441055744.;
  const Vector<double> shifted = x * 1.4426950408889634 + magic, n = shifted - magic;
  const Vector<double> f = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  Vector<double> p = f * (1. / 6227020800.) + 1. / 479001600.;
  const double series[] = {1. / 39916800., 1. / 3628800., 1. / 362880., 1. / 40320., 1. / 5040.,
                           1. / 720.,      1. / 120.,     1. / 24.,     1. / 6.,     0.5};
  GRUFLAX_UNROLL for (int i = 0; i < 10; ++i) p = p * f + series[i];
  const Integers power = (reinterpret_cast<Integers>(shifted) + 1023) << 52;
  return {reinterpret_cast<Vector<double>>(power), p * (f * f) + f};
}

GRUFLAX_INLINE Vector<double> exponential(Vector<double> x) {
  const Exponential e = split_exponential(at_most(at_least(x, -708.), 710.));
  return (e.rest + 1.) * e.power;
}

// The quotient of polynomials that XLA and Eigen use: exact to some units in the last place.
GRUFLAX_INLINE Vector<float> hyperbolic_tangent(Vector<float> x) {
  x = at_most(at_least(x, -7.90531110763549805f), 7.90531110763549805f);
  const Vector<float> square = x * x;
  Vector<float> p = square * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * square - 8.60467152213735e-11f;
  p = p * square + 5.12229709037114e-08f;
  p = p * square + 1.48572235717979e-05f;
  p = p * square + 6.37261928875436e-04f;
  p = p * square + 4.89352455891786e-03f;
  Vector<float> q = square * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * square + 2.26843463243900e-03f;
  q = q * square + 4.89352518554385e-03f;
  // The quotient first: a small x times p has no digits left.
  return x * (p / q);
}

// With t = exp(2x) - 1 it is t / (t + 2), where nothing cancels; it is x itself where that is as
// exact, and so zeros keep their signs and the smallest numbers their digits.
GRUFLAX_INLINE Vector<double> hyperbolic_tangent(Vector<double> x) {
  const Exponential e = split_exponential(at_most(at_least(2. * x, -40.), 40.));
  const Vector<double> t = e.power * e.rest + (e.power - 1.);
  return x * x < all(1e-16) ? x : t / (t + 2.);
}

template <class S, class V = Vector<S>>
GRUFLAX_INLINE V activate(Activation function, V x) {
  switch (function) {
    case kSigmoid: return S(1) / (S(1) + exponential(-x));
    case kTanh: return hyperbolic_tangent(x);
    case kHardSigmoid: return at_most(at_least(x + S(3), S(0)), S(6)) / S(6);
    case kHardSigmoidV1: return at_most(at_least(x * S(0.2) + S(0.5), S(0)), S(1));
    case kRelu: return at_least(x, S(0));
    case kRelu6: return at_most(at_least(x, S(0)), S(6));
    case kLeakyRelu: return x < V{} ? x * S(0.2) : x;
    case kHardTanh: return at_most(at_least(x, S(-1)), S(1));
    case kSoftsign: return x / (S(1) + (x < V{} ? -x : x));
    default: return x;
  }
}

// The derivative of an activation in terms of its value y.
template <class S, class V = Vector<S>>
GRUFLAX_INLINE V derivative(Activation function, V y) {
  const V zero = {}, one = S(1) - zero;
  switch (function) {
    case kSigmoid: return y * (one - y);
    case kTanh: return one - y * y;
    case kHardSigmoid: return ((y > zero) & (y < one)) ? one / S(6) : zero;
    case kHardSigmoidV1: return ((y > zero) & (y < one)) ? one * S(0.2) : zero;
    case kRelu: return y > zero ? one : zero;
    case kRelu6: return ((y > zero) & (y < one * S(6))) ? one : zero;
    case kLeakyRelu: return y < zero ? one * S(0.2) : one;
    case kHardTanh: return ((y > -one) & (y < one)) ? one : zero;
    case kSoftsign: return (one - (y < zero ? -y : y)) * (one - (y < zero ? -y : y));
    default: return one;
  }
}

}  // namespace gruflax::GRUFLAX_SET
