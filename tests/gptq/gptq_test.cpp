#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/threads.h"
#include "gptq/quantize_layer.h"
#include "model/hidden_states.h"
#include "support/random.h"

namespace laos::gptq {
namespace {

using model::Linear;
using model::LinearGroup;
using test::normal_matrix;

hf::Config small_config() {
  hf::Config config;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  return config;
}

class GptqLayer : public testing::Test {
 protected:
  GptqLayer() : rope_(config_, 30), saved_(config_, 60, false) {
    uint32_t seed = 1;
    for (const Linear l : model::kAllLinears)
      weights_[l] = normal_matrix(model::out_features(config_, l), model::in_features(config_, l),
                                  ++seed, 0.3f);
    for (Mat<float>* norm : {&weights_.input_layernorm, &weights_.post_attention_layernorm,
                             &weights_.q_norm, &weights_.k_norm}) {
      *norm =
          Mat<float>(1, norm == &weights_.q_norm || norm == &weights_.k_norm ? config_.head_dim
                                                                             : config_.hidden_size);
      std::fill_n(norm->data(), norm->size(), 1.0f);
    }
    batch_.append(30);
    batch_.append(23);
    x_ = normal_matrix(53, config_.hidden_size, 50, 1);
    for (int64_t i = 0; i < x_.rows(); ++i) x_(i, 3) *= 9;  // an outlier channel
  }

  LayerScheme all(int weight_bits, int act_bits) const {
    LayerScheme scheme;
    scheme.fill(quant::LinearScheme{{.bits = weight_bits}, {.bits = act_bits}});
    return scheme;
  }
  Mat<float> run(model::LinearsForward<float>& linears) {
    Mat<float> y(53, config_.hidden_size);
    model::layer_forward<float>(config_, model::norms_of(weights_), linears, rope_, batch_,
                                std::as_const(x_).view(), saved_, y.view());
    return y;
  }
  Mat<float> run_float() {
    model::FloatLinears<float> linears(model::views_of(weights_));
    return run(linears);
  }
  // Of what a group reads in channel i, over all tokens.
  double square_of(LinearGroup group, int64_t i) const {
    double sum = 0;
    for (int64_t t = 0; t < 53; ++t) {
      const double x = saved_.input_of(group)(t, i);
      sum += x * x;
    }
    return sum;
  }
  InputGrams grams_of(const LayerScheme& scheme, bool with_cross) {
    InputGrams grams(config_, scheme, online_, {.refit = with_cross ? 1.0 : 0.0});
    run_float();
    grams.observe(saved_, 53);
    return grams;
  }

  // The quantized layer: activations and weights rounded as the engine does.
  struct Quantized : model::LinearsForward<float> {
    model::PerLinear<Mat<float>> weights;
    int act_bits = 4;
    void forward(LinearGroup group, MatView<const float> x,
                 std::span<const MatView<float>> ys) override {
      Mat<float> rounded(x.rows, x.cols);
      quant::fake_quantize_tokens(x, {.bits = act_bits}, rounded.view());
      const auto linears = model::linears_of(group);
      for (size_t i = 0; i < linears.size(); ++i)
        linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, std::as_const(rounded).view(),
                     std::as_const(weights[linears[i]]).view(), 0.0f, ys[i]);
    }
  };
  double error_of(const model::PerLinear<quant::IntWeight>& solved) {
    Quantized linears;
    for (const model::Linear l : model::kAllLinears)
      linears.weights[l] = quant::dequantize(solved[l]);
    const Mat<float> expected = run_float(), actual = run(linears);
    double error = 0;
    for (int64_t i = 0; i < actual.size(); ++i)
      error += std::pow(static_cast<double>(actual.data()[i]) - expected.data()[i], 2);
    return std::sqrt(error / static_cast<double>(actual.size()));
  }

  const hf::Config config_ = small_config();
  model::LayerWeights weights_;
  model::OnlineTransforms online_;
  model::Rope<float> rope_;
  model::LayerSaved<float> saved_;
  model::Ragged batch_;
  Mat<float> x_;
};

// A layer with experts, one of which the router sends nothing to.
class GptqOfExperts : public testing::Test {
 protected:
  static constexpr int64_t kTokens = 53, kUnseen = 2;

