#include "linalg/kernels/dot.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/isa.h"
#include "core/threads.h"
#include "linalg/kernels/dot_scalar.h"
#include "linalg/row_products.h"

namespace laos::linalg {
namespace {

class Dot : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { use_isa(GetParam()); }
  void TearDown() override { restore_isa(); }
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, Dot, testing::ValuesIn(supported_isas()),
                         [](const auto& p) { return p.param.name; });

Mat<float> normal_matrix(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Mat<float> matrix(rows, cols);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
  return matrix;
}

TEST_P(Dot, OfIntegersIsExactAtEveryTailLength) {
  std::mt19937 generator(1);
  const auto draw = [&](Mat<int8_t>& matrix, bool extreme) {
    for (int64_t i = 0; i < matrix.size(); ++i)
      matrix.data()[i] = extreme ? int8_t{-128} : static_cast<int8_t>(generator());
  };
  for (int64_t k = 1; k <= 70; ++k) {
    // Tiles of 4 x 2, 1 x 4 and what is left of both.
    for (const auto& [m, n] : {std::pair<int64_t, int64_t>{1, 1}, {1, 7}, {4, 3}, {9, 6}}) {
      for (const bool extreme : {false, true}) {
        Mat<int8_t> x(m, k + 3), w(n, k + 1);
        draw(x, extreme);
        draw(w, extreme);
        Mat<int32_t> y(m, n), expected(m, n);
        kernels::dot_s8(x.data(), x.cols(), m, w.data(), w.cols(), n, k, y.data(), n);
        kernels::scalar::dot(x.data(), x.cols(), m, w.data(), w.cols(), n, k, expected.data(), n);
        for (int64_t i = 0; i < y.size(); ++i)
          ASSERT_EQ(y.data()[i], expected.data()[i]) << m << "x" << n << "x" << k << " at " << i;
      }
    }
  }
}

TEST_P(Dot, OfFloatsMatchesTheDefinitionWithinRounding) {
  for (const int64_t k : {1, 7, 8, 31, 64, 257}) {
    for (const auto& [m, n] : {std::pair<int64_t, int64_t>{1, 5}, {4, 3}, {6, 8}}) {
      const Mat<float> x = normal_matrix(m, k, 2), w = normal_matrix(n, k, 3);
      Mat<uint16_t> w16(n, k);
      for (int64_t i = 0; i < w.size(); ++i) w16.data()[i] = float_to_bf16(w.data()[i]);
      Mat<float> y(m, n), y16(m, n);
      kernels::dot_f32(x.data(), k, m, w.data(), k, n, k, y.data(), n);
      kernels::dot_bf16(x.data(), k, m, w16.data(), k, n, k, y16.data(), n);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0, sum16 = 0, magnitude = 0;
          for (int64_t p = 0; p < k; ++p) {
            sum += static_cast<double>(x(i, p)) * w(j, p);
            sum16 += static_cast<double>(x(i, p)) * bf16_to_float(w16(j, p));
            magnitude += std::fabs(static_cast<double>(x(i, p)) * w(j, p));
          }
          const double tolerance = static_cast<double>(k + 1) * FLT_EPSILON * magnitude;
          ASSERT_NEAR(y(i, j), sum, tolerance);
          ASSERT_NEAR(y16(i, j), sum16, 1.01 * tolerance);
        }
      }
    }
  }
}

TEST_P(Dot, WeightedSumMatchesItsDefinition) {
  for (const int64_t cols : {1, 7, 8, 64, 67}) {
    const Mat<float> p = normal_matrix(1, 20, 4), v = normal_matrix(20, cols + 2, 5);
    std::vector<float> y(static_cast<size_t>(cols));
    kernels::weighted_sum(p.data(), v.data(), v.cols(), 20, cols, y.data());
    for (int64_t d = 0; d < cols; ++d) {
      double sum = 0, magnitude = 0;
      for (int64_t j = 0; j < 20; ++j) {
        sum += static_cast<double>(p(0, j)) * v(j, d);
        magnitude += std::fabs(static_cast<double>(p(0, j)) * v(j, d));
      }
      ASSERT_NEAR(y[static_cast<size_t>(d)], sum, 21 * FLT_EPSILON * magnitude);
    }
  }
}

TEST_P(Dot, AddsAMultipleAsItsDefinitionDoesBitForBit) {
  for (const int64_t n : {0, 1, 15, 16, 33, 128}) {
    const Mat<float> x = normal_matrix(1, n + 1, 8), start = normal_matrix(1, n + 1, 9);
    Mat<float> y = start.clone(), expected = start.clone();
    kernels::add_multiple(0.37f, x.data(), y.data(), n);
    kernels::scalar::add_multiple(0.37f, x.data(), expected.data(), n);
    for (int64_t i = 0; i <= n; ++i) ASSERT_EQ(y(0, i), expected(0, i)) << n << ' ' << i;
  }
}

// What generation with and without a cache, alone and in a batch, rests on.
TEST_P(Dot, ARowDoesNotDependOnItsCompanyBitForBit) {
  constexpr int64_t kRows = 11, kOut = 301, kIn = 203;
  const Mat<float> x = normal_matrix(kRows, kIn, 6), w = normal_matrix(kOut, kIn, 7);
  std::vector<std::byte> bf16(static_cast<size_t>(2 * w.size() + 1));
  from_f32(w.data(), w.size(), DType::kBF16, bf16.data() + 1);  // an odd address is read too
  const TensorView views[] = {
      {"f32", DType::kF32, {kOut, kIn}, reinterpret_cast<const std::byte*>(w.data())},
      {"bf16", DType::kBF16, {kOut, kIn}, bf16.data() + 1}};
  for (const TensorView& view : views) {
    const RowWeight weight(view);
    Mat<float> all(kRows, kOut), some(kRows, kOut);
    set_num_threads(1);
    weight.multiply(x.view(), all.view());
    set_num_threads(3);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 3}, {3, 8}, {8, 11}})
      weight.multiply(x.view().slice_rows(begin, end), some.view().slice_rows(begin, end));
    for (int64_t i = 0; i < all.size(); ++i)
      ASSERT_EQ(all.data()[i], some.data()[i]) << view.name << " " << i;
  }
}

}  // namespace
}  // namespace laos::linalg
