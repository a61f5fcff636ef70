// The definitions of kernels/twelfth.h: read these first.
#pragma once

#include <cstdint>

#include "rotation/kernels/twelfth.h"

namespace laos::rotation::kernels::scalar {

inline float sum_of_twelfth_powers(const float* z, float unit, int64_t n) noexcept {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float u = z[i] * unit, u2 = u * u, u4 = u2 * u2;
    sum += u4 * u4 * u4;
  }
  return sum;
}

inline void eleventh_powers(const float* z, float unit, float factor, float* y,
                            int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    const float u = z[i] * unit, u2 = u * u, u4 = u2 * u2;
    y[i] = u2 < kSmallestSquare ? 0.0f : factor * u4 * u4 * u2 * u;
  }
}

}  // namespace laos::rotation::kernels::scalar
