#include "quant/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "support/random.h"

namespace laos::quant {
namespace {

using test::normal_matrix;
using MatF64 = std::vector<std::vector<double>>;

// [tokens, n] inputs as a network has them: a few directions carry most of the energy and channels
// differ in size.
Mat<float> correlated_inputs(int64_t tokens, int64_t n, uint32_t seed) {
  Mat<float> x = normal_matrix(tokens, n, seed);
  const int64_t rank = std::max<int64_t>(1, n / 6);
  const Mat<float> common = normal_matrix(tokens, rank, seed + 1);
  const Mat<float> directions = normal_matrix(rank, n, seed + 2);
  linalg::gemm(linalg::Trans::kNo, linalg::Trans::kNo, 1, common.view(), directions.view(), 0.3f,
               x.view());
  const Mat<float> log_size = normal_matrix(1, n, seed + 3);
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t j = 0; j < n; ++j) x(i, j) *= std::exp(0.5f * log_size(0, j));
  return x;
}

Mat<float> gram(const Mat<float>& x) {
  Mat<float> result(x.cols(), x.cols());
  linalg::gram(x.view(), result.view());
  return result;
}

Mat<float> identity(int64_t n) {
  Mat<float> result(n, n);
  result.fill_zero();
  for (int64_t i = 0; i < n; ++i) result(i, i) = 1;
  return result;
}

// Gauss-Jordan with row pivots.
MatF64 inverse(MatF64 a) {
  const size_t n = a.size();
  MatF64 result(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) result[i][i] = 1;
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t i = k; i < n; ++i)
      if (std::fabs(a[i][k]) > std::fabs(a[pivot][k])) pivot = i;
    std::swap(a[k], a[pivot]);
    std::swap(result[k], result[pivot]);
    const double scale = 1 / a[k][k];
    for (size_t j = 0; j < n; ++j) a[k][j] *= scale, result[k][j] *= scale;
    for (size_t i = 0; i < n; ++i) {
      if (i == k) continue;
      const double factor = a[i][k];
      for (size_t j = 0; j < n; ++j)
        a[i][j] -= factor * a[k][j], result[i][j] -= factor * result[k][j];
    }
  }
  return result;
}

double mean_diagonal(const Mat<float>& hessian) {
  double sum = 0;
  for (int64_t i = 0; i < hessian.rows(); ++i) sum += hessian(i, i);
  return sum / static_cast<double>(hessian.rows());
}

float scale_at(const IntWeight& weight, int64_t i, int64_t j) {
  const auto num_groups = static_cast<int64_t>(weight.scale.size()) / weight.q.rows();
  return weight.scale[static_cast<size_t>(i * num_groups + j / (weight.q.cols() / num_groups))];
}

// tr((W - Ŵ) H (W - Ŵ)ᵀ).
double hessian_error(const Mat<float>& weight, const IntWeight& quantized, const Mat<float>& h) {
  const Mat<float> real = dequantize(quantized);
  double total = 0;
  for (int64_t i = 0; i < weight.rows(); ++i)
    for (int64_t j = 0; j < h.rows(); ++j)
      for (int64_t k = 0; k < h.rows(); ++k)
        total += (static_cast<double>(weight(i, j)) - real(i, j)) * h(j, k) *
                 (static_cast<double>(weight(i, k)) - real(i, k));
  return total;
}

