// Integer weights, dynamic and static activations, and their products.
#pragma once

#include <cstdint>
#include <span>
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
  std::vector<float> scale;  // [out_features * num_groups], > 0, or not 0 if spec.signed_scale
};

// The scale of a row (or group) whose values reach from `min` <= 0 to `max` >= 0. The largest value
// m = max(max, -min) gets the largest code: scale = m / steps(), rounded to scale_dtype, but at
// least spec.min_scale rounded to scale_dtype, so that a row of zeros has a scale too. A signed
// scale is negative where max > -min.
float scale_of(float min, float max, const WeightSpec& spec) noexcept;

// Round-to-nearest-even. `weight` [out_features, in_features], only read. Group sizes that do not
// divide in_features are the caller's to refuse (LAOS_ASSERT).
IntWeight quantize_rtn(MatView<const float> weight, const WeightSpec& spec);

// real [out_features, in_features] of an integer weight.
Mat<float> dequantize(const IntWeight& weight);

// Activations quantized per token, symmetric: scale = clip * max|x| / q_max, 1 for a row of zeros;
// what lies beyond the largest code is that code.
struct QuantizedTokens {
  Mat<int8_t> q;        // [num_tokens, in_features]
  Buffer<float> scale;  // [num_tokens]
};
// What a token's largest value is in steps: q_max, or, as in the compressed-tensors package,
// q_max + 1/2, so that all codes are spread over -max|x| to max|x|. There a largest value that is
// negative lies between two codes, and the last bit of the division decides.
enum class TokenPeak { kLargestCode, kHalfBeyond };
QuantizedTokens quantize_tokens(MatView<const float> x, const ActSpec& spec, float clip = 1,
                                TokenPeak peak = TokenPeak::kLargestCode);
// x_hat = scale * q of the same. x_hat may be x.
void fake_quantize_tokens(MatView<const float> x, const ActSpec& spec, MatView<float> x_hat,
                          float clip = 1);

// The fixed range of static activations: real = scale * (q - offset).
struct StaticRange {
  float scale = 1;
  float offset = 0;  // an integer, -128..127
};
// For activations that reach from `min` <= 0 to `max` >= 0. Symmetric: scale = max(max, -min) /
// 127, offset 0. Asymmetric: all 256 codes are used, scale = (max - min) / 255, and the offset is
// the code of zero. The scale is at least 2^-23, and is rounded to `scale_dtype`, which is what the
// engine holds it in. `spec` is static.
StaticRange static_range(float min, float max, const ActSpec& spec, DType scale_dtype) noexcept;

// An integer weight ready for integer products with dynamic activations.
class IntLinear {
 public:
  // `codes` [out, in] are read where they are and must outlive this; num_groups divides in.
  IntLinear(MatView<const int8_t> codes, std::vector<float> scale);
  // y [num_tokens, out] = sum over groups of x_scale * w_scale * (x_q w_qᵀ), each product exact in
  // int32.
  void forward(const QuantizedTokens& x, MatView<float> y) const;

 private:
  std::vector<linalg::S8Weight> groups_;
  std::vector<float> scale_;  // [num_groups, out]
};

// A per-channel int8 weight with what AscendV1 stores for static activations (label W8A8).
class StaticLinear {
 public:
  // `codes` [out, in] are read where they are and must outlive this; deq_scale, quant_bias [out].
  StaticLinear(MatView<const int8_t> codes, StaticRange input, std::vector<float> deq_scale,
               std::vector<int32_t> quant_bias);
  // y [num_tokens, out] = deq_scale * (x_q w_qᵀ + quant_bias), the sum exact in int32, for
  // x [num_tokens, in] quantized with the input range.
  void forward(MatView<const float> x, MatView<float> y) const;

 private:
  linalg::S8Weight weight_;
  StaticRange input_;
  std::vector<float> deq_scale_;
  std::vector<int32_t> quant_bias_;
};

// What the format stores beside the codes of a static linear: deq_scale = input scale * weight
// scale, quant_bias = bias / deq_scale - offset * sum of the row's codes, rounded and kept within
// int32. `bias` [out_features] is empty where the linear has none.
struct StaticParts {
  std::vector<float> deq_scale;
  std::vector<int32_t> quant_bias;
};
StaticParts static_parts(const IntWeight& weight, const StaticRange& input,
                         std::span<const float> bias = {});

}  // namespace laos::quant
