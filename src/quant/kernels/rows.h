// Row-wise integer quantization. A row is what shares one scale: an output channel, a group of one,
// or a token. SIMD on every instruction set; the definitions are in kernels/rows_scalar.h. All
// round half to even and divide (never multiply by a reciprocal), so every instruction set gives
// the same bits.
#pragma once

#include <cstdint>

namespace laos::quant::kernels {

struct Range {
  float min;  // <= 0
  float max;  // >= 0
};

// Smallest and largest of 0 and x[0..n). x finite.
Range range(const float* x, int64_t n) noexcept;

// codes[i] = clamp(round(x[i] / scale + offset[i]), -q_max - 1, q_max). `offset` null means 0.
// scale not 0.
void quantize(const float* x, const float* offset, float scale, int32_t q_max, int8_t* codes,
              int64_t n) noexcept;

// x_hat[i] = scale * what quantize would store. x_hat may be x.
void fake_quantize(const float* x, const float* offset, float scale, int32_t q_max, float* x_hat,
                   int64_t n) noexcept;

// y[i] = x[i] * scale.
void dequantize(const int8_t* codes, float scale, float* x_hat, int64_t n) noexcept;

// y[i] = acc[i] * row_scale * scales[i].
void rescale(const int32_t* acc, float row_scale, const float* scales, float* y,
             int64_t n) noexcept;

}  // namespace laos::quant::kernels
