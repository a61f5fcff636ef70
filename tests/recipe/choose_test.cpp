#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "recipe/recipe.h"

namespace laos::recipe {
namespace {

using testing::HasSubstr;

class ChooseRecipe : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(testing::TempDir()) /
            (std::string("laos_choose_") +
             testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  // Writes a recipe `file` ("directory/name.yaml") with this metadata.
  void write(const std::string& file, const std::string& metadata,
             const std::string& spec = "{process: [{type: quarot}]}",
             const std::string& apiversion = "modelslim_v1") {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << "apiversion: " << apiversion << "\nmetadata: {" << metadata
                                << "}\nspec: " << spec << "\n";
  }

  std::string choose(const std::string& model_type, const std::string& quant_type,
                     const std::vector<std::string>& directories = {"a"},
                     const std::vector<std::string>& tags = {}, const std::string& profile = "") {
    std::vector<std::filesystem::path> paths;
    for (const std::string& directory : directories) paths.push_back(root_ / directory);
    return std::filesystem::relative(
               choose_recipe(paths, {model_type, quant_type, profile, tags}).path, root_)
        .string();
  }

  Error refusal(const std::string& model_type, const std::string& quant_type) {
    try {
      ADD_FAILURE() << "chose " << choose(model_type, quant_type);
    } catch (const Error& error) {
      return error;
    }
    return Error(ErrorCode::kInternal, Problem{});
  }

  std::filesystem::path root_;
};

constexpr const char* kW4A4 =
    "label: {w_bit: 4, a_bit: 4}, verified_model_types: [Qwen3-8B, Qwen3-14B]";

TEST_F(ChooseRecipe, TakesTheHighestScoreThenTheFirstId) {
  write("a/1.yaml", std::string("config_id: z, score: 90, ") + kW4A4);
  write("a/2.yaml", std::string("config_id: y, score: 90, ") + kW4A4);
  write("a/3.yaml", std::string("config_id: a, score: 10, ") + kW4A4);
  write("a/4.yaml",
        "config_id: b, score: 99, label: {w_bit: 4, a_bit: 4}, verified_model_types: [Qwen3-32B]");
  write("a/5.txt", "no recipe");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4"), "a/2.yaml");
}

TEST_F(ChooseRecipe, SearchesDirectoriesInOrderAndPassesOverMissingOnes) {
  write("a/low.yaml", std::string("score: 1, ") + kW4A4);
  write("b/high.yaml", std::string("score: 99, ") + kW4A4);
  EXPECT_EQ(choose("Qwen3-8B", "w4a4", {"none", "a", "b"}), "a/low.yaml");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4", {"b", "a"}), "b/high.yaml");
}

TEST_F(ChooseRecipe, LooksIntoFoldersOfADirectory) {
  write("a/qwen3/1.yaml", std::string("score: 1, ") + kW4A4);
  write("a/qwen3/deeper/2.yaml", std::string("score: 9, ") + kW4A4);
  EXPECT_EQ(choose("Qwen3-8B", "w4a4"), "a/qwen3/1.yaml");
}

TEST_F(ChooseRecipe, ComparesTagsWhereNoModelTypesAreListed) {
  const std::string label = ", label: {w_bit: 4, a_bit: 4}, verified_tags: {Qwen3-8B: ";
  write("a/fast.yaml", "score: 9" + label + "[[fast, Atlas_A2]]}");
  write("a/both.yaml", "score: 5" + label + "[[slow], [long, Atlas_A2]]}");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4"), "a/fast.yaml");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4", {"a"}, {"LONG", "atlas_a2"}), "a/both.yaml");
  EXPECT_THROW(choose("Qwen3-8B", "w4a4", {"a"}, {"long", "slow"}), Error);
  try {
    choose("Qwen3-8B", "w4a4", {"a"}, {"other"});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.problems().at(0).fix, HasSubstr("fast.yaml is for other tags"));
  }
  EXPECT_THROW(choose("Qwen3-14B", "w4a4"), Error);
  // Model types, where they are listed, decide alone.
  write("a/listed.yaml", std::string("score: 1, ") + kW4A4);
  EXPECT_EQ(choose("Qwen3-8B", "w4a4", {"a"}, {"other"}), "a/listed.yaml");
}

TEST_F(ChooseRecipe, TakesAProfileOnlyWhenItIsAskedFor) {
  write("a/fast.yaml",
        "score: 99, label: {w_bit: 4, a_bit: 4, profile: fast}, verified_model_types: [Qwen3-8B]");
  EXPECT_EQ(refusal("Qwen3-8B", "w4a4").code(), ErrorCode::kUsage);
  EXPECT_THAT(refusal("Qwen3-8B", "w4a4").problems()[0].fix, HasSubstr("for Qwen3-8B there are w4a4 --fast; "));
  write("a/plain.yaml", kW4A4);
  EXPECT_EQ(choose("Qwen3-8B", "w4a4"), "a/plain.yaml");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4", {"a"}, {}, "fast"), "a/fast.yaml");
}

