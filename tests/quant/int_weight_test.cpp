#include "quant/int_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/isa.h"
#include "quant/kernels/rows.h"
#include "quant/kernels/rows_scalar.h"
#include "support/random.h"

namespace laos::quant {
namespace {

using test::normal_matrix;

// scale = 3.6 / 7; codes are the values over it, rounded.
TEST(QuantizeRtn, MatchesARowWorkedOutByHand) {
  const float row[] = {0.9f, -2, 0.1f, 3.5f, -3.6f};
  const IntWeight weight =
      quantize_rtn({row, 1, 5, 5}, {.bits = 4, .group_size = 0, .scale_dtype = DType::kF32});
  EXPECT_FLOAT_EQ(weight.scale[0], 0.5142857f);
  EXPECT_EQ(std::vector<int>(weight.q.data(), weight.q.data() + 5),
            (std::vector<int>{2, -4, 0, 7, -7}));
}

// The largest value has the code -8: scale = 3.6 / 8, or with the signs turned -3.6 / 8, and what
// is nearly as large on the other side is 7.
TEST(QuantizeRtn, SignedScalesGiveTheLargestValueTheCodeWithoutATwin) {
  for (const float sign : {1.0f, -1.0f}) {
    const float row[] = {sign * 0.9f, sign * -2, sign * 0.1f, sign * 3.5f, sign * -3.6f};
    const IntWeight weight =
        quantize_rtn({row, 1, 5, 5}, {.bits = 4, .scale_dtype = DType::kF32, .signed_scale = true});
    EXPECT_FLOAT_EQ(weight.scale[0], sign * 0.45f);
    EXPECT_EQ(std::vector<int>(weight.q.data(), weight.q.data() + 5),
              (std::vector<int>{2, -4, 0, 7, -8}));
  }
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

// A token's products do not depend on how many run beside it, in strips or not, bit for bit.
TEST(IntLinear, GivesATokenTheSameBesideAnyNumberOfOthers) {
  const Mat<float> x = normal_matrix(1100, 128, 3), w = normal_matrix(40, 128, 4);
  for (const int64_t group_size : {0, 32}) {
    const IntWeight weight = quantize_rtn(w.view(), {.bits = 4, .group_size = group_size});
    const IntLinear linear(std::as_const(weight.q).view(), weight.scale);
    Mat<float> all(1100, 40);
    linear.forward(quantize_tokens(x.view(), {.bits = 8}), all.view());
    for (const int64_t first : {0, 250, 511, 1090}) {
      Mat<float> some(7, 40);
      linear.forward(quantize_tokens(x.view().slice_rows(first, first + 7), {.bits = 8}),
                     some.view());
      ASSERT_EQ(std::memcmp(some.data(), all.row(first), 7 * 40 * sizeof(float)), 0) << first;
    }
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

TEST(ScaleOf, IsThePeakOverTheLargestCodeButNotBelowTheFloor) {
  const WeightSpec f32{.bits = 4, .scale_dtype = DType::kF32};
  EXPECT_EQ(scale_of(-7, 3, f32), 1.0f);
  EXPECT_EQ(scale_of(-1, 14, f32), 2.0f);
  EXPECT_EQ(scale_of(0, 0, f32), 1e-5f);
  EXPECT_EQ(scale_of(0, 7 * 0x1p-16f, f32), 0x1p-16f);  // 1.5e-5 is above it
  // The floor of minmax is lower, and the floor itself is what the dtype holds.
  const WeightSpec minmax{.bits = 8, .min_scale = 0x1p-23f};
  EXPECT_EQ(scale_of(0, 0, minmax), 0x1p-23f);
  EXPECT_EQ(scale_of(-127 * 0x1p-20f, 0, minmax), 0x1p-20f);
  EXPECT_EQ(scale_of(0, 0, {.scale_dtype = DType::kBF16}), 0x1.5p-17f);  // 1.00136e-5
  EXPECT_EQ(scale_of(0, 0, {.scale_dtype = DType::kF16}), 168 * 0x1p-24f);
  // Signed ones are negative where the largest value is positive, and as far from 0.
  const WeightSpec both{.bits = 4, .scale_dtype = DType::kF32, .signed_scale = true};
  EXPECT_EQ(scale_of(-8, 3, both), 1.0f);
  EXPECT_EQ(scale_of(-8, 8, both), 1.0f);
  EXPECT_EQ(scale_of(-1, 16, both), -2.0f);
  EXPECT_EQ(scale_of(0, 0, both), 1e-5f);
  EXPECT_EQ(scale_of(0, 1e-7f, both), -1e-5f);
}

struct MinMax {
  float min, max;
};
constexpr MinMax kRanges[] = {{-1, 3}, {-3, 1},      {-0.7f, 0},   {0, 5},
                              {0, 0},  {-300, 2},    {-0.01f, 40}, {-1e-9f, 1e-9f},
                              {-1, 1}, {-255.9f, 0}, {0, 3.0e4f},  {-17.3f, 16.9f}};

// The rule of static_range in f64. A rounded scale is off by half a step of its dtype at most, and
// by f32's rounding of the width.
double rounding_of(DType dtype) { return dtype == DType::kBF16 ? 0x1p-8 + 0x1p-22 : 0x1p-22; }

TEST(StaticRange, SymmetricIsThePeakOver127) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const auto [min, max] : kRanges) {
      const StaticRange range = static_range(min, max, {.is_static = true}, dtype);
      const double exact = std::max(std::max<double>(max, -min) / 127, 0x1p-23);
      EXPECT_NEAR(range.scale, exact, exact * rounding_of(dtype)) << min << ".." << max;
      EXPECT_EQ(range.scale, round_to(dtype, range.scale));
      EXPECT_EQ(range.offset, 0.0f);
    }
}

TEST(StaticRange, AsymmetricSpreads255StepsFromTheSmallest) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const auto [min, max] : kRanges) {
      const StaticRange range =
          static_range(min, max, {.is_static = true, .symmetric = false}, dtype);
      const double exact = std::max((static_cast<double>(max) - min) / 255, 0x1p-23);
      EXPECT_NEAR(range.scale, exact, exact * rounding_of(dtype)) << min << ".." << max;
      EXPECT_EQ(range.scale, round_to(dtype, range.scale));
      // With the scale as the engine holds it.
      const double offset = std::nearbyint(-static_cast<double>(min) / range.scale) - 128;
      EXPECT_EQ(range.offset, std::clamp(offset, -128.0, 127.0)) << min << ".." << max;
    }
}

TEST(StaticRange, KnownOnesAndTheClampOfTheOffset) {
  const ActSpec asymmetric{.is_static = true, .symmetric = false};
  StaticRange range = static_range(-100, 155, asymmetric, DType::kF32);
  EXPECT_EQ(range.scale, 1.0f);
  EXPECT_EQ(range.offset, -28.0f);  // so -100 is code -128 and 155 is code 127
  range = static_range(0, 510, asymmetric, DType::kBF16);
  EXPECT_EQ(range.scale, 2.0f);
  EXPECT_EQ(range.offset, -128.0f);
  // 255.9 / 255 rounds to 1 in bf16, so that the offset would be 256 - 128.
  range = static_range(-255.9f, 0, asymmetric, DType::kBF16);
  EXPECT_EQ(range.scale, 1.0f);
  EXPECT_EQ(range.offset, 127.0f);
  EXPECT_EQ(static_range(-254, 127, {.is_static = true}, DType::kBF16).scale, 2.0f);
}

class StaticLinears : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Ranges, StaticLinears, testing::Bool(),
                         [](const auto& p) { return p.param ? "Symmetric" : "Asymmetric"; });

