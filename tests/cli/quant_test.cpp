// `laos quant` as users run it, on input that is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Result {
  int exit_code = -1;
  std::string output;  // stdout and stderr
};

Result laos(const std::string& arguments) {
  const std::string command = std::string("'") + LAOS_BINARY + "' " + arguments + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  Result result;
  std::array<char, 4096> piece;
  while (const size_t count = std::fread(piece.data(), 1, piece.size(), pipe))
    result.output.append(piece.data(), count);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

class QuantCommand : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny")}, model_);
    write("calib.jsonl", R"({"inputs_pretokenized": "In the beginning was the word"})");
    write("recipe.yaml", R"(apiversion: modelslim_v1
spec:
  process:
    - type: autoround_quant
      iters: 2
      strategies:
        - qconfig:
            weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
            act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)");
  }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << text << "\n";
  }
  Result quant(const std::string& more = "") {
    return laos("quant --model_path " + model_.string() + " --save_path " + save_.string() +
                " --config_path " + (directory_ / "recipe.yaml").string() + " " + more);
  }
  void expect_refused(const Result& result, int exit_code, const std::string& text) {
    EXPECT_EQ(result.exit_code, exit_code) << result.output;
    EXPECT_THAT(result.output, AllOf(HasSubstr("laos: error:"), HasSubstr(text)));
    EXPECT_FALSE(std::filesystem::exists(save_));
  }

  test::TemporaryDirectory directory_;
  const std::filesystem::path model_ = directory_ / "model";
  const std::filesystem::path save_ = directory_ / "out";
};

TEST_F(QuantCommand, QuantizesAndTheResultLoads) {
  const Result result = quant();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(laos("inspect " + save_.string()).exit_code, 0);
}

TEST_F(QuantCommand, DryRunPrintsALinePerLinearAndWritesNothing) {
  const Result result = quant("--dry-run");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("model.layers.1.mlp.down_proj"), HasSubstr("W8A8_DYNAMIC"),
                    HasSubstr("strategies[0]"), HasSubstr("peak RAM")));
  EXPECT_FALSE(std::filesystem::exists(save_));
}

TEST_F(QuantCommand, RefusesATruncatedShard) {
  std::filesystem::resize_file(model_ / "model.safetensors",
                               std::filesystem::file_size(model_ / "model.safetensors") - 7);
  expect_refused(quant(), 1, "model.safetensors");
}

TEST_F(QuantCommand, RefusesANaNWeightBeforeAnythingIsTrained) {
  std::fstream file(model_ / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-2, std::ios::end);  // the last weight of the file, BF16
  const uint16_t nan = 0x7fc0;
  file.write(reinterpret_cast<const char*>(&nan), 2);
  file.close();
  const Result result = quant();
  expect_refused(result, 1, "NaN");
  EXPECT_THAT(result.output, HasSubstr(".weight"));
}

TEST_F(QuantCommand, RefusesAConfigThatDisagreesWithATensor) {
  std::stringstream text;
  text << std::ifstream(model_ / "config.json").rdbuf();
  std::string config = text.str();
  const size_t at = config.find("\"intermediate_size\": 128");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, 24, "\"intermediate_size\": 136");
  std::ofstream(model_ / "config.json") << config;
  expect_refused(quant(), 1, "gate_proj.weight");
}

TEST_F(QuantCommand, ReportsFiveMistakesOfARecipeWithTheirLines) {
  write("recipe.yaml", R"(apiversion: modelslim_v1
spec:
  proces: []
  process:
    - type: autoround_quant
      iters: many
      strategies:
        - include: [7]
          qconfig:
            weight: {scope: per_channel, dtype: int3, symmetric: true, method: autoround}
            act: {scope: per_token, dtype: int8, symmetric: perhaps, method: minmax}
)");
  const Result result = quant();
  expect_refused(result, 1, "did you mean `process`?");
  for (const char* place :
       {"recipe.yaml:3:", "recipe.yaml:6:", "recipe.yaml:8:", "recipe.yaml:10:", "recipe.yaml:11:"})
    EXPECT_THAT(result.output, HasSubstr(place));
}

TEST_F(QuantCommand, RefusesMissingAndEmptyDatasets) {
  write("calib.jsonl", "");
  expect_refused(quant(), 1, "calib.jsonl");
  std::filesystem::remove(directory_ / "calib.jsonl");
  expect_refused(quant(), 1, "recipe.yaml:11:");
}

TEST_F(QuantCommand, RefusesAnOutputThatCannotBeWritten) {
  const Result result = laos("quant --model_path " + model_.string() + " --save_path " +
                             (directory_ / "calib.jsonl").string() + "/out --config_path " +
                             (directory_ / "recipe.yaml").string());
  expect_refused(result, 2, "calib.jsonl");
}

TEST_F(QuantCommand, RefusesFlagsThatMakeNoSenseWithExitCodeTwo) {
  expect_refused(quant("--quant_type w4a4"), 2, "--quant_type");
  expect_refused(quant("--iter 3"), 2, "--iter");
  expect_refused(quant("--device npu"), 2, "--device cpu");
  expect_refused(laos("quantise"), 2, "laos quant");
}

TEST_F(QuantCommand, NamesMissingFiles) {
  std::filesystem::remove(model_ / "config.json");
  expect_refused(quant(), 1, "config.json");
}

}  // namespace
}  // namespace laos::cli
