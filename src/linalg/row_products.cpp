#include "linalg/row_products.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/threads.h"
#include "linalg/kernels/dot.h"

namespace laos::linalg {

RowWeight::RowWeight(const TensorView& tensor) {
  LAOS_ASSERT(tensor.shape.size() == 2);
  rows_ = tensor.shape[0];
  cols_ = tensor.shape[1];
  const auto address = reinterpret_cast<uintptr_t>(tensor.data);
  if (tensor.dtype == DType::kBF16 && address % alignof(uint16_t) == 0) {
    bf16_ = reinterpret_cast<const uint16_t*>(tensor.data);
  } else if (tensor.dtype == DType::kBF16) {
    owned_bf16_ = Mat<uint16_t>(rows_, cols_);
    std::memcpy(owned_bf16_.data(), tensor.data, static_cast<size_t>(tensor.size_bytes()));
    bf16_ = owned_bf16_.data();
  } else if (tensor.dtype == DType::kF32 && address % alignof(float) == 0) {
    f32_ = reinterpret_cast<const float*>(tensor.data);
  } else {
    owned_f32_ = to_f32(tensor);
    f32_ = owned_f32_.data();
  }
}

RowWeight::RowWeight(Mat<float> weight)
    : owned_f32_(std::move(weight)),
      f32_(owned_f32_.data()),
      rows_(owned_f32_.rows()),
      cols_(owned_f32_.cols()) {}

int64_t rows_of_task(int64_t n, int64_t k, int64_t element_bytes) noexcept {
  constexpr int64_t kTaskBytes = 128 << 10, kTasks = 64;
  const int64_t fitting = kTaskBytes / std::max<int64_t>(1, k * element_bytes);
  const int64_t fair = (n + kTasks - 1) / kTasks;
  return std::max<int64_t>(8, std::min(fitting, std::max<int64_t>(fair, 64)) / 4 * 4);
}

void RowWeight::multiply(MatView<const float> x, MatView<float> y) const {
  LAOS_ASSERT(x.cols == cols_ && y.cols == rows_ && y.rows == x.rows);
  const int64_t grain = rows_of_task(rows_, cols_, bf16_ != nullptr ? 2 : 4);
  parallel_for_ranges(rows_, grain, [&](int64_t begin, int64_t end) {
    if (bf16_ != nullptr)
      kernels::dot_bf16(x.data, x.stride, x.rows, bf16_ + begin * cols_, cols_, end - begin, cols_,
                        y.data + begin, y.stride);
    else
      kernels::dot_f32(x.data, x.stride, x.rows, f32_ + begin * cols_, cols_, end - begin, cols_,
                       y.data + begin, y.stride);
  });
}

}  // namespace laos::linalg
