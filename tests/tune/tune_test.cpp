#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/threads.h"
#include "hf/dataset.h"
#include "linalg/gemm.h"
#include "pipeline/run.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"
#include "tune/fit_scales.h"
#include "tune/student.h"

namespace laos::tune {
namespace {

namespace fs = std::filesystem;
using linalg::ComputeType;
using model::Linear;
using testing::HasSubstr;

const fs::path kModel = fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny";

std::vector<std::vector<int32_t>> samples_of(size_t count, size_t tokens) {
  std::vector<std::vector<int32_t>> samples =
      hf::load_dataset(fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny-eval.txt", kModel,
                       {.seq_len = static_cast<int64_t>(tokens)})
          .samples;
  samples.resize(count);
  return samples;
}

// The bundled model rounded to nearest: weights alone in groups, every linear W4A4, and static
// ranges beside dynamic ones.
class Tune : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<test::TemporaryDirectory>();
    quantize(kModel, "weights", "W4A16", "compressed-tensors");
    quantize(kModel, "all", "W4A4", "ascendv1");
    quantize(kModel, "ranges", "W8A8 static", "ascendv1");
    teacher_ = eval::open_eval_model(kModel);
  }
  static void TearDownTestSuite() {
    teacher_.reset();
    directory_.reset();
  }

  static void quantize(const fs::path& model, const std::string& name, const std::string& scheme,
                       const std::string& format) {
    const std::string rounded =
        "    - {type: autoround_quant, enable_round_tuning: false, enable_minmax_tuning: false, "
        "strategies: [{qconfig: {weight: {dtype: int4, symmetric: true, method: minmax, ";
    const std::map<std::string, std::string> processes = {
        {"W4A16", rounded + "scope: per_group, ext: {group_size: 64}}}, include: ['*']}]}\n"},
        {"W4A4", rounded +
                     "scope: per_channel}, act: {scope: per_token, dtype: int4, symmetric: true, "
                     "method: minmax}}, include: ['*']}]}\n"},
        // What attention and down_proj read has a range for all tokens, the others dynamic ones.
        {"W8A8 static",
         "    - {type: linear_quant, qconfig: {weight: {scope: per_channel, dtype: int8, "
         "symmetric: "
         "true, method: minmax}, act: {scope: per_tensor, dtype: int8, symmetric: false, method: "
         "minmax}}, include: ['*.q_proj', '*.k_proj', '*.v_proj', '*.down_proj']}\n"
         "    - {type: linear_quant, qconfig: {weight: {scope: per_channel, dtype: int4, "
         "symmetric: "
         "true, method: minmax}, act: {scope: per_token, dtype: int8, symmetric: true, method: "
         "minmax}}, include: ['*.o_proj', '*.gate_proj', '*.up_proj']}\n"}};
    std::ofstream(*directory_ / "recipe.yaml")
        << "apiversion: modelslim_v1\nspec:\n  process:\n"
        << processes.at(scheme)
        << "  dataset: " << (fs::path(LAOS_SOURCE_DIR) / "calib/qwen3-tiny-calib.jsonl").string()
        << "\n  save: [{type: ascendv1_saver}]\n";
    pipeline::QuantOptions options;
    options.model_path = model;
    options.save_path = *directory_ / name;
    options.recipe_path = *directory_ / "recipe.yaml";
    options.formats = {format};
    options.model_type = "tiny";
    options.nsamples = 2;
    pipeline::Progress progress;
    (void)pipeline::run(pipeline::make_plan(options), progress);
  }
  static std::unique_ptr<hf::QuantizedCheckpoint> open(const std::string& name) {
    return hf::open_quantized(*directory_ / name);
  }

  static std::unique_ptr<test::TemporaryDirectory> directory_;
  static std::unique_ptr<eval::EvalModel> teacher_;
};
std::unique_ptr<test::TemporaryDirectory> Tune::directory_;
std::unique_ptr<eval::EvalModel> Tune::teacher_;

