#include "smooth/smooth.h"
#include "support/layer.h"
#include "support/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>
#include <utility>

namespace laos::smooth {
namespace {

using model::Linear;
using model::LinearGroup;
using test::normal_matrix;
using test::random_layer;

hf::Config small_config() {
  hf::Config config;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.num_attention_heads = 6;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.dtype = DType::kBF16;
  return config;
}

LinearGroup targets_of(Pair pair) {
  if (pair == Pair::kUpDown) return LinearGroup::kDown;
  if (pair == Pair::kOv) return LinearGroup::kO;
  return pair == Pair::kInputNorm ? LinearGroup::kQkv : LinearGroup::kGateUp;
}

// What the pair's targets read, among what forward saves.
Mat<float>& input_of(model::LayerSaved<float>& saved, Pair pair) {
  if (pair == Pair::kUpDown) return saved.act;
  if (pair == Pair::kOv) return saved.attention;
  return pair == Pair::kInputNorm ? saved.input_normed : saved.hidden_normed;
}

// One value of the pair's source a channel that it divides: a gain, or the first of a row.
std::vector<float> source_values(const model::LayerWeights& weights, Pair pair) {
  std::vector<float> values;
  if (pair == Pair::kUpDown || pair == Pair::kOv) {
    const Mat<float>& w = weights[pair == Pair::kUpDown ? Linear::kUpProj : Linear::kVProj];
    for (int64_t i = 0; i < w.rows(); ++i) values.push_back(w(i, 0));
  } else {
    const Mat<float>& gain =
        pair == Pair::kInputNorm ? weights.input_layernorm : weights.post_attention_layernorm;
    values.assign(gain.data(), gain.data() + gain.size());
  }
  return values;
}

struct Smoothed {
  std::vector<double> peaks;  // of the targets' input channels
  model::LayerWeights before;
  model::LayerWeights after;
  std::vector<float> by_source;  // what each channel of the source was divided by
  // The factor of channel j of the targets.
  std::vector<float> by_target;
};

// Smooths one pair of a random layer whose targets read peaks[j] at most in channel j.
Smoothed smooth_with_peaks(const hf::Config& config, const SmoothOptions& options, Pair pair,
                           std::vector<double> peaks) {
  Smoothed result{std::move(peaks), random_layer(config, 0.1f), random_layer(config, 0.1f), {}, {}};
  model::Ragged batch;
  batch.append(2);
  model::LayerSaved<float> saved(config, 2, false);
  for (const Pair p : kAllPairs) input_of(saved, p).fill_zero();
  for (size_t j = 0; j < result.peaks.size(); ++j)
    input_of(saved, pair)(static_cast<int64_t>(j % 2), static_cast<int64_t>(j)) =
        static_cast<float>(j % 3 == 0 ? -result.peaks[j] : result.peaks[j]);
  const model::OnlineTransforms none;
  model::ActivationStats stats(config, none);
  stats.observe(batch, saved);
  smooth_pair(config, options, pair, stats, result.after);

  // Factors hold 8 bits at most, so rounding the quotient of f32 values finds them again.
  const std::vector<float> old_values = source_values(result.before, pair),
                           new_values = source_values(result.after, pair);
  for (size_t j = 0; j < old_values.size(); ++j)
    result.by_source.push_back(round_to(DType::kBF16, old_values[j] / new_values[j]));
  const Linear target = model::linears_of(targets_of(pair)).front();
  for (size_t j = 0; j < result.peaks.size(); ++j)
    result.by_target.push_back(
        round_to(DType::kBF16, result.after[target].row(1)[j] / result.before[target].row(1)[j]));
  return result;
}

std::vector<double> normal_peaks(const hf::Config& config, Pair pair) {
  const auto n =
      static_cast<size_t>(model::in_features(config, model::linears_of(targets_of(pair)).front()));
  std::vector<double> peaks(n);
  std::mt19937 generator(3);
  std::lognormal_distribution<float> large(0, 2);
  for (double& peak : peaks) peak = large(generator);  // f32 values, as stats hold them
  return peaks;
}

// The rule in f64 and by logarithms: a_j^alpha / w_j^(1 - alpha), not rounded.
double formula(const Smoothed& smoothed, const SmoothOptions& options, Pair pair, size_t j) {
  double w = 1e-5;
  for (const Linear l : model::linears_of(targets_of(pair)))
    for (int64_t i = 0; i < smoothed.before[l].rows(); ++i)
      w = std::max(w, std::fabs(static_cast<double>(smoothed.before[l].row(i)[j])));
  const double s =
      std::exp(options.alpha * std::log(smoothed.peaks[j]) - (1 - options.alpha) * std::log(w));
  return std::max(options.scale_min, s);
}

// `s` is a bf16 and none is nearer to `exact`: off by at most half a step, which is 2^-8 of the
// power of two below, and by f64's and f32's rounding on the way.
void expect_nearest_bf16(float s, double exact, size_t j) {
  EXPECT_EQ(s, round_to(DType::kBF16, s)) << j;
  const double power = std::exp2(std::floor(std::log2(exact)));
  EXPECT_NEAR(s, exact, power * (0x1p-8 + 4 * FLT_EPSILON)) << j;
}

const char* name_of(Pair pair) {
  if (pair == Pair::kUpDown) return "UpDown";
  if (pair == Pair::kOv) return "Ov";
  return pair == Pair::kInputNorm ? "InputNorm" : "PostAttentionNorm";
}

class SmoothPair : public testing::TestWithParam<Pair> {};
INSTANTIATE_TEST_SUITE_P(Each, SmoothPair, testing::ValuesIn(kAllPairs),
                         [](const auto& p) { return name_of(p.param); });

// Of the float layer before and after, both run in f64.
Mat<double> run_layer(const hf::Config& config, const model::LayerWeights& weights,
                      const Mat<float>& x) {
  const auto widened = [](const Mat<float>& m) {
    Mat<double> wide(m.rows(), m.cols());
    std::copy_n(m.data(), m.size(), wide.data());
    return wide;
  };
  model::PerLinear<Mat<double>> linears;
  model::FloatLinears<double>::Weights views;
  for (const model::Linear l : model::kAllLinears) {
    linears[l] = widened(weights.linears[l]);
    views.linears[l] = std::as_const(linears[l]).view();
  }
  const Mat<double> gains[] = {widened(weights.input_layernorm),
                               widened(weights.post_attention_layernorm), widened(weights.q_norm),
                               widened(weights.k_norm)};
  const Mat<double> wide_x = widened(x);
  model::Ragged batch;
  batch.append(5);
  batch.append(x.rows() - 5);
  model::FloatLinears<double> float_linears(views);
  model::LayerSaved<double> saved(config, x.rows(), false);
  Mat<double> y(x.rows(), x.cols());
  model::layer_forward<double>(
      config, {gains[0].data(), gains[1].data(), gains[2].data(), gains[3].data()}, float_linears,
      model::Rope<double>(config, x.rows()), batch, wide_x.view(), saved, y.view());
  return y;
}

void expect_same_function(const hf::Config& config, const model::LayerWeights& before,
                          const model::LayerWeights& after) {
  const Mat<float> x = normal_matrix(13, config.hidden_size, 30);
  const Mat<double> expected = run_layer(config, before, x), y = run_layer(config, after, x);
  // A weight and the one that makes up for it are each off by half of FLT_EPSILON, so each of at
  // most 24 terms of a linear by FLT_EPSILON of itself; four linears in a row, values of order 10.
  for (int64_t i = 0; i < y.size(); ++i)
    ASSERT_NEAR(y.data()[i], expected.data()[i], 4 * 24 * FLT_EPSILON * 10) << i;
}

TEST_P(SmoothPair, KeepsTheLayersFunction) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    hf::Config config = small_config();
    config.dtype = dtype;
    const Smoothed smoothed =
        smooth_with_peaks(config, {.alpha = 0.6}, GetParam(), normal_peaks(config, GetParam()));
    EXPECT_NE(source_values(smoothed.before, GetParam()),
              source_values(smoothed.after, GetParam()));
    expect_same_function(config, smoothed.before, smoothed.after);
  }
}

