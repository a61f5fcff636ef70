// The recipes and the documentation that come with laos.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "hf/family.h"
#include "io/file.h"
#include "recipe/recipe.h"

namespace laos::recipe {
namespace {

const std::filesystem::path kRecipes = std::filesystem::path(LAOS_SOURCE_DIR) / "recipes";

struct Linear {
  const char* name;
  double size;  // weights, in units of hidden_size^2 / 5 of Qwen3-32B
};
// Qwen3-32B: hidden_size 5120, 64 heads of 128, 8 KV heads, intermediate_size 25600.
constexpr Linear kLinears[] = {{"self_attn.q_proj", 8}, {"self_attn.k_proj", 1},
                               {"self_attn.v_proj", 1}, {"self_attn.o_proj", 8},
                               {"mlp.gate_proj", 25},   {"mlp.up_proj", 25},
                               {"mlp.down_proj", 25}};

std::vector<std::string> linear_names(int num_layers) {
  std::vector<std::string> names;
  for (int layer = 0; layer < num_layers; ++layer) {
    for (const Linear& linear : kLinears) {
      names.push_back("model.layers." + std::to_string(layer) + "." + linear.name);
    }
  }
  names.push_back("lm_head");
  return names;
}

const std::vector<Strategy>& strategies_of(const Recipe& recipe) {
  const auto& last = recipe.main.process.back().what;
  if (const auto* gptq = std::get_if<GptqQuant>(&last)) return gptq->strategies;
  return std::get<AutoroundQuant>(last).strategies;
}

// Linear name -> label, for what a recipe quantizes.
std::map<std::string, std::string> labels(const Recipe& recipe, int num_layers) {
  std::map<std::string, std::string> labels;
  const auto& strategies = strategies_of(recipe);
  for (const auto& [name, index] : assign(strategies, linear_names(num_layers)).strategy_of) {
    labels[name] = quant::label_of(strategies[index].scheme.value()).value();
  }
  return labels;
}

std::vector<int> w4a4_layers(const std::map<std::string, std::string>& labels,
                             const std::string& linear) {
  std::vector<int> layers;
  for (int layer = 0; layer < 64; ++layer) {
    const auto found = labels.find("model.layers." + std::to_string(layer) + "." + linear);
    if (found != labels.end() && found->second == "W4A4_DYNAMIC") layers.push_back(layer);
  }
  return layers;
}

struct ModelRecipe {
  const char* model_type;
  const char* file;
  int num_layers;
};
constexpr ModelRecipe kModelRecipes[] = {
    {"Qwen3-0.6B", "qwen3-0.6b-w4a4.yaml", 28}, {"Qwen3-1.7B", "qwen3-1.7b-w4a4.yaml", 28},
    {"Qwen3-4B", "qwen3-4b-w4a4.yaml", 36},     {"Qwen3-8B", "qwen3-8b-w4a4.yaml", 36},
    {"Qwen3-14B", "qwen3-14b-w4a4.yaml", 40},   {"Qwen3-32B", "qwen3-32b-w4a4.yaml", 64},
    {"qwen3-tiny", "qwen3-tiny-w4a4.yaml", 8},
};

TEST(ShippedRecipes, AreThereInEveryProfileForEveryArchitecture) {
  for (const hf::Family& family : hf::families()) {
    if (family.experts) continue;  // of which none of these recipes is
    const std::string architecture(family.architecture);
    for (const auto& [type, profile, file] :
         {std::tuple("w4a4", "", "dense-w4a4.yaml"),
          std::tuple("w4a4", "fast", "dense-w4a4-fast.yaml"),
          std::tuple("w4a4", "balanced", "dense-w4a4-balanced.yaml"),
          std::tuple("w4a4", "full", "dense-w4a4-full.yaml"),
          std::tuple("w4a4", "auto", "dense-w4a4-auto.yaml"),
          std::tuple("w4a4", "fast --online", "dense-w4a4-fast-online.yaml"),
          std::tuple("w4a4", "balanced --online", "dense-w4a4-balanced-online.yaml"),
          std::tuple("w4a4", "full --online", "dense-w4a4-full-online.yaml"),
          std::tuple("w4a4", "online-columns", "dense-w4a4-online-columns.yaml"),
          std::tuple("w8a8", "", "dense-w8a8.yaml")}) {
      const RecipeChoice choice =
          choose_recipe({kRecipes}, {"", type, profile, {}, ModelFacts{architecture, 30, 576}});
      EXPECT_EQ(choice.path, kRecipes / file);
      EXPECT_EQ(choice.model_type, architecture);
    }
  }
}

TEST(ReadmeOfTheProject, NamesEveryArchitecture) {
  const std::string readme = io::read_text(kRecipes / "../README.md", 1 << 20);
  for (const hf::Family& family : hf::families())
    EXPECT_NE(readme.find("`" + std::string(family.architecture) + "`"), std::string::npos)
        << family.architecture;
}

// Every model type that a recipe is for, but the architectures, has its facts in the table.
TEST(ShippedRecipes, AreForModelsThatAreKnownByTheirFacts) {
  std::set<std::string> known;
  for (const hf::Family& family : hf::families()) known.emplace(family.architecture);
  for (const ModelType& type : list_model_types({kRecipes})) {
    EXPECT_TRUE(known.insert(type.name).second) << type.name;
    EXPECT_EQ(choose_recipe({kRecipes}, {"", "w8a8", "", {}, type.facts}).model_type, type.name);
  }
  for (const RecipeEntry& entry : list_recipes({kRecipes}))
    for (const std::string& type : entry.metadata.verified_model_types)
      EXPECT_TRUE(known.contains(type)) << entry.path << " " << type;
}

TEST(ShippedRecipes, ForAnyModelKeepBothEndsAt8BitsAtEveryDepth) {
  const Recipe recipe = load_recipe(kRecipes / "dense-w4a4.yaml");
  for (const int num_layers : {16, 30, 80}) {
    const auto by_name = labels(recipe, num_layers);
    EXPECT_EQ(by_name.size(), 7u * static_cast<size_t>(num_layers));
    std::vector<int> expected;
    for (int layer = 2; layer < std::min(num_layers - 2, 64); ++layer) expected.push_back(layer);
    EXPECT_EQ(w4a4_layers(by_name, "mlp.up_proj"), expected);
    EXPECT_EQ(w4a4_layers(by_name, "mlp.gate_proj"), expected);
    EXPECT_THAT(w4a4_layers(by_name, "mlp.down_proj"), testing::IsEmpty());
    EXPECT_THAT(assign(strategies_of(recipe), linear_names(num_layers)).warnings,
                testing::IsEmpty());
  }
}

TEST(ShippedRecipes, FastOnesGiveEachLinearTheBitsOfThePublishedScheme) {
  std::vector<std::tuple<std::string, int>> recipes = {{"dense-w4a4", 24}, {"dense-w4a4", 80}};
  for (const ModelRecipe& model : kModelRecipes)
    recipes.emplace_back(std::filesystem::path(model.file).stem().string(), model.num_layers);
  for (const auto& [stem, num_layers] : recipes)
    EXPECT_EQ(labels(load_recipe(kRecipes / (stem + "-fast.yaml")), num_layers),
              labels(load_recipe(kRecipes / (stem + ".yaml")), num_layers))
        << stem;
}

TEST(ShippedRecipes, AllParseWithoutWarnings) {
  int num_recipes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kRecipes)) {
    if (entry.path().extension() != ".yaml") continue;
    ++num_recipes;
    std::vector<std::string> warnings;
    ASSERT_NO_THROW(warnings = load_recipe(entry.path()).warnings) << entry.path();
    EXPECT_THAT(warnings, testing::IsEmpty()) << entry.path();
  }
  EXPECT_GE(num_recipes, 10);
}

