// The definitions of kernels/dot.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/dtype.h"

namespace laos::linalg::kernels::scalar {

inline float widened(float value) noexcept { return value; }
inline float widened(uint16_t bits) noexcept { return bf16_to_float(bits); }
inline int32_t widened(int8_t value) noexcept { return value; }

// y[i][j] = sum over p of x[i][p] * w[j][p].
template <class X, class W, class Y>
void dot(const X* x, int64_t x_stride, int64_t m, const W* w, int64_t w_stride, int64_t n,
         int64_t k, Y* y, int64_t y_stride) noexcept {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      Y sum = 0;
      for (int64_t p = 0; p < k; ++p)
        sum += widened(x[i * x_stride + p]) * widened(w[j * w_stride + p]);
      y[i * y_stride + j] = sum;
    }
  }
}

inline void weighted_sum(const float* p, const float* v, int64_t stride, int64_t n, int64_t cols,
                         float* y) noexcept {
  std::fill_n(y, cols, 0.0f);
  for (int64_t j = 0; j < n; ++j)
    for (int64_t d = 0; d < cols; ++d) y[d] += p[j] * v[j * stride + d];
}

inline void add_multiple(float factor, const float* x, float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

}  // namespace laos::linalg::kernels::scalar