// The definition: optimal brain surgery, one column at a time, f64. The column takes its code; all
// columns not yet quantized move by -error / [H_F⁻¹]_jj * [H_F⁻¹]_:j, H_F the damped Hessian of
// what is left, inverted anew. It goes on from the code under test, so that one tie does not end
// the comparison. Counts the ties.
int expect_optimal_brain_surgery(const Mat<float>& weight, const Mat<float>& hessian,
                                 const IntWeight& actual, const GptqOptions& options) {
  const auto n = static_cast<size_t>(hessian.rows());
  std::vector<size_t> left(n);
  std::iota(left.begin(), left.end(), size_t{0});
  const auto h = [&](size_t i, size_t j) {
    return hessian(static_cast<int64_t>(i), static_cast<int64_t>(j));
  };
  if (options.act_order)
    std::stable_sort(left.begin(), left.end(),
                     [&](size_t a, size_t b) { return h(a, a) > h(b, b); });
  const double damping = options.damp * mean_diagonal(hessian);
  const double q_max = actual.spec.q_max();
  MatF64 w(static_cast<size_t>(weight.rows()), std::vector<double>(n));
  for (size_t i = 0; i < w.size(); ++i)
    for (size_t j = 0; j < n; ++j)
      w[i][j] = weight(static_cast<int64_t>(i), static_cast<int64_t>(j));

  int ties = 0;
  for (; !left.empty(); left.erase(left.begin())) {
    MatF64 rest(left.size(), std::vector<double>(left.size()));
    for (size_t a = 0; a < left.size(); ++a)
      for (size_t b = 0; b < left.size(); ++b)
        rest[a][b] = h(left[a], left[b]) + (a == b ? damping : 0.0);
    const MatF64 inv = inverse(std::move(rest));
    const size_t column = left[0];
    for (size_t i = 0; i < w.size(); ++i) {
      const auto row = static_cast<int64_t>(i), col = static_cast<int64_t>(column);
      const double scale = scale_at(actual, row, col);
      const double before = w[i][column] / scale;
      const double expected = std::clamp(std::nearbyint(before), -q_max - 1, q_max);
      const double code = actual.q(row, col);
      if (code != expected) {
        ++ties;
        EXPECT_LT(std::fabs(before - 0.5 * (code + expected)), 1e-3)
            << "row " << i << " column " << column;
        EXPECT_EQ(std::fabs(code - expected), 1);
      }
      const double error = w[i][column] - scale * code;
      for (size_t a = 0; a < left.size(); ++a) w[i][left[a]] -= error / inv[0][0] * inv[a][0];
    }
  }
  return ties;
}

struct GptqCase {
  int64_t out, in, tokens, block, group_size;
  int bits;
  bool act_order;
};

class Gptq : public testing::TestWithParam<GptqCase> {};
INSTANTIATE_TEST_SUITE_P(OddShapes, Gptq, testing::ValuesIn([] {
                           std::vector<GptqCase> cases;
                           for (const int bits : {4, 8})
                             for (const bool act_order : {false, true})
                               for (const GptqCase& shape :
                                    std::vector<GptqCase>{{5, 13, 40, 128, 0, 0, false},
                                                          {3, 37, 90, 8, 0, 0, false},
                                                          {19, 24, 60, 5, 8, 0, false},
                                                          {2, 35, 70, 1, 7, 0, false},
                                                          {1, 1, 3, 128, 1, 0, false},
                                                          {2, 140, 300, 48, 70, 0, false}})
                                 cases.push_back({shape.out, shape.in, shape.tokens, shape.block,
                                                  shape.group_size, bits, act_order});
                           return cases;
                         }()),
                         [](const auto& p) {
                           const GptqCase& c = p.param;
                           return std::to_string(c.out) + "x" + std::to_string(c.in) + "Block" +
                                  std::to_string(c.block) + "Group" + std::to_string(c.group_size) +
                                  "Int" + std::to_string(c.bits) + (c.act_order ? "ActOrder" : "");
                         });

TEST_P(Gptq, MatchesOptimalBrainSurgeryColumnByColumn) {
  const GptqCase& c = GetParam();
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    const Mat<float> weight = normal_matrix(c.out, c.in, seed);
    const Mat<float> hessian = gram(correlated_inputs(c.tokens, c.in, 10 * seed));
    const GptqOptions options{.act_order = c.act_order, .block = c.block};
    const IntWeight actual = quantize_gptq(weight.view(), hessian.view(),
                                           {.bits = c.bits, .group_size = c.group_size}, options);
    const int ties = expect_optimal_brain_surgery(weight, hessian, actual, options);
    EXPECT_LE(ties, c.out * c.in / 100);
  }
}

