#include "linalg/gemm.h"

#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <random>
#include <tuple>
#include <vector>

#include "core/dtype.h"
#include "core/isa.h"
#include "core/threads.h"
#include "linalg/int_gemm.h"
#include "linalg/kernels/bf16.h"
#include "linalg/kernels/bf16_scalar.h"
#include "linalg/onednn.h"
#include "linalg/polar.h"
#include "support/random.h"

namespace laos::linalg {
namespace {

using test::normal_matrix;
Mat<double> widened(const Mat<float>& matrix) {
  Mat<double> result(matrix.rows(), matrix.cols());
  std::copy_n(matrix.data(), matrix.size(), result.data());
  return result;
}

struct GemmCase {
  Trans a, b;
  int64_t m, n, k;
};
class Gemm : public testing::TestWithParam<GemmCase> {};
INSTANTIATE_TEST_SUITE_P(ShapesAndTransposes, Gemm,
                         testing::Values(
                             GemmCase{Trans::kNo, Trans::kNo, 1, 1, 1},
                             GemmCase{Trans::kNo, Trans::kYes, 61, 130, 77},
                             GemmCase{Trans::kYes, Trans::kNo, 131, 65, 300},
                             GemmCase{Trans::kYes, Trans::kYes, 33, 47, 20},
                             GemmCase{Trans::kNo, Trans::kYes, 700, 140, 64},
                             GemmCase{Trans::kNo, Trans::kNo, 129, 2100, 33},
                             // Operands with rows 4 KB apart, which are copied.
                             GemmCase{Trans::kNo, Trans::kNo, 40, 1024, 600},
                             GemmCase{Trans::kYes, Trans::kNo, 1024, 40, 600},
                             GemmCase{Trans::kYes, Trans::kYes, 1024, 33, 520},
                             GemmCase{Trans::kYes, Trans::kNo, 1024, 1024, 20},
                             // Of which some tiles are, some are not.
                             GemmCase{Trans::kYes, Trans::kNo, 600, 2048, 24},
                             // Of several strips, panels and parts of the depth in bf16.
                             GemmCase{Trans::kNo, Trans::kNo, 1030, 516, 520},
                             GemmCase{Trans::kNo, Trans::kYes, 1030, 516, 520},
                             GemmCase{Trans::kYes, Trans::kNo, 1030, 516, 520}),
                         [](const auto& p) {
                           const auto of = [](Trans trans) {
                             return trans == Trans::kYes ? "T" : "N";
                           };
                           return std::to_string(p.param.m) + "x" + std::to_string(p.param.n) +
                                  "x" + std::to_string(p.param.k) + of(p.param.a) + of(p.param.b);
                         });

TEST_P(Gemm, MatchesTheDefinitionWithinRounding) {
  const GemmCase& c = GetParam();
  const Mat<float> a = c.a == Trans::kNo ? normal_matrix(c.m, c.k, 1) : normal_matrix(c.k, c.m, 1);
  const Mat<float> b = c.b == Trans::kNo ? normal_matrix(c.k, c.n, 2) : normal_matrix(c.n, c.k, 2);
  Mat<float> y = normal_matrix(c.m, c.n, 3);
  const Mat<double> a64 = widened(a), b64 = widened(b);
  Mat<double> y64 = widened(y);
  gemm(c.a, c.b, 0.5f, a.view(), b.view(), 2.0f, y.view());
  gemm(c.a, c.b, 0.5, a64.view(), b64.view(), 2.0, y64.view());
  // Rounding of a sum of k products of unit normals: |error| <= k eps sum|ab| <= k eps (k + 2),
  // with sum|ab| about 0.64 k.
  const double tolerance =
      FLT_EPSILON * static_cast<double>(c.k + 2) * static_cast<double>(c.k + 2);
  for (int64_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y.data()[i], y64.data()[i], tolerance);
}

TEST_P(Gemm, GivesTheSameBitsOnAnyNumberOfThreads) {
  const GemmCase& c = GetParam();
  const Mat<float> a = c.a == Trans::kNo ? normal_matrix(c.m, c.k, 1) : normal_matrix(c.k, c.m, 1);
  const Mat<float> b = c.b == Trans::kNo ? normal_matrix(c.k, c.n, 2) : normal_matrix(c.n, c.k, 2);
  const int before = num_threads();
  Mat<float> one(c.m, c.n), three(c.m, c.n);
  set_num_threads(1);
  gemm(c.a, c.b, 1.0f, a.view(), b.view(), 0.0f, one.view());
  set_num_threads(3);
  gemm(c.a, c.b, 1.0f, a.view(), b.view(), 0.0f, three.view());
  set_num_threads(before);
  EXPECT_EQ(std::memcmp(one.data(), three.data(), static_cast<size_t>(one.size()) * sizeof(float)),
            0);
}

Mat<uint16_t> narrowed(const Mat<float>& matrix) {
  Mat<uint16_t> result(matrix.rows(), matrix.cols());
  to_bf16(matrix.view(), result.view());
  return result;
}

Mat<double> widened(const Mat<uint16_t>& matrix) {
  Mat<double> result(matrix.rows(), matrix.cols());
  for (int64_t i = 0; i < matrix.size(); ++i) result.data()[i] = bf16_to_float(matrix.data()[i]);
  return result;
}

TEST_P(Gemm, Bf16OperandsAreMultipliedExactlyAndSummedInF32) {
  const GemmCase& c = GetParam();
  const Mat<uint16_t> a =
      narrowed(c.a == Trans::kNo ? normal_matrix(c.m, c.k, 1) : normal_matrix(c.k, c.m, 1));
  const Mat<uint16_t> b =
      narrowed(c.b == Trans::kNo ? normal_matrix(c.k, c.n, 2) : normal_matrix(c.n, c.k, 2));
  const Mat<double> a64 = widened(a), b64 = widened(b);
  for (const bool accumulate : {false, true}) {
    Mat<float> y = normal_matrix(c.m, c.n, 3);
    Mat<double> y64 = widened(y);
    gemm_bf16(c.a, c.b, a.view(), b.view(), accumulate, y.view());
    gemm(c.a, c.b, 1.0, a64.view(), b64.view(), accumulate ? 1.0 : 0.0, y64.view());
    // As for f32: products of two bfloat16 are exact in f32. Hardware may round each step toward
    // zero, twice the error of rounding to nearest.
    const double tolerance =
        2 * FLT_EPSILON * static_cast<double>(c.k + 2) * static_cast<double>(c.k + 2);
    for (int64_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y.data()[i], y64.data()[i], tolerance);
  }
}

// Of matrices that others hold, between columns that stay as they are.
TEST(GemmInBf16, TakesOperandsWithGapsBetweenTheirRows) {
  constexpr int64_t kM = 300, kN = 310, kK = 800, kGap = 24;
  for (const auto& [trans_a, trans_b] :
       {std::pair(Trans::kNo, Trans::kNo), std::pair(Trans::kNo, Trans::kYes),
        std::pair(Trans::kYes, Trans::kNo)}) {
    const bool ta = trans_a == Trans::kYes, tb = trans_b == Trans::kYes;
    const Mat<uint16_t> a = narrowed(normal_matrix(ta ? kK : kM, (ta ? kM : kK) + kGap, 1)),
                        b = narrowed(normal_matrix(tb ? kN : kK, (tb ? kK : kN) + kGap, 2));
    const MatView<const uint16_t> own_a = a.view().slice_cols(8, a.cols() - kGap + 8),
                                  own_b = b.view().slice_cols(16, b.cols() - kGap + 16);
    for (const bool accumulate : {false, true}) {
      Mat<float> c = normal_matrix(kM, kN + kGap, 3);
      const Mat<float> before = c.clone();
      const MatView<float> own_c = c.view().slice_cols(4, kN + 4);
      gemm_bf16_one_thread(trans_a, trans_b, own_a, own_b, accumulate, own_c);
      for (int64_t i = 0; i < kM; i += 7)
        for (int64_t j = 0; j < c.cols(); ++j) {
          if (j < 4 || j >= kN + 4) {
            ASSERT_EQ(c(i, j), before(i, j));
            continue;
          }
          double sum = accumulate ? before(i, j) : 0;
          for (int64_t k = 0; k < kK; ++k)
            sum += static_cast<double>(bf16_to_float(ta ? own_a.row(k)[i] : own_a.row(i)[k])) *
                   bf16_to_float(tb ? own_b.row(j - 4)[k] : own_b.row(k)[j - 4]);
          ASSERT_NEAR(c(i, j), sum, 2 * FLT_EPSILON * (kK + 2) * (kK + 2));
        }
    }
  }
}

TEST_P(Gemm, InBf16GivesTheSameBitsOnAnyNumberOfThreads) {
  const GemmCase& c = GetParam();
  const Mat<uint16_t> a =
      narrowed(c.a == Trans::kNo ? normal_matrix(c.m, c.k, 1) : normal_matrix(c.k, c.m, 1));
  const Mat<uint16_t> b =
      narrowed(c.b == Trans::kNo ? normal_matrix(c.k, c.n, 2) : normal_matrix(c.n, c.k, 2));
  const int before = num_threads();
  Mat<float> one(c.m, c.n), three(c.m, c.n);
  set_num_threads(1);
  gemm_bf16(c.a, c.b, a.view(), b.view(), false, one.view());
  set_num_threads(3);
  gemm_bf16(c.a, c.b, a.view(), b.view(), false, three.view());
  set_num_threads(before);
  EXPECT_EQ(std::memcmp(one.data(), three.data(), static_cast<size_t>(one.size()) * sizeof(float)),
            0);
}

class ToBf16 : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { use_isa(GetParam()); }
  void TearDown() override { restore_isa(); }
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, ToBf16, testing::ValuesIn(supported_isas()),
                         [](const auto& p) { return p.param.name; });

TEST_P(ToBf16, GivesTheBitsOfTheDefinitionAtEveryTailLengthAndForSpecialValues) {
  Mat<float> x = normal_matrix(1, 67, 7);
  // Ties to even both ways, the largest float (rounds to infinity), infinities, NaN, zeros,
  // a subnormal.
  const std::vector<float> special = {
      1.00390625f, 1.01171875f, FLT_MAX, INFINITY, -INFINITY,
      NAN,         0.0f,        -0.0f,   1e-41f,   std::bit_cast<float>(0x7fffffffu)};
  std::copy(special.begin(), special.end(), x.data());
  for (int64_t n = 1; n <= x.cols(); ++n) {
    std::vector<uint16_t> y(static_cast<size_t>(n)), expected(y);
    kernels::to_bf16(x.data(), y.data(), n);
    kernels::scalar::to_bf16(x.data(), expected.data(), n);
    ASSERT_EQ(y, expected) << n;
  }
}

TEST(Gram, IsTheFullProductAndSymmetricAndAdds) {
  for (const int64_t n : {70, 600, 2100, 2048}) {
    const Mat<float> a = normal_matrix(70, n, 5);
    Mat<float> half(n, n), full(n, n);
    gram(a.view(), half.view());
    gram(a.view(), half.view(), 0.5f);
    gemm(Trans::kYes, Trans::kNo, 1.5f, a.view(), a.view(), 0.0f, full.view());
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        ASSERT_NEAR(half(i, j), full(i, j), 2 * 70 * 70 * FLT_EPSILON) << n;
        ASSERT_EQ(half(i, j), half(j, i)) << n;
      }
  }
}