// Of every token by its definition, in f64, of what the checkpoint gives in integer products.
double divergence_of(const eval::EvalModel& model, const eval::EvalModel& teacher,
                     const std::vector<std::vector<int32_t>>& samples) {
  const model::HiddenStates own = eval::final_hidden(model, samples),
                            wanted = eval::final_hidden(teacher, samples);
  const auto log_probabilities = [](const eval::EvalModel& of, const model::HiddenStates& states,
                                    int64_t token) {
    const TensorView head = of.lm_head();
    Mat<float> rows(head.shape[0], head.shape[1]);
    model::rows_to_f32(head, 0, rows.rows(), rows.data());
    std::vector<double> logits(static_cast<size_t>(rows.rows()));
    double sum = 0;
    for (int64_t v = 0; v < rows.rows(); ++v) {
      double logit = 0;
      for (int64_t j = 0; j < rows.cols(); ++j)
        logit += static_cast<double>(states.rows.view().row(token)[j]) * rows(v, j);
      logits[static_cast<size_t>(v)] = logit;
      sum += std::exp(logit);
    }
    for (double& logit : logits) logit -= std::log(sum);
    return logits;
  };
  double kl = 0;
  const int64_t n = own.samples.num_tokens();
  for (int64_t t = 0; t < n; ++t) {
    const std::vector<double> p = log_probabilities(teacher, wanted, t),
                              q = log_probabilities(model, own, t);
    for (size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
  }
  return kl / static_cast<double>(n);
}

TEST_F(Tune, DivergesAsTheCheckpointDoesBeforeAnythingIsLearned) {
  const auto samples = samples_of(2, 12);
  for (const char* name : {"weights", "all", "ranges"}) {
    const auto checkpoint = open(name);
    const double expected =
        divergence_of(*eval::open_eval_model(*directory_ / name), *teacher_, samples);
    EXPECT_GT(expected, 0.01) << name;
    EXPECT_NEAR(Student(*checkpoint, *teacher_, samples, ComputeType::kF32).run({0, 1}, nullptr),
                expected, 1e-3 * expected)
        << name;
    // Codes are exact in bfloat16, norms' outputs and weights in groups are not.
    EXPECT_NEAR(Student(*checkpoint, *teacher_, samples, ComputeType::kBf16).run({0, 1}, nullptr),
                expected, 0.15 * expected)
        << name;
  }
}

// Nothing is rounded on the way of weights alone, so that differences are derivatives: central ones
// of 1e-2, whose own error is some 1e-4 of them, in f32, whose noise is some 1e-6 of the
// divergence.
TEST_F(Tune, GradientsOfAllFactorsAgreeWithFiniteDifferences) {
  const auto samples = samples_of(2, 24);
  const auto checkpoint = open("weights");
  Student student(*checkpoint, *teacher_, samples, ComputeType::kF32);
  std::vector<RowValues> gradients(student.log_factors.size());
  student.run({0, 1}, &gradients);
  const hf::Config& config = checkpoint->config();
  for (const int64_t layer : {int64_t{0}, config.num_hidden_layers - 1})
    for (const Linear l : model::linears_in(config, layer)) {
      // All rows of the linear in the direction of the gradient.
      std::vector<float>& factors = student.log_factors[static_cast<size_t>(layer)][l];
      const std::vector<float>& gradient = gradients[static_cast<size_t>(layer)][l];
      double norm = 0;
      for (const float g : gradient) norm += static_cast<double>(g) * g;
      norm = std::sqrt(norm);
      ASSERT_GT(norm, 0);
      constexpr double kStep = 1e-2;
      const auto at = [&](double step) {
        for (size_t i = 0; i < factors.size(); ++i)
          factors[i] = static_cast<float>(step * gradient[i] / norm);
        return student.run({0, 1}, nullptr);
      };
      const double difference = (at(kStep) - at(-kStep)) / (2 * kStep);
      at(0);
      EXPECT_NEAR(difference, norm, 0.01 * norm + 1e-5) << model::name_of(config, layer, l);
    }
}

// Collects what it is told, and ends a fit after so many steps.
struct Follower : FitObserver {
  explicit Follower(int64_t last = 1 << 20) : most(last) {}
  bool step(const FitStep& step) override {
    steps.push_back(step);
    return step.step < most;
  }
  void keep(const FitState& state) override { kept.push_back(state); }
  int64_t most;
  std::vector<FitStep> steps;
  std::vector<FitState> kept;
};

void expect_equal(const FitResult& a, const FitResult& b) {
  EXPECT_EQ(a.kl, b.kl);
  EXPECT_EQ(a.kl_before, b.kl_before);
  EXPECT_EQ(a.best_step, b.best_step);
  for (size_t layer = 0; layer < a.log_factors.size(); ++layer)
    for (int64_t l = 0; l < a.log_factors[layer].size(); ++l)
      EXPECT_EQ(a.log_factors[layer][static_cast<Linear>(l)],
                b.log_factors[layer][static_cast<Linear>(l)]);
}

TEST_F(Tune, LowersTheDivergenceOfSamplesThatAreHeldBack) {
  const auto samples = samples_of(16, 64);
  const auto checkpoint = open("all");
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBf16}) {
    Follower follower;
    const FitResult result = fit_scales(*checkpoint, *teacher_, samples,
                                        {.steps = 24, .batch = 4, .compute = compute}, follower);
    EXPECT_LT(result.kl, result.kl_before);
    EXPECT_GT(result.best_step, 0);
    // The begin, each step, and the model on what is held back after every sixth.
    const std::vector<FitStep>& steps = follower.steps;
    EXPECT_EQ(steps.size(), 1u + 24 + 4);
    EXPECT_TRUE(steps.front().is_held_back && steps.back().is_held_back);
  }
}

