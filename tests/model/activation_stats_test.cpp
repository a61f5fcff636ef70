#include "model/activation_stats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

namespace laos::model {
namespace {

class Stats : public testing::Test {
 protected:
  static constexpr int64_t kSpare = 4;  // rows of LayerSaved beyond the batch

  Stats() {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    for (const LinearGroup group : kAllLinearGroups) {
      const Mat<float>& x = input(saved_, group);
      for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = normal(generator);
      // The second sample is above zero throughout, and what is beyond the batch is not data.
      for (int64_t j = 0; j < x.cols(); ++j) x(3, j) = 0.25f + std::fabs(x(3, j));
      std::fill(x.row(batch_.num_tokens()), x.data() + x.size(), 1e6f);
    }
  }

  static hf::Config small_config() {
    hf::Config config;
    config.hidden_size = 10;
    config.intermediate_size = 600;  // more than two tasks' columns
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 6;
    return config;
  }
  static const Mat<float>& input(const LayerSaved<float>& saved, LinearGroup group) {
    if (group == LinearGroup::kQkv) return saved.input_normed;
    if (group == LinearGroup::kO) return saved.attention;
    return group == LinearGroup::kGateUp ? saved.hidden_normed : saved.act;
  }

  Mat<float> any_matrix(int64_t n) const {
    Mat<float> matrix(n, n);
    std::copy_n(saved_.act.data(), n * n, matrix.data());
    return matrix;
  }

  // Plain loops over the rows of `x`. The largest of floats is exact, so equality is too.
  void expect_ranges(const ActivationStats::Group& stats, const Mat<float>& x) const {
    ASSERT_EQ(static_cast<int64_t>(stats.peak.size()), x.cols());
    for (int64_t j = 0; j < x.cols(); ++j) {
      float peak = 0;
      for (int64_t i = 0; i < batch_.num_tokens(); ++i) peak = std::max(peak, std::fabs(x(i, j)));
      ASSERT_EQ(stats.peak[static_cast<size_t>(j)], peak) << j;
      double fourth_sum = 0;
      for (int64_t i = 0; i < batch_.num_tokens(); ++i)
        fourth_sum += std::pow(static_cast<double>(x(i, j)), 4);
      ASSERT_NEAR(stats.fourth_sum[static_cast<size_t>(j)], fourth_sum, 1e-12 * fourth_sum) << j;
      double relative_sum = 0;
      for (int64_t i = 0; i < batch_.num_tokens(); ++i) {
        double squares = 0;
        for (int64_t k = 0; k < x.cols(); ++k) squares += std::pow(static_cast<double>(x(i, k)), 2);
        const double rms = std::sqrt(squares / static_cast<double>(x.cols()));
        relative_sum += std::pow(x(i, j) / rms, 4);
      }
      ASSERT_NEAR(stats.relative_fourth_sum[static_cast<size_t>(j)], relative_sum,
                  1e-12 * relative_sum)
          << j;
    }
    EXPECT_EQ(stats.num_tokens, batch_.num_tokens());
    float min = 0, max = 0;
    double min_sum = 0, max_sum = 0;
    for (int64_t s = 0; s < batch_.num_sequences(); ++s) {
      float sample_min = 0, sample_max = 0;
      for (int64_t i = batch_.offsets[static_cast<size_t>(s)];
           i < batch_.offsets[static_cast<size_t>(s + 1)]; ++i)
        for (int64_t j = 0; j < x.cols(); ++j) {
          sample_min = std::min(sample_min, x(i, j));
          sample_max = std::max(sample_max, x(i, j));
        }
      min = std::min(min, sample_min);
      max = std::max(max, sample_max);
      min_sum += sample_min;
      max_sum += sample_max;
    }
    EXPECT_EQ(stats.min, min);
    EXPECT_EQ(stats.max, max);
    EXPECT_EQ(stats.min_sum, min_sum);
    EXPECT_EQ(stats.max_sum, max_sum);
    EXPECT_EQ(stats.num_samples, batch_.num_sequences());
  }

