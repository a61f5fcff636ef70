#include "model/mixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "model/decoder_layer.h"
#include "support/random.h"

namespace laos::model {
namespace {

constexpr int64_t kHidden = 20, kTokens = 37;

hf::Config config_of(int64_t num_experts, int64_t top, int64_t shared, bool norm_topk_prob) {
  hf::Config config;
  config.hidden_size = kHidden;
  config.num_hidden_layers = 1;
  config.num_experts = num_experts;
  config.num_experts_per_tok = top;
  config.moe_intermediate_size = 12;
  config.shared_expert_intermediate_size = shared;
  config.norm_topk_prob = norm_topk_prob;
  return config;
}

struct Mixture {
  hf::Config config;
  LayerWeights weights;
  Mat<float> x = test::normal_matrix(kTokens, kHidden, 1);

  explicit Mixture(const hf::Config& c) : config(c) {
    uint32_t seed = 2;
    for (const Linear l : linears_in(config, 0))
      if (hf::expert_of(l) >= 0)
        weights[l] =
            test::normal_matrix(out_features(config, l), in_features(config, l), seed++, 0.3f);
    weights.router = test::normal_matrix(config.num_experts, kHidden, seed++, 0.3f);
    if (config.shared_expert_intermediate_size > 0)
      weights.shared_expert_gate = test::normal_matrix(1, kHidden, seed++, 0.3f);
  }
  // Rows [begin, end) of what the mixture gives.
  Mat<float> forward(int64_t begin, int64_t end, MixtureSaved<float>& saved) {
    FloatLinears<float> linears(views_of(weights));
    Mat<float> y(end - begin, kHidden);
    mixture_forward<float>(config, norms_of(weights).routers, linears,
                           x.view().slice_rows(begin, end), saved, y.view());
    return y;
  }