// kOv shares factors and has a test of its own.
class FactorsOfOneChannel : public SmoothPair {};
INSTANTIATE_TEST_SUITE_P(Each, FactorsOfOneChannel,
                         testing::Values(Pair::kUpDown, Pair::kInputNorm, Pair::kPostAttentionNorm),
                         [](const auto& p) { return name_of(p.param); });

TEST_P(FactorsOfOneChannel, AreTheFormulasRoundedToBF16) {
  const hf::Config config = small_config();
  for (const double alpha : {0.9, 0.5}) {
    const SmoothOptions options{.alpha = alpha};
    const Smoothed smoothed =
        smooth_with_peaks(config, options, GetParam(), normal_peaks(config, GetParam()));
    ASSERT_EQ(smoothed.by_target, smoothed.by_source);
    for (size_t j = 0; j < smoothed.by_target.size(); ++j)
      expect_nearest_bf16(smoothed.by_target[j], formula(smoothed, options, GetParam(), j), j);
  }
}

// Of two tokens, the channel's peak is in one and the other is zero: (peak⁴ / 2)^(1/4).
TEST_P(FactorsOfOneChannel, OfTheL4StatisticAreTheFormulaOfTheFourthPowerMean) {
  const hf::Config config = small_config();
  const SmoothOptions options{.alpha = 0.6, .statistic = Statistic::kL4};
  Smoothed smoothed =
      smooth_with_peaks(config, options, GetParam(), normal_peaks(config, GetParam()));
  for (double& peak : smoothed.peaks) peak *= std::pow(0.5, 0.25);
  for (size_t j = 0; j < smoothed.by_target.size(); ++j)
    expect_nearest_bf16(smoothed.by_target[j], formula(smoothed, options, GetParam(), j), j);
}

