#include "rotation/token_range.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/polar.h"
#include "rotation/fit.h"
#include "support/random.h"

namespace laos::rotation {
namespace {

using test::normal_matrix;
// The definition, in f64.
double range_of(const std::vector<double>& z) {
  double sum = 0;
  for (const double value : z) sum += std::pow(std::abs(value), 12);
  return std::pow(sum / static_cast<double>(z.size()), 1.0 / 6);
}

TEST(RangeAndGradient, AreTheDefinitionAndItsFiniteDifferences) {
  for (const int64_t n : {1, 2, 7, 48, 131}) {
    const Mat<float> z = normal_matrix(1, n, static_cast<uint32_t>(n));
    std::vector<double> at(z.data(), z.data() + n);
    std::vector<float> gradient(static_cast<size_t>(n));
    // Twelve f32 products and n sums a value.
    EXPECT_NEAR(range_and_gradient(z.data(), gradient.data(), n), range_of(at), 1e-5 * range_of(at))
        << n;
    double largest = 0;
    for (const float slope : gradient) largest = std::max(largest, std::abs(double{slope}));
    for (size_t j = 0; j < at.size(); ++j) {
      const double h = 1e-5, kept = at[j];
      at[j] = kept + h;
      const double above = range_of(at);
      at[j] = kept - h;
      const double below = range_of(at);
      at[j] = kept;
      EXPECT_NEAR(gradient[j], (above - below) / (2 * h), 1e-5 * largest) << n << ", " << j;
    }
  }
}

TEST(RangeAndGradient, OfNothingAndOfHugeAndTinyValuesAreFinite) {
  std::vector<float> zero(5, 0.0f);
  EXPECT_EQ(range_and_gradient(zero.data(), zero.data(), 5), 0);
  EXPECT_EQ(zero, std::vector<float>(5, 0.0f));
  for (const float unit : {1e-30f, 1e15f}) {  // twelfth powers beyond f32 either way
    std::vector<float> z = {unit, -3 * unit, 2 * unit};
    EXPECT_NEAR(range_and_gradient(z.data(), z.data(), 3) / unit / unit, range_of({1, 3, 2}), 1e-4);
    for (const float slope : z) EXPECT_TRUE(std::isfinite(slope));
  }
}

// Tokens that are flat, all values 1 or -1, in a basis that the fit is not told.
Mat<float> hidden_flat_rows(int64_t rows, const Mat<float>& basis, uint32_t seed) {
  Mat<float> flat = normal_matrix(rows, basis.rows(), seed);
  for (int64_t i = 0; i < flat.size(); ++i) flat.data()[i] = flat.data()[i] < 0 ? -1.0f : 1.0f;
  Mat<float> hidden(rows, basis.rows());
  linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, std::as_const(flat).view(),
               basis.view(), 0.0f, hidden.view());
  return hidden;
}

double error_of(const Mat<float>& rows, const Mat<float>& rotation) {
  Mat<float> rotated(rows.rows(), rows.cols()), quantized(rows.rows(), rows.cols());
  linalg::gemm(linalg::Trans::kNo, linalg::Trans::kNo, 1.0f, rows.view(), rotation.view(), 0.0f,
               rotated.view());
  return rounding_error(std::as_const(rotated).view(), 4, quantized.view());
}

class TokenRange : public testing::TestWithParam<linalg::ComputeType> {};
INSTANTIATE_TEST_SUITE_P(InEitherDtype, TokenRange,
                         testing::Values(linalg::ComputeType::kF32, linalg::ComputeType::kBf16),
                         [](const auto& p) {
                           return p.param == linalg::ComputeType::kF32 ? "F32" : "Bf16";
                         });

TEST_P(TokenRange, FindsTheBasisInWhichTokensAreFlat) {
  const Mat<float> basis = linalg::polar_factor(normal_matrix(24, 24, 1).view()).factor;
  const FitResult plain = fit_rotation(hidden_flat_rows(1, basis, 2), {.steps = 1});
  const FitResult fit =
      fit_rotation(hidden_flat_rows(4000, basis, 3), {.objective = FitObjective::kTokenRange,
                                                      .steps = 300,
                                                      .layer_type = {},
                                                      .compute = GetParam()});
  EXPECT_LT(fit.orthogonality, 1e-5);
  const Mat<float> unseen = hidden_flat_rows(500, basis, 4);
  // Seen: 0.3 of the Hadamard matrix's error.
  EXPECT_LT(error_of(unseen, fit.rotation), 0.5 * error_of(unseen, plain.rotation));
  EXPECT_LT(fit.steps.back().loss, fit.steps.front().loss);
}

class FewRows : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(AnyNumber, FewRows, testing::Values(1, 9, 4100),
                         testing::PrintToStringParamName());

TEST_P(FewRows, GiveAnOrthogonalMatrixNeverWorseThanHadamardAndTheSameOnAnyNumberOfThreads) {
  Mat<float> rows = normal_matrix(GetParam(), 40, 5);
  for (int64_t i = 0; i < rows.rows(); ++i) rows(i, 7) *= 30, rows(i, 20) *= 12;
  const FitOptions options = {.objective = FitObjective::kTokenRange, .steps = 21};
  const int before = num_threads();
  set_num_threads(1);
  const FitResult one = fit_rotation(rows.clone(), options);
  set_num_threads(3);
  const FitResult three = fit_rotation(rows.clone(), options);
  set_num_threads(before);
  EXPECT_EQ(std::memcmp(one.rotation.data(), three.rotation.data(), 40 * 40 * sizeof(float)), 0);
  EXPECT_LT(one.orthogonality, 1e-5);
  ASSERT_EQ(one.steps.size(), 4u);  // 0, 10, 20, 21
  double best = one.steps.front().loss;
  for (const FitStep& step : one.steps) best = std::min(best, step.loss);
  for (const FitStep& step : one.steps)
    if (step.step == one.best_step) {
      EXPECT_EQ(step.loss, best);
    }
}

// All rows the same: the gradient turns one plane, which got all of the angle that is meant for
// 2560 axes. That is beyond what a Newton-Schulz step brings back, and the fit of wide models ended
// there.
TEST_P(TokenRange, OfAWideModelTurnsNoPlaneTooFar) {
  constexpr int64_t kWide = 2560, kSteps = 3;
  const Mat<float> row = normal_matrix(1, kWide, 6);
  Mat<float> rows(16, kWide);
  for (int64_t i = 0; i < rows.rows(); ++i) std::copy_n(row.data(), kWide, rows.row(i));
  const FitResult fit = fit_rotation(
      std::move(rows),
      {.objective = FitObjective::kTokenRange, .steps = kSteps, .compute = GetParam()});
  ASSERT_EQ(fit.steps.size(), 2u);
  EXPECT_EQ(fit.steps.back().step, kSteps);
  EXPECT_TRUE(std::isfinite(fit.steps.back().loss));
  EXPECT_LT(fit.orthogonality, 1e-5);
}

TEST_P(TokenRange, OfRowsThatAreZeroIsTheHadamardMatrix) {
  Mat<float> rows(10, 16);
  rows.fill_zero();
  const FitResult fit =
      fit_rotation(std::move(rows),
                   {.objective = FitObjective::kTokenRange, .steps = 10, .compute = GetParam()});
  EXPECT_EQ(fit.best_step, 0);
  EXPECT_LT(fit.orthogonality, 1e-6);
}

}  // namespace
}  // namespace laos::rotation