  static hf::Config config_of() {
    hf::Config config = small_config();
    config.num_experts = 5;
    config.num_experts_per_tok = 2;
    config.moe_intermediate_size = 16;
    config.norm_topk_prob = true;
    return config;
  }
  GptqOfExperts() {
    uint32_t seed = 1;
    for (const Linear l : model::linears_in(config_, 0))
      weights_[l] = normal_matrix(model::out_features(config_, l), model::in_features(config_, l),
                                  ++seed, 0.3f);
    router_ = normal_matrix(config_.num_experts, config_.hidden_size, 60, 1);
    x_ = normal_matrix(kTokens, config_.hidden_size, 50, 1);
    for (int64_t i = 0; i < x_.rows(); ++i) x_(i, 0) = 3;
    for (int64_t e = 0; e < config_.num_experts; ++e) router_(e, 0) = e == kUnseen ? -9.0f : 0.0f;
    model::FloatLinears<float> linears(model::views_of(weights_));
    Mat<float> y(kTokens, config_.hidden_size);
    std::copy_n(x_.data(), x_.size(), saved_.hidden_normed.data());
    model::mixture_forward<float>(config_, {.experts = router_.data()}, linears,
                                  saved_.hidden_normed.view().slice_rows(0, kTokens),
                                  saved_.mixture, y.view());
  }
  LayerScheme experts(int weight_bits, int act_bits) const {
    LayerScheme scheme;
    for (const Linear l : model::linears_in(config_, 0))
      if (hf::is_routed(config_, l))
        scheme[l] = quant::LinearScheme{{.bits = weight_bits}, {.bits = act_bits}};
    return scheme;
  }
  std::vector<InputGrams::Gram> grams_of(const LayerScheme& scheme) const {
    InputGrams grams(config_, scheme, online_, {});
    grams.observe(saved_, kTokens);
    return std::move(grams).take();
  }
  int64_t num_tokens(int64_t expert) const {
    const auto e = static_cast<size_t>(expert);
    return saved_.mixture.offsets[e + 1] - saved_.mixture.offsets[e];
  }

  const hf::Config config_ = config_of();
  model::LayerWeights weights_;
  Mat<float> router_, x_;
  const model::OnlineTransforms online_;
  model::LayerSaved<float> saved_{config_, kTokens, false};
};

// Of gate and up: its own tokens, and of all tokens' products as much as it is short of.
TEST_F(GptqOfExperts, GramsAreFilledUpWithTokensOfTheLayer) {
  const std::vector<InputGrams::Gram> grams = grams_of(experts(4, 16));
  ASSERT_EQ(std::ssize(grams), 2 * config_.num_experts);
  ASSERT_EQ(num_tokens(kUnseen), 0);
  for (const InputGrams::Gram& gram : grams) {
    if (!hf::reads_residual(gram.group)) continue;
    const int64_t expert = hf::expert_of(gram.group);
    EXPECT_EQ(gram.num_tokens, num_tokens(expert));
    const double share =
        static_cast<double>(4 * config_.hidden_size - num_tokens(expert)) / kTokens;
    const MatView<const float> own = saved_.mixture.input_of(gram.group);
    for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {3, 17}, {23, 5}}) {
      double expected = 0, size = 0;
      for (int64_t t = 0; t < own.rows; ++t) {
        expected += static_cast<double>(own.row(t)[i]) * own.row(t)[j];
        size += std::abs(static_cast<double>(own.row(t)[i]) * own.row(t)[j]);
      }
      for (int64_t t = 0; t < kTokens; ++t) {
        expected += share * x_(t, i) * x_(t, j);
        size += share * std::abs(static_cast<double>(x_(t, i)) * x_(t, j));
      }
      EXPECT_NEAR(gram.hessian(i, j), expected, 64 * 0x1p-24 * size) << expert;
    }
  }
}

// Where refits are chosen by tokens held back, these are among all of the layer's too.
TEST_F(GptqOfExperts, AverageTokensAreOfAll) {
  std::vector<Mat<float>> hessians;
  for (const std::optional<double> refit : {std::optional(1.0), std::optional<double>()}) {
    InputGrams grams(config_, experts(4, 4), online_, {.refit = refit});
    grams.observe(saved_, kTokens);
    for (InputGrams::Gram& gram : std::move(grams).take())
      if (hf::reads_residual(gram.group) && hf::expert_of(gram.group) == kUnseen)
        hessians.push_back(std::move(gram.hessian));
  }
  ASSERT_EQ(hessians.size(), 2u);
  EXPECT_GT(hessians[0](0, 0), 0);
  EXPECT_EQ(std::memcmp(hessians[0].data(), hessians[1].data(),
                        sizeof(float) * static_cast<size_t>(hessians[0].size())),
            0);
}

