// The definitions of kernels/rows.h: read these first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "quant/kernels/rows.h"

namespace laos::quant::kernels::scalar {

inline Range range(const float* x, int64_t n) noexcept {
  Range r{0, 0};
  for (int64_t i = 0; i < n; ++i) {
    r.min = std::min(r.min, x[i]);
    r.max = std::max(r.max, x[i]);
  }
  return r;
}

// The rounded value before it is clamped.
inline float rounded(float x, float offset, float scale) noexcept {
  return std::nearbyint(x / scale + offset);
}

inline float clamped(float r, int32_t q_max) noexcept {
  return std::clamp(r, static_cast<float>(-q_max - 1), static_cast<float>(q_max));
}

inline void quantize(const float* x, const float* offset, float scale, int32_t q_max, int8_t* codes,
                     int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i)
    codes[i] = static_cast<int8_t>(clamped(rounded(x[i], offset ? offset[i] : 0.0f, scale), q_max));
}

inline void fake_quantize(const float* x, const float* offset, float scale, int32_t q_max,
                          float* x_hat, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i)
    x_hat[i] = scale * clamped(rounded(x[i], offset ? offset[i] : 0.0f, scale), q_max);
}

inline void dequantize(const int8_t* codes, float scale, float* x_hat, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) x_hat[i] = static_cast<float>(codes[i]) * scale;
}

inline void rescale(const int32_t* acc, float row_scale, const float* scales, float* y,
                    int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(acc[i]) * row_scale * scales[i];
}

}  // namespace laos::quant::kernels::scalar
