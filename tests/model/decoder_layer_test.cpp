#include "model/decoder_layer.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <ostream>
#include <random>
#include <utility>

#include "core/threads.h"
#include "hf/family.h"
#include "io/safetensors.h"
#include "model/kernels/elementwise.h"

namespace laos::model {
namespace {

struct Case {
  const char* name;
  int64_t hidden_size, intermediate_size, heads, kv_heads, head_dim;
  std::vector<int64_t> lengths;
  const char* architecture = "Qwen3ForCausalLM";
  int64_t num_experts = 0, top = 0, shared = 0;  // of intermediate_size each
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

hf::Config config_of(const Case& c) {
  hf::Config config;
  for (const hf::Family& family : hf::families())
    if (family.architecture == c.architecture) config.family = &family;
  // Biases wherever a family may have them.
  config.qkv_bias = config.family->qkv_bias || config.family->attention_bias;
  config.o_bias = config.family->attention_bias;
  config.mlp_bias = config.family->mlp_bias;
  config.hidden_size = c.hidden_size;
  config.intermediate_size = c.intermediate_size;
  config.num_attention_heads = c.heads;
  config.num_key_value_heads = c.kv_heads;
  config.head_dim = c.head_dim;
  config.rms_norm_eps = 1e-6;
  config.rope_theta = 10000;
  config.num_experts = c.num_experts;
  config.num_experts_per_tok = c.top;
  config.moe_intermediate_size = c.num_experts > 0 ? c.intermediate_size : 0;
  config.shared_expert_intermediate_size = c.shared;
  return config;
}

// A layer with random f64 weights, gains and gradients.
struct Layer64 {
  hf::Config config;
  Ragged batch;
  std::mt19937 generator{7};
  PerLinear<Mat<double>> weights, d_weights, biases;
  std::array<Mat<double>, 4> gains, d_gains;
  Mat<double> x, target, y, d_y, d_x;
  Mat<double> router, shared_gate;
  // Of each token in turn the experts it goes to, and their weights.
  std::vector<int32_t> held_experts;
  std::vector<double> held_weights;

  Mat<double> normal(int64_t rows, int64_t cols, double mean, double sigma) {
    std::normal_distribution<double> distribution(mean, sigma);
    Mat<double> matrix(rows, cols);
    for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = distribution(generator);
    return matrix;
  }

  explicit Layer64(const Case& c) : config(config_of(c)) {
    for (const int64_t length : c.lengths) batch.append(length);
    for (const Linear l : linears_in(config, 0)) {
      const int64_t in = in_features(config, l), out = out_features(config, l);
      weights[l] = normal(out, in, 0, 1 / std::sqrt(static_cast<double>(in)));
      d_weights[l] = Mat<double>(out, in);
      d_weights[l].fill_zero();  // experts that no token goes to have no gradient
      if (has_bias(config, l)) biases[l] = normal(1, out, 0, 0.5);
    }
    const int64_t sizes[] = {config.hidden_size, config.hidden_size, config.head_dim,
                             config.head_dim};
    for (size_t i = 0; i < 4; ++i) {
      gains[i] = normal(1, sizes[i], 1, 0.3);
      d_gains[i] = Mat<double>(1, sizes[i]);
      d_gains[i].fill_zero();
    }
    const int64_t n = batch.num_tokens();
    if (config.num_experts > 0) hold_routes(n);
    x = normal(n, config.hidden_size, 0, 1);
    target = normal(n, config.hidden_size, 0, 1);
    y = Mat<double>(n, config.hidden_size);
    d_y = Mat<double>(n, config.hidden_size);
    d_x = Mat<double>(n, config.hidden_size);
  }

  // Expert 1 gets no token.
  void hold_routes(int64_t n) {
    router = normal(config.num_experts, config.hidden_size, 0, 1);
    if (config.shared_expert_intermediate_size > 0)
      shared_gate = normal(1, config.hidden_size, 0, 1);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < config.num_experts_per_tok; ++j) {
        const int64_t first = i % 2 == 0 ? 0 : 2;
        held_experts.push_back(static_cast<int32_t>(j == 0 ? first : first + 1 + j));
        held_weights.push_back(0.2 + 0.1 * static_cast<double>((i + 2 * j) % 5));
      }
  }
  void hold(LayerSaved<double>& saved) const {
    const auto count = static_cast<size_t>(config.num_experts_per_tok * batch.num_tokens());
    saved.mixture.held_experts = std::span(held_experts).first(count);
    saved.mixture.held_weights = std::span(held_weights).first(count);
  }

