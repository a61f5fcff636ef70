// The fused sign-SGD step of a row of rounding offsets: each moves by a fixed step against the
// sign of its gradient. An offset V is stored as
// V = unit * v in 16 bits: -32767..32767 is the range that V may take.
#pragma once

#include <cstdint>

namespace laos::autoround::kernels {

// With x = w / scale, r = round(x + unit v), inside = (-q_max - 1 <= r <= q_max), q = clamp(r) and
// g = ∂loss/∂Ŵ:
//   returns ∂loss/∂scale = sum g (q - inside x);
//   v <- clamp(v - step sign(g scale), -32767, 32767) where inside and g != 0 (∂loss/∂V = g scale
//   inside, scale not 0).
// `v` may be null: offsets are 0 and stay so. `w`, `g` and `v` have n elements; 0 <= step <= 65535.
float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float unit,
                     int32_t step, int16_t* v, int64_t n) noexcept;

// w_hat = scale q of the same.
void fake_quantize(const float* w, const int16_t* v, float unit, float scale, int32_t q_max,
                   float* w_hat, int64_t n) noexcept;

}  // namespace laos::autoround::kernels
