#include "linalg/int_gemm.h"

#include <algorithm>
#include <atomic>

#include "core/threads.h"
#include "linalg/onednn.h"

namespace laos::linalg {

S8Weight::S8Weight(MatView<const int8_t> codes) : low_(codes.rows, codes.cols) {
  std::atomic<bool> wide{false};
  parallel_for(codes.rows, [&](int64_t i) {
    const int8_t* source = codes.row(i);
    std::copy_n(source, codes.cols, low_.row(i));
    const auto [least, most] = std::minmax_element(source, source + codes.cols);
    if (codes.cols > 0 && (*least < -8 || *most > 7)) wide.store(true, std::memory_order_relaxed);
  });
  if (!wide || int8_products_are_exact()) return;
  high_ = Mat<int8_t>(codes.rows, codes.cols);
  parallel_for(codes.rows, [&](int64_t i) {
    int8_t* low = low_.row(i);
    int8_t* high = high_.row(i);
    for (int64_t j = 0; j < codes.cols; ++j) {
      high[j] = static_cast<int8_t>(low[j] >> 4);  // floor: codes = 16 * high + low, low in 0..15
      low[j] = static_cast<int8_t>(low[j] & 15);
    }
  });
}

void S8Weight::multiply(MatView<const int8_t> x, MatView<int32_t> y) const {
  LAOS_ASSERT(x.cols == cols() && y.rows == x.rows && y.cols == rows());
  LAOS_ASSERT(cols() < 131072);
  // Integer sums are exact in any order, so oneDNN may use all threads as it likes.
  const auto product = [&](const Mat<int8_t>& w, float beta) {
    onednn_s8s8s32(x.rows, rows(), cols(), x.data, x.stride, w.data(), cols(), beta, y.data,
                   y.stride);
  };
  if (high_.size() == 0) {
    product(low_, 0.0f);
    return;
  }
  product(high_, 0.0f);
  parallel_for(y.rows, [&](int64_t i) {
    int32_t* row = y.row(i);
    for (int64_t j = 0; j < y.cols; ++j) row[j] *= 16;
  });
  product(low_, 1.0f);
}

}  // namespace laos::linalg