// Of down, whose inputs have a meaning of their own in each expert: their mean square alone.
TEST_F(GptqOfExperts, GramsOfDownAreFilledUpWithTheMeanSquareOfAll) {
  const MatView<const float> all =
      saved_.mixture.act.view().slice_rows(0, saved_.mixture.offsets.back());
  double square = 0;
  for (int64_t i = 0; i < all.rows; ++i)
    for (int64_t j = 0; j < all.cols; ++j) square += std::pow(double{all.row(i)[j]}, 2);
  square /= static_cast<double>(all.rows * all.cols);
  for (const InputGrams::Gram& gram : grams_of(experts(4, 16))) {
    if (hf::reads_residual(gram.group)) continue;
    const int64_t expert = hf::expert_of(gram.group);
    const MatView<const float> own = saved_.mixture.input_of(gram.group);
    const double missing =
        static_cast<double>(4 * config_.moe_intermediate_size - num_tokens(expert));
    for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {3, 3}, {3, 11}}) {
      double expected = i == j && missing > 0 ? missing * square : 0, size = expected;
      for (int64_t t = 0; t < own.rows; ++t) {
        expected += static_cast<double>(own.row(t)[i]) * own.row(t)[j];
        size += std::abs(static_cast<double>(own.row(t)[i]) * own.row(t)[j]);
      }
      EXPECT_NEAR(gram.hessian(i, j), expected, 64 * 0x1p-24 * size) << expert;
    }
  }
}

// In the metric of inputs that do not depend on each other the best codes are the nearest ones.
TEST_F(GptqOfExperts, AnUnseenOneIsRoundedToNearestWhereItReadsItsOwnInputs) {
  const LayerScheme scheme = experts(4, 16);
  InputGrams grams(config_, scheme, online_, {});
  grams.observe(saved_, kTokens);
  const auto solved = quantize_layer(config_, weights_, scheme, {}, std::move(grams));
  const Linear down = hf::of_expert(kUnseen, Linear::kDownProj),
               up = hf::of_expert(kUnseen, Linear::kUpProj);
  const MatView<const float> weight = weights_[down].view();
  const quant::IntWeight& codes = solved[down];
  for (int64_t i = 0; i < weight.rows; ++i)
    for (int64_t j = 0; j < weight.cols; ++j) {
      const float scale = codes.scale[static_cast<size_t>(i)];
      EXPECT_EQ(codes.q(i, j), std::clamp(std::nearbyint(weight.row(i)[j] / scale), -8.0f, 7.0f));
    }
  // What it reads is of the layer, whose products it is solved in.
  EXPECT_EQ(solved[up].q.size(), weights_[up].size());
}

// Whichever are solved for together, each has its own codes.
TEST_F(GptqOfExperts, DoNotDependOnEachOther) {
  const LayerScheme scheme = experts(4, 4);
  InputGrams grams(config_, scheme, online_, {.refit = 1});
  grams.observe(saved_, kTokens);
  const auto together = quantize_layer(config_, weights_, scheme, {}, std::move(grams));
  for (int64_t e = config_.num_experts; e-- > 0;) {
    LayerScheme one;
    for (const Linear kind : {Linear::kGateProj, Linear::kUpProj, Linear::kDownProj})
      one[hf::of_expert(e, kind)] = scheme[hf::of_expert(e, kind)];
    InputGrams own(config_, one, online_, {.refit = 1});
    own.observe(saved_, kTokens);
    const auto apart = quantize_layer(config_, weights_, one, {}, std::move(own));
    for (const Linear kind : {Linear::kGateProj, Linear::kUpProj, Linear::kDownProj}) {
      const Linear l = hf::of_expert(e, kind);
      ASSERT_EQ(together[l].q.size(), weights_[l].size());
      EXPECT_EQ(std::memcmp(together[l].q.data(), apart[l].q.data(),
                            static_cast<size_t>(apart[l].q.size())),
                0);
      EXPECT_EQ(together[l].scale, apart[l].scale);
    }
  }
}

