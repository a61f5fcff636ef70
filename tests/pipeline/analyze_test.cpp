#include "pipeline/analyze.h"
#include "cluster/alone.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "eval/metrics.h"
#include "pipeline/division.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kRoot = LAOS_SOURCE_DIR;

class Analyze : public testing::Test {
 protected:
  Plan plan_of(const std::filesystem::path& recipe,
               const std::optional<std::string>& dataset = std::nullopt, int64_t nsamples = 16) {
    QuantOptions options;
    options.model_path = kRoot / "models/qwen3-tiny";
    options.recipe_path = recipe;
    options.model_type = "qwen3-tiny";
    options.dataset = dataset;
    options.calib_directories = {kRoot / "calib"};
    options.nsamples = nsamples;
    options.writes = false;
    options.reads_dataset = true;
    return make_plan(options);
  }
  Analysis analyze_tokens(Plan& plan, const AnalyzeOptions& options) {
    Progress progress;
    cluster::Alone alone;
    Analysis analysis = begin_analysis(plan, options);
    analyze(plan, options, analysis, progress, alone);
    return analysis;
  }
  // The KL of the plan's checkpoint on the windows that an analysis measured on.
  double kl_of_checkpoint(const Plan& plan, const Analysis& analysis) {
    QuantOptions options = plan.options;
    options.writes = true;
    options.save_path = directory_ / "out";
    Progress progress;
    run(make_plan(options), progress);
    const auto quantized = eval::open_eval_model(directory_ / "out"),
               exact = eval::open_eval_model(plan.options.model_path);
    return eval::compare(*quantized, *exact, analysis.windows).divergence.kl.value;
  }

  test::TemporaryDirectory directory_;
};

// Four candidates of two sizes.
Analysis small_analysis() {
  Analysis analysis;
  analysis.parameters = 100;
  const double costs[] = {4, 1, 3, 2};
  const int64_t sizes[] = {40, 10, 40, 10};
  for (int i = 0; i < 4; ++i) {
    GroupCost group;
    group.is_candidate = true;
    group.parameters = sizes[i];
    group.stream_error = costs[i];
    group.kl = std::nan("");
    analysis.groups.push_back(group);
  }
  return analysis;
}

std::vector<bool> high_of_share(const Analysis& analysis, double low_share) {
  return choose_high(analysis, {.low_share = low_share});
}

