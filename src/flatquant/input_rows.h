// Calibration tokens that transforms are fitted to.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace laos::flatquant {

// Of all tokens that a group of linears reads, kMaxRows at most, as far apart as possible and each
// divided by its norm: a token's scale is its own, so that no token counts for more because it is
// large.
class InputRows {
 public:
  static constexpr int64_t kMaxRows = 2048;

  InputRows(int64_t num_tokens, int64_t in_features);

  // The next tokens [n, in_features] of num_tokens, in order.
  void observe(MatView<const float> x);

  MatView<const float> rows() const noexcept { return rows_.view().slice_rows(0, num_rows_); }
  float largest_norm() const noexcept { return largest_norm_; }  // of all tokens

 private:
  int64_t num_tokens_, num_seen_ = 0, num_rows_ = 0;
  Mat<float> rows_;  // [min(num_tokens, kMaxRows), in_features]
  float largest_norm_ = 0;
};

}  // namespace laos::flatquant
