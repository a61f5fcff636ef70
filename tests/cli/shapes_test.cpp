// The layer shapes of the models people deploy, two layers of each, through the whole program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::HasSubstr;

class ShapesSlow : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Qwen3, ShapesSlow, testing::Values("8b", "14b", "32b"),
                         [](const auto& p) { return std::string("Shape") + p.param; });

TEST_P(ShapesSlow, PlanRunAndLoad) {
  const std::string shape = GetParam();
  const test::TemporaryDirectory directory;
  test::write_synthetic({.config = test::qwen3_config(shape, 2, 512)}, directory / "model");
  // The second has enough tokens for a fitted rotation of this width, and is only planned with.
  for (const auto& [name, num_words] : {std::pair{"calib.txt", 20}, std::pair{"long.txt", 200}}) {
    std::ofstream calib(directory / name);
    for (int i = 0; i < num_words; ++i)
      calib << "In the beginning was the word number " << i << "; ";
  }
  const std::string paths =
      "quant --model_type Qwen3 --model_path " + (directory / "model").string() + " --save_path " +
      (directory / "out").string() + " --calib-seq-len 64 --dataset " + directory.path().string();
  const std::string shipped = "recipes/qwen3-" + shape + "-w4a4.yaml";
  std::stringstream text;
  text << std::ifstream(std::filesystem::path(LAOS_SOURCE_DIR) / shipped).rdbuf();
  std::string recipe = text.str();
  const test::CommandResult whole =
      test::run_laos(paths + "/long.txt --config_path " +
                     (std::filesystem::path(LAOS_SOURCE_DIR) / shipped).string() + " --dry-run");
  EXPECT_EQ(whole.exit_code, 0) << whole.output;

  // Two iterations, and a Hadamard rotation: fitting one takes minutes at this width.
  const size_t prior = recipe.find("  prior:"), process = recipe.find("  process:\n    - {");
  ASSERT_TRUE(prior != std::string::npos && process != std::string::npos);
  recipe.erase(prior, process - prior);
  for (const auto& [from, to] : {std::pair{"iters: 400", "iters: 2"},
                                 std::pair{"type: adapt_rotation, stage: 2", "type: quarot"}}) {
    const size_t at = recipe.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    recipe.replace(at, std::string(from).size(), to);
  }
  std::ofstream(directory / "recipe.yaml") << recipe;
  const std::string quant =
      paths + "/calib.txt --config_path " + (directory / "recipe.yaml").string();
  const test::CommandResult plan = test::run_laos(quant + " --dry-run");
  ASSERT_EQ(plan.exit_code, 0) << plan.output;
  EXPECT_THAT(plan.output, HasSubstr("model.layers.0.mlp.up_proj       W4A4_DYNAMIC"));
  EXPECT_THAT(plan.output, HasSubstr("model.layers.1.mlp.down_proj     W8A8_DYNAMIC"));
  EXPECT_THAT(plan.output, HasSubstr("peak RAM  about"));
  EXPECT_FALSE(std::filesystem::exists(directory / "out"));

  const test::CommandResult run = test::run_laos(quant);
  ASSERT_EQ(run.exit_code, 0) << run.output;
  const test::CommandResult inspect = test::run_laos("inspect " + (directory / "out").string());
  EXPECT_EQ(inspect.exit_code, 0) << inspect.output;
  EXPECT_THAT(inspect.output, HasSubstr("vLLM-Ascend can load this checkpoint."));
}

}  // namespace
}  // namespace laos::cli
