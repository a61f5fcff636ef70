// How the range of a row learns (α_min, α_max): only the side that sets the scale moves, a tie moves
// both, and α stays in [0, 1].
#include <gtest/gtest.h>

#include <vector>

#include "autoround/trainable_linears.h"

namespace laos::autoround {
namespace {

using model::Linear;

constexpr int64_t kHidden = 8;
constexpr float kLr = 0.125f;

// The scales of q_proj's rows, each {high, 0.4, low, 0, ...} at 4 bits, before and after one step.
// At a scale of 1/7 the 0.4 is 2.8 steps and rounds up to 3, so a weight gradient there of either
// sign is a scale gradient of the same sign.
struct Step {
  float before, after;
};
Step step_of(float high, float low, float d_weight, bool minmax = true, bool signed_scale = false) {
  hf::Config config;
  config.hidden_size = kHidden;
  config.intermediate_size = kHidden;
  config.num_attention_heads = config.num_key_value_heads = 1;
  config.head_dim = 2;
  model::LayerWeights weights;
  for (const Linear l : model::kAllLinears) {
    weights[l] = Mat<float>(model::out_features(config, l), model::in_features(config, l));
    weights[l].fill_zero();
  }
  Mat<float>& q_proj = weights[Linear::kQProj];
  q_proj(0, 0) = high;
  q_proj(0, 1) = 0.4f;
  q_proj(0, 2) = low;
  LayerScheme scheme;
  scheme[Linear::kQProj] = {
      {.bits = 4, .group_size = 0, .scale_dtype = DType::kF32, .signed_scale = signed_scale},
      {.bits = 4}};
  TrainOptions options;
  options.enable_round_tuning = false;
  options.enable_minmax_tuning = minmax;
  TrainableLinears linears(weights, scheme, options);
  const auto scale = [&] {
    TrainableLinears::Snapshot snapshot;
    linears.save(snapshot);
    return snapshot.scale[Linear::kQProj].at(0);
  };
  Step step{scale(), 0};

  Mat<float> x(1, kHidden), d_q(1, 2), d_kv(1, 2);
  x.fill_zero();
  d_q.fill_zero();
  d_kv.fill_zero();
  x(0, 1) = 1;
  d_q(0, 0) = d_weight;
  const std::vector<MatView<const float>> d_ys = {
      std::as_const(d_q).view(), std::as_const(d_kv).view(), std::as_const(d_kv).view()};
  linears.set_learning_rate(kLr);
  linears.backward(model::LinearGroup::kQkv, std::as_const(x).view(), d_ys, {});
  step.after = scale();
  return step;
}

constexpr float kScale = 1.0f / 7;

TEST(MinmaxTuning, ShrinksTheSideThatSetsTheScale) {
  for (const auto& [high, low] : {std::pair{1.0f, -0.5f}, std::pair{0.5f, -1.0f}}) {
    const Step step = step_of(high, low, 2);
    EXPECT_FLOAT_EQ(step.before, kScale) << high;
    EXPECT_FLOAT_EQ(step.after, kScale * (1 - kLr)) << high;
  }
}

// At a scale of 1/8 or -1/8 the 0.4 is 3.2 steps and rounds to 3: the signs are turned.
TEST(MinmaxTuning, ShrinksASignedScaleTowardsZero) {
  for (const auto& [high, low] : {std::pair{1.0f, -0.5f}, std::pair{0.5f, -1.0f}}) {
    const float scale = high > -low ? -0.125f : 0.125f;
    const Step smaller = step_of(high, low, -2, true, true),
               larger = step_of(high, low, 2, true, true);
    EXPECT_FLOAT_EQ(smaller.before, scale);
    EXPECT_FLOAT_EQ(smaller.after, scale * (1 - kLr));
    EXPECT_FLOAT_EQ(larger.after, scale);
  }
}

TEST(MinmaxTuning, OfATieMovesBothSides) {
  EXPECT_FLOAT_EQ(step_of(1, -1, 2).after, kScale * (1 - kLr));
}

TEST(MinmaxTuning, FallsNoFurtherThanTheOtherSide) {
  EXPECT_FLOAT_EQ(step_of(1, -0.95f, 2).after, 0.95f * kScale);
}

TEST(MinmaxTuning, NeverWidensARangeBeyondItsWeights) {
  EXPECT_FLOAT_EQ(step_of(1, -0.5f, -2).after, kScale);
}

TEST(MinmaxTuning, StandsStillWithoutGradientAndWhenItIsOff) {
  EXPECT_FLOAT_EQ(step_of(1, -0.5f, 0).after, kScale);
  EXPECT_FLOAT_EQ(step_of(1, -0.5f, 2, /*minmax=*/false).after, kScale);
}

}  // namespace
}  // namespace laos::autoround