TEST_F(Tune, GivesTheSameBytesOnAnyNumberOfThreads) {
  const auto samples = samples_of(9, 32);
  const auto checkpoint = open("all");
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBf16}) {
    const FitOptions options = {.steps = 3, .batch = 2, .compute = compute};
    const int before = num_threads();
    Follower follower, other;
    set_num_threads(1);
    const FitResult one = fit_scales(*checkpoint, *teacher_, samples, options, follower);
    set_num_threads(3);
    const FitResult three = fit_scales(*checkpoint, *teacher_, samples, options, other);
    set_num_threads(before);
    expect_equal(one, three);
    ASSERT_EQ(follower.steps.size(), other.steps.size());
    for (size_t i = 0; i < follower.steps.size(); ++i)
      EXPECT_EQ(follower.steps[i].kl, other.steps[i].kl) << i;
  }
}

TEST_F(Tune, EndsWhereItIsAskedToAndKeepsTheScalesWhereNoStepIsBetter) {
  const auto samples = samples_of(4, 16);
  const auto checkpoint = open("all");
  Follower three(3);
  (void)fit_scales(*checkpoint, *teacher_, samples, {.steps = 50}, three);
  EXPECT_EQ(three.steps.size(), 1u + 3);
  // Steps that throw the model about.
  Follower follower;
  const FitResult bad =
      fit_scales(*checkpoint, *teacher_, samples, {.steps = 4, .batch = 1, .lr = 0.9}, follower);
  EXPECT_EQ(bad.best_step, 0);
  EXPECT_EQ(bad.kl, bad.kl_before);
  for (const RowValues& layer : bad.log_factors)
    for (const std::vector<float>& factors : layer)
      for (const float factor : factors) EXPECT_EQ(factor, 0);
}

TEST_F(Tune, GoesOnFromAStepThatWasKeptToTheSameResult) {
  const auto samples = samples_of(5, 16);
  const auto checkpoint = open("all");
  const FitOptions options = {.steps = 2 * kKeptSteps + 3, .batch = 2};
  Follower whole, part;
  const FitResult result = fit_scales(*checkpoint, *teacher_, samples, options, whole);
  ASSERT_EQ(whole.kept.size(), 2u);
  EXPECT_EQ(whole.kept[1].step, 2 * kKeptSteps);
  expect_equal(result,
               fit_scales(*checkpoint, *teacher_, samples, options, part, &whole.kept.front()));
  EXPECT_EQ(part.steps.front().step, kKeptSteps + 1);
}

template <class F>
std::string refusal_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(Tune, RefusesOneSampleAnotherModelAndExperts) {
  const auto checkpoint = open("all");
  Follower follower;
  EXPECT_THAT(refusal_of([&] {
                (void)fit_scales(*checkpoint, *teacher_, samples_of(1, 16), {}, follower);
              }),
              HasSubstr("two are needed"));
  const fs::path tiny = *directory_ / "tiny", mixture = *directory_ / "mixture";
  test::write_synthetic({.config = test::qwen3_config("tiny")}, tiny);
  test::write_synthetic({.config = test::qwen3_config("tiny-moe")}, mixture);
  const std::string other =
      refusal_of([&] { require_tunable(*checkpoint, eval::open_eval_model(tiny)->config()); });
  EXPECT_THAT(other, HasSubstr("hidden_size 256 and 64"));
  EXPECT_THAT(other, HasSubstr("vocab_size"));
  quantize(mixture, "experts", "W4A4", "ascendv1");
  const auto experts = open("experts");
  EXPECT_THAT(refusal_of([&] { require_tunable(*experts, experts->config()); }),
              HasSubstr("experts"));
}

}  // namespace
}  // namespace laos::tune