TEST(Gram, InBf16IsTheProductOfTheRoundedRowsAndSymmetricAndAdds) {
  for (const int64_t n : {70, 600, 2100}) {
    const Mat<uint16_t> a = narrowed(normal_matrix(70, n, 5));
    const Mat<double> a64 = widened(a);
    Mat<float> half(n, n);
    Mat<double> full(n, n);
    gram_bf16(a.view(), false, half.view());
    gram_bf16(a.view(), true, half.view());
    gemm(Trans::kYes, Trans::kNo, 2.0, a64.view(), a64.view(), 0.0, full.view());
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        ASSERT_NEAR(half(i, j), full(i, j), 4 * 72 * 72 * FLT_EPSILON) << n;
        ASSERT_EQ(half(i, j), half(j, i)) << n;
      }
  }
}

TEST(NewtonSchulzStep, SquaresTheDefectAsFarAsItsDtypeGoes) {
  constexpr int64_t kN = 200;
  const Mat<float> q = polar_factor(normal_matrix(kN, kN, 1).view()).factor;
  NewtonSchulzRoom room;
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBf16}) {
    Mat<float> stretched = q.clone();
    for (int64_t i = 0; i < stretched.size(); ++i) stretched.data()[i] *= 1.05f;
    // 1.05 becomes 1.05 - 1.05 * (1.05^2 - 1) / 2 = 0.9962, whose square is 0.0076 from 1.
    newton_schulz_step(stretched, compute, room);
    const double first = orthogonality_error(stretched.view());
    newton_schulz_step(stretched, compute, room);
    newton_schulz_step(stretched, compute, room);
    const double last = orthogonality_error(stretched.view());
    if (compute == ComputeType::kF32) {
      EXPECT_NEAR(first, 0.0076, 1e-4);
      EXPECT_LT(last, 1e-5);
    } else {
      // Steps see q rounded, off by up to 2^-8 of its values, and correct what they see until it
      // rounds otherwise. In products of columns such errors add up as random ones do, to 2^-8 /
      // sqrt(200); ten times that no entry passes.
      EXPECT_NEAR(first, 0.0076, 2e-3);
      EXPECT_LT(last, 10 * 0.004 / std::sqrt(200.0));
    }
  }
}

