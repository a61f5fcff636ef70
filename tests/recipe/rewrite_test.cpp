#include "recipe/rewrite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "recipe/glob.h"

namespace laos::recipe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kRecipe = R"(apiversion: modelslim_v1
metadata: {config_id: old, score: 7}
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround, ext: {scale_dtype: bfloat16}}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  process:
    - type: group
      configs:
        - {type: quarot, online: false, max_tp_size: 1}
    - type: linear_quant
      qconfig: *w8
      include: ["*.down_proj"]
      exclude: ["model.layers.0.*"]
    - type: autoround_quant
      iters: 3
      strategies:
        - {qconfig: *w4, include: ["*"], exclude: ["*.down_proj"]}
  save: [{type: ascendv1_saver}]
  dataset: some.jsonl
)";

TEST(WithFlatquant, ChangesItsOptionsInGroupsTooAndNothingElse) {
  std::string text = kRecipe;
  const std::string rotation = "        - {type: quarot, online: false, max_tp_size: 1}\n";
  text.replace(text.find(rotation), rotation.size(),
               rotation + "        - {type: flatquant, tp: 2, method: none}\n");
  const Recipe old = parse_recipe(text, "old.yaml");
  const Recipe changed = parse_recipe(with_flatquant(old, false, {4}), "new.yaml");
  const auto& pairs = std::get<Flatquant>(changed.main.process.at(1).what);
  EXPECT_EQ(pairs.tp, std::vector<int64_t>{4});
  EXPECT_FALSE(pairs.options.clip);
  EXPECT_EQ(pairs.options.method, flatquant::Method::kNone);
  EXPECT_EQ(changed.main.process.size(), old.main.process.size());
  const Recipe same = parse_recipe(with_flatquant(old, std::nullopt, {}), "same.yaml");
  EXPECT_EQ(same.yaml, old.yaml);
  const Recipe several = parse_recipe(with_flatquant(old, std::nullopt, {4, 1}), "several.yaml");
  EXPECT_EQ(std::get<Flatquant>(several.main.process.at(1).what).tp, (std::vector<int64_t>{4, 1}));
}

TEST(WithStrategies, ReplacesThemAndKeepsAllElse) {
  const Recipe old = parse_recipe(kRecipe, "old.yaml");
  const std::string yaml = with_strategies(
      old,
      {{},
       {{8, 8, {"model.layers.1.mlp.down_proj"}}},
       {{8, 8, {"model.layers.0.mlp.up_proj"}}, {4, 4, {"model.layers.1.mlp.up_proj"}}}},
      "new", "/data/other.jsonl");
  EXPECT_THAT(yaml, Not(HasSubstr("w4:")));
  const Recipe recipe = parse_recipe(yaml, "new.yaml");
  EXPECT_EQ(recipe.metadata.config_id, "new");
  EXPECT_EQ(recipe.metadata.score, 7);
  EXPECT_EQ(recipe.main.dataset, "/data/other.jsonl");
  ASSERT_EQ(recipe.main.process.size(), 3u);
  EXPECT_TRUE(std::holds_alternative<Rotate>(recipe.main.process[0].what));
  const auto& round = std::get<LinearQuant>(recipe.main.process[1].what);
  EXPECT_EQ(round.strategy.include.front().text, "model.layers.1.mlp.down_proj");
  EXPECT_TRUE(round.strategy.exclude.empty());
  const auto& train = std::get<AutoroundQuant>(recipe.main.process[2].what);
  EXPECT_EQ(train.options.iters, 3);
  ASSERT_EQ(train.strategies.size(), 2u);
  // The quantizer has no 8-bit strategy of its own: its first, with the widths put in.
  EXPECT_EQ(train.strategies[0].scheme->weight.bits, 8);
  EXPECT_EQ(train.strategies[0].scheme->act.bits, 8);
  EXPECT_EQ(train.strategies[0].scheme->weight.scale_dtype, DType::kBF16);
  EXPECT_EQ(train.strategies[1].scheme->weight.bits, 4);
  EXPECT_TRUE(train.strategies[1].exclude.empty());
}

TEST(WithStrategies, LeavesOutAQuantizerWithoutThem) {
  const Recipe old = parse_recipe(kRecipe, "old.yaml");
  const Recipe recipe = parse_recipe(
      with_strategies(old, {{}, {}, {{4, 4, {"model.layers.1.mlp.up_proj"}}}}, "new"), "new.yaml");
  ASSERT_EQ(recipe.main.process.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<AutoroundQuant>(recipe.main.process[1].what));
  EXPECT_EQ(recipe.main.dataset, "some.jsonl");
}

TEST(LayerPatterns, MatchTheirLayersAndNoOthers) {
  const std::set<int64_t> sets[] = {
      {0}, {3, 4}, {0, 1, 2, 3}, {0, 2, 3, 4, 9}, {5, 6, 8, 9, 11, 12}, {1, 3, 5, 7, 9, 11, 13}};
  for (const std::set<int64_t>& layers : sets) {
    const std::vector<std::string> patterns = layer_patterns("model.layers", layers, "mlp.up_proj");
    for (int64_t i = 0; i < 100; ++i) {
      int64_t count = 0;
      for (const std::string& pattern : patterns)
        count += matches(pattern, "model.layers." + std::to_string(i) + ".mlp.up_proj") ? 1 : 0;
      EXPECT_EQ(count, layers.contains(i) ? 1 : 0) << i << " of " << patterns.front();
    }
  }
  EXPECT_TRUE(layer_patterns("model.layers", {}, "mlp.up_proj").empty());
}

TEST(LayerPatterns, StayShortEnoughForARecipeInTheDeepestModels) {
  std::set<int64_t> odd;
  for (int64_t i = 1; i < 400; i += 2) odd.insert(i);
  const std::vector<std::string> patterns = layer_patterns("model.layers", odd, "self_attn.q_proj");
  EXPECT_GT(patterns.size(), 1u);
  for (const std::string& pattern : patterns) EXPECT_LE(pattern.size(), 200u);
  int64_t count = 0;
  for (int64_t i = 0; i < 400; ++i)
    for (const std::string& pattern : patterns)
      count += matches(pattern, "model.layers." + std::to_string(i) + ".self_attn.q_proj") ? 1 : 0;
  EXPECT_EQ(count, 200);
}

TEST(WithSavers, ChangesTheTypeOfSaversAlone) {
  const std::string text =
      "apiversion: modelslim_v1\nspec:\n  process: [{type: quarot}]\n  save: [{type: "
      "ascendv1_saver, part_file_size: 2}]\n";
  const Recipe before = parse_recipe(text, "r.yaml");
  const Recipe after = parse_recipe(with_savers(before, {"compressed_tensors_saver"}), "r.yaml");
  ASSERT_EQ(after.save.size(), 1u);
  EXPECT_EQ(after.save[0].format, &save::compressed_tensors_format());
  EXPECT_EQ(after.save[0].part_file_size, 2);
  const Recipe both = parse_recipe(with_savers(before, {"gptq_saver", "ascendv1_saver"}), "r.yaml");
  ASSERT_EQ(both.save.size(), 2u);
  EXPECT_EQ(both.save[0].format, &save::gptq_format());
  EXPECT_EQ(both.save[1].format, &save::ascendv1_format());
  EXPECT_EQ(both.save[1].part_file_size, 2);
}

}  // namespace
}  // namespace laos::recipe