TEST(GptqQuality, LosesLessThanRoundToNearestOnCorrelatedInputs) {
  const Mat<float> weight = normal_matrix(24, 96, 1);
  const Mat<float> hessian = gram(correlated_inputs(400, 96, 2));
  for (const int64_t group_size : {0, 32}) {
    for (const int bits : {4, 8}) {
      const WeightSpec spec{.bits = bits, .group_size = group_size};
      const double nearest = hessian_error(weight, quantize_rtn(weight.view(), spec), hessian);
      const auto error = [&](const GptqOptions& options) {
        return hessian_error(weight, quantize_gptq(weight.view(), hessian.view(), spec, options),
                             hessian);
      };
      EXPECT_LT(error({.act_order = false, .search_scale = false}), 0.5 * nearest);
      EXPECT_LT(error({.act_order = true, .search_scale = false}), 0.5 * nearest);
      EXPECT_LT(error({}), 0.5 * nearest);
    }
  }
}

// The damped Hessian's error, in f64, of one row.
double damped_error(const Mat<float>& weight, const IntWeight& quantized, const Mat<float>& hessian,
                    double damp, int64_t row) {
  const int64_t n = weight.cols();
  double mean = 0;
  for (int64_t j = 0; j < n; ++j) mean += hessian(j, j) / static_cast<double>(n);
  const Mat<float> w_hat = dequantize(quantized);
  double error = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      error += (double{weight(row, i)} - w_hat(row, i)) * (double{weight(row, j)} - w_hat(row, j)) *
               (hessian(i, j) + (i == j ? damp * mean : 0.0));
  return error;
}

// Of normal weights in groups of 32 the largest value is 2.1 deviations away: with 16 codes spread
// over all of it the steps are 7/8 as long, and the rounding error is 0.77 of what it was before
// either range is shrunk.
TEST(GptqQuality, SignedScalesLoseLess) {
  const Mat<float> weight = normal_matrix(40, 128, 1);
  const Mat<float> hessian = gram(correlated_inputs(400, 128, 2));
  for (const int64_t refine : {0, 2}) {
    const auto error = [&](bool signed_scale) {
      const IntWeight solved = quantize_gptq(
          weight.view(), hessian.view(),
          {.bits = 4, .group_size = 32, .signed_scale = signed_scale}, {.refine = refine});
      const auto [low, high] = std::ranges::minmax(solved.scale);
      EXPECT_EQ(low < 0, signed_scale);
      EXPECT_GT(high, 0);
      for (const float scale : solved.scale) EXPECT_EQ(scale, round_to(DType::kBF16, scale));
      return hessian_error(weight, solved, hessian);
    };
    EXPECT_LT(error(true), 0.93 * error(false)) << refine << " rounds of refinement";
  }
}

TEST(GptqRefinement, LowersTheErrorOfEveryRowAndLeavesNoBetterCode) {
  const double damp = 0.01;
  for (const int64_t group_size : {0, 29}) {
    for (const int bits : {4, 8}) {
      const Mat<float> weight = normal_matrix(11, 87, 1);
      const Mat<float> hessian = gram(correlated_inputs(300, 87, 2));
      const WeightSpec spec{.bits = bits,
                            .group_size = group_size,
                            .scale_dtype = DType::kF32,
                            .signed_scale = bits == 4 && group_size == 29};
      const auto solved = [&](int64_t refine) {
        return quantize_gptq(weight.view(), hessian.view(), spec,
                             {.damp = damp, .block = 32, .refine = refine});
      };
      const IntWeight before = solved(0), after = solved(1);
      IntWeight settled = solved(30);
      double total_before = 0, total_after = 0;
      for (int64_t i = 0; i < weight.rows(); ++i) {
        const double error = damped_error(weight, after, hessian, damp, i);
        EXPECT_LE(error, 1.0001 * damped_error(weight, before, hessian, damp, i));
        total_before += damped_error(weight, before, hessian, damp, i);
        total_after += error;
        // Neither a code nor the scale can be moved to the better.
        const double least = damped_error(weight, settled, hessian, damp, i);
        EXPECT_LE(least, 1.0001 * error);
        for (int64_t j = 0; j < weight.cols(); ++j) {
          for (const int step : {-1, 1}) {
            const int code = settled.q(i, j) + step;
            if (code < -spec.q_max() - 1 || code > spec.q_max()) continue;
            settled.q(i, j) = static_cast<int8_t>(code);
            EXPECT_GE(damped_error(weight, settled, hessian, damp, i), 0.9999 * least)
                << "row " << i << ", column " << j;
            settled.q(i, j) = static_cast<int8_t>(code - step);
          }
        }
        for (const float factor : {0.999f, 1.001f}) {
          float& scale = settled.scale[static_cast<size_t>(i) * (settled.scale.size() / 11)];
          const float kept = std::exchange(scale, factor * scale);
          EXPECT_GE(damped_error(weight, settled, hessian, damp, i), least) << "row " << i;
          scale = kept;
        }
      }
      EXPECT_LT(total_after, 0.97 * total_before) << bits << " bits, groups of " << group_size;
    }
  }
}