// A token a thousand times as large as the others, as real models have, has one voice of many: the
// factors are those without it but for what that voice says.
TEST(Smooth, ByTheTokenL4StatisticAMassiveTokenDoesNotDecide) {
  const hf::Config config = small_config();
  constexpr int64_t kTokens = 200;
  const auto factors_with = [&](Statistic statistic, float last_token) {
    model::LayerSaved<float> saved(config, kTokens, false);
    for (const Pair p : kAllPairs) input_of(saved, p).fill_zero();
    Mat<float>& input = input_of(saved, Pair::kUpDown);
    const Mat<float> normal = normal_matrix(kTokens, input.cols(), 8);
    std::copy_n(normal.data(), normal.size(), input.data());
    // The massive one is large in channel 0 alone.
    input(kTokens - 1, 0) *= last_token;
    model::Ragged batch;
    batch.append(kTokens);
    const model::OnlineTransforms none;
    model::ActivationStats stats(config, none);
    stats.observe(batch, saved);
    const model::LayerWeights before = random_layer(config, 0.1f);
    model::LayerWeights after = random_layer(config, 0.1f);
    smooth_pair(config, {.alpha = 0.6, .statistic = statistic}, Pair::kUpDown, stats, after);
    return source_values(before, Pair::kUpDown)[0] / source_values(after, Pair::kUpDown)[0];
  };
  EXPECT_GT(factors_with(Statistic::kL4, 1000) / factors_with(Statistic::kL4, 1), 20);
  // One token of 200 puts at most cols² into a mean that was about 3.
  const double width = static_cast<double>(config.intermediate_size);
  const double most = std::pow((3 + width * width / kTokens) / 2, 0.25 * 0.6);
  const double ratio =
      factors_with(Statistic::kTokenL4, 1000) / factors_with(Statistic::kTokenL4, 1);
  EXPECT_LT(ratio, most);
  EXPECT_GT(ratio, 0.9);
}

