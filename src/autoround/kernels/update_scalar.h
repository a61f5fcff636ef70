// The definition of kernels/update.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace laos::autoround::kernels::scalar {

inline float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float lr,
                            float clip, float* v, int64_t n) noexcept {
  const auto low = static_cast<float>(-q_max - 1), high = static_cast<float>(q_max);
  float d_scale = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float x = w[i] / scale;
    const float r = std::nearbyint(x + (v != nullptr ? v[i] : 0.0f));
    const bool inside = low <= r && r <= high;
    const float q = std::clamp(r, low, high);
    d_scale += g[i] * (inside ? q - x : q);
    if (v == nullptr || !inside) continue;
    const float sign = static_cast<float>((g[i] > 0) - (g[i] < 0));
    v[i] = std::clamp(v[i] - lr * sign, -clip, clip);
  }
  return d_scale;
}

}  // namespace laos::autoround::kernels::scalar
