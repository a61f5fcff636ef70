// The layer shapes of the models people deploy, a few layers of each, through the whole program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <utility>

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The shipped recipe, where of the layers it lists only layer 1 is left: models here have few.
std::string shipped_recipe(const std::string& shape) {
  std::stringstream text;
  text << std::ifstream(std::filesystem::path(LAOS_SOURCE_DIR) / "recipes" /
                        ("qwen3-" + shape + "-w4a4.yaml"))
              .rdbuf();
  return std::regex_replace(text.str(), std::regex(R"(layers\.\{1,[0-9,]+\})"), "layers.1");
}

class Shapes : public testing::TestWithParam<const char*> {
 protected:
  std::string quant(const std::filesystem::path& recipe, int seq_len) const {
    return "quant --model_type Qwen3 --model_path " + (directory_ / "model").string() +
           " --save_path " + (directory_ / "out").string() + " --dataset " +
           (directory_ / "calib.txt").string() + " --calib-seq-len " + std::to_string(seq_len) +
           " --config_path " + recipe.string();
  }
  void write_calib(int num_words) const {
    std::ofstream calib(directory_ / "calib.txt");
    for (int i = 0; i < num_words; ++i)
      calib << "In the beginning was the word number " << i << "; ";
  }

  test::TemporaryDirectory directory_;
};
class ShapesSlow : public Shapes {};

const auto kShapes = testing::Values("8b", "14b", "32b");
const auto kShapeName = [](const auto& p) { return std::string("Shape") + p.param; };
INSTANTIATE_TEST_SUITE_P(Qwen3, Shapes, kShapes, kShapeName);
INSTANTIATE_TEST_SUITE_P(Qwen3, ShapesSlow, kShapes, kShapeName);

// With the fewest layers, each of at most max_samples rows, that a rotation can be fitted to.
TEST_P(Shapes, PlanTheirShippedRecipe) {
  test::write_synthetic({.config = test::qwen3_config(GetParam(), 3, 512), .is_hollow = true},
                        directory_ / "model");
  write_calib(200);
  std::ofstream(directory_ / "recipe.yaml") << shipped_recipe(GetParam());
  const test::CommandResult plan =
      test::run_laos(quant(directory_ / "recipe.yaml", 64) + " --dry-run");
  ASSERT_EQ(plan.exit_code, 0) << plan.output;
  EXPECT_THAT(plan.output, HasSubstr("model.layers.0.mlp.up_proj       W4A4_DYNAMIC"));
  EXPECT_THAT(plan.output, HasSubstr("model.layers.1.mlp.up_proj       W8A8_DYNAMIC"));
  EXPECT_THAT(plan.output, HasSubstr("model.layers.0.mlp.down_proj     W8A8_DYNAMIC"));
  EXPECT_THAT(plan.output, HasSubstr("peak RAM  about"));
  EXPECT_THAT(plan.output, Not(HasSubstr("health    in part")));  // training pays for all of it
  EXPECT_FALSE(std::filesystem::exists(directory_ / "out"));
}

// Rounding alone does not pay for a whole check, and that is said before the run and behind it.
TEST(HealthCheck, InPartSaysWhatItLeavesOut) {
  const test::TemporaryDirectory directory;
  test::write_synthetic({.config = test::qwen3_config("0.6b", 6, 512), .is_hollow = true},
                        directory / "model");
  const std::string quant = "quant --quant-type w8a8 --lenient --model-path " +
                            (directory / "model").string() + " --save-path " +
                            (directory / "out").string();
  const std::string part = "in part, for a tenth of the rest: ";
  const test::CommandResult plan = test::run_laos(quant + " --dry-run");
  ASSERT_EQ(plan.exit_code, 0) << plan.output;
  EXPECT_THAT(plan.output, HasSubstr("health    " + part));
  EXPECT_THAT(plan.output,
              HasSubstr("of 512 tokens, no prompts continued; laos check runs it whole"));
  const test::CommandResult run = test::run_laos(quant);
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_THAT(run.output, HasSubstr("          " + part));
  EXPECT_THAT(run.output, HasSubstr("no prompts continued; all of it: laos check " +
                                    (directory / "out").string() + " --baseline " +
                                    (directory / "model").string()));
  EXPECT_THAT(test::run_laos(quant + " --dry-run --restart --no-health").output,
              Not(HasSubstr(part)));
}

// Two iterations on short samples, and a Hadamard rotation: fitting one takes minutes at this
// width.
TEST_P(ShapesSlow, RunAndLoad) {
  test::write_synthetic({.config = test::qwen3_config(GetParam(), 2, 512)}, directory_ / "model");
  write_calib(5);
  std::string recipe = shipped_recipe(GetParam());
  const size_t prior = recipe.find("  prior:"), process = recipe.find("  process:\n    - {");
  ASSERT_TRUE(prior != std::string::npos && process != std::string::npos);
  recipe.erase(prior, process - prior);
  for (const auto& [from, to] : {std::pair{"iters: 400", "iters: 2"},
                                 std::pair{"type: adapt_rotation, stage: 2", "type: quarot"}}) {
    const size_t at = recipe.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    recipe.replace(at, std::string(from).size(), to);
  }
  std::ofstream(directory_ / "recipe.yaml") << recipe;
  const test::CommandResult run =
      test::run_laos(quant(directory_ / "recipe.yaml", 16) + " --lenient");
  ASSERT_EQ(run.exit_code, 0) << run.output;
  const test::CommandResult inspect = test::run_laos("inspect " + (directory_ / "out").string());
  EXPECT_EQ(inspect.exit_code, 0) << inspect.output;
  EXPECT_THAT(inspect.output, HasSubstr("vLLM-Ascend can load this checkpoint."));
}

}  // namespace
}  // namespace laos::cli