// The factors multiply every column of the targets, divide every row of the source, and touch
// nothing else.
TEST_P(SmoothPair, ChangesTargetsAndSourceOnly) {
  hf::Config config = small_config();
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  const Smoothed smoothed =
      smooth_with_peaks(config, {}, GetParam(), normal_peaks(config, GetParam()));
  const std::span<const Linear> targets = model::linears_of(targets_of(GetParam()));
  for (const Linear l : model::kAllLinears) {
    const Mat<float>&before = smoothed.before[l], &after = smoothed.after[l];
    const bool is_target = std::find(targets.begin(), targets.end(), l) != targets.end();
    const bool is_source = (GetParam() == Pair::kUpDown && l == Linear::kUpProj) ||
                           (GetParam() == Pair::kOv && l == Linear::kVProj);
    for (int64_t i = 0; i < before.rows(); ++i)
      for (int64_t j = 0; j < before.cols(); ++j) {
        float expected = before(i, j);
        if (is_target) expected *= smoothed.by_target[static_cast<size_t>(j)];
        if (is_source) expected /= smoothed.by_source[static_cast<size_t>(i)];
        ASSERT_EQ(after(i, j), expected) << hf::short_name(l) << " " << i << ", " << j;
      }
    for (int64_t i = 0; i < before.rows(); ++i) {
      float expected = smoothed.before.biases[l](0, i);
      if (is_source) expected /= smoothed.by_source[static_cast<size_t>(i)];
      ASSERT_EQ(smoothed.after.biases[l](0, i), expected) << hf::short_name(l) << " " << i;
    }
  }
  const auto expect_gain = [&](const Mat<float>& before, const Mat<float>& after, bool is_source) {
    for (int64_t j = 0; j < before.cols(); ++j)
      EXPECT_EQ(after(0, j), is_source ? before(0, j) / smoothed.by_source[static_cast<size_t>(j)]
                                       : before(0, j));
  };
  expect_gain(smoothed.before.input_layernorm, smoothed.after.input_layernorm,
              GetParam() == Pair::kInputNorm);
  expect_gain(smoothed.before.post_attention_layernorm, smoothed.after.post_attention_layernorm,
              GetParam() == Pair::kPostAttentionNorm);
  expect_gain(smoothed.before.q_norm, smoothed.after.q_norm, false);
  expect_gain(smoothed.before.k_norm, smoothed.after.k_norm, false);
}

TEST_P(SmoothPair, ChannelsWithoutActivationGetTheSmallestFactor) {
  const hf::Config config = small_config();
  std::vector<double> peaks = normal_peaks(config, GetParam());
  // Of all heads, so that the mean over heads is the smallest factor too.
  for (size_t j = 1; j < peaks.size(); j += 4) peaks[j] = 0;
  for (const double scale_min : {1e-5, 0.3}) {
    const SmoothOptions options{.scale_min = scale_min};
    const Smoothed smoothed = smooth_with_peaks(config, options, GetParam(), peaks);
    const float smallest = round_to(DType::kBF16, static_cast<float>(scale_min));
    for (size_t j = 0; j < peaks.size(); ++j) {
      if (peaks[j] == 0)
        EXPECT_EQ(smoothed.by_target[j], smallest) << j;
      else
        EXPECT_GE(smoothed.by_target[j], smallest) << j;
    }
    expect_same_function(config, smoothed.before, smoothed.after);
  }
}

TEST(SmoothOv, SharesTheMeanOfTheQueryHeadsOfAKvHead) {
  const hf::Config config = small_config();
  const SmoothOptions options{.alpha = 0.7};
  const Smoothed smoothed =
      smooth_with_peaks(config, options, Pair::kOv, normal_peaks(config, Pair::kOv));
  const size_t hd = 4, group = 3;
  ASSERT_EQ(smoothed.by_source.size(), 2 * hd);
  ASSERT_EQ(smoothed.by_target.size(), 6 * hd);
  for (size_t kv = 0; kv < 2; ++kv)
    for (size_t d = 0; d < hd; ++d) {
      const float shared = smoothed.by_source[kv * hd + d];
      double mean = 0, rounding = 0;
      for (size_t h = kv * group; h < (kv + 1) * group; ++h) {
        const double s = formula(smoothed, options, Pair::kOv, h * hd + d);
        mean += s / group;
        rounding += s / group * (0x1p-8 + 4 * FLT_EPSILON);  // each factor is a bf16
        EXPECT_EQ(smoothed.by_target[h * hd + d], shared) << h << ", " << d;
      }
      EXPECT_EQ(shared, round_to(DType::kBF16, shared));
      EXPECT_NEAR(shared, mean, 2 * rounding);  // and so is their mean
    }
}

// Columns of zeros count as weights of 1e-5.
TEST(SmoothUpDown, AColumnOfZerosHasAFiniteFactor) {
  const hf::Config config = small_config();
  model::LayerWeights weights = random_layer(config, 0.1f);
  Mat<float>& down = weights[Linear::kDownProj];
  for (int64_t i = 0; i < down.rows(); ++i) down(i, 5) = 0;
  const float up = weights[Linear::kUpProj](5, 0);
  model::Ragged batch;
  batch.append(1);
  model::LayerSaved<float> saved(config, 1, false);
  for (const Pair p : kAllPairs) input_of(saved, p).fill_zero();
  saved.act(0, 5) = 2;
  const model::OnlineTransforms none;
  model::ActivationStats stats(config, none);
  stats.observe(batch, saved);
  smooth_pair(config, {.alpha = 0.8}, Pair::kUpDown, stats, weights);
  // 2^0.8 / 1e-5^0.2 = 2^0.8 * 10
  expect_nearest_bf16(round_to(DType::kBF16, up / weights[Linear::kUpProj](5, 0)),
                      std::exp2(0.8) * 10, 5);
}