TEST(GptqRefinement, KeepsScalesInTheirDtypeAndDeadColumnsAtTheNearest) {
  const Mat<float> weight = normal_matrix(5, 40, 1);
  Mat<float> inputs = correlated_inputs(200, 40, 2);
  for (int64_t i = 0; i < inputs.rows(); ++i) inputs(i, 7) = 0;
  const IntWeight solved =
      quantize_gptq(weight.view(), gram(inputs).view(), {.bits = 4}, {.damp = 0, .refine = 3});
  for (int64_t i = 0; i < 5; ++i) {
    const float scale = solved.scale[static_cast<size_t>(i)];
    EXPECT_EQ(scale, round_to(DType::kBF16, scale));
    EXPECT_GT(scale, 0);
    // The scale moved after the code was chosen: nearest but for that.
    EXPECT_NEAR(solved.q(i, 7), std::clamp(weight(i, 7) / scale, -8.0f, 7.0f), 1);
  }
}

TEST(GptqQuality, SearchedScaleLosesLeastOfAllShrunkRanges) {
  const Mat<float> weight = normal_matrix(7, 40, 1);
  const Mat<float> hessian = gram(correlated_inputs(100, 40, 2));
  // What a column's error costs after the columns behind it have made up for it: 1 / [H_F⁻¹]_jj.
  std::vector<double> importance(40);
  for (size_t first = 0; first < 40; ++first) {
    MatF64 rest(40 - first, std::vector<double>(40 - first));
    for (size_t a = 0; a < rest.size(); ++a)
      for (size_t b = 0; b < rest.size(); ++b)
        rest[a][b] = hessian(static_cast<int64_t>(first + a), static_cast<int64_t>(first + b)) +
                     (a == b ? 0.01 * mean_diagonal(hessian) : 0.0);
    importance[first] = 1 / inverse(rest)[0][0];
  }
  for (const bool signed_scale : {false, true}) {
    int shrunk = 0;
    const WeightSpec spec{.bits = 4, .group_size = 20, .signed_scale = signed_scale};
    const IntWeight actual =
        quantize_gptq(weight.view(), hessian.view(), spec, {.act_order = false});
    for (int64_t i = 0; i < 7; ++i) {
      for (int64_t first = 0; first < 40; first += 20) {
        const auto error = [&](float scale) {
          double total = 0;
          for (int64_t j = first; j < first + 20; ++j) {
            const double q = std::clamp(std::nearbyint(weight(i, j) / scale), -8.0f, 7.0f);
            total += importance[static_cast<size_t>(j)] * std::pow(weight(i, j) - scale * q, 2);
          }
          return total;
        };
        float min = 0, max = 0;
        for (int64_t j = first; j < first + 20; ++j)
          min = std::min(min, weight(i, j)), max = std::max(max, weight(i, j));
        const float chosen = scale_at(actual, i, first);
        EXPECT_EQ(chosen, round_to(spec.scale_dtype, chosen));
        for (int percent = 50; percent <= 100; percent += 2) {
          const float shrink = static_cast<float>(percent) / 100;
          const float other = scale_of(shrink * min, shrink * max, spec);
          EXPECT_LE(error(chosen), error(other) * (1 + 1e-4));
          if (signed_scale) {
            EXPECT_LE(error(chosen), error(-other) * (1 + 1e-4));
          }
        }
        shrunk += std::fabs(chosen) < std::fabs(scale_of(min, max, spec));
      }
    }
    EXPECT_GT(shrunk, 3);
  }
}

