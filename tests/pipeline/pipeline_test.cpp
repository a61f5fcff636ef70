#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "core/threads.h"
#include "eval/metrics.h"
#include "pipeline/division.h"
#include "pipeline/quant_options.h"
#include "pipeline/record.h"
#include "pipeline/run.h"
#include "save/inspect.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using ::testing::HasSubstr;

constexpr const char* kSchemes = R"(
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
)";

// A synthetic checkpoint, a recipe and texts in a directory of their own.
class Pipeline : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny"), .seed = 3}, directory_ / "model");
    std::ofstream(directory_ / "calib.jsonl")
        << R"({"inputs_pretokenized": "In the beginning was the word"})"
        << "\n"
        << R"({"inputs_pretokenized": "and the word was with the other words, in order."})"
        << "\n";
  }

  // `process` and `prior` are YAML lists' items, indented by six.
  void write_recipe(const std::string& process, const std::string& prior = "") {
    std::ofstream(directory_ / "recipe.yaml")
        << "apiversion: modelslim_v1\n"
        << kSchemes << "spec:\n"
        << (prior.empty() ? "" : "  prior:\n    - process:\n" + prior) << "  process:\n"
        << process << "  save: [{type: ascendv1_saver}]\n  dataset: calib.jsonl\n";
  }

  QuantOptions options(const std::string& save_path) const {
    return quant_options(directory_.path(), save_path);
  }

  RunResult quantize(const std::string& save_path) const {
    Progress progress;
    return run(make_plan(options(save_path)), progress);
  }

  std::map<std::string, std::string> files_of(const std::string& save_path) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(directory_ / save_path)) {
      std::stringstream content;
      content << std::ifstream(entry.path(), std::ios::binary).rdbuf();
      files[entry.path().filename().string()] = content.str();
    }
    return files;
  }

  test::TemporaryDirectory directory_;
};

constexpr const char* kPrior =
    "        - {type: adapt_rotation, stage: 1, steps: 3, layer_type: [up_proj]}\n";
constexpr const char* kRotate =
    "    - {type: adapt_rotation, stage: 2, online: false, max_tp_size: 1}\n";
constexpr const char* kTrain = R"(    - type: autoround_quant
      iters: 4
      strategies:
        - {qconfig: *w8, include: ["*self_attn*", "*.down_proj"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]}
)";

TEST_F(Pipeline, WritesACheckpointThatLoadsWithTheSameBytesOnAnyNumberOfThreads) {
  write_recipe(std::string(kRotate) + kTrain, kPrior);
  const int before = num_threads();
  set_num_threads(1);
  const RunResult result = quantize("one");
  set_num_threads(3);
  quantize("three");
  set_num_threads(before);
  EXPECT_EQ(result.layers.size(), 2u);
  EXPECT_EQ(result.layers[0].losses.size(), 4u);
  EXPECT_TRUE(save::inspect(directory_ / "one").loads());
  EXPECT_EQ(files_of("one"), files_of("three"));
  EXPECT_THAT(files_of("one").at("config.json"), HasSubstr("\"tie_word_embeddings\": false"));
}

TEST_F(Pipeline, OverAnOlderResultGivesTheSameBytes) {
  write_recipe(std::string(kRotate) + kTrain, kPrior);
  quantize("out");
  const auto first = files_of("out");
  QuantOptions again = options("out");
  again.restart = true;
  Progress progress;
  run(make_plan(again), progress);
  EXPECT_EQ(first, files_of("out"));
}

TEST_F(Pipeline, RotationAloneKeepsTheFloatModelsFunction) {
  write_recipe(kRotate, kPrior);
  const Plan plan = make_plan(options("out"));
  EXPECT_THAT(plan.warnings,
              testing::Contains(HasSubstr("no processor quantizes, so every linear stays float")));
  for (const PlannedLinear& linear : plan.linears) EXPECT_EQ(linear.label, "FLOAT");
  Progress progress;
  run(plan, progress);
  std::vector<int32_t> window;
  for (int32_t i = 0; i < 60; ++i) window.push_back(i * 7 % 250);
  const auto rotated = eval::open_eval_model(directory_ / "out");
  const auto original = eval::open_eval_model(directory_ / "model");
  // Weights rounded once to bf16 (8 bits of mantissa): far below what any wrong rotation would do.
  EXPECT_LT(eval::compare(*rotated, *original, {{.ids = window}}).divergence.kl.value, 1e-3);
}

TEST_F(Pipeline, SamplesAreHeldBackFromEveryStage) {
  write_recipe(std::string(kRotate) + kTrain, kPrior);
  {
    std::ofstream calib(directory_ / "calib.jsonl");
    for (int i = 0; i < 100; ++i)
      calib << R"({"inputs_pretokenized": "sample number )" << i << "\"}\n";
  }
  QuantOptions wanted = options("out");
  wanted.hold_back = 0;
  const Samples all = *make_plan(wanted).samples;
  ASSERT_EQ(all.size(), 100u);
  for (const auto& [hold_back, positions] :
       {std::pair{std::optional<int64_t>(), std::vector<size_t>{50}},
        std::pair{std::optional<int64_t>(2), std::vector<size_t>{25, 75}}}) {
    wanted.hold_back = hold_back;
    const Plan plan = make_plan(wanted);
    Samples kept = all, held;
    for (auto position = positions.rbegin(); position != positions.rend(); ++position) {
      held.insert(held.begin(), all[*position]);
      kept.erase(kept.begin() + static_cast<int64_t>(*position));
    }
    EXPECT_EQ(*plan.held_back, held);
    EXPECT_EQ(*plan.samples, kept);
    EXPECT_EQ(*plan.fits.front().samples, kept);
    EXPECT_FALSE(health_text(plan).calibrated);
  }
  wanted.hold_back = 100;
  try {
    make_plan(wanted);
    FAIL() << "nothing was left";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("none of the dataset's 100 samples is left"));
  }
}