TEST_F(GptqLayer, GramsAreThoseOfTheRoundedInputs) {
  LayerScheme scheme = all(4, 4);
  scheme[Linear::kOProj]->act.bits = 8;
  scheme[Linear::kDownProj] = std::nullopt;
  InputGrams grams = grams_of(scheme, true);
  grams.observe(saved_, 53);  // a second piece adds to the first
  for (const auto& [group, bits] : {std::pair{LinearGroup::kQkv, 4}, {LinearGroup::kO, 8}}) {
    const MatView<const float> x = saved_.input_of(group).view().slice_rows(0, 53);
    const InputGrams::Gram& gram = grams.of(group, {.bits = bits});
    for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {3, 17}, {17, 3}, {23, 5}}) {
      double expected = 0, cross = 0, size = 0;
      for (int64_t t = 0; t < x.rows; ++t) {
        double peak = 0;
        for (int64_t k = 0; k < x.cols; ++k) peak = std::max(peak, std::abs(double{x.row(t)[k]}));
        const float scale = static_cast<float>(peak) / (bits == 4 ? 7.0f : 127.0f);
        const auto rounded = [&](int64_t k) {
          return double{scale} * std::nearbyint(x.row(t)[k] / scale);
        };
        expected += 2 * rounded(i) * rounded(j);
        cross += 2 * rounded(i) * x.row(t)[j];
        size += 2 * peak * peak;
      }
      // 106 products, each off by a few roundings of numbers up to the peak squared.
      EXPECT_NEAR(gram.hessian(i, j), expected, size * 110 * 6e-8);
      EXPECT_NEAR(gram.cross(i, j), cross, size * 110 * 6e-8);
    }
  }
}

TEST_F(GptqLayer, GramsInBf16AreThoseOfTheInputsRoundedToIt) {
  const LayerScheme scheme = all(4, 4);
  InputGrams exact = grams_of(scheme, true),
             narrow(config_, scheme, online_,
                    {.refit = 1, .compute = linalg::ComputeType::kBf16});
  narrow.observe(saved_, 53);
  for (const LinearGroup group : model::kAllLinearGroups) {
    const InputGrams::Gram &a = exact.of(group, {.bits = 4}), &b = narrow.of(group, {.bits = 4});
    EXPECT_EQ(a.num_tokens, b.num_tokens);
    for (const auto& [f32, bf16] : {std::pair{&a.hessian, &b.hessian}, {&a.cross, &b.cross}})
      for (int64_t i = 0; i < f32->rows(); ++i)
        for (int64_t j = 0; j < f32->cols(); ++j)
          // Each factor of each term is off by at most 2^-8 of itself, and the sum of the terms'
          // sizes at most the root of the product of both sums of squares.
          ASSERT_NEAR((*f32)(i, j), (*bf16)(i, j),
                      0.008 * std::sqrt((a.hessian(i, i) + square_of(group, i)) *
                                        (a.hessian(j, j) + square_of(group, j))))
              << i << ", " << j;
  }
}

TEST_F(GptqLayer, RefitsLinearsOfFewInputsWhereItIsToldTo) {
  // down_proj has 40 inputs, the others 24 and 32.
  for (const std::optional<double> refit : {std::optional(1.0), std::optional<double>()}) {
    const InputGrams grams(config_, all(4, 4), online_, {.refit = refit, .refit_inputs = 32});
    for (const LinearGroup group : model::kAllLinearGroups) {
      const InputGrams::Gram& gram = grams.of(group, {.bits = 4});
      EXPECT_EQ(gram.cross.size() == 0, group == LinearGroup::kDown);
      EXPECT_EQ(gram.held.size() == 0, refit || group == LinearGroup::kDown);
    }
  }
}

TEST_F(GptqLayer, HoldsTheLastEighthOfAPieceBackWhereRefitsAreChosen) {
  const LayerScheme scheme = all(4, 4);
  InputGrams grams(config_, scheme, online_, {.refit = std::nullopt}),
      first(config_, scheme, online_, {.refit = 1});
  run_float();
  grams.observe(saved_, 53);
  first.observe(saved_, 47);
  for (const LinearGroup group : model::kAllLinearGroups) {
    const InputGrams::Gram &gram = grams.of(group, {.bits = 4}),
                           &of_47 = first.of(group, {.bits = 4});
    EXPECT_EQ(gram.num_tokens, 53);
    ASSERT_EQ(gram.num_held, 6);
    const int64_t in = gram.held.cols();
    Mat<float> rounded(53, in);
    const MatView<const float> x = saved_.input_of(group).view().slice_rows(0, 53);
    quant::fake_quantize_tokens(x, {.bits = 4}, rounded.view());
    for (int64_t i = 0; i < 6; ++i) {
      EXPECT_EQ(std::memcmp(gram.held.row(i), x.row(47 + i), sizeof(float) * in), 0);
      EXPECT_EQ(std::memcmp(gram.held_quantized.row(i), rounded.row(47 + i), sizeof(float) * in),
                0);
    }
    EXPECT_EQ(std::memcmp(gram.hessian.data(), of_47.hessian.data(), sizeof(float) * in * in), 0);
    EXPECT_EQ(std::memcmp(gram.cross.data(), of_47.cross.data(), sizeof(float) * in * in), 0);
  }
  for (int piece = 1; piece < 400; ++piece) grams.observe(saved_, 53);
  EXPECT_EQ(grams.of(LinearGroup::kQkv, {.bits = 4}).num_held, kMaxHeldBack);
}