class S8WeightRange : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(FourAndEightBits, S8WeightRange, testing::Values(8, 128),
                         testing::PrintToStringParamName());

// 128 makes every 16-bit pair sum saturate where the kernel has no VNNI.
TEST_P(S8WeightRange, ProductsAreExact) {
  const int limit = GetParam();
  std::mt19937 generator(9);
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {5, 70, 77}, {64, 33, 1025}, {600, 24, 70}}) {
    for (const bool extreme : {false, true}) {
      Mat<int8_t> x(m, k), w(n, k);
      const auto draw = [&](int bound) {
        if (extreme) return static_cast<int8_t>(generator() % 2 ? -bound : bound - 1);
        return static_cast<int8_t>(
            static_cast<int>(generator() % static_cast<unsigned>(2 * bound)) - bound);
      };
      for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = draw(128);
      for (int64_t i = 0; i < w.size(); ++i) w.data()[i] = draw(limit);
      Mat<int32_t> y(m, n);
      S8Weight(w.view()).multiply(x.view(), y.view());
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          int32_t expected = 0;
          for (int64_t p = 0; p < k; ++p) expected += x(i, p) * w(j, p);
          ASSERT_EQ(y(i, j), expected) << i << "," << j << " k " << k;
        }
      }
    }
  }
}