  LayerNorms<double> norms() const {
    const bool qk_norm = config.family->qk_norm;
    return {.input_layernorm = gains[0].data(),
            .post_attention_layernorm = gains[1].data(),
            .q_norm = qk_norm ? gains[2].data() : nullptr,
            .k_norm = qk_norm ? gains[3].data() : nullptr,
            .routers = {router.data(), shared_gate.data()}};
  }
  FloatLinears<double> linears(bool with_grads) {
    FloatLinears<double>::Weights w;
    FloatLinears<double>::Grads g;
    for (const Linear l : linears_in(config, 0)) {
      w.linears[l] = weights[l].view();
      if (biases[l].size() != 0) w.biases[l] = biases[l].data();
      if (with_grads) g[l] = d_weights[l].view();
    }
    return FloatLinears<double>(w, g);
  }

  // Smooth, so that finite differences hold everywhere: sum (y - target)^2 / 2.
  double loss() {
    LayerSaved<double> saved(config, batch.num_tokens(), false);
    hold(saved);
    const Rope<double> rope(config, 64);
    FloatLinears<double> l = linears(false);
    const int64_t n = batch.num_tokens();
    layer_forward<double>(config, norms(), l, rope, batch, x.view().slice_rows(0, n), saved,
                          y.view().slice_rows(0, n));
    double sum = 0;
    for (int64_t i = 0; i < n * config.hidden_size; ++i)
      sum += 0.5 * std::pow(y.data()[i] - target.data()[i], 2);
    return sum;
  }

  void backward() {
    LayerSaved<double> saved(config, batch.num_tokens(), true);
    hold(saved);
    const Rope<double> rope(config, 64);
    FloatLinears<double> l = linears(true);
    layer_forward<double>(config, norms(), l, rope, batch, x.view(), saved, y.view());
    for (int64_t i = 0; i < y.size(); ++i) d_y.data()[i] = y.data()[i] - target.data()[i];
    const NormGrads<double> d_norms = {d_gains[0].data(), d_gains[1].data(), d_gains[2].data(),
                                       d_gains[3].data()};
    layer_backward<double>(config, norms(), l, rope, batch, x.view(), saved, d_y.view(), d_x.view(),
                           &d_norms);
  }
};

class DecoderLayer : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    OddShapes, DecoderLayer,
    testing::Values(Case{"OneKvHead", 10, 14, 3, 1, 4, {5, 1, 7}},
                    Case{"HeadsTimesDimAboveHidden", 6, 9, 4, 2, 6, {3, 11}},
                    Case{"OneToken", 8, 5, 2, 2, 2, {1}},
                    Case{"AsManyKvHeads", 7, 11, 3, 3, 8, {9}},
                    Case{"LlamaWithBiases", 10, 14, 3, 1, 4, {5, 1, 7}, "LlamaForCausalLM"},
                    Case{"Qwen2", 6, 9, 4, 2, 6, {3, 11}, "Qwen2ForCausalLM"},
                    Case{"Mistral", 8, 5, 7, 1, 2, {9}, "MistralForCausalLM"},
                    Case{"Experts", 6, 5, 4, 2, 2, {5, 4}, "Qwen3MoeForCausalLM", 5, 2},
                    Case{"SharedExpert", 6, 5, 4, 2, 2, {7}, "Qwen2MoeForCausalLM", 4, 1, 7}),
    [](const auto& p) { return p.param.name; });

TEST_P(DecoderLayer, GradientMatchesFiniteDifferenceForEveryParameterAndTheInput) {
  Layer64 layer(GetParam());
  layer.backward();
  double loss_scale = layer.loss();
  const auto check = [&](Mat<double>& parameter, const Mat<double>& gradient, const char* name) {
    for (int64_t i = 0; i < parameter.size(); ++i) {
      const double kept = parameter.data()[i], step = 1e-5;
      parameter.data()[i] = kept + step;
      const double above = layer.loss();
      parameter.data()[i] = kept - step;
      const double below = layer.loss();
      parameter.data()[i] = kept;
      // Central difference: step² of curvature error, and f64 rounding of the loss over the step.
      const double tolerance =
          1e-6 * std::fabs(gradient.data()[i]) + 1e-7 + 64 * DBL_EPSILON * loss_scale / step;
      ASSERT_NEAR(gradient.data()[i], (above - below) / (2 * step), tolerance)
          << name << " element " << i;
    }
  };
  for (const Linear l : linears_in(layer.config, 0))
    check(layer.weights[l], layer.d_weights[l], std::string(path_of(layer.config, l)).c_str());
  const char* norm_names[] = {"input_layernorm", "post_attention_layernorm", "q_norm", "k_norm"};
  for (size_t i = 0; i < 4; ++i) check(layer.gains[i], layer.d_gains[i], norm_names[i]);
  check(layer.x, layer.d_x, "x");
}

TEST_P(DecoderLayer, ABatchOfSequencesEqualsEachAlone) {
  Layer64 together(GetParam());
  together.loss();
  const Mat<double> y = together.y.clone();
  const Ragged batch = together.batch;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    Layer64 alone(GetParam());
    alone.batch = Ragged{};
    alone.batch.append(batch.length(s));
    const int64_t begin = batch.offsets[static_cast<size_t>(s)], width = alone.config.hidden_size;
    std::copy_n(together.x.row(begin), batch.length(s) * width, alone.x.data());
    const int64_t held = begin * alone.config.num_experts_per_tok;
    alone.held_experts.erase(alone.held_experts.begin(), alone.held_experts.begin() + held);
    alone.held_weights.erase(alone.held_weights.begin(), alone.held_weights.begin() + held);
    alone.loss();
    for (int64_t i = 0; i < batch.length(s) * width; ++i)
      ASSERT_DOUBLE_EQ(alone.y.data()[i], y.row(begin)[i]) << "sequence " << s;
  }
}