// By hand: the choice, and codes of what it makes of the weight, in the products of all tokens.
TEST_F(GptqLayer, SolvesWithAllTokensOnceItsRefitIsChosen) {
  const LayerScheme scheme = all(4, 4);
  const GptqOptions options{.refit = std::nullopt};
  run_float();
  const auto observed = [&] {
    InputGrams grams(config_, scheme, online_, options);
    for (int piece = 0; piece < 3; ++piece) grams.observe(saved_, 53);
    return grams;
  };
  model::PerLinear<quant::Refit> refits;
  const model::PerLinear<quant::IntWeight> solved =
      quantize_layer(config_, weights_, scheme, options, observed(), &refits);
  const InputGrams grams = observed();
  const InputGrams::Gram& gram = grams.of(LinearGroup::kDown, {.bits = 4});
  ASSERT_EQ(gram.num_held, 18);
  const MatView<const float> x = gram.held.view().slice_rows(0, 18),
                             xq = gram.held_quantized.view().slice_rows(0, 18);
  const Mat<float>& weight = weights_[Linear::kDownProj];
  const quant::Refit chosen =
      quant::choose_refit(weight.view(), gram.cross.view(), gram.hessian.view(), 141, x, xq);
  EXPECT_GT(chosen.share, 0);
  EXPECT_EQ(refits[Linear::kDownProj].share, chosen.share);
  EXPECT_EQ(refits[Linear::kDownProj].damp, chosen.damp);
  Mat<float> hessian = gram.hessian.clone(), cross = gram.cross.clone();
  linalg::gram(xq, hessian.view(), 1.0f);
  linalg::gemm(linalg::Trans::kYes, linalg::Trans::kNo, 1.0f, xq, x, 1.0f, cross.view());
  const Mat<float> refitted = quant::refit(weight.view(), std::as_const(cross).view(),
                                           hessian.view(), chosen.damp, chosen.share);
  const quant::IntWeight expected =
      quant::quantize_gptq(refitted.view(), hessian.view(), {.bits = 4}, {});
  EXPECT_EQ(solved[Linear::kDownProj].scale, expected.scale);
  EXPECT_EQ(std::memcmp(solved[Linear::kDownProj].q.data(), expected.q.data(),
                        static_cast<size_t>(expected.q.size())),
            0);
}

// Exact inputs need no refit.
TEST_F(GptqLayer, ChoosesNoRefitForInputsThatStayAsTheyAre) {
  const LayerScheme scheme = all(4, 16);
  InputGrams grams(config_, scheme, online_, {.refit = std::nullopt});
  run_float();
  grams.observe(saved_, 53);
  model::PerLinear<quant::Refit> refits;
  quantize_layer(config_, weights_, scheme, {.refit = std::nullopt}, std::move(grams), &refits);
  for (const Linear l : model::kAllLinears) EXPECT_EQ(refits[l].share, 0);
}

TEST_F(GptqLayer, IsNearerToTheFloatLayerThanPlainRoundingAndRefitHelpsIt) {
  const LayerScheme scheme = all(4, 4);
  model::PerLinear<quant::IntWeight> rounded;
  for (const Linear l : model::kAllLinears)
    rounded[l] = quant::quantize_rtn(weights_[l].view(), {.bits = 4});
  const double plain = error_of(rounded);
  const double gptq =
      error_of(quantize_layer(config_, weights_, scheme, {}, grams_of(scheme, true)));
  const double refit =
      error_of(quantize_layer(config_, weights_, scheme, {.refit = 1}, grams_of(scheme, true)));
  EXPECT_LT(gptq, plain);
  EXPECT_LT(refit, gptq);
}

