#include "flatquant/fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <ostream>
#include <utility>

#include "core/threads.h"
#include "support/random.h"

namespace laos::flatquant {
namespace {

using test::normal_matrix;

constexpr int64_t kLeft = 6, kRight = 8, kIn = kLeft * kRight, kOut = 40, kTokens = 600;

// Inputs with outliers in a few channels, as rotations leave them.
Mat<float> inputs(uint32_t seed, int64_t in_features = kIn) {
  Mat<float> x = normal_matrix(kTokens, in_features, seed);
  for (int64_t i = 0; i < kTokens; ++i)
    for (const int64_t channel : {int64_t{3}, int64_t{17}, in_features - 2}) x(i, channel) *= 12;
  return x;
}

InputRows rows_of(const Mat<float>& x) {
  InputRows rows(x.rows(), x.cols());
  rows.observe(x.view());
  return rows;
}

bool are_equal(const Mat<float>& a, const Mat<float>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(float)) == 0;
}

struct Case {
  const char* name;
  int64_t blocks;
  Method method;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class Fitting : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Methods, Fitting,
    testing::Values(Case{"None", 1, Method::kNone}, Case{"Hadamard", 1, Method::kHadamard},
                    Case{"Closed", 1, Method::kClosed},
                    Case{"ClosedOfTwoBlocks", 2, Method::kClosed}, Case{"Auto", 1, Method::kAuto},
                    Case{"Train", 1, Method::kTrain}, Case{"TrainOfTwoBlocks", 2, Method::kTrain}),
    [](const auto& p) { return p.param.name; });

TEST_P(Fitting, KeepsTheFunctionOfTheLinears) {
  const auto [name, blocks, method] = GetParam();
  const Mat<float> x = inputs(1, blocks * kIn), weight = normal_matrix(kOut, blocks * kIn, 2);
  const Fitted fitted =
      fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {.method = method});
  Mat<float> folded = weight.clone(), transformed(x.rows(), x.cols());
  fold(fitted.transform, folded.view());
  fitted.transform.apply(x.view(), transformed.view());
  for (int64_t t = 0; t < x.rows(); t += 7)
    for (int64_t o = 0; o < kOut; ++o) {
      double expected = 0, actual = 0, magnitude = 0;
      for (int64_t j = 0; j < x.cols(); ++j) {
        expected += static_cast<double>(x(t, j)) * weight(o, j);
        actual += static_cast<double>(transformed(t, j)) * folded(o, j);
        magnitude += std::pow(transformed(t, j), 2) + std::pow(folded(o, j), 2);
      }
      // Inputs go through two f32 products of left and of right terms, weights are f64 rounded to
      // f32; by Cauchy and Schwarz the errors of all terms come to at most this.
      const double tolerance = (kLeft + kRight + 1) * FLT_EPSILON *
                               std::sqrt(static_cast<double>(x.cols())) * magnitude / 2;
      ASSERT_NEAR(actual, expected, tolerance) << t << ", " << o;
    }
}

TEST_P(Fitting, MatricesAreExactInTheirDtypeAndTokensFarInsideF16) {
  const auto [name, blocks, method] = GetParam();
  Mat<float> x = inputs(1, blocks * kIn);
  for (int64_t j = 0; j < x.cols(); ++j) x(5, j) *= 3e4f;  // a massive token
  const Mat<float> weight = normal_matrix(kOut, blocks * kIn, 2);
  const Fitted fitted =
      fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {.method = method});
  for (const Mat<float>* m : {&fitted.transform.left, &fitted.transform.right})
    for (int64_t i = 0; i < m->size(); ++i)
      ASSERT_EQ(m->data()[i], round_to(DType::kBF16, m->data()[i]));
  fitted.transform.apply(x.view(), x.view());
  for (int64_t i = 0; i < x.size(); ++i) ASSERT_LT(std::fabs(x.data()[i]), 65504 / 8);
}

TEST_P(Fitting, GivesTheSameBytesOnAnyNumberOfThreads) {
  const auto [name, blocks, method] = GetParam();
  const Mat<float> x = inputs(1, blocks * kIn), weight = normal_matrix(kOut, blocks * kIn, 2);
  const auto run = [&, m = method](int threads) {
    set_num_threads(threads);
    return fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {.method = m});
  };
  const int before = num_threads();
  const Fitted one = run(1), three = run(3);
  set_num_threads(before);
  EXPECT_TRUE(are_equal(one.transform.left, three.transform.left));
  EXPECT_TRUE(are_equal(one.transform.right, three.transform.right));
  EXPECT_EQ(one.transform.clip, three.transform.clip);
  EXPECT_EQ(one.error, three.error);
}

TEST(Fit, APairInClosedFormBeatsHadamardMatricesWhichBeatNone) {
  const Mat<float> x = inputs(1), weight = normal_matrix(kOut, kIn, 2);
  const auto error = [&](Method method) {
    return fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {.method = method}).error;
  };
  EXPECT_LT(error(Method::kClosed), 0.8 * error(Method::kHadamard));
  EXPECT_LT(error(Method::kHadamard), 0.8 * error(Method::kNone));
  EXPECT_EQ(error(Method::kAuto), error(Method::kClosed));
}

