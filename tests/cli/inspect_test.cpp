// `laos inspect` as users run it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/command.h"
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

TEST(InspectCommand, PrintsJsonThatProgramsRead) {
  const test::TemporaryDirectory directory;
  const test::CommandResult result = inspect("--json " + directory.path().string());
  EXPECT_EQ(result.exit_code, 1);
  const auto json = nlohmann::json::parse(result.output);
  EXPECT_EQ(json["loads"], false);
  EXPECT_EQ(json["findings"][0]["severity"], "error");
}

TEST(InspectCommand, SucceedsAndCountsForTheReferenceCheckpoint) {
  const std::filesystem::path directory =
      std::filesystem::path(LAOS_SOURCE_DIR) / "../shared/data/qwen3-tiny-reference/laos";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << "no " << directory;
  const test::CommandResult result = inspect(directory.string());
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("8393984 parameters"));
  EXPECT_THAT(result.output, HasSubstr("can load this checkpoint"));
}

TEST(InspectCommand, ReportsWrongUseAsSuch) { EXPECT_EQ(inspect("").exit_code, 2); }

}  // namespace
}  // namespace laos::cli
