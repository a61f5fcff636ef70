// `laos inspect` as users run it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "support/command.h"
#include "support/reference.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::HasSubstr;

test::CommandResult inspect(const std::string& arguments) {
  return test::run_laos("inspect " + arguments);
}

TEST(InspectCommand, FailsAndSaysWhyForADirectoryThatDoesNotLoad) {
  const test::TemporaryDirectory directory;
  const test::CommandResult result = inspect(directory.path().string());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("error: no description"));
  EXPECT_THAT(result.output, HasSubstr("cannot load this checkpoint"));
}

TEST(InspectCommand, CountsWhatAFloatCheckpointHolds) {
  const test::TemporaryDirectory directory;
  test::write_synthetic({.config = test::qwen3_config("tiny")}, directory / "model");
  const test::CommandResult result = inspect((directory / "model").string());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output,
              testing::ContainsRegex(": not quantized, [1-9][0-9]* parameters, [1-9].* in 1 file"));
  EXPECT_THAT(result.output, HasSubstr("the engine takes this directory for a float checkpoint"));
}

TEST(InspectCommand, PrintsJsonThatProgramsRead) {
  const test::TemporaryDirectory directory;
  const test::CommandResult result = inspect("--json " + directory.path().string());
  EXPECT_EQ(result.exit_code, 1);
  const auto json = nlohmann::json::parse(result.output);
  EXPECT_EQ(json["loads"], false);
  EXPECT_EQ(json["findings"][0]["severity"], "error");
}

TEST(InspectCommand, SucceedsAndCountsForTheReferenceCheckpoint) {
  const test::TemporaryDirectory directory;
  test::write_reference("laos", directory / "checkpoint");
  const test::CommandResult result = inspect((directory / "checkpoint").string());
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("8393984 parameters"));
  EXPECT_THAT(result.output, HasSubstr("can load this checkpoint"));
}

TEST(InspectCommand, SaysWhatItVerified) {
  const test::TemporaryDirectory directory;
  const std::filesystem::path model = directory / "model", out = directory / "out";
  test::write_synthetic({.config = test::qwen3_config("tiny")}, model);
  const std::string quant = "quant --no-health --model-path " + model.string() + " --save-path " +
                            out.string() +
                            " --config-path " LAOS_SOURCE_DIR "/recipes/qwen3-tiny-w4a4-rtn.yaml";
  ASSERT_EQ(test::run_laos(quant).exit_code, 0);
  std::stringstream manifest;
  manifest << std::ifstream(out / "SHA256SUMS").rdbuf();
  const std::string lines = manifest.str();
  const auto files = std::count(lines.begin(), lines.end(), '\n');
  EXPECT_THAT(inspect("--verify " + out.string()).output,
              HasSubstr(std::to_string(files) + " files, "));
  const auto json = nlohmann::json::parse(inspect("--verify --json " + out.string()).output);
  EXPECT_EQ(json["verified"]["files"], files);
  EXPECT_GT(json["verified"]["bytes"].get<int64_t>(), 0);
  EXPECT_THAT(inspect(out.string()).output, testing::Not(HasSubstr("verified")));
}

// That it loads is not in doubt, that its files are whole is not known.
TEST(InspectCommand, SaysThatNothingWasVerifiedWhereNoChecksumsAre) {
  const test::TemporaryDirectory directory;
  test::write_reference("laos", directory / "checkpoint");
  const test::CommandResult result = inspect("--verify " + (directory / "checkpoint").string());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("warning: there is no manifest"));
  EXPECT_THAT(result.output, HasSubstr("Nothing was verified."));
  EXPECT_THAT(result.output, HasSubstr("can load this checkpoint"));
}

TEST(InspectCommand, ReportsWrongUseAsSuch) { EXPECT_EQ(inspect("").exit_code, 2); }

}  // namespace
}  // namespace laos::cli