TEST(Fit, TrainingMakesTheBestPairBetter) {
  const Mat<float> x = inputs(1), weight = normal_matrix(kOut, kIn, 2);
  const auto run = [&](const FlatquantOptions& options) {
    return fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, options);
  };
  const Fitted trained = run({.method = Method::kTrain});
  EXPECT_EQ(trained.kind, "closed, trained");
  EXPECT_LT(trained.error, 0.98 * run({.method = Method::kAuto}).error);
  const Fitted whole = run({.method = Method::kTrain, .clip = false});
  EXPECT_EQ(whole.transform.clip, 1);
  EXPECT_LT(whole.error, run({.method = Method::kAuto, .clip = false}).error);
}

// What training knows of few tokens is not kept where others say that it holds for these alone.
TEST(Fit, IsNeverWorseForTraining) {
  for (const int64_t tokens : {1, 8, 40}) {
    const Mat<float> x = normal_matrix(tokens, kIn, 3), weight = normal_matrix(kOut, kIn, 2);
    const auto error = [&](Method method) {
      return fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {.method = method}).error;
    };
    EXPECT_LE(error(Method::kTrain), error(Method::kAuto)) << tokens;
  }
}

// Errors are judged on tokens that nothing was fitted to, so that what looks good on the fitted
// ones alone is not kept: with few tokens a closed form knows these only.
TEST(Fit, WhereTokensAreFewTheClosedFormIsNotKept) {
  const Mat<float> x = normal_matrix(8, kIn, 1), weight = normal_matrix(kOut, kIn, 2);
  const Fitted fitted = fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {});
  EXPECT_NE(fitted.kind, "closed");
}

TEST(Fit, ClipsWhatRarelyIsLargeAndNothingWhereItMayNot) {
  const Mat<float> x = normal_matrix(kTokens, kIn, 1), weight = normal_matrix(kOut, kIn, 2);
  const Fitted clipped = fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {});
  EXPECT_LT(clipped.transform.clip, 0.95f);
  EXPECT_GE(clipped.transform.clip, 0.5f);
  const Fitted whole = fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {.clip = false});
  EXPECT_EQ(whole.transform.clip, 1);
  EXPECT_LT(clipped.error, whole.error);
}

TEST(Fit, ATokenCountsForNoMoreWhenItIsLarge) {
  Mat<float> x = inputs(1);
  const Mat<float> weight = normal_matrix(kOut, kIn, 2);
  const Fitted before = fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {});
  for (int64_t t = 0; t < kTokens; t += 11)
    for (int64_t j = 0; j < kIn; ++j) x(t, j) *= 16;  // exact, and still far inside f16's range
  const Fitted after = fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {});
  EXPECT_TRUE(are_equal(before.transform.left, after.transform.left));
  EXPECT_TRUE(are_equal(before.transform.right, after.transform.right));
  EXPECT_EQ(before.transform.clip, after.transform.clip);
}

TEST(Fit, InputsOfZerosGetAPairThatCanBeInverted) {
  Mat<float> x(kTokens, kIn);
  x.fill_zero();
  for (const Method method : {Method::kClosed, Method::kAuto, Method::kTrain}) {
    const Mat<float> weight = normal_matrix(kOut, kIn, 2);
    const Fitted fitted =
        fit(rows_of(x), weight.view(), kLeft, kRight, DType::kBF16, {.method = method});
    Mat<float> folded = weight.clone();
    fold(fitted.transform, folded.view());
    for (int64_t i = 0; i < folded.size(); ++i) ASSERT_TRUE(std::isfinite(folded.data()[i]));
  }
}

TEST(InputRowsOfTokens, AreSpreadOverAllTokensHoweverThoseCome) {
  const int64_t tokens = 3 * InputRows::kMaxRows + 1;
  Mat<float> x(tokens, 2);
  for (int64_t i = 0; i < tokens; ++i) {
    x(i, 0) = 3 * static_cast<float>(i + 1);
    x(i, 1) = 4 * static_cast<float>(i + 1);
  }
  InputRows whole(tokens, 2), parts(tokens, 2);
  whole.observe(x.view());
  for (int64_t begin = 0; begin < tokens; begin += 1000)
    parts.observe(std::as_const(x).view().slice_rows(begin, std::min(begin + 1000, tokens)));
  ASSERT_EQ(whole.rows().rows, InputRows::kMaxRows);
  ASSERT_EQ(parts.rows().rows, InputRows::kMaxRows);
  EXPECT_EQ(whole.largest_norm(), 5.0f * static_cast<float>(tokens));
  for (int64_t i = 0; i < InputRows::kMaxRows; ++i) {
    EXPECT_EQ(whole.rows().row(i)[0], 0.6f);
    EXPECT_EQ(whole.rows().row(i)[0], parts.rows().row(i)[0]);
  }
}

}  // namespace
}  // namespace laos::flatquant
