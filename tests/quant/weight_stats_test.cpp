#include "quant/weight_stats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace laos::quant {
namespace {

TEST(WeightStats, OfPlainRoundingClipNothingAndKeepTheRange) {
  Mat<float> weight(2, 4);
  for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = static_cast<float>(i) - 3.3f;
  const IntWeight quantized =
      quantize_rtn(std::as_const(weight).view(), {.scale_dtype = DType::kF32});
  const WeightStats stats = weight_stats(std::as_const(weight).view(), quantized);
  const Mat<float> real = dequantize(quantized);
  double error = 0, size = 0;
  for (int64_t i = 0; i < weight.size(); ++i) {
    error += std::pow(weight.data()[i] - real.data()[i], 2);
    size += std::pow(weight.data()[i], 2);
  }
  EXPECT_NEAR(stats.error, std::sqrt(error / size), 1e-7);
  EXPECT_EQ(stats.clipped, 0);
  EXPECT_NEAR(stats.range, 1, 1e-6);
}

TEST(WeightStats, CountsWeightsMoreThanHalfAStepOutsideTheirCodes) {
  Mat<float> weight(1, 4);
  const int8_t codes[] = {7, 7, -8, -8};
  for (const float scale : {1.0f, -1.0f}) {
    const float values[] = {scale * 16, scale * 7.4f, scale * -8.4f, scale * -9};
    std::copy_n(values, 4, weight.data());
    const bool is_signed = scale < 0;
    IntWeight quantized{{.bits = 4, .signed_scale = is_signed}, Mat<int8_t>(1, 4), {scale}};
    std::copy_n(codes, 4, quantized.q.data());
    const WeightStats stats = weight_stats(std::as_const(weight).view(), quantized);
    EXPECT_EQ(stats.clipped, 0.5);
    EXPECT_DOUBLE_EQ(stats.range, (is_signed ? 8.0 : 7.0) / 16);
  }
}

}  // namespace
}  // namespace laos::quant