TEST(InputGrams, AreDampedTheMoreTheFewerTokensThereAreForEachInput) {
  EXPECT_EQ(InputGrams::damping(1536, 12288), 0.0625);
  EXPECT_EQ(InputGrams::damping(4096, 1'000'000), 0.05);
  EXPECT_EQ(InputGrams::damping(4096, 100), 1);
  EXPECT_EQ(InputGrams::damping(4096, 0), 1);
}

TEST_F(GptqLayer, AutoDampingIsThatOfItsTokens) {
  LayerScheme scheme;
  scheme[Linear::kOProj] = all(4, 4)[Linear::kOProj];
  const auto codes = [&](std::optional<double> damp) {
    auto solved =
        quantize_layer(config_, weights_, scheme, {.damp = damp}, grams_of(scheme, false));
    return std::move(solved[Linear::kOProj]);
  };
  const quant::IntWeight by_tokens = codes(std::nullopt),
                         same = codes(InputGrams::damping(weights_[Linear::kOProj].cols(), 53)),
                         other = codes(0.01);
  const auto size = static_cast<size_t>(by_tokens.q.size());
  EXPECT_EQ(std::memcmp(by_tokens.q.data(), same.q.data(), size), 0);
  EXPECT_NE(std::memcmp(by_tokens.q.data(), other.q.data(), size), 0);
}

TEST_F(GptqLayer, SolvesLinearsTogetherAsEachAlone) {
  const LayerScheme scheme = all(4, 4);
  const auto together =
      quantize_layer(config_, weights_, scheme, {.refine = 1}, grams_of(scheme, false));
  for (const Linear l : model::kAllLinears) {
    LayerScheme alone;
    alone[l] = scheme[l];
    const auto solved =
        quantize_layer(config_, weights_, alone, {.refine = 1}, grams_of(alone, false));
    for (const Linear other : model::kAllLinears)
      EXPECT_EQ(solved[other].q.size() != 0, other == l);
    EXPECT_EQ(solved[l].scale, together[l].scale);
    EXPECT_EQ(std::memcmp(solved[l].q.data(), together[l].q.data(),
                          static_cast<size_t>(solved[l].q.size())),
              0)
        << hf::short_name(l);
  }
}

// Linears of one input and two schemes: the refit is one, the codes are each scheme's.
TEST_F(GptqLayer, RefitsLinearsOfTwoSchemesAsEachAlone) {
  LayerScheme scheme = all(4, 4);
  scheme[Linear::kKProj]->weight.bits = 8;
  const GptqOptions options{.refit = 1};
  const auto together = quantize_layer(config_, weights_, scheme, options, grams_of(scheme, true));
  for (const Linear l : {Linear::kQProj, Linear::kKProj, Linear::kVProj}) {
    LayerScheme alone;
    alone[l] = scheme[l];
    const auto solved = quantize_layer(config_, weights_, alone, options, grams_of(alone, true));
    EXPECT_EQ(solved[l].spec, together[l].spec);
    EXPECT_EQ(solved[l].scale, together[l].scale);
    EXPECT_EQ(std::memcmp(solved[l].q.data(), together[l].q.data(),
                          static_cast<size_t>(solved[l].q.size())),
              0)
        << hf::short_name(l);
  }
}

TEST_F(GptqLayer, GivesTheSameBytesOnAnyNumberOfThreads) {
  const LayerScheme scheme = all(4, 8);
  const int before = num_threads();
  const auto solve = [&](int threads) {
    set_num_threads(threads);
    return quantize_layer(config_, weights_, scheme, {.refit = 1, .refine = 2},
                          grams_of(scheme, true));
  };
  const auto one = solve(1), three = solve(3);
  set_num_threads(before);
  for (const model::Linear l : model::kAllLinears) {
    EXPECT_EQ(one[l].scale, three[l].scale);
    EXPECT_EQ(std::memcmp(one[l].q.data(), three[l].q.data(), static_cast<size_t>(one[l].q.size())),
              0);
  }
}

TEST_F(GptqLayer, NamesTheLinearThatIsNotFinite) {
  const LayerScheme scheme = all(4, 4);
  InputGrams grams = grams_of(scheme, false);
  weights_[Linear::kOProj](2, 5) = std::nanf("");
  try {
    quantize_layer(config_, weights_, scheme, {}, std::move(grams));
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumeric);
    EXPECT_THAT(error.what(), testing::HasSubstr("self_attn.o_proj"));
  }
}

}  // namespace
}  // namespace laos::gptq
