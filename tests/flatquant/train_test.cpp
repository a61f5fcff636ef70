#include "flatquant/train.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "quant/int_weight.h"
#include "support/random.h"

namespace laos::flatquant {
namespace {

using linalg::Trans;
using test::normal_matrix;

constexpr int64_t kLeft = 3, kRight = 4, kIn = kLeft * kRight;

Mat<double> widened(const Mat<float>& m) {
  Mat<double> wide(m.rows(), m.cols());
  for (int64_t i = 0; i < m.size(); ++i) wide.data()[i] = m.data()[i];
  return wide;
}

Mat<double> product(const Mat<double>& a, Trans trans_b, const Mat<double>& b) {
  Mat<double> c(a.rows(), trans_b == Trans::kNo ? b.cols() : b.rows());
  linalg::gemm(Trans::kNo, trans_b, 1.0, a.view(), b.view(), 0.0, c.view());
  return c;
}

// I + sides, over all inputs: blocks of left ⊗ I + I ⊗ right.
Mat<double> change(int64_t blocks, const Mat<double>& left, const Mat<double>& right) {
  Mat<double> whole(blocks * kIn, blocks * kIn);
  for (int64_t i = 0; i < whole.rows(); ++i)
    for (int64_t j = 0; j < whole.cols(); ++j) {
      const int64_t il = i % kIn / kRight, ir = i % kRight, jl = j % kIn / kRight, jr = j % kRight;
      whole(i, j) = i == j ? 1 : 0;
      if (i / kIn != j / kIn) continue;
      if (ir == jr) whole(i, j) += left(il, jl);
      if (il == jl) whole(i, j) += right(ir, jr);
    }
  return whole;
}

// Inputs of a layer at a moment of training, clipped so far that values saturate at both ends.
struct Moment {
  Rounded<double> rounded;
  int64_t blocks;
};
Moment moment(int64_t blocks, double clip) {
  Mat<float> z = normal_matrix(9, blocks * kIn, 1), w = normal_matrix(5, blocks * kIn, 2);
  // A row of zeros has no largest value.
  std::fill_n(z.row(4), z.cols(), 0.0f);
  Moment moment{
      .rounded = {.z = widened(z), .w = widened(w), .z_steps = {}, .w_steps = {}, .clip = clip},
      .blocks = blocks};
  moment.rounded.z_steps = rounding_steps(moment.rounded.z, clip);
  moment.rounded.w_steps = rounding_steps(moment.rounded.w, 1.0);
  return moment;
}

constexpr double kSolved = 0.4;

// What rounding_loss is by its definition, after a change: z (I + A), w (I + A)⁻ᵀ to first order.
double loss_after(const Moment& moment, const Mat<double>& left, const Mat<double>& right,
                  double log_clip) {
  Mat<double> negative_left = left.clone(), negative_right = right.clone();
  for (int64_t i = 0; i < left.size(); ++i) negative_left.data()[i] *= -1;
  for (int64_t i = 0; i < right.size(); ++i) negative_right.data()[i] *= -1;
  Rounded<double> changed{
      .z = product(moment.rounded.z, Trans::kNo, change(moment.blocks, left, right)),
      .w = product(moment.rounded.w, Trans::kYes,
                   change(moment.blocks, negative_left, negative_right)),
      .z_steps = moment.rounded.z_steps.clone(),
      .w_steps = moment.rounded.w_steps.clone(),
      .clip = moment.rounded.clip * std::exp(log_clip)};
  PairGradient<double> unused{.left = Mat<double>(kLeft, kLeft),
                              .right = Mat<double>(kRight, kRight)};
  return rounding_loss(changed, kSolved, unused);
}

TEST(RoundingLoss, IsWhatFakeQuantizationLoses) {
  const Moment at = moment(2, 0.6);
  Mat<float> z(at.rounded.z.rows(), at.rounded.z.cols()), rounded(z.rows(), z.cols());
  for (int64_t i = 0; i < z.size(); ++i) z.data()[i] = static_cast<float>(at.rounded.z.data()[i]);
  quant::fake_quantize_tokens(z.view(), {.bits = 4}, rounded.view(), 0.6f);
  Mat<float> w(at.rounded.w.rows(), at.rounded.w.cols());
  for (int64_t i = 0; i < w.size(); ++i) w.data()[i] = static_cast<float>(at.rounded.w.data()[i]);
  const Mat<float> rounded_w = quant::dequantize(
      quant::quantize_rtn(std::as_const(w).view(), {.bits = 4, .scale_dtype = DType::kF32}));
  double expected = 0;
  for (int64_t i = 0; i < z.rows(); ++i)
    for (int64_t k = 0; k < w.rows(); ++k) {
      double of_z = 0, of_w = 0;
      for (int64_t j = 0; j < z.cols(); ++j) {
        of_z += (static_cast<double>(rounded(i, j)) - z(i, j)) * w(k, j);
        of_w += (static_cast<double>(rounded_w(k, j)) - w(k, j)) * z(i, j);
      }
      expected += of_z * of_z + kSolved * of_w * of_w;
    }
  int saturated = 0;
  for (int64_t i = 0; i < at.rounded.z_steps.size(); ++i)
    saturated += std::fabs(at.rounded.z_steps.data()[i]) > 0.75;
  ASSERT_GT(saturated, 9);
  PairGradient<double> unused{.left = Mat<double>(kLeft, kLeft),
                              .right = Mat<double>(kRight, kRight)};
  // Scales and products are f32 there.
  EXPECT_NEAR(rounding_loss(at.rounded, kSolved, unused), expected, 1e-5 * expected);
}

class Gradient : public testing::TestWithParam<std::pair<int64_t, double>> {};
INSTANTIATE_TEST_SUITE_P(BlocksAndClips, Gradient,
                         testing::Values(std::pair{1, 1.0}, std::pair{1, 0.6}, std::pair{2, 0.6}),
                         [](const auto& p) {
                           return std::to_string(p.param.first) +
                                  (p.param.second < 1 ? "Clipped" : "Whole");
                         });

TEST_P(Gradient, EqualsFiniteDifferences) {
  const auto [blocks, clip] = GetParam();
  const Moment at = moment(blocks, clip);
  PairGradient<double> gradient{.left = Mat<double>(kLeft, kLeft),
                                .right = Mat<double>(kRight, kRight)};
  const double loss = rounding_loss(at.rounded, kSolved, gradient);
  // Central differences lose about h² and eps / h of the loss's own size.
  constexpr double kStep = 1e-5, kTolerance = 1e-8;
  Mat<double> left(kLeft, kLeft), right(kRight, kRight);
  left.fill_zero();
  right.fill_zero();
  const auto difference = [&](double& value, double log_clip_step) {
    value = kStep;
    const double above = loss_after(at, left, right, log_clip_step);
    value = -kStep;
    const double below = loss_after(at, left, right, -log_clip_step);
    value = 0;
    return (above - below) / (2 * kStep);
  };
  for (int64_t i = 0; i < left.size(); ++i)
    EXPECT_NEAR(gradient.left.data()[i], difference(left.data()[i], 0), kTolerance * loss) << i;
  for (int64_t i = 0; i < right.size(); ++i)
    EXPECT_NEAR(gradient.right.data()[i], difference(right.data()[i], 0), kTolerance * loss) << i;
  double nothing = 0;
  EXPECT_NEAR(gradient.log_clip, difference(nothing, kStep), kTolerance * loss);
}

}  // namespace
}  // namespace laos::flatquant
