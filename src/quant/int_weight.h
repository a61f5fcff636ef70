// Integer weights and dynamic per-token activations, and their product.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "linalg/int_gemm.h"
#include "quant/scheme.h"

namespace laos::quant {

// An integer weight and what undoes it: real = scale * q. Scales are multiples that
// spec.scale_dtype holds.
struct IntWeight {
  WeightSpec spec;
  Mat<int8_t> q;             // [out_features, in_features], -q_max - 1 .. q_max
  std::vector<float> scale;  // [out_features * num_groups], > 0
};

// The scale of a row (or group) whose values reach from `min` <= 0 to `max` >= 0: m = max(max,
// -min), m / q_max rounded to scale_dtype, at least 1e-5 rounded to scale_dtype (spec 8.4).
float scale_of(float min, float max, const WeightSpec& spec) noexcept;

// Round-to-nearest-even. `weight` [out_features, in_features], only read. Group sizes that do not
// divide in_features are the caller's to refuse (LAOS_ASSERT).
IntWeight quantize_rtn(MatView<const float> weight, const WeightSpec& spec);

// real [out_features, in_features] of an integer weight.
Mat<float> dequantize(const IntWeight& weight);

// Activations quantized per token, symmetric: scale = max|x| / q_max, 1 for a row of zeros.
struct QuantizedTokens {
  Mat<int8_t> q;        // [num_tokens, in_features]
  Buffer<float> scale;  // [num_tokens]
};
QuantizedTokens quantize_tokens(MatView<const float> x, const ActSpec& spec);

// A per-channel integer weight ready for integer products.
class IntLinear {
 public:
  // `codes` [out, in] and `scale` [out] are copied.
  IntLinear(MatView<const int8_t> codes, std::vector<float> scale);
  // y [num_tokens, out] = x_scale * w_scale * (x_q w_qᵀ), the product exact in int32.
  void forward(const QuantizedTokens& x, MatView<float> y) const;

 private:
  linalg::S8Weight weight_;
  std::vector<float> scale_;
};

}  // namespace laos::quant
