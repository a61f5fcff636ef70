// f32 narrowed to bfloat16 bits, the operands of gemm_bf16. The definition is core's float_to_bf16.
#pragma once

#include <cstdint>

namespace laos::linalg::kernels {

// y[i] = x[i] rounded half to even; NaN stays NaN. The same bits on every instruction set.
void to_bf16(const float* x, uint16_t* y, int64_t n) noexcept;

}  // namespace laos::linalg::kernels