TEST_P(StaticLinears, EqualTheRealProductOfDequantizedOperands) {
  constexpr int64_t kTokens = 19, kIn = 130, kOut = 20;
  Mat<float> x = normal_matrix(kTokens, kIn, 3);
  for (int64_t i = 0; i < x.size(); ++i) x.data()[i] += 1.5f;
  const Mat<float> w = normal_matrix(kOut, kIn, 4);
  const IntWeight weight = quantize_rtn(w.view(), {.bits = 8});
  // Narrower than x, so that some of it saturates on both sides.
  const StaticRange input =
      static_range(-0.7f, 3.4f, {.is_static = true, .symmetric = GetParam()}, DType::kBF16);
  const StaticParts parts = static_parts(weight, input);
  Mat<float> y(kTokens, kOut);
  StaticLinear(weight.q.view(), input, parts.deq_scale, parts.quant_bias)
      .forward(std::as_const(x).view(), y.view());
  int64_t num_saturated = 0;
  for (int64_t i = 0; i < kTokens; ++i) {
    std::vector<double> real(static_cast<size_t>(kIn));
    for (int64_t k = 0; k < kIn; ++k) {
      const float code = std::nearbyint(x(i, k) / input.scale + input.offset);
      if (code < -128 || code > 127) ++num_saturated;
      real[static_cast<size_t>(k)] =
          (std::clamp(code, -128.0f, 127.0f) - static_cast<double>(input.offset)) * input.scale;
    }
    for (int64_t j = 0; j < kOut; ++j) {
      double expected = 0;
      for (int64_t k = 0; k < kIn; ++k)
        expected += real[static_cast<size_t>(k)] * weight.q(j, k) *
                    static_cast<double>(weight.scale[static_cast<size_t>(j)]);
      // The integer sum is exact; it, deq_scale and their product are rounded once each, to half of
      // FLT_EPSILON. f64's own error is far below.
      ASSERT_NEAR(y(i, j), expected, 1.51 * FLT_EPSILON * std::fabs(expected) + 1e-12)
          << i << ", " << j;
    }
  }
  EXPECT_GT(num_saturated, 0);
}

