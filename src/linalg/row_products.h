// Products whose rows do not depend on each other's company: for weights that stay in memory while
// a model runs token by token.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace laos::linalg {

// A weight [n, k] as a checkpoint stores it: bfloat16 and f32 are read where they are, f16 is
// widened to f32 once.
class RowWeight {
 public:
  RowWeight() = default;
  // `tensor` is F32, BF16 or F16, and its bytes must outlive this.
  explicit RowWeight(const TensorView& tensor);
  explicit RowWeight(Mat<float> weight);

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }

  // y [m, n] = x [m, k] * weightᵀ. Row i of y depends on row i of x and the weight alone, bit for
  // bit: not on m, not on the other rows, not on the number of threads.
  void multiply(MatView<const float> x, MatView<float> y) const;

 private:
  Mat<float> owned_f32_;
  Mat<uint16_t> owned_bf16_;  // of a tensor whose address is odd
  const float* f32_ = nullptr;
  const uint16_t* bf16_ = nullptr;
  int64_t rows_ = 0, cols_ = 0;
};

// Rows of a weight [n, k] that one task of a product takes, by shape alone: few enough to stay in
// the second-level cache while all rows of x pass by.
int64_t rows_of_task(int64_t n, int64_t k, int64_t element_bytes) noexcept;

}  // namespace laos::linalg
