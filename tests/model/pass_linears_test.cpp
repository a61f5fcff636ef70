#include "model/pass_linears.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/threads.h"
#include "support/layer.h"
#include "support/random.h"

namespace laos::model {
namespace {

using linalg::ComputeType;

hf::Config config_of_layer() {
  hf::Config config;
  config.hidden_size = 48;
  config.intermediate_size = 80;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  return config;
}

// What a group's linears make of x.
std::vector<Mat<float>> outputs_of(LinearsForward<float>& linears, const LayerWeights& weights,
                                   LinearGroup group, const Mat<float>& x) {
  std::vector<Mat<float>> ys;
  std::vector<MatView<float>> views;
  for (const Linear l : linears_of(group)) ys.emplace_back(x.rows(), weights[l].rows());
  for (Mat<float>& y : ys) views.push_back(y.view());
  linears.forward(group, x.view(), views);
  return ys;
}

double rounded(float x) { return bf16_to_float(float_to_bf16(x)); }

TEST(PassLinears, InBf16AreTheProductsOfRoundedWeightsAndInputsPlusTheBias) {
  const hf::Config config = config_of_layer();
  LayerWeights weights = test::random_layer(config, 0.1f);
  weights.biases[Linear::kQProj] = test::normal_matrix(1, weights[Linear::kQProj].rows(), 9);
  const auto linears = pass_linears(ComputeType::kBf16, views_of(weights));
  for (const LinearGroup group : kAllLinearGroups) {
    const Linear first = linears_of(group).front();
    const Mat<float> x = test::normal_matrix(70, weights[first].cols(), 40);
    const std::vector<Mat<float>> ys = outputs_of(*linears, weights, group, x);
    for (size_t k = 0; k < ys.size(); ++k) {
      const Linear l = linears_of(group)[k];
      const Mat<float>& w = weights[l];
      for (const int64_t i : {int64_t{0}, int64_t{33}, x.rows() - 1})
        for (int64_t j = 0; j < w.rows(); ++j) {
          double expected = weights.biases[l].size() != 0 ? weights.biases[l](0, j) : 0, size = 0;
          for (int64_t p = 0; p < w.cols(); ++p) {
            const double term = rounded(x(i, p)) * rounded(w(j, p));
            expected += term;
            size += std::fabs(term);
          }
          // Sums in f32, which hardware may round toward zero.
          ASSERT_NEAR(ys[k](i, j), expected,
                      2 * FLT_EPSILON * static_cast<double>(w.cols() + 1) * (size + 1));
        }
    }
  }
}

TEST(PassLinears, InBf16LeaveExpertsInF32) {
  hf::Config config = config_of_layer();
  config.num_experts = 2;
  config.num_experts_per_tok = 1;
  config.moe_intermediate_size = 12;
  LayerWeights weights;
  uint32_t seed = 1;
  for (const Linear l : linears_in(config, 0))
    weights[l] = test::normal_matrix(out_features(config, l), in_features(config, l), ++seed);
  const auto narrow = pass_linears(ComputeType::kBf16, views_of(weights)),
             exact = pass_linears(ComputeType::kF32, views_of(weights));
  for (const LinearGroup group : groups_in(config, 0)) {
    const Mat<float> x = test::normal_matrix(9, weights[linears_of(group).front()].cols(), 50);
    const std::vector<Mat<float>> a = outputs_of(*narrow, weights, group, x),
                                  b = outputs_of(*exact, weights, group, x);
    const bool is_same = std::memcmp(a.front().data(), b.front().data(),
                                     sizeof(float) * static_cast<size_t>(a.front().size())) == 0;
    EXPECT_EQ(is_same, hf::expert_of(group) >= 0);
  }
  EXPECT_EQ(pass_linears_bytes(ComputeType::kF32, config, 100), 0);
  // q and o of 64 by 48, k and v of 32 by 48; the widest of them reads 64.
  EXPECT_EQ(pass_linears_bytes(ComputeType::kBf16, config, 100),
            2 * (2 * 64 * 48 + 2 * 32 * 48) + 2 * 100 * 64 + linalg::kBf16Bytes);
}

TEST(PassLinears, InBf16GiveTheSameBitsOnAnyNumberOfThreads) {
  const hf::Config config = config_of_layer();
  const LayerWeights weights = test::random_layer(config, 0.1f);
  const Mat<float> x = test::normal_matrix(700, config.hidden_size, 3);
  const int before = num_threads();
  std::vector<Mat<float>> one, three;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    const auto linears = pass_linears(ComputeType::kBf16, views_of(weights));
    (threads == 1 ? one : three) = outputs_of(*linears, weights, LinearGroup::kGateUp, x);
  }
  set_num_threads(before);
  for (size_t i = 0; i < one.size(); ++i)
    EXPECT_EQ(std::memcmp(one[i].data(), three[i].data(),
                          sizeof(float) * static_cast<size_t>(one[i].size())),
              0);
}

}  // namespace
}  // namespace laos::model