TEST_F(ChooseRecipe, ComparesTheWholeLabel) {
  write("a/plain.yaml", kW4A4);
  write("a/cache.yaml",
        "label: {w_bit: 4, a_bit: 4, kv_cache: True}, verified_model_types: [Qwen3-8B]");
  write("a/attention.yaml",
        "label: {w_bit: 4, a_bit: 4, fa_quant: yes}, verified_model_types: [Qwen3-8B]");
  write("a/attention4.yaml",
        "label: {w_bit: 4, a_bit: 4, fa_bit: 4}, verified_model_types: [Qwen3-8B]");
  write("a/sparse.yaml",
        "label: {w_bit: 8, a_bit: 8, is_sparse: True}, verified_model_types: [Qwen3-8B]");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4"), "a/plain.yaml");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4c8"), "a/cache.yaml");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4f8"), "a/attention.yaml");
  EXPECT_EQ(choose("Qwen3-8B", "w4a4f4"), "a/attention4.yaml");
  EXPECT_EQ(choose("Qwen3-8B", "w8a8s"), "a/sparse.yaml");
  EXPECT_EQ(refusal("Qwen3-8B", "w8a8").code(), ErrorCode::kUsage);
}

TEST_F(ChooseRecipe, ListsWhatThereIsWhenNothingFits) {
  write("a/1.yaml", kW4A4);
  write("a/2.yaml", "label: {w_bit: 8, a_bit: 8}, verified_model_types: [Qwen3-8B]");
  Error error = refusal("Qwen3-9B", "w4a4");
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_EQ(error.problems().at(0).what,
            "no recipe for model type `Qwen3-9B` and quant type `w4a4`");
  EXPECT_THAT(error.problems()[0].fix, HasSubstr("did you mean `Qwen3-8B`?"));
  EXPECT_THAT(error.problems()[0].fix,
              HasSubstr("there are recipes for Qwen3-14B, Qwen3-8B (see laos recipes); or name a "
                        "recipe with --config-path"));
  EXPECT_EQ(refusal("Qwen3-14B", "w8a8").problems().at(0).fix,
            "for Qwen3-14B there are w4a4; or name a recipe with --config-path");
}

TEST_F(ChooseRecipe, RefusesAnUnknownQuantTypeWithTheList) {
  const Error error = refusal("Qwen3-8B", "w4a5");
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.problems().at(0).fix,
              HasSubstr("w4a4, w4a8, w4a4c8, w4a4f8, w4a8c8, w8a16, w8a8, w8a8s, w8a8c8, w8a8f8, "
                        "w4a4f4, w16a16s"));
}

// What `spec` asks for is looked at only when the recipe is taken: recipes for other models and
// tools may stand in the folder.
TEST_F(ChooseRecipe, PassesOverRecipesThatLaosDoesNotRun) {
  write("a/deepseek/1.yaml", "label: {w_bit: 4, a_bit: 4}, verified_model_types: [DeepSeek-V3]",
        "{process: [{type: flatquant, anything: 1}]}");
  write("a/multimodal/2.yaml", "label: {w_bit: 4, a_bit: 4}, verified_model_types: [Wan2.1]",
        "{mine: 1}", "multimodal_vlm_modelslim_v1");
  write("a/qwen3/3.yml", kW4A4);
  EXPECT_EQ(choose("Qwen3-8B", "w4a4"), "a/qwen3/3.yml");
  const std::filesystem::path taken = root_ / choose("DeepSeek-V3", "w4a4");
  EXPECT_THROW(load_recipe(taken), Error);
}

TEST_F(ChooseRecipe, NamesARecipeForAnyModelAndTakesItOnlyWhenTold) {
  write("a/default/any.yaml", "label: {w_bit: 4, a_bit: 4}");
  write("a/default/other.yaml", "label: {w_bit: 8, a_bit: 8}");
  const Error error = refusal("Qwen3-9B", "w4a4");
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.problems().at(0).fix,
              testing::AllOf(HasSubstr("default/any.yaml is for any model: give it as "
                                       "--config-path"),
                             testing::Not(HasSubstr("other.yaml"))));
}

TEST_F(ChooseRecipe, ComparesModelTypesWithoutCase) {
  write("a/1.yaml", kW4A4);
  write("a/2.yaml", "label: {w_bit: 8, a_bit: 8}, verified_tags: {Qwen3-8B: [[any]]}");
  EXPECT_EQ(choose("qwen3-8b", "w4a4"), "a/1.yaml");
  EXPECT_EQ(choose("QWEN3-8B", "w8a8", {"a"}, {"Any"}), "a/2.yaml");
}

