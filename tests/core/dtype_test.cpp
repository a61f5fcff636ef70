#include "core/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"

namespace laos {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Half {
  const char* name;
  DType dtype;
  float (*widen)(uint16_t) noexcept;
  uint16_t (*narrow)(float) noexcept;
  uint16_t infinity;  // positive bit patterns count up to it in the order of their values
};

class HalfPrecision : public testing::TestWithParam<Half> {};
INSTANTIATE_TEST_SUITE_P(
    BothTypes, HalfPrecision,
    testing::Values(Half{"BF16", DType::kBF16, bf16_to_float, float_to_bf16, 0x7f80},
                    Half{"F16", DType::kF16, f16_to_float, float_to_f16, 0x7c00}),
    [](const auto& p) { return p.param.name; });

TEST_P(HalfPrecision, EveryBitPatternSurvivesTheWayToFloatAndBack) {
  const Half& half = GetParam();
  for (uint32_t bits = 0; bits <= 0xffffu; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float value = half.widen(pattern);
    const bool is_nan = (bits & 0x7fffu) > half.infinity;
    ASSERT_EQ(std::isnan(value), is_nan) << bits;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000u) != 0) << bits;
    if (is_nan) {
      ASSERT_TRUE(std::isnan(half.widen(half.narrow(value)))) << bits;
    } else {
      ASSERT_EQ(half.narrow(value), pattern);
    }
  }
}

// Between every two neighbours: the half way point, which a float holds, goes to the even pattern,
// and the floats beside it to the neighbour on their side. The neighbour above the largest finite
// value is what the format would hold next, so that what lies half way to it is infinity.
TEST_P(HalfPrecision, RoundsToTheNearestAndTiesToEven) {
  const Half& half = GetParam();
  for (uint16_t below = 0; below < half.infinity; ++below) {
    const auto above = static_cast<uint16_t>(below + 1);
    const double low = half.widen(below);
    const double high = above == half.infinity
                            ? low + (low - half.widen(static_cast<uint16_t>(below - 1)))
                            : static_cast<double>(half.widen(above));
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(static_cast<double>(middle), (low + high) / 2);
    const uint16_t even = below % 2 == 0 ? below : above;
    ASSERT_EQ(half.narrow(middle), even) << below;
    ASSERT_EQ(half.narrow(-middle), even | 0x8000u) << below;
    ASSERT_EQ(half.narrow(std::nextafter(middle, 0.0f)), below);
    ASSERT_EQ(half.narrow(std::nextafter(middle, kInfinity)), above);
    ASSERT_EQ(round_to(half.dtype, middle), half.widen(even));
  }
}

TEST_P(HalfPrecision, OverflowsToInfinityOfTheSameSign) {
  const Half& half = GetParam();
  EXPECT_EQ(round_to(half.dtype, FLT_MAX), kInfinity);
  EXPECT_EQ(round_to(half.dtype, -FLT_MAX), -kInfinity);
  EXPECT_EQ(round_to(half.dtype, -kInfinity), -kInfinity);
}

TEST(BF16, KeepsANanWhosePayloadLiesInTheLostBits) {
  const float nan = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(nan))));
  EXPECT_TRUE(std::isnan(round_to(DType::kF16, nan)));
}

TEST(F16, HoldsTheValuesThatItsStandardNames) {
  EXPECT_EQ(f16_to_float(0x3c00), 1.0f);
  EXPECT_EQ(f16_to_float(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_float(0x0400), 0x1p-14f);
  EXPECT_EQ(f16_to_float(0xfbff), -65504.0f);
  EXPECT_EQ(round_to(DType::kF16, 65519.0f), 65504.0f);
  EXPECT_EQ(round_to(DType::kF16, 65520.0f), kInfinity);
}

TEST(RoundTo, LeavesF32AsItIs) {
  EXPECT_EQ(round_to(DType::kF32, 1 + FLT_EPSILON), 1 + FLT_EPSILON);
  EXPECT_EQ(round_to(DType::kBF16, 1 + FLT_EPSILON), 1.0f);
}

TEST(DTypeNames, GoBothWaysAndUnknownOnesAreRefusedWithTheKnown) {
  const std::pair<const char*, int64_t> rows[] = {{"F64", 8}, {"F32", 4}, {"BF16", 2}, {"F16", 2},
                                                  {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
                                                  {"U8", 1},  {"BOOL", 1}};
  for (const auto& [name, bytes] : rows) {
    const DType dtype = dtype_from_string(name);
    EXPECT_EQ(to_string(dtype), name);
    EXPECT_EQ(size_of(dtype), bytes) << name;
  }
  try {
    dtype_from_string("F8_E4M3");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_EQ(error.problems().front().what,
              "dtype \"F8_E4M3\" is not one of F64, F32, BF16, F16, I64, I32, I16, I8, U8, BOOL");
  }
}

}  // namespace
}  // namespace laos
