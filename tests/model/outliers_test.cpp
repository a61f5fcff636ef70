#include "model/outliers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace laos::model {
namespace {

TEST(Outliers, OfATokenWithOneLargeValueAreThoseOfItsDefinition) {
  Mat<float> x(1, 4);
  const float values[] = {1, -1, 1, 5};
  std::copy_n(values, 4, x.data());
  const Outliers outliers = outliers_of(std::as_const(x).view());
  EXPECT_DOUBLE_EQ(outliers.max_to_rms, 5 / std::sqrt(28.0 / 4));
  EXPECT_DOUBLE_EQ(outliers.kurtosis, (628.0 / 4) / (7.0 * 7.0));
}

TEST(Outliers, AreMeansOverTokensAndLeaveOutTokensOfZeros) {
  Mat<float> x(3, 2);
  const float values[] = {1, 1, 0, 0, 0, 2};
  std::copy_n(values, 6, x.data());
  EXPECT_DOUBLE_EQ(outliers_of(std::as_const(x).view()).max_to_rms, (1 + std::sqrt(2.0)) / 2);
  x.fill_zero();
  EXPECT_EQ(outliers_of(std::as_const(x).view()), Outliers{});
}

TEST(MeanRelativeError, IsTheMeanOverTokensAndNaNWhereAValueIsNotFinite) {
  Mat<float> a(2, 2), b(2, 2), reference(2, 2);
  const float as[] = {1, 0, 3, 0}, bs[] = {0, 0, 0, 4}, references[] = {2, 0, 0, 10};
  std::copy_n(as, 4, a.data());
  std::copy_n(bs, 4, b.data());
  std::copy_n(references, 4, reference.data());
  const auto error = [&] {
    return mean_relative_error(std::as_const(a).view(), std::as_const(b).view(),
                               std::as_const(reference).view());
  };
  EXPECT_DOUBLE_EQ(error(), (0.5 + 0.5) / 2);
  a(1, 1) = INFINITY;
  EXPECT_TRUE(std::isnan(error()));
}

}  // namespace
}  // namespace laos::model