TEST(StaticParts, AreTheProductOfScalesAndWhatTheOffsetAdds) {
  const Mat<float> w = normal_matrix(5, 64, 6);
  const IntWeight weight = quantize_rtn(w.view(), {.bits = 8});
  const StaticRange input{.scale = 0.375f, .offset = -28};
  const StaticParts parts = static_parts(weight, input);
  ASSERT_EQ(parts.deq_scale.size(), 5u);
  ASSERT_EQ(parts.quant_bias.size(), 5u);
  for (int64_t i = 0; i < 5; ++i) {
    int32_t sum = 0;
    for (int64_t j = 0; j < 64; ++j) sum += weight.q(i, j);
    EXPECT_EQ(parts.deq_scale[static_cast<size_t>(i)],
              0.375f * weight.scale[static_cast<size_t>(i)]);
    EXPECT_EQ(parts.quant_bias[static_cast<size_t>(i)], 28 * sum);
  }
}

TEST(IntLinear, GroupsEqualTheRealProductOfDequantizedOperands) {
  constexpr int64_t kTokens = 19, kIn = 130, kOut = 20;
  const Mat<float> x = normal_matrix(kTokens, kIn, 3);
  Mat<float> w = normal_matrix(kOut, kIn, 4);
  // Groups of very different ranges, so that a scale of another group or row shows.
  for (int64_t i = 0; i < kOut; ++i)
    for (int64_t k = 0; k < kIn; ++k) w(i, k) *= std::exp2(static_cast<float>((i + k / 10) % 7));
  for (const int bits : {4, 8})
    for (const int64_t group_size : {10, 65, 130}) {
      const int64_t num_groups = kIn / group_size;
      const IntWeight weight =
          quantize_rtn(std::as_const(w).view(), {.bits = bits, .group_size = group_size});
      const QuantizedTokens tokens = quantize_tokens(x.view(), {.bits = bits});
      Mat<float> y(kTokens, kOut);
      IntLinear(weight.q.view(), weight.scale).forward(tokens, y.view());
      for (int64_t i = 0; i < kTokens; ++i)
        for (int64_t j = 0; j < kOut; ++j) {
          double expected = 0, magnitude = 0;
          for (int64_t g = 0; g < num_groups; ++g) {
            double part = 0;
            for (int64_t k = g * group_size; k < (g + 1) * group_size; ++k)
              part += static_cast<double>(tokens.scale[i]) * tokens.q(i, k) * weight.q(j, k) *
                      weight.scale[static_cast<size_t>(j * num_groups + g)];
            expected += part;
            magnitude += std::fabs(part);
          }
          // A group's sum is an exact integer times two scales, two roundings; the groups' sum adds
          // one a group. Each is half of FLT_EPSILON of at most all groups' magnitude.
          const double tolerance =
              0.5 * static_cast<double>(num_groups + 2) * FLT_EPSILON * magnitude;
          ASSERT_NEAR(y(i, j), expected, tolerance) << group_size;
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
      for (const float scale : {1.0f, 0.013f, -0.21f}) {
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
