#include "quant/int_weight.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "core/isa.h"
#include "quant/kernels/rows.h"
#include "quant/kernels/rows_scalar.h"

namespace laos::quant {
namespace {

Mat<float> normal_matrix(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Mat<float> matrix(rows, cols);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
  return matrix;
}

// Spec Appendix D 3.
TEST(QuantizeRtn, MatchesTheSpecificationsRow) {
  const float row[] = {0.9f, -2, 0.1f, 3.5f, -3.6f};
  const IntWeight weight =
      quantize_rtn({row, 1, 5, 5}, {.bits = 4, .group_size = 0, .scale_dtype = DType::kF32});
  EXPECT_FLOAT_EQ(weight.scale[0], 0.5142857f);
  EXPECT_EQ(std::vector<int>(weight.q.data(), weight.q.data() + 5),
            (std::vector<int>{2, -4, 0, 7, -7}));
}

TEST(QuantizeRtn, ScalesAreWhatTheScaleDtypeHoldsAndAZeroRowGetsTheFloor) {
  Mat<float> weight = normal_matrix(3, 40, 1);
  std::fill_n(weight.row(1), 40, 0.0f);
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const IntWeight quantized =
        quantize_rtn(std::as_const(weight).view(), {.bits = 8, .scale_dtype = dtype});
    for (const float scale : quantized.scale) EXPECT_EQ(scale, round_to(dtype, scale));
    EXPECT_EQ(quantized.scale[1], round_to(dtype, 1e-5f));
    for (int64_t j = 0; j < 40; ++j) EXPECT_EQ(quantized.q(1, j), 0);
  }
}

TEST(QuantizeRtn, ErrorIsAtMostHalfAStepInEveryGroup) {
  const Mat<float> weight = normal_matrix(6, 48, 2);
  for (const int64_t group_size : {0, 16, 48, 3}) {
    const IntWeight quantized = quantize_rtn(
        weight.view(), {.bits = 4, .group_size = group_size, .scale_dtype = DType::kF32});
    const Mat<float> real = dequantize(quantized);
    const int64_t width = group_size == 0 ? 48 : group_size;
    ASSERT_EQ(static_cast<int64_t>(quantized.scale.size()), 6 * 48 / width);
    for (int64_t i = 0; i < weight.size(); ++i)
      ASSERT_LE(std::fabs(real.data()[i] - weight.data()[i]),
                0.5f * quantized.scale[static_cast<size_t>(i / width)] * (1 + 8 * FLT_EPSILON));
  }
}

TEST(IntLinear, EqualsTheRealProductOfDequantizedOperands) {
  const Mat<float> x = normal_matrix(9, 130, 3), w = normal_matrix(20, 130, 4);
  for (const int bits : {4, 8}) {
    const IntWeight weight = quantize_rtn(w.view(), {.bits = bits});
    const QuantizedTokens tokens = quantize_tokens(x.view(), {.bits = bits});
    Mat<float> y(9, 20);
    IntLinear(std::as_const(weight.q).view(), weight.scale).forward(tokens, y.view());
    const Mat<float> real = dequantize(weight);
    for (int64_t i = 0; i < 9; ++i) {
      for (int64_t j = 0; j < 20; ++j) {
        double expected = 0, magnitude = 0;
        for (int64_t k = 0; k < 130; ++k) {
          const double product = static_cast<double>(tokens.scale[i]) * tokens.q(i, k) * real(j, k);
          expected += product;
          magnitude += std::fabs(product);
        }
        ASSERT_NEAR(y(i, j), expected, 4 * FLT_EPSILON * magnitude);
      }
    }
  }
}

TEST(QuantizeTokens, UsesTheWholeRangeOfEachTokenAndKeepsZeros) {
  Mat<float> x = normal_matrix(3, 33, 5);
  for (int64_t j = 0; j < 33; ++j) x(1, j) *= 1e4f, x(2, j) = 0;
  const QuantizedTokens tokens = quantize_tokens(std::as_const(x).view(), {.bits = 4});
  for (const int64_t i : {0, 1}) {
    int peak = 0;
    for (int64_t j = 0; j < 33; ++j)
      peak = std::max(peak, std::abs(static_cast<int>(tokens.q(i, j))));
    EXPECT_EQ(peak, 7);
  }
  for (int64_t j = 0; j < 33; ++j) EXPECT_EQ(tokens.q(2, j), 0);
}

class QuantRows : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { use_isa(GetParam()); }
  void TearDown() override { restore_isa(); }
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, QuantRows, testing::ValuesIn(supported_isas()),
                         [](const auto& p) { return p.param.name; });

TEST_P(QuantRows, MatchTheScalarDefinitionBitForBitAtEveryTailLength) {
  for (int64_t n = 1; n <= 67; ++n) {
    Mat<float> x = normal_matrix(1, n, static_cast<uint32_t>(n));
    // Ties and both clamps.
    for (int64_t i = 0; i < n; i += 5) x(0, i) = 0.5f * static_cast<float>(i % 41 - 20);
    const Mat<float> offset = normal_matrix(1, n, 99);
    const kernels::Range actual = kernels::range(x.data(), n),
                         expected = kernels::scalar::range(x.data(), n);
    ASSERT_EQ(actual.min, expected.min);
    ASSERT_EQ(actual.max, expected.max);
    for (const float* o :
         {static_cast<const float*>(nullptr), static_cast<const float*>(offset.data())}) {
      for (const float scale : {1.0f, 0.013f}) {
        for (const int q_max : {7, 127}) {
          std::vector<int8_t> q(static_cast<size_t>(n), 99),
              q_expected(static_cast<size_t>(n), -99);
          kernels::quantize(x.data(), o, scale, q_max, q.data(), n);
          kernels::scalar::quantize(x.data(), o, scale, q_max, q_expected.data(), n);
          ASSERT_EQ(q, q_expected) << n;
          std::vector<float> real(q.size()), real_expected(q.size());
          kernels::fake_quantize(x.data(), o, scale, q_max, real.data(), n);
          kernels::scalar::fake_quantize(x.data(), o, scale, q_max, real_expected.data(), n);
          ASSERT_EQ(real, real_expected);
          kernels::dequantize(q.data(), scale, real.data(), n);
          ASSERT_EQ(real, real_expected);
        }
      }
    }
    std::vector<int32_t> acc(static_cast<size_t>(n));
    for (size_t i = 0; i < acc.size(); ++i) acc[i] = static_cast<int32_t>(i * 7919) - 200000;
    std::vector<float> y(acc.size()), y_expected(acc.size());
    kernels::rescale(acc.data(), 0.3f, x.data(), y.data(), n);
    kernels::scalar::rescale(acc.data(), 0.3f, x.data(), y_expected.data(), n);
    ASSERT_EQ(y, y_expected);
  }
}

}  // namespace
}  // namespace laos::quant
