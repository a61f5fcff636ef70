#include "linalg/int_gemm.h"

#include <algorithm>
#include <atomic>
#include <bit>

#include "core/threads.h"
#include "linalg/kernels/dot.h"
#include "linalg/onednn.h"
#include "linalg/row_products.h"

namespace laos::linalg {
namespace {

// Rows of x from which on oneDNN, which packs the weight first, is the faster one.
constexpr int64_t kManyRows = 32;
// Rows of a strip where AMX multiplies, or twice or four times as many.
constexpr int64_t kAmxRows = 64;

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

int64_t S8Weight::rows_at_once(int64_t num_rows) {
  constexpr int64_t kStrip = 4 * kAmxRows;
  return has_amx_int8() && num_rows >= 2 * kStrip ? kStrip : num_rows;
}

void S8Weight::multiply(MatView<const int8_t> x, MatView<int32_t> y) const {
  LAOS_ASSERT(x.cols == cols() && y.rows == x.rows && y.cols == rows());
  LAOS_ASSERT(cols() < 131072);
  const bool has_gaps = x.stride != cols() || codes_.stride != cols() || y.stride != y.cols;
  if (has_amx_int8() && !has_gaps && x.rows >= kAmxRows) {
    // Strips of few sizes, as code is made for each; what is left goes the other way.
    const int64_t whole = x.rows / kAmxRows * kAmxRows,
                  of_thread = (whole / kAmxRows + num_threads() - 1) / num_threads(),
                  strip = kAmxRows * std::clamp<int64_t>(
                                         std::bit_floor(static_cast<uint64_t>(of_thread)), 1, 4);
    parallel_for_ranges(whole, strip, [&](int64_t begin, int64_t end) {
      onednn_s8_amx(end - begin, rows(), cols(), x.row(begin), codes_.data, y.row(begin));
    });
    if (whole < x.rows) multiply(x.slice_rows(whole, x.rows), y.slice_rows(whole, x.rows));
    return;
  }
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
