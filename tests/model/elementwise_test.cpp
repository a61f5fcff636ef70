#include "model/kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>
#include <vector>

#include "core/isa.h"
#include "model/kernels/elementwise_scalar.h"

namespace laos::model::kernels {
namespace {

std::vector<float> normal_vector(int64_t n, uint32_t seed, float sigma = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = normal(generator);
  return values;
}
std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

void expect_near(const std::vector<float>& actual, const std::vector<double>& expected,
                 double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * (1 + std::fabs(expected[i])))
        << "element " << i;
}

// Every kernel on every instruction set of this machine, at every tail length, against the f64
// definition.
class Elementwise : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { use_isa(GetParam()); }
  void TearDown() override { restore_isa(); }
  const std::vector<int64_t> lengths_ = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257};
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, Elementwise, testing::ValuesIn(supported_isas()),
                         [](const auto& p) { return p.param.name; });

// A sum of n f32 products errs by at most n eps of the sum of magnitudes; 8 covers the few
// operations around it.
double sum_tolerance(int64_t n) { return (static_cast<double>(n) + 8) * FLT_EPSILON; }

TEST_P(Elementwise, RmsNormAndItsBackwardMatchTheDefinition) {
  for (const int64_t n : lengths_) {
    const auto x = normal_vector(n, 1), gain = normal_vector(n, 2), d_y = normal_vector(n, 3);
    std::vector<float> y(x.size());
    std::vector<double> y64(x.size());
    const auto x64 = widened(x), gain64 = widened(gain), d_y64 = widened(d_y);
    const float inv_rms = rms_norm(x.data(), gain.data(), 1e-6f, y.data(), n);
    const double inv_rms64 = scalar::rms_norm(x64.data(), gain64.data(), 1e-6, y64.data(), n);
    EXPECT_NEAR(inv_rms, inv_rms64, sum_tolerance(n) * inv_rms64);
    expect_near(y, y64, sum_tolerance(n) * inv_rms64);
    for (const bool accumulate : {false, true}) {
      std::vector<float> d_x = normal_vector(n, 4);
      std::vector<double> d_x64 = widened(d_x);
      rms_norm_backward(d_y.data(), x.data(), gain.data(), inv_rms, accumulate, d_x.data(), n);
      scalar::rms_norm_backward(d_y64.data(), x64.data(), gain64.data(), inv_rms64, accumulate,
                                d_x64.data(), n);
      expect_near(d_x, d_x64, 10 * sum_tolerance(n) * (1 + std::pow(inv_rms64, 3)));
    }
  }
}

TEST_P(Elementwise, RopeMatchesTheDefinitionAndItsBackwardUndoesIt) {
  for (const int64_t half : lengths_) {
    const auto x = normal_vector(2 * half, 1), angles = normal_vector(half, 2);
    std::vector<float> cos(angles.size()), sin(angles.size());
    for (size_t i = 0; i < angles.size(); ++i)
      cos[i] = std::cos(angles[i]), sin[i] = std::sin(angles[i]);
    const auto cos64 = widened(cos), sin64 = widened(sin);
    auto y = x;
    auto y64 = widened(x);
    rope(y.data(), cos.data(), sin.data(), false, half);
    scalar::rope(y64.data(), cos64.data(), sin64.data(), false, half);
    expect_near(y, y64, 4 * FLT_EPSILON);
    rope(y.data(), cos.data(), sin.data(), true, half);
    expect_near(y, widened(x), 16 * FLT_EPSILON);
  }
}

TEST_P(Elementwise, SiluMulAndItsBackwardMatchTheDefinitionFarFromZeroToo) {
  for (const int64_t n : lengths_) {
    auto gate = normal_vector(n, 1, 30);
    gate[0] = -200;
    const auto up = normal_vector(n, 2), d_y = normal_vector(n, 3);
    const auto gate64 = widened(gate), up64 = widened(up), d_y64 = widened(d_y);
    std::vector<float> y(gate.size()), d_gate(gate.size()), d_up(gate.size());
    std::vector<double> y64(gate.size()), d_gate64(gate.size()), d_up64(gate.size());
    silu_mul(gate.data(), up.data(), y.data(), n);
    scalar::silu_mul(gate64.data(), up64.data(), y64.data(), n);
    expect_near(y, y64, 16 * FLT_EPSILON);
    silu_mul_backward(d_y.data(), gate.data(), up.data(), d_gate.data(), d_up.data(), n);
    scalar::silu_mul_backward(d_y64.data(), gate64.data(), up64.data(), d_gate64.data(),
                              d_up64.data(), n);
    // slope = s (1 + g (1 - s)) multiplies |g| (up to 100 here) with the rounding of 1 - s.
    expect_near(d_gate, d_gate64, 400 * FLT_EPSILON);
    expect_near(d_up, d_up64, 16 * FLT_EPSILON);
  }
}

TEST_P(Elementwise, SoftmaxAndItsBackwardMatchTheDefinition) {
  for (const int64_t n : lengths_) {
    auto p = normal_vector(n, 1, 20);
    auto p64 = widened(p);
    softmax(p.data(), 0.125f, n);
    scalar::softmax(p64.data(), 0.125, n);
    expect_near(p, p64, sum_tolerance(n) + 32 * FLT_EPSILON);
    auto d = normal_vector(n, 2);
    auto d64 = widened(d);
    softmax_backward(p.data(), 0.125f, d.data(), n);
    scalar::softmax_backward(p64.data(), 0.125, d64.data(), n);
    expect_near(d, d64, 10 * sum_tolerance(n));
  }
}

TEST_P(Elementwise, AddAndL1LossMatchTheDefinitionWithZeroGradientAtEquality) {
  for (const int64_t n : lengths_) {
    const auto x = normal_vector(n, 1);
    auto y = normal_vector(n, 2);
    auto y64 = widened(y);
    add(x.data(), y.data(), n);
    scalar::add(widened(x).data(), y64.data(), n);
    expect_near(y, y64, FLT_EPSILON);
    auto target = normal_vector(n, 3);
    target[static_cast<size_t>(n) / 2] = y[static_cast<size_t>(n) / 2];
    std::vector<float> d_y(y.size(), 9);
    const double loss = l1_loss(y.data(), target.data(), 0.5f, d_y.data(), n);
    double expected = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      expected += std::fabs(static_cast<double>(y[i]) - target[i]);
      ASSERT_EQ(d_y[i], y[i] > target[i] ? 0.5f : y[i] < target[i] ? -0.5f : 0.0f);
    }
    EXPECT_NEAR(loss, expected, sum_tolerance(n) * (1 + expected));
  }
}

}  // namespace
}  // namespace laos::model::kernels
