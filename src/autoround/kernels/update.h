// The fused sign-SGD step of a row of rounding offsets (spec 8.4, 8.3).
#pragma once

#include <cstdint>

namespace laos::autoround::kernels {

// With x = w / scale, r = round(x + v), inside = (-q_max - 1 <= r <= q_max), q = clamp(r) and g =
// ∂loss/∂Ŵ:
//   returns ∂loss/∂scale = sum g (q - inside x);
//   v <- clamp(v - lr sign(g), -clip, clip) where inside and g != 0 (∂loss/∂v = g scale inside,
//   scale > 0).
// `v` may be null: offsets are 0 and stay so. `w`, `g` and `v` have n elements.
float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float lr,
                     float clip, float* v, int64_t n) noexcept;

}  // namespace laos::autoround::kernels