TEST(GptqQuality, IdentityHessianWithoutSearchRoundsToNearest) {
  const Mat<float> weight = normal_matrix(9, 150, 3);
  const Mat<float> hessian = identity(150);
  for (const int64_t group_size : {0, 50}) {
    for (const int bits : {4, 8}) {
      const WeightSpec spec{.bits = bits, .group_size = group_size};
      const IntWeight actual =
          quantize_gptq(weight.view(), hessian.view(), spec, {.block = 16, .search_scale = false});
      const IntWeight expected = quantize_rtn(weight.view(), spec);
      EXPECT_EQ(actual.scale, expected.scale);
      for (int64_t i = 0; i < weight.size(); ++i)
        ASSERT_EQ(actual.q.data()[i], expected.q.data()[i]);
    }
  }
}

TEST(GptqQuality, DeadColumnsAreRoundedToNearestAndTouchNoOther) {
  const Mat<float> weight = normal_matrix(6, 20, 1);
  Mat<float> x = correlated_inputs(60, 20, 2);
  for (int64_t i = 0; i < 60; ++i) x(i, 3) = x(i, 19) = 0;
  const Mat<float> hessian = gram(x);
  const WeightSpec spec{.bits = 4};
  for (const double damp : {0.0, 0.01}) {
    const GptqOptions options{.damp = damp, .search_scale = false};
    const IntWeight actual = quantize_gptq(weight.view(), hessian.view(), spec, options);
    const IntWeight nearest = quantize_rtn(weight.view(), spec);
    Mat<float> other = weight.clone();
    for (int64_t i = 0; i < 6; ++i) other(i, 3) *= 0.5f;
    const IntWeight moved = quantize_gptq(other.view(), hessian.view(), spec, options);
    for (int64_t i = 0; i < 6; ++i) {
      EXPECT_EQ(actual.q(i, 3), nearest.q(i, 3));
      EXPECT_EQ(actual.q(i, 19), nearest.q(i, 19));
      if (moved.scale[static_cast<size_t>(i)] != actual.scale[static_cast<size_t>(i)]) continue;
      for (int64_t j = 4; j < 20; ++j) EXPECT_EQ(moved.q(i, j), actual.q(i, j));
    }
  }
  Mat<float> no_inputs(20, 20);
  no_inputs.fill_zero();
  const IntWeight actual =
      quantize_gptq(weight.view(), no_inputs.view(), spec, {.search_scale = false});
  const IntWeight nearest = quantize_rtn(weight.view(), spec);
  for (int64_t i = 0; i < weight.size(); ++i) ASSERT_EQ(actual.q.data()[i], nearest.q.data()[i]);
}

TEST(GptqQuality, DeadColumnsBringNoDampingThatWasNotAskedFor) {
  const int64_t in = 60;
  const Mat<float> live_weight = normal_matrix(8, in, 1);
  const Mat<float> live_inputs = correlated_inputs(90, in, 2);
  Mat<float> weight(8, in + 1), inputs(90, in + 1);  // column 0 is dead
  weight.fill_zero();
  inputs.fill_zero();
  for (int64_t j = 0; j < in; ++j) {
    for (int64_t i = 0; i < 8; ++i) weight(i, j + 1) = live_weight(i, j);
    for (int64_t i = 0; i < 90; ++i) inputs(i, j + 1) = live_inputs(i, j);
  }
  const WeightSpec spec{.bits = 8};
  const GptqOptions options{.damp = 0, .search_scale = false};
  const IntWeight expected =
      quantize_gptq(live_weight.view(), gram(live_inputs).view(), spec, options);
  const IntWeight actual =
      quantize_gptq(std::as_const(weight).view(), gram(inputs).view(), spec, options);
  for (int64_t i = 0; i < 8; ++i)
    for (int64_t j = 0; j < in; ++j) EXPECT_EQ(actual.q(i, j + 1), expected.q(i, j));
}