TEST(PolarFactor, OfAnOrthogonalTimesAPositiveMatrixIsTheOrthogonalOne) {
  constexpr int64_t kN = 48;
  // q from the polar factor of a random matrix; c = q * (g gᵀ / n + I): polar factor q exactly.
  const Mat<float> q = polar_factor(normal_matrix(kN, kN, 1).view(), 1e-7).factor;
  const Mat<float> g = normal_matrix(kN, kN, 2);
  Mat<float> positive(kN, kN), c(kN, kN);
  gemm(Trans::kNo, Trans::kYes, 1.0f / kN, g.view(), g.view(), 0.0f, positive.view());
  for (int64_t i = 0; i < kN; ++i) positive(i, i) += 1.0f;
  gemm(Trans::kNo, Trans::kNo, 1.0f, q.view(), positive.view(), 0.0f, c.view());
  const PolarResult result = polar_factor(c.view(), 1e-7);
  EXPECT_LT(result.orthogonality, 1e-5);
  // The positive part's condition is below 6: f32 noise of the product, a few hundred eps, carries
  // over.
  for (int64_t i = 0; i < kN * kN; ++i) ASSERT_NEAR(result.factor.data()[i], q.data()[i], 1e-4);
}

TEST(PolarFactor, IsOrthogonalAndNearIdentityWhereTheMatrixSaysNothing) {
  constexpr int64_t kN = 64;
  const Mat<float> a = normal_matrix(5, kN, 3);  // rank 5
  Mat<float> c(kN, kN);
  gram(a.view(), c.view());
  const PolarResult result = polar_factor(c.view());
  EXPECT_LT(result.orthogonality, 1e-5);
  // c is positive semi-definite, so c + ridge I has polar factor I.
  for (int64_t i = 0; i < kN; ++i)
    for (int64_t j = 0; j < kN; ++j) ASSERT_NEAR(result.factor(i, j), i == j ? 1.0 : 0.0, 1e-3);
}

TEST(PolarFactor, OfZeroIsTheIdentityAndRefusesNaN) {
  Mat<float> c(4, 4);
  c.fill_zero();
  const PolarResult result = polar_factor(c.view());
  for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(result.factor(i, i), 1.0, 1e-6);
  c(1, 2) = NAN;
  EXPECT_THROW(polar_factor(c.view()), Error);
}

TEST(PolarFactor, ConvergesForConditionNumbersUpTo1e8) {
  constexpr int64_t kN = 96;
  const Mat<float> u = polar_factor(normal_matrix(kN, kN, 4).view(), 1e-7).factor;
  const Mat<float> v = polar_factor(normal_matrix(kN, kN, 5).view(), 1e-7).factor;
  Mat<float> scaled = u.clone(), c(kN, kN);
  for (int64_t i = 0; i < kN; ++i)
    for (int64_t j = 0; j < kN; ++j)
      scaled(i, j) *= static_cast<float>(std::pow(10.0, -8.0 * static_cast<double>(j) / (kN - 1)));
  gemm(Trans::kNo, Trans::kYes, 1.0f, scaled.view(), v.view(), 0.0f, c.view());
  const PolarResult result = polar_factor(c.view());
  EXPECT_LT(result.orthogonality, 1e-5);
  EXPECT_LT(result.iterations, 12);
}

}  // namespace
}  // namespace laos::linalg