class ChooseByFacts : public ChooseRecipe {
 protected:
  void SetUp() override {
    ChooseRecipe::SetUp();
    write("a/8b.yaml", "label: {w_bit: 4, a_bit: 4}, verified_model_types: [Qwen3-8B]");
    write("a/any.yaml",
          "score: 99, label: {w_bit: 4, a_bit: 4}, verified_model_types: [LlamaForCausalLM, "
          "Qwen3ForCausalLM]");
    std::ofstream(root_ / "a/model-types.json")
        << R"({"Qwen3-8B": {"architecture": "Qwen3ForCausalLM", "num_hidden_layers": 36,)"
           R"( "hidden_size": 4096},)"
           "\n"
           R"("Qwen3-14B": {"architecture": "Qwen3ForCausalLM", "num_hidden_layers": 40,)"
           R"( "hidden_size": 5120}})";
  }
  RecipeChoice choice(const std::string& model_type, const ModelFacts& facts) {
    return choose_recipe({root_ / "a"}, {model_type, "w4a4", "", {}, facts});
  }

  const ModelFacts k8B = {"Qwen3ForCausalLM", 36, 4096}, k14B = {"Qwen3ForCausalLM", 40, 5120},
                   kLlama = {"LlamaForCausalLM", 36, 4096};
};

TEST_F(ChooseByFacts, TakesTheRecipeOfTheModelThatTheConfigurationIsOf) {
  const RecipeChoice found = choice("", k8B);
  EXPECT_EQ(found.path.filename(), "8b.yaml");
  EXPECT_EQ(found.model_type, "Qwen3-8B");
  EXPECT_EQ(found.note, "config.json is that of Qwen3-8B");
  EXPECT_EQ(choice("qwen3-8b", k8B).note, "");
  EXPECT_EQ(choice("mine", k8B).path.filename(), "8b.yaml");
  EXPECT_EQ(choice("mine", k8B).note,
            "no recipe is for model type `mine`: config.json is that of Qwen3-8B, whose recipe is "
            "taken; --config-path names another, laos recipes lists them");
}

TEST_F(ChooseByFacts, TakesTheRecipeOfTheArchitectureWhereNoneIsForTheModel) {
  for (const ModelFacts& facts : {k14B, kLlama}) {
    const RecipeChoice found = choice("", facts);
    EXPECT_EQ(found.path.filename(), "any.yaml");
    EXPECT_EQ(found.model_type, facts.architecture);
    EXPECT_EQ(found.note, "no recipe is for this model alone: the recipe for every " +
                              facts.architecture + " is taken");
  }
  EXPECT_EQ(choice("Llama-3.1-8B", kLlama).note,
            "no recipe is for model type `Llama-3.1-8B`: the recipe for every LlamaForCausalLM is "
            "taken; --config-path names another, laos recipes lists them");
  EXPECT_THROW(choice("", {"GlmForCausalLM", 36, 4096}), Error);
}

TEST_F(ChooseByFacts, RefusesAModelTypeThatContradictsThem) {
  const auto problem_of = [&](const std::string& model_type, const ModelFacts& facts) {
    try {
      choice(model_type, facts);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.problems().at(0);
    }
    ADD_FAILURE() << "took " << model_type;
    return Problem{};
  };
  const Problem problem = problem_of("qwen3-14b", k8B);
  EXPECT_EQ(problem.what,
            "model type `qwen3-14b` is a Qwen3ForCausalLM of 40 layers and hidden_size 5120, but "
            "config.json says Qwen3ForCausalLM of 36 layers and hidden_size 4096");
  EXPECT_EQ(problem.fix, "write Qwen3-8B, or leave it out");
  EXPECT_EQ(problem_of("Qwen3-8B", kLlama).fix, "leave it out");
}

TEST_F(ChooseByFacts, ReportsWhatIsWrongInTheTableOfModelTypes) {
  std::ofstream(root_ / "a/model-types.json")
      << R"({"A": {"architecture": 1, "num_hidden_layers": 0}, "B": []})";
  try {
    choice("", k8B);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRecipe);
    EXPECT_EQ(error.problems().size(), 4u) << error.what();
    EXPECT_THAT(error.problems()[0].where, HasSubstr("model-types.json:1:"));
  }
}

TEST_F(ChooseRecipe, NamesEveryBrokenFile) {
  write("a/good.yaml", kW4A4);
  write("a/bad1.yaml", "score: low");
  write("a/bad2.yaml", "unknown: 1");
  const Error error = refusal("Qwen3-8B", "w4a4");
  EXPECT_EQ(error.code(), ErrorCode::kRecipe);
  ASSERT_EQ(error.problems().size(), 2u);
  EXPECT_THAT(error.problems()[0].where, HasSubstr("bad1.yaml:2:19 metadata.score"));
  EXPECT_THAT(error.problems()[1].where, HasSubstr("bad2.yaml:2:12 metadata.unknown"));
}

}  // namespace
}  // namespace laos::recipe