TEST(GptqNumeric, RankDeficientHessiansWorkWithAndWithoutDamping) {
  const Mat<float> weight = normal_matrix(6, 200, 1);
  const Mat<float> hessian = gram(normal_matrix(30, 200, 2));  // rank 30 of 200
  const WeightSpec spec{.bits = 4};
  const double nearest = hessian_error(weight, quantize_rtn(weight.view(), spec), hessian);
  for (const double damp : {0.0, 1e-9, 0.01})
    EXPECT_LT(
        hessian_error(weight, quantize_gptq(weight.view(), hessian.view(), spec, {.damp = damp}),
                      hessian),
        0.5 * nearest);
}

template <class F>
std::string numeric_error(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumeric);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(GptqNumeric, RefusesNanInfinityAndIndefiniteHessians) {
  const Mat<float> weight = normal_matrix(3, 10, 1), good = identity(10);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Mat<float> bad_inputs = identity(10);
    bad_inputs(7, 2) = bad_inputs(2, 7) = value;
    const Mat<float> bad = bad_inputs.clone();
    EXPECT_THAT(numeric_error([&] { quantize_gptq(weight.view(), bad.view(), {}, {}); }),
                testing::HasSubstr("row 2, column 7"));
    for (const bool is_in_hessian : {false, true}) {
      const Mat<float>&cross = is_in_hessian ? good : bad, &hessian = is_in_hessian ? bad : good;
      EXPECT_THAT(numeric_error([&] { refit(weight.view(), cross.view(), hessian.view(), 0.01); }),
                  testing::HasSubstr("row 2, column 7"));
    }
    Mat<float> bad_weight = weight.clone();
    bad_weight(1, 9) = value;
    EXPECT_THAT(numeric_error([&] { quantize_gptq(bad_weight.view(), good.view(), {}, {}); }),
                testing::HasSubstr("row 1, column 9"));
    numeric_error([&] { refit(bad_weight.view(), good.view(), good.view(), 0.01); });
  }
  Mat<float> indefinite = identity(10);
  indefinite(4, 5) = indefinite(5, 4) = 100;
  EXPECT_THAT(numeric_error([&] { quantize_gptq(weight.view(), indefinite.view(), {}, {}); }),
              testing::HasSubstr("not positive semidefinite"));
}

TEST(GptqThreads, SameBytesOnAnyNumberOfThreads) {
  const Mat<float> weight = normal_matrix(150, 300, 1);
  const Mat<float> x = correlated_inputs(400, 300, 2), other = correlated_inputs(400, 300, 7);
  const Mat<float> hessian = gram(x);
  Mat<float> cross(300, 300);
  linalg::gemm(linalg::Trans::kYes, linalg::Trans::kNo, 1, x.view(), other.view(), 0, cross.view());
  const int before = num_threads();
  std::vector<IntWeight> codes;
  std::vector<Mat<float>> refits;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    codes.push_back(
        quantize_gptq(weight.view(), hessian.view(), {.bits = 4, .group_size = 60}, {.block = 64}));
    refits.push_back(refit(weight.view(), std::as_const(cross).view(), hessian.view(), 0.01));
  }
  set_num_threads(before);
  for (const size_t k : {size_t{1}, size_t{2}}) {
    EXPECT_EQ(codes[k].scale, codes[0].scale);
    EXPECT_EQ(std::memcmp(codes[k].q.data(), codes[0].q.data(), 150 * 300), 0);
    EXPECT_EQ(std::memcmp(refits[k].data(), refits[0].data(), 150 * 300 * sizeof(float)), 0);
  }
}