TEST(ShippedRecipes, AreChosenForTheirModel) {
  for (const ModelRecipe& model : kModelRecipes) {
    EXPECT_EQ(choose_recipe({kRecipes}, {model.model_type, "w4a4", "", {}}).path,
              kRecipes / model.file);
  }
}

TEST(ShippedRecipes, HavePatternsThatAllMatchTheirModel) {
  for (const ModelRecipe& model : kModelRecipes) {
    const Recipe recipe = load_recipe(kRecipes / model.file);
    for (const std::string& warning :
         assign(strategies_of(recipe), linear_names(model.num_layers)).warnings) {
      EXPECT_THAT(warning, testing::Not(testing::HasSubstr("matches no linear"))) << model.file;
    }
  }
}

TEST(ShippedRecipes, QuantizeEveryLinearOfTheLayersAndKeepBothEndsAt8Bits) {
  for (const ModelRecipe& model : kModelRecipes) {
    const auto by_name = labels(load_recipe(kRecipes / model.file), model.num_layers);
    EXPECT_EQ(by_name.size(), 7u * static_cast<size_t>(model.num_layers)) << model.file;
    EXPECT_FALSE(by_name.contains("lm_head"));
    for (const auto& [name, label] : by_name) {
      const bool may_be_4_bit = name.ends_with("up_proj") || name.ends_with("gate_proj");
      if (!may_be_4_bit) {
        EXPECT_EQ(label, "W8A8_DYNAMIC") << model.file << " " << name;
      }
    }
    EXPECT_EQ(w4a4_layers(by_name, "mlp.up_proj"), w4a4_layers(by_name, "mlp.gate_proj"));
    if (model.num_layers == 8) {
      EXPECT_EQ(w4a4_layers(by_name, "mlp.up_proj").size(), 8u);
      continue;
    }
    const double share =
        static_cast<double>(w4a4_layers(by_name, "mlp.up_proj").size()) / model.num_layers;
    EXPECT_NEAR(share, 44.0 / 64.0, 0.03) << model.file;
    EXPECT_EQ(by_name.at("model.layers.1.mlp.up_proj"), "W8A8_DYNAMIC");
    EXPECT_EQ(by_name.at("model.layers." + std::to_string(model.num_layers - 1) + ".mlp.up_proj"),
              "W8A8_DYNAMIC");
  }
}

