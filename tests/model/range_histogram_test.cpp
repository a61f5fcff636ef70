#include "model/range_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

namespace laos::model {
namespace {

// Values of both signs, a few of which are a thousand times the others.
Mat<float> rows_of(int64_t tokens, int64_t channels) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  Mat<float> x(tokens, channels);
  for (int64_t i = 0; i < x.size(); ++i)
    x.data()[i] = normal(generator) * (i % 500 == 7 ? 1000.0f : 1.0f);
  return x;
}

TEST(RangeHistogram, KnowsTheErrorOfARange) {
  const Mat<float> x = rows_of(200, 30);
  RangeHistogram histogram;
  histogram.observe(x.view());
  for (const auto& [step, first, last] :
       {std::tuple(0.02, -128.0, 127.0), {0.5, -128.0, 127.0}, {10.0, -100.0, 155.0}}) {
    double expected = 0;
    for (int64_t i = 0; i < x.rows(); ++i)
      for (int64_t j = 0; j < x.cols(); ++j)
        expected +=
            std::pow(x(i, j) - step * std::clamp(std::nearbyint(x(i, j) / step), first, last), 2);
    // Bins are 1 / 32 of an octave wide.
    EXPECT_NEAR(histogram.squared_error(step, first, last), expected, 0.05 * expected) << step;
  }
}

TEST(RangeHistogram, DoesNotDependOnBatches) {
  const Mat<float> x = rows_of(100, 17);
  RangeHistogram whole, parts;
  whole.observe(x.view());
  for (int64_t begin = 0; begin < 100; begin += 30)
    parts.observe(x.view().slice_rows(begin, std::min<int64_t>(100, begin + 30)));
  EXPECT_EQ(whole.squared_error(0.1, -128, 127), parts.squared_error(0.1, -128, 127));
}

}  // namespace
}  // namespace laos::model
