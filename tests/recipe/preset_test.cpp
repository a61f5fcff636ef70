#include "recipe/preset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <variant>

#include "core/error.h"
#include "hf/model_tensors.h"
#include "recipe/recipe.h"
#include "support/synthetic.h"

namespace laos::recipe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

hf::Config config_of_inputs(int64_t hidden_size, int64_t intermediate_size) {
  hf::Config config = test::qwen3_config("tiny");
  config.hidden_size = hidden_size;
  config.intermediate_size = intermediate_size;
  config.head_dim = hidden_size / config.num_attention_heads;
  return config;
}

Recipe read(const Preset& preset, const hf::Config& config) {
  return parse_recipe(preset_yaml(preset, config), "preset");
}

Strategy strategy_of(const Recipe& recipe) {
  const auto& last = recipe.main.process.back().what;
  if (const auto* gptq = std::get_if<GptqQuant>(&last)) return gptq->strategies.at(0);
  if (const auto* linear = std::get_if<LinearQuant>(&last)) return linear->strategy;
  return std::get<AutoroundQuant>(last).strategies.at(0);
}

Preset preset(const std::string& scheme) {
  return {.scheme = scheme, .saver_type = "compressed_tensors_saver"};
}

std::vector<Problem> problems_of(const Preset& preset) {
  try {
    preset_yaml(preset, test::qwen3_config("tiny"));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.problems();
  }
  return {};
}

TEST(PresetRecipes, AreReadWithoutAWarningForEverySchemeMethodAndRotation) {
  const hf::Config config = test::qwen3_config("tiny");
  for (const std::string& scheme : preset_schemes())
    for (const std::string& method : preset_methods())
      for (const bool rotates : {false, true}) {
        if (scheme == "W8A8-static" && method == "autoround") continue;
        Preset choice = preset(scheme);
        choice.method = method;
        choice.rotates = rotates;
        const Recipe recipe = read(choice, config);
        EXPECT_THAT(recipe.warnings, IsEmpty()) << scheme << " " << method;
        const Strategy strategy = strategy_of(recipe);
        ASSERT_TRUE(strategy.scheme) << scheme;
        const bool is_static = strategy.scheme->act.is_static;
        EXPECT_EQ("W" + std::to_string(strategy.scheme->weight.bits) + "A" +
                      std::to_string(strategy.scheme->act.bits) + (is_static ? "-static" : ""),
                  scheme);
        EXPECT_EQ(recipe.main.process.size() > 1, rotates) << scheme;
      }
}

TEST(PresetRecipes, RotateWhereThatIsBetterUnlessToldOtherwise) {
  const hf::Config config = test::qwen3_config("tiny");
  for (const std::string& scheme : preset_schemes())
    for (const std::string& method : preset_methods()) {
      if (scheme == "W8A8-static" && method == "autoround") continue;
      Preset choice = preset(scheme);
      choice.method = method;
      EXPECT_EQ(read(choice, config).main.process.size() > 1,
                method == "gptq" || !scheme.ends_with("A16"))
          << scheme << " " << method;
    }
}

TEST(PresetRecipes, NameEverySchemeThatRecipesCanMake) {
  EXPECT_THAT(preset_schemes(), testing::UnorderedElementsAre("W4A16", "W8A16", "W8A8",
                                                              "W8A8-static", "W4A8", "W4A4"));
}

TEST(PresetRecipes, GroupWeightsOf4BitsBesideFloatInputsByWhatDividesAllInputs) {
  const auto group_size = [](const hf::Config& config, const std::string& scheme = "W4A16") {
    return strategy_of(read(preset(scheme), config)).scheme->weight.group_size;
  };
  EXPECT_EQ(group_size(config_of_inputs(1024, 3072)), 128);
  EXPECT_EQ(group_size(config_of_inputs(576 * 2, 1536 + 64)), 64);
  EXPECT_EQ(group_size(config_of_inputs(96 * 8, 96)), 32);
  EXPECT_EQ(group_size(config_of_inputs(1000, 3072)), 0);
  EXPECT_EQ(group_size(config_of_inputs(1024, 3072), "W8A16"), 0);
  Preset choice = preset("W4A16");
  choice.group_size = 0;
  EXPECT_EQ(strategy_of(read(choice, config_of_inputs(1024, 3072))).scheme->weight.group_size, 0);
  choice.group_size = 256;
  EXPECT_EQ(strategy_of(read(choice, config_of_inputs(1024, 3072))).scheme->weight.group_size, 256);
}

TEST(PresetRecipes, LeaveFloatWhatIgnoreNamesOrItsExpressionsMatchFromTheBeginning) {
  const hf::Config config = test::qwen3_config("tiny");
  Preset choice = preset("W8A8");
  choice.ignore = {"lm_head", "re:.*down_proj", "re:model\\.layers\\.0\\.self_attn\\.(q|k)_proj$",
                   "model.layers.1.mlp.up_proj"};
  const Strategy strategy = strategy_of(read(choice, config));
  std::vector<std::string> names, floats;
  for (const hf::WeightModule& module : hf::weight_modules(config))
    if (module.kind == hf::WeightModule::Kind::kLinear) names.push_back(module.name);
  const Assignment assignment = assign({strategy}, names);
  for (const std::string& name : names)
    if (!assignment.strategy_of.contains(name)) floats.push_back(name);
  std::vector<std::string> expected;
  for (const std::string& name : names)
    if (name.ends_with("down_proj") || name == "model.layers.0.self_attn.q_proj" ||
        name == "model.layers.0.self_attn.k_proj" || name == "model.layers.1.mlp.up_proj")
      expected.push_back(name);
  EXPECT_EQ(floats, expected);
  choice.ignore = {"re:down_proj", "q_proj"};
  EXPECT_THAT(problems_of(choice), SizeIs(2));
}

TEST(PresetRecipes, NameWhatIsMeantOfAllExpertsOnce) {
  const hf::Config config = test::qwen3_config("tiny-moe");
  Preset choice = preset("W4A4");
  choice.ignore = {"re:.*experts", "re:.*layers\\.1\\.self_attn"};
  const Recipe recipe = read(choice, config);
  std::vector<std::string> excluded;
  for (const Pattern& pattern : strategy_of(recipe).exclude) excluded.push_back(pattern.text);
  EXPECT_THAT(excluded, testing::IsSupersetOf({"model.layers.{0,1}.mlp.experts.*.gate_proj",
                                               "model.layers.{0,1}.mlp.experts.*.down_proj"}));
  EXPECT_THAT(excluded, SizeIs(3 + 4));
  // No fitted rotation, which models with experts do not take yet.
  EXPECT_THAT(recipe.prior, IsEmpty());
}

TEST(PresetRecipes, RefuseAllThatContradictsAtOnce) {
  Preset choice = preset("W4A8");
  choice.group_size = 64;
  choice.iters = 10;
  choice.ignore = {"model.layers.99.mlp.up_proj"};
  std::vector<std::string> places;
  for (const Problem& problem : problems_of(choice)) places.push_back(problem.where);
  EXPECT_THAT(places, ElementsAre("--group-size", "--iters", "--ignore"));
  choice = preset("W8A8-static");
  choice.method = "autoround";
  ASSERT_THAT(problems_of(choice), SizeIs(1));
  EXPECT_THAT(problems_of(choice)[0].where, HasSubstr("--method"));
}

}  // namespace
}  // namespace laos::recipe