TEST(ShippedRecipes, Give32BThePublishedPrecisionMap) {
  const auto by_name = labels(load_recipe(kRecipes / "qwen3-32b-w4a4.yaml"), 64);
  std::vector<int> expected = {0};
  for (const auto& [first, last] :
       {std::pair(9, 29), std::pair(33, 42), std::pair(47, 51), std::pair(53, 59)}) {
    for (int layer = first; layer <= last; ++layer) expected.push_back(layer);
  }
  ASSERT_EQ(expected.size(), 44u);
  EXPECT_EQ(w4a4_layers(by_name, "mlp.up_proj"), expected);

  double all = 0, four_bit = 0;
  for (int layer = 0; layer < 64; ++layer) {
    for (const Linear& linear : kLinears) {
      all += linear.size;
      if (by_name.at("model.layers." + std::to_string(layer) + "." + linear.name) ==
          "W4A4_DYNAMIC") {
        four_bit += linear.size;
      }
    }
  }
  EXPECT_NEAR(four_bit / all, 0.37, 0.005);
}

TEST(ShippedRecipes, QuantizeEveryLinearOfTinyInTheFullRecipe) {
  for (const auto& [name, label] :
       labels(load_recipe(kRecipes / "qwen3-tiny-w4a4-full-autoround.yaml"), 8)) {
    if (name != "lm_head") {
      EXPECT_EQ(label, "W4A4_DYNAMIC") << name;
    }
  }
}

TEST(ShippedRecipes, SeparateRotationAndTrainingForTiny) {
  const auto tuned = [](const Recipe& recipe) {
    const auto& options = std::get<AutoroundQuant>(recipe.main.process.back().what).options;
    return options.enable_round_tuning || options.enable_minmax_tuning;
  };
  const Recipe rtn = load_recipe(kRecipes / "qwen3-tiny-w4a4-rtn.yaml");
  EXPECT_FALSE(tuned(rtn));
  EXPECT_EQ(rtn.main.process.size(), 1u);
  EXPECT_TRUE(rtn.prior.empty());
  const Recipe rotation = load_recipe(kRecipes / "qwen3-tiny-w4a4-rotation.yaml");
  EXPECT_FALSE(tuned(rotation));
  EXPECT_EQ(rotation.main.process.size(), 2u);
  EXPECT_EQ(rotation.prior.size(), 1u);
  EXPECT_EQ(labels(rtn, 8), labels(load_recipe(kRecipes / "qwen3-tiny-w4a4.yaml"), 8));
  EXPECT_EQ(labels(rotation, 8), labels(rtn, 8));
}

TEST(PublishedRecipe, ParsesUnmodifiedAndAssignsAsOurs) {
  const std::filesystem::path published =
      std::filesystem::path(LAOS_SOURCE_DIR) / "../shared/data/recipes/qwen3-32b-dense-w4a4.yaml";
  if (!std::filesystem::exists(published)) GTEST_SKIP() << "no " << published;
  const Recipe theirs = load_recipe(published),
               ours = load_recipe(kRecipes / "qwen3-32b-w4a4.yaml");
  EXPECT_THAT(theirs.warnings, testing::IsEmpty());
  EXPECT_THAT(assign(strategies_of(theirs), linear_names(64)).warnings, testing::IsEmpty());
  EXPECT_EQ(labels(theirs, 64), labels(ours, 64));
  EXPECT_EQ(std::get<AutoroundQuant>(theirs.main.process.back().what).options.iters,
            std::get<AutoroundQuant>(ours.main.process.back().what).options.iters);
}

TEST(RecipeDocs, HaveARowForEveryKey) {
  std::ifstream file(std::filesystem::path(LAOS_SOURCE_DIR) / "docs" / "recipes.md");
  ASSERT_TRUE(file);
  std::set<std::string> documented;
  std::string section;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("## ")) section.clear();
    if (line.starts_with("### ")) section = line.substr(4);
    if (!section.empty() && line.starts_with("| `"))
      documented.insert(section + ": " + line.substr(3, line.find('`', 3) - 3));
  }
  for (const std::string& key : known_keys()) EXPECT_TRUE(documented.contains(key)) << key;
  EXPECT_EQ(documented.size(), known_keys().size()) << "a row for a key that does not exist";
}

TEST(RecipeDocs, HaveExamplesThatParse) {
  std::ifstream file(std::filesystem::path(LAOS_SOURCE_DIR) / "docs" / "recipes.md");
  ASSERT_TRUE(file);
  int num_examples = 0;
  std::string example;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line == "```yaml") {
      inside = true;
      example.clear();
    } else if (line == "```" && inside) {
      inside = false;
      ++num_examples;
      EXPECT_NO_THROW(parse_recipe(example, "docs/recipes.md")) << example;
    } else if (inside) {
      example += line + "\n";
    }
  }
  EXPECT_GE(num_examples, 1);
}

}  // namespace
}  // namespace laos::recipe