  const hf::Config config_ = small_config();
  const Ragged batch_{{0, 3, 4, 21}};
  const LayerSaved<float> saved_{config_, batch_.num_tokens() + kSpare, false};
};

TEST_F(Stats, AreThoseOfPlainLoops) {
  const OnlineTransforms none;
  ActivationStats stats(config_, none);
  stats.observe(batch_, saved_);
  for (const LinearGroup group : kAllLinearGroups)
    expect_ranges(stats[group], input(saved_, group));
}

TEST_F(Stats, RangesHoldZeroAndStartEmpty) {
  const OnlineTransforms none;
  ActivationStats stats(config_, none);
  EXPECT_EQ(stats[LinearGroup::kDown].num_samples, 0);
  EXPECT_EQ(stats[LinearGroup::kDown].max, 0.0f);
  // The sample that is above zero throughout, alone.
  Ragged one;
  one.append(1);
  LayerSaved<float> saved(config_, 1, false);
  for (const LinearGroup group : kAllLinearGroups)
    std::copy_n(input(saved_, group).row(3), input(saved_, group).cols(),
                input(saved, group).data());
  stats.observe(one, saved);
  for (const LinearGroup group : kAllLinearGroups) {
    EXPECT_EQ(stats[group].min, 0.0f);
    EXPECT_EQ(stats[group].min_sum, 0.0);
    EXPECT_GT(stats[group].max, 0.25f);
  }
}

TEST_F(Stats, DoNotDependOnHowSamplesAreBatched) {
  OnlineTransforms online;
  online[LinearGroup::kO] =
      std::make_shared<KroneckerTransform>(KroneckerTransform{any_matrix(4), Mat<float>(), 6});
  ActivationStats together(config_, online), apart(config_, online);
  together.observe(batch_, saved_);
  for (int64_t s = 0; s < batch_.num_sequences(); ++s) {
    Ragged one;
    one.append(batch_.length(s));
    LayerSaved<float> saved(config_, batch_.length(s), false);
    for (const LinearGroup group : kAllLinearGroups) {
      const Mat<float>& all = input(saved_, group);
      std::copy_n(all.row(batch_.offsets[static_cast<size_t>(s)]), batch_.length(s) * all.cols(),
                  input(saved, group).data());
    }
    apart.observe(one, saved);
  }
  for (const LinearGroup group : kAllLinearGroups) {
    EXPECT_EQ(together[group].peak, apart[group].peak);
    EXPECT_EQ(together[group].min, apart[group].min);
    EXPECT_EQ(together[group].max, apart[group].max);
    EXPECT_EQ(together[group].min_sum, apart[group].min_sum);
    EXPECT_EQ(together[group].max_sum, apart[group].max_sum);
    EXPECT_EQ(together[group].num_samples, apart[group].num_samples);
  }
}

TEST_F(Stats, GroupsThatAreRotatedAreSeenAsTheirLinearsSeeThem) {
  OnlineTransforms online;
  online[LinearGroup::kO] =
      std::make_shared<KroneckerTransform>(KroneckerTransform{any_matrix(4), Mat<float>(), 6});
  online[LinearGroup::kDown] =
      std::make_shared<KroneckerTransform>(KroneckerTransform{any_matrix(20), any_matrix(30), 30});
  ActivationStats stats(config_, online);
  stats.observe(batch_, saved_);
  for (const LinearGroup group : kAllLinearGroups) {
    const Mat<float>& x = input(saved_, group);
    if (const KroneckerTransform* rotation = online.of(group)) {
      Mat<float> rotated(x.rows(), x.cols());
      rotation->apply(x.view(), rotated.view());
      expect_ranges(stats[group], rotated);
      EXPECT_NE(stats[group].max, *std::max_element(x.data(), x.row(batch_.num_tokens())));
    } else {
      expect_ranges(stats[group], x);
    }
  }
}

}  // namespace
}  // namespace laos::model
