// Products of a few rows with panels of a matrix, kept in registers.
//
// A panel holds some vectors of columns side by side, one row of the matrix after the other, so
// that it is read once from front to back.

#pragma once

#include "vectors.h"

#define GRUFLAX_EACH(i, n) GRUFLAX_UNROLL for (int i = 0; i < (n); ++i)

namespace gruflax::GRUFLAX_SET {

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// Where the left factor is: element k of row m, for the q-th vector of columns.
template <class S>
struct Rows {
  const S* const* row;
  S operator()(int m, int, int64_t k) const { return row[m][k]; }
};
template <class S>
struct GateRows {  // another row for each gate, as dropout masks by gate make them
  const S* const* row[kGates];
  S operator()(int m, int q, int64_t k) const { return row[q][m][k]; }
};
template <class S>
struct Strided {
  const S* base;
  int64_t stride;
  S operator()(int m, int, int64_t k) const { return base[m * stride + k]; }
};
template <class S>
struct Columns {  // transposed: row m is a column of all the rows
  const S* const* row;
  int64_t first;
  S operator()(int m, int, int64_t k) const { return row[k][first + m]; }
};

// `multiply` for the only row of a call. Each addition to a sum waits for the one before, and a
// single row has too few sums to fill that time. So there are four of each, added up in the end.
template <int N, class S, class Left>
GRUFLAX_INLINE void multiply_single(Vector<S> (&sum)[N][1], Left left, const S* panel,
                                    int64_t stride, int64_t depth) {
  constexpr int chains = 4;
  Vector<S> parts[chains][N] = {};
  int64_t k = 0;
  for (; k + chains <= depth; k += chains)
    GRUFLAX_EACH(c, chains)
      GRUFLAX_EACH(q, N)
        parts[c][q] += all(left(0, q, k + c)) * load(panel + (k + c) * stride + q * kLanes<S>);
  for (; k < depth; ++k)
    GRUFLAX_EACH(q, N) parts[0][q] += all(left(0, q, k)) * load(panel + k * stride + q * kLanes<S>);
  GRUFLAX_EACH(q, N) sum[q][0] += (parts[0][q] + parts[1][q]) + (parts[2][q] + parts[3][q]);
}

// sum[q][m] += row m of the left factor times the q-th vector of columns. Sums are in the order of
// k for any M, so that a row is the same in every batch, but for the only row of a call (`single`).
template <int M, int N, class S, class Left>
GRUFLAX_INLINE void multiply(Vector<S> (&sum)[N][M], Left left, const S* panel, int64_t stride,
                             int64_t depth, bool single = false) {
  if constexpr (M == 1) {
    if (single) return multiply_single(sum, left, panel, stride, depth);
  }
  for (int64_t k = 0; k < depth; ++k, panel += stride) {
    Vector<S> columns[N];
    GRUFLAX_EACH(q, N) columns[q] = load(panel + q * kLanes<S>);
    GRUFLAX_EACH(m, M)
      GRUFLAX_EACH(q, N) sum[q][m] += all(left(m, q, k)) * columns[q];
  }
}

template <int M>
struct Count {
  static constexpr int value = M;
};

// Calls `use` with `count`, from 1 to Most, as a constant.
template <int Most, class Use>
GRUFLAX_INLINE void with_count(int64_t count, Use use) {
  if constexpr (Most > 1) {
    if (count < Most) return with_count<Most - 1>(count, use);
  }
  use(Count<Most>{});
}

// Calls `use(first, Count)` for tiles of at most Most of `count` rows, as even as can be.
template <int Most, class Use>
GRUFLAX_INLINE void tiles(int64_t count, Use use) {
  for (int64_t first = 0, left = (count + Most - 1) / Most; left; --left) {
    const int64_t size = (count - first + left - 1) / left;
    with_count<Most>(size, [&](auto constant) { use(first, constant); });
    first += size;
  }
}

// Writes panels of `width` columns of each of `gates` matrices side by side, zeros beyond the last
// column: element (k, column) of a matrix is `from[k * k_stride + column * column_stride]`, and the
// matrices are `gate_stride` apart. Returns the end.
template <class S>
static S* pack(S* to, const S* from, int64_t depth, int64_t k_stride, int64_t columns,
               int64_t column_stride, int64_t width, int64_t gates, int64_t gate_stride) {
  for (int64_t first = 0; first < columns; first += width) {
    const int64_t lanes = smaller(width, columns - first);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t g = 0; g < gates; ++g, to += width) {
        const S* source = from + k * k_stride + g * gate_stride + first * column_stride;
        int64_t i = 0;
        for (; i < lanes; ++i) to[i] = source[i * column_stride];
        for (; i < width; ++i) to[i] = 0;
      }
  }
  return to;
}

}  // namespace gruflax::GRUFLAX_SET
