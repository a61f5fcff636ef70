#include "rotation/rotation.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <random>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/polar.h"
#include "model/hidden_states.h"
#include "rotation/fit.h"

namespace laos::rotation {
namespace {

using model::Linear;

Mat<float> normal_matrix(int64_t rows, int64_t cols, uint32_t seed, float mean = 0,
                         float sigma = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean, sigma);
  Mat<float> matrix(rows, cols);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
  return matrix;
}

hf::Config small_config() {
  hf::Config config;
  config.hidden_size = 48;  // 12 * 4
  config.intermediate_size = 40;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  return config;
}

model::LayerWeights random_layer(const hf::Config& config) {
  model::LayerWeights weights;
  uint32_t seed = 1;
  for (const Linear l : model::kAllLinears) {
    const int64_t in = model::in_features(config, l);
    weights[l] = normal_matrix(model::out_features(config, l), in, ++seed, 0,
                               1 / std::sqrt(static_cast<float>(in)));
  }
  weights.input_layernorm = normal_matrix(1, config.hidden_size, 20, 1, 0.5f);
  weights.post_attention_layernorm = normal_matrix(1, config.hidden_size, 21, 1, 0.5f);
  weights.q_norm = normal_matrix(1, config.head_dim, 22, 1, 0.3f);
  weights.k_norm = normal_matrix(1, config.head_dim, 23, 1, 0.3f);
  return weights;
}

Mat<float> run_layer(const hf::Config& config, const model::LayerWeights& weights,
                     const Mat<float>& x) {
  model::Ragged batch;
  batch.append(5);
  batch.append(x.rows() - 5);
  model::FloatLinears<float> linears(model::views_of(weights));
  model::LayerSaved<float> saved(config, x.rows(), false);
  Mat<float> y(x.rows(), x.cols());
  model::layer_forward<float>(config, model::norms_of(weights), linears,
                              model::Rope<float>(config, x.rows()), batch, x.view(), saved,
                              y.view());
  return y;
}

class Rotations : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(HadamardAndDense, Rotations, testing::Bool(),
                         [](const auto& p) { return p.param ? "Dense" : "Hadamard"; });

TEST_P(Rotations, PreservesTheLayersFunctionInTheRotatedBasis) {
  const hf::Config config = small_config();
  std::optional<Mat<float>> fitted;
  if (GetParam()) fitted = linalg::polar_factor(normal_matrix(48, 48, 9).view()).factor;
  const ModelRotation rotation = make_rotation(config, {}, std::move(fitted));
  Mat<float> x = normal_matrix(13, 48, 30);
  Mat<float> expected = run_layer(config, random_layer(config), x);
  rotation.residual.apply_right(expected.view());

  model::LayerWeights rotated = random_layer(config);
  fold_norms(rotated);
  rotate_layer(config, rotation, rotated);
  rotation.residual.apply_right(x.view());
  const Mat<float> y = run_layer(config, rotated, x);
  // f32 rounding of a dozen products of at most 48 terms, of values of order 10.
  for (int64_t i = 0; i < y.size(); ++i)
    ASSERT_NEAR(y.data()[i], expected.data()[i], 12 * 48 * FLT_EPSILON * 10) << i;
  EXPECT_EQ(rotated.input_layernorm(0, 3), 1.0f);
}

TEST_P(Rotations, ApplyLeftTransposedIsTheDenseProduct) {
  const Rotation rotation =
      GetParam() ? Rotation(linalg::polar_factor(normal_matrix(48, 48, 9).view()).factor)
                 : Rotation(linalg::RandomHadamard(48));
  const Mat<float> r = rotation.matrix(), w = normal_matrix(48, 70, 2);
  Mat<float> expected(48, 70), actual = w.clone();
  linalg::gemm(linalg::Trans::kYes, linalg::Trans::kNo, 1.0f, r.view(), w.view(), 0.0f,
               expected.view());
  rotation.apply_left_transposed(actual.view());
  for (int64_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual.data()[i], expected.data()[i], 48 * 48 * FLT_EPSILON);
}

class FitRows : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(FullAndDeficientRank, FitRows, testing::Values(1, 10, 300));

TEST_P(FitRows, IsOrthogonalNeverWorseThanHadamardAndTheSameOnAnyNumberOfThreads) {
  // A few channels far above the rest, as real residual streams have.
  Mat<float> rows = normal_matrix(GetParam(), 48, 5);
  for (int64_t i = 0; i < rows.rows(); ++i) rows(i, 7) *= 30, rows(i, 20) *= 12;
  const int before = num_threads();
  set_num_threads(1);
  const FitResult one = fit_rotation(rows.clone(), {.steps = 8});
  set_num_threads(3);
  const FitResult three = fit_rotation(rows.clone(), {.steps = 8});
  set_num_threads(before);
  EXPECT_EQ(std::memcmp(one.rotation.data(), three.rotation.data(), 48 * 48 * sizeof(float)), 0);
  EXPECT_LT(one.orthogonality, 1e-5);
  double best = one.steps.front().loss;
  for (const FitStep& step : one.steps) best = std::min(best, step.loss);
  EXPECT_EQ(one.steps[static_cast<size_t>(one.best_step)].loss, best);
  if (GetParam() == 300) {
    EXPECT_GT(one.best_step, 0);
  }
}

TEST(FitRotation, RefusesToFitNothing) { EXPECT_THROW(fit_rotation(Mat<float>(0, 48), {}), Error); }

TEST(FittedLinears, AreThoseThatReadTheResidualStream) {
  EXPECT_EQ(fitted_linears({.layer_type = {"up_proj"}}), std::vector{Linear::kUpProj});
  EXPECT_EQ(fitted_linears({.layer_type = {"self_attn.k", "gate"}}),
            (std::vector{Linear::kKProj, Linear::kGateProj}));
  EXPECT_THROW(fitted_linears({.layer_type = {"down_proj"}}), Error);
  EXPECT_THROW(fitted_linears({.layer_type = {"experts"}}), Error);
}

TEST(ActivationRows, KeepsTokenMeansAndSpreadsWhatItDrops) {
  const hf::Config config = small_config();
  model::LayerSaved<float> saved(config, 8, false);
  model::Ragged batch;
  for (int i = 0; i < 4; ++i) batch.append(2);
  for (int64_t i = 0; i < 8; ++i)
    for (int64_t j = 0; j < 48; ++j) saved.hidden_normed(i, j) = static_cast<float>(i);
  ActivationRows rows(config, {.layer_type = {"up_proj"}, .max_samples = 3});
  rows.observe(batch, saved);
  rows.finish_layer();
  const Mat<float> kept = rows.take();
  // Means 0.5, 2.5, 4.5, 6.5; trunc(linspace(0, 3, 3)) = 0, 1, 3.
  ASSERT_EQ(kept.rows(), 3);
  EXPECT_EQ(kept(0, 0), 0.5f);
  EXPECT_EQ(kept(1, 0), 2.5f);
  EXPECT_EQ(kept(2, 47), 6.5f);
}

}  // namespace
}  // namespace laos::rotation
