// Operands of products in either dtype.
#pragma once

#include "core/tensor.h"
#include "linalg/gemm.h"

namespace laos::tune {

// A matrix that products take: in f32 or as bfloat16 bits, the other one has no data.
struct Operand {
  MatView<const float> wide;
  MatView<const uint16_t> narrow;
};

// x as it is, or rounded into `room`.
inline Operand operand_of(MatView<const float> x, linalg::ComputeType compute,
                          Buffer<uint16_t>& room) {
  if (compute == linalg::ComputeType::kF32) return {x, {}};
  const MatView<uint16_t> narrow = grown(room, x.rows, x.cols);
  linalg::to_bf16(x, narrow);
  return {{}, narrow};
}

// c = a op(b) (+ c when `accumulate`), both of one dtype.
inline void multiply(const Operand& a, linalg::Trans trans_b, const Operand& b, bool accumulate,
                     MatView<float> c) {
  if (b.narrow.data != nullptr)
    linalg::gemm_bf16(linalg::Trans::kNo, trans_b, a.narrow, b.narrow, accumulate, c);
  else
    linalg::gemm(linalg::Trans::kNo, trans_b, 1.0f, a.wide, b.wide, accumulate ? 1.0f : 0.0f, c);
}

}  // namespace laos::tune
