// Exact int8 products for integer evaluation.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace laos::linalg {

// An int8 weight [n, k] laid out for exact products on this machine. Where oneDNN's int8 kernel
// would saturate, codes beyond 4 bits are split as 16 * high + low with 4-bit parts and multiplied
// twice.
class S8Weight {
 public:
  // `codes` [n, k] is copied.
  explicit S8Weight(MatView<const int8_t> codes);

  int64_t rows() const noexcept { return low_.rows(); }
  int64_t cols() const noexcept { return low_.cols(); }
  // y [m, n] = x [m, k] * codesᵀ, int32, exact while k * 128 * 128 < 2^31 (k < 131072).
  void multiply(MatView<const int8_t> x, MatView<int32_t> y) const;

 private:
  Mat<int8_t> low_;
  Mat<int8_t> high_;  // empty when not split
};

}  // namespace laos::linalg