TEST_F(Pipeline, AFitToTokenRangesReadsAsManySamplesAsGiveItsRows) {
  // A hundred samples, those at even places `even`, into a plan that keeps so many rows a layer.
  const auto plan_of = [&](const std::string& even, int max_samples) {
    std::ofstream calib(directory_ / "calib.jsonl");
    for (int i = 100; i < 200; ++i)
      calib << R"({"inputs_pretokenized": ")" << (i % 2 == 0 ? even : "sample number ") << i
            << "\"}\n";
    calib.close();
    write_recipe(
        std::string(kRotate) + kTrain,
        "        - {type: adapt_rotation, stage: 1, objective: token_range, max_samples: " +
            std::to_string(max_samples) + "}\n");
    QuantOptions wanted = options("out");
    wanted.hold_back = 0;
    Plan plan = make_plan(wanted);
    EXPECT_EQ(plan.samples->size(), 100u);
    EXPECT_EQ(*plan.fits.front().dataset, *plan.samples);
    return plan;
  };
  const auto num_tokens_of = [](const Samples& samples) {
    return lengths_of(samples).num_tokens();
  };
  const std::string same = "sample number ";
  const Plan few = plan_of(same, 100), some = plan_of(same, 400), all = plan_of(same, 100000);
  const Samples& read = *few.fits.front().samples;
  ASSERT_EQ(read.size(), 8u);  // of more than a few texts
  for (size_t i = 0; i < read.size(); ++i) EXPECT_EQ(read[i], (*few.samples)[i * 100 / 8]);
  // Two inputs of a layer, and twice the rows: so many tokens as rows are kept.
  EXPECT_GE(num_tokens_of(*some.fits.front().samples), 400);
  EXPECT_LT(num_tokens_of(*some.fits.front().samples), 440);
  EXPECT_EQ(*all.fits.front().samples, *all.samples);

  // Every tenth of them is a short one.
  const Plan uneven = plan_of("", 100);
  EXPECT_GE(num_tokens_of(*uneven.fits.front().samples), 100);
  EXPECT_LT(uneven.fits.front().samples->size(), 20u);
}

TEST_F(Pipeline, FewSamplesAreAllCalibratedOn) {
  write_recipe(std::string(kRotate) + kTrain, kPrior);
  const Plan plan = make_plan(options("out"));
  EXPECT_TRUE(plan.held_back->empty());
  EXPECT_EQ(plan.samples->size(), 2u);
  EXPECT_TRUE(health_text(plan).calibrated);
}

TEST_F(Pipeline, AHealthTextThatWasCalibratedOnIsKnown) {
  write_recipe(std::string(kRotate) + kTrain, kPrior);
  const Plan plan = make_plan(options("out"));
  const HealthText same = load_health_text(plan.dataset_path, plan.options.model_path);
  EXPECT_TRUE(is_calibrated_on(plan, same));
  std::ofstream(directory_ / "new.txt") << "These words are in no sample of the calibration.";
  EXPECT_FALSE(
      is_calibrated_on(plan, load_health_text(directory_ / "new.txt", plan.options.model_path)));
}

TEST_F(Pipeline, PlainRoundingNeedsNoDataset) {
  std::string plain = kTrain;
  plain.replace(plain.find("iters: 4"), 8,
                "enable_round_tuning: false\n      enable_minmax_tuning: false");
  write_recipe(plain);
  std::filesystem::remove(directory_ / "calib.jsonl");
  const RunResult result = quantize("out");
  EXPECT_TRUE(result.layers[0].losses.empty());
  EXPECT_TRUE(save::inspect(directory_ / "out").loads());
}

TEST_F(Pipeline, ReportsProblemsOfRecipeDatasetAndOutputTogetherAndWritesNothing) {
  std::string mixed = kTrain;
  mixed.replace(mixed.find("\"*self_attn*\""), 13, "\"*.q_proj\"");
  write_recipe(std::string(kRotate) + mixed, kPrior);
  std::filesystem::remove(directory_ / "calib.jsonl");
  QuantOptions bad = options("out");
  bad.save_path = bad.model_path;
  try {
    (void)make_plan(bad);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("q_proj"));
    EXPECT_THAT(error.what(), HasSubstr("calib.jsonl"));
    EXPECT_GE(error.problems().size(), 3u);
  }
  EXPECT_FALSE(std::filesystem::exists(directory_ / "out"));
}

}  // namespace
}  // namespace laos::pipeline