TEST(SmoothUpDown, AFactorBeyondTheDtypeLeavesItsChannelAsItIs) {
  hf::Config config = small_config();
  config.dtype = DType::kF16;
  std::vector<double> peaks = normal_peaks(config, Pair::kUpDown);
  peaks[7] = 1e8;  // 1e8^0.9 is above 65504
  const Smoothed smoothed = smooth_with_peaks(config, {}, Pair::kUpDown, peaks);
  EXPECT_EQ(smoothed.by_target[7], 1.0f);
  EXPECT_EQ(smoothed.after[Linear::kUpProj](7, 3), smoothed.before[Linear::kUpProj](7, 3));
  EXPECT_NE(smoothed.by_target[8], 1.0f);
}

// As the pipeline does it: statistics of the layer that is there, all pairs one after the other.
TEST(SmoothAllPairs, KeepTheFunctionAndTameOutliers) {
  const hf::Config config = small_config();
  model::LayerWeights weights = random_layer(config, 0.1f);
  weights.input_layernorm(0, 3) = 60;
  weights.post_attention_layernorm(0, 8) = 40;
  const model::LayerWeights before = [&] {
    model::LayerWeights copy = random_layer(config, 0.1f);
    copy.input_layernorm = weights.input_layernorm.clone();
    copy.post_attention_layernorm = weights.post_attention_layernorm.clone();
    return copy;
  }();
  const Mat<float> x = normal_matrix(13, config.hidden_size, 31);
  model::Ragged batch;
  batch.append(13);
  model::LayerSaved<float> saved(config, 13, false);
  const auto spread = [&] {  // largest over smallest peak of what gate and up read
    model::FloatLinears<float> linears(model::views_of(weights));
    Mat<float> y(13, config.hidden_size);
    model::layer_forward<float>(config, model::norms_of(weights), linears,
                                model::Rope<float>(config, 13), batch, x.view(), saved, y.view());
    const model::OnlineTransforms none;
    model::ActivationStats stats(config, none);
    stats.observe(batch, saved);
    const std::vector<float>& peaks = stats[LinearGroup::kGateUp].peak;
    const float result = *std::max_element(peaks.begin(), peaks.end()) /
                         *std::min_element(peaks.begin(), peaks.end());
    return std::pair(result, std::move(stats));
  };
  const auto [spread_before, stats] = spread();
  for (const Pair pair : kAllPairs) smooth_pair(config, {}, pair, stats, weights);
  expect_same_function(config, before, weights);
  EXPECT_GT(spread_before, 20);
  EXPECT_LT(spread().first, 3);
}

TEST(SmoothPairs, AreNamedByTheirSourceAndEnabledByKind) {
  EXPECT_EQ(source_of({}, 3, Pair::kUpDown), "model.layers.3.mlp.up_proj");
  EXPECT_EQ(source_of({}, 0, Pair::kOv), "model.layers.0.self_attn.v_proj");
  EXPECT_EQ(source_of({}, 12, Pair::kInputNorm), "model.layers.12.input_layernorm");
  EXPECT_EQ(source_of({}, 1, Pair::kPostAttentionNorm), "model.layers.1.post_attention_layernorm");
  const SmoothOptions norms{.norm_linear = true, .ov = false, .up_down = false};
  EXPECT_TRUE(is_enabled(norms, Pair::kInputNorm));
  EXPECT_TRUE(is_enabled(norms, Pair::kPostAttentionNorm));
  EXPECT_FALSE(is_enabled(norms, Pair::kOv));
  EXPECT_FALSE(is_enabled(norms, Pair::kUpDown));
  EXPECT_TRUE(is_enabled({.norm_linear = false, .ov = true, .up_down = false}, Pair::kOv));
  EXPECT_TRUE(is_enabled({.norm_linear = false, .ov = false, .up_down = true}, Pair::kUpDown));
}

}  // namespace
}  // namespace laos::smooth
