#include "flatquant/small_matrix.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <limits>
#include <utility>

#include "support/random.h"

namespace laos::flatquant {
namespace {

using test::normal_matrix;

// Σ over k of a(i, k) b(k, j), in f64.
template <class A, class B>
Mat<double> times(const A& a, const B& b) {
  Mat<double> c(a.rows(), b.cols());
  for (int64_t i = 0; i < c.rows(); ++i)
    for (int64_t j = 0; j < c.cols(); ++j) {
      c(i, j) = 0;
      for (int64_t k = 0; k < a.cols(); ++k) c(i, j) += static_cast<double>(a(i, k)) * b(k, j);
    }
  return c;
}

template <class A>
Mat<double> transposed(const A& a) {
  Mat<double> t(a.cols(), a.rows());
  for (int64_t i = 0; i < a.rows(); ++i)
    for (int64_t j = 0; j < a.cols(); ++j) t(j, i) = a(i, j);
  return t;
}

// Gᵀ G of a random G [2 n, n], whose condition is about 30.
Mat<float> moment(int64_t n, uint32_t seed) {
  const Mat<float> g = normal_matrix(2 * n, n, seed);
  const Mat<double> product = times(transposed(g), g);
  Mat<float> m(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) m(i, j) = static_cast<float>(product(i, j));
  return m;
}

TEST(Inverse, TimesTheMatrixIsTheIdentity) {
  const int64_t n = 37;
  Mat<float> m = normal_matrix(n, n, 3);
  m(0, 0) = 0;  // so that rows change places
  const auto inverted = inverse(m.view());
  ASSERT_TRUE(inverted);
  const Mat<double> product = times(*inverted, m);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double magnitude = 0;
      for (int64_t k = 0; k < n; ++k) magnitude += std::fabs((*inverted)(i, k) * m(k, j));
      // n steps, each of a rounding; the growth of elimination with exchanges is far below n.
      EXPECT_NEAR(product(i, j), i == j ? 1 : 0,
                  static_cast<double>(n * n) * DBL_EPSILON * magnitude);
    }
}

TEST(Inverse, OfASingularMatrixThereIsNone) {
  Mat<float> m(2, 2);
  m(0, 0) = 1;
  m(0, 1) = 2;
  m(1, 0) = 2;
  m(1, 1) = 4;
  EXPECT_FALSE(inverse(m.view()));
  m(1, 1) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(inverse(m.view()));
}

// S = A⁻¹ # B is the positive definite matrix with S A S = B.
TEST(MeanFactor, ItsSquareIsTheGeometricMeanButForItsSize) {
  const int64_t n = 24;
  const Mat<float> a = moment(n, 1), b = moment(n, 2);
  const auto factor = mean_factor(a.view(), b.view(), 0);
  ASSERT_TRUE(factor);
  double norm = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      norm += std::pow((*factor)(i, j), 2);
      if (j > i) {
        EXPECT_EQ((*factor)(i, j), 0);
      }
    }
  EXPECT_NEAR(norm, static_cast<double>(n), 1e-5 * static_cast<double>(n));
  const Mat<double> s = times(*factor, transposed(*factor));
  const Mat<double> product = times(times(s, a), s);
  // S is known but for a factor; the traces give it.
  double trace_b = 0, trace = 0;
  for (int64_t i = 0; i < n; ++i) {
    trace_b += b(i, i);
    trace += product(i, i);
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      // The polar factor is f32's, the rest f64: 1e-7, times the conditions of a, of b and of their
      // factors' product, some 30 each.
      EXPECT_NEAR(product(i, j) * trace_b / trace, b(i, j), 1e-3 * trace_b / n);
}

TEST(MeanFactor, NothingNearbyHasASmallerProductOfTraces) {
  const int64_t n = 12;
  const Mat<float> a = moment(n, 5), b = moment(n, 6);
  const auto best = mean_factor(a.view(), b.view(), 0);
  ASSERT_TRUE(best);
  const auto cost = [&](const Mat<float>& p) {
    const auto inverted = inverse(p.view());
    const Mat<double> inputs = times(times(transposed(p), a), p);
    const Mat<double> weights = times(times(*inverted, b), transposed(*inverted));
    double input_trace = 0, weight_trace = 0;
    for (int64_t i = 0; i < n; ++i) {
      input_trace += inputs(i, i);
      weight_trace += weights(i, i);
    }
    return input_trace * weight_trace;
  };
  const double least = cost(*best);
  for (uint32_t seed = 10; seed < 40; ++seed) {
    const Mat<float> step = normal_matrix(n, n, seed, 0.01f);
    Mat<float> other = best->clone();
    for (int64_t i = 0; i < n * n; ++i) other.data()[i] += step.data()[i];
    EXPECT_GT(cost(other), least);
  }
}

TEST(MeanFactor, DampingBoundsTheCondition) {
  const int64_t n = 16;
  Mat<float> a = moment(n, 7);
  const Mat<float> b = moment(n, 8);
  for (int64_t j = 0; j < n; ++j) a(0, j) = a(j, 0) = 0;  // an input that is always zero
  const auto factor = mean_factor(a.view(), b.view(), 0.01);
  ASSERT_TRUE(factor);
  // ‖P‖ ‖P⁻¹‖ in the Frobenius norm. Each moment's condition is n / 0.01 at most, that of the mean
  // the root of both, and that of its factor the root of that; the norms are n times as large.
  const auto inverted = inverse(factor->view());
  double norm = 0, inverse_norm = 0;
  for (int64_t i = 0; i < n * n; ++i) {
    norm += std::pow(factor->data()[i], 2);
    inverse_norm += std::pow(inverted->data()[i], 2);
  }
  EXPECT_LT(std::sqrt(norm * inverse_norm), n * std::sqrt((n + 0.01) / 0.01));
}

TEST(MeanFactor, OfNothingButZerosThereIsNone) {
  Mat<float> zeros(4, 4);
  zeros.fill_zero();
  EXPECT_FALSE(mean_factor(zeros.view(), moment(4, 1).view(), 0.01));
  EXPECT_FALSE(mean_factor(moment(4, 1).view(), zeros.view(), 0.01));
}

}  // namespace
}  // namespace laos::flatquant
