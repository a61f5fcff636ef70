// The definition of kernels/bf16.h.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace laos::linalg::kernels::scalar {

inline void to_bf16(const float* x, uint16_t* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = float_to_bf16(x[i]);
}

}  // namespace laos::linalg::kernels::scalar