// Goldens of an independent implementation (tests/golden/qwen3-tiny/README.md).
class QwenTinyGolden : public testing::Test {
 protected:
  const std::filesystem::path golden_ = LAOS_SOURCE_DIR "/tests/golden/qwen3-tiny";
  const Checkpoint checkpoint_ = Checkpoint::open(LAOS_SOURCE_DIR "/models/qwen3-tiny");
};

double rms(const Mat<float>& matrix) {
  double sum = 0;
  for (int64_t i = 0; i < matrix.size(); ++i)
    sum += static_cast<double>(matrix.data()[i]) * matrix.data()[i];
  return std::sqrt(sum / static_cast<double>(matrix.size()));
}

TEST_F(QwenTinyGolden, HiddenStatesMatchLayerByLayer) {
  const io::TensorFiles files = io::TensorFiles::open_files({golden_ / "forward.safetensors"});
  const TensorView& golden = files.at("hidden_states");  // [9, 61, 256]
  const int64_t n = golden.shape[1], width = golden.shape[2];
  Ragged batch;
  batch.append(n);
  const hf::Config& config = checkpoint_.config();
  const Rope<float> rope(config, n);
  LayerSaved<float> saved(config, n, false);
  const auto golden_state = [&](int64_t i) {
    return to_f32({"state", DType::kF32, {n, width}, golden.data + i * n * width * 4});
  };
  for (int64_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    const LayerWeights weights = checkpoint_.load_layer(layer_idx);
    FloatLinears<float> linears(views_of(weights));
    const Mat<float> x = golden_state(layer_idx), expected = golden_state(layer_idx + 1);
    Mat<float> y(n, width);
    layer_forward<float>(config, norms_of(weights), linears, rope, batch, x.view(), saved,
                         y.view());
    // f32 against f64: a chain of about ten operations, each with sums of at most 768 terms of
    // random sign.
    const double tolerance = 10 * std::sqrt(768.0) * FLT_EPSILON * 16 * rms(expected);
    for (int64_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(y.data()[i], expected.data()[i], tolerance)
          << "layer " << layer_idx << " element " << i;
  }
}

TEST_F(QwenTinyGolden, GradientsOfTheL1LossMatch) {
  const io::TensorFiles files =
      io::TensorFiles::open_files({golden_ / "layer3_l1_grad.safetensors"});
  const Mat<float> x = to_f32(files.at("input")), target = to_f32(files.at("target"));
  const hf::Config& config = checkpoint_.config();
  const LayerWeights weights = checkpoint_.load_layer(3);
  PerLinear<Mat<float>> d_weights;
  FloatLinears<float>::Grads grads;
  for (const Linear l : kAllLinears) {
    d_weights[l] = Mat<float>(out_features(config, l), in_features(config, l));
    grads[l] = d_weights[l].view();
  }
  FloatLinears<float> linears(views_of(weights), grads);
  const int64_t n = x.rows();
  Ragged batch;
  batch.append(n);
  const Rope<float> rope(config, n);
  LayerSaved<float> saved(config, n, true);
  Mat<float> y(n, x.cols()), d_y(n, x.cols()), d_x(n, x.cols());
  layer_forward<float>(config, norms_of(weights), linears, rope, batch, x.view(), saved, y.view());
  double loss = 0;
  for (int64_t i = 0; i < n; ++i)
    loss += kernels::l1_loss(y.row(i), target.row(i), 1.0f, d_y.row(i), x.cols());
  layer_backward<float>(config, norms_of(weights), linears, rope, batch, x.view(), saved,
                        d_y.view(), d_x.view());

  const auto golden_loss = to_f32({"loss", DType::kF32, {1}, files.at("loss").data});
  EXPECT_NEAR(loss, golden_loss(0, 0), 1e-5 * golden_loss(0, 0));
  const auto check = [&](const Mat<float>& actual, const std::string& name) {
    const Mat<float> expected = to_f32(files.at(name));
    ASSERT_EQ(actual.size(), expected.size()) << name;
    double error = 0;
    for (int64_t i = 0; i < actual.size(); ++i)
      error += std::pow(static_cast<double>(actual.data()[i]) - expected.data()[i], 2);
    // Relative error of f32 sums over 61 tokens; a wrong term would show at 1e-1.
    EXPECT_LT(std::sqrt(error / static_cast<double>(actual.size())), 2e-5 * rms(expected)) << name;
  };
  check(d_x, "d_input");
  for (const Linear l : kAllLinears) {
    check(d_weights[l], "d_" + std::string(path_of(config, l)));
  }
}

TEST_F(QwenTinyGolden, ForwardGivesTheSameBitsOnAnyNumberOfThreads) {
  const hf::Config& config = checkpoint_.config();
  const LayerWeights weights = checkpoint_.load_layer(0);
  FloatLinears<float> linears(views_of(weights));
  Ragged batch;
  for (const int64_t length : {33, 1, 150}) batch.append(length);
  const Rope<float> rope(config, 150);
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  Mat<float> x(batch.num_tokens(), config.hidden_size);
  for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = normal(generator);
  const int before = num_threads();
  std::vector<Mat<float>> ys;
  for (const int threads : {1, 2, 5}) {
    set_num_threads(threads);
    LayerSaved<float> saved(config, batch.num_tokens(), false);
    ys.emplace_back(x.rows(), x.cols());
    layer_forward<float>(config, norms_of(weights), linears, rope, batch, x.view(), saved,
                         ys.back().view());
  }
  set_num_threads(before);
  for (size_t i = 1; i < ys.size(); ++i)
    EXPECT_EQ(
        std::memcmp(ys[0].data(), ys[i].data(), static_cast<size_t>(ys[0].size()) * sizeof(float)),
        0);
}

// Training the MLP alone must not see another function or another gradient than training all.
TEST(DecoderLayer, HalvesGiveTheLayerAndTheMlpGradientsOfItsBackward) {
  Layer64 whole({"halves", 12, 20, 4, 2, 6, {5, 3}}), half({"halves", 12, 20, 4, 2, 6, {5, 3}});
  whole.backward();
  LayerSaved<double> saved(half.config, half.batch.num_tokens(), true);
  const Rope<double> rope(half.config, 64);
  FloatLinears<double> linears = half.linears(true);
  attention_half_forward<double>(half.config, half.norms(), linears, rope, half.batch,
                                 half.x.view(), saved);
  mlp_half_forward<double>(half.config, half.norms(), linears, saved, half.y.view());
  for (int64_t i = 0; i < half.y.size(); ++i) ASSERT_EQ(half.y.data()[i], whole.y.data()[i]);
  for (int64_t i = 0; i < half.y.size(); ++i)
    half.d_y.data()[i] = half.y.data()[i] - half.target.data()[i];
  mlp_half_backward<double>(half.config, half.norms(), linears, half.batch, saved, half.d_y.view(),
                            false);
  for (const Linear l : {Linear::kGateProj, Linear::kUpProj, Linear::kDownProj}) {
    const Mat<double>& a = half.d_weights[l];
    const Mat<double>& b = whole.d_weights[l];
    for (int64_t i = 0; i < a.size(); ++i) ASSERT_EQ(a.data()[i], b.data()[i]);
  }
}

}  // namespace
}  // namespace laos::model
