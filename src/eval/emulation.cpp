#include "eval/emulation.h"

#include "core/threads.h"

namespace laos::eval {

DType dtype_of(const Emulation* emulation) noexcept {
  return emulation == nullptr ? DType::kF32 : emulation->dtype;
}

void round_rows(MatView<float> rows, DType dtype) {
  if (dtype == DType::kF32) return;
  parallel_for_ranges(rows.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < rows.cols; ++j) rows.row(i)[j] = round_to(dtype, rows.row(i)[j]);
  });
}

}  // namespace laos::eval
