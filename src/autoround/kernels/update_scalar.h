// The definitions of kernels/update.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace laos::autoround::kernels::scalar {

inline float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float unit,
                            int32_t step, int16_t* v, int64_t n) noexcept {
  const auto low = static_cast<float>(-q_max - 1), high = static_cast<float>(q_max);
  const int32_t move = scale < 0 ? -step : step;
  float d_scale = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float x = w[i] / scale;
    const float r = std::nearbyint(x + (v != nullptr ? static_cast<float>(v[i]) * unit : 0.0f));
    const bool inside = low <= r && r <= high;
    const float q = std::clamp(r, low, high);
    d_scale += g[i] * (inside ? q - x : q);
    if (v == nullptr || !inside) continue;
    const int32_t sign = (g[i] > 0) - (g[i] < 0);
    v[i] = static_cast<int16_t>(std::clamp(v[i] - move * sign, -32767, 32767));
  }
  return d_scale;
}

inline void fake_quantize(const float* w, const int16_t* v, float unit, float scale, int32_t q_max,
                          float* w_hat, int64_t n) noexcept {
  const auto low = static_cast<float>(-q_max - 1), high = static_cast<float>(q_max);
  for (int64_t i = 0; i < n; ++i)
    w_hat[i] = scale * std::clamp(std::nearbyint(w[i] / scale + static_cast<float>(v[i]) * unit),
                                  low, high);
}

}  // namespace laos::autoround::kernels::scalar
