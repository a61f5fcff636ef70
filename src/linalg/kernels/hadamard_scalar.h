// The definitions of kernels/hadamard.h: read these first.
#pragma once

#include <cstdint>

namespace laos::linalg::kernels::scalar {

inline void butterfly(float* x, int64_t half) noexcept {
  for (int64_t j = 0; j < half; ++j) {
    const float low = x[j], high = x[j + half];
    x[j] = low + high;
    x[j + half] = low - high;
  }
}

inline void butterflies(float* x, const float* signs, int64_t n, int64_t run,
                        bool is_doubled) noexcept {
  for (int64_t j = 0; j < n; ++j) x[j] *= signs[j];
  for (int64_t half = 1; half < run; half *= 2)
    for (int64_t start = 0; start < n; start += 2 * half) butterfly(x + start, half);
  if (is_doubled) butterfly(x, n / 2);
}

// ±a ±b ±c ±d by the bits of `code`, a set bit for minus.
inline float signed_sum(float a, float b, float c, float d, int code) noexcept {
  const float ab = (code & 1) ? ((code & 2) ? -(a + b) : b - a) : ((code & 2) ? a - b : a + b);
  const float cd = (code & 4) ? ((code & 8) ? -(c + d) : d - c) : ((code & 8) ? c - d : c + d);
  return ab + cd;
}

inline void mix(float* x, const uint8_t* codes, int64_t order, int64_t run, int64_t begin,
                int64_t end) noexcept {
  constexpr int64_t kMaxOrder = 512;
  float column[kMaxOrder];
  for (int64_t u = begin; u < end; ++u) {
    for (int64_t q = 0; q < order; ++q) column[q] = x[q * run + u];
    for (int64_t p = 0; p < order; ++p) {
      float sum = 0;
      for (int64_t g = 0; g < order / 4; ++g) {
        const float* four = column + 4 * g;
        const float part =
            signed_sum(four[0], four[1], four[2], four[3], codes[p * (order / 4) + g]);
        sum = g == 0 ? part : sum + part;
      }
      x[p * run + u] = sum;
    }
  }
}

}  // namespace laos::linalg::kernels::scalar