TEST(ChooseHigh, KeepsTheDearestThatTheBudgetLeaves) {
  const Analysis analysis = small_analysis();
  EXPECT_EQ(high_of_share(analysis, 1), (std::vector<bool>{false, false, false, false}));
  EXPECT_EQ(high_of_share(analysis, 0), (std::vector<bool>{true, true, true, true}));
  EXPECT_EQ(high_of_share(analysis, 0.5), (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(high_of_share(analysis, 0.9), (std::vector<bool>{false, false, false, true}));
}

TEST(ChooseHigh, TakesAverageBitsAsTheShareThatTheyAre) {
  Analysis analysis = small_analysis();
  analysis.low.weight.bits = 4;
  analysis.high.weight.bits = 8;
  EXPECT_EQ(choose_high(analysis, {.average_bits = 6}), high_of_share(analysis, 0.5));
  EXPECT_THROW(choose_high(analysis, {.average_bits = 3.9}), Error);
  EXPECT_THROW(choose_high(analysis, {.average_bits = 8.1}), Error);
}

TEST(ChooseHigh, WithoutABudgetKeepsTheRecipesShare) {
  Analysis analysis = small_analysis();
  analysis.planned_low = 90;
  EXPECT_EQ(choose_high(analysis, {}), high_of_share(analysis, 0.9));
}

TEST(ChooseHigh, PutsAsManyWeightsAtTheLowWidthAsTheCostAllows) {
  const Analysis analysis = small_analysis();
  EXPECT_EQ(choose_high(analysis, {.max_kl = 0.5}), (std::vector<bool>{true, true, true, true}));
  EXPECT_EQ(choose_high(analysis, {.max_kl = 3.1}), (std::vector<bool>{true, true, false, true}));
  EXPECT_EQ(choose_high(analysis, {.max_kl = 4.1}), (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(choose_high(analysis, {.max_kl = 7.1}), (std::vector<bool>{false, true, false, true}));
  EXPECT_EQ(choose_high(analysis, {.max_kl = 11}), (std::vector<bool>(4, false)));
}

TEST(ChooseHigh, LeavesWhatIsNoCandidateAndRefusesABudgetOutOfReach) {
  Analysis analysis = small_analysis();
  analysis.groups[0].is_candidate = false;
  EXPECT_FALSE(high_of_share(analysis, 0)[0]);
  EXPECT_THROW(high_of_share(analysis, 0.61), Error);
  analysis.fixed_low = 40;
  EXPECT_NO_THROW(high_of_share(analysis, 1));
}

TEST(ChooseHigh, PrefersMeasuredKl) {
  Analysis analysis = small_analysis();
  for (GroupCost& group : analysis.groups) group.kl = 5 - group.stream_error;
  EXPECT_EQ(high_of_share(analysis, 0.5), (std::vector<bool>{false, true, false, true}));
}

TEST(PredictedCost, IsTheSumOverCandidatesAtTheLowWidth) {
  Analysis analysis = small_analysis();
  analysis.groups[0].is_candidate = false;
  EXPECT_DOUBLE_EQ(predicted_cost(analysis, {false, false, true, false}), 1 + 2);
}

TEST_F(Analyze, FindsEveryGroupAndThatRotationLowersTheOutliersOfTheResidualStream) {
  Plan plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-fast.yaml");
  const Analysis analysis = analyze_tokens(plan, {.tokens = 128});
  ASSERT_EQ(analysis.groups.size(), 32u);
  EXPECT_EQ(analysis.low.weight.bits, 4);
  EXPECT_EQ(analysis.high.weight.bits, 8);
  EXPECT_DOUBLE_EQ(
      static_cast<double>(analysis.planned_low) / static_cast<double>(analysis.parameters), 0.5);
  int64_t parameters = 0;
  for (const GroupCost& group : analysis.groups) {
    parameters += group.parameters;
    EXPECT_TRUE(group.is_candidate);
    EXPECT_EQ(group.is_planned_low, group.group == model::LinearGroup::kGateUp);
    EXPECT_GT(group.weight_error, 0.05);
    EXPECT_LT(group.weight_error, 0.35);
    EXPECT_GT(group.output_error, 0.02);
    EXPECT_GT(group.cost(), 0);
    EXPECT_TRUE(std::isnan(group.kl));
    if (group.group == model::LinearGroup::kQkv || group.group == model::LinearGroup::kGateUp) {
      EXPECT_LT(group.after.max_to_rms, group.before.max_to_rms);
    }
    if (group.group == model::LinearGroup::kDown) {  // no rotation reaches it
      EXPECT_NEAR(group.after.kurtosis, group.before.kurtosis, 1e-3 * group.before.kurtosis);
    }
  }
  EXPECT_EQ(parameters, analysis.parameters);
}

// A recipe with one group low and all else float: its checkpoint's own KL is what analyze says.
TEST_F(Analyze, MeasuresTheKlThatTheCheckpointHas) {
  const std::string one = R"(apiversion: modelslim_v1
spec:
  process:
    - {type: quarot, online: false, max_tp_size: 1}
    - type: autoround_quant
      enable_round_tuning: false
      enable_minmax_tuning: false
      strategies:
        - include: ["model.layers.3.mlp.down_proj"]
          qconfig:
            weight: {dtype: int4, scope: per_channel, symmetric: true, method: autoround}
            act: {dtype: int4, scope: per_token, symmetric: true, method: minmax}
  dataset: qwen3-tiny-calib.jsonl
  save: [{type: ascendv1_saver}]
)";
  std::ofstream(directory_ / "one.yaml") << one;
  Plan plan = plan_of(directory_ / "one.yaml");
  const Analysis analysis = analyze_tokens(plan, {.tokens = 256, .kl = true});
  const GroupCost& group = analysis.groups[3 * 4 + 3];
  ASSERT_TRUE(group.is_candidate);
  EXPECT_EQ(std::count_if(analysis.groups.begin(), analysis.groups.end(),
                          [](const GroupCost& g) { return g.is_candidate; }),
            1);

  const double kl = kl_of_checkpoint(plan, analysis);
  // The checkpoint's float tensors are rounded to bf16, which the analysis does not do.
  EXPECT_NEAR(group.kl, kl, 0.1 * kl);
}

// The same with codes that a step solves for: those of the group alone, whatever the recipe gives
// to the others.
TEST_F(Analyze, MeasuresGroupsWithTheCodesThatTheRecipeWouldGiveThem) {
  const auto recipe = [&](const std::string& low, const std::string& solved = "int4") {
    std::ofstream(directory_ / "gptq.yaml") << R"(apiversion: modelslim_v1
low: &low
  weight: {dtype: int4, scope: per_channel, symmetric: true, method: gptq}
  act: {dtype: int4, scope: per_token, symmetric: true, method: minmax}
spec:
  process:
    - {type: quarot, online: false, max_tp_size: 1}
    - type: gptq_quant
      solve: [)" << solved << R"(]
      strategies:
        - {qconfig: *low, include: [")" << low
                                            << R"("]}
        - include: ["model.layers.3.mlp.down_proj"]
          qconfig:
            weight: {dtype: int8, scope: per_channel, symmetric: true, method: gptq}
            act: {dtype: int8, scope: per_token, symmetric: true, method: minmax}
  dataset: qwen3-tiny-calib.jsonl
  save: [{type: ascendv1_saver}]
)";
    // With few tokens for its inputs a group is worse solved than rounded, on other text.
    return plan_of(directory_ / "gptq.yaml", std::nullopt, 0);
  };
  Plan plan = recipe("model.layers.1.mlp.down_proj");
  const Analysis analysis = analyze_tokens(plan, {.tokens = 256, .kl = true});
  const GroupCost& group = analysis.groups[3 * 4 + 3];
  ASSERT_TRUE(group.is_candidate);
  ASSERT_FALSE(group.is_planned_low);
  Plan rounded_plan = recipe("model.layers.1.mlp.down_proj", "int8");
  const GroupCost rounded =
      analyze_tokens(rounded_plan, {.tokens = 256, .kl = true}).groups[3 * 4 + 3];
  EXPECT_LT(group.kl, 0.97 * rounded.kl);
  const double kl = kl_of_checkpoint(recipe("model.layers.3.mlp.down_proj"), analysis);
  EXPECT_NEAR(group.kl, kl, 0.1 * kl);
}

TEST_F(Analyze, MeasuresOnSamplesThatItsStepsDoNotSee) {
  Plan plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-fast.yaml");
  const Samples all = *plan.samples;
  ASSERT_EQ(all.size(), 16u);
  const Analysis analysis = begin_analysis(plan, {.tokens = 256});
  EXPECT_TRUE(analysis.is_held_back);
  ASSERT_EQ(analysis.windows.size(), 2u);
  for (const eval::Window& window : analysis.windows) {
    const auto begins = [&](const std::vector<int32_t>& sample) {
      return sample.size() >= window.ids.size() &&
             std::equal(window.ids.begin(), window.ids.end(), sample.begin());
    };
    EXPECT_TRUE(std::any_of(all.begin(), all.end(), begins));
    EXPECT_TRUE(std::none_of(plan.samples->begin(), plan.samples->end(), begins));
  }
  EXPECT_EQ(plan.samples->size(), 14u);
}

TEST_F(Analyze, SetsAsideAFourthOfTheSamplesAtMost) {
  Plan plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-fast.yaml");
  const Analysis analysis = begin_analysis(plan, {.tokens = 4096});
  EXPECT_EQ(plan.samples->size(), 12u);
  EXPECT_GT(analysis.windows.size(), 4u);  // several of each
  plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-fast.yaml");
  plan.samples = std::make_shared<Samples>(plan.samples->begin(), plan.samples->begin() + 3);
  EXPECT_FALSE(begin_analysis(plan, {}).is_held_back);
  EXPECT_EQ(plan.samples->size(), 3u);
}

TEST_F(Analyze, KeepsAllSamplesWhereNoStepLooksAtThem) {
  Plan plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-rtn.yaml");
  EXPECT_TRUE(begin_analysis(plan, {}).is_held_back);
  EXPECT_EQ(plan.samples->size(), 16u);
}

TEST_F(Analyze, IsPricedByItsTokensAndByWhetherKlIsMeasured) {
  Plan plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-fast.yaml");
  const Analysis analysis = begin_analysis(plan, {});
  const auto flops = [&](int64_t tokens, bool kl) {
    return estimate(plan, analysis, {.tokens = tokens, .kl = kl}).flops;
  };
  EXPECT_GT(flops(128, false), 0.9 * costs_of(plan).total());
  EXPECT_GT(flops(256, false), flops(128, false));
  // 32 groups go half the way through 8 layers, and through the head.
  EXPECT_GT(flops(256, true) - flops(256, false),
            16 * 2.0 * 256 * static_cast<double>(analysis.parameters));
  EXPECT_GT(estimate(plan, analysis, {.kl = true}).peak_ram_bytes, peak_ram_bytes(plan));
  Plan trained = plan_of(kRoot / "recipes/qwen3-tiny-w4a4.yaml");
  const double total = costs_of(trained).total();
  EXPECT_LT(estimate(trained, begin_analysis(trained, {}), {.tokens = 128}).flops, 0.1 * total);
}

TEST_F(Analyze, WritesARecipeThatPlansToItsChoiceWithFusedLinearsTogether) {
  Plan plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-fast.yaml");
  const Analysis analysis = analyze_tokens(plan, {.tokens = 128});
  const std::vector<bool> high = high_of_share(analysis, 0.4);
  const std::filesystem::path file = directory_ / "found.yaml";
  std::ofstream(file) << recipe_with(plan, analysis, high, "found", file);
  const Plan found = plan_of(file);
  for (size_t g = 0; g < analysis.groups.size(); ++g)
    for (const model::Linear l : model::linears_of(analysis.groups[g].group)) {
      const PlannedLinear& planned = found.linear(analysis.groups[g].layer_idx, l);
      EXPECT_EQ(planned.label, high[g] ? "W8A8_DYNAMIC" : "W4A4_DYNAMIC") << planned.name;
    }
  EXPECT_EQ(found.dataset_path, plan.dataset_path);
}

TEST_F(Analyze, LeavesGroupsThatAreNoCandidatesAsTheRecipeHasThem) {
  Plan plan = plan_of(kRoot / "recipes/qwen3-tiny-w4a4-fast.yaml");
  const Analysis analysis =
      analyze_tokens(plan, {.groups = {model::LinearGroup::kGateUp}, .tokens = 128});
  const std::vector<bool> high = high_of_share(analysis, 0.25);
  const std::filesystem::path file = directory_ / "found.yaml";
  std::ofstream(file) << recipe_with(plan, analysis, high, "found", file);
  int64_t low = 0;
  for (const PlannedLinear& planned : plan_of(file).linears) {
    const bool is_gate_up =
        planned.linear == model::Linear::kGateProj || planned.linear == model::Linear::kUpProj;
    if (planned.label == "W4A4_DYNAMIC") ++low;
    if (!is_gate_up) {
      EXPECT_EQ(planned.label, "W8A8_DYNAMIC") << planned.name;
    }
  }
  EXPECT_EQ(low, 8);  // of 4 layers
}

TEST_F(Analyze, RefusesARecipeWithNothingToChoose) {
  Plan plan = plan_of(kRoot / "recipes/dense-w8a8.yaml", (kRoot / "calib/health.jsonl").string());
  EXPECT_THROW(analyze_tokens(plan, {}), Error);
}

}  // namespace
}  // namespace laos::pipeline
