// Dot products of rows: y[i][j] = sum over p of x[i][p] * w[j][p]. Every y[i][j] depends on its two
// rows alone: its sum has the same order whatever m, n and the strides are, so that rows may be
// computed in any company. The definitions are in kernels/dot_scalar.h.
#pragma once

#include <cstdint>

namespace laos::linalg::kernels {

// int32, exact while k * 128 * 128 < 2^31; the same bits on every instruction set. Strides in
// elements, any alignment, as below.
void dot_s8(const int8_t* x, int64_t x_stride, int64_t m, const int8_t* w, int64_t w_stride,
            int64_t n, int64_t k, int32_t* y, int64_t y_stride) noexcept;

// f32 sums of f32 products; w as f32 or as bfloat16 bits.
void dot_f32(const float* x, int64_t x_stride, int64_t m, const float* w, int64_t w_stride,
             int64_t n, int64_t k, float* y, int64_t y_stride) noexcept;
void dot_bf16(const float* x, int64_t x_stride, int64_t m, const uint16_t* w, int64_t w_stride,
              int64_t n, int64_t k, float* y, int64_t y_stride) noexcept;

// y[d] = sum over j < n, in that order, of p[j] * v[j * stride + d], for d < cols.
void weighted_sum(const float* p, const float* v, int64_t stride, int64_t n, int64_t cols,
                  float* y) noexcept;

// y[i] += factor * x[i]: the product is rounded, then the sum, the same bits on every instruction
// set.
void add_multiple(float factor, const float* x, float* y, int64_t n) noexcept;

}  // namespace laos::linalg::kernels