TEST(Refit, GivesTheWeightBackWhereQuantizationChangesNothing) {
  const Mat<float> weight = normal_matrix(4, 150, 1);
  const Mat<float> hessian = gram(correlated_inputs(300, 150, 2));
  const Mat<float> result = refit(weight.view(), hessian.view(), hessian.view(), 0.01);
  for (int64_t i = 0; i < weight.size(); ++i) EXPECT_EQ(result.data()[i], weight.data()[i]);
}

// ‖X Wᵀ - Xq Ŵᵀ‖² in f64.
double lost(const Mat<float>& x, const Mat<float>& xq, const Mat<float>& weight,
            const Mat<float>& candidate) {
  double total = 0;
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t i = 0; i < weight.rows(); ++i) {
      double difference = 0;
      for (int64_t j = 0; j < weight.cols(); ++j)
        difference += static_cast<double>(x(t, j)) * weight(i, j) -
                      static_cast<double>(xq(t, j)) * candidate(i, j);
      total += difference * difference;
    }
  return total;
}

// The normal equations, in f64: (W' (H + λI) - W (crossᵀ + λI)) is 0 to within f32's rounding of
// the products, and the loss on the data is below the weight's own.
TEST(Refit, SolvesTheNormalEquationsAndLowersTheLoss) {
  const int64_t out = 5, in = 300, tokens = 700;
  const Mat<float> weight = normal_matrix(out, in, 1);
  const Mat<float> x = correlated_inputs(tokens, in, 2);
  Mat<float> xq(tokens, in);
  for (int64_t t = 0; t < tokens; ++t) {
    float peak = 0;
    for (int64_t j = 0; j < in; ++j) peak = std::max(peak, std::fabs(x(t, j)));
    for (int64_t j = 0; j < in; ++j) xq(t, j) = std::nearbyint(x(t, j) / peak * 3) * peak / 3;
  }
  const Mat<float> hessian = gram(xq);
  Mat<float> cross(in, in);
  linalg::gemm(linalg::Trans::kYes, linalg::Trans::kNo, 1, std::as_const(xq).view(), x.view(), 0,
               cross.view());
  const double damp = 0.01, lambda = damp * mean_diagonal(hessian);
  const Mat<float> result = refit(weight.view(), std::as_const(cross).view(), hessian.view(), damp);

  for (int64_t i = 0; i < out; ++i) {
    for (int64_t k = 0; k < in; ++k) {
      double residual = lambda * (static_cast<double>(result(i, k)) - weight(i, k));
      double magnitude = std::fabs(lambda * weight(i, k));
      for (int64_t j = 0; j < in; ++j) {
        const double a = static_cast<double>(result(i, j)) * hessian(j, k),
                     b = static_cast<double>(weight(i, j)) * cross(k, j);
        residual += a - b;
        magnitude += std::fabs(a) + std::fabs(b);
      }
      ASSERT_NEAR(residual, 0, std::sqrt(static_cast<double>(in)) * 2 * FLT_EPSILON * magnitude);
    }
  }

  EXPECT_LT(lost(x, xq, weight, result), 0.9 * lost(x, xq, weight, weight));

  const Mat<float> part =
      refit(weight.view(), std::as_const(cross).view(), hessian.view(), damp, 0.25);
  for (int64_t i = 0; i < part.size(); ++i) {
    const float from = weight.data()[i], to = result.data()[i];
    ASSERT_NEAR(part.data()[i], 0.75 * from + 0.25 * to,
                2 * FLT_EPSILON * (std::fabs(from) + std::fabs(to)));
  }

  // The same in the memory of cross.
  const Mat<float> in_place = refit(weight.view(), std::move(cross), hessian.view(), damp);
  EXPECT_EQ(std::memcmp(in_place.data(), result.data(),
                        static_cast<size_t>(result.size()) * sizeof(float)),
            0);
}

