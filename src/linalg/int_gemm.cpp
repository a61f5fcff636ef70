#include "linalg/int_gemm.h"

#include <algorithm>
#include <atomic>

#include "core/threads.h"
#include "linalg/kernels/dot.h"
#include "linalg/onednn.h"
#include "linalg/row_products.h"

namespace laos::linalg {
namespace {

// Rows of x from which on oneDNN, which packs the weight first, is the faster one.
constexpr int64_t kManyRows = 32;

bool within_4_bits(MatView<const int8_t> codes) {
  std::atomic<bool> wide{false};
  parallel_for_ranges(codes.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && !wide.load(std::memory_order_relaxed); ++i) {
      const auto [least, most] = std::minmax_element(codes.row(i), codes.row(i) + codes.cols);
      if (codes.cols > 0 && (*least < -8 || *most > 7)) wide.store(true, std::memory_order_relaxed);
    }
  });
  return !wide;
}

}  // namespace

S8Weight::S8Weight(MatView<const int8_t> codes)
    : codes_(codes),
      onednn_is_exact_(onednn_has_code() && (int8_products_are_exact() || within_4_bits(codes))) {}

void S8Weight::multiply(MatView<const int8_t> x, MatView<int32_t> y) const {
  LAOS_ASSERT(x.cols == cols() && y.rows == x.rows && y.cols == rows());
  LAOS_ASSERT(cols() < 131072);
  if (onednn_is_exact_ && x.rows >= kManyRows) {
    // Integer sums are exact in any order, so oneDNN may use all threads as it likes.
    onednn_s8s8s32(x.rows, rows(), cols(), x.data, x.stride, codes_.data, codes_.stride, 0.0f,
                   y.data, y.stride);
    return;
  }
  parallel_for_ranges(rows(), rows_of_task(rows(), cols(), 1), [&](int64_t begin, int64_t end) {
    kernels::dot_s8(x.data, x.stride, x.rows, codes_.row(begin), codes_.stride, end - begin, cols(),
                    y.data + begin, y.stride);
  });
}

}  // namespace laos::linalg