  // The definition, in f64 and a token at a time.
  std::vector<double> expert(int64_t e, const float* token) const {
    const auto product = [&](Linear kind, const auto* in) {
      const Mat<float>& w = weights[hf::of_expert(e, kind)];
      std::vector<double> out(static_cast<size_t>(w.rows()), 0.0);
      for (int64_t i = 0; i < w.rows(); ++i)
        for (int64_t j = 0; j < w.cols(); ++j)
          out[static_cast<size_t>(i)] += double{w(i, j)} * static_cast<double>(in[j]);
      return out;
    };
    std::vector<double> act = product(Linear::kGateProj, token);
    const std::vector<double> up = product(Linear::kUpProj, token);
    for (size_t i = 0; i < act.size(); ++i) act[i] *= up[i] / (1 + std::exp(-act[i]));
    return product(Linear::kDownProj, act.data());
  }
  std::vector<double> expected(int64_t token) const {
    const auto dot = [&](const float* row) {
      double sum = 0;
      for (int64_t j = 0; j < kHidden; ++j) sum += double{row[j]} * double{x(token, j)};
      return sum;
    };
    std::vector<std::pair<double, int64_t>> probabilities;
    double sum = 0;
    for (int64_t e = 0; e < config.num_experts; ++e) {
      probabilities.emplace_back(std::exp(dot(weights.router.row(e))), e);
      sum += probabilities.back().first;
    }
    std::sort(probabilities.rbegin(), probabilities.rend());
    probabilities.resize(static_cast<size_t>(config.num_experts_per_tok));
    if (config.norm_topk_prob) {
      sum = 0;
      for (const auto& [probability, e] : probabilities) sum += probability;
    }
    std::vector<double> y(kHidden, 0.0);
    const auto add = [&](int64_t e, double weight) {
      const std::vector<double> made = expert(e, x.row(token));
      for (size_t j = 0; j < y.size(); ++j) y[j] += weight * made[j];
    };
    for (const auto& [probability, e] : probabilities) add(e, probability / sum);
    if (config.shared_expert_intermediate_size > 0)
      add(config.num_experts, 1 / (1 + std::exp(-dot(weights.shared_expert_gate.row(0)))));
    return y;
  }
};

TEST(Mixture, GivesEachTokenTheWeightedSumOfItsExperts) {
  for (const auto& [experts, top, shared, normed] :
       {std::tuple<int64_t, int64_t, int64_t, bool>{8, 2, 0, true},
        {8, 2, 16, false},
        {100, 8, 0, true},
        {4, 4, 4, true},
        {3, 1, 0, false}}) {
    Mixture mixture(config_of(experts, top, shared, normed));
    MixtureSaved<float> saved(mixture.config, kTokens);
    const Mat<float> y = mixture.forward(0, kTokens, saved);
    for (int64_t i = 0; i < kTokens; ++i) {
      const std::vector<double> expected = mixture.expected(i);
      // A sum of kHidden and one of 12 products of size about 1, each rounded to 2^-24 of it.
      for (int64_t j = 0; j < kHidden; ++j)
        ASSERT_NEAR(y(i, j), expected[static_cast<size_t>(j)], 1e-5) << experts << " " << i;
    }
  }
}

TEST(Mixture, KeepsWhatEachExpertReadsInTheOrderOfTokens) {
  Mixture mixture(config_of(8, 2, 16, true));
  MixtureSaved<float> saved(mixture.config, kTokens);
  mixture.forward(0, kTokens, saved);
  ASSERT_EQ(saved.offsets.size(), 9u);
  EXPECT_EQ(saved.offsets.back(), 2 * kTokens);
  std::vector<int> experts_of(kTokens, 0);
  for (int64_t e = 0; e < 8; ++e) {
    const MatView<const float> read = saved.input_of(hf::of_expert(e, LinearGroup::kGateUp));
    ASSERT_EQ(read.rows,
              saved.offsets[static_cast<size_t>(e) + 1] - saved.offsets[static_cast<size_t>(e)]);
    for (int64_t i = 0; i < read.rows; ++i) {
      const auto row = static_cast<size_t>(saved.offsets[static_cast<size_t>(e)] + i);
      const int64_t token = saved.tokens[row];
      EXPECT_TRUE(i == 0 || saved.tokens[row - 1] < token);
      ++experts_of[static_cast<size_t>(token)];
      EXPECT_TRUE(std::equal(read.row(i), read.row(i) + kHidden, mixture.x.row(token)));
    }
    EXPECT_EQ(saved.input_of(hf::of_expert(e, LinearGroup::kDown)).rows, read.rows);
  }
  EXPECT_EQ(experts_of, std::vector<int>(kTokens, 2));
  EXPECT_EQ(saved.input_of(hf::of_expert(8, LinearGroup::kGateUp)).rows, kTokens);
  EXPECT_EQ(saved.input_of(hf::of_expert(8, LinearGroup::kDown)).cols, 16);
}

TEST(Mixture, TakesTheFirstOfExpertsThatAreEquallyLikely) {
  Mixture mixture(config_of(6, 2, 0, true));
  mixture.weights.router.fill_zero();
  MixtureSaved<float> saved(mixture.config, kTokens);
  mixture.forward(0, kTokens, saved);
  EXPECT_EQ(saved.offsets, (std::vector<int64_t>{0, kTokens, 2 * kTokens, 2 * kTokens, 2 * kTokens,
                                                 2 * kTokens, 2 * kTokens}));
  for (const float weight : saved.weights) EXPECT_EQ(weight, 0.5f);
}

TEST(Mixture, IsTheSameOnAnyNumberOfThreads) {
  Mixture mixture(config_of(8, 3, 16, true));
  MixtureSaved<float> saved(mixture.config, kTokens);
  const int threads = num_threads();
  set_num_threads(1);
  const Mat<float> one = mixture.forward(0, kTokens, saved);
  set_num_threads(3);
  const Mat<float> three = mixture.forward(0, kTokens, saved);
  set_num_threads(threads);
  EXPECT_TRUE(std::equal(one.data(), one.data() + one.size(), three.data()));
}

TEST(Mixture, TakesTheMemoryThatItSays) {
  for (const int64_t shared : {0, 16}) {
    const hf::Config config = config_of(8, 3, shared, true);
    for (const bool with_backward : {false, true}) {
      const MixtureSaved<float> saved(config, 11, with_backward);
      int64_t sum = 0;
      for (const Mat<float>* m :
           {&saved.x, &saved.gate, &saved.up, &saved.act, &saved.shared_gate, &saved.shared_up,
            &saved.shared_act, &saved.y, &saved.shared_y, &saved.d_act})
        sum += m->size();
      EXPECT_EQ(sum, MixtureSaved<float>::num_values(config, 11, with_backward));
    }
  }
}

}  // namespace
}  // namespace laos::model