// Inputs and what quantizing to few codes makes of them, with their products.
struct Seen {
  Mat<float> x, xq, hessian, cross;
};
// Rows `begin` to `end` of one text.
Seen seen(int64_t begin, int64_t end, int64_t in) {
  const Mat<float> text = correlated_inputs(1000, in, 2);
  const int64_t n = end - begin;
  Seen result{
      .x = Mat<float>(n, in), .xq = Mat<float>(n, in), .hessian = {}, .cross = Mat<float>(in, in)};
  std::copy_n(text.row(begin), result.x.size(), result.x.data());
  fake_quantize_tokens(result.x.view(), {.bits = 3}, result.xq.view());
  result.hessian = gram(result.xq);
  linalg::gemm(linalg::Trans::kYes, linalg::Trans::kNo, 1, std::as_const(result.xq).view(),
               std::as_const(result.x).view(), 0, result.cross.view());
  return result;
}

// Tried one by one: each damping, and shares in steps of 0.02. The choice is the best of them on
// the tokens held back, then moved to what as many tokens more make of it.
TEST(ChooseRefit, IsTheBestOfAllOnTheTokensHeldBack) {
  const int64_t out = 4, in = 60, num_held = 40;
  const Mat<float> weight = normal_matrix(out, in, 1);
  const Seen held = seen(0, num_held, in);
  std::vector<double> shares;
  for (const int64_t tokens : {30, 900}) {
    const Seen fitted = seen(num_held, num_held + tokens, in);
    const auto refitted = [&](double damp, double share) {
      return refit(weight.view(), std::as_const(fitted.cross).view(), fitted.hessian.view(), damp,
                   share);
    };
    constexpr double kStep = 0.02;
    double least = lost(held.x, held.xq, weight, weight), best_damp = 0, best_share = 0;
    for (const double damp : kRefitDamps)
      for (double share = kStep; share < 1 + kStep / 2; share += kStep) {
        const double loss = lost(held.x, held.xq, weight, refitted(damp, std::min(1.0, share)));
        if (loss < least) least = loss, best_damp = damp, best_share = share;
      }
    const Refit chosen = choose_refit(weight.view(), fitted.cross.view(), fitted.hessian.view(),
                                      tokens, held.x.view(), held.xq.view());
    EXPECT_EQ(chosen.damp, best_damp) << tokens;
    const double fewer = static_cast<double>(tokens) / static_cast<double>(tokens + num_held),
                 on_held = 1 / (1 + (1 / chosen.share - 1) / fewer);
    EXPECT_NEAR(on_held, best_share, kStep) << tokens;
    shares.push_back(chosen.share);
  }
  // What few tokens were fitted to holds for others the less.
  EXPECT_LT(shares[0], shares[1]);
}

TEST(ChooseRefit, IsNoneWithoutAGain) {
  const int64_t in = 24;
  const Mat<float> weight = normal_matrix(3, in, 1);
  const Seen held = seen(0, 9, in), fitted = seen(9, 209, in);
  const auto share = [&](MatView<const float> x, MatView<const float> xq) {
    return choose_refit(weight.view(), fitted.cross.view(), fitted.hessian.view(), 200, x, xq)
        .share;
  };
  EXPECT_GT(share(held.x.view(), held.xq.view()), 0);
  EXPECT_EQ(share(held.x.view(), held.x.view()), 0);  // nothing is lost
  EXPECT_EQ(share({held.x.data(), 0, in, in}, {held.x.data(), 0, in, in}), 0);
}

TEST(ChooseRefit, DoesNotDependOnThreads) {
  const Mat<float> weight = normal_matrix(130, 150, 1);
  const Seen held = seen(0, 90, 150), fitted = seen(90, 490, 150);
  const int before = num_threads();
  std::vector<Refit> chosen;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    chosen.push_back(choose_refit(weight.view(), fitted.cross.view(), fitted.hessian.view(), 400,
                                  held.x.view(), held.xq.view()));
  }
  set_num_threads(before);
  EXPECT_GT(chosen[0].share, 0);
  EXPECT_EQ(chosen[0].share, chosen[1].share);
  EXPECT_EQ(chosen[0].damp, chosen[1].damp);
}

}  // namespace
}  // namespace laos::quant
