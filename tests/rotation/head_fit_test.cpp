#include "rotation/head_fit.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "rotation/token_range.h"
#include "support/layer.h"
#include "support/random.h"

namespace laos::rotation {
namespace {

using model::Linear;
using test::normal_matrix;

hf::Config small_config() {
  hf::Config config;
  config.hidden_size = 48;
  config.intermediate_size = 40;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  return config;
}

// Rows whose values lie along a few directions in each head, so that axes can be found in which the
// largest is small.
Mat<float> peaked_rows(const hf::Config& config, int64_t count) {
  const int64_t q_size = config.num_attention_heads * config.head_dim;
  Mat<float> rows = normal_matrix(count, q_size, 5, 0.2f);
  const Mat<float> along = normal_matrix(count, config.num_attention_heads, 6, 3.0f);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t h = 0; h < config.num_attention_heads; ++h)
      rows(i, h * config.head_dim + h / 2) += along(i, h);
  return rows;
}

Mat<float> rotated(const hf::Config& config, const std::vector<Mat<float>>& heads,
                   const Mat<float>& rows) {
  // What o_proj = I becomes is the rotation itself.
  const int64_t q_size = rows.cols();
  model::LayerWeights weights;
  weights[Linear::kVProj] = Mat<float>(config.num_key_value_heads * config.head_dim, 1);
  weights[Linear::kVProj].fill_zero();
  weights[Linear::kOProj] = Mat<float>(q_size, q_size);
  weights[Linear::kOProj].fill_zero();
  for (int64_t i = 0; i < q_size; ++i) weights[Linear::kOProj](i, i) = 1;
  rotate_heads(config, heads, weights);
  Mat<float> result(rows.rows(), q_size);
  linalg::gemm(linalg::Trans::kNo, linalg::Trans::kNo, 1.0f, rows.view(),
               std::as_const(weights[Linear::kOProj]).view(), 0.0f, result.view());
  return result;
}

double error_of(const Mat<float>& rows) {
  Mat<float> quantized(rows.rows(), rows.cols());
  return rounding_error(rows.view(), 4, quantized.view());
}

TEST(FitHeads, LowersTheRoundingErrorOfRowsItHasNotSeenByOrthogonalMatrices) {
  const hf::Config config = small_config();
  const Mat<float> all = peaked_rows(config, 900);
  Mat<float> seen(600, all.cols()), unseen(300, all.cols());
  std::memcpy(seen.data(), all.data(), static_cast<size_t>(seen.size()) * sizeof(float));
  std::memcpy(unseen.data(), all.row(600), static_cast<size_t>(unseen.size()) * sizeof(float));
  const std::vector<Mat<float>> heads = fit_heads(config, std::move(seen), {.steps = 60});
  ASSERT_EQ(heads.size(), 2u);
  for (const Mat<float>& head : heads) {
    Mat<float> product(16, 16);
    linalg::gemm(linalg::Trans::kYes, linalg::Trans::kNo, 1.0f, head.view(), head.view(), 0.0f,
                 product.view());
    for (int64_t i = 0; i < 16; ++i)
      for (int64_t j = 0; j < 16; ++j) EXPECT_NEAR(product(i, j), i == j ? 1 : 0, 2e-6);
  }
  EXPECT_LT(error_of(rotated(config, heads, unseen)), 0.8 * error_of(unseen));
}

TEST(FitHeads, GivesTheSameBytesOnAnyNumberOfThreads) {
  const hf::Config config = small_config();
  const int before = num_threads();
  std::vector<std::vector<Mat<float>>> results;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    results.push_back(fit_heads(config, peaked_rows(config, 300), {.steps = 25}));
  }
  set_num_threads(before);
  ASSERT_EQ(results[0].size(), 2u);
  for (size_t h = 0; h < 2; ++h)
    EXPECT_EQ(std::memcmp(results[0][h].data(), results[1][h].data(), 256 * sizeof(float)), 0);
}

TEST(FitHeads, LeavesHeadsAsTheyAreWhereNothingIsWon) {
  const hf::Config config = small_config();
  Mat<float> zeros(40, 64);
  zeros.fill_zero();
  EXPECT_TRUE(fit_heads(config, std::move(zeros), {.steps = 20}).empty());
  EXPECT_NO_THROW(fit_heads(config, peaked_rows(config, 1), {.steps = 3}));
  model::LayerWeights weights;
  rotate_heads(config, {}, weights);  // touches nothing
}

TEST(RotateHeads, KeepsTheLayersFunction) {
  hf::Config config = small_config();
  config.qkv_bias = true;
  model::LayerWeights weights = test::random_layer(config, 0.5f);
  const Mat<float> x = normal_matrix(20, config.hidden_size, 30);
  const Mat<float> before = test::run_layer(config, weights, x);
  const Mat<float> old_v = weights[Linear::kVProj].clone();
  rotate_heads(config, fit_heads(config, peaked_rows(config, 300), {.steps = 30}), weights);
  EXPECT_NE(std::memcmp(old_v.data(), weights[Linear::kVProj].data(),
                        static_cast<size_t>(old_v.size()) * sizeof(float)),
            0);
  const Mat<float> after = test::run_layer(config, weights, x);
  // Two more products of 16 terms, of values of order one.
  for (int64_t i = 0; i < before.size(); ++i) EXPECT_NEAR(after.data()[i], before.data()[i], 2e-5);
}

TEST(HeadRows, KeepsTokensEvenlySpreadOverAllPieces) {
  const hf::Config config = small_config();
  const int64_t num_tokens = 2 * kHeadFitRows + 100;  // one token in three
  HeadRows rows(config, num_tokens);
  model::LayerSaved<float> saved(config, 1000, false);
  const Mat<float>& attention = saved.input_of(model::LinearGroup::kO);
  for (int64_t begin = 0; begin < num_tokens; begin += 1000) {
    const int64_t count = std::min<int64_t>(1000, num_tokens - begin);
    for (int64_t i = 0; i < count; ++i) attention(i, 7) = static_cast<float>(begin + i);
    rows.observe(saved, count);
  }
  const Mat<float> kept = std::move(rows).take();
  ASSERT_EQ(kept.rows(), (num_tokens + 2) / 3);
  for (int64_t i = 0; i < kept.rows(); ++i) ASSERT_EQ(kept(i, 7), static_cast<float>(3 * i));
}

}  // namespace
}  // namespace laos::rotation
