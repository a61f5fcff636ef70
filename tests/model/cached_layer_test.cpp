#include "model/cached_layer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <utility>

#include "core/threads.h"
#include "linalg/row_products.h"

namespace laos::model {
namespace {

hf::Config config() {
  hf::Config config;
  config.num_hidden_layers = 2;  // the cache's; one layer is run, as the second
  config.hidden_size = 44;
  config.intermediate_size = 52;
  config.num_attention_heads = 6;
  config.num_key_value_heads = 2;
  config.head_dim = 10;
  config.rms_norm_eps = 1e-6;
  config.rope_theta = 10000;
  return config;
}

Mat<float> normal_matrix(int64_t rows, int64_t cols, uint32_t seed, float mean = 0,
                         float sigma = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean, sigma);
  Mat<float> matrix(rows, cols);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
  return matrix;
}

class RowLinears : public LinearsForward<float> {
 public:
  explicit RowLinears(const LayerWeights& weights) {
    for (const Linear l : kAllLinears) weights_[l] = linalg::RowWeight(weights[l].clone());
  }
  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    for (size_t i = 0; i < linears_of(group).size(); ++i)
      weights_[linears_of(group)[i]].multiply(x, ys[i]);
  }

 private:
  PerLinear<linalg::RowWeight> weights_;
};

class CachedLayer : public testing::Test {
 protected:
  CachedLayer() {
    uint32_t seed = 1;
    for (const Linear l : kAllLinears) {
      const int64_t in = in_features(config_, l);
      weights_.linears[l] = normal_matrix(out_features(config_, l), in, seed++, 0,
                                          1 / std::sqrt(static_cast<float>(in)));
    }
    weights_.input_layernorm = normal_matrix(1, config_.hidden_size, seed++, 1, 0.2f);
    weights_.post_attention_layernorm = normal_matrix(1, config_.hidden_size, seed++, 1, 0.2f);
    weights_.q_norm = normal_matrix(1, config_.head_dim, seed++, 1, 0.2f);
    weights_.k_norm = normal_matrix(1, config_.head_dim, seed++, 1, 0.2f);
  }

  // Runs rows [from[i], to[i]) of sequences 0 (rows 0..25) and 1 (rows 25..43) of x.
  void run(KvCache& cache, RowLinears& linears, std::vector<int64_t> sequences,
           std::vector<std::pair<int64_t, int64_t>> ranges, Mat<float>& y) {
    Ragged batch;
    std::vector<int64_t> rows;
    for (size_t i = 0; i < sequences.size(); ++i) {
      batch.append(ranges[i].second - ranges[i].first);
      for (int64_t t = ranges[i].first; t < ranges[i].second; ++t)
        rows.push_back(t + (sequences[i] == 1 ? kFirst : 0));
    }
    Mat<float> in(std::ssize(rows), config_.hidden_size), out(in.rows(), in.cols());
    for (size_t i = 0; i < rows.size(); ++i)
      std::copy_n(x_.row(rows[i]), in.cols(), in.row(static_cast<int64_t>(i)));
    LayerSaved<float> saved(config_, in.rows(), false);
    cached_layer_forward(config_, 1, norms_of(weights_), linears, rope_, batch, sequences,
                         std::as_const(in).view(), cache, saved, out.view());
    for (size_t i = 0; i < rows.size(); ++i)
      std::copy_n(out.row(static_cast<int64_t>(i)), in.cols(), y.row(rows[i]));
    for (size_t i = 0; i < sequences.size(); ++i)
      cache.extend(sequences[i], ranges[i].second - ranges[i].first);
  }

  static constexpr int64_t kFirst = 25, kSecond = 18;
  const hf::Config config_ = config();
  LayerWeights weights_;
  const Rope<float> rope_{config_, kFirst};
  const Mat<float> x_ = normal_matrix(kFirst + kSecond, config_.hidden_size, 99);
};

TEST_F(CachedLayer, ComputesWhatTheLayerDoes) {
  FloatLinears<float> exact(views_of(weights_));
  Ragged batch;
  batch.append(kFirst);
  batch.append(kSecond);
  LayerSaved<float> saved(config_, batch.num_tokens(), false);
  Mat<float> expected(x_.rows(), x_.cols()), y(x_.rows(), x_.cols());
  layer_forward<float>(config_, norms_of(weights_), exact, rope_, batch, x_.view(), saved,
                       expected.view());
  RowLinears linears(weights_);
  KvCache cache(config_, std::vector<int64_t>{kFirst, kSecond});
  run(cache, linears, {0, 1}, {{0, kFirst}, {0, kSecond}}, y);
  for (int64_t i = 0; i < y.size(); ++i)
    ASSERT_NEAR(y.data()[i], expected.data()[i], 1e-5 * (1 + std::fabs(expected.data()[i]))) << i;
}

TEST_F(CachedLayer, GivesTheSameBitsTokenByTokenInPiecesAndInAnyCompany) {
  RowLinears linears(weights_);
  KvCache whole(config_, std::vector<int64_t>{kFirst, kSecond});
  Mat<float> expected(x_.rows(), x_.cols()), y(x_.rows(), x_.cols());
  run(whole, linears, {0, 1}, {{0, kFirst}, {0, kSecond}}, expected);

  set_num_threads(3);
  KvCache pieces(config_, std::vector<int64_t>{kFirst, kSecond});
  run(pieces, linears, {1}, {{0, 5}}, y);
  run(pieces, linears, {0, 1}, {{0, 19}, {5, 6}}, y);
  for (int64_t t = 19; t < kFirst; ++t)
    run(pieces, linears, {1, 0}, {{t - 13, t - 12}, {t, t + 1}}, y);
  run(pieces, linears, {1}, {{12, kSecond}}, y);
  for (int64_t i = 0; i < y.size(); ++i) ASSERT_EQ(y.data()[i], expected.data()[i]) << i;
  EXPECT_EQ(pieces.length(0), kFirst);
  EXPECT_EQ(pieces.length(1), kSecond);
}

}  // namespace
}  // namespace laos::model
