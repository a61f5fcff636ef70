// Exact int8 products for integer evaluation.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace laos::linalg {

// An int8 weight [n, k], read where it is, in exact products. Many rows of x go through oneDNN
// where its int8 kernel is exact (see int8_products_are_exact, or all codes within 4 bits); all
// others through kernels/dot.h. Both give the same bits.
class S8Weight {
 public:
  // `codes` must outlive this.
  explicit S8Weight(MatView<const int8_t> codes);

  // Of so many rows of x those that a task had best multiply at a time, or all of them where the
  // product divides itself between threads.
  static int64_t rows_at_once(int64_t num_rows);

  int64_t rows() const noexcept { return codes_.rows; }
  int64_t cols() const noexcept { return codes_.cols; }
  // y [m, n] = x [m, k] * codesᵀ, int32, exact while k * 128 * 128 < 2^31 (k < 131072).
  void multiply(MatView<const int8_t> x, MatView<int32_t> y) const;

 private:
  MatView<const int8_t> codes_;
  bool onednn_is_exact_ = true;
};

}  // namespace laos::linalg
