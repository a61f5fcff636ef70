#include "model/cache_scales.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "model/decoder_layer.h"

namespace laos::model {
namespace {

// Channels of other sizes, one of them with a few values far beyond the rest, one of zeros.
constexpr int64_t kTokens = 3000, kChannels = 5, kFlat = 2, kSpiked = 3, kZero = 4;
Mat<float> rows_of_channels() {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  Mat<float> rows(kTokens, kChannels);
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int64_t j = 0; j < kChannels; ++j)
      rows(i, j) = normal(generator) * std::ldexp(1.0f, static_cast<int>(4 * j) - 6);
    rows(i, kFlat) = i % 2 == 0 ? 3.0f : -3.0f;
    if (i == 1500) rows(i, kSpiked) = 1.3f * std::fabs(rows(i, kSpiked)) + 4.5f * 64;
    rows(i, kZero) = 0;
  }
  return rows;
}

double squared_error(const Mat<float>& rows, int64_t channel, float scale) {
  double sum = 0;
  for (int64_t i = 0; i < rows.rows(); ++i) {
    float value = rows(i, channel);
    round_to_cache(&scale, DType::kF32, &value, 1);
    sum += std::pow(static_cast<double>(rows(i, channel)) - value, 2);
  }
  return sum;
}

TEST(RoundToCache, IsTheNearestCodeTimesTheScale) {
  const std::vector<float> scale = {0.5f, 0.5f, 0.5f, 0.5f, 0.25f, 2.0f};
  std::vector<float> row = {0.7f, 0.75f, 100.0f, -100.0f, -0.125f, 3.0f};
  round_to_cache(scale.data(), DType::kF32, row.data(), 6);
  // 1.4 -> 1; 1.5 -> 2; beyond either end the last code; -0.5 and 1.5 to the even code.
  EXPECT_EQ(row, (std::vector<float>{0.5f, 1.0f, 63.5f, -64.0f, -0.0f, 4.0f}));
}

// The engine holds 1 / scale in its own dtype, and a product of that with a value.
TEST(RoundToCache, RoundsEachOperationToTheDtype) {
  const float scale = round_to(DType::kBF16, 0.3f);
  for (const float x : {1.0f, 17.0f, -29.5f, 38.0f}) {
    float value = x;
    round_to_cache(&scale, DType::kBF16, &value, 1);
    const float inverse = round_to(DType::kBF16, 1 / scale);
    const float code = std::nearbyint(round_to(DType::kBF16, x * inverse));
    EXPECT_EQ(value, round_to(DType::kBF16, scale * std::clamp(code, -128.0f, 127.0f))) << x;
  }
}

TEST(ChannelHistograms, GiveScalesThatLoseNoMoreThanThoseOfTheLargestValue) {
  const Mat<float> rows = rows_of_channels();
  ChannelHistograms histograms(kChannels);
  histograms.observe(rows.view());
  const std::vector<float> scales = histograms.scales(DType::kBF16);
  double errors = 0, squares = 0;
  for (int64_t j = 0; j < kChannels; ++j) {
    const float scale = scales[static_cast<size_t>(j)];
    EXPECT_EQ(round_to(DType::kBF16, scale), scale);
    EXPECT_GT(scale, 0);
    float peak = 0;
    for (int64_t i = 0; i < kTokens; ++i) {
      peak = std::max(peak, std::fabs(rows(i, j)));
      squares += std::pow(static_cast<double>(rows(i, j)), 2);
    }
    const double error = squared_error(rows, j, scale);
    errors += error;
    // The histogram knows values to 1 / 1024 of the range, a quarter of a code.
    if (j != kFlat && j != kZero) {
      EXPECT_LE(error, 1.05 * squared_error(rows, j, peak / 127)) << j;
      EXPECT_LE(scale, peak / 127 * 1.01f);
    }
  }
  EXPECT_NEAR(histograms.error(scales), errors / squares, 0.1 * errors / squares);
  // 3000 values lose more to a step that a single one stretches by a third.
  EXPECT_LT(squared_error(rows, kSpiked, scales[kSpiked]),
            0.9 * squared_error(rows, kSpiked, 1.3f * 4.5f * 64 / 127));
}

TEST(ChannelHistograms, DoNotDependOnTheOrderOfRowsNorOnBatches) {
  const Mat<float> rows = rows_of_channels();
  ChannelHistograms whole(kChannels), parts(kChannels);
  whole.observe(rows.view());
  Mat<float> shuffled(kTokens, kChannels);
  std::vector<int64_t> order(kTokens);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (int64_t i = 0; i < kTokens; ++i)
    std::copy_n(rows.row(order[static_cast<size_t>(i)]), kChannels, shuffled.row(i));
  for (int64_t begin = 0; begin < kTokens; begin += 700)
    parts.observe(std::as_const(shuffled).view().slice_rows(begin, std::min(kTokens, begin + 700)));
  EXPECT_EQ(whole.scales(DType::kF16), parts.scales(DType::kF16));
  EXPECT_EQ(whole.error(whole.scales(DType::kF16)), parts.error(whole.scales(DType::kF16)));
}

}  // namespace
}  // namespace laos::model
